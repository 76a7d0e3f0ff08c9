//! Files to bytes: what was written since the last look, through rotation, truncation and absence.
//!
//! A pass is made of looks, not of events: it compares what the path leads to now with what it led to before, so
//! that a missed event costs time and never a line. Known losses: what copytruncate destroys between our last read
//! and the truncation; a file that is made and removed within one pass, or, where the file system tells no times of
//! birth, made and renamed. Known repetition: a copy that is made just before its original is replaced.

use std::{
    fs::{File, Metadata, metadata},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use memchr::memmem::Finder;

use super::{
    grammar::{self, Event},
    lines::Lines,
    place::{Identity, Place, file_clock},
};

/// Bytes read at once and then searched several times, so no more than the first-level cache holds.
const BLOCK: usize = 32 * 1024;
/// Blocks that one file may have in one pass, some milliseconds' work, so that a flood in it does not starve the
/// others.
const TURN: usize = 512;
/// A file that left the path is read on until so long after its last byte: Dovecot keeps writing to it until it
/// is told to reopen its log.
const LINGER: Duration = Duration::from_secs(30);
/// Files that left the path and are still read. One more, and the oldest is given up.
const MAX_RETIRED: usize = 8;
/// Places remembered of files that are no longer read, in case the path leads to one again.
const MAX_PLACES: usize = 64;
/// Takes an event and the ident under which syslog has it; returns whether it is of the watched instance.
type OnEvent<'a> = &'a mut dyn FnMut(Option<&str>, Event) -> bool;

/// What is known of one log file.
#[derive(Clone, Debug)]
pub struct LogState {
    /// As it was given.
    pub path: PathBuf,
    /// Why nothing can be read, in words for the administrator; nothing if all is well.
    pub trouble: Option<String>,
    /// Bytes of the present file that were read.
    pub position: u64,
    /// Bytes of the present file.
    pub size: u64,
    /// When bytes were last read.
    pub last_read: Option<SystemTime>,
    /// Newlines read.
    pub lines: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Times the path led to another file.
    pub rotations: u64,
    /// Times the file was shorter than our place, or other than what we had read of it.
    pub truncations: u64,
    /// Lines longer than [`super::lines::MAX_LINE`], which were not looked at.
    pub oversized_lines: u64,
    /// Failed attempts to open or read.
    pub read_errors: u64,
    /// Lines with the text of a drop warning that the master of the watched instance did not log.
    pub unanchored_warnings: u64,
}

impl LogState {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            trouble: None,
            position: 0,
            size: 0,
            last_read: None,
            lines: 0,
            bytes: 0,
            rotations: 0,
            truncations: 0,
            oversized_lines: 0,
            read_errors: 0,
            unanchored_warnings: 0,
        }
    }
}

/// An open file and the place in it.
#[derive(Debug)]
struct Tail {
    file: File,
    place: Place,
    lines: Lines,
    /// The file's time of change when its fingerprint was last found in it.
    checked: Option<SystemTime>,
    last_byte: Instant,
}

/// One path.
#[derive(Debug)]
struct Source {
    state: LogState,
    current: Option<Tail>,
    retired: Vec<Tail>,
    places: Vec<Place>,
    /// When the path was last seen to lead to the current file, by the clock that stamps files.
    seen: SystemTime,
}

/// All the log files.
#[derive(Debug)]
pub struct Follower {
    sources: Vec<Source>,
    block: Vec<u8>,
    needles: Vec<Finder<'static>>,
}

impl Follower {
    /// Follows `paths`, each from the end of what it leads to now, or from the start if that was made after `since`
    /// or is still to be made.
    pub fn new(paths: &[PathBuf], since: SystemTime) -> Self {
        let sources = paths.iter().map(|path| Source::new(path, since)).collect();
        Self { sources, block: vec![0; BLOCK], needles: grammar::NEEDLES.map(Finder::new).to_vec() }
    }

    /// Reads what was written since the last pass and hands over its events; returns whether there was anything.
    pub fn pass(&mut self, on_event: OnEvent) -> bool {
        let mut reader = Reader { block: &mut self.block, needles: &self.needles, on_event };
        let read = self.sources.iter_mut().map(|source| source.pass(&mut reader));
        read.fold(false, |any, one| any | one)
    }

    /// What is known of each file, in the order in which they were given.
    pub fn states(&self) -> Vec<LogState> {
        self.sources.iter().map(|source| source.state.clone()).collect()
    }
}

/// What all the files share while they are read.
struct Reader<'a> {
    block: &'a mut [u8],
    needles: &'a [Finder<'static>],
    on_event: OnEvent<'a>,
}

impl Reader<'_> {
    /// Reads `tail` to its end, at most for one turn; returns whether there was anything.
    fn drain(&mut self, tail: &mut Tail, state: &mut LogState) -> io::Result<bool> {
        for turn in 0..TURN {
            let length = match tail.file.read(self.block) {
                Ok(0) => return Ok(turn > 0),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let block = &self.block[..length];
            tail.place.advance(block);
            tail.last_byte = Instant::now();
            state.last_read = Some(SystemTime::now());
            state.bytes += length as u64;
            let mut on_line = |line: &[u8]| take(line, &mut state.unanchored_warnings, self.on_event);
            let counts = tail.lines.feed(block, self.needles, &mut on_line);
            state.lines += counts.lines;
            state.oversized_lines += counts.oversized;
            if length < self.block.len() {
                break;
            }
        }
        Ok(true)
    }

    /// Takes what is left of a file that will not be read any more.
    fn finish(&mut self, mut tail: Tail, state: &mut LogState) -> Place {
        tail.lines
            .finish(self.needles, &mut |line| take(line, &mut state.unanchored_warnings, self.on_event));
        tail.place
    }
}

fn take(line: &[u8], unanchored: &mut u64, on_event: OnEvent) {
    let ours = grammar::parse(line).is_some_and(|(ident, event)| on_event(ident, event));
    *unanchored += u64::from(!ours && grammar::mentions_drop(line));
}

impl Source {
    fn new(path: &Path, since: SystemTime) -> Self {
        // What is there now stays uncounted, even if it may not be opened yet.
        let now = metadata(path).ok().filter(Metadata::is_file);
        let now = now.filter(|now| now.created().map_or(true, |birth| birth <= since));
        let place =
            |now: Metadata| Place { identity: Identity::of(&now), offset: now.len(), fingerprint: vec![] };
        let places = now.map(place).into_iter().collect();
        let state = LogState::new(path);
        let mut source = Self { state, current: None, retired: vec![], places, seen: file_clock() };
        // At once, so that it is read to its end even if it leaves the path before the first pass.
        source.current = source.open().ok();
        source
    }

    fn pass(&mut self, reader: &mut Reader) -> bool {
        let retired = self.read_retired(reader);
        let current = self.read_current(reader);
        // Also when the present file cannot be read any more: the path may lead to a better one.
        let looked = self.look(reader);
        let read = [&current, &looked].into_iter().any(|any| matches!(any, Ok(true)));
        let looked = current.and(looked);
        self.state.position = self.current.as_ref().map_or(0, |tail| tail.place.offset);
        match looked {
            Ok(_) => self.state.trouble = None,
            Err(error) => {
                self.state.read_errors += u64::from(error.kind() != ErrorKind::NotFound);
                self.state.trouble = Some(in_words(&self.state.path, &error));
            }
        }
        retired | read
    }

    /// Reads on in the file that the path led to, whether it still does or not.
    fn read_current(&mut self, reader: &mut Reader) -> io::Result<bool> {
        let Some(tail) = &mut self.current else { return Ok(false) };
        let now = tail.file.metadata()?;
        if tail.checked != now.modified().ok() || now.len() != tail.place.offset {
            if !tail.place.holds(&tail.file, now.len())? {
                tail.file.seek(SeekFrom::Start(0))?;
                tail.place = Place::start(tail.place.identity);
                tail.lines = Lines::default();
                self.state.truncations += 1;
            }
            tail.checked = now.modified().ok();
        }
        reader.drain(tail, &mut self.state)
    }

    /// Looks where the path leads to, and changes over if it is another file.
    fn look(&mut self, reader: &mut Reader) -> io::Result<bool> {
        let found = metadata(&self.state.path)?;
        self.state.size = found.len();
        if self.current.as_ref().is_some_and(|tail| tail.place.identity == Identity::of(&found)) {
            self.seen = file_clock();
            return Ok(false);
        }
        let new = self.open()?;
        if let Some(mut old) = self.current.replace(new) {
            self.state.rotations += 1;
            // What was written to it before the path changed, and what its writer still writes, is yet to be read.
            old.last_byte = Instant::now();
            self.retire(old, reader);
        }
        self.sweep(reader);
        self.seen = file_clock();
        self.read_current(reader)?;
        Ok(true)
    }

    /// Opens what the path leads to, at the place that is remembered of it, else at its start.
    fn open(&mut self) -> io::Result<Tail> {
        // Opening a pipe would wait for its writer.
        if !metadata(&self.state.path)?.is_file() {
            return Err(ErrorKind::IsADirectory.into());
        }
        let mut file = File::open(&self.state.path)?;
        let identity = Identity::of(&file.metadata()?);
        if let Some(index) = self.retired.iter().position(|tail| tail.place.identity == identity) {
            return Ok(self.retired.remove(index));
        }
        let known = self.places.iter().position(|place| place.identity == identity);
        let place = known.map(|index| self.places.remove(index));
        let mut place = match place {
            Some(place) if place.holds(&file, file.metadata()?.len())? => place,
            _ => Place::start(identity),
        };
        place.take_fingerprint(&file)?;
        file.seek(SeekFrom::Start(place.offset))?;
        let whole = place.fingerprint.last().is_none_or(|last| *last == b'\n');
        let lines = if whole { Lines::default() } else { Lines::mid_line() };
        Ok(Tail { file, place, lines, checked: None, last_byte: Instant::now() })
    }

    /// Keeps a file that left the path, and gives up the oldest if there are too many.
    fn retire(&mut self, tail: Tail, reader: &mut Reader) {
        self.retired.push(tail);
        if self.retired.len() > MAX_RETIRED {
            let mut oldest = self.retired.remove(0);
            let size = oldest.file.metadata().map_or(0, |now| now.len());
            while oldest.place.offset < size && reader.drain(&mut oldest, &mut self.state).unwrap_or(false) {}
            let place = reader.finish(oldest, &mut self.state);
            self.remember(place);
        }
    }

    fn remember(&mut self, place: Place) {
        self.places.push(place);
        if self.places.len() > MAX_PLACES {
            self.places.remove(0);
        }
    }

    /// Reads on in the files that left the path, and closes those that have been quiet for long.
    fn read_retired(&mut self, reader: &mut Reader) -> bool {
        let mut any = false;
        for mut tail in std::mem::take(&mut self.retired) {
            let read = reader.drain(&mut tail, &mut self.state);
            self.state.read_errors += u64::from(read.is_err());
            any |= read.is_ok_and(|read| read);
            if tail.last_byte.elapsed() < LINGER {
                self.retired.push(tail);
            } else {
                let place = reader.finish(tail, &mut self.state);
                self.remember(place);
            }
        }
        any
    }

    /// Finds files that came and went at the path between two looks, by their names beside it (`mail.log.1`,
    /// `mail.log-20261123`): born after the path was last seen to lead elsewhere, and never read.
    fn sweep(&mut self, reader: &mut Reader) {
        for (path, found) in siblings(&self.state.path).unwrap_or_default() {
            let identity = Identity::of(&found);
            let tails = self.current.iter().chain(&self.retired).map(|tail| &tail.place);
            let known = tails.chain(&self.places).any(|place| place.identity == identity);
            if known || identity.birth.is_none_or(|birth| birth < self.seen) {
                continue;
            }
            if let Ok(file) = File::open(path) {
                let place = Place::start(identity);
                let tail =
                    Tail { file, place, lines: Lines::default(), checked: None, last_byte: Instant::now() };
                self.state.rotations += 1;
                self.retire(tail, reader);
            }
        }
        self.read_retired(reader);
    }
}

/// The files beside `path` that a rotation may have made of it, except compressed ones.
fn siblings(path: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let path = path.canonicalize()?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(vec![]) };
    let name = name.as_encoded_bytes();
    let mut found = Vec::new();
    for entry in folder.read_dir()? {
        let Ok(entry) = entry else { continue };
        let other = entry.file_name();
        let suffix = other.as_encoded_bytes().strip_prefix(name).unwrap_or_default();
        let compressed = [&b".gz"[..], b".xz", b".zst", b".bz2"].iter().any(|end| suffix.ends_with(end));
        if matches!(suffix, [b'.' | b'-', ..]) && !compressed {
            // One that is renamed meanwhile must not hide the others.
            found.extend(entry.metadata().ok().map(|metadata| (entry.path(), metadata)));
        }
    }
    found.retain(|(_, metadata)| metadata.is_file());
    found.sort_by_key(|(_, metadata)| metadata.created().ok());
    Ok(found)
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
        _ => format!("{path} cannot be read ({error}): check the file system it is on"),
    }
}

#[cfg(test)]
mod tests;
