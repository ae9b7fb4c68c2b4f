//! A shard with a clock that the test sets, and gateways that announce to it.

use carillon_presence_worker::core::Moment;
use carillon_presence_worker::core::shard::{Push, Shard};
use carillon_presence_worker::core::user::Record;
use carillon_proto::id::UserId;
use carillon_proto::wire::{self, Status, presence_change::Body as Change, presence_result::Body as Outcome};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The grace of the shards under test.
pub const GRACE_MS: u64 = 3_000;
/// The wall clock when a test's steady clock is at 0.
pub const WALL_MS: u64 = 1_700_000_000_000;

pub fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a valid id")
}

pub fn profile(name: &str) -> wire::Profile {
    wire::Profile { name: name.into(), email: format!("{name}@example.org"), ..Default::default() }
}

pub fn start(user: &str, session: u64) -> Change {
    limited(user, session, 0)
}

pub fn limited(user: &str, session: u64, limit: u32) -> Change {
    Change::SessionStarted(wire::SessionStarted {
        user: user.into(),
        session,
        profile: Some(profile(user)),
        limit,
        ..Default::default()
    })
}

/// A session as a snapshot announces it: with its status, and its place before it moved.
pub fn announced_session(
    user: &str,
    session: u64,
    status: Option<Status>,
    before: Option<(&str, u64)>,
) -> Change {
    Change::SessionStarted(wire::SessionStarted {
        user: user.into(),
        session,
        profile: Some(profile(user)),
        status: status.map(Into::into),
        moved_from: before.map(|(gateway, session)| wire::SessionPlace { gateway: gateway.into(), session }),
        ..Default::default()
    })
}

/// A session that moved from another gateway.
pub fn moved(user: &str, session: u64, gateway: &str, before: u64) -> Change {
    announced_session(user, session, None, Some((gateway, before)))
}

pub fn end(user: &str, session: u64) -> Change {
    Change::SessionEnded(wire::SessionEnded { user: user.into(), session })
}

pub fn set(user: &str, session: u64, status: Status, text: &str) -> Change {
    Change::StatusSet(wire::StatusSet {
        user: user.into(),
        session,
        status: status.into(),
        text: text.into(),
    })
}

pub fn watch(user: &str) -> Change {
    Change::Watch(wire::Watch { user: user.into() })
}

pub fn unwatch(user: &str) -> Change {
    Change::Unwatch(wire::Unwatch { user: user.into() })
}

pub fn query(user: &str) -> Change {
    Change::StatusQuery(wire::StatusQuery { user: user.into() })
}

pub fn profile_query(user: &str) -> Change {
    Change::ProfileQuery(wire::ProfileQuery { user: user.into() })
}

pub fn join(conversation: &str, user: &str) -> Change {
    Change::RoomJoined(wire::RoomJoined { conversation: conversation.into(), user: user.into() })
}

pub fn leave(conversation: &str, user: &str) -> Change {
    Change::RoomLeft(wire::RoomLeft {
        conversation: conversation.into(),
        user: user.into(),
        disconnected: false,
    })
}

pub fn request(gateway: &str, number: u64, last_number: u64, changes: Vec<Change>) -> wire::PresenceRequest {
    let changes = changes.into_iter().map(|body| wire::PresenceChange { body: Some(body) }).collect();
    wire::PresenceRequest { gateway: gateway.into(), number, last_number, snapshot: false, changes }
}

pub fn snapshot(gateway: &str, number: u64, changes: Vec<Change>) -> wire::PresenceRequest {
    wire::PresenceRequest { snapshot: true, ..request(gateway, number, number - 1, changes) }
}

/// A shard, its clock, and the pushes it returned.
pub struct World {
    pub shard: Shard,
    pub now_ms: u64,
    pub pushes: Vec<(u64, Push)>,
    numbers: BTreeMap<String, u64>,
}

impl World {
    /// An ownership that began at 0 and whose amnesty is over.
    pub fn settled() -> World {
        let mut world = World::new();
        world.pass(&[], 3_000);
        world.pushes.clear();
        world
    }

    /// An ownership that begins at 0.
    pub fn new() -> World {
        World::with_grace(GRACE_MS)
    }

    /// An ownership that begins at 0, with another grace.
    pub fn with_grace(grace_ms: u64) -> World {
        let shard = Shard::new(Moment { steady_ms: 0, wall_ms: WALL_MS }, 7, grace_ms);
        World { shard, now_ms: 0, pushes: Vec::new(), numbers: BTreeMap::new() }
    }

    pub fn now(&self) -> Moment {
        Moment { steady_ms: self.now_ms, wall_ms: WALL_MS + self.now_ms }
    }

    /// Sends a request unchanged, with rows read for it.
    pub fn hand_over(
        &mut self,
        request: wire::PresenceRequest,
        rows: Vec<Record>,
    ) -> Arc<wire::PresenceReply> {
        if request.number > 0 {
            self.numbers.insert(request.gateway.clone(), request.number);
        }
        let (reply, pushes) = self.shard.request(self.now(), request, rows).expect("a known gateway");
        self.keep(pushes);
        reply
    }

    pub fn keep(&mut self, pushes: Vec<Push>) {
        let now_ms = self.now_ms;
        self.pushes.extend(pushes.into_iter().map(|push| (now_ms, push)));
    }

    /// Sends a gateway's next batch. Returns the results.
    pub fn send(&mut self, gateway: &str, changes: Vec<Change>) -> Vec<Outcome> {
        let last = self.number(gateway);
        let count = changes.len();
        let reply = self.hand_over(request(gateway, last + 1, last, changes), Vec::new());
        assert!(!reply.snapshot_wanted, "{gateway} must not be requested to send a snapshot");
        assert_eq!(reply.results.len(), count, "one result per change");
        reply.results.iter().map(|result| result.body.clone().expect("a result")).collect()
    }

    pub fn number(&self, gateway: &str) -> u64 {
        self.numbers.get(gateway).copied().unwrap_or(0)
    }

    pub fn heartbeat(&mut self, gateway: &str) -> Arc<wire::PresenceReply> {
        let last = self.number(gateway);
        self.hand_over(request(gateway, 0, last, Vec::new()), Vec::new())
    }

    /// Lets time pass, with ticks every second and when something is due, and heartbeats of the named gateways.
    pub fn pass(&mut self, gateways: &[&str], ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            let next_second_ms = (self.now_ms / 1_000 + 1) * 1_000;
            let due_ms = self.shard.next_due_ms().filter(|due_ms| *due_ms > self.now_ms).unwrap_or(u64::MAX);
            self.now_ms = next_second_ms.min(due_ms).min(until_ms);
            if self.now_ms == next_second_ms {
                gateways.iter().for_each(|gateway| drop(self.heartbeat(gateway)));
            }
            if self.now_ms == next_second_ms || self.now_ms == due_ms {
                let pushes = self.shard.tick(self.now());
                self.keep(pushes);
                let next_ms = self.shard.next_due_ms();
                assert!(
                    next_ms.is_none_or(|next_ms| next_ms > self.now_ms),
                    "a tick must handle everything that is due"
                );
            }
        }
    }

    /// The presences pushed to `gateway` since the last call: `(when, user, online)`.
    pub fn pushed_users(&mut self, gateway: &str) -> Vec<(u64, String, bool)> {
        let mut pushed = Vec::new();
        for (at_ms, push) in self.pushes.iter_mut().filter(|(_, push)| push.gateway.as_str() == gateway) {
            pushed.extend(push.news.users.drain(..).map(|presence| (*at_ms, presence.user, presence.online)));
        }
        pushed
    }

    /// The room changes pushed to `gateway` since the last call.
    pub fn pushed_rooms(&mut self, gateway: &str) -> Vec<wire::RoomChange> {
        let pushes = self.pushes.iter_mut().filter(|(_, push)| push.gateway.as_str() == gateway);
        pushes.flat_map(|(_, push)| push.news.rooms.drain(..)).collect()
    }

    /// The gateways requested to check the sessions of users with too many, since the last call: `(gateway, user)`.
    pub fn pushed_crowds(&mut self) -> Vec<(String, String)> {
        let pushes = self.pushes.iter_mut();
        let pushed = pushes.flat_map(|(_, push)| {
            let gateway = push.gateway.to_string();
            push.news.crowded.drain(..).map(move |user| (gateway.clone(), user))
        });
        pushed.collect()
    }

    /// Whether a push requested a snapshot from `gateway`.
    pub fn requests_snapshot(&self, gateway: &str) -> bool {
        self.pushes.iter().any(|(_, push)| push.gateway.as_str() == gateway && push.news.snapshot_wanted)
    }

    /// Answers all loads with users who have no row.
    pub fn answer_loads(&mut self) {
        let users = self.shard.next_to_load(100);
        let rows = users.iter().cloned().map(Record::unknown).collect();
        let pushes = self.shard.loaded(self.now(), &users, Some(rows));
        self.keep(pushes);
    }

    /// The presence of a user, by a query of a gateway that announces nothing.
    pub fn presence(&mut self, user: &str) -> wire::UserPresence {
        let reply = self.hand_over(request("probe", 0, 0, vec![query(user)]), Vec::new());
        presence_of(reply.results[0].body.as_ref())
    }
}

pub fn presence_of(outcome: Option<&Outcome>) -> wire::UserPresence {
    match outcome {
        Some(Outcome::User(presence)) => presence.clone(),
        other => panic!("not a presence: {other:?}"),
    }
}

pub fn room_of(outcome: &Outcome) -> &wire::RoomState {
    match outcome {
        Outcome::Room(room) => room,
        other => panic!("not a room: {other:?}"),
    }
}
