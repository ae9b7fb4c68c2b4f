//! The gateways known to a shard: their indices, the number of the last batch of each, and which are silent.

use super::announced::Announced;
use crate::limits::{GATEWAYS_MAX, SILENT_AFTER_MS};
use carillon_proto::id::GatewayId;
use carillon_proto::wire;
use std::collections::HashMap;
use std::sync::Arc;

/// A gateway's index in one shard's memory. It is reused after the gateway was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayIndex(pub u16);

/// What a request is among the batches of its gateway.
#[derive(Debug)]
pub enum RequestKind {
    /// A heartbeat or a query, which has the number 0 and changes nothing.
    Query,
    /// The next batch.
    Next,
    /// The first part of a snapshot, and perhaps its last.
    Snapshot,
    /// The next part of a snapshot.
    SnapshotPart,
    /// A batch that was applied before, with the reply to it if that was kept.
    Repeated(Option<Arc<wire::PresenceReply>>),
    /// A batch after a gap.
    AfterGap,
}

/// A gateway, and the state of its batches.
#[derive(Debug)]
pub struct Gateway {
    /// Its name on the bus.
    pub id: GatewayId,
    /// Number of the last batch applied; `None` while it is unknown what the gateway announced before.
    last: Option<u64>,
    last_request_ms: u64,
    /// The gateway must send a snapshot.
    pub wanted: bool,
    /// The snapshot whose parts are still coming.
    pub announced: Option<Announced>,
    last_reply: Option<Arc<wire::PresenceReply>>,
}

impl Gateway {
    fn classify(&mut self, request: &wire::PresenceRequest) -> RequestKind {
        if request.number == 0 {
            match self.last {
                None if request.last_number == 0 => self.last = Some(0),
                Some(last) if last == request.last_number => {}
                _ => self.miss(),
            }
            return RequestKind::Query;
        }
        if request.snapshot {
            self.wanted = false;
            self.last_reply = None;
            self.last = Some(request.number);
            self.announced = Some(Announced::until(request.last_number.max(request.number)));
            return RequestKind::Snapshot;
        }
        match self.last {
            Some(last) if request.number <= last => RequestKind::Repeated(self.kept_reply(request.number)),
            Some(last) if request.number == last + 1 => self.accept(request.number),
            None if request.number == 1 => self.accept(1),
            _ => {
                self.miss();
                RequestKind::AfterGap
            }
        }
    }

    fn accept(&mut self, number: u64) -> RequestKind {
        self.last = Some(number);
        if self.announced.is_some() { RequestKind::SnapshotPart } else { RequestKind::Next }
    }

    fn kept_reply(&self, number: u64) -> Option<Arc<wire::PresenceReply>> {
        if self.last == Some(number) { self.last_reply.clone() } else { None }
    }

    /// Something that this gateway announced may be missing, so it must send a snapshot.
    pub fn miss(&mut self) {
        self.wanted = true;
    }

    /// Keeps the reply to the last batch, for a gateway that did not receive it.
    pub fn keep_reply(&mut self, reply: &Arc<wire::PresenceReply>) {
        self.last_reply = Some(reply.clone());
    }

    /// Returns the snapshot if the last batch completed it, so that it can be applied.
    pub fn take_complete(&mut self) -> Option<Announced> {
        let complete =
            self.announced.as_ref().is_some_and(|announced| Some(announced.last_part) == self.last);
        if complete { self.announced.take() } else { None }
    }
}

/// The gateways that a shard knows.
#[derive(Debug, Default)]
pub struct Gateways {
    slots: Vec<Option<Gateway>>,
    by_id: HashMap<GatewayId, GatewayIndex>,
}

impl Gateways {
    /// Receives a request: returns its gateway and its kind. `None` if the gateway's name is invalid or memory is
    /// full.
    pub fn receive(
        &mut self,
        now_ms: u64,
        request: &wire::PresenceRequest,
    ) -> Option<(GatewayIndex, RequestKind)> {
        let index = match self.by_id.get(request.gateway.as_str()) {
            Some(index) => *index,
            None => self.add(GatewayId::parse(&request.gateway).ok()?)?,
        };
        let gateway = self.slots[usize::from(index.0)].as_mut()?;
        gateway.last_request_ms = now_ms;
        Some((index, gateway.classify(request)))
    }

    fn add(&mut self, id: GatewayId) -> Option<GatewayIndex> {
        let free = self.slots.iter().position(Option::is_none);
        if free.is_none() && self.slots.len() >= GATEWAYS_MAX {
            return None;
        }
        let slot = free.unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        let gateway = Gateway {
            id: id.clone(),
            last: None,
            last_request_ms: 0,
            wanted: false,
            announced: None,
            last_reply: None,
        };
        self.slots[slot] = Some(gateway);
        let index = GatewayIndex(slot as u16);
        self.by_id.insert(id, index);
        Some(index)
    }

    /// A known gateway.
    pub fn get(&self, index: GatewayIndex) -> Option<&Gateway> {
        self.slots.get(usize::from(index.0))?.as_ref()
    }

    /// A known gateway, mutable.
    pub fn get_mut(&mut self, index: GatewayIndex) -> Option<&mut Gateway> {
        self.slots.get_mut(usize::from(index.0))?.as_mut()
    }

    /// The gateway with this name.
    pub fn find(&mut self, id: &GatewayId) -> Option<&mut Gateway> {
        self.get_mut(self.index(id.as_str())?)
    }

    /// The index of the gateway with this name.
    pub fn index(&self, id: &str) -> Option<GatewayIndex> {
        self.by_id.get(id).copied()
    }

    /// Whether a gateway sent a request within the last [`SILENT_AFTER_MS`].
    pub fn is_live(&self, index: GatewayIndex, now_ms: u64) -> bool {
        self.get(index).is_some_and(|gateway| now_ms <= gateway.last_request_ms + SILENT_AFTER_MS)
    }

    /// The gateways that are silent.
    pub fn silent(&self, now_ms: u64) -> Vec<GatewayIndex> {
        self.indices().filter(|index| !self.is_live(*index, now_ms)).collect()
    }

    /// Forgets a gateway. None of its sessions, watches, rooms and records may be in memory any more.
    pub fn forget(&mut self, index: GatewayIndex) {
        if let Some(gateway) = self.slots.get_mut(usize::from(index.0)).and_then(Option::take) {
            self.by_id.remove(&gateway.id);
        }
    }

    /// Counts every gateway's silence from now on and requests a snapshot from each. For use after a delay of the
    /// worker, in which requests may have been lost.
    pub fn excuse_all(&mut self, now_ms: u64) {
        for gateway in self.slots.iter_mut().flatten() {
            gateway.last_request_ms = now_ms;
            gateway.miss();
        }
    }

    /// The indices of all gateways.
    pub fn indices(&self) -> impl Iterator<Item = GatewayIndex> + '_ {
        let known =
            |(index, slot): (usize, &Option<Gateway>)| slot.is_some().then_some(GatewayIndex(index as u16));
        self.slots.iter().enumerate().filter_map(known)
    }

    /// The number of gateways.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no gateway is known.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}
