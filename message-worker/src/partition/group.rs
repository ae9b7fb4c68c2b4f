//! A group: log entries that are applied and written together. A group is prepared (what it needs is read, and poison
//! commands are recorded), applied, and committed. Then its events and outcomes leave.

use crate::core::acquainted::{changes_participants, concerned};
use crate::core::apply::{Applied, At};
use crate::core::cache::Cache;
use crate::core::conversation;
use crate::core::ledger::Ledger;
use crate::limits::{
    GROUP_BYTES_MAX, GROUP_COMMANDS_MAX, QUEUE_BYTES_MAX, QUEUE_ENTRIES_MAX, SUSPENDED_RETRY_MS,
};
use crate::metrics;
use crate::store::{EventRow, Projection};
use bytes::Bytes;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, GatewayId, Tag};
use carillon_proto::limits::ENTRY_COMMANDS_MAX;
use carillon_proto::partition;
use carillon_proto::position::Position;
use carillon_proto::wire::{self, outcome};
use carillon_runtime::bus::LogEntry;
use carillon_runtime::telemetry;
use prost::{DecodeError, Message as _};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Instant;

/// Entries that were read and are not in a group yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: VecDeque<LogEntry>,
    bytes: usize,
}

impl Queue {
    /// How many more entries may be read.
    pub(crate) fn free_entries(&self) -> usize {
        if self.bytes >= QUEUE_BYTES_MAX { 0 } else { QUEUE_ENTRIES_MAX.saturating_sub(self.entries.len()) }
    }

    pub(crate) fn push(&mut self, entry: LogEntry) {
        self.bytes += entry.payload.len();
        self.entries.push_back(entry);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The time at which the log took the oldest entry in the queue.
    pub(crate) fn oldest_time_ms(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.time_ms)
    }

    fn pop(&mut self) -> Option<LogEntry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.payload.len();
        Some(entry)
    }

    fn put_back(&mut self, entry: LogEntry) {
        self.bytes += entry.payload.len();
        self.entries.push_front(entry);
    }
}

/// The last entry of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    /// The position of its last command.
    pub(crate) position: Position,
    pub(crate) tag: Tag,
    pub(crate) timestamp_us: i64,
    /// The version of the state machine for the entries that follow.
    pub(crate) version: u32,
}

#[derive(Debug)]
struct Placed {
    at: At,
    tag: Tag,
    conversation: ConversationId,
    /// The gateway that sent the command; `None` if its id is not valid.
    gateway: Option<GatewayId>,
    command: wire::Command,
}

/// Something that must be read or recorded before a group can be applied.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum GroupNeed {
    /// A conversation in memory.
    Conversation(ConversationId),
    /// What a conversation must know about a sender.
    Of(ConversationId, conversation::Need),
    /// The record that a poison command is skipped.
    Skip(Position),
}

/// Entries that are applied and written together.
#[derive(Debug)]
pub(crate) struct Group {
    placed: Vec<Placed>,
    conversations: HashSet<ConversationId>,
    poison: HashMap<Position, &'static str>,
    /// Outcomes of commands that are refused without reading their conversation.
    outcomes: Vec<(GatewayId, wire::Outcome)>,
    /// Gateways that sent commands of this group.
    pub(crate) gateways: HashSet<GatewayId>,
    pub(crate) end: End,
    /// The time at which the log took the first entry of the group.
    pub(crate) time_ms: u64,
    pub(crate) bytes: u64,
    /// What the group needs, and no job reads yet.
    pub(crate) needs: VecDeque<GroupNeed>,
    /// What jobs are reading for the group.
    pub(crate) awaited: HashSet<GroupNeed>,
}

/// What an applied group writes and sends.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) rows: Vec<EventRow>,
    /// The rows' events, for fan-out.
    pub(crate) events: Vec<(ConversationId, Bytes)>,
    pub(crate) outcomes: Vec<(GatewayId, wire::Outcome)>,
    /// Changes of participants. They are written before the acks, so that lists show a change as soon as it is
    /// acknowledged.
    pub(crate) participants: Vec<Projection>,
    /// All other projections of the rows.
    pub(crate) projections: Vec<Projection>,
    /// Users whose acquaintances may change when `participants` are written.
    pub(crate) acquainted: BTreeSet<String>,
    /// The same for commands that are replayed. Gateways are notified when the projections are written.
    pub(crate) acquainted_before: BTreeSet<String>,
    pub(crate) end: End,
    pub(crate) time_ms: u64,
    pub(crate) bytes: u64,
    /// Spans of the commands that are traced. They end when the results have left.
    pub(crate) spans: Vec<tracing::Span>,
    pub(crate) applied: Instant,
}

impl Group {
    /// Takes the next group from the queue. An entry that raises the version is a group of its own.
    pub(crate) fn next_group(queue: &mut Queue, ledger: &Ledger) -> Option<Group> {
        let first = queue.pop()?;
        let mut group = Group::begin(&first, ledger);
        let decoded = wire::Entry::decode(first.payload.clone());
        if let Some(version) = raised(&decoded, ledger) {
            group.end.version = version;
            return Some(group);
        }
        group.place(first, decoded, ledger);
        while group.placed.len() < GROUP_COMMANDS_MAX && group.bytes < GROUP_BYTES_MAX as u64 {
            let Some(entry) = queue.pop() else { break };
            let decoded = wire::Entry::decode(entry.payload.clone());
            if raised(&decoded, ledger).is_some() {
                queue.put_back(entry);
                break;
            }
            group.place(entry, decoded, ledger);
        }
        Some(group)
    }

    fn begin(first: &LogEntry, ledger: &Ledger) -> Group {
        Group {
            placed: Vec::new(),
            conversations: HashSet::new(),
            poison: HashMap::new(),
            outcomes: Vec::new(),
            gateways: HashSet::new(),
            end: end_of(first, 0, ledger),
            time_ms: first.time_ms,
            bytes: 0,
            needs: VecDeque::new(),
            awaited: HashSet::new(),
        }
    }

    fn place(&mut self, entry: LogEntry, decoded: Result<wire::Entry, DecodeError>, ledger: &Ledger) {
        self.bytes += entry.payload.len() as u64;
        let start = ledger.incarnation.position(entry.sequence, 0);
        let commands = match decoded {
            Ok(decoded) if decoded.commands.len() <= ENTRY_COMMANDS_MAX => decoded.commands,
            Ok(_) => self.poisoned(start, "the entry has more commands than positions"),
            Err(_) => self.poisoned(start, "the entry does not decode"),
        };
        self.end = end_of(&entry, commands.len().saturating_sub(1) as u32, ledger);
        for (index, command) in commands.into_iter().enumerate() {
            self.place_command(&entry, index as u32, command, ledger);
        }
    }

    fn place_command(&mut self, entry: &LogEntry, index: u32, command: wire::Command, ledger: &Ledger) {
        let gateway = self.gateway(&command.gateway);
        let position = ledger.incarnation.position(entry.sequence, index);
        let Ok(conversation) = ConversationId::parse(&command.conversation) else {
            let failure = Failure::invalid_payload("the conversation's id is not valid");
            self.answer(gateway, command.request, Some(outcome::Body::Failure(failure.into())));
            return;
        };
        if partition::of_conversation(&conversation, ledger.partitions) != ledger.partition {
            self.poisoned(position, "the conversation belongs to another partition");
            let failure =
                Failure::new(ErrorCode::Internal, "set the same number of partitions for all roles");
            self.answer(gateway, command.request, Some(outcome::Body::Failure(failure.into())));
            return;
        }
        if ledger.skips.contains(&position) {
            return;
        }
        if ledger.suspended.refuses(&conversation, position) {
            self.answer(gateway, command.request, Some(cannot_be_read()));
            return;
        }
        let timestamp_us = ledger.incarnation.timestamp_us(entry.sequence, index);
        let at = At { position, timestamp_us, time_ms: entry.time_ms, version: ledger.version };
        self.conversations.insert(conversation.clone());
        self.placed.push(Placed { at, tag: entry.tag, conversation, gateway, command });
    }

    fn poisoned(&mut self, position: Position, reason: &'static str) -> Vec<wire::Command> {
        self.poison.insert(position, reason);
        Vec::new()
    }

    /// The reason why a command is poison.
    pub(crate) fn poison(&self, position: &Position) -> &'static str {
        self.poison.get(position).copied().unwrap_or_default()
    }

    /// Whether this group has commands of the conversation, so that it must stay in memory.
    pub(crate) fn involves(&self, conversation: &ConversationId) -> bool {
        self.conversations.contains(conversation)
    }

    /// The place of the first command of a conversation.
    pub(crate) fn first_of(&self, conversation: &ConversationId) -> Option<At> {
        self.placed.iter().find(|placed| placed.conversation == *conversation).map(|placed| placed.at)
    }

    /// Refuses the commands of a conversation that cannot be read. The group goes on without it.
    pub(crate) fn refuse(&mut self, conversation: &ConversationId) {
        self.conversations.remove(conversation);
        let (refused, kept) = std::mem::take(&mut self.placed)
            .into_iter()
            .partition(|placed| placed.conversation == *conversation);
        self.placed = kept;
        let refused: Vec<Placed> = refused;
        for Placed { gateway, command, .. } in refused {
            self.answer(gateway, command.request, Some(cannot_be_read()));
        }
    }

    /// Everything that must be read or recorded before this group can be applied, as far as it is known by now.
    pub(crate) fn missing(&self, cache: &Cache, ledger: &Ledger) -> HashSet<GroupNeed> {
        let mut missing: HashSet<GroupNeed> = self
            .poison
            .keys()
            .filter(|position| !ledger.skips.contains(position))
            .map(|at| GroupNeed::Skip(*at))
            .collect();
        for Placed { conversation, command, .. } in &self.placed {
            match cache.get(conversation).filter(|slot| slot.decided) {
                Some(slot) => {
                    let need = slot.conversation.need(&command.actor, &command.client_id);
                    missing.extend(need.map(|need| GroupNeed::Of(conversation.clone(), need)));
                }
                None => {
                    missing.insert(GroupNeed::Conversation(conversation.clone()));
                }
            }
        }
        missing
    }

    /// Applies the commands in order. Everything that [`Group::missing`] names must be in memory.
    pub(crate) fn apply(mut self, cache: &mut Cache, now_ms: u64) -> Results {
        let mut results = Results {
            rows: Vec::new(),
            events: Vec::new(),
            outcomes: Vec::new(),
            participants: Vec::new(),
            projections: Vec::new(),
            acquainted: BTreeSet::new(),
            acquainted_before: BTreeSet::new(),
            end: self.end,
            time_ms: self.time_ms,
            bytes: self.bytes,
            spans: Vec::new(),
            applied: Instant::now(),
        };
        for Placed { at, tag, conversation, gateway, command } in std::mem::take(&mut self.placed) {
            if !command.traceparent.is_empty() {
                results.spans.push(telemetry::continued_span("message-worker", &command.traceparent));
            }
            let applied = cache.using(&conversation, now_ms, |slot| {
                let applied = slot.change(changes_participants(&command), |conversation| {
                    let applied = conversation.apply(at, &command);
                    (applied.row.is_some(), applied)
                });
                let refused = matches!(applied.outcome, Some(outcome::Body::Failure(_)));
                let acquainted = if refused { Vec::new() } else { concerned(&slot.conversation, &command) };
                (applied, acquainted)
            });
            // All conversations of a prepared group are in memory, because nothing is awaited between preparing and
            // applying.
            let Some((Applied { row, projections, outcome }, acquainted)) = applied else { continue };
            count(row.is_some(), outcome.as_ref());
            let notified =
                if row.is_some() { &mut results.acquainted } else { &mut results.acquainted_before };
            notified.extend(acquainted);
            self.answer(gateway, command.request, outcome);
            if let Some(event) = row {
                results.add_row(conversation, &event, at, tag);
            }
            results.project(projections);
        }
        results.outcomes = self.outcomes;
        results.applied = Instant::now();
        results
    }

    /// The gateway with this id, which is added to those of the group. A group's commands mostly come from few
    /// gateways, so the id is rarely parsed.
    fn gateway(&mut self, id: &str) -> Option<GatewayId> {
        if let Some(gateway) = self.gateways.get(id) {
            return Some(gateway.clone());
        }
        let gateway = GatewayId::parse(id).ok()?;
        self.gateways.insert(gateway.clone());
        Some(gateway)
    }

    fn answer(&mut self, gateway: Option<GatewayId>, request: u64, outcome: Option<outcome::Body>) {
        if let (Some(gateway), Some(body)) = (gateway, outcome) {
            self.outcomes.push((gateway, wire::Outcome { request, body: Some(body) }));
        }
    }
}

impl Results {
    fn add_row(&mut self, conversation: ConversationId, event: &wire::Event, at: At, tag: Tag) {
        let blob = Bytes::from(event.encode_to_vec());
        self.events.push((conversation.clone(), blob.clone()));
        let At { position, timestamp_us, .. } = at;
        self.rows.push(EventRow { conversation, seq: event.seq, position, tag, timestamp_us, blob });
    }

    fn project(&mut self, projections: Vec<Projection>) {
        for projection in projections {
            match projection {
                Projection::Participant { .. } => self.participants.push(projection),
                Projection::Head { .. } | Projection::Sent { .. } => self.projections.push(projection),
            }
        }
    }
}

fn cannot_be_read() -> outcome::Body {
    metrics::COMMANDS.with_label_values(&["refused"]).inc();
    let failure =
        Failure::new(ErrorCode::Unavailable, "this conversation cannot be read now: try again later");
    outcome::Body::Failure(failure.retry_after(SUSPENDED_RETRY_MS).into())
}

/// The version to which an entry raises the partition, if it does.
fn raised(entry: &Result<wire::Entry, DecodeError>, ledger: &Ledger) -> Option<u32> {
    let version = entry.as_ref().ok().filter(|entry| entry.commands.is_empty())?.version;
    (version > ledger.version).then_some(version)
}

fn end_of(entry: &LogEntry, index: u32, ledger: &Ledger) -> End {
    End {
        position: ledger.incarnation.position(entry.sequence, index),
        tag: entry.tag,
        timestamp_us: ledger.incarnation.timestamp_us(entry.sequence, index),
        version: ledger.version,
    }
}

fn count(has_row: bool, outcome: Option<&outcome::Body>) {
    let label = match outcome {
        Some(outcome::Body::Failure(_)) => "refused",
        Some(outcome::Body::Accepted(accepted)) if accepted.repeated => "repeated",
        Some(outcome::Body::Accepted(_)) if has_row => "accepted",
        Some(outcome::Body::Accepted(_)) => "unchanged",
        None => "replayed",
    };
    metrics::COMMANDS.with_label_values(&[label]).inc();
}
