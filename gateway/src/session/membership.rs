//! A session's subscriptions: how they begin, end, and are given back.

use super::{JoinedConversation, MemberSlot, Session, WorkResult};
use crate::connection::Signal;
use crate::core::outbox::Urgency;
use crate::delivery::dialect::Dialect;
use crate::delivery::hub::Room;
use crate::session::join::{self, Entered};
use carillon_proto::code::Close;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::wire;
use smallvec::SmallVec;
use std::sync::Arc;

impl Session {
    /// The session's subscriptions, each with the last seq that was queued for it.
    pub fn subscriptions(&self) -> Vec<(ConversationId, Dialect, u64)> {
        let of = |(conversation, joined): (&ConversationId, &JoinedConversation)| {
            let state = joined.room.lock();
            let cursor = |member: &MemberSlot| {
                let ours = state.is_slot_of(member.slot, &self.connection, member.dialect);
                state.topic.cursor(member.slot).filter(|_| ours)
            };
            let members = joined.members.iter();
            let known =
                members.filter_map(|member| Some((conversation.clone(), member.dialect, cursor(member)?)));
            known.collect::<Vec<_>>()
        };
        self.joined.iter().flat_map(of).collect()
    }

    /// The user's profile, as the directory has it.
    pub fn profile(&self) -> wire::Profile {
        self.shared.directory.session(&self.connection).map(|session| session.profile).unwrap_or_default()
    }

    /// Applies the result of [`Work`].
    pub fn handle_result(&mut self, result: WorkResult) {
        match result {
            WorkResult::Replied => {}
            WorkResult::Entered(Entered { room, dialect, slot }) => {
                if !room.lock().is_slot_of(slot, &self.connection, dialect) {
                    // The subscription has ended meanwhile. A signal reports that.
                    return;
                }
                // It may be behind from the start, or have fallen behind before this session knew its slot.
                self.fell_behind(room.clone());
                let conversation = room.conversation.clone();
                let new =
                    || JoinedConversation { room: room.clone(), members: SmallVec::new(), typing: false };
                let joined = self.joined.entry(conversation.clone()).or_insert_with(new);
                joined.room = room;
                match joined.members.iter_mut().find(|member| member.dialect == dialect) {
                    Some(member) => member.slot = slot,
                    None => joined.members.push(MemberSlot { dialect, slot }),
                }
                // Access was decided when the join began. The token may have been renewed since, so it is checked
                // again.
                if self.authority(&conversation).is_err() {
                    self.end_subscription(&conversation);
                }
            }
            WorkResult::Page(cursor, page) => self.queue_page(&cursor, page),
            WorkResult::Watched(users) => self.watched.extend(users),
        }
    }

    /// Handles signals from other tasks. Returns the reason to close the connection, if one of them requests that.
    pub fn handle_signals(&mut self, signals: Vec<Signal>) -> Option<Close> {
        let mut close = None;
        for signal in signals {
            match signal {
                Signal::Behind(room) => self.fell_behind(room),
                Signal::Close(reason) => close = Some(reason),
                Signal::Ended(room, dialect) => self.ended(&room, dialect),
            }
        }
        close
    }

    /// Ends subscriptions that a renewed token no longer allows. No later event is queued for them, and typing in those
    /// conversations ends.
    pub(super) fn end_forbidden(&mut self) {
        let joined = self.joined.keys();
        let ended: Vec<_> = joined.filter(|id| self.authority(id).is_err()).cloned().collect();
        ended.iter().for_each(|conversation| self.end_subscription(conversation));
    }

    /// Ends every subscription of this session to a conversation and sends the client a notice of each.
    fn end_subscription(&mut self, conversation: &ConversationId) {
        let Some(joined) = self.joined.get(conversation) else { return };
        let room = joined.room.clone();
        let members: Vec<_> = joined.members.iter().map(|member| (member.dialect, member.slot)).collect();
        for (dialect, slot) in members {
            let ours = {
                let mut state = room.lock();
                let ours = state.is_slot_of(slot, &self.connection, dialect);
                // If the topic removed the member first, there is a signal that ends it.
                ours && state.topic.leave(slot).is_some()
            };
            if ours {
                self.connection.offer(&dialect.ended(conversation), Urgency::Reply);
                self.ended(&room, dialect);
            }
        }
    }

    /// Gives back what was held for a subscription whose member is already gone from the room.
    fn ended(&mut self, room: &Arc<Room>, dialect: Dialect) {
        self.shared.recovery_unsubscribes(&self.connection, &room.conversation, dialect);
        if let Some(joined) = self.joined.get_mut(&room.conversation) {
            // If the client has joined again, the subscription has a new slot and stays.
            let state = joined.room.lock();
            let is_here = |member: &MemberSlot| state.is_slot_of(member.slot, &self.connection, dialect);
            joined.members.retain(|member| member.dialect != dialect || is_here(member));
            drop(state);
            if joined.members.is_empty() {
                if joined.typing {
                    self.shared.end_typing(room, &self.connection.user, true);
                }
                self.joined.remove(&room.conversation);
            }
        }
        join::step_out(&self.shared, &self.connection, room, false);
    }

    /// Ends the session and gives back everything that it holds.
    pub fn end(mut self) {
        self.shared.end_recovery(&self.connection, self.left_deliberately);
        for (_, JoinedConversation { room, members, typing }) in self.joined.drain() {
            if typing {
                self.shared.end_typing(&room, &self.connection.user, true);
            }
            for member in members {
                join::leave(&self.shared, &self.connection, &room, (member.dialect, member.slot), true);
            }
        }
        for signal in self.connection.signals() {
            if let Signal::Ended(room, _) = signal {
                join::step_out(&self.shared, &self.connection, &room, true);
            }
        }
        self.shared.unwatch_acquaintances(&self.connection);
        self.shared.leave_lobby(&self.connection);
        let watched: Vec<UserId> = self.watched.drain().collect();
        self.shared.unwatch(&self.connection, &watched);
        self.shared.end_session(&self.connection);
    }
}
