//! What to paste: the settings of a service for so many clients, and those of other services that must follow.

use std::{collections::BTreeMap, fmt::Write};

use super::arithmetic::{Shape, rounded_up};
use crate::{
    limits::{
        Limit, Limits, Settings,
        next::{Load, client_limits_required},
    },
    service::Service,
};

/// Clients of a login process that many share, unless it is set already.
const SHARED_CLIENTS: u32 = 1000;
/// Twice what a process of `imap-login` took for each TLS client: 114 MB for 1,000 (2.4.1; 2.3.19.1: 97).
const CLIENT_KIBIBYTES: u64 = 228;
/// Most that a process of Dovecot may open unless its unit says otherwise.
const UNIT_FILES: u32 = 65535;
/// Files that a process has open beside its clients.
const OTHER_FILES: u32 = 200;
/// Dovecot's `default_client_limit`.
const DEFAULT_CLIENTS: u32 = 1000;
/// Connections to `stats` of processes that no login service brings.
const OTHER_PROCESSES: u32 = 200;

/// What the host and the files say. What is not known is absent.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Dovecot's version.
    pub version: String,
    /// The version that its configuration is written for, from 2.4 on.
    pub config_version: Option<String>,
    /// The limits on disk, where the block will be.
    pub limits: Limits,
    /// Processors.
    pub processors: u32,
    /// Files that a process of Dovecot may open.
    pub open_files: Option<f64>,
    /// Tasks of Dovecot's control group, and how many it may have.
    pub tasks: Option<(f64, f64)>,
    /// The longest queue that the kernel grants.
    pub somaxconn: Option<u32>,
    /// Dovecot's unit, if systemd started it.
    pub unit: Option<String>,
}

/// How many clients are to be served.
#[derive(Clone, Copy, Debug)]
pub struct Clients {
    /// So many.
    pub number: u32,
    /// Fewer would not do.
    pub least: u32,
    /// There is memory for so many, if that is known.
    pub room: Option<u32>,
}

/// How a service is to take more clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// A process for each.
    Processes,
    /// Processes that many share.
    Shared,
}

/// What it takes.
#[derive(Clone, Debug, Default)]
pub struct Remedy {
    /// To paste into the configuration; empty if there is nothing to change.
    pub block: String,
    /// Clients that the service then takes, or none if that has no limit.
    pub capacity: f64,
    /// Processes of the service at most.
    pub processes: u32,
    /// Clients that it is meant for: fewer than asked for where memory does not go into whole processes.
    pub clients: u32,
    /// Why each of the other services is in the block.
    pub others: Vec<String>,
    /// Lines for `[Service]` of the systemd unit, and why.
    pub unit: Vec<(String, String)>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u32>,
    /// Whether a reload is not enough.
    pub restart: bool,
}

type Values = BTreeMap<&'static str, u64>;

/// Settings to be changed.
struct Draft<'a> {
    host: &'a Host,
    changes: BTreeMap<&'a Service, Values>,
    /// Those that others count.
    loads: Vec<Load>,
    remedy: Remedy,
}

impl Host {
    /// 2.4 has a name of its own for `service_count`, and for no limit.
    pub fn is_old(&self) -> bool {
        ["2.2", "2.3"].iter().any(|old| self.version.starts_with(old))
    }

    fn settings(&self, service: &str) -> Option<(&Service, &Settings)> {
        self.limits.services.iter().find(|(name, _)| name.as_str() == service)
    }

    /// The service that clients of the login service are handed to.
    pub fn backend(&self, login: &Service) -> Option<&Service> {
        self.settings(login.as_str().strip_suffix("-login")?).map(|(name, _)| name)
    }
}

/// Clients of each process at most, and processes that are kept ready, where clients share them.
pub fn sharing(host: &Host, settings: &Settings) -> (u32, u32) {
    let client_limit = number(settings.client_limit).unwrap_or(SHARED_CLIENTS);
    if is_shared(settings) {
        (client_limit, settings.process_min_avail.unwrap_or_default().max(host.processors))
    } else {
        (SHARED_CLIENTS, host.processors)
    }
}

fn is_shared(settings: &Settings) -> bool {
    settings.restart_request_count == Some(Limit::Unlimited) && settings.client_limit > Some(Limit::Of(1))
}

/// What `service` needs to take `clients` at a time.
pub fn remedy(host: &Host, service: &Service, way: Way, clients: Clients) -> Option<Remedy> {
    let (name, settings) = host.settings(service.as_str())?;
    let mut draft =
        Draft { host, changes: BTreeMap::new(), loads: host.limits.loads.clone(), remedy: Remedy::default() };
    let values = own(host, service, settings, way, clients);
    draft.own(name, settings, values);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "no more than the number")]
    let clients = draft.remedy.capacity.min(clients.number.into()) as u32;
    draft.remedy.clients = clients;
    draft.backend(name, clients);
    draft.stats(name, clients);
    draft.required();
    draft.reuse_port();
    draft.files(way, name);
    draft.tasks(name, clients);
    draft.remedy.somaxconn =
        host.somaxconn.filter(|most| way == Way::Processes && *most < clients).map(|_| rounded_up(clients));
    draft.remedy.restart |= !draft.remedy.unit.is_empty();
    draft.remedy.block = draft.text(service, clients);
    Some(draft.remedy)
}

/// What the service itself needs.
fn own(host: &Host, service: &Service, settings: &Settings, way: Way, wanted: Clients) -> Values {
    let clients = wanted.number;
    let min_avail = settings.process_min_avail.unwrap_or_default();
    let client_limit = number(settings.client_limit).unwrap_or(SHARED_CLIENTS);
    let mut values = Values::new();
    if !service.as_str().ends_with("-login") {
        if settings.process_limit == Some(Limit::Of(1)) && client_limit > 1 {
            values.insert("client_limit", clients.into());
        } else {
            values.insert("process_limit", clients.div_ceil(client_limit.max(1)).max(min_avail).into());
        }
        return values;
    }
    match way {
        Way::Processes => {
            values.insert("process_limit", clients.max(min_avail).into());
            if settings.restart_request_count != Some(Limit::Of(1)) {
                values.insert("count", 1);
            }
        }
        Way::Shared => {
            let (most, ready) = sharing(host, settings);
            let shape = Shape::of(clients, wanted.least, wanted.room, most, ready);
            values.insert("process_limit", shape.processes.into());
            values.insert("process_min_avail", ready.min(shape.processes).into());
            values.insert("client_limit", shape.clients.into());
            values.insert("count", 0);
            let needed = u64::from(shape.clients) * CLIENT_KIBIBYTES / 1024;
            let enough = settings.vsz_limit.is_some_and(|limit| limit >= Limit::Of(needed << 20));
            if !enough {
                values.insert("vsz_limit", needed.next_multiple_of(256));
            }
        }
    }
    values
}

fn number(limit: Option<Limit>) -> Option<u32> {
    match limit {
        Some(Limit::Of(number)) => Some(number),
        _ => None,
    }
}

fn narrow(number: u64) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

impl<'a> Draft<'a> {
    fn change(&mut self, service: &'a Service, key: &'static str, value: u64) {
        self.changes.entry(service).or_default().insert(key, value);
        if let Some(load) = self.loads.iter_mut().find(|load| load.service == *service) {
            match key {
                "process_limit" => load.processes = Some(narrow(value)),
                "count" => load.once = value == 1,
                _ => {}
            }
        }
        self.remedy.restart |= service.as_str() == "anvil";
    }

    fn own(&mut self, name: &'a Service, settings: &Settings, values: Values) {
        for (key, value) in values {
            self.change(name, key, value);
        }
        let of = |key: &str, now| self.changes[name].get(key).map_or(now, |value| f64::from(narrow(*value)));
        let processes = of("process_limit", settings.process_limit.map_or(f64::NAN, Limit::value));
        let once = self.changes[name].get("count") == Some(&1);
        let clients = of("client_limit", settings.client_limit.map_or(f64::NAN, Limit::value));
        self.remedy.capacity = processes * if once { 1.0 } else { clients };
        self.remedy.processes = self.changes[name].get("process_limit").map_or(1, |value| narrow(*value));
    }

    /// A client who has logged in has a process of, for instance, `imap`.
    fn backend(&mut self, login: &Service, clients: u32) {
        let Some(backend) = self.host.backend(login) else { return };
        let settings = &self.host.limits.services[backend];
        let each = number(settings.client_limit).unwrap_or(1).max(1);
        let Some(limit) = number(settings.process_limit).filter(|limit| limit.saturating_mul(each) < clients)
        else {
            return;
        };
        self.change(backend, "process_limit", clients.div_ceil(each).into());
        self.remedy.others.push(format!(
            "{backend}: a process for each client who has logged in, and process_limit is {limit}"
        ));
    }

    /// Every process of a login service and of its backend is connected to `stats`.
    fn stats(&mut self, of: &Service, clients: u32) {
        let Some((stats, settings)) = self.host.settings("stats") else { return };
        let mut needed = u64::from(OTHER_PROCESSES);
        for load in self.loads.iter().filter(|load| load.login) {
            let processes = u64::from(load.processes.unwrap_or_default());
            let behind = self.host.backend(&load.service);
            let behind =
                behind.and_then(|name| self.loads.iter().find(|load| load.service == *name)?.processes);
            // One who has logged in without TLS is in no login process any more.
            let sessions = match load.once {
                _ if self.host.backend(&load.service) == Some(of) => u64::MAX,
                true => processes,
                false if load.service == *of => clients.into(),
                false => u64::MAX,
            };
            needed += processes + sessions.min(behind.unwrap_or_default().into());
        }
        let Some(limit) = number(settings.client_limit).filter(|limit| u64::from(*limit) < needed) else {
            return;
        };
        let value = rounded_up(narrow(needed));
        self.raise_clients(stats, value);
        self.remedy.others.push(format!(
            "stats: a connection of each process of the login services and of those behind them, {needed} at most, and client_limit is {limit}"
        ));
    }

    fn raise_clients(&mut self, service: &'a Service, value: u32) {
        let already = self.changes.get(service).and_then(|values| values.get("client_limit")).copied();
        self.change(service, "client_limit", u64::from(value).max(already.unwrap_or_default()));
    }

    /// What Dovecot warns of at its start.
    fn required(&mut self) {
        for (name, required) in client_limits_required(&self.loads) {
            let Some((name, settings)) = self.host.settings(name.as_str()) else { continue };
            let Some(limit) = number(settings.client_limit).filter(|limit| *limit < required) else {
                continue;
            };
            self.raise_clients(name, rounded_up(required));
            self.remedy.others.push(format!(
                "{name}: Dovecot reckons that it needs {required} when all services are full, and client_limit is {limit}"
            ));
        }
    }

    /// Dovecot 2.4.4 takes no other `process_min_avail` there.
    fn reuse_port(&mut self) {
        for (name, values) in &mut self.changes {
            if self.host.limits.services[*name].reuse_port
                && let Some(limit) = values.get("process_limit").copied()
            {
                values.insert("process_min_avail", limit);
                self.remedy.others.push(format!(
                    "{name}: with reuse_port = yes, process_min_avail must be what process_limit is"
                ));
            }
        }
    }

    /// Dovecot compares with the largest `client_limit`; a client over TLS takes two files of a process that is shared.
    fn files(&mut self, way: Way, service: &Service) {
        let of = |name: &Service, settings: &Settings| {
            let changed = self.changes.get(name).and_then(|values| values.get("client_limit"));
            changed.map(|value| narrow(*value)).or(number(settings.client_limit)).unwrap_or_default()
        };
        let largest = self.host.limits.services.iter().map(|(name, settings)| of(name, settings)).max();
        let largest = largest.unwrap_or_default().max(DEFAULT_CLIENTS);
        let shared = way == Way::Shared && service.as_str().ends_with("-login");
        let clients = of(service, &self.host.limits.services[service]);
        let own = if shared { clients.saturating_mul(2) } else { 0 };
        let needed = largest.max(own).saturating_add(OTHER_FILES);
        let Some(open) = self.host.open_files.filter(|open| *open < f64::from(needed)) else { return };
        let line = format!("LimitNOFILE={}", rounded_up(needed).max(UNIT_FILES));
        self.remedy
            .unit
            .push((line, format!("a process of Dovecot opens up to {needed} files, and may open {open}")));
    }

    /// Each process is a task.
    fn tasks(&mut self, service: &Service, clients: u32) {
        let Some((tasks, limit)) = self.host.tasks else { return };
        let behind = if self.host.backend(service).is_some() { clients } else { 0 };
        let needed = tasks + f64::from(self.remedy.processes) + f64::from(behind);
        if needed > limit {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tasks of one host")]
            let needed = needed as u32;
            let line = format!("TasksMax={}", rounded_up(needed.saturating_add(OTHER_PROCESSES)));
            let why = format!("Dovecot's control group gets up to {needed} tasks, and may have {limit}");
            self.remedy.unit.push((line, why));
        }
    }

    fn text(&self, service: &Service, clients: u32) -> String {
        let old = self.host.is_old();
        let generation = if old { "2.3" } else { "2.4" };
        let mut text = format!("# Dovecot {generation}: {service} for {clients} clients\n");
        // The service itself comes first.
        let (own, others): (Vec<_>, Vec<_>) = self.changes.iter().partition(|(name, _)| **name == service);
        for (name, values) in own.into_iter().chain(others) {
            writeln!(text, "service {name} {{").expect("a String takes everything");
            for (key, value) in values {
                let (key, value) = match (*key, *value) {
                    ("count", 0) if old => ("service_count", "0".to_owned()),
                    ("count", 0) => ("restart_request_count", "unlimited".to_owned()),
                    ("count", value) if old => ("service_count", value.to_string()),
                    ("count", value) => ("restart_request_count", value.to_string()),
                    ("vsz_limit", value) => ("vsz_limit", format!("{value} M")),
                    (key, value) => (key, value.to_string()),
                };
                writeln!(text, "  {key} = {value}").expect("a String takes everything");
            }
            text.push_str("}\n");
        }
        text
    }
}

#[cfg(test)]
#[path = "blocks/tests.rs"]
mod tests;
