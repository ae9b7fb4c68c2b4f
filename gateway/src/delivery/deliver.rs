//! Receives what workers send: one subscription for messages to this gateway, and one for messages to all gateways,
//! which report new owners and changed acquaintances.

use crate::delivery::hub::Room;
use crate::shared::Shared;
use carillon_proto::subject;
use carillon_proto::wire::{ToGateway, to_gateway::Body};
use carillon_runtime::bus::{Incoming, Subscription};
use carillon_runtime::metrics::{Stage, observe};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Delay between two tries to subscribe while the bus is unreachable.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// How many messages' events are written together at most. More would delay the first message's events for too long.
const MESSAGES_TOGETHER_MAX: usize = 16;

/// Takes messages until the subscription ends, then subscribes again.
pub async fn run(shared: Arc<Shared>, mut subscription: Subscription) {
    loop {
        let mut touched = Vec::new();
        while let Some(first) = subscription.next().await {
            let mut next = Some(first);
            let mut together = 0;
            while let Some(incoming) = next.take() {
                match incoming {
                    Incoming::Message(message) => {
                        handle_message(&shared, message.payload, &mut touched).await
                    }
                    Incoming::Lost => register_anew(&shared).await,
                }
                together += 1;
                if together < MESSAGES_TOGETHER_MAX {
                    next = subscription.try_next();
                }
            }
            for room in touched.drain(..) {
                room.flush().await;
            }
        }
        subscription = subscribe(&shared, &subject::gateway(&shared.id)).await;
        register_anew(&shared).await;
    }
}

/// Takes messages that are sent to all gateways. A missed report of a new owner does no harm, because the owner's beats
/// repeat it. After missed reports of acquaintances, the acquaintances of all local users are read again.
pub async fn to_all(shared: Arc<Shared>, mut subscription: Subscription) {
    let mut touched = Vec::new();
    loop {
        while let Some(incoming) = subscription.next().await {
            match incoming {
                Incoming::Message(message) => handle_message(&shared, message.payload, &mut touched).await,
                Incoming::Lost => shared.refresh_all_acquaintances(),
            }
        }
        subscription = subscribe(&shared, subject::GATEWAYS).await;
        shared.refresh_all_acquaintances();
    }
}

/// Retries until the bus accepts the subscription.
async fn subscribe(shared: &Shared, subject: &str) -> Subscription {
    loop {
        tokio::time::sleep(RETRY_DELAY).await;
        match shared.bus.subscribe(subject, None).await {
            Ok(subscription) => return subscription,
            Err(error) => tracing::warn!(%error, "subscribing to the bus failed: trying again"),
        }
    }
}

/// Registers all rooms and announces all sessions again, because messages may have been lost.
async fn register_anew(shared: &Shared) {
    tracing::info!("messages from workers may have been lost: registering everything again");
    for link in &shared.links {
        link.report_loss().await;
    }
    for shard in &shared.presence {
        shard.snapshot();
    }
    shared.refresh_all_acquaintances();
}

async fn handle_message(shared: &Shared, payload: bytes::Bytes, touched: &mut Vec<Arc<Room>>) {
    let started = Instant::now();
    let message = match ToGateway::decode(payload) {
        Ok(message) => message,
        Err(error) => return tracing::warn!(%error, "a message from a worker could not be read"),
    };
    match message.body {
        Some(Body::Batch(batch)) => {
            if let Some(link) = shared.links.get(batch.partition as usize) {
                link.report_batch(batch.epoch, batch.number).await;
            }
            shared.delivery.handle_batch(batch, touched);
            observe(Stage::Deliver, started.elapsed());
        }
        Some(Body::Beat(beat)) => {
            if let Some(link) = shared.links.get(beat.partition as usize) {
                link.report_beat(beat).await;
            }
        }
        Some(Body::Presence(changes)) => shared.handle_presence_changes(changes),
        Some(Body::Ephemeral(batch)) => shared.handle_ephemeral(batch),
        Some(Body::Acquaintances(changed)) => shared.handle_acquaintances_changed(&changed),
        None => {}
    }
}
