//! The wall clock, which has two uses here: times shown to people, and the ends of tokens. Durations are measured by
//! [`carillon_runtime::time::steady_ms`], because the wall clock may be set.

use carillon_runtime::time::wall_ms;

/// The current time as it is shown to people, in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "this time is shown to people")]
pub fn shown_ms() -> u64 {
    wall_ms()
}

/// The current time as tokens count it, in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a token's end is a time of the wall clock")]
pub fn token_ms() -> u64 {
    wall_ms()
}
