//! What `doveconf` prints.

use std::collections::BTreeMap;

/// It prints one setting a line, those of a block indented by two spaces:
/// ```text
/// default_process_limit = 100
/// protocols = imap lmtp          (2.3)
/// protocols {                    (2.4)
///   imap = yes
/// }
/// service imap-login {
///   process_limit = 5
///   inet_listener imap {
///     port = 143
///   }
/// }
/// ```
/// 2.4 leaves out of a service's block what has Dovecot's general default.
#[derive(Debug, Default)]
pub struct Dump<'a> {
    /// Settings outside of blocks.
    pub globals: BTreeMap<&'a str, &'a str>,
    /// Protocols that are enabled.
    pub protocols: Vec<&'a str>,
    /// Settings of each service.
    pub services: BTreeMap<&'a str, BTreeMap<&'a str, &'a str>>,
    /// Each with the name of its service.
    pub listeners: Vec<(&'a str, BTreeMap<&'a str, &'a str>)>,
}

impl<'a> Dump<'a> {
    /// Reads it.
    pub fn of(text: &'a str) -> Self {
        let mut dump = Self::default();
        let (mut block, mut listens) = ("", false);
        for line in text.lines() {
            let indent = line.len() - line.trim_start().len();
            match (indent, line.trim().split_once(" =")) {
                (0, None) => {
                    block = line.strip_suffix(" {").unwrap_or_default();
                    if let Some(name) = block.strip_prefix("service ") {
                        dump.services.entry(unquoted(name)).or_default();
                    }
                }
                (0, Some((key, value))) => {
                    dump.globals.insert(key, unquoted(value.trim()));
                }
                (2, Some((key, value))) => match (block, block.strip_prefix("service ")) {
                    (_, Some(name)) => {
                        dump.services.entry(unquoted(name)).or_default().insert(key, unquoted(value.trim()));
                    }
                    ("protocols", None) if value.trim() == "yes" => dump.protocols.push(key),
                    _ => {}
                },
                (2, None) => {
                    let service = block.strip_prefix("service ");
                    listens = service.is_some() && line.starts_with("  inet_listener ");
                    let service = service.filter(|_| listens).map(unquoted);
                    dump.listeners.extend(service.map(|service| (service, BTreeMap::new())));
                }
                (4, Some((key, value))) if listens => {
                    let listener = dump.listeners.last_mut();
                    listener.map(|(_, settings)| settings.insert(key, unquoted(value.trim())));
                }
                _ => {}
            }
        }
        dump.protocols
            .extend(dump.globals.get("protocols").into_iter().flat_map(|list| list.split_ascii_whitespace()));
        dump
    }

    /// The master makes a service if it belongs to no protocol or to one that is enabled (`service_is_enabled`,
    /// src/master/master-settings.c).
    pub fn enabled(&self, service: &BTreeMap<&str, &str>) -> bool {
        service
            .get("protocol")
            .is_none_or(|protocol| protocol.is_empty() || self.protocols.contains(protocol))
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}
