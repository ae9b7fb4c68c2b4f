//! Tests that renew a token while a join is under way. They call the session's own functions in the possible orders.

use super::*;
use crate::connection::ClientProtocol;
use crate::connection::outgoing::Outgoing;
use crate::wall;
use carillon_proto::dialect::socketio::vocabulary::Vocabulary;
use carillon_proto::subject;
use carillon_proto::wire::{partition_reply, partition_request};
use carillon_runtime::bus::embedded::EmbeddedBus;
use carillon_runtime::bus::{Bus, Incoming};
use carillon_runtime::settings::{Access, Role, Settings};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use prost::Message;
use serde_json::json;
use tokio::task::JoinSet;

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";

fn token(conversations: &[&str]) -> String {
    let claims =
        json!({"sub": "ann", "exp": wall::token_ms() / 1_000 + 3_600, "conversations": conversations});
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
        .expect("signed")
}

/// A gateway with the access rule `token`, and a fake owner of its only partition that grants every registration.
async fn gateway(tasks: &mut JoinSet<()>) -> Arc<Shared> {
    let mut settings = Settings::defaults(Role::Gateway);
    settings.partitions = 1;
    settings.auth.secret = Some(SECRET.into());
    settings.access_default = Access::Token;
    let bus = EmbeddedBus::new(1);
    let shared = crate::assemble(settings, bus.clone(), tasks).expect("a gateway");
    let mut requests = bus.subscribe(&subject::partition(0), None).await.expect("subscribed");
    tasks.spawn(async move {
        while let Some(incoming) = requests.next().await {
            let Incoming::Message(message) = incoming else { continue };
            let request = wire::PartitionRequest::decode(message.payload).expect("decodes");
            let Some(partition_request::Body::Register(register)) = request.body else { continue };
            let listened = |interest: wire::Interest| wire::Listened {
                conversation: interest.conversation,
                ..wire::Listened::default()
            };
            let conversations = register.add.into_iter().map(listened).collect();
            let registered =
                partition_reply::Body::Registered(wire::Registered { conversations, ..Default::default() });
            let reply = wire::PartitionReply { epoch: 1, body: Some(registered) };
            message.reply.expect("a request").send(reply.encode_to_vec().into());
        }
    });
    shared
}

fn session(shared: &Arc<Shared>, identity: Identity) -> Session {
    let (user, name) = (identity.user.clone(), identity.name.clone());
    let outgoing = Arc::new(Outgoing::default());
    let connection = Arc::new(Connection::new(1, user, name, ClientProtocol::Native, outgoing));
    Session::new(shared.clone(), connection, identity)
}

/// Before the fix, a join under way was judged by the token with which it had begun.
#[tokio::test]
async fn a_join_is_judged_by_the_identity_at_the_time_it_completes() {
    let mut tasks = JoinSet::new();
    let shared = gateway(&mut tasks).await;
    let identity = shared.verifier.verify(&token(&["room", "hall"])).expect("valid");
    let mut session = session(&shared, identity);
    let conversation = |id: &str| ConversationId::parse(id).expect("valid");
    for (id, renewed, stays) in [("hall", &["room", "hall"][..], true), ("room", &["hall"], false)] {
        let join = Command::Join { conversation: conversation(id), after_seq: None };
        let work = session.handle_command(join, &CommandOrigin::NATIVE).expect("a join waits for the owner");
        session.handle_command(Command::Authenticate { token: token(renewed) }, &CommandOrigin::NATIVE);
        let done = work.await;
        session.handle_result(done);
        let joined =
            |session: &Session| session.subscriptions().iter().any(|(joined, ..)| joined.as_str() == id);
        assert_eq!(joined(&session), stays, "{id}");
        let members = shared.delivery.hub.room(id).map_or(0, |room| room.lock().topic.member_count());
        assert_eq!(members, usize::from(stays), "{id}");
    }
    tasks.shutdown().await;
}

/// A restored subscription that the user may no longer have is removed from the recovery record. The session's access
/// rules or the conversation's owner may refuse it. Before the fix, a refusal by the access rules did not remove it,
/// and the client got no notice that the subscription had ended.
#[tokio::test]
async fn a_refused_restored_subscription_is_removed_from_the_record() {
    use crate::delivery::dialect::Namespace;
    let mut tasks = JoinSet::new();
    let shared = gateway(&mut tasks).await;
    let identity = shared.verifier.verify(&token(&["hall"])).expect("valid");
    let mut session = session(&shared, identity);
    let mut tracker = Tracker::new(7);
    let room = ConversationId::parse("room").expect("valid");
    tracker.subscribe(room.clone(), Vocabulary::Ring, 3).expect("a place");
    session.connection.outgoing.track(Some(tracker));
    let origin = CommandOrigin::Restored(Dialect::SocketIo(Vocabulary::Ring, Namespace::Main));
    let join = Command::Join { conversation: room.clone(), after_seq: Some(3) };
    assert!(session.handle_command(join, &origin).is_none(), "a refused join must not wait for the owner");
    let found = session.connection.outgoing.tracked(|tracker| tracker.find(&room, Vocabulary::Ring));
    assert_eq!(found, Some(None));
    let sent = session.connection.outgoing.drain();
    let sent: Vec<_> = sent.iter().map(|frame| String::from_utf8_lossy(frame)).collect();
    assert!(
        sent.iter().any(|frame| frame.contains("conversation_left") && frame.contains("room")),
        "{sent:?}"
    );
    tasks.shutdown().await;
}
