//! Loading a conversation: participants and head, then the rows above the head, folded. State is always that of
//! the last contiguous row.

use crate::backoff::Backoff;
use crate::context::{Context, StartOver};
use crate::core::conversation::Conversation;
use crate::core::projection;
use crate::ground::{self, Landmark};
use crate::limits::{LOAD_ROWS_FIRST, LOAD_ROWS_MAX};
use crate::store::{EventRow, Projection, Store, StoreError};
use carillon_proto::id::{ConversationId, Tag};
use carillon_proto::position::Position;
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
    /// Rows were found above the head.
    pub(crate) above_head: bool,
    /// The tag of the newest row, if it was read.
    tag: Option<Tag>,
}

/// Why a conversation could not be loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// For now.
    Store(StoreError),
    /// The rows say that the log, or its life, is not the one that is worked.
    StartOver(StartOver),
}

impl From<StoreError> for LoadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The conversation as far as its rows are contiguous. Each read may see more than the one before, never less: the
/// creation is written before the first event and read after it.
pub(crate) async fn conversation(store: &dyn Store, id: &ConversationId) -> Result<Loaded, StoreError> {
    let from_head = store.load(id).await?;
    let has_head = from_head.head.is_some();
    let conversation = match from_head.head {
        Some(blob) => of_head(id, &blob, from_head.participants)?,
        None => Conversation::new(id.clone(), from_head.participants),
    };
    let mut loaded = Loaded { conversation, projections: Vec::new(), above_head: false, tag: None };
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
    /// Folds a row if it is the next.
    fn fold(&mut self, row: &EventRow) -> Result<bool, StoreError> {
        let event = Arc::new(decode(row)?);
        if !self.conversation.is_followed_by(&event) {
            return Ok(false);
        }
        self.conversation.fold(&event, row.timestamp_us);
        self.projections.extend(projection::of_event(&row.conversation, &event, row.timestamp_us));
        self.above_head = true;
        self.tag = Some(row.tag);
        Ok(true)
    }
}

fn of_head(
    id: &ConversationId,
    blob: &[u8],
    participants: Vec<carillon_proto::id::UserId>,
) -> Result<Conversation, StoreError> {
    let head = wire::Head::decode(blob)
        .map_err(|error| StoreError(format!("the head of {id} does not decode: {error}")))?;
    Conversation::of_head(id.clone(), head, participants).ok_or_else(|| {
        StoreError(format!("the head of {id} was written by a newer version: upgrade this worker"))
    })
}

/// A row's event.
pub(crate) fn decode(row: &EventRow) -> Result<wire::Event, StoreError> {
    wire::Event::decode(row.blob.clone()).map_err(|error| {
        StoreError(format!("row {} of {} does not decode: {error}", row.seq, row.conversation))
    })
}

/// Loads a conversation for applying commands to it. What lies above `applied`, the last entry worked, was
/// written by a worker that is ahead or has crashed, or comes from a log that is no more: the log decides.
pub(crate) async fn for_applying(
    context: &Context,
    incarnation: u32,
    applied: u64,
    id: &ConversationId,
) -> Result<Loaded, LoadError> {
    let loaded = conversation(&*context.store, id).await?;
    let Some(position) = loaded.conversation.position() else { return Ok(loaded) };
    if position.incarnation > incarnation {
        return Err(LoadError::StartOver(StartOver::because(
            "another worker has begun a later life of the log",
        )));
    }
    let ahead = position.incarnation == incarnation && position.sequence > applied;
    if ahead && !is_of_this_log(context, &loaded, position).await? {
        let reason = "the log never held what a row was made from";
        return Err(LoadError::StartOver(StartOver { reason, forgotten: Some(incarnation) }));
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
