//! Tests of the auditor's judgement. For arbitrary commands, the rows that the state machine made give no finding, with
//! any window of rows and any head. If one row is removed, exactly that row is found missing.

use super::*;
use crate::core::apply::At;
use crate::core::versions::VERSION;
use carillon_proto::position::Incarnation;
use carillon_proto::wire::{Authority, command::Body};
use carillon_runtime::bus::LogEntry;
use proptest::prelude::*;

const INCARNATION: Incarnation = Incarnation::new(2, 5, 1_000_000);
const COMMANDS_PER_ENTRY: usize = 3;

fn id() -> ConversationId {
    ConversationId::parse("room").expect("valid")
}

fn body() -> impl Strategy<Value = Body> {
    let user = || prop::sample::select(&["ann", "bob", "eve"][..]).prop_map(str::to_owned);
    let users = prop::collection::vec(user(), 0..3);
    let participants = users.clone();
    prop_oneof![
        6 => Just(Body::SendMessage(wire::SendMessage { content: "hello".into(), ..Default::default() })),
        2 => participants.prop_map(|participants| {
            Body::CreateConversation(wire::CreateConversation { participants, ..Default::default() })
        }),
        1 => Just(Body::UpdateConversation(wire::UpdateConversation {
            archived: Some(true),
            ..Default::default()
        })),
        2 => users.prop_map(|users| Body::AddParticipants(wire::AddParticipants { users })),
        2 => user().prop_map(|user| Body::RemoveParticipant(wire::RemoveParticipant { user })),
    ]
}

fn command() -> impl Strategy<Value = wire::Command> {
    let client_id = prop_oneof![1 => Just(String::new()), 4 => "[a-f]"];
    (prop::sample::select(&["ann", "bob", "eve", ""][..]), 0..3i32, client_id, body()).prop_map(
        |(actor, authority, client_id, body)| wire::Command {
            conversation: "room".into(),
            actor: actor.into(),
            authority,
            client_id,
            body: Some(body),
            ..wire::Command::default()
        },
    )
}

/// The results of a worker for some commands: the log, the rows, and the head after each row.
struct Worked {
    log: Log,
    rows: Vec<EventRow>,
    heads: Vec<(wire::Head, Vec<UserId>)>,
    /// Positions of repeated commands, with the seqs that they repeat.
    repeats: Vec<(Position, u64)>,
}

fn work(commands: &[wire::Command]) -> Worked {
    let last = INCARNATION.first_sequence + commands.len().div_ceil(COMMANDS_PER_ENTRY) as u64 - 1;
    let mut log =
        Log::new((0, 1), INCARNATION, HashSet::new(), (INCARNATION.first_sequence, last), &[id()], VERSION);
    let mut conversation = Conversation::new(id(), Vec::new()).loaded();
    let mut worked = (Vec::new(), Vec::new(), Vec::new());
    for commands in commands.chunks(COMMANDS_PER_ENTRY) {
        let sequence = log.wanted().expect("more entries are wanted");
        let (tag, time_ms) = (Tag([sequence as u8; 16]), 1_000 * sequence);
        for (index, command) in commands.iter().enumerate() {
            let position = INCARNATION.position(sequence, index as u32);
            let timestamp_us = INCARNATION.timestamp_us(sequence, index as u32);
            let applied =
                conversation.apply(At { position, timestamp_us, time_ms, version: VERSION }, command);
            if let Some(wire::outcome::Body::Accepted(accepted)) = &applied.outcome
                && accepted.repeated
            {
                worked.2.push((position, accepted.seq));
            }
            let Some(event) = applied.row else { continue };
            let blob = event.encode_to_vec().into();
            worked.0.push(EventRow { conversation: id(), seq: event.seq, position, tag, timestamp_us, blob });
            worked.1.push((conversation.head(1), conversation.participants().iter().cloned().collect()));
        }
        let entry = wire::Entry { commands: commands.to_vec(), version: 0 };
        log.add_entry(&LogEntry { sequence, tag, time_ms, payload: entry.encode_to_vec().into() });
    }
    let (rows, heads, repeats) = worked;
    Worked { log, rows, heads, repeats }
}

impl Worked {
    /// The conversation as the auditor reads it, with the head that was written after the row at `head`, and at most
    /// `rows_max` rows up to that head.
    fn stored(&self, head: Option<usize>, rows_max: usize) -> Stored {
        let (head, participants) = match head.and_then(|nth| self.heads.get(nth)) {
            Some((head, participants)) => (Some(head.clone()), participants.clone()),
            None => (None, Vec::new()),
        };
        let head_seq = head.as_ref().map_or(0, |head| head.seq);
        let of = |keep: &dyn Fn(u64) -> bool| {
            self.rows
                .iter()
                .filter(|row| keep(row.seq))
                .map(|row| Row::of(row, &self.log))
                .collect::<Vec<_>>()
        };
        let creation = of(&|seq| seq == 0).pop();
        let mut rows = of(&|seq| seq > 0 && seq <= head_seq);
        let left_out = rows.len().saturating_sub(rows_max);
        let is_cut = left_out > 0 || (rows.len() == rows_max && rows.first().is_some_and(|row| row.seq > 1));
        rows.drain(..left_out);
        rows.extend(of(&|seq| seq > head_seq));
        Stored { id: id(), head, participants, creation, rows, is_cut }
    }

    fn whole(&self) -> Stored {
        self.stored(self.heads.len().checked_sub(1), usize::MAX)
    }
}

fn found(judged: &Judged) -> Vec<(Kind, u64, Option<Position>)> {
    judged.findings.iter().map(|finding| (finding.kind, finding.seq, finding.position)).collect()
}

proptest! {
    #[test]
    fn rows_of_the_state_machine_give_no_finding(
        commands in prop::collection::vec(command(), 1..60),
        head in prop::option::of(0..40usize),
        rows_max in 1..30usize,
    ) {
        let worked = work(&commands);
        for stored in [worked.whole(), worked.stored(head, usize::MAX)] {
            let judged = judge(&stored, &worked.log, &HashSet::new());
            prop_assert_eq!(found(&judged), []);
            prop_assert_eq!(judged.unjudged, 0);
        }
        let cut = worked.stored(head.or(worked.heads.len().checked_sub(1)), rows_max);
        let first = cut.rows.first().filter(|_| cut.is_cut).map_or(0, |row| row.seq);
        let below = worked.repeats.iter().filter(|(_, seq)| *seq <= first).map(|(position, _)| *position);
        let judged = judge(&cut, &worked.log, &below.collect());
        prop_assert_eq!(found(&judged), []);
    }

    #[test]
    fn a_removed_row_is_found_missing_and_no_other(
        commands in prop::collection::vec(command(), 1..60),
        nth in any::<prop::sample::Index>(),
    ) {
        let mut worked = work(&commands);
        prop_assume!(!worked.rows.is_empty());
        let taken = worked.rows.remove(nth.index(worked.rows.len()));
        let head_seq = worked.heads.last().map_or(0, |(head, _)| head.seq);
        let judged = judge(&worked.whole(), &worked.log, &HashSet::new());
        let missing = (Kind::Missing, taken.seq, Some(taken.position));
        let gap = match taken.seq {
            0 => (Kind::Hole, 0, None),
            seq if seq == head_seq => (Kind::HeadAhead, seq - 1, None),
            seq => {
                let next = worked.rows.iter().find(|row| row.seq > seq);
                (Kind::Hole, seq, next.map(|row| row.position))
            }
        };
        prop_assert_eq!(found(&judged), [gap, missing]);
    }

    #[test]
    fn rows_with_swapped_seqs_are_out_of_order(
        commands in prop::collection::vec(command(), 20..60),
        nth in any::<prop::sample::Index>(),
    ) {
        let mut worked = work(&commands);
        let first = worked.rows.iter().position(|row| row.seq == 1).unwrap_or(worked.rows.len());
        prop_assume!(worked.rows.len() >= first + 2);
        let nth = first + nth.index(worked.rows.len() - first - 1);
        let seqs = (worked.rows[nth].seq, worked.rows[nth + 1].seq);
        worked.rows.swap(nth, nth + 1);
        (worked.rows[nth].seq, worked.rows[nth + 1].seq) = seqs;
        let judged = judge(&worked.whole(), &worked.log, &HashSet::new());
        let of = |kind| judged.findings.iter().filter(|finding| finding.kind == kind).count();
        prop_assert_eq!((of(Kind::OutOfOrder), of(Kind::Missing), of(Kind::Hole)), (1, 0, 0));
        prop_assert_eq!(of(Kind::ForeignRow), 2, "the events in them have other seqs");
    }
}

fn messages(count: u64) -> Vec<wire::Command> {
    let message = |n| wire::Command {
        conversation: "room".into(),
        actor: "ann".into(),
        authority: Authority::Granted.into(),
        client_id: format!("c{n}"),
        body: Some(Body::SendMessage(wire::SendMessage::default())),
        ..wire::Command::default()
    };
    (0..count).map(message).collect()
}

type Damage = fn(&mut EventRow);

#[test]
fn rows_that_differ_from_what_their_command_makes_are_foreign() {
    let cases: [(&str, Damage); 7] = [
        ("another tag", |row| row.tag = Tag([0; 16])),
        ("another timestamp", |row| row.timestamp_us += 1),
        ("no event", |row| row.blob = Bytes::from_static(b"\xff")),
        ("an event of another seq", |row| rewrite(row, |event| event.seq += 1)),
        ("an event of another position", |row| rewrite(row, |event| event.position = None)),
        ("an event of another conversation", |row| rewrite(row, |event| event.conversation = "hall".into())),
        ("an id of nobody", |row| rewrite(row, |event| event.id = Bytes::new())),
    ];
    for (what, damage) in cases {
        let mut worked = work(&messages(6));
        damage(&mut worked.rows[3]);
        let judged = judge(&worked.whole(), &worked.log, &HashSet::new());
        let at = worked.rows[3].position;
        assert_eq!(found(&judged), [(Kind::ForeignRow, 4, Some(at))], "{what}");
    }
}

fn rewrite(row: &mut EventRow, change: impl FnOnce(&mut wire::Event)) {
    let mut event = wire::Event::decode(row.blob.clone()).expect("an event");
    change(&mut event);
    row.blob = event.encode_to_vec().into();
}

#[test]
fn a_row_at_a_position_without_a_command_is_foreign() {
    let mut worked = work(&messages(6));
    let nowhere = INCARNATION.position(INCARNATION.first_sequence + 1, 200);
    worked.rows[5].position = nowhere;
    worked.rows[5].timestamp_us = INCARNATION.timestamp_us(nowhere.sequence, nowhere.index);
    let judged = judge(&worked.whole(), &worked.log, &HashSet::new());
    let kinds: Vec<Kind> = judged.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(
        kinds,
        [Kind::ForeignRow, Kind::Missing],
        "the row is foreign and the command that it was for has no row"
    );
}

#[test]
fn rows_of_purged_entries_or_of_earlier_incarnations_give_no_finding() {
    let mut worked = work(&messages(6));
    // As if the entries had been purged: there is nothing to compare the rows with.
    worked.log =
        Log::new((0, 1), INCARNATION, HashSet::new(), (INCARNATION.first_sequence + 2, 6), &[id()], VERSION);
    assert_eq!(found(&judge(&worked.whole(), &worked.log, &HashSet::new())), []);
    // In a later incarnation, the timestamps of the one before are not known.
    let later = Incarnation::new(3, 7, 9_000_000);
    worked.log = Log::new((0, 1), later, HashSet::new(), (7, 6), &[id()], VERSION);
    assert_eq!(found(&judge(&worked.whole(), &worked.log, &HashSet::new())), []);
    // In an earlier incarnation, no worker can have written these rows.
    let earlier = Incarnation::new(1, 7, 9_000_000);
    worked.log = Log::new((0, 1), earlier, HashSet::new(), (7, 6), &[id()], VERSION);
    let judged = judge(&worked.whole(), &worked.log, &HashSet::new());
    assert!(judged.findings.len() == 6 && judged.findings.iter().all(|it| it.kind == Kind::ForeignRow));
}
