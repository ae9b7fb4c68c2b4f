//! Starts a Socket.IO client's session: after CONNECT with a token, after a later `authenticate` event, by recovery of
//! an earlier session, or by a move from another gateway.

use super::client::{AUTHENTICATION_TIMEOUT, Client, Path, State, chordme_origin, failure_of};
use crate::access::auth::Identity;
use crate::connection::ClientProtocol;
use crate::connection::outgoing::Outgoing;
use crate::core::tracker::Tracker;
use crate::delivery::dialect::{CommandOrigin, Dialect, Namespace};
use crate::metrics;
use crate::session::recovery::{Ids, RecoveredState, Return};
use crate::session::running::RunningSession;
use crate::session::start::{Claim, start};
use crate::shared::Shared;
use carillon_proto::code::{Close, ErrorCode, Failure};
use carillon_proto::command::Command;
use carillon_proto::dialect::socketio::packet;
use carillon_proto::dialect::socketio::vocabulary::{self, Verb};
use carillon_proto::event::Reply;
use carillon_proto::wire::RecoveryRecord;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use std::sync::Arc;
use tokio::time::Instant;

/// Joins that restore a session's earlier subscriptions, in their order.
pub(super) type Joins = Vec<(Command, CommandOrigin)>;

/// Why a session is started, which decides what the client receives when it runs.
pub(super) enum StartCause {
    /// The client sent CONNECT with a token, or to recover a session. With ids where the new session can be recovered.
    Connect(Option<Ids>),
    /// The client connected without a token, and gave one by this event.
    Authenticate(CommandOrigin),
    /// The session moved here from another gateway, where the client received its welcome.
    Move,
}

/// The outcome of a [`StartFuture`].
pub(super) enum StartOutcome {
    /// The client's earlier session is recovered, under its former ids and with its former subscriptions.
    Recovered(Box<RunningSession>, Ids, Joins),
    /// A new session, or one that moved here with its subscriptions.
    New(Box<RunningSession>, Joins),
    /// The client gave no token, and no session was found to recover: it must authenticate.
    Unauthenticated,
}

/// The state of a session that moves here from another gateway.
pub(super) struct IncomingSession {
    pub identity: Identity,
    /// Its subscriptions.
    pub joins: Joins,
    /// Its recovery record and tracker, if it can be recovered.
    pub found: Option<RecoveredState>,
}

/// The asynchronous start of a session.
pub(super) type StartFuture = BoxFuture<'static, Result<StartOutcome, Close>>;

/// The parts from which a session is started.
struct SessionStarter {
    shared: Arc<Shared>,
    outgoing: Arc<Outgoing>,
    namespace: Namespace,
    claim: Claim,
}

impl SessionStarter {
    async fn start(self, identity: Identity) -> Result<RunningSession, Close> {
        let protocol = ClientProtocol::SocketIo(self.namespace);
        let _starting = self.shared.admission.count_starting();
        let mut running = start(self.shared, identity, protocol, self.outgoing, self.claim).await?;
        running.session.greet().await;
        Ok(running)
    }

    /// Starts a session without earlier subscriptions. It can be recovered if it has ids.
    async fn start_new(self, identity: Identity, ids: Option<Ids>) -> Result<RunningSession, Close> {
        let (shared, namespace) = (self.shared.clone(), self.namespace);
        let running = self.start(identity).await?;
        make_recoverable(&shared, &running, namespace, ids);
        Ok(running)
    }

    /// Starts a session that continues where its client's offset ends. The joins are `None` when the new record could
    /// not be stored: the session must then not be reported as recovered.
    async fn start_recovered(
        mut self,
        identity: Identity,
        found: RecoveredState,
    ) -> Result<(RunningSession, Option<Joins>), Close> {
        let RecoveredState { record: before, tracker, owner } = found;
        let (shared, namespace, outgoing) = (self.shared.clone(), self.namespace, self.outgoing.clone());
        // The session takes the place of the earlier one, which its gateway may still count because it has not noticed
        // that the connection is dead. Where that place is not known, the earlier session may still be counted, so no
        // limit applies here. A client cannot exceed the limit much by repeating one secret: each gateway ends the
        // earlier session of that secret, so there is at most one for each gateway.
        self.claim.limit = 0;
        self.claim.moved_from = self.claim.moved_from.or(owner);
        let joins = joins(namespace, &tracker);
        outgoing.track(Some(tracker));
        let running = self.start(identity).await?;
        let ids = Ids { sid: before.sid, pid: before.pid };
        shared.add_recoverable(running.connection(), record(&running, namespace, ids));
        let stored = shared.store_recovery(running.connection()).await;
        Ok((running, stored.then_some(joins)))
    }
}

/// The joins for every subscription of a tracker, each from the seq that the client has reached.
fn joins(namespace: Namespace, tracker: &Tracker) -> Joins {
    let join = |conversation, after_seq| Command::Join { conversation, after_seq: Some(after_seq) };
    let reached = tracker.reached().into_iter();
    let restored = |vocabulary| CommandOrigin::Restored(Dialect::SocketIo(vocabulary, namespace));
    reached.map(|it| (join(it.conversation, it.cursor), restored(it.vocabulary))).collect()
}

fn record(running: &RunningSession, namespace: Namespace, ids: Ids) -> RecoveryRecord {
    let identity = running.session.identity.pack(running.session.profile());
    let (Ids { pid, sid }, namespace) = (ids, namespace.name().to_owned());
    RecoveryRecord { pid, sid, namespace, identity: Some(identity), bases: Vec::new() }
}

/// Makes a session that has ids recoverable. The record is announced without waiting for it to be stored. What the
/// session joins later is announced after it, so it is added to this record.
fn make_recoverable(shared: &Shared, running: &RunningSession, namespace: Namespace, ids: Option<Ids>) {
    if let Some(ids) = ids {
        shared.add_recoverable(running.connection(), record(running, namespace, ids));
        shared.renew_recovery(running.connection());
    }
}

/// Whether the token of an identity from a record or from another gateway has not expired.
fn still_valid(identity: &Identity) -> bool {
    identity.left_ms().is_none_or(|left_ms| left_ms > 0)
}

/// Starts the session of a client that sent CONNECT, and recovers its earlier session if it requests that and the
/// record is found.
async fn start_connected(
    starter: SessionStarter,
    identity: Option<Identity>,
    ids: Option<Ids>,
    back: Option<Return>,
) -> Result<StartOutcome, Close> {
    let (shared, outgoing) = (starter.shared.clone(), starter.outgoing.clone());
    let found = match &back {
        None => None,
        Some(back) => {
            let user = identity.as_ref().map_or("", |identity| identity.user.as_str());
            shared.find_recovery(back, user, starter.namespace).await
        }
    };
    let Some(found) = found else {
        metrics::NOT_RECOVERED.inc_by(back.is_some().into());
        let Some(identity) = identity else { return Ok(StartOutcome::Unauthenticated) };
        return Ok(StartOutcome::New(Box::new(starter.start_new(identity, ids).await?), Joins::new()));
    };
    let kept = || found.record.identity.clone().and_then(Identity::moved).filter(still_valid);
    let Some(identity) = identity.or_else(kept) else { return Ok(StartOutcome::Unauthenticated) };
    let before = Ids { sid: found.record.sid.clone(), pid: found.record.pid.clone() };
    let namespace = starter.namespace;
    shared.supersede(&before.pid);
    let (running, joins) = starter.start_recovered(identity, found).await?;
    if let Some(joins) = joins {
        metrics::RECOVERED.inc();
        return Ok(StartOutcome::Recovered(Box::new(running), before, joins));
    }
    metrics::NOT_RECOVERED.inc();
    outgoing.track(ids.as_ref().map(Ids::tracker));
    make_recoverable(&shared, &running, namespace, ids);
    Ok(StartOutcome::New(Box::new(running), Joins::new()))
}

/// Starts a session that moved here, with its subscriptions.
async fn start_moved(starter: SessionStarter, incoming: IncomingSession) -> Result<StartOutcome, Close> {
    let IncomingSession { identity, joins, found } = incoming;
    let Some(found) = found else {
        return Ok(StartOutcome::New(Box::new(starter.start_new(identity, None).await?), joins));
    };
    let shared = starter.shared.clone();
    let (running, reached) = starter.start_recovered(identity, found).await?;
    if reached.is_none() {
        // The client received its ids on the former gateway. It can be recovered again once this record is stored.
        shared.renew_recovery(running.connection());
    }
    Ok(StartOutcome::New(Box::new(running), reached.unwrap_or(joins)))
}

impl Client {
    fn welcome(&self, namespace: Namespace, ids: Option<&Ids>) {
        let data = match ids {
            None => format!("{{\"sid\":\"{}\"}}", uuid::Uuid::new_v4().simple()),
            Some(Ids { sid, pid }) => format!("{{\"sid\":\"{sid}\",\"pid\":\"{pid}\"}}"),
        };
        self.send_packet(&packet::connect(namespace.name(), &data));
        self.send_event(namespace, vocabulary::connected());
    }

    fn refuse_connect(&self, namespace: &str, failure: &Failure, token_given: bool) {
        metrics::REFUSED.inc();
        self.send_packet(&packet::connect_error(namespace, &vocabulary::connect_error(failure, token_given)));
    }

    /// Admits a client to a namespace, or refuses it with a CONNECT_ERROR.
    pub(super) fn connect_namespace(&mut self, namespace: Namespace, auth: Option<&str>) {
        let auth = auth.and_then(|json| serde_json::from_str::<&RawValue>(json).ok());
        let recovery = auth.map(vocabulary::handshake_recovery).unwrap_or_default();
        let ids = (self.recovers || recovery.wanted).then(Ids::random);
        let back = recovery.back.filter(|_| ids.is_some()).map(|(pid, offset)| Return { pid, offset });
        let identity = match auth.and_then(vocabulary::handshake_token) {
            Some(token) => match self.shared.verifier.verify(&token) {
                Ok(identity) => Some(identity),
                Err(error) => return self.refuse_connect(namespace.name(), &error.failure(), true),
            },
            None if self.path == Path::Api => {
                let failure = Failure::new(ErrorCode::Unauthorized, "give a token as auth.token");
                return self.refuse_connect(namespace.name(), &failure, false);
            }
            None => None,
        };
        self.outgoing.track(ids.as_ref().map(Ids::tracker));
        if identity.is_none() && back.is_none() {
            return self.wait_for_authentication(namespace, ids);
        }
        let starter = self.session_starter(namespace);
        let starting = start_connected(starter, identity, ids.clone(), back).boxed();
        self.state = State::Starting { namespace, cause: StartCause::Connect(ids), starting };
    }

    fn wait_for_authentication(&mut self, namespace: Namespace, ids: Option<Ids>) {
        self.welcome(namespace, ids.as_ref());
        let until = Instant::now() + AUTHENTICATION_TIMEOUT;
        self.state = State::Anonymous { namespace, until, ids };
    }

    fn session_starter(&self, namespace: Namespace) -> SessionStarter {
        let (shared, outgoing, claim) =
            (self.shared.clone(), self.outgoing.clone(), Claim::new(&self.shared));
        SessionStarter { shared, outgoing, namespace, claim }
    }

    /// Starts the session of a client that connected without a token and has now authenticated.
    pub(super) fn start_authenticated(
        &mut self,
        namespace: Namespace,
        identity: Identity,
        origin: CommandOrigin,
        ids: Option<Ids>,
    ) {
        let starter = self.session_starter(namespace);
        let starting = async move {
            let running = starter.start_new(identity, ids).await?;
            Ok(StartOutcome::New(Box::new(running), Joins::new()))
        };
        let cause = StartCause::Authenticate(origin);
        self.state = State::Starting { namespace, cause, starting: starting.boxed() };
    }

    /// Starts the session of a client that moved here from another gateway.
    pub(super) fn start_incoming(&mut self, namespace: Namespace, incoming: IncomingSession, claim: Claim) {
        let starting =
            start_moved(SessionStarter { claim, ..self.session_starter(namespace) }, incoming).boxed();
        self.state = State::Starting { namespace, cause: StartCause::Move, starting };
    }

    /// Sends the client the result of the start, and runs the session if there is one.
    pub(super) fn finish_start(
        &mut self,
        namespace: Namespace,
        cause: StartCause,
        started: Result<StartOutcome, Close>,
    ) {
        let (running, joins, ids) = match (started, &cause) {
            (Ok(StartOutcome::Recovered(running, ids, joins)), _) => (running, joins, Some(ids)),
            (Ok(StartOutcome::New(running, joins)), StartCause::Connect(ids)) => {
                (running, joins, ids.clone())
            }
            (Ok(StartOutcome::New(running, joins)), _) => (running, joins, None),
            (Ok(StartOutcome::Unauthenticated), StartCause::Connect(ids)) => {
                return self.wait_for_authentication(namespace, ids.clone());
            }
            (Ok(StartOutcome::Unauthenticated), _) => {
                return self.fail_start(namespace, &cause, Close::Internal);
            }
            (Err(close), _) => return self.fail_start(namespace, &cause, close),
        };
        let moved = matches!(cause, StartCause::Move);
        let origin = match cause {
            StartCause::Move => None,
            StartCause::Connect(_) => {
                self.welcome(namespace, ids.as_ref());
                (self.path == Path::SocketIo).then(|| chordme_origin(namespace, Verb::Authenticate, None))
            }
            StartCause::Authenticate(origin) => Some(origin),
        };
        self.run_session(namespace, running, joins, origin.as_ref(), moved);
    }

    fn run_session(
        &mut self,
        namespace: Namespace,
        mut running: Box<RunningSession>,
        joins: Joins,
        origin: Option<&CommandOrigin>,
        moved: bool,
    ) {
        let identity = &running.session.identity;
        if let Some(origin) = origin {
            let expires_ms = identity.expires_ms.unwrap_or(u64::MAX);
            running.session.reply(&Reply::Authenticated { user: identity.user.clone(), expires_ms }, origin);
        }
        let names_presence = joins.iter().any(|(_, origin)| origin.dialect().names_presence());
        // Presence goes to clients at `/api/socket`, and to clients that had joined in a vocabulary with presence.
        if names_presence || self.path == Path::Api {
            if moved {
                // The client received the presence of online users on its former gateway: send changes only.
                running.connection().enable_presence();
            } else {
                running.session.enable_presence();
            }
        }
        running.restore(joins);
        self.state = State::Running { namespace, running };
    }

    fn fail_start(&mut self, namespace: Namespace, cause: &StartCause, close: Close) {
        let failure = failure_of(close);
        match cause {
            // Close the transport instead of sending a CONNECT_ERROR: after a CONNECT_ERROR, the client library does
            // not reconnect by itself.
            StartCause::Connect(_) => {}
            StartCause::Authenticate(_) | StartCause::Move => {
                self.send_event(namespace, vocabulary::connection_error(&failure));
            }
        }
        self.state = State::Waiting;
        self.ending = Some(close);
    }
}
