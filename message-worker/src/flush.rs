//! What follows the commit at leisure, once a second: projections, then heads, then the checkpoint. After a crash
//! whatever is missing here is made again from the rows.

use crate::backoff::until_done;
use crate::context::Context;
use crate::core::cache::Cache;
use crate::core::conversation::Conversation;
use crate::core::purge::{Kept, Purge};
use crate::fanout;
use crate::group::End;
use crate::limits::{
    CHECKPOINT_BYTES, ENTRIES_ABOVE_CHECKPOINT_MAX, LOG_KEPT_BYTES_MAX, LOG_KEPT_MS, PROJECTIONS_PENDING_MAX,
};
use crate::store::{Checkpoint, Projection};
use carillon_proto::id::ConversationId;
use futures_util::future::BoxFuture;
use prost::Message as _;
use std::collections::{BTreeSet, HashMap};

/// What waits to be written.
#[derive(Debug)]
pub(crate) struct Flush {
    projections: Vec<Projection>,
    /// Users who may see others than before when the projections are written. Bounded by the commands of a second.
    acquainted: BTreeSet<String>,
    /// Conversations in memory whose head has moved.
    dirty: Vec<ConversationId>,
    /// Heads of those that have left it since, with their seq.
    heads: HashMap<ConversationId, (u64, Projection)>,
    /// The end of the last group that was worked.
    worked: Option<End>,
    worked_bytes: u64,
    /// Sequence of the last checkpoint.
    checkpointed: u64,
    /// The version of the state machine that it names: no head names a newer one.
    version: u32,
    /// What `worked_bytes` was then.
    checkpointed_bytes: u64,
    running: Option<Running>,
    /// A second has passed since the last one began.
    due: bool,
    purge: Purge,
}

#[derive(Debug)]
struct Running {
    heads: HashMap<ConversationId, u64>,
    end: Option<End>,
    bytes: u64,
    projections: usize,
}

impl Flush {
    /// Nothing waits; the last checkpoint is at `checkpointed`, and names `version`.
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
            running: None,
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

    /// A second has passed.
    pub(crate) fn demand(&mut self) {
        self.due = true;
    }

    /// These projections follow from committed rows.
    pub(crate) fn project(&mut self, projections: Vec<Projection>) {
        self.projections.extend(projections);
    }

    /// These users may see others than before, when the projections are written.
    pub(crate) fn tell_acquainted(&mut self, users: BTreeSet<String>) {
        self.acquainted.extend(users);
    }

    /// A conversation leaves memory whose head has moved.
    pub(crate) fn keep_head(&mut self, conversation: &Conversation) {
        self.heads.extend(head(conversation, self.version));
    }

    /// Whether a conversation that was loaded had left memory just now, so that all that follows from its rows is on
    /// its way to the store.
    pub(crate) fn has_head(&self, conversation: &Conversation) -> bool {
        let (id, seq) = (conversation.id(), conversation.seq());
        let running = self.running.as_ref().and_then(|running| running.heads.get(id));
        running == Some(&seq) || self.heads.get(id).is_some_and(|(kept, _)| *kept == seq)
    }

    /// A conversation's committed head has moved.
    pub(crate) fn touch(&mut self, cache: &mut Cache, conversation: &ConversationId) {
        if let Some(slot) = cache.note(conversation)
            && !slot.dirty
        {
            slot.dirty = true;
            self.dirty.push(conversation.clone());
        }
    }

    /// A group's results have left.
    pub(crate) fn worked(&mut self, end: End, bytes: u64) {
        self.worked = Some(end);
        self.worked_bytes += bytes;
        self.due |= self.worked_bytes - self.checkpointed_bytes >= CHECKPOINT_BYTES;
        self.due |= end.version > self.version;
    }

    /// Whether so much waits that no further group may be worked.
    pub(crate) fn is_full(&self) -> bool {
        let running = self.running.as_ref().map_or(0, |running| running.projections);
        let pending = self.projections.len() + self.heads.len();
        let above = self.worked.map_or(0, |end| end.position.sequence.saturating_sub(self.checkpointed));
        pending + running >= PROJECTIONS_PENDING_MAX || above >= ENTRIES_ABOVE_CHECKPOINT_MAX
    }

    /// Whether everything is written.
    pub(crate) fn is_done(&self) -> bool {
        self.running.is_none()
            && self.worked.is_none()
            && self.projections.is_empty()
            && self.acquainted.is_empty()
            && self.dirty.is_empty()
            && self.heads.is_empty()
    }

    /// Begins to write, if it is time. Nothing that is not committed may be in `cache`.
    pub(crate) fn begin(&mut self, context: &Context, cache: &mut Cache) -> Option<BoxFuture<'static, ()>> {
        if self.running.is_some() || !self.due && !self.is_full() || self.is_done() {
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
        self.running = Some(Running {
            heads: heads.iter().map(|(id, (seq, _))| (id.clone(), *seq)).collect(),
            end,
            bytes: self.worked_bytes,
            projections: projections.len() + heads.len(),
        });
        let heads = heads.into_values().map(|(_, head)| head).collect();
        let context = context.clone();
        Some(Box::pin(async move { write(&context, projections, acquainted, heads, end).await }))
    }

    /// It is written, at this steady time.
    pub(crate) fn done(&mut self, now_ms: u64) {
        let Some(running) = self.running.take() else { return };
        if let Some(end) = running.end {
            self.checkpointed = end.position.sequence;
            self.checkpointed_bytes = running.bytes;
            self.version = end.version;
            self.purge.checkpointed(end.position.sequence, now_ms, running.bytes);
        }
    }

    /// Below which sequence the log may forget now, in steady time.
    pub(crate) fn purge_below(&mut self, now_ms: u64) -> Option<u64> {
        self.purge.due(now_ms)
    }
}

fn head(conversation: &Conversation, version: u32) -> Option<(ConversationId, (u64, Projection))> {
    let (id, timestamp_us) = (conversation.id().clone(), conversation.timestamp_us());
    // Loaded anew since it moved, with a head that another worker has written already: there is nothing to add.
    (timestamp_us > 0).then(|| {
        let blob = conversation.head(version).encode_to_vec().into();
        (id.clone(), (conversation.seq(), Projection::Head { conversation: id, timestamp_us, blob }))
    })
}

/// A head says that all projections below it are there, and a checkpoint the same of all heads.
async fn write(
    context: &Context,
    projections: Vec<Projection>,
    acquainted: BTreeSet<String>,
    heads: Vec<Projection>,
    end: Option<End>,
) {
    project(context, projections).await;
    fanout::tell_acquainted(&*context.bus, acquainted).await;
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
