//! Trying again, forever and ever more slowly: for what has to be done before anything after it may happen.

use crate::metrics;
use carillon_runtime::bus::BusError;
use std::fmt::Display;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(20);
/// Slow enough for a store that is away, quick enough to be back within its return.
const LAST: Duration = Duration::from_secs(2);
/// The same for the bus. One that is away refuses in this process, which costs nothing, and everything stands still
/// until it is asked again.
const LAST_OF_BUS: Duration = Duration::from_millis(160);

/// Waits that double.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    last: Duration,
}

impl Backoff {
    /// For the store, or for who knows what. The first wait comes next.
    pub(crate) fn new() -> Backoff {
        Backoff { next: FIRST, last: LAST }
    }

    /// For the bus.
    pub(crate) fn of_bus() -> Backoff {
        Backoff { next: FIRST, last: LAST_OF_BUS }
    }

    /// Waits, and longer the next time.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = self.last.min(self.next * 2);
    }
}

/// Does `attempt` until it succeeds.
pub(crate) async fn until_done<T, E, F>(what: &'static str, attempt: impl FnMut() -> F) -> T
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    until(what, Backoff::new(), attempt).await
}

/// Asks the bus until it tells.
pub(crate) async fn until_told<T, F>(what: &'static str, attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, BusError>>,
{
    until(what, Backoff::of_bus(), attempt).await
}

async fn until<T, E, F>(what: &'static str, mut backoff: Backoff, mut attempt: impl FnMut() -> F) -> T
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => {
                metrics::RETRIES.with_label_values(&[what]).inc();
                tracing::warn!(what, %error, "trying again");
                backoff.wait().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    /// Before, waits went on doubling: a bus that was back after a second was asked up to a second later.
    #[tokio::test(start_paused = true)]
    async fn a_bus_that_is_back_is_asked_soon() {
        for away_ms in (100..3_000).step_by(70) {
            let (began, away) = (Instant::now(), Duration::from_millis(away_ms));
            let ask = async || {
                if began.elapsed() < away { Err(BusError::Unavailable("test".into())) } else { Ok(()) }
            };
            until_told("log_bounds", ask).await;
            let late = began.elapsed() - away;
            assert!(late <= LAST_OF_BUS + Duration::from_millis(2), "{late:?} after {away:?}");
        }
    }
}
