//! Changes that keep a log a log: by words, by lines, and by what lines are made of.

use memchr::memmem;

use crate::{
    random::Random,
    words::{ENDS, HEADERS, TEXTS, WORDS},
};

/// One byte of an input for many of a log, so that the lengths at which Dovecot and runtimes split lines, and the
/// longest that is read, are in reach.
pub fn expand(input: &[u8]) -> Vec<u8> {
    let mut log = Vec::with_capacity(input.len());
    // No more than a few of them, for time.
    let mut room = 300_000_usize;
    for byte in input {
        let more = match byte {
            1 => b"x".repeat(4000),
            2 => b"x".repeat(60_000),
            3 => b"x\n".repeat(31),
            _ => vec![*byte],
        };
        if let Some(rest) = room.checked_sub(more.len()) {
            room = rest;
            log.extend(more);
        }
    }
    log
}

/// Changes `data`, of which `size` bytes are in use, into something of the same kind; returns how many are then.
/// `other` makes the changes that know nothing of logs.
pub fn change(data: &mut [u8], size: usize, seed: u32, other: impl FnOnce(&mut [u8]) -> usize) -> usize {
    let mut random = Random::of(&seed.to_le_bytes());
    let old = &data[..size];
    let new = match random.below(12) {
        0..=2 => return other(data),
        3..=5 => word(old, &mut random),
        6 => words(old, &mut random),
        7 => line(old, &mut random, made(random_line_parts)),
        8 => line(old, &mut random, made(docker_line)),
        9 => line(old, &mut random, |old, random| [random.one(&HEADERS).as_bytes(), body(old)].concat()),
        10 => line(old, &mut random, |old, random| {
            let times = random.one(&["2", "1", "0", "999999", "1000000", "x", ""]);
            let text = body(old);
            let header = &old[..old.len() - text.len()];
            [header, b"message repeated ", times.as_bytes(), b" times: [ ", text, b"]"].concat()
        }),
        _ => lines(old, &mut random),
    };
    let size = new.len().min(data.len());
    data[..size].copy_from_slice(&new[..size]);
    size
}

fn made(make: impl Fn(&mut Random) -> Vec<u8>) -> impl Fn(&[u8], &mut Random) -> Vec<u8> {
    move |_, random| make(random)
}

fn random_line_parts(random: &mut Random) -> Vec<u8> {
    [random.one(&HEADERS), random.one(&TEXTS), random.one(&ENDS)].concat().into_bytes()
}

fn docker_line(random: &mut Random) -> Vec<u8> {
    let header = random.one(&["", "Nov 23 15:54:28 ", "2026-11-23 16:39:14 "]);
    let text = [header, random.one(&TEXTS), random.one(&["\n", "\n", "\r\n", "", "\\n", "\n\n"])].concat();
    let text = serde_json::to_string(&text).expect("a text").replace('<', "\\u003c");
    let rest = random.one(&[
        r#","stream":"stderr","time":"2026-11-23T15:54:28.1Z"}"#,
        r#","stream":"stdout","attrs":{"a":"b"},"time":"2026-11-23T15:54:28.1Z"}"#,
        r#"","stream":"stderr"#,
    ]);
    format!("{{\"log\":{text}{rest}").into_bytes()
}

/// What of a line is Dovecot's.
fn body(line: &[u8]) -> &[u8] {
    let starts =
        [&b"master: "[..], b"imap", b"pop3", b"submission", b"managesieve", b"auth: ", b"message repeated"];
    starts
        .into_iter()
        .filter_map(|start| memmem::find(line, start))
        .min()
        .map_or(line, |start| &line[start..])
}

/// Where words begin and end.
fn borders(bytes: &[u8]) -> Vec<usize> {
    let class = |byte: u8| match byte {
        b'0'..=b'9' => 0,
        b'a'..=b'z' | b'A'..=b'Z' | b'_' | 128.. => 1,
        b' ' => 2,
        // Each by itself.
        other => i32::from(other) + 3,
    };
    let inner = (1..bytes.len()).filter(|place| class(bytes[*place - 1]) != class(bytes[*place]));
    [0].into_iter().chain(inner).chain([bytes.len()]).collect()
}

/// Another word in the place of one, of none, or none in the place of one.
fn word(old: &[u8], random: &mut Random) -> Vec<u8> {
    let borders = borders(old);
    let first = random.below(borders.len());
    let last = (first + random.below(3)).min(borders.len() - 1);
    let new = if random.below(4) == 0 { "" } else { random.one(&WORDS) };
    [&old[..borders[first]], new.as_bytes(), &old[borders[last]..]].concat()
}

/// Some words once more, elsewhere.
fn words(old: &[u8], random: &mut Random) -> Vec<u8> {
    let borders = borders(old);
    let first = random.below(borders.len());
    let last = (first + random.below(12)).min(borders.len() - 1);
    let place = borders[random.below(borders.len())];
    [&old[..place], &old[borders[first]..borders[last]], &old[place..]].concat()
}

/// Another line in the place of one, or behind it.
fn line(old: &[u8], random: &mut Random, make: impl Fn(&[u8], &mut Random) -> Vec<u8>) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = old.split(|byte| *byte == b'\n').collect();
    let place = random.below(lines.len());
    let new = make(lines[place], random);
    if random.below(2) == 0 {
        lines[place] = &new;
    } else {
        lines.insert(place, &new);
    }
    lines.join(&b'\n')
}

/// Lines in another order, fewer of them, one more often, or one much longer.
fn lines(old: &[u8], random: &mut Random) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = old.split(|byte| *byte == b'\n').collect();
    let (one, other) = (random.below(lines.len()), random.below(lines.len()));
    let long = format!("Nov 23 16:18:23 auth: Debug: {}\u{1}", "x".repeat(50 + random.below(12)));
    match random.below(5) {
        0 => lines.swap(one, other),
        1 => drop(lines.drain(one.min(other)..one.max(other))),
        2 => lines.insert(one, lines[other]),
        3 => lines.insert(one, long.as_bytes()),
        _ => lines.insert(one, b"2026-11-23T15:54:28.123456789Z stderr P x"),
    }
    lines.join(&b'\n')
}
