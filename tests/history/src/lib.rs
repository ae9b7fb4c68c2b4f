//! Judges histories: what clients did and received in a run against Carillon, and what is stored at the end.
//!
//! A test that runs clients writes [`Record`]s, as values or as lines ([`read`], [`write()`]). [`check()`] reports
//! which promises of the client protocol were broken. It does not depend on how the run was made: it uses no sockets,
//! clock or randomness, and the same records give the same report.

pub mod check;
mod history;
pub mod lines;
pub mod record;
pub mod report;

pub use check::check;
pub use lines::{read, write};
pub use record::{Record, What};
pub use report::{Counts, Kind, Report, Violation};
