//! A session's places in rooms: how they come, go, and end.

use super::{Done, Joined, Place, Session};
use crate::connection::Signal;
use crate::dialect::Dialect;
use crate::join::{self, Entered};
use carillon_proto::code::Close;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::wire;
use smallvec::SmallVec;

impl Session {
    /// What is joined, and in what, with the last seq that was queued for it.
    pub fn subscriptions(&self) -> Vec<(ConversationId, Dialect, u64)> {
        let of = |(conversation, joined): (&ConversationId, &Joined)| {
            let state = joined.room.lock();
            let cursor = |place: &Place| {
                let ours = state.topic.hearer(place.slot)?.connection.id == self.connection.id;
                state.topic.cursor(place.slot).filter(|_| ours)
            };
            let places = joined.places.iter();
            let known =
                places.filter_map(|place| Some((conversation.clone(), place.dialect, cursor(place)?)));
            known.collect::<Vec<_>>()
        };
        self.joined.iter().flat_map(of).collect()
    }

    /// What is known of the user.
    pub fn profile(&self) -> wire::Profile {
        self.shared.directory.session(&self.connection).map(|session| session.profile).unwrap_or_default()
    }

    /// Takes note of what came of [`Work`].
    pub fn done(&mut self, done: Done) {
        match done {
            Done::Told => {}
            Done::Entered(Entered { room, dialect, slot }) => {
                let ours = |id| id == self.connection.id;
                if !room.lock().topic.hearer(slot).is_some_and(|hearer| ours(hearer.connection.id)) {
                    // Removed meanwhile: what is left is the count of users there.
                    let (shared, connection) = (self.shared.clone(), self.connection.clone());
                    tokio::spawn(async move { join::leave(&shared, &connection, &room, slot, false).await });
                    return;
                }
                // It may be behind from the start, or have fallen behind before it was known here.
                self.fell_behind(room.clone());
                let new = || Joined { room: room.clone(), places: SmallVec::new(), typing: false };
                let joined = self.joined.entry(room.conversation.clone()).or_insert_with(new);
                match joined.places.iter_mut().find(|place| place.dialect == dialect) {
                    Some(place) => place.slot = slot,
                    None => joined.places.push(Place { dialect, slot }),
                }
                // Judged when it began, by an identity that another token may have replaced since.
                if self.authority(&room.conversation).is_err() {
                    self.end_subscription(&room.conversation);
                }
            }
            Done::Page(cursor, page) => self.queue_page(&cursor, page),
            Done::Watched(users) => self.watched.extend(users),
        }
    }

    /// Somebody else wants something of this connection; a close is returned.
    pub fn signalled(&mut self, signals: Vec<Signal>) -> Option<Close> {
        let mut close = None;
        for signal in signals {
            match signal {
                Signal::Behind(room) => self.fell_behind(room),
                Signal::Close(reason) => close = Some(reason),
                Signal::Removed(conversation) => self.end_subscription(&conversation),
            }
        }
        close
    }

    /// Ends what the identity does not open any more: its token was renewed by one that names less.
    pub(super) fn end_forbidden(&mut self) {
        let joined = self.joined.keys();
        let ended: Vec<_> = joined.filter(|id| self.authority(id).is_err()).cloned().collect();
        ended.iter().for_each(|conversation| self.end_subscription(conversation));
    }

    /// The user may not hear a conversation any more: nothing later is queued, and what they said there in passing
    /// ends with it.
    fn end_subscription(&mut self, conversation: &ConversationId) {
        let Some(Joined { room, places, typing }) = self.joined.remove(conversation) else { return };
        {
            let mut state = room.lock();
            for place in &places {
                let hearer = state.topic.hearer(place.slot);
                // The topic has given the place up already where it was the one to notice.
                if hearer.is_some_and(|hearer| hearer.connection.id == self.connection.id) {
                    state.topic.leave(place.slot);
                }
            }
        }
        if typing {
            self.shared.typing(&room, &self.connection.user, &self.connection.name, false);
        }
        for place in &places {
            self.shared.recovery_unsubscribes(&self.connection, conversation, place.dialect);
        }
        let (shared, connection) = (self.shared.clone(), self.connection.clone());
        tokio::spawn(async move {
            for place in places {
                join::leave(&shared, &connection, &room, place.slot, false).await;
            }
        });
    }

    /// The session has ended: everything it held is given back.
    pub async fn end(mut self) {
        self.shared.end_recovery(&self.connection, self.said_goodbye);
        for (_, Joined { room, places, typing }) in self.joined.drain() {
            if typing {
                self.shared.end_typing(&room, &self.connection.user, true);
            }
            for place in places {
                join::leave(&self.shared, &self.connection, &room, place.slot, true).await;
            }
        }
        self.shared.end_acquaintance(&self.connection);
        self.shared.leave_lobby(&self.connection);
        let watched: Vec<UserId> = self.watched.drain().collect();
        self.shared.unwatch(&self.connection, &watched);
        self.shared.end_session(&self.connection);
    }
}
