//! What is counted as it happens: events of the log to totals.

use std::{collections::BTreeMap, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    limits::Warned,
    log::grammar::{DropWarning, Event, Failure},
    master::{Generation, Status},
    service::{LimitKind, MAX_SERVICES, Service},
};

/// Totals since the exporter was first started with its state file; none ever falls.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Services that have series: they keep them, at 0 if nothing happens.
    services: BTreeMap<Service, ServiceTally>,
    /// Logins refused because one user had too many connections from one address.
    pub user_connection_limit_rejections: u64,
    /// Times the master said that it reloads its configuration.
    pub reloads: u64,
    /// The newest list of services of which forks were counted.
    generation: Option<Generation>,
    /// The limits that warnings named since the master read its configuration.
    #[serde(skip)]
    pub warned: BTreeMap<Service, Warned>,
}

/// Totals of one service.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTally {
    /// Warning lines, by the limit they name.
    pub drop_warnings: BTreeMap<LimitKind, u64>,
    /// When the newest was read.
    pub last_drop_warning: Option<SystemTime>,
    /// Clients whose connections were closed to make room for others.
    pub queue_full_kills: u64,
    /// Clients that had logged in and were not taken by this service.
    pub handover_failures: u64,
    /// Processes that could not be started, or died.
    pub failures: BTreeMap<Failure, u64>,
    /// Processes that the master started; nothing if it was never asked, or does not tell.
    pub starts: Option<Starts>,
    /// It had a process, or was logged of, since the program began.
    #[serde(skip)]
    seen: bool,
}

impl ServiceTally {
    /// Whether nothing is known to have happened to the service, ever.
    pub fn is_idle(&self) -> bool {
        let counted = self.all_drop_warnings() + self.queue_full_kills + self.handover_failures;
        let started = self.starts.is_some_and(|starts| starts.total() > 0);
        !self.seen && !started && counted == 0 && self.failures.is_empty()
    }
}

/// Processes that the master started: it counts from 0 again when it has read its configuration.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Starts {
    /// Those of earlier lists of services.
    before: u64,
    /// Those of the newest.
    now: u64,
}

impl Starts {
    /// All of them.
    pub fn total(self) -> u64 {
        self.before.saturating_add(self.now)
    }
}

impl Tally {
    /// Makes sure that `service` has series, and returns the name under which it has: its own, or
    /// [`Service::other`] if there are too many already.
    pub fn know(&mut self, service: &Service) -> Service {
        if self.services.contains_key(service) {
            return service.clone();
        }
        let known = if self.services.len() < MAX_SERVICES { service.clone() } else { Service::other() };
        self.services.entry(known.clone()).or_default();
        known
    }

    /// Notes that `service` has a process; returns the name under which it has series.
    pub fn see(&mut self, service: &Service) -> Service {
        let known = self.know(service);
        self.tally(&known);
        known
    }

    /// The services that have series.
    pub fn services(&self) -> impl Iterator<Item = (&Service, &ServiceTally)> {
        self.services.iter()
    }

    /// What was counted of `service`.
    pub fn of(&self, service: &Service) -> Option<&ServiceTally> {
        self.services.get(service)
    }

    /// Counts `event`, which was read at `time`, if that is known, and came so many `times`.
    pub fn count(&mut self, event: &Event, times: u32, time: Option<SystemTime>) {
        let times = u64::from(times);
        match event {
            Event::DropWarning(warning) => self.count_warning(warning, times, time),
            Event::Reload => {
                self.reloads += times;
                self.warned.clear();
            }
            Event::Start => self.warned.clear(),
            Event::ReloadFailed => {}
            Event::QueueFullKill(service) => self.tally(service).queue_full_kills += times,
            Event::HandoverFailure(service) => self.tally(service).handover_failures += times,
            Event::UserConnectionLimit => self.user_connection_limit_rejections += times,
            Event::Failure(service, failure) => {
                *self.tally(service).failures.entry(*failure).or_default() += times;
            }
        }
    }

    /// When the newest drop warning of the service was read that `event` is another one of.
    pub fn newest_like(&self, event: &Event) -> Option<SystemTime> {
        let Event::DropWarning(warning) = event else { return None };
        self.services.get(&warning.service)?.last_drop_warning
    }

    /// Forgets the limits of warnings that are older than the configuration in force, which is of `since`.
    pub fn forget_warned(&mut self, since: SystemTime) {
        let services = &self.services;
        self.warned.retain(|service, _| {
            services.get(service).and_then(|tally| tally.last_drop_warning) >= Some(since)
        });
    }

    /// Takes what the master has counted; returns whether that is more than before.
    pub fn count_starts(&mut self, status: &Status) -> bool {
        let log = Service::parse("log");
        let of_log = log.as_ref().and_then(|log| status.services.get(log)?.starts);
        let before = log.as_ref().and_then(|log| self.services.get(log)?.starts).map(|starts| starts.now);
        let known = self.generation.replace(status.generation);
        // A log process that was started in place of one that died is not the first of its list.
        let another = known.is_some_and(|known| known.socket != status.generation.socket);
        let is_new =
            another || known.is_some_and(|known| known.log != status.generation.log) && of_log <= before;
        let mut any = known != self.generation;
        for (service, of_service) in &status.services {
            let (Some(now), name) = (of_service.starts, self.know(service)) else { continue };
            if name != *service || name == Service::other() {
                // "other" may stand for several services.
                continue;
            }
            let Some(tally) = self.services.get_mut(service) else { continue };
            let starts = tally.starts.get_or_insert_default();
            if is_new || now < starts.now {
                starts.before = starts.total();
                // It is in the new count, too, though it was not started again.
                let taken_over = service.as_str() == "anvil"
                    && !another
                    && known.is_some_and(|known| known.anvil == status.generation.anvil);
                starts.before -= u64::from(taken_over).min(starts.before).min(now);
            }
            any |= starts.now != now;
            starts.now = now;
        }
        any
    }

    fn tally(&mut self, service: &Service) -> &mut ServiceTally {
        // Nearly always it is known, and then no name need be copied.
        let known = if self.services.contains_key(service) { service } else { &self.know(service) };
        let tally = self.services.get_mut(known).expect("it was just made known");
        tally.seen = true;
        tally
    }

    fn count_warning(&mut self, warning: &DropWarning, times: u64, time: Option<SystemTime>) {
        let tally = self.tally(&warning.service);
        *tally.drop_warnings.entry(warning.limit).or_default() += times;
        tally.last_drop_warning = time.or(tally.last_drop_warning);
        if !self.services.contains_key(&warning.service) || warning.service == Service::other() {
            // "other" may stand for several services.
            return;
        }
        if !self.warned.contains_key(&warning.service) {
            self.warned.insert(warning.service.clone(), Warned::default());
        }
        let Some(warned) = self.warned.get_mut(&warning.service) else { return };
        match warning.limit {
            LimitKind::Process => warned.process_limit = warning.number,
            LimitKind::Client => {
                warned.client_limit = warning.number;
                // Without reuse_port the master names client_limit only where process_limit is 1
                // (`service_log_drop_warning`, src/master/service-monitor.c).
                if !warning.reuse_port {
                    warned.process_limit = Some(1);
                }
            }
        }
    }
}

impl ServiceTally {
    /// Warning lines, whatever limit they name.
    pub fn all_drop_warnings(&self) -> u64 {
        self.drop_warnings.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::ServiceStatus;

    fn warning(service: &str, limit: LimitKind, number: u32) -> Event {
        let service = Service::parse(service).expect("a name");
        Event::DropWarning(DropWarning { service, limit, number: Some(number), reuse_port: false })
    }

    fn total(tally: &Tally, service: &Service) -> u64 {
        tally.of(service).expect("it is known").all_drop_warnings()
    }

    #[test]
    fn a_known_service_is_at_zero() {
        let mut tally = Tally::default();
        let service = Service::parse("imap-login").expect("a name");
        assert_eq!(tally.know(&service), service);
        assert_eq!(total(&tally, &service), 0);
        assert!(tally.of(&service).is_some_and(|tally| tally.last_drop_warning.is_none()));
    }

    #[test]
    fn warnings_tell_the_limit_until_the_configuration_is_read_again() {
        let mut tally = Tally::default();
        let service = Service::parse("imap-login").expect("a name");
        let warned = |process_limit, client_limit| Some(Warned { process_limit, client_limit });
        tally.count(&warning("imap-login", LimitKind::Process, 5), 1, Some(SystemTime::now()));
        assert_eq!(tally.warned.get(&service).copied(), warned(Some(5), None));
        tally.count(&Event::Reload, 1, Some(SystemTime::now()));
        assert_eq!(tally.warned.get(&service).copied(), None);
        tally.count(&warning("imap-login", LimitKind::Client, 10), 1, Some(SystemTime::now()));
        assert_eq!(tally.warned.get(&service).copied(), warned(Some(1), Some(10)));
        assert_eq!((total(&tally, &service), tally.reloads), (2, 1));
    }

    #[test]
    fn one_full_process_of_a_reuse_port_service_says_nothing_of_process_limit() {
        let mut tally = Tally::default();
        let service = Service::parse("imap-login").expect("a name");
        let limit = LimitKind::Client;
        let event = DropWarning { service: service.clone(), limit, number: Some(10), reuse_port: true };
        tally.count(&Event::DropWarning(event), 1, Some(SystemTime::now()));
        assert_eq!(tally.warned[&service], Warned { process_limit: None, client_limit: Some(10) });
    }

    #[test]
    fn services_beyond_the_bound_count_as_other() {
        let mut tally = Tally::default();
        for number in 0..1000 {
            tally.count(&warning(&format!("s{number}"), LimitKind::Process, 5), 1, Some(SystemTime::now()));
        }
        assert_eq!(tally.services().count(), MAX_SERVICES + 1);
        assert_eq!(total(&tally, &Service::other()), 1000 - MAX_SERVICES as u64);
        assert_eq!(tally.warned.get(&Service::other()), None);
    }

    /// What the master says of `log`, whose process has this pid, `anvil`, which it takes over, and `imap-login`.
    fn status((log, anvil): (u32, u32), starts: [u64; 3]) -> Status {
        let services = ["log", "anvil", "imap-login"].map(|name| Service::parse(name).expect("a name"));
        let status = |starts| ServiceStatus { starts: Some(starts), ..ServiceStatus::default() };
        let services = services.into_iter().zip(starts.map(status)).collect();
        Status { services, generation: Generation { log, anvil, ..Generation::default() } }
    }

    #[test]
    fn forks_add_up_across_lists_of_services() {
        let mut tally = Tally::default();
        let steps = [
            // As the master has it, whenever the exporter was started.
            (status((10, 5), [1, 1, 700]), [1, 1, 700]),
            (status((10, 5), [1, 1, 702]), [1, 1, 702]),
            // A reload, after which as many were started soon. Of anvil none was.
            (status((20, 5), [1, 1, 900]), [2, 1, 1602]),
            // The log process died, and another one was started.
            (status((21, 5), [2, 1, 900]), [3, 1, 1602]),
            // The master was started anew.
            (status((30, 6), [1, 1, 0]), [4, 2, 1602]),
            (status((30, 6), [1, 1, 3]), [4, 2, 1605]),
            // Nothing falls, even if no log process shows.
            (status((30, 6), [1, 1, 1]), [4, 2, 1606]),
        ];
        for (status, expected) in steps {
            assert!(tally.count_starts(&status));
            assert!(!tally.count_starts(&status), "the same again is nothing new");
            let total = |name| {
                let service = Service::parse(name).expect("a name");
                tally.of(&service).expect("it is known").starts.expect("it was told").total()
            };
            assert_eq!(["log", "anvil", "imap-login"].map(total), expected, "{status:?}");
        }
    }

    #[test]
    fn an_older_master_does_not_tell_of_forks() {
        let mut tally = Tally::default();
        let mut status = status((10, 5), [1, 1, 1]);
        status.services.values_mut().for_each(|service| service.starts = None);
        tally.count_starts(&status);
        assert!(tally.services().all(|(_, tally)| tally.starts.is_none()));
    }

    #[test]
    fn each_event_has_its_total() {
        let mut tally = Tally::default();
        let service = Service::parse("imap-login").expect("a name");
        tally.count(&Event::QueueFullKill(service.clone()), 3, Some(SystemTime::now()));
        tally.count(&Event::HandoverFailure(service.clone()), 1, Some(SystemTime::now()));
        tally.count(&Event::Failure(service.clone(), Failure::Throttled), 2, Some(SystemTime::now()));
        tally.count(&Event::UserConnectionLimit, 4, Some(SystemTime::now()));
        let found = tally.of(&service).expect("it is known").clone();
        assert_eq!((found.queue_full_kills, found.handover_failures), (3, 1));
        assert_eq!((found.failures[&Failure::Throttled], tally.user_connection_limit_rejections), (2, 4));
    }
}
