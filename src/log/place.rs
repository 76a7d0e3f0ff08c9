//! Which file, and how far it was read.

use std::{
    fs::{File, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt},
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};

/// Bytes before our place by which we know that the file was not truncated and written again.
const FINGERPRINT: usize = 256;

/// Which file, for certain: inode numbers are used again at once, so the time of birth is a part of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Identity {
    /// Its device's number.
    pub device: u64,
    /// Its number on the device.
    pub inode: u64,
    /// When it was made; nothing where the file system does not say.
    pub birth: Option<SystemTime>,
}

impl Identity {
    /// The identity of the file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), birth: metadata.created().ok() }
    }
}

/// How far a file was read.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub identity: Identity,
    /// Bytes of it that were read.
    pub offset: u64,
    /// The bytes before the offset, at most 256.
    pub fingerprint: Vec<u8>,
}

impl Place {
    /// The start of a file.
    pub fn start(identity: Identity) -> Self {
        Self { identity, offset: 0, fingerprint: Vec::new() }
    }

    /// Moves behind `block`, which was read here.
    pub fn advance(&mut self, block: &[u8]) {
        self.offset += block.len() as u64;
        self.fingerprint.extend_from_slice(&block[block.len().saturating_sub(FINGERPRINT)..]);
        self.fingerprint.drain(..self.fingerprint.len().saturating_sub(FINGERPRINT));
    }

    /// Remembers what stands before this place in `file`.
    pub fn take_fingerprint(&mut self, file: &File) -> io::Result<()> {
        let length = usize::try_from(self.offset).unwrap_or(usize::MAX).min(FINGERPRINT);
        let mut found = vec![0; length];
        file.read_exact_at(&mut found, self.offset - length as u64)?;
        self.fingerprint = found;
        Ok(())
    }

    /// Whether `file`, which is `length` bytes long, still holds what was read of it, as far as that can be seen.
    pub fn holds(&self, file: &File, length: u64) -> io::Result<bool> {
        if length < self.offset {
            return Ok(false);
        }
        let mut found = vec![0; self.fingerprint.len()];
        let start = self.offset - found.len() as u64;
        match file.read_exact_at(&mut found, start) {
            Ok(()) => Ok(found == self.fingerprint),
            // It became shorter since.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The clock by which the kernel stamps a file's birth; it is up to a tick behind the precise one.
pub fn file_clock() -> SystemTime {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let since_1970 = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default());
    SystemTime::UNIX_EPOCH + since_1970
}
