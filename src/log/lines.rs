//! Blocks of bytes to whole lines, no I/O and no memory of its own.
//!
//! NULs before a line are no part of it: a writer that does not append leaves a hole where the log was truncated.

use memchr::{memchr, memchr_iter, memrchr};
use serde::{Deserialize, Serialize};

use super::{header, needles::Needles};

/// Longest line that is looked at, in bytes. Dovecot's longest own lines are about 4 KiB.
pub const MAX_LINE: usize = 64 * 1024;

/// What was taken of some bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Taken {
    /// Bytes that need not be seen again.
    pub bytes: usize,
    /// Newlines in them.
    pub lines: u64,
    /// Lines longer than [`MAX_LINE`], which were passed over.
    pub oversized: u64,
}

/// Text of the longest line that a process of Dovecot's gives its log process at once, less what the digits of its
/// pid take: what is longer goes on in another line, behind the name of the process again. Measured: 4,087 bytes
/// with five digits, 4,090 with two.
const LONG_LINE: usize = 4085;
/// Lines of other processes may come between the two: of 7,600 pairs of 60 clients at once one had 12.
const NEAR: u8 = 32;

/// What a line follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Before {
    /// Whole lines.
    Lines,
    /// A line that Dovecot may have split: what it logs for a client may begin with whatever that client sent.
    LongLine,
    /// A piece that a container runtime continues in this line, which may begin with anything.
    Piece,
}

/// What the bytes that were taken mean for those that follow.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lines {
    /// They end within a line, whose rest is passed over.
    skipping: bool,
    /// Their last line is a piece, by its first [`MAX_LINE`] bytes.
    piece: bool,
    /// Lines since the last long one.
    since_long: u8,
}

impl Default for Lines {
    fn default() -> Self {
        Self { skipping: false, piece: false, since_long: NEAR }
    }
}

/// Takes a line, without its newline, and what it follows.
pub type OnLine<'a> = &'a mut dyn FnMut(&[u8], Before);

impl Lines {
    /// For a file that is entered behind `before`.
    pub fn after(before: &[u8]) -> Self {
        let whole = memrchr(b'\n', before).map_or(0, |last| last + 1);
        let mut lines = Self::default().behind(&before[..whole]);
        let half = text_of(&before[whole..]);
        if !half.is_empty() {
            lines.skip(half);
        }
        lines
    }

    /// For a file that is read after another one.
    #[must_use]
    pub fn across_files(self) -> Self {
        Self { skipping: false, ..self }
    }

    /// Whether they end within a line, whose rest is passed over.
    pub fn is_within_line(&self) -> bool {
        self.skipping
    }

    /// Passes over what is still to come of the line that begins with `head`.
    fn skip(&mut self, head: &[u8]) {
        *self = Self { skipping: true, piece: is_piece(head), since_long: 0 };
    }

    /// What they are behind the lines of `whole`.
    fn behind(mut self, whole: &[u8]) -> Self {
        let mut end = whole.len();
        for line in 0..NEAR {
            let Some(newline) = end.checked_sub(1) else {
                self.since_long = self.since_long.saturating_add(line).min(NEAR);
                return self;
            };
            end = memrchr(b'\n', &whole[..newline]).map_or(0, |before| before + 1);
            let text = text_of(&whole[end..newline]);
            if line == 0 {
                self.piece = is_piece(text);
            }
            if text.len() >= LONG_LINE {
                self.since_long = line;
                return self;
            }
        }
        self.since_long = NEAR;
        self
    }

    /// Takes all whole lines of `bytes`, which follow what was taken last, and hands over, in order and without the
    /// newline, each that holds one of `needles`. The search runs over the whole block, so that a line without them
    /// costs nothing of its own. An unfinished line is not taken, unless it is too long: it is to be given again,
    /// with what follows.
    pub fn take(&mut self, bytes: &[u8], needles: &Needles, on_line: OnLine) -> Taken {
        let mut taken = Taken::default();
        if self.skipping {
            let Some(end) = memchr(b'\n', bytes) else { return Taken { bytes: bytes.len(), ..taken } };
            taken = Taken { bytes: end + 1, lines: 1, oversized: 0 };
            self.skipping = false;
        }
        let rest = &bytes[taken.bytes..];
        if let Some(last) = memrchr(b'\n', rest) {
            let whole = &rest[..=last];
            taken.bytes += whole.len();
            taken.lines += memchr_iter(b'\n', whole).count() as u64;
            taken.oversized += count_oversized(whole);
            *self = self.search(whole, needles, on_line);
        }
        let rest = text_of(&bytes[taken.bytes..]);
        taken.bytes = bytes.len();
        if rest.len() > MAX_LINE {
            self.skip(rest);
            taken.oversized += 1;
        } else {
            taken.bytes -= rest.len();
        }
        taken
    }

    /// Takes an unfinished line for a whole one: nobody will write to this file any more.
    pub fn finish(&mut self, rest: &[u8], needles: &Needles, on_line: OnLine) {
        let line = text_of(rest);
        if self.skipping || line.is_empty() {
            return;
        }
        if needles.search(line).next(0).is_some() {
            on_line(line, self.before());
        }
        self.skip(line);
    }

    fn before(self) -> Before {
        if self.piece {
            Before::Piece
        } else if self.since_long < NEAR {
            Before::LongLine
        } else {
            Before::Lines
        }
    }

    /// Hands over the lines of `whole`, which ends in a newline, that hold a needle; returns what is behind them.
    fn search(self, whole: &[u8], needles: &Needles, on_line: OnLine) -> Self {
        let (mut lines, mut start, mut searched) = (self, 0, 0);
        let mut search = needles.search(whole);
        while let Some(hit) = search.next(searched) {
            let before =
                memrchr(b'\n', &whole[searched..hit]).map_or(searched, |newline| searched + newline + 1);
            let end = memchr(b'\n', &whole[hit..]).map_or(whole.len(), |newline| hit + newline);
            lines = lines.behind(&whole[start..before]);
            start = before;
            let line = text_of(&whole[start..end]);
            if line.len() <= MAX_LINE {
                on_line(line, lines.before());
            }
            searched = whole.len().min(end + 1);
        }
        lines.behind(&whole[start..])
    }

    /// What a line follows that comes by itself, and moves behind it.
    pub fn next(&mut self, line: &[u8]) -> Before {
        let before = self.before();
        self.since_long =
            if line.len() >= LONG_LINE { 0 } else { self.since_long.saturating_add(1).min(NEAR) };
        before
    }
}

/// `line` without the hole before it.
fn text_of(line: &[u8]) -> &[u8] {
    &line[line.iter().take_while(|byte| **byte == 0).count()..]
}

/// Whether a container runtime continues `line`, of which no more is looked at than of any.
fn is_piece(line: &[u8]) -> bool {
    header::is_piece(&line[..line.len().min(MAX_LINE)])
}

/// How many lines of `whole`, which ends in a newline, are too long. Such a line covers a multiple of the bound,
/// so it is enough to look there.
fn count_oversized(whole: &[u8]) -> u64 {
    let (mut count, mut seen) = (0, 0);
    for place in (0..whole.len()).step_by(MAX_LINE) {
        if place < seen {
            continue;
        }
        let start = memrchr(b'\n', &whole[..place]).map_or(0, |newline| newline + 1);
        seen = memchr(b'\n', &whole[place..]).map_or(whole.len(), |newline| place + newline + 1);
        count += u64::from(text_of(&whole[start..seen - 1]).len() > MAX_LINE);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines that come out when bytes arrive in `blocks`, read as files are: what was not taken is given again.
    fn lines(blocks: &[&[u8]]) -> (Vec<Vec<u8>>, Taken) {
        let needles = Needles::new(&["yes", "also"]);
        let (mut lines, mut found, mut total, mut rest) =
            (Lines::default(), Vec::new(), Taken::default(), Vec::new());
        for block in blocks {
            rest.extend_from_slice(block);
            let taken = lines.take(&rest, &needles, &mut |line, _| found.push(line.to_vec()));
            total.lines += taken.lines;
            total.oversized += taken.oversized;
            rest.drain(..taken.bytes);
            assert!(rest.len() <= MAX_LINE);
        }
        (found, total)
    }

    #[test]
    fn only_lines_with_a_needle_in_order() {
        let (found, taken) = lines(&[b"no\nalso 1\nyes 2 also\n\nyes 3\nyes unfinished"]);
        assert_eq!(found, [&b"also 1"[..], b"yes 2 also", b"yes 3"]);
        assert_eq!(taken, Taken { bytes: 0, lines: 5, oversized: 0 });
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        assert_eq!(lines(&[b"y", b"", b"e", b"s\nx", b"\n", b"\nyes", b"\n"]).0, [b"yes", b"yes"]);
    }

    #[test]
    fn a_file_entered_in_the_middle_of_a_line() {
        let needles = Needles::new(&["yes"]);
        for (before, expected) in [(&b"half"[..], vec!["whole yes"]), (b"a\n", vec!["yes half", "whole yes"])]
        {
            let (mut lines, mut found) = (Lines::after(before), Vec::new());
            lines.take(b"yes half\nwhole yes\n", &needles, &mut |line, _| found.push(line.to_vec()));
            assert_eq!(found, expected.iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_last_line_may_lack_its_newline() {
        let (needles, mut found) = (Needles::new(&["yes"]), Vec::new());
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"yes", &needles, &mut |_, _| unreachable!()), Taken::default());
        lines.finish(b"yes", &needles, &mut |line, _| found.push(line.to_vec()));
        lines.finish(b"", &needles, &mut |_, _| unreachable!());
        assert_eq!(found, [b"yes"]);
    }

    #[test]
    fn a_hole_before_a_line_is_no_part_of_it() {
        assert_eq!(lines(&[&vec![0; 3 * MAX_LINE], b"\0\0yes\n\0yes\n"]).0, [b"yes", b"yes"]);
    }

    #[test]
    fn a_hole_may_be_anywhere_and_come_in_any_blocks() {
        let needles = Needles::new(&["yes"]);
        let text = [&b"yes "[..], &vec![b'x'; MAX_LINE - 4]].concat();
        let log = [&b"a\n"[..], &vec![0; 70_000], &text, b"\n\0\0\nyes\0\n", &[0; 5000], b"yes\n"].concat();
        for step in [log.len(), 100_000, 65_536, 9973] {
            let (mut lines, mut found, mut start) = (Lines::default(), Vec::new(), 0);
            let mut oversized = 0;
            for end in (0..log.len()).step_by(step).skip(1).chain([log.len()]) {
                let on_line: OnLine = &mut |line, before| found.push((line.len(), before));
                let taken = lines.take(&log[start..end], &needles, on_line);
                start += taken.bytes;
                oversized += taken.oversized;
            }
            assert_eq!((start, oversized), (log.len(), 0));
            let long = Before::LongLine;
            assert_eq!(found, [(MAX_LINE, Before::Lines), (4, long), (3, long)], "{step}");
        }
    }

    #[test]
    fn a_line_too_long_may_be_a_piece() {
        let needles = Needles::new(&["yes"]);
        for (head, expected) in [
            (&b"2026-11-23T15:54:28Z stderr P "[..], Before::Piece),
            (b"{\"log\":\"", Before::Piece),
            (b"{\"log\":\"x\\n\",\"", Before::LongLine),
            (b"x", Before::LongLine),
        ] {
            let log = [head, &vec![b'x'; 2 * MAX_LINE], b"\nyes\n"].concat();
            for cut in [0, head.len() + MAX_LINE, 2 * MAX_LINE, log.len() - 5, log.len()] {
                let (mut lines, mut found) = (Lines::default(), Vec::new());
                let mut on_line = |_: &[u8], before| found.push(before);
                let first = lines.take(&log[..cut], &needles, &mut on_line).bytes;
                lines.take(&log[first..], &needles, &mut on_line);
                assert_eq!(found, [expected], "{cut}");
            }
        }
    }

    #[test]
    fn what_continues_a_piece_is_told_from_a_line() {
        let needles = Needles::new(&["yes"]);
        let log = b"2026-11-23T15:54:28Z stderr P yes 1\n2026-11-23T15:54:28Z stderr F yes 2\n2026-11-23T15:54:28Z stderr F yes 3\n";
        for cut in 0..=log.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            let mut on_line = |_: &[u8], before| found.push(before == Before::Piece);
            let first = lines.take(&log[..cut], &needles, &mut on_line).bytes;
            lines.take(&log[first..], &needles, &mut on_line);
            assert_eq!(found, [false, true, false], "{cut}");
            let end = memrchr(b'\n', &log[..cut]).map_or(0, |newline| newline + 1);
            assert_eq!(Lines::after(&log[..end]).piece, end == 36, "{end}");
        }
    }

    #[test]
    fn what_may_be_split_is_told_from_whole_lines() {
        let needles = Needles::new(&["yes"]);
        for (length, lines_between, expected) in [
            (LONG_LINE, 0, Before::LongLine),
            (LONG_LINE, 31, Before::LongLine),
            (LONG_LINE, 32, Before::Lines),
            (LONG_LINE - 1, 0, Before::Lines),
        ] {
            let log =
                [&b"a\n".repeat(50)[..], &vec![b'-'; length], b"\n", &b"b\n".repeat(lines_between), b"yes\n"]
                    .concat();
            for cut in (0..=log.len()).step_by(7) {
                let (mut lines, mut found) = (Lines::default(), Vec::new());
                let mut on_line = |_: &[u8], before| found.push(before);
                let first = lines.take(&log[..cut], &needles, &mut on_line).bytes;
                lines.take(&log[first..], &needles, &mut on_line);
                assert_eq!(found, [expected], "{length} {lines_between} {cut}");
            }
        }
    }

    #[test]
    fn memory_stays_bounded_under_a_line_without_end() {
        let (mut lines, needles) = (Lines::default(), Needles::new(&["yes"]));
        let mut oversized = 0;
        for _ in 0..1000 {
            let taken = lines.take(&vec![b'x'; MAX_LINE + 1], &needles, &mut |_, _| unreachable!());
            assert_eq!(taken.bytes, MAX_LINE + 1);
            oversized += taken.oversized;
        }
        assert_eq!(oversized, 1);
        let mut found = 0;
        assert_eq!(lines.take(b"yes\nyes\n", &needles, &mut |_, _| found += 1).lines, 2);
        assert_eq!(found, 1);
    }

    #[test]
    fn the_bound_is_exact() {
        for (length, oversized) in [(MAX_LINE, 0), (MAX_LINE + 1, 1), (3 * MAX_LINE, 1)] {
            let log = [b"a\n", &b"yes ".repeat(length.div_ceil(4))[..length], b"\nb\n"].concat();
            let (found, taken) = lines(&[&log]);
            assert_eq!((found.len() as u64, taken.oversized), (1 - oversized, oversized), "{length}");
        }
    }

    proptest! {
        /// However a log is cut into blocks, the same lines come out as from `split`.
        #[test]
        fn cuts_do_not_matter(
            parts in prop::collection::vec(
                prop_oneof![
                    4 => Just(b"yes".to_vec()), 4 => Just(b"\n".to_vec()), 2 => Just(b"also\n".to_vec()),
                    2 => prop::collection::vec(1_u8.., 0..9), 1 => Just(vec![b'-'; MAX_LINE - 2]),
                ], 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let log = parts.concat();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(log.len() + 1)).collect();
            places.extend([0, log.len()]);
            places.sort_unstable();
            let blocks: Vec<&[u8]> = places.windows(2).map(|pair| &log[pair[0]..pair[1]]).collect();
            let mut whole: Vec<&[u8]> = log.split(|byte| *byte == b'\n').collect();
            let tail = whole.pop().unwrap_or_default();
            let (long, short): (Vec<&[u8]>, Vec<&[u8]>) = whole.iter().partition(|line| line.len() > MAX_LINE);
            let holds = |line: &&[u8]| line.windows(3).any(|at| at == b"yes") || line.windows(4).any(|at| at == b"also");
            let expected: Vec<Vec<u8>> = short.into_iter().filter(holds).map(<[u8]>::to_vec).collect();
            let (found, taken) = lines(&blocks);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(taken.lines, whole.len() as u64);
            prop_assert_eq!(taken.oversized, long.len() as u64 + u64::from(tail.len() > MAX_LINE));
        }
    }
}
