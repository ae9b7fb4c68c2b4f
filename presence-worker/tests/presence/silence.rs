//! Silence: gateways that are gone, workers that were delayed, and new owners.

use crate::dsl::*;
use carillon_proto::wire::Status;

#[test]
fn a_silent_gateway_loses_everything_and_its_users_get_their_grace() {
    let mut world = World::settled();
    world.send(
        "crashed",
        vec![start("ann", 1), start("bob", 1), join("room", "ann"), join("room", "bob"), watch("zoe")],
    );
    world.send(
        "two",
        vec![watch("ann"), watch("bob"), start("bob", 9), join("room", "bob"), join("room", "eve")],
    );
    world.pushed_rooms("two");

    world.pass(&["two"], 3_999);
    assert_eq!((world.pushed_users("two"), world.pushed_rooms("two")), (vec![], vec![]));
    world.pass(&["two"], 1);
    let pushed = world.pushed_rooms("two");
    assert_eq!(pushed.len(), 1, "only ann may leave, because bob is in the room through gateway two");
    assert_eq!(
        (pushed[0].user.as_str(), pushed[0].joined, pushed[0].disconnected, pushed[0].participants),
        ("ann", false, true, 2)
    );
    assert_eq!(world.pushed_users("two"), []);
    assert_eq!(world.shard.census().gateways, 1, "the silent gateway must be forgotten");

    world.pass(&["two"], 10_000);
    assert_eq!(world.pushed_users("two"), [(7_000 + GRACE_MS, "ann".into(), false)]);
    world.send("two", vec![start("zoe", 2)]);
    let pushed_later = |(at_ms, push): &(u64, _)| *at_ms >= 7_000 && gateway_of(push) == "crashed";
    assert!(!world.pushes.iter().any(pushed_later));

    assert!(
        world.heartbeat("crashed").snapshot_wanted,
        "a gateway that returns must be requested to send a snapshot"
    );
    world.hand_over(snapshot("crashed", 2, vec![start("ann", 1), join("room", "ann")]), Vec::new());
    assert_eq!(world.pushed_users("two"), [(17_000, "ann".into(), true)]);
    assert_eq!(world.pushed_rooms("two").len(), 1);
}

#[test]
fn a_heartbeat_in_time_keeps_a_gateway() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1)]);
    for _ in 0..5 {
        world.pass(&[], 3_400);
        assert!(!world.heartbeat("one").snapshot_wanted);
    }
    assert_eq!(world.shard.census().sessions, 1);
}

/// Verified to fail without the call of `distrust` in `Shard::notice_delay`.
#[test]
fn a_delayed_worker_declares_no_user_offline() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1), join("room", "ann")]);
    world.send("two", vec![watch("ann"), watch("eve"), start("eve", 1), join("room", "bob")]);
    world.send("two", vec![end("eve", 1)]);
    world.pushes.clear();

    world.now_ms += 20_000;
    let pushes = world.shard.tick(world.now());
    world.keep(pushes);
    assert!(world.requests_snapshot("one") && world.requests_snapshot("two"));
    assert!(world.heartbeat("one").snapshot_wanted, "a snapshot must be requested until it arrives");
    assert_eq!((world.pushed_users("two"), world.pushed_rooms("two")), (vec![], vec![]));

    world.hand_over(snapshot("one", 2, vec![start("ann", 1), join("room", "ann")]), Vec::new());
    world.hand_over(snapshot("two", 3, vec![watch("ann"), watch("eve"), join("room", "bob")]), Vec::new());
    assert!(!world.heartbeat("one").snapshot_wanted);
    world.pass(&["one", "two"], 2_999);
    assert_eq!(
        world.pushed_users("two"),
        [],
        "no user may go offline yet, although eve's grace period is over"
    );
    world.pass(&["one", "two"], 10_000);
    assert_eq!(world.pushed_users("two"), [(26_000, "eve".into(), false)]);
    assert_eq!(world.pushed_rooms("two"), []);
}

#[test]
fn a_late_tick_is_noticed_by_the_next_input() {
    for (late_ms, held_up) in [(2_000, false), (2_001, true)] {
        let mut world = World::settled();
        world.send("one", vec![start("ann", 1)]);
        world.now_ms += late_ms;
        assert_eq!(world.heartbeat("one").snapshot_wanted, held_up, "{late_ms} ms after the last tick");
    }
}

#[test]
fn a_new_owner_declares_no_user_offline_during_its_amnesty() {
    let mut world = World::new();
    let reply = world
        .hand_over(snapshot("two", 9, vec![watch("ann"), watch("bob"), join("room", "zoe")]), Vec::new());
    assert!(reply.unsettled, "the state must be unsettled after a start");
    assert!(world.heartbeat("one").unsettled);
    assert!(world.hand_over(request("one", 0, 5, Vec::new()), Vec::new()).snapshot_wanted);
    world.pass(&["two"], 1_500);
    let everything = vec![start("ann", 1), set("ann", 1, Status::Dnd, ""), join("room", "ann")];
    world.hand_over(snapshot("one", 6, everything), Vec::new());
    assert_eq!(world.pushed_users("two"), [(1_500, "ann".into(), true)]);
    assert_eq!(world.pushed_rooms("two"), [], "ann was in the room before, so no push is expected");
    world.send("one", vec![join("room", "new")]);
    assert_eq!(world.pushed_rooms("two").len(), 1, "a new member must be pushed");

    world.pass(&["one", "two"], 1_499);
    assert_eq!(world.pushed_users("two"), []);
    world.pass(&["one", "two"], 5_000);
    assert_eq!(
        world.pushed_users("two"),
        [(3_000, "bob".into(), false)],
        "bob must go offline when the state is settled"
    );
    assert!(!world.heartbeat("two").unsettled);
}

#[test]
fn a_grace_that_began_during_the_amnesty_ends_on_time() {
    let mut world = World::new();
    world.send("two", vec![watch("ann")]);
    world.send("one", vec![start("ann", 1), end("ann", 1)]);
    world.pushed_users("two");
    world.now_ms = 1;
    world.send("one", vec![start("ann", 2), end("ann", 2)]);
    world.pass(&["one", "two"], 3_100);
    assert_eq!(world.pushed_users("two"), [(3_001, "ann".into(), false)]);
}

fn gateway_of(push: &carillon_presence_worker::core::shard::Push) -> &str {
    push.gateway.as_str()
}
