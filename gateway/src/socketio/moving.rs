//! A client on its way between gateways: what is written down where it leaves, and read where it arrives.

use super::client::{AUTHENTICATION_TIMEOUT, Begins, Client, Path, State};
use crate::auth::Identity;
use crate::dialect::{Asked, Dialect, Namespace};
use crate::outgoing::Outgoing;
use crate::shared::Shared;
use carillon_proto::command::Command;
use carillon_proto::dialect::socketio::vocabulary::Vocabulary;
use carillon_proto::id::ConversationId;
use carillon_proto::wire::{MovedClient, MovedSubscription};
use std::sync::Arc;
use tokio::time::Instant;

impl Client {
    /// A client that another gateway wrote down by [`Sockets::pack`].
    pub fn moved(
        shared: Arc<Shared>,
        outgoing: Arc<Outgoing>,
        path: Path,
        moved: MovedClient,
    ) -> Option<Client> {
        let mut client = Client::new(shared, outgoing, path);
        let Some(name) = &moved.namespace else { return Some(client) };
        let namespace = Namespace::parse(name)?;
        match moved.identity {
            Some(identity) => {
                let joins = moved.subscriptions.iter().map(|subscription| rejoin(namespace, subscription));
                let begins = Begins::Moved(joins.collect::<Option<Vec<_>>>()?);
                client.start(namespace, Identity::moved(identity)?, begins);
            }
            None => {
                let until = Instant::now() + AUTHENTICATION_TIMEOUT;
                client.state = State::Anonymous { namespace, until };
            }
        }
        Some(client)
    }

    /// What another gateway needs to go on with the client; `None` while something is under way.
    pub(super) fn packed(&self) -> Option<MovedClient> {
        let namespace = self.namespace().map(|namespace| namespace.name().to_owned());
        let mut moved = MovedClient { namespace, ..MovedClient::default() };
        match &self.state {
            State::Waiting if self.ending.is_some() => return None,
            State::Waiting | State::Anonymous { .. } | State::Left { .. } => {}
            State::Starting { .. } | State::Leaving { .. } => return None,
            State::Running { running, .. } if !running.is_settled() => return None,
            State::Running { running, .. } => {
                let session = &running.session;
                moved.identity = Some(session.identity.pack(session.profile()));
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

/// Joins again, from where a subscription was read to.
fn rejoin(namespace: Namespace, subscription: &MovedSubscription) -> Option<(Command, Asked)> {
    let conversation = ConversationId::parse(&subscription.conversation).ok()?;
    let vocabulary = *Vocabulary::ALL.get(subscription.vocabulary as usize)?;
    let join = Command::Join { conversation, after_seq: Some(subscription.cursor) };
    Some((join, Asked::Silently(Dialect::SocketIo(vocabulary, namespace))))
}
