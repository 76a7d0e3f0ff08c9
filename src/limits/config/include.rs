//! The lines of a configuration, with those of the files it includes, in Dovecot's order.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use glob::{MatchOptions, Pattern};

/// Most files; Debian's configuration has 25.
const MAX_FILES: usize = 1000;
/// Most bytes of all files together; Debian's configuration has 100 KiB.
const MAX_BYTES: u64 = 8 << 20;
/// Most bytes of a path; the kernel takes no longer one.
const MAX_PATH: usize = 4096;
/// Most bytes of a file that holds one value.
const MAX_VALUE: u64 = 4096;

/// Files that are being read: the last one now, those before it afterwards.
#[derive(Debug, Default)]
pub struct Lines {
    open: Vec<Open>,
    files: usize,
    bytes: u64,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    text: Vec<u8>,
    at: usize,
    line: usize,
}

impl Lines {
    /// Begins with `config`.
    pub fn of(config: &Path) -> Result<Self, io::Error> {
        let mut lines = Self::default();
        lines.open(config)?;
        Ok(lines)
    }

    fn open(&mut self, path: &Path) -> Result<(), io::Error> {
        let kind = fs::metadata(path)?.file_type();
        let mut text = Vec::new();
        // Dovecot reads a folder as an empty file.
        if !kind.is_dir() {
            if !kind.is_file() {
                return Err(io::Error::new(ErrorKind::Unsupported, "it is no regular file"));
            }
            let left = MAX_BYTES.saturating_sub(self.bytes);
            self.bytes += File::open(path)?.take(left + 1).read_to_end(&mut text)? as u64;
            self.files += 1;
            if self.bytes > MAX_BYTES || self.files > MAX_FILES {
                return Err(io::Error::new(
                    ErrorKind::FileTooLarge,
                    "the configuration is too large: it has more than 8 MiB or 1000 files",
                ));
            }
        }
        self.open.push(Open { path: path.to_owned(), text, at: 0, line: 0 });
        Ok(())
    }

    /// The next line, in any encoding: comments may be in any.
    pub fn next(&mut self) -> Option<String> {
        loop {
            let file = self.open.last_mut()?;
            let rest = &file.text[file.at..];
            if rest.is_empty() {
                self.open.pop();
                continue;
            }
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            let line = String::from_utf8_lossy(line).into_owned();
            file.at = (file.at + end + 1).min(file.text.len());
            file.line += 1;
            return Some(line);
        }
    }

    /// Where the line was that came last.
    pub fn place(&self) -> String {
        let place = |file: &Open| format!("{} line {}", file.path.display(), file.line);
        self.open.last().map(place).unwrap_or_default()
    }

    /// `path`, which the present file names.
    fn resolved(&self, path: &str) -> PathBuf {
        let folder = self.open.last().and_then(|file| file.path.parent());
        folder.unwrap_or(Path::new("")).join(path)
    }

    /// What is in a file that a value is taken from.
    pub fn value(&self, path: &str) -> io::Result<String> {
        let path = self.resolved(path);
        let mut text = Vec::new();
        if !fs::metadata(&path)?.is_file() {
            return Err(io::Error::new(ErrorKind::Unsupported, "it is no regular file"));
        }
        File::open(path)?.take(MAX_VALUE).read_to_end(&mut text)?;
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// Goes on with what matches `pattern`; returns what may not be read. Dovecot has the right to read it.
    pub fn include(&mut self, pattern: &str, must: bool) -> Result<Vec<PathBuf>, String> {
        let pattern = self.resolved(pattern);
        let pattern = pattern.to_str().filter(|text| !text.contains(char::REPLACEMENT_CHARACTER));
        let pattern = pattern.ok_or("the path to include is not UTF-8")?;
        let mut found = Found::default();
        for pattern in braces(pattern)? {
            let from = found.paths.len();
            found.enter(PathBuf::new(), &pattern.split('/').collect::<Vec<_>>())?;
            // glob(3) sorts by bytes, each alternative on its own.
            found.paths[from..].sort();
        }
        if must && found.paths.is_empty() && found.denied.is_empty() {
            return Err(format!("nothing matches {pattern}"));
        }
        // The last is read last, so it must lie deepest.
        for path in found.paths.into_iter().rev() {
            if self.open.iter().any(|file| file.path == path) {
                return Err(format!("{} includes itself", path.display()));
            }
            let Err(error) = self.open(&path) else { continue };
            let never = [ErrorKind::Unsupported, ErrorKind::FileTooLarge].contains(&error.kind());
            if error.kind() == ErrorKind::PermissionDenied {
                found.denied.push(path);
            } else if must || never {
                return Err(format!("{} cannot be included ({error})", path.display()));
            }
        }
        Ok(found.denied)
    }
}

/// What matches a pattern.
#[derive(Debug, Default)]
struct Found {
    paths: Vec<PathBuf>,
    denied: Vec<PathBuf>,
}

impl Found {
    /// Adds what below `folder` matches the `rest` of a pattern.
    fn enter(&mut self, folder: PathBuf, rest: &[&str]) -> Result<(), String> {
        const OPTIONS: MatchOptions = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let Some((part, rest)) = rest.split_first() else {
            match fs::symlink_metadata(&folder) {
                Ok(_) => self.paths.push(folder),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => self.denied.push(folder),
                Err(_) => {}
            }
            return Ok(());
        };
        if !part.contains(['*', '?', '[']) {
            // The empty part in front of an absolute path is the root.
            let next = if part.is_empty() && folder.as_os_str().is_empty() {
                Path::new("/")
            } else {
                Path::new(part)
            };
            return self.enter(folder.join(next), rest);
        }
        let pattern =
            Pattern::new(part).map_err(|_| format!("the pattern {part} is beyond this exporter"))?;
        let here = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
        let entries = match fs::read_dir(here) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() == ErrorKind::PermissionDenied {
                    self.denied.push(folder);
                }
                return Ok(());
            }
        };
        for entry in entries.flatten() {
            // Dovecot counts bytes, the crate characters.
            if !entry.file_name().is_ascii() && part.contains(['?', '[']) {
                return Err(format!("the pattern {part} is beyond this exporter: a name is not in ASCII"));
            }
            if pattern.matches_with(&entry.file_name().to_string_lossy(), OPTIONS) {
                self.enter(folder.join(entry.file_name()), rest)?;
            }
        }
        Ok(())
    }
}

/// What `a{b,c}d` stands for, in order.
fn braces(pattern: &str) -> Result<Vec<String>, String> {
    let beyond = || format!("the pattern {pattern:.100} is beyond this exporter");
    // glob(3) has more in its brackets than the crate, and knows no **.
    let special = ["\\", "**", "[^", "[[:", "[[.", "[[="];
    if pattern.len() > MAX_PATH || special.iter().any(|special| pattern.contains(special)) {
        return Err(beyond());
    }
    let mut pending = vec![pattern.to_owned()];
    let mut plain = Vec::new();
    while let Some(pattern) = pending.pop() {
        let Some((before, rest)) = pattern.split_once('{') else {
            plain.push(pattern);
            continue;
        };
        let (mut depth, mut from, mut words, mut after) = (0, 0, Vec::new(), None);
        for (place, byte) in rest.bytes().enumerate() {
            match (byte, depth) {
                (b'{', _) => depth += 1,
                (b',', 0) => {
                    words.push(&rest[from..place]);
                    from = place + 1;
                }
                (b'}', 0) => {
                    words.push(&rest[from..place]);
                    after = Some(&rest[place + 1..]);
                    break;
                }
                (b'}', _) => depth -= 1,
                _ => {}
            }
        }
        let after = after.ok_or_else(beyond)?;
        pending.extend(words.iter().rev().map(|word| format!("{before}{word}{after}")));
        if pending.len() + plain.len() > MAX_FILES {
            return Err(beyond());
        }
    }
    Ok(plain)
}
