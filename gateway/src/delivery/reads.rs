//! Pages of events for members that are behind. Each page is read and encoded once for all members that need it at the
//! same time or within seconds, as many do when their gateway has died.

use crate::delivery::hub::Encoded;
use crate::workers::reader::Reader;
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

/// A page of events, or why it could not be read.
pub type Page = Result<Arc<Vec<Arc<Encoded>>>, Failure>;

type PageKey = (ConversationId, u64);

/// Pages that are being read and pages that were read recently. The number of members that are behind bounds the
/// former, because each waits for one page. Bytes and time bound the latter.
pub struct SharedReads {
    reader: Reader,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    pages: HashMap<PageKey, SharedFuture<BoxFuture<'static, Page>>>,
    /// The pages that were read, oldest first: when they are dropped, their bytes, and their key.
    kept: VecDeque<(Instant, usize, PageKey)>,
    bytes: usize,
}

impl Pages {
    /// Drops pages that are too old, and the oldest pages while they have too many bytes.
    fn sweep(&mut self, now: Instant) {
        while let Some((until, bytes, key)) = self.kept.front()
            && (*until <= now || self.bytes > PAGES_BYTES_MAX)
        {
            self.pages.remove(key);
            self.bytes -= bytes;
            self.kept.pop_front();
        }
    }

    /// Keeps a page that was read. An empty or failed page is not kept, because the next read may have events.
    fn read(&mut self, now: Instant, key: PageKey, page: &Page) {
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
    /// Begins without pages. `reader` reads those that are requested.
    pub fn new(reader: Reader) -> SharedReads {
        SharedReads { reader, pages: Mutex::default() }
    }

    /// Drops pages that are too old. Called regularly, because a page that is not requested again only costs memory.
    pub fn sweep(&self) {
        self.pages.lock().sweep(Instant::now());
    }

    /// The events above `after_seq`, read once for all callers with the same `after_seq` within seconds. The page ends
    /// at the `up_to_seq` of the first caller; a caller that needs more requests the next page.
    pub async fn page_after(
        self: Arc<Self>,
        conversation: ConversationId,
        after_seq: u64,
        up_to_seq: u64,
    ) -> Page {
        let key = (conversation, after_seq);
        let page = {
            let mut pages = self.pages.lock();
            pages.sweep(Instant::now());
            pages.pages.entry(key.clone()).or_insert_with(|| read_page(self.clone(), key, up_to_seq)).clone()
        };
        page.await
    }
}

/// Reads in a task of its own, because the first caller may end before the page is read.
fn read_page(
    reads: Arc<SharedReads>,
    key: PageKey,
    up_to_seq: u64,
) -> SharedFuture<BoxFuture<'static, Page>> {
    let reading = tokio::spawn(async move {
        crate::metrics::CATCH_UP_READS.inc();
        let events = reads.reader.events_after(key.0.as_str(), key.1, up_to_seq).await;
        let page: Page = events.map(|events| Arc::new(events.into_iter().map(Encoded::new).collect()));
        reads.pages.lock().read(Instant::now(), key, &page);
        page
    });
    let ended = |_| Failure::new(ErrorCode::Unavailable, "reading was cut off: try again");
    reading.map(move |page| page.unwrap_or_else(|error| Err(ended(error)))).boxed().shared()
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::wire;

    fn key(after_seq: u64) -> PageKey {
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
        assert!(
            pages.pages.contains_key(&key(99)) && !pages.pages.contains_key(&key(0)),
            "the oldest page must be dropped"
        );
        assert_eq!(pages.pages.len(), pages.kept.len());
    }

    #[test]
    fn empty_and_failed_pages_are_not_kept() {
        let (mut pages, now) = (Pages::default(), Instant::now());
        put(&mut pages, now, 1, page(0..0, 0));
        put(&mut pages, now, 2, Err(Failure::new(ErrorCode::Timeout, "late")));
        assert!(pages.pages.is_empty() && pages.kept.is_empty());
    }
}
