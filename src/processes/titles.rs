//! What processes of Dovecot say of themselves in their titles, with `verbose_proctitle`. For people only: the titles
//! hold what clients chose.

use std::{
    fs::File,
    io::{Read, Result},
    net::IpAddr,
    path::Path,
};

use super::process::{Command, children, parse};

/// A title has less than this; what is longer is none.
const MAX_TITLE: u64 = 4096;
/// Programs whose titles have a user before an address. In those of others what stands there is somebody else's choice:
/// in that of lmtp, a sender's.
const OF_USERS: [&str; 4] = ["imap", "managesieve", "pop3", "submission"];

/// A client who has logged in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// The user.
    pub user: String,
    /// Where the client is.
    pub address: IpAddr,
    /// Whether it waits for mail.
    pub idle: bool,
}

/// The sessions that children of process `master` show in their titles.
pub fn sessions(procfs: &Path, master: i32) -> Result<Vec<Session>> {
    let children = children(procfs, master)?;
    let command = |pid: &i32| {
        let mut command = Vec::new();
        // Those that have ended meanwhile have no client.
        let file = File::open(procfs.join(format!("{pid}/cmdline"))).ok()?;
        file.take(MAX_TITLE).read_to_end(&mut command).ok()?;
        session(&command)
    };
    Ok(children.iter().filter_map(command).collect())
}

/// `dovecot/imap [USER ADDRESS]`, and behind that the commands under way, each as the client wrote it.
fn session(command: &[u8]) -> Option<Session> {
    let Command::Service { program, .. } = parse(command) else { return None };
    if !OF_USERS.contains(&program) {
        return None;
    }
    let title = command.split(|byte| *byte == 0).next()?;
    let title = String::from_utf8_lossy(title);
    let title = title.split_once(" [")?.1.trim_end().strip_suffix(']')?;
    let words: Vec<&str> = title.split(' ').collect();
    // From the end: the name of a user may hold anything.
    let place = words.iter().rposition(|word| word.parse::<IpAddr>().is_ok()).filter(|place| *place > 0)?;
    let idle = words[place + 1..].iter().any(|command| command.eq_ignore_ascii_case("idle"));
    Some(Session { user: words[..place].join(" "), address: words[place].parse().ok()?, idle })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        let some = |user: &str, address: &str, idle| {
            Some(Session { user: user.to_owned(), address: address.parse().expect("an address"), idle })
        };
        for (command, expected) in [
            (&b"dovecot/imap [u1 127.0.0.1]\0"[..], some("u1", "127.0.0.1", false)),
            (b"dovecot/imap [u1 ::1 IDLE]\0", some("u1", "::1", true)),
            // As clients write it.
            (b"dovecot/imap [u1 ::1 idle]\0", some("u1", "::1", true)),
            (b"dovecot/imap [u1 ::1 UID FETCH IDLE]\0", some("u1", "::1", true)),
            (b"dovecot/imap [u1 ::1 IDLE - 12 bytes waiting]\0", some("u1", "::1", true)),
            (b"dovecot/submission [u1 ::1 RCPT TO]\0", some("u1", "::1", false)),
            (b"dovecot-lab/pop3 [u1 10.0.0.1 UIDL]\0", some("u1", "10.0.0.1", false)),
            (
                b"dovecot/imap [a b [x] 10.0.0.1 IDLE 10.0.0.2 IDLE]\0",
                some("a b [x] 10.0.0.1 IDLE", "10.0.0.2", true),
            ),
            (b"dovecot/imap [\xff 127.0.0.1]\0", some("\u{fffd}", "127.0.0.1", false)),
            (b"dovecot/imap-login [127.0.0.1 TLS proxy]\0", None),
            (b"dovecot/imap-login [x 127.0.0.1]\0", None),
            (b"dovecot/imap\0", None),
            (b"dovecot/imap \0", None),
            (b"dovecot/imap [auth lookup]\0", None),
            (b"dovecot/imap [127.0.0.1 idle]\0", None),
            (b"dovecot/lmtp [10.0.0.1 RCPT u1 10.0.0.2]\0", None),
            (b"dovecot/indexer-worker [u1 10.0.0.1]\0", None),
            (b"dovecot/imap [u1 127.0.0.1", None),
            (b"dovecot/auth [0 wait, 0 passdb, 0 userdb]\0", None),
            (b"dovecot/anvil [7 connections, 0 requests, 0 user-lists, 0 user-kicks]\0", None),
            (b"/usr/sbin/dovecot\0-F\0", None),
        ] {
            assert_eq!(session(command), expected, "{}", String::from_utf8_lossy(command));
        }
    }
}
