//! Dovecot's built-in limits.

use super::{Limit, Limits, Settings};
use crate::service::{Program, Service};

/// Which of the two languages a configuration is in, and which defaults it builds on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Generation {
    /// Up to 2.3.
    V23,
    /// From 2.4 on.
    V24,
}

/// `default_process_limit`, `default_client_limit` and, in bytes, `default_vsz_limit`.
pub const DEFAULTS: (u32, u32, u64) = (100, 1000, 256 << 20);

/// What Dovecot has built in for one service. 0 stands for the general default, as in Dovecot's own tables.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// The protocol without which it does not exist, or nothing.
    pub protocol: &'static str,
    /// The `executable` setting.
    pub executable: &'static str,
    /// The `process_limit` setting.
    pub process_limit: u32,
    /// The `client_limit` setting.
    pub client_limit: u32,
    /// The setting `service_count` or `restart_request_count`; nothing where releases of the generation differ.
    pub restart_request_count: Option<Limit>,
    /// The `process_min_avail` setting.
    pub process_min_avail: u32,
    /// `process_limit` may be nothing but 1.
    pub alone: bool,
    /// Whether every release of the generation has it, however it was built.
    pub everywhere: bool,
}

/// What the community releases from 2.3.0 to 2.3.21, and from 2.4.0 to 2.4.4, have built in
/// (`*_service_settings` in src/*/*-settings.c of each).
pub fn built_in(generation: Generation) -> Vec<BuiltIn> {
    let old = generation == Generation::V23;
    let once = Some(Limit::Of(1));
    let forever = Some(Limit::Unlimited);
    // 2.3.0 had auth workers end after one request, 2.4.4 has indexer workers. lmtp changed with the version that
    // the configuration is written for (src/lib-settings/settings-history-core.txt).
    let changed = None;
    let (auth_worker, indexer_worker) = if old { (changed, forever) } else { (forever, changed) };
    let lmtp = if old { forever } else { changed };
    let mut all = vec![
        service("anvil", "", 1, 0, forever),
        service("auth", "", 1, 0, forever),
        service("auth-worker", "", if old { 0 } else { 30 }, 1, auth_worker),
        service("config", "", 0, 0, forever),
        service("dict", "", 0, 1, forever),
        service("dict-async", "", 0, 0, forever),
        service("dns-client", "", 0, 1, forever),
        service("doveadm", "", 0, 1, once),
        service("health-check", "", 0, 1, forever),
        service("imap", "imap", 1024, 1, once),
        service("imap-hibernate", "imap", 0, 0, forever),
        service("imap-login", "imap", 0, 0, once),
        service("imap-urlauth", "imap", 1024, 1, once),
        service("imap-urlauth-login", "imap", 0, 0, once),
        service("imap-urlauth-worker", "imap", 1024, 1, once),
        service("indexer", "", 1, 0, forever),
        service("indexer-worker", "", 10, 1, indexer_worker),
        service("lmtp", "lmtp", 0, 1, lmtp),
        service("log", "", 1, 0, forever),
        service("managesieve", "sieve", 0, 1, once),
        service("managesieve-login", "sieve", 0, 0, once),
        service("pop3", "pop3", 1024, 1, once),
        service("pop3-login", "pop3", 0, 0, once),
        service("stats", "", 1, 0, forever),
        service("submission", "submission", 1024, 1, once),
        service("submission-login", "submission", 0, 0, once),
    ];
    if old {
        all.extend([
            service("aggregator", "", 0, 0, forever),
            service("director", "", 1, 0, forever),
            service("dns_client", "", 0, 1, forever),
            service("ipc", "", 1, 0, forever),
            service("old-stats", "", 1, 0, forever),
            service("replicator", "", 1, 0, forever),
            service("tcpwrap", "", 0, 1, forever),
        ]);
        for service in &mut all {
            service.everywhere =
                !["dns-client", "dns_client", "health-check", "tcpwrap"].contains(&service.name);
        }
    } else {
        all.push(service("dict-expire", "", 1, 1, forever));
    }
    all
}

fn service(
    name: &'static str,
    protocol: &'static str,
    process_limit: u32,
    client_limit: u32,
    restart_request_count: Option<Limit>,
) -> BuiltIn {
    let executable = match name {
        "auth-worker" => "auth -w",
        "dict-async" => "dict",
        "doveadm" => "doveadm-server",
        "health-check" => "script -p health-check.sh",
        "dns_client" => "dns-client",
        name => name,
    };
    BuiltIn {
        name,
        protocol,
        executable,
        process_limit,
        client_limit,
        restart_request_count,
        process_min_avail: u32::from(name == "anvil"),
        alone: process_limit == 1 && !["stats", "dict-expire"].contains(&name),
        everywhere: true,
    }
}

impl BuiltIn {
    /// A service that Dovecot does not know by itself.
    pub fn none() -> Self {
        service("", "", 0, 0, Some(Limit::Unlimited))
    }

    /// What is in force where the configuration sets nothing.
    fn settings(&self) -> Settings {
        let or = |number, default| Limit::Of(if number == 0 { default } else { number });
        let (process_limit, client_limit, vsz_limit) = DEFAULTS;
        Settings {
            program: Some(Program::of_executable(self.executable)),
            process_limit: Some(or(self.process_limit, process_limit)),
            client_limit: super::clamped(
                Some(or(self.client_limit, client_limit)),
                self.restart_request_count,
            ),
            process_min_avail: Some(self.process_min_avail),
            restart_request_count: self.restart_request_count,
            vsz_limit: Some(Limit::Of(vsz_limit)),
            reuse_port: false,
        }
    }
}

/// For when nothing tells what is configured: the services that matter most, with the defaults that are the same in
/// every community release from 2.3.0 to 2.4.4. A setting that differs is absent.
pub fn limits() -> Limits {
    const NAMES: [&str; 13] = [
        "auth",
        "doveadm",
        "imap",
        "imap-login",
        "lmtp",
        "log",
        "managesieve",
        "managesieve-login",
        "pop3",
        "pop3-login",
        "stats",
        "submission",
        "submission-login",
    ];
    let [old, new] = [Generation::V23, Generation::V24].map(built_in);
    let settings = NAMES.iter().filter_map(|name| {
        let [old, new] = [&old, &new].map(|all| all.iter().find(|service| service.name == *name));
        let (old, new) = (old?.settings(), new?.settings());
        let restart_request_count =
            old.restart_request_count.filter(|count| new.restart_request_count == Some(*count));
        Some((Service::parse(name)?, Settings { restart_request_count, ..new }))
    });
    Limits { services: settings.collect(), ..Limits::default() }
}
