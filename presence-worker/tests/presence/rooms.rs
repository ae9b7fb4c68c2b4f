//! Rooms: which users are counted, which gateways receive changes, and which users are visible.

use crate::dsl::*;
use carillon_proto::limits::PRESENCE_PARTICIPANTS_MAX;
use carillon_proto::wire::{self, presence_change::Body as Change};

fn room_pushes(world: &mut World, gateway: &str) -> Vec<(String, bool, u32)> {
    let changes = world.pushed_rooms(gateway).into_iter();
    changes.map(|change| (change.user, change.joined, change.participants)).collect()
}

#[test]
fn a_user_counts_once_over_all_gateways() {
    let mut world = World::settled();
    let state =
        |world: &mut World, gateway: &str, change| room_of(&world.send(gateway, vec![change])[0]).clone();
    let expect = |participants, visible: &[&str], changed| wire::RoomState {
        participants,
        visible: visible.iter().map(ToString::to_string).collect(),
        changed,
    };
    assert_eq!(state(&mut world, "one", join("room", "ann")), expect(1, &["ann"], true));
    assert_eq!(state(&mut world, "two", join("room", "bob")), expect(2, &["ann", "bob"], true));
    assert_eq!(state(&mut world, "two", join("room", "ann")), expect(2, &["ann", "bob"], false));
    assert_eq!(
        state(&mut world, "two", join("room", "ann")),
        expect(2, &["ann", "bob"], false),
        "joining again must change nothing"
    );
    assert_eq!(room_pushes(&mut world, "one"), [("bob".into(), true, 2)]);
    assert_eq!(room_pushes(&mut world, "two"), [], "the requesting gateway must get no push");

    assert_eq!(
        state(&mut world, "one", leave("room", "ann")),
        expect(2, &[], false),
        "ann must stay visible through gateway two"
    );
    assert_eq!(
        state(&mut world, "one", leave("room", "ann")),
        expect(2, &[], false),
        "leaving again must change nothing"
    );
    assert_eq!(room_pushes(&mut world, "two"), []);
    assert_eq!(state(&mut world, "three", join("room", "zoe")), expect(3, &["ann", "bob", "zoe"], true));
    assert_eq!(room_pushes(&mut world, "one"), [], "a gateway without members must get no push");
    assert_eq!(room_pushes(&mut world, "two"), [("zoe".into(), true, 3)]);
    assert_eq!(state(&mut world, "two", leave("room", "ann")), expect(2, &[], true));
    assert_eq!(room_pushes(&mut world, "three"), [("ann".into(), false, 2)]);
    assert_eq!(room_pushes(&mut world, "two"), []);
}

#[test]
fn how_a_user_left_is_pushed() {
    for disconnected in [false, true] {
        let mut world = World::settled();
        world.send("two", vec![join("room", "bob")]);
        world.send("one", vec![join("room", "ann")]);
        world.pushed_rooms("two");
        let left = wire::RoomLeft { conversation: "room".into(), user: "ann".into(), disconnected };
        world.send("one", vec![Change::RoomLeft(left)]);
        let pushed = world.pushed_rooms("two");
        assert_eq!(pushed.len(), 1);
        assert_eq!((pushed[0].disconnected, pushed[0].visible), (disconnected, true));
    }
}

#[test]
fn all_changes_of_one_batch_are_one_push() {
    let mut world = World::settled();
    world.send("two", vec![join("a", "zoe"), join("b", "zoe"), watch("ann")]);
    world.pushes.clear();
    world.send("one", vec![start("ann", 1), join("a", "ann"), join("b", "ann"), join("a", "bob")]);
    assert_eq!(world.pushes.len(), 1);
    assert_eq!(world.pushed_users("two").len(), 1);
    assert_eq!(
        room_pushes(&mut world, "two"),
        [("ann".into(), true, 2), ("ann".into(), true, 2), ("bob".into(), true, 3)]
    );
}

#[test]
fn a_room_without_users_is_removed() {
    let mut world = World::settled();
    world.send("one", vec![join("a", "ann"), join("b", "ann"), join("a", "bob")]);
    assert_eq!((world.shard.census().rooms, world.shard.census().memberships), (2, 3));
    world.send("one", vec![leave("a", "ann"), leave("b", "ann"), leave("a", "bob"), leave("c", "bob")]);
    assert_eq!((world.shard.census().rooms, world.shard.census().memberships), (0, 0));
}

#[test]
fn only_the_first_hundred_are_visible() {
    let name = |number: usize| format!("user-{number}");
    let mut world = World::settled();
    world.send("two", vec![join("room", &name(0))]);
    for number in 1..PRESENCE_PARTICIPANTS_MAX + 50 {
        let results = world.send("one", vec![join("room", &name(number))]);
        let state = room_of(&results[0]);
        assert_eq!(state.participants as usize, number + 1);
        let expected = if number < PRESENCE_PARTICIPANTS_MAX { number + 1 } else { 0 };
        assert_eq!(state.visible.len(), expected, "joiner {number}");
        let pushed = world.pushed_rooms("two");
        assert_eq!((pushed.len(), pushed[0].visible), (1, number < PRESENCE_PARTICIPANTS_MAX));
    }

    let again = world.send("two", vec![join("room", &name(7))]);
    let state = room_of(&again[0]);
    assert_eq!(
        state.visible,
        (0..PRESENCE_PARTICIPANTS_MAX).map(name).collect::<Vec<_>>(),
        "participants must be in the order of joining"
    );
    world.send("one", vec![leave("room", &name(7))]);
    let kept = world.send("one", vec![join("room", &name(7))]);
    assert_eq!(
        room_of(&kept[0]).visible[7],
        name(7),
        "the place must be kept while another gateway has the user"
    );

    world.send("two", vec![leave("room", &name(7))]);
    world.send("one", vec![leave("room", &name(7))]);
    let pushed = world.pushed_rooms("two");
    assert!(pushed[0].visible && !pushed[0].joined);
    let late = world.send("two", vec![join("room", &name(7))]);
    assert!(
        room_of(&late[0]).visible.is_empty(),
        "a user who left and came back must be last and not visible"
    );
    let promoted = world.send("two", vec![join("room", &name(100))]);
    assert_eq!(
        room_of(&promoted[0]).visible.len(),
        PRESENCE_PARTICIPANTS_MAX,
        "a user who moved up must be visible after joining again"
    );
}

#[test]
fn a_reply_never_exceeds_a_bus_message() {
    let mut world = World::settled();
    let long = |number: usize| format!("{number:0>128}");
    let members: Vec<_> = (0..100).map(long).collect();
    for room in 0..64 {
        world.send("one", members.iter().map(|user| join(&long(room), user)).collect());
    }
    let joins: Vec<_> = (0..64).map(|room| join(&long(room), &long(0))).collect();
    let reply = world.hand_over(request("two", 1, 0, joins), Vec::new());
    assert!(prost::Message::encoded_len(&*reply) < carillon_proto::limits::BUS_MESSAGE_BYTES_MAX);
    let states: Vec<_> =
        reply.results.iter().map(|result| room_of(result.body.as_ref().expect("a result"))).collect();
    assert!(states.iter().all(|state| state.participants == 100));
    let pushed = states.iter().filter(|state| !state.visible.is_empty()).count();
    assert!((20..64).contains(&pushed), "{pushed} rooms fit");

    let watches =
        |gateway: &str| request(gateway, 1, 0, (0..4_000).map(|number| watch(&long(number))).collect());
    let reply = world.hand_over(watches("three"), Vec::new());
    assert!(prost::Message::encoded_len(&*reply) < carillon_proto::limits::BUS_MESSAGE_BYTES_MAX);
    let answered = reply.results.iter().filter(|result| result.body.is_some()).count();
    assert_eq!(
        answered + world.pushed_users("three").len(),
        4_000,
        "the results that do not fit must be pushed"
    );
}
