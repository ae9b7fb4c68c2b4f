//! What is on its way: everything that happens later, and elsewhere than in the task that asked for it, in one order.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

type Act = Box<dyn FnOnce() + Send>;

/// Acts in the order of their times, and of two at one time in that of their coming to be.
#[derive(Default)]
pub struct Network {
    under_way: Mutex<BTreeMap<(Instant, u64), Act>>,
    next: AtomicU64,
    changed: Notify,
}

impl Network {
    /// Does this at that time.
    pub fn at(&self, time: Instant, act: impl FnOnce() + Send + 'static) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.under_way.lock().insert((time, number), Box::new(act));
        self.changed.notify_one();
    }

    /// Does this somewhere else, after a while, and brings back what came of it. It is done even if nobody waits for
    /// it any more, as what a killed process had asked for still is.
    pub async fn remote<T: Send + 'static>(
        &self,
        after: Duration,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (done, came) = oneshot::channel();
        self.at(Instant::now() + after, move || drop(done.send(act())));
        match came.await {
            Ok(came) => came,
            // The network ends with the simulation.
            Err(_) => pending().await,
        }
    }

    /// Does everything when its time has come.
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
