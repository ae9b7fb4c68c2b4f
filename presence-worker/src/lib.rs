//! Carillon's presence-worker: it knows who is online and who is in which room, and sends changes to gateways.
//!
//! A worker owns some of the presence shards. Its state is in memory: gateways announce it, and announce it again to
//! each new owner of a shard. The store holds only profiles and the time of each user's last visit.

mod consume;
pub mod core;
mod fanout;
pub mod limits;
mod metrics;
mod query;
mod run;
pub mod store;

pub use run::{Config, run};
