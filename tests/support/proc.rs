//! A directory that looks like `/proc`: what the exporter reads of it, and nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// The directory, in one of its own that is removed with this value. Begins with process 1.
pub struct Proc(TempDir, PathBuf);

impl Proc {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("proc");
        let proc = Self(folder, path);
        proc.process(1, 0, "S", "systemd", b"/sbin/init\0");
        proc
    }

    pub fn path(&self) -> &Path {
        &self.1
    }

    /// A process in the given state, with the bytes of its command line. Adds it to its parent's children.
    pub fn process(&self, pid: u32, parent: u32, state: &str, comm: &str, cmdline: &[u8]) -> &Self {
        let comm = &comm[..comm.len().min(15)];
        // The fields of proc(5): ppid is the 4th, starttime (here the pid) the 22nd.
        let stat = format!(
            "{pid} ({comm}) {state} {parent} {pid} {pid} 0 -1 4194560 100 0 0 0 1 1 0 0 20 0 1 0 {pid} 8000000 500 \
             18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        );
        self.raw(pid, &stat, cmdline);
        let children = self.path().join(format!("{parent}/task/{parent}/children"));
        if children.exists() {
            let listed = fs::read_to_string(&children).expect("text");
            fs::write(children, format!("{listed}{pid} ")).expect("a file");
        }
        self
    }

    /// A process with any content of `stat`.
    pub fn raw(&self, pid: u32, stat: &str, cmdline: &[u8]) -> &Self {
        let folder = self.path().join(pid.to_string());
        fs::create_dir_all(folder.join(format!("task/{pid}"))).expect("a folder");
        fs::write(folder.join(format!("task/{pid}/children")), "").expect("a file");
        fs::write(folder.join("stat"), stat).expect("a file");
        fs::write(folder.join("cmdline"), cmdline).expect("a file");
        fs::write(folder.join("statm"), "2000 500 300 10 0 150 0\n").expect("a file");
        self
    }

    /// The resource limits of process `pid`: 20,000 open files.
    pub fn limits(&self, pid: u32) -> &Self {
        let limits = include_str!("../fixtures/proc/limits");
        fs::write(self.path().join(format!("{pid}/limits")), limits).expect("a file");
        self
    }

    /// A control group of version 2, and process `pid` in it.
    pub fn group(&self, pid: u32, path: &str, current: &str, max: &str) -> &Self {
        let group = self.0.path().join("sys/fs/cgroup").join(path);
        fs::create_dir_all(&group).expect("a folder");
        fs::write(group.join("pids.current"), current).expect("a file");
        fs::write(group.join("pids.max"), max).expect("a file");
        fs::write(self.path().join(format!("{pid}/cgroup")), format!("0::/{path}\n")).expect("a file");
        self
    }

    /// A process that was listed and then ended.
    pub fn vanished(&self, pid: u32) -> &Self {
        fs::create_dir(self.path().join(pid.to_string())).expect("a folder");
        self
    }

    /// A master and its log process, with the pids `pid` and `pid + 1`.
    pub fn master(&self, pid: u32, instance: &str) -> &Self {
        self.process(pid, 1, "S", "dovecot", b"/usr/sbin/dovecot\0-F\0");
        self.process(pid + 1, pid, "S", "log", format!("{instance}/log\0").as_bytes())
    }
}
