//! A log, read in blocks as the program does, and line by line as the documents have it.
#![no_main]

use dovecot_capacity_exporter::log::{
    grammar::{self, NEEDLES},
    lines::{Before, Lines, MAX_LINE},
    needles::Needles,
};
use dovecot_capacity_exporter_fuzz::{
    log::{self, Log, OTHER_INSTANCE, Told},
    meaning,
    mutation::{change, expand},
    random::Random,
    reached::Reached,
};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use std::sync::LazyLock;

static REACHED: Reached = Reached::new();
static THE_NEEDLES: LazyLock<Needles> = LazyLock::new(|| Needles::new(&NEEDLES));

fuzz_target!(init: {
    REACHED.expect(&meaning::FORMS);
    REACHED.expect(&log::FORMS);
}, |input: &[u8]| {
    let log = expand(input);
    let mut expected = Log::default();
    let mut lines: Vec<&[u8]> = log.split(|byte| *byte == b'\n').map(behind_hole).collect();
    let unfinished = lines.pop().unwrap_or_default();
    for line in &lines {
        expected.line(line);
    }
    expected.told.lines = lines.len() as u64;
    if !unfinished.is_empty() {
        expected.line(unfinished);
    }
    let told = read(&log, &mut Random::of(input));
    assert_eq!(told, expected.told, "{}", log.escape_ascii());
    expected.forms.sort_unstable();
    expected.forms.dedup();
    REACHED.count(&expected.forms);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    REACHED.begin();
    change(data, size, seed, |data| libfuzzer_sys::fuzzer_mutate(data, size, max_size))
});

/// A log was truncated there by one who writes on where it was.
fn behind_hole(line: &[u8]) -> &[u8] {
    let end = line.iter().position(|byte| *byte != 0).unwrap_or(line.len());
    &line[end..]
}

/// As the program reads: what was not taken is given again; and now and then it is started again.
fn read(log: &[u8], random: &mut Random) -> Told {
    let mut told = Told::default();
    let Told { events, forged, lines: newlines, oversized } = &mut told;
    let mut on_line = |line: &[u8], before: Before| {
        let refused = grammar::take(line, before, &mut |found| {
            events.push((found.ident.map(ToOwned::to_owned), meaning::in_words(&found.event), found.times));
            found.ident != Some(OTHER_INSTANCE)
        });
        *forged += usize::from(refused);
    };
    let (mut lines, mut start, mut end) = (Lines::default(), 0, 0);
    for block in random.blocks(log) {
        end += block.len();
        let taken = lines.take(&log[start..end], &THE_NEEDLES, &mut on_line);
        start += taken.bytes;
        *newlines += taken.lines;
        *oversized += taken.oversized;
        assert!(end - start <= MAX_LINE);
        if random.below(4) == 0 {
            let kept = serde_json::to_string(&lines).expect("plain values");
            lines = serde_json::from_str(&kept).expect("what was written");
        }
    }
    lines.finish(&log[start..], &THE_NEEDLES, &mut on_line);
    told
}
