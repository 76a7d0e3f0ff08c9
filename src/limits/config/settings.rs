//! What lines of configuration set, in Dovecot's order (`config_parser_apply_line`, src/config/config-parser.c).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    include::Lines,
    line::{Line, Value},
};
use crate::limits::defaults::{Generation, built_in};

/// Settings by name. One that was set to what cannot be known is `None`.
pub type Values = BTreeMap<String, Option<String>>;

/// A level of the configuration.
#[derive(Debug, Default)]
pub struct Section {
    /// What is set on it.
    pub values: Values,
    /// The groups it includes, by label and name; only in 2.4.
    pub includes: Vec<(String, String)>,
}

/// The whole configuration, or a group.
#[derive(Debug, Default)]
pub struct Block {
    /// Outside of services.
    pub own: Section,
    /// Inside of them.
    pub services: BTreeMap<String, Section>,
}

/// Everything that was set.
#[derive(Debug)]
pub struct Config {
    /// The language.
    pub generation: Generation,
    /// The value of `dovecot_config_version`.
    pub version: String,
    /// Outside of groups.
    pub root: Block,
    /// Groups by label and name.
    pub groups: BTreeMap<(String, String), Block>,
    /// Services that have a block of their own.
    pub declared: BTreeSet<String>,
    /// Enabled protocols that are known.
    pub protocols: BTreeSet<String>,
    /// Whether these are all; nothing if the configuration does not say a word.
    pub all_protocols: Option<bool>,
    /// A file was not read: what was not set after it is not known.
    pub blind: bool,
    /// Why something is not known, and how many other reasons there are.
    pub unknown: Option<(String, usize)>,
    scopes: Vec<Scope>,
}

/// Where in the nesting of blocks a line is.
#[derive(Clone, Debug, Default)]
struct Scope {
    group: Option<(String, String)>,
    service: Option<String>,
    protocols: bool,
    /// A block of which nothing is needed: a listener, or one that holds for some clients only.
    other: bool,
}

/// Limits of a service, in both generations.
pub const LIMITS: [&str; 6] = [
    "process_limit",
    "client_limit",
    "process_min_avail",
    "vsz_limit",
    "service_count",
    "restart_request_count",
];

/// What else a service may have in 2.3.
const OTHERS: [&str; 10] = [
    "protocol",
    "type",
    "executable",
    "user",
    "group",
    "privileged_group",
    "extra_groups",
    "chroot",
    "drop_priv_before_exec",
    "idle_kill",
];

const GLOBALS: [&str; 8] = [
    "default_process_limit",
    "default_client_limit",
    "default_vsz_limit",
    "base_dir",
    "instance_name",
    "log_path",
    "info_log_path",
    "dovecot_storage_version",
];

/// Settings of Dovecot 1 that 2.3 still turns into limits (src/config/old-set-parser.c).
const OLD: [&str; 11] = [
    "auth_executable",
    "auth_process_size",
    "login_executable",
    "login_max_connections",
    "login_max_processes_count",
    "login_process_per_connection",
    "login_process_size",
    "login_processes_count",
    "mail_executable",
    "mail_process_size",
    "max_mail_processes",
];

impl Config {
    /// One in which nothing is set, for this `dovecot_config_version` or for 2.3.
    pub fn new(version: Option<String>) -> Self {
        let generation = if version.is_some() { Generation::V24 } else { Generation::V23 };
        Self {
            generation,
            version: version.unwrap_or_default(),
            root: Block::default(),
            groups: BTreeMap::new(),
            declared: BTreeSet::new(),
            protocols: BTreeSet::new(),
            all_protocols: None,
            blind: false,
            unknown: None,
            scopes: vec![Scope::default()],
        }
    }

    /// Whether a block is not closed.
    pub fn is_open(&self) -> bool {
        self.scopes.len() > 1
    }

    /// Whether it is 2.3's.
    pub fn old(&self) -> bool {
        self.generation == Generation::V23
    }

    /// Does what a line says; the error is why Dovecot refuses it.
    pub fn apply(&mut self, line: Line, lines: &mut Lines) -> Result<(), String> {
        let mut scope = self.scopes.last().cloned().unwrap_or_default();
        match line {
            Line::Set(key, value) => return self.set(&key, &value, &scope, lines),
            Line::Begin(kind, name) => {
                if kind == "service" && !scope.other {
                    if name.is_empty() || scope.service.is_some() {
                        return Err("this is no place, or no name, for a service".to_owned());
                    }
                    match &scope.group {
                        Some(group) => {
                            let block = self.groups.entry(group.clone()).or_default();
                            block.services.entry(name.clone()).or_default();
                        }
                        None => drop(self.declared.insert(name.clone())),
                    }
                    scope.service = Some(name);
                } else if kind == "service" && !self.old() {
                    // 2.4.1 refuses it for another reason; it would hold for nobody.
                    self.doubt(format!("{}: what service {name} means here cannot be told", lines.place()));
                    scope.other = true;
                } else if kind == "protocols" && !self.old() && scope.service.is_none() {
                    scope.protocols = true;
                } else {
                    scope.other = true;
                }
                self.scopes.push(scope);
            }
            Line::Group(label, name) => {
                let label = label.strip_prefix('@').ok_or("the label of a group begins with @")?;
                scope.group = Some((label.to_owned(), name));
                self.groups.entry(scope.group.clone().unwrap_or_default()).or_default();
                self.scopes.push(scope);
            }
            Line::End => {
                self.scopes.pop();
                if self.scopes.is_empty() {
                    return Err("'}' closes nothing".to_owned());
                }
            }
            Line::Include(pattern, must) => {
                let denied = lines.include(&pattern, must)?;
                if !denied.is_empty() {
                    self.forget();
                }
                for path in denied {
                    self.doubt(format!(
                        "{} may set any limit, and Dovecot may read it, but not the user of the exporter: let it",
                        path.display()
                    ));
                }
            }
        }
        Ok(())
    }

    /// Notes that something is not known. The first reason is enough to begin with.
    pub fn doubt(&mut self, reason: String) {
        match &mut self.unknown {
            Some((_, others)) => *others += 1,
            None => self.unknown = Some((reason, 0)),
        }
    }

    /// Something may have set anything.
    fn forget(&mut self) {
        self.blind = true;
        self.all_protocols = Some(false);
        for block in self.groups.values_mut().chain([&mut self.root]) {
            for section in block.services.values_mut().chain([&mut block.own]) {
                section.values.values_mut().for_each(|value| *value = None);
            }
        }
    }

    fn set(&mut self, key: &str, value: &Value, scope: &Scope, lines: &Lines) -> Result<(), String> {
        if self.old() && OLD.contains(&key) {
            return Err(format!(
                "{key}, a setting of Dovecot 1, is beyond this exporter: write service NAME {{ ... }}"
            ));
        }
        if key.starts_with('!') || key.starts_with('@') && (self.old() || scope.group.is_some()) {
            return Err(format!("{key} is no setting here"));
        }
        if scope.other {
            return Ok(());
        }
        let protocol = key.strip_prefix("protocols/").or(scope.protocols.then_some(key));
        if let Some(protocol) = protocol.filter(|_| !self.old()) {
            return self.set_protocol(protocol, value, scope);
        }
        let path = key.strip_prefix("service/").and_then(|path| path.split_once('/'));
        let (service, name) = match (&scope.service, path) {
            (Some(service), None) => (Some(service.as_str()), key),
            (None, Some((service, name))) => (Some(service), name),
            (None, None) => (None, key),
            (Some(_), Some(_)) => return Err(format!("{key} is no setting here")),
        };
        let exists = |name| built_in(self.generation).iter().any(|service| service.name == name);
        if self.old() && path.is_some_and(|(name, _)| !exists(name) && !self.declared.contains(name)) {
            return Err(format!("{key} is no setting: there is no such service yet"));
        }
        let Some(name) = self.name(service.is_some(), name)? else {
            // Some module may add settings, but not to a service.
            if self.old() && service.is_some() && !name.contains('/') && !OTHERS.contains(&name) {
                self.doubt(format!("{}: {name} is no setting of a service", lines.place()));
            }
            return Ok(());
        };
        if name == "protocols" {
            self.set_protocols(value, scope);
            return Ok(());
        }
        let known = self.text(&name, value, service, lines)?;
        if let Some(text) = &known {
            self.check(&name, text)?;
        }
        let block = match &scope.group {
            Some(group) => self.groups.entry(group.clone()).or_default(),
            None => &mut self.root,
        };
        let section = match service {
            Some(service) => block.services.entry(service.to_owned()).or_default(),
            None => &mut block.own,
        };
        match name.strip_prefix('@') {
            None => drop(section.values.insert(name, known)),
            Some(label) => {
                let group = known.unwrap_or_default();
                // A second one with the same label takes the place of the first.
                match section.includes.iter_mut().find(|(other, _)| other == label) {
                    Some((_, name)) => *name = group,
                    None => section.includes.push((label.to_owned(), group)),
                }
            }
        }
        Ok(())
    }

    /// The name under which a setting is kept, or nothing if it does not matter.
    fn name(&self, in_service: bool, name: &str) -> Result<Option<String>, String> {
        let short = name.strip_prefix("service_").filter(|short| LIMITS.contains(short));
        let foreign = if self.old() { "restart_request_count" } else { "service_count" };
        // service_count is whole and has no prefix.
        let limit = if LIMITS.contains(&name) { Some(name) } else { short };
        let kept = match limit {
            Some(limit) => {
                let prefixed = limit != name;
                if limit == foreign || !in_service && !prefixed || self.old() && prefixed {
                    return Err(format!("{name} is no setting here"));
                }
                if in_service { limit.to_owned() } else { name.to_owned() }
            }
            None if in_service && name == "name" => {
                return Err("renaming a service is beyond this exporter".to_owned());
            }
            None if in_service && ["protocol", "executable"].contains(&name) => name.to_owned(),
            None if in_service
                && !self.old()
                && ["service_protocol", "service_executable"].contains(&name) =>
            {
                name.trim_start_matches("service_").to_owned()
            }
            None if name.starts_with('@') => name.to_owned(),
            None if name == "dovecot_config_version" || name == "dovecot_storage_version" && self.old() => {
                return Err(format!("{name} is a setting of 2.4: dovecot_config_version must be the first"));
            }
            None if !in_service && (GLOBALS.contains(&name) || name == "protocols") => name.to_owned(),
            None => return Ok(None),
        };
        Ok(Some(kept))
    }

    /// In 2.3, a list; in 2.4, the names that are set to yes.
    fn set_protocols(&mut self, value: &Value, scope: &Scope) {
        let (Value::Text(text) | Value::Variables(text) | Value::File(text)) = value;
        let mut all = matches!(value, Value::Text(_));
        let mut protocols = BTreeSet::new();
        for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
            let word = match word {
                // As 2.3 does with the names that Dovecot 1 had.
                "imaps" if self.old() => "imap",
                "pop3s" if self.old() => "pop3",
                "managesieve" if self.old() => "sieve",
                word => word,
            };
            if word == "$protocols" && self.old() {
                protocols.extend(self.protocols.iter().cloned());
                // Packagers change what is enabled where nothing is set.
                all = self.all_protocols == Some(true);
            } else if !word.starts_with('$') {
                protocols.insert(word.to_owned());
            }
        }
        if self.old() && text == "none" {
            protocols.clear();
        }
        if scope.group.is_some() {
            self.all_protocols = Some(false);
        } else {
            self.protocols = protocols;
            self.all_protocols = Some(all);
        }
    }

    fn set_protocol(&mut self, protocol: &str, value: &Value, scope: &Scope) -> Result<(), String> {
        let enabled = match value {
            Value::Text(text) if ["yes", "y", "1"].contains(&text.to_ascii_lowercase().as_str()) => true,
            Value::Text(text) if text.eq_ignore_ascii_case("no") => false,
            Value::Text(text) => return Err(format!("{protocol} = {text} is neither yes nor no")),
            _ => {
                self.all_protocols = Some(false);
                return Ok(());
            }
        };
        if scope.group.is_some() {
            self.all_protocols = Some(false);
        } else {
            self.all_protocols = Some(self.all_protocols.unwrap_or(true));
            if enabled {
                self.protocols.insert(protocol.to_owned());
            } else {
                self.protocols.remove(protocol);
            }
        }
        Ok(())
    }
}
