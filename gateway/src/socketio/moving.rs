//! Moves a client between gateways: packs its state on the former gateway, and restores it on the new one.

use super::client::{AUTHENTICATION_TIMEOUT, Client, Path, State};
use super::start::{IncomingSession, Joins};
use crate::access::auth::Identity;
use crate::connection::outgoing::Outgoing;
use crate::core::tracker::Tracker;
use crate::delivery::dialect::{CommandOrigin, Dialect, Namespace};
use crate::session::recovery::{Ids, RecoveredState};
use crate::session::start::Claim;
use crate::shared::Shared;
use carillon_proto::command::Command;
use carillon_proto::dialect::socketio::offset::Offset;
use carillon_proto::dialect::socketio::vocabulary::Vocabulary;
use carillon_proto::id::ConversationId;
use carillon_proto::wire::{MovedClient, MovedSubscription, RecoveryRecord, SessionPlace};
use std::sync::Arc;
use tokio::time::Instant;

impl Client {
    /// Restores a client from the state that another gateway made with `ConnectionHandler::pack`.
    pub fn moved(
        shared: Arc<Shared>,
        outgoing: Arc<Outgoing>,
        path: Path,
        moved: MovedClient,
    ) -> Option<Client> {
        let mut client = Client::new(shared, outgoing, path, moved.recovers);
        let Some(name) = &moved.namespace else { return Some(client) };
        let namespace = Namespace::parse(name)?;
        let status = moved.status.is_some().then(|| (moved.status(), moved.text.clone()));
        match moved.identity {
            Some(identity) => {
                let joins = moved.subscriptions.iter().map(|subscription| rejoin(namespace, subscription));
                let joins = joins.collect::<Option<Joins>>()?;
                let found = match moved.recovery {
                    None => None,
                    Some(record) => {
                        let tracker = Tracker::restored(&record.bases, &Offset::parse(&moved.offset)?)?;
                        Some(RecoveredState { record, tracker, owner: None })
                    }
                };
                let incoming = IncomingSession { identity: Identity::moved(identity)?, joins, found };
                let claim = Claim { limit: 0, moved_from: moved.counted, status };
                client.start_incoming(namespace, incoming, claim);
            }
            None => {
                let until = Instant::now() + AUTHENTICATION_TIMEOUT;
                let ids = moved.recovery.map(|RecoveryRecord { sid, pid, .. }| Ids { sid, pid });
                client.outgoing.track(ids.as_ref().map(Ids::tracker));
                client.state = State::Anonymous { namespace, until, ids };
            }
        }
        Some(client)
    }

    /// The state that another gateway needs to serve the client; `None` while something is under way.
    pub(super) fn packed(&self) -> Option<MovedClient> {
        let namespace = self.namespace().map(|namespace| namespace.name().to_owned());
        let mut moved = MovedClient { namespace, recovers: self.recovers, ..MovedClient::default() };
        match &self.state {
            State::Waiting if self.ending.is_some() => return None,
            State::Waiting | State::Left { .. } => {}
            State::Anonymous { ids, .. } => {
                let record = |Ids { sid, pid }| RecoveryRecord { sid, pid, ..RecoveryRecord::default() };
                moved.recovery = ids.clone().map(record);
            }
            State::Starting { .. } | State::Leaving { .. } => return None,
            State::Running { running, .. } if !running.is_settled() => return None,
            State::Running { running, .. } => {
                let session = &running.session;
                let local = self.shared.directory.session(&session.connection);
                let (profile, status) = local.map(|local| (local.profile, local.status)).unwrap_or_default();
                moved.identity = Some(session.identity.pack(profile));
                let (gateway, id) = (self.shared.id.to_string(), session.connection.id);
                moved.counted = Some(SessionPlace { gateway, session: id });
                if let Some((status, text)) = status {
                    (moved.status, moved.text) = (Some(status.into()), text);
                }
                if let Some((record, offset)) = self.shared.moved_recovery(&session.connection) {
                    (moved.recovery, moved.offset) = (Some(record), offset);
                }
                let subscriptions = session.subscriptions().into_iter();
                moved.subscriptions = subscriptions
                    .filter_map(|(conversation, dialect, cursor)| {
                        let Dialect::SocketIo(vocabulary, _) = dialect else { return None };
                        let (conversation, vocabulary) = (conversation.to_string(), vocabulary as u32);
                        Some(MovedSubscription { conversation, vocabulary, cursor })
                    })
                    .collect();
            }
        }
        Some(moved)
    }
}

/// The join that restores a subscription, from the seq up to which it was read.
fn rejoin(namespace: Namespace, subscription: &MovedSubscription) -> Option<(Command, CommandOrigin)> {
    let conversation = ConversationId::parse(&subscription.conversation).ok()?;
    let vocabulary = *Vocabulary::ALL.get(subscription.vocabulary as usize)?;
    let join = Command::Join { conversation, after_seq: Some(subscription.cursor) };
    Some((join, CommandOrigin::Restored(Dialect::SocketIo(vocabulary, namespace))))
}
