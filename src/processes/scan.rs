//! One pass over `/proc`: how many processes of each program run under the Dovecot master.
//!
//! The kernel's `children` file omits live children while others exit, so nothing is counted by it: it only saves
//! reading the parent of a process whose command line already says what it is. A user can give a process any
//! command line but not Dovecot's master as its parent, so while root's Dovecot runs nobody can add to a count.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CStr,
    fmt, io,
    mem::MaybeUninit,
    path::{Path, PathBuf},
    time::Duration,
};

use procfs::{ProcError, process::Process};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{CWD, Mode, OFlags, RawDir, openat},
    io::{Errno, pread},
    time::{ClockId, clock_gettime},
};

use crate::service::Program;

/// Enough of a command line for `INSTANCE/PROGRAM` and the first word of its title.
const COMMAND_BYTES: usize = 512;

/// What one pass saw.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// The master; nothing if no Dovecot runs.
    pub master: Option<Master>,
    /// Processes by program.
    pub programs: BTreeMap<Program, u64>,
    /// What tells one configuration of the running master from the next: the newest `log` process under it, as
    /// (start time in ticks since boot, pid). The master starts one whenever it has read its configuration
    /// (measured on 2.3 and 2.4), reload or restart.
    pub generation: Option<(u64, i32)>,
    /// How long ago that process started.
    pub generation_age: Duration,
    /// Processes left out because what `/proc` says of them makes no sense.
    pub malformed: u64,
}

/// A Dovecot master process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Master {
    /// Its process id, in the name space that `/proc` shows.
    pub pid: i32,
    /// Its start, in ticks since boot; with the pid it tells one master from the next.
    pub start: u64,
    /// What stands before the slash in its children's command lines: `dovecot`, or `dovecot-` and the
    /// `instance_name`.
    pub instances: BTreeSet<String>,
    /// Whether root owns it. A user may run something that looks like a second Dovecot.
    root: bool,
}

/// What is known of the instance to watch, from its configuration.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What `base_dir/master.pid` holds.
    pub pid: Option<i32>,
    /// The `instance_name` setting.
    pub instance_name: Option<String>,
}

/// Why nothing can be said about Dovecot's processes.
#[derive(Debug)]
pub enum Blind {
    /// The directory is no readable `/proc`.
    Unreadable(PathBuf, io::Error),
    /// Processes of others are hidden from this one.
    Hidden(PathBuf),
    /// Several masters run and nothing tells which is meant.
    SeveralMasters(Vec<Master>),
}

impl fmt::Display for Blind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(
                formatter,
                "{} cannot be read as a proc file system ({error}): give --path.procfs the place where the /proc of the host is mounted",
                path.display()
            ),
            Self::Hidden(path) => write!(
                formatter,
                "{} hides the processes of others: run the exporter in the PID name space of Dovecot and without hidepid= or ProtectProc=, or in the group of the gid= mount option",
                path.display()
            ),
            Self::SeveralMasters(masters) => {
                let name = |master: &Master| {
                    let instances: Vec<&str> = master.instances.iter().map(String::as_str).collect();
                    format!("{} ({})", master.pid, instances.join(", "))
                };
                let names: Vec<String> = masters.iter().map(name).collect();
                write!(
                    formatter,
                    "several Dovecot masters run, with the pids {}: give --dovecot.config the configuration of the one to watch, and each its own instance_name",
                    names.join(" and ")
                )
            }
        }
    }
}

/// Counts the processes under the wanted master in `procfs`.
pub fn scan(procfs: &Path, wanted: &Wanted) -> Result<Census, Blind> {
    let unreadable = |error: Errno| Blind::Unreadable(procfs.to_owned(), error.into());
    let directory = openat(CWD, procfs, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(unreadable)?;
    let walk = walk(&directory).map_err(unreadable)?;
    if walk.seen == 0 {
        return Err(Blind::Unreadable(procfs.to_owned(), io::Error::other("there are no processes in it")));
    }
    let hidden = walk.denied || !walk.init;
    let mut malformed = 0;
    let masters = masters(procfs, &walk, &mut malformed);
    if hidden || masters.is_empty() && only_kin(procfs, walk.seen) {
        return Err(Blind::Hidden(procfs.to_owned()));
    }
    let families = families(procfs, masters, &walk, &mut malformed);
    let Some(family) = choose(families, wanted)? else {
        return Ok(Census { malformed, ..Census::default() });
    };
    let mut programs: BTreeMap<usize, u64> = BTreeMap::new();
    for service in &family.services {
        *programs.entry(service.kind).or_default() += 1;
    }
    let logs = family.services.iter().filter(|service| walk.kinds[service.kind].program.as_str() == "log");
    let generation = logs.filter_map(|log| Some((stat(procfs, log.pid).ok()??.start, log.pid))).max();
    let name = |(kind, count): (usize, u64)| (walk.kinds[kind].program.clone(), count);
    let programs = programs.into_iter().map(name).collect();
    let generation_age = generation.map_or(Duration::ZERO, |(start, _)| age(start));
    Ok(Census { master: Some(family.master), programs, generation, generation_age, malformed })
}

/// A process whose command line is that of a service.
#[derive(Clone, Copy, Debug)]
struct ServiceProcess {
    pid: i32,
    /// Its place in [`Walk::kinds`].
    kind: usize,
}

/// What a command line can say of a service: there are few, and thousands of processes.
#[derive(Debug, Eq, PartialEq)]
struct ServiceKind {
    instance: String,
    program: Program,
}

/// What the command lines say.
#[derive(Debug, Default)]
struct Walk {
    kinds: Vec<ServiceKind>,
    services: Vec<ServiceProcess>,
    /// Masters, and their children that have not yet called exec.
    dovecots: Vec<i32>,
    /// Processes, of whatever kind.
    seen: usize,
    /// Process 1 is among them.
    init: bool,
    /// Some command line may not be read, as with `hidepid=1`.
    denied: bool,
}

impl Walk {
    fn kind(&mut self, instance: &str, program: &str, worker: bool) -> usize {
        let same = |kind: &ServiceKind| kind.program.is(program, worker) && kind.instance == instance;
        self.kinds.iter().position(same).unwrap_or_else(|| {
            self.kinds
                .push(ServiceKind { instance: instance.to_owned(), program: Program::new(program, worker) });
            self.kinds.len() - 1
        })
    }
}

fn walk(directory: &OwnedFd) -> Result<Walk, Errno> {
    let mut walk = Walk::default();
    let mut entries = [MaybeUninit::uninit(); 16 * 1024];
    let mut entries = RawDir::new(directory.as_fd(), &mut entries);
    let mut command = [0; COMMAND_BYTES];
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let Some(pid) = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) else { continue };
        walk.seen += 1;
        walk.init |= pid == 1;
        match read_command(directory, name, &mut command) {
            Ok(length) => match parse_command(&command[..length]) {
                Command::Service { instance, program, worker } => {
                    let kind = walk.kind(instance, program, worker);
                    walk.services.push(ServiceProcess { pid, kind });
                }
                Command::Dovecot => walk.dovecots.push(pid),
                Command::Other => {}
            },
            Err(Errno::ACCESS | Errno::PERM) => walk.denied = true,
            // It ended meanwhile.
            Err(_) => {}
        }
    }
    Ok(walk)
}

/// Reads the start of `PID/cmdline`: one system call less per process than std, and no allocation.
fn read_command(directory: &OwnedFd, pid: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
    const FILE: &[u8] = b"/cmdline\0";
    let mut path = [0; 32];
    let path = path.get_mut(..pid.len() + FILE.len()).ok_or(Errno::NOENT)?;
    path[..pid.len()].copy_from_slice(pid);
    path[pid.len()..].copy_from_slice(FILE);
    let path = CStr::from_bytes_with_nul(path).map_err(|_| Errno::INVAL)?;
    let file = openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // Not read, which in a program with threads takes a lock for the position in the file.
    pread(&file, buffer, 0)
}

/// What a command line says that a process is.
#[derive(Debug, Eq, PartialEq)]
enum Command<'a> {
    Service { instance: &'a str, program: &'a str, worker: bool },
    Dovecot,
    Other,
}

/// `process_exec` (src/master/main.c) makes `argv[0]` of a service `INSTANCE/PROGRAM`, where INSTANCE begins with
/// `dovecot`; `verbose_proctitle` appends a space and a title, which may hold a client's text. A zombie and a
/// process that is just exiting have an empty command line.
fn parse_command(command: &[u8]) -> Command<'_> {
    let end = command.iter().position(|byte| *byte == 0).unwrap_or(command.len());
    let (first, rest) = command.split_at(end);
    if first.starts_with(b"dovecot") {
        if let Some(slash) = first.iter().position(|byte| *byte == b'/') {
            let (instance, name) = (&first[..slash], &first[slash + 1..]);
            let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"._+-".contains(byte);
            // 2.2 fills what a shorter title leaves with bytes of 0xab.
            let length = name.iter().position(|byte| !valid(byte)).unwrap_or(name.len());
            let (name, title) = name.split_at(length);
            if !name.is_empty() && !title.starts_with(b"/") {
                let text = |bytes| std::str::from_utf8(bytes).ok();
                return match (text(instance), text(name)) {
                    (Some(instance), Some(program)) => {
                        let worker = program == "auth"
                            && (rest.starts_with(b"\0-w\0") || title.starts_with(b" worker: "));
                        Command::Service { instance, program, worker }
                    }
                    _ => Command::Other,
                };
            }
        }
    }
    if first.rsplit(|byte| *byte == b'/').next() == Some(b"dovecot") {
        Command::Dovecot
    } else {
        Command::Other
    }
}

/// What is read of `PID/stat`.
#[derive(Clone, Copy, Debug)]
struct Stat {
    parent: i32,
    start: u64,
    root: bool,
}

/// Reads one process; nothing if it ended meanwhile.
fn stat(procfs: &Path, pid: i32) -> Result<Option<Stat>, ProcError> {
    let read = || {
        let process = Process::new_with_root(procfs.join(pid.to_string()))?;
        let stat = process.stat()?;
        Ok(Stat { parent: stat.ppid, start: stat.starttime, root: process.uid()? == 0 })
    };
    match read() {
        Ok(stat) => Ok(Some(stat)),
        Err(ProcError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How long ago a process started, by its start in ticks since boot.
fn age(start: u64) -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default());
    let ticks = procfs::ticks_per_second();
    now.saturating_sub(Duration::from_millis(start.saturating_mul(1000) / ticks))
}

/// The masters: what is called `dovecot` and is no child of another that is.
fn masters(procfs: &Path, walk: &Walk, malformed: &mut u64) -> Vec<Master> {
    let mut masters = Vec::new();
    for pid in &walk.dovecots {
        match stat(procfs, *pid) {
            Ok(Some(found)) if !walk.dovecots.contains(&found.parent) => {
                masters.push(Master {
                    pid: *pid,
                    start: found.start,
                    instances: BTreeSet::new(),
                    root: found.root,
                });
            }
            Ok(_) => {}
            Err(_) => *malformed += 1,
        }
    }
    masters
}

/// Whether the only processes to be seen are this one and its ancestors: then `/proc` hides the others, or this is
/// a PID name space without Dovecot, which looks the same. A `/proc` that does not show this process, as a copy
/// does not, hides nothing.
fn only_kin(procfs: &Path, seen: usize) -> bool {
    let own = procfs.join("self").read_link().ok();
    let Some(own) = own.and_then(|link| link.to_str()?.parse().ok()) else { return false };
    let parent =
        |pid: &i32| stat(procfs, *pid).ok().flatten().map(|found| found.parent).filter(|parent| *parent > 0);
    own == 1 || seen <= std::iter::successors(Some(own), parent).count()
}

/// A master and the service processes whose parent it is.
struct Family {
    master: Master,
    services: Vec<ServiceProcess>,
}

fn families(procfs: &Path, masters: Vec<Master>, walk: &Walk, malformed: &mut u64) -> Vec<Family> {
    let family = |master| Family { master, services: Vec::new() };
    let mut families: Vec<Family> = masters.into_iter().map(family).collect();
    let children: Vec<Vec<i32>> = families.iter().map(|family| children(procfs, family.master.pid)).collect();
    for service in &walk.services {
        let listed = children.iter().position(|children| children.binary_search(&service.pid).is_ok());
        let index = listed.or_else(|| {
            let found = stat(procfs, service.pid).inspect_err(|_| *malformed += 1).ok()??;
            families.iter().position(|family| family.master.pid == found.parent)
        });
        if let Some(family) = index.map(|index| &mut families[index]) {
            let instance = &walk.kinds[service.kind].instance;
            if !family.master.instances.contains(instance) {
                family.master.instances.insert(instance.clone());
            }
            family.services.push(*service);
        }
    }
    families
}

/// The children that the kernel lists, sorted. None of them is wrong, but some may be missing.
fn children(procfs: &Path, pid: i32) -> Vec<i32> {
    let path = procfs.join(format!("{pid}/task/{pid}/children"));
    let list = std::fs::read_to_string(path).unwrap_or_default();
    let mut children: Vec<i32> =
        list.split_ascii_whitespace().filter_map(|child| child.parse().ok()).collect();
    children.sort_unstable();
    children
}

/// The family of the instance that is wanted; none if it does not run.
fn choose(mut families: Vec<Family>, wanted: &Wanted) -> Result<Option<Family>, Blind> {
    if let Some(index) = families.iter().position(|family| Some(family.master.pid) == wanted.pid) {
        return Ok(Some(families.swap_remove(index)));
    }
    // A master has at least its log process; what has nothing is a `dovecot reload` or has just started.
    if families.iter().any(|family| !family.services.is_empty()) {
        families.retain(|family| !family.services.is_empty());
    }
    if families.iter().any(|family| family.master.root) {
        families.retain(|family| family.master.root);
    }
    if let Some(name) = &wanted.instance_name {
        let prefix = if name.starts_with("dovecot") { name.clone() } else { format!("dovecot-{name}") };
        families.retain(|family| family.services.is_empty() || family.master.instances.contains(&prefix));
    }
    if families.len() > 1 {
        return Err(Blind::SeveralMasters(families.into_iter().map(|family| family.master).collect()));
    }
    Ok(families.pop())
}

#[cfg(test)]
mod tests;
