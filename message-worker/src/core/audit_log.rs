//! What a log claims, for the auditor: which commands of which conversations were worked, by position. Commands are
//! placed as a worker's group places them, and kept as the bytes of their entries: hardly any is looked at again.

use super::apply::At;
use super::suspended::Suspended;
use crate::limits::LOG_KEPT_BYTES_MAX;
use bytes::Bytes;
use carillon_proto::id::{ConversationId, Tag};
use carillon_proto::limits::ENTRY_COMMANDS_MAX;
use carillon_proto::partition;
use carillon_proto::position::{Incarnation, Position};
use carillon_proto::wire;
use carillon_runtime::bus::LogEntry;
use prost::Message as _;
use std::collections::{HashMap, HashSet};

/// Bytes of entries held at once: all that a worker keeps behind its checkpoint. Where a log holds more, the oldest
/// are looked at, which go first.
const BYTES_MAX: u64 = LOG_KEPT_BYTES_MAX;
/// Conversations followed in one partition: at about a millisecond each, a look at all takes seconds.
const CONVERSATIONS_MAX: usize = 10_000;

/// The part of a partition's log that its worker says it has worked, as far as the log still holds it.
#[derive(Debug)]
pub(crate) struct Log {
    /// The partition.
    pub(crate) partition: u32,
    partitions: u32,
    life: Incarnation,
    skips: HashSet<Position>,
    suspended: Suspended,
    /// The sequence of the first entry in here.
    from: u64,
    /// The sequence that the checkpoint stands at: rows at or below it are settled.
    checkpoint: u64,
    entries: Vec<Held>,
    bytes: u64,
    conversations: HashMap<ConversationId, Vec<Slot>>,
    /// What was counted on the way.
    pub(crate) counted: Counted,
}

/// What a log's entries came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Commands that a worker applied.
    pub(crate) commands: u64,
    /// Commands that are passed over for good, by a record.
    pub(crate) skipped: u64,
    /// Commands of conversations that belong to other partitions, of which there is no record.
    pub(crate) elsewhere: u64,
    /// Commands of conversations beyond the bound.
    pub(crate) left_out: u64,
}

#[derive(Debug)]
struct Held {
    tag: Tag,
    time_ms: u64,
    payload: Bytes,
}

/// Where a command stands in the log that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    sequence: u64,
    index: u32,
}

/// What the log says of a row's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// Nothing: another life's, not worked yet, or not held any more.
    Nothing,
    /// A command of this conversation stands there, in an entry with this tag.
    Command(Tag),
    /// No command of this conversation stands there.
    NoCommand,
}

impl Log {
    /// A log of which nothing has been read; entries come from `from` on. All of `named` are followed, whether the
    /// log has commands of them or not.
    pub(crate) fn new(
        (partition, partitions): (u32, u32),
        life: Incarnation,
        skips: HashSet<Position>,
        (from, checkpoint): (u64, u64),
        named: &[ConversationId],
    ) -> Log {
        Log {
            partition,
            partitions,
            life,
            skips,
            suspended: Suspended::default(),
            from,
            checkpoint,
            entries: Vec::new(),
            bytes: 0,
            conversations: named.iter().map(|id| (id.clone(), Vec::new())).collect(),
            counted: Counted::default(),
        }
    }

    /// Commands of these conversations were refused while they could not be read.
    pub(crate) fn suspending(self, suspended: Suspended) -> Log {
        Log { suspended, ..self }
    }

    /// The sequence that is to be read next; `None` when all is read that was worked, or no more may be held.
    pub(crate) fn wanted(&self) -> Option<u64> {
        let next = self.from + self.entries.len() as u64;
        (next <= self.checkpoint && self.bytes < BYTES_MAX).then_some(next)
    }

    /// Entries in here.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Entries that were worked and found no room.
    pub(crate) fn entries_left_out(&self) -> u64 {
        (self.checkpoint + 1).saturating_sub(self.from + self.entries())
    }

    /// The conversations that are followed.
    pub(crate) fn conversations(&self) -> impl Iterator<Item = &ConversationId> {
        self.conversations.keys()
    }

    /// The life that is audited.
    pub(crate) fn life(&self) -> Incarnation {
        self.life
    }

    /// Takes the entry that [`Log::wanted`] names.
    pub(crate) fn take(&mut self, entry: &LogEntry) {
        // An entry that does not decode, or has too many commands, is poison: nobody applied any of it.
        let decoded = wire::Entry::decode(entry.payload.clone()).unwrap_or_default();
        if decoded.commands.len() <= ENTRY_COMMANDS_MAX {
            for (index, command) in decoded.commands.iter().enumerate() {
                self.place(Slot { sequence: entry.sequence, index: index as u32 }, command);
            }
        }
        self.bytes += entry.payload.len() as u64;
        // Copied, so that one entry does not keep the whole answer that it came in.
        let payload = Bytes::copy_from_slice(&entry.payload);
        self.entries.push(Held { tag: entry.tag, time_ms: entry.time_ms, payload });
    }

    fn place(&mut self, slot: Slot, command: &wire::Command) {
        let Ok(conversation) = ConversationId::parse(&command.conversation) else { return };
        let position = self.position(slot);
        let is_skipped = self.skips.contains(&position) || self.suspended.refuses(&conversation, position);
        if partition::of_conversation(&conversation, self.partitions) != self.partition && !is_skipped {
            self.counted.elsewhere += 1;
        } else if is_skipped {
            self.counted.skipped += 1;
        } else if let Some(slots) = self.conversations.get_mut(&conversation) {
            self.counted.commands += 1;
            slots.push(slot);
        } else if self.conversations.len() < CONVERSATIONS_MAX {
            self.counted.commands += 1;
            self.conversations.insert(conversation, vec![slot]);
        } else {
            self.counted.left_out += 1;
        }
    }

    /// Where the commands of a conversation stand, in their order.
    pub(crate) fn slots(&self, conversation: &ConversationId) -> &[Slot] {
        self.conversations.get(conversation).map_or(&[], Vec::as_slice)
    }

    /// The position of a slot.
    pub(crate) fn position(&self, slot: Slot) -> Position {
        self.life.position(slot.sequence, slot.index)
    }

    /// Where a command stands, and the command; `None` if that slot is not of this log.
    pub(crate) fn command(&self, slot: Slot) -> Option<(At, wire::Command)> {
        let held = self.held(slot.sequence)?;
        let entry = wire::Entry::decode(held.payload.clone()).ok()?;
        let command = entry.commands.into_iter().nth(slot.index as usize)?;
        let timestamp_us = self.life.timestamp_us(slot.sequence, slot.index);
        Some((At { position: self.position(slot), timestamp_us, time_ms: held.time_ms }, command))
    }

    /// The position that the life which is audited gives to what stands where a row says, if the log has not forgotten
    /// anything since that was written; of an earlier log, what the row says.
    pub(crate) fn here(&self, written: Position) -> Position {
        let is_here = self.life.stands_on(written) && written.sequence >= self.life.ground.first_sequence;
        if is_here { self.life.position(written.sequence, written.index) } else { written }
    }

    /// Whether a row at this position is of this log, and was there when the checkpoint was written.
    pub(crate) fn is_settled(&self, position: Position) -> bool {
        self.is_of_this_log(position) && position.sequence <= self.checkpoint
    }

    /// Whether a position is one that [`Log::here`] gives.
    fn is_of_this_log(&self, position: Position) -> bool {
        position.incarnation == self.life.number && position.sequence >= self.life.ground.first_sequence
    }

    /// What the log says of a position of a conversation that is followed.
    pub(crate) fn said(&self, conversation: &ConversationId, position: Position) -> Said {
        let held = self.is_of_this_log(position).then(|| self.held(position.sequence)).flatten();
        let (Some(held), Some(slots)) = (held, self.conversations.get(conversation)) else {
            return Said::Nothing;
        };
        let slot = Slot { sequence: position.sequence, index: position.index };
        if slots.binary_search(&slot).is_ok() { Said::Command(held.tag) } else { Said::NoCommand }
    }

    fn held(&self, sequence: u64) -> Option<&Held> {
        let index = sequence.checked_sub(self.from)?;
        self.entries.get(usize::try_from(index).ok()?)
    }
}
