//! The one place where services read the wall clock.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// What is read instead of the system's clock.
static SOURCE: OnceLock<fn() -> u64> = OnceLock::new();

/// Milliseconds since 1970 by the wall clock, or by what [`install`] put in its place; 0 when it stands before that.
pub fn now_ms() -> u64 {
    SOURCE.get().map_or_else(system_ms, |source| source())
}

#[allow(clippy::disallowed_methods)]
fn system_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Another source of the time is installed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process has another source of the time already: install one, once, at its start")]
pub struct AlreadyInstalled;

/// Gives this process another source of the time, for good: what a simulation has instead of a clock.
/// `source` returns milliseconds since 1970.
///
/// # Errors
/// When one was installed before.
pub fn install(source: fn() -> u64) -> Result<(), AlreadyInstalled> {
    SOURCE.set(source).map_err(|_| AlreadyInstalled)
}
