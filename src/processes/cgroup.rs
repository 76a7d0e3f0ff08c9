//! The control group of a process: how many tasks it has, and how many it may have.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use procfs::process::Process;

/// Where control groups are, seen from `/proc` or from where that of the host is mounted.
const CGROUPS: &str = "../sys/fs/cgroup";

/// Tasks: processes and threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tasks {
    /// How many there are, those of groups within included.
    pub count: u64,
    /// How many there may be; infinite if the group itself has no limit.
    pub limit: f64,
}

/// The tasks in the control group of process `pid`; nothing if that cannot be read here. Groups around it may have
/// lower limits.
pub fn tasks(procfs: &Path, pid: i32) -> Option<Tasks> {
    let groups = Process::new_with_root(procfs.join(pid.to_string())).ok()?.cgroups().ok()?;
    // Version 1 has a tree for the controller, version 2 has one tree, beside version 1 in a place of its own.
    let places = groups.into_iter().flat_map(|group| {
        let path = group.pathname.trim_start_matches('/').to_owned();
        let trees: &[&str] = match group.hierarchy {
            0 => &["", "unified"],
            _ if group.controllers.iter().any(|name| name == "pids") => &["pids"],
            _ => &[],
        };
        trees.iter().map(move |tree| Path::new(tree).join(&path)).collect::<Vec<PathBuf>>()
    });
    // Above the root of our own name space of groups we see nothing.
    let inside = |path: &PathBuf| path.components().all(|part| matches!(part, Component::Normal(_)));
    places.filter(inside).find_map(|place| {
        let read = |file| fs::read_to_string(procfs.join(CGROUPS).join(&place).join(file)).ok();
        let count = read("pids.current")?.trim().parse().ok()?;
        let limit = match read("pids.max")?.trim() {
            "max" => f64::INFINITY,
            limit => limit.parse().ok()?,
        };
        Some(Tasks { count, limit })
    })
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
}
