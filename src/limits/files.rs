//! Which files make up Dovecot's configuration, only to notice that one of them changed.

use std::{
    collections::BTreeMap,
    fs::{File, metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Most files and folders that are watched; Debian's configuration has 25.
const MAX_FILES: usize = 1000;

/// Bytes of a file that are searched for includes.
const MAX_TEXT: u64 = 1 << 20;

/// The state of every file and folder that the configuration is read from: another value means that something
/// changed. Folders of `!include` patterns stand for all they hold, so that a new file is noticed as well.
#[derive(Debug, Default, PartialEq)]
pub struct ConfigFiles(BTreeMap<PathBuf, Option<Version>>);

/// Device, inode, size, and the times of the last change of content and of metadata in nanoseconds.
type Version = (u64, u64, u64, (i64, i64), (i64, i64));

impl ConfigFiles {
    /// Finds the files that `config` includes and their present state. What cannot be read is watched, not entered.
    pub fn find(config: &Path) -> Self {
        let mut found = BTreeMap::new();
        let mut pending = vec![config.to_owned()];
        while let Some(path) = pending.pop() {
            if found.len() >= MAX_FILES || found.contains_key(&path) {
                continue;
            }
            if path.is_dir() {
                let entries = path.read_dir().into_iter().flatten().flatten();
                pending.extend(entries.map(|entry| entry.path()).filter(|entry| entry.is_file()));
            } else {
                let text = read_text(&path).unwrap_or_default();
                let folder = path.parent().unwrap_or(Path::new("/"));
                pending.extend(includes(&text).map(|pattern| watchable(&folder.join(pattern))));
            }
            found.insert(path.clone(), version(&path));
        }
        Self(found)
    }

    /// Whether any of them is no longer as it was.
    pub fn changed(&self) -> bool {
        self.0.iter().any(|(path, before)| version(path) != *before)
    }
}

/// Reads a regular file: any other might never end.
fn read_text(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    if metadata(path).ok()?.is_file() {
        File::open(path).ok()?.take(MAX_TEXT).read_to_end(&mut text).ok()?;
    }
    // A comment may be in any encoding.
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn version(path: &Path) -> Option<Version> {
    let now = metadata(path).ok()?;
    Some((now.dev(), now.ino(), now.size(), (now.mtime(), now.mtime_nsec()), (now.ctime(), now.ctime_nsec())))
}

/// The patterns of `!include` and `!include_try`.
fn includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix("!include")?;
        let rest = rest.strip_prefix("_try").unwrap_or(rest);
        let pattern = rest.split('#').next().unwrap_or_default();
        rest.starts_with([' ', '\t']).then(|| pattern.trim())
    })
}

/// The pattern itself, or the folder above its first wildcard.
fn watchable(pattern: &Path) -> PathBuf {
    let wild = |part: &Path| part.to_string_lossy().contains(['*', '?', '[', '{']);
    pattern.ancestors().find(|part| !wild(part)).unwrap_or(pattern).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_change_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("conf.d")).expect("a folder");
        fs::write(path("dovecot.conf"), "a = b\n!include conf.d/*.conf\n  !include_try local.conf\n")
            .expect("a file");
        fs::write(path("conf.d/10-master.conf"), "!include_try ../deep/extra.conf\n").expect("a file");

        let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
        let changes: [(&str, &dyn Fn()); 6] = [
            ("written", &|| write("dovecot.conf", "!include conf.d/*.conf\n!include_try local.conf")),
            ("included by pattern", &|| write("conf.d/10-master.conf", "!include ../deep/extra.conf # deep")),
            ("new for the pattern", &|| write("conf.d/90-new.conf", "")),
            ("removed", &|| fs::remove_file(path("conf.d/90-new.conf")).unwrap()),
            ("tried and missing before", &|| write("local.conf", "")),
            ("included by an included one", &|| {
                fs::create_dir(path("deep")).unwrap();
                write("deep/extra.conf", "");
            }),
        ];
        for (what, change) in changes {
            let before = ConfigFiles::find(&path("dovecot.conf"));
            assert!(!before.changed(), "before {what}");
            change();
            assert!(before.changed(), "{what}");
        }
    }

    #[test]
    fn a_configuration_that_includes_itself_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("dovecot.conf");
        fs::write(&config, "!include dovecot.conf\n!include *.conf\n").expect("a file");
        assert_eq!(ConfigFiles::find(&config).0.len(), 2);
    }
}
