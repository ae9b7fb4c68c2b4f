//! The interface between a connection and what handles it, independent of the transport.

use bytes::Bytes;
use carillon_proto::code::Close;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Handles one client's messages.
pub trait MessageHandler: ConnectionHandler {
    /// Handles a text message.
    ///
    /// # Errors
    /// Why the connection must end.
    fn text(&mut self, text: &str) -> Result<(), Close>;
    /// Handles a binary message.
    ///
    /// # Errors
    /// Why the connection must end.
    fn binary(&mut self, bytes: Bytes) -> Result<(), Close>;
}

/// Handles one client's connection between its messages. No method waits: long work continues in
/// [`ConnectionHandler::poll_work`].
pub trait ConnectionHandler: Send + 'static {
    /// Whether the next message may be read now.
    fn reads(&self) -> bool {
        true
    }
    /// Queues frames that have waited for room.
    fn advance(&mut self) {}
    /// Continues work that is under way. Ready when a step is finished.
    fn poll_work(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
    /// Handles requests of other tasks. Called whenever the connection was woken.
    ///
    /// # Errors
    /// Why the connection must end.
    fn woken(&mut self) -> Result<(), Close> {
        Ok(())
    }
    /// When [`ConnectionHandler::due`] must be called.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// Does what is due at [`ConnectionHandler::deadline`].
    ///
    /// # Errors
    /// Why the connection must end.
    fn due(&mut self) -> Result<(), Close> {
        Ok(())
    }
    /// The session's state, encoded so that another gateway can take it over; `None` while that is impossible.
    fn pack(&self) -> Option<Bytes> {
        None
    }
    /// Ends the session when the connection has ended.
    fn end(self) -> impl Future<Output = ()> + Send;
}
