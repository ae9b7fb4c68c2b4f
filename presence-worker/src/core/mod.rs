//! What presence is, as state machines: `(now, input)` in, results and effects out.
//!
//! Nothing in here knows a clock, a socket, a task or the store.

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

/// A moment by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds that only ever go on: for silences, graces and late ticks.
    pub steady_ms: u64,
    /// Milliseconds since 1970: for what people are shown.
    pub wall_ms: u64,
}
