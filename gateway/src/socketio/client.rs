//! A Socket.IO client of the gateway: its handshake, and the vocabularies that it speaks.

use crate::application::Running;
use crate::auth::Identity;
use crate::connection::Speaks;
use crate::core::outbox::Urgency;
use crate::dialect::{Asked, Namespace, packets};
use crate::frame;
use crate::metrics;
use crate::outgoing::Outgoing;
use crate::shared::Shared;
use crate::socket::start;
use crate::socketio::Sockets;
use bytes::Bytes;
use carillon_proto::code::{Close, ErrorCode, Failure};
use carillon_proto::command::Command;
use carillon_proto::dialect::socketio::packet::{self, Kind, Packet};
use carillon_proto::dialect::socketio::vocabulary::{self, Refused, Request, Verb, Vocabulary};
use carillon_proto::event::Reply;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use prost::Message;
use serde_json::value::RawValue;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

/// For a client that connected without a token to give one (protocol §8: unauthenticated).
pub(super) const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// For a client that left its namespace to ask for one again, or to say goodbye (protocol §8: handshake).
const LEFT_TIMEOUT: Duration = Duration::from_secs(20);

/// What the path of a connection decides (protocol §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// `/api/socket`: no connection without a token.
    Api,
    /// `/socket.io/`: a token may follow, and authentication is told.
    SocketIo,
}

/// How far a client has come.
pub(super) enum State {
    /// It has not asked for a namespace, or was refused.
    Waiting,
    /// It is in a namespace and has not said who it is.
    Anonymous { namespace: Namespace, until: Instant },
    /// Its session begins.
    Starting { namespace: Namespace, begins: Begins, starting: BoxFuture<'static, Result<Running, Close>> },
    /// Its session runs.
    Running { namespace: Namespace, running: Box<Running> },
    /// It left its namespace, and its session ends.
    Leaving { leaving: BoxFuture<'static, ()> },
    /// It is in no namespace any more.
    Left { until: Instant },
}

/// What the client is told when its session has begun.
pub(super) enum Begins {
    /// It connected with a token.
    Connecting,
    /// It had connected before, and gave a token by this event.
    Authenticating(Asked),
    /// It had all that on another gateway, and this joined.
    Moved(Vec<(Command, Asked)>),
}

/// One client.
pub struct Client {
    shared: Arc<Shared>,
    outgoing: Arc<Outgoing>,
    path: Path,
    pub(super) state: State,
    /// It ends, and has been told why.
    pub(super) ending: Option<Close>,
    /// The gateway goes: until its session runs, nobody else tells a client. Boxed, and let go then.
    draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Client {
    /// A client that has not asked for anything.
    pub fn new(shared: Arc<Shared>, outgoing: Arc<Outgoing>, path: Path) -> Client {
        Client { shared, outgoing, path, state: State::Waiting, ending: None, draining: None }
    }

    fn say(&self, packet: &str) {
        self.outgoing.offer(&frame::text(packet), Urgency::Reply);
    }

    fn tell(&self, namespace: Namespace, event: String) {
        self.outgoing.offer(&packets(namespace, &[event]), Urgency::Reply);
    }

    fn welcome(&self, namespace: Namespace) {
        let sid = uuid::Uuid::new_v4().simple();
        self.say(&packet::connect(namespace.name(), &format!("{{\"sid\":\"{sid}\"}}")));
        self.tell(namespace, vocabulary::connected());
    }

    fn refuse_connect(&self, namespace: &str, failure: &Failure, token_given: bool) {
        metrics::REFUSED.inc();
        self.say(&packet::connect_error(namespace, &vocabulary::connect_error(failure, token_given)));
    }

    /// Lets a client into a namespace, or says why not.
    fn enter(&mut self, namespace: Namespace, auth: Option<&str>) {
        let name = namespace.name();
        let auth = auth.and_then(|json| serde_json::from_str::<&RawValue>(json).ok());
        let Some(token) = auth.and_then(vocabulary::handshake_token) else {
            if self.path == Path::Api {
                let failure = Failure::new(ErrorCode::Unauthorized, "give a token as auth.token");
                return self.refuse_connect(name, &failure, false);
            }
            self.welcome(namespace);
            let until = Instant::now() + AUTHENTICATION_TIMEOUT;
            self.state = State::Anonymous { namespace, until };
            return;
        };
        match self.shared.verifier.verify(&token) {
            Ok(identity) => self.start(namespace, identity, Begins::Connecting),
            Err(refusal) => self.refuse_connect(name, &refusal.failure(), true),
        }
    }

    pub(super) fn start(&mut self, namespace: Namespace, identity: Identity, begins: Begins) {
        let (shared, outgoing) = (self.shared.clone(), self.outgoing.clone());
        // One that moves is still counted where it came from.
        let limit = match begins {
            Begins::Moved(_) => 0,
            _ => shared.settings.limits.connections_per_user,
        };
        let starting = async move {
            let speaks = Speaks::SocketIo(namespace);
            let mut running = start(shared, identity, speaks, outgoing, limit).await?;
            running.session.greet().await;
            Ok(running)
        };
        self.state = State::Starting { namespace, begins, starting: starting.boxed() };
    }

    fn started(&mut self, namespace: Namespace, begins: Begins, started: Result<Running, Close>) {
        match started {
            Ok(mut running) => {
                let asked = match begins {
                    Begins::Moved(joins) => {
                        running.restore(joins);
                        None
                    }
                    Begins::Connecting => {
                        self.welcome(namespace);
                        (self.path == Path::SocketIo).then(|| asked_by(namespace, Verb::Authenticate, None))
                    }
                    Begins::Authenticating(asked) => Some(asked),
                };
                let identity = &running.session.identity;
                if let Some(asked) = asked {
                    let expires_ms = identity.expires_ms.unwrap_or(u64::MAX);
                    running
                        .session
                        .reply(&Reply::Authenticated { user: identity.user.clone(), expires_ms }, &asked);
                }
                if self.path == Path::Api {
                    // Ring's path, and Ring's clients hear of people before they join anything.
                    running.connection().speaks_of_presence();
                }
                self.state = State::Running { namespace, running: Box::new(running) };
            }
            Err(close) => {
                let failure = failure_of(close);
                match begins {
                    Begins::Connecting => self.refuse_connect(namespace.name(), &failure, true),
                    Begins::Authenticating(_) | Begins::Moved(_) => {
                        self.tell(namespace, vocabulary::connection_error(&failure));
                    }
                }
                self.state = State::Waiting;
                self.ending = Some(close);
            }
        }
    }

    /// An event of a client that has not said who it is: only `authenticate` is heard.
    fn anonymous(&mut self, namespace: Namespace, decoded: Result<Request, Refused>, ack: Option<u64>) {
        let (vocabulary, verb, failure) = match decoded {
            Ok(Request { vocabulary, verb, command: Command::Authenticate { token } }) => {
                match self.shared.verifier.verify(&token) {
                    Ok(identity) => {
                        let asked = Asked::Event { vocabulary, namespace, verb, ack };
                        return self.start(namespace, identity, Begins::Authenticating(asked));
                    }
                    Err(refusal) => (vocabulary, verb, refusal.failure()),
                }
            }
            Ok(Request { vocabulary, verb, .. }) | Err(Refused { vocabulary, verb, .. }) => {
                (vocabulary, verb, Failure::new(ErrorCode::Unauthorized, "authenticate first"))
            }
        };
        metrics::ERRORS.inc();
        if ack.is_some() {
            // A callback hears it too, but clients of these vocabularies listen for the event.
            self.tell(namespace, vocabulary::refusal_event(vocabulary, verb, &failure));
        }
        let asked = Asked::Event { vocabulary, namespace, verb, ack };
        self.outgoing.offer(&asked.answer(&Reply::Error(failure)), Urgency::Reply);
    }

    fn event(&mut self, packet: &Packet<'_>, attachments: &[Bytes]) -> Result<(), Close> {
        let (name, arguments) = packet.event().map_err(|_| Close::ProtocolError)?;
        let chars_max = self.shared.settings.limits.content_chars;
        let mut decoded = vocabulary::decode(&name, arguments, chars_max);
        if !attachments.is_empty() {
            decoded = decoded.and_then(|Request { vocabulary, verb, .. }| {
                Err(Refused {
                    vocabulary,
                    verb,
                    failure: Failure::invalid_payload("binary data is not served"),
                })
            });
        }
        match &mut self.state {
            State::Anonymous { namespace, .. } => {
                let namespace = *namespace;
                self.anonymous(namespace, decoded, packet.id);
            }
            State::Running { namespace, running } => {
                let asked = |vocabulary, verb| Asked::Event {
                    vocabulary,
                    namespace: *namespace,
                    verb,
                    ack: packet.id,
                };
                match decoded {
                    Ok(Request { vocabulary, verb, command }) => {
                        let work = running.session.command(command, &asked(vocabulary, verb));
                        running.begin(work);
                    }
                    Err(Refused { vocabulary, verb, failure }) => {
                        running.session.refuse(failure, &asked(vocabulary, verb));
                    }
                }
            }
            State::Waiting | State::Starting { .. } | State::Leaving { .. } | State::Left { .. } => {}
        }
        Ok(())
    }

    /// The client leaves its namespace; it may ask for one again, or say goodbye.
    fn leave(&mut self) {
        if let State::Running { running, .. } = std::mem::replace(&mut self.state, State::Waiting) {
            self.state = State::Leaving { leaving: running.end().boxed() };
        }
    }

    pub(super) fn namespace(&self) -> Option<Namespace> {
        match &self.state {
            State::Waiting | State::Leaving { .. } | State::Left { .. } => None,
            State::Anonymous { namespace, .. }
            | State::Starting { namespace, .. }
            | State::Running { namespace, .. } => Some(*namespace),
        }
    }

    /// Says why the connection is about to be dropped, where the client should know (protocol §3).
    fn dropping(&self, close: Close) -> Close {
        let telling =
            matches!(close, Close::TokenExpired | Close::AuthenticationTimeout | Close::TooManyConnections);
        if let (true, Some(namespace)) = (telling, self.namespace()) {
            self.tell(namespace, vocabulary::connection_error(&failure_of(close)));
        }
        close
    }
}

fn asked_by(namespace: Namespace, verb: Verb, ack: Option<u64>) -> Asked {
    Asked::Event { vocabulary: Vocabulary::ChordMe, namespace, verb, ack }
}

/// What a client is told of its connection's end.
fn failure_of(close: Close) -> Failure {
    match close {
        Close::TooManyConnections => {
            Failure::new(ErrorCode::TooManyConnections, "the user has as many connections as allowed")
        }
        Close::TokenExpired => {
            Failure::new(ErrorCode::TokenExpired, "the token's time is over: connect with a new one")
        }
        Close::AuthenticationTimeout => Failure::new(ErrorCode::Unauthorized, "authentication took too long"),
        other => Failure::new(ErrorCode::Unavailable, other.reason()),
    }
}

impl Sockets for Client {
    fn connect(&mut self, name: &str, auth: Option<&str>) -> Result<(), Close> {
        match (Namespace::parse(name), self.namespace()) {
            (Some(namespace), None) => self.enter(namespace, auth),
            (Some(again), Some(namespace)) if again == namespace => return Err(Close::ProtocolError),
            // One at a time: both are the same to those who are in them.
            _ => self.say(&packet::connect_error(name, r#"{"message":"Invalid namespace"}"#)),
        }
        Ok(())
    }

    fn is_connected(&self) -> bool {
        !matches!(self.state, State::Waiting | State::Left { .. })
    }

    fn takes_attachments(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    fn packet(&mut self, packet: &Packet<'_>, attachments: Vec<Bytes>) -> Result<(), Close> {
        if self.namespace().is_none_or(|namespace| namespace.name() != packet.namespace) {
            return Err(Close::ProtocolError);
        }
        match packet.kind {
            Kind::Event | Kind::BinaryEvent => self.event(packet, &attachments),
            Kind::Disconnect => {
                self.leave();
                Ok(())
            }
            // Nothing that is sent asks for one.
            _ => Ok(()),
        }
    }

    fn reads(&self) -> bool {
        match &self.state {
            State::Waiting | State::Anonymous { .. } | State::Left { .. } => self.ending.is_none(),
            State::Starting { .. } | State::Leaving { .. } => false,
            State::Running { running, .. } => running.reads(),
        }
    }

    fn advance(&mut self) {
        if let State::Running { running, .. } = &mut self.state {
            running.advance();
        }
    }

    fn poll_work(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Waiting | State::Anonymous { .. } | State::Left { .. } => {
                let draining = &self.shared.draining;
                let draining =
                    self.draining.get_or_insert_with(|| Box::pin(draining.clone().cancelled_owned()));
                ready!(draining.as_mut().poll(context));
                self.draining = None;
                self.ending = Some(Close::Draining);
                Poll::Ready(())
            }
            State::Running { running, .. } => {
                self.draining = None;
                running.poll(context)
            }
            State::Leaving { leaving } => {
                ready!(leaving.poll_unpin(context));
                self.state = State::Left { until: Instant::now() + LEFT_TIMEOUT };
                Poll::Ready(())
            }
            State::Starting { starting, .. } => {
                let Poll::Ready(started) = starting.poll_unpin(context) else { return Poll::Pending };
                let State::Starting { namespace, begins, .. } =
                    std::mem::replace(&mut self.state, State::Waiting)
                else {
                    return Poll::Pending;
                };
                self.started(namespace, begins, started);
                Poll::Ready(())
            }
        }
    }

    fn woken(&mut self) -> Result<(), Close> {
        if let Some(close) = self.ending {
            return Err(close);
        }
        match &mut self.state {
            State::Running { running, .. } => running.woken(),
            _ => Ok(()),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Anonymous { until, .. } | State::Left { until } => Some(*until),
            State::Running { running, .. } => running.deadline(),
            State::Waiting | State::Starting { .. } | State::Leaving { .. } => None,
        }
    }

    fn due(&mut self) -> Result<(), Close> {
        let due = match &mut self.state {
            State::Anonymous { until, .. } | State::Left { until } if Instant::now() >= *until => {
                Err(Close::AuthenticationTimeout)
            }
            State::Running { running, .. } => running.due(),
            _ => Ok(()),
        };
        due.map_err(|close| self.dropping(close))
    }

    fn pack(&self) -> Option<Bytes> {
        self.packed().map(|moved| moved.encode_to_vec().into())
    }

    async fn end(self) {
        match self.state {
            State::Running { running, .. } => running.end().await,
            // What has been announced already must be taken back.
            State::Starting { starting, .. } => {
                if let Ok(running) = starting.await {
                    running.end().await;
                }
            }
            State::Leaving { leaving } => leaving.await,
            State::Waiting | State::Anonymous { .. } | State::Left { .. } => {}
        }
    }
}
