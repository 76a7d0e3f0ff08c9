//! The catalogue: every metric's name, kind, labels and meaning, and how a page of them is written.

use std::fmt::{self, Write};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

/// What a metric's values do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only rises while the exporter runs.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Is 1; its labels are what it tells.
    Info,
}

/// One entry of the catalogue.
#[derive(Debug, Eq, PartialEq)]
pub struct Metric {
    /// As Prometheus stores it.
    pub name: &'static str,
    /// What its values do.
    pub kind: Kind,
    /// The names of its labels, in the order in which a sample gives their values.
    pub labels: &'static [&'static str],
    /// What it is, its source and when it is absent. Ends in a full stop.
    pub help: &'static str,
}

impl Metric {
    /// Name and unit as OpenMetrics has them: without the suffix of a counter or an info metric.
    fn family(&self) -> (&'static str, Option<Unit>) {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge => "",
            Kind::Info => "_info",
        };
        let name = self.name.strip_suffix(suffix).unwrap_or(self.name);
        let with =
            |unit: Unit| name.strip_suffix(unit.as_str())?.strip_suffix('_').map(|name| (name, Some(unit)));
        with(Unit::Seconds).or_else(|| with(Unit::Bytes)).unwrap_or((name, None))
    }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn info(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Info, labels, help }
}

/// Whether the watched Dovecot runs.
pub static MASTER_UP: Metric = gauge(
    "dovecot_master_up",
    &[],
    "1 if the master process of the watched Dovecot runs, 0 if none runs. Absent while /proc does not tell.",
);
/// Processes of a service.
pub static SERVICE_PROCESSES: Metric = gauge(
    "dovecot_service_processes",
    &["service"],
    "Processes in /proc that run the service's executable under the Dovecot master, those of an earlier configuration included: after a reload there may be more than process_limit. In performance mode this number says nothing about load. Absent while /proc does not tell, and where several services run one executable (dict and dict-async, for instance).",
);
/// The limit in force.
pub static SERVICE_PROCESS_LIMIT: Metric = gauge(
    "dovecot_service_process_limit",
    &["service"],
    "Most processes the running Dovecot starts for the service; +Inf if unlimited. From the best source there is, see dovecot_exporter_limit_source_info; a changed configuration counts from the reload on.",
);
/// The limit on disk.
pub static SERVICE_PROCESS_LIMIT_CONFIGURED: Metric = gauge(
    "dovecot_service_process_limit_configured",
    &["service"],
    "process_limit as doveconf reads it from the configuration on disk. Differs from dovecot_service_process_limit until Dovecot is reloaded. Absent while doveconf does not tell.",
);
/// Connections of one process.
pub static SERVICE_CLIENT_LIMIT: Metric = gauge(
    "dovecot_service_client_limit",
    &["service"],
    "Most connections that one process of the service takes at a time: client_limit or restart_request_count (service_count before 2.4), whichever is smaller, as the running Dovecot reckons; +Inf if unlimited.",
);
/// Connections of all processes.
pub static SERVICE_CONNECTION_CAPACITY: Metric = gauge(
    "dovecot_service_connection_capacity",
    &["service"],
    "Connections that the service takes at a time: dovecot_service_process_limit times dovecot_service_client_limit.",
);
/// Spare processes.
pub static SERVICE_PROCESS_MIN_AVAIL: Metric = gauge(
    "dovecot_service_process_min_avail",
    &["service"],
    "Processes that Dovecot keeps ready for new clients.",
);
/// Connections in the life of a process.
pub static SERVICE_RESTART_REQUEST_LIMIT: Metric = gauge(
    "dovecot_service_restart_request_limit",
    &["service"],
    "Connections after which a process of the service ends; service_count before 2.4. 1 is high-security mode (a process per connection), +Inf is unlimited, as performance mode has it.",
);
/// Warning lines.
pub static SERVICE_DROP_WARNINGS: Metric = counter(
    "dovecot_service_drop_warnings_total",
    &["service", "limit"],
    "Lines in Dovecot's log that say a limit was reached and client connections are being dropped. Not a number of dropped connections: Dovecot logs at most one a second and about one in ten seconds while it is stuck, and each may stand for no dropped client or for hundreds. The label limit is what the line names, also where the clients of the last process are what is full.",
);
/// Newest warning.
pub static SERVICE_LAST_DROP_WARNING: Metric = gauge(
    "dovecot_service_last_drop_warning_timestamp_seconds",
    &["service"],
    "When the exporter read the newest drop warning, in seconds since 1970. Absent before the first.",
);
/// Reloads.
pub static MASTER_RELOADS: Metric = counter(
    "dovecot_master_reloads_total",
    &[],
    "Lines in Dovecot's log that say the master reloads its configuration, also if that then failed.",
);
/// Build.
pub static BUILD_INFO: Metric =
    info("dovecot_exporter_build_info", &["version"], "The version of this exporter. The value is 1.");
/// Sources.
pub static SOURCE_UP: Metric = gauge(
    "dovecot_exporter_source_up",
    &["source"],
    "1 if the source could be read when it was last needed, else 0: procfs (processes), log (every log file), limits (doveconf). The reason for a 0 is in the exporter's log and on its landing page.",
);
/// Duration of a reading.
pub static SCRAPE_DURATION: Metric = gauge(
    "dovecot_exporter_scrape_duration_seconds",
    &[],
    "How long the reading of /proc for this page took.",
);
/// Odd processes.
pub static SCAN_ERRORS: Metric = counter(
    "dovecot_exporter_scan_errors_total",
    &["reason"],
    "Failures while /proc was read: malformed (one process left out, because what /proc says of it makes no sense), down (the whole reading failed, see source_up). Processes that end meanwhile are no failures.",
);
/// Where a limit comes from.
pub static LIMIT_SOURCE_INFO: Metric = info(
    "dovecot_exporter_limit_source_info",
    &["service", "source"],
    "Where dovecot_service_process_limit comes from: flag (--dovecot.process-limit), warning (the number in the newest drop warning), doveconf, default (Dovecot's built-in value, because doveconf could not be run). The value is 1.",
);
/// Lines read.
pub static LOG_LINES: Metric =
    counter("dovecot_exporter_log_lines_total", &["file"], "Lines read from the log file.");
/// Bytes read.
pub static LOG_BYTES: Metric =
    counter("dovecot_exporter_log_bytes_total", &["file"], "Bytes read from the log file.");
/// Rotations.
pub static LOG_ROTATIONS: Metric = counter(
    "dovecot_exporter_log_rotations_total",
    &["file"],
    "Times the path led to another file than before.",
);
/// Truncations.
pub static LOG_TRUNCATIONS: Metric = counter(
    "dovecot_exporter_log_truncations_total",
    &["file"],
    "Times the log file was cut short, as copytruncate does. Each may cost the lines that were written just before: rotate by renaming.",
);
/// Long lines.
pub static LOG_OVERSIZED_LINES: Metric = counter(
    "dovecot_exporter_log_oversized_lines_total",
    &["file"],
    "Lines of more than 64 KiB, which are passed over. Dovecot writes none.",
);
/// Failed reads.
pub static LOG_READ_ERRORS: Metric = counter(
    "dovecot_exporter_log_read_errors_total",
    &["file"],
    "Failed attempts to open or read the log file. A file that is not there yet is no failure.",
);
/// Place in the log.
pub static LOG_POSITION: Metric = gauge(
    "dovecot_exporter_log_position_bytes",
    &["file"],
    "Bytes of the present log file that lie behind the reader.",
);
/// Size of the log.
pub static LOG_SIZE: Metric = gauge(
    "dovecot_exporter_log_size_bytes",
    &["file"],
    "Size of the log file when it was last looked at, four times a second at least.",
);
/// Newest bytes.
pub static LOG_LAST_READ: Metric = gauge(
    "dovecot_exporter_log_last_read_timestamp_seconds",
    &["file"],
    "When something was last read from the log file, in seconds since 1970. Absent before that.",
);
/// Forgeries.
pub static LOG_UNANCHORED_WARNINGS: Metric = counter(
    "dovecot_exporter_log_unanchored_warnings_total",
    &["file"],
    "Lines that hold the text of a drop warning but are none of the master's: a client wrote it into a user name, syslog has it from another instance_name, or the log has a form that this exporter does not know.",
);
/// CPU time.
pub static PROCESS_CPU: Metric =
    counter("process_cpu_seconds_total", &[], "User and system CPU time the exporter used, in seconds.");
/// Resident memory.
pub static PROCESS_RESIDENT_MEMORY: Metric =
    gauge("process_resident_memory_bytes", &[], "Resident memory of the exporter, in bytes.");
/// Address space.
pub static PROCESS_VIRTUAL_MEMORY: Metric =
    gauge("process_virtual_memory_bytes", &[], "Address space of the exporter, in bytes.");
/// Descriptors.
pub static PROCESS_OPEN_FDS: Metric =
    gauge("process_open_fds", &[], "File descriptors the exporter has open.");
/// Most descriptors.
pub static PROCESS_MAX_FDS: Metric = gauge(
    "process_max_fds",
    &[],
    "Most file descriptors the exporter may have open. Absent if that is unlimited.",
);
/// Threads.
pub static PROCESS_THREADS: Metric = gauge("process_threads", &[], "Threads of the exporter.");
/// Start.
pub static PROCESS_START_TIME: Metric =
    gauge("process_start_time_seconds", &[], "When the exporter started, in seconds since 1970.");

/// Every metric, in the order of the page.
pub static CATALOGUE: [&Metric; 33] = [
    &MASTER_UP,
    &SERVICE_PROCESSES,
    &SERVICE_PROCESS_LIMIT,
    &SERVICE_PROCESS_LIMIT_CONFIGURED,
    &SERVICE_CLIENT_LIMIT,
    &SERVICE_CONNECTION_CAPACITY,
    &SERVICE_PROCESS_MIN_AVAIL,
    &SERVICE_RESTART_REQUEST_LIMIT,
    &SERVICE_DROP_WARNINGS,
    &SERVICE_LAST_DROP_WARNING,
    &MASTER_RELOADS,
    &BUILD_INFO,
    &SOURCE_UP,
    &SCRAPE_DURATION,
    &SCAN_ERRORS,
    &LIMIT_SOURCE_INFO,
    &LOG_LINES,
    &LOG_BYTES,
    &LOG_ROTATIONS,
    &LOG_TRUNCATIONS,
    &LOG_OVERSIZED_LINES,
    &LOG_READ_ERRORS,
    &LOG_POSITION,
    &LOG_SIZE,
    &LOG_LAST_READ,
    &LOG_UNANCHORED_WARNINGS,
    &PROCESS_CPU,
    &PROCESS_RESIDENT_MEMORY,
    &PROCESS_VIRTUAL_MEMORY,
    &PROCESS_OPEN_FDS,
    &PROCESS_MAX_FDS,
    &PROCESS_THREADS,
    &PROCESS_START_TIME,
];

/// The samples of one page, in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct Page(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    metric: &'static Metric,
    labels: Vec<String>,
    value: f64,
}

/// The content type of [`Page::openmetrics`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of [`Page::classic`].
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Page {
    /// Adds a sample; one label value for each of the metric's label names.
    pub fn add(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        self.0.push(Sample { metric, labels: labels.iter().map(ToString::to_string).collect(), value });
    }

    /// Adds a sample if its value is known.
    pub fn add_known(&mut self, metric: &'static Metric, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.add(metric, labels, value);
        }
    }

    /// The page as OpenMetrics 1.0 has it.
    pub fn openmetrics(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    /// The page in Prometheus' text format 0.0.4, which `prometheus_client` does not write.
    pub fn classic(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        for (metric, samples) in self.families() {
            let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
            writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", metric.name, metric.help, metric.name)?;
            for sample in samples {
                text.push_str(metric.name);
                for (index, (name, value)) in metric.labels.iter().zip(&sample.labels).enumerate() {
                    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                    write!(text, "{}{name}=\"{value}\"", if index == 0 { '{' } else { ',' })?;
                }
                let end = if metric.labels.is_empty() { "" } else { "}" };
                let value =
                    if sample.value.is_infinite() { "+Inf".to_owned() } else { sample.value.to_string() };
                writeln!(text, "{end} {value}")?;
            }
        }
        Ok(text)
    }

    /// The samples of each metric that has any, in the order of the catalogue.
    fn families(&self) -> impl Iterator<Item = (&'static Metric, Vec<&Sample>)> {
        CATALOGUE.into_iter().filter_map(|metric| {
            let samples: Vec<&Sample> =
                self.0.iter().filter(|sample| std::ptr::eq(sample.metric, metric)).collect();
            (!samples.is_empty()).then_some((metric, samples))
        })
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for (metric, samples) in self.families() {
            let (name, unit) = metric.family();
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
            };
            let mut family = encoder.encode_descriptor(name, metric.help, unit.as_ref(), kind)?;
            for sample in samples {
                let values = sample.labels.iter().map(String::as_str);
                let labels: Vec<(&str, &str)> = metric.labels.iter().copied().zip(values).collect();
                match metric.kind {
                    Kind::Info => family.encode_info(&labels)?,
                    kind if labels.is_empty() => encode_value(kind, &mut family, sample.value)?,
                    kind => encode_value(kind, &mut family.encode_family(&labels)?, sample.value)?,
                }
            }
        }
        Ok(())
    }
}

/// Writes whole numbers without a fraction, for people.
fn encode_value(kind: Kind, encoder: &mut MetricEncoder, value: f64) -> fmt::Result {
    #[expect(clippy::cast_possible_truncation, reason = "only used where it is exact")]
    let whole = Some(value as i64).filter(|_| value.fract() == 0.0 && value.abs() < 1e15);
    match (kind, whole) {
        (Kind::Counter, Some(whole)) => {
            encoder.encode_counter::<NoLabelSet, u64, f64>(&whole.unsigned_abs(), None)
        }
        (Kind::Counter, None) => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
        (_, Some(whole)) => encoder.encode_gauge(&whole),
        (_, None) => encoder.encode_gauge(&value),
    }
}
