//! The gateway's decisions: pure state machines that take the time and an input and return what to do.
//!
//! Nothing here knows tokio, sockets, a clock or its siblings.

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
