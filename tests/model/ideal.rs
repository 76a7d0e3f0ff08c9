//! What a follower would count that knew every file for certain: by which names it reaches files is the method's,
//! what is in them is the truth.
//!
//! It counts numbers, not places: a line counts when it is whole in a file that is reached, once, wherever else it
//! stands. It has no fingerprint, no inode number and no time of birth. What it does not reach, nobody counts: lines
//! that were destroyed before a pass, and files that left every path and every name of a rotation before one.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    disk::{Disk, Moment, numbers},
    script::NAMES,
};

mod reach;

/// A file that left the path is read so many milliseconds longer.
pub const LINGER: u64 = 30_000;
/// So many of them.
const MAX_RETIRED: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    offset: usize,
    epoch: u32,
    /// Bytes in the file when it was read.
    length: usize,
}

/// One path.
#[derive(Clone, Debug)]
struct Follow {
    /// The log, or nothing: the link.
    name: Option<usize>,
    current: Option<usize>,
    /// Files that left the path, and when they were last found to grow.
    retired: Vec<(usize, u64)>,
    /// When the path was last seen to lead to the current file.
    seen: Moment,
    /// Where the path really led when that was found.
    real: Option<usize>,
    /// What was read when the program ended, unless that is taken up already.
    kept: Option<Vec<usize>>,
    read: u64,
    there: u64,
}

/// What is in the program's memory.
#[derive(Clone, Debug, Default)]
pub struct Ideal {
    follows: Vec<Follow>,
    known: BTreeMap<usize, Place>,
    pub counted: BTreeSet<u32>,
    /// What was there before the program first started.
    ignored: BTreeSet<u32>,
    /// Lines of which nobody can say.
    pub maybe: BTreeSet<u32>,
    /// Lines of copies whose originals are read for another path: by their names nobody knows them for copies.
    pub twice: BTreeSet<u32>,
    /// Files of which nobody can say whether they are read.
    loose: BTreeSet<usize>,
    now: u64,
    pub lines: u64,
    pub bytes: u64,
    pub rotations: u64,
    /// So many more are as good: a copy of less than a line may be taken for a file that came and went.
    pub slack: u64,
    pub truncations: u64,
    /// Not only the numbers are certain, but how much was read for them.
    pub exact: bool,
    /// What happened, for the statistics.
    pub happened: Vec<&'static str>,
}

fn is_pattern(name: Option<usize>) -> bool {
    name.is_some_and(|name| NAMES[name].starts_with('p'))
}

impl Follow {
    fn target(&self, disk: &Disk) -> usize {
        self.name.unwrap_or(disk.link)
    }

    fn resolve(&self, disk: &Disk) -> Option<usize> {
        if disk.away { None } else { disk.at(self.target(disk)) }
    }

    /// The files beside what the path leads to.
    fn siblings(&self, disk: &Disk) -> Vec<usize> {
        // A link that leads nowhere has none.
        let has_some = self.name.is_some() || self.resolve(disk).is_some();
        if has_some { disk.siblings(NAMES[self.target(disk)]) } else { vec![] }
    }
}

fn matches(disk: &Disk) -> impl Iterator<Item = usize> {
    (0..NAMES.len()).filter(|name| is_pattern(Some(*name)) && !disk.away && disk.at(*name).is_some())
}

impl Ideal {
    /// The first start: what is there stays uncounted.
    pub fn new(disk: &Disk, now: u64) -> Self {
        let mut ideal = Self { now, exact: true, ..Self::default() };
        for name in [Some(0), None].into_iter().chain(matches(disk).map(Some)) {
            let here = ideal.follow(name, disk);
            if let Some(file) = ideal.follows[here].resolve(disk)
                && !ideal.known.contains_key(&file)
            {
                let length = disk.files[file].bytes.len();
                ideal.known.insert(file, Place { offset: length, epoch: disk.files[file].epoch, length });
                ideal.ignored.extend(numbers(&disk.files[file].bytes));
                ideal.ignored.extend(disk.files[file].begun);
            }
            ideal.open_at_once(here, disk);
        }
        ideal
    }

    /// A start with what was saved.
    pub fn resume(&self, disk: &Disk, now: u64) -> Self {
        let mut ideal = self.clone();
        ideal.now = now;
        for follow in &mut ideal.follows {
            let read =
                follow.current.take().into_iter().chain(follow.retired.drain(..).map(|(file, _)| file));
            let read = read.collect();
            follow.kept.get_or_insert(read);
            (follow.read, follow.there) = (now, now);
        }
        ideal.follow_new(disk);
        ideal
    }

    fn follow(&mut self, name: Option<usize>, disk: &Disk) -> usize {
        let place = self
            .follows
            .iter()
            .position(|follow| is_pattern(name) && follow.name > name && is_pattern(follow.name));
        let place = place.unwrap_or(self.follows.len());
        let (seen, now) = (disk.now, self.now);
        let follow = Follow {
            name,
            current: None,
            retired: vec![],
            seen,
            real: None,
            kept: None,
            read: now,
            there: now,
        };
        self.follows.insert(place, follow);
        place
    }

    fn follow_new(&mut self, disk: &Disk) {
        for name in matches(disk) {
            if !self.follows.iter().any(|follow| follow.name == Some(name)) {
                let here = self.follow(Some(name), disk);
                self.open_at_once(here, disk);
            }
        }
    }

    fn open_at_once(&mut self, here: usize, disk: &Disk) {
        if let Some(file) = self.follows[here].resolve(disk)
            && !self.is_open(file)
        {
            self.enter(file, disk);
            self.skip_copied(file, disk);
            self.follows[here].current = Some(file);
            self.follows[here].real = Some(self.follows[here].target(disk));
        }
    }

    /// Goes to the place that is known of a file, or to its start; returns the place that it no longer has.
    fn enter(&mut self, file: usize, disk: &Disk) -> Option<Place> {
        let place = self.known.entry(file).or_default();
        let before = *place;
        if before.offset > 0 && before.epoch != disk.files[file].epoch {
            *place = Place::default();
            return Some(before);
        }
        place.length = place.offset;
        None
    }

    fn is_open(&self, file: usize) -> bool {
        self.follows.iter().any(|follow| {
            follow.current == Some(file) || follow.retired.iter().any(|(retired, _)| *retired == file)
        })
    }

    fn is_anothers(&self, here: usize, file: usize) -> bool {
        let (current, retired) = (self.follows[here].current, &self.follows[here].retired);
        self.is_open(file) && current != Some(file) && retired.iter().all(|(retired, _)| *retired != file)
    }

    fn is_truncated(&self, file: usize, disk: &Disk) -> bool {
        self.known.get(&file).is_some_and(|place| place.offset > 0 && place.epoch != disk.files[file].epoch)
    }

    /// One pass of the program.
    pub fn pass(&mut self, disk: &Disk, look: bool, now: u64) {
        self.now = now;
        let patterns =
            self.follows.iter().position(|follow| is_pattern(follow.name)).unwrap_or(self.follows.len());
        (0..patterns).for_each(|here| self.pass_one(here, look, disk));
        if look {
            for here in (patterns..self.follows.len()).rev() {
                let follow = &self.follows[here];
                if follow.resolve(disk).is_none() && now - follow.read.max(follow.there) >= LINGER {
                    let gone = self.follows.remove(here);
                    let files = gone.current.into_iter().chain(gone.retired.iter().map(|(file, _)| *file));
                    files.for_each(|file| self.give_up(file, disk));
                }
            }
            self.follow_new(disk);
        }
        (patterns..self.follows.len()).for_each(|here| self.pass_one(here, look, disk));
        for file in &self.loose {
            let all = numbers(&disk.files[*file].bytes);
            self.maybe.extend(
                all.filter(|number| !self.counted.contains(number) && !self.ignored.contains(number)),
            );
        }
    }

    /// Whether a glance would do as a look does: nobody can say.
    pub fn is_loose(&self) -> bool {
        !self.loose.is_empty()
    }

    fn pass_one(&mut self, here: usize, look: bool, disk: &Disk) {
        let mut read = self.read_retired(here, disk);
        read |= self.read_current(here, disk);
        if look || !read {
            read |= self.look(here, disk);
        }
        if read {
            self.follows[here].read = self.now;
        }
    }

    /// Counts the whole lines of a file; returns whether it has grown.
    fn read(&mut self, file: usize, disk: &Disk) -> bool {
        let bytes = &disk.files[file].bytes;
        for number in numbers(bytes) {
            if self.ignored.contains(&number) || self.maybe.contains(&number) {
            } else if self.loose.contains(&file) {
                self.maybe.insert(number);
            } else {
                self.counted.insert(number);
            }
        }
        let place = self.known.entry(file).or_default();
        if place.epoch != disk.files[file].epoch {
            *place = Place { epoch: disk.files[file].epoch, offset: 0, ..*place };
        }
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        // A line that was entered in its middle is passed over as it comes.
        let end = if place.offset > end { bytes.len() } else { end };
        self.lines += bytes[place.offset..end].split(|byte| *byte == b'\n').count() as u64 - 1;
        self.bytes += (end - place.offset) as u64;
        let grown = place.length != bytes.len();
        (place.offset, place.length) = (end, bytes.len());
        grown
    }

    fn read_current(&mut self, here: usize, disk: &Disk) -> bool {
        let Some(file) = self.follows[here].current else { return false };
        if !self.is_truncated(file, disk) {
            return self.read(file, disk);
        }
        self.truncations += 1;
        self.happened.push("truncated");
        let before = self.known.insert(file, Place::default());
        self.sweep(here, before.map(|before| (file, before)).into_iter().collect(), disk);
        self.read(file, disk);
        true
    }

    fn read_retired(&mut self, here: usize, disk: &Disk) -> bool {
        let mut any = false;
        for (file, mut last) in std::mem::take(&mut self.follows[here].retired) {
            if self.is_truncated(file, disk) {
                continue;
            }
            if self.read(file, disk) {
                last = self.now;
                any = true;
            }
            if self.now - last < LINGER {
                self.follows[here].retired.push((file, last));
            } else {
                self.give_up(file, disk);
            }
        }
        any
    }

    fn retire(&mut self, here: usize, file: usize, disk: &Disk) {
        self.follows[here].retired.push((file, self.now));
        if self.follows[here].retired.len() > MAX_RETIRED {
            // Those that were found at once were found in any order.
            self.happened.push("too many");
            let (oldest, _) = self.follows[here].retired.remove(0);
            self.exact = false;
            self.loose.extend(self.follows[here].retired.iter().map(|(file, _)| *file));
            self.loose.insert(oldest);
            self.give_up(oldest, disk);
        }
    }

    /// Reads a file for the last time: what it lacks of a line is not waited for.
    fn give_up(&mut self, file: usize, disk: &Disk) {
        if self.is_truncated(file, disk) {
            return;
        }
        self.read(file, disk);
        self.happened.push("given up");
        self.maybe.extend(disk.files[file].begun.filter(|number| !self.ignored.contains(number)));
        let (place, length) = (self.known.entry(file).or_default(), disk.files[file].bytes.len());
        self.bytes += (length - place.offset) as u64;
        place.offset = length;
        if length > 0 && !disk.files[file].bytes.contains(&b'\n') {
            // By less than a line nobody knows it again.
            self.exact = false;
            self.loose.insert(file);
        }
    }

    /// Looks where a path leads to; returns whether to another file.
    fn look(&mut self, here: usize, disk: &Disk) -> bool {
        self.take_up(here, disk);
        let Some(file) = self.follows[here].resolve(disk) else { return false };
        self.follows[here].there = self.now;
        if self.follows[here].current == Some(file) {
            self.follows[here].seen = disk.now;
            return false;
        }
        let own = self.follows[here].retired.iter().position(|(retired, _)| *retired == file);
        if own.is_none() && self.is_open(file) {
            self.happened.push("another's");
            if let Some(old) = self.follows[here].current.take() {
                self.retire(here, old, disk);
            }
            return false;
        }
        let mut origins = vec![];
        if let Some(own) = own {
            self.follows[here].retired.remove(own);
        } else {
            origins.extend(self.enter(file, disk).map(|before| (file, before)));
            self.truncations += origins.len() as u64;
        }
        if let Some(old) = self.follows[here].current.take() {
            self.rotations += 1;
            self.happened.push("rotated");
            if !self.is_truncated(old, disk) {
                self.read(old, disk);
            }
            origins.push((old, self.known[&old]));
            self.retire(here, old, disk);
        }
        self.follows[here].current = Some(file);
        self.follows[here].real = Some(self.follows[here].target(disk));
        self.skip_copied(file, disk);
        self.sweep(here, origins, disk);
        self.follows[here].seen = disk.now;
        self.read_current(here, disk);
        true
    }
}
