//! Every metric.

use super::{Kind, Metric};

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
    "1 if the master process of the watched Dovecot runs, 0 if none runs. Absent while neither /proc nor the master itself tells.",
);
/// Processes of a service.
pub static SERVICE_PROCESSES: Metric = gauge(
    "dovecot_service_processes",
    &["service"],
    "Processes in /proc that run the service's executable under the Dovecot master, those of an earlier configuration included: after a reload there may be more than process_limit. In performance mode this number says nothing about load. Absent while /proc does not tell, and where several services run one executable (dict and dict-async, for instance).",
);
/// Peak of the processes.
pub static SERVICE_PROCESSES_PEAK: Metric = gauge(
    "dovecot_service_processes_peak",
    &["service", "window"],
    "Most processes of the service that were seen in the last minute (window 1m), in samples one second apart. A sample may miss a process, and has those that have ended and that the master has not yet noticed. Absent where dovecot_service_processes is.",
);
/// Time at the limit.
pub static SERVICE_AT_PROCESS_LIMIT_SECONDS: Metric = counter(
    "dovecot_service_at_process_limit_seconds_total",
    &["service"],
    "Seconds during which the service had as many processes as process_limit allows, or more: one for each sample, one second apart, that found it so. A shorter time shows as often as a sample falls into it. Absent while process_limit is not known or is 1, which one process reaches always, and while dovecot_service_processes is absent.",
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
    "process_limit as the configuration on disk has it. Differs from dovecot_service_process_limit until Dovecot is reloaded. Absent while that cannot be told.",
);
/// Connections of one process.
pub static SERVICE_CLIENT_LIMIT: Metric = gauge(
    "dovecot_service_client_limit",
    &["service"],
    "Most connections that one process of the service takes at a time: client_limit or restart_request_count (service_count before 2.4), whichever is smaller, as the running Dovecot reckons; +Inf if unlimited. anvil outlives a reload with the limit of its start, which is shown, and absent if the exporter was started after the reload.",
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
/// Memory of one process.
pub static SERVICE_VSZ_LIMIT: Metric = gauge(
    "dovecot_service_vsz_limit_bytes",
    &["service"],
    "Address space that one process of the service may have: vsz_limit; +Inf if unlimited. A process that reaches it counts in dovecot_service_failures_total as out_of_memory.",
);
/// Processes by the master's count.
pub static SERVICE_PROCESSES_COUNTED: Metric = gauge(
    "dovecot_service_processes_counted",
    &["service"],
    "Processes of the service as the master counts them: without those of an earlier configuration, which after a reload go on beside these. Dovecot 2.4.4 and later includes retired processes, which process_limit does not hold back. Absent while the master's socket does not tell.",
);
/// Processes that take clients.
pub static SERVICE_PROCESSES_AVAILABLE: Metric = gauge(
    "dovecot_service_processes_available",
    &["service"],
    "Processes of the service that take a further client. Those that could still be started are not among them. Absent while the master's socket does not tell.",
);
/// Connections.
pub static SERVICE_CONNECTIONS: Metric = gauge(
    "dovecot_service_connections",
    &["service"],
    "Client slots in use: what the service's processes do not offer of client_limit each. A process that is near its last connection (restart_request_count, service_count before 2.4) offers no more than those, so slots that it has used up count as in use. Processes tell the master once a second at most, so this lags by about a second. Clients of processes of an earlier configuration are not included, nor those of retired processes (Dovecot 2.4.4). Absent while the master's socket does not tell, and of anvil where its client_limit is not known.",
);
/// Pauses.
pub static SERVICE_LISTEN_PAUSED: Metric = gauge(
    "dovecot_service_listen_paused",
    &["service"],
    "1 while clients wait that no process may be started for, and the master has stopped listening for more: the surest sign, at this moment, that the service is full. Else 0. Absent while the master's socket does not tell.",
);
/// Forks.
pub static SERVICE_PROCESS_STARTS: Metric = counter(
    "dovecot_service_process_starts_total",
    &["service"],
    "Processes that the master has started for the service since it started, those before a reload included that the exporter heard of: what was started between its last look and a reload is missing. Read at each scrape. Absent until the master's socket has told; Dovecot 2.3.9 and later tells.",
);
/// Clients in the kernel's queues.
pub static LISTENER_QUEUE_CONNECTIONS: Metric = gauge(
    "dovecot_listener_queue_connections",
    &["service", "port"],
    "Clients that are connected as far as they know and wait in the kernel for Dovecot to accept them, on all addresses of the port, as they were at most a second ago. Stays above 0 when all processes of the service are busy; when the queue is full, further clients find no connection. Absent while doveconf does not tell the ports, and where nothing listens.",
);
/// Room for them.
pub static LISTENER_QUEUE_LIMIT: Metric = gauge(
    "dovecot_listener_queue_limit",
    &["service", "port"],
    "Clients that may wait there before the kernel turns further ones away, on all addresses of the port: process_limit times client_limit as they were when Dovecot was started, since a reload does not change it, and net.core.somaxconn at most. Absent where Dovecot is in another network name space than the exporter.",
);
/// What the formula demands.
pub static SERVICE_CLIENT_LIMIT_REQUIRED: Metric = gauge(
    "dovecot_service_client_limit_required",
    &["service"],
    "The client_limit that auth and anvil need when all other services are at their process_limit, as Dovecot reckons: if dovecot_service_client_limit is lower, Dovecot warns at its start, and logins fail under full load. Absent while doveconf does not tell.",
);
/// Memory.
pub static SERVICE_RESIDENT_MEMORY: Metric = gauge(
    "dovecot_service_resident_memory_bytes",
    &["service"],
    "Resident memory of the service's processes together, that of an old process as it was at most a minute ago. What processes share, such as libraries, counts for each. Absent where dovecot_service_processes is.",
);
/// Descriptors.
pub static MASTER_OPEN_FILES_LIMIT: Metric = gauge(
    "dovecot_master_open_files_limit",
    &[],
    "Descriptors that each process of Dovecot may have (ulimit -n, LimitNOFILE of its unit). Dovecot warns at its start if this is lower than the client_limit of a service; auth and anvil need about one for each login process. Absent while the master cannot be seen.",
);
/// Tasks.
pub static CGROUP_TASKS: Metric = gauge(
    "dovecot_cgroup_tasks",
    &[],
    "Processes and threads in the control group of the Dovecot master, pids.current. Absent if that cannot be read.",
);
/// Most tasks.
pub static CGROUP_TASKS_LIMIT: Metric = gauge(
    "dovecot_cgroup_tasks_limit",
    &[],
    "Most processes and threads that control group may have, pids.max, which is TasksMax of a systemd unit; +Inf if it has no limit of its own. At the limit Dovecot's forks fail. Absent with dovecot_cgroup_tasks.",
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
/// Clients turned out for others.
pub static SERVICE_QUEUE_FULL_KILLS: Metric = counter(
    "dovecot_service_queue_full_kills_total",
    &["service"],
    "Clients that had not logged in yet and whose connection a login process closed to make room for others: lines with Connection queue full. There may be some without a drop warning. Absent with --dovecot.log-master.",
);
/// Logins lost.
pub static SERVICE_HANDOVER_FAILURES: Metric = counter(
    "dovecot_service_handover_failures_total",
    &["service"],
    "Clients that had logged in and were then not taken by this service, because it was full (Dovecot's own guess: the service may also have failed). Absent with --dovecot.log-master.",
);
/// Failures.
pub static SERVICE_FAILURES: Metric = counter(
    "dovecot_service_failures_total",
    &["service", "reason"],
    "Lines that say a process of the service failed: fork_failed, throttled (failed at its start, and Dovecot waits before it starts another), startup_timeout (killed because it did not report in time), out_of_memory (reached vsz_limit; absent with --dovecot.log-master).",
);
/// Users with too many connections.
pub static USER_CONNECTION_LIMIT_REJECTIONS: Metric = counter(
    "dovecot_user_connection_limit_rejections_total",
    &[],
    "Logins refused because the user had mail_max_userip_connections from the same address already. Absent with --dovecot.log-master.",
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
    "1 if the source could be read when it was last needed, else 0: procfs (processes), log (every log file, standard input, and the errors that the master remembers), journal (the systemd journal, if it is followed), limits (doveconf), master (its status socket, unless that is never to be asked), state (--state.file, if there is one). The reason for a 0 is in the exporter's log and on its landing page.",
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
    "Where dovecot_service_process_limit comes from: flag (--dovecot.process-limit), master (its status socket), warning (the number in the newest drop warning), doveconf, config (the files, read without doveconf), default (Dovecot's built-in value, because the configuration could not be read). The value is 1.",
);
/// Lines read.
pub static LOG_LINES: Metric = counter(
    "dovecot_exporter_log_lines_total",
    &["log"],
    "Lines read from this source: a file, all files that match a pattern, - (standard input), or entries of journal:IDENTIFIER or master:SOCKET.",
);
/// Bytes read.
pub static LOG_BYTES: Metric = counter(
    "dovecot_exporter_log_bytes_total",
    &["log"],
    "Bytes read from this source, up to the end of the newest whole line.",
);
/// Rotations.
pub static LOG_ROTATIONS: Metric = counter(
    "dovecot_exporter_log_rotations_total",
    &["log"],
    "Times a path led to another file than before.",
);
/// Truncations.
pub static LOG_TRUNCATIONS: Metric = counter(
    "dovecot_exporter_log_truncations_total",
    &["log"],
    "Times a log file was cut short, as copytruncate does. Each may cost the lines that were written just before: rotate by renaming.",
);
/// Long lines.
pub static LOG_OVERSIZED_LINES: Metric = counter(
    "dovecot_exporter_log_oversized_lines_total",
    &["log"],
    "Lines of more than 64 KiB, which are passed over. Dovecot writes none.",
);
/// Failed reads.
pub static LOG_READ_ERRORS: Metric = counter(
    "dovecot_exporter_log_read_errors_total",
    &["log"],
    "Failed attempts to open or read this source. A file that is not there yet is no failure.",
);
/// Place in the log.
pub static LOG_POSITION: Metric = gauge(
    "dovecot_exporter_log_position_bytes",
    &["log"],
    "Bytes of the present log files that lie behind the reader.",
);
/// Size of the log.
pub static LOG_SIZE: Metric = gauge(
    "dovecot_exporter_log_size_bytes",
    &["log"],
    "Size of the present log files when they were last looked at: four times a second, unless they are very many. More than the position for longer than a moment: the reader lags, or the last line has no end yet.",
);
/// Files.
pub static LOG_FILES: Metric = gauge(
    "dovecot_exporter_log_files",
    &["log"],
    "Files that are open now: 1 for a file that is there, more for a pattern. Absent for sources that are no files.",
);
/// Newest bytes.
pub static LOG_LAST_READ: Metric = gauge(
    "dovecot_exporter_log_last_read_timestamp_seconds",
    &["log"],
    "When something was last read from this source, in seconds since 1970. Absent before that.",
);
/// Forgeries.
pub static LOG_UNANCHORED_WARNINGS: Metric = counter(
    "dovecot_exporter_log_unanchored_warnings_total",
    &["log"],
    "Lines that hold the text of a drop warning but are none of the master's: a client wrote it into a user name, syslog has it from another instance_name, or the log has a form that this exporter does not know. Also lines of login processes that a client may have made by having Dovecot split a long line.",
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
pub static CATALOGUE: [&Metric; 53] = [
    &MASTER_UP,
    &SERVICE_PROCESSES,
    &SERVICE_PROCESSES_PEAK,
    &SERVICE_AT_PROCESS_LIMIT_SECONDS,
    &SERVICE_PROCESS_LIMIT,
    &SERVICE_PROCESS_LIMIT_CONFIGURED,
    &SERVICE_CLIENT_LIMIT,
    &SERVICE_CONNECTION_CAPACITY,
    &SERVICE_PROCESS_MIN_AVAIL,
    &SERVICE_RESTART_REQUEST_LIMIT,
    &SERVICE_VSZ_LIMIT,
    &SERVICE_PROCESSES_COUNTED,
    &SERVICE_PROCESSES_AVAILABLE,
    &SERVICE_CONNECTIONS,
    &SERVICE_LISTEN_PAUSED,
    &SERVICE_PROCESS_STARTS,
    &LISTENER_QUEUE_CONNECTIONS,
    &LISTENER_QUEUE_LIMIT,
    &SERVICE_CLIENT_LIMIT_REQUIRED,
    &SERVICE_RESIDENT_MEMORY,
    &MASTER_OPEN_FILES_LIMIT,
    &CGROUP_TASKS,
    &CGROUP_TASKS_LIMIT,
    &SERVICE_DROP_WARNINGS,
    &SERVICE_LAST_DROP_WARNING,
    &SERVICE_QUEUE_FULL_KILLS,
    &SERVICE_HANDOVER_FAILURES,
    &SERVICE_FAILURES,
    &USER_CONNECTION_LIMIT_REJECTIONS,
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
    &LOG_FILES,
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
