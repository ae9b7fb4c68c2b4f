//! The conversations in memory. The least recently used are removed first, once all their rows are in the store.

use super::conversation::Conversation;
use carillon_proto::id::{ConversationId, UserId};
use carillon_runtime::collections::Spare;
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(Debug)]
pub(crate) struct Slot {
    /// The state, with the group that was applied last, whose rows may not be written yet.
    pub(crate) conversation: Conversation,
    /// The seq of the newest event whose row is committed.
    pub(crate) committed_seq: u64,
    /// It is decided which rows of earlier incarnations count, so commands may be applied.
    pub(crate) decided: bool,
    /// A group that changed the conversation is not written yet.
    pub(crate) uncommitted: bool,
    /// The committed participants, while a group that is not written yet changes them.
    committed_participants: Option<BTreeSet<UserId>>,
    /// The head waits to be written.
    pub(crate) dirty: bool,
    /// Different for each loading of a conversation.
    pub(crate) instance: u64,
    used: u64,
    used_ms: u64,
    weight_bytes: usize,
}

impl Slot {
    /// The committed participants. A row that may never be stored must not let a user in.
    pub(crate) fn participants(&self) -> &BTreeSet<UserId> {
        self.committed_participants.as_ref().unwrap_or(self.conversation.participants())
    }

    /// Changes the conversation by a command whose row is not written yet. `change` returns whether it changed
    /// anything.
    pub(crate) fn change<T>(
        &mut self,
        participants: bool,
        change: impl FnOnce(&mut Conversation) -> (bool, T),
    ) -> T {
        let before = participants.then(|| self.participants().clone());
        let (changed, result) = change(&mut self.conversation);
        if changed {
            self.uncommitted = true;
            self.committed_participants = self.committed_participants.take().or(before);
        }
        result
    }

    /// Notes that all rows of the conversation are written.
    pub(crate) fn committed(&mut self) {
        self.committed_seq = self.conversation.seq();
        self.uncommitted = false;
        self.committed_participants = None;
    }
}

/// How much may stay in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheLimits {
    /// The number of conversations.
    pub(crate) conversations: usize,
    /// Their bytes.
    pub(crate) bytes: usize,
    /// The time that a conversation stays without being used.
    pub(crate) idle_ms: u64,
}

/// The conversations in memory.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    slots: HashMap<ConversationId, Slot>,
    /// In ascending order of last use.
    order: BTreeMap<u64, ConversationId>,
    uses: u64,
    bytes: usize,
}

impl Cache {
    /// The number of conversations in memory.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn contains(&self, id: &ConversationId) -> bool {
        self.slots.contains_key(id)
    }

    /// Whether commands may be applied to the conversation that is in memory.
    pub(crate) fn is_decided(&self, id: &ConversationId) -> bool {
        self.get(id).is_some_and(|slot| slot.decided)
    }

    /// Inserts a loaded conversation. It replaces one that was loaded before without being sealed.
    pub(crate) fn insert(&mut self, conversation: Conversation, decided: bool, now_ms: u64) {
        let id = conversation.id().clone();
        self.remove(&id);
        self.uses += 1;
        let weight_bytes = conversation.weight_bytes();
        let committed_seq = conversation.seq();
        self.order.insert(self.uses, id.clone());
        self.bytes += weight_bytes;
        let slot = Slot {
            conversation,
            committed_seq,
            decided,
            uncommitted: false,
            committed_participants: None,
            dirty: false,
            instance: self.uses,
            used: self.uses,
            used_ms: now_ms,
            weight_bytes,
        };
        self.slots.insert(id, slot);
    }

    /// A conversation. This does not count as use.
    pub(crate) fn get(&self, id: &ConversationId) -> Option<&Slot> {
        self.slots.get(id)
    }

    /// A conversation that can be changed. This does not count as use.
    pub(crate) fn note(&mut self, id: &ConversationId) -> Option<&mut Slot> {
        self.slots.get_mut(id)
    }

    /// Calls `change` with a conversation. This counts as use.
    pub(crate) fn using<T>(
        &mut self,
        id: &ConversationId,
        now_ms: u64,
        change: impl FnOnce(&mut Slot) -> T,
    ) -> Option<T> {
        let slot = self.slots.get_mut(id)?;
        self.uses += 1;
        if let Some(key) = self.order.remove(&slot.used) {
            self.order.insert(self.uses, key);
        }
        slot.used = self.uses;
        slot.used_ms = now_ms;
        let changed = change(slot);
        let weight_bytes = slot.conversation.weight_bytes();
        self.bytes = self.bytes + weight_bytes - slot.weight_bytes;
        slot.weight_bytes = weight_bytes;
        Some(changed)
    }

    /// Removes a conversation.
    fn remove(&mut self, id: &ConversationId) -> Option<Slot> {
        let slot = self.slots.remove(id)?;
        self.order.remove(&slot.used);
        self.bytes -= slot.weight_bytes;
        Some(slot)
    }

    /// Removes conversations that are idle or too many, except those that are `kept` or not committed yet. Returns the
    /// removed conversations whose heads wait to be written.
    pub(crate) fn trim(
        &mut self,
        now_ms: u64,
        limits: CacheLimits,
        kept: impl Fn(&ConversationId) -> bool,
    ) -> Vec<Conversation> {
        let (mut conversations, mut bytes) = (self.slots.len(), self.bytes);
        let mut leaving = Vec::new();
        for id in self.order.values() {
            let Some(slot) = self.slots.get(id) else { continue };
            let too_much = conversations > limits.conversations || bytes > limits.bytes;
            if !too_much && slot.used_ms + limits.idle_ms > now_ms {
                break;
            }
            if !slot.uncommitted && !kept(id) {
                conversations -= 1;
                bytes -= slot.weight_bytes;
                leaving.push(id.clone());
            }
        }
        let removed = leaving.iter().filter_map(|id| self.remove(id));
        let dirty = removed.filter(|slot| slot.dirty).map(|slot| slot.conversation).collect();
        self.slots.give_spare_back();
        dirty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CacheLimits = CacheLimits { conversations: 2, bytes: usize::MAX, idle_ms: 60 };

    fn id(name: &str) -> ConversationId {
        ConversationId::parse(name).expect("valid")
    }

    fn cache(names: &[&str]) -> Cache {
        let mut cache = Cache::default();
        for name in names {
            cache.insert(Conversation::new(id(name), Vec::new()), true, 0);
        }
        cache
    }

    #[test]
    fn the_least_recently_used_conversation_is_removed_first() {
        let mut cache = cache(&["a", "b", "c"]);
        cache.using(&id("a"), 0, |_| ());
        assert!(cache.trim(1, LIMITS, |_| false).is_empty(), "no removed conversation needs to be written");
        assert!(cache.contains(&id("a")) && !cache.contains(&id("b")) && cache.contains(&id("c")));
    }

    #[test]
    fn uncommitted_and_needed_conversations_stay_and_dirty_ones_are_returned() {
        let mut cache = cache(&["a", "b", "c", "d"]);
        cache.note(&id("a")).expect("in memory").uncommitted = true;
        cache.note(&id("c")).expect("in memory").dirty = true;
        let heads = cache.trim(1, LIMITS, |kept| *kept == id("b"));
        assert_eq!(heads.iter().map(|conversation| conversation.id().as_str()).collect::<Vec<_>>(), ["c"]);
        assert!(cache.contains(&id("a")) && cache.contains(&id("b")) && cache.len() == 2);
    }

    #[test]
    fn idle_conversations_are_removed_and_memory_is_given_back() {
        let names: Vec<String> = (0..1_000).map(|n| format!("room-{n}")).collect();
        let mut cache = cache(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let limits = CacheLimits { conversations: 10_000, ..LIMITS };
        cache.using(&id("room-5"), 50, |_| ());
        cache.trim(59, limits, |_| false);
        assert_eq!(cache.len(), 1_000);
        cache.trim(60, limits, |_| false);
        assert_eq!(cache.len(), 1);
        assert!(cache.slots.capacity() < 100, "{}", cache.slots.capacity());
        assert_eq!(cache.bytes, cache.get(&id("room-5")).expect("used").conversation.weight_bytes());
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut cache = cache(&["a", "b"]);
        let half = cache.bytes / 2;
        cache.trim(1, CacheLimits { bytes: half, ..LIMITS }, |_| false);
        assert_eq!(cache.bytes, half);
    }
}
