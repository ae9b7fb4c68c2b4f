//! Gates between one instance of a process and the world: whether it is alive and runs, and whether it reaches the bus
//! and the store.

use parking_lot::Mutex;
use std::future::pending;
use tokio::sync::Notify;

type Held = Box<dyn FnOnce() + Send>;

/// What a process can and cannot do now.
#[derive(Default)]
struct State {
    dead: bool,
    paused: bool,
    bus_is_cut: bool,
    store_is_cut: bool,
    /// Deliveries to a paused process, in order.
    held: Vec<Held>,
}

/// The gate of one instance of a process.
pub struct Gate {
    /// The process and its instance, for the trace. Workers use it as their worker id.
    pub name: String,
    /// The number of the instance, unique in the run.
    pub instance: u64,
    state: Mutex<State>,
    changed: Notify,
}

/// A connection that can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The connection to the bus.
    Bus,
    /// The connection to the store.
    Store,
}

impl Gate {
    /// The gate of a process that runs and reaches everything.
    pub fn new(name: String, instance: u64) -> Gate {
        Gate { name, instance, state: Mutex::default(), changed: Notify::new() }
    }

    /// Waits while the process is paused, and forever once it is dead.
    pub async fn running(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state.lock();
                if !state.dead && !state.paused {
                    return;
                }
            }
            if self.is_dead() {
                return pending().await;
            }
            changed.await;
        }
    }

    /// Whether the process was killed.
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Whether the process is paused.
    pub fn is_paused(&self) -> bool {
        self.state.lock().paused
    }

    /// Whether the process is cut off from the bus or the store.
    pub fn is_cut(&self, cut: Cut) -> bool {
        let state = self.state.lock();
        match cut {
            Cut::Bus => state.bus_is_cut,
            Cut::Store => state.store_is_cut,
        }
    }

    /// Cuts the process off, or ends the cut.
    pub fn set_cut(&self, cut: Cut, is_cut: bool) {
        let state = &mut *self.state.lock();
        match cut {
            Cut::Bus => state.bus_is_cut = is_cut,
            Cut::Store => state.store_is_cut = is_cut,
        }
    }

    /// Kills the process at once and drops its held deliveries.
    pub fn kill(&self) {
        let held = {
            let state = &mut *self.state.lock();
            state.dead = true;
            std::mem::take(&mut state.held)
        };
        drop(held);
    }

    /// Pauses the process.
    pub fn pause(&self) {
        self.state.lock().paused = true;
    }

    /// Resumes the process. It first receives the deliveries that were held for it.
    pub fn resume(&self) {
        let held = {
            let state = &mut *self.state.lock();
            state.paused = false;
            std::mem::take(&mut state.held)
        };
        held.into_iter().for_each(|act| act());
        self.changed.notify_waiters();
    }

    /// Delivers something to the process: at once, on resume if it is paused, or never if it is dead or cut off from
    /// the bus.
    pub fn arrive(&self, act: impl FnOnce() + Send + 'static) {
        {
            let state = &mut *self.state.lock();
            if state.dead || state.bus_is_cut {
                return;
            }
            if state.paused {
                return state.held.push(Box::new(act));
            }
        }
        act();
    }
}
