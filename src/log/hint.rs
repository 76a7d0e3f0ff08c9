//! Wakes the reader when the log changes, by linemux. A hint and nothing else.
//!
//! linemux goes deaf in some rotations, its queue of events has no bound, and each rotation leaves it a watch that
//! is never removed. So it is used one event at a time: armed while the log is quiet, thrown away at the first
//! event. While lines flow the reader's own clock is enough, and costs less than an event per write.

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use linemux::MuxedEvents;
use tokio::{select, sync::mpsc, time::sleep};

/// What the thread tells the reader.
enum Wake {
    /// The watch stands: look once more, for what was written before it did.
    Armed,
    /// Something happened, and the watch is gone.
    Fired,
}

/// The reader's side of the thread that waits for events.
#[derive(Debug)]
pub struct Hint {
    armed: bool,
    arm: mpsc::Sender<()>,
    woken: Receiver<Wake>,
}

impl Hint {
    /// A hint for changes of `paths`, on a thread of its own: linemux looks at paths between events, and a slow
    /// file system must not hold up anything else.
    pub fn new(paths: Vec<PathBuf>) -> std::io::Result<Self> {
        let (arm, armed) = mpsc::channel(1);
        let (wake, woken) = sync_channel(2);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name("hint".into())
            .spawn(move || runtime.block_on(watch(&paths, armed, &wake)))?;
        Ok(Self { armed: false, arm, woken })
    }

    /// Waits for a change of the log, at most for `time`.
    pub fn wait(&mut self, time: Duration) {
        if !self.armed {
            // A full channel means that the thread has yet to take the last request, which is as good.
            let _ = self.arm.try_send(());
            self.armed = true;
        }
        match self.woken.recv_timeout(time) {
            Ok(Wake::Fired) => self.armed = false,
            Ok(Wake::Armed) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::sleep(time),
        }
    }

    /// Says that the log grew, so that the next [`wait`](Self::wait) makes a new watch: the present one has fired,
    /// or is deaf.
    pub fn renew(&mut self) {
        self.armed = false;
    }
}

async fn watch(paths: &[PathBuf], mut arm: mpsc::Receiver<()>, wake: &SyncSender<Wake>) {
    let mut armed = arm.recv().await;
    while armed.is_some() {
        // A full channel already holds a reason to look.
        let fired = async {
            if next_change(paths, wake).await.is_none() {
                // No inotify instance left, or nothing to watch: the reader's clock finds what we miss.
                sleep(Duration::from_secs(1)).await;
            }
            let _ = wake.try_send(Wake::Fired);
        };
        select! {
            () = fired => armed = arm.recv().await,
            again = arm.recv() => armed = again,
        }
    }
}

/// Returns at the first event about one of `paths`, or with nothing if they cannot be watched.
async fn next_change(paths: &[PathBuf], wake: &SyncSender<Wake>) -> Option<()> {
    let mut events = MuxedEvents::new().ok()?;
    for path in paths {
        // One that is neither there nor in a folder that is there; the others are still worth watching.
        let _ = events.add_file(path).await;
    }
    let _ = wake.try_send(Wake::Armed);
    // An event without paths is about some other file of the folder in which ours is missing.
    while events.next_event().await.ok()??.paths.is_empty() {}
    Some(())
}
