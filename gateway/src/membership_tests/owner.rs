//! A model of a partition's owner.

use super::EPOCH;
use carillon_proto::wire::{self, partition_reply, partition_request};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;

/// A partition's owner: the registered conversations, their events, and the users that may not join.
#[derive(Default)]
pub(super) struct Owner {
    pub(super) registered: Mutex<BTreeSet<String>>,
    pub(super) events: Mutex<BTreeMap<String, Vec<wire::Event>>>,
    pub(super) refused: Mutex<BTreeSet<String>>,
    pub(super) number: AtomicU64,
}

impl Owner {
    pub(super) fn head(&self, conversation: &str) -> u64 {
        self.events.lock().get(conversation).map_or(0, |events| events.len() as u64)
    }

    pub(super) fn answer(&self, request: wire::PartitionRequest) -> wire::PartitionReply {
        let body = match request.body {
            Some(partition_request::Body::Register(register)) => {
                let mut registered = self.registered.lock();
                if register.replace {
                    registered.clear();
                }
                for id in &register.remove {
                    registered.remove(id);
                }
                let mut conversations = Vec::new();
                for interest in register.add {
                    registered.insert(interest.conversation.clone());
                    let head = self.head(&interest.conversation);
                    let refused = self.refused.lock();
                    let refused = interest.check.into_iter().filter(|user| refused.contains(user)).collect();
                    let conversation = interest.conversation;
                    conversations.push(wire::Listened { conversation, head, refused });
                }
                partition_reply::Body::Registered(wire::Registered { conversations, ..Default::default() })
            }
            _ => partition_reply::Body::Resent(wire::Resent::default()),
        };
        wire::PartitionReply { epoch: EPOCH, body: Some(body) }
    }

    pub(super) fn read(&self, request: wire::ReadRequest) -> wire::ReadReply {
        let Some(wire::read_request::Body::Events(page_request)) = request.body else {
            return wire::ReadReply::default();
        };
        let events = self.events.lock().get(&page_request.conversation).cloned().unwrap_or_default();
        let above =
            events.into_iter().filter(|event| event.seq > page_request.after_seq.unwrap_or(0)).collect();
        let page = wire::Events { events: above, has_more: false };
        wire::ReadReply { body: Some(wire::read_reply::Body::Events(page)) }
    }
}
