//! Polling without sticky sessions: a request that reached another gateway than its session's is passed on over the bus
//! (`docs/decisions/0008-polls-are-repeated-posts-are-not.md`).
//!
//! A poll may be repeated with the same number, any number of times, and gets the same answer: packets that were taken
//! out of a session must not be lost with one message on the bus. A post is passed on once, because its packets could
//! be processed twice.

use super::answers::PollAnswer;
use super::request::RequestError;
use carillon_proto::id::GatewayId;
use carillon_proto::limits::RELAY_PART_BYTES_MAX;
use carillon_proto::subject;
use carillon_proto::wire::{
    MovedSession, RelayPoll, RelayPost, RelayReply, RelayRequest, relay_reply::Body as Reply,
    relay_request::Body,
};
use carillon_runtime::bus::{Bus, BusError};
use prost::Message;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

/// How long the session's gateway holds a poll before it answers that nothing has come. The other gateway then repeats
/// the poll, so it notices soon if the session's gateway has died.
pub(super) const HOLD: Duration = Duration::from_secs(2);
/// Time for a busy session to accept a post or a probe.
const BUSY_TIMEOUT: Duration = Duration::from_secs(8);
/// Time for a request and its answer on the bus, besides the time for which the poll is held.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How often in a row a poll is repeated when no answer comes.
const POLL_RETRIES: u32 = 3;

/// Passes requests on to other gateways.
#[derive(Clone)]
pub struct Relay {
    pub(super) own: GatewayId,
    pub(super) bus: Arc<dyn Bus>,
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

    /// The gateway of a session, if its id names one and it is not this one.
    pub(super) fn elsewhere(&self, sid: &str) -> Option<GatewayId> {
        let (gateway, _) = sid.split_once('.')?;
        GatewayId::parse(gateway).ok().filter(|gateway| *gateway != self.own)
    }

    async fn request(
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

    /// Waits for packets of a session on another gateway.
    pub(super) async fn poll(&self, gateway: &GatewayId, sid: &str) -> PollAnswer {
        let body = Body::Poll(RelayPoll { wait_ms: HOLD.as_millis() as u32 });
        let request = RelayRequest { sid: sid.into(), request: random(), body: Some(body) };
        let mut failures = 0;
        loop {
            match self.request(gateway, &request, HOLD + REQUEST_TIMEOUT).await {
                Ok(Reply::Payload(payload)) => return PollAnswer::Payload(payload),
                Ok(Reply::Waiting(_)) => failures = 0,
                Ok(Reply::Refused(number)) => return PollAnswer::Refused(RequestError::of_number(number)),
                Ok(Reply::Taken(_) | Reply::Probed(_) | Reply::Moved(_)) => {
                    return PollAnswer::Refused(RequestError::BadRequest);
                }
                Err(error) => {
                    failures += 1;
                    if failures > POLL_RETRIES || matches!(error, BusError::Unavailable(_)) {
                        tracing::debug!(%gateway, %error, "a poll could not be passed on");
                        return PollAnswer::Refused(RequestError::UnknownSession);
                    }
                }
            }
        }
    }

    /// Announces a WebSocket here to which a session on another gateway may move.
    pub(super) async fn probe(&self, gateway: &GatewayId, sid: &str) -> Result<(), RequestError> {
        match self.once(gateway, sid, Body::Probe(true)).await? {
            Reply::Probed(_) => Ok(()),
            _ => Err(RequestError::BadRequest),
        }
    }

    /// Takes a session from its gateway.
    pub(super) async fn hand_over(
        &self,
        gateway: &GatewayId,
        sid: &str,
    ) -> Result<MovedSession, RequestError> {
        match self.once(gateway, sid, Body::Take(true)).await? {
            Reply::Moved(moved) => Ok(moved),
            _ => Err(RequestError::BadRequest),
        }
    }

    async fn once(&self, gateway: &GatewayId, sid: &str, body: Body) -> Result<Reply, RequestError> {
        let request = RelayRequest { sid: sid.into(), request: random(), body: Some(body) };
        let reply = self.request(gateway, &request, BUSY_TIMEOUT).await;
        reply.map_err(|error| {
            tracing::debug!(%gateway, %error, "a session elsewhere did not answer");
            RequestError::UnknownSession
        })
    }

    /// Passes packets to a session on another gateway.
    pub(super) async fn post(
        &self,
        gateway: &GatewayId,
        sid: &str,
        body: String,
    ) -> Result<(), RequestError> {
        let request = random();
        let body = bytes::Bytes::from(body);
        let parts = body.len().div_ceil(RELAY_PART_BYTES_MAX).max(1);
        for index in 0..parts {
            let end = body.len().min((index + 1) * RELAY_PART_BYTES_MAX);
            let part = body.slice(index * RELAY_PART_BYTES_MAX..end);
            let post = RelayPost { index: index as u32, parts: parts as u32, part };
            let request = RelayRequest { sid: sid.into(), request, body: Some(Body::Post(post)) };
            // The session's gateway answers when the packets have been processed, as it does for a post of its own.
            match self.request(gateway, &request, BUSY_TIMEOUT).await {
                Ok(Reply::Taken(_)) => return Ok(()),
                Ok(Reply::Waiting(_)) => {}
                Ok(Reply::Refused(number)) => return Err(RequestError::of_number(number)),
                Ok(Reply::Payload(_) | Reply::Probed(_) | Reply::Moved(_)) => {
                    return Err(RequestError::BadRequest);
                }
                Err(error) => {
                    tracing::debug!(%gateway, %error, "a post could not be passed on");
                    return Err(RequestError::UnknownSession);
                }
            }
        }
        Err(RequestError::BadRequest)
    }
}

fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
