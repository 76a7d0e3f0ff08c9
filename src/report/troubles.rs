//! What is wrong: a sentence for each, with its number and its remedy, worst first.

use std::time::{Duration, SystemTime};

use super::{
    facts::{Facts, Mode, ServiceFacts},
    source::{Seen, Since},
    words::{ago, clock, count, percent},
};
use crate::{
    metrics::{self, Metric},
    service::Service,
};

/// A drop warning counts as of now for so long. The rules look back five minutes and then hold an alert for five.
pub const RECENT: Duration = Duration::from_secs(10 * 60);
/// What Dovecot's processes tell a full one is lost, and no client is.
const TURNS_NOBODY_AWAY: &str = "stats";
/// From this part of them on, tasks run short.
const TASKS_SHORT: f64 = 0.9;

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// It happened, and is over.
    Past,
    /// It will not hold.
    Flaw,
    /// A limit is near.
    Warning,
    /// Clients are turned away, or the next one will be.
    Critical,
}

impl Level {
    /// As JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Past => "past",
            Self::Flaw => "flaw",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// How bad it is.
    pub level: Level,
    /// Whose it is.
    pub service: Option<Service>,
    /// A sentence, and what to do.
    pub text: String,
}

/// Parts of a service's capacity.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// From here on it is near its limit.
    pub warning: f64,
    /// From here on that is critical.
    pub critical: f64,
}

impl Thresholds {
    /// Of percents.
    pub fn of(warning: u8, critical: u8) -> Self {
        let part = |percent: u8| f64::from(percent) / 100.0;
        Self { warning: part(warning), critical: part(critical) }
    }
}

/// All that is wrong, worst first.
pub fn find(seen: &Seen, thresholds: Thresholds) -> Vec<Trouble> {
    let mut services: Vec<&ServiceFacts> = seen.facts.services.iter().collect();
    services
        .sort_by(|one, other| other.share().unwrap_or_default().total_cmp(&one.share().unwrap_or_default()));
    let mut troubles = Vec::new();
    for service in services {
        let mut add = |found: Option<(Level, String)>| {
            troubles.extend(found.map(|(level, text)| Trouble {
                level,
                service: Some(service.service.clone()),
                text,
            }));
        };
        add(of_load(seen, service, thresholds));
        add(not_in_force(service));
        add(next_limit(service));
        add(past(seen, service));
    }
    troubles.extend(tasks(&seen.facts));
    // Those that are as bad stay in this order.
    troubles.sort_by_key(|trouble| std::cmp::Reverse(trouble.level));
    troubles
}

/// When the last drop warning was read or logged, if that is known.
pub fn last_warning(service: &ServiceFacts) -> Option<SystemTime> {
    let time = service.value(&metrics::SERVICE_LAST_DROP_WARNING)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(time).ok()?)
}

fn recent(seen: &Seen, service: &ServiceFacts) -> Option<SystemTime> {
    last_warning(service).filter(|last| *last + RECENT >= seen.at)
}

/// `in use` beside the capacity.
pub fn load(service: &ServiceFacts) -> String {
    match (service.in_use(), service.capacity()) {
        (Some(in_use), Some(capacity)) => {
            format!("{} of {} connections in use", count(Some(in_use)), count(Some(capacity)))
        }
        _ => "connections in use unknown".to_owned(),
    }
}

fn of_load(seen: &Seen, service: &ServiceFacts, thresholds: Thresholds) -> Option<(Level, String)> {
    let name = &service.service;
    let warnings = service.warnings();
    let waiting = service.value(&metrics::LISTENER_QUEUE_CONNECTIONS).filter(|waiting| *waiting > 0.0);
    let waiting = waiting.map(|waiting| format!(", {} waiting", count(Some(waiting)))).unwrap_or_default();
    let load = load(service);
    let share = service.share().unwrap_or_default();
    let (level, text) = if service.value(&metrics::SERVICE_LISTEN_PAUSED) == Some(1.0) {
        (Level::Critical, format!("{name} turns clients away at this moment: {load}{waiting}."))
    } else if let Some(last) = recent(seen, service) {
        let warnings =
            format!("{} since {}", plural(warnings, "drop warning", "drop warnings"), since(&seen.since));
        let ago = ago(last, seen.at);
        (Level::Critical, format!("{name} turned clients away {ago}: {warnings}, {load}{waiting}."))
    } else if share >= thresholds.warning {
        let critical = share >= thresholds.critical && name.as_str() != TURNS_NOBODY_AWAY;
        let text = if critical && share >= 1.0 {
            format!("{name} is full: {load}{waiting}, the next client waits and is then turned away.")
        } else {
            format!("{name} is near its limit: {load} ({}){waiting}.", percent(share))
        };
        (if critical { Level::Critical } else { Level::Warning }, text)
    } else {
        return None;
    };
    Some((level, format!("{text} {}", remedy(service))))
}

/// What gives it more room.
fn remedy(service: &ServiceFacts) -> String {
    let limit = |metric: &'static Metric| count(service.value(metric));
    let processes = format!("process_limit ({})", limit(&metrics::SERVICE_PROCESS_LIMIT));
    let clients = format!("client_limit ({})", limit(&metrics::SERVICE_CLIENT_LIMIT));
    let one = |metric| service.value(metric) == Some(1.0);
    if service.mode() == Some(Mode::HighSecurity) {
        format!("Raise its {processes}, or let clients share processes (performance mode).")
    } else if one(&metrics::SERVICE_CLIENT_LIMIT) {
        format!("Raise its {processes}.")
    } else if one(&metrics::SERVICE_PROCESS_LIMIT) {
        format!("Raise its {clients}.")
    } else {
        format!("Raise its {clients} or its {processes}.")
    }
}

fn not_in_force(service: &ServiceFacts) -> Option<(Level, String)> {
    let in_force = service.value(&metrics::SERVICE_PROCESS_LIMIT)?;
    let on_disk = service.value(&metrics::SERVICE_PROCESS_LIMIT_CONFIGURED)?;
    let differs = in_force.total_cmp(&on_disk).is_ne() && !service.limit_is_flag;
    let (name, on_disk, in_force) = (&service.service, count(Some(on_disk)), count(Some(in_force)));
    let text =
        format!("process_limit of {name} is {on_disk} on disk and {in_force} in force. Run doveadm reload.");
    differs.then_some((Level::Flaw, text))
}

fn next_limit(service: &ServiceFacts) -> Option<(Level, String)> {
    let limit = service.value(&metrics::SERVICE_CLIENT_LIMIT)?;
    let required =
        service.value(&metrics::SERVICE_CLIENT_LIMIT_REQUIRED).filter(|required| limit < *required)?;
    let (name, limit, required) = (&service.service, count(Some(limit)), count(Some(required)));
    let text = format!(
        "{name} takes {limit} connections, and needs {required} when all services are full. Set its client_limit to that."
    );
    Some((Level::Flaw, text))
}

/// What was counted. Of no part of it but warnings it is known when it was.
fn past(seen: &Seen, service: &ServiceFacts) -> Option<(Level, String)> {
    let name = &service.service;
    let counted = |metric, one, many| {
        service.value(metric).filter(|number| *number > 0.0).map(|number| plural(number, one, many))
    };
    let last =
        last_warning(service).map(|last| format!(" (the last at {})", clock(last))).unwrap_or_default();
    // Of recent ones more has been said.
    let warned = if recent(seen, service).is_some() {
        None
    } else {
        counted(&metrics::SERVICE_DROP_WARNINGS, "drop warning", "drop warnings")
    };
    let all = [
        warned.map(|text| text + &last),
        counted(
            &metrics::SERVICE_QUEUE_FULL_KILLS,
            "client turned out for others",
            "clients turned out for others",
        ),
        counted(&metrics::SERVICE_HANDOVER_FAILURES, "login lost", "logins lost"),
        counted(&metrics::SERVICE_FAILURES, "failed process", "failed processes"),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    (!all.is_empty())
        .then(|| (Level::Past, format!("{name}, since {}: {}.", since(&seen.since), all.join(", "))))
}

fn tasks(facts: &Facts) -> Option<Trouble> {
    let tasks = facts.value(&metrics::CGROUP_TASKS)?;
    let limit = facts.value(&metrics::CGROUP_TASKS_LIMIT)?;
    let text = format!(
        "Dovecot's control group has {} of {} tasks: forks fail soon. Raise TasksMax of its unit.",
        count(Some(tasks)),
        count(Some(limit))
    );
    (tasks >= TASKS_SHORT * limit).then_some(Trouble { level: Level::Warning, service: None, text })
}

/// So many of them.
pub fn plural(number: f64, one: &str, many: &str) -> String {
    format!("{} {}", count(Some(number)), if number > 1.0 { many } else { one })
}

/// Since when, in words.
pub fn since(since: &Since) -> String {
    since.time.map_or_else(|| format!("the start of {}", since.what), clock)
}
