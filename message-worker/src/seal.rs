//! A life of the log seals what came before: before anything is applied to a conversation in it, it is decided which
//! rows of earlier lives count (`docs/decisions/0010-a-life-seals-what-came-before.md`).
//!
//! A write of an earlier life whose outcome is unknown may land at any time. Whoever loads the conversation then would
//! fold other rows than who loaded it before, and two workers of one life would write different rows at one seq. Rows
//! that were acknowledged are never shut out: whoever begins another life waits until the former owner acknowledges
//! nothing any more ([`crate::tenure`]), so who loads first finds them at QUORUM.

use crate::context::StartOver;
use crate::core::incarnation::checkpoint_before_us;
use crate::load::{self, LoadError, Loaded};
use crate::store::Store;
use carillon_proto::id::ConversationId;
use carillon_proto::position::Incarnation;

/// A conversation as all see it who load it in this life. A head of this life, or one that knows its seal, was written
/// by somebody who had been here; everything else is sealed at what was loaded, unless that has been done already.
pub(crate) async fn once(
    store: &dyn Store,
    version: u32,
    life: Incarnation,
    id: &ConversationId,
    mut loaded: Loaded,
) -> Result<Loaded, LoadError> {
    if loaded.is_decided_in(life.number) {
        loaded.decided = true;
        return Ok(loaded);
    }
    let timestamp_us = checkpoint_before_us(life);
    let mut previous = loaded.conversation.seal();
    loop {
        let known = previous.map_or(0, |seal| seal.incarnation);
        let position = loaded.conversation.position();
        if known.max(position.map_or(0, |position| position.incarnation)) > life.number {
            return Err(later_life().into());
        }
        let next = loaded.seal_in(life.number);
        let in_force = store.seal(id, previous, next, timestamp_us).await?;
        if in_force != next {
            loaded = load::sealed(store, version, id, Some(in_force)).await?;
        }
        if in_force.incarnation == life.number {
            if loaded.seal_in(life.number) != in_force {
                tracing::error!(conversation = %id, ?in_force, "rows that were sealed are not there any more");
            }
            loaded.sealed(in_force, timestamp_us);
            return Ok(loaded);
        }
        previous = Some(in_force);
    }
}

/// A conversation as far as it is known without writing anything which rows of earlier lives count. Whether that is all
/// that it comes to says [`Loaded::is_in_doubt_in`].
pub(crate) async fn known(
    store: &dyn Store,
    version: u32,
    life: Incarnation,
    id: &ConversationId,
    mut loaded: Loaded,
) -> Result<Loaded, LoadError> {
    loaded.decided = loaded.is_decided_in(life.number);
    if loaded.decided {
        return Ok(loaded);
    }
    let known = store.known_seal(id).await?;
    let held_against = loaded.seal().map_or(0, |seal| seal.incarnation);
    if known.is_some_and(|seal| seal.incarnation > held_against) {
        loaded = load::sealed(store, version, id, known).await?;
    }
    Ok(loaded)
}

/// Work in this life is over.
pub(crate) fn later_life() -> StartOver {
    StartOver::because("another worker has begun a later life of the log")
}
