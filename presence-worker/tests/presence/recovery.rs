//! Records of sessions that can be recovered: their owners, their changes, and how long they are kept.

use crate::dsl::*;
use carillon_presence_worker::limits::{RECOVERY_BYTES_MAX, RECOVERY_MS};
use carillon_proto::wire::{
    MovedIdentity, RecoveryBase, RecoveryEnded, RecoveryFound, RecoveryKept, RecoveryQuery, RecoveryRecord,
    RecoverySubscribed, RecoverySubscription, RecoveryUnsubscribed, presence_change::Body as Change,
    presence_result::Body as Outcome,
};

fn subscription(conversation: &str, seq: u64) -> RecoverySubscription {
    RecoverySubscription { conversation: conversation.into(), vocabulary: 0, seq, ended: false }
}

fn record(pid: &str, conversations: &[&str]) -> RecoveryRecord {
    let subscriptions = conversations.iter().map(|conversation| subscription(conversation, 1)).collect();
    RecoveryRecord {
        pid: pid.into(),
        sid: format!("sid-of-{pid}"),
        namespace: "/".into(),
        identity: Some(MovedIdentity { user: "ann".into(), ..Default::default() }),
        bases: vec![RecoveryBase { number: 3, changes: 5, subscriptions }],
    }
}

/// The record as a later session announces it, which begins with a base of its own.
fn newer(mut record: RecoveryRecord) -> RecoveryRecord {
    record.bases.iter_mut().for_each(|base| base.number += 1);
    record
}

fn keep(session: u64, record: RecoveryRecord) -> Change {
    Change::RecoveryKept(RecoveryKept { session, record: Some(record) })
}

fn subscribe(session: u64, changes: u32, place: u32, conversation: &str) -> Change {
    Change::RecoverySubscribed(RecoverySubscribed {
        pid: "p".into(),
        session,
        base: 3,
        changes,
        place,
        subscription: Some(subscription(conversation, 9)),
    })
}

fn unsubscribe(session: u64, changes: u32, place: u32) -> Change {
    Change::RecoveryUnsubscribed(RecoveryUnsubscribed { pid: "p".into(), session, base: 3, changes, place })
}

fn ended(session: u64, forget: bool) -> Change {
    Change::RecoveryEnded(RecoveryEnded { pid: "p".into(), session, forget })
}

fn found(world: &mut World, gateway: &str, user: &str) -> RecoveryFound {
    let query = Change::RecoveryQuery(RecoveryQuery { pid: "p".into(), user: user.into() });
    match world.send(gateway, vec![query]).remove(0) {
        Outcome::Recovery(found) => found,
        other => panic!("not a record: {other:?}"),
    }
}

/// The subscriptions that another gateway finds in the record.
fn conversations(world: &mut World) -> Vec<String> {
    let record = found(world, "other", "").record.expect("kept");
    let lasting = record.bases.last().expect("a base").subscriptions.iter().filter(|of| !of.ended);
    lasting.map(|subscription| subscription.conversation.clone()).collect()
}

#[test]
fn a_record_is_found_by_its_pid_and_its_user() {
    let mut world = World::settled();
    assert_eq!(found(&mut world, "two", ""), RecoveryFound::default());
    assert_eq!(world.send("one", vec![keep(1, record("p", &["a"]))]), [Outcome::Done(true)]);
    for user in ["", "ann"] {
        assert_eq!(found(&mut world, "two", user).record, Some(record("p", &["a"])));
    }
    assert_eq!(
        found(&mut world, "two", "bob"),
        RecoveryFound::default(),
        "the record of another user must not be found"
    );
}

#[test]
fn changes_are_applied_in_order_and_once() {
    let mut world = World::settled();
    world.send("one", vec![keep(1, record("p", &["a"]))]);
    for (change, accepted) in [
        (subscribe(1, 6, 1, "b"), true),
        (subscribe(1, 6, 1, "b"), true),
        (subscribe(1, 8, 2, "c"), false),
        (subscribe(2, 7, 2, "c"), false),
        (subscribe(1, 7, 3, "c"), false),
        (subscribe(1, 7, 1, "c"), false),
        (unsubscribe(1, 7, 0), true),
        (unsubscribe(1, 7, 0), true),
        (unsubscribe(1, 8, 9), false),
        (subscribe(1, 8, 0, "d"), true),
    ] {
        assert_eq!(world.send("one", vec![change.clone()]), [Outcome::Done(accepted)], "{change:?}");
    }
    assert_eq!(conversations(&mut world), ["d", "b"]);
    assert_eq!(
        world.send("two", vec![subscribe(1, 9, 2, "c")]),
        [Outcome::Done(false)],
        "a session of another gateway must not change the record"
    );
}

#[test]
fn a_record_belongs_to_the_session_that_kept_it_last() {
    let mut world = World::settled();
    world.send("one", vec![keep(1, record("p", &["a"]))]);
    world.send("two", vec![keep(8, newer(record("p", &["a", "b"])))]);
    world.send("one", vec![ended(1, true), unsubscribe(1, 6, 0)]);
    assert_eq!(conversations(&mut world), ["a", "b"]);
    world.send("two", vec![ended(7, true)]);
    assert_eq!(
        conversations(&mut world),
        ["a", "b"],
        "another session of the same gateway must not end the record"
    );
    world.send("two", vec![ended(8, true)]);
    assert_eq!(
        found(&mut world, "one", ""),
        RecoveryFound::default(),
        "the record must be dropped when its client has closed"
    );
    assert_eq!(world.shard.census().records, 0);
}

#[test]
fn a_record_stays_two_minutes_after_its_session() {
    let mut world = World::settled();
    world.send("one", vec![keep(1, record("p", &["a"])), ended(1, false)]);
    world.pass(&["one", "other"], RECOVERY_MS - 1_000);
    assert_eq!(conversations(&mut world), ["a"]);
    world.pass(&["one", "other"], 1_000);
    assert_eq!(found(&mut world, "other", ""), RecoveryFound::default());
}

/// Verified to fail without `Records::sweep`.
#[test]
fn a_record_survives_its_gateway_for_two_minutes() {
    let mut world = World::settled();
    world.send("crashed", vec![keep(1, record("p", &["a"]))]);
    world.pass(&["other"], 4_000);
    assert_eq!(world.shard.census().gateways, 1, "only the other gateway must be left");
    assert_eq!(conversations(&mut world), ["a"]);
    world.pass(&["other"], RECOVERY_MS - 1_000);
    assert_eq!(conversations(&mut world), ["a"]);
    world.pass(&["other"], 1_000);
    assert_eq!(found(&mut world, "other", ""), RecoveryFound::default());
}

#[test]
fn a_record_kept_again_stays_as_long_as_its_new_session() {
    let mut world = World::settled();
    world.send("crashed", vec![keep(1, record("p", &["a"]))]);
    world.pass(&["other"], 10_000);
    world.send("other", vec![keep(5, newer(record("p", &["a"])))]);
    world.pass(&["other"], 2 * RECOVERY_MS);
    assert_eq!(conversations(&mut world), ["a"]);
}

#[test]
fn the_session_of_a_record_missing_in_a_snapshot_counts_as_ended() {
    let mut world = World::settled();
    world.send("one", vec![keep(1, record("p", &["a"])), keep(2, record("q", &[]))]);
    world.hand_over(snapshot("one", 2, vec![keep(2, record("q", &["z"]))]), Vec::new());
    assert_eq!(conversations(&mut world), ["a"], "the record must stay for recovery when its end was missed");
    world.pass(&["one", "other"], RECOVERY_MS);
    assert_eq!(world.shard.census().records, 1);
}

#[test]
fn a_new_owner_replies_that_a_record_may_still_be_announced() {
    let mut world = World::new();
    let query = || vec![Change::RecoveryQuery(RecoveryQuery { pid: "p".into(), user: String::new() })];
    let unsettled = RecoveryFound { again: true, ..RecoveryFound::default() };
    assert_eq!(world.send("two", query()), [Outcome::Recovery(unsettled)]);
    world.hand_over(snapshot("one", 1, vec![keep(1, record("p", &["a"]))]), Vec::new());
    assert_eq!(conversations(&mut world), ["a"]);
}

#[test]
fn the_bytes_of_all_records_are_bounded() {
    let mut world = World::settled();
    let conversations: Vec<String> = (0..1_000).map(|number| format!("{number:0>120}")).collect();
    let names: Vec<&str> = conversations.iter().map(String::as_str).collect();
    let mut kept = 0;
    while world.send("one", vec![keep(kept, record(&format!("p{kept}"), &names))]) == [Outcome::Done(true)] {
        kept += 1;
        assert!(kept < 10_000, "the number of records must be bounded");
    }
    assert!(kept as usize > RECOVERY_BYTES_MAX / (200 * 1_000), "{kept}");
    let same = keep(0, record("p0", &names[..1]));
    assert_eq!(
        world.send("one", vec![same]),
        [Outcome::Done(true)],
        "an existing record must be able to shrink"
    );
    let forgotten = RecoveryEnded { pid: "p1".into(), session: 1, forget: true };
    world.send("one", vec![Change::RecoveryEnded(forgotten)]);
    assert_eq!(world.send("one", vec![keep(9, record("new", &names))]), [Outcome::Done(true)]);
}
