//! Batch numbers: batches that are repeated, out of order or lost, and the snapshots that repair the state.

use crate::dsl::*;
use carillon_proto::wire::{Status, presence_result::Body as Outcome};

#[test]
fn a_number_out_of_step_makes_the_shard_want_a_snapshot() {
    // The number of batches before, the request's number and last number, and whether a snapshot is wanted.
    let cases = [
        (0, 1, 0, false, "the first batch"),
        (0, 0, 0, false, "the first heartbeat"),
        (0, 2, 1, true, "a later batch of an unknown gateway"),
        (0, 0, 4, true, "a heartbeat of an unknown gateway after earlier batches"),
        (3, 4, 3, false, "the next batch"),
        (3, 5, 4, true, "a batch after a lost batch"),
        (3, 3, 2, false, "a repetition of the last batch"),
        (3, 1, 0, false, "a repetition of an earlier batch"),
        (3, 0, 3, false, "a heartbeat with the last batch's number"),
        (3, 0, 4, true, "a heartbeat after a lost batch"),
        (3, 0, 2, true, "a heartbeat with a number below the last batch's"),
    ];
    for (batches, number, last_number, wanted, what) in cases {
        let mut world = World::settled();
        for _ in 0..batches {
            world.send("one", Vec::new());
        }
        let reply = world.hand_over(request("one", number, last_number, Vec::new()), Vec::new());
        assert_eq!(reply.snapshot_wanted, wanted, "{what}");
        assert_eq!(reply.epoch, 7);
    }
}

#[test]
fn after_a_gap_the_snapshot_is_wanted_until_it_comes() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1)]);
    let gap = world.hand_over(request("one", 3, 2, vec![start("bob", 1)]), Vec::new());
    assert!(gap.snapshot_wanted);
    assert!(!world.presence("bob").online, "a batch after a gap must not be applied");
    assert!(world.hand_over(request("one", 0, 1, Vec::new()), Vec::new()).snapshot_wanted);
    let reply = world.hand_over(snapshot("one", 4, vec![start("ann", 1), start("bob", 1)]), Vec::new());
    assert!(!reply.snapshot_wanted);
    assert!(world.presence("bob").online);
    assert_eq!(
        world.send("one", vec![start("eve", 1)]),
        [Outcome::Done(true)],
        "number 5 must be accepted after the snapshot"
    );
}

#[test]
fn a_batch_after_a_gap_is_answered_as_if_it_were_applied() {
    let mut world = World::settled();
    world.send("two", vec![limited("ann", 1, 2), limited("ann", 2, 2), join("room", "ann")]);
    let changes = vec![limited("ann", 3, 2), limited("bob", 1, 2), join("room", "bob"), query("ann")];
    let reply = world.hand_over(request("one", 9, 8, changes), Vec::new());
    assert!(reply.snapshot_wanted);
    let outcome = |place: usize| reply.results[place].body.clone().expect("a result");
    assert_eq!(outcome(0), Outcome::Done(false), "the session limit must apply");
    assert_eq!(outcome(1), Outcome::Done(true));
    let room = outcome(2);
    assert_eq!((room_of(&room).participants, room_of(&room).changed), (2, false));
    assert_eq!(room_of(&room).visible, ["ann", "bob"]);
    assert!(presence_of(Some(&outcome(3))).online);
    assert_eq!(world.shard.census().sessions, 2);
    assert_eq!(world.pushed_rooms("two"), []);
}

#[test]
fn a_repeated_batch_gets_the_first_reply_and_is_applied_once() {
    let mut world = World::settled();
    world.send("two", vec![join("room", "eve")]);
    let batch = request("one", 1, 0, vec![limited("ann", 1, 1), limited("ann", 2, 1), join("room", "ann")]);
    let first = world.hand_over(batch.clone(), Vec::new());
    let pushed = world.pushed_rooms("two");
    assert_eq!(pushed.len(), 1);
    let second = world.hand_over(batch.clone(), Vec::new());
    assert_eq!(first, second);
    assert_eq!(world.pushed_rooms("two"), []);
    assert_eq!(world.shard.census().sessions, 1);

    world.send("one", vec![end("ann", 1)]);
    let late = world.hand_over(batch, Vec::new());
    assert_eq!(
        late.results[0].body,
        Some(Outcome::Done(false)),
        "a repeated batch must not start a session that has ended"
    );
    assert_eq!(world.shard.census().sessions, 0);
}

#[test]
fn number_0_changes_nothing() {
    let mut world = World::settled();
    let changes = vec![start("ann", 1), watch("bob"), join("room", "ann"), set("ann", 1, Status::Away, "")];
    let reply = world.hand_over(request("one", 0, 0, changes), Vec::new());
    assert_eq!(reply.results.len(), 4);
    let census = world.shard.census();
    assert_eq!((census.sessions, census.users, census.rooms), (0, 0, 0));
}

#[test]
fn a_snapshot_replaces_everything_of_its_gateway_and_nothing_else() {
    let mut world = World::settled();
    world.send("friends", vec![watch("ann"), watch("bob"), watch("eve")]);
    world.send(
        "one",
        vec![start("ann", 1), start("bob", 1), watch("eve"), join("room", "ann"), join("room", "bob")],
    );
    world.send("two", vec![start("bob", 1), join("room", "bob"), join("room", "zoe")]);
    world.pushed_users("friends");
    world.pushed_rooms("two");

    let reply = world.hand_over(snapshot("one", 8, vec![start("eve", 3), join("room", "eve")]), Vec::new());
    assert_eq!(room_of(reply.results[1].body.as_ref().expect("a result")).visible, Vec::<String>::new());
    assert_eq!(world.pushed_users("friends"), [(3_000, "eve".into(), true)]);
    assert_eq!(world.pushed_users("one"), [], "a watch that is not in the snapshot must be dropped");
    let pushed: Vec<_> = world
        .pushed_rooms("two")
        .into_iter()
        .map(|room| (room.user, room.joined, room.participants))
        .collect();
    assert_eq!(
        pushed,
        [("eve".to_string(), true, 4), ("ann".to_string(), false, 3)],
        "bob must stay visible through gateway two"
    );
    world.pass(&["friends", "one", "two"], 10_000);
    assert_eq!(world.pushed_users("friends"), [(3_000 + GRACE_MS, "ann".into(), false)]);

    world.hand_over(snapshot("one", 9, vec![start("eve", 3)]), Vec::new());
    world.pushed_rooms("one");
    world.send("two", vec![join("room", "new")]);
    assert_eq!(world.pushed_rooms("one"), [], "a gateway without members must get no push");
}

#[test]
fn a_snapshot_without_changes_pushes_nothing() {
    let mut world = World::settled();
    world.send("friends", vec![watch("ann"), join("room", "zoe")]);
    let everything = vec![start("ann", 1), set("ann", 1, Status::Away, "x"), join("room", "ann")];
    world.send("one", everything.clone());
    world.pushes.clear();
    world.hand_over(snapshot("one", 2, everything), Vec::new());
    world.hand_over(snapshot("one", 3, vec![start("ann", 1), join("room", "ann")]), Vec::new());
    world.pass(&["one", "friends"], 10_000);
    assert_eq!(world.pushes, []);
    assert_eq!(
        world.presence("ann").text,
        "x",
        "a status that the snapshot lacks must stay with its session"
    );
}

#[test]
fn repeating_a_status_in_a_snapshot_is_not_setting_it_again() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1), set("ann", 1, Status::Away, "")]);
    world.send("two", vec![start("ann", 1), set("ann", 1, Status::Dnd, "")]);
    world.hand_over(
        snapshot("one", 2, vec![announced_session("ann", 1, Some(Status::Away), None)]),
        Vec::new(),
    );
    assert_eq!(world.presence("ann").status(), Status::Dnd);
    world.hand_over(
        snapshot("one", 3, vec![announced_session("ann", 1, Some(Status::Active), None)]),
        Vec::new(),
    );
    assert_eq!(
        world.presence("ann").status(),
        Status::Active,
        "a new status in a snapshot must be set, because its batch was lost"
    );
}

#[test]
fn sessions_in_a_snapshot_are_admitted_without_a_limit() {
    let mut world = World::settled();
    let four = (1..=4).map(|session| limited("ann", session, 2)).collect();
    let reply = world.hand_over(snapshot("one", 1, four), Vec::new());
    assert!(reply.results.iter().all(|result| result.body == Some(Outcome::Done(true))));
    assert_eq!(world.shard.census().sessions, 4);
}

#[test]
fn a_snapshot_in_parts_takes_effect_with_its_last_part() {
    let mut world = World::settled();
    world.send("friends", vec![join("room", "zoe")]);
    world.send("one", vec![start("ann", 1), start("bob", 1), start("eve", 1), join("room", "bob")]);
    world.pushes.clear();
    let first =
        carillon_proto::wire::PresenceRequest { last_number: 4, ..snapshot("one", 2, vec![start("ann", 1)]) };
    world.hand_over(first, Vec::new());
    assert_eq!(
        world.shard.census().sessions,
        3,
        "sessions must be kept until the last part of the snapshot arrives"
    );
    world.hand_over(
        request("one", 3, 4, vec![start("bob", 1), limited("bob", 2, 1), end("ann", 1)]),
        Vec::new(),
    );
    world.hand_over(request("one", 4, 4, vec![join("room", "bob")]), Vec::new());
    assert_eq!(world.shard.census().sessions, 2, "only bob's two sessions must be left");
    assert_eq!(world.pushed_rooms("friends"), [], "bob must not appear to have left");
    assert_eq!(
        world.send("one", vec![limited("bob", 3, 1)]),
        [Outcome::Done(false)],
        "the session limit must apply again after the snapshot"
    );
}

#[test]
fn a_snapshot_whose_part_is_missing_replaces_nothing() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1), start("bob", 1)]);
    let first =
        carillon_proto::wire::PresenceRequest { last_number: 4, ..snapshot("one", 2, vec![start("eve", 1)]) };
    world.hand_over(first, Vec::new());
    assert!(world.hand_over(request("one", 4, 4, Vec::new()), Vec::new()).snapshot_wanted);
    assert_eq!(world.shard.census().sessions, 3);
    world.hand_over(snapshot("one", 5, vec![start("eve", 1)]), Vec::new());
    assert_eq!(world.shard.census().sessions, 1);
}

#[test]
fn a_worker_delayed_between_two_parts_continues_with_the_next() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1), start("bob", 1)]);
    let first =
        carillon_proto::wire::PresenceRequest { last_number: 3, ..snapshot("one", 2, vec![start("bob", 1)]) };
    world.hand_over(first, Vec::new());
    world.now_ms += 5_000;
    let reply = world.hand_over(request("one", 3, 3, vec![limited("bob", 2, 1)]), Vec::new());
    assert!(reply.snapshot_wanted, "a snapshot must be requested, because changes may be lost");
    assert_eq!(
        reply.results[0].body,
        Some(Outcome::Done(true)),
        "the session must be accepted without a limit"
    );
    assert_eq!(world.shard.census().sessions, 2, "ann's session must be dropped");
}

#[test]
fn gateways_with_an_invalid_name_get_no_reply() {
    let mut world = World::settled();
    let now = world.now();
    assert!(world.shard.request(now, request("a.b", 1, 0, Vec::new()), Vec::new()).is_none());
}

#[test]
fn lost_pushes_make_the_shard_want_a_snapshot() {
    let mut world = World::settled();
    world.send("one", vec![watch("ann")]);
    let one = carillon_proto::id::GatewayId::parse("one").expect("valid");
    world.shard.lost_pushes(&one);
    assert!(world.heartbeat("one").snapshot_wanted);
    assert!(!world.heartbeat("two").snapshot_wanted);
}

#[test]
fn versions_rise_and_pushes_carry_that_of_their_request() {
    let mut world = World::settled();
    world.send("friends", vec![watch("ann")]);
    let before = world.heartbeat("one").version;
    let reply = world.hand_over(request("one", 1, 0, vec![start("ann", 1)]), Vec::new());
    assert!(reply.version > before);
    assert_eq!(world.pushes.last().map(|(_, push)| push.version), Some(reply.version));
}
