//! A process's handle on the world: its bus and its stores.

use crate::gate::{Cut, Gate};
use crate::world::World;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How long a call waits for an answer that does not come.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// One life of one process, as bus and store know it. Every call of it goes through its gate.
#[derive(Clone)]
pub struct Node {
    /// The world.
    pub world: Arc<World>,
    /// How it is connected with it.
    pub gate: Arc<Gate>,
}

/// Nobody answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut;

impl Node {
    /// This happened to the process.
    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        self.world.note(format_args!("{} {what}", self.gate.name));
    }

    /// On the way there, or back.
    ///
    /// # Errors
    /// After a while, when the process is cut off.
    pub async fn way(&self, to: Cut) -> Result<(), TimedOut> {
        self.gate.running().await;
        let away = to == Cut::Store && self.world.store_is_away();
        if away || self.gate.is_cut(to) { Err(self.no_answer().await) } else { Ok(()) }
    }

    /// Waits for an answer that does not come.
    pub async fn no_answer(&self) -> TimedOut {
        let spread_ms = self.world.dice(|random| random.below(500));
        sleep(CALL_TIMEOUT + Duration::from_millis(spread_ms)).await;
        self.gate.running().await;
        TimedOut
    }
}
