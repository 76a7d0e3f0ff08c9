//! One reading of everything, and the page of metrics it makes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use super::next::Next;
use crate::{
    limits::{self, Limit, LimitSource, Limits, Settings, Told},
    log::{grammar::Failure, state::LogState},
    master::{ServiceStatus, Status},
    metrics::{self, Metric, Page},
    processes::{own, sampler::Peaks, scan::Census},
    service::{LimitKind, Program, Service},
    tally::{ServiceTally, Tally},
};

/// What is known of Dovecot's configuration.
#[derive(Clone, Debug, Default)]
pub struct KnownLimits {
    /// What the running Dovecot has read, as far as that can be told.
    pub in_force: Option<Limits>,
    /// What was in force before the reload that the log told of last, if that has replaced it: it may fail yet.
    pub before_reload: Option<Limits>,
    /// What is on disk.
    pub configured: Option<Limits>,
    /// Why the configuration could not be read, or not all of it.
    pub trouble: Option<String>,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Dovecot's processes, or why they cannot be seen.
    pub census: Result<Census, String>,
    /// Each service, in alphabetical order.
    pub services: Vec<ServiceReading>,
    /// What else may run out.
    pub next: Next,
    /// What was counted; nothing while totals may be lower than those that an earlier run has shown.
    pub tally: Option<Tally>,
    /// What was counted is of the master's own lines only.
    pub only_master: bool,
    /// The sources of log lines.
    pub logs: Vec<LogState>,
    /// What is wrong with other sources.
    pub troubles: Troubles,
    /// How long the reading of `/proc` took.
    pub duration: Duration,
    /// Processes that scans left out, since the start.
    pub malformed: u64,
    /// Scans that failed, since the start.
    pub failed: u64,
}

/// What is wrong with what else is read and written.
#[derive(Clone, Debug)]
pub struct Troubles {
    /// Why `doveconf` last failed.
    pub limits: Option<String>,
    /// Why the state was not written; nothing if there is to be none.
    pub state: Option<Option<String>>,
    /// Why the master did not answer; nothing if it is never to be asked.
    pub master: Option<Option<String>>,
}

/// One service.
#[derive(Clone, Debug)]
pub struct ServiceReading {
    /// Its name.
    pub service: Service,
    /// Its processes, if they can be told.
    pub processes: Option<u64>,
    /// The most processes in the last minute, if they can be told.
    pub peak: Option<u64>,
    /// For how long it was found at its `process_limit`, if that is known.
    pub at_limit: Option<Duration>,
    /// Its settings in force.
    pub settings: Settings,
    /// Where its `process_limit` comes from.
    pub source: Option<LimitSource>,
    /// Its settings on disk.
    pub configured: Option<Settings>,
    /// What the master counts of it.
    pub status: Option<ServiceStatus>,
    /// Its client slots in use, if the master tells.
    pub connections: Option<u64>,
    /// Little of it is worth a series: it lets nobody log in, nor serves who has, and nothing ever happened to it.
    /// Dovecot has a score of such services.
    pub quiet: bool,
}

/// The limits in force, as far as anything tells.
pub fn limits(known: &KnownLimits) -> (Cow<'_, Limits>, LimitSource) {
    match &known.in_force {
        Some(limits) => (Cow::Borrowed(limits), limits.source),
        None => (Cow::Owned(limits::defaults::limits()), LimitSource::Default),
    }
}

/// The processes of each service that runs a program alone. From now on `tally` has series for all of them.
pub fn processes(
    programs: &BTreeMap<Program, u64>,
    limits: &Limits,
    tally: &mut Tally,
) -> BTreeMap<Service, u64> {
    let mut processes = BTreeMap::new();
    for (program, count) in programs {
        if let Some(service) = limits.service_of(program) {
            *processes.entry(tally.see(&service)).or_default() += count;
        }
    }
    processes
}

/// The limits that the master told.
pub fn told(status: Option<&ServiceStatus>) -> Told {
    status.map_or_else(Told::default, |status| Told {
        process_limit: Limit::of_master(status.process_limit),
        client_limit: Limit::of_master(status.client_limit),
    })
}

/// Puts together what is known of each service. From now on `tally` has series for all of them.
pub fn services(
    census: &Result<Census, String>,
    status: Option<&Status>,
    known: &KnownLimits,
    flags: &BTreeMap<Service, u32>,
    tally: &mut Tally,
    peaks: &mut Peaks,
) -> Vec<ServiceReading> {
    let limits = limits(known);
    let limits = (&*limits.0, limits.1);
    let processes =
        census.as_ref().map(|census| processes(&census.programs, limits.0, tally)).unwrap_or_default();
    if census.is_ok() {
        peaks.note(Instant::now(), processes.clone());
    }
    let configured = known.configured.iter().flat_map(|limits| limits.services.keys());
    let counted = status.iter().flat_map(|status| status.services.keys());
    for service in limits.0.services.keys().chain(configured).chain(counted).chain(flags.keys()) {
        tally.know(service);
    }
    let logins: BTreeSet<&str> =
        tally.services().filter_map(|(service, _)| service.as_str().strip_suffix("-login")).collect();
    let reading = |(service, counted): (&Service, &ServiceTally)| {
        let name = service.as_str();
        let of_users = name.ends_with("-login") || logins.contains(name) || ["auth", "anvil"].contains(&name);
        let asked_for = flags.contains_key(service);
        let warned = tally.warned.get(service);
        let status = status.and_then(|status| status.services.get(service).copied());
        let status = status.filter(|_| *service != Service::other());
        let flag = flags.get(service).copied();
        let (settings, source) = limits::in_force(service, limits, warned, told(status.as_ref()), flag);
        let program = settings.program.as_ref();
        let alone = program.is_none_or(|program| limits.0.service_of(program).is_some());
        let none = (census.is_ok() && alone && *service != Service::other()).then_some(0);
        let processes = processes.get(service).copied().or(none);
        ServiceReading {
            service: service.clone(),
            processes,
            peak: processes.map(|_| peaks.of(service)),
            // One process of one is at its limit always, and that says nothing.
            at_limit: processes
                .and(settings.process_limit)
                .filter(|limit| *limit != Limit::Of(1))
                .map(|_| peaks.at_limit(service)),
            settings,
            source,
            configured: known.configured.as_ref().and_then(|limits| limits.services.get(service).cloned()),
            status,
            connections: status.map(|status| status.connections),
            quiet: counted.is_idle() && !of_users && !asked_for,
        }
    };
    tally.services().map(reading).collect()
}

impl Reading {
    /// The state of each kind of source that there is: its name, and what is wrong with it.
    pub fn sources(&self) -> Vec<(&'static str, Option<&str>)> {
        let mut sources = vec![("procfs", self.census.as_ref().err().map(String::as_str))];
        let none = self.logs.is_empty().then_some("no log has been looked at yet");
        for source in ["log", "journal"] {
            let mut logs = self.logs.iter().filter(|log| log.source() == source).peekable();
            if logs.peek().is_some() || none.is_some() && source == "log" {
                sources.push((source, logs.find_map(|log| log.trouble.as_deref()).or(none)));
            }
        }
        sources.push(("limits", self.troubles.limits.as_deref()));
        sources.extend(self.troubles.master.as_ref().map(|trouble| ("master", trouble.as_deref())));
        sources.extend(self.troubles.state.as_ref().map(|trouble| ("state", trouble.as_deref())));
        sources
    }

    /// Every sample there is.
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        let answered = self.troubles.master.as_ref().is_some_and(Option::is_none).then_some(true);
        let up = self.census.as_ref().ok().map(|census| census.master.is_some()).or(answered);
        page.add_known(&metrics::MASTER_UP, &[], up.map(truth));
        for service in &self.services {
            add_service(&mut page, service);
        }
        let quiet: BTreeSet<&Service> =
            self.services.iter().filter(|service| service.quiet).map(|service| &service.service).collect();
        self.next.add_to(&mut page, &quiet);
        if let Some(tally) = &self.tally {
            add_tally(&mut page, tally, &quiet, self.only_master);
        }
        page.add(&metrics::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        for (source, trouble) in self.sources() {
            page.add(&metrics::SOURCE_UP, &[source], truth(trouble.is_none()));
        }
        page.add(&metrics::SCRAPE_DURATION, &[], self.duration.as_secs_f64());
        page.add(&metrics::SCAN_ERRORS, &["malformed"], whole(self.malformed));
        page.add(&metrics::SCAN_ERRORS, &["down"], whole(self.failed));
        for log in &self.logs {
            add_log(&mut page, log);
        }
        add_own(&mut page);
        page
    }
}

fn add_service(page: &mut Page, reading: &ServiceReading) {
    let service = [reading.service.as_str()];
    let settings = &reading.settings;
    page.add_known(&metrics::SERVICE_PROCESSES, &service, reading.processes.map(whole));
    page.add_known(&metrics::SERVICE_PROCESS_LIMIT, &service, settings.process_limit.map(Limit::value));
    page.add_known(&metrics::SERVICE_CLIENT_LIMIT, &service, settings.client_limit.map(Limit::value));
    if reading.quiet {
        return;
    }
    let configured = reading.configured.as_ref().and_then(|settings| settings.process_limit);
    let status = reading.status;
    let values: [(&'static Metric, Option<f64>); 9] = [
        (&metrics::SERVICE_PROCESS_LIMIT_CONFIGURED, configured.map(Limit::value)),
        (&metrics::SERVICE_CONNECTION_CAPACITY, settings.connection_capacity()),
        (&metrics::SERVICE_PROCESS_MIN_AVAIL, settings.process_min_avail.map(Into::into)),
        (&metrics::SERVICE_RESTART_REQUEST_LIMIT, settings.restart_request_count.map(Limit::value)),
        (&metrics::SERVICE_VSZ_LIMIT, settings.vsz_limit.map(Limit::bytes)),
        (&metrics::SERVICE_PROCESSES_COUNTED, status.map(|status| status.processes.into())),
        (&metrics::SERVICE_PROCESSES_AVAILABLE, status.map(|status| status.available.into())),
        (&metrics::SERVICE_CONNECTIONS, reading.connections.map(whole)),
        (&metrics::SERVICE_LISTEN_PAUSED, status.map(|status| truth(status.listen_paused))),
    ];
    for (metric, value) in values {
        page.add_known(metric, &service, value);
    }
    page.add_known(&metrics::SERVICE_PROCESSES_PEAK, &[service[0], "1m"], reading.peak.map(whole));
    let at_limit = reading.at_limit.map(|time| time.as_secs_f64());
    page.add_known(&metrics::SERVICE_AT_PROCESS_LIMIT_SECONDS, &service, at_limit);
    if let Some(source) = reading.source {
        page.add(&metrics::LIMIT_SOURCE_INFO, &[reading.service.as_str(), source.as_str()], 1.0);
    }
}

fn add_tally(page: &mut Page, tally: &Tally, quiet: &BTreeSet<&Service>, only_master: bool) {
    let services: Vec<(&Service, &ServiceTally)> = tally.services().collect();
    for (service, tally) in &services {
        let is_quiet = quiet.contains(service);
        let service = service.as_str();
        for limit in LimitKind::ALL {
            let count = tally.drop_warnings.get(&limit).copied().unwrap_or_default();
            page.add(&metrics::SERVICE_DROP_WARNINGS, &[service, limit.as_str()], whole(count));
        }
        if is_quiet {
            continue;
        }
        page.add_known(
            &metrics::SERVICE_PROCESS_STARTS,
            &[service],
            tally.starts.map(|starts| whole(starts.total())),
        );
        page.add_known(
            &metrics::SERVICE_LAST_DROP_WARNING,
            &[service],
            tally.last_drop_warning.map(since_1970),
        );
        for failure in Failure::ALL {
            // Of what a process died is told under the process's name.
            if !(only_master && failure == Failure::OutOfMemory) {
                let count = tally.failures.get(&failure).copied().unwrap_or_default();
                page.add(&metrics::SERVICE_FAILURES, &[service, failure.as_str()], whole(count));
            }
        }
        if only_master {
            continue;
        }
        // Only login processes close connections to make room.
        if service.ends_with("-login") || tally.queue_full_kills > 0 {
            page.add(&metrics::SERVICE_QUEUE_FULL_KILLS, &[service], whole(tally.queue_full_kills));
        }
        // And hand their clients over to the service they log in to.
        let login =
            |(other, _): &(&Service, &ServiceTally)| other.as_str().strip_suffix("-login") == Some(service);
        if services.iter().any(login) || tally.handover_failures > 0 {
            page.add(&metrics::SERVICE_HANDOVER_FAILURES, &[service], whole(tally.handover_failures));
        }
    }
    let rejections = tally.user_connection_limit_rejections;
    page.add_known(
        &metrics::USER_CONNECTION_LIMIT_REJECTIONS,
        &[],
        (!only_master).then_some(whole(rejections)),
    );
    page.add(&metrics::MASTER_RELOADS, &[], whole(tally.reloads));
}

fn add_log(page: &mut Page, log: &LogState) {
    let counts = &log.counts;
    let values: [(&'static Metric, u64); 7] = [
        (&metrics::LOG_LINES, counts.lines),
        (&metrics::LOG_BYTES, counts.bytes),
        (&metrics::LOG_ROTATIONS, counts.rotations),
        (&metrics::LOG_TRUNCATIONS, counts.truncations),
        (&metrics::LOG_OVERSIZED_LINES, counts.oversized_lines),
        (&metrics::LOG_READ_ERRORS, counts.read_errors),
        (&metrics::LOG_UNANCHORED_WARNINGS, counts.unanchored_warnings),
    ];
    for (metric, value) in values {
        page.add(metric, &[&log.log], whole(value));
    }
    if let Some(progress) = log.progress {
        let there = progress.files > 0;
        page.add_known(&metrics::LOG_POSITION, &[&log.log], there.then_some(whole(progress.position)));
        page.add_known(&metrics::LOG_SIZE, &[&log.log], there.then_some(whole(progress.size)));
        page.add(&metrics::LOG_FILES, &[&log.log], whole(progress.files));
    }
    page.add_known(&metrics::LOG_LAST_READ, &[&log.log], log.last_read.map(since_1970));
}

/// Without `/proc/self` these are simply not known.
fn add_own(page: &mut Page) {
    let Ok(own) = own::read() else { return };
    page.add(&metrics::PROCESS_CPU, &[], own.cpu_seconds);
    page.add(&metrics::PROCESS_RESIDENT_MEMORY, &[], whole(own.resident_bytes));
    page.add(&metrics::PROCESS_VIRTUAL_MEMORY, &[], whole(own.virtual_bytes));
    page.add(&metrics::PROCESS_OPEN_FDS, &[], whole(own.open_fds));
    page.add_known(&metrics::PROCESS_MAX_FDS, &[], own.max_fds.map(whole));
    page.add(&metrics::PROCESS_THREADS, &[], whole(own.threads));
    page.add(&metrics::PROCESS_START_TIME, &[], own.start_time_seconds);
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has nothing else, and 2^52 is far")]
pub(super) fn whole(number: u64) -> f64 {
    number as f64
}

fn truth(truth: bool) -> f64 {
    if truth { 1.0 } else { 0.0 }
}

/// A clock before 1970 is as wrong as 0.
fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
