//! Checks acks against the log: an acknowledged message is stored with the seq and id of its ack, and a message that
//! was refused on every attempt is not stored.

use crate::history::History;
use crate::record::What;
use crate::report::{Kind, Report};

pub fn check(history: &History<'_>, report: &mut Report) {
    for message in &history.messages {
        let row = history.row_of(message);
        match (message.ack, row) {
            (Some(ack), None) => report.add(Kind::Lost, || {
                format!("{}: acknowledged at seq {} as {}", history.describe(message), ack.seq, ack.id)
            }),
            (Some(ack), Some(row)) if ack.seq != row.seq || ack.id != row.id => {
                report.add(Kind::AckElsewhere, || {
                    format!(
                        "{}: acknowledged at seq {} as {}, stored at seq {} as {}",
                        history.describe(message),
                        ack.seq,
                        ack.id,
                        row.seq,
                        row.id
                    )
                });
            }
            (_, Some(row)) if message.is_refused() => report.add(Kind::RefusedStored, || {
                format!(
                    "{}: refused {} times of {}, stored at seq {} as {}",
                    history.describe(message),
                    message.refusals,
                    message.attempts,
                    row.seq,
                    row.id
                )
            }),
            _ => {}
        }
    }
    for (message, index) in &history.differing_acks {
        let record = &history.records[*index];
        let (What::Ack { client, seq, id, .. }, Some(first)) = (&record.what, history.messages[*message].ack)
        else {
            continue;
        };
        report.add(Kind::AcksDiffer, || {
            format!(
                "{}: acknowledged at seq {} as {}, and to {client} at {} us at seq {seq} as {id}",
                history.describe(&history.messages[*message]),
                first.seq,
                first.id,
                record.at_us
            )
        });
    }
}
