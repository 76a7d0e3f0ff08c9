//! The exporter's own process, as every Prometheus client library shows it.

use procfs::{CurrentSI, KernelStats, ProcResult, WithCurrentSystemInfo, process::Process};

/// What the kernel accounts to this process.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Address space, in bytes.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Most file descriptors that may be open; nothing if that is unlimited.
    pub max_fds: Option<u64>,
    /// Threads.
    pub threads: u64,
    /// Start, in seconds since 1970.
    pub start_time_seconds: f64,
}

/// Reads `/proc/self`, wherever Dovecot's processes are read from.
pub fn read() -> ProcResult<Own> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    #[expect(clippy::cast_precision_loss, reason = "ticks of one process stay far below 2^52")]
    let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
    let max_fds = match process.limits()?.max_open_files.soft_limit {
        procfs::process::LimitValue::Value(value) => Some(value),
        procfs::process::LimitValue::Unlimited => None,
    };
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
    let boot = KernelStats::current()?.btime as f64;
    Ok(Own {
        cpu_seconds: seconds(stat.utime + stat.stime),
        resident_bytes: stat.rss_bytes().get(),
        virtual_bytes: stat.vsize,
        open_fds: process.fd_count()? as u64,
        max_fds,
        threads: u64::try_from(stat.num_threads).unwrap_or_default(),
        start_time_seconds: boot + seconds(stat.starttime),
    })
}
