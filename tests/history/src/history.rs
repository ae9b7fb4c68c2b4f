//! A history, indexed for the checks: numbers for names, each message with everything that was done and reported about
//! it, and each conversation with its log.

use crate::record::{Record, What};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash};

/// A map whose keys have the same hashes in every run, so that a check draws no randomness.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// Names, numbered from 0 in the order of appearance.
#[derive(Default)]
pub struct Names<'a> {
    numbers: Map<&'a str, usize>,
    names: Vec<&'a str>,
}

impl<'a> Names<'a> {
    fn number(&mut self, name: &'a str) -> usize {
        *self.numbers.entry(name).or_insert_with(|| {
            self.names.push(name);
            self.names.len() - 1
        })
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.numbers.get(name).copied()
    }

    pub fn name(&self, number: usize) -> &'a str {
        self.names[number]
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }
}

/// The client and the conversation of a record. A number that this kind of record does not have is 0 and means nothing.
#[derive(Clone, Copy, Default)]
pub struct Place {
    pub client: usize,
    pub conversation: usize,
}

/// The content of an ack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    pub seq: u64,
    pub id: &'a str,
}

/// One message: everything that one user sends to one conversation with one client id, from any of the user's clients
/// (`client_id` in `docs/protocol.md#native-websocket`).
pub struct Message<'a> {
    pub conversation: usize,
    pub client_id: &'a str,
    pub user: usize,
    pub first_sent_at_us: u64,
    /// When a client first learnt that the message is stored, by its ack or by receiving it; `u64::MAX` if none did.
    pub complete_at_us: u64,
    pub ack: Option<Ack<'a>>,
    /// How often it was sent, and how many of these attempts were refused definitely.
    pub attempts: u64,
    pub refusals: u64,
    /// The index of its first row.
    pub row: Option<usize>,
    content: &'a str,
    /// Other contents that the user's clients sent with this client id.
    contents: Vec<&'a str>,
}

impl Message<'_> {
    /// Whether it was sent with this content.
    pub fn had(&self, content: &str) -> bool {
        self.content == content || self.contents.contains(&content)
    }

    /// Whether every attempt was refused definitely.
    pub fn is_refused(&self) -> bool {
        self.refusals == self.attempts
    }
}

/// What one client did about one message. The indexes are those of records.
pub struct Sending<'a> {
    pub message: usize,
    pub client: usize,
    pub content: &'a str,
    pub first_index: usize,
    pub last_index: usize,
    /// How often this client sent it.
    pub attempts: u64,
    /// The record in which the server reported that the last attempt had no effect, or perhaps none.
    pub unsure_index: Option<usize>,
}

/// A stored event.
pub struct Row<'a> {
    pub seq: u64,
    pub id: &'a str,
    pub sender: &'a str,
    pub client_id: &'a str,
    pub content: &'a str,
    /// The message that was sent with this sender and client id, whatever its content.
    pub message: Option<usize>,
}

/// A conversation's log, by seq, and the heads that were reported for it.
#[derive(Default)]
pub struct Log<'a> {
    pub rows: Vec<Row<'a>>,
    pub heads: Vec<u64>,
}

impl<'a> Log<'a> {
    pub fn last(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.seq)
    }

    pub fn find(&self, seq: u64) -> Option<usize> {
        let guess = usize::try_from(seq).ok()?.checked_sub(1)?;
        // In a log without holes, as every good log is, the guess is right.
        if self.rows.get(guess).is_some_and(|row| row.seq == seq)
            && (guess == 0 || self.rows[guess - 1].seq != seq)
        {
            return Some(guess);
        }
        let first = self.rows.partition_point(|row| row.seq < seq);
        self.rows.get(first).is_some_and(|row| row.seq == seq).then_some(first)
    }

    pub fn at(&self, seq: u64) -> Option<&Row<'a>> {
        self.find(seq).map(|row| &self.rows[row])
    }
}

#[derive(Default)]
pub struct History<'a> {
    pub records: &'a [Record],
    pub places: Vec<Place>,
    pub clients: Names<'a>,
    pub users: Names<'a>,
    pub conversations: Names<'a>,
    /// The user of each client.
    pub user_of: Vec<usize>,
    pub messages: Vec<Message<'a>>,
    pub sendings: Vec<Sending<'a>>,
    /// The logs, by conversation.
    pub logs: Vec<Log<'a>>,
    /// Records of acks to clients that had not sent the message.
    pub stray_acks: Vec<usize>,
    /// Messages with an ack that differs from their first, and the record of that ack.
    pub differing_acks: Vec<(usize, usize)>,
    /// Records that contradict earlier records of the same client.
    pub contradictions: Vec<usize>,
    client_ids: Names<'a>,
    by_key: Map<Key, usize>,
    by_client: Map<(usize, usize), usize>,
}

/// Conversation, user and client id of a message.
type Key = (usize, usize, usize);

impl<'a> History<'a> {
    pub fn new(records: &'a [Record]) -> History<'a> {
        let mut history =
            History { records, places: Vec::with_capacity(records.len()), ..History::default() };
        history.index_users();
        history.index_places();
        for index in 0..records.len() {
            history.add(index);
        }
        for log in &mut history.logs {
            log.rows.sort_by_key(|row| row.seq);
        }
        history.find_messages();
        history
    }

    fn index_users(&mut self) {
        for (index, record) in self.records.iter().enumerate() {
            let What::Connected { client, user } = &record.what else { continue };
            let client = self.clients.number(client);
            let user = self.users.number(user);
            if client == self.user_of.len() {
                self.user_of.push(user);
            } else if self.user_of[client] != user {
                self.contradictions.push(index);
            }
        }
    }

    fn index_places(&mut self) {
        for (index, record) in self.records.iter().enumerate() {
            let mut place = Place::default();
            if let Some(client) = record.what.client() {
                place.client = self.clients.number(client);
                if place.client == self.user_of.len() {
                    // The client never reported its user, so a user with the client's name stands in.
                    self.user_of.push(self.users.number(client));
                    self.contradictions.push(index);
                }
            }
            if let Some(conversation) = record.what.conversation() {
                place.conversation = self.conversations.number(conversation);
            }
            self.places.push(place);
        }
        self.logs.resize_with(self.conversations.len(), Log::default);
    }

    fn add(&mut self, index: usize) {
        let record = &self.records[index];
        let place = self.places[index];
        match &record.what {
            What::Send { client_id, content, .. } => self.add_send(index, client_id, content),
            What::Ack { client_id, seq, id, .. } => match self.sending(place, client_id) {
                Some(sending) => self.add_ack(index, sending, Ack { seq: *seq, id }),
                None => self.stray_acks.push(index),
            },
            What::Refused { client_id, code, .. } => {
                let Some(sending) = self.sending(place, client_id) else { return };
                let sending = &mut self.sendings[sending];
                sending.unsure_index.get_or_insert(index);
                if !leaves_open(code) {
                    self.messages[sending.message].refusals += 1;
                }
            }
            What::Stored { seq, id, sender, client_id, content, .. } => self.logs[place.conversation]
                .rows
                .push(Row { seq: *seq, id, sender, client_id, content, message: None }),
            What::Head { head, .. } => self.logs[place.conversation].heads.push(*head),
            What::Connected { .. }
            | What::Disconnected { .. }
            | What::Joined { .. }
            | What::Left { .. }
            | What::Received { .. }
            | What::Seen { .. } => {}
        }
    }

    fn add_send(&mut self, index: usize, client_id: &'a str, content: &'a str) {
        let Place { client, conversation } = self.places[index];
        let at_us = self.records[index].at_us;
        let user = self.user_of[client];
        let key = (conversation, user, self.client_ids.number(client_id));
        let number = *entry(&mut self.by_key, key, &mut self.messages, || Message {
            conversation,
            client_id,
            user,
            first_sent_at_us: at_us,
            complete_at_us: u64::MAX,
            ack: None,
            attempts: 0,
            refusals: 0,
            row: None,
            content,
            contents: Vec::new(),
        });
        let message = &mut self.messages[number];
        message.attempts += 1;
        message.first_sent_at_us = message.first_sent_at_us.min(at_us);
        if !message.had(content) {
            message.contents.push(content);
        }
        let sending = *entry(&mut self.by_client, (number, client), &mut self.sendings, || Sending {
            message: number,
            client,
            content,
            first_index: index,
            last_index: index,
            attempts: 0,
            unsure_index: None,
        });
        let sending = &mut self.sendings[sending];
        sending.last_index = index;
        sending.attempts += 1;
        sending.unsure_index = None;
        if sending.content != content {
            self.contradictions.push(index);
        }
    }

    fn add_ack(&mut self, index: usize, sending: usize, ack: Ack<'a>) {
        let number = self.sendings[sending].message;
        let message = &mut self.messages[number];
        message.complete_at_us = message.complete_at_us.min(self.records[index].at_us);
        if *message.ack.get_or_insert(ack) != ack {
            self.differing_acks.push((number, index));
        }
    }

    /// Connects rows with messages, and completes each message at the first time that a client received it.
    fn find_messages(&mut self) {
        for conversation in 0..self.logs.len() {
            for number in 0..self.logs[conversation].rows.len() {
                let Row { sender, client_id, .. } = self.logs[conversation].rows[number];
                let Some(message) = self.message(conversation, sender, client_id) else { continue };
                self.logs[conversation].rows[number].message = Some(message);
                self.messages[message].row.get_or_insert(number);
            }
        }
        for (record, place) in self.records.iter().zip(&self.places) {
            let What::Received { seq, id, .. } = &record.what else { continue };
            let Some(row) = self.logs[place.conversation].at(*seq) else { continue };
            if let (Some(message), true) = (row.message, row.id == id) {
                let complete_at_us = &mut self.messages[message].complete_at_us;
                *complete_at_us = record.at_us.min(*complete_at_us);
            }
        }
    }

    fn sending(&self, place: Place, client_id: &str) -> Option<usize> {
        let key = (place.conversation, self.user_of[place.client], self.client_ids.find(client_id)?);
        let message = *self.by_key.get(&key)?;
        self.by_client.get(&(message, place.client)).copied()
    }

    /// The message that a user sent to a conversation with a client id.
    pub fn message(&self, conversation: usize, user: &str, client_id: &str) -> Option<usize> {
        let key = (conversation, self.users.find(user)?, self.client_ids.find(client_id)?);
        self.by_key.get(&key).copied()
    }

    /// The first row of a message.
    pub fn row_of(&self, message: &Message<'a>) -> Option<&Row<'a>> {
        message.row.map(|row| &self.logs[message.conversation].rows[row])
    }

    /// A message as a report shows it.
    pub fn describe(&self, message: &Message<'_>) -> String {
        format!(
            "{} of {} in {}",
            message.client_id,
            self.users.name(message.user),
            self.conversations.name(message.conversation)
        )
    }
}

/// Whether an error code leaves the outcome unknown (`docs/protocol.md#errors`). A command that was answered with
/// `unavailable` may have been applied, as with `timeout`.
fn leaves_open(code: &str) -> bool {
    matches!(code, "timeout" | "unavailable")
}

/// The number of the value with this key. A missing value is added.
fn entry<'m, K: Eq + Hash, T>(
    numbers: &'m mut Map<K, usize>,
    key: K,
    values: &mut Vec<T>,
    new: impl FnOnce() -> T,
) -> &'m usize {
    numbers.entry(key).or_insert_with(|| {
        values.push(new());
        values.len() - 1
    })
}
