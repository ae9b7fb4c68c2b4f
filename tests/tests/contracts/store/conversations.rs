//! The contract of projections: heads, participants, and accepted client ids.

use super::{Place, conversation, permutations, unique, user};
use bytes::Bytes;
use carillon_message_worker::store::{Author, Projection, SentRow, Store};
use carillon_proto::id::{ConversationId, UserId};

fn head(conversation: &ConversationId, timestamp_us: i64) -> Projection {
    let blob = Bytes::from(format!("head of {timestamp_us}"));
    Projection::Head { conversation: conversation.clone(), timestamp_us, blob }
}

fn participant(conversation: &ConversationId, user: &UserId, timestamp_us: i64, present: bool) -> Projection {
    Projection::Participant { conversation: conversation.clone(), user: user.clone(), timestamp_us, present }
}

fn author(id: &str) -> Author {
    Author::parse(id).expect("a user's id, or none")
}

fn sent(conversation: &ConversationId, sender: &Author, number: u64) -> (Projection, SentRow) {
    let row = SentRow { client_id: format!("c-{number}"), seq: number, time_ms: 1_700_000_000_000 + number };
    let projection = Projection::Sent {
        conversation: conversation.clone(),
        sender: sender.clone(),
        timestamp_us: 1_700_000_000_000_000 + number as i64,
        time_ms: row.time_ms,
        client_id: row.client_id.clone(),
        seq: row.seq,
    };
    (projection, row)
}

async fn project(store: &dyn Store, projections: impl IntoIterator<Item = Projection>) {
    store.project(projections.into_iter().collect()).await.expect("projected");
}

/// Former owners may write late. The write timestamp, which follows from the log position, decides instead of the
/// order.
pub async fn the_newest_head_wins_in_every_order_of_writes(place: Place) {
    let store = place.open().await;
    for order in permutations(&[10, 20, 30]) {
        let room = conversation(&unique("room"));
        assert_eq!(store.load(&room).await.expect("loaded").head, None);
        for timestamp_us in &order {
            project(&*store, [head(&room, *timestamp_us)]).await;
        }
        assert_eq!(
            store.load(&room).await.expect("loaded").head,
            Some(Bytes::from("head of 30")),
            "{order:?}"
        );
    }
    let room = conversation(&unique("room"));
    project(&*store, [10, 30, 20].map(|timestamp_us| head(&room, timestamp_us))).await;
    assert_eq!(
        store.load(&room).await.expect("loaded").head,
        Some(Bytes::from("head of 30")),
        "the newest head of one call must be kept"
    );
}

/// Removals have timestamps too, so a late write of an earlier addition does not bring a participant back.
pub async fn the_latest_change_of_a_participant_wins_in_every_order(place: Place) {
    let store = place.open().await;
    let changes = [(10, true), (20, false), (30, true), (40, false)];
    for count in 1..=changes.len() {
        for order in permutations(&changes[..count]) {
            let (room, ann) = (conversation(&unique("room")), user(&unique("ann")));
            for (timestamp_us, present) in &order {
                project(&*store, [participant(&room, &ann, *timestamp_us, *present)]).await;
            }
            let present = count % 2 == 1;
            let participants = store.load(&room).await.expect("loaded").participants;
            assert_eq!(participants.contains(&ann), present, "{order:?}");
            let listed = store.conversations_of(&ann, None, 10).await.expect("listed");
            assert_eq!(listed.contains(&room), present, "{order:?}");
        }
    }
}

pub async fn conversations_are_listed_in_pages(place: Place) {
    let (store, ann) = (place.open().await, user(&unique("ann")));
    let base = unique("room");
    let mut rooms: Vec<_> = (0..25).map(|number| conversation(&format!("{base}-{number}"))).collect();
    project(&*store, (1..).zip(&rooms).map(|(at, room)| participant(room, &ann, at, true))).await;
    // The user leaves every fifth conversation, which must not make a page shorter.
    project(&*store, rooms.iter().step_by(5).map(|room| participant(room, &ann, 100, false))).await;
    let mut number = 0;
    rooms.retain(|_| {
        number += 1;
        number % 5 != 1
    });
    rooms.sort();
    assert_eq!(store.conversations_of(&ann, None, 1_000).await.expect("listed"), rooms);
    let (mut listed, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.conversations_of(&ann, cursor.as_ref(), 6).await.expect("listed");
        assert_eq!(page.len(), (rooms.len() - listed.len()).min(6), "every page but the last must be full");
        let Some(last) = page.last().cloned() else { break };
        cursor = Some(last);
        listed.extend(page);
    }
    assert_eq!(listed, rooms);
    assert_eq!(store.conversations_of(&ann, None, 0).await.expect("listed"), []);
    assert_eq!(store.conversations_of(&user(&unique("bob")), None, 10).await.expect("listed"), []);
}

pub async fn participants_are_listed_in_ascending_order(place: Place) {
    let (store, room) = (place.open().await, conversation(&unique("room")));
    let mut users: Vec<_> = ["b", "a|1", "a", "ab", "c@x.org", "Z"].map(user).to_vec();
    project(&*store, users.iter().map(|user| participant(&room, user, 5, true))).await;
    users.sort();
    assert_eq!(store.load(&room).await.expect("loaded").participants, users);
}

/// Deduplication loads a sender's newest client ids, so the limit must drop the oldest.
pub async fn sent_client_ids_are_read_newest_first(place: Place) {
    let (store, room, ann) = (place.open().await, conversation(&unique("room")), author(&unique("ann")));
    let (projections, mut rows): (Vec<_>, Vec<_>) = (1..=50).map(|number| sent(&room, &ann, number)).unzip();
    // The later half is written first, and ten rows are written twice.
    project(&*store, projections[25..].to_vec()).await;
    project(&*store, projections[..25].to_vec()).await;
    project(&*store, projections[20..30].to_vec()).await;
    rows.reverse();
    assert_eq!(store.sent(&room, &ann, 1_000).await.expect("read"), rows);
    assert_eq!(store.sent(&room, &ann, 7).await.expect("read"), rows[..7]);
    assert_eq!(store.sent(&room, &ann, 0).await.expect("read"), []);
}

/// Guards the embedded store's keys: ids that are prefixes of each other must not share a range.
pub async fn sent_client_ids_of_similar_conversations_and_senders_are_separate(place: Place) {
    let (store, room, ann) = (place.open().await, unique("room"), unique("ann"));
    let pairs: Vec<_> = ["", "1", "11"]
        .iter()
        .flat_map(|end| ["", "1", "11", "backend"].map(|other| (*end, other)))
        .collect();
    let ids = |(end, other): &(&str, &str)| {
        let sender = if *other == "backend" { author("") } else { author(&format!("{ann}{other}")) };
        (conversation(&format!("{room}{end}")), sender)
    };
    for (number, pair) in (1..).zip(&pairs) {
        let (room, ann) = ids(pair);
        project(&*store, [sent(&room, &ann, number).0]).await;
    }
    for (number, pair) in (1..).zip(&pairs) {
        let (room, ann) = ids(pair);
        assert_eq!(
            store.sent(&room, &ann, 10).await.expect("read"),
            [sent(&room, &ann, number).1],
            "{pair:?}"
        );
    }
}
