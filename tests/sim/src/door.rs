//! A connection without a socket: the gateway's end of it, which does what `carillon_gateway::connection::drive` does with a
//! WebSocket, between two channels.

use crate::gate::Gate;
use carillon_gateway::access::auth::Identity;
use carillon_gateway::connection::Speaks;
use carillon_gateway::connection::frame::{self, Body};
use carillon_gateway::connection::outgoing::Outgoing;
use carillon_gateway::native::Native;
use carillon_gateway::session::application::{Application, Served};
use carillon_gateway::session::start::{Claim, start};
use carillon_gateway::shared::Shared;
use carillon_proto::code::Close;
use carillon_proto::id::UserId;
use std::future::poll_fn;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Frames on their way in one direction. What a client has not taken blocks who writes, as a full socket does.
pub const FRAMES_MAX: usize = 16;

/// What comes to a client.
#[derive(Debug)]
pub enum Came {
    /// A frame's text.
    Text(String),
    /// The server ends the connection.
    Closed(Close),
}

/// Serves one connection until either end of it goes.
pub async fn serve(
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    user: UserId,
    mut frames: mpsc::Receiver<String>,
    client: mpsc::Sender<Came>,
) {
    gate.running().await;
    let outgoing = Arc::new(Outgoing::default());
    let identity = Identity::unverified(user, None);
    let claim = Claim::new(&shared);
    let running = match start(shared, identity, Speaks::Native, outgoing.clone(), claim).await {
        Ok(running) => running,
        Err(close) => return drop(client.send(Came::Closed(close)).await),
    };
    let mut application = Native::new(running);
    application.greet().await;
    let close = drive(&mut application, &outgoing, &gate, &mut frames, &client).await;
    if let Some(close) = close {
        write(&outgoing, &client).await;
        drop(client.send(Came::Closed(close)).await);
    }
    outgoing.close();
    // Both ends are gone for the other side before the session has ended, as with a socket.
    drop((frames, client));
    application.end().await;
}

/// Hands everything over that is queued; `false` when the client is gone.
async fn write(outgoing: &Outgoing, client: &mpsc::Sender<Came>) -> bool {
    let frames: Vec<_> = outgoing.drain().into();
    for frame in frame::split(&frames) {
        let Some(Body::Text(text)) = frame::body(&frame) else { continue };
        if client.send(Came::Text(text.to_owned())).await.is_err() {
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
    client: &mpsc::Sender<Came>,
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
