//! Between scrapes: how many processes each program has, cheaply, and the most there were.
//!
//! The kernel's list of the master's children is read, and of a child only the command line, once. The list may lack
//! a live child while others exit, so a sample may be too low. It also has children that have ended and that the
//! master has not waited for yet: until then it counts them against `process_limit`, and so does a sample.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fd::OwnedFd,
    fs::{CWD, Mode, OFlags, openat},
    path::DecInt,
};

use super::process::{self, COMMAND_BYTES, Command};
use crate::service::{Program, Service};

/// From one sample to the next.
pub const SAMPLE_TIME: Duration = Duration::from_secs(1);
/// How long a sample counts for the peak.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Samples the children of one master.
#[derive(Debug, Default)]
pub struct Sampler {
    master: Option<i32>,
    /// The children of the last sample, by pid, with their place in `programs`; nothing for those of no service.
    known: Vec<(i32, Option<u32>)>,
    programs: Vec<Program>,
}

impl Sampler {
    /// Samples the children of `master` from now on.
    pub fn watch(&mut self, master: Option<i32>) {
        if self.master != master {
            *self = Self { master, ..Self::default() };
        }
    }

    /// The processes by program; nothing if there is no master.
    pub fn sample(&mut self, procfs: &Path) -> Option<BTreeMap<Program, u64>> {
        let children = process::children(procfs, self.master?).ok()?;
        let directory =
            openat(CWD, procfs, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut before = std::mem::take(&mut self.known).into_iter().peekable();
        for pid in children {
            while before.next_if(|(before, _)| *before < pid).is_some() {}
            let known = before.next_if(|(before, _)| *before == pid);
            let found = known.or_else(|| self.look(&directory, pid));
            self.known.extend(found);
        }
        let mut counts = vec![0; self.programs.len()];
        for program in self.known.iter().filter_map(|(_, program)| *program) {
            counts[program as usize] += 1;
        }
        Some(self.programs.iter().cloned().zip(counts).filter(|(_, count)| *count > 0).collect())
    }

    /// The process and the place of what it runs; nothing if that is not known yet.
    fn look(&mut self, directory: &OwnedFd, pid: i32) -> Option<(i32, Option<u32>)> {
        let mut command = [0; COMMAND_BYTES];
        let length = process::read(directory, DecInt::new(pid).as_bytes(), &mut command).ok()?;
        match process::parse(&command[..length]) {
            Command::Service { program, worker, .. } => {
                let known = self.programs.iter().position(|known| known.is(program, worker));
                let place = known.unwrap_or_else(|| {
                    self.programs.push(Program::new(program, worker));
                    self.programs.len() - 1
                });
                Some((pid, Some(u32::try_from(place).expect("there are fewer processes"))))
            }
            Command::Other => Some((pid, None)),
            // It has yet to call exec, or has ended.
            Command::Dovecot | Command::Empty => None,
        }
    }
}

/// What the samples of the last minute have shown, and for how long a limit was reached since the start.
#[derive(Debug, Default)]
pub struct Peaks {
    samples: VecDeque<(Instant, BTreeMap<Service, u64>)>,
    /// When the newest sample was taken that stands for a length of time.
    sampled: Option<Instant>,
    at_limit: BTreeMap<Service, Duration>,
}

impl Peaks {
    /// Takes note of the processes that there were at `now`.
    pub fn note(&mut self, now: Instant, processes: BTreeMap<Service, u64>) {
        while self.samples.front().is_some_and(|(taken, _)| now.duration_since(*taken) >= WINDOW) {
            self.samples.pop_front();
        }
        // However many ask, no more than one a second.
        match self.samples.back_mut() {
            Some((taken, most)) if now.duration_since(*taken) < SAMPLE_TIME => {
                for (service, count) in processes {
                    let most = most.entry(service).or_default();
                    *most = count.max(*most);
                }
            }
            _ => self.samples.push_back((now, processes)),
        }
    }

    /// The most processes that `service` had in the last minute.
    pub fn of(&self, service: &Service) -> u64 {
        self.samples
            .iter()
            .filter_map(|(_, processes)| processes.get(service))
            .max()
            .copied()
            .unwrap_or_default()
    }

    /// Takes note that a sample at `now` found these services at their limit. It stands for the time since the one
    /// before, so in the long run the sum is right, however short the time at the limit.
    pub fn note_limits(&mut self, now: Instant, reached: impl Iterator<Item = Service>) {
        let before = self.sampled.replace(now);
        let time = before.map_or(SAMPLE_TIME, |before| now.duration_since(before));
        for service in reached {
            // Nobody knows what happened while there were no samples.
            *self.at_limit.entry(service).or_default() += time.min(2 * SAMPLE_TIME);
        }
    }

    /// For how long `service` was found at its limit.
    pub fn at_limit(&self, service: &Service) -> Duration {
        self.at_limit.get(service).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
