//! Carillon's presence-worker: who is online, who is in which room, and who is told.
//!
//! A worker owns some of the presence shards. Everything it knows is in memory, announced by gateways and
//! announced again to whoever owns a shard next; only profiles and the time of the last visit are stored.

mod consume;
pub mod core;
mod fanout;
pub mod limits;
mod metrics;
mod query;
mod run;
pub mod store;

pub use run::{Config, run};
