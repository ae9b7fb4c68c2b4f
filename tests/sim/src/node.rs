//! A process's handle on the world: its bus and its stores.

use crate::gate::{Cut, Gate};
use crate::world::World;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How long a call waits for an answer that does not come.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// One instance of a process, as bus and store see it. All its calls pass its gate.
#[derive(Clone)]
pub struct Node {
    /// The world that all processes of a run share.
    pub world: Arc<World>,
    /// The gate between the process and the world.
    pub gate: Arc<Gate>,
}

/// No answer came in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut;

impl Node {
    /// Adds a line about this process to the trace.
    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        self.world.note(format_args!("{} {what}", self.gate.name));
    }

    /// One direction of a call to the bus or the store: there, or back. Waits while the process is paused.
    ///
    /// # Errors
    /// After `CALL_TIMEOUT`, if the process is cut off or the store is away.
    pub async fn way(&self, to: Cut) -> Result<(), TimedOut> {
        self.gate.running().await;
        let away = to == Cut::Store && self.world.store_is_away();
        if away || self.gate.is_cut(to) { Err(self.no_answer().await) } else { Ok(()) }
    }

    /// Waits as long as a caller waits for an answer that does not come: `CALL_TIMEOUT` and up to half a second more.
    pub async fn no_answer(&self) -> TimedOut {
        let spread_ms = self.world.dice(|random| random.below(500));
        sleep(CALL_TIMEOUT + Duration::from_millis(spread_ms)).await;
        self.gate.running().await;
        TimedOut
    }
}
