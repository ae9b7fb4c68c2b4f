//! Tracks how far a recoverable Socket.IO client has received its subscriptions, and appends that as an offset to each
//! event.
//!
//! Offsets count from a *base*: the list of subscriptions with a seq for each. A presence-worker stores the base, where
//! it outlasts the gateway, and the client keeps the last offset that it received. The two together give the next event
//! of every conversation. A subscription keeps its place in the list while the session lasts. The place of a
//! subscription that has ended is reused only after a new base
//! (`docs/decisions/0009-recovery-is-a-record-and-an-offset.md`).

use crate::connection::frame::{self, Body};
use bytes::{Bytes, BytesMut};
use carillon_proto::dialect::socketio::offset::{Offset, Partial};
use carillon_proto::dialect::socketio::vocabulary::Vocabulary;
use carillon_proto::id::ConversationId;
use carillon_proto::limits::RECOVERY_PLACES_MAX;
use carillon_proto::wire::{RecoveryBase, RecoverySubscription};

/// Characters of an offset above which a new base is requested to make it short again. Most events are longer than
/// this.
const OFFSET_LONG: usize = 96;

/// A subscription that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TrackedSubscription {
    conversation: ConversationId,
    vocabulary: Vocabulary,
    /// Its seq in the base.
    base: u64,
    /// The last seq of which all packets were queued.
    cursor: u64,
    /// Packets queued of the event after `cursor`.
    partial_packets: u32,
}

/// A subscription, and how far the client has received it, for a join on another gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    pub conversation: ConversationId,
    pub vocabulary: Vocabulary,
    /// The last seq of which the client has received all packets.
    pub cursor: u64,
}

/// How far one client has received its subscriptions.
#[derive(Debug, Default)]
pub struct Tracker {
    number: u32,
    changes: u32,
    /// Subscriptions by place; `None` for one that has ended. Its place is reused only after the next base.
    places: Vec<Option<TrackedSubscription>>,
    /// Places whose subscription had ended before the base was made.
    free: Vec<u32>,
    /// The previous base, from which the client's last offset may still count.
    previous: Option<RecoveryBase>,
    /// The next base while it is being stored.
    next: Option<RecoveryBase>,
    /// When the first offset that counts from the current base was queued.
    since_ms: Option<u64>,
    /// Characters of the last offset.
    length: usize,
    /// Places whose subscription has ended since the base was made.
    ended: usize,
}

impl Tracker {
    /// The tracker of a new session, whose first base has this number.
    pub fn new(number: u32) -> Tracker {
        Tracker { number, ..Tracker::default() }
    }

    /// Continues from an offset that a client returned; `None` if the record misses a change that the offset counts.
    /// Offsets then count from a new base, which must be stored before the first of them is sent.
    pub fn restored(bases: &[RecoveryBase], offset: &Offset) -> Option<Tracker> {
        let base = bases.iter().find(|base| base.number == offset.base)?;
        let newest = bases.last()?;
        if base.changes < offset.changes {
            return None;
        }
        let mut previous = base.clone();
        let mut tracker = Tracker { number: newest.number.checked_add(1)?, ..Tracker::default() };
        for (place, subscription) in (0..).zip(&newest.subscriptions) {
            let before = previous.subscriptions.get_mut(place as usize);
            if subscription.ended {
                before.into_iter().for_each(|before| before.ended = true);
                tracker.free.push(place);
                tracker.places.push(None);
                continue;
            }
            let (mut cursor, mut partial_packets) = (subscription.seq, 0);
            if let Some(before) = before.filter(|before| is_same(before, subscription)) {
                let moved = offset.moved.binary_search_by_key(&place, |(moved, _)| *moved);
                let events = moved.map_or(0, |found| offset.moved[found].1);
                cursor = before.seq.checked_add(events)?;
                let partial = offset.partial.iter().find(|partial| partial.subscription == place);
                partial_packets = partial.map_or(0, |partial| partial.packets);
            }
            tracker.places.push(Some(TrackedSubscription {
                conversation: ConversationId::parse(&subscription.conversation).ok()?,
                vocabulary: *Vocabulary::ALL.get(subscription.vocabulary as usize)?,
                base: cursor,
                cursor,
                partial_packets,
            }));
        }
        tracker.previous = Some(previous);
        Some(tracker)
    }

    /// The subscriptions, and how far the client has received them.
    pub fn reached(&self) -> Vec<Reached> {
        let lasting = self.places.iter().flatten();
        let of = |TrackedSubscription { conversation, vocabulary, cursor, .. }: &TrackedSubscription| {
            Reached { conversation: conversation.clone(), vocabulary: *vocabulary, cursor: *cursor }
        };
        lasting.map(of).collect()
    }

    /// The previous base, if there is one, and the current base.
    pub fn bases(&self) -> Vec<RecoveryBase> {
        let current = self.base(self.number, self.changes, |subscription| subscription.base);
        self.previous.iter().cloned().chain([current]).collect()
    }

    fn base(&self, number: u32, changes: u32, seq: impl Fn(&TrackedSubscription) -> u64) -> RecoveryBase {
        let of = |subscription: &Option<TrackedSubscription>| match subscription {
            None => RecoverySubscription { ended: true, ..RecoverySubscription::default() },
            Some(subscription) => written(subscription, seq(subscription)),
        };
        RecoveryBase { number, changes, subscriptions: self.places.iter().map(of).collect() }
    }

    /// The place of a subscription.
    pub fn find(&self, conversation: &ConversationId, vocabulary: Vocabulary) -> Option<u32> {
        let same = |place: &Option<TrackedSubscription>| {
            place.as_ref().is_some_and(|subscription| {
                subscription.vocabulary == vocabulary && subscription.conversation == *conversation
            })
        };
        self.places.iter().position(same).map(|place| place as u32)
    }

    /// The place of the next subscription; `None` if all places are taken until the next base.
    pub fn next_place(&self) -> Option<u32> {
        let new = self.places.len();
        self.free.last().copied().or_else(|| (new < RECOVERY_PLACES_MAX).then_some(new as u32))
    }

    /// The number of the current base, and the number of changes of its list so far.
    pub fn version(&self) -> (u32, u32) {
        (self.number, self.changes)
    }

    /// Adds a subscription that receives events above `seq`, at [`Tracker::next_place`]. A base that is being stored
    /// lacks it, so that base is discarded.
    pub fn subscribe(
        &mut self,
        conversation: ConversationId,
        vocabulary: Vocabulary,
        seq: u64,
    ) -> Option<u32> {
        let place = self.next_place()?;
        let subscription = Some(TrackedSubscription {
            conversation,
            vocabulary,
            base: seq,
            cursor: seq,
            partial_packets: 0,
        });
        match self.free.pop() {
            Some(free) => self.places[free as usize] = subscription,
            None => self.places.push(subscription),
        }
        self.changes += 1;
        self.next = None;
        Some(place)
    }

    pub fn unsubscribe(&mut self, place: u32) {
        if self.places.get_mut(place as usize).and_then(Option::take).is_some() {
            self.changes += 1;
            self.ended += 1;
            self.next = None;
        }
    }

    /// The offset of a client that has received everything queued so far.
    pub fn offset(&self) -> Offset {
        let moved = |(place, of): (u32, &Option<TrackedSubscription>)| {
            let of = of.as_ref()?;
            let events = of.cursor.checked_sub(of.base).filter(|events| *events > 0)?;
            Some((place, events))
        };
        let moved = (0..).zip(&self.places).filter_map(moved).collect();
        let partial = |(subscription, of): (u32, &Option<TrackedSubscription>)| {
            let packets = of.as_ref().map_or(0, |subscription| subscription.partial_packets);
            (packets > 0).then_some(Partial { subscription, packets })
        };
        let partial = (0..).zip(&self.places).filter_map(partial).collect();
        Offset { base: self.number, changes: self.changes, partial, moved }
    }

    /// The current offset as text, to be appended to an event.
    fn give_out(&mut self, now_ms: u64) -> String {
        let text = self.offset().text();
        self.length = text.len();
        self.since_ms = self.since_ms.or(Some(now_ms));
        text
    }

    /// Appends the offset to each event among these frames. The events are of no log, so the offset does not change.
    pub fn stamp(&mut self, frames: &Bytes, now_ms: u64) -> Bytes {
        if !frame::single(frames).any(|frame| event(&frame).is_some()) {
            return frames.clone();
        }
        let mut out = BytesMut::with_capacity(frames.len() + OFFSET_LONG);
        let offset = self.give_out(now_ms);
        for frame in frame::single(frames) {
            put_stamped(&mut out, &frame, &offset);
        }
        out.freeze()
    }

    /// Appends to each frame of a durable event the offset that holds after that frame. Frames that were queued before
    /// are skipped. Also returns the state before the event, for [`Tracker::roll_back`].
    pub fn stamp_event(
        &mut self,
        place: u32,
        seq: u64,
        frames: &Bytes,
        now_ms: u64,
    ) -> (Bytes, PriorPosition) {
        let (cursor, partial_packets) = self.reach(place, None);
        let mut out = BytesMut::with_capacity(frames.len() + OFFSET_LONG);
        let mut packets = (1..).zip(frame::single(frames)).skip(partial_packets as usize).peekable();
        while let Some((packet, frame)) = packets.next() {
            let last = packets.peek().is_none();
            self.reach(place, Some(if last { (cursor.max(seq), 0) } else { (cursor, packet) }));
            put_stamped(&mut out, &frame, &self.give_out(now_ms));
        }
        self.reach(place, Some((cursor.max(seq), 0)));
        (out.freeze(), PriorPosition { place, cursor, partial_packets })
    }

    /// The position of a subscription: the last seq queued whole, and packets queued of the next event. If `reached` is
    /// given, moves it there; returns the position before.
    fn reach(&mut self, place: u32, reached: Option<(u64, u32)>) -> (u64, u32) {
        let Some(Some(subscription)) = self.places.get_mut(place as usize) else { return (0, 0) };
        let before = (subscription.cursor, subscription.partial_packets);
        (subscription.cursor, subscription.partial_packets) = reached.unwrap_or(before);
        before
    }

    /// Restores the state before an event that was not queued.
    pub fn roll_back(&mut self, before: &PriorPosition) {
        self.reach(before.place, Some((before.cursor, before.partial_packets)));
    }

    /// Whether a new base is wanted: offsets have grown long, or many places have ended, and the client is known to
    /// have an offset that counts from the current base. It has one `received_within_ms` after the first of them was
    /// queued, unless its connection is dead.
    pub fn wants_base(&self, now_ms: u64, received_within_ms: u64) -> bool {
        let long = self.length > OFFSET_LONG || self.ended > RECOVERY_PLACES_MAX / 4;
        let received =
            self.since_ms.is_some_and(|since_ms| now_ms >= since_ms.saturating_add(received_within_ms));
        long && received && self.next.is_none()
    }

    /// The current base and the next one, to be stored.
    pub fn propose_base(&mut self) -> Vec<RecoveryBase> {
        let current = self.base(self.number, self.changes, |subscription| subscription.base);
        let next = self.base(self.number + 1, 0, |subscription| subscription.cursor);
        self.next = Some(next.clone());
        vec![current, next]
    }

    /// Ends the proposal of a base, which was stored (`true`) or not. Offsets count from it if it was stored and no
    /// subscription began or ended meanwhile. Returns whether they do.
    pub fn adopt_base(&mut self, stored: bool) -> bool {
        if !stored {
            // Do not propose again at once: it may have been refused, and would be refused again.
            self.since_ms = None;
        }
        let Some(next) = self.next.take().filter(|_| stored) else { return false };
        self.previous = Some(self.base(self.number, self.changes, |subscription| subscription.base));
        (self.number, self.changes, self.since_ms) = (next.number, 0, None);
        (self.length, self.ended) = (0, 0);
        for (subscription, stored) in self.places.iter_mut().zip(&next.subscriptions) {
            if let Some(subscription) = subscription {
                subscription.base = stored.seq;
            }
        }
        let free = (0..).zip(&self.places).filter(|(_, place)| place.is_none());
        self.free = free.map(|(place, _)| place).collect();
        true
    }
}

/// The position of a subscription before an event.
#[derive(Debug)]
pub struct PriorPosition {
    place: u32,
    cursor: u64,
    partial_packets: u32,
}

/// A subscription as a base stores it.
fn written(subscription: &TrackedSubscription, seq: u64) -> RecoverySubscription {
    let (conversation, vocabulary) = (subscription.conversation.to_string(), subscription.vocabulary as u32);
    RecoverySubscription { conversation, vocabulary, seq, ended: false }
}

/// Whether a place holds the same subscription in two successive bases. A subscription that ended is stored without a
/// conversation, and a place is reused only after a base in which its subscription had ended.
fn is_same(before: &RecoverySubscription, now: &RecoverySubscription) -> bool {
    !before.ended && before.conversation == now.conversation && before.vocabulary == now.vocabulary
}

/// An event without the end of its array of arguments: an Engine.IO message (`4`) with a Socket.IO EVENT (`2`) that
/// ends in `]`.
fn event(frame: &Bytes) -> Option<&[u8]> {
    match frame::body(frame)? {
        Body::Text(text) if text.starts_with("42") => text.strip_suffix(']').map(str::as_bytes),
        _ => None,
    }
}

/// Writes a frame. An event gets the offset as one more argument; any other frame is written unchanged.
fn put_stamped(out: &mut BytesMut, frame: &Bytes, offset: &str) {
    match event(frame) {
        Some(event) => frame::put_parts(out, &[event, b",\"", offset.as_bytes(), b"\"]"]),
        None => out.extend_from_slice(frame),
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
