//! Checks that every stored, received or acknowledged message was sent, and that none was received or acknowledged
//! before it was sent.

use crate::check::excerpt;
use crate::history::History;
use crate::record::What;
use crate::report::{Kind, Report};

pub fn check(history: &History<'_>, report: &mut Report) {
    for (conversation, log) in history.logs.iter().enumerate() {
        for row in &log.rows {
            let sent = row.message.is_some_and(|message| history.messages[message].had(row.content));
            if !sent {
                report.add(Kind::Phantom, || {
                    format!(
                        "{}: stored at seq {} as {}: {} of {}, content {}",
                        history.conversations.name(conversation),
                        row.seq,
                        row.id,
                        row.client_id,
                        row.sender,
                        excerpt(row.content)
                    )
                });
            }
        }
    }
    for index in &history.stray_acks {
        let record = &history.records[*index];
        let What::Ack { client, conversation, client_id, seq, id } = &record.what else { continue };
        report.add(Kind::Phantom, || {
            format!(
                "{conversation}: {client} received at {} us an ack of {client_id} at seq {seq} as {id}, \
                 and had not sent it",
                record.at_us
            )
        });
    }
    check_received(history, report);
}

fn check_received(history: &History<'_>, report: &mut Report) {
    for (record, place) in history.records.iter().zip(&history.places) {
        let What::Received { client, conversation, seq, id, sender, client_id, content } = &record.what
        else {
            continue;
        };
        let client_id = client_id.as_deref().unwrap_or_default();
        let row = history.logs[place.conversation].at(*seq);
        // An event that equals a row is that row's message, so no search is needed.
        let message = match row.filter(|row| row.sender == sender && row.client_id == client_id) {
            Some(row) => row.message,
            None => history.message(place.conversation, sender, client_id),
        };
        let message = message.map(|message| &history.messages[message]);
        if message.is_none_or(|message| !message.had(content) || record.at_us < message.first_sent_at_us) {
            report.add(Kind::Phantom, || {
                let sent = message.filter(|message| message.had(content)).map_or_else(
                    || "never sent".to_owned(),
                    |message| format!("sent at {} us", message.first_sent_at_us),
                );
                format!(
                    "{conversation}: {client} received at {} us seq {seq} as {id}: {client_id} of {sender}, \
                     content {}: {sent}",
                    record.at_us,
                    excerpt(content)
                )
            });
        }
    }
}
