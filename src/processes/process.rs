//! One process: what its command line says that it is, whether it is a zombie, and what the kernel tells of it.

use std::{ffi::CStr, fs, io, path::Path};

use procfs::{
    ProcError,
    process::{LimitValue, Process, StatFlags},
};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, Mode, OFlags, openat, statat},
    io::{Errno, pread},
};

/// Enough of a command line for `INSTANCE/PROGRAM` and the first word of its title.
pub const COMMAND_BYTES: usize = 512;

/// What a command line says that a process is.
#[derive(Debug, Eq, PartialEq)]
pub enum Command<'a> {
    /// A service's process.
    Service {
        /// What stands before the slash.
        instance: &'a str,
        /// The name of the executable.
        program: &'a str,
        /// Whether it is `auth -w`.
        worker: bool,
    },
    /// A master, or a child of one that has not yet called exec.
    Dovecot,
    /// None of Dovecot's.
    Other,
    /// Nothing: a thread of the kernel, a zombie, or a process in the midst of exec or of its end.
    Empty,
}

/// `process_exec` (src/master/main.c) makes `argv[0]` of a service `INSTANCE/PROGRAM`, where INSTANCE begins with
/// `dovecot`; `verbose_proctitle` appends a space and a title, which may hold a client's text.
pub fn parse(command: &[u8]) -> Command<'_> {
    if command.is_empty() {
        return Command::Empty;
    }
    let end = command.iter().position(|byte| *byte == 0).unwrap_or(command.len());
    let (first, rest) = command.split_at(end);
    if first.starts_with(b"dovecot")
        && let Some(slash) = first.iter().position(|byte| *byte == b'/')
    {
        let (instance, name) = (&first[..slash], &first[slash + 1..]);
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"._+-".contains(byte);
        // 2.2 fills what a shorter title leaves with bytes of 0xab.
        let length = name.iter().position(|byte| !valid(byte)).unwrap_or(name.len());
        let (name, title) = name.split_at(length);
        if !name.is_empty() && !title.starts_with(b"/") {
            let text = |bytes| std::str::from_utf8(bytes).ok();
            return match (text(instance), text(name)) {
                (Some(instance), Some(program)) => {
                    let worker =
                        program == "auth" && (rest.starts_with(b"\0-w\0") || title.starts_with(b" worker: "));
                    Command::Service { instance, program, worker }
                }
                _ => Command::Other,
            };
        }
    }
    if first.rsplit(|byte| *byte == b'/').next() == Some(b"dovecot") {
        Command::Dovecot
    } else {
        Command::Other
    }
}

/// `/cmdline` and a process id.
const PATH_BYTES: usize = 32;

fn path_of<'a>(pid: &[u8], file: &[u8], buffer: &'a mut [u8; PATH_BYTES]) -> Result<&'a CStr, Errno> {
    let path = buffer.get_mut(..pid.len() + file.len()).ok_or(Errno::NOENT)?;
    path[..pid.len()].copy_from_slice(pid);
    path[pid.len()..].copy_from_slice(file);
    CStr::from_bytes_with_nul(path).map_err(|_| Errno::INVAL)
}

/// Reads the start of `PID/cmdline`.
pub fn read(directory: &OwnedFd, pid: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
    read_file(directory, pid, b"/cmdline\0", buffer)
}

/// Resident memory, in pages; none of a process that has ended.
pub fn resident_pages(directory: &OwnedFd, pid: &[u8]) -> u32 {
    let mut buffer = [0; 64];
    let length = read_file(directory, pid, b"/statm\0", &mut buffer).unwrap_or_default();
    let text = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
    text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default()
}

/// One system call less per process than std, and no allocation.
fn read_file(directory: &OwnedFd, pid: &[u8], file: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut path = [0; PATH_BYTES];
    let path = path_of(pid, file, &mut path)?;
    let file = openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // Not read, which in a program with threads takes a lock for the position in the file.
    pread(&file, buffer, 0)
}

/// Whether a process has ended, but its parent does not know yet: such a zombie has no open files, and no command line.
/// Since Linux 6.2 the size of `PID/fd` is the number of open files, which anybody may ask for in one system call; before
/// that it is always 0.
pub fn is_zombie(directory: &OwnedFd, pid: &[u8]) -> bool {
    let mut path = [0; PATH_BYTES];
    let files = path_of(pid, b"/fd\0", &mut path).and_then(|path| statat(directory, path, AtFlags::empty()));
    files.is_ok_and(|files| files.st_size == 0) && read(directory, pid, &mut [0]) == Ok(0)
}

/// What is read of `PID/stat`.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// The parent's process id.
    pub parent: i32,
    /// Its start, in ticks since boot.
    pub start: u64,
    /// Whether root owns it.
    pub root: bool,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
    /// Whether it waits for an event.
    pub asleep: bool,
}

/// Reads one process; nothing if it ended meanwhile.
pub fn stat(procfs: &Path, pid: i32) -> Result<Option<Stat>, ProcError> {
    let read = || {
        let process = Process::new_with_root(procfs.join(pid.to_string()))?;
        let stat = process.stat()?;
        let kernel = StatFlags::from_bits_truncate(stat.flags).contains(StatFlags::PF_KTHREAD);
        Ok(Stat {
            parent: stat.ppid,
            start: stat.starttime,
            root: process.uid()? == 0,
            kernel,
            asleep: stat.state == 'S',
        })
    };
    match read() {
        Ok(stat) => Ok(Some(stat)),
        Err(ProcError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The children that the kernel lists, sorted. None of them is wrong, but some may be missing.
pub fn children(procfs: &Path, pid: i32) -> io::Result<Vec<i32>> {
    let list = fs::read_to_string(procfs.join(format!("{pid}/task/{pid}/children")))?;
    let mut children: Vec<i32> =
        list.split_ascii_whitespace().filter_map(|child| child.parse().ok()).collect();
    children.sort_unstable();
    Ok(children)
}

/// Descriptors that process `pid`, and those that it starts, may have; infinite if that is not limited.
pub fn open_files_limit(procfs: &Path, pid: i32) -> Option<f64> {
    let limits = Process::new_with_root(procfs.join(pid.to_string())).ok()?.limits().ok()?;
    Some(match limits.max_open_files.soft_limit {
        LimitValue::Unlimited => f64::INFINITY,
        #[expect(clippy::cast_precision_loss, reason = "2^52 is far")]
        LimitValue::Value(files) => files as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::made_up::Proc;

    #[test]
    fn descriptors_that_may_be_open() {
        let proc = Proc::new();
        proc.master(100, "dovecot");
        proc.limits(100);
        assert_eq!(open_files_limit(proc.path(), 100), Some(20000.0));
        assert_eq!(open_files_limit(proc.path(), 1), None);
    }

    #[test]
    fn command_lines() {
        let service = |program, worker| Command::Service { instance: "dovecot", program, worker };
        let cases: [(&[u8], Command); 22] = [
            (b"dovecot/imap-login\0", service("imap-login", false)),
            (b"dovecot/imap-login \0", service("imap-login", false)),
            (b"dovecot/imap-login [127.0.0.1 pre-login]\0", service("imap-login", false)),
            (b"dovecot/imap-login [0 pre-login + 10 TLS proxies]\0", service("imap-login", false)),
            (b"dovecot/imap [dovecot/auth x/y IDLE]\0", service("imap", false)),
            (b"dovecot/imap-login\xab\xab\xab", service("imap-login", false)),
            (b"dovecot/imap-login\0-D\0", service("imap-login", false)),
            (b"dovecot/auth\0", service("auth", false)),
            (b"dovecot/auth\0-w\0", service("auth", true)),
            (b"dovecot/auth worker: idling\0", service("auth", true)),
            (b"dovecot/auth [0 wait, 0 passdb, 0 userdb]\0", service("auth", false)),
            (b"dovecot/config\0-w\0", service("config", false)),
            (
                b"dovecot-foo/lmtp\0",
                Command::Service { instance: "dovecot-foo", program: "lmtp", worker: false },
            ),
            (b"/usr/sbin/dovecot\0-F\0", Command::Dovecot),
            (b"dovecot\0-c\0x\0", Command::Dovecot),
            (b"dovecot-2.4/sbin/dovecot\0-F\0", Command::Dovecot),
            (b"", Command::Empty),
            (b"\0", Command::Other),
            (b"dovecot/\0", Command::Other),
            (b"dovecot/ x\0", Command::Other),
            (b"/usr/lib/dovecot/imap-login\0", Command::Other),
            (b"xdovecot/imap-login\0", Command::Other),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), expected, "{}", String::from_utf8_lossy(line));
        }
    }
}
