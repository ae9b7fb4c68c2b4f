//! Hears everything that workers have for this gateway, on one subscription, and on another, which all gateways
//! share, that a partition has a new owner or that users see others than before.

use crate::hub::Room;
use crate::shared::Shared;
use carillon_proto::subject;
use carillon_proto::wire::{ToGateway, to_gateway::Body};
use carillon_runtime::bus::{Incoming, Subscription};
use carillon_runtime::metrics::{Stage, observe};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two tries to subscribe, when the bus is away.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Messages whose events are written together, at most: what came while the last ones were written, without
/// letting the first of them wait long.
const MESSAGES_TOGETHER_MAX: usize = 16;

/// Serves the subscription until the bus ends, then makes a new one.
pub async fn run(shared: Arc<Shared>, mut subscription: Subscription) {
    loop {
        let mut touched = Vec::new();
        while let Some(first) = subscription.next().await {
            let mut next = Some(first);
            let mut together = 0;
            while let Some(incoming) = next.take() {
                match incoming {
                    Incoming::Message(message) => take(&shared, message.payload, &mut touched).await,
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

/// Hears what is said to every gateway: of new owners, and whose acquaintances have changed. What is missed of the
/// former, the owner's beats say again; of the latter, everybody's are read again.
pub async fn to_all(shared: Arc<Shared>, mut subscription: Subscription) {
    let mut touched = Vec::new();
    loop {
        while let Some(incoming) = subscription.next().await {
            match incoming {
                Incoming::Message(message) => take(&shared, message.payload, &mut touched).await,
                Incoming::Lost => shared.acquainted_unheard(),
            }
        }
        subscription = subscribe(&shared, subject::GATEWAYS).await;
        shared.acquainted_unheard();
    }
}

/// Subscribes again, as soon as the bus is there.
async fn subscribe(shared: &Shared, subject: &str) -> Subscription {
    loop {
        tokio::time::sleep(RETRY_DELAY).await;
        match shared.bus.subscribe(subject, None).await {
            Ok(subscription) => return subscription,
            Err(error) => tracing::warn!(%error, "no subscription to the bus"),
        }
    }
}

/// Messages may have been missed: everything is announced again, and told only where more is known.
async fn register_anew(shared: &Shared) {
    tracing::info!("messages from workers may have been lost: registering everything anew");
    for link in &shared.links {
        link.lost().await;
    }
    for shard in &shared.presence {
        shard.snapshot();
    }
    shared.acquainted_unheard();
}

async fn take(shared: &Shared, payload: bytes::Bytes, touched: &mut Vec<Arc<Room>>) {
    let started = Instant::now();
    let message = match ToGateway::decode(payload) {
        Ok(message) => message,
        Err(error) => return tracing::warn!(%error, "a message from a worker could not be read"),
    };
    match message.body {
        Some(Body::Batch(batch)) => {
            if let Some(link) = shared.links.get(batch.partition as usize) {
                link.batch(batch.epoch, batch.number).await;
            }
            shared.take_batch(batch, touched);
            observe(Stage::Deliver, started.elapsed());
        }
        Some(Body::Beat(beat)) => {
            if let Some(link) = shared.links.get(beat.partition as usize) {
                link.beat(beat).await;
            }
        }
        Some(Body::Presence(changes)) => shared.take_presence(changes),
        Some(Body::Ephemeral(batch)) => shared.take_ephemeral(batch),
        Some(Body::Acquaintances(changed)) => shared.take_acquainted(&changed),
        None => {}
    }
}
