//! The requests that reach a polling session, their answers, and the answers to the last requests when it ends.

use super::framing::NOOP;
use super::request::RequestError;
use crate::connection::drive::Socket;
use crate::connection::frame::{self, Body};
use crate::connection::outgoing::{Outgoing, answer_length};
use carillon_proto::dialect::socketio::engine::{Packet, payload};
use carillon_proto::wire::MovedSession;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

/// Time to wait for a poll that the client sent before it closed the session on another connection. Such a poll is
/// still answered.
const CROSSING_TIMEOUT: Duration = Duration::from_millis(50);
/// Time for the client to poll the last frames of a session.
pub const LAST_POLL_TIMEOUT: Duration = Duration::from_secs(5);

/// A request to the task of a polling session.
pub enum PollingRequest {
    /// Wait for packets.
    Poll(oneshot::Sender<PollAnswer>),
    /// Process the packets of this body.
    Post(String, oneshot::Sender<Result<(), RequestError>>),
    /// Offer a WebSocket to which the session may move.
    Probe(Box<Socket>, Arc<TcpStream>),
    /// Report a second POST while another one was under way.
    SecondPost,
    /// Report that a WebSocket for the session is being probed on another gateway.
    ProbedElsewhere,
    /// Move the session to the WebSocket that was probed on another gateway.
    HandOver(oneshot::Sender<MovedSession>),
}

/// The answer to a poll.
pub enum PollAnswer {
    Payload(String),
    Refused(RequestError),
}

/// Why a session ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The client is gone, or has broken the protocol.
    Gone,
    /// The client has closed the session.
    Closed,
    /// The handler drops the session, and may have queued an event with the reason.
    Dropped,
}

/// Answers the requests of a session that is over. The waiting poll receives the frames queued last, at once. If the
/// handler dropped the session and frames are left, the next polls receive them, each within [`LAST_POLL_TIMEOUT`].
pub async fn answer_last_requests(
    reason: EndReason,
    outgoing: &Outgoing,
    poll: Option<oneshot::Sender<PollAnswer>>,
    posting: Option<oneshot::Sender<Result<(), RequestError>>>,
    requests: &mut mpsc::Receiver<PollingRequest>,
) {
    if let Some(posting) = posting {
        let _ = posting.send(Ok(()));
    }
    let mut last = frame::split(&outgoing.drain_up_to(usize::MAX));
    outgoing.close();
    let (mut next, mut answered) = (poll, false);
    loop {
        if let Some(poll) = next {
            let rest = last.split_off(answer_length(&last));
            let frames = if last.is_empty() { vec![NOOP] } else { std::mem::replace(&mut last, rest) };
            let _ = poll.send(PollAnswer::Payload(payload_of(&frames)));
            answered = true;
        }
        let wait = match reason {
            EndReason::Dropped if !last.is_empty() => LAST_POLL_TIMEOUT,
            EndReason::Closed if !answered => CROSSING_TIMEOUT,
            _ => break,
        };
        next = tokio::time::timeout(wait, next_poll(requests)).await.ok().flatten();
        if next.is_none() {
            break;
        }
    }
    requests.close();
    while let Ok(request) = requests.try_recv() {
        match request {
            // The client sent this poll before it closed the session: answer it as one that was waiting.
            PollingRequest::Poll(answer) if reason == EndReason::Closed => {
                drop(answer.send(PollAnswer::Payload(payload_of(&[NOOP]))))
            }
            other => refuse(other),
        }
    }
}

async fn next_poll(requests: &mut mpsc::Receiver<PollingRequest>) -> Option<oneshot::Sender<PollAnswer>> {
    loop {
        match requests.recv().await? {
            PollingRequest::Poll(answer) => return Some(answer),
            other => refuse(other),
        }
    }
}

/// Refuses a request of a session that is over.
pub fn refuse(request: PollingRequest) {
    match request {
        PollingRequest::Poll(answer) => drop(answer.send(PollAnswer::Refused(RequestError::BadRequest))),
        PollingRequest::Post(_, answer) => drop(answer.send(Err(RequestError::BadRequest))),
        // Dropping the request closes its WebSocket or its channel, which is the answer.
        PollingRequest::Probe(..)
        | PollingRequest::SecondPost
        | PollingRequest::ProbedElsewhere
        | PollingRequest::HandOver(_) => {}
    }
}

/// Encodes the packets of these frames as the answer to a poll.
pub fn payload_of(frames: &[bytes::Bytes]) -> String {
    let packets: Vec<Packet<'_>> = frames
        .iter()
        .filter_map(|frame| match frame::body(frame)? {
            Body::Text(text) => Packet::parse(text).ok(),
            Body::Binary(bytes) => Some(Packet::Binary(bytes.into())),
        })
        .collect();
    payload(&packets)
}
