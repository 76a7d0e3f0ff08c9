//! The owner of all state: what was counted, what was last read, and how a reading of it all is made.

pub mod anvil;
pub mod logs;
pub mod next;
pub mod reading;
pub mod sampling;
pub mod threads;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::{select, sync::Notify, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use crate::{
    cli::Config,
    limits::{self, LimitSource, Limits, files::ConfigFiles},
    listeners::Listeners,
    log::{bell::Bell, state::LogState},
    master::{self, Status},
    processes::{
        sampler::{Peaks, Sampler},
        scan::{Blind, Census, Scanner, Wanted},
    },
    service::Service,
    tally::Tally,
};
use next::Next;
use reading::{KnownLimits, Reading, Troubles};

/// How often the configuration's files are looked at.
const CONFIG_LOOK: Duration = Duration::from_secs(2);
/// How long after a failure `doveconf` is tried again if nothing changed.
const DOVECONF_RETRY: Duration = Duration::from_secs(60);
/// How far apart the master's line about a reload and the start of its new `log` process may be for both to tell of
/// the same reload: the master reads its configuration in between.
const RELOAD_TIME: Duration = Duration::from_secs(2);
/// Dovecot's own `base_dir`, if its configuration does not tell.
const BASE_DIR: &str = "/run/dovecot";

/// Everything the program knows.
#[derive(Debug)]
pub struct Exporter {
    config: Config,
    /// It is there for a look: reads logs from their start, and writes no state.
    is_look: bool,
    flags: BTreeMap<Service, u32>,
    tally: Mutex<Tally>,
    logs: Mutex<Vec<LogState>>,
    limits: Mutex<KnownLimits>,
    scanner: Mutex<Scanner>,
    sampler: Mutex<Sampler>,
    peaks: Mutex<Peaks>,
    /// When a sample was last taken.
    sampled: Mutex<Instant>,
    listeners: Mutex<Listeners>,
    scans: Mutex<Scans>,
    /// The newest reading and when it began; held while one is made, so that there is one at a time.
    latest: Arc<tokio::sync::Mutex<Option<Latest>>>,
    /// Asks for `doveconf` to be run: Dovecot has read its configuration, as its new `log` process shows.
    loaded: Notify,
    /// Asks for `doveconf` to be run: Dovecot said that it reads its configuration, which may have failed.
    reloading: Notify,
    /// Asks for `doveconf` to be run.
    changed: Notify,
    /// Wakes the thread that reads the log, which is to end when this says so.
    bell: Bell,
    ending: AtomicBool,
    /// Everything was read that an earlier run has not: until then totals may be lower than those it has shown.
    caught_up: AtomicBool,
    /// Something is counted outside of the log that is not saved yet.
    unsaved: AtomicBool,
    /// Why the master did not answer.
    master_trouble: Mutex<Option<String>>,
    /// What the master said when it was last asked, if it answered.
    status: Mutex<Option<Status>>,
    /// Why the state was not written.
    state_trouble: Mutex<Option<String>>,
}

type Latest = (Instant, Arc<Reading>);

/// What is remembered from one scan to the next.
#[derive(Debug, Default)]
struct Scans {
    /// The master and its newest reading of the configuration, when they were last seen.
    generation: Option<Generation>,
    /// When the log last told that Dovecot reads its configuration again.
    reload_line: Option<Instant>,
    /// Whether the log has then told that it could not.
    reload_failed: bool,
    malformed: u64,
    failed: u64,
    trouble: Option<String>,
    anvil: Option<anvil::Anvil>,
}

/// Tells the running configuration from an earlier one: the master, and [`Census::generation`].
type Generation = ((i32, u64), (u64, i32));

/// No code panics while it holds one of these; if one ever did, its value is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exporter {
    /// One that knows nothing yet.
    pub fn new(config: Config) -> io::Result<Self> {
        let is_look = config.command.is_some();
        Ok(Self {
            is_look,
            flags: config.process_limits.iter().cloned().collect(),
            caught_up: AtomicBool::new(config.state_file.is_none() && !is_look),
            config,
            tally: Mutex::default(),
            logs: Mutex::default(),
            limits: Mutex::default(),
            scanner: Mutex::default(),
            sampler: Mutex::default(),
            peaks: Mutex::default(),
            sampled: Mutex::new(Instant::now()),
            listeners: Mutex::default(),
            scans: Mutex::default(),
            latest: Arc::default(),
            loaded: Notify::new(),
            reloading: Notify::new(),
            changed: Notify::new(),
            bell: Bell::new()?,
            ending: AtomicBool::new(false),
            unsaved: AtomicBool::new(false),
            master_trouble: Mutex::default(),
            status: Mutex::default(),
            state_trouble: Mutex::default(),
        })
    }

    /// A reading that began after this call, shared with whoever asked before it began.
    pub async fn read(self: &Arc<Self>) -> Arc<Reading> {
        let asked = Instant::now();
        let mut latest = self.latest.clone().lock_owned().await;
        if let Some((_, reading)) = latest.as_ref().filter(|(began, _)| *began >= asked) {
            return reading.clone();
        }
        let exporter = self.clone();
        // The lock goes along: a request that gives up does not let a second reading begin beside the first.
        let reading = spawn_blocking(move || {
            let began = Instant::now();
            let reading = Arc::new(exporter.measure());
            *latest = Some((began, reading.clone()));
            reading
        });
        reading.await.expect("a panic ends the process")
    }

    /// Reads `/proc`, asks the master, and puts all that is known beside it.
    fn measure(&self) -> Reading {
        if self.config.log_master {
            // What the master warned of just now had better be on this page, though it need not be.
            self.bell.ring();
        }
        let limits = lock(&self.limits).clone();
        let status = self.ask_master();
        let began = Instant::now();
        let census = lock(&self.scanner).scan(&self.config.procfs, &wanted(limits.in_force.as_ref()));
        let duration = began.elapsed();
        // A master that answers runs, so where none is seen it is hidden.
        let census = census.and_then(|census| {
            let unseen = census.master.is_none() && matches!(status, Some(Ok(_)));
            if unseen { Err(Blind::Hidden(self.config.procfs.clone())) } else { Ok(census) }
        });
        let census = census.map_err(|blind| blind.to_string());
        let (malformed, failed) = self.note_scan(&census);
        let mut tally = lock(&self.tally);
        if let Ok(census) = census.as_ref()
            && self.is_look
        {
            tally.forget_warned(SystemTime::now() - census.generation_age);
        }
        if let Some(Ok(status)) = &status
            && self.caught_up.load(Ordering::Acquire)
            && tally.count_starts(status)
        {
            self.unsaved.store(true, Ordering::Release);
        }
        let told = status.as_ref().and_then(|status| status.as_ref().ok());
        lock(&self.status).clone_from(&told.cloned());
        let mut services =
            reading::services(&census, told, &limits, &self.flags, &mut tally, &mut lock(&self.peaks));
        anvil::keep(&mut services, &census, &mut lock(&self.scans).anvil);
        let next = Next::read(
            &self.config.procfs,
            &census,
            &limits,
            &services,
            &mut tally,
            &mut lock(&self.listeners),
        );
        let tally = tally.clone();
        let tally = self.caught_up.load(Ordering::Acquire).then_some(tally);
        let logs = lock(&self.logs).clone();
        let state = self.config.state_file.is_some().then(|| lock(&self.state_trouble).clone());
        let limits = limits.trouble;
        Reading {
            census,
            services,
            next,
            tally,
            only_master: self.config.log_master,
            logs,
            troubles: Troubles { limits, state, master: status.map(Result::err) },
            duration,
            malformed,
            failed,
        }
    }

    /// The socket of the master that is watched; nothing if the master is never to be asked.
    fn master_socket(&self) -> Option<PathBuf> {
        if let Some(socket) = &self.config.master_socket {
            return Some(socket.clone()).filter(|socket| !socket.as_os_str().is_empty());
        }
        let limits = lock(&self.limits);
        let base_dir = limits.in_force.as_ref().and_then(|limits| limits.base_dir.clone());
        Some(base_dir.unwrap_or_else(|| BASE_DIR.into()).join("master"))
    }

    /// What the master counts, or why it does not tell; nothing if it is never to be asked.
    fn ask_master(&self) -> Option<Result<Status, String>> {
        let socket = self.master_socket()?;
        let status = master::status(&socket).map_err(|failure| failure.in_words(&socket));
        let mut trouble = lock(&self.master_trouble);
        log_change("master", trouble.as_ref(), status.as_ref().err());
        *trouble = status.as_ref().err().cloned();
        Some(status)
    }

    /// Counts what went wrong in a scan, and notices that Dovecot has read its configuration again.
    fn note_scan(&self, census: &Result<Census, String>) -> (u64, u64) {
        let mut scans = lock(&self.scans);
        scans.failed += u64::from(census.is_err());
        let trouble = census.as_ref().err();
        log_change("procfs", scans.trouble.as_ref(), trouble);
        scans.trouble = trouble.cloned();
        if let Ok(census) = census {
            scans.malformed += census.malformed;
            let master = census.master.as_ref().map(|master| (master.pid, master.start));
            lock(&self.sampler).watch(master.map(|(pid, _)| pid));
            let generation = master.zip(census.generation);
            if generation.is_some() && scans.generation != generation {
                // What the log has told already must not be taken for a second reading of the configuration: that
                // may have been changed once more since.
                let told = |line: Instant| line.elapsed() <= census.generation_age + RELOAD_TIME;
                if scans.generation.is_some() && !scans.reload_line.is_some_and(told) {
                    lock(&self.tally).warned.clear();
                    self.loaded.notify_one();
                }
                scans.generation = generation;
            }
        }
        (scans.malformed, scans.failed)
    }

    /// Reads Dovecot's configuration now, and then whenever it changes, Dovecot reads it, or somebody asks.
    /// Calls `first` after the first time.
    pub async fn keep_limits(&self, first: impl FnOnce()) {
        let mut files = ConfigFiles::find(&self.config.dovecot_config);
        let mut failed = self.read_limits(true, true).await;
        // Dovecot has read a configuration that doveconf could not read yet.
        let mut behind = false;
        first();
        loop {
            let (loaded, certain) = select! {
                () = self.loaded.notified() => (true, true),
                () = self.reloading.notified() => (true, false),
                () = self.changed.notified() => (false, false),
                () = sleep(CONFIG_LOOK) => {
                    if !files.changed() && failed.is_none_or(|failed| failed.elapsed() < DOVECONF_RETRY) {
                        continue;
                    }
                    (false, false)
                }
            };
            // Before doveconf reads them: what changes meanwhile is a change.
            files = ConfigFiles::find(&self.config.dovecot_config);
            failed = self.read_limits(loaded || behind, certain || behind).await;
            behind = failed.is_some() && (certain || behind);
            if failed.is_some() {
                // Whether Dovecot could read it, a new log process will tell.
                lock(&self.scans).reload_line = None;
            }
        }
    }

    /// Reads the configuration; returns the time if that failed. What was known stays known then: Dovecot, too, keeps its
    /// configuration when it cannot read a new one. `loaded` if Dovecot has read it, `certain` if not only the log says
    /// that it set about it.
    async fn read_limits(&self, loaded: bool, certain: bool) -> Option<Instant> {
        let read = limits::read(&self.config.doveconf, &self.config.dovecot_config).await;
        let reload_is_seen = lock(&self.scans).generation.is_some();
        let mut limits = lock(&self.limits);
        // The log may have said meanwhile that Dovecot could not.
        let loaded = loaded && (certain || !lock(&self.scans).reload_failed);
        let trouble = match &read {
            Ok(read) => read.unknown.clone(),
            Err(reason) => Some(reason.clone()),
        };
        log_change("limits", limits.trouble.as_ref(), trouble.as_ref());
        limits.trouble = trouble;
        let read = read.ok();
        if let Some(read) = &read {
            let before = limits.configured.as_ref().map(|limits| limits.source);
            if read.source == LimitSource::Config && before != Some(LimitSource::Config) {
                info!(config = %self.config.dovecot_config.display(), "reading the configuration without doveconf");
            }
            // Without a sight of reloads, what is on disk is the best guess at what is in force; and so it is where a
            // part of that could not be read when it was loaded.
            let unknown = limits.in_force.as_ref().is_none_or(|limits| limits.unknown.is_some());
            if loaded || unknown || !reload_is_seen {
                let before = limits.in_force.replace(read.clone());
                limits.before_reload = before.filter(|_| loaded && !certain);
            }
        }
        limits.configured.clone_from(&read);
        read.is_none().then(Instant::now)
    }

    /// Has the configuration read again.
    pub fn reread_limits(&self) {
        self.changed.notify_one();
    }
}

fn wanted(limits: Option<&Limits>) -> Wanted {
    let base_dir = limits.and_then(|limits| limits.base_dir.as_ref());
    // Readable for root only; the other marks of the instance do for everybody else.
    let pid = base_dir.and_then(|base_dir| std::fs::read_to_string(base_dir.join("master.pid")).ok());
    Wanted {
        pid: pid.and_then(|pid| pid.trim().parse().ok()),
        instance_name: limits.and_then(|limits| limits.instance_name.clone()),
    }
}

/// One line when a source fails, fails otherwise, or is well again.
fn log_change(source: &'static str, before: Option<&String>, now: Option<&String>) {
    match now {
        Some(trouble) if before != Some(trouble) => {
            warn!(source, reason = trouble.as_str(), "source is down");
        }
        None if before.is_some() => info!(source, "source is up again"),
        _ => {}
    }
}
