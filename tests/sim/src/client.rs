//! A client that keeps to the protocol. It joins after the last seq it received, and sends messages without an ack
//! again, in order and with the same client ids.

use crate::club::{Received, is_club};
use crate::cluster::{Cluster, Kind, Line};
use crate::door::Incoming;
use crate::frame::Frame;
use crate::random::Random;
use crate::world::World;
use carillon_history::What;
use carillon_proto::code::Close;
use carillon_proto::id::UserId;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a client waits for its first frame, for a join, and for a message's outcome. This is longer than a gateway
/// waits before it reports `timeout`, so it ends only connections whose gateway is gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time before a client repeats a refused join or message.
const AGAIN: Duration = Duration::from_millis(700);

/// What a client does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The client's name in the history.
    pub name: String,
    /// The client's user.
    pub user: UserId,
    /// The conversations that it joins and sends to.
    pub conversations: Vec<String>,
    /// How many messages it sends.
    pub messages: u64,
    /// Longest time between two bursts, in milliseconds.
    pub pause_ms: u64,
    /// Most messages in a burst.
    pub burst: u64,
    /// Whether it sometimes pauses before it reads on.
    pub dawdles: bool,
    /// The gateway to which it connects first. After each lost connection it connects to the next one.
    pub gateway: usize,
}

/// A message without an ack.
#[derive(Debug, Clone)]
struct Unanswered {
    client_id: String,
    conversation: String,
    /// When it was sent on this connection; `None` if it was not.
    sent: Option<Instant>,
    not_before: Instant,
}

/// A client's state, as far as the judge reads it.
#[derive(Debug, Default)]
pub struct State {
    /// The last seq received in each joined conversation.
    pub cursors: BTreeMap<String, u64>,
    /// Who is online, by the last `online_status` frame.
    pub online: BTreeMap<String, bool>,
    /// Conversations joined on the present connection.
    pub joined: BTreeSet<String>,
    unanswered: VecDeque<Unanswered>,
    /// Users whose presence the next frame requests.
    requested: Option<Vec<String>>,
}

impl State {
    /// Client ids of messages without an ack.
    pub fn unanswered(&self) -> Vec<String> {
        self.unanswered.iter().map(|one| one.client_id.clone()).collect()
    }

    /// Makes the client request the presence of these users with its next frame.
    pub fn request_presence(&mut self, users: Vec<String>) {
        self.online.clear();
        self.requested = Some(users);
    }
}

/// A client as scripts, disasters and the judge see it.
pub struct Client {
    /// What the client does.
    pub plan: Plan,
    /// What the client has received and still waits for.
    pub state: Mutex<State>,
    cut: Notify,
    ended: Mutex<bool>,
    quiet: Mutex<bool>,
}

impl Client {
    /// A client that is not connected yet.
    pub fn new(plan: Plan) -> Arc<Client> {
        let (state, ended, quiet) = (Mutex::default(), Mutex::new(false), Mutex::new(false));
        Arc::new(Client { plan, state, cut: Notify::new(), ended, quiet })
    }

    /// Breaks the client's connection now. Frames on their way are lost.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }

    /// Ends the client for good.
    pub fn leave(&self) {
        *self.ended.lock() = true;
        self.cut.notify_waiters();
    }

    /// Stops the client from beginning new messages. It still repeats messages without an ack.
    pub fn be_quiet(&self) {
        *self.quiet.lock() = true;
    }

    /// Whether the client has ended for good.
    pub fn has_left(&self) -> bool {
        *self.ended.lock()
    }
}

/// A running client.
pub struct RunningClient {
    client: Arc<Client>,
    world: Arc<World>,
    cluster: Arc<Cluster>,
    random: Random,
    sent: u64,
    next_burst: Instant,
    gateway: usize,
}

/// The state of one connection.
struct Connection {
    line: Line,
    began: Instant,
    greeted: bool,
    /// When the gateway last had room for a frame.
    had_room: Instant,
    /// Conversations whose join has no reply yet.
    joining: BTreeMap<String, Joining>,
}

#[derive(Debug, Clone, Copy)]
enum Joining {
    Wanted(Instant),
    Sent(Instant, Option<u64>),
}

impl RunningClient {
    /// A client that starts now.
    pub fn new(client: Arc<Client>, world: Arc<World>, cluster: Arc<Cluster>) -> RunningClient {
        let random = world.dice(Random::fork);
        let gateway = client.plan.gateway;
        RunningClient { client, world, cluster, random, sent: 0, next_burst: Instant::now(), gateway }
    }

    /// Connects, and reconnects whenever the connection ends, until the client ends for good.
    pub async fn run(mut self) {
        while !self.client.has_left() {
            let line = self.cluster.connect(self.gateway, &self.client.plan.user);
            if let Some(line) = line {
                self.converse(line).await;
            }
            self.gateway = (self.gateway + 1) % self.cluster.count(Kind::Gateway);
            let pause_ms = self.random.between(20..=1_500);
            sleep(Duration::from_millis(pause_ms)).await;
        }
        for conversation in self.client.state.lock().cursors.keys() {
            let (client, conversation) = (self.client.plan.name.clone(), conversation.clone());
            self.world.record(What::Left { client, conversation });
        }
    }

    /// Serves one connection from its beginning to its end.
    async fn converse(&mut self, line: Line) {
        let now = Instant::now();
        let wanted = |id: &String| (id.clone(), Joining::Wanted(now));
        let joining = self.client.plan.conversations.iter().map(wanted).collect();
        let mut connection = Connection { line, began: now, greeted: false, had_room: now, joining };
        let client = self.client.clone();
        let cut = client.cut.notified();
        tokio::pin!(cut);
        cut.as_mut().enable();
        loop {
            if !self.act(&mut connection) {
                break;
            }
            let tick = Duration::from_millis(self.random.between(20..=120));
            tokio::select! {
                biased;
                () = &mut cut => break,
                incoming = connection.line.from.recv() => match incoming {
                    Some(Incoming::Text(text)) => self.receive(&mut connection, &text),
                    Some(Incoming::Closed(close)) => {
                        self.world.note(format_args!("{} receives {close:?}", client.plan.name));
                        if close == Close::TooManyConnections {
                            self.world.count("connections refused");
                        }
                        break;
                    }
                    None => break,
                },
                () = sleep(tick) => {}
            }
            if client.plan.dawdles && self.random.chance(20) {
                let pause_ms = self.random.below(3_000);
                tokio::select! { biased; () = &mut cut => break, () = sleep(Duration::from_millis(pause_ms)) => {} }
            }
        }
        let state = &mut *self.client.state.lock();
        state.joined.clear();
        state.unanswered.iter_mut().for_each(|one| (one.sent, one.not_before) = (None, Instant::now()));
        if connection.greeted {
            let name = &self.client.plan.name;
            self.world.record(What::Disconnected { client: name.clone() });
        }
    }

    /// Sends whatever is due, as long as the connection has room; `false` if the connection is of no more use.
    fn act(&mut self, connection: &mut Connection) -> bool {
        let now = Instant::now();
        if !connection.greeted {
            return connection.began.elapsed() < PATIENCE;
        }
        if !self.is_patient(connection, now) {
            self.world.note(format_args!("{} loses patience", self.client.plan.name));
            return false;
        }
        self.compose(now);
        while connection.line.to.capacity() > 0 {
            connection.had_room = now;
            let Some((frame, what)) = self.next_frame(connection, now) else { return true };
            what.into_iter().for_each(|what| self.world.record(what));
            if connection.line.to.try_send(frame).is_err() {
                return false;
            }
        }
        true
    }

    fn next_frame(&self, connection: &mut Connection, now: Instant) -> Option<(String, Option<What>)> {
        let join = self.next_join(connection, now).or_else(|| self.next_presence_request());
        let send = || self.next_send(now).map(|(frame, what)| (frame, Some(what)));
        join.map(|frame| (frame, None)).or_else(send)
    }

    fn is_patient(&self, connection: &Connection, now: Instant) -> bool {
        let waits = |since: Instant| now.duration_since(since) > PATIENCE;
        let state = self.client.state.lock();
        let joins =
            connection.joining.values().any(|join| matches!(join, Joining::Sent(at, _) if waits(*at)));
        let stalled = waits(connection.had_room);
        !stalled && !joins && !state.unanswered.iter().any(|one| one.sent.is_some_and(waits))
    }

    fn next_join(&self, connection: &mut Connection, now: Instant) -> Option<String> {
        let due = |joining: &Joining| matches!(joining, Joining::Wanted(at) if *at <= now);
        let (conversation, joining) = connection.joining.iter_mut().find(|(_, joining)| due(joining))?;
        let after_seq = self.client.state.lock().cursors.get(conversation).copied();
        *joining = Joining::Sent(now, after_seq);
        let reference = format!("j {conversation}");
        let mut frame =
            json!({ "type": "join_conversation", "conversation_id": conversation, "ref": reference });
        if let Some(after_seq) = after_seq {
            frame["after_seq"] = after_seq.into();
        }
        Some(frame.to_string())
    }

    fn next_presence_request(&self) -> Option<String> {
        let users = self.client.state.lock().requested.take()?;
        Some(json!({ "type": "get_online_status", "user_ids": users, "ref": "o" }).to_string())
    }

    /// Begins a burst of new messages, if it is time.
    fn compose(&mut self, now: Instant) {
        let plan = &self.client.plan;
        if *self.client.quiet.lock() || self.sent >= plan.messages || now < self.next_burst {
            return;
        }
        let mut state = self.client.state.lock();
        for _ in 0..self.random.between(1..=plan.burst).min(plan.messages - self.sent) {
            let Some(conversation) = self.random.pick(&plan.conversations).cloned() else { return };
            self.sent += 1;
            let client_id = format!("{}.{}", plan.name, self.sent);
            state.unanswered.push_back(Unanswered { client_id, conversation, sent: None, not_before: now });
        }
        let pause_ms = self.random.between(1..=plan.pause_ms);
        self.next_burst = now + Duration::from_millis(pause_ms);
    }

    /// The next message to send. Messages go out in order: a message that waits for its repetition holds up all later
    /// ones.
    fn next_send(&self, now: Instant) -> Option<(String, What)> {
        let mut state = self.client.state.lock();
        let next = state.unanswered.iter_mut().find(|one| one.sent.is_none())?;
        if next.not_before > now {
            return None;
        }
        next.sent = Some(now);
        let (client, client_id) = (self.client.plan.name.clone(), next.client_id.clone());
        let (conversation, content) = (next.conversation.clone(), format!("text {client_id}"));
        let frame = json!({
            "type": "send_message", "conversation_id": conversation, "content": content,
            "client_id": client_id, "ref": format!("s {client_id}"),
        });
        Some((frame.to_string(), What::Send { client, conversation, client_id, content }))
    }

    fn receive(&mut self, connection: &mut Connection, text: &str) {
        let (name, user) = (self.client.plan.name.clone(), self.client.plan.user.to_string());
        if !std::mem::replace(&mut connection.greeted, true) {
            self.world.record(What::Connected { client: name.clone(), user });
        }
        match Frame::parse(text) {
            Frame::Message { conversation, seq, id, sender, client_id, content } => {
                self.follows(&conversation, seq, Some(&id));
                let received =
                    What::Received { client: name, conversation, seq, id, sender, client_id, content };
                self.world.record(received);
            }
            Frame::Change { conversation, seq } => self.follows(&conversation, seq, None),
            Frame::Ack { conversation, client_id, seq, id } => {
                self.client.state.lock().unanswered.retain(|one| one.client_id != client_id);
                self.world.count("acks");
                self.world.acknowledged(&conversation, seq);
                self.world.record(What::Ack { client: name, conversation, client_id, seq, id });
            }
            Frame::Joined { conversation, head } => {
                let joining = connection.joining.remove(&conversation);
                let Some(Joining::Sent(_, after_seq)) = joining else { return };
                self.world.count("joins");
                let state = &mut *self.client.state.lock();
                state.cursors.insert(conversation.clone(), after_seq.unwrap_or(head));
                state.joined.insert(conversation.clone());
                self.world.record(What::Joined { client: name, conversation, after_seq, head });
            }
            Frame::Ended { conversation } => {
                self.world.count("subscriptions ended");
                self.client.state.lock().joined.remove(&conversation);
                connection.joining.insert(conversation, Joining::Wanted(Instant::now() + AGAIN));
            }
            Frame::Online(users) => self.client.state.lock().online.extend(users),
            Frame::Failed { reference, code } => self.refused(connection, &reference, code),
            Frame::Other => {}
        }
    }

    /// Moves the cursor to a received event. In a club the client receives every event, so each seq must follow the one
    /// before.
    fn follows(&self, conversation: &str, seq: u64, id: Option<&str>) {
        let before = self.client.state.lock().cursors.insert(conversation.to_owned(), seq);
        if !is_club(conversation) {
            return;
        }
        let (client, user) = (self.client.plan.name.clone(), self.client.plan.user.to_string());
        if before.is_some_and(|before| before + 1 != seq) {
            self.world.violation(format_args!("{client} received {seq} of {conversation} after {before:?}"));
        }
        let (conversation, id) = (conversation.to_owned(), id.map(str::to_owned));
        self.world.record_club_event(|at_us| Received { client, user, conversation, seq, id, at_us });
    }

    /// Handles an error frame: a refused join is repeated, and so is a message whose outcome is unknown.
    fn refused(&mut self, connection: &mut Connection, reference: &str, code: String) {
        self.world.count("refusals");
        let again = Instant::now() + AGAIN;
        if let Some(conversation) = reference.strip_prefix("j ") {
            if code == "forbidden" {
                self.world.count("joins refused");
            }
            connection.joining.insert(conversation.to_owned(), Joining::Wanted(again));
        }
        let Some(client_id) = reference.strip_prefix("s ") else { return };
        let state = &mut *self.client.state.lock();
        let Some(one) = state.unanswered.iter_mut().find(|one| one.client_id == client_id) else { return };
        (one.sent, one.not_before) = (None, again);
        let (client, client_id) = (self.client.plan.name.clone(), client_id.to_owned());
        let conversation = one.conversation.clone();
        if code != "timeout" && code != "unavailable" {
            state.unanswered.retain(|other| other.client_id != client_id);
        }
        self.world.record(What::Refused { client, conversation, client_id, code });
    }
}

/// Waits until a client's state satisfies `wanted`; `false` if it does not by `deadline`.
pub async fn wait_for(client: &Client, deadline: Instant, wanted: impl Fn(&State) -> bool) -> bool {
    while !wanted(&client.state.lock()) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep_until(Instant::now() + Duration::from_millis(50)).await;
    }
    true
}
