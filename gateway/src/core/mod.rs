//! The gateway's decisions: pure state machines that take the time and an input, and return what to do.
//!
//! These modules use no tokio, no sockets, no clock, and not each other.

pub mod keepalive;
pub mod link;
pub mod outbox;
pub mod probe;
pub mod rate;
pub mod refresh;
pub mod registry;
pub mod topic;
pub mod tracker;
pub mod typing;
