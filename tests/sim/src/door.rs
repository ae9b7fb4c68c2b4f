//! A connection without a socket: the gateway's end of it. It does between two channels what
//! `carillon_gateway::connection::drive` does with a WebSocket.

use crate::gate::Gate;
use carillon_gateway::access::auth::Identity;
use carillon_gateway::connection::ClientProtocol;
use carillon_gateway::connection::frame::{self, Body};
use carillon_gateway::connection::outgoing::Outgoing;
use carillon_gateway::native::Native;
use carillon_gateway::session::handler::{ConnectionHandler, MessageHandler};
use carillon_gateway::session::start::{Claim, start};
use carillon_gateway::shared::Shared;
use carillon_proto::code::Close;
use carillon_proto::id::UserId;
use std::future::poll_fn;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Capacity of a channel in one direction. When a client does not read, the writer waits, as it does for a full socket.
pub const FRAMES_MAX: usize = 16;

/// What a client receives.
#[derive(Debug)]
pub enum Incoming {
    /// A frame's text.
    Text(String),
    /// The server closed the connection for this reason.
    Closed(Close),
}

/// Serves one connection until either end closes it.
pub async fn serve(
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    user: UserId,
    mut frames: mpsc::Receiver<String>,
    client: mpsc::Sender<Incoming>,
) {
    gate.running().await;
    let outgoing = Arc::new(Outgoing::default());
    let identity = Identity::unverified(user, None);
    let claim = Claim::new(&shared);
    let running = match start(shared, identity, ClientProtocol::Native, outgoing.clone(), claim).await {
        Ok(running) => running,
        Err(close) => return drop(client.send(Incoming::Closed(close)).await),
    };
    let mut application = Native::new(running);
    application.greet().await;
    let close = drive(&mut application, &outgoing, &gate, &mut frames, &client).await;
    if let Some(close) = close {
        write(&outgoing, &client).await;
        drop(client.send(Incoming::Closed(close)).await);
    }
    outgoing.close();
    // Close both channels before the session ends: a client sees its socket close at this point, too.
    drop((frames, client));
    application.end().await;
}

/// Sends all queued frames to the client; `false` if the client is gone.
async fn write(outgoing: &Outgoing, client: &mpsc::Sender<Incoming>) -> bool {
    let frames: Vec<_> = outgoing.drain().into();
    for frame in frame::split(&frames) {
        let Some(Body::Text(text)) = frame::body(&frame) else { continue };
        if client.send(Incoming::Text(text.to_owned())).await.is_err() {
            return false;
        }
    }
    true
}

async fn drive(
    application: &mut Native,
    outgoing: &Outgoing,
    gate: &Gate,
    frames: &mut mpsc::Receiver<String>,
    client: &mpsc::Sender<Incoming>,
) -> Option<Close> {
    loop {
        gate.running().await;
        if !write(outgoing, client).await {
            return None;
        }
        application.advance();
        if !outgoing.is_empty() {
            continue;
        }
        let (reads, deadline) = (application.reads(), application.deadline());
        let due = sleep_until(deadline.unwrap_or_else(Instant::now));
        tokio::select! {
            () = outgoing.woken() => {}
            frame = frames.recv(), if reads => match frame {
                Some(text) => {
                    if let Err(close) = application.text(&text) {
                        return Some(close);
                    }
                }
                None => return None,
            },
            () = poll_fn(|context| application.poll_work(context)) => {}
            () = due, if deadline.is_some() => {
                if let Err(close) = application.due() {
                    return Some(close);
                }
            }
            () = client.closed() => return None,
        }
        if let Err(close) = application.woken() {
            return Some(close);
        }
    }
}
