//! Connection-state recovery, as this gateway keeps it: what each session that can be recovered subscribed to lies
//! with a presence-worker, where another gateway finds it after this one's death.

use crate::connection::{Connection, Signal, Speaks};
use crate::core::outbox::Urgency;
use crate::core::tracker::Tracker;
use crate::dialect::{Dialect, Namespace, packets};
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

/// A presence-worker that is new knows all records within three heartbeats: for so long it is asked again.
const ASK_AGAIN_MAX: u32 = 16;
/// Between two questions.
const ASK_AGAIN_DELAY: Duration = Duration::from_millis(250);
/// Characters of the ids that clients are given, and at most give back.
const PID_LENGTH: usize = 32;

/// Hexadecimal digits of a session's public id that number its first base: three bytes of each offset.
const NUMBER_DIGITS: usize = 5;

/// What a client is told of itself when it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// The public id.
    pub sid: String,
    /// The secret by which it comes back.
    pub pid: String,
}

impl Ids {
    /// Ids that nobody has had, 122 random bits each: whoever knows a pid may go on with its session.
    pub fn random() -> Ids {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        Ids { sid: random(), pid: random() }
    }

    /// How far the client of a session that begins has heard. Its bases have numbers of their own: a client that is
    /// given a new secret may still give back the offset that it heard last in the session before.
    pub fn tracker(&self) -> Tracker {
        let number = self.sid.get(..NUMBER_DIGITS).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        Tracker::beginning(number.unwrap_or_default())
    }
}

/// What a client gives back when it connects again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return {
    /// Its secret.
    pub pid: String,
    /// The last offset that it heard.
    pub offset: String,
}

/// A session that is gone on with.
#[derive(Debug)]
pub struct Found {
    /// Its record.
    pub record: RecoveryRecord,
    /// How far its client has heard.
    pub tracker: Tracker,
    /// The session before, where another gateway still has it.
    pub owner: Option<wire::SessionPlace>,
}

struct Recoverable {
    connection: Arc<Connection>,
    /// Without its bases, which the connection's tracker has.
    record: RecoveryRecord,
}

impl Recoverable {
    fn kept(&self) -> Option<wire::RecoveryKept> {
        let bases = self.connection.outgoing.tracked(|tracker| tracker.bases())?;
        kept(self.connection.id, &self.record, bases)
    }
}

/// One that is too large to be given out is not kept.
fn kept(session: u64, record: &RecoveryRecord, bases: Vec<RecoveryBase>) -> Option<wire::RecoveryKept> {
    let record = RecoveryRecord { bases, ..record.clone() };
    let fits = record.encoded_len() <= RECOVERY_RECORD_BYTES_MAX;
    fits.then_some(wire::RecoveryKept { session, record: Some(record) })
}

/// The record does not have a change yet. The client is given an offset that tells of it before it hears of the change
/// itself: with that it is recovered when the record has it, and hears otherwise that it is not.
pub fn tell_pending(connection: &Connection) {
    if let Speaks::SocketIo(namespace) = connection.speaks {
        connection.offer(&packets(namespace, &[vocabulary::recovery_pending()]), Urgency::Reply);
    }
}

/// The sessions of this gateway that can be recovered, by their connections' ids. Bounded by its connections.
#[derive(Default)]
pub struct Recoveries(Mutex<HashMap<u64, Recoverable>>);

impl Recoveries {
    /// Everything that is to be announced to a presence shard.
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
    /// What is known of a client that comes back; `None` where that is not all that it has heard of.
    pub async fn find_recovery(&self, back: &Return, user: &str, namespace: Namespace) -> Option<Found> {
        let offset = Offset::parse(&back.offset).filter(|_| back.pid.len() == PID_LENGTH)?;
        for _ in 0..ASK_AGAIN_MAX {
            let query = wire::RecoveryQuery { pid: back.pid.clone(), user: user.to_owned() };
            match self.ask_presence(Change::RecoveryQuery(query)).await {
                Some(Outcome::Recovery(wire::RecoveryFound { record: Some(record), owner, .. })) => {
                    let here = record.namespace == namespace.name();
                    let tracker = Tracker::restored(&record.bases, &offset).filter(|_| here)?;
                    // One of this gateway ends at once.
                    let owner = owner.filter(|owner| owner.gateway != self.id.as_str());
                    return Some(Found { record, tracker, owner });
                }
                Some(Outcome::Recovery(found)) if found.again => {
                    tokio::time::sleep(ASK_AGAIN_DELAY).await;
                }
                _ => return None,
            }
        }
        None
    }

    /// The session can be recovered from now on, as soon as its record is stored.
    pub fn begin_recovery(&self, connection: &Arc<Connection>, record: RecoveryRecord) {
        let session = Recoverable { connection: connection.clone(), record };
        self.recoveries.0.lock().insert(connection.id, session);
    }

    /// A client comes back from these sessions, which have not noticed: they are not counted any more, and end.
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

    /// Stores the record: whether it is there.
    pub async fn store_recovery(&self, connection: &Connection) -> bool {
        let kept = self.recoveries.kept(connection);
        self.store(kept).await
    }

    async fn store(&self, kept: Option<wire::RecoveryKept>) -> bool {
        let Some(kept) = kept else { return false };
        self.is_taken(Change::RecoveryKept(kept)).await
    }

    /// Stores the record anew, with what has changed in it or been missed of it.
    pub fn renew_recovery(&self, connection: &Connection) {
        if let Some(kept) = self.recoveries.kept(connection) {
            self.tell_presence(Change::RecoveryKept(kept));
        }
    }

    /// Whose session it is has changed: the token was renewed.
    pub fn renew_identity(&self, connection: &Connection, identity: wire::MovedIdentity) {
        if let Some(session) = self.recoveries.0.lock().get_mut(&connection.id) {
            session.record.identity = Some(identity);
        }
        self.renew_recovery(connection);
    }

    /// A subscription is about to begin behind `seq`: whether it is in the record before it does.
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
        self.is_taken(Change::RecoverySubscribed(made)).await
    }

    /// A subscription ends, if the connection's are followed: what is to be announced of that.
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

    /// A subscription ends because of others, or makes place for the next one.
    pub fn recovery_unsubscribes(
        &self,
        connection: &Connection,
        conversation: &ConversationId,
        dialect: Dialect,
    ) {
        if let Some(ended) = self.unsubscribe(connection, conversation, dialect) {
            self.tell_presence(Change::RecoveryUnsubscribed(ended));
        }
    }

    /// A client ends a subscription, and is told so when the record does not have it any more.
    pub async fn recovery_leaves(
        &self,
        connection: &Connection,
        conversation: &ConversationId,
        dialect: Dialect,
    ) {
        let Some(ended) = self.unsubscribe(connection, conversation, dialect) else { return };
        if !self.is_taken(Change::RecoveryUnsubscribed(ended)).await {
            self.renew_recovery(connection);
            tell_pending(connection);
        }
    }

    /// Stores a new base, from which offsets are short again.
    pub async fn rebase_recovery(&self, connection: &Connection) {
        let Some(bases) = connection.outgoing.tracked(Tracker::propose_base) else { return };
        let kept = {
            let sessions = self.recoveries.0.lock();
            sessions.get(&connection.id).and_then(|session| kept(connection.id, &session.record, bases))
        };
        let stored = self.store(kept).await;
        let adopted = connection.outgoing.tracked(|tracker| tracker.adopt_base(stored));
        if stored && adopted == Some(false) {
            // Something began or ended meanwhile, and the record has a base that offsets will not count from.
            self.renew_recovery(connection);
        }
    }

    /// The session has ended here. Its record stays for a while, unless the client said goodbye.
    pub fn end_recovery(&self, connection: &Connection, forget: bool) {
        let ended = self.recoveries.0.lock().remove(&connection.id);
        if let Some(pid) = ended.map(|session| session.record.pid) {
            let change = wire::RecoveryEnded { pid, session: connection.id, forget };
            self.tell_presence(Change::RecoveryEnded(change));
        }
    }

    /// What another gateway needs to go on with a session at once, and how far its queued frames go.
    pub fn moved_recovery(&self, connection: &Connection) -> Option<(RecoveryRecord, String)> {
        let record = self.recoveries.kept(connection)?.record?;
        let offset = connection.outgoing.tracked(|tracker| tracker.offset().text())?;
        Some((record, offset))
    }
}
