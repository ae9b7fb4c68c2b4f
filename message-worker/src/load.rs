//! Loading a conversation: participants and head, then the rows above the head, folded. State is always that of
//! the last contiguous row, and rows that a seal ([`crate::seal`]) does not count are not there.

use crate::backoff::Backoff;
use crate::context::{Context, NEWER_VERSION, StartOver};
use crate::core::conversation::Conversation;
use crate::core::projection;
use crate::ground::{self, Landmark};
use crate::limits::{LOAD_ROWS_FIRST, LOAD_ROWS_MAX};
use crate::metrics;
use crate::seal;
use crate::store::{EventRow, Projection, Seal, Store, StoreError};
use carillon_proto::id::{ConversationId, Tag};
use carillon_proto::position::{Incarnation, Position};
use carillon_proto::wire;
use prost::Message as _;
use std::sync::Arc;

/// A conversation as the store has it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Its state.
    pub(crate) conversation: Conversation,
    /// What follows from rows above the head, and may not have been written.
    pub(crate) projections: Vec<Projection>,
    /// There is more than the stored head says.
    pub(crate) above_head: bool,
    /// What earlier lives left is decided.
    pub(crate) decided: bool,
    /// How far the rows of each life reach that are known of: that of the head, and those of rows above it. Ascending.
    reach: Vec<Reach>,
    /// Rows that this does not count are not there.
    seal: Option<Seal>,
    /// The tag of the newest row, if it was read.
    tag: Option<Tag>,
}

/// How far a conversation reaches with the rows of lives up to this one.
#[derive(Debug, Clone, Copy)]
struct Reach {
    incarnation: u32,
    created: bool,
    seq: u64,
}

/// What a conversation is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Commands are applied to it: what earlier lives left is decided first.
    Applying,
    /// Somebody wants to know how far it reaches and who participates: nothing is written unless that hangs on it.
    Showing,
}

/// Why a conversation could not be loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// For now.
    Store(StoreError),
    /// What is stored of it cannot be understood by this build.
    Unreadable(Unreadable),
    /// The rows say that the log, or its life, is not the one that is worked.
    StartOver(StartOver),
}

/// What is stored cannot be understood: it is damaged, or a newer version wrote it. Reading again does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Unreadable {
    /// For people.
    reason: String,
    /// The version of the state machine that wrote it, if this build does not know that.
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

/// The conversation as far as its rows are contiguous. Each read may see more than the one before, never less: the
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

/// The same without what `seal`, or a later one that the head knows of, does not count.
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
        // All rows are folded, and what participants know beyond them may stem from rows that do not count.
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

    /// Folds a row if it is the next.
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

    /// Takes note of how far the newest row's life reaches. Lives only rise from row to row.
    fn note_reach(&mut self) {
        let Some(Position { incarnation, .. }) = self.conversation.position() else { return };
        let (created, seq) = (self.conversation.is_created(), self.conversation.seq());
        self.reach.pop_if(|reach| reach.incarnation == incarnation);
        self.reach.push(Reach { incarnation, created, seq });
    }

    /// Whether what earlier lives left has been decided: nothing comes before the first, and a state of this life was made
    /// by somebody who had been here.
    pub(crate) fn is_decided_in(&self, incarnation: u32) -> bool {
        incarnation <= 1
            || self.conversation.seal().is_some_and(|seal| seal.incarnation == incarnation)
            || self.begins_in().is_some_and(|begins_in| begins_in == incarnation)
    }

    /// Whether a row that an earlier life left above the head is the newest: it counts if it was there when that was
    /// decided, and nobody has decided yet, as far as is known here.
    pub(crate) fn is_in_doubt_in(&self, incarnation: u32) -> bool {
        let newest = self.conversation.position().map_or(0, |position| position.incarnation);
        self.above_head && newest < incarnation && self.seal.is_none_or(|seal| seal.incarnation < incarnation)
    }

    /// The latest life that left anything here.
    pub(crate) fn latest_life(&self) -> u32 {
        let position = self.conversation.position().map_or(0, |position| position.incarnation);
        self.seal.map_or(0, |seal| seal.incarnation).max(position)
    }

    /// The seal that it was held against.
    pub(crate) fn seal(&self) -> Option<Seal> {
        self.seal
    }

    /// The life of the oldest state that was loaded.
    fn begins_in(&self) -> Option<u32> {
        self.reach.first().map(|reach| reach.incarnation)
    }

    /// The seal that counts just those rows of lives before this one that are here.
    pub(crate) fn seal_in(&self, incarnation: u32) -> Seal {
        let earlier = self.reach.iter().rfind(|reach| reach.incarnation < incarnation);
        let (created, seq) = earlier.map_or((false, 0), |reach| (reach.created, reach.seq));
        Seal { incarnation, created, seq }
    }

    /// Its seal is decided, and goes into the next head.
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

/// Whether a head was made of rows that count. One that a worker of an earlier life wrote may know more.
fn is_counted(head: &wire::Head, seal: Seal) -> bool {
    let incarnation = head.position.map_or(0, |position| position.incarnation);
    incarnation >= seal.incarnation || (head.created == seal.created && seal.counts(incarnation, head.seq))
}

/// A head of a version that the reader does not know.
fn unknown_version(id: &ConversationId, version: u32) -> Unreadable {
    let reason = format!(
        "the head of {id} was written by version {version} of the state machine: upgrade this worker"
    );
    Unreadable { reason, newer: Some(version) }
}

/// A row's event.
pub(crate) fn decode(row: &EventRow) -> Result<wire::Event, Unreadable> {
    wire::Event::decode(row.blob.clone()).map_err(|error| {
        Unreadable::because(format!("row {} of {} does not decode: {error}", row.seq, row.conversation))
    })
}

/// Loads a conversation for its partition's owner. What lies above `applied`, the last entry worked, was written by a
/// former owner, or comes from a log that is no more: the log decides.
pub(crate) async fn by_owner(
    context: &Context,
    life: Incarnation,
    applied: u64,
    id: &ConversationId,
    purpose: Purpose,
) -> Result<Loaded, LoadError> {
    let loaded = of_life(context, life, applied, id, purpose).await;
    if let Err(LoadError::Unreadable(Unreadable { newer: Some(version), .. })) = loaded {
        // A checkpoint names a version before any head does, unless the head is damaged.
        let checkpoint = context.store.partition(context.partition).await?.checkpoint;
        if checkpoint.is_some_and(|checkpoint| checkpoint.version >= version) {
            context.outdated.meet(version);
            return Err(StartOver::because(NEWER_VERSION).into());
        }
    }
    loaded
}

async fn of_life(
    context: &Context,
    life: Incarnation,
    applied: u64,
    id: &ConversationId,
    purpose: Purpose,
) -> Result<Loaded, LoadError> {
    let (incarnation, store, version) = (life.number, &*context.store, context.version);
    let mut loaded = conversation(store, version, id).await?;
    // The only process there is has no former owners whose writes could be late.
    if context.exclusive {
        loaded.decided = true;
    } else {
        if purpose == Purpose::Showing {
            loaded = seal::known(store, version, life, id, loaded).await?;
        }
        if purpose == Purpose::Applying || loaded.is_in_doubt_in(incarnation) {
            loaded = seal::once(store, version, life, id, loaded).await?;
        }
    }
    if loaded.latest_life() > incarnation {
        return Err(seal::later_life().into());
    }
    let Some(position) = loaded.conversation.position() else { return Ok(loaded) };
    if life.stands_on(position) && position.sequence > applied {
        if !is_of_this_log(context, &loaded, position).await? {
            let reason = "the log never held what a row was made from";
            return Err(LoadError::StartOver(StartOver { reason, forgotten: Some(incarnation) }));
        }
        loaded.conversation.worked_to(life, position);
    }
    Ok(loaded)
}

async fn is_of_this_log(context: &Context, loaded: &Loaded, position: Position) -> Result<bool, StoreError> {
    let conversation = &loaded.conversation;
    let tag = match loaded.tag {
        Some(tag) => tag,
        // The head was written after this row, so the row is there unless the database forgot it.
        None => match context.store.event(conversation.id(), conversation.seq()).await? {
            Some(row) => row.tag,
            None => return Ok(true),
        },
    };
    let mut backoff = Backoff::new();
    loop {
        match ground::holds(context, Landmark { sequence: position.sequence, tag }).await {
            Ok(held) => return Ok(held),
            Err(error) => {
                tracing::warn!(partition = context.partition, %error, "the log cannot be asked, trying again");
                backoff.wait().await;
            }
        }
    }
}
