//! The two clocks. Spans are measured by the steady clock, which cannot be set. The wall clock is for times that users
//! see, for stored times and for the expiry of tokens.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The source that replaces the system's wall clock, if one is installed.
static SOURCE: OnceLock<fn() -> u64> = OnceLock::new();

/// Milliseconds since this process first called this function. They never go back or jump when the wall clock is set,
/// and cannot be compared between processes. If tokio's time is paused, they stand still too.
pub fn steady_ms() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = *BEGAN.get_or_init(Instant::now);
    u64::try_from(Instant::now().saturating_duration_since(began).as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 by the wall clock, or by the source that [`install`] has set; 0 for a time before 1970.
///
/// The wall clock may go back or jump at any time, so spans must not be measured by it. A lint requires every caller to
/// state a reason.
pub fn wall_ms() -> u64 {
    SOURCE.get().map_or_else(system_ms, |source| source())
}

#[expect(clippy::disallowed_methods, reason = "the one place where the system's wall clock is read")]
fn system_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The error of [`install`] if a source is installed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process has another source of the time already: install one, once, at its start")]
pub struct AlreadyInstalled;

/// Replaces this process's wall clock for good, as the simulation does. `source` returns milliseconds since 1970.
///
/// # Errors
/// When a source is installed already.
pub fn install(source: fn() -> u64) -> Result<(), AlreadyInstalled> {
    SOURCE.set(source).map_err(|_| AlreadyInstalled)
}
