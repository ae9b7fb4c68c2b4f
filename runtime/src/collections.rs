//! Shrinks collections that have grown in a burst, so that the burst does not hold memory for ever.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash};

/// Capacity for this many elements is always kept.
const SPARE_MIN: usize = 64;
/// Capacity for more than this many times the elements is released.
const SPARE_TIMES: usize = 4;

/// A collection that can release unused capacity.
pub trait Spare {
    /// Shrinks the capacity to twice the length if the length is below a quarter of it. Shrinking moves the elements,
    /// but fewer of them than were removed since the last time.
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
    fn shrinking_after_a_burst_moves_fewer_elements_than_were_removed() {
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
        assert!(moved < 99_990, "{moved} elements were moved");
    }

    #[test]
    fn a_small_collection_keeps_its_capacity() {
        let mut list: Vec<u8> = Vec::with_capacity(SPARE_MIN);
        list.give_spare_back();
        assert_eq!(list.capacity(), SPARE_MIN);
        let mut queue: VecDeque<u8> = (0..100).collect();
        queue.truncate(50);
        let before = queue.capacity();
        queue.give_spare_back();
        assert_eq!(queue.capacity(), before, "a half empty queue must keep its capacity");
    }
}
