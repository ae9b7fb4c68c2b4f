//! Good histories: a model of a server that keeps its promises, and of clients that lose connections and answers.

use crate::random::Random;
use carillon_history::{Record, What};
use std::collections::{BTreeMap, VecDeque};

/// Client names are `user-number`: ann has two clients.
pub const CLIENTS: [&str; 5] = ["ann-1", "ann-2", "ben-1", "cem-1", "dia-1"];
pub const CONVERSATIONS: [&str; 3] = ["hall", "room:1", "room:2"];
const STEPS: usize = 900;

pub fn user_of(client: &str) -> &str {
    client.split('-').next().expect("a client is named for its user")
}

/// The good history of this seed.
pub fn history(seed: u64) -> Vec<Record> {
    let mut model = Model::new(seed);
    for _ in 0..STEPS {
        model.step();
    }
    model.rest();
    model.look();
    model.dump();
    model.records
}

#[derive(Clone, PartialEq)]
struct Message {
    conversation: usize,
    client_id: String,
    content: String,
}

struct Event {
    sender: String,
    message: Message,
}

#[derive(Default)]
struct Subscription {
    /// Whether it was joined on the present connection.
    live: bool,
    /// The last received seq, or the start.
    cursor: usize,
}

#[derive(Default)]
struct Client {
    connected: bool,
    ended: bool,
    /// Messages on their way to the server.
    pipe: VecDeque<Message>,
    /// Replies on their way to the client.
    replies: VecDeque<What>,
    /// Messages sent, and neither acknowledged nor refused definitely.
    unanswered: Vec<Message>,
    /// Messages that are due to be sent again.
    again: Vec<Message>,
    subscriptions: BTreeMap<usize, Subscription>,
    sent: [usize; CONVERSATIONS.len()],
}

struct Model {
    random: Random,
    at_us: u64,
    records: Vec<Record>,
    logs: [Vec<Event>; CONVERSATIONS.len()],
    clients: [Client; CLIENTS.len()],
}

impl Model {
    fn new(seed: u64) -> Model {
        Model {
            random: Random::new(seed),
            at_us: 1_000,
            records: Vec::new(),
            logs: Default::default(),
            clients: Default::default(),
        }
    }

    fn record(&mut self, what: What) {
        self.at_us += self.random.below(20) as u64;
        self.records.push(Record { at_us: self.at_us, what });
    }

    fn step(&mut self) {
        let client = self.random.below(CLIENTS.len());
        if self.clients[client].ended {
            return;
        }
        if !self.clients[client].connected {
            return self.connect(client);
        }
        match self.random.below(1_000) {
            0..250 => self.send_new(client),
            250..500 => self.serve(client, true),
            500..700 => self.receive_reply(client),
            700..900 => self.receive_event(client),
            900..940 => self.send_again(client),
            940..970 => self.join_new(client),
            970..997 => self.cut(client),
            _ => self.end(client),
        }
    }

    fn connect(&mut self, client: usize) {
        let name = CLIENTS[client];
        self.record(What::Connected { client: name.into(), user: user_of(name).into() });
        self.clients[client].connected = true;
        let joined: Vec<usize> = self.clients[client].subscriptions.keys().copied().collect();
        for conversation in joined {
            let after = self.clients[client].subscriptions[&conversation].cursor;
            let after = if self.random.percent(10) { None } else { Some(after) };
            self.join(client, conversation, after);
        }
        let mut again = std::mem::take(&mut self.clients[client].unanswered);
        self.clients[client].again.clear();
        // Sometimes a client gives a message up, so that its outcome stays unknown.
        if !again.is_empty() && self.random.percent(10) {
            again.remove(0);
        }
        for message in again {
            self.send(client, message);
        }
    }

    fn join(&mut self, client: usize, conversation: usize, after: Option<usize>) {
        let head = self.logs[conversation].len();
        self.record(What::Joined {
            client: CLIENTS[client].into(),
            conversation: CONVERSATIONS[conversation].into(),
            after_seq: after.map(|after| after as u64),
            head: head as u64,
        });
        let subscription = Subscription { live: true, cursor: after.unwrap_or(head) };
        self.clients[client].subscriptions.insert(conversation, subscription);
    }

    fn join_new(&mut self, client: usize) {
        let conversation = self.random.below(CONVERSATIONS.len());
        if self.clients[client].subscriptions.contains_key(&conversation) {
            return;
        }
        let head = self.logs[conversation].len();
        let after = match self.random.below(4) {
            0 => Some(0),
            1 => Some(self.random.below(head + 1)),
            _ => None,
        };
        self.join(client, conversation, after);
    }

    fn send_new(&mut self, client: usize) {
        // All clients use the same client ids, except ann's second one: there they would name the same messages.
        let conversation = self.random.below(CONVERSATIONS.len());
        let name = CLIENTS[client];
        self.clients[client].sent[conversation] += 1;
        let number = self.clients[client].sent[conversation];
        let client_id = if name == "ann-2" { format!("second-{number}") } else { format!("m{number}") };
        let content = format!("{name} sends {number} in {conversation}");
        self.send(client, Message { conversation, client_id, content });
    }

    fn send(&mut self, client: usize, message: Message) {
        self.record(What::Send {
            client: CLIENTS[client].into(),
            conversation: CONVERSATIONS[message.conversation].into(),
            client_id: message.client_id.clone(),
            content: message.content.clone(),
        });
        let client = &mut self.clients[client];
        if !client.unanswered.contains(&message) {
            client.unanswered.push(message.clone());
        }
        client.pipe.push_back(message);
    }

    fn send_again(&mut self, client: usize) {
        for message in std::mem::take(&mut self.clients[client].again) {
            self.send(client, message);
        }
    }

    /// The server handles the next message of a client.
    fn serve(&mut self, client: usize, may_fail: bool) {
        let Some(message) = self.clients[client].pipe.pop_front() else { return };
        let fails = if may_fail { self.random.below(100) } else { 100 };
        let code = match fails {
            0..8 => Some("timeout"),
            8..14 => Some("unavailable"),
            14..20 => Some("rate_limited"),
            _ => None,
        };
        let (name, conversation) = (CLIENTS[client], message.conversation);
        let client_id = message.client_id.clone();
        // A timeout may come with or without effect; the other errors come without.
        let applies = code.is_none() || code == Some("timeout") && self.random.percent(50);
        let seq = if applies { self.apply(client, message) } else { 0 };
        let (client_name, place) = (name.to_owned(), CONVERSATIONS[conversation].to_owned());
        let reply = match code {
            None => What::Ack {
                client: client_name,
                conversation: place,
                client_id,
                seq: seq as u64,
                id: id_of(conversation, seq),
            },
            Some(code) => {
                What::Refused { client: client_name, conversation: place, client_id, code: code.into() }
            }
        };
        self.clients[client].replies.push_back(reply);
    }

    /// Appends a message unless it is stored already, and returns its seq.
    fn apply(&mut self, client: usize, message: Message) -> usize {
        let sender = user_of(CLIENTS[client]).to_owned();
        let log = &mut self.logs[message.conversation];
        let is_same = |event: &Event| event.sender == sender && event.message.client_id == message.client_id;
        if let Some(index) = log.iter().position(is_same) {
            return index + 1;
        }
        log.push(Event { sender, message });
        log.len()
    }

    fn receive_reply(&mut self, client: usize) {
        let Some(reply) = self.clients[client].replies.pop_front() else { return };
        let (place, name, code) = match &reply {
            What::Ack { conversation, client_id, .. } => (conversation, client_id, None),
            What::Refused { conversation, client_id, code, .. } => {
                (conversation, client_id, Some(code.as_str()))
            }
            other => panic!("{other:?} answers no message"),
        };
        let unanswered = &mut self.clients[client].unanswered;
        let index = unanswered
            .iter()
            .position(|message| CONVERSATIONS[message.conversation] == place && message.client_id == *name);
        if let Some(index) = index {
            match code {
                Some("timeout" | "unavailable") => {
                    let message = unanswered[index].clone();
                    self.clients[client].again.push(message);
                }
                // Half of the refused messages are tried again, the others are given up.
                Some(_) if self.random.percent(50) => {
                    let message = self.clients[client].unanswered.remove(index);
                    self.clients[client].again.push(message);
                }
                _ => drop(unanswered.remove(index)),
            }
        }
        self.record(reply);
    }

    fn receive_event(&mut self, client: usize) {
        let live: Vec<usize> = self.clients[client]
            .subscriptions
            .iter()
            .filter(|(conversation, subscription)| {
                subscription.live && subscription.cursor < self.logs[**conversation].len()
            })
            .map(|(conversation, _)| *conversation)
            .collect();
        let Some(conversation) = self.random.choose(&live) else { return };
        let subscription =
            self.clients[client].subscriptions.get_mut(&conversation).expect("the subscription is live");
        subscription.cursor += 1;
        let seq = subscription.cursor;
        let Event { sender, message } = &self.logs[conversation][seq - 1];
        let received = What::Received {
            client: CLIENTS[client].into(),
            conversation: CONVERSATIONS[conversation].into(),
            seq: seq as u64,
            id: id_of(conversation, seq),
            sender: sender.clone(),
            client_id: Some(message.client_id.clone()),
            content: message.content.clone(),
        };
        self.record(received);
    }

    /// Ends the connection: the server applies some of the messages on their way, and no reply arrives.
    fn cut(&mut self, client: usize) {
        let applied = self.random.below(self.clients[client].pipe.len() + 1);
        let pipe = std::mem::take(&mut self.clients[client].pipe);
        for message in pipe.into_iter().take(applied) {
            self.apply(client, message);
        }
        self.clients[client].replies.clear();
        self.clients[client].connected = false;
        for subscription in self.clients[client].subscriptions.values_mut() {
            subscription.live = false;
        }
        self.record(What::Disconnected { client: CLIENTS[client].into() });
    }

    /// Ends the client for good.
    fn end(&mut self, client: usize) {
        self.cut(client);
        self.clients[client].ended = true;
        for conversation in std::mem::take(&mut self.clients[client].subscriptions).into_keys() {
            self.record(What::Left {
                client: CLIENTS[client].into(),
                conversation: CONVERSATIONS[conversation].into(),
            });
        }
    }

    /// Lets everything come to rest: every client gets its replies and receives all events.
    fn rest(&mut self) {
        let going: Vec<usize> = (0..CLIENTS.len()).filter(|client| !self.clients[*client].ended).collect();
        for &client in &going {
            if !self.clients[client].connected {
                self.connect(client);
            }
            while !(self.clients[client].pipe.is_empty()
                && self.clients[client].replies.is_empty()
                && self.clients[client].again.is_empty())
            {
                self.serve(client, false);
                self.receive_reply(client);
                self.send_again(client);
            }
        }
        for &client in &going {
            while self.clients[client]
                .subscriptions
                .iter()
                .any(|(conversation, subscription)| subscription.cursor < self.logs[*conversation].len())
            {
                self.receive_event(client);
            }
        }
        for client in going {
            if self.random.percent(30) {
                self.cut(client);
            }
        }
    }

    fn look(&mut self) {
        self.at_us += 10_000_000;
        for (client, observer) in CLIENTS.into_iter().enumerate() {
            if !self.clients[client].connected {
                continue;
            }
            for user in ["ann", "ben", "cem", "dia", "eve"] {
                let online = (0..CLIENTS.len())
                    .any(|client| user_of(CLIENTS[client]) == user && self.clients[client].connected);
                self.record(What::Seen { observer: observer.into(), user: user.into(), online });
            }
        }
    }

    fn dump(&mut self) {
        for (conversation, log) in std::mem::take(&mut self.logs).into_iter().enumerate() {
            let head = log.len() as u64;
            for (index, Event { sender, message }) in log.into_iter().enumerate() {
                self.record(What::Stored {
                    conversation: CONVERSATIONS[conversation].into(),
                    seq: index as u64 + 1,
                    id: id_of(conversation, index + 1),
                    sender,
                    client_id: message.client_id,
                    content: message.content,
                });
            }
            self.record(What::Head { conversation: CONVERSATIONS[conversation].into(), head });
        }
    }
}

fn id_of(conversation: usize, seq: usize) -> String {
    format!("id-{conversation}-{seq}")
}
