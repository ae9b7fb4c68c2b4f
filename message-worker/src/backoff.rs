//! Retries without end and with growing delays, for calls that must succeed before anything after them may happen.

use crate::metrics;
use carillon_runtime::bus::BusError;
use std::fmt::Display;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(20);
/// The longest delay for the store. It does not burden a store that is down, and is short enough to notice soon that
/// the store is back.
const LAST: Duration = Duration::from_secs(2);
/// The longest delay for the bus. While the bus is down, calls to it fail within this process, so retries cost nothing,
/// and the partition stands still until one succeeds.
const LAST_OF_BUS: Duration = Duration::from_millis(160);

/// Delays that double, up to a limit.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    last: Duration,
}

impl Backoff {
    /// For the store, and for failures of unknown cause. Begins with the shortest delay.
    pub(crate) fn new() -> Backoff {
        Backoff { next: FIRST, last: LAST }
    }

    /// For the bus. Begins with the shortest delay.
    pub(crate) fn of_bus() -> Backoff {
        Backoff { next: FIRST, last: LAST_OF_BUS }
    }

    /// Waits. The next wait is twice as long, up to the limit.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = self.last.min(self.next * 2);
    }
}

/// Repeats `attempt` until it succeeds. `what` names it in the log and the metrics.
pub(crate) async fn until_done<T, E, F>(what: &'static str, attempt: impl FnMut() -> F) -> T
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    until(what, Backoff::new(), attempt).await
}

/// Repeats a request to the bus until it is answered.
pub(crate) async fn until_answered<T, F>(what: &'static str, attempt: impl FnMut() -> F) -> T
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
                tracing::warn!(what, %error, "failed, trying again");
                backoff.wait().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    /// Before the fix, delays doubled up to the limit of the store: a bus that was back after a second was tried again
    /// up to a second later.
    #[tokio::test(start_paused = true)]
    async fn a_bus_that_is_back_is_tried_again_soon() {
        for away_ms in (100..3_000).step_by(70) {
            let (began, away) = (Instant::now(), Duration::from_millis(away_ms));
            let request = async || {
                if began.elapsed() < away { Err(BusError::Unavailable("test".into())) } else { Ok(()) }
            };
            until_answered("log_bounds", request).await;
            let late = began.elapsed() - away;
            assert!(late <= LAST_OF_BUS + Duration::from_millis(2), "{late:?} after {away:?}");
        }
    }
}
