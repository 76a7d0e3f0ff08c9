//! The list of `/proc`, and what is remembered of the processes in it.
//!
//! To list `/proc` is cheap, to read a file of each process is not, and a slow walk is a wrong one: while it runs,
//! processes come and go behind it. So a process is read once. The list has an inode number beside each pid, which the
//! kernel gives out anew for each process (`proc_pid_make_inode`, fs/proc/base.c) and, when it is short of memory, anew
//! for the same one: a pid that was reused is read again, and never the other way round.

use std::{
    mem::{MaybeUninit, take},
    path::Path,
    time::Instant,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{RawDir, SeekFrom, seek},
    io::Errno,
    path::DecInt,
};

use super::process::{self, COMMAND_BYTES, Command};
use crate::service::Program;

/// Most different command lines of services; Dovecot has about 30.
const MAX_KINDS: usize = 1000;
/// Most seconds for which a reading of a process's memory is good.
const MAX_GOOD: u32 = 60;
/// What the list says where the kernel had no memory for the process's inode.
const NO_INODE: u64 = 1;

/// One process.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Its process id, in the name space that `/proc` shows.
    pub pid: i32,
    inode: u64,
    /// What it is.
    pub is: Is,
    /// Its resident memory, in pages, if it is a service's.
    pub pages: u32,
    /// When that is to be read again, and how long it is good from then on: seconds, since [`Walk::began`].
    due: u32,
    good: u32,
}

/// What a process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Is {
    /// Not known: to be read.
    New,
    /// None of Dovecot's.
    Other,
    /// Called `dovecot`. What its child will be, exec tells: read each time.
    Dovecot,
    /// Its command line is that of a service.
    Service {
        /// Its place in [`Walk::kinds`].
        kind: u32,
        /// Its parent, if that is a master that has not ended since.
        parent: Option<i32>,
    },
}

/// What a command line can say of a service: there are few, and thousands of processes.
#[derive(Debug, Eq, PartialEq)]
pub struct Kind {
    /// What stands before the slash.
    pub instance: String,
    /// The executable.
    pub program: Program,
}

/// The processes at the time of the last walk.
#[derive(Debug, Default)]
pub struct Walk {
    /// All that were listed.
    pub processes: Vec<Process>,
    /// What the services among them run.
    pub kinds: Vec<Kind>,
    /// Process 1 is among them.
    pub init: bool,
    /// Some command line may not be read, as with `hidepid=1`.
    pub denied: bool,
    /// Some process of a service was not there before.
    grown: bool,
    began: Option<Instant>,
}

impl Walk {
    /// Walks again: lists, and reads what is new and what is called `dovecot`.
    pub fn again(&mut self, procfs: &Path, directory: &OwnedFd) -> Result<(), Errno> {
        if self.kinds.len() > MAX_KINDS {
            *self = Self::default();
        }
        let mut processes = self.list(directory)?;
        (self.denied, self.grown) = (false, false);
        // After the list, so that this is short.
        for process in processes.iter_mut().filter(|process| matches!(process.is, Is::New | Is::Dovecot)) {
            process.is = self.look(procfs, directory, process.pid);
            self.grown |= matches!(process.is, Is::Service { .. });
        }
        self.processes = processes;
        if self.grown {
            // A list may have a process that ended while it was made, and another that came in its place. Those that
            // are in two lists were all there at one moment, between the two. What is new to the second is not read.
            self.processes = self.list(directory)?;
        }
        Ok(())
    }

    /// Takes no zombie for a service's process. One that is gone by now was there when the list was made.
    pub fn bury(&mut self, directory: &OwnedFd) {
        for process in &mut self.processes {
            let service = matches!(process.is, Is::Service { .. });
            if service && process::is_zombie(directory, DecInt::new(process.pid).as_bytes()) {
                process.is = Is::New;
            }
        }
    }

    /// Reads the memory of the services' processes, each anew when the last reading is no longer good: that of a new
    /// process is good until the next walk, then for a second, then for twice as long each time, up to a minute.
    pub fn weigh(&mut self, directory: &OwnedFd) {
        let began = self.began.get_or_insert_with(Instant::now);
        let now = u32::try_from(began.elapsed().as_secs()).unwrap_or(u32::MAX);
        for process in self.processes.iter_mut().filter(|process| matches!(process.is, Is::Service { .. })) {
            if process.due <= now {
                process.pages = process::resident_pages(directory, DecInt::new(process.pid).as_bytes());
                process.due = now.saturating_add(process.good);
                process.good = (2 * process.good).clamp(1, MAX_GOOD);
            }
        }
    }

    /// The processes there are, with what is known of them.
    fn list(&mut self, directory: &OwnedFd) -> Result<Vec<Process>, Errno> {
        let known = take(&mut self.processes);
        // Nearly all that are there at first have been there for long.
        let good = if known.is_empty() { MAX_GOOD } else { 0 };
        let mut processes = Vec::with_capacity(known.len() + known.len() / 8);
        seek(directory, SeekFrom::Start(0))?;
        let mut entries = [MaybeUninit::uninit(); 16 * 1024];
        let mut entries = RawDir::new(directory.as_fd(), &mut entries);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = std::str::from_utf8(entry.file_name().to_bytes());
            let Some(pid) = name.ok().and_then(|name| name.parse().ok()) else { continue };
            processes.push(Process { pid, inode: entry.ino(), is: Is::New, pages: 0, due: 0, good });
        }
        // The kernel lists them in this order anyway.
        processes.sort_unstable_by_key(|process| process.pid);
        self.init = processes.first().is_some_and(|process| process.pid == 1);
        let mut known = known.into_iter().peekable();
        for process in &mut processes {
            while known.next_if(|known| known.pid < process.pid).is_some() {}
            let same = |known: &Process| (known.pid, known.inode) == (process.pid, process.inode);
            if let Some(known) = known.next_if(|known| same(known) && known.inode != NO_INODE) {
                *process = known;
            }
        }
        Ok(processes)
    }

    fn look(&mut self, procfs: &Path, directory: &OwnedFd, pid: i32) -> Is {
        let mut command = [0; COMMAND_BYTES];
        match process::read(directory, DecInt::new(pid).as_bytes(), &mut command) {
            Ok(length) => match process::parse(&command[..length]) {
                Command::Service { instance, program, worker } => {
                    Is::Service { kind: self.kind(instance, program, worker), parent: None }
                }
                Command::Dovecot => Is::Dovecot,
                Command::Other => Is::Other,
                Command::Empty => {
                    let kernel =
                        process::stat(procfs, pid).is_ok_and(|found| found.is_some_and(|found| found.kernel));
                    if kernel { Is::Other } else { Is::New }
                }
            },
            Err(error) => {
                self.denied |= matches!(error, Errno::ACCESS | Errno::PERM);
                // Else it ended meanwhile.
                Is::New
            }
        }
    }

    fn kind(&mut self, instance: &str, program: &str, worker: bool) -> u32 {
        let same = |kind: &Kind| kind.program.is(program, worker) && kind.instance == instance;
        let kind = self.kinds.iter().position(same).unwrap_or_else(|| {
            self.kinds.push(Kind { instance: instance.to_owned(), program: Program::new(program, worker) });
            self.kinds.len() - 1
        });
        u32::try_from(kind).expect("there are fewer processes")
    }
}
