//! Judges histories: what clients did and were told in a run against Carillon, beside what is stored in the end.
//!
//! Whoever runs clients writes [`Record`]s, as values or as lines ([`read`], [`write()`]), and [`check()`] says which
//! promises of the client protocol were broken. It knows nothing of how the run was made: no sockets, clock or
//! randomness, and the same records give the same report.

pub mod check;
mod history;
pub mod lines;
pub mod record;
pub mod report;

pub use check::check;
pub use lines::{read, write};
pub use record::{Record, What};
pub use report::{Counts, Kind, Report, Violation};
