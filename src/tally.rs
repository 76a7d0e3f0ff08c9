//! What is counted as it happens: events of the log to totals.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use crate::{
    limits::Warned,
    log::grammar::{DropWarning, Event},
    service::{LimitKind, MAX_SERVICES, Service},
};

/// Totals since the exporter started; none ever falls.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Services that have series: they keep them, at 0 if nothing happens.
    services: BTreeSet<Service>,
    /// Warning lines, by service and by the limit they name.
    pub drop_warnings: BTreeMap<(Service, LimitKind), u64>,
    /// When the newest of a service was read.
    pub last_drop_warning: BTreeMap<Service, SystemTime>,
    /// The limits that warnings named since the master read its configuration.
    pub warned: BTreeMap<Service, Warned>,
    /// Times the master said that it reloads its configuration.
    pub reloads: u64,
}

impl Tally {
    /// Makes sure that `service` has series, and returns the name under which it has: its own, or
    /// [`Service::other`] if there are too many already.
    pub fn know(&mut self, service: &Service) -> Service {
        if self.services.contains(service) {
            return service.clone();
        }
        let known = if self.services.len() < MAX_SERVICES { service.clone() } else { Service::other() };
        for limit in LimitKind::ALL {
            self.drop_warnings.entry((known.clone(), limit)).or_default();
        }
        self.services.insert(known.clone());
        known
    }

    /// The services that have series.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter()
    }

    /// Counts `event`, which was read at `time`.
    pub fn count(&mut self, event: &Event, time: SystemTime) {
        match event {
            Event::DropWarning(warning) => self.count_warning(warning, time),
            Event::Reload => {
                self.reloads += 1;
                self.warned.clear();
            }
        }
    }

    fn count_warning(&mut self, warning: &DropWarning, time: SystemTime) {
        let service = self.know(&warning.service);
        *self.drop_warnings.entry((service.clone(), warning.limit)).or_default() += 1;
        self.last_drop_warning.insert(service.clone(), time);
        if service == Service::other() {
            // It may stand for several services.
            return;
        }
        let warned = self.warned.entry(service).or_default();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(service: &str, limit: LimitKind, number: u32) -> Event {
        let service = Service::parse(service).expect("a name");
        Event::DropWarning(DropWarning { service, limit, number: Some(number), reuse_port: false })
    }

    fn total(tally: &Tally, service: &Service) -> u64 {
        LimitKind::ALL.iter().map(|limit| tally.drop_warnings[&(service.clone(), *limit)]).sum()
    }

    #[test]
    fn a_known_service_is_at_zero_for_both_limits() {
        let mut tally = Tally::default();
        let service = Service::parse("imap-login").expect("a name");
        assert_eq!(tally.know(&service), service);
        assert_eq!(tally.drop_warnings.len(), 2);
        assert_eq!(total(&tally, &service), 0);
        assert!(tally.last_drop_warning.is_empty());
    }

    #[test]
    fn warnings_tell_the_limit_until_the_configuration_is_read_again() {
        let mut tally = Tally::default();
        let service = Service::parse("imap-login").expect("a name");
        let warned = |process_limit, client_limit| Some(Warned { process_limit, client_limit });
        tally.count(&warning("imap-login", LimitKind::Process, 5), SystemTime::now());
        assert_eq!(tally.warned.get(&service).copied(), warned(Some(5), None));
        tally.count(&Event::Reload, SystemTime::now());
        assert_eq!(tally.warned.get(&service).copied(), None);
        tally.count(&warning("imap-login", LimitKind::Client, 10), SystemTime::now());
        assert_eq!(tally.warned.get(&service).copied(), warned(Some(1), Some(10)));
        assert_eq!((total(&tally, &service), tally.reloads), (2, 1));
    }

    #[test]
    fn one_full_process_of_a_reuse_port_service_says_nothing_of_process_limit() {
        let mut tally = Tally::default();
        let service = Service::parse("imap-login").expect("a name");
        let limit = LimitKind::Client;
        let event = DropWarning { service: service.clone(), limit, number: Some(10), reuse_port: true };
        tally.count(&Event::DropWarning(event), SystemTime::now());
        assert_eq!(tally.warned[&service], Warned { process_limit: None, client_limit: Some(10) });
    }

    #[test]
    fn services_beyond_the_bound_count_as_other() {
        let mut tally = Tally::default();
        for number in 0..1000 {
            tally.count(&warning(&format!("s{number}"), LimitKind::Process, 5), SystemTime::now());
        }
        assert_eq!(tally.services().count(), MAX_SERVICES + 1);
        assert_eq!(total(&tally, &Service::other()), 1000 - MAX_SERVICES as u64);
        assert_eq!(tally.warned.get(&Service::other()), None);
    }
}
