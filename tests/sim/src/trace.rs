//! The trace: everything that happened in a run, as lines. They are hashed, so that two runs can be compared, and
//! printed if wanted.

use parking_lot::Mutex;
use std::fmt::{Arguments, Write};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// The trace of a run.
pub struct Trace {
    began: Instant,
    prints: bool,
    state: Mutex<State>,
}

struct State {
    hash: Xxh3,
    lines: u64,
    line: String,
}

impl Trace {
    /// A trace of a run that begins now.
    pub fn new(prints: bool) -> Trace {
        let state = State { hash: Xxh3::new(), lines: 0, line: String::new() };
        Trace { began: Instant::now(), prints, state: Mutex::new(state) }
    }

    /// Virtual microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// Adds a line, with the present virtual time.
    pub fn line(&self, what: Arguments<'_>) {
        let now_us = self.now_us();
        let State { hash, lines, line } = &mut *self.state.lock();
        line.clear();
        // Writing to a string does not fail.
        let _ = write!(line, "{:>5}.{:06} {what}", now_us / 1_000_000, now_us % 1_000_000);
        hash.update(line.as_bytes());
        *lines += 1;
        if self.prints {
            println!("{line}");
        }
    }

    /// A hash of all lines, and their number.
    pub fn digest(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.hash.digest(), state.lines)
    }
}
