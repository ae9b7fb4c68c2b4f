//! Answers requests that reached another gateway and concern polling sessions of this one (see [`super::relay`]).

use super::answers::PollAnswer;
use super::relay::{HOLD, Relay};
use super::request::RequestError;
use super::sessions::{Handle, Sessions};
use carillon_proto::limits::ENGINEIO_PAYLOAD_BYTES_MAX;
use carillon_proto::subject;
use carillon_proto::wire::{
    RelayPost, RelayReply, RelayRequest, relay_reply::Body as Reply, relay_request::Body,
};
use carillon_runtime::bus::{Incoming, Subscription};
use carillon_runtime::collections::Spare;
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

/// A poll that has not been repeated for this long is given up, and its session ends.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// Bytes of answers kept in case they are requested again. Above this the oldest are dropped. A dropped answer is lost
/// only if the bus also lost it and the other gateway has not requested it again by then.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Pause before a repeated poll is answered by *waiting* while an earlier request still waits for the same poll.
const REPEAT_PAUSE: Duration = Duration::from_millis(200);
/// Polls that are held at one time, and other requests that are processed at one time. More requests wait on the bus.
const POLLS_MAX: usize = 16_384;
const REQUESTS_MAX: usize = 1_024;
/// Pause between two attempts to subscribe while the bus is unavailable.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Bodies in several parts that are being put together at one time. A body of usual size is one part.
const BODIES_MAX: usize = 64;

/// The state of a poll that another gateway passed on.
enum RelayedPoll {
    /// A request waits for the answer now.
    Awaited,
    /// The poll waits in the session, and no request waits for the answer.
    Waiting(oneshot::Receiver<PollAnswer>),
    /// The poll was answered with this reply.
    Answered(Reply),
}

struct KeptPoll {
    request: u64,
    poll: RelayedPoll,
    touched: Instant,
}

impl KeptPoll {
    fn bytes(&self) -> usize {
        match &self.poll {
            RelayedPoll::Answered(Reply::Payload(payload)) => payload.len(),
            _ => 0,
        }
    }
}

/// The last poll of each session, kept while it may be repeated.
#[derive(Default)]
struct Polls {
    kept: HashMap<String, KeptPoll>,
    /// Bytes of the answers in `kept`.
    bytes: usize,
}

impl Polls {
    fn set(&mut self, sid: String, kept: KeptPoll) {
        self.bytes += kept.bytes();
        let before = self.kept.insert(sid, kept);
        self.bytes -= before.map_or(0, |before| before.bytes());
        if self.bytes > KEPT_BYTES_MAX {
            self.forget_oldest();
        }
    }

    /// Drops the oldest answers until half of the limit is free, so that this is rarely necessary.
    fn forget_oldest(&mut self) {
        let answered = self.kept.iter().filter(|(_, kept)| kept.bytes() > 0);
        let mut answered: Vec<(Instant, String)> =
            answered.map(|(sid, kept)| (kept.touched, sid.clone())).collect();
        answered.sort();
        for (_, sid) in answered {
            if self.bytes <= KEPT_BYTES_MAX / 2 {
                break;
            }
            self.bytes -= self.kept.remove(&sid).map_or(0, |kept| kept.bytes());
        }
    }

    fn sweep(&mut self, now: Instant) {
        let fresh = |kept: &KeptPoll| now.saturating_duration_since(kept.touched) < FORGOTTEN_AFTER;
        self.kept.retain(|_, kept| matches!(kept.poll, RelayedPoll::Awaited) || fresh(kept));
        self.bytes = self.kept.values().map(KeptPoll::bytes).sum();
        self.kept.give_spare_back();
    }
}

struct BodyParts {
    request: u64,
    next: u32,
    body: Vec<u8>,
    touched: Instant,
}

/// Answers requests for the sessions of this gateway.
struct RelayServer {
    sessions: Arc<Sessions>,
    polls: Mutex<Polls>,
    bodies: Mutex<HashMap<String, BodyParts>>,
}

/// Serves the requests of other gateways. Subscribes again if the bus ends the subscription.
pub async fn serve(sessions: Arc<Sessions>, relay: Relay, mut subscription: Subscription) {
    let server = Arc::new(RelayServer { sessions, polls: Mutex::default(), bodies: Mutex::default() });
    loop {
        serve_subscription(&server, subscription).await;
        subscription = loop {
            tokio::time::sleep(RETRY_DELAY).await;
            match relay.bus.subscribe(&subject::engine(&relay.own), None).await {
                Ok(subscription) => break subscription,
                Err(error) => tracing::warn!(%error, "cannot subscribe to the requests of other gateways"),
            }
        };
    }
}

async fn serve_subscription(server: &Arc<RelayServer>, mut subscription: Subscription) {
    let polls = Arc::new(Semaphore::new(POLLS_MAX));
    let others = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut sweep = tokio::time::interval(FORGOTTEN_AFTER / 4);
    loop {
        let incoming = tokio::select! {
            incoming = subscription.next() => incoming,
            _ = sweep.tick() => {
                server.sweep(Instant::now());
                continue;
            }
        };
        let message = match incoming {
            Some(Incoming::Message(message)) => message,
            // The other gateway repeats its request.
            Some(Incoming::Lost) => continue,
            None => return,
        };
        let (Ok(request), Some(reply)) = (RelayRequest::decode(message.payload), message.reply) else {
            continue;
        };
        let permits = if matches!(request.body, Some(Body::Poll(_))) { &polls } else { &others };
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let server = server.clone();
        tokio::spawn(async move {
            let body = Some(server.answer(request).await);
            reply.send(RelayReply { body }.encode_to_vec().into());
            drop(permit);
        });
    }
}

impl RelayServer {
    async fn answer(&self, request: RelayRequest) -> Reply {
        let Some(handle) = self.sessions.find(&request.sid) else {
            // The session is over, but its last answer may be requested again.
            let repeated = self.repeated(&request.sid, request.request);
            return repeated.unwrap_or(Reply::Refused(RequestError::UnknownSession.number()));
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
                    Err(error) => return Reply::Refused(error.number()),
                };
                match handle.alone(handle.post(body)).await {
                    Ok(()) => Reply::Taken(true),
                    Err(error) => Reply::Refused(error.number()),
                }
            }
            Some(Body::Probe(_)) => match handle.probed_elsewhere().await {
                Ok(()) => Reply::Probed(true),
                Err(error) => Reply::Refused(error.number()),
            },
            Some(Body::Take(_)) => match handle.hand_over().await {
                Ok(moved) => Reply::Moved(moved),
                Err(error) => Reply::Refused(error.number()),
            },
            None => Reply::Refused(RequestError::BadRequest.number()),
        }
    }

    fn repeated(&self, sid: &str, request: u64) -> Option<Reply> {
        match self.polls.lock().kept.get(sid) {
            Some(KeptPoll { request: known, poll: RelayedPoll::Answered(reply), .. })
                if *known == request =>
            {
                Some(reply.clone())
            }
            _ => None,
        }
    }

    async fn poll(&self, handle: &Handle, sid: String, request: u64, wait: Duration) -> Reply {
        let waiting = {
            let mut polls = self.polls.lock();
            match polls.kept.get_mut(&sid).filter(|kept| kept.request == request) {
                Some(kept) => {
                    kept.touched = Instant::now();
                    match std::mem::replace(&mut kept.poll, RelayedPoll::Awaited) {
                        RelayedPoll::Awaited => None,
                        RelayedPoll::Answered(reply) => {
                            kept.poll = RelayedPoll::Answered(reply.clone());
                            return reply;
                        }
                        RelayedPoll::Waiting(receiver) => Some(Some(receiver)),
                    }
                }
                None => {
                    let touched = Instant::now();
                    polls.set(sid.clone(), KeptPoll { request, poll: RelayedPoll::Awaited, touched });
                    Some(None)
                }
            }
        };
        let waiting = match waiting {
            Some(Some(waiting)) => Some(waiting),
            Some(None) => handle.start_poll().await,
            None => {
                // An earlier request still waits for this poll. The other gateway repeats a poll only if it lost that
                // answer, and will repeat it again.
                tokio::time::sleep(wait.min(REPEAT_PAUSE)).await;
                return Reply::Waiting(true);
            }
        };
        let Some(mut waiting) = waiting else {
            return self.keep(
                sid,
                request,
                RelayedPoll::Answered(Reply::Refused(RequestError::UnknownSession.number())),
            );
        };
        let poll = match tokio::time::timeout(wait, &mut waiting).await {
            Err(_) => RelayedPoll::Waiting(waiting),
            Ok(Ok(PollAnswer::Payload(payload))) => RelayedPoll::Answered(Reply::Payload(payload)),
            Ok(Ok(PollAnswer::Refused(error))) => RelayedPoll::Answered(Reply::Refused(error.number())),
            Ok(Err(_)) => RelayedPoll::Answered(Reply::Refused(RequestError::UnknownSession.number())),
        };
        self.keep(sid, request, poll)
    }

    /// Keeps the state of a poll, unless the session has a newer poll. Returns the reply.
    fn keep(&self, sid: String, request: u64, poll: RelayedPoll) -> Reply {
        let reply = match &poll {
            RelayedPoll::Answered(reply) => reply.clone(),
            RelayedPoll::Waiting(_) | RelayedPoll::Awaited => Reply::Waiting(true),
        };
        let mut polls = self.polls.lock();
        if polls.kept.get(&sid).is_some_and(|kept| kept.request == request) {
            polls.set(sid, KeptPoll { request, poll, touched: Instant::now() });
        }
        reply
    }

    /// Puts a body together from its parts; `None` while parts are missing.
    fn whole(&self, sid: &str, request: u64, post: RelayPost) -> Result<Option<String>, RequestError> {
        let mut bodies = self.bodies.lock();
        if post.index == 0 {
            if bodies.len() >= BODIES_MAX && post.parts > 1 {
                return Err(RequestError::BadRequest);
            }
            let parts = BodyParts { request, next: 0, body: Vec::new(), touched: Instant::now() };
            bodies.insert(sid.into(), parts);
        }
        let known = bodies.get_mut(sid).filter(|parts| parts.request == request && parts.next == post.index);
        let parts = known.ok_or(RequestError::BadRequest)?;
        parts.body.extend_from_slice(&post.part);
        parts.next += 1;
        parts.touched = Instant::now();
        let fits = parts.body.len() <= ENGINEIO_PAYLOAD_BYTES_MAX;
        if fits && parts.next < post.parts {
            return Ok(None);
        }
        let body = bodies.remove(sid).map(|parts| parts.body).unwrap_or_default();
        match fits {
            true => String::from_utf8(body).map(Some).map_err(|_| RequestError::BadRequest),
            false => Err(RequestError::TooLarge),
        }
    }

    fn sweep(&self, now: Instant) {
        let fresh = |touched: Instant| now.saturating_duration_since(touched) < FORGOTTEN_AFTER;
        self.polls.lock().sweep(now);
        self.bodies.lock().retain(|_, parts| fresh(parts.touched));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(bytes: usize, touched: Instant) -> KeptPoll {
        KeptPoll { request: 1, poll: RelayedPoll::Answered(Reply::Payload("x".repeat(bytes))), touched }
    }

    #[test]
    fn the_oldest_answers_are_dropped_above_the_bound() {
        let (mut polls, started) = (Polls::default(), Instant::now());
        let at = |second| started + Duration::from_secs(second);
        polls.set("waits".into(), KeptPoll { request: 1, poll: RelayedPoll::Awaited, touched: started });
        for second in 0..5 {
            polls.set(format!("s{second}"), answered(KEPT_BYTES_MAX / 4, at(second)));
        }
        let mut left: Vec<&str> = polls.kept.keys().map(String::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["s3", "s4", "waits"]);
        assert_eq!(polls.bytes, KEPT_BYTES_MAX / 2);
        polls.set("s4".into(), answered(1, at(4)));
        polls.sweep(at(13));
        assert_eq!((polls.kept.len(), polls.bytes), (2, 1), "s3 must be dropped and the waiting poll kept");
    }
}
