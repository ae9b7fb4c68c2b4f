//! Reads: history, conversations and acquaintances, answered from the store alone, so that any worker can.

use crate::backoff::Backoff;
use crate::core::page;
use crate::limits::{
    ACQUAINTANCE_CONVERSATIONS_MAX, LIST_READS_MAX, PAGE_BYTES_MAX, READS_MAX, RETRY_AFTER_MS,
};
use crate::load;
use crate::metrics;
use crate::store::{EventRow, Store, StoreError};
use bytes::Bytes;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, InvalidId, UserId};
use carillon_proto::limits::{
    HISTORY_LIMIT_DEFAULT, HISTORY_LIMIT_MAX, PRESENCE_PARTICIPANTS_MAX, VISIBLE_USERS_MAX,
};
use carillon_proto::subject;
use carillon_proto::wire::{self, read_reply, read_request};
use carillon_runtime::bus::{Bus, Incoming, Message, Subscription};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Answers reads until `shutdown`, one task each.
pub(crate) async fn serve(bus: Arc<dyn Bus>, store: Arc<dyn Store>, shutdown: CancellationToken) {
    let mut backoff = Backoff::new();
    let mut reads = JoinSet::new();
    loop {
        tokio::select! {
            subscribed = bus.subscribe(subject::READ, Some(subject::READ_GROUP)) => match subscribed {
                Ok(subscription) => hear(subscription, &store, &mut reads, &shutdown).await,
                Err(error) => tracing::warn!(%error, "reads cannot be heard, trying again"),
            },
            () = shutdown.cancelled() => {}
        }
        if shutdown.is_cancelled() {
            break;
        }
        backoff.wait().await;
    }
    // What was asked is answered: a read ends within the store's own timeout.
    while reads.join_next().await.is_some() {}
}

async fn hear(
    mut subscription: Subscription,
    store: &Arc<dyn Store>,
    reads: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) {
    loop {
        tokio::select! {
            incoming = subscription.next() => match incoming {
                Some(Incoming::Message(message)) => take(message, store, reads),
                // Who asked hears nothing and asks again.
                Some(Incoming::Lost) => {}
                None => return,
            },
            Some(_ended) = reads.join_next() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn take(message: Message, store: &Arc<dyn Store>, reads: &mut JoinSet<()>) {
    let Some(reply) = message.reply else { return };
    if reads.len() >= READS_MAX {
        metrics::READS.with_label_values(&["refused"]).inc();
        let busy = Failure::new(ErrorCode::Unavailable, "too many reads at once").retry_after(RETRY_AFTER_MS);
        return reply.send(encode(read_reply::Body::Failure(busy.into())));
    }
    let store = store.clone();
    reads.spawn(async move { reply.send(answer(&*store, message.payload).await) });
}

/// The answer to a `carillon.v1.ReadRequest`.
async fn answer(store: &dyn Store, payload: Bytes) -> Bytes {
    use read_request::Body;
    let body = wire::ReadRequest::decode(payload).ok().and_then(|request| request.body);
    let read = match body {
        Some(Body::Events(read)) => events(store, read).await.map(read_reply::Body::Events),
        Some(Body::Conversation(read)) => conversation(store, read).await.map(read_reply::Body::Conversation),
        Some(Body::Conversations(read)) => {
            conversations(store, read).await.map(read_reply::Body::Conversations)
        }
        Some(Body::Acquaintances(read)) => acquaintances(store, read).await.map(read_reply::Body::Users),
        None => Err(Refused(Failure::invalid_payload("unknown read: upgrade workers before gateways"))),
    };
    let outcome = if read.is_ok() { "answered" } else { "failed" };
    metrics::READS.with_label_values(&[outcome]).inc();
    encode(read.unwrap_or_else(|Refused(failure)| read_reply::Body::Failure(failure.into())))
}

fn encode(body: read_reply::Body) -> Bytes {
    wire::ReadReply { body: Some(body) }.encode_to_vec().into()
}

/// A read that is answered with a failure.
#[derive(Debug)]
struct Refused(Failure);

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a read failed");
        let failure = Failure::new(ErrorCode::Unavailable, "the store cannot be read now");
        Refused(failure.retry_after(RETRY_AFTER_MS))
    }
}

impl From<InvalidId> for Refused {
    fn from(error: InvalidId) -> Self {
        Refused(Failure::invalid_payload(error.to_string()))
    }
}

async fn events(store: &dyn Store, read: wire::ReadEvents) -> Result<wire::Events, Refused> {
    let id = ConversationId::parse(&read.conversation)?;
    if !read.check.is_empty() {
        let loaded = load::conversation(store, &id).await?;
        if !loaded.conversation.participants().contains(read.check.as_str()) {
            return Err(Refused(Failure::forbidden()));
        }
    }
    let limit = limit(read.limit) as usize;
    let page = match read.after_seq {
        Some(after) => {
            let rows = store.events_after(&id, after.saturating_sub(1), limit + 2).await?;
            page::oldest(decode(rows)?, after, limit, PAGE_BYTES_MAX)
        }
        None => {
            let rows = newest(store, &id, read.before_seq.unwrap_or(0), limit + 1).await?;
            page::newest(decode(rows)?, limit, PAGE_BYTES_MAX)
        }
    };
    Ok(wire::Events { events: page.items, has_more: page.has_more })
}

/// The newest rows below `before`, or below what was committed last. A row that a group in flight has written
/// above a gap is not yet part of the conversation, and one that a former life left there never will be.
async fn newest(
    store: &dyn Store,
    id: &ConversationId,
    before: u64,
    limit: usize,
) -> Result<Vec<EventRow>, StoreError> {
    if before > 0 {
        let rows = store.events_before(id, before, limit).await?;
        let adjoining = rows.last().is_some_and(|row| row.seq + 1 == before);
        if adjoining || before == 1 {
            return Ok(rows);
        }
    }
    let head = load::conversation(store, id).await?.conversation.seq();
    store.events_before(id, head + 1, limit).await
}

fn decode(rows: Vec<EventRow>) -> Result<Vec<wire::Event>, StoreError> {
    rows.iter().map(load::decode).collect()
}

async fn conversation(
    store: &dyn Store,
    read: wire::ReadConversation,
) -> Result<wire::ConversationInfo, Refused> {
    let id = ConversationId::parse(&read.conversation)?;
    let loaded = load::conversation(store, &id).await?.conversation;
    if !read.check.is_empty() && !loaded.participants().contains(read.check.as_str()) {
        return Err(Refused(Failure::forbidden()));
    }
    if !loaded.exists() {
        return Err(Refused(Failure::new(ErrorCode::NotFound, "there is no such conversation")));
    }
    Ok(page::info(&loaded, PAGE_BYTES_MAX))
}

async fn conversations(
    store: &dyn Store,
    read: wire::ReadConversations,
) -> Result<wire::Conversations, Refused> {
    let user = UserId::parse(&read.user)?;
    let cursor = if read.cursor.is_empty() { None } else { Some(ConversationId::parse(&read.cursor)?) };
    let limit = limit(read.limit) as usize;
    let ids = store.conversations_of(&user, cursor.as_ref(), limit).await?;
    let has_more = ids.len() == limit;
    let infos: Vec<(ConversationId, Option<wire::ConversationInfo>)> = stream::iter(ids)
        .map(|id| async {
            let loaded = load::conversation(store, &id).await?.conversation;
            // The list follows the rows, which may know of a removal that the projection does not yet.
            let info = loaded.participants().contains(&user).then(|| page::info(&loaded, PAGE_BYTES_MAX / 4));
            Ok::<_, StoreError>((id, info))
        })
        .buffered(LIST_READS_MAX)
        .try_collect()
        .await?;
    Ok(page::list(infos, has_more, PAGE_BYTES_MAX))
}

async fn acquaintances(store: &dyn Store, read: wire::ReadAcquaintances) -> Result<wire::Users, Refused> {
    let user = UserId::parse(&read.user)?;
    let ids = store.conversations_of(&user, None, ACQUAINTANCE_CONVERSATIONS_MAX).await?;
    let mut loads = stream::iter(ids).map(|id| async move { store.load(&id).await }).buffered(LIST_READS_MAX);
    let mut users = BTreeSet::new();
    while let Some(loaded) = loads.try_next().await? {
        if loaded.participants.len() > PRESENCE_PARTICIPANTS_MAX {
            continue;
        }
        for other in loaded.participants.into_iter().filter(|other| *other != user) {
            if users.len() == VISIBLE_USERS_MAX {
                break;
            }
            users.insert(other);
        }
    }
    Ok(wire::Users { users: users.iter().map(|user| user.as_str().to_owned()).collect() })
}

fn limit(asked: u32) -> u32 {
    if asked == 0 { HISTORY_LIMIT_DEFAULT } else { asked.min(HISTORY_LIMIT_MAX) }
}
