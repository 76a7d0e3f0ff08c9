//! A whole log, line by line: which lines count, and which follow what a client may have split.

use memchr::memmem;

use crate::meaning::{self, Meaning};

/// Longer lines are passed over.
const MAX_LINE: usize = 64 * 1024;
/// Dovecot may have split a line of so many bytes.
const LONG_LINE: usize = 4085;
/// Behind it so many may be the rest, as lines of other processes come between.
const NEAR: usize = 32;

/// What a log tells.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// Ident, event and times, in order.
    pub events: Vec<(Option<String>, String, u32)>,
    /// Lines with the text of a drop warning that are none, or that were refused.
    pub forged: usize,
    /// Newlines.
    pub lines: u64,
    /// Lines that were passed over.
    pub oversized: u64,
}

/// The instance whose events are not ours.
pub const OTHER_INSTANCE: &str = "lab2";

/// What the lines told so far mean for the next.
#[derive(Debug, Default)]
pub struct Log {
    /// So far.
    pub told: Told,
    /// By which forms.
    pub forms: Vec<&'static str>,
    long: Option<usize>,
    piece: bool,
    count: usize,
}

impl Log {
    /// Takes the next line, whether it has a newline or not.
    pub fn line(&mut self, line: &[u8]) {
        let long = self.long.is_some_and(|long| self.count - long <= NEAR);
        if line.len() <= MAX_LINE {
            let meaning = meaning::of(line);
            let refused = meaning.as_ref().is_some_and(|meaning| self.piece || long && meaning.of_client);
            let drop = memmem::find(line, DROPPED).is_some();
            let ours = match meaning {
                Some(meaning) if !refused => self.event(meaning),
                _ => false,
            };
            if refused {
                self.forms.push(if self.piece {
                    "refused behind a piece"
                } else {
                    "refused behind a long line"
                });
            }
            if drop && !ours {
                self.forms.push("forged");
            }
            self.told.forged += usize::from(refused || drop && !ours);
        } else {
            self.told.oversized += 1;
            self.forms.push("oversized");
        }
        self.count += 1;
        if line.len() >= LONG_LINE {
            self.long = Some(self.count - 1);
        }
        // Of a line that is too long no more is looked at than of any.
        self.piece = meaning::is_piece(&line[..line.len().min(MAX_LINE)]);
    }

    /// Takes the next line that came by itself, so that it is none that anything continues.
    pub fn message(&mut self, line: &[u8]) {
        self.line(line);
        self.piece = false;
    }

    fn event(&mut self, meaning: Meaning) -> bool {
        let ours = meaning.ident.as_deref() != Some(OTHER_INSTANCE);
        self.forms.extend(meaning.forms);
        self.told.events.push((meaning.ident, meaning.event, meaning.times));
        ours
    }
}

const DROPPED: &[u8] = b"reached, client connections are being dropped";

/// Forms of a whole log.
pub const FORMS: [&str; 4] = ["refused behind a piece", "refused behind a long line", "forged", "oversized"];
