//! Reads by message-workers: conversations, events and acquaintances. Any worker serves them.

use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::command::HistoryFrom;
use carillon_proto::id::ConversationId;
use carillon_proto::limits::HISTORY_LIMIT_MAX;
use carillon_proto::{subject, wire};
use carillon_runtime::bus::{Bus, BusError};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;

/// Time limit for one read by a message-worker.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends reads to message-workers.
#[derive(Clone)]
pub struct Reader(Arc<dyn Bus>);

impl Reader {
    /// A reader that sends its requests over this bus.
    pub fn new(bus: Arc<dyn Bus>) -> Reader {
        Reader(bus)
    }

    /// Requests a read from any message-worker.
    ///
    /// # Errors
    /// The worker's refusal, or `unavailable`/`timeout`.
    pub async fn read(&self, body: wire::read_request::Body) -> Result<wire::read_reply::Body, Failure> {
        let payload = wire::ReadRequest { body: Some(body) }.encode_to_vec().into();
        let reply =
            self.0.request(subject::READ, payload, READ_TIMEOUT).await.map_err(|error| match error {
                BusError::Timeout(_) => Failure::new(ErrorCode::Timeout, "reading took too long: try again"),
                _ => Failure::new(ErrorCode::Unavailable, "nothing can be read now: try again")
                    .retry_after(1_000),
            })?;
        let reply = wire::ReadReply::decode(reply).map_err(|error| {
            Failure::new(ErrorCode::Internal, format!("a reply could not be read: {error}"))
        })?;
        match reply.body {
            Some(wire::read_reply::Body::Failure(failure)) => Err(failure.into()),
            Some(body) => Ok(body),
            None => Err(Failure::new(ErrorCode::Internal, "an empty reply")),
        }
    }

    /// A page of events.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub async fn events(&self, page: wire::ReadEvents) -> Result<wire::Events, Failure> {
        match self.read(wire::read_request::Body::Events(page)).await? {
            wire::read_reply::Body::Events(events) => Ok(events),
            _ => Err(Failure::new(ErrorCode::Internal, "a reply of the wrong kind")),
        }
    }

    /// A page of a conversation's events, as clients request it. `check` is empty, or a user that must be
    /// a stored participant.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub async fn history(
        &self,
        conversation: &ConversationId,
        from: HistoryFrom,
        limit: u32,
        check: &str,
    ) -> Result<wire::Events, Failure> {
        let (after_seq, before_seq) = match from {
            HistoryFrom::After(seq) => (Some(seq), None),
            // On the bus, 0 means the newest page, so 1 is sent for the empty page below seq 1. It is read although it
            // is empty, so that a caller without the right to read is refused.
            HistoryFrom::Before(seq) => (None, Some(seq.max(1))),
            HistoryFrom::Head => (None, Some(0)),
        };
        let (conversation, check) = (conversation.to_string(), check.to_owned());
        let page =
            wire::ReadEvents { conversation, after_seq, before_seq, limit, check, ..Default::default() };
        self.events(page).await
    }

    /// Reads events above `after_seq` for topics and members that miss them. The caller knows that `up_to_seq` is
    /// committed. A row above it may not be committed, so it is not returned.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub async fn events_after(
        &self,
        conversation: &str,
        after_seq: u64,
        up_to_seq: u64,
    ) -> Result<Vec<wire::Event>, Failure> {
        let page = wire::ReadEvents {
            conversation: conversation.into(),
            after_seq: Some(after_seq),
            up_to_seq: Some(up_to_seq),
            limit: HISTORY_LIMIT_MAX,
            ..Default::default()
        };
        let mut events = self.events(page).await?.events;
        // A worker of an earlier version ignores `up_to_seq`.
        events.retain(|event| event.seq <= up_to_seq);
        Ok(events)
    }
}
