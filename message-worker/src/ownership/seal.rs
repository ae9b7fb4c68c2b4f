//! Seals a conversation: decides which rows of earlier incarnations count, before the first command of an incarnation
//! is applied to it (`docs/decisions/0010-a-life-seals-what-came-before.md`).
//!
//! A write of an earlier incarnation whose outcome is unknown may still arrive at any time. A worker that loads the
//! conversation after such a write would fold other rows than a worker that loaded it before, and the two would write
//! different rows at one seq. A seal never excludes an acknowledged row: a worker that starts an incarnation first
//! waits until the former owner acknowledges nothing any more ([`super::tenure`]). By then every acknowledged row is at
//! a QUORUM, so the first worker that loads the conversation finds it.

use super::load::{self, LoadError, Loaded};
use crate::context::StartOver;
use crate::core::incarnation::checkpoint_before_us;
use crate::store::Store;
use carillon_proto::id::ConversationId;
use carillon_proto::position::Incarnation;

/// Seals a conversation, and returns it as every worker that loads it in this incarnation sees it. A head of this
/// incarnation, or one that contains its seal, was written after sealing, so nothing is left to do. Any other
/// conversation is sealed at the rows that were loaded, unless another worker has sealed it already.
pub(crate) async fn once(
    store: &dyn Store,
    version: u32,
    incarnation: Incarnation,
    id: &ConversationId,
    mut loaded: Loaded,
) -> Result<Loaded, LoadError> {
    if loaded.is_decided_in(incarnation.number) {
        loaded.decided = true;
        return Ok(loaded);
    }
    let timestamp_us = checkpoint_before_us(incarnation);
    let mut previous = loaded.conversation.seal();
    loop {
        let known = previous.map_or(0, |seal| seal.incarnation);
        let position = loaded.conversation.position();
        if known.max(position.map_or(0, |position| position.incarnation)) > incarnation.number {
            return Err(later_incarnation().into());
        }
        let next = loaded.seal_in(incarnation.number);
        let in_force = store.seal(id, previous, next, timestamp_us).await?;
        if in_force != next {
            loaded = load::sealed(store, version, id, Some(in_force)).await?;
        }
        if in_force.incarnation == incarnation.number {
            if loaded.seal_in(incarnation.number) != in_force {
                tracing::error!(conversation = %id, ?in_force, "rows that the seal counts are missing");
            }
            loaded.sealed(in_force, timestamp_us);
            return Ok(loaded);
        }
        previous = Some(in_force);
    }
}

/// Returns a conversation as far as its rows are known to count, without writing a seal. [`Loaded::is_in_doubt_in`]
/// returns whether a seal could still change it.
pub(crate) async fn known(
    store: &dyn Store,
    version: u32,
    incarnation: Incarnation,
    id: &ConversationId,
    mut loaded: Loaded,
) -> Result<Loaded, LoadError> {
    loaded.decided = loaded.is_decided_in(incarnation.number);
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

/// The work in this incarnation is over, because a later one exists.
pub(crate) fn later_incarnation() -> StartOver {
    StartOver::because("another worker has begun a later incarnation of the log")
}
