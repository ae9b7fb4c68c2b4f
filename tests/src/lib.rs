//! Shared by the tests on real parts: the parts (Carillon, nats-server, a CQL database) as processes, and test clients.

pub mod client;
pub mod clock;
pub mod cluster;
pub mod conformance;
pub mod database;
pub mod parts;
pub mod polling;
pub mod server;
