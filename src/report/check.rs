//! `status --check`: one line and an exit code, as the Monitoring Plugins Development Guidelines have them.
//!
//! What cannot be seen is never OK.

use std::fmt::Write;

use super::{
    facts::ServiceFacts,
    source::Seen,
    status::what_it_tells,
    troubles::{self, Level, Thresholds, Trouble, load},
    words::{one_line, percent},
};
use crate::{metrics, service::Service};

/// More troubles than this are counted only.
const TOLD: usize = 3;

/// What a plugin says of what it watches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum State {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl State {
    /// The exit code.
    pub fn code(self) -> u8 {
        self as u8
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// The line without performance data, and its end.
pub fn line(state: State, text: &str) -> String {
    // What follows a bar is performance data.
    format!("DOVECOT {} - {}", state.as_str(), one_line(text).replace('|', "/"))
}

/// The verdict on what was seen, of one service or of all.
pub fn verdict(seen: &Seen, thresholds: Thresholds, only: Option<&Service>) -> (State, String) {
    let troubles = troubles::find(seen, thresholds);
    let of = |level: Level| troubles.iter().filter(move |trouble| trouble.level == level);
    let text = |trouble: &Trouble| trouble.text.clone();
    let unseen = unseen(seen, only);
    let (state, told) = if of(Level::Critical).next().is_some() {
        (State::Critical, of(Level::Critical).chain(of(Level::Warning)).map(text).collect())
    } else if of(Level::Warning).next().is_some() {
        (State::Warning, of(Level::Warning).map(text).collect())
    } else if unseen.is_empty() {
        (State::Ok, vec![fullest(seen, only)])
    } else {
        (State::Unknown, unseen)
    };
    let mut text = told[..told.len().min(TOLD)].join(" ");
    if told.len() > TOLD {
        write!(text, " And {} more.", told.len() - TOLD).expect("a String takes everything");
    }
    let data: Vec<String> =
        seen.facts.services.iter().flat_map(|service| data(service, thresholds)).collect();
    let data = if data.is_empty() { String::new() } else { format!(" | {}", data.join(" ")) };
    (state, line(state, &text) + &data)
}

/// Why it cannot be said that all is well.
fn unseen(seen: &Seen, only: Option<&Service>) -> Vec<String> {
    let reason = |source: &str| {
        let reason = seen.reasons.iter().find(|(name, _)| name == source);
        reason.map_or("the exporter's landing page says why", |(_, reason)| reason)
    };
    let logs = seen.facts.down.iter().filter(|source| ["log", "journal"].contains(&source.as_str()));
    let mut unseen: Vec<String> =
        logs.map(|log| format!("{} cannot be seen: {}.", what_it_tells(log), reason(log))).collect();
    if seen.facts.services.is_empty() {
        unseen.push("No service of Dovecot can be seen.".to_owned());
    }
    let services = || seen.facts.services.iter();
    let login =
        |name: &str| services().any(|service| service.service.as_str().strip_suffix("-login") == Some(name));
    let by_default = services().filter(|service| {
        // Those that clients come in through, and those that they are handed over to.
        let of_clients = service.is_login() || login(service.service.as_str());
        let wanted = only.is_some() || of_clients && service.is_active();
        wanted && service.limit_is_default && service.never_short().is_none()
    });
    let names: Vec<&str> = by_default.map(|service| service.service.as_str()).collect();
    if !names.is_empty() {
        let is = if names.len() == 1 { "is" } else { "are" };
        unseen.push(format!("How full {} {is} cannot be told: {}.", names.join(", "), reason("limits")));
    }
    for service in &seen.facts.services {
        let name = &service.service;
        let wanted = only.is_some() || service.is_login() && service.is_active();
        let told = service.share().is_some() || service.never_short().is_some() || service.limit_is_default;
        if wanted && service.takes_one() && !told {
            unseen.push(format!("{name} takes one client at a time: how full it is says nothing."));
        } else if wanted && !told {
            let master = seen.facts.down.contains("master").then(|| format!(": {}", reason("master")));
            unseen.push(format!("How full {name} is cannot be told{}.", master.unwrap_or_default()));
        }
        if service.value(&metrics::SERVICE_DROP_WARNINGS).is_none() && !seen.facts.log_is_down() {
            unseen.push(format!("Drop warnings of {name} are not counted yet."));
        } else if service.warnings() > 0.0 && troubles::last_warning(service).is_none() {
            unseen.push(format!("The log has drop warnings of {name}, and no time stamps that say when."));
        }
    }
    unseen
}

/// How things are where all is well.
fn fullest(seen: &Seen, only: Option<&Service>) -> String {
    let shares = seen.facts.services.iter().filter_map(|service| Some((service.share()?, service)));
    let fullest = shares.max_by(|(one, _), (other, _)| one.total_cmp(other));
    let fullest = fullest.map(|(share, service)| {
        format!("{} is the fullest: {} ({}).", service.service, load(service), percent(share))
    });
    let of_one = || {
        let service = only.and(seen.facts.services.first())?;
        Some(format!("{} {}.", service.service, service.never_short()?))
    };
    fullest.or_else(of_one).unwrap_or_else(|| "no service turns clients away.".to_owned())
}

/// `'label'=value[UOM];[warn];[crit];[min];[max]`
fn data(service: &ServiceFacts, thresholds: Thresholds) -> Vec<String> {
    let (Some(in_use), Some(capacity)) = (service.in_use(), service.capacity()) else { return vec![] };
    let name = &service.service;
    let thousandth = |number: f64| ((1000.0 * number).round() / 1000.0).to_string();
    let part = |share: f64| if capacity.is_finite() { thousandth(share * capacity) } else { String::new() };
    let (warning, critical, most) = (part(thresholds.warning), part(thresholds.critical), part(1.0));
    let mut data = vec![format!("'{name}'={in_use};{warning};{critical};0;{most}")];
    let warnings = service.value(&metrics::SERVICE_DROP_WARNINGS);
    data.extend(warnings.map(|warnings| format!("'{name}_drop_warnings'={warnings}c;;;0;")));
    data
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        cli::{FULL, NEAR},
        metrics::{Metric, Page},
        report::{facts::Facts, source::Since, troubles::RECENT},
    };

    const NOW: u32 = 1_800_000_000;

    /// `imap-login` in high-security mode with this many of 10 processes, and these.
    fn seen(processes: f64, more: &[(&'static Metric, f64)]) -> Seen {
        let mut page = Page::default();
        let all = [
            (&metrics::SERVICE_PROCESSES, processes),
            (&metrics::SERVICE_CLIENT_LIMIT, 1.0),
            (&metrics::SERVICE_RESTART_REQUEST_LIMIT, 1.0),
            (&metrics::SERVICE_PROCESS_MIN_AVAIL, 0.0),
            (&metrics::SERVICE_PROCESS_LIMIT, 10.0),
            (&metrics::SERVICE_CONNECTION_CAPACITY, 10.0),
        ];
        for (metric, value) in all.iter().chain(more) {
            let labels = ["imap-login", "process_limit"];
            let labels = if metric.labels.is_empty() { &[] } else { &labels[..metric.labels.len()] };
            page.add(metric, labels, *value);
        }
        if !more.iter().any(|(metric, _)| metric.name == metrics::SERVICE_DROP_WARNINGS.name) {
            page.add(&metrics::SERVICE_DROP_WARNINGS, &["imap-login", "process_limit"], 0.0);
        }
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.into());
        let since = Since { time: None, what: "the log".to_owned() };
        let queues = [].into();
        Seen { facts: Facts::of(&page), at, since, reasons: vec![], master: None, configured: None, queues }
    }

    fn verdict_on(seen: &Seen) -> (State, String) {
        verdict(seen, Thresholds::of(NEAR, FULL), None)
    }

    #[test]
    fn states() {
        let last = |ago: u64| {
            (&metrics::SERVICE_LAST_DROP_WARNING, f64::from(NOW) - Duration::from_secs(ago).as_secs_f64())
        };
        let warned = (&metrics::SERVICE_DROP_WARNINGS, 3.0);
        let recent = RECENT.as_secs();
        for (processes, more, state, words) in [
            (7.0, &[][..], State::Ok, "imap-login is the fullest: 7 of 10"),
            (8.0, &[], State::Warning, "imap-login is near its limit"),
            (9.9, &[], State::Warning, "(99%)"),
            (10.0, &[], State::Critical, "imap-login is full"),
            // Of two configurations: who has clients cannot be told.
            (12.0, &[], State::Unknown, "How full imap-login is cannot be told"),
            (
                0.0,
                &[warned, last(recent)],
                State::Critical,
                "turned clients away 10 min ago: 3 drop warnings since the start of the log",
            ),
            (0.0, &[warned, last(recent + 1)], State::Ok, "0 of 10"),
            // A clock that is ahead.
            (0.0, &[warned, last(0)], State::Critical, "0 s ago"),
            (0.0, &[warned], State::Unknown, "no time stamps"),
            (0.0, &[(&metrics::SERVICE_LISTEN_PAUSED, 1.0)], State::Critical, "at this moment"),
            (
                0.0,
                &[(&metrics::CGROUP_TASKS, 90.0), (&metrics::CGROUP_TASKS_LIMIT, 100.0)],
                State::Warning,
                "90 of 100 tasks",
            ),
            (
                0.0,
                &[(&metrics::CGROUP_TASKS, 90.0), (&metrics::CGROUP_TASKS_LIMIT, f64::INFINITY)],
                State::Ok,
                "0 of 10",
            ),
            // Told by `status`, and nothing to be woken for.
            (0.0, &[(&metrics::SERVICE_PROCESS_LIMIT_CONFIGURED, 20.0)], State::Ok, "0 of 10"),
        ] {
            let (found, line) = verdict_on(&seen(processes, more));
            assert_eq!(found, state, "{line}");
            assert!(line.contains(words), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_not_ok() {
        let mut blind = seen(1.0, &[]);
        blind.facts.down.insert("log".to_owned());
        blind.reasons.push(("log".to_owned(), "a|b\nc".to_owned()));
        let (state, line) = verdict_on(&blind);
        assert_eq!(state, State::Unknown);
        assert!(line.contains("a/b c. | 'imap-login'=1;8;10;0;10"), "{line}");
        // A full one is full all the same.
        let mut full = seen(10.0, &[]);
        full.facts.down.insert("log".to_owned());
        assert_eq!(verdict_on(&full).0, State::Critical);
        let mut shared = seen(1.0, &[]);
        shared.facts.forget(&metrics::SERVICE_RESTART_REQUEST_LIMIT);
        let (state, line) = verdict_on(&shared);
        assert_eq!(
            (state, line.as_str()),
            (State::Unknown, "DOVECOT UNKNOWN - How full imap-login is cannot be told.")
        );
        let mut nothing = seen(1.0, &[]);
        nothing.facts.services.clear();
        assert_eq!(
            verdict_on(&nothing),
            (State::Unknown, "DOVECOT UNKNOWN - No service of Dovecot can be seen.".to_owned())
        );
        // No number that a plugin's output may have.
        let endless = seen(1.0, &[(&metrics::SERVICE_CONNECTIONS, f64::INFINITY)]);
        assert!(verdict_on(&endless).1.contains(" | 'imap-login'=1;8;10;0;10 "));
        let mut early = seen(1.0, &[]);
        early.facts.forget(&metrics::SERVICE_DROP_WARNINGS);
        assert_eq!(verdict_on(&early).0, State::Unknown);
    }

    #[test]
    fn limits_that_nobody_tells_are_none() {
        for processes in [5.0, 10.0] {
            let mut seen = seen(processes, &[]);
            seen.facts.services[0].limit_is_default = true;
            seen.facts.down.insert("limits".to_owned());
            seen.reasons.push(("limits".to_owned(), "doveconf says no".to_owned()));
            seen.facts.forget_defaults();
            let line = "DOVECOT UNKNOWN - How full imap-login is cannot be told: doveconf says no.";
            assert_eq!(verdict_on(&seen), (State::Unknown, line.to_owned()));
        }
        let last = (&metrics::SERVICE_LAST_DROP_WARNING, f64::from(NOW));
        let mut warned = seen(10.0, &[(&metrics::SERVICE_DROP_WARNINGS, 3.0), last]);
        warned.facts.services[0].limit_is_default = true;
        warned.facts.forget_defaults();
        let (state, line) = verdict_on(&warned);
        assert_eq!(state, State::Critical);
        assert!(line.contains(", connections in use unknown. Raise"), "{line}");
        assert!(!line.contains("10"), "{line}");
    }

    #[test]
    fn full_is_what_has_no_room() {
        for (processes, words) in [
            (9.0, "imap-login is near its limit: 9 of 10 connections in use (90%)."),
            (10.0, "imap-login is full: 10 of 10 connections in use,"),
        ] {
            let (state, line) = verdict(&seen(processes, &[]), Thresholds::of(80, 90), None);
            assert_eq!(state, State::Critical);
            assert!(line.contains(words), "{line}");
        }
    }

    #[test]
    fn some_are_never_short() {
        let asked = |name: &str, limit: f64| {
            let mut seen = seen(limit, &[]);
            let name = Service::parse(name).expect("a name");
            let mut page = Page::default();
            page.add(&metrics::SERVICE_PROCESSES, &[name.as_str()], limit);
            page.add(&metrics::SERVICE_CLIENT_LIMIT, &[name.as_str()], 1.0);
            page.add(&metrics::SERVICE_PROCESS_LIMIT, &[name.as_str()], limit);
            page.add(&metrics::SERVICE_CONNECTION_CAPACITY, &[name.as_str()], limit);
            page.add(&metrics::SERVICE_DROP_WARNINGS, &[name.as_str(), "process_limit"], 0.0);
            seen.facts = Facts::of(&page);
            verdict(&seen, Thresholds::of(NEAR, FULL), Some(&name))
        };
        for (name, limit, state, words) in [
            ("auth-worker", 30.0, State::Ok, "auth-worker is given work by processes that wait for it"),
            ("indexer-worker", 10.0, State::Ok, "indexer-worker is given work by processes that wait for it"),
            ("sync", 1.0, State::Ok, "sync is made for one client at a time"),
            ("sync", 2.0, State::Unknown, "How full sync is cannot be told"),
            // Its clients come from outside.
            ("imap-login", 1.0, State::Unknown, "imap-login takes one client at a time"),
        ] {
            let (found, line) = asked(name, limit);
            assert_eq!(found, state, "{line}");
            assert!(line.contains(words), "{line}");
        }
    }

    #[test]
    fn flaws_are_told() {
        let more = [
            (&metrics::SERVICE_PROCESS_LIMIT_CONFIGURED, 20.0),
            (&metrics::SERVICE_CLIENT_LIMIT_REQUIRED, 5.0),
            (&metrics::SERVICE_QUEUE_FULL_KILLS, 2.0),
            (&metrics::SERVICE_FAILURES, 1.0),
        ];
        let mut seen = seen(1.0, &more);
        let texts = |seen: &Seen| -> Vec<String> {
            troubles::find(seen, Thresholds::of(NEAR, FULL)).into_iter().map(|trouble| trouble.text).collect()
        };
        let found = texts(&seen);
        assert_eq!(
            found,
            [
                "process_limit of imap-login is 20 on disk and 10 in force. Run doveadm reload.",
                "imap-login takes 1 connections, and needs 5 when all services are full. Set its client_limit to that.",
                "imap-login, since the start of the log: 2 clients turned out for others, 1 failed process.",
            ]
        );
        // Meant to differ.
        seen.facts.services[0].limit_is_flag = true;
        assert_eq!(texts(&seen), found[1..]);
    }
}
