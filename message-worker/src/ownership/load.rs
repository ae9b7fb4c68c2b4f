//! Loads a conversation: reads its participants and its head, then folds the rows above the head. The loaded state is
//! always that of the last contiguous row. Rows that a seal ([`super::seal`]) excludes are ignored.

use super::log_generation::{self, Landmark};
use super::seal;
use crate::backoff::Backoff;
use crate::context::{Context, NEWER_VERSION, StartOver};
use crate::core::conversation::Conversation;
use crate::core::projection;
use crate::limits::{LOAD_ROWS_FIRST, LOAD_ROWS_MAX};
use crate::metrics;
use crate::store::{EventRow, Projection, Seal, Store, StoreError};
use carillon_proto::id::{ConversationId, Tag};
use carillon_proto::position::{Incarnation, Position};
use carillon_proto::wire;
use prost::Message as _;
use std::sync::Arc;

/// A conversation as it is in the store.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) conversation: Conversation,
    /// Projections of the rows above the head. They may not have been written yet.
    pub(crate) projections: Vec<Projection>,
    /// The conversation has rows or a seal that the stored head does not contain.
    pub(crate) above_head: bool,
    /// It is decided which rows of earlier incarnations count.
    pub(crate) decided: bool,
    /// For each incarnation that left the head or a row above it, in ascending order: how far its rows reach.
    reach: Vec<Reach>,
    /// The seal in force. Rows that it excludes are ignored.
    seal: Option<Seal>,
    /// The tag of the newest row. `None` if only the head was read.
    tag: Option<Tag>,
}

/// How far a conversation reaches with the rows of all incarnations up to this one.
#[derive(Debug, Clone, Copy)]
struct Reach {
    incarnation: u32,
    created: bool,
    seq: u64,
}

/// What a conversation is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Commands are applied to it, so it is sealed first.
    Applying,
    /// A gateway needs to know how far it reaches and who participates. Nothing is written, unless the answer depends
    /// on a seal.
    Showing,
}

/// Why a conversation could not be loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// The store cannot be read now.
    Store(StoreError),
    /// This build cannot decode what is stored.
    Unreadable(Unreadable),
    /// The rows show that the log or the incarnation is not the one that this owner works in.
    StartOver(StartOver),
}

/// This build cannot decode what is stored: it is damaged, or a newer version wrote it. Reading again does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Unreadable {
    /// The reason, as the log shows it.
    reason: String,
    /// The version of the state machine that wrote it, if this build does not know that version.
    newer: Option<u32>,
}

impl Unreadable {
    fn because(reason: String) -> Unreadable {
        Unreadable { reason, newer: None }
    }
}

impl From<Unreadable> for LoadError {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unreadable(unreadable)
    }
}

impl From<Unreadable> for StoreError {
    fn from(unreadable: Unreadable) -> Self {
        Self(unreadable.reason)
    }
}

impl From<StoreError> for LoadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<StartOver> for LoadError {
    fn from(start_over: StartOver) -> Self {
        Self::StartOver(start_over)
    }
}

/// Loads a conversation as far as its rows are contiguous. Each read may see more than the read before, never less: the
/// creation is written before the first event and read after it.
///
/// `version` is the newest version of the state machine that the reader knows.
pub(crate) async fn conversation(
    store: &dyn Store,
    version: u32,
    id: &ConversationId,
) -> Result<Loaded, LoadError> {
    sealed(store, version, id, None).await
}

/// Loads a conversation without the rows that `seal` excludes, or that a later seal in the head excludes.
pub(crate) async fn sealed(
    store: &dyn Store,
    version: u32,
    id: &ConversationId,
    seal: Option<Seal>,
) -> Result<Loaded, LoadError> {
    let from_head = store.load(id).await?;
    let head = from_head.head.map(|blob| decode_head(id, &blob)).transpose()?;
    if let Some(newer) = head.as_ref().map(|head| head.version).filter(|written| *written > version) {
        return Err(unknown_version(id, newer).into());
    }
    let head = head.filter(|head| seal.is_none_or(|seal| is_counted(head, seal)));
    let has_head = head.is_some();
    let conversation = match head {
        Some(head) => Conversation::of_head(id.clone(), head, from_head.participants),
        // All rows are folded again. The stored participants may follow from rows that do not count, so they are not
        // used.
        None if seal.is_some() => Conversation::new(id.clone(), Vec::new()),
        None => Conversation::new(id.clone(), from_head.participants),
    };
    let mut loaded = Loaded::new(conversation, seal);
    let mut limit = LOAD_ROWS_FIRST;
    let mut rows = store.events_after(id, loaded.conversation.seq(), limit).await?;
    if !has_head && let Some(creation) = store.event(id, 0).await? {
        loaded.fold(&creation)?;
    }
    loop {
        let mut contiguous = rows.len() == limit;
        for row in &rows {
            contiguous &= loaded.fold(row)?;
        }
        if !contiguous {
            loaded.conversation = loaded.conversation.loaded();
            return Ok(loaded);
        }
        limit = LOAD_ROWS_MAX;
        rows = store.events_after(id, loaded.conversation.seq(), limit).await?;
    }
}

impl Loaded {
    fn new(conversation: Conversation, seal: Option<Seal>) -> Loaded {
        let seal = seal.into_iter().chain(conversation.seal()).max_by_key(|seal| seal.incarnation);
        let mut loaded = Loaded {
            conversation,
            projections: Vec::new(),
            above_head: false,
            decided: false,
            reach: Vec::new(),
            seal,
            tag: None,
        };
        loaded.note_reach();
        loaded
    }

    /// Folds a row if it is the next one that counts, and returns whether it was.
    fn fold(&mut self, row: &EventRow) -> Result<bool, Unreadable> {
        let event = Arc::new(decode(row)?);
        if self.seal.is_some_and(|seal| !seal.counts(row.position.incarnation, row.seq)) {
            return Ok(false);
        }
        if !self.conversation.is_followed_by(&event) {
            if self.conversation.is_at_end(&event) {
                metrics::ROWS_OUT_OF_ORDER.inc();
                let (conversation, seq, position) = (row.conversation.as_str(), row.seq, row.position);
                tracing::error!(
                    conversation,
                    seq,
                    ?position,
                    before = ?self.conversation.position(),
                    "a row is out of order: the conversation ends before it"
                );
            }
            return Ok(false);
        }
        self.conversation.fold(&event, row.timestamp_us);
        self.projections.extend(projection::of_event(&row.conversation, &event, row.timestamp_us));
        self.above_head = true;
        self.tag = Some(row.tag);
        self.note_reach();
        Ok(true)
    }

    /// Notes how far the incarnation of the newest row reaches. The incarnation never decreases from row to row.
    fn note_reach(&mut self) {
        let Some(Position { incarnation, .. }) = self.conversation.position() else { return };
        let (created, seq) = (self.conversation.is_created(), self.conversation.seq());
        self.reach.pop_if(|reach| reach.incarnation == incarnation);
        self.reach.push(Reach { incarnation, created, seq });
    }

    /// Whether it is already decided which rows of earlier incarnations count. Nothing comes before the first
    /// incarnation, and a state that begins with a row of this incarnation was written after sealing.
    pub(crate) fn is_decided_in(&self, incarnation: u32) -> bool {
        incarnation <= 1
            || self.conversation.seal().is_some_and(|seal| seal.incarnation == incarnation)
            || self.begins_in().is_some_and(|begins_in| begins_in == incarnation)
    }

    /// Whether the newest row was left above the head by an earlier incarnation, and no known seal decides about it.
    /// Such a row counts only if it is there when the conversation is sealed.
    pub(crate) fn is_in_doubt_in(&self, incarnation: u32) -> bool {
        let newest = self.conversation.position().map_or(0, |position| position.incarnation);
        self.above_head && newest < incarnation && self.seal.is_none_or(|seal| seal.incarnation < incarnation)
    }

    /// The latest incarnation that left a row, a head or a seal here.
    pub(crate) fn latest_incarnation(&self) -> u32 {
        let position = self.conversation.position().map_or(0, |position| position.incarnation);
        self.seal.map_or(0, |seal| seal.incarnation).max(position)
    }

    /// The seal that the rows were checked against.
    pub(crate) fn seal(&self) -> Option<Seal> {
        self.seal
    }

    /// The incarnation of the oldest state that was loaded.
    fn begins_in(&self) -> Option<u32> {
        self.reach.first().map(|reach| reach.incarnation)
    }

    /// The seal that counts exactly those rows of earlier incarnations that were loaded.
    pub(crate) fn seal_in(&self, incarnation: u32) -> Seal {
        let earlier = self.reach.iter().rfind(|reach| reach.incarnation < incarnation);
        let (created, seq) = earlier.map_or((false, 0), |reach| (reach.created, reach.seq));
        Seal { incarnation, created, seq }
    }

    /// Records the seal in force; the next head contains it.
    pub(crate) fn sealed(&mut self, seal: Seal, timestamp_us: i64) {
        self.conversation.sealed(seal, timestamp_us);
        self.above_head |= self.conversation.exists();
        self.decided = true;
    }
}

fn decode_head(id: &ConversationId, blob: &[u8]) -> Result<wire::Head, Unreadable> {
    wire::Head::decode(blob)
        .map_err(|error| Unreadable::because(format!("the head of {id} does not decode: {error}")))
}

/// Whether the head was made only of rows that count. The head of an earlier incarnation's worker may contain rows that
/// the seal excludes.
fn is_counted(head: &wire::Head, seal: Seal) -> bool {
    let incarnation = head.position.map_or(0, |position| position.incarnation);
    incarnation >= seal.incarnation || (head.created == seal.created && seal.counts(incarnation, head.seq))
}

/// The error for a head of a version that the reader does not know.
fn unknown_version(id: &ConversationId, version: u32) -> Unreadable {
    let reason = format!(
        "the head of {id} was written by version {version} of the state machine: upgrade this worker"
    );
    Unreadable { reason, newer: Some(version) }
}

/// Decodes the event of a row.
pub(crate) fn decode(row: &EventRow) -> Result<wire::Event, Unreadable> {
    wire::Event::decode(row.blob.clone()).map_err(|error| {
        Unreadable::because(format!("row {} of {} does not decode: {error}", row.seq, row.conversation))
    })
}

/// Loads a conversation for the owner of its partition. `applied` is the last entry that this owner applied. A row
/// above it was written by a former owner, or stems from a log that no longer exists; the log decides which.
pub(crate) async fn by_owner(
    context: &Context,
    incarnation: Incarnation,
    applied: u64,
    id: &ConversationId,
    purpose: Purpose,
) -> Result<Loaded, LoadError> {
    let loaded = of_incarnation(context, incarnation, applied, id, purpose).await;
    if let Err(LoadError::Unreadable(Unreadable { newer: Some(version), .. })) = loaded {
        // A checkpoint names a version before any head does. A head with a newer version than its checkpoint is
        // damaged.
        let checkpoint = context.store.partition(context.partition).await?.checkpoint;
        if checkpoint.is_some_and(|checkpoint| checkpoint.version >= version) {
            context.outdated.report(version);
            return Err(StartOver::because(NEWER_VERSION).into());
        }
    }
    loaded
}

async fn of_incarnation(
    context: &Context,
    incarnation: Incarnation,
    applied: u64,
    id: &ConversationId,
    purpose: Purpose,
) -> Result<Loaded, LoadError> {
    let (number, store, version) = (incarnation.number, &*context.store, context.version);
    let mut loaded = conversation(store, version, id).await?;
    // This process is the only one, so no former owner can have a write that arrives late.
    if context.exclusive {
        loaded.decided = true;
    } else {
        if purpose == Purpose::Showing {
            loaded = seal::known(store, version, incarnation, id, loaded).await?;
        }
        if purpose == Purpose::Applying || loaded.is_in_doubt_in(number) {
            loaded = seal::once(store, version, incarnation, id, loaded).await?;
        }
    }
    if loaded.latest_incarnation() > number {
        return Err(seal::later_incarnation().into());
    }
    let Some(position) = loaded.conversation.position() else { return Ok(loaded) };
    if incarnation.stands_on(position) && position.sequence > applied {
        if !is_of_this_log(context, &loaded, position).await? {
            let reason = "a row was made from an entry that the log does not hold";
            return Err(LoadError::StartOver(StartOver { reason, forgotten: Some(number) }));
        }
        loaded.conversation.worked_to(incarnation, position);
    }
    Ok(loaded)
}

async fn is_of_this_log(context: &Context, loaded: &Loaded, position: Position) -> Result<bool, StoreError> {
    let conversation = &loaded.conversation;
    let tag = match loaded.tag {
        Some(tag) => tag,
        // The head was written after this row, so the row exists unless the database lost it.
        None => match context.store.event(conversation.id(), conversation.seq()).await? {
            Some(row) => row.tag,
            None => return Ok(true),
        },
    };
    let mut backoff = Backoff::new();
    loop {
        match log_generation::holds(context, Landmark { sequence: position.sequence, tag }).await {
            Ok(held) => return Ok(held),
            Err(error) => {
                tracing::warn!(partition = context.partition, %error, "the log cannot be read, trying again");
                backoff.wait().await;
            }
        }
    }
}
