//! The rooms of one partition that are there, and what the partition's owner has to be told of them.
//!
//! One source: a room that comes or goes is noted in the same step as that it has changed, and what the owner is told of
//! it follows from whether it is there when the owner is told, never from the order in which others heard of it.

use carillon_proto::id::ConversationId;
use carillon_proto::partition::stable_hash;
use carillon_runtime::collections::Spare;
use std::collections::{HashMap, HashSet};

/// So many rooms may come and go before the owner is told, as while it is away; above it everything is told anew, which
/// costs no more than so many single changes.
pub const CHANGES_MAX: usize = 65_536;

/// What the owner is to be told: each conversation stands in one of the lists, by whether its room is there.
#[derive(Debug)]
pub struct Changes<R> {
    /// Rooms that are there.
    pub add: Vec<(ConversationId, R)>,
    /// Conversations without one.
    pub remove: Vec<ConversationId>,
}

/// The rooms of one partition.
#[derive(Debug)]
pub struct Registry<R> {
    rooms: HashMap<ConversationId, R>,
    /// XOR of the hashes of `rooms`.
    hash: u64,
    /// Rooms that came or went since the owner was told of them.
    changed: HashSet<ConversationId>,
    /// Too many did: everything is to be told anew.
    overflowed: bool,
    /// XOR of the hashes of what the owner was told last, where that was everything.
    told: Option<u64>,
}

impl<R> Default for Registry<R> {
    fn default() -> Self {
        Registry { rooms: HashMap::new(), hash: 0, changed: HashSet::new(), overflowed: false, told: Some(0) }
    }
}

impl<R: Clone> Registry<R> {
    /// The conversation's room, made if there is none.
    pub fn open(&mut self, conversation: &ConversationId, make: impl FnOnce() -> R) -> &R {
        if !self.rooms.contains_key(conversation) {
            self.hash ^= stable_hash(conversation.as_str());
            self.note(conversation.clone());
        }
        self.rooms.entry(conversation.clone()).or_insert_with(make)
    }

    /// The conversation's room goes.
    pub fn close(&mut self, conversation: &ConversationId) {
        if self.rooms.remove(conversation).is_some() {
            self.hash ^= stable_hash(conversation.as_str());
            self.note(conversation.clone());
            self.rooms.give_spare_back();
        }
    }

    /// The conversation's room, if it is there.
    pub fn get(&self, conversation: &str) -> Option<&R> {
        self.rooms.get(conversation)
    }

    /// Every room.
    pub fn rooms(&self) -> impl Iterator<Item = &R> {
        self.rooms.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    fn note(&mut self, conversation: ConversationId) {
        if self.changed.len() >= CHANGES_MAX && !self.changed.contains(&conversation) {
            (self.changed, self.overflowed) = (HashSet::new(), true);
        }
        self.changed.insert(conversation);
    }

    /// Whether so much has changed that everything is to be told anew, by [`Registry::take_all`].
    pub fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// What the owner is told with the next registration: the conversations that are `asked` for, and as many of those that
    /// have changed as make `most` of them.
    pub fn take(&mut self, asked: impl Iterator<Item = ConversationId>, most: usize) -> Changes<R> {
        let mut taken: HashSet<ConversationId> = asked.collect();
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
        self.told = (self.changed.is_empty() && !self.overflowed).then_some(self.hash);
        let mut changes = Changes { add: Vec::new(), remove: Vec::new() };
        for conversation in taken {
            match self.rooms.get(&conversation).cloned() {
                Some(room) => changes.add.push((conversation, room)),
                None => changes.remove.push(conversation),
            }
        }
        changes
    }

    /// Every room, of which the owner is told in the place of everything that it was told before.
    pub fn take_all(&mut self) -> Vec<(ConversationId, R)> {
        (self.changed, self.overflowed, self.told) = (HashSet::new(), false, Some(self.hash));
        self.rooms.iter().map(|(conversation, room)| (conversation.clone(), room.clone())).collect()
    }

    /// It is not known whether the owner heard of these: it is told again.
    pub fn put_back(&mut self, conversations: impl Iterator<Item = ConversationId>) {
        conversations.for_each(|conversation| self.note(conversation));
        self.told = None;
    }

    /// XOR of the hashes of what the owner has registered, if it has heard everything; `None` while that cannot be
    /// compared. Where nothing waits to be told, these are the rooms themselves.
    pub fn expected(&self) -> Option<u64> {
        let settled = self.changed.is_empty() && !self.overflowed && self.told.is_some();
        if settled { Some(self.hash) } else { self.told }
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

    fn take(registry: &mut Registry<u32>) -> (Vec<String>, Vec<String>) {
        let Changes { add, remove } = registry.take(std::iter::empty(), usize::MAX);
        let mut added: Vec<_> = add.into_iter().map(|(conversation, _)| conversation.to_string()).collect();
        let mut removed: Vec<_> = remove.iter().map(ToString::to_string).collect();
        added.sort();
        removed.sort();
        (added, removed)
    }

    #[test]
    fn a_room_that_went_and_came_back_is_there() {
        let mut registry = Registry::default();
        registry.open(&id("a"), || 1);
        assert_eq!(take(&mut registry), (vec!["a".into()], vec![]));
        assert_eq!(take(&mut registry), (vec![], vec![]));
        registry.close(&id("a"));
        registry.open(&id("a"), || 2);
        assert_eq!(take(&mut registry), (vec!["a".into()], vec![]));
        registry.open(&id("b"), || 3);
        registry.close(&id("b"));
        registry.close(&id("a"));
        assert_eq!(take(&mut registry), (vec![], vec!["a".into(), "b".into()]));
        assert_eq!(registry.expected(), Some(0));
    }

    #[test]
    fn what_is_asked_for_is_told_first_and_the_rest_later() {
        let mut registry = Registry::default();
        for name in ["a", "b", "c"] {
            registry.open(&id(name), || 0);
        }
        let changes = registry.take([id("c"), id("gone")].into_iter(), 3);
        let added: BTreeSet<_> = changes.add.iter().map(|(conversation, _)| conversation.as_str()).collect();
        assert!(added.contains("c") && added.len() == 2);
        assert_eq!(changes.remove, [id("gone")]);
        assert_eq!(registry.expected(), None, "the owner does not have everything");
        assert_eq!(take(&mut registry).0.len(), 1);
        assert_eq!(registry.expected(), Some(registry.hash));
    }

    #[test]
    fn more_changes_than_are_kept_are_everything_anew() {
        let mut registry = Registry::default();
        registry.open(&id("stays"), || 0);
        for index in 0..=CHANGES_MAX {
            let conversation = id(&format!("c{index}"));
            registry.open(&conversation, || 0);
            registry.close(&conversation);
        }
        assert!(registry.has_overflowed() && registry.changed.len() <= CHANGES_MAX);
        assert_eq!(registry.expected(), Some(0), "what the owner was told last");
        assert_eq!(registry.take_all(), [(id("stays"), 0)]);
        assert!(!registry.has_overflowed());
        assert_eq!(registry.expected(), Some(stable_hash("stays")));
    }

    proptest! {
        /// Whatever comes and goes, is told in parts, lost on the way and told again: when all has been told, the owner has
        /// the rooms that are there, and its hash is the expected one whenever there is one.
        #[test]
        fn the_owner_ends_with_the_rooms_that_are_there(
            steps in prop::collection::vec((0u8..6, 0usize..6, any::<bool>()), 1..120),
        ) {
            let mut registry = Registry::default();
            let mut owner: BTreeSet<String> = BTreeSet::new();
            let hash = |owner: &BTreeSet<String>| owner.iter().fold(0, |hash, name| hash ^ stable_hash(name));
            let tell = |registry: &mut Registry<()>, owner: &mut BTreeSet<String>, most: usize| {
                let Changes { add, remove } = registry.take(std::iter::empty(), most);
                owner.extend(add.iter().map(|(added, ())| added.to_string()));
                owner.retain(|name| !remove.iter().any(|removed| removed.as_str() == name));
                add.into_iter().map(|(added, ())| added).chain(remove).collect::<Vec<_>>()
            };
            for (action, which, heard) in steps {
                let name = id(&format!("c{which}"));
                match action {
                    0 | 1 => drop(registry.open(&name, || ())),
                    2 | 3 => registry.close(&name),
                    4 => {
                        let mut lost = owner.clone();
                        let told = tell(&mut registry, if heard { &mut owner } else { &mut lost }, which);
                        if !heard {
                            registry.put_back(told.into_iter());
                        }
                    }
                    _ => owner = registry.take_all().into_iter().map(|(told, ())| told.to_string()).collect(),
                }
                prop_assert!(registry.expected().is_none_or(|expected| expected == hash(&owner)));
            }
            tell(&mut registry, &mut owner, usize::MAX);
            let rooms: BTreeSet<String> = registry.rooms.keys().map(ToString::to_string).collect();
            prop_assert_eq!(&owner, &rooms);
            prop_assert_eq!(registry.expected(), Some(hash(&owner)));
        }
    }
}
