//! Checks the order of each log: it must follow real time, and for each connection of a client the order of sending.

use crate::history::{History, Row, Sending};
use crate::record::What;
use crate::report::{Kind, Report};
use std::collections::BinaryHeap;

pub fn check(history: &History<'_>, report: &mut Report) {
    for conversation in 0..history.logs.len() {
        check_real_time(history, conversation, report);
    }
    check_clients(history, report);
}

/// Appending must be linearizable: a message that was complete before another one was first sent has the lower seq. For
/// each row it is enough to look at the earliest completion among the rows above it.
fn check_real_time(history: &History<'_>, conversation: usize, report: &mut Report) {
    let mut earliest: Option<(u64, &Row<'_>)> = None;
    for (number, row) in history.logs[conversation].rows.iter().enumerate().rev() {
        let Some(message) = row.message.map(|message| &history.messages[message]) else { continue };
        if message.row != Some(number) {
            continue;
        }
        if let Some((complete_at_us, later)) = earliest
            && complete_at_us < message.first_sent_at_us
        {
            report.add(Kind::NotLinearizable, || {
                format!(
                    "{}: stored at seq {} and first sent at {} us, when {} of {} at seq {} had been complete \
                     since {complete_at_us} us",
                    history.describe(message),
                    row.seq,
                    message.first_sent_at_us,
                    later.client_id,
                    later.sender,
                    later.seq
                )
            });
        }
        if earliest.is_none_or(|(complete_at_us, _)| message.complete_at_us < complete_at_us) {
            earliest = Some((message.complete_at_us, row));
        }
    }
}

/// A message whose seq must be lower than those of its client's later messages, up to `end_index`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Earlier {
    seq: u64,
    /// The record from which the message no longer orders later ones.
    end_index: usize,
    sending: usize,
}

fn check_clients(history: &History<'_>, report: &mut Report) {
    let connections = connections(history);
    let mut sendings: Vec<usize> = (0..history.sendings.len()).collect();
    let place = |sending: &usize| {
        let sending = &history.sendings[*sending];
        (sending.client, history.messages[sending.message].conversation)
    };
    sendings.sort_by_key(|sending| (place(sending), history.sendings[*sending].first_index));
    for group in sendings.chunk_by(|one, other| place(one) == place(other)) {
        let (client, _) = place(&group[0]);
        check_client(history, group, &connections[client], report);
    }
}

/// The records in which each client's connections began.
fn connections(history: &History<'_>) -> Vec<Vec<usize>> {
    let mut connections = vec![Vec::new(); history.clients.len()];
    for (index, (record, place)) in history.records.iter().zip(&history.places).enumerate() {
        if matches!(record.what, What::Connected { .. }) {
            connections[place.client].push(index);
        }
    }
    connections
}

/// Checks `group`: what one client sent to one conversation, in the order of first attempts. A message has a lower seq
/// than messages that were first sent after its last attempt on the same connection. On another connection the order is
/// not promised, because it may reach another gateway, which has no information about commands under way at the first.
fn check_client(history: &History<'_>, group: &[usize], connections: &[usize], report: &mut Report) {
    let mut by_last_attempt = group.to_vec();
    by_last_attempt.sort_by_key(|sending| history.sendings[*sending].last_index);
    let mut waiting = by_last_attempt.into_iter().peekable();
    let mut earlier = BinaryHeap::<Earlier>::new();
    for number in group {
        let sending = &history.sendings[*number];
        let now = sending.first_index;
        while let Some(before) = waiting.next_if(|before| history.sendings[*before].last_index < now) {
            let (Some(row), Some(end_index)) =
                (own_row(history, before), end_index(&history.sendings[before], connections))
            else {
                continue;
            };
            earlier.push(Earlier { seq: row.seq, end_index, sending: before });
        }
        while earlier.peek().is_some_and(|before| before.end_index < now) {
            earlier.pop();
        }
        let (Some(row), Some(before)) = (own_row(history, *number), earlier.peek()) else { continue };
        if row.seq < before.seq {
            let first = &history.sendings[before.sending];
            report.add(Kind::ClientOrder, || {
                format!(
                    "{}: {} sent it at {} us, stored at seq {}; and before, last at {} us, {}, stored at seq {}",
                    history.describe(&history.messages[sending.message]),
                    history.clients.name(sending.client),
                    history.records[now].at_us,
                    row.seq,
                    history.records[first.last_index].at_us,
                    history.messages[first.message].client_id,
                    before.seq
                )
            });
        }
    }
}

/// The row of a message that no other client of the user sent.
fn own_row<'h>(history: &'h History<'_>, sending: usize) -> Option<&'h Row<'h>> {
    let sending = &history.sendings[sending];
    let message = &history.messages[sending.message];
    if message.attempts == sending.attempts { history.row_of(message) } else { None }
}

/// The record until which a message orders later ones, or `None` if it orders none. It does so until its connection
/// ends, or until the server reports that the last attempt had no effect or perhaps none. After such a report on a
/// repetition it orders nothing, because an earlier attempt may take effect at any time.
fn end_index(sending: &Sending<'_>, connections: &[usize]) -> Option<usize> {
    if sending.attempts > 1 && sending.unsure_index.is_some() {
        return None;
    }
    let next = connections.partition_point(|connected| *connected < sending.last_index);
    let next = connections.get(next).copied().unwrap_or(usize::MAX);
    Some(next.min(sending.unsure_index.unwrap_or(usize::MAX)))
}
