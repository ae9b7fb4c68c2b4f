//! What Carillon's services share: the bus, leases, settings, telemetry and metrics, and shutdown.
//!
//! This crate knows no vocabulary, no conversation and no table; it moves bytes and says who works what.

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
