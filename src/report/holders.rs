//! `status --top`: who has most connections. Shown to people, and nowhere kept.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use super::words::{COLUMNS, tame};
use crate::{
    cli::Config,
    limits::doveconf::{Failure, run_any},
    processes::titles,
};

/// Of `doveadm who`: 60 bytes for each of a million sessions.
const MAX_OUTPUT: u64 = 64 << 20;

/// One who has connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// A user, or an address.
    pub name: String,
    /// How many.
    pub connections: u64,
    /// How many of them wait for mail, if that is told.
    pub idle: Option<u64>,
}

/// Those who have most.
#[derive(Clone, Debug)]
pub struct Holders {
    /// By users.
    pub users: Vec<Holder>,
    /// By addresses.
    pub addresses: Vec<Holder>,
    /// Who tells.
    pub source: &'static str,
}

/// Reads who has most, so many of each; the error is a sentence. `doveadm who` has all sessions. Titles have who is idle,
/// and no more than that of clients of 2.4 that do nothing else, which are `[idling]`.
pub async fn read(config: &Config, master: Option<i32>, most: usize) -> Result<Holders, String> {
    let titles = master.and_then(|master| titles::sessions(&config.procfs, master).ok()).unwrap_or_default();
    let named = || titles.iter().map(|title| (title.user.clone(), title.address.to_string()));
    let (sessions, source) = match who(&config.doveconf, &config.dovecot_config).await {
        Ok(sessions) if titles.is_empty() => (sessions, "doveadm who"),
        Ok(sessions) => (sessions, "doveadm who and process titles"),
        Err(_) if !titles.is_empty() => (named().collect(), "process titles"),
        Err(reason) => {
            return Err(format!(
                "Who has most connections cannot be told ({reason}): set verbose_proctitle = yes, or run this as root"
            ));
        }
    };
    let idle: Vec<(String, String)> =
        named().zip(&titles).filter_map(|(who, title)| title.idle.then_some(who)).collect();
    let idle = (!titles.is_empty()).then_some(&idle[..]);
    let users = top(&sessions, idle, |(user, _)| user, most);
    Ok(Holders { users, addresses: top(&sessions, idle, |(_, address)| address, most), source })
}

/// User and address of a session.
type Who = (String, String);

fn top(all: &[Who], idle: Option<&[Who]>, name: fn(&Who) -> &String, most: usize) -> Vec<Holder> {
    let count = |all: &[Who]| {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for who in all {
            *counts.entry(name(who).clone()).or_default() += 1;
        }
        counts
    };
    let idle = idle.map(count);
    let holder = |(name, connections): (String, u64)| {
        // Both were not read at the same moment.
        let idle = idle.as_ref().map(|idle| idle.get(&name).copied().unwrap_or_default().min(connections));
        Holder { name, connections, idle }
    };
    let mut holders: Vec<Holder> = count(all).into_iter().map(holder).collect();
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.connections));
    holders.truncate(most);
    holders
}

/// User and address of each session.
async fn who(doveconf: &Path, config: &Path) -> Result<Vec<Who>, String> {
    // It is where doveconf is.
    let doveadm = doveconf.with_file_name("doveadm");
    let (shown, _) =
        run_any(&doveadm, &[], config, &["-f", "tab", "who", "-1"], MAX_OUTPUT).await.map_err(|failure| {
            match failure {
                Failure::Start(error) => format!("{} cannot be run: {error}", doveadm.display()),
                Failure::Exit(said) => tame(&said, 200),
                Failure::TooSlow => format!("{} did not answer", doveadm.display()),
            }
        })?;
    table(&shown).ok_or_else(|| "doveadm printed no table".to_owned())
}

/// Reads a table with tabs between its columns, whose names come first.
fn table(text: &str) -> Option<Vec<Who>> {
    let mut lines = text.lines();
    let Some(names) = lines.next() else { return Some(vec![]) };
    let names: Vec<&str> = names.split('\t').collect();
    let column = |name| names.iter().position(|known| *known == name);
    let (user, address) = (column("username")?, column("ip")?);
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('\t').collect();
        Some(((*cells.get(user)?).to_owned(), (*cells.get(address)?).to_owned()))
    };
    lines.map(row).collect()
}

/// For a terminal.
pub fn lines(holders: &Holders) -> String {
    let mut text = format!("\nConnections by {}, and how many of them are idle:\n", holders.source);
    for (what, holders) in [("user", &holders.users), ("address", &holders.addresses)] {
        writeln!(text, "{:>11} {:>5}  {what}", "connections", "idle").expect("a String takes everything");
        for holder in holders {
            let idle = holder.idle.map_or_else(|| "?".to_owned(), |idle| idle.to_string());
            // A character may take two columns.
            let name = tame(&holder.name, (COLUMNS - 19) / 2);
            writeln!(text, "{:>11} {idle:>5}  {name}", holder.connections)
                .expect("a String takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn who_has_most_comes_first() {
        let all = |names: &[&str]| {
            names.iter().map(|name| ((*name).to_owned(), "::1".to_owned())).collect::<Vec<_>>()
        };
        let sessions = all(&["b", "a", "c", "a", "b", "b"]);
        let holder = |name: &str, connections, idle| Holder { name: name.to_owned(), connections, idle };
        let found = top(&sessions, Some(&all(&["b", "a", "b", "c", "c"])), |(user, _)| user, 3);
        assert_eq!(found, [holder("b", 3, Some(2)), holder("a", 2, Some(1)), holder("c", 1, Some(1))]);
        assert_eq!(top(&sessions, None, |(_, address)| address, 3), [holder("::1", 6, None)]);
    }

    #[test]
    fn what_doveadm_prints() {
        let found = table("username\tproto\tpid\tip\nu1\timap\t7\t127.0.0.1\n").expect("a table");
        assert_eq!(found, [("u1".to_owned(), "127.0.0.1".to_owned())]);
        assert_eq!(table("").expect("nobody"), []);
        assert_eq!(table("nonsense\n"), None);
        assert_eq!(table("username\tip\nu1\n"), None);
    }

    #[test]
    fn a_doveadm_without_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a file");
            path
        };
        // It starts what outlives itself.
        let text = "#!/bin/sh\nsleep 1000 &\necho $! >\"$0.pid\"\nexec cat /dev/zero\n";
        let doveadm = file("doveadm", text);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let reason =
            runtime.block_on(who(&folder.path().join("doveconf"), Path::new("/nowhere"))).expect_err("zeros");
        assert_eq!(reason, format!("{} cannot be run: it prints more than 64 MiB", doveadm.display()));
        let pid = fs::read_to_string(folder.path().join("doveadm.pid")).expect("a file");
        let ended = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let waited = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            ended()
        });
        assert!(waited, "{pid} lives on");
    }
}
