//! The auditor's judgement: whether the rows of a conversation follow each other, and whether they are exactly the rows
//! that its commands in the log made.
//!
//! The auditor compares the log's commands with the rows. A command that has a row at exactly its position is
//! explained. Any other command is applied, by the state machine that workers run, to the fold of the rows before it. A
//! repetition, a refusal or a change without effect makes no row there. If the command makes a row, that row is
//! missing.

use super::audit_log::{Log, Logged};
use super::conversation::Conversation;
use super::dedup::Hit;
use super::rows::EventRow;
use bytes::Bytes;
use carillon_proto::id::{ConversationId, MessageId, Tag, UserId};
use carillon_proto::position::Position;
use carillon_proto::wire::{self, event::Kind as EventKind};
use prost::Message as _;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// A kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A command that was applied has no row, although it was neither repeated nor refused. It may have been
    /// acknowledged.
    Missing,
    /// A command, or a client id of one sender, that has two rows.
    Duplicate,
    /// A row whose command is in the log before the command of the preceding row.
    OutOfOrder,
    /// Seqs without rows, with rows above them.
    Hole,
    /// A head above the last row.
    HeadAhead,
    /// A row that differs from what the command at its position makes.
    ForeignRow,
}

impl Kind {
    /// All kinds, in the order of reports.
    pub const ALL: [Kind; 6] =
        [Self::Missing, Self::Duplicate, Self::OutOfOrder, Self::Hole, Self::HeadAhead, Self::ForeignRow];

    /// The name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Duplicate => "duplicate",
            Self::OutOfOrder => "out_of_order",
            Self::Hole => "hole",
            Self::HeadAhead => "head_ahead",
            Self::ForeignRow => "foreign_row",
        }
    }

    /// What an operator does about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Missing => {
                "keep a copy of the log, which forgets after ten minutes, and repair the table events from its replicas or a backup"
            }
            Self::Hole | Self::HeadAhead => "repair the table events from its replicas or a backup",
            Self::Duplicate | Self::OutOfOrder | Self::ForeignRow => {
                "find out what else writes to the keyspace, keep both the row and the log, and report it"
            }
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind of the finding.
    pub kind: Kind,
    /// The conversation.
    pub conversation: ConversationId,
    /// The seq: the first one without a row, the row itself, or the last row below a head.
    pub seq: u64,
    /// The last seq: the last one without a row, or the head.
    pub to_seq: u64,
    /// The position of the command or row, if there is one.
    pub position: Option<Position>,
    /// The finding in words.
    pub what: &'static str,
}

/// Identifies a finding in two looks at the same conversation.
pub(crate) type Key = (Kind, u64, Option<Position>);

impl Finding {
    /// The key of the finding. It stays the same in the next look if nothing changes. The key of a head contains no
    /// seq, because the head rises while a conversation is written to.
    pub(crate) fn key(&self) -> Key {
        let seq = if self.kind == Kind::HeadAhead { 0 } else { self.seq };
        (self.kind, seq, self.position)
    }
}

/// A row without the contents that the judgement does not need.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) seq: u64,
    /// Translated to the incarnation that is audited, if the row is of the same log generation.
    pub(crate) position: Position,
    /// The incarnation that wrote the row.
    incarnation: u32,
    tag: Tag,
    timestamp_us: i64,
    event: Option<Arc<wire::Event>>,
    /// A contradiction within the row, if there is one.
    contradiction: Option<&'static str>,
}

impl Row {
    /// Reads a row, to be compared with `log`.
    pub(crate) fn of(row: &EventRow, log: &Log) -> Row {
        let event = wire::Event::decode(row.blob.clone()).ok();
        let contradiction = match &event {
            Some(event) => contradiction(row, event),
            None => Some("the row does not decode"),
        };
        let slim = |mut event: wire::Event| {
            if let Some(EventKind::Message(message)) = &mut event.kind {
                *message = wire::SendMessage::default();
            }
            (event.id, event.traceparent) = (Bytes::new(), String::new());
            Arc::new(event)
        };
        let EventRow { seq, position: Position { incarnation, .. }, tag, timestamp_us, .. } = *row;
        let position = log.here(row.position);
        Row { seq, position, incarnation, tag, timestamp_us, event: event.map(slim), contradiction }
    }
}

fn contradiction(row: &EventRow, event: &wire::Event) -> Option<&'static str> {
    let id = MessageId::new(event.time_ms, row.seq, row.conversation.as_str(), row.position);
    if event.conversation != row.conversation.as_str() || event.seq != row.seq {
        Some("the event in the row is another one's")
    } else if event.position.map(Position::from) != Some(row.position) {
        Some("the event in the row has another position")
    } else if event.id != id.as_bytes()[..] {
        Some("the event's id does not follow from its position")
    } else {
        None
    }
}

/// What was read of a conversation, the head first.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: ConversationId,
    pub(crate) head: Option<wire::Head>,
    /// At least the participants of the head.
    pub(crate) participants: Vec<UserId>,
    /// The row at seq 0.
    pub(crate) creation: Option<Row>,
    /// In ascending order of seq: all rows up to the head, then those above it up to the first missing one.
    pub(crate) rows: Vec<Row>,
    /// The conversation has rows below the first of these, which were not read.
    pub(crate) is_cut: bool,
}

/// The result of judging a conversation.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) findings: Vec<Finding>,
    /// The number of rows above the head.
    pub(crate) above_head: u64,
    /// The number of commands without a row that could not be judged, because the state before them is not known.
    pub(crate) unjudged: u64,
}

/// Judges a conversation. `repeats` are commands that are known to repeat events below the rows that were read.
pub(crate) fn judge(stored: &Stored, log: &Log, repeats: &HashSet<Position>) -> Judged {
    let head_seq = stored.head.as_ref().map_or(0, |head| head.seq);
    let settled = stored.rows.iter().rev().find(|row| log.is_settled(row.position)).map_or(0, |row| row.seq);
    let settled_seq = head_seq.max(settled);
    let above_head = stored.rows.iter().filter(|row| row.seq > head_seq).count() as u64;
    let judged = Judged { above_head, ..Judged::default() };
    let conversation = state_before(stored);
    let missing = HashSet::new();
    let mut walk = Walk { stored, log, settled_seq, conversation, passed: None, missing, judged };
    walk.contiguity(head_seq);
    let mut rows = walk.order();
    // Rows with swapped seqs are folded in the order of their commands, because the state machine gives out seqs
    // itself.
    rows.sort_by_key(|row| row.position);
    walk.commands(&rows, repeats);
    walk.judged
}

/// The state before the rows that are judged. If all rows were read, the conversation is empty. Otherwise it is the
/// state after the first row that was read; its participants follow from the present ones and from the rows since.
fn state_before(stored: &Stored) -> Option<Conversation> {
    if !stored.is_cut {
        return Some(Conversation::new(stored.id.clone(), Vec::new()).loaded());
    }
    let (head, first) = (stored.head.as_ref()?, stored.rows.first()?);
    if head.seq < first.seq {
        return None;
    }
    let mut participants: BTreeSet<UserId> = stored.participants.iter().cloned().collect();
    let (to_head, mut above) = stored.rows.split_at(stored.rows.partition_point(|row| row.seq <= head.seq));
    let mut last = head.position.map(Position::from);
    let mut follows = |row: &Row| Some(row.position) > last.replace(row.position);
    above = above.split_at(above.iter().position(|row| !follows(row)).unwrap_or(above.len())).0;
    above.iter().for_each(|row| change(&mut participants, row, true));
    let since = to_head.iter().skip(1).chain(above);
    since.rev().for_each(|row| change(&mut participants, row, false));
    let created = stored.creation.as_ref().and_then(|row| row.event.as_ref());
    let then = wire::Head {
        seq: first.seq,
        position: Some(first.position.into()),
        time_ms: first.event.as_ref()?.time_ms,
        created: created.is_some(),
        owner: created.map(|event| event.actor.clone()).unwrap_or_default(),
        ..wire::Head::default()
    };
    Some(Conversation::of_head(stored.id.clone(), then, participants.into_iter().collect()))
}

/// Applies a row's change of the participants, or undoes it. That is possible because a row names only users whose
/// participation it changed.
fn change(participants: &mut BTreeSet<UserId>, row: &Row, forward: bool) {
    let (users, adds) = match row.event.as_ref().and_then(|event| event.kind.as_ref()) {
        Some(EventKind::ParticipantsAdded(added)) => (added.users.as_slice(), true),
        Some(EventKind::ParticipantRemoved(removed)) => (std::slice::from_ref(&removed.user), false),
        Some(EventKind::Message(_) | EventKind::Created(_) | EventKind::Updated(_)) | None => return,
    };
    for user in users.iter().filter_map(|user| UserId::parse(user).ok()) {
        if adds == forward {
            participants.insert(user)
        } else {
            participants.remove(&user)
        };
    }
}

/// Goes through the rows, and then through rows and commands side by side.
struct Walk<'a> {
    stored: &'a Stored,
    log: &'a Log,
    /// Rows up to this seq are judged. Above it a worker may be writing, or a former one may have written.
    settled_seq: u64,
    /// The fold of the rows that were passed.
    conversation: Option<Conversation>,
    /// The position of the last row that was passed.
    passed: Option<Position>,
    /// Commands without rows whose events are in the state nevertheless.
    missing: HashSet<Position>,
    judged: Judged,
}

impl<'a> Walk<'a> {
    fn find(&mut self, kind: Kind, seqs: (u64, u64), position: Option<Position>, what: &'static str) {
        let (conversation, (seq, to_seq)) = (self.stored.id.clone(), seqs);
        self.judged.findings.push(Finding { kind, conversation, seq, to_seq, position, what });
    }

    /// Checks that no seq is missing. The head was read before the rows, so all rows up to it existed.
    fn contiguity(&mut self, head_seq: u64) {
        let stored = self.stored;
        if stored.creation.is_none() && stored.head.as_ref().is_some_and(|head| head.created) {
            self.find(Kind::Hole, (0, 0), None, "the conversation's creation has no row");
        }
        let settled_seq = self.settled_seq;
        let mut expected = match stored.rows.first() {
            Some(first) if stored.is_cut => first.seq,
            _ => 1,
        };
        for row in stored.rows.iter().take_while(|row| row.seq <= settled_seq) {
            if row.seq > expected {
                let what = "there are no rows here, but above";
                self.find(Kind::Hole, (expected, row.seq - 1), Some(row.position), what);
            }
            expected = row.seq + 1;
        }
        if expected <= head_seq {
            let what = "the head is above the last row";
            self.find(Kind::HeadAhead, (expected - 1, head_seq), None, what);
        }
    }

    /// Checks each row, and that its position is above that of the row before it. Returns all rows that count.
    fn order(&mut self) -> Vec<&'a Row> {
        let stored = self.stored;
        let (mut rows, mut last): (Vec<&Row>, Option<Position>) = (Vec::new(), None);
        for row in stored.creation.iter().chain(&stored.rows) {
            // Above the head, a row that an earlier incarnation left does not count, and neither does any row after it.
            if row.seq > self.settled_seq && Some(row.position) <= last {
                break;
            }
            let (seqs, position) = ((row.seq, row.seq), Some(row.position));
            if let Some(what) = row.contradiction.or_else(|| self.foreign(row)) {
                self.find(Kind::ForeignRow, seqs, position, what);
            }
            if position < last {
                let what = "the row's command stands before that of a row before it";
                self.find(Kind::OutOfOrder, seqs, position, what);
            }
            last = last.max(position);
            rows.push(row);
        }
        rows
    }

    /// Compares rows and commands, both in the order of the commands.
    fn commands(&mut self, rows: &[&Row], repeats: &HashSet<Position>) {
        let (stored, log) = (self.stored, self.log);
        let first = stored.rows.first().filter(|_| stored.is_cut).map(|row| row.position);
        let mut next = 0;
        for slot in log.slots(&stored.id) {
            let position = log.position(*slot);
            while let Some(row) = rows.get(next).filter(|row| row.position < position) {
                self.pass(row);
                next += 1;
            }
            let has_row = rows.get(next).is_some_and(|row| row.position == position);
            if has_row || repeats.contains(&position) {
                continue;
            }
            let (Some(conversation), Some((at, command))) = (&mut self.conversation, log.command(*slot))
            else {
                self.judged.unjudged += 1;
                continue;
            };
            if Some(position) < first {
                self.judged.unjudged += 1;
            } else if let Some(event) = conversation.apply(at, &command).row {
                let what = "a command that was worked has no row";
                self.missing.insert(position);
                self.find(Kind::Missing, (event.seq, event.seq), Some(position), what);
            }
        }
        rows.get(next..).into_iter().flatten().for_each(|row| self.pass(row));
    }

    /// Folds a row into the state, unless the state contains it already.
    fn pass(&mut self, row: &Row) {
        let (seqs, position) = ((row.seq, row.seq), Some(row.position));
        if self.passed == position {
            return self.find(Kind::Duplicate, seqs, position, "the row's command has a row already");
        }
        self.passed = position;
        // If rows were cut off, the state already contains the creation and the first row that was read.
        let is_known =
            self.stored.is_cut && self.stored.rows.first().is_some_and(|first| row.seq <= first.seq);
        let (Some(conversation), Some(event), false) = (&mut self.conversation, &row.event, is_known) else {
            return;
        };
        let hit = conversation.hit(&event.actor, &event.client_id);
        conversation.fold(event, row.timestamp_us);
        if matches!(hit, Hit::Known(first) if !self.missing.contains(&first.position)) {
            self.find(Kind::Duplicate, seqs, position, "the sender's client id has a row already");
        }
    }

    /// What in the log contradicts a row.
    fn foreign(&self, row: &Row) -> Option<&'static str> {
        let log = self.log;
        match log.logged(&self.stored.id, row.position) {
            Logged::NoCommand => return Some("no command of this conversation stands at the row's position"),
            Logged::Command(tag) if tag != row.tag => return Some("the row's tag is not the log's"),
            Logged::Command(_) | Logged::Nothing => {}
        }
        let Position { incarnation, sequence, index } = row.position;
        if incarnation > log.incarnation().number {
            return Some("the row is of an incarnation of the log that never began");
        }
        let incarnation = log.incarnation();
        let is_due = row.incarnation != incarnation.number
            || row.timestamp_us == incarnation.timestamp_us(sequence, index);
        (!is_due).then_some("the row's timestamp does not follow from its position")
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
