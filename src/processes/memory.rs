//! What a process really takes, and what the host has left. Both are read only when somebody asks: of a thousand
//! processes that takes seconds.

use std::{fs, path::Path};

use super::process::{Command, children, parse};

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

/// What the host can give to processes without swapping, and what it has, in bytes.
pub fn of_host(procfs: &Path) -> Option<(f64, f64)> {
    let text = fs::read_to_string(procfs.join("meminfo")).ok()?;
    Some((kibibytes(&text, "MemAvailable:")?, kibibytes(&text, "MemTotal:")?))
}

fn kibibytes(text: &str, name: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u32 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(f64::from(number) * 1024.0)
}
