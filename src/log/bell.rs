//! Wakes the reader from other threads.

use std::{io, sync::Arc};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Something to wait for; every clone rings the same.
#[derive(Clone, Debug)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// One that is silent.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Rings until it is heard.
    pub fn ring(&self) {
        // It fails only if it rings already, 2^64 times.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    /// Whether it has rung since this was last asked.
    pub fn was_rung(&self) -> bool {
        rustix::io::read(&*self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of `sources` has something to read or ends, at most for `time`; returns which have. A wait that
/// the system cuts short is as good as one that found nothing.
pub fn wait<const COUNT: usize>(
    sources: [Option<BorrowedFd>; COUNT],
    time: std::time::Duration,
) -> [bool; COUNT] {
    let mut wanted: Vec<PollFd> =
        sources.iter().flatten().map(|source| PollFd::from_borrowed_fd(*source, PollFlags::IN)).collect();
    let time = Timespec::try_from(time).expect("less than a century");
    let ready = poll(&mut wanted, Some(&time)).is_ok();
    let mut found = wanted.iter().map(|source| ready && !source.revents().is_empty());
    sources.map(|source| source.is_some() && found.next().unwrap_or_default())
}
