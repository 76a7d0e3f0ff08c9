//! Limits: what Dovecot's services may use, from where that is known, and the arithmetic of capacity.

pub mod config;
pub mod defaults;
pub mod doveconf;
pub mod files;
pub mod next;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;

use crate::service::{Program, Service};

/// A number of processes, connections, requests or bytes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Limit<N = u32> {
    /// So many.
    Of(N),
    /// 2.4's `unlimited`; 2.3's `service_count = 0` and `vsz_limit = 0`.
    Unlimited,
}

impl Limit {
    /// As the master tells it, who has no limit of 0.
    pub fn of_master(number: u32) -> Option<Self> {
        match number {
            0 => None,
            u32::MAX => Some(Self::Unlimited),
            number => Some(Self::Of(number)),
        }
    }

    /// As Prometheus writes it: `+Inf` where there is no limit.
    pub fn value(self) -> f64 {
        match self {
            Self::Of(number) => number.into(),
            Self::Unlimited => f64::INFINITY,
        }
    }
}

impl Limit<u64> {
    /// As Prometheus writes it: `+Inf` where there is no limit.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus has nothing else, and 2^52 bytes are far")]
    pub fn bytes(self) -> f64 {
        match self {
            Self::Of(bytes) => bytes as f64,
            Self::Unlimited => f64::INFINITY,
        }
    }
}

/// One service's settings, with Dovecot's defaults filled in. What is not known is absent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// What its processes run.
    pub program: Option<Program>,
    /// Most processes at a time.
    pub process_limit: Option<Limit>,
    /// Most connections of one process at a time, after Dovecot's clamp to
    /// [`restart_request_count`](Self::restart_request_count).
    pub client_limit: Option<Limit>,
    /// Processes that are kept ready for new clients.
    pub process_min_avail: Option<u32>,
    /// Connections after which a process ends: `restart_request_count` in 2.4, `service_count` before.
    pub restart_request_count: Option<Limit>,
    /// Bytes of address space that one process may have.
    pub vsz_limit: Option<Limit<u64>>,
    /// Whether each process has its own sockets, from 2.4.4 on, where doveconf tells: Dovecot then demands as many as
    /// [`process_limit`](Self::process_limit) of them at all times.
    pub reuse_port: bool,
}

/// The `client_limit` in force: the master takes the smaller of the two (`service_create`, src/master/service.c).
fn clamped(client_limit: Option<Limit>, restart_request_count: Option<Limit>) -> Option<Limit> {
    match (client_limit, restart_request_count) {
        (Some(clients), Some(count)) => Some(clients.min(count)),
        // Nothing is smaller.
        (one @ Some(Limit::Of(1)), None) | (None, one @ Some(Limit::Of(1))) => one,
        _ => None,
    }
}

impl Settings {
    /// Connections that the service takes at a time.
    pub fn connection_capacity(&self) -> Option<f64> {
        // A service that serves one connection per process and has no limit is unlimited all the same.
        Some(self.process_limit?.value() * self.client_limit?.value())
    }
}

/// A TCP port of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// The service.
    pub service: Service,
    /// Its port.
    pub port: u16,
    /// The addresses; nothing if they cannot be told.
    pub addresses: Vec<IpAddr>,
}

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// The services that the master has: their protocol is enabled.
    pub services: BTreeMap<Service, Settings>,
    /// Their TCP ports.
    pub listeners: Vec<Listener>,
    /// The `client_limit` that some of them need under full load.
    pub client_limits_required: BTreeMap<Service, u32>,
    /// What of the services' settings counts for that.
    pub loads: Vec<next::Load>,
    /// The `base_dir` setting.
    pub base_dir: Option<PathBuf>,
    /// The `instance_name` setting.
    pub instance_name: Option<String>,
    /// The files that Dovecot logs to: those of `log_path` and `info_log_path`.
    pub log_files: Vec<PathBuf>,
    /// What told.
    pub source: LimitSource,
    /// Why some of it is missing, in a sentence for the administrator.
    pub unknown: Option<String>,
}

/// Asks `doveconf` what is in `config`, or reads that itself if there is no `doveconf` or its name is empty. The error
/// is a sentence for the administrator.
pub async fn read(doveconf: &Path, config: &Path) -> Result<Limits, String> {
    let absent = if doveconf.as_os_str().is_empty() {
        None
    } else {
        match doveconf::read(doveconf, config).await {
            Err(doveconf::Trouble::Absent(reason)) => Some(reason),
            Err(doveconf::Trouble::Failed(reason)) => return Err(reason),
            Ok(limits) => return Ok(limits),
        }
    };
    let path = config.to_owned();
    let read = spawn_blocking(move || config::read(&path)).await.expect("a panic ends the process");
    read.map_err(|failure| match (failure, absent) {
        (config::Failure::Refused(reason), _) => reason,
        (config::Failure::Missing, None) => {
            format!("{} is not there: give --dovecot.config its place", config.display())
        }
        (config::Failure::Missing, Some(reason)) => {
            format!("{} is not there, and {reason}", config.display())
        }
    })
}

/// The files to follow by the values of `log_path` and `info_log_path`: none if the first is not one, because then the
/// warnings are elsewhere. `syslog`, and the terminals that a container's log comes from, are none.
fn log_files(log: Option<impl AsRef<str>>, info: Option<impl AsRef<str>>) -> Vec<PathBuf> {
    let is_file = |path: &str| path.starts_with('/') && !path.starts_with("/dev/");
    let Some(log) = log.filter(|log| is_file(log.as_ref())) else { return vec![] };
    // Where it is not set, what it would hold goes to the first.
    let info = info.filter(|info| is_file(info.as_ref()) && info.as_ref() != log.as_ref());
    [PathBuf::from(log.as_ref())].into_iter().chain(info.map(|info| info.as_ref().into())).collect()
}

impl Limits {
    /// The service that the processes of `program` belong to; none if several services run the same one, because
    /// `/proc` does not tell them apart.
    pub fn service_of(&self, program: &Program) -> Option<Service> {
        let mut users =
            self.services.iter().filter(|(_, settings)| settings.program.as_ref() == Some(program));
        match (users.next(), users.next()) {
            (Some((service, _)), None) => Some(service.clone()),
            (Some(_), Some(_)) => None,
            // A service that the configuration no longer has, or never told us of.
            (None, _) => Service::parse(program.as_str()),
        }
    }
}

/// Where a `process_limit` was taken from, best first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LimitSource {
    /// `--dovecot.process-limit`.
    Flag,
    /// The master's status socket.
    Master,
    /// The newest drop warning since Dovecot read its configuration.
    Warning,
    /// `doveconf`.
    Doveconf,
    /// The files of the configuration, read without `doveconf`.
    Config,
    /// Dovecot's built-in default.
    #[default]
    Default,
}

impl LimitSource {
    /// The value of the label `source`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Master => "master",
            Self::Warning => "warning",
            Self::Doveconf => "doveconf",
            Self::Config => "config",
            Self::Default => "default",
        }
    }
}

/// The limits that drop warnings named: they are the running master's own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Warned {
    /// From `process_limit (N)`; 1 if the text was about `client_limit`, which the master writes only then.
    pub process_limit: Option<u32>,
    /// From `client_limit (N)`, after the clamp.
    pub client_limit: Option<u32>,
}

/// The limits that the master itself tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// Most processes.
    pub process_limit: Option<Limit>,
    /// Most connections of one, after the clamp.
    pub client_limit: Option<Limit>,
}

/// The settings in force for `service` and where their `process_limit` comes from: `limits`, which were read from
/// `read_from`, unless something better is known.
pub fn in_force(
    service: &Service,
    (limits, read_from): (&Limits, LimitSource),
    warned: Option<&Warned>,
    told: Told,
    flag: Option<u32>,
) -> (Settings, Option<LimitSource>) {
    let mut source = read_from;
    let mut settings = limits.services.get(service).cloned().unwrap_or_default();
    let mut better = |limit: Option<Limit>, from| {
        if limit.is_some() {
            settings.process_limit = limit;
            source = from;
        }
    };
    better(warned.and_then(|warned| warned.process_limit).map(Limit::Of), LimitSource::Warning);
    better(told.process_limit, LimitSource::Master);
    better(flag.map(Limit::Of), LimitSource::Flag);
    let warned = warned.and_then(|warned| warned.client_limit).map(Limit::Of);
    settings.client_limit = told.client_limit.or(warned).or(settings.client_limit);
    let source = settings.process_limit.map(|_| source);
    (settings, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(process_limit: u32) -> Limits {
        let settings = Settings {
            process_limit: Some(Limit::Of(process_limit)),
            client_limit: Some(Limit::Of(10)),
            program: Some(Program::of_executable("imap-login")),
            ..Settings::default()
        };
        Limits { services: [(imap_login(), settings)].into(), ..Limits::default() }
    }

    fn imap_login() -> Service {
        Service::parse("imap-login").expect("a name")
    }

    #[test]
    fn files_of_the_log() {
        let files = |log, info| log_files(Some(log), Some(info));
        assert_eq!(files("/a", "/b"), [Path::new("/a"), Path::new("/b")]);
        assert_eq!(files("/a", ""), [Path::new("/a")]);
        assert_eq!(files("/a", "/a"), [Path::new("/a")]);
        assert_eq!(files("/a", "/dev/stdout"), [Path::new("/a")]);
        assert!(files("syslog", "/b").is_empty() && files("/dev/stderr", "/b").is_empty());
    }

    #[test]
    fn the_best_source_wins() {
        let limits = limits(5);
        let warned = Warned { process_limit: Some(6), client_limit: Some(7) };
        let told = Told { process_limit: Limit::of_master(u32::MAX), client_limit: Limit::of_master(9) };
        let force = |limits, warned, told, flag| {
            let (settings, source) = in_force(&imap_login(), limits, warned, told, flag);
            (
                settings.process_limit.map(Limit::value),
                source.map(LimitSource::as_str),
                settings.connection_capacity(),
            )
        };
        let defaults = (&defaults::limits(), LimitSource::Default);
        let limits = (&limits, LimitSource::Doveconf);
        let nothing = Told { process_limit: Limit::of_master(0), client_limit: None };
        let infinite = Some(f64::INFINITY);
        assert_eq!(force(defaults, None, nothing, None), (Some(100.0), Some("default"), Some(100.0)));
        assert_eq!(force(limits, None, nothing, None), (Some(5.0), Some("doveconf"), Some(50.0)));
        assert_eq!(force(limits, Some(&warned), nothing, None), (Some(6.0), Some("warning"), Some(42.0)));
        assert_eq!(force(limits, Some(&warned), told, None), (infinite, Some("master"), infinite));
        assert_eq!(force(limits, Some(&warned), told, Some(8)), (Some(8.0), Some("flag"), Some(72.0)));
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let custom = Service::parse("custom").expect("a name");
        for limits in [(&defaults::limits(), LimitSource::Default), (&limits(5), LimitSource::Doveconf)] {
            assert_eq!(in_force(&custom, limits, None, Told::default(), None), (Settings::default(), None));
        }
    }

    #[test]
    fn services_that_run_one_executable_cannot_be_told_apart() {
        let mut limits = limits(5);
        let program = Program::of_executable("/usr/lib/dovecot/imap-login -D");
        assert_eq!(limits.service_of(&program), Some(imap_login()));
        let second = Service::parse("imap-login-ext").expect("a name");
        limits.services.insert(second, limits.services[&imap_login()].clone());
        assert_eq!(limits.service_of(&program), None);
        assert_eq!(limits.service_of(&Program::of_executable("lmtp")), Service::parse("lmtp"));
    }
}
