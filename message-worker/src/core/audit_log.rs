//! The part of a log that the auditor compares: the commands of each conversation that were applied, by position. The
//! auditor places commands as a worker's group does. It keeps the bytes of the entries, because few of them are decoded
//! again.

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

/// Bytes of entries held at once: as many as a worker keeps behind its checkpoint. If a log holds more, the oldest
/// entries are compared, because they are purged first.
const BYTES_MAX: u64 = LOG_KEPT_BYTES_MAX;
/// Conversations followed in one partition. A look at one takes about a millisecond, so a look at all takes seconds.
const CONVERSATIONS_MAX: usize = 10_000;

/// The part of a partition's log up to the checkpoint, as far as the log still holds it.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) partition: u32,
    partitions: u32,
    incarnation: Incarnation,
    skips: HashSet<Position>,
    suspended: Suspended,
    /// The sequence of the first entry in here.
    from: u64,
    /// The sequence of the checkpoint. Rows at or below it are settled.
    checkpoint: u64,
    /// The version of the state machine by which commands without rows are judged: that of the checkpoint. Earlier
    /// entries may be of an earlier version, but the log may no longer have the entry that raised it.
    version: u32,
    entries: Vec<HeldEntry>,
    bytes: u64,
    conversations: HashMap<ConversationId, Vec<CommandSlot>>,
    /// What was counted while the entries were taken.
    pub(crate) counted: Counted,
}

/// Counts of a log's commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Commands that a worker applied.
    pub(crate) commands: u64,
    /// Commands that are skipped for good, by a record in the store.
    pub(crate) skipped: u64,
    /// Commands of conversations that belong to other partitions, and for which there is no such record.
    pub(crate) elsewhere: u64,
    /// Commands of conversations beyond `CONVERSATIONS_MAX`.
    pub(crate) left_out: u64,
}

#[derive(Debug)]
struct HeldEntry {
    tag: Tag,
    time_ms: u64,
    payload: Bytes,
}

/// The place of a command in the entries that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CommandSlot {
    sequence: u64,
    index: u32,
}

/// What the log has at a row's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logged {
    /// Nothing: the position is of another incarnation, or its entry was not applied yet, or is not held any more.
    Nothing,
    /// A command of this conversation is there, in an entry with this tag.
    Command(Tag),
    /// No command of this conversation is there.
    NoCommand,
}

impl Log {
    /// A log without entries, which begin at `from`. All conversations of `named` are followed, with or without
    /// commands.
    pub(crate) fn new(
        (partition, partitions): (u32, u32),
        incarnation: Incarnation,
        skips: HashSet<Position>,
        (from, checkpoint): (u64, u64),
        named: &[ConversationId],
        version: u32,
    ) -> Log {
        Log {
            partition,
            partitions,
            incarnation,
            skips,
            suspended: Suspended::default(),
            from,
            checkpoint,
            version,
            entries: Vec::new(),
            bytes: 0,
            conversations: named.iter().map(|id| (id.clone(), Vec::new())).collect(),
            counted: Counted::default(),
        }
    }

    /// Adds the suspensions: their commands were refused because the conversation could not be read.
    pub(crate) fn suspending(self, suspended: Suspended) -> Log {
        Log { suspended, ..self }
    }

    /// The sequence of the next entry to read. `None` when all entries up to the checkpoint are read, or no more may be
    /// held.
    pub(crate) fn wanted(&self) -> Option<u64> {
        let next = self.from + self.entries.len() as u64;
        (next <= self.checkpoint && self.bytes < BYTES_MAX).then_some(next)
    }

    /// The number of entries in here.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The number of entries up to the checkpoint that found no room.
    pub(crate) fn entries_left_out(&self) -> u64 {
        (self.checkpoint + 1).saturating_sub(self.from + self.entries())
    }

    /// The conversations that are followed.
    pub(crate) fn conversations(&self) -> impl Iterator<Item = &ConversationId> {
        self.conversations.keys()
    }

    /// The incarnation that is audited.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Adds the entry that [`Log::wanted`] names.
    pub(crate) fn add_entry(&mut self, entry: &LogEntry) {
        // An entry that does not decode, or that has too many commands, is poison: no worker applied any of it.
        let decoded = wire::Entry::decode(entry.payload.clone()).unwrap_or_default();
        if decoded.commands.len() <= ENTRY_COMMANDS_MAX {
            for (index, command) in decoded.commands.iter().enumerate() {
                self.place(CommandSlot { sequence: entry.sequence, index: index as u32 }, command);
            }
        }
        self.bytes += entry.payload.len() as u64;
        // A copy, so that one entry does not keep the memory of the whole reply that contained it.
        let payload = Bytes::copy_from_slice(&entry.payload);
        self.entries.push(HeldEntry { tag: entry.tag, time_ms: entry.time_ms, payload });
    }

    fn place(&mut self, slot: CommandSlot, command: &wire::Command) {
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

    /// The slots of a conversation's commands, in their order.
    pub(crate) fn slots(&self, conversation: &ConversationId) -> &[CommandSlot] {
        self.conversations.get(conversation).map_or(&[], Vec::as_slice)
    }

    /// The position of a slot.
    pub(crate) fn position(&self, slot: CommandSlot) -> Position {
        self.incarnation.position(slot.sequence, slot.index)
    }

    /// The place of a command, and the command. `None` if the slot is not in these entries.
    pub(crate) fn command(&self, slot: CommandSlot) -> Option<(At, wire::Command)> {
        let held = self.held(slot.sequence)?;
        let entry = wire::Entry::decode(held.payload.clone()).ok()?;
        let command = entry.commands.into_iter().nth(slot.index as usize)?;
        let timestamp_us = self.incarnation.timestamp_us(slot.sequence, slot.index);
        let (position, time_ms, version) = (self.position(slot), held.time_ms, self.version);
        Some((At { position, timestamp_us, time_ms, version }, command))
    }

    /// Translates a row's position to the incarnation that is audited, if both are in the same log generation. A
    /// position of another generation is returned as it is.
    pub(crate) fn here(&self, written: Position) -> Position {
        let is_here = self.incarnation.stands_on(written)
            && written.sequence >= self.incarnation.generation.first_sequence;
        if is_here { self.incarnation.position(written.sequence, written.index) } else { written }
    }

    /// Whether a row at this position is of this log, and was stored when the checkpoint was written.
    pub(crate) fn is_settled(&self, position: Position) -> bool {
        self.is_of_this_log(position) && position.sequence <= self.checkpoint
    }

    /// Whether a position is one of this log, as [`Log::here`] translates it.
    fn is_of_this_log(&self, position: Position) -> bool {
        position.incarnation == self.incarnation.number
            && position.sequence >= self.incarnation.generation.first_sequence
    }

    /// What the log has at a position of a conversation that is followed.
    pub(crate) fn logged(&self, conversation: &ConversationId, position: Position) -> Logged {
        let held = self.is_of_this_log(position).then(|| self.held(position.sequence)).flatten();
        let (Some(held), Some(slots)) = (held, self.conversations.get(conversation)) else {
            return Logged::Nothing;
        };
        let slot = CommandSlot { sequence: position.sequence, index: position.index };
        if slots.binary_search(&slot).is_ok() { Logged::Command(held.tag) } else { Logged::NoCommand }
    }

    fn held(&self, sequence: u64) -> Option<&HeldEntry> {
        let index = sequence.checked_sub(self.from)?;
        self.entries.get(usize::try_from(index).ok()?)
    }
}
