//! Dovecot's built-in limits, for when nothing tells what is configured.

use super::{Limit, Limits, Settings};
use crate::service::{Program, Service};

/// The services whose defaults are the same in every community release from 2.3.0 to 2.4.4, with these defaults
/// after the clamp (`*_service_settings` in src/*/*-settings.c of each release). A setting that differs is absent.
pub fn limits() -> Limits {
    const ONE: Limit = Limit::Of(1);
    let once = |names: &[&str], process_limit| {
        names.iter().map(move |name| (name.to_string(), process_limit, ONE, Some(ONE))).collect::<Vec<_>>()
    };
    let services = [
        once(
            &["imap-login", "pop3-login", "submission-login", "managesieve-login", "doveadm", "managesieve"],
            100,
        ),
        once(&["imap", "pop3", "submission"], 1024),
        // restart_request_count became 1 in 2.4.4.
        vec![("lmtp".to_owned(), 100, ONE, None)],
        ["auth", "log", "stats"]
            .map(|name| (name.to_owned(), 1, Limit::Of(1000), Some(Limit::Unlimited)))
            .to_vec(),
    ];
    let settings = services.into_iter().flatten().filter_map(|(name, process_limit, client_limit, count)| {
        let executable = if name == "doveadm" { "doveadm-server" } else { &name };
        let settings = Settings {
            program: Some(Program::of_executable(executable)),
            process_limit: Some(Limit::Of(process_limit)),
            client_limit: Some(client_limit),
            process_min_avail: Some(0),
            restart_request_count: count,
        };
        Some((Service::parse(&name)?, settings))
    });
    Limits { services: settings.collect(), ..Limits::default() }
}
