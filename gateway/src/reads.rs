//! Pages of events that members who are behind read: each page is read and encoded once, however many want it, at
//! one time or within seconds, as the clients of a gateway that died do.

use crate::hub::Encoded;
use crate::shared::Shared;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::ConversationId;
use carillon_proto::limits::{PAGES_BYTES_MAX, PAGES_KEPT_MS};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared as SharedFuture};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A page of events, or why there is none.
pub type Page = Result<Arc<Vec<Arc<Encoded>>>, Failure>;

type Key = (ConversationId, u64);

/// Pages that are being read, each by a task of its own, and those that were read lately. What is being read is
/// bounded by the members that are behind, each of whom waits for one; what was read, in bytes and in time.
#[derive(Default)]
pub struct SharedReads(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    pages: HashMap<Key, SharedFuture<BoxFuture<'static, Page>>>,
    /// Those that were read, oldest first: until when they are kept, and their bytes.
    kept: VecDeque<(Instant, usize, Key)>,
    bytes: usize,
}

impl Pages {
    /// Lets go of what is old, and of the oldest while there is too much.
    fn sweep(&mut self, now: Instant) {
        while let Some((until, bytes, key)) = self.kept.front()
            && (*until <= now || self.bytes > PAGES_BYTES_MAX)
        {
            self.pages.remove(key);
            self.bytes -= bytes;
            self.kept.pop_front();
        }
    }

    /// A page was read. One that tells nothing is not kept: what it misses may be there in a moment.
    fn read(&mut self, now: Instant, key: Key, page: &Page) {
        match page {
            Ok(events) if !events.is_empty() => {
                let bytes = events.iter().map(|event| crate::core::topic::Event::weight(&**event)).sum();
                self.bytes += bytes;
                self.kept.push_back((now + Duration::from_millis(PAGES_KEPT_MS), bytes, key));
                self.sweep(now);
            }
            _ => drop(self.pages.remove(&key)),
        }
    }
}

impl SharedReads {
    /// Lets go of what is old. Called now and then: a page that nobody asks for is not worth its memory.
    pub fn sweep(&self) {
        self.0.lock().sweep(Instant::now());
    }
}

impl Shared {
    /// The events above `after_seq`, read once for all who ask for the same within seconds, up to what was known to be
    /// committed for the first of them: whoever wants more asks for what comes after.
    pub async fn page_after(
        self: Arc<Self>,
        conversation: ConversationId,
        after_seq: u64,
        up_to_seq: u64,
    ) -> Page {
        let key = (conversation, after_seq);
        let page = {
            let mut reads = self.reads.0.lock();
            reads.sweep(Instant::now());
            reads.pages.entry(key.clone()).or_insert_with(|| read_page(self.clone(), key, up_to_seq)).clone()
        };
        page.await
    }
}

/// Reads in a task of its own: whoever asked first may be gone before it is done.
fn read_page(shared: Arc<Shared>, key: Key, up_to_seq: u64) -> SharedFuture<BoxFuture<'static, Page>> {
    let reading = tokio::spawn(async move {
        crate::metrics::CATCH_UP_READS.inc();
        let events = shared.read_after(key.0.as_str(), key.1, up_to_seq).await;
        let page: Page = events.map(|events| Arc::new(events.into_iter().map(Encoded::new).collect()));
        shared.reads.0.lock().read(Instant::now(), key, &page);
        page
    });
    let ended = |_| Failure::new(ErrorCode::Unavailable, "reading was cut off: try again");
    reading.map(move |page| page.unwrap_or_else(|error| Err(ended(error)))).boxed().shared()
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::wire;

    fn key(after_seq: u64) -> Key {
        (ConversationId::parse("room").expect("an id"), after_seq)
    }

    fn page(seqs: std::ops::Range<u64>, content_bytes: usize) -> Page {
        let event = |seq| {
            let message =
                wire::SendMessage { content: "x".repeat(content_bytes), ..wire::SendMessage::default() };
            let kind = Some(wire::event::Kind::Message(message));
            Encoded::new(wire::Event { seq, kind, ..wire::Event::default() })
        };
        Ok(Arc::new(seqs.map(event).collect()))
    }

    fn put(pages: &mut Pages, now: Instant, after_seq: u64, page: Page) {
        pages.pages.insert(key(after_seq), futures_util::future::ready(page.clone()).boxed().shared());
        pages.read(now, key(after_seq), &page);
    }

    #[test]
    fn pages_are_kept_for_a_while_and_within_their_bytes() {
        let (mut pages, now) = (Pages::default(), Instant::now());
        put(&mut pages, now, 1, page(2..4, 10));
        pages.sweep(now + Duration::from_millis(PAGES_KEPT_MS - 1));
        assert_eq!(pages.pages.len(), 1);
        pages.sweep(now + Duration::from_millis(PAGES_KEPT_MS));
        assert_eq!((pages.pages.len(), pages.bytes), (0, 0));
        for after_seq in 0..100 {
            put(&mut pages, now, after_seq, page(0..10, 100_000));
            assert!(pages.bytes <= PAGES_BYTES_MAX);
        }
        assert!(pages.pages.contains_key(&key(99)) && !pages.pages.contains_key(&key(0)), "the oldest went");
        assert_eq!(pages.pages.len(), pages.kept.len());
    }

    #[test]
    fn what_tells_nothing_is_not_kept() {
        let (mut pages, now) = (Pages::default(), Instant::now());
        put(&mut pages, now, 1, page(0..0, 0));
        put(&mut pages, now, 2, Err(Failure::new(ErrorCode::Timeout, "late")));
        assert!(pages.pages.is_empty() && pages.kept.is_empty());
    }
}
