//! Reads, which any worker answers from the store alone.

use super::harness::{World, content};
use super::memory::{Call, Fault, MemoryStore};
use crate::core::versions::VERSION;
use crate::query;
use carillon_proto::subject;
use carillon_proto::wire::{self, command::Body, read_reply, read_request};
use carillon_runtime::bus::Bus as _;
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

struct ReadingWorker {
    world: World,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// Another worker that answers reads. Partition 0 is the only partition.
pub(super) fn source(store: Arc<MemoryStore>) -> query::Reads {
    query::Reads { store, partitions: 1, exclusive: false, version: VERSION }
}

/// A world with `room` of ann and bob with ten messages, `open` with one message, and `hall` of ann and eve.
async fn reading() -> ReadingWorker {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    let create = |request, id: &str, other: &str| {
        let create = wire::CreateConversation {
            title: id.into(),
            participants: vec![other.into()],
            ..Default::default()
        };
        gateway.command(request, id, "ann", Body::CreateConversation(create))
    };
    let mut commands =
        vec![create(100, "room", "bob"), create(101, "hall", "eve"), gateway.send(102, "open", "o1")];
    commands.extend((1..=10).map(|n| gateway.send(n, "room", &format!("m{n}"))));
    world.publish(commands).await;
    gateway.outcome(10).await;
    working.stop().await;
    let stop = CancellationToken::new();
    let task = tokio::spawn(query::serve(world.bus.clone(), source(world.store.clone()), stop.clone()));
    ReadingWorker { world, stop, task }
}

impl ReadingWorker {
    async fn request(&self, body: read_request::Body) -> read_reply::Body {
        let request = wire::ReadRequest { body: Some(body) }.encode_to_vec();
        loop {
            let reply =
                self.world.bus.request(subject::READ, request.clone().into(), Duration::from_secs(10)).await;
            match reply {
                Ok(reply) => {
                    return wire::ReadReply::decode(reply).expect("decodes").body.expect("not empty");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn events(&self, read: wire::ReadEvents) -> (Vec<String>, bool) {
        match self.request(read_request::Body::Events(read)).await {
            read_reply::Body::Events(page) => (page.events.iter().map(content).collect(), page.has_more),
            other => panic!("not events: {other:?}"),
        }
    }

    async fn failure(&self, body: read_request::Body) -> String {
        match self.request(body).await {
            read_reply::Body::Failure(failure) => failure.code,
            other => panic!("not a failure: {other:?}"),
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("it ends");
    }
}

fn of(conversation: &str, limit: u32) -> wire::ReadEvents {
    wire::ReadEvents { conversation: conversation.into(), limit, ..wire::ReadEvents::default() }
}

fn texts(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|n| format!("m{n}")).collect()
}

#[tokio::test]
async fn history_is_read_forwards_and_backwards() {
    let reading = reading().await;
    let after = |after_seq, limit| wire::ReadEvents { after_seq: Some(after_seq), ..of("room", limit) };
    let before = |before_seq, limit| wire::ReadEvents { before_seq: Some(before_seq), ..of("room", limit) };
    assert_eq!(reading.events(of("room", 3)).await, (texts(8..=10), true));
    assert_eq!(reading.events(of("room", 0)).await, (texts(1..=10), false));
    assert_eq!(reading.events(before(0, 10)).await, (texts(1..=10), false));
    assert_eq!(reading.events(before(8, 3)).await, (texts(5..=7), true));
    assert_eq!(reading.events(before(3, 3)).await, (texts(1..=2), false));
    assert_eq!(reading.events(before(1, 3)).await, (vec![], false));
    assert_eq!(reading.events(before(u64::MAX, 3)).await, (texts(8..=10), true));
    assert_eq!(reading.events(after(0, 4)).await, (texts(1..=4), true));
    assert_eq!(reading.events(after(7, 3)).await, (texts(8..=10), false));
    assert_eq!(reading.events(after(10, 3)).await, (vec![], false));
    assert_eq!(reading.events(after(99, 3)).await, (vec![], false));
    assert_eq!(reading.events(of("nowhere", 3)).await, (vec![], false));
    reading.end().await;
}

#[tokio::test]
async fn rows_above_a_gap_are_not_part_of_the_conversation() {
    let reading = reading().await;
    reading.world.store.change(|tables| {
        let row = tables.events[&("room".to_owned(), 10)].clone();
        tables.events.insert(("room".to_owned(), 12), crate::store::EventRow { seq: 12, ..row });
    });
    assert_eq!(reading.events(of("room", 2)).await, (texts(9..=10), true));
    assert_eq!(
        reading.events(wire::ReadEvents { after_seq: Some(9), ..of("room", 9) }).await,
        (texts(10..=10), false)
    );
    reading.end().await;
}

#[tokio::test]
async fn users_that_do_not_participate_are_refused() {
    let reading = reading().await;
    let check = |conversation: &str, check: &str| {
        read_request::Body::Events(wire::ReadEvents { check: check.into(), ..of(conversation, 5) })
    };
    assert_eq!(reading.failure(check("room", "eve")).await, "forbidden");
    assert_eq!(reading.failure(check("nowhere", "eve")).await, "forbidden");
    let conversation = |id: &str, check: &str| {
        read_request::Body::Conversation(wire::ReadConversation {
            conversation: id.into(),
            check: check.into(),
        })
    };
    assert_eq!(reading.failure(conversation("room", "eve")).await, "forbidden");
    assert_eq!(reading.failure(conversation("nowhere", "eve")).await, "forbidden");
    assert_eq!(reading.failure(conversation("nowhere", "")).await, "not_found");
    assert_eq!(reading.failure(conversation("a b", "")).await, "invalid_payload");
    let allowed = reading.request(check("room", "bob")).await;
    assert!(matches!(allowed, read_reply::Body::Events(page) if page.events.len() == 5));
    reading.world.store.fail(Call::Load, &[Fault::Lost]);
    assert_eq!(reading.failure(conversation("room", "ann")).await, "unavailable");
    reading.end().await;
}

#[tokio::test]
async fn a_conversation_is_read_with_the_rows_above_its_head() {
    let reading = reading().await;
    reading.world.store.change(|tables| tables.heads.clear());
    let read = wire::ReadConversation { conversation: "room".into(), check: "ann".into() };
    let read_reply::Body::Conversation(info) = reading.request(read_request::Body::Conversation(read)).await
    else {
        panic!("not a conversation")
    };
    let head = info.head.expect("the conversation has a head");
    assert_eq!((head.seq, head.messages, head.title.as_str(), head.created), (10, 10, "room", true));
    assert_eq!(info.participants, ["ann", "bob"]);
    reading.end().await;
}

#[tokio::test]
async fn a_users_conversations_and_acquaintances_are_listed() {
    let reading = reading().await;
    let list = async |user: &str, cursor: &str, limit| {
        let read = wire::ReadConversations { user: user.into(), cursor: cursor.into(), limit };
        match reading.request(read_request::Body::Conversations(read)).await {
            read_reply::Body::Conversations(list) => {
                let names: Vec<String> =
                    list.conversations.into_iter().map(|info| info.conversation).collect();
                (names, list.next_cursor)
            }
            other => panic!("not a list: {other:?}"),
        }
    };
    assert_eq!(list("ann", "", 0).await, (vec!["hall".into(), "room".into()], String::new()));
    assert_eq!(list("ann", "", 1).await, (vec!["hall".into()], "hall".into()));
    assert_eq!(list("ann", "hall", 5).await, (vec!["room".into()], String::new()));
    assert_eq!(list("nobody", "", 5).await, (vec![], String::new()));
    let known = async |user: &str| {
        let read = wire::ReadAcquaintances { user: user.into() };
        match reading.request(read_request::Body::Acquaintances(read)).await {
            read_reply::Body::Users(users) => users.users,
            other => panic!("not users: {other:?}"),
        }
    };
    assert_eq!(known("ann").await, ["bob", "eve"]);
    assert_eq!(known("bob").await, ["ann"]);
    // A conversation with more than 100 participants makes no acquaintances.
    reading.world.store.change(|tables| {
        for n in 0..120 {
            tables.participants.insert(("hall".into(), format!("u{n}")), (1, true));
        }
    });
    assert_eq!(known("ann").await, ["bob"]);
    reading.end().await;
}
