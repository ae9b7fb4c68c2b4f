//! Checks what each client received of each conversation that it joined: everything above its start, once, in order, to
//! the end, over all its reconnects.

use crate::history::{History, Map};
use crate::record::What;
use crate::report::{Kind, Report};
use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

/// A client in a conversation.
struct Subscriber {
    client: usize,
    conversation: usize,
    joined: bool,
    left: bool,
    /// The number of the client's connection on which it last joined.
    connection: u64,
    /// The client must receive everything above this seq.
    start: u64,
    /// The highest received seq, or the start.
    cursor: u64,
    /// Skipped seqs by the first of a range: the last one, and when the gap was noticed.
    missing: BTreeMap<u64, (u64, u64)>,
    /// Seqs received before the reply to the join.
    early: Vec<u64>,
}

/// How a received seq relates to the earlier ones.
enum Arrival {
    Next,
    BelowStart,
    Reordered,
    Twice,
}

impl Subscriber {
    fn new(client: usize, conversation: usize) -> Subscriber {
        Subscriber {
            client,
            conversation,
            joined: false,
            left: false,
            connection: 0,
            start: 0,
            cursor: 0,
            missing: BTreeMap::new(),
            early: Vec::new(),
        }
    }

    /// Joins, or joins again, on a connection; false if it joins after another seq than its cursor.
    fn join(&mut self, after_seq: Option<u64>, head: u64, connection: u64) -> bool {
        let goes_on = self.joined && after_seq == Some(self.cursor);
        let is_right = goes_on || !self.joined || after_seq.is_none();
        if !goes_on {
            self.start = after_seq.unwrap_or(head);
            self.cursor = self.start;
            // Events above the new start are delivered again, so they no longer count as missed.
            let start = self.start;
            self.missing.retain(|_, (last, _)| {
                *last = start.min(*last);
                true
            });
            self.missing.retain(|first, (last, _)| first <= last);
        }
        self.joined = true;
        self.left = false;
        self.connection = connection;
        for seq in std::mem::take(&mut self.early) {
            if seq.checked_sub(1) == Some(self.cursor) {
                self.cursor = seq;
            }
        }
        is_right
    }

    fn receive(&mut self, seq: u64, at_us: u64) -> Arrival {
        if seq > self.cursor {
            if seq - self.cursor > 1 {
                self.missing.insert(self.cursor + 1, (seq - 1, at_us));
            }
            self.cursor = seq;
            return Arrival::Next;
        }
        if let Some((&first, &(last, noticed_at_us))) = self.missing.range(..=seq).next_back()
            && seq <= last
        {
            self.missing.remove(&first);
            if first < seq {
                self.missing.insert(first, (seq - 1, noticed_at_us));
            }
            if seq < last {
                self.missing.insert(seq + 1, (last, noticed_at_us));
            }
            return Arrival::Reordered;
        }
        if seq <= self.start { Arrival::BelowStart } else { Arrival::Twice }
    }
}

pub fn check(history: &History<'_>, report: &mut Report) {
    let mut numbers = Map::default();
    let mut subscribers = Vec::new();
    let mut connections = vec![0_u64; history.clients.len()];
    for (record, place) in history.records.iter().zip(&history.places) {
        if matches!(record.what, What::Connected { .. }) {
            connections[place.client] += 1;
        }
        if !matches!(record.what, What::Joined { .. } | What::Left { .. } | What::Received { .. }) {
            continue;
        }
        let number = match numbers.entry((place.client, place.conversation)) {
            Entry::Occupied(number) => *number.get(),
            Entry::Vacant(vacant) => {
                subscribers.push(Subscriber::new(place.client, place.conversation));
                *vacant.insert(subscribers.len() - 1)
            }
        };
        apply(&mut subscribers[number], &record.what, record.at_us, connections[place.client], report);
    }
    for subscriber in &subscribers {
        check_end(history, subscriber, report);
    }
}

fn apply(subscriber: &mut Subscriber, what: &What, at_us: u64, connection: u64, report: &mut Report) {
    match what {
        What::Joined { client, conversation, after_seq, head } => {
            let cursor = subscriber.cursor;
            if !subscriber.join(*after_seq, *head, connection) {
                report.add(Kind::WrongCursor, || {
                    let after_seq = after_seq.unwrap_or(*head);
                    format!(
                        "{conversation}: {client} joined at {at_us} us after {after_seq}, last received {cursor}"
                    )
                });
            }
        }
        What::Left { .. } => subscriber.left = true,
        What::Received { client, conversation, seq, id, .. } => {
            let (start, cursor) = (subscriber.start, subscriber.cursor);
            if !subscriber.joined || subscriber.connection != connection {
                subscriber.early.push(*seq);
                report.add(Kind::Early, || {
                    format!("{conversation}: {client} received at {at_us} us seq {seq} as {id}")
                });
                return;
            }
            let kind = match subscriber.receive(*seq, at_us) {
                Arrival::Next => return,
                Arrival::BelowStart => Kind::BelowStart,
                Arrival::Reordered => Kind::ReceivedReordered,
                Arrival::Twice => Kind::Twice,
            };
            report.add(kind, || {
                format!(
                    "{conversation}: {client} received at {at_us} us seq {seq} as {id}; it began above {start} and \
                     had come to {cursor}"
                )
            });
        }
        _ => {}
    }
}

fn check_end(history: &History<'_>, subscriber: &Subscriber, report: &mut Report) {
    let client = history.clients.name(subscriber.client);
    let conversation = history.conversations.name(subscriber.conversation);
    let stored = history.logs[subscriber.conversation].last();
    for (&first, &(last, at_us)) in &subscriber.missing {
        // An event that is not stored cannot be missed. Other checks report it as a hole, or as received and not
        // stored.
        let last = last.min(stored);
        if first <= last {
            report.add(Kind::Missed, || {
                format!(
                    "{conversation}: {client} never received seq {first} to {last}, passed over at {at_us} us"
                )
            });
        }
    }
    if subscriber.joined && !subscriber.left && subscriber.cursor < stored {
        report.add(Kind::Incomplete, || {
            let cursor = subscriber.cursor;
            format!("{conversation}: {client} received up to seq {cursor}, last stored seq {stored}")
        });
    }
}
