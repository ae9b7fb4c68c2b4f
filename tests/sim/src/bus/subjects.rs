//! Core messaging: a message arrives at most once, and in order for one sender and one subscriber. Only numbered
//! batches can arrive twice, as happens when a gateway requests a batch again and the first copy still arrives.

use crate::gate::Gate;
use crate::node::Node;
use bytes::Bytes;
use carillon_proto::wire::{Batch, ToGateway, to_gateway};
use carillon_runtime::bus::{Filler, Message, ReplyHandle, Subscription};
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// One subscription of a process to a subject.
#[derive(Clone)]
struct Member {
    id: u64,
    group: Option<String>,
    gate: Arc<Gate>,
    filler: Arc<Filler>,
}

/// All subscriptions, by subject.
#[derive(Default)]
pub struct Subjects {
    table: BTreeMap<String, Vec<Member>>,
    next: u64,
    /// When the last message of a sender arrives at a member. Later messages of that sender arrive no earlier.
    arrivals: BTreeMap<(u64, u64), Instant>,
}

impl Subjects {
    /// Removes all subscriptions of a process that ended.
    pub fn forget(&mut self, instance: u64) {
        for members in self.table.values_mut() {
            members.retain(|member| member.gate.instance != instance);
        }
        self.arrivals.retain(|(sender, _), _| *sender != instance);
    }

    /// Whether a process subscribes to this subject.
    pub fn subscribes(&self, instance: u64, subject: &str) -> bool {
        self.table
            .get(subject)
            .is_some_and(|members| members.iter().any(|member| member.gate.instance == instance))
    }

    /// Reports to all subscriptions of a process that they missed messages.
    pub fn lost(&self, instance: u64) {
        for member in self.table.values().flatten().filter(|member| member.gate.instance == instance) {
            member.filler.lost();
        }
    }

    fn arrival(&mut self, sender: u64, member: u64, earliest: Instant) -> Instant {
        let last = self.arrivals.entry((sender, member)).or_insert(earliest);
        *last = earliest.max(*last);
        *last
    }
}

/// Ends a subscription when it is dropped.
struct Feed {
    subjects: Arc<Mutex<Subjects>>,
    subject: String,
    id: u64,
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(members) = self.subjects.lock().table.get_mut(&self.subject) {
            members.retain(|member| member.id != self.id);
        }
    }
}

pub(super) fn subscribe(node: &Node, subject: &str, group: Option<&str>) -> Subscription {
    let all = &node.world.subjects;
    let mut subjects = all.lock();
    subjects.next += 1;
    let id = subjects.next;
    let feed = Feed { subjects: all.clone(), subject: subject.to_owned(), id };
    let (filler, subscription) = Subscription::fed(feed);
    let member =
        Member { id, group: group.map(str::to_owned), gate: node.gate.clone(), filler: Arc::new(filler) };
    subjects.table.entry(subject.to_owned()).or_default().push(member);
    subscription
}

/// The recipients of one message: every member without a group, and one member of a group.
fn recipients(node: &Node, subject: &str) -> Vec<Member> {
    let members = node.world.subjects.lock().table.get(subject).cloned().unwrap_or_default();
    let (grouped, mut recipients): (Vec<_>, Vec<_>) =
        members.into_iter().partition(|member| member.group.is_some());
    let chosen = node.world.dice(|random| random.pick(&grouped).cloned());
    recipients.extend(chosen);
    recipients
}

/// What happens to one message on its way to one recipient.
struct Sent {
    lost: bool,
    twice: bool,
    late: Duration,
    acks: bool,
}

fn fate(node: &Node, subject: &str, payload: &Bytes) -> Sent {
    let world = &node.world;
    let batch = subject.starts_with("gw.").then(|| batch(payload)).flatten();
    let blackout = *world.blackout.lock();
    let passes = |outcomes_only: bool| outcomes_only && batch.as_ref().is_none_or(|b| b.outcomes.is_empty());
    let dark = blackout.is_some_and(|dark| Instant::now() < dark.until && !passes(dark.outcomes_only));
    let late = world.strikes(|weather| weather.message_late);
    let late_ms = if late { world.dice(|random| random.below(1_000)) } else { 0 };
    Sent {
        lost: (dark && subject.starts_with("gw.")) || world.strikes(|weather| weather.message_lost),
        twice: batch.is_some() && world.strikes(|weather| weather.batch_twice),
        late: Duration::from_millis(late_ms),
        acks: batch.is_some_and(|batch| !batch.outcomes.is_empty()),
    }
}

fn batch(payload: &Bytes) -> Option<Batch> {
    match ToGateway::decode(payload.clone()).ok()?.body? {
        to_gateway::Body::Batch(batch) => Some(batch),
        _ => None,
    }
}

pub(super) fn publish(node: &Node, subject: &str, payload: &Bytes) {
    let world = &node.world;
    for member in recipients(node, subject) {
        let Sent { lost, twice, late, acks } = fate(node, subject, payload);
        if world.strikes(|weather| weather.subscription_lost) {
            node.note(format_args!("publishes {subject}: lost, and the subscriber is notified"));
            member.filler.lost();
            continue;
        }
        if lost {
            world.count(if acks { "batches with acks lost" } else { "messages lost" });
            node.note(format_args!("publishes {subject}: lost"));
            continue;
        }
        for again in 0..=u32::from(twice) {
            let message = Message { payload: payload.clone(), reply: None };
            deliver(node, &member, message, late + Duration::from_millis(300) * again);
        }
        node.note(format_args!("publishes {subject}: {} bytes, late {late:?}, twice {twice}", payload.len()));
    }
}

/// Sends a request to its recipients; `None` if the subject has none.
pub(super) fn request(node: &Node, subject: &str, payload: &Bytes) -> Option<Vec<oneshot::Receiver<Bytes>>> {
    let recipients = recipients(node, subject);
    let answers = recipients.iter().map(|member| {
        let (sender, answer) = oneshot::channel();
        if node.world.strikes(|weather| weather.request_lost) {
            node.note(format_args!("request on {subject}: lost"));
        } else {
            let message = Message { payload: payload.clone(), reply: Some(ReplyHandle::Local(sender)) };
            deliver(node, member, message, Duration::ZERO);
        }
        answer
    });
    let answers: Vec<_> = answers.collect();
    (!answers.is_empty()).then_some(answers)
}

fn deliver(node: &Node, member: &Member, message: Message, late: Duration) {
    let earliest = Instant::now() + node.world.latency() + late;
    let arrival = node.world.subjects.lock().arrival(node.gate.instance, member.id, earliest);
    let (filler, gate) = (Arc::downgrade(&member.filler), member.gate.clone());
    node.world.network.at(arrival, move || {
        gate.arrive(move || {
            if let Some(filler) = filler.upgrade() {
                filler.push(message);
            }
        });
    });
}
