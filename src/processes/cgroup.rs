//! The control group of a process: tasks and memory that it has and may have, and the unit it is of.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use procfs::{ProcessCGroup, process::Process};

/// Where control groups are, seen from `/proc` or from where that of the host is mounted.
const CGROUPS: &str = "../sys/fs/cgroup";
/// From here on a number of bytes is version 1's word for none: the highest of 64 bits, in whole pages.
const NO_LIMIT: f64 = 1e18;

/// Tasks: processes and threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tasks {
    /// How many there are, those of groups within included.
    pub count: u64,
    /// How many there may be; infinite if the group itself has no limit.
    pub limit: f64,
}

/// Memory of a control group with a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// Bytes that its processes may still take: page cache that is not in use counts as free.
    pub left: f64,
    /// The limit in bytes.
    pub limit: f64,
    /// The file that has the limit.
    pub file: PathBuf,
}

/// The tasks in the control group of process `pid`; nothing if that cannot be read here. Groups around it may have
/// lower limits.
pub fn tasks(procfs: &Path, pid: i32) -> Option<Tasks> {
    let root = procfs.join(CGROUPS);
    places(procfs, pid, "pids").into_iter().find_map(|place| {
        let read = |file| fs::read_to_string(root.join(&place).join(file)).ok();
        let count = read("pids.current")?.trim().parse().ok()?;
        let limit = match read("pids.max")?.trim() {
            "max" => f64::INFINITY,
            limit => limit.parse().ok()?,
        };
        Some(Tasks { count, limit })
    })
}

/// The group that leaves least memory to process `pid`: its own, or one around it; nothing if none of them has a limit.
pub fn memory(procfs: &Path, pid: i32) -> Option<Memory> {
    let root = procfs.join(CGROUPS);
    // As an administrator would write it.
    let shown = procfs.parent().map_or_else(|| root.clone(), |parent| parent.join("sys/fs/cgroup"));
    let all = places(procfs, pid, "memory");
    let groups = all.iter().flat_map(|place| place.ancestors());
    let limits = groups.flat_map(|group| {
        let (folder, shown) = (root.join(group), shown.join(group));
        // Above memory.high (MemoryHigh of systemd) processes are slowed down until they hardly move.
        [
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.high", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ]
        .map(|(file, usage, cache)| {
            let (left, limit) = limit(&folder, file, usage, cache)?;
            Some(Memory { left, limit, file: shown.join(file) })
        })
    });
    limits.flatten().min_by(|one, other| one.left.total_cmp(&other.left))
}

/// What the limit in `file` leaves, and the limit.
fn limit(folder: &Path, file: &str, usage: &str, cache: &str) -> Option<(f64, f64)> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let number = |text: &str| text.trim().parse::<f64>().ok();
    // `max` is none, and so is what version 1 has for it.
    let limit = number(&read(file)?).filter(|limit| *limit < NO_LIMIT)?;
    let usage = number(&read(usage)?)?;
    let stat = read("memory.stat").unwrap_or_default();
    let cache = stat.lines().find_map(|line| number(line.strip_prefix(cache)?)).unwrap_or_default();
    Some(((limit - (usage - cache).max(0.0)).max(0.0), limit))
}

/// The system's unit that process `pid` is of: the name that `systemctl` takes.
pub fn unit(procfs: &Path, pid: i32) -> Option<String> {
    let groups = Process::new_with_root(procfs.join(pid.to_string())).ok()?.cgroups().ok()?;
    let of_systemd = |group: &ProcessCGroup| {
        group.hierarchy == 0 || group.controllers.iter().any(|name| name == "name=systemd")
    };
    groups.into_iter().filter(of_systemd).find_map(|group| {
        let mut names: Vec<&str> = group.pathname.split('/').collect();
        names.retain(|name| name.ends_with(".service"));
        // A manager of one user's units has others of the same names.
        (!names.first()?.starts_with("user@")).then(|| names.pop().map(ToOwned::to_owned))?
    })
}

/// Where the group of process `pid` may be that `controller` looks after, below the root of all of them.
fn places(procfs: &Path, pid: i32, controller: &str) -> Vec<PathBuf> {
    let process = Process::new_with_root(procfs.join(pid.to_string()));
    let groups = process.and_then(|process| process.cgroups()).map(|groups| groups.0).unwrap_or_default();
    // Version 1 has a tree for the controller, version 2 has one tree, beside version 1 in a place of its own.
    let places = groups.into_iter().flat_map(|group| {
        let path = group.pathname.trim_start_matches('/').to_owned();
        let trees: &[&str] = match group.hierarchy {
            0 => &["", "unified"],
            _ if group.controllers.iter().any(|name| name == controller) => &[controller],
            _ => &[],
        };
        trees.iter().map(|tree| Path::new(tree).join(&path)).collect::<Vec<PathBuf>>()
    });
    // Above the root of our own name space of groups we see nothing.
    let inside = |path: &PathBuf| path.components().all(|part| matches!(part, Component::Normal(_)));
    places.filter(inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::made_up::Proc;

    #[test]
    fn groups_of_both_versions() {
        let proc = Proc::new();
        proc.master(100, "dovecot");
        proc.group(100, "system.slice/dovecot.service", "112\n", "4915\n");
        proc.group(100, "unified/other", "1\n", "max\n");
        proc.group(100, "pids/system.slice/one", "7\n", "max\n");
        let found = |text: &str| {
            fs::write(proc.path().join("100/cgroup"), text).expect("written");
            tasks(proc.path(), 100).map(|tasks| (tasks.count, tasks.limit))
        };
        assert_eq!(found("0::/system.slice/dovecot.service\n"), Some((112, 4915.0)));
        assert_eq!(found("0::/other\n"), Some((1, f64::INFINITY)));
        let both = "4:cpu,cpuacct:/system.slice\n3:pids:/system.slice/one\n0::/system.slice/one\n";
        assert_eq!(found(both), Some((7, f64::INFINITY)));
        for unknown in ["", "0::/\n", "0::/../system.slice/dovecot.service\n", "0::/elsewhere\n"] {
            assert_eq!(found(unknown), None, "{unknown}");
        }
        assert_eq!(tasks(proc.path(), 99), None);
    }

    #[test]
    fn the_tightest_memory() {
        let proc = Proc::new();
        proc.master(100, "dovecot");
        let root = proc.path().parent().expect("a folder").join("sys/fs/cgroup");
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("written");
        };
        let belongs = |text: &str| fs::write(proc.path().join("100/cgroup"), text).expect("written");
        let found = || {
            let found = memory(proc.path(), 100)?;
            let file = found.file.strip_prefix(&root).expect("below");
            Some((found.left, found.limit, file.to_str().expect("text").to_owned()))
        };
        belongs("0::/mail.slice/dovecot.service\n");
        assert_eq!(found(), None);
        write("mail.slice/dovecot.service/memory.max", "max\n");
        write("mail.slice/dovecot.service/memory.current", "300\n");
        write("mail.slice/dovecot.service/memory.stat", "anon 100\ninactive_file 50\nfile 60\n");
        assert_eq!(found(), None);
        write("mail.slice/dovecot.service/memory.max", "1000\n");
        let own = "mail.slice/dovecot.service/memory.max";
        assert_eq!(found(), Some((750.0, 1000.0, own.into())));
        write("mail.slice/dovecot.service/memory.high", "900\n");
        assert_eq!(found().map(|(left, ..)| left), Some(650.0));
        // One around it is tighter, and full.
        write("mail.slice/memory.max", "2000\n");
        write("mail.slice/memory.current", "2100\n");
        assert_eq!(found(), Some((0.0, 2000.0, "mail.slice/memory.max".into())));
        // Version 1. The group of a container is seen at the root.
        belongs("4:memory:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/memory.usage_in_bytes", "400\n");
        assert_eq!(found(), None);
        write("memory/memory.limit_in_bytes", "1000\n");
        write("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 100\n");
        assert_eq!(found(), Some((700.0, 1000.0, "memory/memory.limit_in_bytes".into())));
    }

    #[test]
    fn units() {
        let proc = Proc::new();
        proc.master(100, "dovecot");
        for (text, name) in [
            ("0::/system.slice/dovecot.service\n", Some("dovecot.service")),
            (
                "8:pids:/a.service\n1:name=systemd:/system.slice/dovecot@two.service/x\n0::/\n",
                Some("dovecot@two.service"),
            ),
            ("0::/user.slice/user-0.slice/user@0.service/app.slice/dovecot.service\n", None),
            ("0::/system.slice/docker-abc.scope\n", None),
            ("8:pids:/a.service\n", None),
        ] {
            fs::write(proc.path().join("100/cgroup"), text).expect("written");
            assert_eq!(unit(proc.path(), 100).as_deref(), name, "{text}");
        }
    }
}
