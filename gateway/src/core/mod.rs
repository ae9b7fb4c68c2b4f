//! The gateway's decisions: pure state machines that take the time and an input, and return what to do.
//!
//! These modules use no tokio, no sockets, no clock, and not each other.

pub mod keepalive;
pub(crate) mod link;
pub mod outbox;
pub(crate) mod probe;
pub(crate) mod rate;
pub(crate) mod refresh;
pub(crate) mod registry;
pub(crate) mod topic;
pub(crate) mod tracker;
pub(crate) mod typing;
