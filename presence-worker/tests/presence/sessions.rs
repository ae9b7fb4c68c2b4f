//! Sessions: the first and the last of a user, the grace before the user is offline, and the limit on their number.

use crate::dsl::*;
use carillon_proto::wire::{Status, presence_result::Body as Outcome};

const YES: Outcome = Outcome::Done(true);
const NO: Outcome = Outcome::Done(false);

#[test]
fn a_user_is_online_from_the_first_session_to_the_end_of_the_last() {
    let mut world = World::settled();
    let watched = world.send("friends", vec![watch("ann")]);
    assert!(!presence_of(watched.first()).online);

    assert_eq!(world.send("one", vec![start("ann", 1)]), [YES]);
    assert_eq!(world.pushed_users("friends"), [(3_000, "ann".into(), true)]);

    world.send("two", vec![start("ann", 1)]);
    world.send("one", vec![end("ann", 1)]);
    world.pass(&["friends", "one", "two"], 10_000);
    assert_eq!(world.pushed_users("friends"), [], "ann still has another session");

    world.send("two", vec![end("ann", 1)]);
    assert!(world.presence("ann").online, "ann must stay online during the grace period");
    world.pass(&["friends", "one", "two"], 10_000);
    let offline_ms = 13_000 + GRACE_MS;
    assert_eq!(
        world.pushed_users("friends"),
        [(offline_ms, "ann".into(), false)],
        "ann must go offline exactly when the grace period ends"
    );
    assert_eq!(
        world.presence("ann").last_seen_ms,
        WALL_MS + 13_000,
        "the last visit must be the end of the last session"
    );
}

#[test]
fn a_new_session_within_the_grace_pushes_nothing() {
    for (away_ms, noticed) in [(GRACE_MS - 1, false), (GRACE_MS, true)] {
        let mut world = World::settled();
        world.send("friends", vec![watch("ann")]);
        world.send("one", vec![start("ann", 1)]);
        world.pushed_users("friends");
        world.send("one", vec![end("ann", 1)]);
        world.pass(&["friends", "one"], away_ms);
        world.send("one", vec![start("ann", 2)]);
        world.pass(&["friends", "one"], 10_000);
        assert_eq!(!world.pushed_users("friends").is_empty(), noticed, "away for {away_ms} ms");
        assert!(world.presence("ann").online);
    }
}

#[test]
fn without_a_grace_a_user_is_offline_at_once() {
    let mut world = World::with_grace(0);
    world.pass(&[], 3_000);
    world.send("friends", vec![watch("ann")]);
    world.send("one", vec![start("ann", 1)]);
    let results = world.send("one", vec![query("ann"), end("ann", 1)]);
    assert!(!presence_of(results.first()).online, "a query must return the state after the whole batch");
    let pushed: Vec<_> = world.pushed_users("friends").into_iter().map(|(_, _, online)| online).collect();
    assert_eq!(pushed, [true, false]);
}

#[test]
fn a_reload_within_one_batch_is_pushed_once() {
    let mut world = World::settled();
    world.send("friends", vec![watch("ann")]);
    world.send("one", vec![start("ann", 1), end("ann", 1), start("ann", 2)]);
    assert_eq!(world.pushed_users("friends").len(), 1);
}

/// Before the fix, the gateways of the other sessions did not check whether these were alive: five dead connections
/// locked a user out until each gateway had noticed its own.
#[test]
fn gateways_of_a_user_at_the_limit_are_requested_to_check_its_sessions() {
    let mut world = World::settled();
    world.send("one", vec![limited("ann", 1, 3), limited("ann", 2, 3), limited("bob", 3, 3)]);
    world.send("two", vec![limited("ann", 1, 3)]);
    assert_eq!(world.pushed_crowds(), [], "no user may be over the limit yet");
    assert_eq!(world.send("three", vec![limited("ann", 1, 3)]), [NO]);
    let push_to = |gateway: &str| (gateway.to_owned(), "ann".to_owned());
    assert_eq!(world.pushed_crowds(), [push_to("one"), push_to("two")]);
    assert_eq!(world.send("one", vec![limited("ann", 9, 3), limited("ann", 10, 3)]), [NO, NO]);
    assert_eq!(
        world.pushed_crowds(),
        [push_to("one"), push_to("two")],
        "each gateway must get only one request"
    );
    world.send("two", vec![end("ann", 1)]);
    assert_eq!(
        world.send("three", vec![limited("ann", 1, 3)]),
        [YES],
        "a place must be free after a session has ended"
    );
    assert_eq!(world.pushed_crowds(), []);
}

/// A moved session must replace its old place. Otherwise it is counted twice until its old gateway ends it: a limit
/// of 5 then refused the third client of a user whose clients upgraded at another gateway.
#[test]
fn a_moved_session_replaces_its_old_place() {
    let mut world = World::settled();
    world.send("friends", vec![watch("ann")]);
    world.send("one", vec![limited("ann", 1, 2), set("ann", 1, Status::Away, "lunch")]);
    let seen = world.pushed_users("friends");
    assert_eq!(seen.len(), 1);

    assert_eq!(world.send("two", vec![moved("ann", 7, "one", 1)]), [YES]);
    assert_eq!(
        world.send("three", vec![limited("ann", 1, 2)]),
        [YES],
        "the moved session must be counted once"
    );
    assert_eq!(
        world.send("three", vec![limited("ann", 2, 2)]),
        [NO],
        "the moved session must still be counted"
    );
    assert_eq!(world.send("one", vec![end("ann", 1)]), [YES]);
    assert_eq!(
        world.send("three", vec![limited("ann", 2, 2)]),
        [NO],
        "the end at the old gateway must not free a place"
    );
    assert_eq!(world.presence("ann").status(), Status::Away, "the status must move with the session");

    world.send("three", vec![end("ann", 1)]);
    world.pass(&["friends", "one", "two", "three"], 10_000);
    assert_eq!(world.pushed_users("friends"), [], "no push is expected while the session moves");
    world.send("two", vec![end("ann", 7)]);
    world.pass(&["friends", "one", "two", "three"], 10_000);
    assert_eq!(world.pushed_users("friends").len(), 1, "the session must end at its new gateway");
}

#[test]
fn a_session_that_moved_from_an_unknown_place_starts_as_a_new_one() {
    for before in [moved("ann", 1, "nowhere", 1), moved("ann", 1, "one", 9)] {
        let mut world = World::settled();
        world.send("one", vec![start("bob", 9)]);
        assert_eq!(world.send("two", vec![before]), [YES]);
        assert!(world.presence("ann").online && world.presence("bob").online);
    }
}

#[test]
fn the_sixth_session_is_refused_wherever_the_others_are() {
    let mut world = World::settled();
    let five = (1..=3).map(|session| limited("ann", session, 5)).collect();
    assert_eq!(world.send("one", five), [YES, YES, YES]);
    assert_eq!(world.send("two", vec![limited("ann", 1, 5), limited("ann", 2, 5)]), [YES, YES]);
    assert_eq!(world.send("two", vec![limited("ann", 3, 5)]), [NO]);
    assert_eq!(
        world.send("two", vec![limited("ann", 2, 5)]),
        [YES],
        "a known session must be accepted again"
    );
    assert_eq!(world.send("two", vec![start("ann", 9)]), [YES], "a limit of 0 means no limit");
    assert_eq!(world.send("two", vec![limited("bob", 3, 5)]), [YES], "the limit applies to each user");

    world.send("one", vec![end("ann", 1), end("ann", 2)]);
    assert_eq!(world.send("two", vec![limited("ann", 3, 5)]), [YES], "a refused session must not be counted");
}

/// Verified to fail if `Roster::start` uses `user.sessions()` in place of `user.sessions_where(is_live)`.
#[test]
fn sessions_of_a_silent_gateway_do_not_count() {
    let mut world = World::settled();
    let five = (1..=5).map(|session| limited("ann", session, 5)).collect();
    world.send("crashed", five);
    world.pass(&["other"], 3_500);
    assert_eq!(
        world.send("other", vec![limited("ann", 1, 5)]),
        [NO],
        "a gateway is not silent yet after three and a half beats"
    );
    world.now_ms += 1;
    assert_eq!(world.shard.census().sessions, 5, "no session may be removed yet");
    assert_eq!(world.send("other", vec![limited("ann", 2, 5)]), [YES]);
}

#[test]
fn invalid_ids_are_refused_and_leave_nothing_behind() {
    let mut world = World::settled();
    let before = world.shard.census();
    let results = world
        .send("one", vec![start("a b", 1), start("", 2), join("a*", "ann"), join("room", "a b"), watch(">")]);
    assert_eq!(results[..2], [NO, NO]);
    assert!(!room_of(&results[2]).changed && !room_of(&results[3]).changed);
    assert!(!presence_of(results.last()).online);
    let after = world.shard.census();
    assert_eq!((after.users, after.rooms), (before.users, before.rooms));
}

#[test]
fn an_end_of_an_unknown_session_changes_nothing() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1)]);
    world.send("two", vec![end("ann", 1), end("bob", 1)]);
    world.pass(&["one", "two"], 10_000);
    assert!(world.presence("ann").online, "session numbers belong to their gateway");
}
