//! Checks that the history can be judged: no client's time goes back, and no client contradicts itself.

use crate::history::History;
use crate::report::{Kind, Report};

pub fn check(history: &History<'_>, report: &mut Report) {
    let mut times_us = vec![0_u64; history.clients.len()];
    for (index, (record, place)) in history.records.iter().zip(&history.places).enumerate() {
        if record.what.client().is_none() {
            continue;
        }
        let before_us = std::mem::replace(&mut times_us[place.client], record.at_us);
        if record.at_us < before_us {
            report.add(Kind::TimeBackwards, || {
                let name = history.clients.name(place.client);
                format!("{name}: {} us after {before_us} us, in record {}", record.at_us, index + 1)
            });
        }
    }
    for index in &history.contradictions {
        report.add(Kind::Malformed, || {
            let client = history.places[*index].client;
            format!(
                "{}, so far of {}: record {} at {} us fits no client of one user, with one content a client id",
                history.clients.name(client),
                history.users.name(history.user_of[client]),
                index + 1,
                history.records[*index].at_us
            )
        });
    }
}
