//! Tells when somebody else has the log open: copytruncate copies it, and then destroys what we have not read.
//!
//! The log's writer has it open all the time, so that what it writes costs no event.

use std::{
    collections::BTreeMap,
    mem::MaybeUninit,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
};

/// The shortest time between two looks at a log that is copied.
const SHORTEST: Duration = Duration::from_micros(100);
/// A copy that has taken so many times as long as we leave between two looks will not end between them, most likely.
const PATIENCE: u32 = 50;

/// Watches some files for others that open them.
#[derive(Debug)]
pub struct Copies {
    inotify: OwnedFd,
    /// By path, the watch of the file that it led to.
    watches: BTreeMap<PathBuf, i32>,
    /// When a log was last opened, or closed by who could only read it: then a second command may truncate it.
    since: Option<Instant>,
}

impl Copies {
    /// A watch of no file yet; nothing if the system has no inotify instance left.
    pub fn new() -> Option<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        Some(Self { inotify, watches: BTreeMap::new(), since: None })
    }

    /// Watches what `path` leads to now, and no longer what it led to before.
    pub fn watch(&mut self, path: &Path) {
        let events = WatchFlags::OPEN | WatchFlags::CLOSE_WRITE | WatchFlags::CLOSE_NOWRITE;
        let Ok(watch) = inotify::add_watch(&self.inotify, path, events) else { return };
        if let Some(before) = self.watches.insert(path.to_owned(), watch).filter(|before| *before != watch) {
            // It fails if the file is gone, and the watch with it.
            let _ = inotify::remove_watch(&self.inotify, before);
        }
    }

    /// How long to leave the logs alone, at most `gap`, by all that has happened to them until `now`.
    pub fn gap(&mut self, now: Instant, gap: Duration) -> Duration {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = events.next() {
            // Who could write has truncated it by now, if at all.
            self.since = (!event.events().contains(ReadFlags::CLOSE_WRITE)).then_some(now);
        }
        self.since.map_or(gap, |since| (now.duration_since(since) / PATIENCE).clamp(SHORTEST, gap))
    }
}

impl AsFd for Copies {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
