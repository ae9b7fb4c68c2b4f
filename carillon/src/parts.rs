//! The running parts of a process. They are stopped in the reverse order of their start, each within a time limit.

use anyhow::anyhow;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The parts of a process, in the order of their start.
#[derive(Debug, Default)]
pub struct Parts(Vec<Part>);

#[derive(Debug)]
struct Part {
    name: &'static str,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    patience: Duration,
    ended: bool,
}

impl Parts {
    /// Starts a part. It must end within `patience` after its token is cancelled.
    pub fn start<F>(
        &mut self,
        name: &'static str,
        patience: Duration,
        run: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(shutdown.clone()));
        self.0.push(Part { name, shutdown, task, patience, ended: false });
    }

    /// Waits until a part ends without having been stopped, and returns the reason.
    pub async fn failed(&mut self) -> anyhow::Error {
        poll_fn(|context| {
            for part in self.0.iter_mut().filter(|part| !part.ended) {
                if let Poll::Ready(done) = Pin::new(&mut part.task).poll(context) {
                    part.ended = true;
                    let error = outcome(done).err().unwrap_or_else(|| anyhow!("ended without being told to"));
                    return Poll::Ready(error.context(part.name));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Stops all parts, the last one first.
    ///
    /// # Errors
    /// When a part failed while it stopped, or did not stop in time. The other parts are stopped nevertheless.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let mut first = Ok(());
        while let Some(mut part) = self.0.pop() {
            let stopped = part.stop().await.map_err(|error| error.context(part.name));
            match &stopped {
                Ok(()) => tracing::debug!(part = part.name, "stopped"),
                Err(error) => tracing::error!("{error:#}"),
            }
            first = first.and(stopped);
        }
        first
    }
}

impl Part {
    async fn stop(&mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        match tokio::time::timeout(self.patience, &mut self.task).await {
            Ok(done) => outcome(done),
            Err(_) => Err(anyhow!("did not stop within {:?}", self.patience)),
        }
    }
}

/// A part that is dropped without [`Part::stop`] must not keep running.
impl Drop for Part {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.task.abort();
    }
}

fn outcome(done: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    done.unwrap_or_else(|error| Err(anyhow!(if error.is_panic() { "panicked" } else { "was cut off" })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn parts_stop_in_reverse_order() {
        let stopped = Arc::new(Mutex::new(Vec::new()));
        let mut parts = Parts::default();
        for name in ["store", "worker", "gateway"] {
            let stopped = stopped.clone();
            parts.start(name, PATIENCE, |shutdown| async move {
                shutdown.cancelled().await;
                stopped.lock().expect("not poisoned").push(name);
                Ok(())
            });
        }
        parts.stop().await.expect("stopped");
        assert_eq!(*stopped.lock().expect("not poisoned"), ["gateway", "worker", "store"]);
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_reported_with_its_name() {
        for (run, message) in [
            (
                Box::pin(async { Err(anyhow!("no bus")) }) as Pin<Box<dyn Future<Output = _> + Send>>,
                "worker: no bus",
            ),
            (Box::pin(async { Ok(()) }), "worker: ended without being told to"),
            (Box::pin(async { panic!("a bug") }), "worker: panicked"),
        ] {
            let mut parts = Parts::default();
            parts.start("idle", PATIENCE, |shutdown| async move {
                shutdown.cancelled().await;
                Ok(())
            });
            parts.start("worker", PATIENCE, |_| run);
            assert_eq!(format!("{:#}", parts.failed().await), message);
            parts.stop().await.expect("the other part stops");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_stop_in_time_is_aborted_and_the_others_still_stop() {
        let stopped = Arc::new(Mutex::new(false));
        let mut parts = Parts::default();
        let has_stopped = stopped.clone();
        parts.start("first", PATIENCE, |shutdown| async move {
            shutdown.cancelled().await;
            *has_stopped.lock().expect("not poisoned") = true;
            Ok(())
        });
        parts.start("stuck", PATIENCE, |_| std::future::pending());
        let error = parts.stop().await.expect_err("a part that does not stop is reported");
        assert_eq!(format!("{error:#}"), "stuck: did not stop within 5s");
        assert!(*stopped.lock().expect("not poisoned"));
    }
}
