//! Probes a WebSocket for a session that lives on another gateway, and moves the session here.

use super::relay::Relay;
use crate::connection::drive::Socket;
use carillon_proto::dialect::socketio::engine::Packet;
use carillon_proto::id::GatewayId;
use carillon_proto::wire::MovedSession;
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio_tungstenite::tungstenite::protocol::Message;

/// Time for the client to complete the move to a WebSocket after it opened it. The client goes on polling until then,
/// and also if the move fails.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers the probe, and takes the session from its gateway when the client confirms the move; `None` if it stays
/// there.
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
    relay.hand_over(gateway, sid).await.ok()
}
