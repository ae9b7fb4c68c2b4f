//! Presence as state machines: `(now, input)` in, results and effects out.
//!
//! The core uses no clock, no socket, no task and no store.

pub mod announced;
mod changes;
pub mod gateways;
pub mod recovery;
pub mod rooms;
pub mod roster;
mod rows;
pub mod shard;
pub mod user;
pub mod watch;

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// A clock that never goes back, in milliseconds: for silences, graces and late ticks.
    pub steady_ms: u64,
    /// The wall clock, in milliseconds since 1970: for times that users see.
    pub wall_ms: u64,
}
