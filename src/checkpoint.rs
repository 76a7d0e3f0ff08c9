//! The state file: positions and counters, saved together, so that a restart counts what was written meanwhile,
//! once.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
};

use serde::{Deserialize, Serialize};

use crate::{
    log::{reader::Kept, state::LogCounts},
    service::MAX_SERVICES,
    tally::{ServiceTally, Tally},
};

/// The first thing in the file. Another form of it gets another number.
const FORMAT: &str = "dovecot-capacity-exporter state 1";
/// Of 10,000 files some 10 MB are needed.
const MAX_LENGTH: u64 = 64 << 20;

/// The page has doubles, which are whole numbers up to here. Nobody has counted further.
const MAX_COUNT: u64 = 1 << 53;

/// All that a restart needs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    format: String,
    /// The totals of events.
    pub tally: Tally,
    /// The totals of each source of log lines, by its name.
    pub logs: BTreeMap<String, LogCounts>,
    /// How far each was read.
    pub kept: Kept,
}

impl Checkpoint {
    /// What belongs together: totals, and the places up to which they were counted.
    pub fn new(tally: Tally, logs: BTreeMap<String, LogCounts>, kept: Kept) -> Self {
        Self { format: FORMAT.to_owned(), tally, logs, kept }
    }

    /// Reads what [`Self::to_json`] made, and takes nothing else for it, however near it comes: of a field that is
    /// there twice, or not at all, nobody knows what it means. The error says what is wrong.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let checkpoint: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if checkpoint.format != FORMAT {
            Err(format!("its format is not {FORMAT:?}"))
        } else if checkpoint.to_json() != json {
            Err("it was changed since it was written".to_owned())
        } else if !checkpoint.is_possible() {
            Err("no exporter can have counted or read so far".to_owned())
        } else {
            Ok(checkpoint)
        }
    }

    /// Whether its numbers can be added to, and its places be read from.
    fn is_possible(&self) -> bool {
        let of_service = |tally: &ServiceTally| {
            let warnings = tally.drop_warnings.values().chain(tally.failures.values()).copied();
            warnings.chain([tally.queue_full_kills, tally.handover_failures]).max()
        };
        let of_log = |counts: &LogCounts| {
            let lines = [counts.lines, counts.oversized_lines, counts.unanchored_warnings];
            let files = [counts.bytes, counts.rotations, counts.truncations, counts.read_errors];
            lines.into_iter().chain(files).max()
        };
        let services = self.tally.services().filter_map(|(_, tally)| of_service(tally));
        let totals = [self.tally.user_connection_limit_rejections, self.tally.reloads];
        let mut counts = services.chain(self.logs.values().filter_map(of_log)).chain(totals);
        counts.all(|count| count <= MAX_COUNT)
            // One more: those that are too many count as "other".
            && self.tally.services().count() <= MAX_SERVICES + 1
            && self.kept.files.are_possible()
            && self.kept.cursor.as_ref().is_none_or(|cursor| !cursor.contains('\0'))
    }

    /// As the file has it.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("every key is a text")
    }

    /// Reads `path`, if it is there, and leaves it alone. The error says what is wrong with it.
    pub fn look(path: &Path) -> Result<Option<Self>, String> {
        match read(path) {
            Ok(json) => Self::from_json(&json)
                .map(Some)
                .map_err(|error| format!("is no state of this exporter ({error})")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot be read ({error})")),
        }
    }

    /// Reads `path`, if it is there. A file that is no state is set aside; the error is a sentence that says so, and
    /// where it is now.
    pub fn load(path: &Path) -> Result<Option<Self>, String> {
        let wrong = match Self::look(path) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(wrong) if fs::metadata(path).is_ok_and(|found| !found.is_file()) => {
                return Err(format!("{} {wrong}: give --state.file the name of a file", path.display()));
            }
            Err(wrong) => wrong,
        };
        let aside = with_suffix(path, ".unusable");
        let moved = match fs::rename(path, &aside) {
            Ok(()) => format!("it is {} now", aside.display()),
            Err(error) => format!("it could not be set aside ({error})"),
        };
        Err(format!("{} {wrong}, so counting starts anew; {moved}", path.display()))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(ErrorKind::IsADirectory.into());
    }
    let mut json = Vec::new();
    File::open(path)?.take(MAX_LENGTH).read_to_end(&mut json)?;
    Ok(json)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes `json` to `path`, which is the old or the new state at any moment, also after a loss of power.
fn write(path: &Path, json: &[u8]) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    // It holds lines of the log, which not everybody may read.
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(json)?;
    file.sync_data()?;
    fs::rename(new, path)
}

/// A thread that writes states: a slow disk must not keep anybody from reading the log.
#[derive(Debug)]
pub struct Saver {
    states: SyncSender<Vec<u8>>,
    done: Receiver<Option<String>>,
    thread: JoinHandle<()>,
}

impl Saver {
    /// One that writes to `path`.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        let (states, wanted) = sync_channel::<Vec<u8>>(0);
        let (tell, done) = sync_channel(1);
        let save = move || {
            while let Ok(json) = wanted.recv() {
                let trouble = write(&path, &json).err().map(|error| {
                    format!("{} cannot be written ({error}): make room, or let the user of the exporter write there", path.display())
                });
                if tell.send(trouble).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("state".into()).spawn(save)?;
        Ok(Self { states, done, thread })
    }

    /// Has `checkpoint` written; returns whether the thread takes it, which it does not while it writes another.
    pub fn save(&self, checkpoint: &Checkpoint) -> bool {
        !matches!(self.states.try_send(checkpoint.to_json()), Err(TrySendError::Full(_)))
    }

    /// Whether a state was written since this was last asked, and why not if that failed.
    pub fn result(&self) -> Option<Option<String>> {
        self.done.try_recv().ok()
    }

    /// Writes a last one; returns why not if that failed.
    pub fn finish(self, checkpoint: &Checkpoint) -> Option<String> {
        let Self { states, done, thread } = self;
        // Room for what the thread tells of the one that it may be writing.
        let _ = done.try_recv();
        let _ = states.send(checkpoint.to_json());
        drop(states);
        // What it tells last is of this one.
        let trouble = done.iter().last().flatten();
        let _ = thread.join();
        trouble
    }
}

#[cfg(test)]
mod tests;
