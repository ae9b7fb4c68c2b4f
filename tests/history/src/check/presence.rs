//! Checks presence as clients saw it against the connections at that time: a user is online while any of its clients is
//! connected.

use crate::history::History;
use crate::record::{Record, What};
use crate::report::{Kind, Report};

pub fn check(history: &History<'_>, report: &mut Report) {
    let mut steps: Vec<usize> =
        (0..history.records.len()).filter(|index| concerns(history, *index)).collect();
    steps.sort_by_key(|index| (history.records[*index].at_us, *index));
    let mut is_connected = vec![false; history.clients.len()];
    // How many of each user's clients are connected.
    let mut connected = vec![0_u64; history.users.len()];
    for index in steps {
        let client = history.places[index].client;
        let Record { at_us, what } = &history.records[index];
        match what {
            What::Connected { .. } => {
                let was_connected = std::mem::replace(&mut is_connected[client], true);
                connected[history.user_of[client]] += u64::from(!was_connected);
            }
            What::Disconnected { .. } => {
                let was_connected = std::mem::replace(&mut is_connected[client], false);
                connected[history.user_of[client]] -= u64::from(was_connected);
            }
            What::Seen { observer, user, online } => {
                let clients = history.users.find(user).map_or(0, |user| connected[user]);
                if *online && clients == 0 {
                    report.add(Kind::Ghost, || format!("{user}: seen online by {observer} at {at_us} us"));
                } else if !online && clients > 0 {
                    report.add(Kind::Unseen, || {
                        format!("{user}: seen offline by {observer} at {at_us} us, with {clients} clients")
                    });
                }
            }
            _ => {}
        }
    }
}

fn concerns(history: &History<'_>, index: usize) -> bool {
    matches!(
        history.records[index].what,
        What::Connected { .. } | What::Disconnected { .. } | What::Seen { .. }
    )
}
