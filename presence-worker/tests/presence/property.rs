//! A property test. Three gateways announce random changes, some of which are lost, repeated or late. Once their
//! batches are in step again, the shard must hold what they hold, and they must know what the shard holds.

use crate::dsl::*;
use carillon_presence_worker::core::Moment;
use carillon_presence_worker::core::shard::{Push, Shard};
use carillon_proto::id::GatewayId;
use carillon_proto::wire::{self, Status, presence_change::Body as Change, presence_result::Body as Outcome};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const GATEWAYS: usize = 3;
const USERS: [&str; 4] = ["ann", "bob", "eve", "zoe"];
const ROOMS: [&str; 2] = ["red", "blue"];

#[derive(Debug, Clone)]
enum Step {
    Start(usize, usize),
    End(usize, usize),
    Set(usize, usize, Status),
    /// A session moves to another gateway. The old gateway announces it until `LetGo`.
    Move(usize, usize, usize),
    LetGo(usize),
    Watch(usize, usize),
    Unwatch(usize, usize),
    Join(usize, usize, usize),
    Leave(usize, usize, usize),
    /// The changes since the last batch arrive this many times.
    Send(usize, usize),
    /// The changes since the last batch are lost, and the gateway does not notice.
    Lose(usize),
    /// The pushes in flight to the gateway arrive.
    Deliver(usize),
    /// The pushes in flight to the gateway are lost, and the worker notices.
    LosePushes(usize),
    Wait(u64),
    /// The gateway is cut off for five seconds.
    CutOff(usize),
    /// Another worker takes the shard over, and the pushes in flight are lost.
    NewOwner,
}

/// A session as its gateway announces it.
#[derive(Default, Clone)]
struct Local {
    status: Option<Status>,
    before: Option<(String, u64)>,
    /// The session has moved to another gateway.
    has_left: bool,
}

/// A gateway: what it announces, and what it learned from replies and pushes.
#[derive(Default)]
struct Announcer {
    name: String,
    sessions: BTreeMap<(&'static str, u64), Local>,
    watches: BTreeSet<&'static str>,
    rooms: BTreeSet<(&'static str, &'static str)>,
    pending: Vec<Change>,
    number: u64,
    sessions_ever: u64,
    snapshot_wanted: bool,
    users: BTreeMap<String, ((u64, u64), wire::UserPresence)>,
    participants: BTreeMap<String, ((u64, u64), u32)>,
}

impl Local {
    fn announced(&self, user: &str, session: u64) -> Change {
        let before = self.before.as_ref().map(|(gateway, session)| (gateway.as_str(), *session));
        announced_session(user, session, self.status, before)
    }
}

impl Announcer {
    fn present(&self) -> impl Iterator<Item = (&(&'static str, u64), &Local)> {
        self.sessions.iter().filter(|(_, local)| !local.has_left)
    }

    fn nth_session(&self, nth: usize) -> Option<(&'static str, u64)> {
        self.present().map(|(session, _)| *session).nth(nth % self.present().count().max(1))
    }

    fn start(&mut self, user: &'static str, local: Local) {
        self.sessions_ever += 1;
        self.pending.push(local.announced(user, self.sessions_ever));
        self.sessions.insert((user, self.sessions_ever), local);
    }

    fn let_go(&mut self, of: impl Fn(&(String, u64)) -> bool) {
        let name = self.name.clone();
        let goes = |(_, id): &(_, u64), local: &mut Local| local.has_left && of(&(name.clone(), *id));
        let left = self.sessions.extract_if(.., goes);
        self.pending.extend(left.map(|((user, session), _)| end(user, session)));
    }

    fn everything(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        changes.extend(self.sessions.iter().map(|((user, session), local)| local.announced(user, *session)));
        changes.extend(self.watches.iter().map(|user| watch(user)));
        changes.extend(self.rooms.iter().map(|(room, user)| join(room, user)));
        changes
    }

    fn learn_user(&mut self, version: (u64, u64), presence: wire::UserPresence) {
        let known = self.users.get(&presence.user).map_or((0, 0), |(known, _)| *known);
        if version >= known && self.watches.contains(presence.user.as_str()) {
            self.users.insert(presence.user.clone(), (version, presence));
        }
    }

    fn learn_room(&mut self, version: (u64, u64), room: &str, participants: u32) {
        let known = self.participants.get(room).map_or((0, 0), |(known, _)| *known);
        if version >= known {
            self.participants.insert(room.into(), (version, participants));
        }
    }

    fn receive_reply(&mut self, changes: &[Change], reply: &wire::PresenceReply) {
        self.snapshot_wanted = reply.snapshot_wanted;
        if reply.snapshot_wanted {
            return;
        }
        let version = (reply.epoch, reply.version);
        for (change, result) in changes.iter().zip(&reply.results) {
            match (change, result.body.clone()) {
                (_, Some(Outcome::User(presence))) if presence.online || !reply.unsettled => {
                    self.learn_user(version, presence);
                }
                (Change::RoomJoined(wire::RoomJoined { conversation, .. }), Some(Outcome::Room(state)))
                | (Change::RoomLeft(wire::RoomLeft { conversation, .. }), Some(Outcome::Room(state))) => {
                    self.learn_room(version, conversation, state.participants);
                }
                _ => {}
            }
        }
    }

    fn receive_push(&mut self, epoch: u64, push: Push) {
        let version = (epoch, push.version);
        self.snapshot_wanted |= push.news.snapshot_wanted;
        push.news.users.into_iter().for_each(|presence| self.learn_user(version, presence));
        for change in push.news.rooms {
            self.learn_room(version, &change.conversation, change.participants);
        }
    }
}

struct Model {
    shard: Shard,
    epoch: u64,
    now_ms: u64,
    gateways: Vec<Announcer>,
    under_way: Vec<Push>,
}

impl Model {
    fn new() -> Model {
        let gateways =
            (0..GATEWAYS).map(|number| Announcer { name: format!("gw-{number}"), ..Default::default() });
        let shard = Shard::new(Moment { steady_ms: 0, wall_ms: WALL_MS }, 1, GRACE_MS);
        let mut model =
            Model { shard, epoch: 1, now_ms: 0, gateways: gateways.collect(), under_way: Vec::new() };
        model.wait(3_000, None);
        model
    }

    fn now(&self) -> Moment {
        Moment { steady_ms: self.now_ms, wall_ms: WALL_MS + self.now_ms }
    }

    fn hand_over(&mut self, request: wire::PresenceRequest) -> Arc<wire::PresenceReply> {
        let (reply, pushes) = self.shard.request(self.now(), request, Vec::new()).expect("a known gateway");
        self.under_way.extend(pushes);
        reply
    }

    /// Lets time pass, with heartbeats of every gateway but `without`.
    fn wait(&mut self, ms: u64, without: Option<usize>) {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            self.now_ms = ((self.now_ms / 1_000 + 1) * 1_000).min(until_ms);
            if self.now_ms.is_multiple_of(1_000) {
                for gateway in (0..GATEWAYS).filter(|gateway| Some(*gateway) != without) {
                    self.heartbeat(gateway);
                }
            }
            let pushes = self.shard.tick(self.now());
            self.under_way.extend(pushes);
        }
    }

    fn heartbeat(&mut self, gateway: usize) {
        let announcer = &self.gateways[gateway];
        let reply = self.hand_over(request(&announcer.name, 0, announcer.number, Vec::new()));
        self.gateways[gateway].snapshot_wanted |= reply.snapshot_wanted;
    }

    fn send(&mut self, gateway: usize, times: usize) {
        if self.gateways[gateway].snapshot_wanted {
            return self.send_snapshot(gateway);
        }
        let announcer = &mut self.gateways[gateway];
        announcer.number += 1;
        let changes = std::mem::take(&mut announcer.pending);
        let batch = request(&announcer.name, announcer.number, announcer.number - 1, changes.clone());
        for _ in 0..times {
            let reply = self.hand_over(batch.clone());
            self.gateways[gateway].receive_reply(&changes, &reply);
        }
    }

    fn send_snapshot(&mut self, gateway: usize) {
        let announcer = &mut self.gateways[gateway];
        announcer.pending.clear();
        announcer.snapshot_wanted = false;
        let everything = announcer.everything();
        // A session and its status are in the same part, so the cut is after the sessions and not in the middle.
        let cut = everything.iter().position(|change| matches!(change, Change::Watch(_))).unwrap_or(0);
        let (sessions, rest) = everything.split_at(cut);
        let name = announcer.name.clone();
        let number = announcer.number + 1;
        announcer.number += 2;
        let first =
            wire::PresenceRequest { last_number: number + 1, ..snapshot(&name, number, sessions.to_vec()) };
        let reply = self.hand_over(first);
        self.gateways[gateway].receive_reply(sessions, &reply);
        let reply = self.hand_over(request(&name, number + 1, number + 1, rest.to_vec()));
        self.gateways[gateway].receive_reply(rest, &reply);
    }

    fn extract_pushes(&mut self, gateway: usize) -> Vec<Push> {
        let name = self.gateways[gateway].name.clone();
        self.under_way.extract_if(.., |push| push.gateway.as_str() == name).collect()
    }

    fn deliver(&mut self, gateway: usize) {
        for push in self.extract_pushes(gateway) {
            self.gateways[gateway].receive_push(self.epoch, push);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Send(gateway, times) => self.send(gateway, times),
            Step::Lose(gateway) => {
                self.gateways[gateway].pending.clear();
                self.gateways[gateway].number += 1;
            }
            Step::Deliver(gateway) => self.deliver(gateway),
            Step::LosePushes(gateway) => {
                if !self.extract_pushes(gateway).is_empty() {
                    let name = &self.gateways[gateway].name;
                    self.shard.lost_pushes(&GatewayId::parse(name).expect("valid"));
                }
            }
            Step::Wait(ms) => self.wait(ms, None),
            Step::CutOff(gateway) => self.wait(5_000, Some(gateway)),
            Step::NewOwner => {
                self.epoch += 1;
                self.shard = Shard::new(self.now(), self.epoch, GRACE_MS);
                self.under_way.clear();
            }
            Step::Move(gateway, nth, to) => self.go_on(gateway, nth, to),
            Step::LetGo(gateway) => self.gateways[gateway].let_go(|_| true),
            _ => self.announce(step),
        }
    }

    fn go_on(&mut self, gateway: usize, nth: usize, to: usize) {
        let from = &mut self.gateways[gateway];
        let Some((user, session)) = from.nth_session(nth).filter(|_| gateway != to) else { return };
        let before = Some((from.name.clone(), session));
        // A session that has moved has a WebSocket, and does not move again.
        let local = from.sessions.get_mut(&(user, session)).filter(|local| local.before.is_none());
        let Some(local) = local else { return };
        local.has_left = true;
        let status = local.status;
        self.gateways[to].start(user, Local { status, before, has_left: false });
    }

    fn announce(&mut self, step: &Step) {
        let (Step::Start(gateway, _)
        | Step::End(gateway, _)
        | Step::Set(gateway, ..)
        | Step::Watch(gateway, _)
        | Step::Unwatch(gateway, _)
        | Step::Join(gateway, ..)
        | Step::Leave(gateway, ..)) = *step
        else {
            return;
        };
        let announcer = &mut self.gateways[gateway];
        let change = match *step {
            Step::Start(_, user) => {
                announcer.start(USERS[user], Local::default());
                None
            }
            Step::End(_, nth) => announcer.nth_session(nth).map(|(user, session)| {
                announcer.sessions.remove(&(user, session));
                end(user, session)
            }),
            Step::Set(_, nth, status) => announcer.nth_session(nth).map(|(user, session)| {
                if let Some(local) = announcer.sessions.get_mut(&(user, session)) {
                    local.status = Some(status);
                }
                set(user, session, status, "")
            }),
            Step::Watch(_, user) => {
                announcer.watches.insert(USERS[user]);
                Some(watch(USERS[user]))
            }
            Step::Unwatch(_, user) => {
                announcer.watches.remove(USERS[user]);
                announcer.users.remove(USERS[user]);
                Some(unwatch(USERS[user]))
            }
            Step::Join(_, room, user) => {
                announcer.rooms.insert((ROOMS[room], USERS[user]));
                Some(join(ROOMS[room], USERS[user]))
            }
            Step::Leave(_, room, user) => {
                announcer.rooms.remove(&(ROOMS[room], USERS[user]));
                Some(leave(ROOMS[room], USERS[user]))
            }
            _ => None,
        };
        announcer.pending.extend(change);
    }

    /// Delivers everything from now on, and waits until every grace is over.
    fn come_to_rest(&mut self) {
        let sessions = self.gateways.iter().flat_map(Announcer::present);
        let before: BTreeSet<_> = sessions.filter_map(|(_, local)| local.before.clone()).collect();
        self.gateways.iter_mut().for_each(|gateway| gateway.let_go(|left| !before.contains(left)));
        for _ in 0..3 {
            for gateway in 0..GATEWAYS {
                self.deliver(gateway);
                self.send(gateway, 1);
            }
            self.wait(3_000, None);
        }
        (0..GATEWAYS).for_each(|gateway| self.deliver(gateway));
    }

    fn result(&mut self, change: Change) -> Outcome {
        let reply = self.hand_over(request("probe", 0, 0, vec![change]));
        reply.results[0].body.clone().expect("a result")
    }

    fn check(&mut self, same_owner: bool) {
        let sessions = self.gateways.iter().flat_map(Announcer::present).count();
        assert_eq!(self.shard.census().sessions, sessions);
        for name in USERS {
            let result = self.result(query(name));
            let presence = presence_of(Some(&result));
            let sessions = self.gateways.iter().flat_map(Announcer::present);
            let statuses: Vec<_> =
                sessions.filter(|((user, _), _)| *user == name).map(|(_, local)| local.status).collect();
            assert_eq!(presence.online, !statuses.is_empty(), "{name}");
            let set: Vec<_> = statuses.into_iter().flatten().collect();
            assert!(
                set.is_empty() || set.contains(&presence.status()),
                "{name}: {:?} of {set:?}",
                presence.status()
            );
            for gateway in self.gateways.iter().filter(|gateway| gateway.watches.contains(name)) {
                let mut known = gateway.users.get(name).expect("a watched user's presence").1.clone();
                if presence.online {
                    // While a user is online, no push updates `last_seen_ms`.
                    known.last_seen_ms = presence.last_seen_ms;
                }
                assert_eq!(known, presence, "{} of {name}", gateway.name);
            }
        }
        for room in ROOMS {
            let result = self.result(join(room, "probe"));
            let found: BTreeSet<_> = room_of(&result).visible.iter().map(String::as_str).collect();
            let joined =
                self.gateways.iter().flat_map(|gateway| &gateway.rooms).filter(|(name, _)| *name == room);
            let expected: BTreeSet<_> = joined.map(|(_, user)| *user).chain(["probe"]).collect();
            assert_eq!(found, expected, "{room}");
            assert_eq!(room_of(&result).participants as usize, expected.len());
            let with_members = |gateway: &&Announcer| gateway.rooms.iter().any(|(name, _)| *name == room);
            for gateway in self.gateways.iter().filter(with_members).filter(|_| same_owner) {
                let known = gateway.participants.get(room).map(|(_, participants)| *participants as usize);
                assert_eq!(known, Some(expected.len() - 1), "{} of {room}", gateway.name);
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (gateway, user, room) = (0..GATEWAYS, 0..USERS.len(), 0..ROOMS.len());
    let status = prop_oneof![Just(Status::Active), Just(Status::Away), Just(Status::Dnd)];
    let step = prop_oneof![
        8 => (gateway.clone(), user.clone()).prop_map(|(gateway, user)| Step::Start(gateway, user)),
        8 => (gateway.clone(), 0..9_usize).prop_map(|(gateway, nth)| Step::End(gateway, nth)),
        4 => (gateway.clone(), 0..9_usize, status).prop_map(|(gateway, nth, status)| Step::Set(gateway, nth, status)),
        8 => (gateway.clone(), 0..9_usize, gateway.clone()).prop_map(|(from, nth, to)| Step::Move(from, nth, to)),
        3 => gateway.clone().prop_map(Step::LetGo),
        6 => (gateway.clone(), user.clone()).prop_map(|(gateway, user)| Step::Watch(gateway, user)),
        2 => (gateway.clone(), user.clone()).prop_map(|(gateway, user)| Step::Unwatch(gateway, user)),
        8 => (gateway.clone(), room.clone(), user.clone()).prop_map(|(gateway, room, user)| Step::Join(gateway, room, user)),
        6 => (gateway.clone(), room, user).prop_map(|(gateway, room, user)| Step::Leave(gateway, room, user)),
        16 => (gateway.clone(), 1..3_usize).prop_map(|(gateway, times)| Step::Send(gateway, times)),
        3 => gateway.clone().prop_map(Step::Lose),
        6 => gateway.clone().prop_map(Step::Deliver),
        2 => gateway.clone().prop_map(Step::LosePushes),
        3 => (0..1_500_u64).prop_map(Step::Wait),
        1 => gateway.prop_map(Step::CutOff),
        1 => Just(Step::NewOwner),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn gateways_and_shard_agree_in_the_end(steps in steps()) {
        let mut model = Model::new();
        steps.iter().for_each(|step| model.step(step));
        model.come_to_rest();
        model.check(!steps.iter().any(|step| matches!(step, Step::NewOwner)));
    }
}
