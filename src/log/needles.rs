//! Searches for several texts at once.

use memchr::memmem::Finder;

/// Finds any of some texts. One search for each is faster than any for all, as long as they are few and rare.
#[derive(Debug)]
pub struct Needles(Vec<Finder<'static>>);

/// The search of some bytes, from their start to their end.
#[derive(Debug)]
pub struct Search<'a> {
    bytes: &'a [u8],
    needles: &'a [Finder<'static>],
    /// Where each was found last, or is not any more.
    found: Vec<Option<usize>>,
}

impl Needles {
    /// Finds any of `texts`.
    pub fn new(texts: &[&'static str]) -> Self {
        Self(texts.iter().map(|text| Finder::new(*text)).collect())
    }

    /// Begins a search of `bytes`.
    pub fn search<'a>(&'a self, bytes: &'a [u8]) -> Search<'a> {
        Search { bytes, needles: &self.0, found: self.0.iter().map(|needle| needle.find(bytes)).collect() }
    }
}

impl Search<'_> {
    /// Where the first text is at or behind `place`, which is not before that of the last call.
    pub fn next(&mut self, place: usize) -> Option<usize> {
        for (needle, found) in self.needles.iter().zip(&mut self.found) {
            if found.is_some_and(|found| found < place) {
                *found = needle.find(&self.bytes[place..]).map(|found| place + found);
            }
        }
        self.found.iter().flatten().min().copied()
    }
}
