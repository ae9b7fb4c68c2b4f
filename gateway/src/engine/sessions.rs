//! The polling sessions of a gateway, as requests find them.

use super::answers::{Asked, Polled};
use super::request::Refusal;
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

/// Requests of one polling session that wait for its task: a poll, a post and an upgrade, and a few that will be
/// refused.
const REQUESTS_MAX: usize = 8;

/// How many times the limit a body may have that is read only to be dropped.
const DROPPED_BODIES: usize = 4;
/// For a request's body, as for one of the API.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A polling session.
#[derive(Clone)]
pub struct Handle {
    pub(super) engine: &'static str,
    pub(super) requests: mpsc::Sender<Asked>,
    /// It has moved to a WebSocket: it polls no more.
    pub(super) upgraded: Arc<AtomicBool>,
    /// A post is under way.
    posting: Arc<AtomicBool>,
}

/// Bytes of bodies that are being read at one time, and how finely they are counted: what clients announce is held
/// before it is looked at.
const BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;
const BODIES_UNIT_BYTES: usize = 16 * 1024;

/// All polling sessions of a gateway. Bounded by its connections, of which each is one.
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
    pub(super) fn open(&self, sid: &str, engine: &'static str) -> (Handle, mpsc::Receiver<Asked>) {
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let handle = Handle { engine, requests, upgraded: Arc::default(), posting: Arc::default() };
        self.polling.lock().insert(sid.into(), handle.clone());
        (handle, queue)
    }

    /// Reads a body of at most `bytes_max` bytes; it waits while others bring many. One that is larger is read to its
    /// end, if that is near, and dropped: a client that is still sending would not hear that it is refused.
    pub(super) async fn read(&self, request: Request, bytes_max: usize) -> Result<String, Refusal> {
        let announced = request.body().size_hint().upper().map_or(bytes_max, |bytes| bytes as usize);
        let held = if announced > bytes_max { 0 } else { announced };
        let units = held.div_ceil(BODIES_UNIT_BYTES).max(1) as u32;
        let reading = async {
            let _held = self.bodies.acquire_many(units).await.map_err(|_| Refusal::BadRequest)?;
            let mut chunks = request.into_body().into_data_stream();
            let (mut body, mut bytes) = (Vec::new(), 0);
            while let Some(chunk) = chunks.next().await {
                // One that was cut off is refused as well, but nobody hears that.
                let chunk = chunk.map_err(|_| Refusal::BadRequest)?;
                bytes += chunk.len();
                if announced <= bytes_max && bytes <= bytes_max {
                    body.extend_from_slice(&chunk);
                } else if bytes > DROPPED_BODIES * bytes_max {
                    break;
                }
            }
            if announced > bytes_max || bytes > bytes_max {
                return Err(Refusal::TooLarge);
            }
            String::from_utf8(body).map_err(|_| Refusal::BadRequest)
        };
        tokio::time::timeout(BODY_TIMEOUT, reading).await.unwrap_or(Err(Refusal::BadRequest))
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
    /// Posts one at a time: a second one ends the session, as its packets could come in any order.
    pub(super) async fn alone(&self, post: impl Future<Output = Result<(), Refusal>>) -> Result<(), Refusal> {
        if self.posting.swap(true, Ordering::AcqRel) {
            let _ = self.requests.send(Asked::Overlap).await;
            return Err(Refusal::BadRequest);
        }
        let _posting = Posting(&self.posting);
        post.await
    }

    /// Brings packets; answered when all have been taken.
    pub(super) async fn post(&self, body: String) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let asked = self.requests.send(Asked::Post(body, answer)).await;
        asked.map_err(|_| Refusal::UnknownSession)?;
        answered.await.unwrap_or(Err(Refusal::UnknownSession))
    }

    /// Waits for packets. Given up, the session takes its client for gone.
    pub(super) async fn poll(&self) -> Polled {
        match self.begin_poll().await {
            Some(answered) => answered.await.unwrap_or(Polled::Refused(Refusal::UnknownSession)),
            None => Polled::Refused(Refusal::UnknownSession),
        }
    }

    /// A WebSocket is probed on another gateway: polls are sent home.
    pub(super) async fn probed_elsewhere(&self) -> Result<(), Refusal> {
        self.requests.send(Asked::ProbedElsewhere).await.map_err(|_| Refusal::UnknownSession)
    }

    /// Lets the session go to another gateway.
    pub(super) async fn take(&self) -> Result<MovedSession, Refusal> {
        let (taker, taken) = oneshot::channel();
        let asked = self.requests.send(Asked::Take(taker)).await;
        asked.map_err(|_| Refusal::UnknownSession)?;
        taken.await.map_err(|_| Refusal::BadRequest)
    }

    pub(super) async fn begin_poll(&self) -> Option<oneshot::Receiver<Polled>> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Asked::Poll(answer)).await.ok()?;
        Some(answered)
    }
}
