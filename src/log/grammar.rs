//! One line of log to the event it stands for. Anchored at both ends, no I/O.
//!
//! Any client may put the text of a warning into a log line: a user name is logged as it came, and Dovecot 2.3
//! splits a long one so that the client's text stands right behind `auth: Debug: `. So a line counts only if
//! everything before `master: ` is one of a closed set of headers and nothing follows the text. The forms were
//! taken from running Dovecot 2.3 and 2.4, rsyslog and journald.

use crate::service::{LimitKind, Service};

/// What a line of the master can tell.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// `service(NAME): LIMIT (N) reached, client connections are being dropped`
    DropWarning(DropWarning),
    /// `SIGHUP received - reloading configuration`
    Reload,
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

/// The end of every drop warning, of every Dovecot from 2.0 on.
const DROPPED: &str = "reached, client connections are being dropped";
/// What the master logs before it reads its configuration again (`sig_reload_settings`, src/master/main.c).
const RELOAD: &str = "SIGHUP received - reloading configuration";

/// The texts by which a block of log is searched: a line without one of them is no event.
pub const NEEDLES: [&str; 2] = [DROPPED, RELOAD];

/// The event that `line` (without its newline) stands for, and the ident under which a syslog daemon wrote it: the
/// `instance_name` of the Dovecot that logged it.
pub fn parse(line: &[u8]) -> Option<(Option<&str>, Event)> {
    // Headers and Dovecot's own texts are ASCII; the master logs nothing that a client sent.
    let line = std::str::from_utf8(line).ok()?;
    let (ident, message) = message(line)?;
    let warning = message.strip_prefix("master: Warning: ")?;
    if warning == RELOAD {
        return Some((ident, Event::Reload));
    }
    Some((ident, Event::DropWarning(drop_warning(warning)?)))
}

/// Whether `line` holds the text of a drop warning, wherever it stands.
pub fn mentions_drop(line: &[u8]) -> bool {
    memchr::memmem::find(line, DROPPED.as_bytes()).is_some()
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
    let (number, rest) = rest.split_once(") ")?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let suffix = rest.strip_prefix(DROPPED)?;
    if !suffix.is_empty() {
        let pid = suffix.strip_prefix(" (pid=")?.strip_suffix(", reuse_port=yes)")?;
        skip(pid, 1..=10, |byte| byte.is_ascii_digit()).filter(|rest| rest.is_empty())?;
    }
    Some(DropWarning {
        service: Service::parse(name).unwrap_or_else(Service::other),
        limit,
        number: number.parse().ok(),
        reuse_port: !suffix.is_empty(),
    })
}

/// The ident in the header of a log line and what stands behind the header, if the header is one that Dovecot or a syslog daemon writes:
/// ```text
/// [<PRI>][TIMESTAMP ]MESSAGE                               Dovecot's own file, log_timestamp empty or a known form
/// [<PRI>]TIMESTAMP HOST TAG[PID]: MESSAGE                  RFC 3164, with its own or an ISO 8601 time stamp
/// [<PRI>]1 TIMESTAMP HOST APP PROCID MSGID SD MESSAGE      RFC 5424
/// ```
fn message(line: &str) -> Option<(Option<&str>, &str)> {
    let line = priority(line).unwrap_or(line);
    if line.starts_with("master: ") {
        return Some((None, line));
    }
    if let Some(rest) = line.strip_prefix("1 ") {
        return rfc5424(rest);
    }
    let rest = timestamp(line)?.strip_prefix(' ')?;
    if rest.starts_with("master: ") { Some((None, rest)) } else { tag(host(rest)?) }
}

/// Skips `<PRI>`.
fn priority(line: &str) -> Option<&str> {
    skip(line.strip_prefix('<')?, 1..=3, |byte| byte.is_ascii_digit())?.strip_prefix('>')
}

/// Skips `TIMESTAMP HOST APP PROCID MSGID SD `, and the second space or the byte order mark before the message.
fn rfc5424(line: &str) -> Option<(Option<&str>, &str)> {
    let (app, mut rest) = host(timestamp(line)?.strip_prefix(' ')?)?.split_once(' ')?;
    skip(app, 1..=48, |byte| byte.is_ascii_graphic()).filter(|rest| rest.is_empty())?;
    for _ in 0..2 {
        rest = skip(rest, 1..=128, |byte| byte.is_ascii_graphic())?.strip_prefix(' ')?;
    }
    // Structured data of Dovecot's own messages is always nil: syslog(3) cannot carry any.
    let rest = rest.strip_prefix("- ")?;
    Some((Some(app), rest.strip_prefix(' ').or_else(|| rest.strip_prefix('\u{feff}')).unwrap_or(rest)))
}

/// Skips a host name or address and a space. A word that ends in a colon is Dovecot's own prefix (`auth: `),
/// and then what follows may be a client's text.
fn host(line: &str) -> Option<&str> {
    let (host, rest) = line.split_once(' ')?;
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':' | b'%');
    (skip(host, 1..=255, valid)?.is_empty() && !host.ends_with(':')).then_some(rest)
}

/// Skips `IDENT: ` or `IDENT[PID]: `; the ident is Dovecot's `instance_name`, whatever that is.
fn tag(line: &str) -> Option<(Option<&str>, &str)> {
    let valid = |byte: u8| byte.is_ascii_graphic() && !b":[]()<>".contains(&byte);
    let rest = skip(line, 1..=64, valid)?;
    let ident = line.strip_suffix(rest);
    let rest = match rest.strip_prefix('[') {
        Some(pid) => skip(pid, 1..=10, |byte| byte.is_ascii_digit())?.strip_prefix(']')?,
        None => rest,
    };
    Some((ident, rest.strip_prefix(": ")?))
}

/// Skips a time stamp: `Nov 23 16:38:50`, or ISO 8601 with a `T` or a space and with or without a zone; each
/// with or without a fraction of a second.
fn timestamp(line: &str) -> Option<&str> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    if let Some(rest) = MONTHS.iter().find_map(|month| line.strip_prefix(month)) {
        // Dovecot writes the day as 03, rsyslog as " 3".
        let rest =
            rest.strip_prefix("  ").and_then(|rest| shape(rest, "0")).or_else(|| shape(rest, " 00"))?;
        return Some(fraction(shape(rest, " 00:00:00")?));
    }
    let rest = shape(line, "0000-00-00")?;
    let rest = fraction(shape(rest.strip_prefix(['T', ' '])?, "00:00:00")?);
    let zone = |sign| shape(rest, sign).and_then(|rest| shape(rest, "00:00").or_else(|| shape(rest, "0000")));
    Some(rest.strip_prefix('Z').or_else(|| zone("+")).or_else(|| zone("-")).unwrap_or(rest))
}

/// Skips `.123456` or `,123`, if it is there.
fn fraction(line: &str) -> &str {
    let digits = line.strip_prefix(['.', ',']);
    digits.and_then(|digits| skip(digits, 1..=9, |byte| byte.is_ascii_digit())).unwrap_or(line)
}

/// Skips text of the given shape, in which `0` stands for any digit and all else for itself.
fn shape<'a>(line: &'a str, shape: &str) -> Option<&'a str> {
    let (head, rest) = line.split_at_checked(shape.len())?;
    let fits = |(byte, wanted): (u8, u8)| if wanted == b'0' { byte.is_ascii_digit() } else { byte == wanted };
    head.bytes().zip(shape.bytes()).all(fits).then_some(rest)
}

/// Skips the longest run of `valid` bytes, if its length is in `lengths`.
fn skip(line: &str, lengths: std::ops::RangeInclusive<usize>, valid: impl Fn(u8) -> bool) -> Option<&str> {
    let length = line.bytes().position(|byte| !valid(byte)).unwrap_or(line.len());
    lengths.contains(&length).then(|| line.split_at_checked(length))?.map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests;
