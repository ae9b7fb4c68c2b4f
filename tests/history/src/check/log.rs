//! Checks each log by itself: seqs are contiguous from 1, each seq and each message is stored once, and reported heads
//! are right.

use crate::check::excerpt;
use crate::history::{History, Log, Map};
use crate::record::What;
use crate::report::{Kind, Report};

pub fn check(history: &History<'_>, report: &mut Report) {
    for (conversation, log) in history.logs.iter().enumerate() {
        let name = history.conversations.name(conversation);
        check_seqs(name, log, report);
        check_once(name, log, report);
        for head in &log.heads {
            if *head != log.last() {
                report.add(Kind::Head, || format!("{name}: head {head}, last stored seq {}", log.last()));
            }
        }
    }
    check_heads_of_joins(history, report);
}

fn check_seqs(name: &str, log: &Log<'_>, report: &mut Report) {
    let mut before = None;
    for row in &log.rows {
        if before == Some(row.seq) {
            report.add(Kind::SeqTwice, || {
                format!("{name}: seq {} is also {} ({} of {})", row.seq, row.id, row.client_id, row.sender)
            });
        } else if before.map_or(1, |seq: u64| seq.saturating_add(1)) != row.seq {
            report.add(Kind::Hole, || format!("{name}: seq {} follows {}", row.seq, before.unwrap_or(0)));
        }
        before = Some(row.seq);
    }
}

fn check_once(name: &str, log: &Log<'_>, report: &mut Report) {
    let mut by_id = Map::default();
    let mut by_content = Map::default();
    for row in &log.rows {
        let first = *by_id.entry((row.sender, row.client_id)).or_insert(row.seq);
        let first_content = *by_content.entry(row.content).or_insert(row.seq);
        if first != row.seq {
            report.add(Kind::Duplicated, || {
                format!("{name}: {} of {} at seq {first} and {}", row.client_id, row.sender, row.seq)
            });
        } else if first_content != row.seq {
            report.add(Kind::Duplicated, || {
                format!(
                    "{name}: content {} at seq {first_content} and {} ({} of {})",
                    excerpt(row.content),
                    row.seq,
                    row.client_id,
                    row.sender
                )
            });
        }
    }
}

/// The head in the reply to a join is committed, so the log cannot end below it.
fn check_heads_of_joins(history: &History<'_>, report: &mut Report) {
    for (record, place) in history.records.iter().zip(&history.places) {
        let What::Joined { client, conversation, head, .. } = &record.what else { continue };
        let last = history.logs[place.conversation].last();
        if *head > last {
            report.add(Kind::Head, || {
                format!(
                    "{conversation}: {client} received head {head} at {} us, last stored seq {last}",
                    record.at_us
                )
            });
        }
    }
}
