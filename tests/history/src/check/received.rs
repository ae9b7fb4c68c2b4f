//! Checks received events against stored ones: every client received the stored event at each seq.

use crate::check::excerpt;
use crate::history::{History, Map, Row};
use crate::record::What;
use crate::report::{Kind, Report};

pub fn check(history: &History<'_>, report: &mut Report) {
    // Seqs at which a client received an event that is not stored there, with the id that was first received.
    let mut doubted = Map::<(usize, u64), Option<&str>>::default();
    for (record, place) in history.records.iter().zip(&history.places) {
        let What::Received { client, conversation, seq, id, .. } = &record.what else { continue };
        let Some(row) = history.logs[place.conversation].at(*seq) else {
            report.add(Kind::ReceivedUnstored, || {
                format!("{conversation}: {client} received seq {seq} as {id} at {} us", record.at_us)
            });
            doubted.insert((place.conversation, *seq), None);
            continue;
        };
        if let Some(difference) = difference(&record.what, row) {
            report.add(Kind::ReceivedAltered, || {
                format!(
                    "{conversation}: {client} received at {} us seq {seq} with {difference}",
                    record.at_us
                )
            });
            doubted.insert((place.conversation, *seq), None);
        }
    }
    if !doubted.is_empty() {
        check_agreement(history, doubted, report);
    }
}

/// The first field in which an event differs from its row, with the received and the stored value.
fn difference(event: &What, row: &Row<'_>) -> Option<String> {
    let What::Received { id, sender, client_id, content, .. } = event else { return None };
    let fields = [
        ("id", id.as_str(), row.id),
        ("sender", sender, row.sender),
        ("client id", client_id.as_deref().unwrap_or_default(), row.client_id),
        ("content", content, row.content),
    ];
    let (field, received, stored) = fields.into_iter().find(|(_, received, stored)| received != stored)?;
    Some(format!("{field} {}, stored with {}", excerpt(received), excerpt(stored)))
}

/// Checks that all clients received the same event at each doubted seq.
fn check_agreement<'a>(
    history: &History<'a>,
    mut doubted: Map<(usize, u64), Option<&'a str>>,
    report: &mut Report,
) {
    for (record, place) in history.records.iter().zip(&history.places) {
        let What::Received { client, conversation, seq, id, .. } = &record.what else { continue };
        let Some(first) = doubted.get_mut(&(place.conversation, *seq)) else { continue };
        let first = *first.get_or_insert(id);
        if first != id {
            report.add(Kind::ReceivedDiffer, || {
                format!(
                    "{conversation}: {client} received at {} us seq {seq} as {id}, first received as {first}",
                    record.at_us
                )
            });
        }
    }
}
