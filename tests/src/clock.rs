//! A wall clock that a test sets, for real processes. It is a small library that `cc` builds for the test and that
//! `LD_PRELOAD` loads before the system's, so that the product has no code for tests.

use crate::parts::missing;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// The wall clock of the processes that have [`WallClock::environment`].
pub struct WallClock {
    folder: TempDir,
}

impl WallClock {
    /// A clock that still has the right time. Without a C compiler, prints that the test is skipped and returns `None`.
    ///
    /// # Panics
    /// When the library cannot be made.
    pub fn new() -> Option<WallClock> {
        let folder = TempDir::with_prefix("carillon-clock-").expect("a temporary folder");
        let source = folder.path().join("clock.c");
        fs::write(&source, include_str!("clock.c")).expect("the source");
        let clock = WallClock { folder };
        clock.step(0);
        let made =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(clock.library()).arg(&source).output();
        match made {
            Ok(made) => assert!(made.status.success(), "cc: {}", String::from_utf8_lossy(&made.stderr)),
            Err(_) => return missing("C compiler", "install cc"),
        }
        Some(clock)
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }

    fn offset(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// The environment variables of a process that shall use this clock.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("LD_PRELOAD", self.library().display().to_string()),
            ("WALL_CLOCK_OFFSET", self.offset().display().to_string()),
        ]
    }

    /// Sets the clock to this many seconds after the right time, or, if negative, before it.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn step(&self, seconds: i64) {
        use std::io::Write;
        // Overwritten in place, because processes have the file mapped.
        let file = fs::File::options().create(true).write(true).truncate(false).open(self.offset());
        file.and_then(|mut file| file.write_all(&seconds.to_ne_bytes())).expect("the offset");
    }
}
