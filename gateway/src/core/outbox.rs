//! The queue of one connection: shared frames, bounded in bytes.

use bytes::Bytes;
use carillon_proto::limits::OUTBOX_BYTES_MAX;
use std::collections::VecDeque;

/// The kind of a frame, which decides what happens to it when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// A durable event: refused when the outbox is full. The member reads it again from its cursor.
    Event,
    /// Typing, cursors, broadcasts: dropped when the outbox is full.
    Ephemeral,
    /// Presence: it is not sent again, so it may use twice the bound.
    Presence,
    /// The answer to a command. Not refused, because the number of unanswered commands is bounded.
    Reply,
}

/// The frames queued for one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The first frame, in a field of its own: mostly there is no other, and then the queue needs no allocation.
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    bytes: usize,
    /// Events are refused, because the queued frames are being moved to another gateway.
    sealed: bool,
    closed: bool,
}

impl Outbox {
    /// Queues a frame, unless there is no room for its kind. Returns `None` when the frame was not queued, and
    /// `Some(true)` when it is the first, so that the writer must be woken.
    pub fn offer(&mut self, frame: &Bytes, urgency: Urgency) -> Option<bool> {
        let bytes_max = match urgency {
            Urgency::Event | Urgency::Ephemeral => OUTBOX_BYTES_MAX,
            Urgency::Presence => 2 * OUTBOX_BYTES_MAX,
            Urgency::Reply => usize::MAX,
        };
        if self.closed
            || (self.sealed && urgency == Urgency::Event)
            || (self.bytes > 0 && self.bytes + frame.len() > bytes_max)
        {
            return None;
        }
        self.bytes += frame.len();
        if self.first.is_none() {
            self.first = Some(frame.clone());
            return Some(true);
        }
        self.more.push_back(frame.clone());
        Some(false)
    }

    /// Takes the only frame; `None` when there are several, or none.
    pub fn pop_only(&mut self) -> Option<Bytes> {
        if !self.more.is_empty() {
            return None;
        }
        self.bytes = 0;
        self.first.take()
    }

    /// Takes all frames, and keeps no buffer, so that an idle connection needs no memory here.
    pub fn drain(&mut self) -> VecDeque<Bytes> {
        self.bytes = 0;
        let mut frames = std::mem::take(&mut self.more);
        if let Some(first) = self.first.take() {
            frames.push_front(first);
        }
        frames
    }

    /// Takes frames from the front, together at most `bytes_max` bytes, but at least one if there is any.
    pub fn drain_up_to(&mut self, bytes_max: usize) -> Vec<Bytes> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(frame) = &self.first {
            bytes += frame.len();
            if bytes > bytes_max && !taken.is_empty() {
                break;
            }
            self.bytes -= frame.len();
            taken.extend(std::mem::replace(&mut self.first, self.more.pop_front()));
        }
        if self.more.is_empty() {
            self.more = VecDeque::new();
        }
        taken
    }

    /// Puts back frames that were taken, in front of those queued since.
    pub fn put_back(&mut self, frames: Vec<Bytes>) {
        if self.closed {
            return;
        }
        for frame in frames.into_iter().rev() {
            self.bytes += frame.len();
            if let Some(second) = self.first.replace(frame) {
                self.more.push_front(second);
            }
        }
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether the queue is less than half full.
    pub fn has_room(&self) -> bool {
        self.bytes < OUTBOX_BYTES_MAX / 2
    }

    /// Refuses durable events, which are read again from their cursors (`true`), or accepts them again (`false`).
    pub fn seal(&mut self, sealed: bool) {
        self.sealed = sealed;
    }

    /// Drops all frames, and accepts none from now on.
    pub fn close(&mut self) {
        self.closed = true;
        (self.first, self.more, self.bytes) = (None, VecDeque::new(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writer_is_woken_once_and_gets_all_in_order() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.offer(&Bytes::from_static(b"a"), Urgency::Event), Some(true));
        assert_eq!(outbox.offer(&Bytes::from_static(b"b"), Urgency::Reply), Some(false));
        assert_eq!(outbox.pop_only(), None);
        assert_eq!(outbox.drain(), [Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!(outbox.pop_only(), None);
        assert_eq!(outbox.offer(&Bytes::from_static(b"c"), Urgency::Event), Some(true));
        assert_eq!(outbox.pop_only(), Some(Bytes::from_static(b"c")));
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_full_outbox_refuses_events_and_takes_replies() {
        let mut outbox = Outbox::default();
        let half = Bytes::from(vec![0; OUTBOX_BYTES_MAX / 2]);
        assert!(outbox.offer(&half, Urgency::Event).is_some());
        assert!(outbox.offer(&half, Urgency::Event).is_some());
        assert!(!outbox.has_room());
        let one = Bytes::from_static(b"x");
        assert_eq!(outbox.offer(&one, Urgency::Event), None);
        assert_eq!(outbox.offer(&one, Urgency::Ephemeral), None);
        assert!(outbox.offer(&one, Urgency::Presence).is_some());
        assert!(outbox.offer(&one, Urgency::Reply).is_some());
        outbox.drain();
        assert!(outbox.has_room());
        outbox.close();
        assert_eq!(outbox.offer(&one, Urgency::Reply), None);
    }

    #[test]
    fn a_sealed_outbox_refuses_events_only() {
        let mut outbox = Outbox::default();
        let frame = Bytes::from_static(b"x");
        outbox.seal(true);
        assert_eq!(outbox.offer(&frame, Urgency::Event), None);
        assert!(outbox.offer(&frame, Urgency::Presence).is_some());
        outbox.seal(false);
        assert!(outbox.offer(&frame, Urgency::Event).is_some());
    }

    #[test]
    fn a_part_is_taken_in_order_and_one_frame_at_least() {
        let mut outbox = Outbox::default();
        for frame in ["long enough", "a", "b", "c"] {
            outbox.offer(&Bytes::from_static(frame.as_bytes()), Urgency::Event);
        }
        assert_eq!(outbox.drain_up_to(2), ["long enough"]);
        assert_eq!(outbox.drain_up_to(2), ["a", "b"]);
        outbox.put_back(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!(outbox.drain_up_to(2), ["a", "b"]);
        assert!(!outbox.is_empty());
        assert_eq!(outbox.drain_up_to(2), ["c"]);
        assert!(outbox.is_empty() && outbox.drain_up_to(2).is_empty());
    }

    #[test]
    fn a_frame_larger_than_the_bound_passes_alone() {
        let mut outbox = Outbox::default();
        assert!(outbox.offer(&Bytes::from(vec![0; OUTBOX_BYTES_MAX + 1]), Urgency::Event).is_some());
    }
}
