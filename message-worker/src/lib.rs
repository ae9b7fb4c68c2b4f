//! Carillon's message-worker. A worker owns some partitions of the command log. It reads the entries of a partition in
//! order, applies their commands to conversations, and writes the rows of the events. Writing the rows is the commit;
//! only then does the worker acknowledge the commands and fan the events out. Every worker also answers reads.
//!
//! `core/` is pure: it does no I/O and takes the time as an argument. The other modules do the I/O around it.
//! `partition/` is the one task that works a partition, so that its state needs no locks. `ownership/` decides which
//! worker owns a partition, and which rows count. `store/` keeps the rows.

pub mod audit;
mod backoff;
mod clocks;
mod context;
mod core;
#[cfg(test)]
mod driver_tests;
mod limits;
mod metrics;
mod ownership;
mod partition;
mod query;
mod run;
pub mod store;

pub use clocks::clocks_agree;
pub use core::versions::{VERSION, VERSION_MARK_LENGTH_MAX};
pub use run::{Config, KIND, run};
