//! The systemd journal, by `journalctl`: journald's files are its own business.
//!
//! Entries are matched by identifier and by the user who sent them, which journald learns from the kernel: root, as
//! Dovecot's master and its log process are, so that no other user can make one.

use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    bell::wait,
    export::Export,
    grammar::{self, Found, OnFound},
    lines::Lines,
    stamp::Stamp,
    state::LogState,
    stream::TURN,
};

/// The time between two attempts.
const RETRY: Duration = Duration::from_secs(1);
/// How far back the journal is read where a log is read from its start: it may have millions of entries, and each
/// costs some microseconds.
const BACK: &str = "--since=-1h";
/// Of what `journalctl` says when it fails.
const MAX_REASON: u64 = 4096;
/// Read at once; a pipe holds as much.
const BLOCK: usize = 64 * 1024;

/// The journal, as far as it was read.
#[derive(Debug)]
pub struct Journal {
    identifier: String,
    /// The newest entry that was read; without one everything is new.
    cursor: Option<String>,
    /// That one as `journalctl` was given it, until it has shown its first.
    given: Option<String>,
    /// Whether it is known where the journal ended when we began.
    began: bool,
    /// Without a cursor, what is older than [`BACK`] is passed over, and all that is newer counts.
    back: bool,
    /// `journalctl` follows. Before that it shows what there is and ends: since systemd 250 --follow means the present
    /// boot only, and entries of an earlier one may be unread.
    follows: bool,
    child: Option<Child>,
    export: Export,
    block: Vec<u8>,
    lines: Lines,
    tried: Option<Instant>,
    /// What is known of it.
    pub state: LogState,
}

impl Journal {
    /// Follows the entries of `identifier` behind `cursor`, or those that come from now on; with `back` those of the
    /// last hour, too.
    pub fn new(identifier: &str, cursor: Option<String>, back: bool) -> Self {
        let state = LogState { is_journal: true, ..LogState::new(&format!("journal:{identifier}")) };
        let began = back || cursor.is_some();
        let (identifier, export, block) = (identifier.to_owned(), Export::default(), vec![0; BLOCK]);
        let lines = Lines::default();
        let mut journal = Self {
            identifier,
            cursor,
            given: None,
            began,
            back,
            follows: !began,
            child: None,
            export,
            block,
            lines,
            tried: None,
            state,
        };
        journal.start();
        journal
    }

    /// The newest entry that was read.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Whether all is read that was there when we began.
    pub fn is_caught_up(&self) -> bool {
        self.follows || self.state.trouble.is_some()
    }

    /// What to wait for.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref()?.stdout.as_ref().map(AsFd::as_fd)
    }

    /// Reads what there is and hands over what it found; returns whether there was anything.
    pub fn pass(&mut self, now: Instant, on_found: OnFound) -> bool {
        if self.child.is_none() && self.tried.is_none_or(|tried| now.duration_since(tried) >= RETRY) {
            self.start();
        }
        if self.child.is_some() && self.tried.is_some_and(|tried| now.duration_since(tried) >= RETRY) {
            // It lives: one that cannot follow ends at once.
            self.state.trouble = None;
        }
        let mut any = false;
        for _ in 0..TURN {
            let [ready] = wait([self.source()], Duration::ZERO);
            let stdout = self.child.as_mut().and_then(|child| child.stdout.as_mut());
            let Some(stdout) = stdout.filter(|_| ready) else { break };
            match stdout.read(&mut self.block) {
                Ok(0) if !self.follows => self.finish(),
                Ok(0) => self.give_up(),
                Ok(length) => {
                    any = true;
                    self.take(length, on_found);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.give_up(),
            }
        }
        any
    }

    fn take(&mut self, length: usize, on_found: OnFound) {
        let Self { block, export, state, cursor, given, lines, .. } = self;
        let bytes = &block[..length];
        state.counts.bytes += bytes.len() as u64;
        state.last_read = Some(SystemTime::now());
        state.trouble = None;
        export.take(bytes, &mut |entry| {
            if given.take().is_some_and(|given| entry_of(&given) == entry_of(&entry.cursor)) {
                return;
            }
            state.counts.lines += 1;
            match &entry.message {
                Some(message) => {
                    let time = entry.time.map(|micros| UNIX_EPOCH + Duration::from_micros(micros));
                    let mut on_found = |found: &Found| {
                        let stamp = time.map_or(found.stamp, Stamp::Time);
                        on_found(&Found { stamp, event: found.event.clone(), ..*found })
                    };
                    state.counts.unanchored_warnings +=
                        u64::from(grammar::take(message, lines.next(message), &mut on_found));
                }
                None => state.counts.oversized_lines += 1,
            }
            *cursor = Some(entry.cursor.clone());
        });
    }

    /// Starts `journalctl`. What it says of a failure is read when it ends.
    fn start(&mut self) {
        self.tried = Some(Instant::now());
        self.export = Export::default();
        let mut matches = vec![format!("SYSLOG_IDENTIFIER={}", self.identifier), "_UID=0".to_owned()];
        if self.back && self.cursor.is_none() {
            matches.push(BACK.to_owned());
        }
        if !self.began {
            // Without a place in it, what counts is behind its newest entry.
            match newest(&matches) {
                Ok(newest) => (self.cursor, self.began) = (newest, true),
                Err(reason) => return self.fail(&reason),
            }
        }
        // Not --after-cursor: that of systemd 252 passes over an entry even if it is not the cursor's, as when that one
        // was vacuumed away, or is of an earlier boot.
        self.given.clone_from(&self.cursor);
        let from = self.cursor.iter().map(|cursor| format!("--cursor={cursor}"));
        let follow = ["--follow", "--no-tail"].iter().filter(|_| self.follows);
        match journalctl().args(follow).args(from).args(matches).spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) => self.fail(&error.to_string()),
        }
    }

    /// `journalctl` has shown what there was.
    fn finish(&mut self) {
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) if status.success() => {
                self.child = None;
                self.follows = true;
                self.start();
            }
            _ => self.give_up(),
        }
    }

    /// `journalctl` has ended by itself.
    fn give_up(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        let reason = reason(&mut child);
        self.fail(&reason);
    }

    fn fail(&mut self, reason: &str) {
        self.state.counts.read_errors += 1;
        self.state.trouble = Some(format!(
            "journalctl cannot follow the journal ({reason}): let the user of the exporter read it, as a member of the group systemd-journal"
        ));
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn journalctl() -> Command {
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--all", "--output=export", "--output-fields=MESSAGE"]);
    command
        .env("LC_ALL", "C")
        .env("SYSTEMD_LOG_LEVEL", "warning")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What a cursor tells of its entry itself. What is before it tells of the file: an entry that moves from /run to /var
/// gets another number there.
fn entry_of(cursor: &str) -> &str {
    cursor.find(";b=").map_or(cursor, |at| &cursor[at..])
}

/// The newest entry that matches; nothing if there is none.
fn newest(matches: &[String]) -> Result<Option<String>, String> {
    let newest = ["--reverse", "--lines=1"];
    let output = journalctl().args(newest).args(matches).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(last_line(&output.stderr, output.status));
    }
    let mut cursor = None;
    Export::default().take(&output.stdout, &mut |entry| cursor = Some(entry.cursor.clone()));
    Ok(cursor)
}

/// Why `child`, which has ended or ends now, has.
fn reason(child: &mut Child) -> String {
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(MAX_REASON).read_to_end(&mut said);
    }
    match child.wait() {
        Ok(status) => last_line(&said, status),
        Err(error) => error.to_string(),
    }
}

/// What a program said last, or how it ended if it said nothing.
fn last_line(said: &[u8], status: ExitStatus) -> String {
    let said = String::from_utf8_lossy(said);
    said.lines().rfind(|line| !line.is_empty()).map_or_else(|| status.to_string(), ToOwned::to_owned)
}
