//! Entries of the journal, taken in blocks as the program does, and from the whole as systemd's
//! `docs/JOURNAL_EXPORT_FORMATS.md` has it; and what their messages stand for.
#![no_main]

use dovecot_capacity_exporter::log::{
    export::Export,
    grammar,
    lines::{Lines, MAX_LINE},
};
use dovecot_capacity_exporter_fuzz::{
    log::{Log, OTHER_INSTANCE},
    meaning,
    mutation::change,
    random::Random,
    reached::Reached,
};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

const FORMS: [&str; 10] = [
    "an entry",
    "text",
    "data",
    "data of two lines",
    "no message",
    "a message too long",
    "no cursor",
    "a cursor too long",
    "a cursor with a NUL",
    "an event",
];
/// Nobody makes longer ones.
const MAX_CURSOR: usize = 1024;

static REACHED: Reached = Reached::new();

type Entry = (String, Option<Vec<u8>>);

fuzz_target!(init: { REACHED.expect(&FORMS) }, |input: &[u8]| {
    let bytes = written_out(input);
    let mut forms = Vec::new();
    let expected = entries(&bytes, &mut forms);
    let (mut export, mut found) = (Export::default(), Vec::new());
    for block in Random::of(input).blocks(&bytes) {
        export.take(block, &mut |entry| found.push((entry.cursor.clone(), entry.message.clone())));
    }
    assert_eq!(found, expected, "{}", bytes.escape_ascii());
    compare_events(&found, &mut forms);
    forms.sort_unstable();
    forms.dedup();
    REACHED.count(&forms);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    REACHED.begin();
    change(data, size, seed, |data| libfuzzer_sys::fuzzer_mutate(data, size, max_size))
});

/// `NAME\x04DATA\x05` as a field of data, whose length a mutation would else have to guess; and much text for one byte.
fn written_out(input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut data: Option<Vec<u8>> = None;
    for byte in dovecot_capacity_exporter_fuzz::mutation::expand(input) {
        match (byte, data.as_mut()) {
            (4, None) => data = Some(Vec::new()),
            (5, Some(data_so_far)) => {
                bytes.push(b'\n');
                bytes.extend((data_so_far.len() as u64).to_le_bytes());
                bytes.append(data_so_far);
                bytes.push(b'\n');
                data = None;
            }
            (byte, Some(data)) => data.push(byte),
            (byte, None) => bytes.push(byte),
        }
    }
    bytes
}

/// The whole entries of `rest`, field by field.
fn entries(mut rest: &[u8], forms: &mut Vec<&'static str>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let (mut cursor, mut message) = (String::new(), None);
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'=' | b'\n')) {
        let (name, is_text) = (&rest[..end], rest[end] == b'=');
        rest = &rest[end + 1..];
        if name.is_empty() && !is_text {
            forms.push(if cursor.is_empty() { "no cursor" } else { "an entry" });
            if message.is_none() {
                forms.push("no message");
            }
            let entry = (std::mem::take(&mut cursor), message.take());
            entries.extend(Some(entry).filter(|(cursor, _)| !cursor.is_empty()));
            continue;
        }
        let length = if is_text {
            rest.iter().position(|byte| *byte == b'\n')
        } else {
            rest.split_first_chunk().and_then(|(length, behind)| {
                rest = behind;
                usize::try_from(u64::from_le_bytes(*length)).ok()
            })
        };
        // Cut short: the entry is yet to come.
        let Some((value, behind)) = length.and_then(|length| rest.split_at_checked(length)) else { break };
        let Some((_, behind)) = behind.split_first() else { break };
        rest = behind;
        match name {
            b"MESSAGE" if value.len() > MAX_LINE => forms.push("a message too long"),
            b"MESSAGE" => {
                forms.push(if is_text { "text" } else { "data" });
                if value.contains(&b'\n') {
                    forms.push("data of two lines");
                }
                message = Some(value.to_vec());
            }
            b"__CURSOR" if value.len() > MAX_CURSOR => forms.push("a cursor too long"),
            b"__CURSOR" if value.contains(&0) => forms.push("a cursor with a NUL"),
            b"__CURSOR" => cursor = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
    }
    entries
}

/// Messages count as lines do, but nothing continues them.
fn compare_events(entries: &[Entry], forms: &mut Vec<&'static str>) {
    let (mut lines, mut log, mut found, mut forged) = (Lines::default(), Log::default(), Vec::new(), 0);
    for message in entries.iter().filter_map(|(_, message)| message.as_ref()) {
        log.message(message);
        let refused = grammar::take(message, lines.next(message), &mut |found_one| {
            let ident = found_one.ident.map(ToOwned::to_owned);
            found.push((ident, meaning::in_words(&found_one.event), found_one.times));
            found_one.ident != Some(OTHER_INSTANCE)
        });
        forged += usize::from(refused);
    }
    assert_eq!((&found, forged), (&log.told.events, log.told.forged));
    if !found.is_empty() {
        forms.push("an event");
    }
}
