//! The offset of connection-state recovery: a text at the end of every event. It shows how far the client has received
//! each of its subscriptions.
//!
//! Socket.IO leaves the form to the server (protocol 5, connection state recovery: the client returns the last string
//! that ended an event). Here it is URL-safe base64 of variable-length integers: the number of the base that the offset
//! is relative to; the number of changes of the list of subscriptions since then; for events of several packets, of
//! which the client has received only some, how many (usually there are no such events); and how many events each
//! subscription has advanced.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Characters of an offset: twice the length for a thousand subscriptions that have each advanced by thousands of
/// events.
pub const OFFSET_LENGTH_MAX: usize = 16 * 1024;

/// How many packets of the next event the client has already received. An event that adds several users has several
/// packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// Index of the subscription in the base.
    pub subscription: u32,
    /// How many packets of the event after the subscription's cursor were sent; at least 1.
    pub packets: u32,
}

/// How far a client has received its subscriptions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offset {
    /// The number of the base that the offset is relative to.
    pub base: u32,
    /// The number of changes of the list of subscriptions since the base was made: each new subscription counts one,
    /// and each end of one.
    pub changes: u32,
    /// Subscriptions of which the client has received a part of the next event, ascending by subscription.
    pub partial: Vec<Partial>,
    /// For each subscription its index and how many events it has advanced since it began or since the base was made,
    /// ascending by index. Subscriptions that did not advance are left out.
    pub moved: Vec<(u32, u64)>,
}

impl Offset {
    /// The text that is sent to the client.
    pub fn text(&self) -> String {
        let mut bytes = Vec::with_capacity(8 + 3 * self.moved.len());
        write_number(&mut bytes, self.base.into());
        write_number(&mut bytes, self.changes.into());
        write_number(&mut bytes, self.partial.len() as u64);
        for partial in &self.partial {
            write_number(&mut bytes, partial.subscription.into());
            write_number(&mut bytes, partial.packets.into());
        }
        let mut next = 0;
        for (subscription, events) in &self.moved {
            write_number(&mut bytes, (subscription - next).into());
            write_number(&mut bytes, *events);
            next = subscription + 1;
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Parses the text that a client returned; `None` for a text that [`Offset::text`] cannot have made.
    pub fn parse(text: &str) -> Option<Offset> {
        if text.len() > OFFSET_LENGTH_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let mut rest = bytes.as_slice();
        let (base, changes) = (read_number(&mut rest)?, read_number(&mut rest)?);
        let mut partial: Vec<Partial> = Vec::new();
        for _ in 0..read_number(&mut rest)? {
            let subscription = u32::try_from(read_number(&mut rest)?).ok()?;
            let packets = u32::try_from(read_number(&mut rest)?).ok().filter(|packets| *packets > 0)?;
            let ascends = partial.last().is_none_or(|before| before.subscription < subscription);
            partial.push(Some(Partial { subscription, packets }).filter(|_| ascends)?);
        }
        let mut moved = Vec::new();
        let mut next: u32 = 0;
        while !rest.is_empty() {
            let subscription = next.checked_add(u32::try_from(read_number(&mut rest)?).ok()?)?;
            moved.push((subscription, read_number(&mut rest).filter(|events| *events > 0)?));
            next = subscription.checked_add(1)?;
        }
        let offset =
            Offset { base: u32::try_from(base).ok()?, changes: u32::try_from(changes).ok()?, partial, moved };
        // Each offset has only one text, so a text with another encoding of the same offset is refused.
        (offset.text() == text).then_some(offset)
    }
}

/// Appends a number with seven bits a byte, the lowest first. The highest bit of a byte is set if more bytes follow.
fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Removes a number from the front; `None` if it is cut off or too large.
fn read_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_are_short() {
        let begun = Offset::default();
        assert_eq!((begun.text().as_str(), Offset::parse("AAAA")), ("AAAA", Some(begun)));
        let ten_rooms = Offset {
            base: 3,
            changes: 10,
            partial: Vec::new(),
            moved: (0..10).map(|room| (room, 100 + u64::from(room))).collect(),
        };
        assert_eq!(ten_rooms.text().len(), 31);
        assert_eq!(Offset::parse(&ten_rooms.text()), Some(ten_rooms));
    }

    #[test]
    fn texts_that_the_server_cannot_have_made_are_refused() {
        let twice_the_same = URL_SAFE_NO_PAD.encode([0, 2, 0, 0, 1, 255, 255, 255, 255, 15, 1]);
        let unmoved = URL_SAFE_NO_PAD.encode([0, 1, 0, 0, 0]);
        let long_zero = URL_SAFE_NO_PAD.encode([0x80, 0, 0, 0]);
        let half = URL_SAFE_NO_PAD.encode([0, 1, 0, 0]);
        let many_bits = URL_SAFE_NO_PAD.encode([0xff; 12]);
        let texts =
            ["", "A", "hello", "{}", "AAAA=", &twice_the_same, &unmoved, &long_zero, &half, &many_bits];
        for text in texts {
            assert_eq!(Offset::parse(text), None, "{text}");
        }
        assert_eq!(Offset::parse(&"A".repeat(OFFSET_LENGTH_MAX + 4)), None);
    }

    proptest! {
        #[test]
        fn texts_of_offsets_are_parsed_back(
            base: u32,
            changes: u32,
            partial in proptest::collection::btree_map(any::<u32>(), 1..u32::MAX, 0..4),
            moved in proptest::collection::btree_map(0..u32::MAX, 1..u64::MAX, 0..40),
        ) {
            let partial = partial.into_iter().map(|(subscription, packets)| Partial { subscription, packets });
            let partial = partial.collect();
            let offset = Offset { base, changes, partial, moved: moved.into_iter().collect() };
            prop_assert_eq!(Offset::parse(&offset.text()), Some(offset));
        }

        #[test]
        fn accepted_texts_are_in_canonical_form(text in ".{0,64}", bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for text in [text, URL_SAFE_NO_PAD.encode(bytes)] {
                if let Some(offset) = Offset::parse(&text) {
                    prop_assert_eq!(offset.text(), text);
                }
            }
        }
    }
}
