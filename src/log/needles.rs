//! All texts that are looked for, in one search.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind, packed};

/// Finds any of some texts.
#[derive(Debug)]
pub enum Needles {
    /// Vectors of the processor.
    Packed(packed::Searcher),
    /// Where it has none that the crate knows.
    Automaton(AhoCorasick),
}

impl Needles {
    /// Finds any of `texts`.
    pub fn new(texts: &[&str]) -> Self {
        packed::Searcher::new(texts).map_or_else(
            || {
                let automaton = AhoCorasick::builder()
                    .kind(Some(AhoCorasickKind::DFA))
                    .match_kind(MatchKind::LeftmostFirst)
                    .build(texts);
                Self::Automaton(automaton.expect("a handful of short texts"))
            },
            Self::Packed,
        )
    }

    /// Where the first text stands in `bytes`.
    pub fn find(&self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Packed(searcher) => searcher.find(bytes).map(|found| found.start()),
            Self::Automaton(automaton) => automaton.find(bytes).map(|found| found.start()),
        }
    }
}
