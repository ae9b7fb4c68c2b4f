//! The probe of a WebSocket for a session that lives on another gateway, from the first frame to the session's
//! arrival here.

use super::relay::Relay;
use crate::drive::Socket;
use carillon_proto::dialect::socketio::engine::Packet;
use carillon_proto::id::GatewayId;
use carillon_proto::wire::MovedSession;
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio_tungstenite::tungstenite::protocol::Message;

/// For a probed WebSocket to become the session's own; polling goes on meanwhile, and after it.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers the probe and takes the session when the client says so; `None` where it stays.
pub async fn probe(
    socket: &mut Socket,
    relay: &Relay,
    gateway: &GatewayId,
    sid: &str,
) -> Option<MovedSession> {
    let probed = async {
        let mut answered = false;
        loop {
            let Some(Ok(Message::Text(text))) = socket.next().await else { return None };
            match Packet::parse(&text) {
                Ok(Packet::Ping(data)) if data == "probe" && !answered => {
                    relay.probe(gateway, sid).await.ok()?;
                    socket.send(Message::text("3probe")).await.ok()?;
                    answered = true;
                }
                Ok(Packet::Upgrade) if answered => return Some(()),
                _ => return None,
            }
        }
    };
    tokio::time::timeout(PROBE_TIMEOUT, probed).await.ok()??;
    relay.take(gateway, sid).await.ok()
}
