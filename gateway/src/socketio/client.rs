//! A Socket.IO client of the gateway: its state from the handshake to the end, and its events as commands.

use crate::connection::frame;
use crate::connection::outgoing::Outgoing;
use crate::core::outbox::Urgency;
use crate::delivery::dialect::{CommandOrigin, Namespace, packets};
use crate::metrics;
use crate::session::handler::ConnectionHandler;
use crate::session::recovery::Ids;
use crate::session::running::RunningSession;
use crate::shared::Shared;
use crate::socketio::Sockets;
use crate::socketio::start::{StartCause, StartFuture, StartOutcome};
use bytes::Bytes;
use carillon_proto::code::{Close, ErrorCode, Failure};
use carillon_proto::command::Command;
use carillon_proto::dialect::socketio::packet::{self, Kind, Packet};
use carillon_proto::dialect::socketio::vocabulary::{self, InvalidEvent, Request, Verb, Vocabulary};
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

/// Time for a client that connected without a token to send `authenticate`.
pub(super) const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a client that left its namespace to request one again, or to close the connection.
const LEFT_TIMEOUT: Duration = Duration::from_secs(20);

/// The path of a connection, which decides whether a token may be missing (`docs/protocol.md#socketio`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// `/api/socket`: a client without a token is refused.
    Api,
    /// `/socket.io/`: `authenticate` may follow, and a token in the handshake is answered by `authenticated`.
    SocketIo,
}

/// The progress of a client's connection.
pub(super) enum State {
    /// The client has not requested a namespace, or was refused.
    Waiting,
    /// The client is in a namespace and has not authenticated.
    Anonymous { namespace: Namespace, until: Instant, ids: Option<Ids> },
    /// The client's session is being started.
    Starting { namespace: Namespace, cause: StartCause, starting: StartFuture },
    /// The client's session runs.
    Running { namespace: Namespace, running: Box<RunningSession> },
    /// The client left its namespace, and its session is being ended.
    Leaving { leaving: BoxFuture<'static, ()> },
    /// The client is in no namespace any more, and may request one until this time.
    Left { until: Instant },
}

/// One client, served as [`Sockets`].
pub struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) outgoing: Arc<Outgoing>,
    pub(super) path: Path,
    /// Whether the session can be recovered even if the client does not request it in its `auth`: the query of the
    /// connection or the settings do.
    pub(super) recovers: bool,
    pub(super) state: State,
    /// Why the connection must end. The event that gives the reason, where there is one, has been queued.
    pub(super) ending: Option<Close>,
    /// Completes when the gateway drains. Needed only while no session runs: a running session receives the drain as a
    /// signal. Boxed, and dropped once a session runs, to save memory.
    draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Client {
    /// A client that has not requested a namespace.
    pub fn new(shared: Arc<Shared>, outgoing: Arc<Outgoing>, path: Path, recovers: bool) -> Client {
        Client { shared, outgoing, path, recovers, state: State::Waiting, ending: None, draining: None }
    }

    pub(super) fn send_packet(&self, packet: &str) {
        self.outgoing.offer(&frame::text(packet), Urgency::Reply);
    }

    pub(super) fn send_event(&self, namespace: Namespace, event: String) {
        self.outgoing.offer(&packets(namespace, &[event]), Urgency::Reply);
    }

    /// Handles an event of a client that has not authenticated: every event but `authenticate` is refused.
    fn handle_anonymous_event(
        &mut self,
        namespace: Namespace,
        ids: Option<Ids>,
        decoded: Result<Request, InvalidEvent>,
        ack: Option<u64>,
    ) {
        let (vocabulary, verb, failure) = match decoded {
            Ok(Request { vocabulary, verb, command: Command::Authenticate { token } }) => {
                match self.shared.verifier.verify(&token) {
                    Ok(identity) => {
                        let origin = CommandOrigin::Event { vocabulary, namespace, verb, ack };
                        return self.start_authenticated(namespace, identity, origin, ids);
                    }
                    Err(error) => (vocabulary, verb, error.failure()),
                }
            }
            Ok(Request { vocabulary, verb, .. }) | Err(InvalidEvent { vocabulary, verb, .. }) => {
                (vocabulary, verb, Failure::new(ErrorCode::Unauthorized, "authenticate first"))
            }
        };
        metrics::ERRORS.inc();
        if ack.is_some() {
            // Sent besides the callback, because clients of these vocabularies listen for the event.
            self.send_event(namespace, vocabulary::refusal_event(vocabulary, verb, &failure));
        }
        let origin = CommandOrigin::Event { vocabulary, namespace, verb, ack };
        self.outgoing.offer(&origin.encode_reply(&Reply::Error(failure)), Urgency::Reply);
    }

    fn handle_event(&mut self, packet: &Packet<'_>, attachments: &[Bytes]) -> Result<(), Close> {
        let (name, arguments) = packet.event().map_err(|_| Close::ProtocolError)?;
        let chars_max = self.shared.settings.limits.content_chars;
        let mut decoded = vocabulary::decode(&name, arguments, chars_max);
        if !attachments.is_empty() {
            decoded = decoded.and_then(|Request { vocabulary, verb, .. }| {
                Err(InvalidEvent {
                    vocabulary,
                    verb,
                    failure: Failure::invalid_payload("binary data is not served"),
                })
            });
        }
        match &mut self.state {
            State::Anonymous { namespace, ids, .. } => {
                let (namespace, ids) = (*namespace, ids.clone());
                self.handle_anonymous_event(namespace, ids, decoded, packet.id);
            }
            State::Running { namespace, running } => {
                let origin = |vocabulary, verb| CommandOrigin::Event {
                    vocabulary,
                    namespace: *namespace,
                    verb,
                    ack: packet.id,
                };
                match decoded {
                    Ok(Request { vocabulary, verb, command }) => {
                        let work = running.session.handle_command(command, &origin(vocabulary, verb));
                        running.start_work(work);
                    }
                    Err(InvalidEvent { vocabulary, verb, failure }) => {
                        running.session.refuse(failure, &origin(vocabulary, verb));
                    }
                }
            }
            State::Waiting | State::Starting { .. } | State::Leaving { .. } | State::Left { .. } => {}
        }
        Ok(())
    }

    /// The client leaves its namespace. It may request one again, or close the connection.
    fn leave(&mut self) {
        if let State::Running { mut running, .. } = std::mem::replace(&mut self.state, State::Waiting) {
            running.session.left_deliberately = true;
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

    /// Sends the client the reason before the connection is closed, for those reasons on which the client can act
    /// (`docs/protocol.md#closes`).
    fn dropping(&self, close: Close) -> Close {
        let is_reported =
            matches!(close, Close::TokenExpired | Close::AuthenticationTimeout | Close::TooManyConnections);
        if let (true, Some(namespace)) = (is_reported, self.namespace()) {
            self.send_event(namespace, vocabulary::connection_error(&failure_of(close)));
        }
        close
    }
}

pub(super) fn chordme_origin(namespace: Namespace, verb: Verb, ack: Option<u64>) -> CommandOrigin {
    CommandOrigin::Event { vocabulary: Vocabulary::ChordMe, namespace, verb, ack }
}

/// The error that a client receives when its connection is closed.
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
            (Some(namespace), None) => self.connect_namespace(namespace, auth),
            (Some(again), Some(namespace)) if again == namespace => return Err(Close::ProtocolError),
            // A client can be in one namespace only: `/` and its alias serve the same conversations.
            _ => self.send_packet(&packet::connect_error(name, r#"{"message":"Invalid namespace"}"#)),
        }
        Ok(())
    }

    fn is_connected(&self) -> bool {
        !matches!(self.state, State::Waiting | State::Left { .. })
    }

    fn accepts_attachments(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    fn packet(&mut self, packet: &Packet<'_>, attachments: Vec<Bytes>) -> Result<(), Close> {
        if self.namespace().is_none_or(|namespace| namespace.name() != packet.namespace) {
            return Err(Close::ProtocolError);
        }
        match packet.kind {
            Kind::Event | Kind::BinaryEvent => self.handle_event(packet, &attachments),
            Kind::Disconnect => {
                self.leave();
                Ok(())
            }
            // The server sends no packet that requests an acknowledgement, so an ACK has no use.
            _ => Ok(()),
        }
    }
}

impl ConnectionHandler for Client {
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
                let State::Starting { namespace, cause, .. } =
                    std::mem::replace(&mut self.state, State::Waiting)
                else {
                    return Poll::Pending;
                };
                self.finish_start(namespace, cause, started);
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
            // What the start has announced must be taken back, so wait for it and end the session.
            State::Starting { starting, .. } => {
                if let Ok(StartOutcome::New(running, _) | StartOutcome::Recovered(running, ..)) =
                    starting.await
                {
                    running.end().await;
                }
            }
            State::Leaving { leaving } => leaving.await,
            State::Waiting | State::Anonymous { .. } | State::Left { .. } => {}
        }
    }
}
