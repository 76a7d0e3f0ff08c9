//! What mutated inputs reached, for `run`, which fails if that is not everything: a fuzzer that never gets to a form
//! cannot find anything wrong with it.

use std::{
    collections::BTreeMap,
    env, fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Inputs by what they reached.
#[derive(Debug)]
pub struct Reached {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    mutating: AtomicBool,
}

impl Reached {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { counts: Mutex::new(BTreeMap::new()), mutating: AtomicBool::new(false) }
    }

    /// Makes rows for `all` before the first input.
    pub fn expect(&self, all: &[&'static str]) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.extend(all.iter().map(|row| (*row, 0)));
        write(&counts);
    }

    /// The corpus as it was kept is read: what comes from now on is mutated.
    pub fn begin(&self) {
        self.mutating.store(true, Ordering::Relaxed);
    }

    /// Counts one input.
    pub fn count(&self, rows: &[&'static str]) {
        if !self.mutating.load(Ordering::Relaxed) {
            return;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut worth = false;
        for row in rows {
            let count = counts.entry(row).or_default();
            *count += 1;
            // Nobody says when the last input was.
            worth |= count.is_power_of_two() || count.is_multiple_of(4096);
        }
        if worth {
            write(&counts);
        }
    }
}

impl Default for Reached {
    fn default() -> Self {
        Self::new()
    }
}

fn write(counts: &BTreeMap<&'static str, u64>) {
    let Some(path) = env::var_os("FUZZ_REACHED") else { return };
    let rows: Vec<String> = counts.iter().map(|(row, count)| format!("{count} {row}")).collect();
    fs::write(path, rows.join("\n") + "\n").expect("room for a table");
}
