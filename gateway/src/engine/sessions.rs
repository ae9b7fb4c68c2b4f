//! The registry of a gateway's polling sessions, through which requests reach them.

use super::answers::{PollAnswer, PollingRequest};
use super::request::RequestError;
use axum::body::HttpBody;
use axum::extract::Request;
use carillon_proto::wire::MovedSession;
use carillon_runtime::collections::Spare;
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Requests that may wait for the task of a polling session: a poll, a post, an upgrade, and a few that will be
/// refused.
const REQUESTS_MAX: usize = 8;

/// A body over the limit is still read and dropped, up to this many times the limit.
const DROPPED_BODIES: usize = 4;
/// Time for a client to send the body of its request, as for the REST API.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Handle {
    pub(super) engine: &'static str,
    pub(super) requests: mpsc::Sender<PollingRequest>,
    /// The session has moved to a WebSocket and accepts no more polls.
    pub(super) upgraded: Arc<AtomicBool>,
    /// A post is under way.
    posting: Arc<AtomicBool>,
}

/// Bytes of bodies that are read at one time, and the unit in which they are counted. A request reserves the length
/// that it announces before its body is read.
const BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;
const BODIES_UNIT_BYTES: usize = 16 * 1024;

/// All polling sessions of a gateway. Bounded by its connections, because each session is one.
pub struct Sessions {
    polling: Mutex<HashMap<Box<str>, Handle>>,
    bodies: Semaphore,
}

impl Default for Sessions {
    fn default() -> Self {
        let bodies = Semaphore::new(BODIES_BYTES_MAX / BODIES_UNIT_BYTES);
        Sessions { polling: Mutex::default(), bodies }
    }
}

impl Sessions {
    pub(super) fn open(&self, sid: &str, engine: &'static str) -> (Handle, mpsc::Receiver<PollingRequest>) {
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let handle = Handle { engine, requests, upgraded: Arc::default(), posting: Arc::default() };
        self.polling.lock().insert(sid.into(), handle.clone());
        (handle, queue)
    }

    /// Reads a body of at most `bytes_max` bytes, and waits while other bodies take up the memory for that. A body that
    /// is somewhat larger is read to its end and dropped, because a client that is still sending would not receive the
    /// refusal.
    pub(super) async fn read(&self, request: Request, bytes_max: usize) -> Result<String, RequestError> {
        let announced = request.body().size_hint().upper().map_or(bytes_max, |bytes| bytes as usize);
        let held = if announced > bytes_max { 0 } else { announced };
        let units = held.div_ceil(BODIES_UNIT_BYTES).max(1) as u32;
        let reading = async {
            let _held = self.bodies.acquire_many(units).await.map_err(|_| RequestError::BadRequest)?;
            let mut chunks = request.into_body().into_data_stream();
            let (mut body, mut bytes) = (Vec::new(), 0);
            while let Some(chunk) = chunks.next().await {
                // A body that was cut off is refused as well, although the client cannot receive the refusal.
                let chunk = chunk.map_err(|_| RequestError::BadRequest)?;
                bytes += chunk.len();
                if announced <= bytes_max && bytes <= bytes_max {
                    body.extend_from_slice(&chunk);
                } else if bytes > DROPPED_BODIES * bytes_max {
                    break;
                }
            }
            if announced > bytes_max || bytes > bytes_max {
                return Err(RequestError::TooLarge);
            }
            String::from_utf8(body).map_err(|_| RequestError::BadRequest)
        };
        tokio::time::timeout(BODY_TIMEOUT, reading).await.unwrap_or(Err(RequestError::BadRequest))
    }

    pub(super) fn find(&self, sid: &str) -> Option<Handle> {
        self.polling.lock().get(sid).cloned()
    }

    pub(super) fn forget(&self, sid: &str) {
        let mut sessions = self.polling.lock();
        sessions.remove(sid);
        sessions.give_spare_back();
    }
}

/// A post under way, until it is answered or its client hangs up.
struct Posting<'a>(&'a AtomicBool);

impl Drop for Posting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Handle {
    /// Allows one post at a time. A second one ends the session, because the packets of both could be processed in any
    /// order.
    pub(super) async fn alone(
        &self,
        post: impl Future<Output = Result<(), RequestError>>,
    ) -> Result<(), RequestError> {
        if self.posting.swap(true, Ordering::AcqRel) {
            let _ = self.requests.send(PollingRequest::SecondPost).await;
            return Err(RequestError::BadRequest);
        }
        let _posting = Posting(&self.posting);
        post.await
    }

    /// Passes packets to the session. Returns when all have been processed.
    pub(super) async fn post(&self, body: String) -> Result<(), RequestError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.requests.send(PollingRequest::Post(body, answer)).await;
        sent.map_err(|_| RequestError::UnknownSession)?;
        answered.await.unwrap_or(Err(RequestError::UnknownSession))
    }

    /// Waits for packets. If this is cancelled, the session treats the client as gone.
    pub(super) async fn poll(&self) -> PollAnswer {
        match self.start_poll().await {
            Some(answered) => answered.await.unwrap_or(PollAnswer::Refused(RequestError::UnknownSession)),
            None => PollAnswer::Refused(RequestError::UnknownSession),
        }
    }

    /// Reports that a WebSocket is being probed on another gateway, so that polls are answered at once.
    pub(super) async fn probed_elsewhere(&self) -> Result<(), RequestError> {
        self.requests.send(PollingRequest::ProbedElsewhere).await.map_err(|_| RequestError::UnknownSession)
    }

    /// Requests the session's state for another gateway, where the session goes on.
    pub(super) async fn hand_over(&self) -> Result<MovedSession, RequestError> {
        let (successor, state) = oneshot::channel();
        let sent = self.requests.send(PollingRequest::HandOver(successor)).await;
        sent.map_err(|_| RequestError::UnknownSession)?;
        state.await.map_err(|_| RequestError::BadRequest)
    }

    pub(super) async fn start_poll(&self) -> Option<oneshot::Receiver<PollAnswer>> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(PollingRequest::Poll(answer)).await.ok()?;
        Some(answered)
    }
}
