//! Core messaging in memory: the subscribers of each subject.

use crate::bus::mailbox::{Filler, mailbox};
use crate::bus::{BusError, Message, ReplyHandle, Subscription};
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

struct Member {
    id: u64,
    filler: Filler,
}

/// A group of subscribers. Each message goes to one of them, in turn.
struct Group {
    name: String,
    members: Vec<Member>,
    turn: AtomicUsize,
}

impl Group {
    fn chosen(&self, payload_bytes: usize) -> Option<&Member> {
        let count = self.members.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..count).filter_map(|step| self.members.get(turn.wrapping_add(step) % count));
        in_turn().find(|member| member.filler.has_room(payload_bytes)).or_else(|| in_turn().next())
    }
}

#[derive(Default)]
struct Subject {
    members: Vec<Member>,
    groups: Vec<Group>,
}

impl Subject {
    fn add(&mut self, member: Member, group: Option<&str>) {
        let Some(name) = group else { return self.members.push(member) };
        match self.groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.members.push(member),
            None => {
                self.groups.push(Group {
                    name: name.into(),
                    members: vec![member],
                    turn: AtomicUsize::new(0),
                });
            }
        }
    }

    fn remove(&mut self, id: u64) {
        self.members.retain(|member| member.id != id);
        for group in &mut self.groups {
            group.members.retain(|member| member.id != id);
        }
        self.groups.retain(|group| !group.members.is_empty());
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.groups.is_empty()
    }

    fn recipients(&self, payload_bytes: usize) -> impl Iterator<Item = &Member> {
        self.members.iter().chain(self.groups.iter().filter_map(move |group| group.chosen(payload_bytes)))
    }
}

/// All subjects that have a subscriber.
#[derive(Default)]
pub(super) struct Subjects {
    table: RwLock<HashMap<Box<str>, Subject>>,
    next_id: AtomicU64,
}

/// Unsubscribes when it is dropped.
struct Feed {
    subjects: Arc<Subjects>,
    subject: Box<str>,
    id: u64,
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut table = self.subjects.table.write();
        if let Some(subject) = table.get_mut(&self.subject) {
            subject.remove(self.id);
            if subject.is_empty() {
                table.remove(&self.subject);
            }
        }
    }
}

impl Subjects {
    pub(super) fn subscribe(self: &Arc<Self>, subject: &str, group: Option<&str>) -> Subscription {
        let (filler, mailbox) = mailbox();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.table.write().entry(subject.into()).or_default().add(Member { id, filler }, group);
        let feed = Feed { subjects: self.clone(), subject: subject.into(), id };
        Subscription { mailbox, _feed: Box::new(feed) }
    }

    pub(super) fn publish(&self, subject: &str, payload: &Bytes) {
        if let Some(subject) = self.table.read().get(subject) {
            for member in subject.recipients(payload.len()) {
                member.filler.push(Message { payload: payload.clone(), reply: None });
            }
        }
    }

    /// Sends a request to every subscriber and to one member of each group, each with its own reply channel.
    fn send_requests(&self, subject: &str, payload: &Bytes) -> Vec<oneshot::Receiver<Bytes>> {
        let table = self.table.read();
        let recipients = table.get(subject).into_iter().flat_map(|subject| subject.recipients(payload.len()));
        recipients
            .map(|member| {
                let (sender, receiver) = oneshot::channel();
                let reply = Some(ReplyHandle::Local(sender));
                member.filler.push(Message { payload: payload.clone(), reply });
                receiver
            })
            .collect()
    }

    pub(super) async fn request(
        &self,
        subject: &str,
        payload: &Bytes,
        timeout: Duration,
    ) -> Result<Bytes, BusError> {
        let deadline = Instant::now() + timeout;
        let answers = self.send_requests(subject, payload);
        if answers.is_empty() {
            return Err(BusError::Unavailable(format!("nobody listens on {subject}")));
        }
        if let Ok(Ok((answer, _))) = timeout_at(deadline, futures_util::future::select_ok(answers)).await {
            return Ok(answer);
        }
        // A subscriber that drops the request does not shorten the wait. Over a network that would not be noticed
        // either, and a caller that repeats its request at once would spin.
        sleep_until(deadline).await;
        Err(BusError::Timeout(format!("no answer on {subject} within {timeout:?}")))
    }
}
