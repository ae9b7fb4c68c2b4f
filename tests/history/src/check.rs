//! The check of a history for broken promises. Each module checks one family of promises.

mod acks;
mod clock;
mod log;
mod order;
mod origin;
mod presence;
mod received;
mod subscriber;

use crate::history::History;
use crate::record::{Record, What};
use crate::report::{Counts, Report};

/// How many characters of a text a report shows.
const EXCERPT_CHARS_MAX: usize = 40;

/// Judges a history. The same records give the same report. Time is O(n log n), memory O(n).
///
/// A client's records must stand in their order (see [`Record`]). The records must include everything that is stored at
/// the end: anything else counts as not stored.
#[must_use]
pub fn check(records: &[Record]) -> Report {
    let history = History::new(records);
    let mut report = Report { counts: count(&history), ..Report::default() };
    clock::check(&history, &mut report);
    log::check(&history, &mut report);
    acks::check(&history, &mut report);
    origin::check(&history, &mut report);
    order::check(&history, &mut report);
    received::check(&history, &mut report);
    subscriber::check(&history, &mut report);
    presence::check(&history, &mut report);
    report
}

fn count(history: &History<'_>) -> Counts {
    let mut counts = Counts {
        records: history.records.len() as u64,
        clients: history.clients.len() as u64,
        users: history.users.len() as u64,
        conversations: history.conversations.len() as u64,
        sent: history.messages.len() as u64,
        ..Counts::default()
    };
    for message in &history.messages {
        counts.resends += message.attempts - 1;
        if message.ack.is_some() {
            counts.acknowledged += 1;
        } else if message.is_refused() {
            counts.refused += 1;
        } else {
            counts.open += 1;
        }
    }
    let mut connected = 0_u64;
    let mut was_connected = vec![false; history.clients.len()];
    for (record, place) in history.records.iter().zip(&history.places) {
        match &record.what {
            What::Connected { .. } => {
                connected += u64::from(std::mem::replace(&mut was_connected[place.client], true));
            }
            What::Joined { .. } => counts.joins += 1,
            What::Received { .. } => counts.received += 1,
            What::Stored { .. } => counts.stored += 1,
            What::Seen { .. } => counts.seen += 1,
            _ => {}
        }
    }
    counts.reconnects = connected;
    counts
}

/// The beginning of a text, quoted and on one line.
fn excerpt(text: &str) -> String {
    let mut shown = format!("{:?}", text.chars().take(EXCERPT_CHARS_MAX).collect::<String>());
    if text.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
