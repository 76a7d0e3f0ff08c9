//! Which files the method reaches beside those at the paths: by their names, and as copies of others.

use super::{Disk, Ideal, NAMES, Place, numbers};

impl Ideal {
    /// Passes over what was read of the original of a copy.
    pub(super) fn skip_copied(&mut self, file: usize, disk: &Disk) {
        let (found, at_start) = (&disk.files[file], self.known[&file].offset == 0);
        let Some((source, epoch)) = found.source.filter(|_| at_start) else { return };
        let place = self.known.get(&source).filter(|place| place.epoch == epoch && place.offset > 0);
        let Some(Place { offset, .. }) = place.copied().filter(|place| place.offset <= found.bytes.len())
        else {
            self.exact = false;
            if self.is_open(source) {
                // Another path led to the original, whose lines were not read yet.
                self.twice.extend(numbers(&found.bytes));
                self.maybe.extend(numbers(&found.bytes));
            }
            return;
        };
        if !found.bytes[..offset].contains(&b'\n') {
            self.exact = false;
            self.maybe.extend(numbers(&found.bytes).take(1));
        }
        self.known.insert(file, Place { offset, epoch: found.epoch, length: offset });
    }

    /// Finds again, after a start, what the program was reading.
    pub(super) fn take_up(&mut self, here: usize, disk: &Disk) {
        if disk.away {
            return;
        }
        let Some(kept) = self.follows[here].kept.take() else { return };
        let present = self.follows[here].resolve(disk);
        let rotated = !kept.is_empty() && present.is_some_and(|present| !kept.contains(&present));
        self.rotations += u64::from(rotated);
        let mut there = self.follows[here].siblings(disk);
        there.extend(self.follows[here].real.iter().flat_map(|real| disk.siblings(NAMES[*real])));
        for file in there {
            if kept.contains(&file)
                && present != Some(file)
                && !self.is_open(file)
                && !self.is_truncated(file, disk)
            {
                self.happened.push("taken up");
                self.enter(file, disk);
                self.read(file, disk);
                self.retire(here, file, disk);
            }
        }
        if present.is_none() {
            self.sweep(here, vec![], disk);
        }
    }

    /// Where to go on in a copy that was found, or nothing if all of it is or will be read in its original.
    fn place_in_copy(
        &mut self,
        here: usize,
        copy: usize,
        (source, epoch): (usize, u32),
        origins: &[(usize, Place)],
        disk: &Disk,
    ) -> Option<Place> {
        let bytes = &disk.files[copy].bytes;
        self.happened.push("copy");
        if !bytes.contains(&b'\n') {
            self.slack += 1;
            self.exact &= bytes.is_empty();
        }
        if self.is_anothers(here, source) {
            self.exact = false;
            self.twice.extend(numbers(bytes));
            self.maybe.extend(numbers(bytes));
        }
        let is_there = self.is_open(source) && disk.files[source].epoch == epoch;
        let origin = origins.iter().find(|origin| origin.0 == source).map(|origin| origin.1);
        let place = origin.or_else(|| self.known.get(&source).copied());
        // Another copy of it may be read.
        self.exact &= origin.is_some() || is_there;
        match place.filter(|place| place.epoch == epoch && place.offset > 0) {
            Some(place) if place.offset > bytes.len() => None,
            _ if origin.is_none() && is_there => None,
            Some(Place { offset, .. }) => {
                if origin.is_none() && !bytes[..offset].contains(&b'\n') {
                    // Less than a line was read of the original: nobody can tell that this is a copy.
                    self.exact = false;
                    self.maybe.extend(numbers(bytes).take(1));
                }
                Some(Place { offset, epoch: 0, length: offset })
            }
            None => {
                self.exact = false;
                Some(Place::default())
            }
        }
    }

    /// Finds what came and went between two looks, and copies of what was truncated.
    pub(super) fn sweep(&mut self, here: usize, mut origins: Vec<(usize, Place)>, disk: &Disk) {
        let (seen, present) = (self.follows[here].seen, self.follows[here].resolve(disk));
        let real = self.follows[here].real.or(self.follows[here].name);
        for file in real.map(|real| disk.siblings(NAMES[real])).unwrap_or_default() {
            let found = &disk.files[file];
            if self.known.contains_key(&file) || present == Some(file) || found.born.tick < seen.tick {
                continue;
            }
            if found.born.order <= seen.order {
                // Too old, by less than a tick.
                self.happened.push("too old by less than a tick");
                self.exact = false;
                self.loose.insert(file);
                self.twice.extend(numbers(&found.bytes));
                self.maybe.extend(numbers(&found.bytes));
                continue;
            }
            let mut is_read = false;
            let place = match found.source {
                None => {
                    self.rotations += 1;
                    self.happened.push("swept");
                    Place::default()
                }
                Some(original) => {
                    let place = self.place_in_copy(here, file, original, &origins, disk);
                    is_read = place.is_none();
                    let length = found.bytes.len();
                    place.unwrap_or(Place { offset: length, epoch: 0, length })
                }
            };
            self.known.insert(file, place);
            if !is_read {
                self.read(file, disk);
                // A later copy goes on where this one ends.
                if let Some((source, epoch)) = found.source {
                    let end = Place { epoch, ..self.known[&file] };
                    origins.insert(0, (source, end));
                }
                self.retire(here, file, disk);
            }
        }
    }
}
