//! Lines that come by standard input.

use std::{
    fs::File,
    io::{self, Read, stdin},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, SystemTime},
};

use super::{
    bell::wait,
    grammar::{self, OnFound},
    lines::{Lines, MAX_LINE},
    needles::Needles,
    state::LogState,
};

/// Reads that one pass may take, so that a flood does not starve others.
pub const TURN: usize = 64;

/// Standard input, as far as it was read.
#[derive(Debug)]
pub struct Stream {
    /// Nothing when it has ended.
    input: Option<File>,
    buffer: Vec<u8>,
    filled: usize,
    lines: Lines,
    /// What is known of it.
    pub state: LogState,
}

impl Stream {
    /// Standard input.
    pub fn new() -> io::Result<Self> {
        let input = Some(File::from(stdin().as_fd().try_clone_to_owned()?));
        let buffer = vec![0; 2 * MAX_LINE];
        Ok(Self { input, buffer, filled: 0, lines: Lines::default(), state: LogState::new("-") })
    }

    /// What to wait for.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(AsFd::as_fd)
    }

    /// Reads what there is and hands over what it found; returns whether there was anything.
    pub fn pass(&mut self, needles: &Needles, on_found: OnFound) -> bool {
        let mut any = false;
        for _ in 0..TURN {
            let [ready] = wait([self.source()], Duration::ZERO);
            let Some(input) = self.input.as_mut().filter(|_| ready) else { break };
            let read = match input.read(&mut self.buffer[self.filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read,
            };
            let mut forged = 0;
            let mut on_line =
                |line: &[u8], before| forged += u64::from(grammar::take(line, before, on_found));
            if let Some(length) = read.as_ref().ok().filter(|length| **length > 0) {
                any = true;
                self.filled += length;
                let taken = self.lines.take(&self.buffer[..self.filled], needles, &mut on_line);
                self.state.counts.bytes += taken.bytes as u64;
                self.state.counts.lines += taken.lines;
                self.state.counts.oversized_lines += taken.oversized;
                self.state.last_read = Some(SystemTime::now());
                self.buffer.copy_within(taken.bytes..self.filled, 0);
                self.filled -= taken.bytes;
            } else {
                self.lines.finish(&self.buffer[..self.filled], needles, &mut on_line);
                self.input = None;
                self.state.counts.read_errors += u64::from(read.is_err());
                self.state.trouble = Some(match read {
                    Ok(_) => {
                        "standard input has ended: start the exporter again with what writes to it".to_owned()
                    }
                    Err(error) => {
                        format!("standard input cannot be read ({error}): give the exporter another one")
                    }
                });
            }
            self.state.counts.unanchored_warnings += forged;
        }
        any
    }
}
