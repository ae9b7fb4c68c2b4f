//! The two clocks. Spans are measured by the steady one, which nobody sets; the wall clock says what people are shown,
//! what is stored, and when tokens end.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// What is read instead of the system's wall clock.
static SOURCE: OnceLock<fn() -> u64> = OnceLock::new();

/// Milliseconds since the process first asked for them. They never go back and never leap, whatever is done to the
/// wall clock, and mean nothing to another process. Where tokio's time is paused, they stand still with it.
pub fn steady_ms() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = *BEGAN.get_or_init(Instant::now);
    u64::try_from(Instant::now().saturating_duration_since(began).as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 by the wall clock, or by what [`install`] put in its place; 0 when it stands before that.
///
/// It may go back or leap at any time, so that no span is measured by it; a lint asks each caller for its reason.
pub fn wall_ms() -> u64 {
    SOURCE.get().map_or_else(system_ms, |source| source())
}

#[expect(clippy::disallowed_methods, reason = "the one place where the system's wall clock is read")]
fn system_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Another source of the time is installed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process has another source of the time already: install one, once, at its start")]
pub struct AlreadyInstalled;

/// Gives this process another wall clock, for good: what a simulation has instead of one.
/// `source` returns milliseconds since 1970.
///
/// # Errors
/// When one was installed before.
pub fn install(source: fn() -> u64) -> Result<(), AlreadyInstalled> {
    SOURCE.set(source).map_err(|_| AlreadyInstalled)
}
