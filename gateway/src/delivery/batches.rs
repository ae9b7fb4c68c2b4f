//! Batches from the owners of partitions: events go to their rooms, and outcomes to the commands that wait for them. A
//! room's missing events are fetched.

use crate::delivery::hub::{Fetch, Hub};
use crate::delivery::touched::Touched;
use crate::metrics;
use crate::workers::pending::PendingCommands;
use crate::workers::reader::Reader;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::wire::{self, outcome::Body as Came};
use carillon_runtime::telemetry;
use std::sync::Arc;
use std::time::Duration;

/// Delay before the next try to fetch missing events.
const FETCH_RETRY_DELAY: Duration = Duration::from_millis(200);

/// The receivers of what owners send.
#[derive(Clone)]
pub struct Delivery {
    /// Conversations with local members.
    pub hub: Arc<Hub>,
    /// Commands without an outcome.
    pub pending: Arc<PendingCommands>,
    /// Reads what rooms miss.
    pub reader: Reader,
}

impl Delivery {
    /// Applies a batch: events go to their rooms, outcomes to the commands that wait for them. The caller flushes
    /// `touched`.
    pub fn handle_batch(&self, batch: wire::Batch, touched: &mut Touched) {
        metrics::EVENTS.inc_by(batch.events.len() as u64);
        for event in batch.events {
            let fetch = if event.traceparent.is_empty() {
                self.hub.deliver(event, &mut touched.rooms)
            } else {
                let span = telemetry::continued_span("gateway.deliver", &event.traceparent);
                span.in_scope(|| self.hub.deliver(event, &mut touched.rooms))
            };
            self.start_fetch(fetch);
        }
        for wire::Outcome { request, body } in batch.outcomes {
            touched.senders.extend(self.pending.answer(request, outcome_of(body)));
        }
    }

    /// Passes an outcome to the command that waits for it.
    pub fn handle_outcome(&self, outcome: wire::Outcome) {
        self.pending.resolve(outcome.request, outcome_of(outcome.body));
    }

    /// Fetches a room's missing events in the background until none is missing.
    pub fn start_fetch(&self, fetch: Option<Fetch>) {
        let Some(mut fetch) = fetch else { return };
        let (hub, reader) = (self.hub.clone(), self.reader.clone());
        tokio::spawn(async move {
            loop {
                let Fetch { room, after_seq, up_to_seq } = fetch;
                if room.lock().closed {
                    return;
                }
                metrics::FETCHES.inc();
                let read = reader.events_after(room.conversation.as_str(), after_seq, up_to_seq).await;
                let events = match read {
                    Ok(events) => events,
                    Err(failure) => {
                        tracing::debug!(conversation = %room.conversation, %failure, "missing events could not be fetched: trying again");
                        Vec::new()
                    }
                };
                if events.is_empty() {
                    tokio::time::sleep(FETCH_RETRY_DELAY).await;
                }
                let more = hub.fetched(&room, events);
                room.flush().await;
                match more {
                    Some(more) => fetch = more,
                    None => return,
                }
            }
        });
    }
}

fn outcome_of(body: Option<Came>) -> Result<wire::Accepted, Failure> {
    match body {
        Some(Came::Accepted(accepted)) => Ok(accepted),
        Some(Came::Failure(failure)) => Err(failure.into()),
        None => Err(Failure::new(ErrorCode::Internal, "an empty outcome")),
    }
}
