//! Registrations: a gateway registers the conversations that it serves, and the reply contains the committed heads and
//! the users who may not join. Conversations that are not in memory are loaded beside the log, which never waits for
//! them.

use super::consume::Consumer;
use crate::context::StartOver;
use crate::core::conversation::Conversation;
use crate::core::interest::Refusal;
use crate::limits::{REGISTRATION_READS_MAX, REGISTRATIONS_PENDING_MAX, RETRY_AFTER_MS};
use crate::ownership::load::Purpose;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, GatewayId, UserId};
use carillon_proto::partition;
use carillon_proto::wire::{self, partition_reply, partition_request};
use carillon_runtime::bus::{Incoming, ReplyHandle, Subscription};
use carillon_runtime::collections::Spare;
use carillon_runtime::time::steady_ms;
use prost::Message as _;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

/// Registrations that wait for conversations to be loaded.
#[derive(Debug, Default)]
pub(crate) struct Registrations {
    pending: HashMap<u64, Pending>,
    waiting: HashMap<ConversationId, Vec<Waiting>>,
    /// Conversations to load, in the order of the requests.
    queue: VecDeque<ConversationId>,
    last: u64,
}

#[derive(Debug)]
struct Pending {
    reply: ReplyHandle,
    listened: Vec<wire::Listened>,
    /// Conversations that could not be read now.
    unread: Vec<String>,
    missing: usize,
}

#[derive(Debug)]
struct Waiting {
    registration: u64,
    wanted: Wanted,
}

/// What a registration requests about one conversation.
#[derive(Debug)]
struct Wanted {
    /// If given, the conversation is in the reply only if its head is above this, or if a user is refused.
    known_head: Option<u64>,
    check: Vec<String>,
}

impl Wanted {
    /// The entry of the reply for a conversation with these participants and this committed head, if it needs one.
    fn answer(
        &self,
        id: &ConversationId,
        participants: &BTreeSet<UserId>,
        head: u64,
    ) -> Option<wire::Listened> {
        let refused: Vec<String> =
            self.check.iter().filter(|user| !participants.contains(user.as_str())).cloned().collect();
        if refused.is_empty() && self.known_head.is_some_and(|known| head <= known) {
            return None;
        }
        Some(wire::Listened { conversation: id.as_str().to_owned(), head, refused })
    }
}

impl Consumer<'_> {
    /// Answers a request of a gateway, now or when its conversations are loaded.
    pub(crate) fn receive_request(&mut self, incoming: Option<Incoming>) -> Result<(), StartOver> {
        let message = match incoming {
            Some(Incoming::Message(message)) => message,
            // The gateway gets no reply and repeats its request.
            Some(Incoming::Lost) => return Ok(()),
            None => return Err(StartOver::because("the bus has ended")),
        };
        let Some(reply) = message.reply.filter(|_| self.may_answer()) else { return Ok(()) };
        let Ok(request) = wire::PartitionRequest::decode(message.payload) else {
            self.fail(reply, Failure::invalid_payload("the request does not decode"));
            return Ok(());
        };
        if let Err((reply, failure)) = self.answer_request(reply, request) {
            self.fail(reply, failure);
        }
        Ok(())
    }

    /// Refuses the requests that arrived before this worker unsubscribed, so that their gateways repeat them at once.
    pub(crate) fn refuse_waiting(&mut self, mut requests: Subscription) -> Result<(), StartOver> {
        while let Some(incoming) = requests.try_next() {
            self.receive_request(Some(incoming))?;
        }
        Ok(())
    }

    fn answer_request(
        &mut self,
        reply: ReplyHandle,
        request: wire::PartitionRequest,
    ) -> Result<(), (ReplyHandle, Failure)> {
        let wire::PartitionRequest { gateway, counter, body } = request;
        let Ok(gateway) = GatewayId::parse(&gateway) else {
            return Err((reply, Failure::invalid_payload("the gateway's id is not valid")));
        };
        if self.ending {
            return Err((reply, unavailable("the partition moves to another worker")));
        }
        if let Some(partition_request::Body::AskOutcomes(outcomes)) = body {
            self.interest.received_from(&gateway, steady_ms());
            // As with acknowledgements: another owner may have begun, and then the rows known here may not count.
            if !self.ownership.is_valid() {
                return Err((reply, unavailable("it is not certain that the partition still is here")));
            }
            self.answer_outcomes(reply, outcomes);
            return Ok(());
        }
        if self.interest.admit(&gateway, counter, steady_ms()).is_err() {
            return Err((
                reply,
                Failure::new(ErrorCode::Conflict, "a later request has come before this one"),
            ));
        }
        match body {
            Some(partition_request::Body::Register(register)) => self.register(reply, &gateway, register),
            Some(partition_request::Body::Resend(resend)) => {
                reply.send(self.interest.resend(&gateway, &resend));
                Ok(())
            }
            Some(partition_request::Body::AskOutcomes(_)) | None => {
                Err((reply, Failure::invalid_payload("unknown request: upgrade workers before gateways")))
            }
        }
    }

    fn register(
        &mut self,
        reply: ReplyHandle,
        gateway: &GatewayId,
        register: wire::Register,
    ) -> Result<(), (ReplyHandle, Failure)> {
        if self.registrations.pending.len() >= REGISTRATIONS_PENDING_MAX {
            return Err((reply, unavailable("too many registrations wait")));
        }
        let wire::Register { replace, add, remove } = register;
        let added = self.ids(add.iter().map(|interest| &interest.conversation));
        let (Some(added), Some(removed)) = (added, self.ids(remove.iter())) else {
            return Err((reply, Failure::invalid_payload("a conversation is not of this partition")));
        };
        match self.interest.register(gateway, replace, &added, &removed) {
            Ok(()) => {}
            Err(Refusal::Full | Refusal::Old) => return Err((reply, unavailable("too much is registered"))),
        }
        self.registrations.last += 1;
        let registration = self.registrations.last;
        let mut pending = Pending { reply, listened: Vec::new(), unread: Vec::new(), missing: 0 };
        for (conversation, interest) in added.into_iter().zip(add) {
            let known_head = replace.then_some(interest.known_head);
            let wanted = Wanted { known_head, check: interest.check };
            match self.cache.get(&conversation) {
                Some(slot) => pending.listened.extend(wanted.answer(
                    &conversation,
                    slot.participants(),
                    slot.committed_seq,
                )),
                None => {
                    pending.missing += 1;
                    self.registrations.wait(conversation, Waiting { registration, wanted });
                }
            }
        }
        self.registrations.pending.insert(registration, pending);
        self.answer_if_known(registration);
        Ok(())
    }

    /// Parses the ids. `None` unless all are valid and of this partition.
    fn ids<'i>(&self, ids: impl Iterator<Item = &'i String>) -> Option<Vec<ConversationId>> {
        let (partition, partitions) = (self.context.partition, self.context.partitions);
        let ours = |id: &ConversationId| partition::of_conversation(id, partitions) == partition;
        ids.map(|id| ConversationId::parse(id).ok().filter(&ours)).collect()
    }

    /// Loads conversations for registrations, as long as enough reads remain for the log.
    pub(crate) fn load_for_registrations(&mut self) {
        while self.loading.len() < REGISTRATION_READS_MAX
            && let Some(conversation) = self.registrations.queue.pop_front()
        {
            if self.registrations.waiting.contains_key(&conversation) {
                self.load(&conversation, Purpose::Showing, Duration::ZERO);
            }
        }
    }

    /// Answers the registrations that wait for a conversation. It was just loaded, so all of its state is committed.
    pub(crate) fn answer_loaded(&mut self, conversation: &Conversation) {
        for Waiting { registration, wanted } in
            self.registrations.waiting.remove(conversation.id()).unwrap_or_default()
        {
            let listened = wanted.answer(conversation.id(), conversation.participants(), conversation.seq());
            if let Some(pending) = self.registrations.pending.get_mut(&registration) {
                pending.missing -= 1;
                pending.listened.extend(listened);
            }
            self.answer_if_known(registration);
        }
        self.registrations.shrink();
    }

    /// Answers without a conversation that could not be loaded now. The reply lists it as unread, so the gateway
    /// registers it again.
    pub(crate) fn refuse_loaded(&mut self, conversation: &ConversationId) {
        self.without(conversation, |pending| pending.unread.push(conversation.as_str().to_owned()));
    }

    /// Answers without a conversation that is damaged. The reply does not mention it, because a repeated request would
    /// not help.
    pub(crate) fn leave_out(&mut self, conversation: &ConversationId) {
        self.without(conversation, |_| {});
    }

    fn without(&mut self, conversation: &ConversationId, note: impl Fn(&mut Pending)) {
        for Waiting { registration, .. } in
            self.registrations.waiting.remove(conversation).unwrap_or_default()
        {
            if let Some(pending) = self.registrations.pending.get_mut(&registration) {
                pending.missing -= 1;
                note(pending);
            }
            self.answer_if_known(registration);
        }
    }

    /// Refuses all pending registrations: this worker sends no more replies.
    pub(crate) fn refuse_all(&mut self) {
        let Registrations { pending, .. } = std::mem::take(&mut self.registrations);
        for pending in pending.into_values() {
            self.fail(pending.reply, unavailable("the partition moves to another worker"));
        }
    }

    fn answer_if_known(&mut self, registration: u64) {
        if self.registrations.pending.get(&registration).is_some_and(|pending| pending.missing > 0) {
            return;
        }
        let Some(pending) = self.registrations.pending.remove(&registration) else { return };
        let Pending { reply, listened, unread, .. } = pending;
        if listened.is_empty() && !unread.is_empty() {
            return self.fail(reply, unavailable("the store cannot be read"));
        }
        let registered = wire::Registered { conversations: listened, unread };
        self.reply(reply, partition_reply::Body::Registered(registered));
    }

    fn fail(&self, reply: ReplyHandle, failure: Failure) {
        self.reply(reply, partition_reply::Body::Failure(failure.into()));
    }

    fn reply(&self, reply: ReplyHandle, body: partition_reply::Body) {
        let message = wire::PartitionReply { epoch: self.interest.epoch(), body: Some(body) };
        reply.send(message.encode_to_vec().into());
    }
}

impl Registrations {
    fn wait(&mut self, conversation: ConversationId, waiting: Waiting) {
        let waiters = self.waiting.entry(conversation.clone()).or_default();
        if waiters.is_empty() {
            self.queue.push_back(conversation);
        }
        waiters.push(waiting);
    }

    /// Gives back the memory that many simultaneous registrations took.
    fn shrink(&mut self) {
        self.waiting.give_spare_back();
        self.queue.give_spare_back();
    }
}

fn unavailable(reason: &str) -> Failure {
    Failure::new(ErrorCode::Unavailable, reason).retry_after(RETRY_AFTER_MS)
}
