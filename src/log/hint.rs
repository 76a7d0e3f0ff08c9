//! Wakes the reader when the log changes, by linemux. A hint and nothing else.
//!
//! linemux goes deaf in some rotations, its queue of events has no bound, and each rotation leaves it a watch that
//! is never removed. So it is used one event at a time: armed while the log is quiet, thrown away at the first
//! event. While lines flow the reader's own clock is enough, and costs less than an event per write.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use linemux::MuxedEvents;
use tokio::{select, sync::mpsc, time::sleep};

use super::bell::Bell;

/// The reader's side of the thread that waits for events.
#[derive(Debug)]
pub struct Hint {
    /// The thread has a watch, or will have one, that has seen no event yet.
    armed: Arc<AtomicBool>,
    arm: mpsc::Sender<Vec<PathBuf>>,
}

impl Hint {
    /// Rings `bell` when something happens, from a thread of its own: linemux looks at paths between events, and a
    /// slow file system must not hold up anything else.
    pub fn new(bell: Bell) -> std::io::Result<Self> {
        let (arm, requests) = mpsc::channel(1);
        let armed = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let watch = watch(requests, armed.clone(), bell);
        thread::Builder::new().name("hint".into()).spawn(move || runtime.block_on(watch))?;
        Ok(Self { armed, arm })
    }

    /// Sees to it that the bell rings at the next change of one of `paths`, and when the watch for that stands: what
    /// was written before it did is to be looked for.
    pub fn arm<'a>(&self, paths: impl Iterator<Item = &'a std::path::Path>) {
        // A full channel means that the thread has yet to take the last request.
        if !self.armed.load(Ordering::Acquire)
            && let Ok(request) = self.arm.try_reserve()
        {
            self.armed.store(true, Ordering::Release);
            request.send(paths.map(PathBuf::from).collect());
        }
    }

    /// Has the next [`arm`](Self::arm) make a new watch: the log grew, and the present one has fired or is deaf.
    pub fn renew(&self) {
        self.armed.store(false, Ordering::Release);
    }
}

async fn watch(mut requests: mpsc::Receiver<Vec<PathBuf>>, armed: Arc<AtomicBool>, bell: Bell) {
    let mut request = requests.recv().await;
    while let Some(paths) = request {
        let fired = async {
            if next_change(&paths, &bell).await.is_none() {
                // No inotify instance left, or nothing to watch: the reader's clock finds what we miss.
                sleep(Duration::from_secs(1)).await;
            }
            armed.store(false, Ordering::Release);
            bell.ring();
        };
        select! {
            () = fired => request = requests.recv().await,
            again = requests.recv() => request = again,
        }
    }
}

/// Returns at the first event about one of `paths`, or with nothing if they cannot be watched.
async fn next_change(paths: &[PathBuf], bell: &Bell) -> Option<()> {
    let mut events = MuxedEvents::new().ok()?;
    for path in paths {
        // One that is neither there nor in a folder that is there; the others are still worth watching.
        let _ = events.add_file(path).await;
    }
    bell.ring();
    // An event without paths is about some other file of the folder in which ours is missing.
    while events.next_event().await.ok()??.paths.is_empty() {}
    Some(())
}
