//! Why the embedded store cannot be opened, and what an operator does about it.

use std::path::PathBuf;

/// Why the embedded store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory.
    #[error("data directory {} is in use by another carillon (stop it, or give another with --data-dir)", .dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The file system returned an error.
    #[error("data directory {} cannot be used: {source}", .dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The file system's error.
        source: std::io::Error,
    },
    /// The table cannot be opened or written.
    #[error("{} cannot be opened: {reason}", .path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// The database's error message.
        reason: String,
    },
    /// A file is of a format that this version does not know.
    #[error("{} is of format {version}, and this carillon knows up to {known}: run the version that wrote it, or a newer one", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u64,
        /// The newest format that is known here.
        known: u64,
    },
    /// The journal does not hold what was written, so acknowledged rows may be missing.
    #[error("data directory {dir} is damaged: {what}; restore a backup, or run `carillon repair --data-dir {dir}` to see what would be lost without one", dir = .dir.display())]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// Where the damage is, and how much lies after it.
        what: String,
    },
}
