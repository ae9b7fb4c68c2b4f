//! A registration with a partition's owner: what it says follows from the rooms that are in the hub as it is made, and
//! its answer is for those very rooms and for the joins that waited for it.

use crate::hub::{Fetch, Hub, Room};
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::ENTRY_COMMANDS_MAX;
use carillon_proto::wire;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Conversations in one registration: ids of the largest size stay far below a bus message.
pub const REGISTRATIONS_MAX: usize = ENTRY_COMMANDS_MAX * 4;

/// A join that waits for its conversation to be registered. Whoever waits holds the room open.
pub struct Join {
    /// What is joined.
    pub conversation: ConversationId,
    /// The user, if the owner decides whether they may.
    pub check: Option<UserId>,
    /// Is told when events come, and as of which seq of the conversation the user may hear them; or why not.
    pub answer: oneshot::Sender<Result<u64, Failure>>,
    /// When it was asked.
    pub since: Instant,
}

/// A registration on its way.
pub struct Registration {
    partition: u32,
    joins: Vec<Join>,
    rooms: HashMap<ConversationId, Arc<Room>>,
    removed: Vec<ConversationId>,
}

/// What became of a registration.
pub struct Registered {
    /// What rooms miss.
    pub fetches: Vec<Fetch>,
    /// Rooms whose members are to be written to.
    pub touched: Vec<Arc<Room>>,
}

/// What a join is told whose conversation cannot be registered now.
pub fn unavailable() -> Failure {
    Failure::new(ErrorCode::Unavailable, "the conversation cannot be reached now: try again")
        .retry_after(1_000)
}

impl Registration {
    /// Looks at the rooms of a partition that are joined or have changed: those that are there are registered, of the
    /// others the owner is told that nobody listens. `None` when there is nothing to tell; the joins come back when
    /// everything is to be told anew first.
    ///
    /// # Errors
    /// The joins.
    pub fn of(hub: &Hub, partition: u32, joins: Vec<Join>) -> Result<Option<Registration>, Vec<Join>> {
        let asked = joins.iter().map(|join| join.conversation.clone());
        let Some(changes) = hub.take_changes(partition, asked, REGISTRATIONS_MAX) else { return Err(joins) };
        if changes.add.is_empty() && changes.remove.is_empty() {
            return Ok(None);
        }
        let (rooms, removed) = (changes.add.into_iter().collect(), changes.remove);
        Ok(Some(Registration { partition, joins, rooms, removed }))
    }

    /// What the owner is told.
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

    /// The oldest join that waits for it.
    pub fn since(&self) -> Option<Instant> {
        self.joins.iter().map(|join| join.since).min()
    }

    /// The owner answered, or did not, and is told again later. Heads go to the rooms that were registered, not to later
    /// ones of the same conversations: what those missed in between is above the heads of their own registrations.
    pub fn answered(self, hub: &Hub, registered: Option<wire::Registered>) -> Registered {
        let Registration { partition, joins, rooms, removed } = self;
        let mut done = Registered { fetches: Vec::new(), touched: Vec::new() };
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

impl Registered {
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

/// Rooms that are registered in the place of everything before, page by page.
pub struct Anew {
    pages: Vec<HashMap<ConversationId, Arc<Room>>>,
    begun: bool,
}

impl Anew {
    /// All rooms of a partition that are in the hub now. At least one page, so that the owner hears of none, too.
    pub fn of(hub: &Hub, partition: u32) -> Anew {
        let rooms = hub.take_all(partition);
        let mut pages: Vec<HashMap<_, _>> =
            rooms.chunks(REGISTRATIONS_MAX).map(|page| page.iter().cloned().collect()).collect();
        if pages.is_empty() {
            pages.push(HashMap::new());
        }
        Anew { pages, begun: false }
    }

    /// What the owner is told next, with the heads that are known. A room that has gone meanwhile is left out.
    pub fn request(&mut self) -> Option<wire::Register> {
        let page = self.pages.last()?;
        let interest = |(conversation, room): (&ConversationId, &Arc<Room>)| {
            let state = room.lock();
            let known_head = state.topic.head().unwrap_or(0);
            let conversation = conversation.to_string();
            (!state.closed).then_some(wire::Interest { conversation, known_head, check: Vec::new() })
        };
        let add = page.iter().filter_map(interest).collect();
        let replace = !std::mem::replace(&mut self.begun, true);
        Some(wire::Register { replace, add, remove: Vec::new() })
    }

    /// The owner answered what was told last.
    pub fn answered(&mut self, hub: &Hub, registered: &wire::Registered) -> Registered {
        let mut done = Registered { fetches: Vec::new(), touched: Vec::new() };
        if let Some(page) = self.pages.pop() {
            done.announce(hub, &page, registered);
        }
        done
    }
}
