//! Writes what may be written after the commit, once a second: projections, then heads, then the checkpoint. After a
//! crash, whatever is missing here is made again from the rows.

use super::fanout;
use super::group::End;
use crate::backoff::until_done;
use crate::context::Context;
use crate::core::cache::Cache;
use crate::core::conversation::Conversation;
use crate::core::purge::{Kept, Purge};
use crate::limits::{
    CHECKPOINT_BYTES, ENTRIES_ABOVE_CHECKPOINT_MAX, LOG_KEPT_BYTES_MAX, LOG_KEPT_MS, PROJECTIONS_PENDING_MAX,
};
use crate::store::{Checkpoint, Projection};
use carillon_proto::id::ConversationId;
use futures_util::future::BoxFuture;
use prost::Message as _;
use std::collections::{BTreeSet, HashMap};

/// What is still to be written.
#[derive(Debug)]
pub(crate) struct Flush {
    projections: Vec<Projection>,
    /// Users whose acquaintances may change when the projections are written. Bounded by the commands of one second.
    acquainted: BTreeSet<String>,
    /// Conversations in memory whose head has changed.
    dirty: Vec<ConversationId>,
    /// Heads, with their seq, of conversations that have left memory since their head changed.
    heads: HashMap<ConversationId, (u64, Projection)>,
    /// The end of the last group that was applied and fanned out.
    worked: Option<End>,
    worked_bytes: u64,
    /// The sequence of the last checkpoint.
    checkpointed: u64,
    /// The version of the state machine that the last checkpoint names. No head names a newer one.
    version: u32,
    /// What `worked_bytes` was at the last checkpoint.
    checkpointed_bytes: u64,
    in_progress: Option<FlushInProgress>,
    /// The next flush shall begin: a second has passed, or enough has gathered.
    due: bool,
    purge: Purge,
}

/// What is being written.
#[derive(Debug)]
struct FlushInProgress {
    heads: HashMap<ConversationId, u64>,
    end: Option<End>,
    bytes: u64,
    projections: usize,
}

impl Flush {
    /// Nothing is pending; the last checkpoint is at `checkpointed`, and names `version`.
    pub(crate) fn new(checkpointed: u64, version: u32, exclusive: bool) -> Flush {
        let shared = Kept { time_ms: LOG_KEPT_MS, bytes: LOG_KEPT_BYTES_MAX };
        Flush {
            projections: Vec::new(),
            acquainted: BTreeSet::new(),
            dirty: Vec::new(),
            heads: HashMap::new(),
            worked: None,
            worked_bytes: 0,
            checkpointed,
            version,
            checkpointed_bytes: 0,
            in_progress: None,
            due: false,
            purge: Purge::new(if exclusive { Kept { time_ms: 0, bytes: 0 } } else { shared }),
        }
    }

    /// The sequence of the last checkpoint.
    pub(crate) fn checkpointed(&self) -> u64 {
        self.checkpointed
    }

    /// The version of the state machine that the last checkpoint names.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// Requests a flush.
    pub(crate) fn demand(&mut self) {
        self.due = true;
    }

    /// Adds projections of committed rows.
    pub(crate) fn project(&mut self, projections: Vec<Projection>) {
        self.projections.extend(projections);
    }

    /// Adds users whose acquaintances may change when the projections are written.
    pub(crate) fn add_acquainted(&mut self, users: BTreeSet<String>) {
        self.acquainted.extend(users);
    }

    /// Keeps the head of a conversation that leaves memory before its head is written.
    pub(crate) fn keep_head(&mut self, conversation: &Conversation) {
        self.heads.extend(head(conversation, self.version));
    }

    /// Whether the head of a conversation that was loaded is pending or being written. Then all projections of its rows
    /// are too, so they need not be written again.
    pub(crate) fn has_head(&self, conversation: &Conversation) -> bool {
        let (id, seq) = (conversation.id(), conversation.seq());
        let in_progress = self.in_progress.as_ref().and_then(|in_progress| in_progress.heads.get(id));
        in_progress == Some(&seq) || self.heads.get(id).is_some_and(|(kept, _)| *kept == seq)
    }

    /// Notes that a conversation's committed head has changed.
    pub(crate) fn touch(&mut self, cache: &mut Cache, conversation: &ConversationId) {
        if let Some(slot) = cache.note(conversation)
            && !slot.dirty
        {
            slot.dirty = true;
            self.dirty.push(conversation.clone());
        }
    }

    /// Notes that the results of a group have left.
    pub(crate) fn worked(&mut self, end: End, bytes: u64) {
        self.worked = Some(end);
        self.worked_bytes += bytes;
        self.due |= self.worked_bytes - self.checkpointed_bytes >= CHECKPOINT_BYTES;
        self.due |= end.version > self.version;
    }

    /// Whether so much is pending that no further group may begin.
    pub(crate) fn is_full(&self) -> bool {
        let in_progress = self.in_progress.as_ref().map_or(0, |in_progress| in_progress.projections);
        let pending = self.projections.len() + self.heads.len();
        let above = self.worked.map_or(0, |end| end.position.sequence.saturating_sub(self.checkpointed));
        pending + in_progress >= PROJECTIONS_PENDING_MAX || above >= ENTRIES_ABOVE_CHECKPOINT_MAX
    }

    /// Whether nothing is pending.
    pub(crate) fn is_done(&self) -> bool {
        self.in_progress.is_none()
            && self.worked.is_none()
            && self.projections.is_empty()
            && self.acquainted.is_empty()
            && self.dirty.is_empty()
            && self.heads.is_empty()
    }

    /// Begins to write, if it is time. All state in `cache` must be committed.
    pub(crate) fn begin(&mut self, context: &Context, cache: &mut Cache) -> Option<BoxFuture<'static, ()>> {
        if self.in_progress.is_some() || !self.due && !self.is_full() || self.is_done() {
            return None;
        }
        self.due = false;
        let mut heads = std::mem::take(&mut self.heads);
        for id in std::mem::take(&mut self.dirty) {
            if let Some(slot) = cache.note(&id) {
                slot.dirty = false;
                heads.extend(head(&slot.conversation, self.version));
            }
        }
        let projections = std::mem::take(&mut self.projections);
        let acquainted = std::mem::take(&mut self.acquainted);
        let end = self.worked.take();
        self.in_progress = Some(FlushInProgress {
            heads: heads.iter().map(|(id, (seq, _))| (id.clone(), *seq)).collect(),
            end,
            bytes: self.worked_bytes,
            projections: projections.len() + heads.len(),
        });
        let heads = heads.into_values().map(|(_, head)| head).collect();
        let context = context.clone();
        Some(Box::pin(async move { write(&context, projections, acquainted, heads, end).await }))
    }

    /// Notes that the flush is written, at this steady time.
    pub(crate) fn done(&mut self, now_ms: u64) {
        let Some(in_progress) = self.in_progress.take() else { return };
        if let Some(end) = in_progress.end {
            self.checkpointed = end.position.sequence;
            self.checkpointed_bytes = in_progress.bytes;
            self.version = end.version;
            self.purge.checkpointed(end.position.sequence, now_ms, in_progress.bytes);
        }
    }

    /// The sequence below which the log may be purged now, in steady time.
    pub(crate) fn purge_below(&mut self, now_ms: u64) -> Option<u64> {
        self.purge.due(now_ms)
    }
}

fn head(conversation: &Conversation, version: u32) -> Option<(ConversationId, (u64, Projection))> {
    let (id, timestamp_us) = (conversation.id().clone(), conversation.timestamp_us());
    // A timestamp of 0 means that the conversation was loaded again after its head changed, and that another worker has
    // written that head already.
    (timestamp_us > 0).then(|| {
        let blob = conversation.head(version).encode_to_vec().into();
        (id.clone(), (conversation.seq(), Projection::Head { conversation: id, timestamp_us, blob }))
    })
}

/// Writes in this order, because a head promises that all projections below it are stored, and a checkpoint promises
/// the same for all heads.
async fn write(
    context: &Context,
    projections: Vec<Projection>,
    acquainted: BTreeSet<String>,
    heads: Vec<Projection>,
    end: Option<End>,
) {
    project(context, projections).await;
    fanout::notify_acquainted(&*context.bus, acquainted).await;
    project(context, heads).await;
    if let Some(End { position, tag, timestamp_us, version }) = end {
        let checkpoint = Checkpoint { position, tag, timestamp_us, version };
        until_done("checkpoint", || context.store.checkpoint(context.partition, checkpoint)).await;
    }
}

async fn project(context: &Context, projections: Vec<Projection>) {
    if !projections.is_empty() {
        until_done("project", || context.store.project(projections.clone())).await;
    }
}
