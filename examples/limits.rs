//! Prints the limits of Dovecot configurations as the exporter reads them without `doveconf`.
//!
//! `cargo run --example limits -- FILE...` prints a JSON object a line for each file: `services`, each with the
//! settings that are known, or `refused` with the reason, and `unknown` if something had to be left out. Unlimited is
//! `null`.

use std::{collections::BTreeMap, path::Path};

use dovecot_capacity_exporter::limits::{Limit, Settings, config};
use serde_json::{Value, json};

fn main() {
    for file in std::env::args().skip(1) {
        let object = match config::read(Path::new(&file)) {
            Ok(limits) => {
                let services: BTreeMap<&str, Value> = limits
                    .services
                    .iter()
                    .map(|(service, settings)| (service.as_str(), known(settings)))
                    .collect();
                json!({ "services": services, "unknown": limits.unknown })
            }
            Err(failure) => json!({ "refused": format!("{failure:?}") }),
        };
        #[expect(clippy::print_stdout, reason = "its purpose")]
        {
            println!("{object}");
        }
    }
}

fn known(settings: &Settings) -> Value {
    fn number<N: Into<u64>>(limit: Option<Limit<N>>) -> Option<Value> {
        limit.map(|limit| match limit {
            Limit::Of(number) => json!(number.into()),
            Limit::Unlimited => Value::Null,
        })
    }
    let all = [
        ("process_limit", number(settings.process_limit)),
        ("client_limit", number(settings.client_limit)),
        ("restart_request_count", number(settings.restart_request_count)),
        ("process_min_avail", settings.process_min_avail.map(Value::from)),
        ("vsz_limit", number(settings.vsz_limit)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
