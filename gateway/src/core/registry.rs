//! The open rooms of one partition, and what the partition's owner must be sent about them.
//!
//! The open rooms are the only source. A room that opens or closes is noted as changed in the same step. The
//! next registration states whether the room is open when it is sent, whatever the order in which changes became known
//! (`docs/decisions/0017-what-is-heard-follows-from-who-is-there.md`).

use carillon_proto::id::ConversationId;
use carillon_proto::partition::stable_hash;
use carillon_runtime::collections::Spare;
use std::collections::{HashMap, HashSet};

/// Changed rooms that are kept until the owner receives them, for example while it is unavailable. Above this, all
/// rooms are registered anew, which costs no more than so many single changes.
pub const CHANGES_MAX: usize = 65_536;

/// A registration for the owner: each conversation is in one of the lists.
#[derive(Debug)]
pub struct Changes<R> {
    /// Conversations whose room is open.
    pub add: Vec<(ConversationId, R)>,
    /// Conversations without a room.
    pub remove: Vec<ConversationId>,
}

/// The rooms of one partition.
#[derive(Debug)]
pub struct Registry<R> {
    rooms: HashMap<ConversationId, R>,
    /// XOR of the hashes of `rooms`.
    hash: u64,
    /// Rooms that opened or closed since the owner was sent their state.
    changed: HashSet<ConversationId>,
    /// Too many rooms changed: all rooms must be registered anew.
    overflowed: bool,
    /// XOR of the hashes of the rooms at the last registration, if that sent all changes.
    registered_hash: Option<u64>,
}

impl<R> Default for Registry<R> {
    fn default() -> Self {
        Registry {
            rooms: HashMap::new(),
            hash: 0,
            changed: HashSet::new(),
            overflowed: false,
            registered_hash: Some(0),
        }
    }
}

impl<R: Clone> Registry<R> {
    /// The conversation's room, opened if there is none.
    pub fn open(&mut self, conversation: &ConversationId, make: impl FnOnce() -> R) -> &R {
        if !self.rooms.contains_key(conversation) {
            self.hash ^= stable_hash(conversation.as_str());
            self.note(conversation.clone());
        }
        self.rooms.entry(conversation.clone()).or_insert_with(make)
    }

    pub fn close(&mut self, conversation: &ConversationId) {
        if self.rooms.remove(conversation).is_some() {
            self.hash ^= stable_hash(conversation.as_str());
            self.note(conversation.clone());
            self.rooms.give_spare_back();
        }
    }

    pub fn get(&self, conversation: &str) -> Option<&R> {
        self.rooms.get(conversation)
    }

    pub fn rooms(&self) -> impl Iterator<Item = &R> {
        self.rooms.values()
    }

    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    fn note(&mut self, conversation: ConversationId) {
        if self.changed.len() >= CHANGES_MAX && !self.changed.contains(&conversation) {
            (self.changed, self.overflowed) = (HashSet::new(), true);
        }
        self.changed.insert(conversation);
    }

    /// Whether so much has changed that all rooms must be registered anew, by [`Registry::next_replacement`].
    pub fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// The next registration: the conversations in `requested`, and further changed ones up to `most` conversations in
    /// all.
    pub fn next_changes(
        &mut self,
        requested: impl Iterator<Item = ConversationId>,
        most: usize,
    ) -> Changes<R> {
        let mut taken: HashSet<ConversationId> = requested.collect();
        for conversation in &taken {
            self.changed.remove(conversation);
        }
        while taken.len() < most
            && let Some(conversation) = self.changed.iter().next().cloned()
        {
            self.changed.remove(&conversation);
            taken.insert(conversation);
        }
        if self.changed.is_empty() {
            self.changed = HashSet::new();
        }
        self.registered_hash = (self.changed.is_empty() && !self.overflowed).then_some(self.hash);
        let mut changes = Changes { add: Vec::new(), remove: Vec::new() };
        for conversation in taken {
            match self.rooms.get(&conversation).cloned() {
                Some(room) => changes.add.push((conversation, room)),
                None => changes.remove.push(conversation),
            }
        }
        changes
    }

    /// All rooms, for a registration that replaces everything that the owner has registered.
    pub fn next_replacement(&mut self) -> Vec<(ConversationId, R)> {
        (self.changed, self.overflowed, self.registered_hash) = (HashSet::new(), false, Some(self.hash));
        self.rooms.iter().map(|(conversation, room)| (conversation.clone(), room.clone())).collect()
    }

    /// Notes conversations as changed again, because the owner may not have received their registration.
    pub fn put_back(&mut self, conversations: impl Iterator<Item = ConversationId>) {
        conversations.for_each(|conversation| self.note(conversation));
        self.registered_hash = None;
    }

    /// XOR of the hashes that the owner must have registered if it received everything; `None` while that is not known.
    /// If no changes wait to be sent, this is the hash of the open rooms.
    pub fn expected(&self) -> Option<u64> {
        let settled = self.changed.is_empty() && !self.overflowed && self.registered_hash.is_some();
        if settled { Some(self.hash) } else { self.registered_hash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn id(text: &str) -> ConversationId {
        ConversationId::parse(text).expect("valid")
    }

    fn next_changes(registry: &mut Registry<u32>) -> (Vec<String>, Vec<String>) {
        let Changes { add, remove } = registry.next_changes(std::iter::empty(), usize::MAX);
        let mut added: Vec<_> = add.into_iter().map(|(conversation, _)| conversation.to_string()).collect();
        let mut removed: Vec<_> = remove.iter().map(ToString::to_string).collect();
        added.sort();
        removed.sort();
        (added, removed)
    }

    #[test]
    fn a_room_closed_and_opened_again_is_registered() {
        let mut registry = Registry::default();
        registry.open(&id("a"), || 1);
        assert_eq!(next_changes(&mut registry), (vec!["a".into()], vec![]));
        assert_eq!(next_changes(&mut registry), (vec![], vec![]));
        registry.close(&id("a"));
        registry.open(&id("a"), || 2);
        assert_eq!(next_changes(&mut registry), (vec!["a".into()], vec![]));
        registry.open(&id("b"), || 3);
        registry.close(&id("b"));
        registry.close(&id("a"));
        assert_eq!(next_changes(&mut registry), (vec![], vec!["a".into(), "b".into()]));
        assert_eq!(registry.expected(), Some(0));
    }

    #[test]
    fn requested_conversations_are_sent_first_and_the_rest_later() {
        let mut registry = Registry::default();
        for name in ["a", "b", "c"] {
            registry.open(&id(name), || 0);
        }
        let changes = registry.next_changes([id("c"), id("gone")].into_iter(), 3);
        let added: BTreeSet<_> = changes.add.iter().map(|(conversation, _)| conversation.as_str()).collect();
        assert!(added.contains("c") && added.len() == 2);
        assert_eq!(changes.remove, [id("gone")]);
        assert_eq!(registry.expected(), None, "the owner lacks some changes, so no hash is expected");
        assert_eq!(next_changes(&mut registry).0.len(), 1);
        assert_eq!(registry.expected(), Some(registry.hash));
    }

    #[test]
    fn too_many_changes_cause_a_full_registration() {
        let mut registry = Registry::default();
        registry.open(&id("stays"), || 0);
        for index in 0..=CHANGES_MAX {
            let conversation = id(&format!("c{index}"));
            registry.open(&conversation, || 0);
            registry.close(&conversation);
        }
        assert!(registry.has_overflowed() && registry.changed.len() <= CHANGES_MAX);
        assert_eq!(registry.expected(), Some(0), "the expected hash is that of the last registration");
        assert_eq!(registry.next_replacement(), [(id("stays"), 0)]);
        assert!(!registry.has_overflowed());
        assert_eq!(registry.expected(), Some(stable_hash("stays")));
    }

    proptest! {
        /// Rooms open and close, and registrations are sent in parts, lost and repeated. Once everything has been sent,
        /// the owner has the open rooms. Whenever there is an expected hash, it is the owner's.
        #[test]
        fn the_owner_ends_with_the_open_rooms(
            steps in prop::collection::vec((0u8..6, 0usize..6, any::<bool>()), 1..120),
        ) {
            let mut registry = Registry::default();
            let mut owner: BTreeSet<String> = BTreeSet::new();
            let hash = |owner: &BTreeSet<String>| owner.iter().fold(0, |hash, name| hash ^ stable_hash(name));
            let register = |registry: &mut Registry<()>, owner: &mut BTreeSet<String>, most: usize| {
                let Changes { add, remove } = registry.next_changes(std::iter::empty(), most);
                owner.extend(add.iter().map(|(added, ())| added.to_string()));
                owner.retain(|name| !remove.iter().any(|removed| removed.as_str() == name));
                add.into_iter().map(|(added, ())| added).chain(remove).collect::<Vec<_>>()
            };
            for (action, which, received) in steps {
                let name = id(&format!("c{which}"));
                match action {
                    0 | 1 => drop(registry.open(&name, || ())),
                    2 | 3 => registry.close(&name),
                    4 => {
                        let mut lost = owner.clone();
                        let registered = register(&mut registry, if received { &mut owner } else { &mut lost }, which);
                        if !received {
                            registry.put_back(registered.into_iter());
                        }
                    }
                    _ => owner = registry.next_replacement().into_iter().map(|(room, ())| room.to_string()).collect(),
                }
                prop_assert!(registry.expected().is_none_or(|expected| expected == hash(&owner)));
            }
            register(&mut registry, &mut owner, usize::MAX);
            let rooms: BTreeSet<String> = registry.rooms.keys().map(ToString::to_string).collect();
            prop_assert_eq!(&owner, &rooms);
            prop_assert_eq!(registry.expected(), Some(hash(&owner)));
        }
    }
}
