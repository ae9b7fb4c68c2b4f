//! Connection-state recovery. The subscriptions of each session that can be recovered are stored as a record at a
//! presence-worker, so that another gateway finds them when this one is dead
//! (`docs/decisions/0009-recovery-is-a-record-and-an-offset.md`).

use crate::connection::{ClientProtocol, Connection, Signal};
use crate::core::outbox::Urgency;
use crate::core::tracker::Tracker;
use crate::delivery::dialect::{Dialect, Namespace, packets};
use crate::shared::Shared;
use carillon_proto::code::Close;
use carillon_proto::dialect::socketio::offset::Offset;
use carillon_proto::dialect::socketio::vocabulary::{self, Vocabulary};
use carillon_proto::id::ConversationId;
use carillon_proto::limits::RECOVERY_RECORD_BYTES_MAX;
use carillon_proto::partition::presence_shard;
use carillon_proto::wire::{
    self, RecoveryBase, RecoveryRecord, presence_change::Body as Change, presence_result::Body as Outcome,
};
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How often an unfinished answer is requested again, over 4 s. A new presence-worker has all records after three
/// heartbeats.
const REQUEST_AGAIN_MAX: u32 = 16;
/// Delay between two such requests.
const REQUEST_AGAIN_DELAY: Duration = Duration::from_millis(250);
/// Length of the ids that clients are given, in characters. An id of another length is not looked up.
const PID_LENGTH: usize = 32;

/// How many hexadecimal digits of a session's public id make the number of its first base. It takes three bytes of each
/// offset.
const NUMBER_DIGITS: usize = 5;

/// The ids that a client is given when it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    pub sid: String,
    /// The secret with which the client recovers the session.
    pub pid: String,
}

impl Ids {
    /// New ids of 122 random bits each. The pid must not be guessed: a client that sends it may recover the session.
    pub fn random() -> Ids {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        Ids { sid: random(), pid: random() }
    }

    /// The tracker of a session that begins. Each session numbers its bases differently, because a client that is given
    /// new ids may still send the last offset of its earlier session.
    pub fn tracker(&self) -> Tracker {
        let number = self.sid.get(..NUMBER_DIGITS).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        Tracker::new(number.unwrap_or_default())
    }
}

/// The ids that a client sends when it connects again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return {
    /// The session's secret.
    pub pid: String,
    /// The last offset that the client received.
    pub offset: String,
}

/// A session that can be recovered.
#[derive(Debug)]
pub struct RecoveredState {
    pub record: RecoveryRecord,
    /// How far its client has received its conversations.
    pub tracker: Tracker,
    /// Where the session is still counted, if that is another gateway.
    pub owner: Option<wire::SessionPlace>,
}

struct Recoverable {
    connection: Arc<Connection>,
    /// The record without its bases, which are in the connection's tracker.
    record: RecoveryRecord,
}

impl Recoverable {
    fn kept(&self) -> Option<wire::RecoveryKept> {
        let bases = self.connection.outgoing.tracked(|tracker| tracker.bases())?;
        kept(self.connection.id, &self.record, bases)
    }
}

/// The announcement of a record; `None` if the record is too large.
fn kept(session: u64, record: &RecoveryRecord, bases: Vec<RecoveryBase>) -> Option<wire::RecoveryKept> {
    let record = RecoveryRecord { bases, ..record.clone() };
    let fits = record.encoded_len() <= RECOVERY_RECORD_BYTES_MAX;
    fits.then_some(wire::RecoveryKept { session, record: Some(record) })
}

/// Sends `recovery_pending` before the reply to a change that the record does not have yet. Its offset counts that
/// change. A client that returns with this offset is recovered if the record has the change by then, and otherwise
/// starts over.
pub fn notify_recovery_pending(connection: &Connection) {
    if let ClientProtocol::SocketIo(namespace) = connection.protocol {
        connection.offer(&packets(namespace, &[vocabulary::recovery_pending()]), Urgency::Reply);
    }
}

/// The sessions of this gateway that can be recovered, by connection id. The number of connections bounds it.
#[derive(Default)]
pub struct Recoveries(Mutex<HashMap<u64, Recoverable>>);

impl Recoveries {
    /// The records that are announced to one presence shard.
    pub fn of_shard(&self, shard: u32) -> Vec<wire::RecoveryKept> {
        let sessions = self.0.lock();
        let here = sessions.values().filter(|session| presence_shard(&session.record.pid) == shard);
        here.filter_map(Recoverable::kept).collect()
    }

    fn pid(&self, connection: &Connection) -> Option<String> {
        self.0.lock().get(&connection.id).map(|session| session.record.pid.clone())
    }

    fn kept(&self, connection: &Connection) -> Option<wire::RecoveryKept> {
        self.0.lock().get(&connection.id)?.kept()
    }
}

impl Shared {
    /// Finds the session that a client returns to. `None` if the record does not cover everything that the client
    /// received.
    pub async fn find_recovery(
        &self,
        back: &Return,
        user: &str,
        namespace: Namespace,
    ) -> Option<RecoveredState> {
        let offset = Offset::parse(&back.offset).filter(|_| back.pid.len() == PID_LENGTH)?;
        for _ in 0..REQUEST_AGAIN_MAX {
            let query = wire::RecoveryQuery { pid: back.pid.clone(), user: user.to_owned() };
            match self.request_presence(Change::RecoveryQuery(query)).await {
                Some(Outcome::Recovery(wire::RecoveryFound { record: Some(record), owner, .. })) => {
                    let here = record.namespace == namespace.name();
                    let tracker = Tracker::restored(&record.bases, &offset).filter(|_| here)?;
                    // If this gateway has the session itself, [`Shared::supersede`] ends it.
                    let owner = owner.filter(|owner| owner.gateway != self.id.as_str());
                    return Some(RecoveredState { record, tracker, owner });
                }
                Some(Outcome::Recovery(found)) if found.again => {
                    tokio::time::sleep(REQUEST_AGAIN_DELAY).await;
                }
                _ => return None,
            }
        }
        None
    }

    /// Makes a session recoverable. The caller then stores its record.
    pub fn add_recoverable(&self, connection: &Arc<Connection>, record: RecoveryRecord) {
        let session = Recoverable { connection: connection.clone(), record };
        self.recoveries.0.lock().insert(connection.id, session);
    }

    /// Ends this gateway's sessions with this pid, because their client comes back on a new connection. They are no
    /// longer counted.
    pub fn supersede(&self, pid: &str) {
        let before: Vec<_> = {
            let sessions = self.recoveries.0.lock();
            let of_client = sessions.values().filter(|session| session.record.pid == pid);
            of_client.map(|session| session.connection.clone()).collect()
        };
        for connection in before {
            self.end_session(&connection);
            connection.signal(Signal::Close(Close::Unresponsive));
        }
    }

    /// Stores the record. Returns whether the presence-worker has it.
    pub async fn store_recovery(&self, connection: &Connection) -> bool {
        let kept = self.recoveries.kept(connection);
        self.store(kept).await
    }

    async fn store(&self, kept: Option<wire::RecoveryKept>) -> bool {
        let Some(kept) = kept else { return false };
        self.is_accepted(Change::RecoveryKept(kept)).await
    }

    /// Announces the whole record again, after it has changed or an announcement has failed.
    pub fn renew_recovery(&self, connection: &Connection) {
        if let Some(kept) = self.recoveries.kept(connection) {
            self.announce_presence(Change::RecoveryKept(kept));
        }
    }

    /// Updates the identity in the record after the token was renewed.
    pub fn renew_identity(&self, connection: &Connection, identity: wire::MovedIdentity) {
        if let Some(session) = self.recoveries.0.lock().get_mut(&connection.id) {
            session.record.identity = Some(identity);
        }
        self.renew_recovery(connection);
    }

    /// Adds a subscription above `seq` to the record before it begins. Returns whether the presence-worker has it.
    pub async fn recovery_subscribes(
        &self,
        connection: &Connection,
        conversation: &ConversationId,
        vocabulary: Vocabulary,
        seq: u64,
    ) -> bool {
        let next = connection.outgoing.tracked(|tracker| (tracker.version(), tracker.next_place()));
        let Some(((base, changes), Some(place))) = next else { return false };
        let Some(pid) = self.recoveries.pid(connection) else { return false };
        let (conversation, vocabulary) = (conversation.to_string(), vocabulary as u32);
        let subscription = wire::RecoverySubscription { conversation, vocabulary, seq, ended: false };
        let made = wire::RecoverySubscribed {
            pid,
            session: connection.id,
            base,
            changes: changes + 1,
            place,
            subscription: Some(subscription),
        };
        self.is_accepted(Change::RecoverySubscribed(made)).await
    }

    /// Ends a subscription in the tracker. Returns the announcement for it, if the session can be recovered.
    fn unsubscribe(
        &self,
        connection: &Connection,
        conversation: &ConversationId,
        dialect: Dialect,
    ) -> Option<wire::RecoveryUnsubscribed> {
        let Dialect::SocketIo(vocabulary, _) = dialect else { return None };
        let ended = connection.outgoing.tracked(|tracker| {
            let place = tracker.find(conversation, vocabulary)?;
            tracker.unsubscribe(place);
            Some((tracker.version(), place))
        });
        let ((base, changes), place) = ended??;
        let (pid, session) = (self.recoveries.pid(connection)?, connection.id);
        Some(wire::RecoveryUnsubscribed { pid, session, base, changes, place })
    }

    /// Ends a subscription that was removed, or that is replaced by one at another seq.
    pub fn recovery_unsubscribes(
        &self,
        connection: &Connection,
        conversation: &ConversationId,
        dialect: Dialect,
    ) {
        if let Some(ended) = self.unsubscribe(connection, conversation, dialect) {
            self.announce_presence(Change::RecoveryUnsubscribed(ended));
        }
    }

    /// Ends a subscription that the client left. Returns when the record no longer has it, or after `recovery_pending`
    /// was queued.
    pub async fn recovery_leaves(
        &self,
        connection: &Connection,
        conversation: &ConversationId,
        dialect: Dialect,
    ) {
        let Some(ended) = self.unsubscribe(connection, conversation, dialect) else { return };
        if !self.is_accepted(Change::RecoveryUnsubscribed(ended)).await {
            self.renew_recovery(connection);
            notify_recovery_pending(connection);
        }
    }

    /// Stores a new base, so that offsets become short again.
    pub async fn rebase_recovery(&self, connection: &Connection) {
        let Some(bases) = connection.outgoing.tracked(Tracker::propose_base) else { return };
        let kept = {
            let sessions = self.recoveries.0.lock();
            sessions.get(&connection.id).and_then(|session| kept(connection.id, &session.record, bases))
        };
        let stored = self.store(kept).await;
        let adopted = connection.outgoing.tracked(|tracker| tracker.adopt_base(stored));
        if stored && adopted == Some(false) {
            // A subscription began or ended meanwhile, so the base in the record is not used. The record is announced
            // again.
            self.renew_recovery(connection);
        }
    }

    /// Ends recovery at this gateway. The record is kept for a while, unless `forget` is set.
    pub fn end_recovery(&self, connection: &Connection, forget: bool) {
        let ended = self.recoveries.0.lock().remove(&connection.id);
        if let Some(pid) = ended.map(|session| session.record.pid) {
            let change = wire::RecoveryEnded { pid, session: connection.id, forget };
            self.announce_presence(Change::RecoveryEnded(change));
        }
    }

    /// What another gateway needs to take over the session: the record, and the offset of the last queued frame.
    pub fn moved_recovery(&self, connection: &Connection) -> Option<(RecoveryRecord, String)> {
        let record = self.recoveries.kept(connection)?.record?;
        let offset = connection.outgoing.tracked(|tracker| tracker.offset().text())?;
        Some((record, offset))
    }
}
