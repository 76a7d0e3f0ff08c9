//! States, and what a follower makes of them that goes on from one with real files.
#![no_main]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::LazyLock,
    time::{Instant, SystemTime},
};

use dovecot_capacity_exporter::{
    checkpoint::Checkpoint,
    log::{
        files::Files,
        grammar::{Failure, NEEDLES},
        needles::Needles,
    },
    master::{Generation, ServiceStatus, Status},
    service::{LimitKind, Service},
    tally::{Starts, Tally},
};
use dovecot_capacity_exporter_fuzz::{
    meaning,
    random::Random,
    reached::Reached,
    state::{self, Told},
};
use libfuzzer_sys::{Corpus, fuzz_mutator, fuzz_target};
use serde::de::IgnoredAny;
use tempfile::TempDir;

const FORMS: [&str; 13] = [
    "a state",
    "counters",
    "an event behind it",
    "no JSON",
    "duplicates, or in another order",
    "a number too high",
    "a place within a line",
    "a place that cannot be",
    "a path that is not of the log",
    "starts of another list of services",
    "starts of the same list of services",
    "a place in the master's errors",
    "a log that nobody follows",
];

/// What the master tells after each state. Some states know this list, others an earlier one.
const TOLD: Told = Told {
    log: 20,
    anvil: 5,
    socket: (131, 1_795_509_401, 469_792_901),
    starts: &[("anvil", 1), ("imap-login", 902), ("log", 1)],
};

/// A log and what a rotation made of it. A client has forged some of their lines, so that a line that is entered in
/// its middle may look like an event.
const LOGS: [(&str, &str, u32); 2] = [("a", "mail.log", 7), ("b", "mail.log.1", 4)];

struct Logs {
    folder: TempDir,
    texts: BTreeMap<&'static str, Vec<u8>>,
    /// What stands for the files in an input, and what it stands for.
    identities: Vec<(String, String)>,
    /// Events that are in the files, and how many.
    events: BTreeMap<String, usize>,
}

static REACHED: Reached = Reached::new();
static THE_LOGS: LazyLock<Logs> = LazyLock::new(Logs::new);
static THE_NEEDLES: LazyLock<Needles> = LazyLock::new(|| Needles::new(&NEEDLES));

fuzz_target!(init: { REACHED.expect(&FORMS) }, |input: &[u8]| -> Corpus {
    let json = THE_LOGS.written_out(input);
    let mut forms = Vec::new();
    let expected = state::written(&json).filter(|written| written.as_bytes() == json);
    let found = Checkpoint::from_json(&json);
    assert_eq!(found.as_ref().err().is_none(), expected.is_some(), "{found:?} {}", json.escape_ascii());
    match found {
        Err(reason) => forms.extend(refusal(&reason, &json)),
        Ok(found) => {
            assert_eq!(found.to_json(), json);
            let totals = totals(&found);
            assert_eq!(totals, state::totals(&json));
            forms.push("a state");
            if totals.iter().any(|total| total.bytes().any(|byte| (b'1'..=b'9').contains(&byte))) {
                forms.push("counters");
            }
            forms.extend(count_starts(&found, &json));
            if found.kept.ring.is_some() {
                forms.push("a place in the master's errors");
            }
            forms.extend(THE_LOGS.go_on(found, &json));
        }
    }
    REACHED.count(&forms);
    // Nearly all changes of what is no state lead to no state.
    if forms.contains(&"a state") { Corpus::Keep } else { Corpus::Reject }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    REACHED.begin();
    let mut random = Random::of(&seed.to_le_bytes());
    if random.below(12) == 0 {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    // Most changes leave no JSON.
    let mut some = (0..50).map(|_| changed(&data[..size], &mut random));
    let is_json = |new: &Vec<u8>| serde_json::from_slice::<IgnoredAny>(new).is_ok();
    let Some(new) = some.find(is_json) else { return size };
    let size = new.len().min(data.len());
    data[..size].copy_from_slice(&new[..size]);
    size
});

/// Why it is none, as far as that can be told.
fn refusal(reason: &str, json: &[u8]) -> Option<&'static str> {
    let Some(written) = serde_json::from_slice::<serde_json::Value>(json).ok() else {
        return Some("no JSON");
    };
    let places = || {
        let files = &written["kept"]["files"];
        let kept = files["logs"].as_object().into_iter().flat_map(|logs| logs.values());
        let kept = kept.flat_map(|log| log.as_object().into_iter().flat_map(|paths| paths.values()));
        let all = kept.map(|kept| &kept["places"]).chain([&files["left"]]);
        all.filter_map(|places| places.as_array()).flatten()
    };
    let impossible = |place: &serde_json::Value| {
        let [before, head] =
            ["fingerprint", "head"].map(|name| place[name].as_str().map_or(0, |hex| hex.len() as u64 / 2));
        let all = place["offset"].as_u64().is_some_and(|offset| offset.min(256) == before);
        before != head || before > 0 && !all
    };
    let within = |place: &serde_json::Value| {
        let end = place["fingerprint"].as_str().map(|hex| hex.ends_with("0a"));
        end == Some(false) && place["lines"]["skipping"] == false
    };
    let foreign = || {
        let logs = written["kept"]["files"]["logs"].as_object().into_iter().flatten();
        logs.flat_map(|(log, paths)| paths.as_object().into_iter().flatten().map(move |path| (log, path.0)))
            .any(|(log, path)| !log.contains('*') && log != path)
    };
    if reason.contains("changed") {
        Some("duplicates, or in another order")
    } else if !reason.contains("so far") {
        None
    } else if places().any(impossible) {
        Some("a place that cannot be")
    } else if places().any(within) {
        Some("a place within a line")
    } else if foreign() {
        Some("a path that is not of the log")
    } else {
        Some("a number too high")
    }
}

/// What was counted, in words.
fn totals(found: &Checkpoint) -> Vec<String> {
    let tally = &found.tally;
    let mut totals = vec![
        format!("user limit {}", tally.user_connection_limit_rejections),
        format!("reloads {}", tally.reloads),
    ];
    for (name, service) in tally.services() {
        let limits = [("process", LimitKind::Process), ("client", LimitKind::Client)]
            .map(|(word, limit)| (word, service.drop_warnings.get(&limit)));
        let failures = Failure::ALL.map(|failure| (failure.as_str(), service.failures.get(&failure)));
        let there = limits.into_iter().chain(failures);
        totals.extend(there.filter_map(|(what, count)| Some(format!("{name} {what} {}", count?))));
        totals.push(format!("{name} kills {}", service.queue_full_kills));
        totals.push(format!("{name} handover {}", service.handover_failures));
        totals.extend(service.starts.map(|starts| format!("{name} starts {}", starts.total())));
    }
    for (log, counts) in &found.logs {
        totals.push(format!(
            "{log} lines {} bytes {} rotations {} truncations {} oversized_lines {} read_errors {} unanchored_warnings {}",
            counts.lines,
            counts.bytes,
            counts.rotations,
            counts.truncations,
            counts.oversized_lines,
            counts.read_errors,
            counts.unanchored_warnings
        ));
    }
    totals.sort();
    totals
}

/// Has the tally hear of [`TOLD`], twice: it adds up once, and nothing falls.
fn count_starts(found: &Checkpoint, json: &[u8]) -> Option<&'static str> {
    let name = |name: &str| Service::parse(name).expect("a name");
    let status = |starts: &u64| ServiceStatus { starts: Some(*starts), ..ServiceStatus::default() };
    let services = TOLD.starts.iter().map(|(service, starts)| (name(service), status(starts))).collect();
    let generation = Generation { log: TOLD.log, anvil: TOLD.anvil, socket: TOLD.socket };
    let status = Status { services, generation };
    let mut tally = found.tally.clone();
    let total = |tally: &Tally, service: &str| tally.of(&name(service))?.starts.map(Starts::total);
    tally.count_starts(&status);
    let mut any = None;
    for (service, expected) in state::starts_after(json, &TOLD) {
        let before = total(&found.tally, &service);
        assert_eq!(total(&tally, &service), Some(expected), "{service} {}", json.escape_ascii());
        assert!(before <= Some(expected), "{service} fell {}", json.escape_ascii());
        if service == "imap-login" && before.is_some() {
            let added = before.and_then(|before| before.checked_add(902)) == Some(expected);
            any = Some(if added {
                "starts of another list of services"
            } else {
                "starts of the same list of services"
            });
        }
    }
    assert!(!tally.count_starts(&status), "the same again is nothing new: {}", json.escape_ascii());
    any
}

impl Logs {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut logs =
            Self { folder, texts: BTreeMap::new(), identities: Vec::new(), events: BTreeMap::new() };
        for (name, file, lines) in LOGS {
            let pair = |number| {
                let text = format!(
                    "service(imap-login): process_limit ({}) reached, client connections are being dropped",
                    number + lines
                );
                ["", "auth: Debug: "]
                    .map(|forger| format!("Nov 23 15:54:28 {forger}master: Warning: {text}\n"))
            };
            let text = (0..lines).flat_map(pair).collect::<String>();
            for meaning in text.lines().filter_map(|line| meaning::of(line.as_bytes())) {
                *logs.events.entry(meaning.event).or_default() += 1;
            }
            let path = logs.folder.path().join(file);
            fs::write(&path, &text).expect("room for a log");
            logs.identities.push((format!("\"@{name}\""), identity(&path)));
            logs.texts.insert(name, text.into_bytes());
        }
        logs
    }

    /// Names of files and of places in them for what stands for them: `@/` for the folder, `"@a"` for a file's
    /// identity, `"#a100"` for an offset and what is known of the bytes before it.
    fn written_out(&self, input: &[u8]) -> Vec<u8> {
        let Ok(input) = std::str::from_utf8(input) else { return input.to_vec() };
        let folder = format!("{}/", self.folder.path().display());
        let mut text = input.replace("@/", &folder);
        for (short, identity) in &self.identities {
            text = text.replace(short, identity);
        }
        for (name, log) in &self.texts {
            let start = format!("\"#{name}");
            let parts: Vec<&str> = text.split(&start).collect();
            let place = |part: &&str| {
                let number =
                    part.split_once('"').and_then(|(number, rest)| Some((number.parse().ok()?, rest)));
                let Some((offset, rest)) = number else { return format!("{start}{part}") };
                let (offset, rest): (usize, &str) = (offset, rest);
                let end = offset.min(log.len());
                let (before, head) = (hex(&log[end.saturating_sub(256)..end]), hex(&log[..end.min(256)]));
                format!("{offset},\"fingerprint\":\"{before}\",\"head\":\"{head}\"{rest}")
            };
            text = parts[0].to_owned() + &parts[1..].iter().map(place).collect::<String>();
        }
        text.into_bytes()
    }

    /// Follows the files from where `found` has it; returns what there was to go on from. Each event is in the files.
    fn go_on(&self, found: Checkpoint, json: &[u8]) -> Vec<&'static str> {
        let paths = [self.folder.path().join("mail.log"), self.folder.path().join("*.log")];
        let mut files = Files::new(&paths, SystemTime::UNIX_EPOCH, found.kept.files);
        let mut left = self.events.clone();
        let now = Instant::now();
        for look in [true, false, true] {
            files.pass(look, now, &THE_NEEDLES, &mut |found| {
                let event = meaning::in_words(&found.event);
                let count = left.get_mut(&event).filter(|count| **count > 0 && found.times == 1);
                *count.unwrap_or_else(|| panic!("invented: {event} {}", json.escape_ascii())) -= 1;
                true
            });
        }
        // What it would save next is a state again, with all that nobody follows as it was.
        let kept = files.kept();
        assert!(kept.are_possible(), "{}", json.escape_ascii());
        let kept = serde_json::to_value(kept).expect("every key is a text");
        let paths = paths.map(|path| path.to_string_lossy().into_owned());
        let others = state::places(json).into_iter().filter(|(log, _)| !paths.contains(log));
        let others: Vec<_> = others.collect();
        for (log, places) in &others {
            assert_eq!(kept["logs"][log], *places, "{}", json.escape_ascii());
        }
        let event = (left != self.events).then_some("an event behind it");
        event.into_iter().chain((!others.is_empty()).then_some("a log that nobody follows")).collect()
    }
}

fn identity(path: &Path) -> String {
    let found = fs::metadata(path).expect("it was just made");
    let birth = found.created().ok().and_then(|birth| birth.duration_since(SystemTime::UNIX_EPOCH).ok());
    let birth = birth.map_or("null".into(), |birth| {
        format!("{{\"secs_since_epoch\":{},\"nanos_since_epoch\":{}}}", birth.as_secs(), birth.subsec_nanos())
    });
    format!("{{\"device\":{},\"inode\":{},\"birth\":{birth}}}", found.dev(), found.ino())
}

fn hex(bytes: &[u8]) -> String {
    let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// What may stand for a word, a number or a sign.
const WORDS: [&str; 50] = [
    "0",
    "1",
    "-1",
    "1.0",
    "1e3",
    "01",
    "255",
    "256",
    "257",
    "300",
    "9007199254740992",
    "9007199254740993",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "999999999",
    "1000000000",
    "null",
    "true",
    "false",
    "{}",
    "[]",
    "\"\"",
    "\"0a\"",
    "\"@a\"",
    "\"@b\"",
    "\"#a0\"",
    "\"#a100\"",
    "\"#b187\"",
    "\"#a9999\"",
    "@/mail.log",
    "@/*.log",
    "imap-login",
    "other",
    "anvil",
    "log",
    "@/old.log",
    "client",
    "out_of_memory",
    "4294967295",
    "4294967296",
    "-9223372036854775808",
    "{\"before\":700,\"now\":902}",
    "{\"log\":20,\"anvil\":5,\"socket\":[131,1795509401,469792901]}",
    "{\"newest\":\"a\",\"times\":2}",
    "\\u0000",
    "ä",
    "00",
    "0a",
    " ",
];

/// Another word in the place of one; some once more, or no more.
fn changed(old: &[u8], random: &mut Random) -> Vec<u8> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_#@/.*-".contains(&byte);
    let inner = (1..old.len()).filter(|place| !word(old[*place]) || !word(old[*place - 1]));
    let borders: Vec<usize> = [0].into_iter().chain(inner).chain([old.len()]).collect();
    let first = random.below(borders.len());
    let end = |length: usize| borders[(first + length).min(borders.len() - 1)];
    let start = borders[first];
    match random.below(8) {
        0..=2 => [&old[..start], random.one(&WORDS).as_bytes(), &old[end(random.below(3))..]].concat(),
        3..=4 => {
            let number = (0..borders.len()).find_map(|more| {
                let at = (first + more) % borders.len();
                let (start, end) = (borders[at], *borders.get(at + 1)?);
                let digits = old[start..end].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
                (digits > 0).then_some((end - digits, end))
            });
            let (start, end) = number.unwrap_or((start, start));
            // Up to behind the end of the longest log.
            let new = if random.below(3) == 0 {
                random
                    .one(&["0", "1", "9007199254740992", "9007199254740993", "18446744073709551615"])
                    .to_owned()
            } else {
                random.below(1600).to_string()
            };
            [&old[..start], new.as_bytes(), &old[end..]].concat()
        }
        5 => [&old[..start], &old[end(1 + random.below(20))..]].concat(),
        6 => {
            let end = end(1 + random.below(20));
            [&old[..end], &old[start..]].concat()
        }
        _ => {
            let place = borders[random.below(borders.len())];
            [&old[..place], &old[start..end(1 + random.below(20))], &old[place..]].concat()
        }
    }
}
