//! What waits to be written to one connection: shared frames, bounded in bytes.

use bytes::Bytes;
use carillon_proto::limits::OUTBOX_BYTES_MAX;
use std::collections::VecDeque;

/// How badly a frame must get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// An event of a log: refused when the outbox is full, and read again from the cursor.
    Event,
    /// Typing, cursors, broadcasts: skipped when the outbox is full.
    Ephemeral,
    /// Presence: nobody repeats it, so it may use as much again.
    Presence,
    /// The answer to a command: bounded by the number of unanswered commands.
    Reply,
}

/// Frames that wait for one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The first of them, in its own place: mostly there is no other, and then nothing is allocated.
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    bytes: usize,
    /// No events are taken, as what is queued goes elsewhere.
    sealed: bool,
    closed: bool,
}

impl Outbox {
    /// Takes a frame, unless there is no room for its urgency. `Some(true)` says that the writer must be
    /// woken; `None` that the frame was not taken.
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

    /// Takes the only frame out; `None` when there are others, or none.
    pub fn take_only(&mut self) -> Option<Bytes> {
        if !self.more.is_empty() {
            return None;
        }
        self.bytes = 0;
        self.first.take()
    }

    /// Takes everything out and leaves no buffer behind: an idle connection costs nothing here.
    pub fn drain(&mut self) -> VecDeque<Bytes> {
        self.bytes = 0;
        let mut frames = std::mem::take(&mut self.more);
        if let Some(first) = self.first.take() {
            frames.push_front(first);
        }
        frames
    }

    /// Takes frames out, first come first served, of together at most `bytes_max`; one at least, if there is any.
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

    /// Puts frames back that were taken out, in front of what was queued since.
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

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether an event of `length` bytes would be taken.
    pub fn has_room(&self) -> bool {
        self.bytes < OUTBOX_BYTES_MAX / 2
    }

    /// Refuses events, which are read again from their cursors, or takes them again.
    pub fn seal(&mut self, sealed: bool) {
        self.sealed = sealed;
    }

    /// Takes nothing from now on.
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
        assert_eq!(outbox.take_only(), None);
        assert_eq!(outbox.drain(), [Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!(outbox.take_only(), None);
        assert_eq!(outbox.offer(&Bytes::from_static(b"c"), Urgency::Event), Some(true));
        assert_eq!(outbox.take_only(), Some(Bytes::from_static(b"c")));
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
