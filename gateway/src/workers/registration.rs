//! A registration with a partition's owner. Its content is taken from the rooms in the hub when it is built. Its answer
//! applies to those room objects and to the joins that waited for it.

use crate::delivery::hub::{Fetch, Hub, Room};
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::ENTRY_COMMANDS_MAX;
use carillon_proto::wire;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Conversations per registration. With ids of maximum size it still is far smaller than the largest bus message.
pub const REGISTRATIONS_MAX: usize = ENTRY_COMMANDS_MAX * 4;

/// A join that waits until its conversation is registered. The waiting task holds the room open.
pub struct Join {
    pub conversation: ConversationId,
    /// The user, if the owner must check the user's right.
    pub check: Option<UserId>,
    /// Receives the seq from which the user may receive events, or the failure.
    pub answer: oneshot::Sender<Result<u64, Failure>>,
    pub since: Instant,
}

/// A registration that is under way.
pub struct Registration {
    partition: u32,
    joins: Vec<Join>,
    rooms: HashMap<ConversationId, Arc<Room>>,
    removed: Vec<ConversationId>,
}

/// What the caller must do after a registration was answered.
pub struct RegistrationEffects {
    /// Ranges of events that rooms are missing.
    pub fetches: Vec<Fetch>,
    /// Rooms whose members have queued frames to be written.
    pub touched: Vec<Arc<Room>>,
}

/// The failure of a join whose conversation cannot be registered now.
pub fn unavailable() -> Failure {
    Failure::new(ErrorCode::Unavailable, "the conversation cannot be reached now: try again")
        .retry_after(1_000)
}

impl Registration {
    /// Builds a registration of the conversations that are joined or have changed. Those that have a room are added,
    /// the others are removed. `None` if there is nothing to register.
    ///
    /// # Errors
    /// Returns the joins if too much has changed, so that everything must be registered again first.
    pub fn of(hub: &Hub, partition: u32, joins: Vec<Join>) -> Result<Option<Registration>, Vec<Join>> {
        let requested = joins.iter().map(|join| join.conversation.clone());
        let Some(changes) = hub.next_changes(partition, requested, REGISTRATIONS_MAX) else {
            return Err(joins);
        };
        if changes.add.is_empty() && changes.remove.is_empty() {
            return Ok(None);
        }
        let (rooms, removed) = (changes.add.into_iter().collect(), changes.remove);
        Ok(Some(Registration { partition, joins, rooms, removed }))
    }

    pub fn request(&self) -> wire::Register {
        let mut checks: HashMap<&ConversationId, Vec<String>> = HashMap::new();
        for Join { conversation, check, .. } in &self.joins {
            checks.entry(conversation).or_default().extend(check.as_ref().map(ToString::to_string));
        }
        let interest = |conversation: &ConversationId| wire::Interest {
            conversation: conversation.to_string(),
            known_head: 0,
            check: checks.remove(conversation).unwrap_or_default(),
        };
        let add = self.rooms.keys().map(interest).collect();
        wire::Register { replace: false, add, remove: self.removed.iter().map(ToString::to_string).collect() }
    }

    /// When the oldest waiting join was requested.
    pub fn since(&self) -> Option<Instant> {
        self.joins.iter().map(|join| join.since).min()
    }

    /// Applies the owner's answer and answers the waiting joins. With `None`, because the owner did not answer, the
    /// changes are put back to be sent again. A head goes only to the room object that was registered. A later room of
    /// the same conversation must not take it, because events above it may have been sent while the conversation was
    /// not registered.
    pub fn answered(self, hub: &Hub, registered: Option<wire::Registered>) -> RegistrationEffects {
        let Registration { partition, joins, rooms, removed } = self;
        let mut done = RegistrationEffects { fetches: Vec::new(), touched: Vec::new() };
        let Some(registered) = registered else {
            hub.put_back(partition, rooms.into_keys().chain(removed));
            joins.into_iter().for_each(|join| drop(join.answer.send(Err(unavailable()))));
            return done;
        };
        done.announce(hub, &rooms, &registered);
        let listened: HashMap<String, wire::Listened> = registered
            .conversations
            .into_iter()
            .map(|listened| (listened.conversation.clone(), listened))
            .collect();
        for Join { conversation, check, answer, .. } in joins {
            let is_refused = |listened: &wire::Listened| {
                check.is_some_and(|user| listened.refused.iter().any(|refused| refused == user.as_str()))
            };
            let verdict = match listened.get(conversation.as_str()) {
                None => Err(unavailable()),
                Some(listened) if is_refused(listened) => Err(Failure::forbidden()),
                Some(listened) => Ok(listened.head),
            };
            let _ = answer.send(verdict);
        }
        done
    }
}

impl RegistrationEffects {
    fn announce(
        &mut self,
        hub: &Hub,
        rooms: &HashMap<ConversationId, Arc<Room>>,
        registered: &wire::Registered,
    ) {
        for listened in &registered.conversations {
            let Some(room) = rooms.get(listened.conversation.as_str()) else { continue };
            let (fetch, served) = hub.announce(room, listened.head);
            self.fetches.extend(fetch);
            self.touched.extend(served.then(|| room.clone()));
        }
    }
}

/// Registers all rooms page by page. The first page replaces everything that was registered before.
pub struct FullRegistration {
    pages: Vec<HashMap<ConversationId, Arc<Room>>>,
    replaced: bool,
}

impl FullRegistration {
    /// All rooms of a partition that are in the hub now. There is at least one page, so that the owner also gets an
    /// empty registration.
    pub fn of(hub: &Hub, partition: u32) -> FullRegistration {
        let rooms = hub.next_replacement(partition);
        let mut pages: Vec<HashMap<_, _>> =
            rooms.chunks(REGISTRATIONS_MAX).map(|page| page.iter().cloned().collect()).collect();
        if pages.is_empty() {
            pages.push(HashMap::new());
        }
        FullRegistration { pages, replaced: false }
    }

    /// The next page, with the heads that are known here. Rooms that were closed meanwhile are left out.
    pub fn request(&mut self) -> Option<wire::Register> {
        let page = self.pages.last()?;
        let interest = |(conversation, room): (&ConversationId, &Arc<Room>)| {
            let state = room.lock();
            let known_head = state.topic.head().unwrap_or(0);
            let conversation = conversation.to_string();
            (!state.closed).then_some(wire::Interest { conversation, known_head, check: Vec::new() })
        };
        let add = page.iter().filter_map(interest).collect();
        let replace = !std::mem::replace(&mut self.replaced, true);
        Some(wire::Register { replace, add, remove: Vec::new() })
    }

    /// Applies the owner's answer to the last page.
    pub fn answered(&mut self, hub: &Hub, registered: &wire::Registered) -> RegistrationEffects {
        let mut done = RegistrationEffects { fetches: Vec::new(), touched: Vec::new() };
        if let Some(page) = self.pages.pop() {
            done.announce(hub, &page, registered);
        }
        done
    }
}
