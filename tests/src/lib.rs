//! What tests on real parts share: the parts as processes, and ways to use them.

pub mod client;
pub mod clock;
pub mod cluster;
pub mod conformance;
pub mod database;
pub mod parts;
pub mod polling;
pub mod server;
