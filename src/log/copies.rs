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

/// How long after a reader has closed the log that may be truncated: a shell starts a second command.
const AFTER: Duration = Duration::from_millis(250);
/// How long a copy may take; who has the log open for longer is another reader.
const LONGEST: Duration = Duration::from_secs(10);

/// Watches some files for others that open them.
#[derive(Debug)]
pub struct Copies {
    inotify: OwnedFd,
    /// By path, the watch of the file that it led to.
    watches: BTreeMap<PathBuf, i32>,
    open: usize,
    until: Option<Instant>,
}

impl Copies {
    /// A watch of no file yet; nothing if the system has no inotify instance left.
    pub fn new() -> Option<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        Some(Self { inotify, watches: BTreeMap::new(), open: 0, until: None })
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

    /// Whether a copy may be under way, by all that has happened until `now`.
    pub fn are_made(&mut self, now: Instant) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = events.next() {
            let event = event.events();
            if event.contains(ReadFlags::OPEN) {
                self.open += 1;
                self.until = Some(now + LONGEST);
            } else if event.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::CLOSE_NOWRITE) {
                self.open = self.open.saturating_sub(1);
                if self.open == 0 {
                    // Who could write has truncated it before, if at all.
                    let after = event.contains(ReadFlags::CLOSE_NOWRITE).then_some(now + AFTER);
                    self.until = self.until.and(after);
                }
            }
        }
        if self.until.is_some_and(|until| until <= now) {
            self.open = 0;
            self.until = None;
        }
        self.until.is_some()
    }
}

impl AsFd for Copies {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
