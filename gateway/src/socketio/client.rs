//! A Socket.IO client of the gateway: its handshake, and the vocabularies that it speaks.

use crate::application::{Running, Served};
use crate::core::outbox::Urgency;
use crate::dialect::{Asked, Namespace, packets};
use crate::frame;
use crate::metrics;
use crate::outgoing::Outgoing;
use crate::recovery::Ids;
use crate::shared::Shared;
use crate::socketio::Sockets;
use crate::socketio::begin::{Begins, Begun, Starting};
use bytes::Bytes;
use carillon_proto::code::{Close, ErrorCode, Failure};
use carillon_proto::command::Command;
use carillon_proto::dialect::socketio::packet::{self, Kind, Packet};
use carillon_proto::dialect::socketio::vocabulary::{self, Refused, Request, Verb, Vocabulary};
use carillon_proto::event::Reply;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use prost::Message;
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
    Anonymous { namespace: Namespace, until: Instant, ids: Option<Ids> },
    /// Its session begins.
    Starting { namespace: Namespace, begins: Begins, starting: Starting },
    /// Its session runs.
    Running { namespace: Namespace, running: Box<Running> },
    /// It left its namespace, and its session ends.
    Leaving { leaving: BoxFuture<'static, ()> },
    /// It is in no namespace any more.
    Left { until: Instant },
}

/// One client.
pub struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) outgoing: Arc<Outgoing>,
    pub(super) path: Path,
    /// It asked for connection-state recovery before it asked for a namespace, or all clients get it.
    pub(super) recovers: bool,
    pub(super) state: State,
    /// It ends, and has been told why.
    pub(super) ending: Option<Close>,
    /// The gateway goes: until its session runs, nobody else tells a client. Boxed, and let go then.
    draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Client {
    /// A client that has not asked for anything.
    pub fn new(shared: Arc<Shared>, outgoing: Arc<Outgoing>, path: Path, recovers: bool) -> Client {
        Client { shared, outgoing, path, recovers, state: State::Waiting, ending: None, draining: None }
    }

    pub(super) fn say(&self, packet: &str) {
        self.outgoing.offer(&frame::text(packet), Urgency::Reply);
    }

    pub(super) fn tell(&self, namespace: Namespace, event: String) {
        self.outgoing.offer(&packets(namespace, &[event]), Urgency::Reply);
    }

    /// An event of a client that has not said who it is: only `authenticate` is heard.
    fn anonymous(
        &mut self,
        namespace: Namespace,
        ids: Option<Ids>,
        decoded: Result<Request, Refused>,
        ack: Option<u64>,
    ) {
        let (vocabulary, verb, failure) = match decoded {
            Ok(Request { vocabulary, verb, command: Command::Authenticate { token } }) => {
                match self.shared.verifier.verify(&token) {
                    Ok(identity) => {
                        let asked = Asked::Event { vocabulary, namespace, verb, ack };
                        return self.authenticated(namespace, identity, asked, ids);
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
            State::Anonymous { namespace, ids, .. } => {
                let (namespace, ids) = (*namespace, ids.clone());
                self.anonymous(namespace, ids, decoded, packet.id);
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
        if let State::Running { mut running, .. } = std::mem::replace(&mut self.state, State::Waiting) {
            running.session.said_goodbye = true;
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

pub(super) fn asked_by(namespace: Namespace, verb: Verb, ack: Option<u64>) -> Asked {
    Asked::Event { vocabulary: Vocabulary::ChordMe, namespace, verb, ack }
}

/// What a client is told of its connection's end.
pub(super) fn failure_of(close: Close) -> Failure {
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
}

impl Served for Client {
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
                if let Ok(Begun::New(running, _) | Begun::Back(running, ..)) = starting.await {
                    running.end().await;
                }
            }
            State::Leaving { leaving } => leaving.await,
            State::Waiting | State::Anonymous { .. } | State::Left { .. } => {}
        }
    }
}
