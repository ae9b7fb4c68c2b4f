//! How a Socket.IO session begins: by CONNECT with a token, by a later `authenticate` event, by recovery of an earlier
//! session, or by a move from another gateway.

use super::client::{AUTHENTICATION_TIMEOUT, Client, Path, State, asked_by, failure_of};
use crate::access::auth::Identity;
use crate::connection::Speaks;
use crate::connection::outgoing::Outgoing;
use crate::core::tracker::Tracker;
use crate::delivery::dialect::{Asked, Dialect, Namespace};
use crate::metrics;
use crate::session::application::Running;
use crate::session::recovery::{Found, Ids, Return};
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
pub(super) type Joins = Vec<(Command, Asked)>;

/// How a session begins, which decides what the client receives once it has begun.
pub(super) enum Begins {
    /// The client sent CONNECT with a token, or to recover a session. With ids where the new session can be recovered.
    Connecting(Option<Ids>),
    /// The client connected without a token, and gave one by this event.
    Authenticating(Asked),
    /// The session moved here from another gateway, where the client received its welcome.
    Moved,
}

/// The outcome of [`Starting`].
pub(super) enum Begun {
    /// The client's earlier session is recovered, under its former ids and with its former subscriptions.
    Back(Box<Running>, Ids, Joins),
    /// A new session, or one that moved here with its subscriptions.
    New(Box<Running>, Joins),
    /// The client gave no token, and no session was found to recover: it must authenticate.
    Nobody,
}

/// The state of a session that moves here from another gateway.
pub(super) struct Arrival {
    pub identity: Identity,
    /// Its subscriptions.
    pub joins: Joins,
    /// Its recovery record and tracker, if it can be recovered.
    pub found: Option<Found>,
}

/// The asynchronous start of a session.
pub(super) type Starting = BoxFuture<'static, Result<Begun, Close>>;

/// The parts from which a session is started.
struct Beginning {
    shared: Arc<Shared>,
    outgoing: Arc<Outgoing>,
    namespace: Namespace,
    claim: Claim,
}

impl Beginning {
    async fn start(self, identity: Identity) -> Result<Running, Close> {
        let speaks = Speaks::SocketIo(self.namespace);
        let _beginning = self.shared.admission.begin();
        let mut running = start(self.shared, identity, speaks, self.outgoing, self.claim).await?;
        running.session.greet().await;
        Ok(running)
    }

    /// Starts a session without earlier subscriptions. It can be recovered if it has ids.
    async fn fresh(self, identity: Identity, ids: Option<Ids>) -> Result<Running, Close> {
        let (shared, namespace) = (self.shared.clone(), self.namespace);
        let running = self.start(identity).await?;
        recover_from_now(&shared, &running, namespace, ids);
        Ok(running)
    }

    /// Starts a session that continues where its client's offset ends. The joins are `None` when the new record could
    /// not be stored: the session must then not be reported as recovered.
    async fn resumed(mut self, identity: Identity, found: Found) -> Result<(Running, Option<Joins>), Close> {
        let Found { record: before, tracker, owner } = found;
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
        shared.begin_recovery(running.connection(), record(&running, namespace, ids));
        let stored = shared.store_recovery(running.connection()).await;
        Ok((running, stored.then_some(joins)))
    }
}

/// The joins for every subscription of a tracker, each from the seq that the client has reached.
fn joins(namespace: Namespace, tracker: &Tracker) -> Joins {
    let join = |conversation, after_seq| Command::Join { conversation, after_seq: Some(after_seq) };
    let reached = tracker.reached().into_iter();
    let silently = |vocabulary| Asked::Silently(Dialect::SocketIo(vocabulary, namespace));
    reached.map(|it| (join(it.conversation, it.cursor), silently(it.vocabulary))).collect()
}

fn record(running: &Running, namespace: Namespace, ids: Ids) -> RecoveryRecord {
    let identity = running.session.identity.pack(running.session.profile());
    let (Ids { pid, sid }, namespace) = (ids, namespace.name().to_owned());
    RecoveryRecord { pid, sid, namespace, identity: Some(identity), bases: Vec::new() }
}

/// Makes a session that has ids recoverable. The record is announced without waiting for it to be stored. What the
/// session joins later is announced after it, so it is added to this record.
fn recover_from_now(shared: &Shared, running: &Running, namespace: Namespace, ids: Option<Ids>) {
    if let Some(ids) = ids {
        shared.begin_recovery(running.connection(), record(running, namespace, ids));
        shared.renew_recovery(running.connection());
    }
}

/// Whether the token of an identity from a record or from another gateway has not expired.
fn still_valid(identity: &Identity) -> bool {
    identity.left_ms().is_none_or(|left_ms| left_ms > 0)
}

/// Starts the session of a client that sent CONNECT, and recovers its earlier session if it requests that and the
/// record is found.
async fn connect(
    beginning: Beginning,
    who: Option<Identity>,
    ids: Option<Ids>,
    back: Option<Return>,
) -> Result<Begun, Close> {
    let (shared, outgoing) = (beginning.shared.clone(), beginning.outgoing.clone());
    let found = match &back {
        None => None,
        Some(back) => {
            let user = who.as_ref().map_or("", |identity| identity.user.as_str());
            shared.find_recovery(back, user, beginning.namespace).await
        }
    };
    let Some(found) = found else {
        metrics::NOT_RECOVERED.inc_by(back.is_some().into());
        let Some(identity) = who else { return Ok(Begun::Nobody) };
        return Ok(Begun::New(Box::new(beginning.fresh(identity, ids).await?), Joins::new()));
    };
    let kept = || found.record.identity.clone().and_then(Identity::moved).filter(still_valid);
    let Some(identity) = who.or_else(kept) else { return Ok(Begun::Nobody) };
    let before = Ids { sid: found.record.sid.clone(), pid: found.record.pid.clone() };
    let namespace = beginning.namespace;
    shared.supersede(&before.pid);
    let (running, joins) = beginning.resumed(identity, found).await?;
    if let Some(joins) = joins {
        metrics::RECOVERED.inc();
        return Ok(Begun::Back(Box::new(running), before, joins));
    }
    metrics::NOT_RECOVERED.inc();
    outgoing.track(ids.as_ref().map(Ids::tracker));
    recover_from_now(&shared, &running, namespace, ids);
    Ok(Begun::New(Box::new(running), Joins::new()))
}

/// Starts a session that moved here, with its subscriptions.
async fn arrive(beginning: Beginning, arrival: Arrival) -> Result<Begun, Close> {
    let Arrival { identity, joins, found } = arrival;
    let Some(found) = found else {
        return Ok(Begun::New(Box::new(beginning.fresh(identity, None).await?), joins));
    };
    let shared = beginning.shared.clone();
    let (running, reached) = beginning.resumed(identity, found).await?;
    if reached.is_none() {
        // The client received its ids on the former gateway. It can be recovered again once this record is stored.
        shared.renew_recovery(running.connection());
    }
    Ok(Begun::New(Box::new(running), reached.unwrap_or(joins)))
}

impl Client {
    fn welcome(&self, namespace: Namespace, ids: Option<&Ids>) {
        let data = match ids {
            None => format!("{{\"sid\":\"{}\"}}", uuid::Uuid::new_v4().simple()),
            Some(Ids { sid, pid }) => format!("{{\"sid\":\"{sid}\",\"pid\":\"{pid}\"}}"),
        };
        self.say(&packet::connect(namespace.name(), &data));
        self.tell(namespace, vocabulary::connected());
    }

    fn refuse_connect(&self, namespace: &str, failure: &Failure, token_given: bool) {
        metrics::REFUSED.inc();
        self.say(&packet::connect_error(namespace, &vocabulary::connect_error(failure, token_given)));
    }

    /// Admits a client to a namespace, or refuses it with a CONNECT_ERROR.
    pub(super) fn enter(&mut self, namespace: Namespace, auth: Option<&str>) {
        let auth = auth.and_then(|json| serde_json::from_str::<&RawValue>(json).ok());
        let recovery = auth.map(vocabulary::handshake_recovery).unwrap_or_default();
        let ids = (self.recovers || recovery.wanted).then(Ids::random);
        let back = recovery.back.filter(|_| ids.is_some()).map(|(pid, offset)| Return { pid, offset });
        let who = match auth.and_then(vocabulary::handshake_token) {
            Some(token) => match self.shared.verifier.verify(&token) {
                Ok(identity) => Some(identity),
                Err(refusal) => return self.refuse_connect(namespace.name(), &refusal.failure(), true),
            },
            None if self.path == Path::Api => {
                let failure = Failure::new(ErrorCode::Unauthorized, "give a token as auth.token");
                return self.refuse_connect(namespace.name(), &failure, false);
            }
            None => None,
        };
        self.outgoing.track(ids.as_ref().map(Ids::tracker));
        if who.is_none() && back.is_none() {
            return self.wait_for_authentication(namespace, ids);
        }
        let beginning = self.beginning(namespace);
        let starting = connect(beginning, who, ids.clone(), back).boxed();
        self.state = State::Starting { namespace, begins: Begins::Connecting(ids), starting };
    }

    fn wait_for_authentication(&mut self, namespace: Namespace, ids: Option<Ids>) {
        self.welcome(namespace, ids.as_ref());
        let until = Instant::now() + AUTHENTICATION_TIMEOUT;
        self.state = State::Anonymous { namespace, until, ids };
    }

    fn beginning(&self, namespace: Namespace) -> Beginning {
        let (shared, outgoing, claim) =
            (self.shared.clone(), self.outgoing.clone(), Claim::new(&self.shared));
        Beginning { shared, outgoing, namespace, claim }
    }

    /// Starts the session of a client that connected without a token and has now authenticated.
    pub(super) fn authenticated(
        &mut self,
        namespace: Namespace,
        identity: Identity,
        asked: Asked,
        ids: Option<Ids>,
    ) {
        let beginning = self.beginning(namespace);
        let starting = async move {
            let running = beginning.fresh(identity, ids).await?;
            Ok(Begun::New(Box::new(running), Joins::new()))
        };
        let begins = Begins::Authenticating(asked);
        self.state = State::Starting { namespace, begins, starting: starting.boxed() };
    }

    /// Starts the session of a client that moved here from another gateway.
    pub(super) fn arrives(&mut self, namespace: Namespace, arrival: Arrival, claim: Claim) {
        let starting = arrive(Beginning { claim, ..self.beginning(namespace) }, arrival).boxed();
        self.state = State::Starting { namespace, begins: Begins::Moved, starting };
    }

    /// Informs a client of how its session began, and runs the session if it did.
    pub(super) fn started(&mut self, namespace: Namespace, begins: Begins, started: Result<Begun, Close>) {
        let (running, joins, ids) = match (started, &begins) {
            (Ok(Begun::Back(running, ids, joins)), _) => (running, joins, Some(ids)),
            (Ok(Begun::New(running, joins)), Begins::Connecting(ids)) => (running, joins, ids.clone()),
            (Ok(Begun::New(running, joins)), _) => (running, joins, None),
            (Ok(Begun::Nobody), Begins::Connecting(ids)) => {
                return self.wait_for_authentication(namespace, ids.clone());
            }
            (Ok(Begun::Nobody), _) => return self.not_started(namespace, &begins, Close::Internal),
            (Err(close), _) => return self.not_started(namespace, &begins, close),
        };
        let moved = matches!(begins, Begins::Moved);
        let asked = match begins {
            Begins::Moved => None,
            Begins::Connecting(_) => {
                self.welcome(namespace, ids.as_ref());
                (self.path == Path::SocketIo).then(|| asked_by(namespace, Verb::Authenticate, None))
            }
            Begins::Authenticating(asked) => Some(asked),
        };
        self.serve(namespace, running, joins, asked.as_ref(), moved);
    }

    fn serve(
        &mut self,
        namespace: Namespace,
        mut running: Box<Running>,
        joins: Joins,
        asked: Option<&Asked>,
        moved: bool,
    ) {
        let identity = &running.session.identity;
        if let Some(asked) = asked {
            let expires_ms = identity.expires_ms.unwrap_or(u64::MAX);
            running.session.reply(&Reply::Authenticated { user: identity.user.clone(), expires_ms }, asked);
        }
        let goes_on = joins.iter().any(|(_, asked)| asked.dialect().names_presence());
        // Presence goes to clients at `/api/socket`, and to clients that had joined in a vocabulary with presence.
        if goes_on || self.path == Path::Api {
            if moved {
                // The client received the presence of online users on its former gateway: send changes only.
                running.connection().speaks_of_presence();
            } else {
                running.session.speaks_of_presence();
            }
        }
        running.restore(joins);
        self.state = State::Running { namespace, running };
    }

    fn not_started(&mut self, namespace: Namespace, begins: &Begins, close: Close) {
        let failure = failure_of(close);
        match begins {
            // Close the transport instead of sending a CONNECT_ERROR: after a CONNECT_ERROR, the client library does
            // not reconnect by itself.
            Begins::Connecting(_) => {}
            Begins::Authenticating(_) | Begins::Moved => {
                self.tell(namespace, vocabulary::connection_error(&failure));
            }
        }
        self.state = State::Waiting;
        self.ending = Some(close);
    }
}
