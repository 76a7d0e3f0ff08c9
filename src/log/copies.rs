//! Tells when somebody else has the log open: copytruncate copies it, and then destroys what we have not read.
//!
//! The log's writer has it open all the time, so that what it writes costs no event until somebody else opens it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::metadata,
    mem::MaybeUninit,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
};

/// Who has copied a log truncates it, or has another command do so, within this time.
const TRUNCATE_TIME: Duration = Duration::from_millis(500);
/// A copy is made of so many bytes in a second at least.
const COPY_RATE: u32 = 20_000_000;

/// Watches some files for others that open them.
#[derive(Debug)]
pub struct Copies {
    inotify: OwnedFd,
    /// By path, the watch of the file that it led to.
    watches: BTreeMap<PathBuf, i32>,
    /// Until when somebody may truncate a log, as far as its readers tell.
    until: Option<Instant>,
    /// Every write is watched for, too.
    closely: bool,
}

impl Copies {
    /// A watch of no file yet; nothing if the system has no inotify instance left.
    pub fn new() -> Option<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        Some(Self { inotify, watches: BTreeMap::new(), until: None, closely: false })
    }

    /// Watches what `path` leads to now, and no longer what it led to before.
    pub fn watch(&mut self, path: &Path) {
        let Ok(watch) = self.add(path) else { return };
        if let Some(before) = self.watches.insert(path.to_owned(), watch).filter(|before| *before != watch) {
            // It fails if the file is gone, and the watch with it.
            let _ = inotify::remove_watch(&self.inotify, before);
        }
    }

    /// Watches nothing any more but `paths`.
    pub fn keep(&mut self, paths: &BTreeSet<&Path>) {
        let Self { inotify, watches, .. } = self;
        watches.retain(|path, watch| {
            let kept = paths.contains(path.as_path());
            if !kept {
                // It fails if the file is gone, and the watch with it.
                let _ = inotify::remove_watch(&*inotify, *watch);
            }
            kept
        });
    }

    fn add(&self, path: &Path) -> rustix::io::Result<i32> {
        let mut events = WatchFlags::OPEN | WatchFlags::CLOSE_WRITE | WatchFlags::CLOSE_NOWRITE;
        events.set(WatchFlags::MODIFY, self.closely);
        inotify::add_watch(&self.inotify, path, events)
    }

    /// Forgets all events until `now`, so that the next one can be waited for: whoever opens a log; and, as long as
    /// that may end in a truncation, who writes to it.
    pub fn rearm(&mut self, now: Instant) {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = events.next() {
            let (event, wd) = (event.events(), event.wd());
            if event.contains(ReadFlags::OPEN) {
                // Who will write to it opens it, too, and then a long watch would cost a pass for each of its lines.
                let path = self.watches.iter().find(|(_, watch)| **watch == wd).map(|(path, _)| path);
                let size = path.and_then(|path| metadata(path).ok()).map_or(0, |found| found.len());
                self.until = Some(now + TRUNCATE_TIME + Duration::from_secs(size) / COPY_RATE);
            } else if event.contains(ReadFlags::CLOSE_NOWRITE) {
                self.until = Some(now + TRUNCATE_TIME);
            } else if event.contains(ReadFlags::CLOSE_WRITE) {
                // Who could write has truncated it by now, if at all.
                self.until = None;
            }
        }
        let closely = self.until.is_some_and(|until| now < until);
        if closely != self.closely {
            self.closely = closely;
            for path in self.watches.keys() {
                // It is the same watch, unless the path leads elsewhere now, which is soon found by `watch`.
                let _ = self.add(path);
            }
        }
    }
}

impl AsFd for Copies {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
