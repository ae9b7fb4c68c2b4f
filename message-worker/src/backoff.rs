//! Trying again, forever and ever more slowly: for what has to be done before anything after it may happen.

use crate::metrics;
use std::fmt::Display;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(20);
/// Slow enough for a store that is away, quick enough to be back within its return.
const LAST: Duration = Duration::from_secs(2);

/// Waits that double.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    /// The first wait comes next.
    pub(crate) fn new() -> Backoff {
        Backoff(FIRST)
    }

    /// Waits, and longer the next time.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = LAST.min(self.0 * 2);
    }
}

/// Does `attempt` until it succeeds.
pub(crate) async fn until_done<T, E, F>(what: &'static str, mut attempt: impl FnMut() -> F) -> T
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::new();
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
