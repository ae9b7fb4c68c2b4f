//! Serves a session that polls: what waits goes into the next answer, until the session ends or moves to a
//! WebSocket.

use super::answers::{Asked, LAST_POLL_TIMEOUT, Over, Polled, last_words, payload_of, refuse};
use super::framing::{EnginePackets, NOOP, PING};
use super::moving::PROBE_TIMEOUT;
use super::request::Refusal;
use super::{Config, Engine, Service, drive_to_the_end};
use crate::application::{Application, Served};
use crate::core::keepalive::{Due, Keepalive};
use crate::drive::{self, Socket};
use crate::metrics;
use crate::outgoing::Outgoing;
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

/// For what is under way in a session to be done, before it moves to another gateway.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);
/// For the gateway to which a session moved to join what was joined here.
const HANDOVER: Duration = Duration::from_secs(5);

/// A WebSocket that wants to be the session's.
struct Probe {
    socket: Box<Socket>,
    stream: Arc<TcpStream>,
    /// Its probe was answered: polls are sent home.
    answered: bool,
    deadline: Instant,
}

/// What a client posted, as it is worked off.
enum Posted {
    Text(String),
    Binary(Vec<u8>),
    Pong,
    Close,
}

struct Polling<'a, A> {
    config: &'a Config,
    outgoing: &'a Outgoing,
    application: A,
    keepalive: Keepalive,
    poll: Option<oneshot::Sender<Polled>>,
    /// Packets of one post, and who waits for them to be taken.
    posted: VecDeque<Posted>,
    posting: Option<oneshot::Sender<Result<(), Refusal>>>,
    probe: Option<Probe>,
    /// A WebSocket is probed on another gateway: until when polls are sent home.
    probed_elsewhere: Option<Instant>,
    /// Another gateway takes the session: whom to tell, and until when.
    taker: Option<(oneshot::Sender<MovedSession>, Instant)>,
}

/// How polling ended.
enum Ended {
    /// The session is over.
    Over(Over),
    /// It goes on over this WebSocket.
    Moved(Box<Socket>, Arc<TcpStream>),
    /// It goes on at another gateway.
    Taken,
}

enum Woken {
    Asked(Option<Asked>),
    Probed(Option<Result<Message, tokio_tungstenite::tungstenite::Error>>),
    /// Who polled has hung up.
    Cancelled,
    Other,
    Timer,
}

/// Serves a session from its first poll to its end.
pub async fn run<S: Service>(
    engine: &Engine<S>,
    mut requests: mpsc::Receiver<Asked>,
    place: &S::Place,
    upgraded: &AtomicBool,
) {
    let outgoing = Arc::new(Outgoing::default());
    let config = &engine.config;
    let mut polling = Box::new(Polling {
        config,
        outgoing: &outgoing,
        application: engine.service.open(&outgoing, place),
        keepalive: Keepalive::new(config.pings, Instant::now().into_std()),
        poll: None,
        posted: VecDeque::new(),
        posting: None,
        probe: None,
        probed_elsewhere: None,
        taker: None,
    });
    match Box::pin(polling.run(&mut requests)).await {
        Ended::Over(over) => {
            let Polling { application, poll, posting, .. } = *polling;
            last_words(over, &outgoing, poll, posting, &mut requests).await;
            application.end().await;
        }
        Ended::Taken => {
            outgoing.close();
            drop(requests);
            // The other gateway joins before this one leaves: nobody sees the user go.
            tokio::time::sleep(HANDOVER).await;
            polling.application.end().await;
        }
        Ended::Moved(mut socket, stream) => {
            upgraded.store(true, Ordering::Relaxed);
            drop(requests);
            outgoing.attach(stream.clone());
            let framing = EnginePackets::new(config.pings, config.packet_bytes_max);
            let close = drive_to_the_end(&mut socket, &outgoing, framing, polling.application).await;
            Box::pin(drive::end(*socket, close, &stream)).await;
        }
    }
}

impl<A: Application> Polling<'_, A> {
    /// Serves until the end; what the application said last still goes to a WebSocket that was probed.
    async fn run(&mut self, requests: &mut mpsc::Receiver<Asked>) -> Ended {
        self.outgoing.listens(true);
        let ended = self.serve(requests).await;
        self.outgoing.listens(false);
        let probed = self.probe.as_ref().is_some_and(|probe| probe.answered);
        if probed && matches!(ended, Ended::Over(Over::Dropped)) {
            let moved = tokio::time::timeout(LAST_POLL_TIMEOUT, self.move_at_last(requests)).await;
            if let Ok(Some((socket, stream))) = moved {
                // The application says once more that it drops the session, as soon as it is asked.
                self.outgoing.wake();
                return Ended::Moved(socket, stream);
            }
        }
        ended
    }

    /// The client has been told that it may move, and will not poll any more: only there does it hear the end.
    async fn move_at_last(
        &mut self,
        requests: &mut mpsc::Receiver<Asked>,
    ) -> Option<(Box<Socket>, Arc<TcpStream>)> {
        loop {
            self.answer_poll().ok()?;
            tokio::select! {
                asked = requests.recv() => match asked? {
                    Asked::Poll(answer) => self.poll = Some(answer),
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

    async fn serve(&mut self, requests: &mut mpsc::Receiver<Asked>) -> Ended {
        let sleep = tokio::time::sleep_until(self.deadline());
        tokio::pin!(sleep);
        loop {
            self.application.advance();
            if let Err(over) = self.work_off() {
                return Ended::Over(over);
            }
            if let Err(over) = self.answer_poll() {
                return Ended::Over(over);
            }
            if self.hand_over() {
                return Ended::Taken;
            }
            if !self.posted.is_empty() && self.takes_posted() {
                continue;
            }
            let woken = tokio::select! {
                asked = requests.recv() => Woken::Asked(asked),
                // What was posted before the move is taken before it.
                message = next_of(&mut self.probe), if self.posted.is_empty() => Woken::Probed(message),
                () = hung_up(&mut self.poll) => Woken::Cancelled,
                () = self.outgoing.woken() => Woken::Other,
                () = poll_fn(|context| self.application.poll_work(context)) => Woken::Other,
                () = &mut sleep => Woken::Timer,
            };
            let done = match woken {
                Woken::Asked(Some(asked)) => self.asked(asked),
                Woken::Asked(None) | Woken::Cancelled => Err(Over::Gone),
                Woken::Probed(message) => {
                    if let Some((socket, stream)) = Box::pin(self.probed(message)).await {
                        return Ended::Moved(socket, stream);
                    }
                    Ok(())
                }
                Woken::Other => Ok(()),
                Woken::Timer => self.rung(),
            };
            if let Err(over) = done.and_then(|()| self.application.woken().map_err(|_| Over::Dropped)) {
                return Ended::Over(over);
            }
            sleep.as_mut().reset(self.deadline());
        }
    }

    fn deadline(&self) -> Instant {
        let mut deadline = Instant::from_std(self.keepalive.next());
        let probe = self.probe.as_ref().map(|probe| probe.deadline);
        let taker = self.taker.as_ref().map(|(_, until)| *until);
        for other in [probe, taker, self.probed_elsewhere].into_iter().flatten() {
            deadline = deadline.min(other);
        }
        self.application.deadline().map_or(deadline, |other| other.min(deadline))
    }

    fn rung(&mut self) -> Result<(), Over> {
        let now = Instant::now();
        self.application.due().map_err(|_| Over::Dropped)?;
        if self.probe.as_ref().is_some_and(|probe| probe.deadline <= now) {
            self.probe = None;
        }
        if self.probed_elsewhere.is_some_and(|until| until <= now) {
            self.probed_elsewhere = None;
        }
        if self.taker.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.taker = None;
        }
        match self.keepalive.due(now.into_std()) {
            Due::Nothing => Ok(()),
            Due::Ping => {
                // Before what waits: behind many answers' worth it would come too late to be answered in time.
                self.outgoing.put_back(vec![PING]);
                Ok(())
            }
            Due::GiveUp => Err(Over::Gone),
        }
    }

    fn asked(&mut self, asked: Asked) -> Result<(), Over> {
        if matches!(asked, Asked::Poll(_) | Asked::Post(..)) {
            self.outgoing.heard();
        }
        match asked {
            Asked::Poll(answer) => {
                if let Some(first) = self.poll.take() {
                    // Two at once: the client is broken, and which of them gets what is anybody's guess.
                    let _ = first.send(Polled::Payload(payload(&[Packet::Close])));
                    let _ = answer.send(Polled::Refused(Refusal::BadRequest));
                    return Err(Over::Gone);
                }
                self.poll = Some(answer);
                Ok(())
            }
            // The one before was given up by its client, and its packets are not all taken.
            Asked::Post(_, answer) if self.posting.is_some() || !self.posted.is_empty() => {
                let _ = answer.send(Err(Refusal::BadRequest));
                Err(Over::Gone)
            }
            Asked::Post(body, answer) => match self.take(&body) {
                Ok(()) => {
                    self.posting = Some(answer);
                    Ok(())
                }
                Err(_) => {
                    let _ = answer.send(Err(Refusal::BadRequest));
                    Err(Over::Gone)
                }
            },
            Asked::Overlap => Err(Over::Gone),
            Asked::ProbedElsewhere => {
                self.probed_elsewhere = Some(Instant::now() + PROBE_TIMEOUT);
                Ok(())
            }
            Asked::Take(taker) => {
                self.taker = Some((taker, Instant::now() + SETTLE_TIMEOUT));
                Ok(())
            }
            Asked::Probe(socket, stream) => {
                if self.probe.is_none() {
                    let deadline = Instant::now() + PROBE_TIMEOUT;
                    self.probe = Some(Probe { socket, stream, answered: false, deadline });
                }
                Ok(())
            }
        }
    }

    /// Takes over the packets of a post.
    fn take(&mut self, body: &str) -> Result<(), Malformed> {
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

    /// Whether a posted packet may be worked off now. What a client does not poll keeps its posts waiting, as what it
    /// does not read keeps a WebSocket's frames.
    fn takes_posted(&self) -> bool {
        self.application.reads() && self.outgoing.has_room()
    }

    /// Hands posted packets to the application, as far as it reads; the post is answered when all were taken.
    fn work_off(&mut self) -> Result<(), Over> {
        while self.takes_posted() {
            let Some(posted) = self.posted.pop_front() else { break };
            metrics::FRAMES_IN.inc();
            match posted {
                Posted::Text(text) => self.application.text(&text).map_err(|_| Over::Dropped)?,
                Posted::Binary(bytes) => self.application.binary(bytes.into()).map_err(|_| Over::Dropped)?,
                Posted::Pong => self.keepalive.heard(Instant::now().into_std()),
                Posted::Close => return Err(Over::Closed),
            }
        }
        if self.posted.is_empty()
            && let Some(posting) = self.posting.take()
        {
            let _ = posting.send(Ok(()));
        }
        Ok(())
    }

    /// Answers the poll that waits, if there is something to say. Who has hung up meanwhile is gone: what was taken
    /// out for them is not told to anybody else.
    fn answer_poll(&mut self) -> Result<(), Over> {
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
        poll.send(Polled::Payload(payload_of(&frames))).map_err(|_| Over::Gone)
    }

    /// Gives the session to the gateway that takes it, as soon as nothing is under way; `true` when that was done.
    fn hand_over(&mut self) -> bool {
        if self.taker.is_none() || !self.posted.is_empty() {
            return false;
        }
        // What an event adds to the frames and to the application's cursors must be in both or in neither.
        self.outgoing.seal(true);
        let given = self.give();
        self.outgoing.seal(false);
        if given && let Some(poll) = self.poll.take() {
            let _ = poll.send(Polled::Payload(payload_of(&[NOOP])));
        }
        given
    }

    fn give(&mut self) -> bool {
        let Some(application) = self.application.pack() else { return false };
        let Some((taker, _)) = self.taker.take() else { return false };
        let frames = self.outgoing.drain_up_to(usize::MAX);
        let bytes: usize = frames.iter().map(bytes::Bytes::len).sum();
        if bytes + application.len() > RELAY_PART_BYTES_MAX {
            // More than fits into one message: it is polled first, and the move is tried another time.
            self.outgoing.put_back(frames);
            return false;
        }
        if let Err(MovedSession { frames, .. }) = taker.send(MovedSession { frames, application }) {
            // Who asked has given up, and the session stays with all it has.
            self.outgoing.put_back(frames);
            return false;
        }
        true
    }

    /// Something came over a WebSocket that is probed; returned when the session moves to it.
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
                // What was queued meanwhile goes over the WebSocket; a poll that still waits goes home.
                if let Some(poll) = self.poll.take() {
                    let _ = poll.send(Polled::Payload(payload_of(&[NOOP])));
                }
                return Some((probe.socket, probe.stream));
            }
            _ => {}
        }
        None
    }
}

async fn hung_up(poll: &mut Option<oneshot::Sender<Polled>>) {
    match poll {
        Some(poll) => poll.closed().await,
        None => std::future::pending().await,
    }
}

async fn next_of(
    probe: &mut Option<Probe>,
) -> Option<Result<Message, tokio_tungstenite::tungstenite::Error>> {
    match probe {
        Some(probe) => probe.socket.next().await,
        None => std::future::pending().await,
    }
}
