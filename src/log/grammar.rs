//! One line of log to the event it stands for. Anchored at both ends, no I/O.
//!
//! Any client may put the text of a warning into a log line: a user name is logged as it came, and Dovecot splits a
//! long line so that the client's text stands right behind `auth: Debug: `. So a line counts only if everything
//! before Dovecot's words is one of a closed set of headers, and if after them nothing follows, or what Dovecot has
//! there. The forms were taken from running Dovecot 2.3 and 2.4, rsyslog and journald.

use serde::{Deserialize, Serialize};

use super::{
    header::{self, skip},
    lines::Before,
    stamp::Stamp,
};
use crate::service::{LimitKind, Service};

/// What a line can tell.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The master: `service(NAME): LIMIT (N) reached, client connections are being dropped`
    DropWarning(DropWarning),
    /// The master: `SIGHUP received - reloading configuration`
    Reload,
    /// The master, after that: `Error reading configuration: ...` (2.3), `Failed to read configuration: ...` (2.4),
    /// `Config reload failed: ...`; it goes on as it was.
    ReloadFailed,
    /// The master: `Dovecot v2.3.19.1 (9b53102964) starting up for imap`
    Start,
    /// A login process: it closed a client's connection to make room, `Connection queue full`.
    QueueFullKill(Service),
    /// A login process: a client had logged in, and the service named here did not take it.
    HandoverFailure(Service),
    /// A login process: `Maximum number of connections from user+IP exceeded`
    UserConnectionLimit,
    /// The master, or the log process for it: a process of the service could not be started, or died.
    Failure(Service, Failure),
}

/// One warning line. It says that at least one client was waiting while every process of the service was full
/// and no further one may be started; not that a client was dropped, nor how many.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DropWarning {
    /// The service that is full; [`Service::other`] if its name is outside the grammar of names.
    pub service: Service,
    /// The limit that the line names.
    pub limit: LimitKind,
    /// The value of that limit in the running Dovecot; nothing if it is no number a limit can have.
    pub number: Option<u32>,
    /// Logged by one full process of a `reuse_port` service: others may still accept.
    pub reuse_port: bool,
}

/// Why a service lacks a process.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// `fork() failed`
    ForkFailed,
    /// `command startup failed, throttling for 2.000 secs`
    Throttled,
    /// `Initial status notification not received in 30 seconds, killing the process`
    StartupTimeout,
    /// `Out of memory (service imap { vsz_limit=256 MB }, you may need to increase it)`
    OutOfMemory,
}

impl Event {
    /// Whether the line begins with the master's name. Any other may be the rest of a line that Dovecot has split:
    /// it begins with the name of the process, in syslog without a type, and whatever a client sent.
    fn is_of_master(&self) -> bool {
        match self {
            Self::DropWarning(_) | Self::Reload | Self::ReloadFailed | Self::Start => true,
            Self::Failure(_, failure) => *failure != Failure::OutOfMemory,
            Self::QueueFullKill(_) | Self::HandoverFailure(_) | Self::UserConnectionLimit => false,
        }
    }
}

impl Failure {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::ForkFailed, Self::Throttled, Self::StartupTimeout, Self::OutOfMemory];

    /// As the label `reason` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ForkFailed => "fork_failed",
            Self::Throttled => "throttled",
            Self::StartupTimeout => "startup_timeout",
            Self::OutOfMemory => "out_of_memory",
        }
    }
}

/// What a line stands for.
#[derive(Debug)]
pub struct Found<'a> {
    /// The ident under which a syslog daemon has it: the `instance_name` of the Dovecot that logged it.
    pub ident: Option<&'a str>,
    /// What happened.
    pub event: Event,
    /// How often: a syslog daemon may write one line for several that are alike.
    pub times: u32,
    /// When it was logged.
    pub stamp: Stamp<'a>,
}

/// Takes what was found, and returns whether it is of the Dovecot that is watched.
pub type OnFound<'a> = &'a mut dyn FnMut(&Found) -> bool;

/// The end of every drop warning, of every Dovecot from 2.0 on.
const DROPPED: &str = "reached, client connections are being dropped";
/// What the master logs before it reads its configuration again (`sig_reload_settings`, src/master/main.c).
const RELOAD: &str = "SIGHUP received - reloading configuration";
/// How it begins to say that it could not (measured on 2.3 and 2.4); what follows is about the configuration.
const RELOAD_FAILED: [&str; 3] =
    ["Error reading configuration: ", "Failed to read configuration: ", "Config reload failed: "];
/// Why a client that had logged in was not taken. Dovecot guesses: the service may also have died.
const CLOSED: &str =
    "read() failed: Remote closed connection (destination service { process_limit } reached?)";
/// Before what a process of the master's died of, behind its name and its user.
const FATAL: &str = ": Fatal: master: service(";

/// The texts by which a block of log is searched: a line without one of them is no event. As few as can be: the
/// first is in all that the master says, in what the log process says for it, and where a login process names it;
/// the second in drop warnings, whoever wrote them, and where a user has too many.
pub const NEEDLES: [&str; 3] = ["master", " connections ", "queue full"];

/// Hands over what `line`, which follows `before`, stands for; returns whether it holds the text of a drop warning
/// without being one of the watched Dovecot's, or was refused because of what it follows.
pub fn take(line: &[u8], before: Before, on_found: OnFound) -> bool {
    let mut refused = false;
    let ours = parse(line, &mut |found| {
        refused = before == Before::Piece || before == Before::LongLine && !found.event.is_of_master();
        !refused && on_found(found)
    });
    refused || !ours && memchr::memmem::find(line, DROPPED.as_bytes()).is_some()
}

/// Hands over what `line`, without its newline, stands for; returns whether that is of the watched Dovecot.
fn parse(line: &[u8], on_found: OnFound) -> bool {
    // Headers and Dovecot's own texts are ASCII, names of users UTF-8. One carriage return may end the line, which
    // rsyslog writes as #015.
    let Some(line) = std::str::from_utf8(line).ok().and_then(header::unwrap) else { return false };
    let line = line.strip_suffix('\r').or_else(|| line.strip_suffix("#015")).unwrap_or(&line);
    if line.contains('\n') {
        return false;
    }
    let found = header::texts(line).find_map(|(ident, text)| {
        let stamp = Stamp::Header(line.strip_suffix(text).unwrap_or_default());
        let (times, text) = repeated(text).unwrap_or((1, text));
        Some(Found { ident, event: event(text)?, times, stamp })
    });
    found.is_some_and(|found| on_found(&found))
}

/// What the text is that a syslog daemon writes once for many, and how often it came.
fn repeated(text: &str) -> Option<(u32, &str)> {
    let (times, text) = text.strip_prefix("message repeated ")?.split_once(" times: [ ")?;
    // rsyslog writes no more than the message; a count of more digits than these is none.
    let times = number(times).filter(|times| *times < 1_000_000)?;
    Some((times, text.strip_suffix(']')?))
}

fn event(text: &str) -> Option<Event> {
    if let Some(text) = text.strip_prefix("master: ") {
        return of_master(text);
    }
    // What is no name of a process, a time stamp above all, is to be refused soon: most texts of a line are that.
    let name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    let rest = skip(text, 1..=64, name).filter(|rest| rest.starts_with([':', '(']))?;
    let name = text.strip_suffix(rest)?;
    let Some(text) = rest.strip_prefix(": ") else {
        // Of a process that serves a user, what it died of is all that counts.
        let (user, text) = rest.split_once(FATAL)?;
        return out_of_memory(user, text);
    };
    if let Some(text) = text.strip_prefix(&FATAL[2..]) {
        return out_of_memory("", text);
    }
    of_login(Service::parse(name).filter(|service| service.as_str().ends_with("-login"))?, text)
}

fn of_master(text: &str) -> Option<Event> {
    if let Some(text) = text.strip_prefix("Warning: ") {
        return if text == RELOAD { Some(Event::Reload) } else { drop_warning(text).map(Event::DropWarning) };
    }
    if let Some(text) = text.strip_prefix("Error: service(") {
        let (service, text) = text.split_once("): ")?;
        return Some(Event::Failure(service_or_other(service), failure(text)?));
    }
    if let Some(text) = text.strip_prefix("Error: ") {
        return RELOAD_FAILED.iter().any(|begin| text.starts_with(begin)).then_some(Event::ReloadFailed);
    }
    // In syslog without its type.
    let text = text.strip_prefix("Info: ").unwrap_or(text);
    let (version, rest) = text.strip_prefix("Dovecot v")?.split_once(' ')?;
    skip(version, 1..=32, |byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        .filter(|rest| rest.is_empty())?;
    let (_, protocols) = rest.split_once(") starting up for ")?;
    (rest.starts_with('(') && !protocols.is_empty()).then_some(Event::Start)
}

fn drop_warning(text: &str) -> Option<DropWarning> {
    let (name, rest) = text.strip_prefix("service(")?.split_once("): ")?;
    let (limit, rest) = rest.split_once(" (")?;
    let limit = match limit {
        "process_limit" => LimitKind::Process,
        // The names with a slash: high-security mode with process_limit = 1, in 2.3 and in 2.4.
        "client_limit" | "client_limit/service_count" | "client_limit/restart_request_count" => {
            LimitKind::Client
        }
        _ => return None,
    };
    let (value, rest) = rest.split_once(") ")?;
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let suffix = rest.strip_prefix(DROPPED)?;
    if !suffix.is_empty() {
        number(suffix.strip_prefix(" (pid=")?.strip_suffix(", reuse_port=yes)")?)?;
    }
    let (service, number, reuse_port) = (service_or_other(name), number(value), !suffix.is_empty());
    Some(DropWarning { service, limit, number, reuse_port })
}

/// Forms of src/master/service-monitor.c and service-process.c, 2.0 to 2.4.
fn failure(text: &str) -> Option<Failure> {
    let digits =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if text.starts_with("fork() failed: ") {
        // What follows is the system's own words.
        Some(Failure::ForkFailed)
    } else if let Some(time) = text.strip_prefix("command startup failed, throttling for ") {
        // With a fraction since 2.3.9.
        digits(time.strip_suffix(" secs")?).then_some(Failure::Throttled)
    } else {
        let time = text.strip_prefix("Initial status notification not received in ")?;
        digits(time.strip_suffix(" seconds, killing the process")?).then_some(Failure::StartupTimeout)
    }
}

/// `NAME[USER]: Fatal: master: service(NAME): child PID returned error 83 (Out of memory (service NAME { vsz_limit=N MB },
/// you may need to increase it)...`: the master has it written under the prefix of the child. For a process that
/// serves a user there is `(USER)<PID><SESSION>` in it, in which the user's name may hold anything: odd ones are refused.
fn out_of_memory(user: &str, text: &str) -> Option<Event> {
    let (service, text) = text.split_once("): child ")?;
    let (pid, text) = text.split_once(" returned error 83 (Out of memory (service ")?;
    number(pid)?;
    let text = text.strip_prefix(service)?.strip_prefix(" { vsz_limit=")?;
    let (size, text) = text.split_once(" MB }, you may need to increase it)")?;
    number(size)?;
    // How to get a core dump, where none is made.
    let fixed = matches!(text, ")" | " - set CORE_OUTOFMEM=1 environment to get core dump)");
    let session = match user.strip_prefix('(') {
        Some(user) => skip(user, 0..=255, |byte| !b"()<>: ".contains(&byte))?.strip_prefix(')')?,
        None => user,
    };
    let session = session.strip_prefix(&["<", pid, "><"].concat()).map_or(session, |session| {
        session.strip_suffix('>').map_or(session, |session| session.trim_start_matches(is_base64))
    });
    (fixed && session.is_empty()).then(|| Event::Failure(service_or_other(service), Failure::OutOfMemory))
}

fn is_base64(character: char) -> bool {
    character.is_ascii_alphanumeric() || "+/=".contains(character)
}

fn of_login(service: Service, text: &str) -> Option<Event> {
    if let Some(text) = text.strip_prefix("Error: master(") {
        let (destination, text) = text.split_once("): ")?;
        let (reason, text) = text.split_once(" (client-pid=")?;
        // 2.4 cuts the reason short where it does not fit its buffer.
        let full = ["net_connect_unix(", destination, ") failed: Resource temporarily una"].concat();
        let lost = reason == CLOSED || reason.starts_with(&full);
        return (lost && is_client(text)).then(|| Event::HandoverFailure(destination_service(destination)));
    }
    // In syslog without its type.
    let text = text.strip_prefix("Info: ").unwrap_or(text);
    let ended = text.strip_prefix("Disconnected: ").or_else(|| text.strip_prefix("Login aborted: "));
    if let Some(text) = ended.and_then(|text| text.strip_prefix("Connection queue full (")) {
        return is_reason(text).then_some(Event::QueueFullKill(service));
    }
    // Old ones do not say that it ended.
    let text = ended
        .unwrap_or(text)
        .strip_prefix("Maximum number of connections from user+IP exceeded (mail_max_userip_connections=")?;
    is_reason(text).then_some(Event::UserConnectionLimit)
}

/// Whether `text` is the rest of a reason in parentheses, in 2.4 with others behind it, and then what
/// `login_log_format` has, which is of the client.
fn is_reason(text: &str) -> bool {
    let mut rest = Some(text);
    while let Some(text) = rest {
        let Some(end) =
            skip(text, 1..=200, |byte| !b"()<>".contains(&byte)).and_then(|end| end.strip_prefix(')'))
        else {
            return false;
        };
        rest = end.strip_prefix(" (");
        if end.is_empty() || end.starts_with(": ") {
            return true;
        }
    }
    false
}

/// Whether `text` is `PID, client-id=N, rip=IP, created N msecs ago, received N/N bytes)` to its end.
fn is_client(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit();
    let address = |byte: u8| byte.is_ascii_hexdigit() || b".:".contains(&byte);
    let rest =
        skip(text, 1..=10, digit).and_then(|rest| skip(rest.strip_prefix(", client-id=")?, 1..=10, digit));
    let rest = rest.and_then(|rest| skip(rest.strip_prefix(", rip=")?, 0..=45, address));
    let rest = rest.and_then(|rest| skip(rest.strip_prefix(", created ")?, 1..=20, digit));
    let rest = rest.and_then(|rest| skip(rest.strip_prefix(" msecs ago, received ")?, 1..=10, digit));
    rest.and_then(|rest| skip(rest.strip_prefix('/')?, 1..=10, digit)) == Some(" bytes)")
}

/// The service behind the socket of this name, which is the protocol's.
fn destination_service(socket: &str) -> Service {
    service_or_other(if socket == "sieve" { "managesieve" } else { socket })
}

fn service_or_other(name: &str) -> Service {
    Service::parse(name).unwrap_or_else(Service::other)
}

/// A number of digits only, however many zeros it begins with.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests;
