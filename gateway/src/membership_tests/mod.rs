//! Joins, leaves and removals that happen at the same time. The gateway's parts are real. The partition's owner and the
//! presence-workers are models at the other end of the embedded bus.

mod owner;

use self::owner::Owner;
use crate::connection::outgoing::Outgoing;
use crate::connection::{ClientProtocol, Connection};
use crate::delivery::deliver::Subscriptions;
use crate::delivery::dialect::{CommandOrigin, Namespace};
use crate::session::join::{self, Entered, JoinRequest};
use crate::session::{Session, WorkResult};
use crate::shared::Shared;
use bytes::Bytes;
use carillon_proto::dialect::socketio::vocabulary::{Verb, Vocabulary};
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::PRESENCE_SHARDS;
use carillon_proto::subject;
use carillon_proto::wire::{
    self, Authority, event::Kind, presence_change::Body as Change, presence_result::Body as Outcome,
    to_gateway,
};
use carillon_runtime::bus::embedded::EmbeddedBus;
use carillon_runtime::bus::{Bus, Incoming};
use carillon_runtime::settings::{Role, Settings};
use parking_lot::Mutex;
use prost::Message;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const EPOCH: u64 = 7;

/// All presence-workers: the users in each room, and the watched users.
#[derive(Default)]
struct Presence {
    rooms: Mutex<BTreeSet<(String, String)>>,
    watched: Mutex<BTreeSet<String>>,
    /// While set, joins are not answered.
    waits: AtomicBool,
    requests: AtomicU64,
}

impl Presence {
    fn answer(&self, request: wire::PresenceRequest) -> wire::PresenceReply {
        let joins = |change: &wire::PresenceChange| matches!(change.body, Some(Change::RoomJoined(_)));
        if self.waits.load(Ordering::Relaxed) && request.changes.iter().any(joins) {
            self.requests.fetch_add(1, Ordering::Relaxed);
            while self.waits.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
        }
        let results =
            request.changes.into_iter().map(|change| wire::PresenceResult { body: self.apply(change) });
        wire::PresenceReply { results: results.collect(), ..wire::PresenceReply::default() }
    }

    fn apply(&self, change: wire::PresenceChange) -> Option<Outcome> {
        let mut rooms = self.rooms.lock();
        let (conversation, changed) = match change.body? {
            Change::RoomJoined(wire::RoomJoined { conversation, user }) => {
                (conversation.clone(), rooms.insert((conversation, user)))
            }
            Change::RoomLeft(wire::RoomLeft { conversation, user, .. }) => {
                (conversation.clone(), rooms.remove(&(conversation, user)))
            }
            Change::Watch(wire::Watch { user }) => {
                self.watched.lock().insert(user.clone());
                return Some(Outcome::User(wire::UserPresence { user, ..wire::UserPresence::default() }));
            }
            Change::Unwatch(wire::Unwatch { user }) => {
                self.watched.lock().remove(&user);
                return Some(Outcome::Done(true));
            }
            _ => return Some(Outcome::Done(true)),
        };
        let visible: Vec<String> =
            rooms.iter().filter(|(room, _)| *room == conversation).map(|(_, user)| user.clone()).collect();
        let participants = visible.len() as u32;
        Some(Outcome::Room(wire::RoomState { participants, visible, changed }))
    }
}

pub(crate) struct World {
    pub(crate) shared: Arc<Shared>,
    bus: Arc<EmbeddedBus>,
    owner: Arc<Owner>,
    presence: Arc<Presence>,
    connections: AtomicU64,
    _tasks: JoinSet<()>,
}

async fn answer(
    tasks: &mut JoinSet<()>,
    bus: &Arc<EmbeddedBus>,
    subject: &str,
    group: Option<&str>,
    mut reply: impl FnMut(Bytes) -> Vec<u8> + Send + 'static,
) {
    let mut requests = bus.subscribe(subject, group).await.expect("subscribed");
    tasks.spawn(async move {
        while let Some(incoming) = requests.next().await {
            let Incoming::Message(message) = incoming else { continue };
            let answer = reply(message.payload);
            message.reply.expect("a request").send(answer.into());
        }
    });
}

async fn world() -> World {
    let mut settings = Settings::defaults(Role::Gateway);
    settings.partitions = 1;
    settings.auth.secret = Some("a-secret-of-at-least-thirty-two-bytes".into());
    settings.access_default = carillon_runtime::settings::Access::Open;
    let (bus, mut tasks) = (EmbeddedBus::new(1), JoinSet::new());
    let shared = crate::assemble(settings, bus.clone(), &mut tasks).expect("a gateway");
    let (owner, presence) = (Arc::new(Owner::default()), Arc::new(Presence::default()));
    let model = owner.clone();
    answer(&mut tasks, &bus, &subject::partition(0), None, move |request| {
        model.answer(wire::PartitionRequest::decode(request).expect("decodes")).encode_to_vec()
    })
    .await;
    let model = owner.clone();
    answer(&mut tasks, &bus, subject::READ, Some(subject::READ_GROUP), move |request| {
        model.read(wire::ReadRequest::decode(request).expect("decodes")).encode_to_vec()
    })
    .await;
    for shard in 0..PRESENCE_SHARDS {
        let model = presence.clone();
        answer(&mut tasks, &bus, &subject::presence(shard), None, move |request| {
            model.answer(wire::PresenceRequest::decode(request).expect("decodes")).encode_to_vec()
        })
        .await;
    }
    let subscriptions = Subscriptions::of(&shared).await.expect("subscribed");
    tasks.spawn(crate::delivery::deliver::run(shared.clone(), subscriptions));
    World { shared, bus, owner, presence, connections: AtomicU64::new(0), _tasks: tasks }
}

fn id(text: &str) -> ConversationId {
    ConversationId::parse(text).expect("valid")
}

fn message(content: &str) -> Kind {
    Kind::Message(wire::SendMessage { content: content.into(), ..wire::SendMessage::default() })
}

fn received(connection: &Connection) -> String {
    connection.outgoing.drain().iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect()
}

impl World {
    fn connection(&self, user: &str) -> Arc<Connection> {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let user = UserId::parse(user).expect("valid");
        let name = user.as_str().into();
        Arc::new(Connection::new(number, user, name, ClientProtocol::Native, Arc::new(Outgoing::default())))
    }

    fn request(
        &self,
        connection: &Arc<Connection>,
        authority: Authority,
        after_seq: Option<u64>,
    ) -> JoinRequest {
        JoinRequest {
            shared: self.shared.clone(),
            connection: connection.clone(),
            conversation: id("room"),
            after_seq,
            authority,
            already: None,
            origin: CommandOrigin::NATIVE,
        }
    }

    async fn join(&self, connection: &Arc<Connection>, authority: Authority) -> Option<Entered> {
        match self.request(connection, authority, None).run().await {
            WorkResult::Entered(entered) => Some(entered),
            _ => None,
        }
    }

    fn leave(&self, connection: &Connection, Entered { room, dialect, slot }: &Entered) {
        join::leave(&self.shared, connection, room, (*dialect, *slot), false);
    }

    /// Commits an event at the owner, and sends it to this gateway if the conversation is registered.
    async fn event(&self, kind: Kind) {
        let event = {
            let mut events = self.owner.events.lock();
            let events = events.entry("room".into()).or_default();
            events.push(wire::Event {
                conversation: "room".into(),
                seq: events.len() as u64 + 1,
                actor: "ann".into(),
                id: Bytes::from_static(&[1; 16]),
                kind: Some(kind),
                ..wire::Event::default()
            });
            events[events.len() - 1].clone()
        };
        if self.owner.registered.lock().contains("room") {
            self.sends(event).await;
        }
    }

    async fn sends(&self, event: wire::Event) {
        let number = self.owner.number.fetch_add(1, Ordering::Relaxed) + 1;
        let batch =
            wire::Batch { partition: 0, epoch: EPOCH, number, events: vec![event], outcomes: Vec::new() };
        let message = wire::ToGateway { body: Some(to_gateway::Body::Batch(batch)) };
        let subject = subject::gateway(&self.shared.id);
        self.bus.publish(&subject, message.encode_to_vec().into()).await.expect("published");
    }
}

/// Waits until the condition holds, for two seconds at most.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..400 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}");
}

/// Guards the limit of messages that are taken together: nothing beyond it may be dropped. Events that are not stored
/// have no numbers, so nothing would replace a dropped one.
#[tokio::test]
async fn every_message_of_a_burst_is_taken() {
    let world = world().await;
    let ann = world.connection("ann");
    let _entered = world.join(&ann, Authority::Granted).await.expect("joined");
    let subject = subject::gateway(&world.shared.id);
    for number in 0..40 {
        let broadcast = wire::Broadcast { event: format!("event-{number}"), data: "1".into() };
        let event = wire::Ephemeral {
            conversation: "room".into(),
            user: "ben".into(),
            kind: Some(wire::ephemeral::Kind::Broadcast(broadcast)),
            ..wire::Ephemeral::default()
        };
        let batch = wire::EphemeralBatch { gateway: "another".into(), events: vec![event] };
        let message = wire::ToGateway { body: Some(to_gateway::Body::Ephemeral(batch)) };
        world.bus.publish(&subject, message.encode_to_vec().into()).await.expect("published");
    }
    let mut all = String::new();
    eventually("a message of the burst was dropped", || {
        all += &received(&ann);
        (0..40).all(|number| all.contains(&format!("\"event-{number}\"")))
    })
    .await;
}

/// Before the fix, about one in a hundred rounds ended with a room that received nothing. The model sends no beats,
/// which would repair that.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_after_a_storm_of_joins_and_leaves_receive_events() {
    let world = Arc::new(world().await);
    let mut stays = Vec::new();
    for round in 0..150 {
        let before: Vec<(Arc<Connection>, Entered)> = std::mem::take(&mut stays);
        let mut tasks = JoinSet::new();
        for (connection, entered) in before {
            let world = world.clone();
            tasks.spawn(async move {
                world.leave(&connection, &entered);
                None
            });
        }
        for nth in 0..4 {
            let world = world.clone();
            tasks.spawn(async move {
                let connection = world.connection(&format!("user-{nth}"));
                let entered = world.join(&connection, Authority::Granted).await.expect("joined");
                if nth % 2 == round % 2 {
                    world.leave(&connection, &entered);
                    return None;
                }
                Some((connection, entered))
            });
        }
        while let Some(stayed) = tasks.join_next().await {
            stays.extend(stayed.expect("no panic"));
        }
        let content = format!("after round {round}");
        world.event(message(&content)).await;
        for (connection, _) in &stays {
            let mut all = String::new();
            eventually(&format!("{content} is not heard"), || {
                all += &received(connection);
                all.contains(&content)
            })
            .await;
        }
        let here: BTreeSet<_> = stays.iter().map(|(connection, _)| connection.user.to_string()).collect();
        eventually("presence knows who is there", || {
            let rooms = world.presence.rooms.lock();
            rooms.iter().map(|(_, user)| user.clone()).collect::<BTreeSet<_>>() == here
        })
        .await;
    }
    for (connection, entered) in &stays {
        world.leave(connection, entered);
    }
    eventually("nothing stays registered", || world.owner.registered.lock().is_empty()).await;
    eventually("nobody is in a room", || world.presence.rooms.lock().is_empty()).await;
    eventually("nobody is watched", || world.presence.watched.lock().is_empty()).await;
    assert_eq!(world.shared.delivery.hub.count(), 0);
}

/// Before the fix, the presence-worker was last sent that the user had left. Then users at other gateways no longer saw
/// the user in the room.
#[tokio::test]
async fn a_late_leave_does_not_remove_a_user_that_is_back() {
    let world = world().await;
    let (phone, laptop) = (world.connection("ann"), world.connection("ann"));
    let entered = world.join(&phone, Authority::Granted).await.expect("joined");
    {
        // The first half of a leave, as in `join::leave`.
        let mut state = entered.room.lock();
        state.topic.leave(entered.slot);
        state.users.clear();
    }
    world.shared.let_go(&entered.room);
    let back = world.join(&laptop, Authority::Granted).await.expect("joined again");
    // The second half.
    let left = wire::RoomLeft { conversation: "room".into(), user: "ann".into(), disconnected: false };
    world.shared.announce_presence(Change::RoomLeft(left));
    let query = Change::StatusQuery(wire::StatusQuery { user: "room".into() });
    world.shared.request_presence(query).await;
    assert_eq!(*world.presence.rooms.lock(), [("room".into(), "ann".into())].into());
    world.leave(&laptop, &back);
    eventually("she has left", || world.presence.rooms.lock().is_empty()).await;
}

/// Before the fix, a user that became visible in a room that had just been closed stayed watched for ever. And closing
/// a room ended a watch that had begun in the conversation's next room.
#[tokio::test]
async fn a_closed_room_shows_no_users() {
    let world = world().await;
    let (ann, bob) = (world.connection("ann"), world.connection("bob"));
    let entered = world.join(&ann, Authority::Granted).await.expect("joined");
    world.leave(&ann, &entered);
    world.shared.becomes_visible(&entered.room, &bob.user);
    assert!(!world.shared.audience.sees("bob"));
    let again = world.join(&ann, Authority::Granted).await.expect("joined");
    eventually("ann is watched", || world.presence.watched.lock().contains("ann")).await;
    world.shared.announce_presence(Change::Unwatch(wire::Unwatch { user: "ann".into() }));
    world.shared.request_presence(Change::StatusQuery(wire::StatusQuery { user: "ann".into() })).await;
    assert!(world.presence.watched.lock().contains("ann"), "somebody sees her");
    world.leave(&ann, &again);
    eventually("nobody is watched", || world.presence.watched.lock().is_empty()).await;
}

fn removal(user: &str) -> Kind {
    Kind::ParticipantRemoved(wire::RemoveParticipant { user: user.into() })
}

fn origin(dialect: Option<Vocabulary>) -> CommandOrigin {
    match dialect {
        None => CommandOrigin::NATIVE,
        Some(vocabulary) => {
            CommandOrigin::Event { vocabulary, namespace: Namespace::Main, verb: Verb::Join, ack: None }
        }
    }
}

/// Before the fix, the user got `conversation_joined` and received messages sent after the removal.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_user_removed_while_joining_is_refused() {
    let world = world().await;
    let (ann, eve) = (world.connection("ann"), world.connection("eve"));
    world.join(&ann, Authority::Granted).await.expect("joined");
    // The presence-worker's answer is delayed, as over a network.
    world.presence.waits.store(true, Ordering::Relaxed);
    let joining = tokio::spawn(world.request(&eve, Authority::Participant, None).run());
    eventually("she asks presence", || world.presence.requests.load(Ordering::Relaxed) > 0).await;
    world.owner.refused.lock().insert("eve".into());
    world.event(removal("eve")).await;
    eventually("ann hears it", || received(&ann).contains("participant_left")).await;
    world.presence.waits.store(false, Ordering::Relaxed);
    let done = joining.await.expect("no panic");
    assert!(matches!(done, WorkResult::Replied));
    let frames = received(&eve);
    assert!(frames.contains("forbidden") && !frames.contains("conversation_joined"), "{frames}");
    world.event(message("secret")).await;
    eventually("ann hears it", || received(&ann).contains("secret")).await;
    assert_eq!(received(&eve), "");
    eventually("she is not in the room", || {
        *world.presence.rooms.lock() == [("room".into(), "ann".into())].into()
    })
    .await;
}

/// Before the fix, a removed user received at most the removal, in only two vocabularies, and no notice that the
/// subscription had ended.
#[tokio::test]
async fn a_removed_user_gets_a_notice_that_the_subscription_ended() {
    for (dialect, ended) in [
        (None, r#""type":"conversation_left","conversation_id":"room""#),
        (Some(Vocabulary::Ring), r#"["conversation_left",{"conversationId":"room"}]"#),
        (
            Some(Vocabulary::Guide),
            r#"["unsubscribed",{"channel":"conversation:room","conversationId":"room"}]"#,
        ),
        (Some(Vocabulary::ChordMe), r#"["room_left",{"room_id":"room"}]"#),
    ] {
        let world = world().await;
        let (ann, bob) = (world.connection("ann"), world.connection("bob"));
        world.join(&ann, Authority::Granted).await.expect("joined");
        let identity = crate::access::auth::Identity::unverified(bob.user.clone(), None);
        let mut session = Session::new(world.shared.clone(), bob.clone(), identity);
        let request =
            JoinRequest { origin: origin(dialect), ..world.request(&bob, Authority::Participant, None) };
        session.handle_result(request.run().await);
        world.event(message("for bob")).await;
        world.event(removal("bob")).await;
        world.event(message("not for bob")).await;
        let mut anns = String::new();
        eventually("ann hears all", || {
            anns += &received(&ann);
            anns.contains("not for bob")
        })
        .await;
        let bobs = received(&bob);
        assert!(bobs.contains("for bob") && bobs.contains(ended), "{dialect:?}: {bobs}");
        assert!(!bobs.contains("not for bob"), "{dialect:?}: {bobs}");
        session.handle_signals(bob.signals());
        assert!(session.subscriptions().is_empty());
        eventually("bob is not in the room", || {
            *world.presence.rooms.lock() == [("room".into(), "ann".into())].into()
        })
        .await;
        session.end();
        eventually("ann is", || world.presence.rooms.lock().len() == 1).await;
    }
}
