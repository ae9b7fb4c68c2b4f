//! Which partition a conversation belongs to, and which presence shard a user or room belongs to.

use crate::id::ConversationId;
use crate::limits::PRESENCE_SHARDS;
use xxhash_rust::xxh3::xxh3_64;

/// The hash that selects partitions and shards, and that beats carry for registered conversations. It must never
/// change: stored conversations would then belong to other partitions.
pub fn stable_hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

/// The partition whose log has the conversation's commands; below `partitions`.
pub fn of_conversation(conversation: &ConversationId, partitions: u32) -> u32 {
    of_text(conversation.as_str(), partitions)
}

/// Like [`of_conversation`], for text that is not checked to be a conversation id.
pub fn of_text(conversation: &str, partitions: u32) -> u32 {
    (stable_hash(conversation) % u64::from(partitions)) as u32
}

/// The presence shard of a user or of a conversation's room, below [`PRESENCE_SHARDS`].
pub fn presence_shard(id: &str) -> u32 {
    (stable_hash(id) % u64::from(PRESENCE_SHARDS)) as u32
}

/// Which of `workers` should own the unit `unit` (a partition or a shard): the one with the highest rendezvous hash. A
/// worker that comes or goes moves only its own share of units.
pub fn rendezvous_owner<'a>(unit: u32, workers: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    workers.into_iter().max_by_key(|worker| (stable_hash(&format!("{unit}/{worker}")), *worker))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_of_a_conversation_is_fixed() {
        let room = ConversationId::parse("room-1").expect("valid");
        assert_eq!(stable_hash("room-1"), xxh3_64(b"room-1"));
        assert_eq!(of_conversation(&room, 16), (xxh3_64(b"room-1") % 16) as u32);
    }

    #[test]
    fn a_worker_that_leaves_moves_only_its_share() {
        let all = ["a", "b", "c"];
        let before: Vec<_> = (0..64).map(|unit| rendezvous_owner(unit, all).expect("workers")).collect();
        let after: Vec<_> =
            (0..64).map(|unit| rendezvous_owner(unit, ["a", "c"]).expect("workers")).collect();
        for (was, is) in before.iter().zip(&after) {
            assert!(was == is || *was == "b", "a unit of {was} moved to {is}, although its worker stayed");
        }
        assert!(all.iter().all(|worker| before.contains(worker)), "a worker has no units");
        assert_eq!(rendezvous_owner(1, []), None);
    }
}
