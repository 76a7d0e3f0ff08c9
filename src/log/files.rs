//! Files and patterns of them: which paths there are, each with a fair turn.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    follow::{Follower, Kept, LINGER},
    grammar::{self, OnFound},
    needles::Needles,
    place::Place,
    siblings::is_compressed,
    state::{LogState, Progress},
    tail::{BUFFER, Known, Reader},
};

/// Most files that are followed. Each takes a descriptor.
pub const MAX_FILES: usize = 10_000;
/// So many files are all read in each pass; of more, those that grow.
pub const FEW: usize = 64;
/// The longest time between two looks at every path, while there are few.
pub const LOOK: Duration = Duration::from_millis(250);
/// Looks at every path take no more than one part in so many of the time.
const LOOK_SHARE: u32 = 100;
/// How long lines are thought to flow on after the last one.
pub const FLOW: Duration = Duration::from_millis(50);

/// What one flag names: a file, or a pattern of files.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    state: LogState,
    followers: BTreeMap<PathBuf, Follower>,
}

/// All the files.
#[derive(Debug)]
pub struct Files {
    logs: Vec<Log>,
    /// Of logs that an earlier run followed and this one does not: `doveconf` may yet name one of them.
    others: BTreeMap<String, BTreeMap<String, Kept>>,
    known: Known,
    buffer: Vec<u8>,
    looked: Option<Instant>,
    look_every: Duration,
    /// A file is not read to its end yet.
    pub more: bool,
}

/// What a restart needs to know of all the files.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeptFiles {
    /// By log as it was given, and by path.
    logs: BTreeMap<String, BTreeMap<String, Kept>>,
    /// How far files were read to which no path leads.
    left: Vec<Place>,
}

impl KeptFiles {
    /// Whether anybody can have left them so: all places are possible ones, and a file is kept by its own path.
    pub fn are_possible(&self) -> bool {
        let own = |(log, paths): (&String, &BTreeMap<String, Kept>)| {
            is_pattern(Path::new(log)) || paths.keys().all(|path| path == log)
        };
        let kept = self.logs.values().flat_map(BTreeMap::values);
        let mut places = kept.flat_map(|kept| &kept.places).chain(&self.left);
        self.logs.iter().all(own) && places.all(Place::is_possible)
    }
}

/// Whether `path` stands for several.
pub fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte))
}

impl Files {
    /// Follows files and patterns from where an earlier run of the program left them, as far as `kept` tells; others
    /// from the end of what is there now, or from the start if that was made after `since` or is still to be made.
    pub fn new(paths: &[PathBuf], since: SystemTime, mut kept: KeptFiles) -> Self {
        let mut known = Known::default();
        kept.left.into_iter().for_each(|place| known.leave(place));
        let now = Instant::now();
        let mut make = |path: &PathBuf| {
            let mut log = Log {
                path: path.clone(),
                state: LogState::new(&path.to_string_lossy()),
                followers: BTreeMap::new(),
            };
            // What came to a pattern while nobody followed it is all new.
            let before = kept.logs.remove(&*log.state.log);
            let since = if before.is_some() { SystemTime::UNIX_EPOCH } else { since };
            for (path, kept) in before.into_iter().flatten() {
                let follower = Follower::resume(path.clone().into(), kept, &mut known, now);
                log.followers.insert(path.into(), follower);
            }
            let there = if is_pattern(path) { log.matches() } else { BTreeSet::from([path.clone()]) };
            log.follow(there, MAX_FILES, since, &mut known, now);
            log
        };
        let logs = paths.iter().map(&mut make).collect();
        let (others, buffer) = (kept.logs, vec![0; BUFFER]);
        Self { logs, others, known, buffer, looked: None, look_every: LOOK, more: false }
    }

    /// What [`Self::new`] needs.
    pub fn kept(&self) -> KeptFiles {
        let path =
            |(path, follower): (&PathBuf, &Follower)| (path.to_string_lossy().into_owned(), follower.kept());
        let log = |log: &Log| (log.state.log.to_string(), log.followers.iter().map(path).collect());
        let logs = self.others.clone().into_iter().chain(self.logs.iter().map(log)).collect();
        KeptFiles { logs, left: self.known.left().cloned().collect() }
    }

    /// Reads what was written since the last pass and hands over what it found; returns whether there was anything.
    /// Every path is looked at if it is time to, or if `look` asks for it.
    pub fn pass(&mut self, look: bool, now: Instant, needles: &Needles, on_found: OnFound) -> bool {
        let look = look || self.looked.is_none_or(|looked| now.duration_since(looked) >= self.look_every);
        let unanchored = Cell::new(0);
        let mut on_line = |line: &[u8], before| {
            let forged = grammar::take(line, before, on_found);
            unanchored.set(unanchored.get() + u64::from(forged));
        };
        let (buffer, known) = (&mut self.buffer, &mut self.known);
        let mut reader = Reader { buffer, needles, on_line: &mut on_line, known, now, more: false };
        let mut free = MAX_FILES.saturating_sub(self.logs.iter().map(|log| log.followers.len()).sum());
        let few = MAX_FILES - free <= FEW;
        let began = Instant::now();
        let mut read = false;
        for log in &mut self.logs {
            if look && is_pattern(&log.path) {
                log.expand(&mut free, &mut reader);
            }
            for follower in log.followers.values_mut() {
                if look || few || now.duration_since(follower.read) < FLOW {
                    read |= follower.pass(look, &mut log.state, &mut reader);
                }
            }
            log.sum_up(look);
            log.state.counts.unanchored_warnings += unanchored.take();
        }
        self.more = reader.more;
        if look {
            self.looked = Some(now);
            self.look_every = LOOK.max(began.elapsed() * if few { 1 } else { LOOK_SHARE });
        }
        read
    }

    /// What is known of each file or pattern, in the order in which they were given.
    pub fn states(&self) -> impl Iterator<Item = &LogState> {
        self.logs.iter().map(|log| &log.state)
    }

    /// The same, to be put back to what an earlier run of the program counted.
    pub fn states_mut(&mut self) -> impl Iterator<Item = &mut LogState> {
        self.logs.iter_mut().map(|log| &mut log.state)
    }

    /// The files that are followed.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.logs.iter().flat_map(|log| log.followers.keys()).map(PathBuf::as_path)
    }
}

impl Log {
    /// The files that the pattern matches, without compressed ones and those that a rotation made of another.
    fn matches(&self) -> BTreeSet<PathBuf> {
        let found = glob::glob(&self.path.to_string_lossy()).into_iter().flatten().flatten();
        let whole = |path: &PathBuf| !is_compressed(path.as_os_str().as_encoded_bytes()) && !path.is_dir();
        let mut found: BTreeSet<PathBuf> = found.filter(whole).take(2 * MAX_FILES).collect();
        let all = found.clone();
        found.retain(|path| {
            let name = path.to_string_lossy();
            let start = name.rfind('/').map_or(0, |slash| slash + 1);
            let ends = name.match_indices(['.', '-']).map(|(end, _)| end).filter(|end| *end > start);
            !ends
                .map(|end| Path::new(&name[..end]))
                .any(|before| all.contains(before) || self.followers.contains_key(before))
        });
        found
    }

    /// Follows those of `paths` that are not followed yet, as long as there are fewer than `most`.
    fn follow(
        &mut self,
        paths: BTreeSet<PathBuf>,
        most: usize,
        since: SystemTime,
        known: &mut Known,
        now: Instant,
    ) {
        for path in paths {
            if self.followers.len() < most && !self.followers.contains_key(&path) {
                let follower = Follower::new(path.clone(), since, known, now);
                self.followers.insert(path, follower);
            }
        }
    }

    /// Follows files that have come, and lets those go that are gone.
    fn expand(&mut self, free: &mut usize, reader: &mut Reader) {
        let there = self.matches();
        let gone = |(path, follower): (&PathBuf, &Follower)| {
            let quiet = reader.now.duration_since(follower.read.max(follower.there)) >= LINGER;
            (quiet && !there.contains(path)).then(|| path.clone())
        };
        let gone: Vec<PathBuf> = self.followers.iter().filter_map(gone).collect();
        for path in gone {
            *free += 1;
            self.followers
                .remove(&path)
                .into_iter()
                .for_each(|follower| follower.end(&mut self.state, reader));
        }
        let before = self.followers.len();
        let wanted = there.iter().filter(|path| !self.followers.contains_key(*path)).count();
        self.state.trouble = if there.is_empty() && self.followers.is_empty() {
            Some(format!("no file matches {} yet", self.path.display()))
        } else if wanted > *free {
            Some(format!(
                "more than {MAX_FILES} files match: give --dovecot.log-file a pattern that fewer match"
            ))
        } else {
            None
        };
        // Nobody followed what came since the last look: all of it is new.
        self.follow(there, before + *free, SystemTime::UNIX_EPOCH, reader.known, reader.now);
        *free -= self.followers.len() - before;
    }

    /// Numbers of the pattern, from those of its files.
    fn sum_up(&mut self, look: bool) {
        let followers = || self.followers.values();
        self.state.progress = Some(Progress {
            position: followers().map(Follower::position).sum(),
            size: followers().map(|follower| follower.size.max(follower.position())).sum(),
            files: followers().filter(|follower| follower.is_reading()).count() as u64,
        });
        if look {
            // A file that goes away is no trouble where others may be.
            let mut troubles = followers()
                .filter(|follower| !follower.missing || !is_pattern(&self.path))
                .filter_map(|one| one.trouble.clone());
            let first = troubles.next();
            if first.is_some() || !is_pattern(&self.path) {
                self.state.trouble = first;
            }
        }
    }
}

#[cfg(test)]
mod tests;
