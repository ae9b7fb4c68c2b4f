//! The auditor beside a worker. A sound system has no findings, however busy it is, and each kind of damage to the
//! tables is found.

use super::bus::TestBus;
use super::harness::{Gateway, INCARNATION, World, conversations_of, free, until};
use super::memory::{Call, Fault, MemoryStore};
use super::tables::Tables;
use crate::audit::{Auditor, Kind, Options, Report};
use crate::store::EventRow;
use bytes::Bytes;
use carillon_proto::id::{ConversationId, MessageId, Tag};
use carillon_proto::position::Position;
use carillon_proto::wire::{self, Authority, command::Body};
use carillon_runtime::bus::Bus as _;
use prost::Message as _;
use std::time::Duration;

const MESSAGES: u64 = 8;
const PAUSE: Duration = Duration::from_millis(30);

pub(super) fn auditor(world: &World, rows: usize, named: &[&str]) -> Auditor {
    let conversations = named.iter().map(|id| ConversationId::parse(id).expect("valid")).collect();
    let options = Options { partitions: world.partitions, rows, conversations };
    Auditor::new(world.bus.clone(), world.store.clone(), options).looking_again_after(PAUSE)
}

async fn audit(world: &World) -> Report {
    auditor(world, 10_000, &[]).run().await
}

/// Each finding as `kind seq`.
fn found(report: &Report) -> Vec<String> {
    report.findings.iter().map(|finding| format!("{} {}", finding.kind.as_str(), finding.seq)).collect()
}

/// A worked and checkpointed conversation of [`MESSAGES`] messages, with one repeated and one refused command.
async fn worked() -> (World, Gateway) {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    for n in 1..=MESSAGES {
        world.publish(vec![gateway.send(n, "room", &format!("m{n}"))]).await;
    }
    let again = wire::Command { request: 20, ..gateway.send(3, "room", "m3") };
    let refused =
        wire::Command { authority: Authority::Participant.into(), ..gateway.send(21, "room", "refused") };
    let last = world.publish(vec![again, refused]).await;
    gateway.outcome(21).await;
    working.stop_when(&world, last).await;
    assert_eq!(gateway.outcomes[&20].len() + gateway.outcomes[&21].len(), 2);
    (world, gateway)
}

/// Moves a row to another seq and position, and changes its event and timestamp to match.
fn moved(row: &EventRow, seq: u64, position: Position) -> EventRow {
    let mut event = wire::Event::decode(row.blob.clone()).expect("an event");
    (event.seq, event.position) = (seq, Some(position.into()));
    let id = MessageId::new(event.time_ms, seq, row.conversation.as_str(), position);
    event.id = Bytes::copy_from_slice(id.as_bytes());
    let timestamp_us = INCARNATION.timestamp_us(position.sequence, position.index);
    EventRow { seq, position, timestamp_us, blob: event.encode_to_vec().into(), ..row.clone() }
}

fn key(seq: u64) -> (String, u64) {
    ("room".into(), seq)
}

#[tokio::test]
async fn a_sound_system_has_no_findings() {
    let (world, _gateway) = worked().await;
    let report = audit(&world).await;
    assert!(report.is_ok(), "{report}");
    let total = report.total;
    assert_eq!((total.conversations, total.rows, total.entries), (1, MESSAGES, MESSAGES + 1));
    assert_eq!((total.commands, total.pending, total.rows_above_head), (MESSAGES + 2, 0, 0));
    world.publish(vec![wire::Command { client_id: "later".into(), ..Default::default() }]).await;
    assert_eq!(audit(&world).await.total.pending, 1, "a command that is not applied yet counts as pending");
}

/// A change to the tables. It is given the tag of the log's last entry.
type Damage = fn(&mut Tables, Tag);

/// A name, the damage, and the findings that it must cause.
const DAMAGES: [(&str, Damage, &[&str]); 9] = [
    ("a row removed", |tables, _| drop(tables.events.remove(&key(4))), &["hole 4", "missing 4"]),
    ("the last row removed", |tables, _| drop(tables.events.remove(&key(8))), &["head_ahead 7", "missing 8"]),
    (
        "a send in a second row, below a head that counts it",
        |tables, tag| {
            // The repeated command in the last entry has become an event of its own.
            let row = tables.events[&key(3)].clone();
            let again = moved(&row, 9, INCARNATION.position(9, 0));
            tables.events.insert(key(9), EventRow { tag, ..again });
        },
        &["duplicate 9"],
    ),
    (
        "a row doubled under the next seq",
        |tables, _| {
            let row = tables.events[&key(8)].clone();
            let doubled = moved(&row, 9, row.position);
            let head = wire::Head::decode(tables.heads["room"].1.clone()).expect("a head");
            let head = wire::Head { seq: 9, ..head };
            tables.heads.get_mut("room").expect("a head").1 = head.encode_to_vec().into();
            tables.events.insert(key(9), doubled);
        },
        &["duplicate 9"],
    ),
    (
        "rows swapped",
        |tables, _| {
            let (four, five) = (tables.events[&key(4)].clone(), tables.events[&key(5)].clone());
            tables.events.insert(key(4), moved(&five, 4, five.position));
            tables.events.insert(key(5), moved(&four, 5, four.position));
        },
        &["out_of_order 5"],
    ),
    (
        "a head above the last row",
        |tables, _| {
            let head = wire::Head::decode(tables.heads["room"].1.clone()).expect("a head");
            let head = wire::Head { seq: 11, ..head };
            tables.heads.get_mut("room").expect("a head").1 = head.encode_to_vec().into();
        },
        &["head_ahead 8"],
    ),
    (
        "a tag that is not the log's",
        |tables, _| tables.events.get_mut(&key(2)).expect("a row").tag = Tag([9; 16]),
        &["foreign_row 2"],
    ),
    (
        "a timestamp that is not the position's",
        |tables, _| tables.events.get_mut(&key(2)).expect("a row").timestamp_us += 1,
        &["foreign_row 2"],
    ),
    (
        "an event under another seq",
        |tables, _| {
            let blob = tables.events[&key(7)].blob.clone();
            tables.events.get_mut(&key(6)).expect("a row").blob = blob;
        },
        &["foreign_row 6", "duplicate 7"],
    ),
];

#[tokio::test]
async fn each_kind_of_damage_is_found() {
    for (what, damage, expected) in DAMAGES {
        let (world, _gateway) = worked().await;
        let entry = world.bus.log_entry(0, MESSAGES + 1).await.expect("the bus").expect("the last entry");
        world.store.change(|tables| damage(tables, entry.tag));
        let report = audit(&world).await;
        assert_eq!(found(&report), expected, "{what}");
        assert!(!report.is_ok() && report.unread.is_empty(), "{what}");
        assert_eq!(report.total.findings(), expected.len() as u64, "{what}");
    }
}

#[tokio::test]
async fn an_audit_of_few_rows_judges_only_those() {
    let (world, _gateway) = worked().await;
    let window = || async { auditor(&world, 3, &[]).run().await };
    assert_eq!(
        window().await.total.rows,
        MESSAGES,
        "the audit must read as many rows as the log has messages for"
    );
    world.bus.purge_log(0, 6).await.expect("purged");
    let report = window().await;
    assert!(report.is_ok(), "a repetition of a row below the window is no finding: {report}");
    let total = report.total;
    assert_eq!((total.rows, total.conversations_cut, total.unjudged), (3, 1, 0));
    world.store.change(|tables| drop(tables.events.remove(&key(7))));
    assert_eq!(found(&window().await), ["hole 7", "missing 7"]);
    // A stored client id is only a hint, and the event at its seq decides. Without that event, the repeated command
    // should have a row of its own.
    world.store.change(|tables| drop(tables.events.remove(&key(3))));
    assert_eq!(found(&window().await), ["hole 7", "missing 7", "missing 9"]);
}

#[tokio::test]
async fn conversations_that_are_not_in_the_log_are_audited_by_name() {
    let (world, _gateway) = worked().await;
    world.bus.purge_log(0, MESSAGES + 1).await.expect("purged");
    world.store.change(|tables| drop(tables.events.remove(&key(2))));
    // The log holds only the last entry, whose commands belong to this conversation.
    let report = audit(&world).await;
    assert_eq!((found(&report), report.total.entries), (vec!["hole 2".to_owned()], 1));
    let (world, _gateway) = worked().await;
    let copy = |tables: &mut Tables| {
        let rows: Vec<_> = tables.events.values().cloned().collect();
        for row in rows.into_iter().filter(|row| row.seq != 5) {
            let hall = ConversationId::parse("hall").expect("valid");
            tables.events.insert(("hall".into(), row.seq), EventRow { conversation: hall, ..row });
        }
    };
    world.store.change(copy);
    assert!(audit(&world).await.is_ok(), "no command in the log refers to the changed row");
    let report = auditor(&world, 10_000, &["hall", "nothing"]).run().await;
    assert_eq!(report.total.conversations, 3);
    assert_eq!(report.total.of(Kind::ForeignRow), 4, "{report}");
}

/// Guards the order in which the auditor reads, and its rule for which commands must have rows by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_system_has_no_findings() {
    let world = World::new();
    world.store.unevenly(7);
    let gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    let bodies = |n: u64| match n % 5 {
        0 => Body::AddParticipants(wire::AddParticipants { users: vec![format!("u{}", n % 7)] }),
        1 => Body::RemoveParticipant(wire::RemoveParticipant { user: format!("u{}", n % 7) }),
        _ => Body::SendMessage(wire::SendMessage { content: format!("m{n}"), ..Default::default() }),
    };
    let create = Body::CreateConversation(wire::CreateConversation::default());
    let rooms = conversations_of(0, 1, 5);
    let creations = rooms.iter().map(|room| gateway.command(0, room, "ann", create.clone())).collect();
    world.publish(creations).await;
    let writing = async {
        for n in 1..=400u64 {
            let command = |room: &String| wire::Command {
                client_id: format!("c{}", n % 150),
                authority: Authority::Participant.into(),
                ..gateway.command(n, room, if n % 11 == 0 { "u3" } else { "ann" }, bodies(n))
            };
            let last = world.publish(rooms.iter().map(command).collect()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            if n % 40 == 0 {
                // Purge only below the checkpoint, as a worker does.
                let worked = world.store.checkpoint().map_or(1, |checkpoint| checkpoint.position.sequence);
                world.bus.purge_log(0, worked.min(last)).await.expect("purged");
            }
        }
    };
    let auditing = async {
        let (mut entries, mut rows) = (0, 0);
        for round in 0..40 {
            let report = auditor(&world, if round % 2 == 0 { 10_000 } else { 20 }, &[]).run().await;
            assert!(report.is_ok(), "{report}");
            (entries, rows) = (entries + report.total.entries, rows + report.total.rows);
            tokio::time::sleep(Duration::from_millis(90)).await;
        }
        (entries, rows)
    };
    let ((), (entries, rows)) = tokio::join!(writing, auditing);
    assert!(entries > 100 && rows > 1_000, "the audit read too little: {entries} entries, {rows} rows");
    working.stop().await;
}

/// Guards the check of the tag at the checkpoint: a recreated log is not compared with rows of the log before it.
#[tokio::test]
async fn a_recreated_log_is_not_compared_before_a_new_incarnation_starts() {
    let (world, _gateway) = worked().await;
    let anew = World::of(TestBus::new(1), world.store.clone());
    let mut gateway = anew.gateway("gw-1").await;
    for n in 1..=MESSAGES + 3 {
        anew.publish(vec![gateway.send(100 + n, "room", "anew")]).await;
    }
    let report = audit(&anew).await;
    assert_eq!((report.total.findings(), report.total.unread), (0, 1), "{report}");
    assert!(report.unread[0].contains("partition 0: the log is not the one"), "{report}");
    let working = anew.work(2);
    anew.worked(&mut gateway).await;
    let last = anew.publish(vec![gateway.send(120, "room", "of another incarnation")]).await;
    gateway.outcome(120).await;
    working.stop_when(&anew, last).await;
    let report = audit(&anew).await;
    assert!(report.is_ok() && report.partitions[0].incarnation == Some(2), "{report}");
    assert_eq!((report.total.rows, report.total.entries), (MESSAGES + 1, 1));
    // A worker of the first incarnation wrote this row late. Loading a conversation ends before such a row, so it is no
    // finding.
    anew.store.change(|tables| {
        let row = tables.events[&key(8)].clone();
        tables.events.insert(key(10), moved(&row, 10, INCARNATION.position(40, 0)));
    });
    let report = audit(&anew).await;
    assert!(report.is_ok() && report.total.rows_above_head == 1, "{report}");
}

/// Guards the second look at suspicious conversations.
#[tokio::test]
async fn a_finding_counts_only_after_a_second_look() {
    let (world, _gateway) = worked().await;
    let looks = world.store.count(Call::Load);
    let between_looks = |change: fn(&mut Tables, EventRow)| {
        let (store, auditor) = (world.store.clone(), auditor(&world, 10_000, &["room"]));
        async move {
            let row = store.tables().events[&key(4)].clone();
            store.change(|tables| drop(tables.events.remove(&key(4))));
            let before = store.count(Call::Load);
            let pause = Duration::from_millis(500);
            let auditing = tokio::spawn(async move { auditor.looking_again_after(pause).run().await });
            until(|| store.count(Call::Load) > before).await;
            tokio::time::sleep(pause / 5).await;
            store.change(|tables| change(tables, row));
            auditing.await.expect("the audit does not panic")
        }
    };
    let late = between_looks(|tables, row| drop(tables.events.insert(key(4), row))).await;
    assert!(late.is_ok(), "the row came late: {late}");
    assert_eq!(world.store.count(Call::Load) - looks, 2);
    // A new incarnation starts. It makes no claim about commands of the one before, whose rows stay.
    let another = between_looks(|tables, _| {
        let next = INCARNATION.next(MESSAGES + 1, INCARNATION.base_us);
        tables.partitions.get_mut(&0).expect("a row").tenure = free(next).tenure;
    });
    let report = another.await;
    assert_eq!((found(&report), report.partitions[0].incarnation), (vec!["hole 4".to_owned()], Some(2)));
}

#[tokio::test]
async fn unreadable_conversations_are_reported() {
    let (world, _gateway) = worked().await;
    world.store.fail(Call::Load, &[Fault::Lost]);
    assert!(audit(&world).await.is_ok(), "a lost load is tried again");
    world.store.fail(Call::Load, &[Fault::Lost, Fault::Lost]);
    let report = audit(&world).await;
    assert!(!report.is_ok() && report.total.findings() == 0, "{report}");
    assert!(report.unread[0].starts_with("conversation room: store: Load"), "{report}");
    // A conversation that is read only at the second attempt is looked at once more before its findings count.
    world.store.fail(Call::Load, &[Fault::Lost]);
    world.store.change(|tables| drop(tables.events.remove(&key(4))));
    assert_eq!(found(&audit(&world).await), ["hole 4", "missing 4"]);
}

#[tokio::test]
async fn skipped_poison_is_no_finding_but_a_wrong_number_of_partitions_is_reported() {
    let (bus, store) = (TestBus::new(2), MemoryStore::new());
    let state = free(INCARNATION);
    store.change(|tables| tables.partitions.extend([(0, state)]));
    let world = World { partitions: 2, ..World::of(bus, store) };
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    let (ours, theirs) = (&conversations_of(0, 2, 1)[0], &conversations_of(1, 2, 1)[0]);
    world.publish_bytes(Bytes::from_static(b"\xff\xff")).await;
    let last = world.publish(vec![gateway.send(1, theirs, "x"), gateway.send(2, ours, "y")]).await;
    gateway.outcome(2).await;
    working.stop_when(&world, last).await;
    let report = audit(&world).await;
    assert!(report.is_ok(), "{report}");
    assert_eq!((report.total.entries, report.total.commands), (2, 1));
    // A skip that a former owner recorded also holds for a successor in the same log generation.
    let taken = INCARNATION.taken_over(last + 1, INCARNATION.base_us + 1_000_000_000);
    world.store.change(|tables| tables.partitions.get_mut(&0).expect("a row").tenure = free(taken).tenure);
    let report = audit(&world).await;
    assert!(report.is_ok() && report.total.commands == 1, "{report}");
    world.store.change(|tables| tables.skips.clear());
    let report = audit(&world).await;
    assert!(report.unread[0].contains("set partitions to what all other roles have"), "{report}");
}

#[tokio::test]
async fn a_report_is_printed_as_text_and_as_json() {
    let (world, _gateway) = worked().await;
    world.store.change(|tables| drop(tables.events.remove(&key(4))));
    let report = audit(&world).await;
    let text = report.to_string();
    let total = "acknowledged-but-missing 1, duplicate 0, out of order 0, holes 1, heads ahead 0, foreign rows 0; \
                 1 conversations, 7 rows, 9 entries, 0 pending";
    assert_eq!(text.lines().last(), Some(total));
    assert!(text.contains("\nmissing: conversation room, seq 4, position 1.4.0: "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
    assert_eq!((&json["ok"], &json["total"]["missing"]), (&false.into(), &1.into()));
    assert_eq!(json["partitions"][0]["checkpoint"], MESSAGES + 1);
    assert_eq!(json["findings"][1]["position"]["sequence"], 4);
    report.export();
    let metrics = carillon_runtime::metrics::render();
    for line in ["carillon_audit_missing 1", "carillon_audit_holes 1", "carillon_audit_last_run_ok 0"] {
        assert!(metrics.lines().any(|found| found == line), "no {line} in {metrics}");
    }
}
