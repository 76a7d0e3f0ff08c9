//! What a process really takes, and what the host has left. Both are read only when somebody asks: of a thousand
//! processes that takes seconds.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    cgroup,
    process::{Command, children, parse},
};

/// More processes of one service say no more.
const SAMPLE: usize = 100;

/// Proportional memory of a process that runs `program` under `master`, in bytes: what processes share counts for each
/// in part (`Pss`). The mean, or nothing if there is no such process or it may not be seen.
pub fn proportional(procfs: &Path, master: i32, program: &str) -> Option<f64> {
    let is_one = |pid: &i32| {
        let command = fs::read(procfs.join(format!("{pid}/cmdline"))).unwrap_or_default();
        matches!(parse(&command), Command::Service { program: name, .. } if name == program)
    };
    let read = |pid: i32| {
        let text = fs::read_to_string(procfs.join(format!("{pid}/smaps_rollup"))).ok()?;
        kibibytes(&text, "Pss:")
    };
    let children = children(procfs, master).ok()?;
    let all: Vec<f64> = children.into_iter().filter(is_one).take(SAMPLE).filter_map(read).collect();
    #[expect(clippy::cast_precision_loss, reason = "100 at most")]
    let count = all.len() as f64;
    (count > 0.0).then(|| all.iter().sum::<f64>() / count)
}

/// What processes may still take, without swapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Available {
    /// Bytes.
    pub bytes: f64,
    /// Bytes of which these are left.
    pub total: f64,
    /// The file that says so.
    pub from: PathBuf,
}

/// What is available to the children of `master`: on the host, or in their control group if that is less.
pub fn available(procfs: &Path, master: Option<i32>) -> Option<Available> {
    let from = procfs.join("meminfo");
    let text = fs::read_to_string(&from).unwrap_or_default();
    let host = kibibytes(&text, "MemAvailable:").zip(kibibytes(&text, "MemTotal:"));
    let host = host.map(|(bytes, total)| Available { bytes, total, from });
    let group = master.and_then(|master| cgroup::memory(procfs, master));
    let group = group.map(|group| Available { bytes: group.left, total: group.limit, from: group.file });
    [host, group].into_iter().flatten().min_by(|one, other| one.bytes.total_cmp(&other.bytes))
}

fn kibibytes(text: &str, name: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "exact to 8 EiB")]
    let bytes = number as f64 * 1024.0;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{super::made_up::Proc, *};

    #[test]
    fn of_processes_and_of_the_host() {
        let proc = Proc::new();
        proc.master(100, "dovecot");
        for (pid, name, kib) in [(200, "imap-login", 1000), (201, "imap-login", 3000), (202, "imap", 9000)] {
            proc.process(pid, 100, "S", name, format!("dovecot/{name}\0").as_bytes());
            let text = format!(
                "00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss: 8000 kB\nPss:      {kib} kB\nPss_Anon: 7 kB\n"
            );
            fs::write(proc.path().join(format!("{pid}/smaps_rollup")), text).expect("written");
        }
        // One that may not be seen.
        proc.process(203, 100, "S", "imap-login", b"dovecot/imap-login\0");
        let of = |program| proportional(proc.path(), 100, program);
        assert_eq!(of("imap-login"), Some(2000.0 * 1024.0));
        assert_eq!((of("imap"), of("pop3")), (Some(9000.0 * 1024.0), None));
        let found = || available(proc.path(), Some(100)).map(|found| (found.bytes, found.total));
        assert_eq!(found(), None);
        fs::write(proc.path().join("meminfo"), "MemTotal: 4 kB\nMemFree: 1 kB\nMemAvailable: 3 kB\n")
            .expect("written");
        assert_eq!(found(), Some((3072.0, 4096.0)));
        // Its control group leaves less.
        proc.group(100, "dovecot.service", "2\n", "max\n");
        let group = proc.path().parent().expect("a folder").join("sys/fs/cgroup/dovecot.service");
        fs::write(group.join("memory.max"), "3000\n").expect("written");
        fs::write(group.join("memory.current"), "1000\n").expect("written");
        assert_eq!(found(), Some((2000.0, 3000.0)));
        assert_eq!(available(proc.path(), None).map(|found| found.bytes), Some(3072.0));
        // 8 TiB.
        fs::write(proc.path().join("meminfo"), "MemTotal: 8589934592 kB\nMemAvailable: 3 kB\n")
            .expect("written");
        assert_eq!(available(proc.path(), None).map(|found| found.total), Some(2_f64.powi(43)));
    }
}
