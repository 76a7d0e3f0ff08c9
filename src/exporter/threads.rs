//! The threads beside the one that answers: one keeps the limits known, one reads the log.

use std::{io, os::unix::net::UnixStream, sync::Arc, thread, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    select,
    sync::oneshot,
    time::timeout,
};

use super::Exporter;

/// For a thread to end.
pub const END_TIME: Duration = Duration::from_millis(250);

/// Half of the descriptors that tokio takes for an event loop and for signals. For the last of them it panics.
const PAIRS: usize = 3;

/// One thread for everything that waits, and one for the reading of `/proc`: there is never more than one reading.
pub fn runtime() -> io::Result<Runtime> {
    let spare: io::Result<Vec<_>> = (0..PAIRS).map(|_| UnixStream::pair()).collect();
    drop(spare?);
    Builder::new_current_thread().enable_all().max_blocking_threads(1).build()
}

/// The thread that keeps the limits known.
#[derive(Debug)]
pub struct LimitsThread {
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

impl LimitsThread {
    /// Ends it, so that no `doveconf` outlives this process; unless it hangs in a file system, which nothing ends.
    pub async fn end(self) {
        drop(self.stop);
        let _ = timeout(END_TIME, self.stopped).await;
    }
}

/// Starts that thread, with an event loop of its own: a file system that hangs must not stop the answers. Returns
/// when the limits were first read, or when that takes too long.
pub async fn keep_limits(exporter: &Arc<Exporter>, patience: Duration) -> Result<LimitsThread, String> {
    let failed = |error| format!("the system lets no thread start: {error}");
    let (known, first) = oneshot::channel();
    let (stop, stopping) = oneshot::channel::<()>();
    let (done, stopped) = oneshot::channel::<()>();
    let runtime = runtime().map_err(failed)?;
    let exporter = exporter.clone();
    let first_known = || {
        // Nobody may be waiting any more.
        let _ = known.send(());
    };
    let keep = move || {
        runtime.block_on(async {
            select! {
                () = exporter.keep_limits(first_known) => {}
                _ = stopping => {}
            }
        });
        drop(done);
    };
    thread::Builder::new().name("limits".into()).spawn(keep).map_err(failed)?;
    let _ = timeout(patience, first).await;
    Ok(LimitsThread { stop, stopped })
}

/// Starts the thread that follows the log. Returns when that has read what was written while no exporter ran and
/// knows where the log ends, so that no line is missed that is written after we said that we listen; or when that
/// takes too long. What it returns tells when the thread has ended.
pub async fn follow_log(
    exporter: &Arc<Exporter>,
    patience: Duration,
) -> Result<oneshot::Receiver<()>, String> {
    let exporter = exporter.clone();
    let (known, first) = oneshot::channel();
    let (done, ended) = oneshot::channel::<()>();
    let ready = || {
        // Nobody may be waiting any more.
        let _ = known.send(());
    };
    let follow = move || {
        exporter.follow(ready);
        drop(done);
    };
    let spawned = thread::Builder::new().name("log".into()).spawn(follow);
    spawned.map_err(|error| format!("the system lets no thread start: {error}"))?;
    let _ = timeout(patience, first).await;
    Ok(ended)
}
