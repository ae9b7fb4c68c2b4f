//! Rows: which ones are written to the store and when, and what happens while the store is away.

use crate::dsl::*;
use carillon_presence_worker::core::user::Record;
use carillon_presence_worker::limits::UNSAVED_USERS_MAX;
use carillon_proto::wire::{self, Status, presence_change::Body as Change};

fn load(world: &mut World, rows: Vec<Record>) {
    let users = world.shard.next_to_load(100);
    let found = |id| rows.iter().find(|row| row.user == id).cloned().unwrap_or_else(|| Record::unknown(id));
    let records = users.iter().cloned().map(found).collect();
    let now = world.now();
    let pushes = world.shard.loaded(now, &users, Some(records));
    world.keep(pushes);
}

fn save(world: &mut World) -> Vec<Record> {
    let records = world.shard.next_to_save(100);
    let ids: Vec<_> = records.iter().map(|record| record.user.clone()).collect();
    let now = world.now();
    world.shard.saved(now, &ids, true);
    records
}

fn row(name: &str, last_seen_ms: u64) -> Record {
    Record { user: user(name), profile: profile(name), last_seen_ms }
}

#[test]
fn a_profile_is_written_when_it_differs_from_the_row() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1), start("bob", 1)]);
    assert_eq!(save(&mut world), [], "a row must not be written before it is loaded");
    load(&mut world, vec![row("ann", 5)]);
    assert_eq!(save(&mut world), [row("bob", 0)]);
    assert_eq!(save(&mut world), [], "a profile must be written once");

    let renamed = wire::Profile { name: "Ann".into(), ..profile("ann") };
    let session = wire::SessionStarted {
        user: "ann".into(),
        session: 2,
        profile: Some(renamed.clone()),
        ..Default::default()
    };
    world.send("one", vec![Change::SessionStarted(session)]);
    assert_eq!(save(&mut world), [Record { user: user("ann"), profile: renamed, last_seen_ms: 5 }]);
}

#[test]
fn the_last_visit_is_written_with_the_profile() {
    let mut world = World::settled();
    world.send("one", vec![watch("ann"), start("ann", 1)]);
    load(&mut world, vec![row("ann", 5)]);
    world.send("one", vec![end("ann", 1)]);
    assert_eq!(save(&mut world), [row("ann", WALL_MS + 3_000)]);
    world.pass(&["one"], 10_000);
    assert_eq!(save(&mut world), [], "going offline must not write the row again");

    world.send("one", vec![start("ann", 2)]);
    assert_eq!(save(&mut world), [], "an unchanged profile must not be written");
    world.send("one", vec![set("ann", 2, Status::Invisible, "")]);
    assert_eq!(
        save(&mut world),
        [row("ann", WALL_MS + 13_000)],
        "becoming invisible must write the last visit"
    );
    world.pass(&["one"], 1_000);
    world.send("one", vec![end("ann", 2)]);
    assert_eq!(save(&mut world), [], "an invisible user who leaves must not be written");
}

#[test]
fn a_session_without_a_profile_does_not_erase_the_stored_one() {
    let mut world = World::settled();
    let bare = |session| {
        Change::SessionStarted(wire::SessionStarted { user: "ann".into(), session, ..Default::default() })
    };
    world.send("one", vec![watch("ann")]);
    load(&mut world, vec![row("ann", 5)]);
    world.send("one", vec![bare(1)]);
    world.send("one", vec![end("ann", 1)]);
    assert_eq!(save(&mut world), []);
    load(&mut world, vec![row("ann", 5)]);
    assert_eq!(save(&mut world), [row("ann", WALL_MS + 3_000)]);
}

#[test]
fn a_last_visit_that_is_read_late_is_pushed() {
    let mut world = World::settled();
    world.send("one", vec![watch("ann"), watch("bob"), start("bob", 1)]);
    world.pushed_users("one");
    load(&mut world, vec![row("ann", 5), row("bob", 6)]);
    assert_eq!(
        world.pushed_users("one"),
        [(3_000, "ann".into(), false)],
        "only ann's stored last visit must be pushed, because bob is online"
    );
    assert_eq!(world.presence("ann").last_seen_ms, 5);
}

#[test]
fn a_failed_write_is_repeated_with_the_latest_data() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1)]);
    load(&mut world, Vec::new());
    let records = world.shard.next_to_save(100);
    assert_eq!(records, [row("ann", 0)]);
    world.send("one", vec![end("ann", 1)]);
    world.pass(&["one"], 10_000);
    let now = world.now();
    world.shard.saved(now, &[user("ann")], false);
    assert_eq!(save(&mut world), [row("ann", WALL_MS + 3_000)]);
    assert_eq!(world.shard.census().users, 0);
}

#[test]
fn rows_that_could_not_be_read_are_read_again() {
    let mut world = World::settled();
    world.send("one", vec![start("ann", 1)]);
    let users = world.shard.next_to_load(100);
    assert_eq!(users, [user("ann")]);
    let now = world.now();
    world.shard.loaded(now, &users, None);
    assert_eq!(world.shard.next_to_load(100), users);
}

#[test]
fn a_store_that_stays_away_costs_bounded_memory() {
    let mut world = World::settled();
    for number in 0..=UNSAVED_USERS_MAX as u64 {
        let name = format!("user-{number}");
        let begun = request("one", 2 * number + 1, 2 * number, vec![start(&name, number), watch(&name)]);
        world.hand_over(begun, vec![Record::unknown(user(&name))]);
        world.send("one", vec![end(&name, number), unwatch(&name)]);
    }
    assert_eq!(world.shard.take_given_up(), 1);
    assert_eq!(world.shard.take_given_up(), 0);
    world.pass(&["one"], 10_000);
    assert_eq!(world.shard.census().users, UNSAVED_USERS_MAX);
}
