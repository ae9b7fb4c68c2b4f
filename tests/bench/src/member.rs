//! Checks that one connection receives each message and each acknowledgement exactly once, and events in order.

use crate::content::Content;
use anyhow::{Context, Result, bail, ensure};

/// The record of one connection, which is a member of one room.
pub struct Member {
    pub room: u32,
    /// The first message that it must receive.
    first: u32,
    /// One bit for each message from `first` on: whether it was received.
    heard: Vec<u64>,
    heard_count: u32,
    /// The messages that it sent and that are not acknowledged yet: (number, time of sending in nanoseconds).
    unacknowledged: Vec<(u32, u64)>,
    /// The `seq` of the last event. The floor does not number events; there it stays 0.
    head_seq: u64,
}

/// No run sends this many messages to one room, so a greater number is damaged.
const MESSAGES_PER_ROOM_MAX: u32 = 1 << 24;

impl Member {
    /// A member that must receive the room's messages from `first` on.
    pub fn new(room: u32, first: u32) -> Member {
        Member { room, first, heard: Vec::new(), heard_count: 0, unacknowledged: Vec::new(), head_seq: 0 }
    }

    /// Records the join. The next event must have the `seq` after `head_seq`.
    pub fn joined(&mut self, head_seq: u64) {
        self.head_seq = head_seq;
    }

    /// Records a message that this member sent and that has to be acknowledged.
    pub fn sent(&mut self, number: u32, at_ns: u64) {
        self.unacknowledged.push((number, at_ns));
    }

    /// Records an acknowledgement and returns the time of sending.
    ///
    /// # Errors
    /// When the message was not sent, or is acknowledged already.
    pub fn acknowledged(&mut self, number: u32) -> Result<u64> {
        let at = self.unacknowledged.iter().position(|(sent, _)| *sent == number);
        let at =
            at.with_context(|| format!("an acknowledgement of message {number}, which waits for none"))?;
        Ok(self.unacknowledged.remove(at).1)
    }

    /// Records a message that this member received.
    ///
    /// # Errors
    /// When the message is of another room, out of order, a duplicate, or from before the join.
    pub fn delivered(&mut self, content: &Content, seq: Option<u64>) -> Result<()> {
        ensure!(content.room == self.room, "a message of room {} in room {}", content.room, self.room);
        if let Some(seq) = seq {
            ensure!(seq == self.head_seq + 1, "seq {seq} came after {}", self.head_seq);
            self.head_seq = seq;
        }
        let number = content.number;
        let Some(index) = number.checked_sub(self.first).filter(|index| *index < MESSAGES_PER_ROOM_MAX)
        else {
            bail!("message {number}, which is not for this member: its first is {}", self.first);
        };
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        if self.heard.len() <= word {
            self.heard.resize(word + 1, 0);
        }
        ensure!(self.heard[word] & bit == 0, "message {number} came twice");
        self.heard[word] |= bit;
        self.heard_count += 1;
        Ok(())
    }

    /// How many of its messages are not acknowledged yet.
    pub fn unacknowledged(&self) -> usize {
        self.unacknowledged.len()
    }

    /// Whether it has received every message and every acknowledgement, if `published` messages were sent to the room.
    pub fn is_even_with(&self, published: u32) -> bool {
        self.unacknowledged.is_empty() && self.heard_count == published - self.first
    }

    /// Checks that it received every message and every acknowledgement, if `published` messages were sent to the room.
    pub fn check(&self, published: u32) -> Result<()> {
        let due = published - self.first;
        ensure!(self.heard_count == due, "heard {} of {due} messages", self.heard_count);
        // The count is right and there are no duplicates. So a missing message is possible only together with the
        // receipt of a message that was never sent.
        let beyond = (due..self.heard.len() as u32 * 64)
            .any(|index| self.heard[index as usize / 64] >> (index % 64) & 1 == 1);
        ensure!(!beyond, "heard a message that nobody sent");
        ensure!(
            self.unacknowledged.is_empty(),
            "{} messages were not acknowledged",
            self.unacknowledged.len()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u32) -> Content {
        Content { room: 1, number, sent_ns: 0 }
    }

    #[test]
    fn a_member_that_received_everything_once_passes_the_check() {
        let mut member = Member::new(1, 10);
        member.joined(5);
        member.sent(10, 77);
        for (number, seq) in [(11, 6), (10, 7), (12, 8)] {
            assert!(!member.is_even_with(13));
            member.delivered(&message(number), Some(seq)).expect("in order");
        }
        assert!(!member.is_even_with(13), "its own is not acknowledged");
        assert!(member.check(13).is_err());
        assert_eq!(member.acknowledged(10).expect("it was sent"), 77);
        assert!(member.is_even_with(13));
        member.check(13).expect("all is well");
        assert!(member.check(14).is_err(), "one is missing");
    }

    #[test]
    fn duplicates_and_gaps_and_messages_of_other_rooms_are_faults() {
        let mut member = Member::new(1, 10);
        member.delivered(&message(100), Some(1)).expect("the first");
        assert!(member.delivered(&message(100), Some(2)).is_err(), "twice");
        let mut member = Member::new(1, 10);
        assert!(member.delivered(&message(9), None).is_err(), "before its time");
        assert!(
            member.delivered(&Content { room: 2, number: 10, sent_ns: 0 }, None).is_err(),
            "of another room"
        );
        assert!(member.delivered(&message(10), Some(2)).is_err(), "a gap");
        assert!(member.acknowledged(10).is_err(), "never sent");
        member.sent(10, 0);
        member.acknowledged(10).expect("once");
        assert!(member.acknowledged(10).is_err(), "twice");
    }

    #[test]
    fn a_message_that_was_never_sent_does_not_hide_a_missing_one() {
        let mut member = Member::new(1, 0);
        member.delivered(&message(5), None).expect("accepted until the check");
        assert!(member.check(1).is_err());
    }
}
