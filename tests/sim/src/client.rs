//! A client that keeps to the protocol: it joins from where it has heard to, and sends again, in order and under the
//! same ids, what has no ack.

use crate::club::{Heard, is_club};
use crate::cluster::{Cluster, Kind, Line};
use crate::door::Came;
use crate::random::Random;
use crate::told::Told;
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

/// How long a client waits for its first frame, for a join, and for a message's outcome: longer than the gateway says
/// `timeout` itself, so that this ends only connections whose gateway is gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// Before a join or message that was refused for now is tried again.
const AGAIN: Duration = Duration::from_millis(700);

/// What a client does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// Its user.
    pub user: UserId,
    /// What it joins.
    pub conversations: Vec<String>,
    /// Messages it sends.
    pub messages: u64,
    /// Milliseconds between two of its bursts, at most.
    pub pause_ms: u64,
    /// Messages in a burst, at most.
    pub burst: u64,
    /// It sometimes takes its time to read.
    pub dawdles: bool,
    /// It is connected from this gateway on; the next one when it is gone.
    pub gateway: usize,
}

/// A message without ack.
#[derive(Debug, Clone)]
struct Unanswered {
    client_id: String,
    conversation: String,
    /// When it was sent on this connection, if it was.
    sent: Option<Instant>,
    not_before: Instant,
}

/// A client's state, which the judge looks at.
#[derive(Debug, Default)]
pub struct State {
    /// The last seq heard of what was joined.
    pub cursors: BTreeMap<String, u64>,
    /// The last frame said who of these is online.
    pub online: BTreeMap<String, bool>,
    /// It has everything joined on a connection that lives.
    pub joined: BTreeSet<String>,
    unanswered: VecDeque<Unanswered>,
    asked: Option<Vec<String>>,
}

impl State {
    /// Messages without ack.
    pub fn unanswered(&self) -> Vec<String> {
        self.unanswered.iter().map(|one| one.client_id.clone()).collect()
    }

    /// Asks who of these is online, with the next frame.
    pub fn ask(&mut self, users: Vec<String>) {
        self.online.clear();
        self.asked = Some(users);
    }
}

/// A client's handle.
pub struct Client {
    /// What it does.
    pub plan: Plan,
    /// How far it is.
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

    /// Its connection breaks now, with all that is on its way.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }

    /// It goes, for good.
    pub fn leave(&self) {
        *self.ended.lock() = true;
        self.cut.notify_waiters();
    }

    /// It sends nothing new from now on.
    pub fn be_quiet(&self) {
        *self.quiet.lock() = true;
    }

    /// Whether it has gone for good.
    pub fn has_left(&self) -> bool {
        *self.ended.lock()
    }
}

/// A client while it runs.
pub struct Life {
    client: Arc<Client>,
    world: Arc<World>,
    cluster: Arc<Cluster>,
    random: Random,
    sent: u64,
    next_burst: Instant,
    gateway: usize,
}

/// What there is about one connection.
struct Connection {
    line: Line,
    began: Instant,
    greeted: bool,
    /// When it last took a frame.
    had_room: Instant,
    /// Joins that have no answer, with when they may be asked, or were.
    joining: BTreeMap<String, Joining>,
}

#[derive(Debug, Clone, Copy)]
enum Joining {
    Wanted(Instant),
    Asked(Instant, Option<u64>),
}

impl Life {
    /// A client that begins now.
    pub fn new(client: Arc<Client>, world: Arc<World>, cluster: Arc<Cluster>) -> Life {
        let random = world.dice(Random::fork);
        let gateway = client.plan.gateway;
        Life { client, world, cluster, random, sent: 0, next_burst: Instant::now(), gateway }
    }

    /// Connects, and again, until it goes for good.
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

    /// From a connection's beginning to its end.
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
                came = connection.line.from.recv() => match came {
                    Some(Came::Text(text)) => self.hear(&mut connection, &text),
                    Some(Came::Closed(close)) => {
                        self.world.note(format_args!("{} is told {close:?}", client.plan.name));
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

    /// Sends what is to be sent and finds room, as somebody who reads on meanwhile; `false` when the connection is of
    /// no more use.
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
        let join = self.next_join(connection, now).or_else(|| self.next_question());
        let send = || self.next_send(now).map(|(frame, what)| (frame, Some(what)));
        join.map(|frame| (frame, None)).or_else(send)
    }

    fn is_patient(&self, connection: &Connection, now: Instant) -> bool {
        let waits = |since: Instant| now.duration_since(since) > PATIENCE;
        let state = self.client.state.lock();
        let joins =
            connection.joining.values().any(|join| matches!(join, Joining::Asked(at, _) if waits(*at)));
        let stalled = waits(connection.had_room);
        !stalled && !joins && !state.unanswered.iter().any(|one| one.sent.is_some_and(waits))
    }

    fn next_join(&self, connection: &mut Connection, now: Instant) -> Option<String> {
        let due = |joining: &Joining| matches!(joining, Joining::Wanted(at) if *at <= now);
        let (conversation, joining) = connection.joining.iter_mut().find(|(_, joining)| due(joining))?;
        let after_seq = self.client.state.lock().cursors.get(conversation).copied();
        *joining = Joining::Asked(now, after_seq);
        let reference = format!("j {conversation}");
        let mut frame =
            json!({ "type": "join_conversation", "conversation_id": conversation, "ref": reference });
        if let Some(after_seq) = after_seq {
            frame["after_seq"] = after_seq.into();
        }
        Some(frame.to_string())
    }

    fn next_question(&self) -> Option<String> {
        let users = self.client.state.lock().asked.take()?;
        Some(json!({ "type": "get_online_status", "user_ids": users, "ref": "o" }).to_string())
    }

    /// Thinks of new messages, if it is time.
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

    /// The next message to send, in order: none before an earlier one that waits to be sent again.
    fn next_send(&self, now: Instant) -> Option<(String, What)> {
        let mut state = self.client.state.lock();
        let next = state.unanswered.iter_mut().find(|one| one.sent.is_none())?;
        if next.not_before > now {
            return None;
        }
        next.sent = Some(now);
        let (client, client_id) = (self.client.plan.name.clone(), next.client_id.clone());
        let (conversation, content) = (next.conversation.clone(), format!("says {client_id}"));
        let frame = json!({
            "type": "send_message", "conversation_id": conversation, "content": content,
            "client_id": client_id, "ref": format!("s {client_id}"),
        });
        Some((frame.to_string(), What::Send { client, conversation, client_id, content }))
    }

    fn hear(&mut self, connection: &mut Connection, text: &str) {
        let (name, user) = (self.client.plan.name.clone(), self.client.plan.user.to_string());
        if !std::mem::replace(&mut connection.greeted, true) {
            self.world.record(What::Connected { client: name.clone(), user });
        }
        match Told::read(text) {
            Told::Message { conversation, seq, id, sender, client_id, content } => {
                self.follows(&conversation, seq, Some(&id));
                let heard = What::Heard { client: name, conversation, seq, id, sender, client_id, content };
                self.world.record(heard);
            }
            Told::Change { conversation, seq } => self.follows(&conversation, seq, None),
            Told::Ack { conversation, client_id, seq, id } => {
                self.client.state.lock().unanswered.retain(|one| one.client_id != client_id);
                self.world.count("acks");
                self.world.acknowledged(&conversation, seq);
                self.world.record(What::Ack { client: name, conversation, client_id, seq, id });
            }
            Told::Joined { conversation, head } => {
                let asked = connection.joining.remove(&conversation);
                let Some(Joining::Asked(_, after_seq)) = asked else { return };
                self.world.count("joins");
                let state = &mut *self.client.state.lock();
                state.cursors.insert(conversation.clone(), after_seq.unwrap_or(head));
                state.joined.insert(conversation.clone());
                self.world.record(What::Joined { client: name, conversation, after_seq, head });
            }
            Told::Ended { conversation } => {
                self.world.count("subscriptions ended");
                self.client.state.lock().joined.remove(&conversation);
                connection.joining.insert(conversation, Joining::Wanted(Instant::now() + AGAIN));
            }
            Told::Online(users) => self.client.state.lock().online.extend(users),
            Told::Failed { reference, code } => self.refused(connection, &reference, code),
            Told::Other => {}
        }
    }

    /// An event came: the cursor moves on. In a club every event is heard, so that the next has the next seq.
    fn follows(&self, conversation: &str, seq: u64, id: Option<&str>) {
        let before = self.client.state.lock().cursors.insert(conversation.to_owned(), seq);
        if !is_club(conversation) {
            return;
        }
        let (client, user) = (self.client.plan.name.clone(), self.client.plan.user.to_string());
        if before.is_some_and(|before| before + 1 != seq) {
            self.world.violation(format_args!("{client} heard {seq} of {conversation} after {before:?}"));
        }
        let (conversation, id) = (conversation.to_owned(), id.map(str::to_owned));
        self.world.heard(|at_us| Heard { client, user, conversation, seq, id, at_us });
    }

    /// A join is asked again, and so is a message whose outcome is open.
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

/// Waits until a client's state is as wanted; `false` when it is not by `deadline`.
pub async fn wait_for(client: &Client, deadline: Instant, wanted: impl Fn(&State) -> bool) -> bool {
    while !wanted(&client.state.lock()) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep_until(Instant::now() + Duration::from_millis(50)).await;
    }
    true
}
