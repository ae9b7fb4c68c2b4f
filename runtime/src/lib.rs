//! The parts that Carillon's services share: the bus, leases, settings, telemetry, metrics and the database connection.
//!
//! This crate has no knowledge of vocabularies, conversations or tables. It moves bytes and assigns work to workers.

pub mod admin;
pub mod bus;
pub mod cluster;
pub mod collections;
pub mod database;
pub mod lease;
pub mod metrics;
pub mod settings;
pub mod suspended;
pub mod telemetry;
pub mod time;
