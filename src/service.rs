//! The words: a Dovecot service's name, the program it runs, and the two limits it can reach.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most services whose names become label values; Dovecot itself has about 30.
pub const MAX_SERVICES: usize = 64;

/// A Dovecot service's name, safe as a label value: `[a-z0-9_-]{1,64}`.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct Service(Box<str>);

impl From<Service> for String {
    fn from(service: Service) -> Self {
        service.0.into()
    }
}

impl TryFrom<String> for Service {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name).ok_or("no name of a service")
    }
}

impl Service {
    /// The service called `name`, or nothing if that is not a name this program shows.
    pub fn parse(name: &str) -> Option<Self> {
        let valid = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        ((1..=64).contains(&name.len()) && name.bytes().all(valid)).then(|| Self(name.into()))
    }

    /// What stands for services beyond [`MAX_SERVICES`] and for names outside the grammar.
    pub fn other() -> Self {
        Self("other".into())
    }

    /// The name as Dovecot writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The name of an executable under a Dovecot master, and what tells `auth-worker` from `auth`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Program(String);

impl Program {
    /// The program that a service's `executable` setting names, as far as `/proc` can show it.
    pub fn of_executable(executable: &str) -> Self {
        let mut words = executable.split_ascii_whitespace();
        let name = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        Self::new(name, name == "auth" && words.next() == Some("-w"))
    }

    /// The program called `name`; `worker` says that it runs with `-w`, as `auth-worker` does.
    pub fn new(name: &str, worker: bool) -> Self {
        Self(if worker { format!("{name} -w") } else { name.to_owned() })
    }

    /// Whether [`Program::new`] would make this one of the two.
    pub fn is(&self, name: &str, worker: bool) -> bool {
        let suffix = if worker { " -w" } else { "" };
        // The length first: nearly all that differ differ in it, and this is asked many times per process.
        self.0.len() == name.len() + suffix.len() && self.0.starts_with(name) && self.0.ends_with(suffix)
    }

    /// `imap-login`, `auth -w`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which of the two limits a drop warning names.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// No further process may be started. Dovecot also says so when every client slot of the last process is
    /// taken, as long as `process_limit` is above 1 (`service_log_drop_warning`, src/master/service-monitor.c).
    Process,
    /// The only process the service may have is full.
    Client,
}

impl LimitKind {
    /// Both, in the order in which the page has them.
    pub const ALL: [Self; 2] = [Self::Process, Self::Client];

    /// The value of the label `limit`: Dovecot's setting name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process_limit",
            Self::Client => "client_limit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        for good in ["imap-login", "dns_client", "a", "x2", &"a".repeat(64)] {
            assert_eq!(Service::parse(good).map(|service| service.to_string()).as_deref(), Some(good));
        }
        for bad in ["", "IMAP", "imap login", "a\"b", "a\n", "ä", &"a".repeat(65)] {
            assert_eq!(Service::parse(bad), None, "{bad:?}");
        }
    }
}
