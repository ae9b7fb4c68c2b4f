//! The wall clock, for the two things that are written down in its time. Spans are measured by
//! [`carillon_runtime::time::steady_ms`], which nobody sets.

use carillon_runtime::time::wall_ms;

/// The time that people are shown for what happens now, milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "people are shown the time of the wall clock")]
pub fn shown_ms() -> u64 {
    wall_ms()
}

/// The time by which tokens are issued and end, milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a token says in the wall clock's time when it ends")]
pub fn token_ms() -> u64 {
    wall_ms()
}
