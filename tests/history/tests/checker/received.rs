//! Damages to what subscribers received.

use crate::damage::{
    Damage, append, find, name_of, next_of, pick, pick_join, pick_received_pair, row_of, seq_of, with_id,
    with_seq,
};
use crate::random::Random;
use carillon_history::{Kind, Record, What};

pub const DAMAGES: &[Damage] = &[
    Damage { name: "drop a received event", apply: drop_received, kind: Kind::Missed, alone: true },
    Damage { name: "receive an event twice", apply: receive_twice, kind: Kind::Twice, alone: true },
    Damage {
        name: "receive the last event again after a reconnect",
        apply: receive_again,
        kind: Kind::Twice,
        alone: true,
    },
    Damage {
        name: "swap two received events",
        apply: swap_received,
        kind: Kind::ReceivedReordered,
        alone: true,
    },
    Damage {
        name: "receive another content",
        apply: alter_content,
        kind: Kind::ReceivedAltered,
        alone: false,
    },
    Damage { name: "receive another sender", apply: alter_sender, kind: Kind::ReceivedAltered, alone: false },
    Damage {
        name: "receive another client id",
        apply: alter_client_id,
        kind: Kind::ReceivedAltered,
        alone: false,
    },
    Damage { name: "receive no client id", apply: drop_client_id, kind: Kind::ReceivedAltered, alone: false },
    Damage { name: "receive another id", apply: alter_id, kind: Kind::ReceivedAltered, alone: false },
    Damage {
        name: "receive two events at one seq",
        apply: receive_two,
        kind: Kind::ReceivedDiffer,
        alone: false,
    },
    Damage {
        name: "receive a message that was not sent",
        apply: receive_unsent,
        kind: Kind::Phantom,
        alone: false,
    },
    Damage {
        name: "receive a message before it was sent",
        apply: receive_before_send,
        kind: Kind::Phantom,
        alone: false,
    },
    Damage {
        name: "receive a message that is not stored",
        apply: drop_received_row,
        kind: Kind::ReceivedUnstored,
        alone: false,
    },
    Damage { name: "do not receive the last event", apply: end_early, kind: Kind::Incomplete, alone: true },
    Damage {
        name: "do not receive an appended event",
        apply: append_row,
        kind: Kind::Incomplete,
        alone: false,
    },
    Damage {
        name: "receive an event before the first join's reply",
        apply: |records, random| receive_early(records, random, true),
        kind: Kind::Early,
        alone: true,
    },
    Damage {
        name: "receive an event before a later join's reply",
        apply: |records, random| receive_early(records, random, false),
        kind: Kind::Early,
        alone: true,
    },
    Damage { name: "receive an event without a join", apply: drop_join, kind: Kind::Early, alone: false },
    Damage {
        name: "receive an event from before the join",
        apply: receive_below_start,
        kind: Kind::BelowStart,
        alone: true,
    },
    Damage {
        name: "join again after a lower seq than the cursor",
        apply: |records, random| move_cursor(records, random, -1),
        kind: Kind::WrongCursor,
        alone: false,
    },
    Damage {
        name: "join again after a higher seq than the cursor",
        apply: |records, random| move_cursor(records, random, 1),
        kind: Kind::WrongCursor,
        alone: false,
    },
    Damage {
        name: "receive too high a head in the reply to a join",
        apply: head_of_join,
        kind: Kind::Head,
        alone: true,
    },
];

fn pick_received(records: &[Record], random: &mut Random) -> Option<usize> {
    pick(records, random, |what| matches!(what, What::Received { .. }))
}

fn drop_received(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let (received, _) = pick_received_pair(records, random)?;
    records.remove(received);
    Some(())
}

fn receive_twice(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let received = pick_received(records, random)?;
    records.insert(received + 1, records[received].clone());
    Some(())
}

fn receive_again(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let pairs: Vec<(usize, usize)> = find(records, |what| matches!(what, What::Received { .. }))
        .into_iter()
        .filter_map(|index| Some((index, next_of(records, index)?)))
        .filter(|(_, next)| matches!(records[*next].what, What::Joined { after_seq: Some(_), .. }))
        .collect();
    let (received, join) = random.choose(&pairs)?;
    let again = Record { at_us: records[join].at_us, what: records[received].what.clone() };
    records.insert(join + 1, again);
    Some(())
}

fn swap_received(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let (one, other) = pick_received_pair(records, random)?;
    // Both get the later time, so that neither is received before it was sent. The client's clock does not go back,
    // because the two records stand together.
    let mut earlier = records.remove(one);
    earlier.at_us = records[other - 1].at_us;
    records.insert(other, earlier);
    Some(())
}

fn alter_content(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let received = pick_received(records, random)?;
    if let What::Received { content, .. } = &mut records[received].what {
        content.push_str(", altered");
    }
    Some(())
}

fn alter_sender(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let received = pick_received(records, random)?;
    if let What::Received { sender, .. } = &mut records[received].what {
        sender.push_str("-other");
    }
    Some(())
}

fn alter_client_id(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let received = pick_received(records, random)?;
    if let What::Received { client_id: Some(client_id), .. } = &mut records[received].what {
        client_id.push_str("-other");
    }
    Some(())
}

fn drop_client_id(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let received = pick_received(records, random)?;
    if let What::Received { client_id, .. } = &mut records[received].what {
        *client_id = None;
    }
    Some(())
}

fn alter_id(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let received = pick_received(records, random)?;
    records[received] = with_id(&records[received], "id-other");
    Some(())
}

/// One client receives another event of the log at a seq at which other clients received the right one.
fn receive_two(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let received = find(records, |what| matches!(what, What::Received { .. }));
    let place = |index: usize| (records[index].what.conversation(), seq_of(&records[index].what));
    let shared: Vec<usize> = received
        .iter()
        .copied()
        .filter(|one| received.iter().filter(|other| place(**other) == place(*one)).count() > 1)
        .collect();
    let index = random.choose(&shared)?;
    let (of, seq) = (records[index].what.conversation()?.to_owned(), seq_of(&records[index].what)?);
    let other = pick(records, random, |what| {
        matches!(what, What::Stored { .. })
            && what.conversation() == Some(of.as_str())
            && seq_of(what) != Some(seq)
    })?;
    let other = records[other].what.clone();
    let What::Received { id, sender, client_id, content, .. } = &mut records[index].what else { return None };
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

fn receive_unsent(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let index = pick_received(records, random)?;
    let last = find(records, |what| {
        matches!(what, What::Received { .. })
            && what.client() == records[index].what.client()
            && what.conversation() == records[index].what.conversation()
    });
    let last = *last.last()?;
    let mut received = with_seq(&records[last], seq_of(&records[last].what)? + 1);
    if let What::Received { client_id: Some(client_id), content, .. } = &mut received.what {
        client_id.push_str("-unsent");
        content.push_str(", which no client sent");
    }
    records.insert(last + 1, received);
    Some(())
}

/// Moves all sends of a message a minute later, so that a client received the message before.
fn receive_before_send(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let index = pick_received(records, random)?;
    let name = name_of(&records[index].what)?;
    for record in records.iter_mut() {
        if matches!(record.what, What::Send { .. }) && name_of(&record.what).as_ref() == Some(&name) {
            record.at_us += 60_000_000;
        }
    }
    Some(())
}

fn drop_received_row(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let received = pick_received(records, random)?;
    let row = row_of(records, &name_of(&records[received].what)?)?;
    records.remove(row);
    Some(())
}

/// A client does not receive its last event.
fn end_early(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let received = find(records, |what| matches!(what, What::Received { .. }));
    let last: Vec<usize> = received.into_iter().filter(|index| next_of(records, *index).is_none()).collect();
    let index = random.choose(&last)?;
    records.remove(index);
    Some(())
}

fn append_row(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let last = find(records, |what| matches!(what, What::Received { .. }));
    let last: Vec<usize> = last.into_iter().filter(|index| next_of(records, *index).is_none()).collect();
    let received = records[random.choose(&last)?].clone();
    let row = row_of(records, &name_of(&received.what)?)?;
    append(records, records[row].clone()).map(drop)
}

/// Moves the reply to a join behind the first event after it.
fn receive_early(records: &mut Vec<Record>, random: &mut Random, first: bool) -> Option<()> {
    let is_followed = |join: usize| {
        next_of(records, join).is_some_and(|next| {
            // The event right after the join is the one above the start, so only its early arrival is wrong.
            matches!(records[next].what, What::Received { .. })
        })
    };
    let join = pick_join(records, random, first, is_followed)?;
    let received = next_of(records, join)?;
    // The reply gets the time of the event that it now follows.
    let mut reply = records.remove(join);
    reply.at_us = records[received - 1].at_us;
    records.insert(received, reply);
    Some(())
}

/// Removes the record of a client's first join.
fn drop_join(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
    let is_followed = |join: usize| {
        next_of(records, join).is_some_and(|next| matches!(records[next].what, What::Received { .. }))
    };
    let join = pick_join(records, random, true, is_followed)?;
    records.remove(join);
    Some(())
}

/// A client that joined without `after_seq` receives the last event from before its join.
fn receive_below_start(records: &mut Vec<Record>, random: &mut Random) -> Option<()> {
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
    let what = What::Received { client: by, conversation, seq, id, sender, client_id, content };
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
