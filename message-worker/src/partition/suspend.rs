//! Suspends a conversation that cannot be read, so that the group goes on without it, and ends the suspension when it
//! can be read again (`docs/decisions/0021-what-cannot-be-read-is-suspended.md`).

use super::consume::{Consumer, Stage};
use super::group::GroupNeed;
use super::jobs::Done;
use super::prepare::LOAD_AGAIN;
use crate::backoff::until_done;
use crate::context::{Context, StartOver};
use crate::core::apply::At;
use crate::limits::{SUSPEND_AFTER_MS, SUSPENDED_MAX, SUSPENDED_READS_MAX, SUSPENDED_RETRY_MS};
use crate::metrics;
use crate::ownership::load::{self, LoadError, Purpose};
use crate::store::Suspension;
use carillon_proto::id::ConversationId;
use carillon_proto::position::Position;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

const SUSPEND_AFTER: Duration = Duration::from_millis(SUSPEND_AFTER_MS);
const RETRY: Duration = Duration::from_millis(SUSPENDED_RETRY_MS);

/// The possible cause when a conversation cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suspect {
    /// The conversation is damaged, or a newer version wrote it.
    Conversation,
    /// The store could not be read. If it cannot be read at all, the partition waits for it.
    Store,
}

/// What was tried with conversations that cannot be read.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    /// Since when a conversation that the group in preparation needs could not be loaded.
    unread: HashMap<ConversationId, Instant>,
    /// The last time that a failure of the store suspended a conversation.
    suspended: Option<Instant>,
    /// The last time that suspended conversations were probed.
    looked: Option<Instant>,
    /// When each conversation was probed last, as a turn. Conversations that were never probed come first, then those
    /// that were probed longest ago.
    turns: HashMap<ConversationId, u64>,
    turn: u64,
    probing: usize,
    /// The number of suspensions whose end is being recorded. No group begins meanwhile: otherwise it could refuse
    /// commands that stand after such an end.
    pub(crate) resuming: usize,
}

impl Probes {
    /// Notes that a conversation could not be loaded. Returns whether the partition has waited for it long enough. If
    /// another conversation was suspended a moment ago, the partition need not wait for this one as well.
    pub(crate) fn has_waited_for(&mut self, conversation: &ConversationId) -> bool {
        let since = *self.unread.entry(conversation.clone()).or_insert_with(Instant::now);
        since.elapsed() >= SUSPEND_AFTER
            || self.suspended.is_some_and(|suspended| suspended.elapsed() < RETRY)
    }

    /// Notes that a conversation could be loaded.
    pub(crate) fn is_read(&mut self, conversation: &ConversationId) {
        self.unread.remove(conversation);
    }
}

/// Whether the store answers and only the read of this conversation fails. The conversation is read once more, because
/// its first read may have begun while the store was away.
async fn is_alone(context: &Context, conversation: &ConversationId) -> bool {
    let (store, partition) = (&*context.store, context.partition);
    store.incarnation(partition).await.is_ok()
        && load::conversation(store, context.version, conversation).await.is_err()
        && store.incarnation(partition).await.is_ok()
}

impl Consumer<'_> {
    /// Records that the commands of a conversation are refused, beginning with the first one in the group in
    /// preparation.
    pub(crate) fn suspend(&mut self, id: ConversationId, reason: String, suspect: Suspect) {
        let Stage::Preparing(group) = &self.stage else { return };
        let Some(At { position, timestamp_us, .. }) = group.first_of(&id) else { return };
        if !self.ledger.suspended.has_capacity() {
            tracing::error!(
                partition = self.context.partition,
                "more than {SUSPENDED_MAX} conversations cannot be read: the partition waits"
            );
            self.load(&id, Purpose::Applying, LOAD_AGAIN);
            return;
        }
        let from = self.ledger.suspended.unworked(&id).unwrap_or(position);
        let suspension = Suspension { conversation: id.clone(), from, until: None, reason };
        let context = self.context.clone();
        self.job(async move {
            if suspect == Suspect::Store && !is_alone(&context, &suspension.conversation).await {
                return Done::Suspended(id, None);
            }
            let record = || context.store.record_suspension(context.partition, &suspension, timestamp_us);
            until_done("suspension", record).await;
            Done::Suspended(id, Some(from))
        });
    }

    /// The suspension is recorded, so the group goes on without the conversation. If `from` is `None` nothing was
    /// recorded, and the conversation is loaded again.
    pub(crate) fn suspended(&mut self, id: ConversationId, from: Option<Position>) {
        let Some(from) = from else {
            self.load(&id, Purpose::Applying, LOAD_AGAIN);
            return;
        };
        let partition = self.context.partition;
        tracing::error!(
            partition,
            conversation = %id,
            ?from,
            "a conversation cannot be read: its commands are refused until it can, see `carillon audit`"
        );
        metrics::SUSPENSIONS.inc();
        if self.probes.unread.remove(&id).is_some() {
            self.probes.suspended = Some(Instant::now());
        }
        self.ledger.suspended.begin(id.clone(), from);
        if let Stage::Preparing(group) = &mut self.stage {
            group.refuse(&id);
        }
        self.arrived(&GroupNeed::Conversation(id));
    }

    /// Tries to read suspended conversations again, at most [`SUSPENDED_READS_MAX`] at a time.
    pub(crate) fn probe(&mut self) {
        let due = self.probes.looked.is_none_or(|looked| looked.elapsed() >= RETRY);
        if !due || self.probes.probing > 0 || self.ending {
            return;
        }
        let mut open: Vec<ConversationId> = self.ledger.suspended.open().cloned().collect();
        self.probes.turns.retain(|id, _| self.ledger.suspended.begun(id).is_some());
        if open.is_empty() {
            return;
        }
        open.sort_by_key(|id| (self.probes.turns.get(id).copied(), id.clone()));
        open.truncate(SUSPENDED_READS_MAX);
        self.probes.looked = Some(Instant::now());
        for id in open {
            self.probes.turn += 1;
            self.probes.turns.insert(id.clone(), self.probes.turn);
            self.probes.probing += 1;
            let (context, incarnation, applied) =
                (self.context.clone(), self.ledger.incarnation, self.applied);
            self.job(async move {
                let _turn = context.reads.acquire().await;
                let loaded = load::by_owner(&context, incarnation, applied, &id, Purpose::Showing).await;
                Done::Probed(id, loaded.map(drop))
            });
        }
    }

    /// Ends the suspension of a conversation that can be read again. Its commands are applied again after everything
    /// that has been placed.
    pub(crate) fn probed(
        &mut self,
        id: ConversationId,
        outcome: Result<(), LoadError>,
    ) -> Result<(), StartOver> {
        self.probes.probing -= 1;
        match outcome {
            Err(LoadError::StartOver(start_over)) => return Err(start_over),
            Err(LoadError::Store(_) | LoadError::Unreadable(_)) => return Ok(()),
            Ok(()) => {}
        }
        let Some(from) = self.ledger.suspended.begun(&id) else { return Ok(()) };
        let placed = match &self.stage {
            Stage::Preparing(group) => group.end.position.sequence,
            Stage::Committing(results) => results.end.position.sequence,
            Stage::Idle => self.applied,
        };
        let incarnation = self.ledger.incarnation;
        let (until, timestamp_us) =
            (incarnation.position(placed + 1, 0), incarnation.timestamp_us(placed + 1, 0));
        let reason = "it can be read again".to_owned();
        let suspension = Suspension { conversation: id.clone(), from, until: Some(until), reason };
        let (store, partition) = (self.context.store.clone(), self.context.partition);
        self.probes.resuming += 1;
        self.job(async move {
            let record = || store.record_suspension(partition, &suspension, timestamp_us);
            until_done("suspension", record).await;
            Done::Resumed(id, until)
        });
        Ok(())
    }

    pub(crate) fn resumed(&mut self, id: &ConversationId, until: Position) {
        self.probes.resuming -= 1;
        self.ledger.suspended.end(id, until);
        tracing::info!(
            partition = self.context.partition,
            conversation = %id,
            ?until,
            "a suspended conversation can be read again"
        );
    }
}
