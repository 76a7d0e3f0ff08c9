//! What stands before Dovecot's own words in a line of log. No I/O.
//!
//! ```text
//! [RUNTIME][HEADER][HEADER]TEXT                            the second one: Docker's syslog driver, `docker logs -t`
//!
//! RUNTIME  {"log":"…\n","stream":"stderr","time":"…"}      Docker's json-file
//!          TIMESTAMP stderr F                              CRI: containerd, CRI-O, podman's k8s-file
//!          [pod/POD/CONTAINER]                             kubectl logs --prefix
//!          CONTAINER |                                     docker compose logs
//! HEADER   [<PRI>][TIMESTAMP]                              Dovecot's own file, log_timestamp empty or a known form
//!          [<PRI>]TIMESTAMP HOST [TAG[PID]:]               RFC 3164, with its own or an ISO 8601 time stamp
//!          [<PRI>]1 TIMESTAMP HOST APP PROCID MSGID SD     RFC 5424
//! ```
//!
//! A closed set, so that whatever a client sent stays behind it: each text of Dovecot's begins with the name of the
//! process, which no client chooses, and a colon, which no host has at its end.

use std::{borrow::Cow, ops::RangeInclusive};

use serde::Deserialize;

/// As Dovecot and syslog daemons write them.
pub const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// What Dovecot wrote, and the ident under which a syslog daemon has it: the `instance_name` of that Dovecot.
pub type Text<'a> = (Option<&'a str>, &'a str);

/// A line of Docker's json-file. With options of its log driver there is more in it.
#[derive(Deserialize)]
struct DockerLine<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
}

/// The line without what a container runtime writes before it; nothing if that is a piece of a line.
pub fn unwrap(line: &str) -> Option<Cow<'_, str>> {
    if line.starts_with(r#"{"log":""#) {
        let log = serde_json::from_str::<DockerLine>(line).ok()?.log;
        return match log {
            Cow::Borrowed(log) => log.strip_suffix('\n').map(Cow::Borrowed),
            Cow::Owned(log) => log.strip_suffix('\n').map(|log| Cow::Owned(log.to_owned())),
        };
    }
    if let Some((tag, text)) = cri(line) {
        return (tag == "F").then_some(text.into());
    }
    Some(pod(line).or_else(|| compose(line)).unwrap_or(line).into())
}

/// Whether a container runtime continues `line` in the next one: Docker after 16 KiB, CRI where it says so.
pub fn is_piece(line: &[u8]) -> bool {
    if let Some(text) = line.strip_prefix(br#"{"log":""#) {
        return !ends_in_newline(text);
    }
    // The head is enough, and what follows may be cut anywhere.
    let head = &line[..line.len().min(64)];
    let head = head.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    cri(head).is_some_and(|(tag, _)| tag == "P")
}

/// Whether the text of JSON that `text` begins with ends in a newline, and another field follows it.
fn ends_in_newline(text: &[u8]) -> bool {
    let (mut place, mut newline) = (0, None);
    while let Some(next) = text.get(place..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        place += next;
        if text[place] == b'"' {
            return newline == Some(place) && text[place..].starts_with(b"\",");
        }
        // A backslash takes the next byte with it.
        place += 2;
        newline = (text.get(place - 1) == Some(&b'n')).then_some(place);
    }
    false
}

/// Reads `TIMESTAMP stderr F `, to the tag and what follows.
fn cri(line: &str) -> Option<(&str, &str)> {
    let rest = timestamp(line)?.strip_prefix(' ')?;
    let rest = rest.strip_prefix("stdout ").or_else(|| rest.strip_prefix("stderr "))?;
    rest.split_once(' ').filter(|(tag, _)| matches!(*tag, "F" | "P"))
}

/// Skips `[pod/NAME/CONTAINER] `.
fn pod(line: &str) -> Option<&str> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"./_-".contains(&byte);
    skip(line.strip_prefix("[pod/")?, 1..=512, valid)?.strip_prefix("] ")
}

/// Skips `NAME  | `.
fn compose(line: &str) -> Option<&str> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    skip(skip(line, 1..=128, valid)?, 1..=128, |byte| byte == b' ')?.strip_prefix("| ")
}

/// Every text that `line` may hold, by where its headers may end. No more than one of them is Dovecot's.
pub fn texts(line: &str) -> impl Iterator<Item = Text<'_>> {
    let second = |(ident, text)| {
        // What follows a second header is as Dovecot wrote it: the tag of the first is the name of a container.
        let inner = timestamp(text).into_iter().flat_map(|_| after_header(text));
        std::iter::once((ident, text)).chain(inner)
    };
    after_header(line).flat_map(second)
}

/// Every text behind one header.
fn after_header(line: &str) -> impl Iterator<Item = Text<'_>> {
    let line = priority(line).unwrap_or(line);
    let dated = timestamp(line).and_then(|rest| rest.strip_prefix(' '));
    let hosted = dated.and_then(host);
    let bare = [Some(line), dated, hosted].into_iter().flatten().map(|text| (None, text));
    bare.chain(hosted.and_then(tag)).chain(line.strip_prefix("1 ").and_then(rfc5424))
}

/// Skips `<PRI>`.
pub fn priority(line: &str) -> Option<&str> {
    skip(line.strip_prefix('<')?, 1..=3, |byte| byte.is_ascii_digit())?.strip_prefix('>')
}

/// Skips `TIMESTAMP HOST APP PROCID MSGID SD `, and the second space or the byte order mark before the message.
fn rfc5424(line: &str) -> Option<Text<'_>> {
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
fn tag(line: &str) -> Option<Text<'_>> {
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
pub fn timestamp(line: &str) -> Option<&str> {
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
pub fn skip(line: &str, lengths: RangeInclusive<usize>, valid: impl Fn(u8) -> bool) -> Option<&str> {
    let length = line.bytes().position(|byte| !valid(byte)).unwrap_or(line.len());
    lengths.contains(&length).then(|| line.split_at_checked(length))?.map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_has_no_newline_at_its_end() {
        for (line, expected) in [
            (r#"{"log":"x\n","stream":"stderr"}"#, false),
            (r#"{"log":"\\\n","stream":"stderr"}"#, false),
            (r#"{"log":"x","stream":"stderr"}"#, true),
            // A backslash and an n.
            (r#"{"log":"x\\n","stream":"stderr"}"#, true),
            (r#"{"log":"x\n\",","stream":"stderr"}"#, true),
            (r#"{"log":"x","stream":"\n","time":""}"#, true),
            (r#"{"log":"x\nx","stream":"stderr"}"#, true),
            (r#"{"log":"x\n"#, true),
            (r#"{"log":"x\"#, true),
            (r#"{"log":"\n"}"#, true),
            ("2026-11-23T15:54:28.123456789Z stderr P x", true),
            ("2026-11-23T15:54:28.123456789Z stderr F x", false),
            ("2026-11-23T15:54:28.123456789Z stderr Px", false),
            ("Nov 23 15:54:28 x stderr P x", false),
        ] {
            assert_eq!(is_piece(line.as_bytes()), expected, "{line}");
        }
    }
}
