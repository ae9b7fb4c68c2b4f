//! Interest: which gateways registered which conversations of a partition, and which batches they were sent.
//!
//! The batches for each gateway are numbered from 1, and the numbers never start over within an epoch. So a gateway
//! that was forgotten keeps its number. Interest is not stored: the hash in the beat shows a gateway that its
//! registrations are gone.

use super::batch;
use crate::limits::{
    BATCH_BYTES_MAX, GATEWAY_FORGOTTEN_MS, GATEWAY_SEEN_MS, GATEWAY_SILENT_MS, GATEWAYS_MAX, REGISTERED_MAX,
};
use bytes::Bytes;
use carillon_proto::id::{ConversationId, GatewayId};
use carillon_proto::limits::RESEND_BYTES_MAX;
use carillon_proto::partition::stable_hash;
use carillon_proto::wire::{self, to_gateway};
use carillon_runtime::collections::Spare;
use prost::Message;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// A message to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// The gateway that it is for.
    pub(crate) gateway: GatewayId,
    /// A `carillon.v1.ToGateway`.
    pub(crate) message: Bytes,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A later request of this gateway has arrived before it.
    Old,
    /// Registering more would exceed the limit of the worker.
    Full,
}

/// The results of a group for one gateway.
#[derive(Debug, Default)]
struct Parcel {
    events: Vec<Bytes>,
    outcomes: Vec<wire::Outcome>,
}

#[derive(Debug, Default)]
struct Gateway {
    /// The counter of its last request.
    counter: u64,
    conversations: HashSet<ConversationId>,
    /// The XOR of the hashes of these conversations.
    hash: u64,
    /// The number of the last batch.
    number: u64,
    kept: VecDeque<(u64, Bytes)>,
    kept_bytes: usize,
    /// The gateway has sent a request in this epoch.
    registered: bool,
    /// When its last request, command or ephemeral batch arrived.
    received_ms: u64,
}

impl Gateway {
    /// Whether the gateway may still be alive, so that it gets beats.
    fn is_known(&self, now_ms: u64) -> bool {
        let kept_ms = match (self.registered, self.conversations.is_empty()) {
            (true, false) => GATEWAY_FORGOTTEN_MS,
            (true, true) => GATEWAY_SILENT_MS,
            (false, _) => GATEWAY_SEEN_MS,
        };
        self.received_ms + kept_ms > now_ms
    }

    fn keep(&mut self, batch: Bytes) {
        self.kept_bytes += batch.len();
        self.kept.push_back((self.number, batch));
        while self.kept_bytes > RESEND_BYTES_MAX {
            let Some((_, oldest)) = self.kept.pop_front() else { break };
            self.kept_bytes -= oldest.len();
        }
    }

    /// The hash for the beat. A gateway that was silent for 10 minutes gets a deliberately wrong hash, so that it
    /// registers again if it is alive. If it does not, its interest is removed.
    fn beat_hash(&self, now_ms: u64) -> u64 {
        if self.received_ms + GATEWAY_SILENT_MS <= now_ms { !self.hash } else { self.hash }
    }
}

/// The interest of all gateways in one partition.
#[derive(Debug)]
pub(crate) struct Interest {
    partition: u32,
    epoch: u64,
    gateways: HashMap<GatewayId, Gateway>,
    listeners: HashMap<ConversationId, Vec<GatewayId>>,
    registered: usize,
}

impl Interest {
    /// No gateway is registered.
    pub(crate) fn new(partition: u32, epoch: u64) -> Interest {
        Interest { partition, epoch, gateways: HashMap::new(), listeners: HashMap::new(), registered: 0 }
    }

    /// The epoch of this ownership.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Notes that a gateway is alive.
    pub(crate) fn received_from(&mut self, gateway: &GatewayId, now_ms: u64) {
        if !self.gateways.contains_key(gateway) && self.gateways.len() >= GATEWAYS_MAX {
            self.drop_longest_silent();
        }
        let known = self.gateways.entry(gateway.clone()).or_default();
        known.received_ms = known.received_ms.max(now_ms);
    }

    /// Checks and stores the counter of a request.
    pub(crate) fn admit(&mut self, gateway: &GatewayId, counter: u64, now_ms: u64) -> Result<(), Refusal> {
        self.received_from(gateway, now_ms);
        let known = self.gateways.entry(gateway.clone()).or_default();
        if counter <= known.counter {
            return Err(Refusal::Old);
        }
        known.counter = counter;
        known.registered = true;
        Ok(())
    }

    /// Changes the conversations that a gateway is registered for.
    pub(crate) fn register(
        &mut self,
        gateway: &GatewayId,
        replace: bool,
        add: &[ConversationId],
        remove: &[ConversationId],
    ) -> Result<(), Refusal> {
        if replace {
            self.clear(gateway);
        }
        remove.iter().for_each(|conversation| self.remove(gateway, conversation));
        if self.registered + add.len() > REGISTERED_MAX {
            return Err(Refusal::Full);
        }
        let known = self.gateways.entry(gateway.clone()).or_default();
        for conversation in add {
            if known.conversations.insert(conversation.clone()) {
                known.hash ^= stable_hash(conversation.as_str());
                self.listeners.entry(conversation.clone()).or_default().push(gateway.clone());
                self.registered += 1;
            }
        }
        Ok(())
    }

    /// Forgets all registrations, so that all gateways register again.
    pub(crate) fn forget_registrations(&mut self) {
        self.listeners = HashMap::new();
        self.registered = 0;
        for known in self.gateways.values_mut() {
            known.conversations = HashSet::new();
            known.hash = 0;
        }
    }

    /// The reply that contains the kept batches from `from` on, or none if one of them is gone.
    pub(crate) fn resend(&self, gateway: &GatewayId, request: &wire::Resend) -> Bytes {
        let kept = match self.gateways.get(gateway) {
            Some(known) if request.epoch == self.epoch => &known.kept,
            _ => return batch::resent(self.epoch, &[]),
        };
        let missed: Vec<Bytes> = kept
            .iter()
            .filter(|(number, _)| *number >= request.from)
            .map(|(_, batch)| batch.clone())
            .collect();
        let whole = kept.front().is_some_and(|(oldest, _)| *oldest <= request.from);
        batch::resent(self.epoch, if whole { &missed } else { &[] })
    }

    /// Makes numbered batches of a group's events and outcomes, for the gateways that are registered or wait for an
    /// outcome.
    pub(crate) fn batches(
        &mut self,
        events: &[(ConversationId, Bytes)],
        outcomes: Vec<(GatewayId, wire::Outcome)>,
    ) -> Vec<Outgoing> {
        let mut parcels: BTreeMap<GatewayId, Parcel> = BTreeMap::new();
        for (gateway, outcome) in outcomes {
            parcels.entry(gateway).or_default().outcomes.push(outcome);
        }
        for (conversation, event) in events {
            for gateway in self.listeners.get(conversation).into_iter().flatten() {
                match parcels.get_mut(gateway) {
                    Some(parcel) => parcel.events.push(event.clone()),
                    None => parcels.entry(gateway.clone()).or_default().events.push(event.clone()),
                }
            }
        }
        let mut outgoing = Vec::with_capacity(parcels.len());
        for (gateway, parcel) in parcels {
            for piece in cut(parcel) {
                let message = self.number(&gateway, piece);
                outgoing.push(Outgoing { gateway: gateway.clone(), message });
            }
        }
        outgoing
    }

    fn number(&mut self, gateway: &GatewayId, parcel: Parcel) -> Bytes {
        let known = self.gateways.entry(gateway.clone()).or_default();
        known.number += 1;
        let Parcel { events, outcomes } = parcel;
        let (partition, epoch, number) = (self.partition, self.epoch, known.number);
        let head = wire::Batch { partition, epoch, number, events: Vec::new(), outcomes };
        let (message, batch) = batch::numbered(&head, &events);
        known.keep(batch);
        message
    }

    /// Makes messages of one gateway's ephemeral events, for each other gateway that is registered.
    pub(crate) fn ephemeral(&self, sent: &wire::EphemeralBatch) -> Vec<Outgoing> {
        let mut events: BTreeMap<&GatewayId, Vec<Bytes>> = BTreeMap::new();
        for event in &sent.events {
            let Some(listeners) = self.listeners.get(event.conversation.as_str()) else { continue };
            let encoded = Bytes::from(event.encode_to_vec());
            for gateway in listeners.iter().filter(|gateway| gateway.as_str() != sent.gateway) {
                events.entry(gateway).or_default().push(encoded.clone());
            }
        }
        let message = |(gateway, events): (&GatewayId, Vec<Bytes>)| Outgoing {
            gateway: gateway.clone(),
            message: batch::ephemeral(&sent.gateway, &events),
        };
        events.into_iter().map(message).collect()
    }

    /// The beats of this second.
    pub(crate) fn beats(&self, now_ms: u64, lag_ms: u64) -> Vec<Outgoing> {
        let beat = |(gateway, known): (&GatewayId, &Gateway)| {
            let beat = wire::Beat {
                partition: self.partition,
                epoch: self.epoch,
                number: known.number,
                interest_hash: known.beat_hash(now_ms),
                lag_ms,
                counter: known.counter,
            };
            let message = wire::ToGateway { body: Some(to_gateway::Body::Beat(beat)) };
            Outgoing { gateway: gateway.clone(), message: message.encode_to_vec().into() }
        };
        self.gateways.iter().filter(|(_, known)| known.is_known(now_ms)).map(beat).collect()
    }

    /// A beat that announces this owner to all gateways. Those that serve a conversation of this partition then
    /// register at once, and not only when they miss the former owner's beats.
    pub(crate) fn arrival(&self) -> Bytes {
        let (partition, epoch) = (self.partition, self.epoch);
        let beat = wire::Beat { partition, epoch, ..wire::Beat::default() };
        wire::ToGateway { body: Some(to_gateway::Body::Beat(beat)) }.encode_to_vec().into()
    }

    /// Removes the registrations of gateways that were silent for too long. The numbers of their batches stay.
    pub(crate) fn forget_silent(&mut self, now_ms: u64) {
        let silent =
            |known: &Gateway| !known.is_known(now_ms) && (known.registered || !known.kept.is_empty());
        let gone: Vec<GatewayId> = self
            .gateways
            .iter()
            .filter(|(_, known)| silent(known))
            .map(|(gateway, _)| gateway.clone())
            .collect();
        for gateway in gone {
            self.clear(&gateway);
            if let Some(known) = self.gateways.get_mut(&gateway) {
                known.kept = VecDeque::new();
                known.kept_bytes = 0;
                known.registered = false;
            }
        }
        self.listeners.give_spare_back();
    }

    fn clear(&mut self, gateway: &GatewayId) {
        let Some(known) = self.gateways.get_mut(gateway) else { return };
        let conversations = std::mem::take(&mut known.conversations);
        known.hash = 0;
        self.registered -= conversations.len();
        conversations.iter().for_each(|conversation| self.unlist(gateway, conversation));
    }

    fn remove(&mut self, gateway: &GatewayId, conversation: &ConversationId) {
        let Some(known) = self.gateways.get_mut(gateway) else { return };
        if known.conversations.remove(conversation) {
            known.hash ^= stable_hash(conversation.as_str());
            known.conversations.give_spare_back();
            self.registered -= 1;
            self.unlist(gateway, conversation);
        }
    }

    fn unlist(&mut self, gateway: &GatewayId, conversation: &ConversationId) {
        let Some(listeners) = self.listeners.get_mut(conversation) else { return };
        listeners.retain(|listener| listener != gateway);
        if listeners.is_empty() {
            self.listeners.remove(conversation);
        }
    }

    fn drop_longest_silent(&mut self) {
        let silent = self.gateways.iter().min_by_key(|(_, known)| known.received_ms);
        if let Some(gateway) = silent.map(|(gateway, _)| gateway.clone()) {
            self.clear(&gateway);
            self.gateways.remove(&gateway);
        }
    }
}

/// Cuts a parcel into pieces of at most [`BATCH_BYTES_MAX`]. A piece with a single larger event may exceed that.
fn cut(parcel: Parcel) -> Vec<Parcel> {
    let outcomes = parcel.outcomes.iter().map(Message::encoded_len);
    let lengths = outcomes.chain(parcel.events.iter().map(Bytes::len));
    if lengths.map(batch::field_bytes).sum::<usize>() <= BATCH_BYTES_MAX {
        return vec![parcel];
    }
    let mut pieces = vec![Parcel::default()];
    let mut bytes = 0;
    let mut piece_for = |length: usize, pieces: &mut Vec<Parcel>| {
        let field = batch::field_bytes(length);
        if bytes > 0 && bytes + field > BATCH_BYTES_MAX {
            pieces.push(Parcel::default());
            bytes = 0;
        }
        bytes += field;
        pieces.len() - 1
    };
    for outcome in parcel.outcomes {
        let piece = piece_for(outcome.encoded_len(), &mut pieces);
        pieces[piece].outcomes.push(outcome);
    }
    for event in parcel.events {
        let piece = piece_for(event.len(), &mut pieces);
        pieces[piece].events.push(event);
    }
    pieces
}

#[cfg(test)]
#[path = "interest_tests.rs"]
mod tests;
