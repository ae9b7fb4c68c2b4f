//! Building blocks of damages: they find records in a history and change them together.

use crate::generator::user_of;
use crate::random::Random;
use carillon_history::{Kind, Record, What};
use std::collections::HashMap;

/// A way to break a promise in a good history.
pub struct Damage {
    pub name: &'static str,
    /// Breaks it; `None` if this history has nothing that it could break.
    pub apply: fn(&mut Vec<Record>, &mut Random) -> Option<()>,
    /// The kind with which the checker must report it.
    pub kind: Kind,
    /// Whether the checker must report no other kind.
    pub alone: bool,
}

/// Identifies a message: conversation, user, client id.
pub type Name = (String, String, String);

/// The message that a record is about.
pub fn name_of(what: &What) -> Option<Name> {
    let (conversation, user, client_id) = match what {
        What::Send { client, conversation, client_id, .. }
        | What::Ack { client, conversation, client_id, .. }
        | What::Refused { client, conversation, client_id, .. } => (conversation, user_of(client), client_id),
        What::Received { conversation, sender, client_id: Some(client_id), .. }
        | What::Stored { conversation, sender, client_id, .. } => (conversation, sender.as_str(), client_id),
        _ => return None,
    };
    Some((conversation.clone(), user.to_owned(), client_id.clone()))
}

/// The records that satisfy a condition.
pub fn find(records: &[Record], holds: impl Fn(&What) -> bool) -> Vec<usize> {
    (0..records.len()).filter(|index| holds(&records[*index].what)).collect()
}

/// A random record that satisfies a condition.
pub fn pick(records: &[Record], random: &mut Random, holds: impl Fn(&What) -> bool) -> Option<usize> {
    random.choose(&find(records, holds))
}

/// A random acknowledged message, by the record of its first ack.
pub fn pick_first_ack(records: &[Record], random: &mut Random) -> Option<usize> {
    let mut firsts = HashMap::new();
    for index in find(records, |what| matches!(what, What::Ack { .. })) {
        firsts.entry(name_of(&records[index].what)?).or_insert(index);
    }
    let mut firsts: Vec<usize> = firsts.into_values().collect();
    firsts.sort_unstable();
    random.choose(&firsts)
}

pub fn row_of(records: &[Record], name: &Name) -> Option<usize> {
    records.iter().position(|record| {
        matches!(record.what, What::Stored { .. }) && name_of(&record.what).as_ref() == Some(name)
    })
}

pub fn seq_of(what: &What) -> Option<u64> {
    match what {
        What::Ack { seq, .. } | What::Received { seq, .. } | What::Stored { seq, .. } => Some(*seq),
        _ => None,
    }
}

pub fn with_seq(record: &Record, new: u64) -> Record {
    let mut record = record.clone();
    if let What::Ack { seq, .. } | What::Received { seq, .. } | What::Stored { seq, .. } = &mut record.what {
        *seq = new;
    }
    record
}

pub fn with_id(record: &Record, new: &str) -> Record {
    let mut record = record.clone();
    if let What::Ack { id, .. } | What::Received { id, .. } | What::Stored { id, .. } = &mut record.what {
        new.clone_into(id);
    }
    record
}

/// Changes the reported head of a conversation by this much.
pub fn move_head(records: &mut [Record], of: &str, by: i64) {
    for record in records {
        if let What::Head { conversation, head } = &mut record.what
            && conversation == of
        {
            *head = head.checked_add_signed(by).expect("heads stay small and positive");
        }
    }
}

/// Adds a row behind the last one of its conversation, with the head to match, and returns its seq.
pub fn append(records: &mut Vec<Record>, row: Record) -> Option<u64> {
    let of = row.what.conversation()?.to_owned();
    let last =
        find(records, |what| matches!(what, What::Stored { .. }) && what.conversation() == Some(of.as_str()));
    let seq = last.iter().filter_map(|index| seq_of(&records[*index].what)).max().unwrap_or(0) + 1;
    records.push(with_id(&with_seq(&row, seq), "id-appended"));
    move_head(records, &of, 1);
    Some(seq)
}

/// Exchanges two seqs of a conversation in all records, as if the server had applied the two messages in the other
/// order: rows and acks get the other seq, and clients receive the other message at each seq.
pub fn exchange(records: &mut [Record], of: &str, one: u64, other: u64) {
    let mut rows = HashMap::new();
    for record in records.iter() {
        if let What::Stored { conversation, seq, id, sender, client_id, content } = &record.what
            && conversation == of
        {
            rows.insert(*seq, (id.clone(), sender.clone(), client_id.clone(), content.clone()));
        }
    }
    for record in records.iter_mut().filter(|record| record.what.conversation() == Some(of)) {
        let to = match seq_of(&record.what) {
            Some(seq) if seq == one => other,
            Some(seq) if seq == other => one,
            _ => continue,
        };
        match &mut record.what {
            What::Received { id, sender, client_id, content, .. } => {
                let row = rows[&to].clone();
                (*id, *sender, *client_id, *content) = (row.0, row.1, Some(row.2), row.3);
            }
            What::Ack { seq, .. } | What::Stored { seq, .. } => *seq = to,
            _ => {}
        }
    }
}

/// The next record in which the same client receives an event of, joins or leaves the same conversation.
pub fn next_of(records: &[Record], index: usize) -> Option<usize> {
    let what = &records[index].what;
    (index + 1..records.len()).find(|next| {
        let next = &records[*next].what;
        next.client() == what.client()
            && next.conversation() == what.conversation()
            && matches!(next, What::Received { .. } | What::Joined { .. } | What::Left { .. })
    })
}

/// An event that a client received, and the next one in that conversation without a join in between.
pub fn pick_received_pair(records: &[Record], random: &mut Random) -> Option<(usize, usize)> {
    let pairs: Vec<(usize, usize)> = find(records, |what| matches!(what, What::Received { .. }))
        .into_iter()
        .filter_map(|index| Some((index, next_of(records, index)?)))
        .filter(|(_, next)| matches!(records[*next].what, What::Received { .. }))
        .collect();
    random.choose(&pairs)
}

/// A random join that satisfies a condition and is (or is not) the client's first in its conversation.
pub fn pick_join(
    records: &[Record],
    random: &mut Random,
    first: bool,
    holds: impl Fn(usize) -> bool,
) -> Option<usize> {
    let joins = find(records, |what| matches!(what, What::Joined { .. }));
    let mut seen = Vec::new();
    let mut fitting = Vec::new();
    for join in joins {
        let place = (records[join].what.client(), records[join].what.conversation());
        let is_first = !seen.contains(&place);
        seen.push(place);
        if is_first == first && holds(join) {
            fitting.push(join);
        }
    }
    random.choose(&fitting)
}
