//! Reads: history, conversations and acquaintances. They are answered from the store alone, so any worker can answer
//! them.

use crate::backoff::Backoff;
use crate::core::conversation::Conversation;
use crate::core::page;
use crate::limits::{
    ACQUAINTANCE_CONVERSATIONS_MAX, LIST_READS_MAX, PAGE_BYTES_MAX, READS_MAX, RETRY_AFTER_MS,
};
use crate::metrics;
use crate::ownership::load::{self, LoadError};
use crate::ownership::seal;
use crate::ownership::tenure;
use crate::store::{EventRow, Store, StoreError};
use bytes::Bytes;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, InvalidId, UserId};
use carillon_proto::limits::{
    HISTORY_LIMIT_DEFAULT, HISTORY_LIMIT_MAX, PRESENCE_PARTICIPANTS_MAX, VISIBLE_USERS_MAX,
};
use carillon_proto::wire::{self, read_reply, read_request};
use carillon_proto::{partition, subject};
use carillon_runtime::bus::{Bus, Incoming, Message, Subscription};
use futures_util::stream::{self, StreamExt as _};
use prost::Message as _;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Attempts to read one conversation while other incarnations begin. Each may take a second.
const JUDGEMENTS_MAX: u32 = 3;

/// What reads are answered from.
pub(crate) struct Reads {
    pub(crate) store: Arc<dyn Store>,
    /// The number of partitions of the command log.
    pub(crate) partitions: u32,
    /// The log belongs to this process alone.
    pub(crate) exclusive: bool,
    /// The newest version of the state machine that this build knows.
    pub(crate) version: u32,
}

/// Answers reads until `shutdown`, each in a task of its own.
pub(crate) async fn serve(bus: Arc<dyn Bus>, source: Reads, shutdown: CancellationToken) {
    let source = Arc::new(source);
    let mut backoff = Backoff::new();
    let mut reads = JoinSet::new();
    loop {
        tokio::select! {
            subscribed = bus.subscribe(subject::READ, Some(subject::READ_GROUP)) => match subscribed {
                Ok(subscription) => receive(subscription, &source, &mut reads, &shutdown).await,
                Err(error) => tracing::warn!(%error, "cannot subscribe to reads, trying again"),
            },
            () = shutdown.cancelled() => {}
        }
        if shutdown.is_cancelled() {
            break;
        }
        backoff.wait().await;
    }
    // Reads that were accepted are still answered. Each ends within the store's own timeout.
    while reads.join_next().await.is_some() {}
}

async fn receive(
    mut subscription: Subscription,
    source: &Arc<Reads>,
    reads: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) {
    loop {
        tokio::select! {
            incoming = subscription.next() => match incoming {
                Some(Incoming::Message(message)) => start_read(message, source, reads),
                // The gateway gets no reply and repeats its request.
                Some(Incoming::Lost) => {}
                None => return,
            },
            Some(_ended) = reads.join_next() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn start_read(message: Message, source: &Arc<Reads>, reads: &mut JoinSet<()>) {
    let Some(reply) = message.reply else { return };
    if reads.len() >= READS_MAX {
        metrics::READS.with_label_values(&["refused"]).inc();
        let busy = Failure::new(ErrorCode::Unavailable, "too many reads at once").retry_after(RETRY_AFTER_MS);
        return reply.send(encode(read_reply::Body::Failure(busy.into())));
    }
    let source = source.clone();
    reads.spawn(async move { reply.send(answer(&source, message.payload).await) });
}

/// The reply to a `carillon.v1.ReadRequest`.
async fn answer(source: &Reads, payload: Bytes) -> Bytes {
    use read_request::Body;
    let body = wire::ReadRequest::decode(payload).ok().and_then(|request| request.body);
    let read = match body {
        Some(Body::Events(read)) => events(source, read).await.map(read_reply::Body::Events),
        Some(Body::Conversation(read)) => {
            conversation(source, read).await.map(read_reply::Body::Conversation)
        }
        Some(Body::Conversations(read)) => {
            conversations(source, read).await.map(read_reply::Body::Conversations)
        }
        Some(Body::Acquaintances(read)) => acquaintances(source, read).await.map(read_reply::Body::Users),
        None => Err(ReadFailure(Failure::invalid_payload("unknown read: upgrade workers before gateways"))),
    };
    let outcome = if read.is_ok() { "answered" } else { "failed" };
    metrics::READS.with_label_values(&[outcome]).inc();
    encode(read.unwrap_or_else(|ReadFailure(failure)| read_reply::Body::Failure(failure.into())))
}

fn encode(body: read_reply::Body) -> Bytes {
    wire::ReadReply { body: Some(body) }.encode_to_vec().into()
}

/// A read that is answered with a failure.
#[derive(Debug)]
struct ReadFailure(Failure);

impl From<StoreError> for ReadFailure {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a read failed");
        let failure = Failure::new(ErrorCode::Unavailable, "the store cannot be read now");
        ReadFailure(failure.retry_after(RETRY_AFTER_MS))
    }
}

impl From<LoadError> for ReadFailure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => error.into(),
            LoadError::Unreadable(unreadable) => StoreError::from(unreadable).into(),
            LoadError::StartOver(start_over) => StoreError(start_over.to_string()).into(),
        }
    }
}

impl From<InvalidId> for ReadFailure {
    fn from(error: InvalidId) -> Self {
        ReadFailure(Failure::invalid_payload(error.to_string()))
    }
}

impl Reads {
    /// Loads a conversation as far as its rows certainly count, so that no later seal excludes one of them.
    ///
    /// A row of the present incarnation counts if no row before it is missing. The incarnation is read after the rows,
    /// so a worker that starts a later incarnation loads the conversation after that, and finds the row. A row that an
    /// earlier incarnation left above the head may still be excluded: a worker that seals the conversation may have
    /// loaded it before the row arrived. So such a conversation is sealed here, as its owner would seal it
    /// (`docs/decisions/0010-a-life-seals-what-came-before.md`).
    async fn committed(&self, id: &ConversationId) -> Result<Conversation, LoadError> {
        let (store, version) = (&*self.store, self.version);
        for _ in 0..JUDGEMENTS_MAX {
            let loaded = load::conversation(store, version, id).await?;
            // No write of this process arrives late, and its rows are visible only when they are durable.
            if self.exclusive {
                return Ok(loaded.conversation);
            }
            let partition = partition::of_conversation(id, self.partitions);
            let Some(incarnation) = store.incarnation(partition).await? else {
                return Ok(loaded.conversation);
            };
            let loaded = seal::known(store, version, incarnation, id, loaded).await?;
            if !loaded.is_in_doubt_in(incarnation.number) {
                return Ok(loaded.conversation);
            }
            tenure::wait_for_last_acknowledgements().await;
            let loaded = load::conversation(store, version, id).await?;
            match seal::once(store, version, incarnation, id, loaded).await {
                Ok(sealed) => return Ok(sealed.conversation),
                // Another incarnation has begun meanwhile.
                Err(LoadError::StartOver(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError("the partition's owner changes too often".into()).into())
    }
}

async fn events(source: &Reads, read: wire::ReadEvents) -> Result<wire::Events, ReadFailure> {
    let id = ConversationId::parse(&read.conversation)?;
    let mut up_to = read.up_to_seq;
    if up_to.is_none() || !read.check.is_empty() {
        let committed = source.committed(&id).await?;
        if !read.check.is_empty() && !committed.participants().contains(read.check.as_str()) {
            return Err(ReadFailure(Failure::forbidden()));
        }
        up_to.get_or_insert(committed.seq());
    }
    let (up_to, limit) = (up_to.unwrap_or(0), limit(read.limit) as usize);
    let page = match read.after_seq {
        Some(after) => {
            let mut rows = source.store.events_after(&id, after.saturating_sub(1), limit + 2).await?;
            rows.retain(|row| row.seq <= up_to);
            page::oldest(decode(rows)?, after, limit, PAGE_BYTES_MAX)
        }
        None => {
            let below = read.before_seq.filter(|before| *before > 0).unwrap_or(u64::MAX);
            let below = below.min(up_to.saturating_add(1));
            let rows = source.store.events_before(&id, below, limit + 1).await?;
            page::newest(decode(rows)?, limit, PAGE_BYTES_MAX)
        }
    };
    Ok(wire::Events { events: page.items, has_more: page.has_more })
}

fn decode(rows: Vec<EventRow>) -> Result<Vec<wire::Event>, StoreError> {
    rows.iter().map(|row| load::decode(row).map_err(StoreError::from)).collect()
}

async fn conversation(
    source: &Reads,
    read: wire::ReadConversation,
) -> Result<wire::ConversationInfo, ReadFailure> {
    let id = ConversationId::parse(&read.conversation)?;
    let loaded = source.committed(&id).await?;
    if !read.check.is_empty() && !loaded.participants().contains(read.check.as_str()) {
        return Err(ReadFailure(Failure::forbidden()));
    }
    if !loaded.exists() {
        return Err(ReadFailure(Failure::new(ErrorCode::NotFound, "there is no such conversation")));
    }
    Ok(page::info(&loaded, PAGE_BYTES_MAX))
}

async fn conversations(
    source: &Reads,
    read: wire::ReadConversations,
) -> Result<wire::Conversations, ReadFailure> {
    let user = UserId::parse(&read.user)?;
    let cursor = if read.cursor.is_empty() { None } else { Some(ConversationId::parse(&read.cursor)?) };
    let limit = limit(read.limit) as usize;
    let ids = source.store.conversations_of(&user, cursor.as_ref(), limit).await?;
    let has_more = ids.len() == limit;
    let loads = stream::iter(ids).map(async |id| {
        let loaded = source.committed(&id).await;
        // The list follows the rows, which may contain a removal that the projection does not have yet.
        let is_theirs = |loaded: &Conversation| loaded.participants().contains(&user);
        let info = |loaded: Conversation| is_theirs(&loaded).then(|| page::info(&loaded, PAGE_BYTES_MAX / 4));
        (id, loaded.map(info))
    });
    let loaded = readable(loads.buffered(LIST_READS_MAX).collect().await)?;
    let infos = loaded.into_iter().map(|(id, info)| (id, info.flatten())).collect();
    Ok(page::list(infos, has_more, PAGE_BYTES_MAX))
}

/// The part of a list that could be read. A damaged conversation is left out, so that it does not fail the whole list.
/// If no conversation could be read, the cause is the store, and the list fails.
fn readable<T>(
    loaded: Vec<(ConversationId, Result<T, LoadError>)>,
) -> Result<Vec<(ConversationId, Option<T>)>, ReadFailure> {
    let any_read = loaded.iter().any(|(_, loaded)| !matches!(loaded, Err(LoadError::Store(_))));
    let left_out = |id: &ConversationId, error: &LoadError| {
        metrics::LEFT_OUT.inc();
        tracing::warn!(conversation = %id, ?error, "a list leaves out a conversation that cannot be read");
    };
    let read = loaded.into_iter().map(|(id, loaded)| match loaded {
        Ok(loaded) => Ok((id, Some(loaded))),
        Err(error) if any_read => {
            left_out(&id, &error);
            Ok((id, None))
        }
        Err(error) => Err(error.into()),
    });
    read.collect()
}

async fn acquaintances(source: &Reads, read: wire::ReadAcquaintances) -> Result<wire::Users, ReadFailure> {
    let user = UserId::parse(&read.user)?;
    let ids = source.store.conversations_of(&user, None, ACQUAINTANCE_CONVERSATIONS_MAX).await?;
    let loads = stream::iter(ids).map(async |id| {
        let mut loaded = source.store.load(&id).await.map(|loaded| loaded.participants);
        if let Ok(participants) = &mut loaded
            && participants.len() > PRESENCE_PARTICIPANTS_MAX
        {
            *participants = Vec::new();
        }
        (id, loaded.map_err(LoadError::from))
    });
    let loaded = readable(loads.buffered(LIST_READS_MAX).collect().await)?;
    let mut users = BTreeSet::new();
    for participants in loaded.into_iter().filter_map(|(_, participants)| participants) {
        for other in participants.into_iter().filter(|other| *other != user) {
            if users.len() == VISIBLE_USERS_MAX {
                break;
            }
            users.insert(other);
        }
    }
    Ok(wire::Users { users: users.iter().map(|user| user.as_str().to_owned()).collect() })
}

fn limit(requested: u32) -> u32 {
    if requested == 0 { HISTORY_LIMIT_DEFAULT } else { requested.min(HISTORY_LIMIT_MAX) }
}
