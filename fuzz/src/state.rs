//! A state file by its meaning: one object of JSON in which each field stands once and in its place, written without a
//! space, with numbers that can have been counted and places where a reader can have stopped.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Doubles are whole numbers up to here.
const MAX_COUNT: u64 = 1 << 53;
const MAX_SERVICES: usize = 65;
const COUNTS: [&str; 7] =
    ["lines", "bytes", "rotations", "truncations", "oversized_lines", "read_errors", "unanchored_warnings"];
/// In the order of the program's own.
const LIMITS: [&str; 2] = ["process", "client"];
const FAILURES: [&str; 4] = ["fork_failed", "throttled", "startup_timeout", "out_of_memory"];

/// The same state as the program has to write it; nothing if it is none.
pub fn written(json: &[u8]) -> Option<String> {
    let state: Value = serde_json::from_slice(json).ok()?;
    fields(
        &state,
        &[
            ("format", &|format| (format == "dovecot-capacity-exporter state 1").then(|| format.to_string())),
            ("tally", &tally),
            ("logs", &|logs| named(logs, |_, counts| all(counts, &COUNTS, count))),
            ("kept", &kept),
        ],
    )
}

/// What was counted, in words.
pub fn totals(json: &[u8]) -> Vec<String> {
    let state: Value = serde_json::from_slice(json).unwrap_or_default();
    let nothing = Map::new();
    let object = |value: &'_ Value| value.as_object().unwrap_or(&nothing).clone();
    let tally = &state["tally"];
    let mut totals = vec![
        format!("user limit {}", tally["user_connection_limit_rejections"]),
        format!("reloads {}", tally["reloads"]),
    ];
    for (name, service) in object(&tally["services"]) {
        for kind in ["drop_warnings", "failures"] {
            totals
                .extend(object(&service[kind]).iter().map(|(what, count)| format!("{name} {what} {count}")));
        }
        totals.push(format!("{name} kills {}", service["queue_full_kills"]));
        totals.push(format!("{name} handover {}", service["handover_failures"]));
        let starts = &service["starts"];
        if let (Some(before), Some(now)) = (starts["before"].as_u64(), starts["now"].as_u64()) {
            let most = u128::from(u64::MAX);
            totals.push(format!("{name} starts {}", most.min(u128::from(before) + u128::from(now))));
        }
    }
    for (log, counts) in object(&state["logs"]) {
        totals.push(COUNTS.iter().fold(log, |mut text, name| {
            let _ = write!(text, " {name} {}", counts[name]);
            text
        }));
    }
    totals.sort();
    totals
}

/// A list of services as the master tells of it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The pid of `log`.
    pub log: u32,
    /// The pid of `anvil`.
    pub anvil: u32,
    /// Inode and mtime of the socket.
    pub socket: (u64, i64, i64),
    /// How often it started a process of each.
    pub starts: &'a [(&'a str, u64)],
}

/// All starts of the services that had series, once the master has told of a list.
pub fn starts_after(json: &[u8], told: &Told) -> Vec<(String, u64)> {
    let state: Value = serde_json::from_slice(json).unwrap_or_default();
    let tally = &state["tally"];
    let before = |name: &str| {
        let starts = &tally["services"][name]["starts"];
        Some((u128::from(starts["before"].as_u64()?), u128::from(starts["now"].as_u64()?)))
    };
    let generation = &tally["generation"];
    let (inode, seconds, nanoseconds) = told.socket;
    let same_master = generation["socket"] == serde_json::json!([inode, seconds, nanoseconds]);
    // Each list begins with one process of log; one more of the same list was started because that died.
    let of_log = told.starts.iter().find(|(name, _)| *name == "log").map_or(0, |(_, now)| u128::from(*now));
    let begun_anew = generation["log"] != told.log && before("log").is_some_and(|(_, now)| of_log <= now);
    let another_list = !generation.is_null() && (!same_master || begun_anew);
    let same_anvil = same_master && generation["anvil"] == told.anvil;
    let there = told.starts.iter().filter(|(name, _)| !tally["services"][*name].is_null());
    there
        .map(|(name, now)| {
            let (sum, last) = before(name).unwrap_or_default();
            let now = u128::from(*now);
            let earlier = if another_list || now < last {
                // A process that both lists count was started once.
                let twice = u128::from(*name == "anvil" && same_anvil);
                (sum + last).min(u64::MAX.into()).saturating_sub(twice.min(now))
            } else {
                sum
            };
            ((*name).to_owned(), u64::try_from(earlier + now).unwrap_or(u64::MAX))
        })
        .collect()
}

/// What is known of the files of each log.
pub fn places(json: &[u8]) -> Map<String, Value> {
    let mut state: Value = serde_json::from_slice(json).unwrap_or_default();
    match state["kept"]["files"]["logs"].take() {
        Value::Object(logs) => logs,
        _ => Map::new(),
    }
}

type Read<'a> = &'a dyn Fn(&Value) -> Option<String>;

/// All of `wanted`, and nothing else.
fn fields(value: &Value, wanted: &[(&str, Read)]) -> Option<String> {
    let object = value.as_object().filter(|object| object.len() == wanted.len())?;
    let parts: Option<Vec<String>> =
        wanted.iter().map(|(name, read)| Some(format!("\"{name}\":{}", read(object.get(*name)?)?))).collect();
    Some(format!("{{{}}}", parts?.join(",")))
}

/// All of `names`, read alike.
fn all(value: &Value, names: &[&str], read: impl Fn(&Value) -> Option<String>) -> Option<String> {
    let wanted: Vec<(&str, Read)> = names.iter().map(|name| (*name, &read as Read)).collect();
    fields(value, &wanted)
}

/// Whatever is there of `names`.
fn some(value: &Value, names: &[&str]) -> Option<String> {
    let object = value.as_object()?;
    let there: Vec<&str> = names.iter().copied().filter(|name| object.contains_key(*name)).collect();
    all(value, &there, count)
}

/// By any names, in the order of their bytes.
fn named(value: &Value, read: impl Fn(&str, &Value) -> Option<String>) -> Option<String> {
    let parts: Option<Vec<String>> = value
        .as_object()?
        .iter()
        .map(|(name, value)| Some(format!("{}:{}", Value::from(name.as_str()), read(name, value)?)))
        .collect();
    Some(format!("{{{}}}", parts?.join(",")))
}

fn list(value: &Value, read: Read) -> Option<String> {
    let parts: Option<Vec<String>> = value.as_array()?.iter().map(read).collect();
    Some(format!("[{}]", parts?.join(",")))
}

fn nothing_or(value: &Value, read: Read) -> Option<String> {
    if value.is_null() { Some("null".into()) } else { read(value) }
}

fn number(value: &Value, most: u64) -> Option<String> {
    value.as_u64().filter(|number| *number <= most).map(|number| number.to_string())
}

/// Whatever the master or the kernel says.
fn any(value: &Value) -> Option<String> {
    number(value, u64::MAX)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(|_| value.to_string())
}

fn count(value: &Value) -> Option<String> {
    number(value, MAX_COUNT)
}

fn yes_or_no(value: &Value) -> Option<String> {
    value.as_bool().map(|value| value.to_string())
}

/// As the clock can have it.
fn time(value: &Value) -> Option<String> {
    fields(
        value,
        &[
            ("secs_since_epoch", &|value| number(value, i64::MAX.unsigned_abs())),
            ("nanos_since_epoch", &|value| number(value, 999_999_999)),
        ],
    )
}

fn tally(value: &Value) -> Option<String> {
    let starts = |value: &Value| all(value, &["before", "now"], any);
    let services = |value: &Value| {
        value.as_object().filter(|services| services.len() <= MAX_SERVICES)?;
        named(value, |name, service| {
            let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
            ((1..=64).contains(&name.len()) && name.bytes().all(plain)).then_some(())?;
            fields(
                service,
                &[
                    ("drop_warnings", &|value| some(value, &LIMITS)),
                    ("last_drop_warning", &|value| nothing_or(value, &time)),
                    ("queue_full_kills", &count),
                    ("handover_failures", &count),
                    ("failures", &|value| some(value, &FAILURES)),
                    ("starts", &|value| nothing_or(value, &starts)),
                ],
            )
        })
    };
    fields(
        value,
        &[
            ("services", &services),
            ("user_connection_limit_rejections", &count),
            ("reloads", &count),
            ("generation", &|value| nothing_or(value, &generation)),
        ],
    )
}

/// Two pids, and the socket's inode and mtime, which may be of any time.
fn generation(value: &Value) -> Option<String> {
    let pid = |value: &Value| number(value, u32::MAX.into());
    let socket = |value: &Value| match &value.as_array()?[..] {
        [inode, seconds, nanoseconds] => {
            Some(format!("[{},{},{}]", any(inode)?, seconds.as_i64()?, nanoseconds.as_i64()?))
        }
        _ => None,
    };
    fields(value, &[("log", &pid), ("anvil", &pid), ("socket", &socket)])
}

fn kept(value: &Value) -> Option<String> {
    let of_path = |value: &Value| {
        fields(
            value,
            &[
                ("seen", &time),
                ("real", &|value| nothing_or(value, &text)),
                ("places", &|value| list(value, &place)),
            ],
        )
    };
    let of_log = |log: &str, value: &Value| {
        let pattern = log.contains(['*', '?', '[']);
        named(value, |path, value| (pattern || path == log).then(|| of_path(value))?)
    };
    let files = |value: &Value| {
        fields(value, &[("logs", &|value| named(value, of_log)), ("left", &|value| list(value, &place))])
    };
    let cursor = |value: &Value| value.as_str().filter(|cursor| !cursor.contains('\0')).and(text(value));
    let newest = |value: &Value| nothing_or(value, &text);
    let ring = |value: &Value| fields(value, &[("newest", &newest), ("times", &any)]);
    fields(
        value,
        &[
            ("files", &files),
            ("cursor", &|value| nothing_or(value, &cursor)),
            ("ring", &|value| nothing_or(value, &ring)),
        ],
    )
}

fn place(value: &Value) -> Option<String> {
    let identity = |value: &Value| {
        let birth = |value: &Value| nothing_or(value, &time);
        fields(value, &[("device", &any), ("inode", &any), ("birth", &birth)])
    };
    let lines = |value: &Value| {
        let since = |value: &Value| number(value, 255);
        fields(value, &[("skipping", &yes_or_no), ("piece", &yes_or_no), ("since_long", &since)])
    };
    let hex = |value: &Value| bytes(value).map(|_| value.to_string());
    let text = fields(
        value,
        &[
            ("identity", &identity),
            ("offset", &any),
            ("fingerprint", &hex),
            ("head", &hex),
            ("lines", &lines),
        ],
    )?;
    let (before, head) = (bytes(&value["fingerprint"])?, bytes(&value["head"])?);
    let offset = value["offset"].as_u64()?;
    let unknown = before.is_empty() && head.is_empty();
    let known = before.len() == head.len() && before.len() as u64 == if offset < 256 { offset } else { 256 };
    // Behind a hole or a newline a line begins.
    let behind = before.iter().rev().find(|byte| **byte != 0);
    let whole = matches!(behind, None | Some(b'\n')) || value["lines"]["skipping"] == true;
    (unknown || known && whole).then_some(text)
}

/// Two digits each, of which letters are small.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    let digits = value.as_str()?.as_bytes();
    let value_of = |digit: u8| b"0123456789abcdef".iter().position(|one| *one == digit);
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(value_of(*high)? * 16 + value_of(*low)?).ok(),
            _ => None,
        })
        .collect()
}
