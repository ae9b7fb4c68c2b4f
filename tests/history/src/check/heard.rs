//! What was heard against what is stored: the same event at the same seq, for everybody.

use crate::check::excerpt;
use crate::history::{History, Map, Row};
use crate::record::What;
use crate::report::{Kind, Report};

pub fn check(history: &History<'_>, report: &mut Report) {
    // Seqs at which something was heard that is not stored, with what was first heard there.
    let mut doubted = Map::<(usize, u64), Option<&str>>::default();
    for (record, place) in history.records.iter().zip(&history.places) {
        let What::Heard { client, conversation, seq, id, .. } = &record.what else { continue };
        let Some(row) = history.logs[place.conversation].at(*seq) else {
            report.add(Kind::HeardUnstored, || {
                format!("{conversation}: {client} heard seq {seq} as {id} at {} us", record.at_us)
            });
            doubted.insert((place.conversation, *seq), None);
            continue;
        };
        if let Some(difference) = difference(&record.what, row) {
            report.add(Kind::HeardAltered, || {
                format!("{conversation}: {client} heard at {} us seq {seq} with {difference}", record.at_us)
            });
            doubted.insert((place.conversation, *seq), None);
        }
    }
    if !doubted.is_empty() {
        check_agreement(history, doubted, report);
    }
}

/// How an event differs from its row: field, what was heard, what is stored.
fn difference(heard: &What, row: &Row<'_>) -> Option<String> {
    let What::Heard { id, sender, client_id, content, .. } = heard else { return None };
    let fields = [
        ("id", id.as_str(), row.id),
        ("sender", sender, row.sender),
        ("client id", client_id.as_deref().unwrap_or_default(), row.client_id),
        ("content", content, row.content),
    ];
    let (field, heard, stored) = fields.into_iter().find(|(_, heard, stored)| heard != stored)?;
    Some(format!("{field} {}, stored with {}", excerpt(heard), excerpt(stored)))
}

/// Whether all who heard a seq heard one event there.
fn check_agreement<'a>(
    history: &History<'a>,
    mut doubted: Map<(usize, u64), Option<&'a str>>,
    report: &mut Report,
) {
    for (record, place) in history.records.iter().zip(&history.places) {
        let What::Heard { client, conversation, seq, id, .. } = &record.what else { continue };
        let Some(first) = doubted.get_mut(&(place.conversation, *seq)) else { continue };
        let first = *first.get_or_insert(id);
        if first != id {
            report.add(Kind::HeardDiffer, || {
                format!(
                    "{conversation}: {client} heard at {} us seq {seq} as {id}, first heard as {first}",
                    record.at_us
                )
            });
        }
    }
}
