//! The simulated network: everything that happens later than, and outside of, the task that requested it, in one order.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

type Act = Box<dyn FnOnce() + Send>;

/// Pending actions, in the order of their times. Two actions with the same time run in the order in which they were
/// added.
#[derive(Default)]
pub struct Network {
    under_way: Mutex<BTreeMap<(Instant, u64), Act>>,
    next: AtomicU64,
    changed: Notify,
}

impl Network {
    /// Runs `act` at this time.
    pub fn at(&self, time: Instant, act: impl FnOnce() + Send + 'static) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.under_way.lock().insert((time, number), Box::new(act));
        self.changed.notify_one();
    }

    /// Runs `act` after this delay and returns its result. `act` runs even if the caller is cancelled: what a killed
    /// process requested still happens.
    pub async fn remote<T: Send + 'static>(
        &self,
        after: Duration,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (done, came) = oneshot::channel();
        self.at(Instant::now() + after, move || drop(done.send(act())));
        match came.await {
            Ok(came) => came,
            // The network ended with the simulation, so no result can come any more.
            Err(_) => pending().await,
        }
    }

    /// Runs every action at its time.
    pub async fn run(self: Arc<Self>) {
        loop {
            let due = self.under_way.lock().first_key_value().map(|((time, _), _)| *time);
            match due {
                None => self.changed.notified().await,
                Some(time) if time <= Instant::now() => {
                    let act = self.under_way.lock().pop_first();
                    if let Some((_, act)) = act {
                        act();
                    }
                }
                Some(time) => tokio::select! {
                    biased;
                    () = self.changed.notified() => {}
                    () = sleep_until(time) => {}
                },
            }
        }
    }
}
