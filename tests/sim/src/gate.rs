//! How one life of a process is connected with the world: whether it lives, runs, and reaches bus and store.

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
    /// What came for a process that stood still, in order.
    held: Vec<Held>,
}

/// One life of one process.
pub struct Gate {
    /// The process and its life, for people.
    pub name: String,
    /// Unique in the run.
    pub life: u64,
    state: Mutex<State>,
    changed: Notify,
}

/// What may be between a process and the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It does not reach the bus.
    Bus,
    /// It does not reach the store.
    Store,
}

impl Gate {
    /// A process that runs and reaches everything.
    pub fn new(name: String, life: u64) -> Gate {
        Gate { name, life, state: Mutex::default(), changed: Notify::new() }
    }

    /// Waits while the process stands still, and for ever when it is dead.
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

    /// Whether the process is no more.
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Whether it stands still.
    pub fn is_paused(&self) -> bool {
        self.state.lock().paused
    }

    /// Whether it is cut off from this.
    pub fn is_cut(&self, cut: Cut) -> bool {
        let state = self.state.lock();
        match cut {
            Cut::Bus => state.bus_is_cut,
            Cut::Store => state.store_is_cut,
        }
    }

    /// Cuts it off, or ends that.
    pub fn set_cut(&self, cut: Cut, is_cut: bool) {
        let state = &mut *self.state.lock();
        match cut {
            Cut::Bus => state.bus_is_cut = is_cut,
            Cut::Store => state.store_is_cut = is_cut,
        }
    }

    /// The process ends at once.
    pub fn kill(&self) {
        let held = {
            let state = &mut *self.state.lock();
            state.dead = true;
            std::mem::take(&mut state.held)
        };
        drop(held);
    }

    /// The process stands still from now on.
    pub fn pause(&self) {
        self.state.lock().paused = true;
    }

    /// And goes on, first with what came for it meanwhile.
    pub fn resume(&self) {
        let held = {
            let state = &mut *self.state.lock();
            state.paused = false;
            std::mem::take(&mut state.held)
        };
        held.into_iter().for_each(|act| act());
        self.changed.notify_waiters();
    }

    /// Something comes to the process: now, when it goes on, or never.
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
