//! Watching: which gateways receive pushes, statuses, invisible users, and users without a row.

use crate::dsl::*;
use carillon_presence_worker::core::user::Record;
use carillon_proto::wire::{self, Status, presence_result::Body as Outcome};

#[test]
fn only_watchers_receive_pushes_and_only_until_they_unwatch() {
    let mut world = World::settled();
    world.send("near", vec![watch("ann"), watch("ann")]);
    world.send("far", vec![watch("bob")]);
    world.send("one", vec![start("ann", 1)]);
    assert_eq!(world.pushed_users("near").len(), 1, "two watches must cause one push");
    assert_eq!(world.pushed_users("far"), []);
    assert_eq!(world.pushed_users("one"), []);

    world.send("near", vec![unwatch("ann")]);
    world.send("one", vec![set("ann", 1, Status::Away, "")]);
    assert_eq!(world.pushed_users("near"), []);
}

#[test]
fn a_watch_returns_the_presence_after_the_whole_batch() {
    let mut world = World::settled();
    let results = world.send("one", vec![watch("ann"), start("ann", 1), query("ann")]);
    assert!(presence_of(results.first()).online);
    assert!(presence_of(results.last()).online);
}

#[test]
fn a_query_does_not_watch() {
    let mut world = World::settled();
    world.send("querying", vec![query("ann")]);
    world.send("one", vec![start("ann", 1)]);
    assert_eq!(world.pushed_users("querying"), []);
}

#[test]
fn the_status_is_the_latest_one_set_by_a_current_session() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1), set("ann", 1, Status::Away, "lunch")]);
    world.send("two", vec![start("ann", 1)]);
    let status = |world: &mut World| {
        let presence = world.presence("ann");
        (presence.status(), presence.text)
    };
    assert_eq!(
        status(&mut world),
        (Status::Away, "lunch".into()),
        "a new session must not change the status"
    );
    world.send("two", vec![set("ann", 1, Status::Dnd, "")]);
    assert_eq!(status(&mut world), (Status::Dnd, String::new()));
    world.send("one", vec![set("ann", 1, Status::Active, "back")]);
    assert_eq!(status(&mut world), (Status::Active, "back".into()));
    world.send("one", vec![end("ann", 1)]);
    assert_eq!(
        status(&mut world),
        (Status::Dnd, String::new()),
        "the status of the other session must remain"
    );
    world.send("two", vec![end("ann", 1), start("ann", 2)]);
    assert_eq!(status(&mut world), (Status::Dnd, String::new()), "the status must be kept over a reload");
}

#[test]
fn a_status_of_an_unknown_session_is_ignored() {
    let mut world = World::settled();
    world
        .send("one", vec![start("ann", 1), set("ann", 2, Status::Away, ""), set("bob", 1, Status::Away, "")]);
    assert_eq!(world.presence("ann").status(), Status::Active);
    assert!(!world.presence("bob").online);
}

#[test]
fn an_invisible_user_looks_like_one_who_went_offline() {
    let mut world = World::settled();
    world.send("friends", vec![watch("ann")]);
    world.send("one", vec![start("ann", 1)]);
    world.pushed_users("friends");
    world.pass(&["friends", "one"], 1_000);

    world.send("one", vec![set("ann", 1, Status::Invisible, "hiding")]);
    assert_eq!(world.pushed_users("friends"), [(4_000, "ann".into(), false)]);
    let hidden =
        wire::UserPresence { user: "ann".into(), last_seen_ms: WALL_MS + 4_000, ..Default::default() };
    assert_eq!(world.presence("ann"), hidden, "an invisible user's text and status must be hidden");

    world.pass(&["friends", "one"], 1_000);
    world.send("one", vec![end("ann", 1), start("ann", 2)]);
    world.send("one", vec![end("ann", 2)]);
    world.pass(&["friends", "one"], 10_000);
    assert_eq!(
        world.pushed_users("friends"),
        [],
        "a reload or an end of an invisible user must not be pushed"
    );
    assert_eq!(world.presence("ann").last_seen_ms, WALL_MS + 4_000);
}

#[test]
fn turning_invisible_at_once_pushes_nothing_and_becoming_visible_does() {
    let mut world = World::settled();
    world.send("friends", vec![watch("ann")]);
    world.send("one", vec![start("ann", 1), set("ann", 1, Status::Invisible, "")]);
    assert_eq!(world.pushed_users("friends"), []);
    world.send("one", vec![set("ann", 1, Status::Active, "")]);
    assert_eq!(world.pushed_users("friends"), [(3_000, "ann".into(), true)]);
}

#[test]
fn an_unchanged_status_is_not_pushed() {
    let mut world = World::settled();
    world.send("friends", vec![watch("ann")]);
    world.send("one", vec![start("ann", 1), set("ann", 1, Status::Away, "a")]);
    world.pushed_users("friends");
    world.send("one", vec![set("ann", 1, Status::Away, "a")]);
    assert_eq!(world.pushed_users("friends"), []);
    world.send("one", vec![set("ann", 1, Status::Away, "b")]);
    assert_eq!(world.pushed_users("friends").len(), 1);
}

#[test]
fn users_without_a_row_were_never_seen() {
    let mut world = World::settled();
    let unknown = wire::UserPresence { user: "unknown".into(), ..Default::default() };
    assert_eq!(world.presence("unknown"), unknown);
    assert_eq!(presence_of(world.send("one", vec![watch("unknown")]).first()), unknown);
}

#[test]
fn presence_and_profiles_are_read_from_the_store() {
    let mut world = World::settled();
    let queries =
        request("one", 1, 0, vec![query("ann"), watch("bob"), profile_query("ann"), profile_query("eve")]);
    let missing = world.shard.missing(&queries, 10);
    assert_eq!(missing, [user("ann"), user("bob"), user("eve")]);
    assert_eq!(world.shard.missing(&queries, 2).len(), 2, "the number of rows to load must be bounded");

    let row = |name: &str, last_seen_ms| Record { user: user(name), profile: profile(name), last_seen_ms };
    let reply = world.hand_over(queries, vec![row("ann", 11), row("bob", 22), Record::unknown(user("eve"))]);
    let outcome = |place: usize| reply.results[place].body.as_ref();
    assert_eq!(presence_of(outcome(0)).last_seen_ms, 11);
    assert_eq!(presence_of(outcome(1)).last_seen_ms, 22);
    let named = |name: &str| wire::Profile { user: name.into(), ..profile(name) };
    assert_eq!(outcome(2), Some(&Outcome::Profile(named("ann"))));
    let nameless = wire::Profile { user: "eve".into(), ..Default::default() };
    assert_eq!(outcome(3), Some(&Outcome::Profile(nameless)));

    assert_eq!(world.shard.census().users, 1, "only the watched user must stay in memory");
    let again = request("one", 2, 1, vec![query("bob"), query("ann")]);
    assert_eq!(world.shard.missing(&again, 10), [user("ann")]);
}

#[test]
fn profiles_of_users_online_come_from_memory() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1)]);
    let queries = request("one", 2, 1, vec![profile_query("ann"), query("ann")]);
    assert_eq!(world.shard.missing(&queries, 10), []);
    let reply = world.hand_over(queries, Vec::new());
    let named = wire::Profile { user: "ann".into(), ..profile("ann") };
    assert_eq!(reply.results[0].body, Some(Outcome::Profile(named)));
}

#[test]
fn users_leave_memory_when_they_are_not_needed() {
    let mut world = World::settled();
    world.send(
        "one",
        vec![watch("ann"), start("bob", 1), start("eve", 1), watch("eve"), limited("bob", 2, 1)],
    );
    assert_eq!(world.shard.census().users, 3);
    world.send("one", vec![unwatch("ann"), end("bob", 1), end("eve", 1)]);
    world.pass(&["one"], 10_000);
    world.answer_loads();
    let saved: Vec<_> = world.shard.next_to_save(10).into_iter().map(|record| record.user).collect();
    assert_eq!(saved, [user("bob"), user("eve")]);
    let now = world.now();
    world.shard.saved(now, &saved, true);
    assert_eq!(world.shard.census().users, 1, "only the user who is still watched must stay in memory");
}
