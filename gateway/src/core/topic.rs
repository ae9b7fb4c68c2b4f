//! A conversation as one gateway serves it: its head, a ring of recent events, and its members with their cursors.
//!
//! Delivery moves cursors. A member is *live* while its cursor is at the head and its queue accepts events. Otherwise
//! it is *behind*: it reads on from its cursor, from the ring or the store, until it is at the head again. If a seq is
//! missing, the topic fetches the missing events before it serves later ones.
//!
//! Some events end subscriptions, such as a removal. They take effect at their seq, whenever they arrive: a member is
//! served everything below, and the event itself, and nothing above. A member whose right to join is newer than the
//! event is not affected.

use carillon_proto::limits::{RING_BYTES_MAX, RING_EVENTS_MAX};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Events kept that arrived before the head is known or ahead of a gap. Above this bound the highest is dropped, which
/// loses nothing because it can be fetched from the store.
pub const EARLY_EVENTS_MAX: usize = 256;

/// A durable event as members receive it.
pub trait Event {
    fn seq(&self) -> u64;
    /// The bytes that it counts in the ring.
    fn weight(&self) -> usize;
    /// Whether it may end subscriptions.
    fn may_end(&self) -> bool {
        false
    }
}

/// A subscription to a conversation.
pub trait Subscriber<E> {
    /// Queues the event in the subscription's vocabulary, which may have no form for it. `false` when there is no room.
    fn try_queue(&self, event: &E) -> bool;
    /// Whether the event ends this subscription, unless the right to it is newer than the event.
    fn ends_with(&self, _event: &E) -> bool {
        false
    }
}

struct MemberState<S> {
    subscriber: S,
    cursor: u64,
    live: bool,
    /// The seq as of which the member's right to be here was decided. Events up to it do not end the subscription.
    since: u64,
    /// The last seq that the member may receive.
    until: u64,
}

impl<S> MemberState<S> {
    fn note_queued<E: Event>(&mut self, event: &E)
    where
        S: Subscriber<E>,
    {
        self.note_end(event);
        self.cursor = self.cursor.max(event.seq());
    }

    fn note_end<E: Event>(&mut self, event: &E)
    where
        S: Subscriber<E>,
    {
        if event.may_end() && event.seq() > self.since && self.subscriber.ends_with(event) {
            self.until = self.until.min(event.seq());
        }
    }

    /// Whether the member has been served everything that it may receive.
    fn has_ended(&self) -> bool {
        self.cursor >= self.until
    }
}

/// Events kept that ended subscriptions while joins are under way. They decide the rights of members that have not
/// joined yet. If more have come, a member that joins must request its right again.
const ENDS_KEPT_MAX: usize = 256;

/// Whether a member's right to join still holds after the events that came during the join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RightCheck {
    Holds,
    /// An event has ended the right.
    Ended,
    /// Too many events have come since to decide.
    Unknown,
}

/// A member's index in its topic.
pub type Slot = u32;

/// What the caller must do after an input.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wants {
    /// Read the events from this seq (exclusive) to that one (inclusive) and pass them to [`Topic::handle_fetched`].
    pub fetch: Option<(u64, u64)>,
    /// These members fell behind just now and must read on from their cursors.
    pub behind: Vec<Slot>,
    /// These members have been served the last event that they may receive, and must leave.
    pub ended: Vec<Slot>,
}

/// The next read of a member that is behind.
#[derive(Debug)]
pub enum CatchUp<E> {
    /// The member is at the head, and live again.
    Live,
    /// The member has been served the last event that it may receive, and must leave.
    Ended,
    /// These events from the ring have been queued, and the cursor is past them.
    Events(Vec<Arc<E>>),
    /// Read events from the store and call [`Topic::handle_page`] with them.
    Read {
        /// Above this seq.
        after_seq: u64,
        /// Up to the topic's head, which is committed.
        up_to_seq: u64,
    },
}

/// A conversation's state in one gateway.
pub struct Topic<S, E> {
    head: Option<u64>,
    ring: VecDeque<Arc<E>>,
    ring_bytes: usize,
    early: BTreeMap<u64, Arc<E>>,
    fetching: bool,
    /// The highest seq that is known to be committed.
    announced: u64,
    members: Vec<Option<MemberState<S>>>,
    free: Vec<Slot>,
    joining: u32,
    /// Events that ended subscriptions while joins are under way.
    ends: VecDeque<Arc<E>>,
    /// The highest seq of such an event that is not kept.
    ends_forgotten: u64,
}

impl<S, E> Default for Topic<S, E> {
    fn default() -> Self {
        Topic {
            head: None,
            ring: VecDeque::new(),
            ring_bytes: 0,
            early: BTreeMap::new(),
            fetching: false,
            announced: 0,
            members: Vec::new(),
            free: Vec::new(),
            joining: 0,
            ends: VecDeque::new(),
            ends_forgotten: 0,
        }
    }
}

impl<S: Subscriber<E>, E: Event> Topic<S, E> {
    /// The seq up to which members have been served; `None` until the partition's owner has sent the head.
    pub fn head(&self) -> Option<u64> {
        self.head
    }

    pub fn member_count(&self) -> usize {
        self.members.len() - self.free.len()
    }

    /// The members, in no particular order.
    pub fn members(&self) -> impl Iterator<Item = (Slot, &S)> {
        (0..).zip(&self.members).filter_map(|(slot, member)| Some((slot, &member.as_ref()?.subscriber)))
    }

    /// Applies a committed head that the partition's owner sent.
    pub fn handle_head(&mut self, head: u64) -> Wants {
        self.announced = self.announced.max(head);
        if self.head.is_none() {
            self.head = Some(head);
            self.early = self.early.split_off(&(head + 1));
        }
        self.advance()
    }

    /// Applies an event from the bus.
    pub fn handle_event(&mut self, event: Arc<E>) -> Wants {
        match self.head {
            Some(head) if event.seq() <= head => return Wants::default(),
            Some(head) if event.seq() == head + 1 && self.early.is_empty() && !self.fetching => {
                let mut wants = Wants::default();
                self.accept(event, &mut wants);
                return wants;
            }
            _ => {}
        }
        self.early.insert(event.seq(), event);
        if self.early.len() > EARLY_EVENTS_MAX
            && let Some((seq, _)) = self.early.pop_last()
        {
            self.announced = self.announced.max(seq);
        }
        self.advance()
    }

    /// Applies fetched events, ascending; none if the fetch failed. Requests another fetch if there is still a gap.
    ///
    /// Events above every seq that the owner has reported are not served, even if a worker has read them. A row that is
    /// not committed may still be replaced by another, and the topic would never receive that one.
    pub fn handle_fetched(&mut self, events: Vec<Arc<E>>) -> Wants {
        self.fetching = false;
        let mut wants = Wants::default();
        let reported = self.early.last_key_value().map_or(0, |(seq, _)| *seq).max(self.announced);
        for event in events.into_iter().take_while(|event| event.seq() <= reported) {
            if self.head.is_some_and(|head| event.seq() == head + 1) {
                self.accept(event, &mut wants);
            }
        }
        let more = self.advance();
        wants.fetch = more.fetch;
        wants.behind.extend(more.behind);
        wants.ended.extend(more.ended);
        wants
    }

    /// Serves events that have become contiguous, and requests missing ones.
    fn advance(&mut self) -> Wants {
        let mut wants = Wants::default();
        let Some(mut head) = self.head else { return wants };
        if self.fetching {
            return wants;
        }
        while let Some(entry) = self.early.first_entry() {
            match *entry.key() {
                seq if seq <= head => drop(entry.remove()),
                seq if seq == head + 1 => {
                    let event = entry.remove();
                    self.accept(event, &mut wants);
                    head = seq;
                }
                _ => break,
            }
        }
        let known = self.early.first_key_value().map_or(self.announced, |(seq, _)| seq - 1);
        if known > head {
            self.fetching = true;
            wants.fetch = Some((head, known));
        }
        wants
    }

    fn accept(&mut self, event: Arc<E>, wants: &mut Wants) {
        let (seq, may_end) = (event.seq(), event.may_end());
        for (slot, member) in (0..).zip(&mut self.members) {
            let Some(member) = member else { continue };
            if may_end {
                member.note_end(&*event);
            }
            if !member.live {
                continue;
            }
            if seq > member.cursor && !member.subscriber.try_queue(&event) {
                member.live = false;
                wants.behind.push(slot);
                continue;
            }
            member.cursor = member.cursor.max(seq);
            if member.has_ended() {
                // The member stays in the list until the caller removes it, so do not serve it later events of the same
                // step.
                member.live = false;
                wants.ended.push(slot);
            }
        }
        if may_end {
            self.keep_end(&event);
        }
        self.head = Some(seq);
        self.ring_bytes += event.weight();
        self.ring.push_back(event);
        while self.ring.len() > RING_EVENTS_MAX || self.ring_bytes > RING_BYTES_MAX {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes -= oldest.weight();
        }
    }

    fn keep_end(&mut self, event: &Arc<E>) {
        if self.joining == 0 {
            return;
        }
        self.ends.push_back(event.clone());
        if self.ends.len() > ENDS_KEPT_MAX
            && let Some(oldest) = self.ends.pop_front()
        {
            self.ends_forgotten = oldest.seq();
        }
    }

    /// Begins a join. Until it ends, events that end subscriptions are kept for [`Topic::right`].
    pub fn start_join(&mut self) {
        self.joining += 1;
    }

    /// Ends a join, whether it succeeded or not.
    pub fn end_join(&mut self) {
        self.joining -= 1;
        if self.joining == 0 {
            (self.ends, self.ends_forgotten) = (VecDeque::new(), 0);
        }
    }

    /// Whether a right to join, decided as of `since`, still holds. The caller must have called [`Topic::start_join`]
    /// before the right was decided.
    pub fn right(&self, subscriber: &S, since: u64) -> RightCheck {
        let ends = |event: &&Arc<E>| event.seq() > since && subscriber.ends_with(event);
        if self.ends.iter().any(|event| ends(&event)) {
            RightCheck::Ended
        } else if since < self.ends_forgotten {
            RightCheck::Unknown
        } else {
            RightCheck::Holds
        }
    }

    /// Adds a member with its cursor at `cursor` and a right decided as of `since`. Returns its slot, and `true` when
    /// it is behind and must read on.
    pub fn join(&mut self, subscriber: S, cursor: u64, since: u64) -> (Slot, bool) {
        let live = self.head.is_some_and(|head| cursor >= head);
        let member = Some(MemberState { subscriber, cursor, live, since, until: u64::MAX });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.members[slot as usize] = member;
                slot
            }
            None => {
                self.members.push(member);
                self.members.len() as Slot - 1
            }
        };
        (slot, !live)
    }

    /// Repeats a join, with a right decided as of `since`. With `cursor`, moves the member's cursor there, backward or
    /// forward. Returns `true` when the member must read on.
    pub fn rejoin(&mut self, slot: Slot, cursor: Option<u64>, since: u64) -> bool {
        let head = self.head;
        let Some(member) = self.member_mut(slot) else { return false };
        member.since = member.since.max(since);
        if member.until <= member.since {
            member.until = u64::MAX;
        }
        if let Some(cursor) = cursor {
            member.cursor = cursor;
            member.live = head.is_some_and(|head| cursor >= head);
        }
        !member.live
    }

    pub fn leave(&mut self, slot: Slot) -> Option<S> {
        let member = self.members.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        if self.free.len() == self.members.len() {
            (self.free, self.members) = (Vec::new(), Vec::new());
        }
        Some(member.subscriber)
    }

    /// The subscription in a slot. A slot is reused, so it may belong to another member than before.
    pub fn subscriber(&self, slot: Slot) -> Option<&S> {
        self.members.get(slot as usize)?.as_ref().map(|member| &member.subscriber)
    }

    /// The last seq that a member has been served.
    pub fn cursor(&self, slot: Slot) -> Option<u64> {
        self.members.get(slot as usize)?.as_ref().map(|member| member.cursor)
    }

    fn member_mut(&mut self, slot: Slot) -> Option<&mut MemberState<S>> {
        self.members.get_mut(slot as usize)?.as_mut()
    }

    /// The next read of a member. Events from the ring are queued here as far as there is room: an empty list means
    /// that the queue is full.
    pub fn poll_catch_up(&mut self, slot: Slot) -> CatchUp<E> {
        let oldest = self.ring.front().map(|event| event.seq());
        let Topic { head, ring, members, .. } = self;
        let Some(member) = members.get_mut(slot as usize).and_then(Option::as_mut) else {
            return CatchUp::Live;
        };
        let Some(head) = *head else { return CatchUp::Live };
        if member.has_ended() {
            return CatchUp::Ended;
        }
        if member.cursor >= head {
            member.live = true;
            return CatchUp::Live;
        }
        if oldest.is_none_or(|oldest| oldest > member.cursor + 1) {
            return CatchUp::Read { after_seq: member.cursor, up_to_seq: head };
        }
        let mut served = Vec::new();
        let after = member.cursor;
        for event in ring.iter().filter(|event| event.seq() > after) {
            if !member.subscriber.try_queue(event) {
                break;
            }
            member.note_queued(&**event);
            served.push(event.clone());
            if member.has_ended() {
                break;
            }
        }
        member.live = member.cursor >= head && !member.has_ended();
        CatchUp::Events(served)
    }

    /// Queues events read from the store for a member that is behind, up to the last one that it may receive.
    pub fn handle_page(&mut self, slot: Slot, events: &[Arc<E>], queue: impl Fn(&S, &E)) {
        let Some(member) = self.member_mut(slot) else { return };
        for event in events {
            if member.has_ended() {
                return;
            }
            queue(&member.subscriber, event);
            member.note_queued(&**event);
        }
    }

    /// Whether there are neither members nor joins under way, so that events need not be fetched.
    pub fn is_idle(&self) -> bool {
        self.member_count() == 0 && self.joining == 0
    }
}

#[cfg(test)]
#[path = "topic_tests.rs"]
mod tests;
