//! The folder of logs: what is done to it, and a memory of what is in it, byte by byte.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::script::{NAMES, Style};

/// A moment: in which order things happened, and in which tick of the clock that stamps files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    pub order: u64,
    pub tick: u64,
}

/// One file, whatever names it has had.
#[derive(Debug)]
pub struct Physical {
    pub bytes: Vec<u8>,
    /// How often it was truncated.
    pub epoch: u32,
    pub born: Moment,
    /// Of which file it is a copy, and how often that had been truncated.
    pub source: Option<(usize, u32)>,
    /// The number of the line that its last bytes begin.
    pub begun: Option<u32>,
}

/// Who writes a log.
#[derive(Debug)]
struct Writer {
    file: usize,
    handle: File,
    /// What is still to be written of a line.
    rest: String,
}

#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    pub files: Vec<Physical>,
    /// By name within the folder.
    pub names: BTreeMap<String, usize>,
    /// The folder is not where it should be.
    pub away: bool,
    /// Where the link leads.
    pub link: usize,
    pub now: Moment,
    writers: BTreeMap<usize, Writer>,
    /// Files without a name: open, so that their inode numbers are not used again within one tick.
    removed: Vec<File>,
    number: u32,
}

/// A warning with its number.
pub fn text(number: u32) -> String {
    format!(
        "Nov 23 15:54:28 master: Warning: service(imap-login): process_limit ({number}) reached, client connections are being dropped\n"
    )
}

/// The numbers of the warnings in `bytes`.
pub fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.split_inclusive(|byte| *byte == b'\n').filter_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let (_, rest) = line.split_once("process_limit (")?;
        let number = rest.split_once(')')?.0.parse().ok()?;
        (line == text(number)).then_some(number)
    })
}

impl Disk {
    pub fn new(root: &Path) -> Self {
        fs::create_dir_all(root.join("logs")).unwrap();
        symlink(root.join("logs").join(NAMES[1]), root.join("link")).unwrap();
        Self {
            root: root.to_owned(),
            files: vec![],
            names: BTreeMap::new(),
            away: false,
            link: 1,
            now: Moment::default(),
            writers: BTreeMap::new(),
            removed: vec![],
            number: 0,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(if self.away { "away" } else { "logs" }).join(name)
    }

    /// The file at a log's name.
    pub fn at(&self, name: usize) -> Option<usize> {
        self.names.get(NAMES[name]).copied()
    }

    fn make(&mut self, name: &str) -> (usize, File) {
        let handle = File::options().append(true).create_new(true).open(self.path(name)).unwrap();
        self.now.order += 1;
        let file = self.files.len();
        self.files.push(Physical { bytes: vec![], epoch: 0, born: self.now, source: None, begun: None });
        self.names.insert(name.to_owned(), file);
        (file, handle)
    }

    fn append(&mut self, file: usize, mut handle: &File, text: &str) {
        handle.write_all(text.as_bytes()).unwrap();
        self.files[file].bytes.extend_from_slice(text.as_bytes());
        if text.ends_with('\n') {
            self.files[file].begun = None;
        }
    }

    /// Opens a log for its writer, and makes it if it is missing; returns whether it can.
    pub fn open(&mut self, name: usize) -> bool {
        if self.away {
            return false;
        }
        let (file, handle) = match self.at(name) {
            Some(file) => (file, File::options().append(true).open(self.path(NAMES[name])).unwrap()),
            None => self.make(NAMES[name]),
        };
        self.writers.insert(name, Writer { file, handle, rest: String::new() });
        true
    }

    fn next(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    /// Writes lines, or of the last one only so much of a hundred; returns whether there is a writer.
    pub fn write(&mut self, name: usize, lines: usize, part: Option<usize>) -> bool {
        if !self.writers.contains_key(&name) && !self.open(name) {
            return false;
        }
        let mut writer = self.writers.remove(&name).unwrap();
        let mut all = std::mem::take(&mut writer.rest);
        for _ in 0..lines {
            all.push_str(&text(self.next()));
        }
        if !all.is_empty() {
            self.append(writer.file, &writer.handle, &all);
        }
        if let Some(part) = part {
            let number = self.next();
            let whole = text(number);
            // Neither part is a warning by itself, nor with a whole one: a service may have any name.
            let (start, end) = ("Nov 23 15:54:28 master: W".len(), whole.find('(').unwrap());
            let (begin, rest) = whole.split_at(start + (end - start) * part / 100);
            self.append(writer.file, &writer.handle, begin);
            self.files[writer.file].begun = Some(number);
            rest.clone_into(&mut writer.rest);
        }
        self.writers.insert(name, writer);
        true
    }

    fn rename(&mut self, from: &str, to: &str) {
        self.unlink(to);
        if let Some(file) = self.names.remove(from) {
            fs::rename(self.path(from), self.path(to)).unwrap();
            self.names.insert(to.to_owned(), file);
        }
    }

    /// Removes a name; returns whether it was there.
    fn unlink(&mut self, name: &str) -> bool {
        let there = self.names.remove(name);
        if there.is_some() {
            self.removed.push(File::open(self.path(name)).unwrap());
            fs::remove_file(self.path(name)).unwrap();
        }
        there.is_some()
    }

    fn rotated(name: usize, number: usize) -> String {
        format!("{}.{number}", NAMES[name])
    }

    /// Makes room for a new `.1`.
    fn shift(&mut self, name: usize) {
        for number in (1..5).rev() {
            if self.names.contains_key(&Self::rotated(name, number)) {
                self.rename(&Self::rotated(name, number), &Self::rotated(name, number + 1));
            }
        }
    }

    /// Copies a log to `.1`, unless other names lead to its file: a copy beside a name under which the program does
    /// not read the file is beyond it.
    pub fn copy(&mut self, name: usize) -> bool {
        let Some(file) = self.at(name).filter(|_| !self.away && self.has_one_name(name)) else {
            return false;
        };
        self.shift(name);
        self.copy_to(file, &Self::rotated(name, 1));
        true
    }

    fn copy_to(&mut self, file: usize, to: &str) {
        let (copy, mut handle) = self.make(to);
        let bytes = self.files[file].bytes.clone();
        handle.write_all(&bytes).unwrap();
        self.files[copy].bytes = bytes;
        self.files[copy].source = Some((file, self.files[file].epoch));
    }

    fn has_one_name(&self, name: usize) -> bool {
        let file = self.at(name);
        self.names.values().filter(|other| Some(**other) == file).count() == 1
    }

    /// Whether a log may be rotated so: a copy that takes its place lacks what others write to it.
    fn allows(&self, name: usize, style: Style) -> bool {
        let file = self.at(name);
        let is_alone = self.writers.iter().all(|(other, writer)| *other == name || Some(writer.file) != file);
        let copies = matches!(style, Style::CopyTruncate | Style::CopyDelete | Style::Edit);
        !self.away
            && file.is_some()
            && (!copies || self.has_one_name(name))
            && (is_alone || !matches!(style, Style::Edit))
    }

    pub fn truncate(&mut self, name: usize) -> bool {
        let Some(file) = self.at(name).filter(|_| !self.away) else { return false };
        File::options().write(true).open(self.path(NAMES[name])).unwrap().set_len(0).unwrap();
        let file = &mut self.files[file];
        file.bytes.clear();
        file.epoch += 1;
        (file.begun, file.source) = (None, None);
        true
    }

    pub fn remove(&mut self, name: usize) -> bool {
        !self.away && self.unlink(NAMES[name])
    }

    pub fn remove_rotated(&mut self, name: usize) -> bool {
        !self.away && self.unlink(&Self::rotated(name, 1))
    }

    pub fn compress(&mut self, name: usize) -> bool {
        let there = self.remove_rotated(name);
        if there {
            let to = format!("{}.gz", Self::rotated(name, 1));
            self.unlink(&to);
            self.make(&to);
        }
        there
    }

    pub fn restore(&mut self, name: usize) -> bool {
        let from = Self::rotated(name, 1);
        let there =
            !self.away && self.names.get(&from).is_some_and(|file| self.files[*file].source.is_none());
        if there {
            self.rename(&from, NAMES[name]);
        }
        there
    }

    pub fn hard_link(&mut self, from: usize, to: usize) -> bool {
        let Some(file) = self.at(from).filter(|_| !self.away && from != to) else { return false };
        self.unlink(NAMES[to]);
        fs::hard_link(self.path(NAMES[from]), self.path(NAMES[to])).unwrap();
        self.names.insert(NAMES[to].to_owned(), file);
        true
    }

    pub fn switch(&mut self, to: usize) {
        let new = self.root.join("new");
        symlink(self.root.join("logs").join(NAMES[to]), &new).unwrap();
        fs::rename(new, self.root.join("link")).unwrap();
        self.link = to;
    }

    pub fn move_folder(&mut self) {
        let from = self.path("");
        self.away = !self.away;
        fs::rename(from, self.path("")).unwrap();
    }

    /// Rotates a log; returns whether it could be.
    pub fn rotate(&mut self, name: usize, style: Style) -> bool {
        if !self.allows(name, style) {
            return false;
        }
        let log = NAMES[name];
        match style {
            Style::Create | Style::NoCreate | Style::CreateKeep => {
                self.shift(name);
                self.rename(log, &Self::rotated(name, 1));
            }
            Style::Date => self.rename(log, &format!("{log}-20261123-{}", self.now.order)),
            Style::CopyTruncate => {
                self.copy(name);
                self.truncate(name);
            }
            Style::CopyDelete => {
                self.copy(name);
                self.unlink(log);
            }
            Style::Delete => {
                self.unlink(log);
            }
            Style::Twice => {
                self.rotate(name, Style::Create);
                self.write(name, 1, None);
                self.rotate(name, Style::Create);
            }
            Style::Replace => {
                let mut lines = self.files[self.at(name).unwrap()].bytes.len() / 100 + 1;
                let (new, handle) = self.make("new");
                while lines > 0 {
                    let line = text(self.next());
                    self.append(new, &handle, &line);
                    lines -= 1;
                }
                self.rename("new", log);
            }
            Style::Edit => {
                self.copy_to(self.at(name).unwrap(), "new");
                self.rename("new", log);
            }
            Style::Rewrite => {
                let lines = self.files[self.at(name).unwrap()].bytes.len() / 100 + 2;
                self.truncate(name);
                self.open(name);
                self.write(name, lines, None);
            }
        }
        match style {
            Style::Create | Style::Date | Style::CopyDelete | Style::Delete | Style::Edit => self.open(name),
            Style::CreateKeep => {
                self.make(log);
                true
            }
            _ => true,
        }
    }

    /// The files at `name` and beside it with the names that rotations give, the oldest first.
    pub fn siblings(&self, name: &str) -> Vec<usize> {
        let is_one = |other: &str| {
            let rest = other.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
                && other.strip_suffix(".gz").is_none()
        };
        let all = self.names.iter().filter(|(other, _)| !self.away && is_one(other));
        let mut all: Vec<usize> = all.map(|(_, file)| *file).collect();
        all.sort_by_key(|file| self.files[*file].born.order);
        all
    }

    /// Whether a file holds the beginning of a line only, by which nobody knows it again.
    pub fn has_less_than_a_line(&self) -> bool {
        self.files.iter().any(|file| !file.bytes.is_empty() && !file.bytes.contains(&b'\n'))
    }

    /// That this memory is of what is really there.
    pub fn check(&self) {
        for (name, file) in &self.names {
            assert_eq!(fs::read(self.path(name)).unwrap(), self.files[*file].bytes, "{name}");
        }
    }
}
