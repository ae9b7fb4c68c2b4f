//! Carillon's message-worker: works some partitions of the command log. It reads a partition's entries in order,
//! applies them to conversations, writes the events' rows, which are the commit, and then acknowledges and fans
//! out. Any worker also answers reads.
//!
//! `core/` is pure; what is around it moves bytes. One task works one partition, so nothing here is locked.

pub mod audit;
mod backoff;
mod clocks;
mod commit;
mod consume;
mod context;
mod core;
#[cfg(test)]
mod driver_tests;
mod fanout;
mod flush;
mod ground;
mod group;
mod limits;
mod load;
mod metrics;
mod outcomes;
mod partition;
mod prepare;
mod query;
mod raise;
mod register;
mod run;
mod seal;
pub mod store;
mod suspend;
mod tenure;
mod upkeep;

pub use clocks::clocks_agree;
pub use core::versions::{VERSION, VERSION_MARK_LENGTH_MAX};
pub use run::{Config, KIND, run};
