//! Tests idempotency keys, and pages of messages with long runs of other events between them.

use super::*;
use crate::rest::tests::{Api, bearer};
use carillon_proto::code::ErrorCode;
use carillon_proto::subject;
use carillon_runtime::bus::{Bus, Incoming};
use prost::Message as _;
use serde_json::{Value, json};

/// The last event's seq. Seqs 1 and this one are messages; all events between are changes.
const LAST_SEQ: u64 = 2_500;

fn event(seq: u64) -> wire::Event {
    let kind = match seq {
        1 | LAST_SEQ => Kind::Message(wire::SendMessage { content: "hi".into(), ..Default::default() }),
        _ => Kind::Updated(wire::UpdateConversation {
            archived: Some(seq.is_multiple_of(2)),
            ..Default::default()
        }),
    };
    wire::Event { conversation: "room".into(), seq, kind: Some(kind), ..Default::default() }
}

/// A worker's answer.
fn answer(read: &wire::ReadEvents) -> wire::Events {
    let limit = u64::from(read.limit);
    let (first, last) = match (read.after_seq, read.before_seq) {
        (Some(after), _) => (after + 1, LAST_SEQ.min(after + limit)),
        (None, before) => {
            let last = before.filter(|before| *before > 0).map_or(LAST_SEQ, |before| before - 1);
            ((last + 1).saturating_sub(limit).max(1), last)
        }
    };
    let has_more = if read.after_seq.is_some() { last < LAST_SEQ } else { first > 1 };
    wire::Events { events: (first..=last).map(event).collect(), has_more }
}

async fn api_with_events() -> Api {
    let mut api = Api::start(|_| {});
    let mut reads = api.bus.subscribe(subject::READ, None).await.expect("subscribed");
    api.tasks.spawn(async move {
        while let Some(Incoming::Message(message)) = reads.next().await {
            let request = wire::ReadRequest::decode(message.payload).expect("a read");
            let Some(wire::read_request::Body::Events(read)) = request.body else {
                panic!("not a request for events")
            };
            assert_eq!(read.check, "ann");
            let body = Some(wire::read_reply::Body::Events(answer(&read)));
            message.reply.expect("a request").send(wire::ReadReply { body }.encode_to_vec().into());
        }
    });
    api
}

/// Reads all pages in one direction. Returns the seqs of each page's messages.
async fn walk(first: &str, next: &str) -> Vec<Vec<u64>> {
    let (api, token) = (api_with_events().await, bearer(60));
    let (mut pages, mut query) = (Vec::new(), first.to_owned());
    loop {
        let path = format!("/api/conversations/room/messages?limit=1&{query}");
        let page: Value = api.get(&path, &[("authorization", &token)]).await.json();
        let messages = page["messages"].as_array().expect("a list");
        pages.push(messages.iter().map(|message| message["seq"].as_u64().expect("a seq")).collect());
        if page["hasMore"] == json!(false) {
            assert_eq!(page.get("nextSeq"), None);
            return pages;
        }
        query = format!("{next}={}", page["nextSeq"]);
        assert!(pages.len() < 10, "{pages:?}");
    }
}

#[tokio::test]
async fn a_page_ends_early_in_a_long_run_of_changes_and_the_next_continues() {
    assert_eq!(walk("", "beforeSeq").await, [vec![LAST_SEQ], vec![], vec![1]]);
    assert_eq!(walk("afterSeq=0", "afterSeq").await, [vec![1], vec![], vec![LAST_SEQ]]);
}

fn headers(key: &str) -> HeaderMap {
    HeaderMap::from_iter([("idempotency-key".parse().expect("a name"), key.parse().expect("a value"))])
}

#[test]
fn the_idempotency_key_is_in_the_header_or_the_body() {
    let none = HeaderMap::new();
    assert_eq!(client_id(&none, None), Ok(None));
    assert_eq!(client_id(&none, Some("a-1")), Ok(Some("a-1".into())));
    assert_eq!(client_id(&headers("\"a-1\""), None), Ok(Some("a-1".into())));
    assert_eq!(client_id(&headers("a-1"), Some("a-1")), Ok(Some("a-1".into())));
    for (headers, body) in
        [(headers("a-1"), Some("a-2")), (headers("a b"), None), (headers("~a"), None), (none, Some(""))]
    {
        let refused = client_id(&headers, body).expect_err("refused");
        assert_eq!(refused.code, ErrorCode::InvalidPayload, "{headers:?} {body:?}");
    }
}
