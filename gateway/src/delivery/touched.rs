//! The rooms and connections for which messages that arrived together queued frames. Each client is written to once.

use crate::connection::Connection;
use crate::delivery::hub::Room;
use std::sync::Arc;

/// Rooms and connections that frames were queued for, and that must be flushed.
#[derive(Default)]
pub struct Touched {
    /// Rooms whose members received events.
    pub rooms: Vec<Arc<Room>>,
    /// Connections whose commands were answered.
    pub senders: Vec<Arc<Connection>>,
}

impl Touched {
    /// Writes the queued frames. The senders come first, so that no answer waits for a large room. A sender that is a
    /// member of one of the rooms is written its events at the same time.
    pub async fn flush(&mut self) {
        for sender in self.senders.drain(..) {
            sender.flush_touched();
        }
        for room in self.rooms.drain(..) {
            room.flush().await;
        }
    }
}
