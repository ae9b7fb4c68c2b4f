//! Cuts the results of a read to what fits into one message on the bus.

use super::batch::field_bytes;
use super::conversation::Conversation;
use super::versions::VERSION;
use carillon_proto::id::ConversationId;
use carillon_proto::position::Position;
use carillon_proto::wire;
use prost::Message;

/// A page, and whether there is more in the direction of reading.
#[derive(Debug, PartialEq)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) has_more: bool,
}

/// The oldest events above `after`. `events` are the event at `after` and up to one more than `limit` above it. A row
/// whose position is below that of the row before it was left by an earlier incarnation and is not part of the
/// conversation.
pub(crate) fn oldest(
    mut events: Vec<wire::Event>,
    after: u64,
    limit: usize,
    bytes_max: usize,
) -> Page<wire::Event> {
    let position = |event: &wire::Event| event.position.map(Position::from);
    let contiguous = 1 + events.windows(2).take_while(|pair| position(&pair[0]) < position(&pair[1])).count();
    events.truncate(contiguous);
    events.retain(|event| event.seq > after);
    let fits = fitting(events.iter(), bytes_max).min(limit);
    let has_more = events.len() > fits;
    events.truncate(fits);
    Page { items: events, has_more }
}

/// The newest events. `events` are up to one more than `limit`.
pub(crate) fn newest(mut events: Vec<wire::Event>, limit: usize, bytes_max: usize) -> Page<wire::Event> {
    let fits = fitting(events.iter().rev(), bytes_max).min(limit).min(events.len());
    let has_more = events.len() > fits;
    let items = events.split_off(events.len() - fits);
    Page { items, has_more }
}

/// A conversation as lists show it, with as many participants as fit.
pub(crate) fn info(conversation: &Conversation, bytes_max: usize) -> wire::ConversationInfo {
    let mut bytes = 0;
    let participants = conversation.participants().iter().map(|user| user.as_str().to_owned());
    let fits = |user: &String| {
        bytes += field_bytes(user.len());
        bytes <= bytes_max
    };
    wire::ConversationInfo {
        conversation: conversation.id().as_str().to_owned(),
        head: Some(conversation.head(VERSION)),
        participants: participants.take_while(fits).collect(),
    }
}

/// A page of a user's conversations. Conversations without an info are left out, but the cursor passes them.
pub(crate) fn list(
    infos: Vec<(ConversationId, Option<wire::ConversationInfo>)>,
    has_more: bool,
    bytes_max: usize,
) -> wire::Conversations {
    let (mut conversations, mut bytes, mut cursor, mut cut) = (Vec::new(), 0, None, false);
    for (id, info) in infos {
        if let Some(info) = info {
            bytes += field_bytes(info.encoded_len());
            cut = bytes > bytes_max && !conversations.is_empty();
            if cut {
                break;
            }
            conversations.push(info);
        }
        cursor = Some(id);
    }
    let next_cursor = cursor.filter(|_| has_more || cut).map(|id| id.as_str().to_owned()).unwrap_or_default();
    wire::Conversations { conversations, next_cursor }
}

/// How many messages fit, at least one.
fn fitting<'a, M: Message + 'a>(messages: impl Iterator<Item = &'a M>, bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fits = |message: &&M| {
        bytes += field_bytes(message.encoded_len());
        bytes <= bytes_max
    };
    messages.take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, incarnation: u32) -> wire::Event {
        let position = Some(wire::Position { incarnation, sequence: seq, index: 0 });
        wire::Event { seq, position, conversation: "room".into(), ..wire::Event::default() }
    }

    fn seqs(page: &Page<wire::Event>) -> (Vec<u64>, bool) {
        (page.items.iter().map(|event| event.seq).collect(), page.has_more)
    }

    #[test]
    fn pages_are_cut_by_number_and_by_bytes() {
        let events: Vec<_> = (1..=4).map(|seq| event(seq, 1)).collect();
        let two = 2 * field_bytes(events[0].encoded_len());
        assert_eq!(seqs(&oldest(events.clone(), 0, 3, 9_999)), (vec![1, 2, 3], true));
        assert_eq!(seqs(&oldest(events.clone(), 0, 4, 9_999)), (vec![1, 2, 3, 4], false));
        assert_eq!(seqs(&oldest(events.clone(), 0, 4, two)), (vec![1, 2], true));
        assert_eq!(seqs(&newest(events.clone(), 3, 9_999)), (vec![2, 3, 4], true));
        assert_eq!(seqs(&newest(events.clone(), 4, two)), (vec![3, 4], true));
        assert_eq!(
            seqs(&oldest(events, 0, 4, 1)),
            (vec![1], true),
            "a page has at least one row, or the reader would never advance"
        );
        assert_eq!(seqs(&oldest(Vec::new(), 0, 4, 1)), (vec![], false));
        assert_eq!(seqs(&newest(Vec::new(), 4, 1)), (vec![], false));
    }

    #[test]
    fn rows_that_an_earlier_incarnation_left_above_are_not_read() {
        let left = vec![event(5, 2), event(6, 2), event(7, 1)];
        assert_eq!(seqs(&oldest(left.clone(), 0, 9, 9_999)), (vec![5, 6], false));
        assert_eq!(seqs(&oldest(left[1..].to_vec(), 6, 9, 9_999)), (vec![], false));
    }

    #[test]
    fn the_cursor_passes_conversations_that_are_left_out() {
        let id = |name: &str| ConversationId::parse(name).expect("valid");
        let info = |name: &str| Some(page_info(name));
        let found = || vec![(id("a"), info("a")), (id("b"), None), (id("c"), info("c")), (id("d"), None)];
        let names = |list: &wire::Conversations| {
            list.conversations.iter().map(|info| info.conversation.clone()).collect::<Vec<_>>()
        };
        let whole = list(found(), true, 9_999);
        assert_eq!((names(&whole), whole.next_cursor.as_str()), (vec!["a".into(), "c".into()], "d"));
        assert_eq!(list(found(), false, 9_999).next_cursor, "");
        let short = list(found(), false, field_bytes(page_info("a").encoded_len()));
        assert_eq!((names(&short), short.next_cursor.as_str()), (vec!["a".into()], "b"));
    }

    fn page_info(name: &str) -> wire::ConversationInfo {
        wire::ConversationInfo { conversation: name.into(), ..wire::ConversationInfo::default() }
    }
}
