//! What the right side of a setting means.

use std::io::ErrorKind;

use super::{
    include::Lines,
    line::Value,
    settings::{Config, LIMITS},
};
use crate::limits::{
    Limit,
    defaults::{DEFAULTS, Generation},
};

/// A number, if Dovecot takes it for one.
pub fn number(text: &str, generation: Generation) -> Option<Limit> {
    if text == "unlimited" && generation == Generation::V24 {
        return Some(Limit::Unlimited);
    }
    let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let unlimited = number == u32::MAX && generation == Generation::V24;
    Some(if unlimited { Limit::Unlimited } else { Limit::Of(number) })
}

/// A number of bytes, if Dovecot takes it for one (`str_parse_get_size`, src/lib/str-parse.c).
pub fn size(text: &str, generation: Generation) -> Option<Limit<u64>> {
    if text == "unlimited" && generation == Generation::V24 {
        return Some(Limit::Unlimited);
    }
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = match unit.trim_start_matches(' ').to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "ki" | "kb" | "kib" => 1,
        "m" | "mi" | "mb" | "mib" => 2,
        "g" | "gi" | "gb" | "gib" => 3,
        "t" | "ti" | "tb" | "tib" => 4,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << (10 * power)).map(Limit::Of)
}

impl Config {
    /// The right side as Dovecot understands it, if that can be told.
    pub fn text(
        &mut self,
        name: &str,
        value: &Value,
        service: Option<&str>,
        lines: &Lines,
    ) -> Result<Option<String>, String> {
        let (text, shown) = match value {
            Value::Text(text) => ((self.old() || !text.contains("%{")).then(|| text.clone()), text.clone()),
            Value::File(file) => match lines.value(file) {
                Ok(text) => (Some(text), file.clone()),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => (None, format!("<{file}")),
                Err(error) => return Err(format!("{file} cannot be read ({error})")),
            },
            Value::Variables(text) => (self.expanded(name, text, service)?, text.clone()),
        };
        if text.is_none() {
            self.doubt(format!("{}: what {name} = {shown} means cannot be told", lines.place()));
        }
        Ok(text)
    }

    fn expanded(&self, name: &str, text: &str, service: Option<&str>) -> Result<Option<String>, String> {
        if !text.split(' ').any(|word| word.starts_with('$')) {
            return Ok(Some(text.to_owned()));
        }
        let prefix = if self.old() { "$" } else { "$SET:" };
        let Some(variable) = text.strip_prefix(prefix).filter(|name| !name.contains(' ')) else {
            return Ok(None);
        };
        let path = variable.strip_prefix("service/").and_then(|path| path.split_once('/'));
        if let Some((service, key)) = path.filter(|_| self.old() && LIMITS.contains(&path_end(variable))) {
            let section = self.root.services.get(service);
            return Ok(section.and_then(|section| section.values.get(key)).cloned().flatten());
        }
        let (process_limit, client_limit, vsz_limit) = DEFAULTS;
        let default = match variable {
            "default_process_limit" => process_limit.to_string(),
            "default_client_limit" => client_limit.to_string(),
            "default_vsz_limit" => vsz_limit.to_string(),
            _ if self.old() && LIMITS.contains(&variable) && variable == name => {
                return Err(format!("there is no {variable} outside of services"));
            }
            _ => return Ok(None),
        };
        let value = match self.root.own.values.get(variable) {
            // 2.4.1 takes what it has built in, whatever is set; other releases of 2.4 may not.
            Some(_) if !self.old() && service.is_some() => None,
            Some(value) => value.clone(),
            None if self.blind => None,
            None => Some(default),
        };
        Ok(value)
    }

    pub fn check(&self, name: &str, text: &str) -> Result<(), String> {
        let short = name.strip_prefix("default_").unwrap_or(name);
        let short = if self.old() { short } else { short.strip_prefix("service_").unwrap_or(short) };
        let valid = match short {
            "vsz_limit" => size(text, self.generation).is_some(),
            short if LIMITS.contains(&short) => number(text, self.generation).is_some(),
            _ => true,
        };
        valid.then_some(()).ok_or_else(|| format!("{name} = {text} is no number that Dovecot takes"))
    }
}

fn path_end(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
