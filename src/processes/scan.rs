//! One pass over `/proc`: how many processes of each program run under the Dovecot master.
//!
//! The kernel's `children` file omits live children while others exit, so nothing is counted by it: it only saves
//! reading the parent of a process whose command line already says what it is. A user can give a process any
//! command line but not Dovecot's master as its parent, so while root's Dovecot runs nobody can add to a count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fd::OwnedFd,
    fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, openat},
    io::Errno,
    time::{ClockId, clock_gettime},
};

use super::{
    process::{children, stat},
    walk::{Is, Walk},
};
use crate::service::Program;

/// How long a process is not read again that has been read. What it could have become by exec meanwhile, without
/// being noticed by its children, is the service of another name.
const MEMORY: Duration = Duration::from_secs(60);
/// Reading a master's list of children costs, per child, this part of what it costs to read the parent of a process.
const LISTED_COST: usize = 50;

/// What one pass saw.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// The master; nothing if no Dovecot runs.
    pub master: Option<Master>,
    /// Processes by program.
    pub programs: BTreeMap<Program, u64>,
    /// Resident memory by program, in bytes, of each process as it was at most a minute ago.
    pub resident: BTreeMap<Program, u64>,
    /// What tells one configuration of the running master from the next: the newest `log` process under it, as
    /// (start time in ticks since boot, pid). The master starts one whenever it has read its configuration
    /// (measured on 2.3 and 2.4), reload or restart.
    pub generation: Option<(u64, i32)>,
    /// How long ago that process started.
    pub generation_age: Duration,
    /// The newest `anvil` process under it, likewise: it goes on over a reload.
    pub anvil: Option<(u64, i32)>,
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
    /// Whether it waits for an event.
    asleep: bool,
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

/// Counts the processes under a master, again and again.
#[derive(Debug, Default)]
pub struct Scanner {
    walk: Walk,
    /// Pid and start of the masters that there were.
    masters: Vec<(i32, u64)>,
    /// When `walk` began to remember.
    since: Option<Instant>,
}

/// All masters, and what else is to be said of one scan.
struct Sight {
    families: Vec<Family>,
    malformed: u64,
    /// A service's process has a parent that is not known as a master.
    stray: bool,
}

impl Scanner {
    /// Counts the processes under the wanted master in `procfs`, now.
    pub fn scan(&mut self, procfs: &Path, wanted: &Wanted) -> Result<Census, Blind> {
        let unreadable = |error: Errno| Blind::Unreadable(procfs.to_owned(), error.into());
        let directory =
            openat(CWD, procfs, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(unreadable)?;
        // In a directory of any other file system the inode numbers say nothing.
        let real = fstatfs(&directory).is_ok_and(|system| system.f_type == PROC_SUPER_MAGIC);
        if !real || self.since.is_none_or(|since| since.elapsed() >= MEMORY) {
            self.forget();
        }
        let remembers = self.since.is_some();
        let mut sight = self.look(procfs, &directory)?;
        // It may have become a master by exec, as from the shell that a container begins with.
        if sight.stray && remembers {
            self.forget();
            sight = self.look(procfs, &directory)?;
        }
        if sight.stray {
            self.since = None;
        } else {
            self.since.get_or_insert_with(Instant::now);
        }
        let Some(family) = choose(sight.families, wanted)? else {
            return Ok(Census { malformed: sight.malformed, ..Census::default() });
        };
        Ok(self.census(procfs, family, sight.malformed))
    }

    fn forget(&mut self) {
        (self.walk, self.since) = (Walk::default(), None);
    }

    fn look(&mut self, procfs: &Path, directory: &OwnedFd) -> Result<Sight, Blind> {
        let unreadable = |error: io::Error| Blind::Unreadable(procfs.to_owned(), error);
        let walk = &mut self.walk;
        walk.again(procfs, directory).map_err(|error| unreadable(error.into()))?;
        if walk.processes.is_empty() {
            return Err(unreadable(io::Error::other("there are no processes in it")));
        }
        let hidden = walk.denied || !walk.init;
        let mut malformed = 0;
        let masters = masters(procfs, walk, &mut malformed);
        if hidden || masters.is_empty() && only_kin(procfs, walk.processes.len()) {
            return Err(Blind::Hidden(procfs.to_owned()));
        }
        // A child's end wakes the master, which waits for all that have ended before it sleeps.
        if !masters.iter().all(|master| master.asleep) {
            walk.bury(directory);
        }
        walk.weigh(directory);
        let now = masters.iter().map(|master| (master.pid, master.start)).collect();
        let before = std::mem::replace(&mut self.masters, now);
        let lasting: Vec<i32> =
            before.iter().filter(|master| self.masters.contains(master)).map(|(pid, _)| *pid).collect();
        let mut sight = Sight { families: Vec::new(), malformed, stray: false };
        sight.families = families(procfs, masters, walk, &lasting, &mut sight);
        Ok(sight)
    }

    fn census(&self, procfs: &Path, family: Family, malformed: u64) -> Census {
        let kinds = &self.walk.kinds;
        let mut sums = vec![(0, 0); kinds.len()];
        for (_, kind, pages) in &family.services {
            let sum = &mut sums[*kind as usize];
            sum.0 += 1;
            sum.1 += u64::from(*pages) * procfs::page_size();
        }
        let newest = |name: &str| {
            let alike =
                family.services.iter().filter(|(_, kind, _)| kinds[*kind as usize].program.as_str() == name);
            alike.filter_map(|(pid, ..)| Some((stat(procfs, *pid).ok()??.start, *pid))).max()
        };
        let generation = newest("log");
        let anvil = newest("anvil");
        let generation_age = generation.map_or(Duration::ZERO, |(start, _)| age(start));
        let (mut programs, mut resident) = (BTreeMap::new(), BTreeMap::new());
        for (kind, (count, bytes)) in kinds.iter().zip(sums).filter(|(_, (count, _))| *count > 0) {
            *programs.entry(kind.program.clone()).or_default() += count;
            *resident.entry(kind.program.clone()).or_default() += bytes;
        }
        Census {
            master: Some(family.master),
            programs,
            resident,
            generation,
            generation_age,
            anvil,
            malformed,
        }
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
    let dovecots = walk.processes.iter().filter(|process| process.is == Is::Dovecot);
    let dovecots: Vec<i32> = dovecots.map(|process| process.pid).collect();
    for pid in &dovecots {
        match stat(procfs, *pid) {
            Ok(Some(found)) if !dovecots.contains(&found.parent) => {
                masters.push(Master {
                    pid: *pid,
                    start: found.start,
                    instances: BTreeSet::new(),
                    root: found.root,
                    asleep: found.asleep,
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

/// A master, and pid, kind and pages of the service processes whose parent it is.
struct Family {
    master: Master,
    services: Vec<(i32, u32, u32)>,
}

/// Finds the parent of every service process. A process gets another parent only when its parent ends, so those with
/// a master that is `lasting` are not asked again.
fn families(
    procfs: &Path,
    masters: Vec<Master>,
    walk: &mut Walk,
    lasting: &[i32],
    sight: &mut Sight,
) -> Vec<Family> {
    let family = |master| Family { master, services: Vec::new() };
    let mut families: Vec<Family> = masters.into_iter().map(family).collect();
    let known = |process: &Is| match process {
        Is::Service { parent, .. } => Some(parent.is_some_and(|parent| lasting.contains(&parent))),
        _ => None,
    };
    let services: Vec<bool> = walk.processes.iter().filter_map(|process| known(&process.is)).collect();
    let unknown = services.iter().filter(|known| !**known).count();
    let list = unknown * LISTED_COST > services.len();
    let children = |family: &Family| {
        if list { children(procfs, family.master.pid).unwrap_or_default() } else { Vec::new() }
    };
    let children: Vec<Vec<i32>> = families.iter().map(children).collect();
    for process in &mut walk.processes {
        let (pid, pages) = (process.pid, process.pages);
        let Is::Service { kind, parent } = &mut process.is else { continue };
        *parent = parent.filter(|parent| lasting.contains(parent)).or_else(|| {
            let listed = children.iter().position(|children| children.binary_search(&pid).is_ok());
            if let Some(listed) = listed {
                return Some(families[listed].master.pid);
            }
            stat(procfs, pid).inspect_err(|_| sight.malformed += 1).ok()?.map(|found| found.parent)
        });
        let Some(parent) = *parent else { continue };
        let Some(family) = families.iter_mut().find(|family| family.master.pid == parent) else {
            sight.stray = true;
            continue;
        };
        let instance = &walk.kinds[*kind as usize].instance;
        if !family.master.instances.contains(instance) {
            family.master.instances.insert(instance.clone());
        }
        family.services.push((pid, *kind, pages));
    }
    families
}

/// The family of the instance that is wanted; none if it does not run.
fn choose(mut families: Vec<Family>, wanted: &Wanted) -> Result<Option<Family>, Blind> {
    if let Some(index) = families.iter().position(|family| Some(family.master.pid) == wanted.pid) {
        return Ok(Some(families.swap_remove(index)));
    }
    // A master has at least its log process; what has nothing is a `dovecot reload` or has just started, and only
    // `master.pid` tells whose it is.
    if families.iter().any(|family| !family.services.is_empty()) {
        families.retain(|family| !family.services.is_empty());
    }
    if families.iter().any(|family| family.master.root) {
        families.retain(|family| family.master.root);
    }
    if let Some(name) = &wanted.instance_name {
        let prefix = if name.starts_with("dovecot") { name.clone() } else { format!("dovecot-{name}") };
        families.retain(|family| family.master.instances.contains(&prefix));
    }
    if families.len() > 1 {
        return Err(Blind::SeveralMasters(families.into_iter().map(|family| family.master).collect()));
    }
    Ok(families.pop())
}

#[cfg(test)]
mod tests;
