//! All sources of log lines, read by turns on one thread.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use rustix::fd::AsFd;
use serde::{Deserialize, Serialize};

use super::{
    bell::{Bell, wait},
    copies::Copies,
    files::{FEW, FLOW, Files, KeptFiles, LOOK},
    grammar::{NEEDLES, OnFound},
    hint::Hint,
    journal::Journal,
    needles::Needles,
    ring::{self, Ring},
    state::LogState,
    stream::Stream,
};

/// Between two passes while lines flow: a flood costs time, not writes.
const GAP: Duration = Duration::from_millis(10);
/// So many bytes behind its end, a file that never stops growing counts as read.
const CAUGHT_UP: u64 = 1 << 20;

/// What to read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sources {
    /// Files and patterns of files.
    pub files: Vec<PathBuf>,
    /// Standard input.
    pub stdin: bool,
    /// The identifier of entries in the systemd journal.
    pub journal: Option<String>,
    /// The socket of the master whose errors to follow.
    pub master: Option<PathBuf>,
}

/// What a restart needs to know of the sources.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Places in files.
    pub files: KeptFiles,
    /// The newest entry of the journal.
    pub cursor: Option<String>,
    /// The newest error of the master.
    pub ring: Option<ring::Place>,
}

/// Reads them all.
#[derive(Debug)]
pub struct LogReader {
    files: Files,
    stream: Option<Stream>,
    journal: Option<Journal>,
    ring: Option<Ring>,
    needles: Needles,
    hint: Hint,
    copies: Option<Copies>,
    bell: Bell,
    /// When something was last read.
    read: Option<Instant>,
    /// When the copies' watches were last set on what the paths lead to.
    watched: Option<Instant>,
    /// Something happened to a file: look at all.
    look: bool,
    changed: bool,
}

impl LogReader {
    /// Reads `sources` from where `kept` says; what it does not know from the end of what is there now, or from the
    /// start of what was made after `since`: all there is of files and of what the master remembers if that is the
    /// epoch, and the last hour of the journal. [`Self::wait`] returns when `bell` rings.
    pub fn new(sources: &Sources, since: SystemTime, kept: Kept, bell: Bell) -> io::Result<Self> {
        let all = since == SystemTime::UNIX_EPOCH;
        let files = Files::new(&sources.files, since, kept.files);
        let stream = sources.stdin.then(Stream::new).transpose()?;
        let journal = sources.journal.as_ref().map(|identifier| Journal::new(identifier, kept.cursor, all));
        let place = kept.ring.or_else(|| all.then(ring::Place::default));
        let ring = sources.master.clone().map(|socket| Ring::new(socket, place));
        let (needles, hint, copies) = (Needles::new(&NEEDLES), Hint::new(bell.clone())?, Copies::new());
        Ok(Self {
            files,
            stream,
            journal,
            ring,
            needles,
            hint,
            copies,
            bell,
            read: None,
            watched: None,
            look: true,
            changed: true,
        })
    }

    /// Reads what came since the last pass, and hands over what it found.
    pub fn pass(&mut self, on_found: OnFound) {
        let now = Instant::now();
        let look = std::mem::take(&mut self.look);
        let mut any = self.files.pass(look, now, &self.needles, on_found);
        if any {
            self.hint.renew();
        }
        any |= self.stream.as_mut().is_some_and(|stream| stream.pass(&self.needles, on_found));
        any |= self.journal.as_mut().is_some_and(|journal| journal.pass(now, on_found));
        if any {
            self.read = Some(now);
        }
        // Of these no more will come at once.
        any |= self.ring.as_mut().is_some_and(|ring| ring.pass(look, now, on_found));
        self.changed |= any;
    }

    /// Whether all is read that was there when it began, or nearly: a file may never stop growing.
    pub fn is_caught_up(&self) -> bool {
        let near = |state: &LogState| {
            state.progress.is_none_or(|progress| progress.size - progress.position < CAUGHT_UP)
        };
        self.files.states().all(near) && self.journal.as_ref().is_none_or(Journal::is_caught_up)
    }

    /// Whether all is read that was there when it was last looked at.
    pub fn is_at_end(&self) -> bool {
        self.is_caught_up() && !self.files.more
    }

    /// Whether something was read since [`Self::set_unchanged`].
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// Says that [`Self::kept`] is saved.
    pub fn set_unchanged(&mut self) {
        self.changed = false;
    }

    /// Waits until there may be something to read, or until the bell rings.
    pub fn wait(&mut self) {
        let now = Instant::now();
        let few = self.files.paths().nth(FEW).is_none();
        if let Some(copies) = self.copies.as_mut().filter(|_| few)
            && self.watched.is_none_or(|watched| now.duration_since(watched) >= LOOK)
        {
            copies.keep(&self.files.paths().collect());
            self.files.paths().for_each(|path| copies.watch(path));
            self.watched = Some(now);
        }
        if let Some(copies) = &mut self.copies {
            copies.rearm(now);
        }
        let (bell, copies) = (Some(self.bell.as_fd()), self.copies.as_ref().map(AsFd::as_fd));
        let rung = if self.read.is_some_and(|read| now.duration_since(read) < FLOW) {
            let [rung, _] = wait([bell, copies], if self.files.more { Duration::ZERO } else { GAP });
            rung
        } else {
            if few {
                self.hint.arm(self.files.paths());
            }
            let stream = self.stream.as_ref().and_then(Stream::source);
            let journal = self.journal.as_ref().and_then(Journal::source);
            let [rung, ..] = wait([bell, copies, stream, journal], LOOK);
            rung
        };
        self.look |= rung && self.bell.was_rung();
    }

    /// What [`Self::new`] needs.
    pub fn kept(&self) -> Kept {
        let cursor = self.journal.as_ref().and_then(Journal::cursor).map(ToOwned::to_owned);
        let ring = self.ring.as_ref().and_then(Ring::place).cloned();
        Kept { files: self.files.kept(), cursor, ring }
    }

    /// What is known of each source: files, standard input, the journal, the master.
    pub fn states(&self) -> impl Iterator<Item = &LogState> {
        let stream = self.stream.iter().map(|stream| &stream.state);
        let rest = self.journal.iter().map(|journal| &journal.state);
        self.files.states().chain(stream).chain(rest).chain(self.ring.iter().map(|ring| &ring.state))
    }

    /// The same, to be put back to what an earlier run of the program counted.
    pub fn states_mut(&mut self) -> impl Iterator<Item = &mut LogState> {
        let stream = self.stream.iter_mut().map(|stream| &mut stream.state);
        let rest = self.journal.iter_mut().map(|journal| &mut journal.state);
        let ring = self.ring.iter_mut().map(|ring| &mut ring.state);
        self.files.states_mut().chain(stream).chain(rest).chain(ring)
    }
}
