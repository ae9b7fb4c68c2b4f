//! A conversation's state: the fold of its rows. Applying commands is in [`super::apply`].
//!
//! Two workers that folded the same rows have the same state, with or without a head to begin from.

use super::author::Author;
use super::dedup::{First, Hit, Sender};
use super::rows::{Seal, SentRow};
use crate::limits::TIME_DRAG_MAX_MS;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::position::{Incarnation, Position};
use carillon_proto::wire::{self, event::Kind};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What must be read before a command can be applied.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Need {
    /// The author's accepted client ids, from the store.
    Sender(Author),
    /// The event that a client id became, according to the store.
    First {
        /// The author.
        sender: Author,
        /// The client id.
        client_id: String,
        /// The event's seq.
        seq: u64,
    },
}

/// A conversation.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(super) id: ConversationId,
    pub(super) seq: u64,
    pub(super) position: Option<Position>,
    /// Commands up to this position were applied by a former owner; their events are in the rows.
    pub(super) worked_to: Option<Position>,
    /// The first incarnation of the log generation in which the sequence of `worked_to` counts.
    generation: u32,
    pub(super) timestamp_us: i64,
    pub(super) time_ms: u64,
    pub(super) created: bool,
    pub(super) owner: String,
    title: String,
    metadata: String,
    archived: bool,
    created_ms: u64,
    last_message: Option<Arc<wire::Event>>,
    messages: u64,
    pub(super) participants: BTreeSet<UserId>,
    senders: HashMap<Author, Sender>,
    remembered: usize,
    /// The seal: which rows of earlier incarnations this state was folded from, once that is decided.
    seal: Option<Seal>,
    /// The store had no row of this conversation when it was loaded, so no client id was accepted in it before.
    new: bool,
}

impl Conversation {
    /// A conversation without rows; it may have participants.
    pub(crate) fn new(id: ConversationId, participants: Vec<UserId>) -> Conversation {
        Conversation {
            id,
            seq: 0,
            position: None,
            worked_to: None,
            generation: u32::MAX,
            timestamp_us: 0,
            time_ms: 0,
            created: false,
            owner: String::new(),
            title: String::new(),
            metadata: String::new(),
            archived: false,
            created_ms: 0,
            last_message: None,
            messages: 0,
            participants: participants.into_iter().collect(),
            senders: HashMap::new(),
            remembered: 0,
            seal: None,
            new: false,
        }
    }

    /// A conversation as its head describes it.
    pub(crate) fn of_head(id: ConversationId, head: wire::Head, participants: Vec<UserId>) -> Conversation {
        Conversation {
            seq: head.seq,
            position: head.position.map(Position::from),
            time_ms: head.time_ms,
            created: head.created,
            owner: head.owner,
            title: head.title,
            metadata: head.metadata,
            archived: head.archived,
            created_ms: head.created_ms,
            last_message: head.last_message.map(Arc::new),
            messages: head.messages,
            seal: head.seal.map(Seal::from),
            ..Conversation::new(id, participants)
        }
    }

    /// Marks that all rows are folded. If there was none, no sender has earlier client ids.
    pub(crate) fn loaded(mut self) -> Conversation {
        self.new = !self.exists();
        self
    }

    /// The head, as this version of the state machine stores it.
    pub(crate) fn head(&self, version: u32) -> wire::Head {
        wire::Head {
            seq: self.seq,
            position: self.position.map(Into::into),
            time_ms: self.time_ms,
            version,
            created: self.created,
            owner: self.owner.clone(),
            title: self.title.clone(),
            metadata: self.metadata.clone(),
            archived: self.archived,
            created_ms: self.created_ms,
            last_message: self.last_message.as_deref().cloned(),
            messages: self.messages,
            seal: self.seal.map(Into::into),
        }
    }

    /// Which rows of earlier incarnations count, if that is decided.
    pub(crate) fn seal(&self) -> Option<Seal> {
        self.seal
    }

    /// Sets the seal. `timestamp_us` lies between those of earlier incarnations and those of this one, so that a head
    /// written with it replaces every head that earlier incarnations wrote or will write.
    pub(crate) fn sealed(&mut self, seal: Seal, timestamp_us: i64) {
        self.seal = Some(seal);
        self.timestamp_us = self.timestamp_us.max(timestamp_us);
    }

    /// Notes that the log still holds the entry of the newest row, at this position of an incarnation in the same log
    /// generation. That command and all before it are not applied again.
    pub(crate) fn worked_to(&mut self, incarnation: Incarnation, Position { sequence, index, .. }: Position) {
        self.worked_to = Some(incarnation.position(sequence, index));
        self.generation = incarnation.generation.incarnation;
    }

    /// Translates a position of an earlier incarnation to the incarnation in which the owner reads the former owner's
    /// commands again.
    pub(super) fn as_met(&self, written: Position) -> Position {
        match self.worked_to {
            Some(Position { incarnation, .. }) if written.incarnation >= self.generation => {
                Position { incarnation, ..written }
            }
            _ => written,
        }
    }

    /// Whether the conversation was created. Otherwise it began with a message.
    pub(crate) fn is_created(&self) -> bool {
        self.created
    }

    pub(crate) fn id(&self) -> &ConversationId {
        &self.id
    }

    /// The seq of the newest event.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// The position of the newest event's command.
    pub(crate) fn position(&self) -> Option<Position> {
        self.position
    }

    /// The write timestamp of the newest event's row, or of the seal. 0 if the newest event came with the head.
    pub(crate) fn timestamp_us(&self) -> i64 {
        self.timestamp_us
    }

    /// The stored participants.
    pub(crate) fn participants(&self) -> &BTreeSet<UserId> {
        &self.participants
    }

    /// Whether the conversation has anything: a creation, or a message of an open conversation.
    pub(crate) fn exists(&self) -> bool {
        self.position.is_some()
    }

    /// Whether a row has the next seq.
    pub(crate) fn is_at_end(&self, event: &wire::Event) -> bool {
        event.seq == self.seq + 1 || (event.seq == 0 && !self.exists())
    }

    /// Whether a row is the next of this conversation. A row with the next seq whose position is not above the newest
    /// one was written by a worker that had folded other rows. That must never happen, and the caller reports it.
    pub(crate) fn is_followed_by(&self, event: &wire::Event) -> bool {
        self.is_at_end(event) && event.position.map(Position::from) > self.position
    }

    /// Folds the next row into the state.
    pub(crate) fn fold(&mut self, event: &Arc<wire::Event>, timestamp_us: i64) {
        if !self.exists() {
            self.created_ms = event.time_ms;
        }
        self.seq = event.seq;
        self.position = event.position.map(Position::from);
        self.timestamp_us = timestamp_us;
        self.time_ms = event.time_ms;
        match &event.kind {
            Some(Kind::Message(_)) => {
                self.messages += 1;
                self.last_message = Some(Arc::clone(event));
            }
            Some(Kind::Created(created)) => self.fold_created(&event.actor, created),
            Some(Kind::Updated(updated)) => self.fold_updated(updated),
            Some(Kind::ParticipantsAdded(added)) => self.add(&added.users),
            Some(Kind::ParticipantRemoved(removed)) => {
                self.participants.remove(removed.user.as_str());
            }
            None => {}
        }
        self.remember(event);
    }

    fn fold_created(&mut self, owner: &str, created: &wire::CreateConversation) {
        self.created = true;
        self.owner = owner.to_owned();
        self.title.clone_from(&created.title);
        self.metadata.clone_from(&created.metadata);
        self.add(&created.participants);
    }

    fn fold_updated(&mut self, updated: &wire::UpdateConversation) {
        if let Some(title) = &updated.title {
            self.title.clone_from(title);
        }
        if let Some(metadata) = &updated.metadata {
            self.metadata.clone_from(metadata);
        }
        if let Some(archived) = updated.archived {
            self.archived = archived;
        }
    }

    fn add(&mut self, users: &[String]) {
        self.participants.extend(users.iter().filter_map(|user| UserId::parse(user).ok()));
    }

    fn remember(&mut self, event: &wire::Event) {
        if event.client_id.is_empty() {
            return;
        }
        if !self.senders.contains_key(event.actor.as_str()) {
            let Some(sender) = Author::parse(&event.actor) else { return };
            self.senders.insert(sender, if self.new { Sender::complete() } else { Sender::default() });
        }
        let (Some(known), Some(first)) = (self.senders.get_mut(event.actor.as_str()), first_of(event)) else {
            return;
        };
        let before = known.len();
        known.remember(&event.client_id, first);
        self.remembered = self.remembered + known.len() - before;
    }

    /// What must be read before a command of this sender with this client id can be applied.
    pub(crate) fn need(&self, actor: &str, client_id: &str) -> Option<Need> {
        if client_id.is_empty() {
            return None;
        }
        let sender = || Author::parse(actor);
        match self.senders.get(actor) {
            Some(known) if known.is_complete() => match known.hit(client_id) {
                Hit::Claimed { seq } => {
                    Some(Need::First { sender: sender()?, client_id: client_id.to_owned(), seq })
                }
                Hit::None | Hit::Known(_) => None,
            },
            None if self.new => None,
            _ => sender().map(Need::Sender),
        }
    }

    /// Adds the stored rows of a sender.
    pub(crate) fn learn(&mut self, sender: Author, rows: Vec<SentRow>) {
        let seq = self.seq;
        let known = self.senders.entry(sender).or_default();
        let before = known.len();
        known.learn(rows, seq);
        self.remembered = self.remembered + known.len() - before;
    }

    /// Confirms or refutes a claim about a client id with the event that the claim points to.
    pub(crate) fn confirm(&mut self, sender: &Author, client_id: &str, event: Option<&wire::Event>) {
        let Some(known) = self.senders.get_mut(sender) else { return };
        let theirs = event.filter(|event| event.actor == sender.as_str() && event.client_id == client_id);
        known.confirm(client_id, theirs.and_then(first_of));
    }

    /// What is known about a client id.
    pub(super) fn hit(&self, actor: &str, client_id: &str) -> Hit {
        self.senders.get(actor).map_or(Hit::None, |known| known.hit(client_id))
    }

    /// The outcome of a client id of this sender, if it was accepted as an event at or below `committed_seq`.
    /// Everything that [`Conversation::need`] names must be known.
    pub(crate) fn known_outcome(
        &self,
        actor: &str,
        client_id: &str,
        committed_seq: u64,
    ) -> Option<wire::Accepted> {
        match self.hit(actor, client_id) {
            Hit::Known(first) if first.seq <= committed_seq => Some(self.acceptance(first)),
            Hit::Known(_) | Hit::Claimed { .. } | Hit::None => None,
        }
    }

    /// The time of an event made now: the time of its log entry, or that of the newest event if that is at most
    /// `TIME_DRAG_MAX_MS` later. An event with a time further ahead, made while a clock was wrong, does not drag later
    /// events along.
    pub(super) fn event_time_ms(&self, entry_time_ms: u64) -> u64 {
        match self.time_ms.saturating_sub(entry_time_ms) {
            0..=TIME_DRAG_MAX_MS => entry_time_ms.max(self.time_ms),
            _ => entry_time_ms,
        }
    }

    /// About how many bytes the conversation takes in memory.
    pub(crate) fn weight_bytes(&self) -> usize {
        let last_message =
            self.last_message.as_ref().map_or(0, |event| prost::Message::encoded_len(&**event));
        let texts = self.title.len() + self.metadata.len() + last_message;
        1_024 + texts + 96 * self.participants.len() + 192 * self.senders.len() + 96 * self.remembered
    }
}

fn first_of(event: &wire::Event) -> Option<First> {
    let position = Position::from(event.position?);
    Some(First { seq: event.seq, time_ms: event.time_ms, position })
}
