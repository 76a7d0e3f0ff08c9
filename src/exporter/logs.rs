//! The thread that reads the log: which sources there are, what they tell, and the state file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime},
};

use tracing::{info, warn};

use super::{Exporter, lock, log_change};
use crate::{
    checkpoint::{Checkpoint, Saver},
    log::{
        files::LOOK,
        grammar::{Event, Found},
        reader::{Kept, LogReader, Sources},
        state::{LogCounts, LogState},
    },
};

/// The shortest time between two states.
const SAVE_TIME: Duration = Duration::from_secs(1);
/// How long to wait when the system lets no thread start.
const RETRY: Duration = Duration::from_secs(60);
/// A log that Dovecot has made for a new `log_path` is new; one that was there before is not.
const NEW_LOG_TIME: Duration = Duration::from_secs(2);

/// What the thread has beside the reader.
struct State {
    counts: BTreeMap<String, LogCounts>,
    kept: Kept,
    saver: Option<Saver>,
    /// When a state was last handed over to be written.
    saved: Option<Instant>,
}

impl Exporter {
    /// Follows the log until the program ends; another one when the configuration turns out to name another. Calls
    /// `ready` when all is read that an earlier run has not: what is written from then on counts as it comes. For a
    /// look without a state, that is all there is.
    pub fn follow(&self, ready: impl FnOnce()) {
        let mut ready = Some(ready);
        let mut state = self.restore();
        let all = self.is_look && self.config.state_file.is_none();
        let mut since = if all { SystemTime::UNIX_EPOCH } else { SystemTime::now() };
        while !self.ending.load(Ordering::Acquire) {
            let followed = self.followed();
            let (sources, because) = self.sources();
            let mut reader = match LogReader::new(&sources, since, state.kept.clone(), self.bell.clone()) {
                Ok(reader) => reader,
                Err(error) => {
                    warn!(%error, "the log cannot be watched: raise the limits of threads and of descriptors (LimitNOFILE)");
                    std::thread::sleep(RETRY);
                    continue;
                }
            };
            for log in reader.states_mut() {
                info!(log = &*log.log, because, "following");
                log.counts = state.counts.get(&*log.log).copied().unwrap_or_default();
            }
            self.read_log(&mut reader, &mut state, &followed, &mut ready);
            state.kept = reader.kept();
            since = SystemTime::now() - NEW_LOG_TIME;
        }
        if let Some(saver) = state.saver.take()
            && let Some(reason) = saver.finish(&self.checkpoint(state.counts, state.kept))
        {
            warn!(reason, "the last state was not kept");
        }
    }

    /// Reads until the program ends or the configuration no longer leads to `followed`.
    fn read_log(
        &self,
        reader: &mut LogReader,
        state: &mut State,
        followed: &[PathBuf],
        ready: &mut Option<impl FnOnce()>,
    ) {
        let mut looked = Instant::now();
        loop {
            reader.pass(&mut |found| self.take(found));
            self.publish(reader.states());
            if ready.is_some() && if self.is_look { reader.is_at_end() } else { reader.is_caught_up() } {
                self.caught_up.store(true, Ordering::Release);
                ready.take().into_iter().for_each(|ready| ready());
            }
            if let Some(saver) = &state.saver {
                if let Some(trouble) = saver.result() {
                    let mut known = lock(&self.state_trouble);
                    log_change("state", known.as_ref(), trouble.as_ref());
                    // It is tried again, though nothing is logged meanwhile.
                    self.unsaved.fetch_or(trouble.is_some(), Ordering::AcqRel);
                    *known = trouble;
                }
                let unsaved = reader.has_changed() || self.unsaved.load(Ordering::Acquire);
                if unsaved && state.saved.is_none_or(|saved| saved.elapsed() >= SAVE_TIME) {
                    state.counts.extend(counts(reader.states()));
                    // Before what is saved is taken: what comes meanwhile is saved next.
                    self.unsaved.store(false, Ordering::Release);
                    if saver.save(&self.checkpoint(state.counts.clone(), reader.kept())) {
                        reader.set_unchanged();
                        state.saved = Some(Instant::now());
                    } else {
                        self.unsaved.store(true, Ordering::Release);
                    }
                }
            }
            let ends = self.ending.load(Ordering::Acquire);
            if ends || looked.elapsed() >= LOOK {
                looked = Instant::now();
                if ends || self.followed() != followed {
                    state.counts.extend(counts(reader.states()));
                    return;
                }
            }
            reader.wait();
        }
    }

    /// Ends [`Self::follow`].
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Takes up what an earlier run has saved.
    fn restore(&self) -> State {
        let mut state = State { counts: BTreeMap::new(), kept: Kept::default(), saver: None, saved: None };
        let Some(path) = &self.config.state_file else { return state };
        let loaded = if self.is_look { look_at_state(path) } else { Checkpoint::load(path) };
        match loaded {
            Ok(Some(checkpoint)) => {
                let mut tally = lock(&self.tally);
                let known = std::mem::replace(&mut *tally, checkpoint.tally);
                for (service, _) in known.services() {
                    tally.know(service);
                }
                (state.counts, state.kept) = (checkpoint.logs, checkpoint.kept);
            }
            Ok(None) => info!(file = %path.display(), "no state yet: counting starts at 0"),
            Err(reason) => {
                warn!(reason, "state file");
                *lock(&self.state_trouble) = self.is_look.then_some(reason);
            }
        }
        if self.is_look {
            return state;
        }
        match Saver::new(path.clone()) {
            Ok(saver) => state.saver = Some(saver),
            Err(error) => {
                warn!(%error, "the system lets no thread start to write the state: raise the limit of threads");
            }
        }
        state
    }

    fn checkpoint(&self, counts: BTreeMap<String, LogCounts>, kept: Kept) -> Checkpoint {
        Checkpoint::new(lock(&self.tally).clone(), counts, kept)
    }

    /// Counts what was found, if it is of the watched Dovecot: syslog may hold the lines of others as well.
    pub fn take(&self, found: &Found) -> bool {
        let other = |instance: &str| found.ident.is_some_and(|ident| ident != instance);
        let limits = lock(&self.limits);
        if limits.in_force.as_ref().and_then(|limits| limits.instance_name.as_deref()).is_some_and(other) {
            return false;
        }
        drop(limits);
        let now = SystemTime::now();
        let mut tally = lock(&self.tally);
        // A look reads what was logged long ago.
        let time =
            if self.is_look { found.stamp.time(now).max(tally.newest_like(&found.event)) } else { Some(now) };
        tally.count(&found.event, found.times, time);
        drop(tally);
        if matches!(found.event, Event::Reload | Event::Start) {
            // Its limits are those of before.
            *lock(&self.status) = None;
        }
        match found.event {
            Event::Reload => {
                lock(&self.limits).before_reload = None;
                let mut scans = lock(&self.scans);
                scans.reload_line = Some(Instant::now());
                scans.reload_failed = false;
                self.reloading.notify_one();
            }
            Event::ReloadFailed => {
                let mut limits = lock(&self.limits);
                lock(&self.scans).reload_failed = true;
                if let Some(before) = limits.before_reload.take() {
                    limits.in_force = Some(before);
                }
            }
            Event::Start => self.loaded.notify_one(),
            _ => {}
        }
        true
    }

    /// Shows what is known of each source.
    pub fn publish<'a>(&self, states: impl Iterator<Item = &'a LogState>) {
        let mut logs = lock(&self.logs);
        let mut count = 0;
        for state in states {
            let before = logs.get(count).filter(|before| before.log == state.log);
            log_change(
                state.source(),
                before.and_then(|before| before.trouble.as_ref()),
                state.trouble.as_ref(),
            );
            if let Some(known) = logs.get_mut(count) {
                known.clone_from(state);
            } else {
                logs.push(state.clone());
            }
            count += 1;
        }
        logs.truncate(count);
    }

    /// The sources to read, and why these.
    fn sources(&self) -> (Sources, &'static str) {
        let config = &self.config;
        if !config.log_files.is_empty() || config.log_journal.is_some() {
            // One given twice would count twice.
            let files: BTreeSet<PathBuf> = config.log_files.iter().cloned().collect();
            let (stdin, files) =
                files.into_iter().partition::<BTreeSet<_>, _>(|file| file.as_os_str() == "-");
            let (files, stdin) = (files.into_iter().collect(), !stdin.is_empty());
            return (
                Sources { files, stdin, journal: config.log_journal.clone(), master: None },
                "a flag says so",
            );
        }
        if config.log_master {
            return (Sources { master: self.master_socket(), ..Sources::default() }, "a flag says so");
        }
        let file = |path: PathBuf| Sources { files: vec![path], ..Sources::default() };
        let files = self.followed();
        if !files.is_empty() {
            return (
                Sources { files, ..Sources::default() },
                "the setting log_path or info_log_path names it",
            );
        }
        let usual = ["/var/log/mail.log", "/var/log/maillog", "/var/log/dovecot.log"].map(PathBuf::from);
        if let Some(path) = usual.iter().find(|path| path.exists()) {
            return (file(path.clone()), "it is a usual place of mail logs");
        }
        if ["/run/log/journal", "/var/log/journal"].iter().any(|folder| PathBuf::from(folder).exists()) {
            let limits = lock(&self.limits);
            let instance = limits.in_force.as_ref().and_then(|limits| limits.instance_name.clone());
            let journal = Some(instance.unwrap_or_else(|| "dovecot".to_owned()));
            return (Sources { journal, ..Sources::default() }, "there is a journal and no usual mail log");
        }
        (file(usual[0].clone()), "nothing else was found")
    }

    /// The files or the socket that Dovecot's configuration leads to, unless a flag names a source.
    fn followed(&self) -> Vec<PathBuf> {
        let config = &self.config;
        if config.log_master {
            return self.master_socket().into_iter().collect();
        }
        let free = config.log_files.is_empty() && config.log_journal.is_none();
        let limits = lock(&self.limits);
        limits.in_force.as_ref().filter(|_| free).map(|limits| limits.log_files.clone()).unwrap_or_default()
    }
}

fn counts<'a>(states: impl Iterator<Item = &'a LogState>) -> BTreeMap<String, LogCounts> {
    states.map(|state| (state.log.to_string(), state.counts)).collect()
}

/// Reads the state that an exporter keeps.
fn look_at_state(path: &Path) -> Result<Option<Checkpoint>, String> {
    let found = Checkpoint::look(path).and_then(|found| {
        let absent = || "is not there: give --state.file the file of a running exporter".to_owned();
        found.map(Some).ok_or_else(absent)
    });
    found.map_err(|wrong| format!("{} {wrong}", path.display()))
}
