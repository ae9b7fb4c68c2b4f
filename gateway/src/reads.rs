//! Pages of events that members who are behind read: each page is read and encoded once, however many
//! wait for it.

use crate::hub::Encoded;
use crate::shared::Shared;
use carillon_proto::code::Failure;
use carillon_proto::id::ConversationId;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared as SharedFuture};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// A page of events, or why there is none.
pub type Page = Result<Arc<Vec<Arc<Encoded>>>, Failure>;

/// Pages being read now. Bounded by the members that are behind, each of whom waits for one.
pub type SharedReads = Mutex<HashMap<(ConversationId, u64), SharedFuture<BoxFuture<'static, Page>>>>;

impl Shared {
    /// The events above `after_seq`, read together with all who ask for the same now.
    pub async fn page_after(self: Arc<Self>, conversation: ConversationId, after_seq: u64) -> Page {
        let key = (conversation, after_seq);
        let reading =
            self.reads.lock().entry(key.clone()).or_insert_with(|| self.clone().read_page(key)).clone();
        reading.await
    }

    fn read_page(self: Arc<Self>, key: (ConversationId, u64)) -> SharedFuture<BoxFuture<'static, Page>> {
        let read = async move {
            crate::metrics::CATCH_UP_READS.inc();
            let events = self.read_after(key.0.as_str(), key.1).await;
            self.reads.lock().remove(&key);
            events.map(|events| Arc::new(events.into_iter().map(Encoded::new).collect()))
        };
        read.boxed().shared()
    }
}
