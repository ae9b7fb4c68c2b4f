//! Collections that grow with a burst and give back what it leaves behind.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash};

/// Room for so many elements is kept, whatever there was.
const SPARE_MIN: usize = 64;
/// Room for so many times its elements is too much.
const SPARE_TIMES: usize = 4;

/// A collection with spare room.
pub trait Spare {
    /// Gives back the room of a collection that has shrunk to less than a quarter, but for twice what it holds: what
    /// moves elements is paid for by those that were removed.
    fn give_spare_back(&mut self);
}

macro_rules! spare {
    ($([$($generic:tt)*] $collection:ty;)*) => {$(
        impl<$($generic)*> Spare for $collection {
            fn give_spare_back(&mut self) {
                if self.capacity() > SPARE_TIMES * self.len() + SPARE_MIN {
                    self.shrink_to(2 * self.len());
                }
            }
        }
    )*};
}

spare! {
    [T] Vec<T>;
    [T] VecDeque<T>;
    [T: Eq + Hash, S: BuildHasher] HashSet<T, S>;
    [K: Eq + Hash, V, S: BuildHasher] HashMap<K, V, S>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_leaves_little_and_costs_a_move_for_each_removal_at_most() {
        let mut map: HashMap<u32, [u64; 4]> = (0..100_000).map(|number| (number, [0; 4])).collect();
        let mut moved = 0;
        for number in 0..99_990 {
            map.remove(&number);
            let before = map.capacity();
            map.give_spare_back();
            if map.capacity() != before {
                moved += map.len();
            }
        }
        assert_eq!(map.len(), 10);
        assert!(map.capacity() <= SPARE_TIMES * 10 + SPARE_MIN, "{}", map.capacity());
        assert!(moved < 99_990, "{moved} moved");
    }

    #[test]
    fn a_small_one_is_left_alone() {
        let mut list: Vec<u8> = Vec::with_capacity(SPARE_MIN);
        list.give_spare_back();
        assert_eq!(list.capacity(), SPARE_MIN);
        let mut queue: VecDeque<u8> = (0..100).collect();
        queue.truncate(50);
        let before = queue.capacity();
        queue.give_spare_back();
        assert_eq!(queue.capacity(), before, "it may grow again soon");
    }
}
