//! The errors that Dovecot's master remembers, by its status socket: warnings where there is no log to read. 2.4 and
//! later; the master's own lines only, the newest 1,000, and none of an earlier master's.

use std::{
    fs,
    io::ErrorKind,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    grammar::{self, Found, OnFound},
    lines::Before,
    place::Identity,
    stamp::Stamp,
    state::LogState,
};
use crate::master::{self, Failure};

/// The time between two looks if nobody asks for one. The master warns of a service once a second at most, so that
/// it forgets none in that time.
const EVERY: Duration = Duration::from_secs(1);

/// How far its entries were read: the newest of them, and how often it was there. Two may be alike to the
/// microsecond, because the master takes the time once for all that it does at a time.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// As the master writes it; nothing if it remembered none.
    newest: Option<String>,
    times: usize,
}

impl Place {
    /// The end of `entries`.
    fn end(entries: &[String]) -> Self {
        let newest = entries.last();
        let times = entries.iter().filter(|entry| Some(*entry) == newest).count();
        Self { newest: newest.cloned(), times }
    }

    /// Those of `entries` that are behind it: all, if it is of an earlier master, or forgotten.
    fn behind<'a>(&self, entries: &'a [String]) -> &'a [String] {
        let alike = entries.iter().enumerate().filter(|(_, entry)| Some(*entry) == self.newest.as_ref());
        let last = alike.take(self.times).last().map_or(0, |(index, _)| index + 1);
        &entries[last..]
    }
}

/// What the master remembers, as far as it was read.
#[derive(Debug)]
pub struct Ring {
    socket: PathBuf,
    /// Nothing until it is known what there was when we began.
    place: Option<Place>,
    asked: Option<Instant>,
    /// The socket of a master that does not know the request, and logs an error whenever it is asked.
    refused: Option<Identity>,
    /// What is known of it.
    pub state: LogState,
}

impl Ring {
    /// Follows the errors of the master at `socket` behind `place`, or those that come from now on.
    pub fn new(socket: PathBuf, place: Option<Place>) -> Self {
        let state = LogState::new(&format!("master:{}", socket.display()));
        Self { socket, place, asked: None, refused: None, state }
    }

    /// How far it was read.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Reads what there is, if it is time or if it is to `look`, and hands over what it found; returns whether there
    /// was anything.
    pub fn pass(&mut self, look: bool, now: Instant, on_found: OnFound) -> bool {
        if !look && self.asked.is_some_and(|asked| now.duration_since(asked) < EVERY) {
            return false;
        }
        self.asked = Some(now);
        let identity = fs::metadata(&self.socket).ok().map(|metadata| Identity::of(&metadata));
        if self.refused.is_some() && self.refused == identity {
            return false;
        }
        match master::errors(&self.socket) {
            Ok(entries) => self.take(&entries, on_found),
            Err(failure) => {
                self.refused = identity.filter(|_| matches!(failure, Failure::Refused));
                self.fail(&failure);
                false
            }
        }
    }

    fn take(&mut self, entries: &[String], on_found: OnFound) -> bool {
        self.state.trouble = None;
        let new = self.place.as_ref().map_or(&[][..], |place| place.behind(entries));
        for entry in new {
            self.state.counts.lines += 1;
            self.state.counts.bytes += entry.len() as u64 + 1;
            // No client can make a line of the master's, nor have one split.
            let line = master::line_of_log(entry);
            let time = master::time_of(entry);
            let mut on_found = |found: &Found| {
                let stamp = time.map_or(found.stamp, Stamp::Time);
                on_found(&Found { stamp, event: found.event.clone(), ..*found })
            };
            let forged =
                line.is_some_and(|line| grammar::take(line.as_bytes(), Before::Lines, &mut on_found));
            self.state.counts.unanchored_warnings += u64::from(forged);
        }
        let any = !new.is_empty();
        if any {
            self.state.last_read = Some(SystemTime::now());
        }
        let began = self.place.is_none();
        if any || began {
            self.place = Some(Place::end(entries));
        }
        any || began
    }

    fn fail(&mut self, failure: &Failure) {
        let absent = |error: &std::io::Error| {
            matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
        };
        match failure {
            // What a master remembers that comes later is all new.
            Failure::Open(error) if absent(error) => drop(self.place.get_or_insert_default()),
            _ => self.state.counts.read_errors += 1,
        }
        self.state.trouble = Some(failure.in_words(&self.socket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    /// What a look finds after another one.
    fn new(before: &[&str], now: &[&str]) -> Vec<String> {
        Place::end(&entries(before)).behind(&entries(now)).to_vec()
    }

    #[test]
    fn each_entry_is_new_once() {
        assert_eq!(new(&["1 a"], &["1 a"]), entries(&[]));
        assert_eq!(new(&["1 a"], &["1 a", "2 b", "2 c"]), entries(&["2 b", "2 c"]));
        // Whatever came before it was forgotten.
        assert_eq!(new(&["1 a", "2 b"], &["2 b", "3 c"]), entries(&["3 c"]));
        // All of them were, or another master began anew.
        assert_eq!(new(&["1 a", "2 b"], &["7 x", "8 y"]), entries(&["7 x", "8 y"]));
        assert_eq!(new(&["1 a"], &[]), entries(&[]));
        assert_eq!(new(&[], &["1 a"]), entries(&["1 a"]));
    }

    #[test]
    fn entries_may_be_alike() {
        assert_eq!(new(&["1 a", "1 a"], &["1 a", "1 a", "1 a"]), entries(&["1 a"]));
        assert_eq!(
            new(&["1 a", "1 b", "1 a"], &["1 a", "1 b", "1 a", "1 a", "2 c"]),
            entries(&["1 a", "2 c"])
        );
        // The first of them is forgotten.
        assert_eq!(new(&["1 a", "1 a"], &["1 a", "2 b"]), entries(&["2 b"]));
    }

    #[test]
    fn another_clock_is_no_matter() {
        assert_eq!(new(&["9 a"], &["9 a", "3 b"]), entries(&["3 b"]));
    }
}
