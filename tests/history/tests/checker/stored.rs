//! Damages to stored rows, acks and presence.

use crate::damage::{
    Damage, Name, append, exchange, find, move_head, name_of, pick, pick_first_ack, row_of, seq_of, with_id,
    with_seq,
};
use crate::generator::user_of;
use crate::random::Random;
use carillon_history::{Kind, Record, What};
use std::collections::{HashMap, HashSet};

pub const DAMAGES: &[Damage] = &[
    Damage { name: "drop an acknowledged row", apply: drop_row, kind: Kind::Lost, alone: false },
    Damage {
        name: "drop an acknowledged row and renumber the rest",
        apply: drop_and_renumber,
        kind: Kind::Lost,
        alone: false,
    },
    Damage { name: "lose the tail of a log", apply: drop_tail, kind: Kind::Lost, alone: false },
    Damage { name: "store a message twice", apply: store_twice, kind: Kind::Duplicated, alone: false },
    Damage {
        name: "store a content twice",
        apply: store_content_twice,
        kind: Kind::Duplicated,
        alone: false,
    },
    Damage {
        name: "swap two rows whose sends are far apart in time",
        apply: swap_far_apart,
        kind: Kind::NotLinearizable,
        alone: false,
    },
    Damage {
        name: "swap two messages of one connection",
        apply: swap_pipelined,
        kind: Kind::ClientOrder,
        alone: false,
    },
    Damage { name: "ack with another seq", apply: ack_other_seq, kind: Kind::AckElsewhere, alone: false },
    Damage { name: "ack with another id", apply: ack_other_id, kind: Kind::AckElsewhere, alone: false },
    Damage { name: "ack again with another seq", apply: ack_again, kind: Kind::AcksDiffer, alone: true },
    Damage {
        name: "acknowledge a message that was not sent",
        apply: ack_unsent,
        kind: Kind::Phantom,
        alone: true,
    },
    Damage {
        name: "store a message that was not sent",
        apply: phantom_row,
        kind: Kind::Phantom,
        alone: false,
    },
    Damage {
        name: "store a message with another content",
        apply: alter_row,
        kind: Kind::Phantom,
        alone: false,
    },
    Damage {
        name: "store a message with another sender",
        apply: other_sender,
        kind: Kind::Phantom,
        alone: false,
    },
    Damage { name: "leave a hole in the seqs", apply: hole, kind: Kind::Hole, alone: false },
    Damage { name: "store two events at one seq", apply: seq_twice, kind: Kind::SeqTwice, alone: false },
    Damage {
        name: "report too low a head",
        apply: |records, random| shift_head(records, random, -1),
        kind: Kind::Head,
        alone: true,
    },
    Damage {
        name: "report too high a head",
        apply: |records, random| shift_head(records, random, 1),
        kind: Kind::Head,
        alone: true,
    },
    Damage {
        name: "store a message that was refused",
        apply: store_refused,
        kind: Kind::RefusedStored,
        alone: false,
    },
    Damage {
        name: "show an offline user as online",
        apply: |records, random| flip(records, random, false),
        kind: Kind::Ghost,
        alone: true,
    },
    Damage {
        name: "show an online user as offline",
        apply: |records, random| flip(records, random, true),
        kind: Kind::Unseen,
        alone: true,
    },
    Damage { name: "set a client's clock back", apply: clock_back, kind: Kind::TimeBackwards, alone: false },
    Damage { name: "give a client two users", apply: second_user, kind: Kind::Malformed, alone: true },
    Damage {
        name: "send another content with the same client id",
        apply: other_content,
        kind: Kind::Malformed,
        alone: true,
    },
];

fn acked_row(records: &[Record], random: &mut Random) -> Option<usize> {
    let ack = pick_first_ack(records, random)?;
    row_of(records, &name_of(&records[ack].what)?)
}

fn pick_row(records: &[Record], random: &mut Random) -> Option<usize> {
    pick(records, random, |what| matches!(what, What::Stored { .. }))
}

fn drop_row(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let row = acked_row(records, random)?;
    records.remove(row);
    Some(())
}

fn drop_and_renumber(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let row = acked_row(records, random)?;
    let of = records[row].what.conversation()?.to_owned();
    let dropped = seq_of(&records.remove(row).what)?;
    for record in records.iter_mut() {
        if let What::Stored { conversation, seq, .. } = &mut record.what
            && *conversation == of
            && *seq > dropped
        {
            *seq -= 1;
        }
    }
    move_head(records, &of, -1);
    Some(())
}

fn drop_tail(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let row = acked_row(records, random)?;
    let of = records[row].what.conversation()?.to_owned();
    let from = seq_of(&records[row].what)?;
    let before = records.len();
    records.retain(|record| match &record.what {
        What::Stored { conversation, seq, .. } => *conversation != of || *seq < from,
        _ => true,
    });
    let dropped = i64::try_from(before - records.len()).ok()?;
    move_head(records, &of, -dropped);
    Some(())
}

fn store_twice(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let row = pick_row(records, random)?;
    append(records, records[row].clone()).map(drop)
}

fn store_content_twice(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let mut row = records[pick_row(records, random)?].clone();
    if let What::Stored { client_id, .. } = &mut row.what {
        client_id.push_str("-again");
    }
    append(records, row).map(drop)
}

/// When each message was first sent and first acknowledged.
fn times(records: &[Record]) -> HashMap<Name, (u64, Option<u64>)> {
    let mut times = HashMap::new();
    for record in records {
        let Some(name) = name_of(&record.what) else { continue };
        match record.what {
            What::Send { .. } => drop(times.entry(name).or_insert((record.at_us, None))),
            What::Ack { .. } => {
                let (_, acked) = times.get_mut(&name).expect("an acknowledged message was sent");
                acked.get_or_insert(record.at_us);
            }
            _ => {}
        }
    }
    times
}

fn swap_far_apart(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let times = times(records);
    let one = acked_row(records, random)?;
    let (_, acked) = times[&name_of(&records[one].what)?];
    let acked = acked?;
    let of = records[one].what.conversation()?.to_owned();
    let other = pick(records, random, |what| {
        matches!(what, What::Stored { .. })
            && what.conversation() == Some(of.as_str())
            && name_of(what).is_some_and(|name| times[&name].0 > acked && times[&name].1.is_some())
    })?;
    let (one, other) = (seq_of(&records[one].what)?, seq_of(&records[other].what)?);
    exchange(records, &of, one, other);
    Some(())
}

/// Swaps two messages that one client sent on one connection, each once and without waiting for the first one's ack.
fn swap_pipelined(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let mut attempts = HashMap::<Name, usize>::new();
    for index in find(records, |what| matches!(what, What::Send { .. })) {
        *attempts.entry(name_of(&records[index].what)?).or_default() += 1;
    }
    let mut pairs = Vec::new();
    for first in find(records, |what| matches!(what, What::Send { .. })) {
        let What::Send { client, conversation, .. } = &records[first].what else { continue };
        let name = name_of(&records[first].what)?;
        for second in first + 1..records.len() {
            let what = &records[second].what;
            if what.client() != Some(client) {
                continue;
            }
            let is_end = match what {
                What::Connected { .. } => true,
                What::Ack { .. } | What::Refused { .. } => name_of(what).as_ref() == Some(&name),
                _ => false,
            };
            if is_end {
                break;
            }
            let other = name_of(what);
            if matches!(what, What::Send { .. })
                && what.conversation() == Some(conversation)
                && attempts[&name] == 1
                && other.as_ref().is_some_and(|other| attempts[other] == 1)
                && let (Some(one), Some(other)) = (row_of(records, &name), row_of(records, &other?))
            {
                pairs.push((one, other));
            }
        }
    }
    let (one, other) = random.choose(&pairs)?;
    let of = records[one].what.conversation()?.to_owned();
    let (one, other) = (seq_of(&records[one].what)?, seq_of(&records[other].what)?);
    exchange(records, &of, one, other);
    Some(())
}

fn ack_other_seq(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let ack = pick_first_ack(records, random)?;
    records[ack] = with_seq(&records[ack], seq_of(&records[ack].what)? + 1);
    Some(())
}

fn ack_other_id(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let ack = pick_first_ack(records, random)?;
    records[ack] = with_id(&records[ack], "id-other");
    Some(())
}

fn ack_again(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let ack = pick_first_ack(records, random)?;
    let again = with_seq(&records[ack], seq_of(&records[ack].what)? + 1);
    records.insert(ack + 1, again);
    Some(())
}

fn ack_unsent(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let ack = pick_first_ack(records, random)?;
    let mut unsent = records[ack].clone();
    if let What::Ack { client_id, .. } = &mut unsent.what {
        client_id.push_str("-unsent");
    }
    records.insert(ack + 1, unsent);
    Some(())
}

fn phantom_row(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let mut row = records[pick_row(records, random)?].clone();
    if let What::Stored { client_id, content, .. } = &mut row.what {
        client_id.push_str("-unsent");
        content.push_str(", which no client sent");
    }
    append(records, row).map(drop)
}

fn alter_row(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let row = pick_row(records, random)?;
    if let What::Stored { content, .. } = &mut records[row].what {
        content.push_str(", altered");
    }
    Some(())
}

fn other_sender(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let row = pick_row(records, random)?;
    if let What::Stored { sender, .. } = &mut records[row].what {
        *sender = if sender == "ben" { "cem".to_owned() } else { "ben".to_owned() };
    }
    Some(())
}

fn hole(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let row = pick_row(records, random)?;
    let (of, from) = (records[row].what.conversation()?.to_owned(), seq_of(&records[row].what)?);
    for record in records.iter_mut() {
        if let What::Stored { conversation, seq, .. } = &mut record.what
            && *conversation == of
            && *seq >= from
        {
            *seq += 1;
        }
    }
    move_head(records, &of, 1);
    Some(())
}

fn seq_twice(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let row = pick(records, random, |what| matches!(what, What::Stored { seq: 2.., .. }))?;
    records[row] = with_seq(&records[row], seq_of(&records[row].what)? - 1);
    Some(())
}

fn shift_head(records: &mut Vec<Record>, random: &mut Random, by: i64) -> Option<()> {
    let head = pick(records, random, |what| matches!(what, What::Head { head: 1.., .. }))?;
    let of = records[head].what.conversation()?.to_owned();
    move_head(records, &of, by);
    Some(())
}

/// Stores a message whose every attempt was refused.
fn store_refused(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let mut open = HashMap::<Name, i64>::new();
    let mut unclear = HashSet::new();
    for record in records.iter() {
        let Some(name) = name_of(&record.what) else { continue };
        match &record.what {
            What::Send { .. } => *open.entry(name).or_default() += 1,
            What::Refused { code, .. } if code == "rate_limited" => *open.entry(name).or_default() -= 1,
            What::Refused { .. } | What::Ack { .. } => drop(unclear.insert(name)),
            _ => {}
        }
    }
    let send = pick(records, random, |what| {
        matches!(what, What::Send { .. })
            && name_of(what).is_some_and(|name| open[&name] == 0 && !unclear.contains(&name))
    })?;
    let What::Send { client, conversation, client_id, content } = records[send].what.clone() else {
        return None;
    };
    let sender = user_of(&client).to_owned();
    let what = What::Stored { conversation, seq: 0, id: String::new(), sender, client_id, content };
    append(records, Record { at_us: 0, what }).map(drop)
}

fn flip(records: &mut Vec<Record>, random: &mut Random, was: bool) -> Option<()> {
    let seen = pick(records, random, |what| matches!(what, What::Seen { online, .. } if *online == was))?;
    if let What::Seen { online, .. } = &mut records[seen].what {
        *online = !was;
    }
    Some(())
}

fn clock_back(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let record = pick(records, random, |what| matches!(what, What::Send { .. }))?;
    let client = records[record].what.client()?;
    let before = (0..record).rev().find(|before| records[*before].what.client() == Some(client))?;
    records[record].at_us = records[before].at_us - 1;
    Some(())
}

fn second_user(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let mut seen = HashSet::new();
    let mut later = find(records, |what| matches!(what, What::Connected { .. }));
    later.retain(|index| !seen.insert(records[*index].what.client().map(str::to_owned)));
    let index = random.choose(&later)?;
    if let What::Connected { user, .. } = &mut records[index].what {
        user.push_str("-other");
    }
    Some(())
}

fn other_content(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let mut seen = HashSet::new();
    let mut later = find(records, |what| matches!(what, What::Send { .. }));
    later.retain(|index| !seen.insert(name_of(&records[*index].what)));
    let index = random.choose(&later)?;
    if let What::Send { content, .. } = &mut records[index].what {
        content.push_str(", altered");
    }
    Some(())
}
