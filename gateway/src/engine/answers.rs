//! What requests ask of a polling session, and what they are answered, to the last of them.

use super::framing::NOOP;
use super::request::Refusal;
use crate::drive::Socket;
use crate::frame::{self, Body};
use crate::outgoing::{Outgoing, answer_length};
use carillon_proto::dialect::socketio::engine::{Packet, payload};
use carillon_proto::wire::MovedSession;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

/// For a poll that crosses its client's goodbye on another connection: it was sent before, and is to be answered.
const CROSSING_TIMEOUT: Duration = Duration::from_millis(50);
/// For the last frames of a session to be asked for.
pub const LAST_POLL_TIMEOUT: Duration = Duration::from_secs(5);

/// A request that reached its session.
pub enum Asked {
    /// Waits for packets.
    Poll(oneshot::Sender<Polled>),
    /// Brings packets.
    Post(String, oneshot::Sender<Result<(), Refusal>>),
    /// A WebSocket to which the session may move.
    Probe(Box<Socket>, Arc<TcpStream>),
    /// A second post came while another one was under way.
    Overlap,
    /// A WebSocket is probed on another gateway.
    ProbedElsewhere,
    /// The session moves to the WebSocket that was probed on another gateway.
    Take(oneshot::Sender<MovedSession>),
}

/// The answer to a poll.
pub enum Polled {
    /// Packets.
    Payload(String),
    /// The session is over.
    Refused(Refusal),
}

/// Why a session ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The client is gone, or has broken the protocol.
    Gone,
    /// The client has said goodbye.
    Closed,
    /// The application drops it, and may have said why.
    Dropped,
}

/// The session is over: the poll that waits is answered at once, with what was queued last; where none waits and
/// the application had something to say, the next ones are.
pub async fn last_words(
    over: Over,
    outgoing: &Outgoing,
    poll: Option<oneshot::Sender<Polled>>,
    posting: Option<oneshot::Sender<Result<(), Refusal>>>,
    requests: &mut mpsc::Receiver<Asked>,
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
            let _ = poll.send(Polled::Payload(payload_of(&frames)));
            answered = true;
        }
        let wait = match over {
            Over::Dropped if !last.is_empty() => LAST_POLL_TIMEOUT,
            Over::Closed if !answered => CROSSING_TIMEOUT,
            _ => break,
        };
        next = tokio::time::timeout(wait, next_poll(requests)).await.ok().flatten();
        if next.is_none() {
            break;
        }
    }
    requests.close();
    while let Ok(asked) = requests.try_recv() {
        match asked {
            // It crossed the goodbye, and is as one that waited.
            Asked::Poll(answer) if over == Over::Closed => {
                drop(answer.send(Polled::Payload(payload_of(&[NOOP]))))
            }
            other => refuse(other),
        }
    }
}

async fn next_poll(requests: &mut mpsc::Receiver<Asked>) -> Option<oneshot::Sender<Polled>> {
    loop {
        match requests.recv().await? {
            Asked::Poll(answer) => return Some(answer),
            other => refuse(other),
        }
    }
}

/// Answers a request of a session that is over.
pub fn refuse(asked: Asked) {
    match asked {
        Asked::Poll(answer) => drop(answer.send(Polled::Refused(Refusal::BadRequest))),
        Asked::Post(_, answer) => drop(answer.send(Err(Refusal::BadRequest))),
        // Let go, which says enough.
        Asked::Probe(..) | Asked::Overlap | Asked::ProbedElsewhere | Asked::Take(_) => {}
    }
}

/// The packets of frames, as the answer to a poll has them.
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
