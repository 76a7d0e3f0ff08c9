//! One open file to lines, from the place up to which it was read.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    time::{Instant, SystemTime},
};

use super::{
    lines::{MAX_LINE, OnLine},
    needles::Needles,
    place::{FINGERPRINT, Identity, Place, begin_alike},
    state::LogState,
};

/// Bytes read at once: a system call for less costs more than searching what has left the first-level cache.
pub const BLOCK: usize = 128 * 1024;
/// Room for a block behind a fingerprint, and for more where a line is longer.
pub const BUFFER: usize = FINGERPRINT + MAX_LINE + BLOCK;
/// Blocks that one file may have in one pass, some milliseconds' work, so that a flood in it does not starve the
/// others.
pub const TURN: usize = 128;
/// Places remembered of files that are no longer read, in case a path leads to one again.
const MAX_PLACES: usize = 1000;

/// What is known of files, by whatever path they were reached.
#[derive(Debug, Default)]
pub struct Known {
    /// Those that are read. Each by one follower, however many paths lead to it.
    pub open: HashSet<Identity>,
    /// How far others were read, and how many were left before them.
    pub left: HashMap<Identity, (u64, Place)>,
    count: u64,
}

impl Known {
    /// Remembers how far a file was read that is read no longer.
    pub fn leave(&mut self, place: Place) {
        self.open.remove(&place.identity);
        self.left.insert(place.identity, (self.count, place));
        self.count += 1;
        if self.left.len() > MAX_PLACES {
            let oldest = self.left.iter().min_by_key(|(_, (count, _))| *count).map(|(identity, _)| *identity);
            oldest.and_then(|oldest| self.left.remove(&oldest));
        }
    }

    /// Whether anything is known of it.
    pub fn has(&self, identity: &Identity) -> bool {
        self.open.contains(identity) || self.left.contains_key(identity)
    }

    /// How far files were read that are read no longer.
    pub fn left(&self) -> impl Iterator<Item = &Place> {
        self.left.values().map(|(_, place)| place)
    }
}

/// What all followers share while they read.
pub struct Reader<'a> {
    /// [`BUFFER`] bytes.
    pub buffer: &'a mut [u8],
    /// The texts that are looked for.
    pub needles: &'a Needles,
    /// Takes the lines that hold one.
    pub on_line: OnLine<'a>,
    /// Files, by identity.
    pub known: &'a mut Known,
    /// The time.
    pub now: Instant,
    /// A file has had its turn, and is not read to its end.
    pub more: bool,
}

/// An open file and the place in it.
#[derive(Debug)]
pub struct Tail {
    /// The file.
    pub file: File,
    /// How far it was read.
    pub place: Place,
    /// Bytes in it when it was last read.
    pub length: u64,
    /// When something was last read.
    pub last_byte: Instant,
}

impl Tail {
    /// Whether a file that begins with `head` is a copy of this one, or this one of it.
    pub fn begins_as(&self, head: &[u8]) -> bool {
        let mut own = [0; FINGERPRINT];
        // What was read of it may be gone, and what is in it now may not be read yet.
        let length = read(&self.file, &mut own, 0).unwrap_or_default();
        begin_alike(&self.place.head, head) || begin_alike(&own[..length], head)
    }

    /// Whether this file, which was empty so far, is a copy of `other`, of which somebody had made no more than a name.
    pub fn has_become_a_copy_of(&self, other: &Self) -> bool {
        let mut head = [0; FINGERPRINT];
        let length = if self.length == 0 { read(&self.file, &mut head, 0).unwrap_or_default() } else { 0 };
        length > 0 && other.begins_as(&head[..length])
    }

    /// Passes over what was read already, if this file, of which nothing was read yet, is a copy of one at one of
    /// `places`: an editor puts a copy in the place of what it edits.
    pub fn skip_copied<'a>(&mut self, places: impl Iterator<Item = &'a Place>) {
        let mut head = [0; FINGERPRINT];
        let length = read(&self.file, &mut head, 0).unwrap_or_default();
        let size = self.file.metadata().map_or(0, |found| found.len());
        let is_origin = |place: &&Place| {
            begin_alike(&place.head, &head[..length])
                && place.holds(&self.file, size).is_ok_and(|holds| holds)
        };
        let origins = places.filter(|_| self.place.offset == 0).filter(is_origin);
        if let Some(origin) = origins.max_by_key(|place| place.offset) {
            let identity = self.place.identity;
            self.length = origin.offset;
            self.place = Place { identity, ..origin.clone() };
        }
    }
}

/// What reading a file gave.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Drained {
    /// It is as it was.
    Nothing,
    /// There was more.
    Bytes,
    /// It no longer holds what was read of it.
    Truncated,
}

impl Reader<'_> {
    /// Reads `tail` to its end, at most for one turn.
    pub fn drain(&mut self, tail: &mut Tail, state: &mut LogState) -> io::Result<Drained> {
        let drained = self.drain_turn(tail, state)?;
        if drained == Drained::Bytes {
            tail.last_byte = self.now;
            state.last_read = Some(SystemTime::now());
        }
        Ok(drained)
    }

    fn drain_turn(&mut self, tail: &mut Tail, state: &mut LogState) -> io::Result<Drained> {
        let mut drained = Drained::Nothing;
        for _ in 0..TURN {
            let known = tail.place.fingerprint.len();
            let mut wanted = known + BLOCK;
            loop {
                // The fingerprint in the same call: so there is no moment between the check and the reading.
                let start = tail.place.offset - known as u64;
                let length = read(&tail.file, &mut self.buffer[..wanted], start)?;
                if length < known || self.buffer[..known] != tail.place.fingerprint {
                    return Ok(Drained::Truncated);
                }
                let end = start + length as u64;
                if tail.length != end {
                    tail.length = end;
                    drained = Drained::Bytes;
                }
                let bytes = &self.buffer[known..length];
                let taken = tail.place.lines.take(bytes, self.needles, &mut *self.on_line);
                state.counts.bytes += taken.bytes as u64;
                state.counts.lines += taken.lines;
                state.counts.oversized_lines += taken.oversized;
                tail.place.advance(&self.buffer[..length], taken.bytes);
                if length < wanted {
                    return Ok(drained);
                }
                if taken.bytes > 0 {
                    break;
                }
                // A line longer than a block.
                wanted = self.buffer.len();
            }
        }
        self.more = true;
        Ok(drained)
    }

    /// Takes what is left of a file that will not be read any more.
    pub fn finish(&mut self, mut tail: Tail, state: &mut LogState) {
        while matches!(self.drain(&mut tail, state), Ok(Drained::Bytes)) {}
        let known = tail.place.fingerprint.len();
        let start = tail.place.offset - known as u64;
        let length = read(&tail.file, self.buffer, start).unwrap_or_default();
        if length > known && self.buffer[..known] == tail.place.fingerprint {
            // Whole lines may have come since it was drained.
            let bytes = &self.buffer[known..length];
            let taken = tail.place.lines.take(bytes, self.needles, &mut *self.on_line);
            tail.place.lines.finish(&bytes[taken.bytes..], self.needles, &mut *self.on_line);
            state.counts.lines += taken.lines;
            state.counts.oversized_lines += taken.oversized;
            state.counts.bytes += bytes.len() as u64;
            tail.place.advance(&self.buffer[..length], length - known);
        }
        self.known.leave(tail.place);
    }
}

/// Reads until `buffer` is full or the file ends.
pub fn read(file: &File, buffer: &mut [u8], start: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, start) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
