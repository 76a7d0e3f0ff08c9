//! Blocks of bytes to whole lines, in bounded memory, no I/O.

use memchr::{memchr, memchr_iter, memmem::Finder, memrchr};

/// Longest line that is looked at, in bytes. Dovecot's longest own lines are about 4 KiB.
pub const MAX_LINE: usize = 64 * 1024;

/// What one block held.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Newlines.
    pub lines: u64,
    /// Lines longer than [`MAX_LINE`], which were passed over.
    pub oversized: u64,
}

/// The unfinished line of one file.
#[derive(Debug, Default)]
pub struct Lines {
    /// The bytes of the unfinished line, at most [`MAX_LINE`].
    carry: Vec<u8>,
    /// The unfinished line is passed over up to its newline.
    skipping: bool,
}

impl Lines {
    /// For a file that is entered in the middle of a line, which is then passed over.
    pub fn mid_line() -> Self {
        Self { carry: Vec::new(), skipping: true }
    }

    /// Takes the file's next bytes, and hands to `on_line`, in order and without the newline, each finished line
    /// that holds one of `needles`. The search runs over the whole block, so that a line without them costs
    /// nothing of its own.
    pub fn feed(&mut self, block: &[u8], needles: &[Finder], on_line: &mut dyn FnMut(&[u8])) -> Counts {
        let mut counts = Counts { lines: memchr_iter(b'\n', block).count() as u64, oversized: 0 };
        let Some(last) = memrchr(b'\n', block) else {
            counts.oversized += self.keep(block);
            return counts;
        };
        let mut whole = &block[..=last];
        if self.skipping || !self.carry.is_empty() {
            let first = memchr(b'\n', whole).unwrap_or(last);
            counts.oversized += self.keep(&whole[..first]);
            self.finish(needles, on_line);
            whole = &whole[first + 1..];
        }
        counts.oversized += count_oversized(whole);
        search(whole, needles, on_line);
        counts.oversized += self.keep(&block[last + 1..]);
        counts
    }

    /// Takes the unfinished line for a whole one: nobody will write to this file any more.
    pub fn finish(&mut self, needles: &[Finder], on_line: &mut dyn FnMut(&[u8])) {
        if !self.skipping && needles.iter().any(|needle| needle.find(&self.carry).is_some()) {
            on_line(&self.carry);
        }
        self.carry.clear();
        self.skipping = false;
    }

    /// Adds to the unfinished line; returns 1 if that has just become too long.
    fn keep(&mut self, bytes: &[u8]) -> u64 {
        if self.skipping {
            return 0;
        }
        if self.carry.len() + bytes.len() > MAX_LINE {
            self.carry = Vec::new();
            self.skipping = true;
            return 1;
        }
        self.carry.extend_from_slice(bytes);
        0
    }
}

/// Hands over the lines of `whole`, which ends in a newline, that hold a needle.
fn search(whole: &[u8], needles: &[Finder], on_line: &mut dyn FnMut(&[u8])) {
    let mut hits: Vec<Option<usize>> = needles.iter().map(|needle| needle.find(whole)).collect();
    // The nearest hit first, so that events keep the order of the log.
    while let Some(hit) = hits.iter().flatten().min().copied() {
        let start = memrchr(b'\n', &whole[..hit]).map_or(0, |newline| newline + 1);
        let end = memchr(b'\n', &whole[hit..]).map_or(whole.len(), |newline| hit + newline);
        if end - start <= MAX_LINE {
            on_line(&whole[start..end]);
        }
        for (needle, hit) in needles.iter().zip(&mut hits) {
            if hit.is_some_and(|hit| hit < end) {
                *hit = needle.find(&whole[end..]).map(|found| end + found);
            }
        }
    }
}

/// How many lines of `whole`, which ends in a newline, are too long. Such a line covers a multiple of the bound,
/// so it is enough to look there.
fn count_oversized(whole: &[u8]) -> u64 {
    let mut count = 0;
    let mut seen = 0;
    for place in (0..whole.len()).step_by(MAX_LINE) {
        if place < seen {
            continue;
        }
        let start = memrchr(b'\n', &whole[..place]).map_or(0, |newline| newline + 1);
        seen = memchr(b'\n', &whole[place..]).map_or(whole.len(), |newline| place + newline + 1);
        count += u64::from(seen - 1 - start > MAX_LINE);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(blocks: &[&[u8]]) -> (Vec<Vec<u8>>, Counts) {
        let needles = [Finder::new("yes"), Finder::new("also")];
        let (mut lines, mut found, mut total) = (Lines::default(), Vec::new(), Counts::default());
        for block in blocks {
            let counts = lines.feed(block, &needles, &mut |line| found.push(line.to_vec()));
            total.lines += counts.lines;
            total.oversized += counts.oversized;
        }
        (found, total)
    }

    #[test]
    fn only_lines_with_a_needle_in_order() {
        let (found, counts) = lines(&[b"no\nalso 1\nyes 2 also\n\nyes 3\nyes unfinished"]);
        assert_eq!(found, [&b"also 1"[..], b"yes 2 also", b"yes 3"]);
        assert_eq!(counts, Counts { lines: 5, oversized: 0 });
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        assert_eq!(lines(&[b"y", b"", b"e", b"s\nx", b"\n", b"\nyes", b"\n"]).0, [b"yes", b"yes"]);
    }

    #[test]
    fn a_file_entered_in_the_middle_of_a_line() {
        let (mut lines, mut found) = (Lines::mid_line(), Vec::new());
        lines.feed(b"yes half\nyes whole\n", &[Finder::new("yes")], &mut |line| found.push(line.to_vec()));
        assert_eq!(found, [b"yes whole"]);
    }

    #[test]
    fn the_last_line_may_lack_its_newline() {
        let (needles, mut found) = ([Finder::new("yes")], Vec::new());
        let mut lines = Lines::default();
        lines.feed(b"yes", &needles, &mut |_| unreachable!());
        lines.finish(&needles, &mut |line| found.push(line.to_vec()));
        lines.finish(&needles, &mut |_| unreachable!());
        assert_eq!(found, [b"yes"]);
    }

    #[test]
    fn memory_stays_bounded_under_a_line_without_end() {
        let (mut lines, needles) = (Lines::default(), [Finder::new("yes")]);
        let mut oversized = 0;
        for _ in 0..1000 {
            oversized += lines.feed(&[b'x'; 10_000], &needles, &mut |_| unreachable!()).oversized;
            assert!(lines.carry.capacity() <= 2 * MAX_LINE);
        }
        assert_eq!(oversized, 1);
        let mut found = 0;
        assert_eq!(lines.feed(b"yes\nyes\n", &needles, &mut |_| found += 1).lines, 2);
        assert_eq!(found, 1);
    }

    #[test]
    fn the_bound_is_exact() {
        for (length, oversized) in [(MAX_LINE, 0), (MAX_LINE + 1, 1), (3 * MAX_LINE, 1)] {
            let log = [b"a\n", &b"yes ".repeat(length.div_ceil(4))[..length], b"\nb\n"].concat();
            let (found, counts) = lines(&[&log]);
            assert_eq!((found.len() as u64, counts.oversized), (1 - oversized, oversized), "{length}");
        }
    }

    proptest! {
        /// However a log is cut into blocks, the same lines come out as from `split`.
        #[test]
        fn cuts_do_not_matter(
            parts in prop::collection::vec(
                prop_oneof![
                    4 => Just(b"yes".to_vec()), 4 => Just(b"\n".to_vec()), 2 => Just(b"also\n".to_vec()),
                    2 => prop::collection::vec(any::<u8>(), 0..9), 1 => Just(vec![b'-'; MAX_LINE - 2]),
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
            let (found, counts) = lines(&blocks);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(counts.lines, whole.len() as u64);
            prop_assert_eq!(counts.oversized, long.len() as u64 + u64::from(tail.len() > MAX_LINE));
        }
    }
}
