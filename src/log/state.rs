//! What is known of one source of log lines.

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

/// What is known of one source of log lines. Numbers of a pattern are those of all its files together.
#[derive(Clone, Debug)]
pub struct LogState {
    /// As it was given: a file, a pattern, `-`; or `journal:` and an identifier; or `master:` and a socket.
    pub log: Arc<str>,
    /// Whether it is the systemd journal.
    pub is_journal: bool,
    /// Why nothing can be read, in words for the administrator; nothing if all is well.
    pub trouble: Option<String>,
    /// Bytes of the present files that were read, of those that are in them, and how many files that are; nothing
    /// where there are none.
    pub progress: Option<Progress>,
    /// When bytes were last read.
    pub last_read: Option<SystemTime>,
    /// What was counted.
    pub counts: LogCounts,
}

/// How far files were read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Bytes that were read.
    pub position: u64,
    /// Bytes that there are.
    pub size: u64,
    /// Files that are open.
    pub files: u64,
}

/// What is counted of one source; none ever falls.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogCounts {
    /// Newlines, or entries of the journal or of the master, read.
    pub lines: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Times a path led to another file.
    pub rotations: u64,
    /// Times a file was shorter than our place, or other than what we had read of it.
    pub truncations: u64,
    /// Lines longer than [`super::lines::MAX_LINE`], which were not looked at.
    pub oversized_lines: u64,
    /// Failed attempts to open or read.
    pub read_errors: u64,
    /// Lines with the text of a drop warning that the master of the watched instance did not log.
    pub unanchored_warnings: u64,
}

impl LogState {
    /// Of a source of which nothing was read yet.
    pub fn new(log: &str) -> Self {
        let counts = LogCounts::default();
        Self { log: log.into(), is_journal: false, trouble: None, progress: None, last_read: None, counts }
    }

    /// As the label `source` has it.
    pub fn source(&self) -> &'static str {
        if self.is_journal { "journal" } else { "log" }
    }
}
