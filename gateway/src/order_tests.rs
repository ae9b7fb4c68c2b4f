//! Joins, leaves, registrations and deliveries in many orders of threads, chosen by shuttle. The hub, the link's handle
//! and gathering, and registrations are the gateway's own code. The partition's owner and its store are models.

use crate::connection::outgoing::Outgoing;
use crate::connection::{ClientProtocol, Connection, Member};
use crate::delivery::dialect::Dialect;
use crate::delivery::hub::{Fetch, Hub, Room};
use crate::sync::{Mutex, stepped};
use crate::workers::links::{LinkHandle, LinkTask, link};
use crate::workers::registration::Registration;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::partition::stable_hash;
use carillon_proto::wire::{self, event::Kind};
use shuttle::future::block_on;
use shuttle::thread;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Random orders that are tried for each test.
const ORDERS: usize = 3_000;

fn id() -> ConversationId {
    ConversationId::parse("room").expect("valid")
}

/// A model of the owner of the only partition, of the store, and of the messages to the gateway.
#[derive(Default)]
struct Owner {
    state: Mutex<OwnerState>,
}

#[derive(Default)]
struct OwnerState {
    registered: BTreeSet<String>,
    participants: BTreeSet<String>,
    events: Vec<wire::Event>,
    /// Events that were sent and are not delivered yet.
    sent: Vec<wire::Event>,
}

impl Owner {
    fn commits(&self, kind: Kind) -> u64 {
        let mut state = self.state.lock();
        match &kind {
            Kind::ParticipantRemoved(removed) => drop(state.participants.remove(&removed.user)),
            Kind::ParticipantsAdded(added) => state.participants.extend(added.users.iter().cloned()),
            _ => {}
        }
        let seq = state.events.len() as u64 + 1;
        let event = wire::Event {
            conversation: "room".into(),
            seq,
            kind: Some(kind),
            id: bytes::Bytes::from_static(&[1; 16]),
            ..wire::Event::default()
        };
        state.events.push(event.clone());
        if state.registered.contains("room") {
            state.sent.push(event);
        }
        seq
    }

    fn registers(&self, register: &wire::Register) -> wire::Registered {
        let mut state = self.state.lock();
        for conversation in &register.remove {
            state.registered.remove(conversation);
        }
        let mut registered = wire::Registered::default();
        for interest in &register.add {
            state.registered.insert(interest.conversation.clone());
            let refused = interest.check.iter().filter(|user| !state.participants.contains(*user));
            let refused = refused.cloned().collect();
            let (conversation, head) = (interest.conversation.clone(), state.events.len() as u64);
            registered.conversations.push(wire::Listened { conversation, head, refused });
        }
        registered
    }

    fn hash(&self) -> u64 {
        self.state.lock().registered.iter().fold(0, |hash, name| hash ^ stable_hash(name))
    }
}

/// A gateway with one partition.
struct World {
    hub: Hub,
    link: Mutex<Option<Arc<LinkHandle>>>,
    owner: Owner,
}

impl World {
    /// A gateway whose link task runs until [`World::settle`].
    fn start(participants: &[&str]) -> (Arc<World>, thread::JoinHandle<()>) {
        let (handle, task) = link();
        let owner = Owner::default();
        owner.state.lock().participants.extend(participants.iter().map(ToString::to_string));
        let world = World { hub: Hub::new(1), link: Mutex::new(Some(Arc::new(handle))), owner };
        let world = Arc::new(world);
        let linked = world.clone();
        let linking = thread::spawn(move || linked.link(task));
        (world, linking)
    }

    fn link(&self, mut task: LinkTask) {
        while let Some(gathered) = block_on(task.gather(self.hub.changed(0))) {
            let Ok(Some(registration)) = Registration::of(&self.hub, 0, gathered.joins) else { continue };
            let registered = self.owner.registers(&registration.request());
            // Other threads may run while the answer is under way, as over a bus.
            thread::yield_now();
            let done = registration.answered(&self.hub, Some(registered));
            done.fetches.into_iter().for_each(|fetch| self.fetch(Some(fetch)));
        }
    }

    fn fetch(&self, mut fetch: Option<Fetch>) {
        while let Some(Fetch { room, after_seq, .. }) = fetch.take() {
            let events = self.owner.state.lock().events.clone();
            let above = events.into_iter().filter(|event| event.seq > after_seq).collect();
            fetch = self.hub.fetched(&room, above);
        }
    }

    fn deliver(&self) {
        let sent = std::mem::take(&mut self.owner.state.lock().sent);
        for event in sent {
            let fetch = self.hub.deliver(event, &mut Vec::new());
            self.fetch(fetch);
        }
    }

    fn sends(&self) {
        self.owner.commits(message());
        self.deliver();
    }

    fn join(&self, number: u64, user: &str) -> Option<Person> {
        self.join_if(number, user, false)
    }

    fn join_if(&self, number: u64, user: &str, check: bool) -> Option<Person> {
        let user = UserId::parse(user).expect("valid");
        let name = user.as_str().into();
        let outgoing = Arc::new(Outgoing::default());
        let connection = Arc::new(Connection::new(number, user, name, ClientProtocol::Native, outgoing));
        let room = self.hub.hold(&id());
        let link = self.link.lock().clone().expect("a link");
        let registered = block_on(link.join(&room, check.then(|| connection.user.clone())));
        drop(link);
        let person = registered.ok().and_then(|since| {
            let mut state = room.lock();
            let head = state.topic.head().expect("registered");
            let member = Member { connection: connection.clone(), dialect: Dialect::Native, place: 0 };
            state.admit(&member, since).ok()?;
            let slot = state.topic.join(member, head, since).0;
            drop(state);
            Some(Person { connection, room: room.clone(), slot, head })
        });
        self.hub.release(&room);
        person
    }

    fn leave(&self, person: &Person) {
        person.room.lock().topic.leave(person.slot);
        self.hub.close_if_idle(&person.room);
    }

    /// Ends the link task and checks the result: all members receive the last message, and exactly the rooms in the hub
    /// are registered.
    fn settle(&self, linking: thread::JoinHandle<()>, here: &[Person]) {
        *self.link.lock() = None;
        linking.join().expect("no panic");
        if let Ok(Some(registration)) = Registration::of(&self.hub, 0, Vec::new()) {
            let registered = self.owner.registers(&registration.request());
            registration.answered(&self.hub, Some(registered));
        }
        self.sends();
        let last = self.owner.state.lock().events.len() as u64;
        for person in here {
            let expected: Vec<u64> = (person.head + 1..=last).collect();
            assert_eq!(person.received(), expected, "{} joined at {}", person.connection.user, person.head);
        }
        assert_eq!(
            self.hub.expected(0),
            Some(self.owner.hash()),
            "the registered rooms must be the rooms of the connections"
        );
        assert_eq!(self.hub.room("room").is_some(), !here.is_empty());
    }
}

struct Person {
    connection: Arc<Connection>,
    room: Arc<Room>,
    slot: u32,
    head: u64,
}

impl Person {
    fn received(&self) -> Vec<u64> {
        let frames = self.connection.outgoing.drain();
        let mut seqs = BTreeMap::new();
        for (nth, frame) in frames.iter().enumerate() {
            let text = String::from_utf8_lossy(frame);
            if text.contains("conversation_left") {
                seqs.insert(nth, u64::MAX);
                continue;
            }
            let seq = text.split("\"seq\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
            seqs.insert(nth, seq.and_then(|seq| seq.parse().ok()).expect("a seq"));
        }
        seqs.into_values().collect()
    }
}

fn message() -> Kind {
    Kind::Message(wire::SendMessage { content: "hi".into(), ..wire::SendMessage::default() })
}

fn every_order(case: impl Fn() + Send + Sync + 'static) {
    stepped(|| shuttle::check_random(case, ORDERS));
}

/// Before the fix, the room received nothing: the owner applied the leave after the join, if the thread that left was
/// delayed between closing the room and reporting that.
#[test]
fn a_member_that_joins_while_the_last_one_leaves_receives_events() {
    every_order(|| {
        let (world, linking) = World::start(&[]);
        let ann = world.join(1, "ann").expect("joined");
        let leaving = world.clone();
        let leaver = thread::spawn(move || leaving.leave(&ann));
        let joining = world.clone();
        let joiner = thread::spawn(move || joining.join(2, "bob").expect("joined"));
        world.sends();
        let bob = joiner.join().expect("no panic");
        leaver.join().expect("no panic");
        world.settle(linking, &[bob]);
    });
}

/// Reports a leave without a look at the hub, as before the fix. The test must detect the loss of events.
#[test]
#[should_panic(expected = "bob joined at")]
fn a_leave_reported_without_a_look_at_the_hub_loses_events() {
    every_order(|| {
        let (world, linking) = World::start(&[]);
        let ann = world.join(1, "ann").expect("joined");
        let leaving = world.clone();
        let leaver = thread::spawn(move || {
            leaving.leave(&ann);
            let remove = vec!["room".to_owned()];
            leaving.owner.registers(&wire::Register { replace: false, add: Vec::new(), remove });
        });
        let joining = world.clone();
        let joiner = thread::spawn(move || joining.join(2, "bob").expect("joined"));
        let bob = joiner.join().expect("no panic");
        leaver.join().expect("no panic");
        world.settle(linking, &[bob]);
    });
}

/// Before the fix, a room got the head of the registration of an earlier room of the same conversation. Its member then
/// missed the events in between until the next message.
#[test]
fn a_room_does_not_get_the_head_of_an_earlier_room() {
    every_order(|| {
        let (world, linking) = World::start(&[]);
        let people: Vec<_> = (1..=2)
            .map(|number| {
                let world = world.clone();
                thread::spawn(move || {
                    let first = world.join(number, "ann").expect("joined");
                    world.leave(&first);
                    world.join(10 + number, "ann").expect("joined")
                })
            })
            .collect();
        let sending = world.clone();
        let sender = thread::spawn(move || (0..2).for_each(|_| sending.sends()));
        let here: Vec<_> = people.into_iter().map(|person| person.join().expect("no panic")).collect();
        sender.join().expect("no panic");
        world.settle(linking, &here);
    });
}

#[test]
fn a_conversation_without_members_is_not_registered() {
    every_order(|| {
        let (world, linking) = World::start(&[]);
        let people: Vec<_> = (1..=3)
            .map(|number| {
                let world = world.clone();
                thread::spawn(move || world.leave(&world.join(number, "ann").expect("joined")))
            })
            .collect();
        people.into_iter().for_each(|person| person.join().expect("no panic"));
        world.settle(linking, &[]);
    });
}

/// Before the fix, no check saw a removal that came between the owner's answer and the member's join. The removed user
/// received everything as long as the connection lived.
#[test]
fn a_user_removed_while_joining_receives_nothing_above_the_removal() {
    every_order(|| {
        let (world, linking) = World::start(&["eve"]);
        let ann = world.join(1, "ann").expect("joined");
        let joining = world.clone();
        let joiner = thread::spawn(move || joining.join_if(2, "eve", true));
        let removing = world.clone();
        let remover = thread::spawn(move || {
            removing.sends();
            let removed = wire::RemoveParticipant { user: "eve".into() };
            let seq = removing.owner.commits(Kind::ParticipantRemoved(removed));
            removing.deliver();
            removing.sends();
            seq
        });
        let eve = joiner.join().expect("no panic");
        let removal = remover.join().expect("no panic");
        world.settle(linking, &[ann]);
        if let Some(eve) = eve {
            assert!(eve.head < removal, "eve joined at {} but was removed at {removal}", eve.head);
            let expected: Vec<u64> = (eve.head + 1..=removal).chain([u64::MAX]).collect();
            assert_eq!(
                eve.received(),
                expected,
                "eve must receive the events up to the removal and then the end"
            );
        }
    });
}

/// Before the fix, a removal that was delivered late or twice removed a user who had been added again since.
#[test]
fn a_user_added_again_stays() {
    every_order(|| {
        let (world, linking) = World::start(&["eve"]);
        let ann = world.join(1, "ann").expect("joined");
        let removed = wire::RemoveParticipant { user: "eve".into() };
        let removal = Kind::ParticipantRemoved(removed);
        world.owner.commits(removal);
        let added = wire::AddParticipants { users: vec!["eve".into()] };
        world.owner.commits(Kind::ParticipantsAdded(added));
        let joining = world.clone();
        let joiner = thread::spawn(move || joining.join_if(2, "eve", true).expect("she participates"));
        let delivering = world.clone();
        let again = thread::spawn(move || {
            let sent = delivering.owner.state.lock().events.clone();
            delivering.deliver();
            for event in sent {
                let fetch = delivering.hub.deliver(event, &mut Vec::new());
                delivering.fetch(fetch);
            }
        });
        let eve = joiner.join().expect("no panic");
        again.join().expect("no panic");
        world.settle(linking, &[ann, eve]);
    });
}
