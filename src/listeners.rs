//! Clients that wait in the kernel to be accepted by Dovecot, and how many may.

pub mod diag;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use procfs::{
    FromBufReadSI, ProcError, current_system_info,
    net::{TcpNetEntries, TcpNetEntry},
};

/// How `/proc/net/tcp` writes LISTEN.
const LISTEN: &str = "0A";

/// To find the last of the sockets that listen, the kernel goes on to the first connection in a table that has room for
/// very many: half a millisecond where there are few. So never more often than this, however many ask.
const LOOK: Duration = Duration::from_secs(1);

/// The sockets that listen in the network name space of a process.
#[derive(Debug, Default)]
pub struct Listeners {
    looked: Option<(Instant, i32)>,
    queues: Vec<Queue>,
}

/// The queue of a socket that listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Queue {
    /// Where it listens.
    pub address: SocketAddr,
    /// Clients in it.
    pub clients: u32,
    /// Most clients that it takes; nothing if the socket is of another network name space.
    pub limit: Option<u32>,
}

impl Listeners {
    /// Those of process `pid`, as they were at most a second ago; none if that cannot be read.
    pub fn queues(&mut self, procfs: &Path, pid: i32) -> &[Queue] {
        if !self.looked.is_some_and(|(looked, before)| before == pid && looked.elapsed() < LOOK) {
            self.looked = Some((Instant::now(), pid));
            self.queues = queues(procfs, pid).unwrap_or_default();
        }
        &self.queues
    }
}

fn queues(procfs: &Path, pid: i32) -> io::Result<Vec<Queue>> {
    let net = procfs.join(format!("{pid}/net"));
    // A kernel may lack the module for it.
    let limits = diag::limits().unwrap_or_default();
    let mut queues = listening(&net.join("tcp"), &limits)?;
    match listening(&net.join("tcp6"), &limits) {
        Ok(more) => queues.extend(more),
        // The kernel has no IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(queues)
}

fn listening(path: &Path, limits: &BTreeMap<(u64, u16), u32>) -> io::Result<Vec<Queue>> {
    let mut text = String::new();
    for line in BufReader::new(File::open(path)?).lines() {
        let line = line?;
        // The kernel puts those that listen before the others, of which there may be very many (`tcp_get_idx`,
        // net/ipv4/tcp_ipv4.c).
        if !text.is_empty() && line.split_ascii_whitespace().nth(3) != Some(LISTEN) {
            break;
        }
        text.extend([&line, "\n"]);
    }
    let entries = TcpNetEntries::from_buf_read(text.as_bytes(), current_system_info());
    let TcpNetEntries(entries) = entries.map_err(|error| match error {
        ProcError::Io(error, _) => error,
        error => io::Error::other(error.to_string()),
    })?;
    let queue = |entry: TcpNetEntry| Queue {
        address: entry.local_address,
        // For a socket that listens, this is the number of connections to be accepted.
        clients: entry.rx_queue,
        limit: limits.get(&(entry.inode, entry.local_address.port())).copied(),
    };
    Ok(entries.into_iter().map(queue).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const HEADER: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";

    #[test]
    fn sockets_that_listen() {
        let folder = tempfile::tempdir().expect("a folder");
        let net = folder.path().join("7/net");
        fs::create_dir_all(&net).expect("a folder");
        assert!(queues(folder.path(), 7).is_err());
        let tcp = format!(
            "{HEADER}\n\
             \x20  0: 0100007F:008F 00000000:0000 0A 00000000:00000008 00:00000000 00000000     0        0 81264 2 0 100\n\
             \x20  1: 00000000:03E1 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 81265 1 0 100\n\
             \x20  2: 0100007F:008F 0100007F:C350 01 00000000:00000005 00:00000000 00000000     0        0 81300 1 0 20\n\
             \x20  3: no line of the kernel's\n"
        );
        fs::write(net.join("tcp"), tcp).expect("written");
        let found =
            |text: &str, clients| Queue { address: text.parse().expect("an address"), clients, limit: None };
        let expected = vec![found("127.0.0.1:143", 8), found("0.0.0.0:993", 0)];
        assert_eq!(queues(folder.path(), 7).expect("read"), expected);
        let tcp6 = format!(
            "{HEADER}\n\
             \x20  0: 00000000000000000000000000000000:008F 00000000000000000000000000000000:0000 0A 00000000:00000201 00:00000000 00000000     0        0 81266 1 0 100\n"
        );
        fs::write(net.join("tcp6"), tcp6).expect("written");
        assert_eq!(queues(folder.path(), 7).expect("read")[2], found("[::]:143", 513));
        fs::write(net.join("tcp6"), format!("{HEADER}\n 0: x y 0A z\n")).expect("written");
        assert!(queues(folder.path(), 7).is_err());
    }
}
