//! Properties of the state machine for arbitrary commands: rows are contiguous, the same commands make the same bytes,
//! state is the fold of the rows, and a replay after a crash at any point makes exactly the rows that were missing.

use super::*;
use crate::core::conversation::Need;
use crate::core::rows::SentRow;
use crate::core::versions::{FIRST_VERSION, VERSION};
use crate::limits::TIME_DRAG_MAX_MS;
use carillon_proto::id::ConversationId;
use carillon_proto::limits::DEDUP_CLIENT_IDS_MAX;
use carillon_proto::position::Incarnation;
use proptest::prelude::*;

const USERS: [&str; 4] = ["ann", "bob", "eve", ""];

fn body() -> impl Strategy<Value = Body> {
    let user = || prop::sample::select(&USERS[..3]).prop_map(str::to_owned);
    let users = prop::collection::vec(user(), 0..3);
    let participants = users.clone();
    prop_oneof![
        6 => "[a-z]{0,8}".prop_map(|content| {
            Body::SendMessage(wire::SendMessage { content, ..wire::SendMessage::default() })
        }),
        2 => participants.prop_map(|participants| {
            Body::CreateConversation(wire::CreateConversation { participants, ..Default::default() })
        }),
        1 => prop::option::of("[a-z]{1,4}").prop_map(|title| {
            Body::UpdateConversation(wire::UpdateConversation { title, ..Default::default() })
        }),
        2 => users.prop_map(|users| Body::AddParticipants(wire::AddParticipants { users })),
        2 => user().prop_map(|user| Body::RemoveParticipant(wire::RemoveParticipant { user })),
    ]
}

fn command() -> impl Strategy<Value = wire::Command> {
    let client_id = prop_oneof![1 => Just(String::new()), 4 => "[a-f]"];
    (prop::sample::select(&USERS[..]), 0..3i32, client_id, body()).prop_map(
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

/// Commands with the times of their entries. The times go up and down, and sometimes jump by days.
fn commands() -> impl Strategy<Value = Vec<(u64, wire::Command)>> {
    let time_ms = prop_oneof![9 => 1_000..9_000u64, 1 => Just(9 * 86_400_000)];
    prop::collection::vec((time_ms, command()), 0..40)
}

/// Places the commands in the log. The entries from `raised` on are of the newest version, and those before it of the
/// first.
fn placed(commands: &[(u64, wire::Command)], raised: u64) -> Vec<(At, &wire::Command)> {
    let at = |nth: usize, time_ms: u64| {
        let (sequence, index) = (1 + nth as u64 / 3, nth as u32 % 3);
        let position = Position { incarnation: 1, sequence, index };
        let timestamp_us = 1_000_000 + 256 * sequence as i64 + i64::from(index);
        let version = if sequence < raised { FIRST_VERSION } else { VERSION };
        At { position, timestamp_us, time_ms, version }
    };
    commands.iter().enumerate().map(|(nth, (time_ms, command))| (at(nth, *time_ms), command)).collect()
}

/// The store of one conversation: its event rows, and the projected `sent` rows.
#[derive(Default, Clone)]
struct Rows {
    events: Vec<(Arc<wire::Event>, i64)>,
    sent: Vec<(String, SentRow)>,
}

impl Rows {
    fn project(&mut self, projections: &[Projection]) {
        for projection in projections {
            if let Projection::Sent { sender, time_ms, client_id, seq, .. } = projection {
                let row = SentRow { client_id: client_id.clone(), seq: *seq, time_ms: *time_ms };
                self.sent.push((sender.as_str().into(), row));
            }
        }
    }

    /// Loads as `load` does: from the head after the `head`th row, if there is one.
    fn load(&self, head: usize) -> Conversation {
        let id = || ConversationId::parse("room").expect("valid");
        let mut at_head = Conversation::new(id(), Vec::new());
        self.events[..head].iter().for_each(|(event, timestamp_us)| at_head.fold(event, *timestamp_us));
        let participants = at_head.participants().iter().cloned().collect();
        let mut conversation = match head {
            0 => Conversation::new(id(), Vec::new()),
            _ => Conversation::of_head(id(), at_head.head(1), participants),
        };
        for (event, timestamp_us) in &self.events[head..] {
            assert!(conversation.is_followed_by(event), "the seqs of the events are not contiguous");
            conversation.fold(event, *timestamp_us);
        }
        conversation.loaded()
    }

    /// Reads what a command needs, as `prepare` does.
    fn prepare(&self, conversation: &mut Conversation, command: &wire::Command) {
        while let Some(need) = conversation.need(&command.actor, &command.client_id) {
            match need {
                Need::Sender(sender) => {
                    let theirs = self.sent.iter().rev().filter(|(name, _)| *name == sender.as_str());
                    let rows = theirs.map(|(_, row)| row.clone()).take(DEDUP_CLIENT_IDS_MAX).collect();
                    conversation.learn(sender, rows);
                }
                Need::First { sender, client_id, seq } => {
                    let event =
                        self.events.iter().find(|(event, _)| event.seq == seq).map(|(event, _)| &**event);
                    conversation.confirm(&sender, &client_id, event);
                }
            }
        }
    }
}

/// Applies all commands without an interruption.
fn run(commands: &[(u64, wire::Command)], raised: u64) -> (Rows, Vec<Applied>, Conversation) {
    let mut rows = Rows::default();
    let mut conversation = rows.load(0);
    let mut all = Vec::new();
    for (at, command) in placed(commands, raised) {
        rows.prepare(&mut conversation, command);
        let applied = conversation.apply(at, command);
        rows.events.extend(applied.row.clone().map(|row| (row, at.timestamp_us)));
        rows.project(&applied.projections);
        all.push(applied);
    }
    (rows, all, conversation)
}

/// The event without what differs between two incarnations.
fn in_one_incarnation(event: &wire::Event) -> wire::Event {
    let position = event.position.map(|position| wire::Position { incarnation: 1, ..position });
    wire::Event { position, id: Bytes::new(), ..event.clone() }
}

fn head_in_one_incarnation(conversation: &Conversation) -> wire::Head {
    let head = conversation.head(1);
    let position = head.position.map(|position| wire::Position { incarnation: 1, ..position });
    wire::Head { position, last_message: head.last_message.as_ref().map(in_one_incarnation), ..head }
}

fn outcome_in_one_incarnation(outcome: Option<&outcome::Body>) -> Option<outcome::Body> {
    outcome.map(|outcome| match outcome {
        outcome::Body::Accepted(accepted) => {
            outcome::Body::Accepted(wire::Accepted { id: Bytes::new(), ..accepted.clone() })
        }
        other => other.clone(),
    })
}

fn bytes(rows: &[(Arc<wire::Event>, i64)]) -> Vec<(Vec<u8>, i64)> {
    rows.iter().map(|(event, timestamp_us)| (event.encode_to_vec(), *timestamp_us)).collect()
}

/// A worker that died with some rows written, the projections of fewer rows, a head over still fewer, and a checkpoint
/// below that head.
struct Crash {
    /// The number of rows that were written.
    written: usize,
    /// The number of rows that the head covers.
    headed: usize,
    /// The index of the first command to replay.
    checkpoint: usize,
    rows: Rows,
}

impl Crash {
    fn of(whole: &Rows, placed: &[(At, &wire::Command)], cuts: (f64, f64, f64)) -> Crash {
        let part = |of: usize, cut: f64| (of as f64 * cut) as usize;
        let written = part(whole.events.len(), cuts.0);
        let headed = part(written, cuts.1);
        let mut rows = Rows { events: whole.events[..written].to_vec(), sent: Vec::new() };
        // Everything below the head is projected. Rows above it may be projected or not; here they are not.
        let id = ConversationId::parse("room").expect("valid");
        for (event, timestamp_us) in &whole.events[..headed] {
            rows.project(&projection::of_event(&id, event, *timestamp_us));
        }
        let nth = headed.checked_sub(1);
        let head = nth.and_then(|nth| whole.events[nth].0.position).map(Position::from);
        let below_head = placed.iter().take_while(|(at, _)| Some(at.position) <= head).count();
        Crash { written, headed, checkpoint: part(below_head, cuts.2), rows }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn rows_are_contiguous_and_times_rise_unless_one_was_wrong(commands in commands(), raised in 0..15u64) {
        let (rows, applied, conversation) = run(&commands, raised);
        let mut next = 0;
        let mut time_ms = 0;
        for (nth, (event, _)) in rows.events.iter().enumerate() {
            let creates = matches!(event.kind, Some(Kind::Created(_)));
            prop_assert_eq!(event.seq == 0, creates);
            prop_assert!(!creates || nth == 0, "a creation comes first");
            next = if creates { 1 } else { event.seq + 1 };
            prop_assert!(nth == 0 && event.seq <= 1 || event.seq == rows.events[nth - 1].0.seq + 1);
            prop_assert!(event.time_ms >= time_ms || event.time_ms + TIME_DRAG_MAX_MS < time_ms);
            time_ms = event.time_ms;
        }
        prop_assert_eq!(conversation.seq(), next.max(1) - 1);
        let messages = rows.events.iter().filter(|(event, _)| matches!(event.kind, Some(Kind::Message(_)))).count();
        prop_assert_eq!(conversation.head(1).messages, messages as u64);
        prop_assert!(applied.iter().all(|applied| applied.outcome.is_some()), "every command needs an outcome");
    }

    #[test]
    fn the_same_commands_make_the_same_bytes(commands in commands(), raised in 0..15u64) {
        let (one, one_applied, one_conversation) = run(&commands, raised);
        let (other, other_applied, other_conversation) = run(&commands, raised);
        prop_assert_eq!(bytes(&one.events), bytes(&other.events));
        prop_assert_eq!(one_conversation.head(1).encode_to_vec(), other_conversation.head(1).encode_to_vec());
        for (one, other) in one_applied.iter().zip(&other_applied) {
            prop_assert_eq!(&one.outcome, &other.outcome);
            prop_assert_eq!(&one.projections, &other.projections);
        }
    }

    #[test]
    fn no_client_id_of_a_sender_is_in_two_rows(commands in commands(), raised in 0..15u64) {
        let (rows, ..) = run(&commands, raised);
        let mut seen = HashSet::new();
        for (event, _) in rows.events.iter().filter(|(event, _)| !event.client_id.is_empty()) {
            let is_new = seen.insert((&event.actor, &event.client_id));
            let sequence = event.position.map_or(0, |position| position.sequence);
            prop_assert!(is_new || event.actor.is_empty() && sequence < raised, "a second row for the id of {:?}", event);
        }
    }

    /// The worker dies with some rows written, the projections of fewer rows, and a head over still fewer, and replay
    /// begins at a checkpoint below that head. The successor makes exactly the missing rows. Every sender whose command
    /// was accepted as an event gets the same outcome again.
    #[test]
    fn replay_after_a_crash_makes_the_missing_rows(
        commands in commands(),
        raised in 0..15u64,
        cuts in (0.0..=1.0f64, 0.0..=1.0f64, 0.0..=1.0f64),
    ) {
        let (whole, applied, conversation) = run(&commands, raised);
        let placed = placed(&commands, raised);
        let Crash { written, headed, checkpoint, rows: crashed } = Crash::of(&whole, &placed, cuts);

        let mut replayed = crashed.load(headed);
        let mut made = Vec::new();
        for (nth, (at, command)) in placed.iter().enumerate().skip(checkpoint) {
            crashed.prepare(&mut replayed, command);
            let again = replayed.apply(*at, command);
            match (&again.outcome, &applied[nth].outcome) {
                (Some(again), Some(before)) => prop_assert_eq!(again, before),
                (None, Some(outcome::Body::Accepted(accepted))) => {
                    let is_deduplicated = !command.actor.is_empty() || at.version > FIRST_VERSION;
                    prop_assert!(accepted.id.is_empty() || command.client_id.is_empty() || !is_deduplicated,
                        "accepted with a row, but a repetition has no row: {:?}", command);
                }
                (None, _) => {}
                (Some(_), None) => prop_assert!(false, "a command has an outcome in the replay only"),
            }
            made.extend(again.row.clone().map(|row| (row, at.timestamp_us)));
        }
        prop_assert_eq!(bytes(&made), bytes(&whole.events[written..]));
        prop_assert_eq!(replayed.head(1).encode_to_vec(), conversation.head(1).encode_to_vec());
        prop_assert_eq!(replayed.participants(), conversation.participants());
    }

    /// The same for a successor that starts another incarnation in the same log generation. Its rows and outcomes
    /// differ from those of an uninterrupted run only in the incarnation and in what follows from it.
    #[test]
    fn replay_in_another_incarnation_makes_the_missing_rows(
        commands in commands(),
        raised in 0..15u64,
        cuts in (0.0..=1.0f64, 0.0..=1.0f64, 0.0..=1.0f64),
    ) {
        let (whole, applied, conversation) = run(&commands, raised);
        let placed = placed(&commands, raised);
        let Crash { written, headed, checkpoint, rows: crashed } = Crash::of(&whole, &placed, cuts);

        let first = placed.get(checkpoint).map_or(1, |(at, _)| at.position.sequence);
        let incarnation = Incarnation::new(1, 1, 1_000_000).taken_over(first, 900_000_000);
        let mut replayed = crashed.load(headed);
        if let Some(position) = replayed.position() {
            replayed.worked_to(incarnation, position);
        }
        let mut made = Vec::new();
        for (nth, (at, command)) in placed.iter().enumerate().skip(checkpoint) {
            let Position { sequence, index, .. } = at.position;
            let timestamp_us = incarnation.timestamp_us(sequence, index);
            let at = At { position: incarnation.position(sequence, index), timestamp_us, ..*at };
            crashed.prepare(&mut replayed, command);
            let again = replayed.apply(at, command);
            if again.outcome.is_some() {
                let outcome_of = |outcome| outcome_in_one_incarnation(outcome);
                prop_assert_eq!(outcome_of(again.outcome.as_ref()), outcome_of(applied[nth].outcome.as_ref()));
            }
            made.extend(again.row);
        }
        let made: Vec<_> = made.iter().map(|event| in_one_incarnation(event)).collect();
        let missing: Vec<_> = whole.events[written..].iter().map(|(event, _)| in_one_incarnation(event)).collect();
        prop_assert_eq!(made, missing);
        prop_assert_eq!(head_in_one_incarnation(&replayed), head_in_one_incarnation(&conversation));
        prop_assert_eq!(replayed.participants(), conversation.participants());
    }
}
