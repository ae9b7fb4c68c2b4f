//! The log reader's state machine: it checks the order of received messages, and has no clock and no connection.

use super::log::tag_of;
use crate::bus::LogEntry;
use async_nats::{Message, StatusCode};
use std::collections::VecDeque;

/// What a reader received from its consumer: an entry, or an event of the consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConsumerEvent {
    /// An entry of the stream.
    Entry(LogEntry),
    /// A heartbeat, with the last stream sequence that the server had sent before it.
    Heartbeat(Option<u64>),
    /// A pull request ended, and this many of its entries will not come; `None`: the server did not report how many.
    PullEnded(Option<usize>),
    /// The consumer no longer exists, or its state is uncertain.
    Gone(String),
}

/// A reader's position in the stream and its open pull requests.
#[derive(Debug)]
pub(super) struct Progress {
    /// The sequence that the next entry must have.
    expected: u64,
    /// Entries received and not yet returned.
    ready: VecDeque<LogEntry>,
    /// Entries that open pull requests may still deliver.
    promised: usize,
    broken: Option<String>,
}

impl Progress {
    pub(super) fn new(from: u64) -> Progress {
        Progress { expected: from, ready: VecDeque::new(), promised: 0, broken: None }
    }

    pub(super) fn receive(&mut self, event: ConsumerEvent) {
        match event {
            ConsumerEvent::Entry(entry) if entry.sequence == self.expected => {
                self.expected += 1;
                self.promised = self.promised.saturating_sub(1);
                self.ready.push_back(entry);
            }
            ConsumerEvent::Entry(entry) => {
                self.break_off(format!("{} came instead of {}", entry.sequence, self.expected));
            }
            ConsumerEvent::Heartbeat(Some(last)) if last >= self.expected => {
                self.break_off(format!("{} was sent and never came", self.expected));
            }
            ConsumerEvent::Heartbeat(_) => {}
            ConsumerEvent::PullEnded(missing) => {
                self.promised = missing.map_or(0, |missing| self.promised.saturating_sub(missing));
            }
            ConsumerEvent::Gone(why) => self.break_off(why),
        }
    }

    /// Marks the reader as broken. Only the first reason is kept.
    pub(super) fn break_off(&mut self, why: impl Into<String>) {
        self.broken.get_or_insert_with(|| why.into());
    }

    /// Why the reader is broken, if it is.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Entries received but not yet returned, and entries still to come from open pull requests.
    pub(super) fn ahead(&self) -> usize {
        self.promised + self.ready.len()
    }

    /// Counts the entries of a pull request that was sent.
    pub(super) fn pulled(&mut self, entries: usize) {
        self.promised += entries;
    }

    /// Returns up to `entries_max` received entries, and at least one if there is one.
    pub(super) fn drain(&mut self, entries_max: usize) -> Vec<LogEntry> {
        let count = self.ready.len().min(entries_max.max(1));
        self.ready.drain(..count).collect()
    }
}

/// Interprets a message from a stream's consumer.
pub(super) fn interpret(message: Message) -> ConsumerEvent {
    let number = |name: &str| {
        let headers = message.headers.as_ref()?;
        headers.get(name)?.as_str().parse::<u64>().ok()
    };
    let missing =
        || ConsumerEvent::PullEnded(number("Nats-Pending-Messages").map(|pending| pending as usize));
    let description = message.description.as_deref().unwrap_or_default();
    match message.status {
        None | Some(StatusCode::OK) => {
            let place = message.reply.as_deref().and_then(place_of);
            let Some((sequence, time_ms)) = place else {
                return ConsumerEvent::Gone("a message without place in the stream".into());
            };
            let tag = tag_of(message.headers.as_ref());
            ConsumerEvent::Entry(LogEntry { sequence, tag, time_ms, payload: message.payload })
        }
        Some(StatusCode::IDLE_HEARTBEAT) => ConsumerEvent::Heartbeat(number("Nats-Last-Stream")),
        Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => missing(),
        Some(StatusCode::REQUEST_TERMINATED)
            if ["Batch Completed", "Message Size Exceeds MaxBytes"].contains(&description) =>
        {
            missing()
        }
        Some(StatusCode::NO_RESPONDERS) => ConsumerEvent::Gone("the server has no such consumer".into()),
        Some(status) => ConsumerEvent::Gone(format!("{} {description}", status.as_u16())),
    }
}

/// The stream sequence and the time in milliseconds, from the subject on which a delivery would be acknowledged. Its
/// form is `$JS.ACK.stream.consumer.deliveries.sequence.consumer sequence.nanoseconds.pending`. Newer servers put
/// domain and account after `ACK`, and may append more parts.
fn place_of(reply: &str) -> Option<(u64, u64)> {
    let parts: Vec<&str> = reply.split('.').collect();
    let (sequence, nanoseconds) = match parts.as_slice() {
        ["$JS", "ACK", _, _, _, sequence, _, nanoseconds, _] => (sequence, nanoseconds),
        ["$JS", "ACK", _, _, _, _, _, sequence, _, nanoseconds, _, ..] => (sequence, nanoseconds),
        _ => return None,
    };
    Some((sequence.parse().ok()?, nanoseconds.parse::<u64>().ok()? / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;
    use bytes::Bytes;
    use carillon_proto::id::Tag;

    fn message(status: Option<u16>, description: &str, headers: &[(&str, &str)], reply: &str) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Message {
            subject: "cmd.1".into(),
            reply: (!reply.is_empty()).then(|| reply.into()),
            payload: Bytes::from_static(b"x"),
            headers: Some(map),
            status: status.and_then(|status| StatusCode::from_u16(status).ok()),
            description: Some(description.into()),
            length: 0,
        }
    }

    fn entry(sequence: u64) -> ConsumerEvent {
        let tag = Tag([1; 16]);
        ConsumerEvent::Entry(LogEntry { sequence, tag, time_ms: 5, payload: Bytes::from_static(b"x") })
    }

    #[test]
    fn sequence_and_time_are_read_from_both_forms_of_an_ack_subject() {
        let old = "$JS.ACK.CMD_1.abc.1.42.7.1700000000123456789.5";
        let new = "$JS.ACK.hub.ACCOUNT.CMD_1.abc.1.42.7.1700000000123456789.5.token";
        assert_eq!(place_of(old), Some((42, 1_700_000_000_123)));
        assert_eq!(place_of(new), Some((42, 1_700_000_000_123)));
        assert_eq!(place_of(new.trim_end_matches(".token")), Some((42, 1_700_000_000_123)));
        for bad in ["", "_INBOX.a.b", "$JS.ACK.CMD_1.abc.1.x.7.8.5", "$JS.ACK.CMD_1"] {
            assert_eq!(place_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_status_of_a_consumer_message_is_interpreted() {
        let pending = [("Nats-Pending-Messages", "12")];
        let last = [("Nats-Last-Stream", "9")];
        let gone = |why: &str| ConsumerEvent::Gone(why.into());
        let table = [
            (message(Some(100), "Idle Heartbeat", &last, ""), ConsumerEvent::Heartbeat(Some(9))),
            (message(Some(408), "Request Timeout", &pending, ""), ConsumerEvent::PullEnded(Some(12))),
            (message(Some(404), "No Messages", &[], ""), ConsumerEvent::PullEnded(None)),
            (message(Some(409), "Batch Completed", &pending, ""), ConsumerEvent::PullEnded(Some(12))),
            (
                message(Some(409), "Message Size Exceeds MaxBytes", &pending, ""),
                ConsumerEvent::PullEnded(Some(12)),
            ),
            (message(Some(409), "Consumer Deleted", &pending, ""), gone("409 Consumer Deleted")),
            (message(Some(409), "Leadership Change", &[], ""), gone("409 Leadership Change")),
            (message(Some(503), "", &[], ""), gone("the server has no such consumer")),
            (message(None, "", &[], ""), gone("a message without place in the stream")),
        ];
        for (message, event) in table {
            assert_eq!(interpret(message), event);
        }
        let tag = Tag([1; 16]).to_text();
        let stored = message(None, "", &[("Nats-Msg-Id", &tag)], "$JS.ACK.s.c.1.3.3.5000000.0");
        assert_eq!(interpret(stored), entry(3));
    }

    #[test]
    fn a_reader_breaks_off_at_the_first_gap_or_repetition() {
        let whole = [entry(5), entry(6)];
        let table = [
            ("the next entry", vec![entry(7)], 3, None),
            ("an entry after a gap", vec![entry(8), entry(7)], 2, Some("8 came instead of 7")),
            ("an entry for the second time", vec![entry(6)], 2, Some("6 came instead of 7")),
            ("the first entry of a recreated log", vec![entry(1)], 2, Some("1 came instead of 7")),
            (
                "a heartbeat without a lost entry",
                vec![ConsumerEvent::Heartbeat(Some(6)), ConsumerEvent::Heartbeat(None), entry(7)],
                3,
                None,
            ),
            (
                "a heartbeat after a lost entry",
                vec![ConsumerEvent::Heartbeat(Some(7))],
                2,
                Some("7 was sent and never came"),
            ),
            (
                "a consumer that no longer exists",
                vec![ConsumerEvent::Gone("why".into()), entry(7)],
                2,
                Some("why"),
            ),
        ];
        for (what, events, entries, broken) in table {
            let mut progress = Progress::new(5);
            for event in whole.iter().cloned().chain(events) {
                if progress.broken().is_none() {
                    progress.receive(event);
                }
            }
            let returned = progress.drain(usize::MAX);
            assert!(returned.iter().map(|entry| entry.sequence).eq(5..5 + entries), "{what}");
            assert_eq!(progress.broken(), broken, "{what}");
        }
    }

    #[test]
    fn entries_of_open_pull_requests_are_counted() {
        let mut progress = Progress::new(1);
        assert_eq!(progress.ahead(), 0);
        progress.pulled(10);
        progress.receive(entry(1));
        progress.receive(entry(2));
        assert_eq!(progress.ahead(), 10, "two entries have arrived and eight are requested");
        assert_eq!((progress.drain(0).len(), progress.ahead()), (1, 9));
        progress.receive(ConsumerEvent::PullEnded(Some(8)));
        assert_eq!(progress.ahead(), 1);
        progress.pulled(10);
        progress.receive(ConsumerEvent::PullEnded(None));
        assert_eq!((progress.drain(9).len(), progress.ahead()), (1, 0));
        progress.break_off("first");
        progress.break_off("second");
        assert_eq!(progress.broken(), Some("first"));
    }
}
