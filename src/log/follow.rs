//! One path to bytes: what was written since the last look, through rotation, truncation, absence and restarts.
//!
//! A pass is made of looks, not of events: it compares what the path leads to now with what it led to before, so
//! that a missed event costs time and never a line. Known losses: what copytruncate destroys after its copy was
//! made and before we read it, or before we read anything of that file; a rotated file that is compressed or removed before it was read to its end; a file
//! that is made and removed within one pass, or, where the file system tells no times of birth, made and renamed.

use std::{
    fs::{File, metadata},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    place::{FINGERPRINT, Identity, Place, begin_alike, file_clock},
    siblings,
    state::LogState,
    tail::{Drained, Known, Reader, Tail, read},
};

/// A file that left the path is read on until so long after its last byte: Dovecot keeps writing to it until it
/// is told to reopen its log.
pub const LINGER: Duration = Duration::from_secs(30);
/// Files that left one path and are still read. One more, and the oldest is given up.
pub const MAX_RETIRED: usize = 8;

/// What a restart needs to know of one path.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub struct Kept {
    /// When the path was last seen to lead to the file that was then read.
    seen: SystemTime,
    /// Where the path really led then, if it is a link.
    real: Option<PathBuf>,
    /// How far the files were read, the present one and those that left the path.
    pub places: Vec<Place>,
}

/// One path.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// Why nothing can be read, in words for the administrator; nothing if all is well.
    pub trouble: Option<String>,
    /// Bytes of the present file.
    pub size: u64,
    current: Option<Tail>,
    retired: Vec<Tail>,
    /// When the path was last seen to lead to the current file, by the clock that stamps files.
    seen: SystemTime,
    /// Where it really led then, if it is a link.
    real: Option<PathBuf>,
    /// There is nothing at the path.
    pub missing: bool,
    /// When something was last read.
    pub read: Instant,
    /// When the path last led anywhere.
    pub there: Instant,
    /// What was being read when the program last ended.
    resumed: Option<Kept>,
}

impl Follower {
    /// Follows `path` from the end of what it leads to now, or from the start if that was made after `since` or is
    /// still to be made.
    pub fn new(path: PathBuf, since: SystemTime, known: &mut Known, now: Instant) -> Self {
        let seen = file_clock();
        // What is there now stays uncounted, even if it may not be opened yet.
        if let Ok(found) = metadata(&path) {
            let identity = Identity::of(&found);
            let old = since > UNIX_EPOCH && identity.birth.is_none_or(|birth| birth <= since);
            if old && found.is_file() && !known.has(&identity) {
                known.leave(Place::unread(identity, found.len()));
            }
        }
        let mut follower = Self::at(path, seen, now);
        // At once, so that it is read to its end even if it leaves the path before the first pass.
        follower.current = follower.open(known, now).ok().map(|(tail, _)| tail);
        follower.current.iter_mut().for_each(|tail| tail.skip_copied(known.left()));
        follower
    }

    /// Follows `path` from where an earlier run of the program left it, which [`Self::kept`] told.
    pub fn resume(path: PathBuf, kept: Kept, known: &mut Known, now: Instant) -> Self {
        for place in &kept.places {
            if !known.open.contains(&place.identity) {
                known.leave(place.clone());
            }
        }
        let follower = Self::at(path, kept.seen, now);
        Self { real: kept.real.clone(), resumed: Some(kept), ..follower }
    }

    fn at(path: PathBuf, seen: SystemTime, now: Instant) -> Self {
        Self {
            path,
            trouble: None,
            size: 0,
            current: None,
            retired: vec![],
            seen,
            real: None,
            missing: false,
            read: now,
            there: now,
            resumed: None,
        }
    }

    /// What [`Self::resume`] needs.
    pub fn kept(&self) -> Kept {
        if let Some(kept) = &self.resumed {
            return kept.clone();
        }
        let tails = self.current.iter().chain(&self.retired);
        let places = tails.map(|tail| tail.place.clone()).collect();
        Kept { seen: self.seen, real: self.real.clone(), places }
    }

    /// Bytes of the present file that were read.
    pub fn position(&self) -> u64 {
        self.current.as_ref().map_or(0, |tail| tail.place.offset)
    }

    /// Whether the path led to a file that can be read.
    pub fn is_reading(&self) -> bool {
        self.current.is_some()
    }

    /// Reads what was written since the last pass; returns whether there was anything. Without `look` the path is
    /// looked at only if nothing was read.
    pub fn pass(&mut self, look: bool, state: &mut LogState, reader: &mut Reader) -> bool {
        let retired = self.read_retired(state, reader);
        let current = self.read_current(state, reader);
        let mut read = retired | matches!(current, Ok(true));
        if look || !read {
            // Also when the present file cannot be read any more: the path may lead to a better one.
            let looked = self.look(state, reader);
            read |= matches!(looked, Ok(true));
            self.missing = false;
            self.trouble = match current.and(looked) {
                Ok(_) => None,
                Err(error) => {
                    self.missing = error.kind() == ErrorKind::NotFound;
                    state.counts.read_errors += u64::from(error.kind() != ErrorKind::NotFound);
                    Some(in_words(&self.path, &error))
                }
            };
        }
        if read {
            self.read = reader.now;
        }
        read
    }

    /// Reads on in the file that the path led to, whether it still does or not.
    fn read_current(&mut self, state: &mut LogState, reader: &mut Reader) -> io::Result<bool> {
        let Some(tail) = &mut self.current else { return Ok(false) };
        let drained = reader.drain(tail, state)?;
        if drained != Drained::Truncated {
            return Ok(drained == Drained::Bytes);
        }
        state.counts.truncations += 1;
        let mut start = Place::start(tail.place.identity);
        start.lines = tail.place.lines.across_files();
        let before = std::mem::replace(&mut tail.place, start);
        tail.length = 0;
        self.sweep(vec![before], state, reader);
        if let Some(tail) = &mut self.current {
            reader.drain(tail, state)?;
        }
        Ok(true)
    }

    /// Looks where the path leads to, and changes over if it is another file.
    fn look(&mut self, state: &mut LogState, reader: &mut Reader) -> io::Result<bool> {
        // The time first: what is made after it may have been rotated away again before we look.
        let now = file_clock();
        self.take_up(state, reader);
        let found = metadata(&self.path)?;
        self.there = reader.now;
        let identity = Identity::of(&found);
        if self.current.as_ref().is_some_and(|tail| tail.place.identity == identity) {
            self.size = found.len();
            self.seen = now;
            return Ok(false);
        }
        let own = self.retired.iter().any(|tail| tail.place.identity == identity);
        if reader.known.open.contains(&identity) && !own {
            // By another path somebody reads it already.
            self.size = 0;
            if let Some(old) = self.current.take() {
                self.retire(old, state, reader);
            }
            return Ok(false);
        }
        let (mut new, before) = self.open(reader.known, reader.now)?;
        self.size = found.len();
        state.counts.truncations += u64::from(before.is_some());
        let mut origins: Vec<Place> = before.into_iter().collect();
        if let Some(mut old) = self.current.take() {
            state.counts.rotations += 1;
            // What was written to it before the path changed, and what its writer still writes, is yet to be read.
            if new.place.offset == 0 {
                new.place.lines = old.place.lines.across_files();
            }
            while matches!(reader.drain(&mut old, state), Ok(Drained::Bytes)) {}
            origins.push(old.place.clone());
            self.retire(old, state, reader);
        }
        let retired = self.retired.iter().map(|tail| &tail.place);
        new.skip_copied(origins.iter().chain(retired).chain(reader.known.left()));
        self.current = Some(new);
        self.sweep(origins, state, reader);
        self.seen = now;
        self.read_current(state, reader)?;
        Ok(true)
    }

    /// Opens what the path leads to, at the place that is known of it, else at its start; and that place, if the
    /// file no longer holds what was read of it.
    fn open(&mut self, known: &mut Known, now: Instant) -> io::Result<(Tail, Option<Place>)> {
        // Opening a pipe would wait for its writer.
        if !metadata(&self.path)?.is_file() {
            return Err(ErrorKind::IsADirectory.into());
        }
        let file = File::open(&self.path)?;
        // A name that is no text cannot be kept.
        self.real =
            self.path.canonicalize().ok().filter(|real| *real != self.path && real.to_str().is_some());
        let identity = Identity::of(&file.metadata()?);
        if let Some(index) = self.retired.iter().position(|tail| tail.place.identity == identity) {
            return Ok((self.retired.remove(index), None));
        }
        if known.open.contains(&identity) {
            // It came to this path since we looked where that leads.
            return Err(ErrorKind::NotFound.into());
        }
        let mut place = known.left.get(&identity).map_or(Place::start(identity), |(_, place)| place.clone());
        let mut before = None;
        if place.holds(&file, file.metadata()?.len())? {
            if place.fingerprint.is_empty() {
                place.look_back(&file)?;
            }
        } else {
            before = Some(std::mem::replace(&mut place, Place::start(identity)));
        }
        known.left.remove(&identity);
        known.open.insert(identity);
        Ok((Tail { file, length: place.offset, place, last_byte: now }, before))
    }

    /// Keeps a file that left the path, and gives up the oldest if there are too many.
    fn retire(&mut self, mut tail: Tail, state: &mut LogState, reader: &mut Reader) {
        tail.last_byte = reader.now;
        self.retired.push(tail);
        if self.retired.len() > MAX_RETIRED {
            let oldest = self.retired.remove(0);
            reader.finish(oldest, state);
        }
    }

    /// Reads on in the files that left the path, and closes those that have been quiet for long.
    fn read_retired(&mut self, state: &mut LogState, reader: &mut Reader) -> bool {
        let mut any = false;
        for mut tail in std::mem::take(&mut self.retired) {
            if self.current.as_ref().is_some_and(|current| tail.has_become_a_copy_of(current)) {
                // If what it is a copy of is truncated, what it holds more is found again.
                reader.known.open.remove(&tail.place.identity);
                continue;
            }
            let read = reader.drain(&mut tail, state);
            state.counts.read_errors += u64::from(read.is_err());
            any |= matches!(read, Ok(Drained::Bytes));
            if matches!(read, Ok(Drained::Truncated)) {
                reader.known.leave(tail.place);
            } else if reader.now.duration_since(tail.last_byte) < LINGER {
                self.retired.push(tail);
            } else {
                reader.finish(tail, state);
            }
        }
        any
    }

    /// Takes up again what an earlier run of the program was reading and what has left the path since.
    fn take_up(&mut self, state: &mut LogState, reader: &mut Reader) {
        let Some(kept) = self.resumed.take() else { return };
        let now = metadata(&self.path).ok().map(|found| Identity::of(&found));
        let mut there = siblings::find(&self.path).unwrap_or_default();
        match siblings::find(kept.real.as_ref().unwrap_or(&self.path)) {
            Ok(more) => there.extend(more),
            // The folder is away.
            Err(_) if now.is_none() => return self.resumed = Some(kept),
            Err(_) => {}
        }
        let is_other = now.is_some_and(|now| kept.places.iter().all(|place| place.identity != now));
        // Where the path led nowhere, nothing was rotated.
        state.counts.rotations += u64::from(is_other && !kept.places.is_empty());
        for (path, found) in there {
            let identity = Identity::of(&found);
            let was_read = kept.places.iter().any(|place| place.identity == identity);
            if !was_read || now == Some(identity) || reader.known.open.contains(&identity) {
                continue;
            }
            let Some(place) = reader.known.left.get(&identity).map(|(_, place)| place.clone()) else {
                continue;
            };
            if let Ok(file) = File::open(path)
                && place.holds(&file, found.len()).is_ok_and(|holds| holds)
            {
                self.keep_reading(file, place, state, reader);
            }
        }
        if now.is_none() {
            self.sweep(vec![], state, reader);
        }
    }

    /// Finds, by their names beside the path (`mail.log.1`, `mail.log-20261123`), files with lines that nobody has
    /// read: those that came and went at the path between two looks, born after it was last seen to lead elsewhere;
    /// and copies of files that were read up to `origins` and truncated or left since, or of those that are read no
    /// longer.
    fn sweep(&mut self, mut origins: Vec<Place>, state: &mut LogState, reader: &mut Reader) {
        let present = metadata(&self.path).ok().map(|found| Identity::of(&found));
        // That is no rotated file; and a link may lead elsewhere by now.
        let here = self.real.as_ref().unwrap_or(&self.path);
        for (path, found) in siblings::find(here).unwrap_or_default() {
            let identity = Identity::of(&found);
            if reader.known.has(&identity) || present == Some(identity) {
                continue;
            }
            let Ok(file) = File::open(path) else { continue };
            let length = read(&file, &mut reader.buffer[..FINGERPRINT], 0).unwrap_or_default();
            let head = &reader.buffer[..length];
            let is_new = identity.birth.is_some_and(|birth| birth >= self.seen);
            let is_copy = |origin: &&Place| {
                begin_alike(&origin.head, head) || !origin.head.is_empty() && head.starts_with(&origin.head)
            };
            // What a copy holds of a file that is still read will be read there.
            let is_there = self.current.iter().chain(&self.retired).any(|tail| tail.begins_as(head));
            let is_left = |left: &&Place| is_new && !is_there && begin_alike(&left.head, head);
            let left = || reader.known.left().filter(is_left).max_by_key(|left| left.offset);
            let origin = origins.iter().rev().find(is_copy).or_else(left).cloned();
            let place = match origin {
                Some(origin) if origin.holds(&file, found.len()).is_ok_and(|holds| holds) => {
                    Place { identity, ..origin }
                }
                None if !is_new => continue,
                None if !is_there => {
                    state.counts.rotations += 1;
                    Place::start(identity)
                }
                _ => {
                    // All of it was read before it was copied.
                    reader.known.leave(Place::unread(identity, found.len()));
                    continue;
                }
            };
            origins.push(self.keep_reading(file, place, state, reader));
        }
    }

    /// Reads `file`, which is not at the path, from now until it has been quiet for long; returns how far it goes.
    fn keep_reading(&mut self, file: File, place: Place, state: &mut LogState, reader: &mut Reader) -> Place {
        reader.known.left.remove(&place.identity);
        reader.known.open.insert(place.identity);
        let mut tail = Tail { file, length: place.offset, place, last_byte: reader.now };
        while matches!(reader.drain(&mut tail, state), Ok(Drained::Bytes)) {}
        let end = tail.place.clone();
        self.retire(tail, state, reader);
        end
    }

    /// Takes what is left in all its files, and ends.
    pub fn end(mut self, state: &mut LogState, reader: &mut Reader) {
        for tail in self.current.take().into_iter().chain(std::mem::take(&mut self.retired)) {
            reader.finish(tail, state);
        }
    }
}

fn in_words(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        ErrorKind::NotFound => format!("{path} is not there yet and is waited for"),
        ErrorKind::IsADirectory => {
            format!("{path} is no regular file: give --dovecot.log-file the file that Dovecot logs to")
        }
        ErrorKind::PermissionDenied => {
            format!(
                "{path} may not be read: let the user of the exporter read it, for instance as a member of its group"
            )
        }
        _ if rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::MFILE) => {
            format!("{path} cannot be opened ({error}): raise LimitNOFILE, or follow fewer files")
        }
        _ => format!("{path} cannot be read ({error}): check the file system it is on"),
    }
}
