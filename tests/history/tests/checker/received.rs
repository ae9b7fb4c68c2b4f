//! Damages to what subscribers received.

use crate::damage::{
    Damage, append, find, name_of, next_of, pick, pick_heard_pair, pick_join, row_of, seq_of, with_id,
    with_seq,
};
use crate::random::Random;
use carillon_history::{Kind, Record, What};

pub const DAMAGES: &[Damage] = &[
    Damage { name: "drop a heard event", apply: drop_heard, kind: Kind::Missed, alone: true },
    Damage { name: "hear an event twice", apply: hear_twice, kind: Kind::Twice, alone: true },
    Damage {
        name: "hear the last again after a reconnect",
        apply: hear_again,
        kind: Kind::Twice,
        alone: true,
    },
    Damage { name: "swap two heard events", apply: swap_heard, kind: Kind::HeardReordered, alone: true },
    Damage { name: "hear another content", apply: alter_content, kind: Kind::HeardAltered, alone: false },
    Damage { name: "hear another sender", apply: alter_sender, kind: Kind::HeardAltered, alone: false },
    Damage { name: "hear another client id", apply: alter_client_id, kind: Kind::HeardAltered, alone: false },
    Damage { name: "hear no client id", apply: drop_client_id, kind: Kind::HeardAltered, alone: false },
    Damage { name: "hear another id", apply: alter_id, kind: Kind::HeardAltered, alone: false },
    Damage { name: "hear two events at one seq", apply: hear_two, kind: Kind::HeardDiffer, alone: false },
    Damage { name: "hear what nobody sent", apply: hear_unsent, kind: Kind::Phantom, alone: false },
    Damage { name: "hear it before it was sent", apply: hear_before, kind: Kind::Phantom, alone: false },
    Damage {
        name: "hear what is not stored",
        apply: drop_heard_row,
        kind: Kind::HeardUnstored,
        alone: false,
    },
    Damage { name: "end early", apply: end_early, kind: Kind::Incomplete, alone: true },
    Damage { name: "hear nothing of the end", apply: append_row, kind: Kind::Incomplete, alone: false },
    Damage {
        name: "an event before the first join's reply",
        apply: |records, random| hear_early(records, random, true),
        kind: Kind::Early,
        alone: true,
    },
    Damage {
        name: "an event before a later join's reply",
        apply: |records, random| hear_early(records, random, false),
        kind: Kind::Early,
        alone: true,
    },
    Damage { name: "an event without a join", apply: drop_join, kind: Kind::Early, alone: false },
    Damage { name: "hear what was there before", apply: hear_unasked, kind: Kind::Unasked, alone: true },
    Damage {
        name: "join again after too little",
        apply: |records, random| move_cursor(records, random, -1),
        kind: Kind::WrongCursor,
        alone: false,
    },
    Damage {
        name: "join again after too much",
        apply: |records, random| move_cursor(records, random, 1),
        kind: Kind::WrongCursor,
        alone: false,
    },
    Damage { name: "a join that tells too high a head", apply: head_of_join, kind: Kind::Head, alone: true },
];

fn pick_heard(records: &[Record], random: &mut Random) -> Option<usize> {
    pick(records, random, |what| matches!(what, What::Heard { .. }))
}

fn drop_heard(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let (heard, _) = pick_heard_pair(records, random)?;
    records.remove(heard);
    Some(())
}

fn hear_twice(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let heard = pick_heard(records, random)?;
    records.insert(heard + 1, records[heard].clone());
    Some(())
}

fn hear_again(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let pairs: Vec<(usize, usize)> = find(records, |what| matches!(what, What::Heard { .. }))
        .into_iter()
        .filter_map(|index| Some((index, next_of(records, index)?)))
        .filter(|(_, next)| matches!(records[*next].what, What::Joined { after_seq: Some(_), .. }))
        .collect();
    let (heard, join) = random.choose(&pairs)?;
    let again = Record { at_us: records[join].at_us, what: records[heard].what.clone() };
    records.insert(join + 1, again);
    Some(())
}

fn swap_heard(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let (one, other) = pick_heard_pair(records, random)?;
    // Both get the later time, so that neither is received before it was sent. The client's clock does not go back,
    // because the two records stand together.
    let mut earlier = records.remove(one);
    earlier.at_us = records[other - 1].at_us;
    records.insert(other, earlier);
    Some(())
}

fn alter_content(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let heard = pick_heard(records, random)?;
    if let What::Heard { content, .. } = &mut records[heard].what {
        content.push_str(", altered");
    }
    Some(())
}

fn alter_sender(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let heard = pick_heard(records, random)?;
    if let What::Heard { sender, .. } = &mut records[heard].what {
        sender.push_str("-other");
    }
    Some(())
}

fn alter_client_id(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let heard = pick_heard(records, random)?;
    if let What::Heard { client_id: Some(client_id), .. } = &mut records[heard].what {
        client_id.push_str("-other");
    }
    Some(())
}

fn drop_client_id(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let heard = pick_heard(records, random)?;
    if let What::Heard { client_id, .. } = &mut records[heard].what {
        *client_id = None;
    }
    Some(())
}

fn alter_id(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let heard = pick_heard(records, random)?;
    records[heard] = with_id(&records[heard], "id-other");
    Some(())
}

/// One client receives another event of the log at a seq at which other clients received the right one.
fn hear_two(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let heard = find(records, |what| matches!(what, What::Heard { .. }));
    let place = |index: usize| (records[index].what.conversation(), seq_of(&records[index].what));
    let shared: Vec<usize> = heard
        .iter()
        .copied()
        .filter(|one| heard.iter().filter(|other| place(**other) == place(*one)).count() > 1)
        .collect();
    let index = random.choose(&shared)?;
    let (of, seq) = (records[index].what.conversation()?.to_owned(), seq_of(&records[index].what)?);
    let other = pick(records, random, |what| {
        matches!(what, What::Stored { .. })
            && what.conversation() == Some(of.as_str())
            && seq_of(what) != Some(seq)
    })?;
    let other = records[other].what.clone();
    let What::Heard { id, sender, client_id, content, .. } = &mut records[index].what else { return None };
    let What::Stored {
        id: other_id,
        sender: other_sender,
        client_id: other_client_id,
        content: other_content,
        ..
    } = other
    else {
        return None;
    };
    (*id, *sender, *client_id, *content) = (other_id, other_sender, Some(other_client_id), other_content);
    Some(())
}

fn hear_unsent(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let index = pick_heard(records, random)?;
    let last = find(records, |what| {
        matches!(what, What::Heard { .. })
            && what.client() == records[index].what.client()
            && what.conversation() == records[index].what.conversation()
    });
    let last = *last.last()?;
    let mut heard = with_seq(&records[last], seq_of(&records[last].what)? + 1);
    if let What::Heard { client_id: Some(client_id), content, .. } = &mut heard.what {
        client_id.push_str("-unsent");
        content.push_str(", which nobody sent");
    }
    records.insert(last + 1, heard);
    Some(())
}

/// Moves all sends of a message a minute later, so that a client received the message before.
fn hear_before(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let index = pick_heard(records, random)?;
    let name = name_of(&records[index].what)?;
    for record in records.iter_mut() {
        if matches!(record.what, What::Send { .. }) && name_of(&record.what).as_ref() == Some(&name) {
            record.at_us += 60_000_000;
        }
    }
    Some(())
}

fn drop_heard_row(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let heard = pick_heard(records, random)?;
    let row = row_of(records, &name_of(&records[heard].what)?)?;
    records.remove(row);
    Some(())
}

/// A client does not receive its last event.
fn end_early(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let heard = find(records, |what| matches!(what, What::Heard { .. }));
    let last: Vec<usize> = heard.into_iter().filter(|index| next_of(records, *index).is_none()).collect();
    let index = random.choose(&last)?;
    records.remove(index);
    Some(())
}

fn append_row(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let last = find(records, |what| matches!(what, What::Heard { .. }));
    let last: Vec<usize> = last.into_iter().filter(|index| next_of(records, *index).is_none()).collect();
    let heard = records[random.choose(&last)?].clone();
    let row = row_of(records, &name_of(&heard.what)?)?;
    append(records, records[row].clone()).map(drop)
}

/// Moves the reply to a join behind the first event after it.
fn hear_early(records: &mut Vec<Record>, random: &mut Random, first: bool) -> Option<()> {
    let is_followed = |join: usize| {
        next_of(records, join).is_some_and(|next| {
            // The event right after the join is the one above the start, so only its early arrival is wrong.
            matches!(records[next].what, What::Heard { .. })
        })
    };
    let join = pick_join(records, random, first, is_followed)?;
    let heard = next_of(records, join)?;
    // The reply gets the time of the event that it now follows.
    let mut reply = records.remove(join);
    reply.at_us = records[heard - 1].at_us;
    records.insert(heard, reply);
    Some(())
}

/// Removes the record of a client's first join.
fn drop_join(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let is_followed = |join: usize| {
        next_of(records, join).is_some_and(|next| matches!(records[next].what, What::Heard { .. }))
    };
    let join = pick_join(records, random, true, is_followed)?;
    records.remove(join);
    Some(())
}

/// A client that joined without `after_seq` receives the last event from before its join.
fn hear_unasked(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let joins_late =
        |join: usize| matches!(records[join].what, What::Joined { after_seq: None, head: 1.., .. });
    let join = pick_join(records, random, true, joins_late)?;
    let What::Joined { client: by, conversation: of, head, .. } = records[join].what.clone() else {
        return None;
    };
    let row = records.iter().find(|record| {
        matches!(record.what, What::Stored { .. })
            && record.what.conversation() == Some(of.as_str())
            && seq_of(&record.what) == Some(head)
    })?;
    let What::Stored { conversation, seq, id, sender, client_id, content } = row.what.clone() else {
        return None;
    };
    let client_id = Some(client_id);
    let what = What::Heard { client: by, conversation, seq, id, sender, client_id, content };
    let at_us = records[join].at_us;
    records.insert(join + 1, Record { at_us, what });
    Some(())
}

fn move_cursor(records: &mut Vec<Record>, random: &mut Random, by: i64) -> Option<()> {
    let goes_on = |join: usize| matches!(records[join].what, What::Joined { after_seq: Some(1..), .. });
    let join = pick_join(records, random, false, goes_on)?;
    if let What::Joined { after_seq: Some(after_seq), .. } = &mut records[join].what {
        *after_seq = after_seq.checked_add_signed(by)?;
    }
    Some(())
}

fn head_of_join(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    // With `after_seq`, the head does not change what the client must receive, so only the head is wrong.
    let join = pick(records, random, |what| matches!(what, What::Joined { after_seq: Some(_), .. }))?;
    if let What::Joined { head, .. } = &mut records[join].what {
        *head += 1_000_000;
    }
    Some(())
}
