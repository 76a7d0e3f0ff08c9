//! Dovecot's master, asked by its status socket: what it counts, and the errors it remembers.
//!
//! Lines of fields with tabs between them, each side's version first, an empty line at the end of an answer
//! (src/master/master-client.c of 2.2.26 to 2.4). The same socket takes `STOP`, so nothing is ever sent but
//! `STATUS` and `ERROR_LOG`. An answer counts as a whole or not at all, and whatever comes instead of one is
//! bounded in time and in memory.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use serde::{Deserialize, Serialize};

use crate::service::Service;

/// Both in one write: the master answers all that it has read before it does anything else, so that the two answers
/// are of the same moment.
const STATUS: &[u8] = b"VERSION\tmaster-client\t1\t0\nSERVICE-STATUS\nPROCESS-STATUS\n";
/// 2.4 and later. An older master closes the connection and logs an error.
const ERROR_LOG: &[u8] = b"VERSION\tmaster-client\t1\t0\nERROR-LOG\n";
/// For an answer. Two in a row, when a scrape comes while another one waits, must leave room in a second.
const STATUS_TIME: Duration = Duration::from_millis(400);
/// Less than the exporter waits for its log thread when it ends.
const ERROR_LOG_TIME: Duration = Duration::from_millis(200);
/// Of one answer; that of 20,000 processes has 1.5 MB.
const MAX_BYTES: usize = 8 << 20;
/// What the master remembers are texts of a line of log; a service's line has less than 200 bytes.
const MAX_LINE: u64 = 8192;
/// What the master remembers: 1,000 lines (`LOG_ERROR_BUFFER_MAX_LINES`, src/lib-master/log-error-buffer.c).
const MAX_ERRORS: usize = 2000;

/// Every service, as the master sees it at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Status {
    /// Its services; those whose names this program does not show are left out.
    pub services: BTreeMap<Service, ServiceStatus>,
    /// What tells this list of services from one that the master made before or makes later.
    pub generation: Generation,
}

/// Processes that each list of services has its own of, or takes over from the one before.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// The pid of `log`, which the master starts anew whenever it has read its configuration.
    pub log: u32,
    /// The pid of `anvil`, which it takes over.
    pub anvil: u32,
    /// Inode and mtime of the socket, which a master makes at its start: in a container the pids are the same each time.
    pub socket: (u64, i64, i64),
}

/// One service, as the master sees it. Processes that it started before it last read its configuration are no part
/// of this.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServiceStatus {
    /// Processes, those included that are retired.
    pub processes: u32,
    /// Processes that take clients.
    pub available: u32,
    /// The limit in force; [`u32::MAX`] is unlimited.
    pub process_limit: u32,
    /// The limit in force, after the clamp; [`u32::MAX`] is unlimited.
    pub client_limit: u32,
    /// The master has stopped listening, for clients that no process may be started for.
    pub listen_paused: bool,
    /// Processes started since the master last read its configuration; 2.3.9 and later tell.
    pub starts: Option<u64>,
    /// Client slots that its processes do not offer any more.
    pub connections: u64,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The socket cannot be opened.
    Open(io::Error),
    /// The answer did not come in time.
    Slow,
    /// The connection was closed, or failed, before the answer's end.
    Closed,
    /// The master closed the connection instead of an answer: it does not know the request.
    Refused,
    /// What came is no answer.
    Odd(&'static str),
}

impl Failure {
    /// A sentence for the administrator.
    pub fn in_words(&self, socket: &Path) -> String {
        let socket = socket.display();
        match self {
            Self::Open(error) if error.kind() == ErrorKind::PermissionDenied => format!(
                "{socket} may be opened by root only, so connections, forks and what the master itself counts are not shown: run the exporter as root, or let its user in after each start of Dovecot (setfacl -m u:USER:rw {socket}). Whoever may open this socket may also stop Dovecot's services. An empty --dovecot.master-socket does without it"
            ),
            Self::Open(error) => format!(
                "{socket} cannot be opened ({error}): start Dovecot, or give --dovecot.master-socket the file master in its base_dir"
            ),
            Self::Slow => format!("the master did not answer at {socket} in time: see whether Dovecot hangs"),
            Self::Closed => format!(
                "{socket} was closed before the end of an answer: give --dovecot.master-socket the file master in Dovecot's base_dir"
            ),
            Self::Refused => format!(
                "the master at {socket} does not tell its errors, which Dovecot does from 2.4 on: follow its log by --dovecot.log-file or --dovecot.log-journal"
            ),
            Self::Odd(what) => format!(
                "what comes from {socket} is no answer of Dovecot's master ({what}): give --dovecot.master-socket the file master in its base_dir"
            ),
        }
    }
}

/// Asks the master at `socket` for its services and their processes.
pub fn status(socket: &Path) -> Result<Status, Failure> {
    let made = std::fs::metadata(socket).map_err(Failure::Open)?;
    let mut status = read_status(&mut Answer::to(STATUS, socket, STATUS_TIME)?)?;
    status.generation.socket = (made.ino(), made.mtime(), made.mtime_nsec());
    Ok(status)
}

/// Asks the master at `socket` for the errors that it remembers, oldest first, as it writes them.
pub fn errors(socket: &Path) -> Result<Vec<String>, Failure> {
    read_errors(&mut Answer::to(ERROR_LOG, socket, ERROR_LOG_TIME)?)
}

/// What an entry of [`errors`] is as a line of log. Nothing for one that is not the master's own.
pub fn line_of_log(entry: &str) -> Option<String> {
    let [kind, _, "", text] = entry.split('\t').collect::<Vec<_>>()[..] else { return None };
    let kind = match kind {
        "warning" => "Warning",
        "error" => "Error",
        "fatal" => "Fatal",
        _ => "Panic",
    };
    Some(format!("master: {kind}: {}", unescape(text)))
}

/// When an entry of [`errors`] was made.
pub fn time_of(entry: &str) -> Option<SystemTime> {
    let (seconds, micros) = entry.split('\t').nth(1)?.split_once('.')?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(number(seconds)?, 1000 * number::<u32>(micros)?))
}

/// Undoes what lib/strescape.c does to what would end a field or a line.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\u{1}');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut rest = part.chars();
        plain.push(match rest.next() {
            Some('0') => '\0',
            Some('t') => '\t',
            Some('n') => '\n',
            Some('r') => '\r',
            _ => '\u{1}',
        });
        plain.push_str(rest.as_str());
    }
    plain
}

/// A stream that gives up at a given time, however slowly its bytes come.
#[derive(Debug)]
struct Patient(UnixStream, Instant);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.1.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.0.set_read_timeout(Some(left))?;
        self.0.read(buffer)
    }
}

/// What comes back, line by line.
#[derive(Debug)]
struct Answer<Stream> {
    stream: BufReader<Stream>,
    line: Vec<u8>,
    bytes: usize,
}

impl Answer<Patient> {
    /// Sends `request`; what comes back must begin with the master's version.
    fn to(request: &[u8], socket: &Path, time: Duration) -> Result<Self, Failure> {
        let until = Instant::now() + time;
        let mut stream = open(socket, time).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => Failure::Slow,
            _ => Failure::Open(error),
        })?;
        stream.write_all(request).map_err(failure)?;
        let mut answer = Self::of(Patient(stream, until));
        answer.handshake()?;
        Ok(answer)
    }
}

/// Where a master hangs, its backlog of 16 fills up, and the next attempt to connect waits.
fn open(socket: &Path, time: Duration) -> io::Result<UnixStream> {
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&stream, Timeout::Send, Some(time))?;
    connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(stream.into())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failure(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::Slow,
        _ => Failure::Closed,
    }
}

impl<Stream: Read> Answer<Stream> {
    fn of(stream: Stream) -> Self {
        Self { stream: BufReader::new(stream), line: Vec::new(), bytes: 0 }
    }

    fn handshake(&mut self) -> Result<(), Failure> {
        let minor = self.line()?.and_then(|line| line.strip_prefix("VERSION\tmaster-server\t1\t"));
        minor.and_then(number::<u32>).map(drop).ok_or(Failure::Odd("it does not begin with its version"))
    }

    /// The next line, without its end; nothing at the end of an answer.
    fn line(&mut self) -> Result<Option<&str>, Failure> {
        self.bytes += self.line.len();
        self.line.clear();
        if self.bytes > MAX_BYTES {
            return Err(Failure::Odd("it does not end"));
        }
        // An interrupted read goes on by itself.
        self.stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.line).map_err(failure)?;
        let Some((b'\n', line)) = self.line.split_last() else {
            let long = self.line.len() as u64 == MAX_LINE;
            return Err(if long { Failure::Odd("a line is too long") } else { Failure::Closed });
        };
        let line = std::str::from_utf8(line).map_err(|_| Failure::Odd("a line is no text"))?;
        Ok(Some(line).filter(|line| !line.is_empty()))
    }
}

fn read_status(answer: &mut Answer<impl Read>) -> Result<Status, Failure> {
    let mut services: BTreeMap<String, ServiceStatus> = BTreeMap::new();
    let mut columns = None;
    while let Some(line) = answer.line()? {
        let fields: Vec<&str> = line.split('\t').collect();
        let (name, service) = service(&fields).ok_or(Failure::Odd("a line is of no service"))?;
        if *columns.get_or_insert(fields.len()) != fields.len()
            || services.insert(name.to_owned(), service).is_some()
        {
            return Err(Failure::Odd("services do not fit each other"));
        }
    }
    if services.is_empty() {
        return Err(Failure::Odd("there are no services"));
    }
    let mut generation = Generation::default();
    while let Some(line) = answer.line()? {
        let (name, pid, available) = process(line).ok_or(Failure::Odd("a line is of no process"))?;
        let service = services.get_mut(name).ok_or(Failure::Odd("a process is of no service"))?;
        // A process that has retired (2.4.4) says 4294967295, which is none of the slots that the service has.
        service.connections += u64::from(service.client_limit.saturating_sub(available));
        match name {
            "log" => generation.log = pid,
            "anvil" => generation.anvil = pid,
            _ => {}
        }
    }
    let services = services.into_iter().filter_map(|(name, service)| Some((Service::parse(&name)?, service)));
    Ok(Status { services: services.collect(), generation })
}

/// `name process_count process_avail process_limit client_limit throttle_secs exit_failure_last
/// exit_failures_in_sec last_drop_warning listen_pending listening`, from 2.3.0 on also `doveadm_stop`, from 2.3.9 on
/// also `process_total`. Dovecot adds columns at the end, so there may be more one day.
fn service<'a>(fields: &[&'a str]) -> Option<(&'a str, ServiceStatus)> {
    let [name, numbers @ ..] = fields else { return None };
    let (numbers, rest) = numbers.split_at_checked(8)?;
    let [listen_pending, listening, rest @ ..] = rest else { return None };
    let stop = rest.first().is_none_or(|stop| flag(stop).is_some());
    let times = numbers[4..].iter().all(|time| number::<u64>(time).is_some());
    (!name.is_empty() && stop && times && flag(listening).is_some()).then_some(())?;
    let starts = rest.get(1).map(|starts| number(starts));
    let status = ServiceStatus {
        processes: number(numbers[0])?,
        available: number(numbers[1])?,
        process_limit: number(numbers[2])?,
        client_limit: number(numbers[3])?,
        listen_paused: flag(listen_pending)?,
        starts: if let Some(starts) = starts { Some(starts?) } else { None },
        connections: 0,
    };
    Some((name, status))
}

/// `name pid available_count total_count idle_start last_status_update last_kill_sent`: the first three.
fn process(line: &str) -> Option<(&str, u32, u32)> {
    let mut fields = line.split('\t');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let (pid, available) = (number(fields.next()?)?, number(fields.next()?)?);
    (fields.clone().count() >= 4 && fields.all(|field| number::<u64>(field).is_some())).then_some(())?;
    Some((name, pid, available))
}

fn read_errors(answer: &mut Answer<impl Read>) -> Result<Vec<String>, Failure> {
    if answer.stream.fill_buf().map_err(failure)?.is_empty() {
        return Err(Failure::Refused);
    }
    let mut errors = Vec::new();
    while let Some(line) = answer.line()? {
        if !is_error(line) || errors.len() == MAX_ERRORS {
            return Err(Failure::Odd("a line is no error"));
        }
        errors.push(line.to_owned());
    }
    Ok(errors)
}

/// `type seconds.microseconds prefix text`
fn is_error(line: &str) -> bool {
    let [kind, time, _, _] = line.split('\t').collect::<Vec<_>>()[..] else { return false };
    let time = time.split_once('.').is_some_and(|(seconds, micros)| {
        number::<u64>(seconds).is_some() && micros.len() == 6 && number::<u32>(micros).is_some()
    });
    time && ["warning", "error", "fatal", "panic"].contains(&kind)
}

/// A number of digits only.
fn number<Number: std::str::FromStr>(text: &str) -> Option<Number> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "y" => Some(true),
        "n" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
