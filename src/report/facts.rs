//! What is known of Dovecot, from the samples of one page: of this host, or of a running exporter.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    metrics::{self, CATALOGUE, Kind, Metric, Page},
    service::Service,
};

/// Given work by a process that waits until they have room: at their limit they are busy, and nobody is turned away.
pub const WAITED_FOR: [&str; 2] = ["auth-worker", "indexer-worker"];

/// Counted in logs: while one cannot be read, that there were none is not known.
const LOGGED: [&Metric; 6] = [
    &metrics::SERVICE_DROP_WARNINGS,
    &metrics::SERVICE_QUEUE_FULL_KILLS,
    &metrics::SERVICE_HANDOVER_FAILURES,
    &metrics::SERVICE_FAILURES,
    &metrics::USER_CONNECTION_LIMIT_REJECTIONS,
    &metrics::MASTER_RELOADS,
];

/// Settings that stand in for others where the configuration cannot be read.
const BUILT_IN: [&Metric; 6] = [
    &metrics::SERVICE_PROCESS_LIMIT,
    &metrics::SERVICE_CLIENT_LIMIT,
    &metrics::SERVICE_CONNECTION_CAPACITY,
    &metrics::SERVICE_PROCESS_MIN_AVAIL,
    &metrics::SERVICE_RESTART_REQUEST_LIMIT,
    &metrics::SERVICE_VSZ_LIMIT,
];

/// One page.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Every service there is, in alphabetical order.
    pub services: Vec<ServiceFacts>,
    /// Sources that cannot be read, by the label `source`.
    pub down: BTreeSet<String>,
    /// The logs that warnings are counted in.
    pub logs: Vec<String>,
    /// The version of the exporter.
    pub version: Option<String>,
    /// Whether an exporter keeps its counters in a file.
    pub has_state: bool,
    values: Values,
}

/// One service.
#[derive(Clone, Debug)]
pub struct ServiceFacts {
    /// Its name.
    pub service: Service,
    /// Whether its `process_limit` is by `--dovecot.process-limit`, and so meant to differ from that on disk.
    pub limit_is_flag: bool,
    /// Whether its limits are Dovecot's defaults, since nobody tells its own.
    pub limit_is_default: bool,
    values: Values,
}

/// Values by the metric's name: sums of those that differ in other labels than `service`.
type Values = BTreeMap<&'static str, f64>;

/// Whether processes serve one client each, or many.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// A process for each client.
    HighSecurity,
    /// Processes that live on and serve many clients at a time.
    Performance,
}

impl Mode {
    /// Dovecot's own name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HighSecurity => "high-security",
            Self::Performance => "performance",
        }
    }
}

impl Facts {
    /// What `page` tells.
    pub fn of(page: &Page) -> Self {
        let mut facts = Self::default();
        let mut services: BTreeMap<Service, ServiceFacts> = BTreeMap::new();
        for metric in CATALOGUE.into_iter().filter(|metric| metric.kind != Kind::Info) {
            for (labels, value) in page.of(metric) {
                let values = match metric.labels.first() {
                    None => &mut facts.values,
                    Some(&"service") => {
                        let Some(service) = Service::parse(&labels[0]) else { continue };
                        let new = ServiceFacts::new(service.clone());
                        &mut services.entry(service).or_insert(new).values
                    }
                    Some(_) => continue,
                };
                *values.entry(metric.name).or_insert(0.0) += value;
            }
        }
        let sources = || page.of(&metrics::LIMIT_SOURCE_INFO).map(|(labels, _)| labels);
        let any = |source: &str| sources().any(|labels| labels[1] == source);
        // Of services that nothing happened to a page does not say it. The master tells all.
        let otherwise = any("default") && !any("master");
        for (name, service) in &mut services {
            let of = sources().find(|labels| labels[0] == name.as_str()).map(|labels| labels[1].as_str());
            service.limit_is_flag = of == Some("flag");
            service.limit_is_default = of.map_or(otherwise, |source| source == "default");
        }
        for (labels, up) in page.of(&metrics::SOURCE_UP) {
            facts.has_state |= labels[0] == "state";
            if up == 0.0 {
                facts.down.insert(labels[0].clone());
            }
        }
        facts.logs = page.of(&metrics::LOG_LINES).map(|(labels, _)| labels[0].clone()).collect();
        facts.version = page.of(&metrics::BUILD_INFO).map(|(labels, _)| labels[0].clone()).next();
        facts.services = services.into_values().collect();
        if facts.log_is_down() {
            let known = |name: &&'static str, value: &mut f64| {
                *value > 0.0 || !LOGGED.iter().any(|metric| metric.name == *name)
            };
            facts.values.retain(known);
            facts.services.iter_mut().for_each(|service| service.values.retain(known));
        }
        facts
    }

    /// Whether a log cannot be read.
    pub fn log_is_down(&self) -> bool {
        ["log", "journal"].iter().any(|source| self.down.contains(*source))
    }

    /// All metrics without labels, by name.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.values.iter().map(|(name, value)| (*name, *value))
    }

    /// The value of a metric without labels.
    pub fn value(&self, metric: &'static Metric) -> Option<f64> {
        self.values.get(metric.name).copied()
    }

    /// Takes what is known of this metric for not known.
    pub fn forget(&mut self, metric: &Metric) {
        for service in &mut self.services {
            service.values.remove(metric.name);
        }
    }

    /// Takes limits that are Dovecot's defaults for not known: nobody knows whether they are in force.
    pub fn forget_defaults(&mut self) {
        for service in self.services.iter_mut().filter(|service| service.limit_is_default) {
            service.values.retain(|name, _| !BUILT_IN.iter().any(|metric| metric.name == *name));
        }
    }

    /// Keeps one service only; the error is a sentence that says which there are.
    pub fn only(&mut self, wanted: &Service) -> Result<(), String> {
        let names: Vec<&str> = self.services.iter().map(|facts| facts.service.as_str()).collect();
        if !names.contains(&wanted.as_str()) {
            return Err(format!("Dovecot has no service {wanted}: give one of {}", names.join(", ")));
        }
        self.services.retain(|facts| facts.service == *wanted);
        Ok(())
    }
}

impl ServiceFacts {
    fn new(service: Service) -> Self {
        Self { service, limit_is_flag: false, limit_is_default: false, values: Values::new() }
    }

    /// The value of a metric, if it is known.
    pub fn value(&self, metric: &'static Metric) -> Option<f64> {
        debug_assert_eq!(metric.labels.first(), Some(&"service"), "{}", metric.name);
        self.values.get(metric.name).copied()
    }

    /// All that are known, by the metric's name.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.values.iter().map(|(name, value)| (*name, *value))
    }

    /// Whether it is the one through which clients come in.
    pub fn is_login(&self) -> bool {
        self.service.as_str().ends_with("-login")
    }

    /// The mode of a login service.
    pub fn mode(&self) -> Option<Mode> {
        let clients = self.value(&metrics::SERVICE_CLIENT_LIMIT)?;
        let count = self.value(&metrics::SERVICE_RESTART_REQUEST_LIMIT)?;
        match self.is_login() {
            true if is_one(clients) && is_one(count) => Some(Mode::HighSecurity),
            true if clients > 1.0 && count.is_infinite() => Some(Mode::Performance),
            _ => None,
        }
    }

    /// Clients that are served now, as `instance_service:dovecot_service_clients:in_use` of the alerting rules has it.
    pub fn in_use(&self) -> Option<f64> {
        self.value(&metrics::SERVICE_CONNECTIONS).filter(|number| number.is_finite()).or_else(|| {
            // client_limit is 1, too, then.
            self.value(&metrics::SERVICE_RESTART_REQUEST_LIMIT).filter(|count| is_one(*count))?;
            let limit = self.value(&metrics::SERVICE_PROCESS_LIMIT)?;
            // More of them are of two configurations.
            let processes =
                self.value(&metrics::SERVICE_PROCESSES).filter(|processes| *processes <= limit)?;
            Some((processes - self.value(&metrics::SERVICE_PROCESS_MIN_AVAIL)?).max(0.0))
        })
    }

    /// Clients that can be served at a time, where that says how near the limit is: as
    /// `instance_service:dovecot_service_clients:capacity` of the alerting rules has it.
    pub fn capacity(&self) -> Option<f64> {
        let capacity = self.value(&metrics::SERVICE_CONNECTION_CAPACITY)?;
        (capacity > 1.0 && !WAITED_FOR.contains(&self.service.as_str())).then_some(capacity)
    }

    /// Whether one client is all that it can take.
    pub fn takes_one(&self) -> bool {
        let limit = |metric| self.value(metric).is_some_and(is_one);
        limit(&metrics::SERVICE_PROCESS_LIMIT) && limit(&metrics::SERVICE_CLIENT_LIMIT)
    }

    /// Why it is no shortage that all of it is in use, if that is so.
    pub fn never_short(&self) -> Option<&'static str> {
        if WAITED_FOR.contains(&self.service.as_str()) {
            Some("is given work by processes that wait for it, and turns nobody away")
        } else if self.takes_one() && !self.is_login() {
            Some("is made for one client at a time, and it is no shortage if it has one")
        } else {
            None
        }
    }

    /// The part of the capacity that is in use.
    pub fn share(&self) -> Option<f64> {
        Some(self.in_use()? / self.capacity()?)
    }

    /// Processes in `/proc`, or else by the master's count.
    pub fn processes(&self) -> Option<f64> {
        self.value(&metrics::SERVICE_PROCESSES).or_else(|| self.value(&metrics::SERVICE_PROCESSES_COUNTED))
    }

    /// Drop warnings.
    pub fn warnings(&self) -> f64 {
        self.value(&metrics::SERVICE_DROP_WARNINGS).unwrap_or_default()
    }

    /// Whether it has processes, or did something else that matters.
    pub fn is_active(&self) -> bool {
        let signs = [
            &metrics::SERVICE_PROCESSES,
            &metrics::SERVICE_PROCESSES_COUNTED,
            &metrics::SERVICE_CONNECTIONS,
            &metrics::SERVICE_QUEUE_FULL_KILLS,
            &metrics::SERVICE_HANDOVER_FAILURES,
            &metrics::SERVICE_FAILURES,
            &metrics::SERVICE_DROP_WARNINGS,
        ];
        let any = |metric: &&'static Metric| self.value(metric).is_some_and(|count| count > 0.0);
        signs.iter().any(any)
    }
}

fn is_one(number: f64) -> bool {
    (number - 1.0).abs() < f64::EPSILON
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `imap-login` with these settings and numbers.
    fn service(values: &[(&'static Metric, f64)]) -> ServiceFacts {
        let mut page = Page::default();
        for (metric, value) in values {
            page.add(metric, &["imap-login"], *value);
        }
        Facts::of(&page).services.remove(0)
    }

    const HIGH_SECURITY: [(&Metric, f64); 5] = [
        (&metrics::SERVICE_PROCESS_LIMIT, 100.0),
        (&metrics::SERVICE_CLIENT_LIMIT, 1.0),
        (&metrics::SERVICE_RESTART_REQUEST_LIMIT, 1.0),
        (&metrics::SERVICE_PROCESS_MIN_AVAIL, 2.0),
        (&metrics::SERVICE_CONNECTION_CAPACITY, 100.0),
    ];

    #[test]
    fn load_is_what_the_alerting_rules_take_for_it() {
        let with = |more: &[(&'static Metric, f64)]| service(&[&HIGH_SECURITY[..], more].concat());
        let busy = with(&[(&metrics::SERVICE_PROCESSES, 82.0)]);
        assert_eq!((busy.in_use(), busy.share()), (Some(80.0), Some(0.8)));
        assert_eq!(with(&[(&metrics::SERVICE_PROCESSES, 1.0)]).in_use(), Some(0.0));
        // The master knows better.
        let told = with(&[(&metrics::SERVICE_PROCESSES, 82.0), (&metrics::SERVICE_CONNECTIONS, 81.0)]);
        assert_eq!(told.in_use(), Some(81.0));
        // Some are of an older configuration.
        assert_eq!(with(&[(&metrics::SERVICE_PROCESSES, 101.0)]).in_use(), None);
        // Clients share processes.
        let shared =
            [(&metrics::SERVICE_PROCESSES, 1.0), (&metrics::SERVICE_RESTART_REQUEST_LIMIT, f64::INFINITY)];
        assert_eq!(service(&[&HIGH_SECURITY[..2], &HIGH_SECURITY[3..], &shared].concat()).in_use(), None);
        // One client where one is allowed is no shortage.
        assert_eq!(service(&[(&metrics::SERVICE_CONNECTION_CAPACITY, 1.0)]).capacity(), None);
        let mut page = Page::default();
        page.add(&metrics::SERVICE_CONNECTION_CAPACITY, &["auth-worker"], 30.0);
        assert_eq!(Facts::of(&page).services[0].capacity(), None);
    }

    #[test]
    fn modes() {
        for (client_limit, count, mode) in [
            (1.0, 1.0, Some(Mode::HighSecurity)),
            (1000.0, f64::INFINITY, Some(Mode::Performance)),
            (1.0, f64::INFINITY, None),
            (4.0, 4.0, None),
        ] {
            let values = [
                (&metrics::SERVICE_CLIENT_LIMIT, client_limit),
                (&metrics::SERVICE_RESTART_REQUEST_LIMIT, count),
            ];
            assert_eq!(service(&values).mode(), mode, "{client_limit} {count}");
        }
        let mut page = Page::default();
        page.add(&metrics::SERVICE_CLIENT_LIMIT, &["imap"], 1.0);
        page.add(&metrics::SERVICE_RESTART_REQUEST_LIMIT, &["imap"], 1.0);
        assert_eq!(Facts::of(&page).services[0].mode(), None);
    }

    #[test]
    fn defaults_are_nobodys_limits() {
        for (sources, by_default) in [
            (&[("imap-login", "default")][..], [true, true]),
            (&[("imap-login", "warning")], [false, false]),
            (&[("auth", "default"), ("imap-login", "flag")], [false, true]),
            // It has told those of all that run; the other may be none.
            (&[("auth", "default"), ("imap-login", "master")], [false, false]),
        ] {
            let mut page = Page::default();
            for service in ["imap-login", "quiet"] {
                page.add(&metrics::SERVICE_PROCESS_LIMIT, &[service], 100.0);
            }
            for (service, source) in sources {
                page.add(&metrics::LIMIT_SOURCE_INFO, &[service, source], 1.0);
            }
            let mut facts = Facts::of(&page);
            facts.forget_defaults();
            for (service, by_default) in facts.services.iter().zip(by_default) {
                let limit = service.value(&metrics::SERVICE_PROCESS_LIMIT);
                assert_eq!((service.limit_is_default, limit.is_none()), (by_default, by_default));
            }
        }
    }

    #[test]
    fn ports_and_kinds_of_warnings_add_up() {
        let mut page = Page::default();
        for (port, clients) in [("143", 3.0), ("993", 4.0)] {
            page.add(&metrics::LISTENER_QUEUE_CONNECTIONS, &["imap-login", port], clients);
            page.add(&metrics::SERVICE_DROP_WARNINGS, &["imap-login", port], 2.0 * clients);
        }
        page.add(&metrics::SERVICE_PROCESSES, &["no name\u{1b}"], 1.0);
        page.add(&metrics::SOURCE_UP, &["procfs"], 1.0);
        page.add(&metrics::SOURCE_UP, &["log"], 0.0);
        page.add(&metrics::LIMIT_SOURCE_INFO, &["imap-login", "flag"], 1.0);
        page.add(&metrics::CGROUP_TASKS, &[], 7.0);
        page.add(&metrics::SERVICE_FAILURES, &["imap-login", "fork"], 0.0);
        page.add(&metrics::MASTER_RELOADS, &[], 0.0);
        let mut facts = Facts::of(&page);
        assert_eq!(facts.services.len(), 1);
        let service = &facts.services[0];
        assert_eq!(service.value(&metrics::LISTENER_QUEUE_CONNECTIONS), Some(7.0));
        assert_eq!((service.warnings(), service.limit_is_flag, service.is_active()), (14.0, true, true));
        assert_eq!(facts.down, BTreeSet::from(["log".to_owned()]));
        assert_eq!(facts.value(&metrics::CGROUP_TASKS), Some(7.0));
        // Nobody knows what else is in the log.
        assert_eq!(
            (service.value(&metrics::SERVICE_FAILURES), facts.value(&metrics::MASTER_RELOADS)),
            (None, None)
        );
        let imap = Service::parse("imap").expect("a name");
        assert_eq!(facts.only(&imap), Err("Dovecot has no service imap: give one of imap-login".to_owned()));
        facts.only(&Service::parse("imap-login").expect("a name")).expect("it is there");
    }
}
