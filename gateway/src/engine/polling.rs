//! Serves a session that polls. Queued frames go into the next answer, until the session ends or moves to a WebSocket.

use super::answers::{
    EndReason, LAST_POLL_TIMEOUT, PollAnswer, PollingRequest, answer_last_requests, payload_of, refuse,
};
use super::framing::{EnginePackets, NOOP, PING};
use super::moving::PROBE_TIMEOUT;
use super::request::RequestError;
use super::{Config, Engine, Service, drive_to_the_end};
use crate::connection::drive::{self, Socket};
use crate::connection::outgoing::Outgoing;
use crate::core::keepalive::{Due, Keepalive};
use crate::metrics;
use crate::session::handler::{ConnectionHandler, MessageHandler};
use carillon_proto::dialect::socketio::engine::{Malformed, Packet, parse_payload, payload};
use carillon_proto::limits::RELAY_PART_BYTES_MAX;
use carillon_proto::wire::MovedSession;
use futures_util::{SinkExt, StreamExt};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::Message;

/// Time for the work under way in a session to complete before the session moves to another gateway.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for the gateway to which a session moved to join the session's conversations.
const HANDOVER: Duration = Duration::from_secs(5);

/// A WebSocket to which the session may move.
struct UpgradeProbe {
    socket: Box<Socket>,
    stream: Arc<TcpStream>,
    /// The probe was answered. From then on polls are answered at once, so that the client can complete the move.
    answered: bool,
    deadline: Instant,
}

/// A packet that the client posted.
enum Posted {
    Text(String),
    Binary(Vec<u8>),
    Pong,
    Close,
}

struct Polling<'a, H> {
    config: &'a Config,
    outgoing: &'a Outgoing,
    handler: H,
    keepalive: Keepalive,
    poll: Option<oneshot::Sender<PollAnswer>>,
    /// The packets of one post that are not processed yet, and the answer to that post.
    posted: VecDeque<Posted>,
    posting: Option<oneshot::Sender<Result<(), RequestError>>>,
    probe: Option<UpgradeProbe>,
    /// A WebSocket is being probed on another gateway. Until this time polls are answered at once.
    probed_elsewhere: Option<Instant>,
    /// Another gateway takes the session: where to send it, and until when.
    successor: Option<(oneshot::Sender<MovedSession>, Instant)>,
}

/// How polling ended.
enum Ended {
    Over(EndReason),
    /// The session moved to this WebSocket.
    Moved(Box<Socket>, Arc<TcpStream>),
    /// The session moved to another gateway.
    HandedOver,
}

enum Woken {
    Request(Option<PollingRequest>),
    Probed(Option<Result<Message, tokio_tungstenite::tungstenite::Error>>),
    /// The client hung up on its poll.
    Cancelled,
    Other,
    Timer,
}

/// Serves a session from its first poll to its end.
pub async fn run<S: Service>(
    engine: &Engine<S>,
    mut requests: mpsc::Receiver<PollingRequest>,
    permit: &S::Permit,
    upgraded: &AtomicBool,
) {
    let outgoing = Arc::new(Outgoing::default());
    let config = &engine.config;
    let mut polling = Box::new(Polling {
        config,
        outgoing: &outgoing,
        handler: engine.service.open(&outgoing, permit),
        keepalive: Keepalive::new(config.pings, Instant::now().into_std()),
        poll: None,
        posted: VecDeque::new(),
        posting: None,
        probe: None,
        probed_elsewhere: None,
        successor: None,
    });
    match Box::pin(polling.run(&mut requests)).await {
        Ended::Over(reason) => {
            let Polling { handler, poll, posting, .. } = *polling;
            answer_last_requests(reason, &outgoing, poll, posting, &mut requests).await;
            handler.end().await;
        }
        Ended::HandedOver => {
            outgoing.close();
            drop(requests);
            // The other gateway joins before this one leaves, so that other members do not see the user leave.
            tokio::time::sleep(HANDOVER).await;
            polling.handler.end().await;
        }
        Ended::Moved(mut socket, stream) => {
            upgraded.store(true, Ordering::Relaxed);
            drop(requests);
            outgoing.attach(stream.clone());
            let framing = EnginePackets::new(config.pings, config.packet_bytes_max);
            let close = drive_to_the_end(&mut socket, &outgoing, framing, polling.handler).await;
            Box::pin(drive::end(*socket, close, &stream)).await;
        }
    }
}

impl<H: MessageHandler> Polling<'_, H> {
    /// Serves until polling ends. If the handler drops the session while a WebSocket is probed, waits a while for
    /// the move, because the last frames can reach the client only there.
    async fn run(&mut self, requests: &mut mpsc::Receiver<PollingRequest>) -> Ended {
        self.outgoing.set_reading(true);
        let ended = self.serve(requests).await;
        self.outgoing.set_reading(false);
        let probed = self.probe.as_ref().is_some_and(|probe| probe.answered);
        if probed && matches!(ended, Ended::Over(EndReason::Dropped)) {
            let moved = tokio::time::timeout(LAST_POLL_TIMEOUT, self.move_at_last(requests)).await;
            if let Ok(Some((socket, stream))) = moved {
                // Wake the session on the WebSocket, so that it calls the handler, which repeats that it drops the
                // session.
                self.outgoing.wake();
                return Ended::Moved(socket, stream);
            }
        }
        ended
    }

    /// Completes the move to a WebSocket. The client has received the answer to its probe and stops polling, so it can
    /// receive the last frames only over the WebSocket.
    async fn move_at_last(
        &mut self,
        requests: &mut mpsc::Receiver<PollingRequest>,
    ) -> Option<(Box<Socket>, Arc<TcpStream>)> {
        loop {
            self.answer_poll().ok()?;
            tokio::select! {
                request = requests.recv() => match request? {
                    PollingRequest::Poll(answer) => self.poll = Some(answer),
                    other => refuse(other),
                },
                message = next_of(&mut self.probe) => {
                    if let Some(moved) = self.probed(message).await {
                        return Some(moved);
                    }
                    self.probe.as_ref()?;
                }
            }
        }
    }

    async fn serve(&mut self, requests: &mut mpsc::Receiver<PollingRequest>) -> Ended {
        let sleep = tokio::time::sleep_until(self.deadline());
        tokio::pin!(sleep);
        loop {
            self.handler.advance();
            if let Err(reason) = self.process_posted() {
                return Ended::Over(reason);
            }
            if let Err(reason) = self.answer_poll() {
                return Ended::Over(reason);
            }
            if self.hand_over() {
                return Ended::HandedOver;
            }
            if !self.posted.is_empty() && self.accepts_posted() {
                continue;
            }
            let woken = tokio::select! {
                request = requests.recv() => Woken::Request(request),
                // Packets posted before the move must be processed before it.
                message = next_of(&mut self.probe), if self.posted.is_empty() => Woken::Probed(message),
                () = hung_up(&mut self.poll) => Woken::Cancelled,
                () = self.outgoing.woken() => Woken::Other,
                () = poll_fn(|context| self.handler.poll_work(context)) => Woken::Other,
                () = &mut sleep => Woken::Timer,
            };
            let done = match woken {
                Woken::Request(Some(request)) => self.handle_request(request),
                Woken::Request(None) | Woken::Cancelled => Err(EndReason::Gone),
                Woken::Probed(message) => {
                    if let Some((socket, stream)) = Box::pin(self.probed(message)).await {
                        return Ended::Moved(socket, stream);
                    }
                    Ok(())
                }
                Woken::Other => Ok(()),
                Woken::Timer => self.handle_timer(),
            };
            if let Err(reason) = done.and_then(|()| self.handler.woken().map_err(|_| EndReason::Dropped)) {
                return Ended::Over(reason);
            }
            sleep.as_mut().reset(self.deadline());
        }
    }

    fn deadline(&self) -> Instant {
        let mut deadline = Instant::from_std(self.keepalive.poll_timeout());
        let probe = self.probe.as_ref().map(|probe| probe.deadline);
        let successor = self.successor.as_ref().map(|(_, until)| *until);
        for other in [probe, successor, self.probed_elsewhere].into_iter().flatten() {
            deadline = deadline.min(other);
        }
        self.handler.deadline().map_or(deadline, |other| other.min(deadline))
    }

    fn handle_timer(&mut self) -> Result<(), EndReason> {
        let now = Instant::now();
        self.handler.due().map_err(|_| EndReason::Dropped)?;
        if self.probe.as_ref().is_some_and(|probe| probe.deadline <= now) {
            self.probe = None;
        }
        if self.probed_elsewhere.is_some_and(|until| until <= now) {
            self.probed_elsewhere = None;
        }
        if self.successor.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.successor = None;
        }
        match self.keepalive.handle_timeout(now.into_std()) {
            Due::Nothing => Ok(()),
            Due::Ping => {
                // Put the ping in front of the queue. Behind several answers' worth of frames it would arrive too late.
                self.outgoing.put_back(vec![PING]);
                Ok(())
            }
            Due::GiveUp => Err(EndReason::Gone),
        }
    }

    fn handle_request(&mut self, request: PollingRequest) -> Result<(), EndReason> {
        if matches!(request, PollingRequest::Poll(_) | PollingRequest::Post(..)) {
            self.outgoing.note_activity();
        }
        match request {
            PollingRequest::Poll(answer) => {
                if let Some(first) = self.poll.take() {
                    // Two polls at once: the client is broken, and frames could reach it in any order. The session
                    // ends.
                    let _ = first.send(PollAnswer::Payload(payload(&[Packet::Close])));
                    let _ = answer.send(PollAnswer::Refused(RequestError::BadRequest));
                    return Err(EndReason::Gone);
                }
                self.poll = Some(answer);
                Ok(())
            }
            // The client gave up its previous post, whose packets are not all processed.
            PollingRequest::Post(_, answer) if self.posting.is_some() || !self.posted.is_empty() => {
                let _ = answer.send(Err(RequestError::BadRequest));
                Err(EndReason::Gone)
            }
            PollingRequest::Post(body, answer) => match self.queue_post(&body) {
                Ok(()) => {
                    self.posting = Some(answer);
                    Ok(())
                }
                Err(_) => {
                    let _ = answer.send(Err(RequestError::BadRequest));
                    Err(EndReason::Gone)
                }
            },
            PollingRequest::SecondPost => Err(EndReason::Gone),
            PollingRequest::ProbedElsewhere => {
                self.probed_elsewhere = Some(Instant::now() + PROBE_TIMEOUT);
                Ok(())
            }
            PollingRequest::HandOver(successor) => {
                self.successor = Some((successor, Instant::now() + SETTLE_TIMEOUT));
                Ok(())
            }
            PollingRequest::Probe(socket, stream) => {
                if self.probe.is_none() {
                    let deadline = Instant::now() + PROBE_TIMEOUT;
                    self.probe = Some(UpgradeProbe { socket, stream, answered: false, deadline });
                }
                Ok(())
            }
        }
    }

    /// Parses a post and queues its packets.
    fn queue_post(&mut self, body: &str) -> Result<(), Malformed> {
        let bytes_max = self.config.packet_bytes_max;
        for packet in parse_payload(body, self.config.packets_max)? {
            self.posted.push_back(match packet {
                Packet::Message(text) if bytes_max == 0 || text.len() <= bytes_max => {
                    Posted::Text(text.into_owned())
                }
                Packet::Binary(bytes) => Posted::Binary(bytes.into_owned()),
                Packet::Pong(_) => Posted::Pong,
                Packet::Close => Posted::Close,
                Packet::Noop | Packet::Upgrade => continue,
                Packet::Open(_) | Packet::Ping(_) | Packet::Message(_) => return Err(Malformed::Type),
            });
        }
        Ok(())
    }

    /// Whether a posted packet may be processed now. Posts wait while the client does not poll what is queued for it,
    /// as a WebSocket is not read while its client does not read.
    fn accepts_posted(&self) -> bool {
        self.handler.reads() && self.outgoing.has_room()
    }

    /// Processes posted packets while the handler accepts them. The post is answered after its last packet.
    fn process_posted(&mut self) -> Result<(), EndReason> {
        while self.accepts_posted() {
            let Some(posted) = self.posted.pop_front() else { break };
            metrics::FRAMES_IN.inc();
            match posted {
                Posted::Text(text) => self.handler.text(&text).map_err(|_| EndReason::Dropped)?,
                Posted::Binary(bytes) => self.handler.binary(bytes.into()).map_err(|_| EndReason::Dropped)?,
                Posted::Pong => self.keepalive.handle_activity(Instant::now().into_std()),
                Posted::Close => return Err(EndReason::Closed),
            }
        }
        if self.posted.is_empty()
            && let Some(posting) = self.posting.take()
        {
            let _ = posting.send(Ok(()));
        }
        Ok(())
    }

    /// Answers the waiting poll if there are frames. If the client has hung up, the session ends: the frames taken out
    /// for it are lost.
    fn answer_poll(&mut self) -> Result<(), EndReason> {
        let leaving =
            self.probed_elsewhere.is_some() || self.probe.as_ref().is_some_and(|probe| probe.answered);
        if self.outgoing.is_empty() && !leaving {
            return Ok(());
        }
        let Some(poll) = self.poll.take() else { return Ok(()) };
        let mut frames = self.outgoing.drain_answer();
        if frames.is_empty() {
            frames.push(NOOP);
        } else {
            metrics::WRITES.inc();
            metrics::FRAMES_OUT.inc_by(frames.len() as u64);
        }
        poll.send(PollAnswer::Payload(payload_of(&frames))).map_err(|_| EndReason::Gone)
    }

    /// Gives the session to the gateway that takes it, as soon as nothing is under way. Returns whether that was done.
    fn hand_over(&mut self) -> bool {
        if self.successor.is_none() || !self.posted.is_empty() {
            return false;
        }
        // An event must be in both the packed frames and the packed cursors, or in neither.
        self.outgoing.seal(true);
        let handed_over = self.send_state();
        self.outgoing.seal(false);
        if handed_over && let Some(poll) = self.poll.take() {
            let _ = poll.send(PollAnswer::Payload(payload_of(&[NOOP])));
        }
        handed_over
    }

    fn send_state(&mut self) -> bool {
        let Some(packed) = self.handler.pack() else { return false };
        let Some((successor, _)) = self.successor.take() else { return false };
        let frames = self.outgoing.drain_up_to(usize::MAX);
        let bytes: usize = frames.iter().map(bytes::Bytes::len).sum();
        if bytes + packed.len() > RELAY_PART_BYTES_MAX {
            // Too large for one message on the bus: the client must poll first, and may then try again to move.
            self.outgoing.put_back(frames);
            return false;
        }
        if let Err(MovedSession { frames, .. }) = successor.send(MovedSession { frames, application: packed })
        {
            // The other gateway has given up, so the session stays here with its frames.
            self.outgoing.put_back(frames);
            return false;
        }
        true
    }

    /// Handles a message on the probed WebSocket. Returns the WebSocket when the session moves to it.
    async fn probed(
        &mut self,
        message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    ) -> Option<(Box<Socket>, Arc<TcpStream>)> {
        let mut probe = self.probe.take()?;
        let Some(Ok(Message::Text(text))) = message else { return None };
        match Packet::parse(&text) {
            Ok(Packet::Ping(data)) if data == "probe" && !probe.answered => {
                probe.socket.send(Message::text("3probe")).await.ok()?;
                probe.answered = true;
                self.probe = Some(probe);
            }
            Ok(Packet::Upgrade) if probe.answered => {
                // Frames queued meanwhile go over the WebSocket, so end the waiting poll without any.
                if let Some(poll) = self.poll.take() {
                    let _ = poll.send(PollAnswer::Payload(payload_of(&[NOOP])));
                }
                return Some((probe.socket, probe.stream));
            }
            _ => {}
        }
        None
    }
}

async fn hung_up(poll: &mut Option<oneshot::Sender<PollAnswer>>) {
    match poll {
        Some(poll) => poll.closed().await,
        None => std::future::pending().await,
    }
}

async fn next_of(
    probe: &mut Option<UpgradeProbe>,
) -> Option<Result<Message, tokio_tungstenite::tungstenite::Error>> {
    match probe {
        Some(probe) => probe.socket.next().await,
        None => std::future::pending().await,
    }
}
