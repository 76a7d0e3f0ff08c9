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
mod tests;
