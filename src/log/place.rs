//! Which file, and how far it was read.

use std::{
    fs::{File, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt},
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::lines::{Lines, MAX_LINE};

/// Bytes before our place by which we know that the file was not truncated and written again, and at its start by
/// which we know a copy of it.
pub const FINGERPRINT: usize = 256;

/// Which file, for certain: inode numbers are used again at once, so the time of birth is a part of it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
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
        // What was made before 1970 is on a file system that does not say.
        let birth = metadata.created().ok().filter(|birth| *birth >= SystemTime::UNIX_EPOCH);
        Self { device: metadata.dev(), inode: metadata.ino(), birth }
    }
}

/// How far a file was read: always to the end of a line, unless that was too long.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Place {
    /// The file.
    pub identity: Identity,
    /// Bytes of it that were read.
    pub offset: u64,
    /// The bytes before the offset, at most 256.
    #[serde(with = "hex::serde")]
    pub fingerprint: Vec<u8>,
    /// The first bytes that were read, at most 256.
    #[serde(with = "hex::serde")]
    pub head: Vec<u8>,
    /// What the bytes before the offset mean for those behind it.
    pub lines: Lines,
}

impl Place {
    /// The start of a file.
    pub fn start(identity: Identity) -> Self {
        Self { identity, offset: 0, fingerprint: Vec::new(), head: Vec::new(), lines: Lines::default() }
    }

    /// The place `offset` in a file, whatever stands before it.
    pub fn unread(identity: Identity, offset: u64) -> Self {
        Self { offset, ..Self::start(identity) }
    }

    /// Whether anybody can have stopped there: it is known what stands before it or nothing is, and it is not within
    /// a line unless that is passed over.
    pub fn is_possible(&self) -> bool {
        let length = self.fingerprint.len();
        let whole = length as u64 == self.offset.min(FINGERPRINT as u64) && length == self.head.len();
        let last = self.fingerprint.iter().rfind(|byte| **byte != 0);
        let at_line = last.is_none_or(|last| *last == b'\n') || self.lines.is_within_line();
        length == 0 && self.head.is_empty() || whole && at_line
    }

    /// Moves on by `length` bytes in `bytes`, which hold the fingerprint and what was read behind it.
    pub fn advance(&mut self, bytes: &[u8], length: usize) {
        let end = self.fingerprint.len() + length;
        self.offset += length as u64;
        // As long as it lacks bytes, the fingerprint holds all that was read.
        if self.head.len() < FINGERPRINT {
            self.head = bytes[..end.min(FINGERPRINT)].to_vec();
        }
        self.fingerprint.clear();
        self.fingerprint.extend_from_slice(&bytes[end.saturating_sub(FINGERPRINT)..end]);
    }

    /// Learns what stands before this place in `file`.
    pub fn look_back(&mut self, file: &File) -> io::Result<()> {
        let length = usize::try_from(self.offset).unwrap_or(usize::MAX).min(MAX_LINE);
        let mut before = vec![0; length];
        file.read_exact_at(&mut before, self.offset - length as u64)?;
        self.lines = Lines::after(&before);
        self.fingerprint = before.split_off(length.saturating_sub(FINGERPRINT));
        self.head = vec![0; self.fingerprint.len()];
        file.read_exact_at(&mut self.head, 0)
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

/// Whether of two files that begin with these bytes one may be a copy of the other. Less than a line says nothing:
/// all lines of one second begin alike.
pub fn begin_alike(head: &[u8], other: &[u8]) -> bool {
    let length = head.len().min(other.len());
    head[..length] == other[..length] && (length == FINGERPRINT || head[..length].contains(&b'\n'))
}

/// The clock by which the kernel stamps a file's birth; it is up to a tick behind the precise one.
pub fn file_clock() -> SystemTime {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let since_1970 = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default());
    SystemTime::UNIX_EPOCH + since_1970
}
