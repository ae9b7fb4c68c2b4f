//! Polling without sticky sessions: a request that reached another gateway than its session's is passed on over
//! the bus (design: gateways).
//!
//! A poll may be asked for again with the same number, as often as its asker likes, and is answered as before: what
//! was taken out of a session for a client must not be lost with one message on the bus. A post is passed on once.

use super::answers::Polled;
use super::request::Refusal;
use super::sessions::{Handle, Sessions};
use carillon_proto::id::GatewayId;
use carillon_proto::limits::{ENGINEIO_PAYLOAD_BYTES_MAX, RELAY_PART_BYTES_MAX};
use carillon_proto::subject;
use carillon_proto::wire::{
    MovedSession, RelayPoll, RelayPost, RelayReply, RelayRequest, relay_reply::Body as Reply,
    relay_request::Body,
};
use carillon_runtime::bus::{Bus, BusError, Incoming, Subscription};
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};

/// How long a session's gateway holds a poll before it says that nothing has come. With the next one, who polls
/// learns that it died.
const HOLD: Duration = Duration::from_secs(2);
/// For a session that is busy to take a post or a probe.
const BUSY_TIMEOUT: Duration = Duration::from_secs(8);
/// For an answer to be on the bus, above what it is held.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Times that a poll is asked for again when no answer comes, in a row.
const POLL_RETRIES: u32 = 3;
/// A poll that nobody has asked for again for so long is given up, and with it its session.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// Before a poll that somebody waits for already is said to wait.
const REPEAT_PAUSE: Duration = Duration::from_millis(200);
/// Polls that are held at one time, and other requests that are answered; more wait on the bus.
const POLLS_MAX: usize = 16_384;
const REQUESTS_MAX: usize = 1_024;
/// Between two tries to subscribe, when the bus is away.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Bodies in parts at one time: those of clients who post much more than is usual.
const BODIES_MAX: usize = 64;

/// Passes requests on to other gateways.
#[derive(Clone)]
pub struct Relay {
    own: GatewayId,
    bus: Arc<dyn Bus>,
}

impl Relay {
    /// The relay of a gateway.
    pub fn new(own: GatewayId, bus: Arc<dyn Bus>) -> Relay {
        Relay { own, bus }
    }

    /// A session's id, which names its gateway.
    pub(super) fn sid(&self, random: impl Display) -> String {
        format!("{}.{random}", self.own)
    }

    /// The other gateway on which a session lives, if its id names one.
    pub(super) fn elsewhere(&self, sid: &str) -> Option<GatewayId> {
        let (gateway, _) = sid.split_once('.')?;
        GatewayId::parse(gateway).ok().filter(|gateway| *gateway != self.own)
    }

    async fn ask(
        &self,
        gateway: &GatewayId,
        request: &RelayRequest,
        timeout: Duration,
    ) -> Result<Reply, BusError> {
        let payload = request.encode_to_vec().into();
        let reply = self.bus.request(&subject::engine(gateway), payload, timeout).await?;
        let reply = RelayReply::decode(reply).ok().and_then(|reply| reply.body);
        reply.ok_or_else(|| BusError::Unavailable("an empty reply".into()))
    }

    /// Waits for packets of a session elsewhere.
    pub(super) async fn poll(&self, gateway: &GatewayId, sid: &str) -> Polled {
        let body = Body::Poll(RelayPoll { wait_ms: HOLD.as_millis() as u32 });
        let request = RelayRequest { sid: sid.into(), request: random(), body: Some(body) };
        let mut failures = 0;
        loop {
            match self.ask(gateway, &request, HOLD + REQUEST_TIMEOUT).await {
                Ok(Reply::Payload(payload)) => return Polled::Payload(payload),
                Ok(Reply::Waiting(_)) => failures = 0,
                Ok(Reply::Refused(number)) => return Polled::Refused(Refusal::of_number(number)),
                Ok(Reply::Taken(_) | Reply::Probed(_) | Reply::Moved(_)) => {
                    return Polled::Refused(Refusal::BadRequest);
                }
                Err(error) => {
                    failures += 1;
                    if failures > POLL_RETRIES || matches!(error, BusError::Unavailable(_)) {
                        tracing::debug!(%gateway, %error, "a poll could not be passed on");
                        return Polled::Refused(Refusal::UnknownSession);
                    }
                }
            }
        }
    }

    /// A WebSocket is probed here that wants to be the WebSocket of a session elsewhere.
    pub(super) async fn probe(&self, gateway: &GatewayId, sid: &str) -> Result<(), Refusal> {
        match self.once(gateway, sid, Body::Probe(true)).await? {
            Reply::Probed(_) => Ok(()),
            _ => Err(Refusal::BadRequest),
        }
    }

    /// Takes a session from its gateway.
    pub(super) async fn take(&self, gateway: &GatewayId, sid: &str) -> Result<MovedSession, Refusal> {
        match self.once(gateway, sid, Body::Take(true)).await? {
            Reply::Moved(moved) => Ok(moved),
            _ => Err(Refusal::BadRequest),
        }
    }

    async fn once(&self, gateway: &GatewayId, sid: &str, body: Body) -> Result<Reply, Refusal> {
        let request = RelayRequest { sid: sid.into(), request: random(), body: Some(body) };
        let reply = self.ask(gateway, &request, BUSY_TIMEOUT).await;
        reply.map_err(|error| {
            tracing::debug!(%gateway, %error, "a session elsewhere did not answer");
            Refusal::UnknownSession
        })
    }

    /// Brings packets to a session elsewhere.
    pub(super) async fn post(&self, gateway: &GatewayId, sid: &str, body: String) -> Result<(), Refusal> {
        let request = random();
        let body = bytes::Bytes::from(body);
        let parts = body.len().div_ceil(RELAY_PART_BYTES_MAX).max(1);
        for index in 0..parts {
            let end = body.len().min((index + 1) * RELAY_PART_BYTES_MAX);
            let part = body.slice(index * RELAY_PART_BYTES_MAX..end);
            let post = RelayPost { index: index as u32, parts: parts as u32, part };
            let request = RelayRequest { sid: sid.into(), request, body: Some(Body::Post(post)) };
            // Held while the session is busy, as a post to its own gateway is.
            match self.ask(gateway, &request, BUSY_TIMEOUT).await {
                Ok(Reply::Taken(_)) => return Ok(()),
                Ok(Reply::Waiting(_)) => {}
                Ok(Reply::Refused(number)) => return Err(Refusal::of_number(number)),
                Ok(Reply::Payload(_) | Reply::Probed(_) | Reply::Moved(_)) => {
                    return Err(Refusal::BadRequest);
                }
                Err(error) => {
                    tracing::debug!(%gateway, %error, "a post could not be passed on");
                    return Err(Refusal::UnknownSession);
                }
            }
        }
        Err(Refusal::BadRequest)
    }
}

fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// A poll that was passed on, as its session's gateway knows it.
enum Poll {
    /// Somebody waits for its answer right now.
    Asked,
    /// It waits in the session, and nobody asks.
    Waiting(oneshot::Receiver<Polled>),
    /// It was answered so.
    Answered(Reply),
}

struct Held {
    request: u64,
    poll: Poll,
    touched: Instant,
}

struct Parts {
    request: u64,
    next: u32,
    body: Vec<u8>,
    touched: Instant,
}

/// Answers requests for the sessions of this gateway.
struct Answers {
    sessions: Arc<Sessions>,
    /// The last poll of each session, for as long as somebody may ask for it again.
    polls: Mutex<HashMap<String, Held>>,
    bodies: Mutex<HashMap<String, Parts>>,
}

/// Serves the requests of other gateways; where the bus ends the subscription, a new one is made.
pub async fn serve(sessions: Arc<Sessions>, relay: Relay, mut subscription: Subscription) {
    let answers = Arc::new(Answers { sessions, polls: Mutex::default(), bodies: Mutex::default() });
    loop {
        serve_subscription(&answers, subscription).await;
        subscription = loop {
            tokio::time::sleep(RETRY_DELAY).await;
            match relay.bus.subscribe(&subject::engine(&relay.own), None).await {
                Ok(subscription) => break subscription,
                Err(error) => tracing::warn!(%error, "requests of other gateways are not heard"),
            }
        };
    }
}

async fn serve_subscription(answers: &Arc<Answers>, mut subscription: Subscription) {
    let polls = Arc::new(Semaphore::new(POLLS_MAX));
    let others = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut sweep = tokio::time::interval(FORGOTTEN_AFTER / 4);
    loop {
        let incoming = tokio::select! {
            incoming = subscription.next() => incoming,
            _ = sweep.tick() => {
                answers.sweep(Instant::now());
                continue;
            }
        };
        let message = match incoming {
            Some(Incoming::Message(message)) => message,
            // Who asked asks again.
            Some(Incoming::Lost) => continue,
            None => return,
        };
        let (Ok(request), Some(reply)) = (RelayRequest::decode(message.payload), message.reply) else {
            continue;
        };
        let places = if matches!(request.body, Some(Body::Poll(_))) { &polls } else { &others };
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let answers = answers.clone();
        tokio::spawn(async move {
            let body = Some(answers.answer(request).await);
            reply.send(RelayReply { body }.encode_to_vec().into());
            drop(place);
        });
    }
}

impl Answers {
    async fn answer(&self, request: RelayRequest) -> Reply {
        let Some(handle) = self.sessions.find(&request.sid) else {
            // What its session said last may still be asked for.
            let said = self.repeated(&request.sid, request.request);
            return said.unwrap_or(Reply::Refused(Refusal::UnknownSession.number()));
        };
        match request.body {
            Some(Body::Poll(poll)) => {
                let wait = Duration::from_millis(poll.wait_ms.into()).min(HOLD);
                self.poll(&handle, request.sid, request.request, wait).await
            }
            Some(Body::Post(post)) => {
                let body = match self.whole(&request.sid, request.request, post) {
                    Ok(Some(body)) => body,
                    Ok(None) => return Reply::Waiting(true),
                    Err(refusal) => return Reply::Refused(refusal.number()),
                };
                match handle.alone(handle.post(body)).await {
                    Ok(()) => Reply::Taken(true),
                    Err(refusal) => Reply::Refused(refusal.number()),
                }
            }
            Some(Body::Probe(_)) => match handle.probed_elsewhere().await {
                Ok(()) => Reply::Probed(true),
                Err(refusal) => Reply::Refused(refusal.number()),
            },
            Some(Body::Take(_)) => match handle.take().await {
                Ok(moved) => Reply::Moved(moved),
                Err(refusal) => Reply::Refused(refusal.number()),
            },
            None => Reply::Refused(Refusal::BadRequest.number()),
        }
    }

    fn repeated(&self, sid: &str, request: u64) -> Option<Reply> {
        match self.polls.lock().get(sid) {
            Some(Held { request: known, poll: Poll::Answered(reply), .. }) if *known == request => {
                Some(reply.clone())
            }
            _ => None,
        }
    }

    async fn poll(&self, handle: &Handle, sid: String, request: u64, wait: Duration) -> Reply {
        let waiting = {
            let mut polls = self.polls.lock();
            match polls.get_mut(&sid).filter(|held| held.request == request) {
                Some(held) => {
                    held.touched = Instant::now();
                    match std::mem::replace(&mut held.poll, Poll::Asked) {
                        Poll::Asked => None,
                        Poll::Answered(reply) => {
                            held.poll = Poll::Answered(reply.clone());
                            return reply;
                        }
                        Poll::Waiting(receiver) => Some(Some(receiver)),
                    }
                }
                None => {
                    let touched = Instant::now();
                    polls.insert(sid.clone(), Held { request, poll: Poll::Asked, touched });
                    Some(None)
                }
            }
        };
        let waiting = match waiting {
            Some(Some(waiting)) => Some(waiting),
            Some(None) => handle.begin_poll().await,
            None => {
                // Somebody waits for it already; whoever asks once more has lost that answer, and asks again.
                tokio::time::sleep(wait.min(REPEAT_PAUSE)).await;
                return Reply::Waiting(true);
            }
        };
        let Some(mut waiting) = waiting else {
            return self.keep(sid, request, Poll::Answered(Reply::Refused(Refusal::UnknownSession.number())));
        };
        let poll = match tokio::time::timeout(wait, &mut waiting).await {
            Err(_) => Poll::Waiting(waiting),
            Ok(Ok(Polled::Payload(payload))) => Poll::Answered(Reply::Payload(payload)),
            Ok(Ok(Polled::Refused(refusal))) => Poll::Answered(Reply::Refused(refusal.number())),
            Ok(Err(_)) => Poll::Answered(Reply::Refused(Refusal::UnknownSession.number())),
        };
        self.keep(sid, request, poll)
    }

    /// Keeps what became of a poll, unless its session has another one by now; returns what to answer.
    fn keep(&self, sid: String, request: u64, poll: Poll) -> Reply {
        let reply = match &poll {
            Poll::Answered(reply) => reply.clone(),
            Poll::Waiting(_) | Poll::Asked => Reply::Waiting(true),
        };
        if let Some(held) = self.polls.lock().get_mut(&sid).filter(|held| held.request == request) {
            (held.poll, held.touched) = (poll, Instant::now());
        }
        reply
    }

    /// Puts a body together; `None` while parts are missing.
    fn whole(&self, sid: &str, request: u64, post: RelayPost) -> Result<Option<String>, Refusal> {
        let mut bodies = self.bodies.lock();
        if post.index == 0 {
            if bodies.len() >= BODIES_MAX && post.parts > 1 {
                return Err(Refusal::BadRequest);
            }
            let parts = Parts { request, next: 0, body: Vec::new(), touched: Instant::now() };
            bodies.insert(sid.into(), parts);
        }
        let known = bodies.get_mut(sid).filter(|parts| parts.request == request && parts.next == post.index);
        let parts = known.ok_or(Refusal::BadRequest)?;
        parts.body.extend_from_slice(&post.part);
        parts.next += 1;
        parts.touched = Instant::now();
        let fits = parts.body.len() <= ENGINEIO_PAYLOAD_BYTES_MAX;
        if fits && parts.next < post.parts {
            return Ok(None);
        }
        let body = bodies.remove(sid).map(|parts| parts.body).unwrap_or_default();
        match fits {
            true => String::from_utf8(body).map(Some).map_err(|_| Refusal::BadRequest),
            false => Err(Refusal::TooLarge),
        }
    }

    fn sweep(&self, now: Instant) {
        let fresh = |touched: Instant| now.saturating_duration_since(touched) < FORGOTTEN_AFTER;
        let mut polls = self.polls.lock();
        polls.retain(|_, held| matches!(held.poll, Poll::Asked) || fresh(held.touched));
        if polls.capacity() > 1_024 && polls.len() * 8 < polls.capacity() {
            polls.shrink_to_fit();
        }
        drop(polls);
        self.bodies.lock().retain(|_, parts| fresh(parts.touched));
    }
}
