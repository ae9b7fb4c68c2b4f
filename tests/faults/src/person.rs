//! One client of a fault test: what it sends, what it must receive, and its records for the history. No I/O: given
//! frames and the time, it returns what to send.

use carillon_history::{Record, What};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

/// Time before a refused message or join is repeated, if the server gives none.
const RETRY_MS: u64 = 300;
/// A live connection that leaves a message without an answer for so long breaks the protocol, which promises a coded
/// error (a gateway gives up after 10 s).
pub const SILENCE_MS: u64 = 30_000;
/// How many users' presence one client requests at the end.
const SEEN_MAX: usize = 20;

/// What one client does in a run.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name in the history.
    pub client: String,
    /// Its user.
    pub user: String,
    /// The conversations that it joins, and sends to in turn.
    pub conversations: Vec<String>,
    /// Messages that it has under way at once.
    pub window: usize,
    /// Least length of a message, in bytes.
    pub content_bytes: usize,
}

/// A message without an answer yet.
#[derive(Debug)]
struct Unanswered {
    number: u64,
    conversation: usize,
    content: String,
    /// When it was last sent on this connection; `None` if it was not.
    sent_us: Option<u64>,
    /// Earliest time of the next attempt.
    due_us: u64,
}

/// A conversation as the client knows it.
#[derive(Debug, Default)]
struct Place {
    /// The last received event, or the head at the first join.
    cursor: Option<u64>,
    joined: bool,
    /// When to repeat a refused join.
    due_us: Option<u64>,
}

/// One client.
#[derive(Debug)]
pub struct Person {
    part: Part,
    places: Vec<Place>,
    unanswered: VecDeque<Unanswered>,
    next: u64,
    connected: bool,
    /// Messages that a live connection left without an answer for [`SILENCE_MS`].
    pub silences: Vec<String>,
    /// What it did and received.
    pub records: Vec<Record>,
    /// Messages that were acknowledged.
    pub acknowledged: u64,
}

impl Person {
    /// A client before its first connection.
    pub fn new(part: Part) -> Person {
        let places = part.conversations.iter().map(|_| Place::default()).collect();
        Person {
            part,
            places,
            unanswered: VecDeque::new(),
            next: 0,
            connected: false,
            silences: Vec::new(),
            records: Vec::new(),
            acknowledged: 0,
        }
    }

    /// The client's user.
    pub fn user(&self) -> &str {
        &self.part.user
    }

    /// Whether it is connected and waits for nothing.
    pub fn is_at_rest(&self) -> bool {
        self.connected && self.unanswered.is_empty() && self.places.iter().all(|place| place.joined)
    }

    /// What it waits for, as text.
    pub fn waits_for(&self) -> String {
        let messages: Vec<_> =
            self.unanswered.iter().map(|message| self.client_id(message.number)).take(5).collect();
        let joins: Vec<_> = (self.part.conversations.iter().zip(&self.places))
            .filter(|(_, place)| !place.joined)
            .map(|(conversation, _)| conversation)
            .take(5)
            .collect();
        format!(
            "{}: connected {}, {} unanswered {messages:?}, not joined {joins:?}",
            self.part.client,
            self.connected,
            self.unanswered.len()
        )
    }

    fn record(&mut self, at_us: u64, what: What) {
        self.records.push(Record { at_us, what });
    }

    fn client(&self) -> String {
        self.part.client.clone()
    }

    fn client_id(&self, number: u64) -> String {
        format!("{}-{number}", self.part.client)
    }

    /// Handles the first frame of a connection. Returns the joins of all conversations after their cursors; unanswered
    /// messages follow with [`Person::due`].
    pub fn connected(&mut self, at_us: u64) -> Vec<Value> {
        self.connected = true;
        self.record(at_us, What::Connected { client: self.client(), user: self.part.user.clone() });
        let joins = (0..self.places.len()).map(|place| self.join(place)).collect();
        for message in &mut self.unanswered {
            message.due_us = 0;
        }
        joins
    }

    fn join(&mut self, place: usize) -> Value {
        let conversation = &self.part.conversations[place];
        let mut frame = json!({"type": "join_conversation", "conversation_id": conversation, "ref": format!("join {place}")});
        let Place { cursor, due_us, .. } = &mut self.places[place];
        *due_us = None;
        if let Some(cursor) = cursor {
            frame["after_seq"] = json!(cursor);
        }
        frame
    }

    /// Handles the end of a connection.
    pub fn disconnected(&mut self, at_us: u64) {
        if std::mem::take(&mut self.connected) {
            self.record(at_us, What::Disconnected { client: self.client() });
        }
        self.places.iter_mut().for_each(|place| (place.joined, place.due_us) = (false, None));
        self.unanswered.iter_mut().for_each(|message| message.sent_us = None);
    }

    /// Records that the client left all conversations: it need not receive anything more.
    pub fn left(&mut self, at_us: u64) {
        for conversation in self.part.conversations.clone() {
            self.record(at_us, What::Left { client: self.client(), conversation });
        }
    }

    /// Begins a message if its window has room. [`Person::due`] returns it for sending.
    pub fn begin(&mut self) -> bool {
        if !self.connected || self.unanswered.len() >= self.part.window {
            return false;
        }
        let number = self.next;
        self.next += 1;
        let conversation = number as usize % self.places.len();
        let mut content = format!("{}/{number} ", self.part.client);
        content.extend(std::iter::repeat_n('.', self.part.content_bytes.saturating_sub(content.len())));
        self.unanswered.push_back(Unanswered { number, conversation, content, sent_us: None, due_us: 0 });
        true
    }

    /// What to send now, in the order of message numbers.
    pub fn due(&mut self, at_us: u64) -> Vec<Value> {
        if !self.connected {
            return Vec::new();
        }
        let mut frames = Vec::new();
        for place in 0..self.places.len() {
            if self.places[place].due_us.is_some_and(|due_us| due_us <= at_us) {
                frames.push(self.join(place));
            }
        }
        let (mut sends, mut silences) = (Vec::new(), Vec::new());
        for message in &mut self.unanswered {
            match message.sent_us {
                None if message.due_us <= at_us => {
                    message.sent_us = Some(at_us);
                    sends.push((message.number, message.conversation, message.content.clone()));
                }
                Some(sent_us) if at_us > sent_us + SILENCE_MS * 1_000 => {
                    message.sent_us = None;
                    silences.push(message.number);
                }
                _ => {}
            }
        }
        for number in silences {
            let silence = format!("{} had no answer for {SILENCE_MS} ms", self.client_id(number));
            self.silences.push(silence);
        }
        frames.extend(
            sends.into_iter().map(|(number, place, content)| self.send(at_us, number, place, content)),
        );
        frames
    }

    fn send(&mut self, at_us: u64, number: u64, place: usize, content: String) -> Value {
        let (client_id, conversation) = (self.client_id(number), self.part.conversations[place].clone());
        let frame = json!({"type": "send_message", "conversation_id": conversation, "content": content,
                           "client_id": client_id, "ref": format!("send {number}")});
        self.record(at_us, What::Send { client: self.client(), conversation, client_id, content });
        frame
    }

    /// Handles a frame from the server.
    pub fn receive(&mut self, at_us: u64, frame: &Value) {
        match frame["type"].as_str() {
            Some("message_ack") => self.acked(at_us, frame),
            Some("new_message") => self.message(at_us, frame),
            Some("conversation_joined") => self.joined(at_us, frame),
            Some("error") => self.refused(at_us, frame),
            Some("online_status") => self.status(at_us, frame),
            _ => {}
        }
    }

    fn place_of(&self, frame: &Value) -> Option<usize> {
        let conversation = frame["conversation_id"].as_str()?;
        self.part.conversations.iter().position(|known| known == conversation)
    }

    fn acked(&mut self, at_us: u64, frame: &Value) {
        let client_id = text(&frame["client_id"]);
        let ack = What::Ack {
            client: self.client(),
            conversation: text(&frame["conversation_id"]),
            client_id: client_id.clone(),
            seq: frame["seq"].as_u64().unwrap_or(0),
            id: text(&frame["id"]),
        };
        self.record(at_us, ack);
        let number = client_id.rsplit_once('-').and_then(|(_, number)| number.parse::<u64>().ok());
        let before = self.unanswered.len();
        self.unanswered.retain(|message| Some(message.number) != number);
        self.acknowledged += (before - self.unanswered.len()) as u64;
    }

    fn message(&mut self, at_us: u64, frame: &Value) {
        let seq = frame["seq"].as_u64().unwrap_or(0);
        if let Some(place) = self.place_of(frame) {
            self.places[place].cursor = Some(seq);
        }
        let message = &frame["message"];
        let received = What::Received {
            client: self.client(),
            conversation: text(&frame["conversation_id"]),
            seq,
            id: text(&message["id"]),
            sender: text(&message["sender_id"]),
            client_id: message["client_id"].as_str().map(String::from),
            content: text(&message["content"]),
        };
        self.record(at_us, received);
    }

    fn joined(&mut self, at_us: u64, frame: &Value) {
        let Some(place) = self.place_of(frame) else { return };
        let head = frame["head_seq"].as_u64().unwrap_or(0);
        let after_seq = self.places[place].cursor;
        self.places[place].joined = true;
        self.places[place].cursor.get_or_insert(head);
        let joined = What::Joined {
            client: self.client(),
            conversation: self.part.conversations[place].clone(),
            after_seq,
            head,
        };
        self.record(at_us, joined);
    }

    fn refused(&mut self, at_us: u64, frame: &Value) {
        let retry_us = frame["retry_after_ms"].as_u64().unwrap_or(RETRY_MS).max(1) * 1_000;
        let (about, number) = frame["ref"].as_str().and_then(|text| text.split_once(' ')).unwrap_or_default();
        let Ok(number) = number.parse::<u64>() else { return };
        if about == "join" {
            if let Some(place) = self.places.get_mut(number as usize) {
                place.due_us = Some(at_us + retry_us);
            }
            return;
        }
        let Some(message) = self.unanswered.iter_mut().find(|message| message.number == number) else {
            return;
        };
        (message.sent_us, message.due_us) = (None, at_us + retry_us);
        let conversation = self.part.conversations[message.conversation].clone();
        let (client_id, code) = (self.client_id(number), text(&frame["code"]));
        self.record(at_us, What::Refused { client: self.client(), conversation, client_id, code });
    }

    /// A request for the presence of these users. The answer goes into the history.
    pub fn look_at(&self, users: &[String]) -> Value {
        json!({"type": "get_online_status", "user_ids": &users[..users.len().min(SEEN_MAX)]})
    }

    fn status(&mut self, at_us: u64, frame: &Value) {
        let users: BTreeMap<String, Value> =
            serde_json::from_value(frame["users"].clone()).unwrap_or_default();
        for (user, status) in users {
            let online = status["online"] == true;
            self.record(at_us, What::Seen { observer: self.client(), user, online });
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}
