//! Receives what workers send: one subscription for messages to this gateway, and one for messages to all gateways,
//! which report new owners and changed acquaintances.

use crate::delivery::touched::Touched;
use crate::shared::Shared;
use carillon_proto::subject;
use carillon_proto::wire::{ToGateway, to_gateway::Body};
use carillon_runtime::bus::{BusError, Incoming, Subscription};
use carillon_runtime::metrics::{Stage, observe};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Delay between two tries to subscribe while the bus is unreachable.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// How many messages' events are written together at most. More would delay the first message's events for too long.
const MESSAGES_TOGETHER_MAX: usize = 16;

/// The gateway's subscriptions to messages of workers.
pub struct Subscriptions {
    /// Messages to this gateway.
    own: Subscription,
    /// Messages to all gateways.
    to_all: Subscription,
}

impl Subscriptions {
    /// Subscribes.
    ///
    /// # Errors
    /// When the bus cannot be reached.
    pub async fn of(shared: &Shared) -> Result<Subscriptions, BusError> {
        let own = shared.bus.subscribe(&subject::gateway(&shared.id), None).await?;
        let to_all = shared.bus.subscribe(subject::GATEWAYS, None).await?;
        Ok(Subscriptions { own, to_all })
    }
}

/// Takes messages as long as the gateway runs. Messages to all gateways come first: a worker reports changed
/// acquaintances before the outcome of the command that changed them, and a client that has received the outcome should
/// see the change. On NATS, whose subscriptions are filled side by side, the report may still arrive a moment later.
///
/// While one subscription is made again, the other waits: both end only with the connection to the bus.
pub async fn run(shared: Arc<Shared>, mut subscriptions: Subscriptions) {
    let mut touched = Touched::default();
    loop {
        let Subscriptions { own, to_all } = &mut subscriptions;
        let woken = tokio::select! {
            biased;
            incoming = to_all.next() => Woken::ToAll(incoming),
            incoming = own.next() => Woken::Own(incoming),
        };
        match woken {
            Woken::ToAll(incoming) => take_to_all(&shared, to_all, incoming, &mut touched).await,
            Woken::Own(Some(incoming)) => {
                take_own(&shared, &mut subscriptions, incoming, &mut touched).await;
                touched.flush().await;
            }
            Woken::Own(None) => {
                *own = subscribe(&shared, &subject::gateway(&shared.id)).await;
                register_anew(&shared).await;
            }
        }
    }
}

enum Woken {
    ToAll(Option<Incoming>),
    Own(Option<Incoming>),
}

/// Takes a message to this gateway, and those that have arrived behind it.
async fn take_own(
    shared: &Shared,
    Subscriptions { own, to_all }: &mut Subscriptions,
    first: Incoming,
    touched: &mut Touched,
) {
    let mut next = Some(first);
    for together in 1.. {
        let Some(incoming) = next else { return };
        while let Some(earlier) = to_all.try_next() {
            take_to_all(shared, to_all, Some(earlier), touched).await;
        }
        match incoming {
            Incoming::Message(message) => handle_message(shared, message.payload, touched).await,
            Incoming::Lost => register_anew(shared).await,
        }
        next = if together < MESSAGES_TOGETHER_MAX { own.try_next() } else { None };
    }
}

/// Takes a message to all gateways. A missed report of a new owner does no harm, because the owner's beats repeat it.
/// After missed reports of acquaintances, the acquaintances of all local users are read again.
async fn take_to_all(
    shared: &Shared,
    to_all: &mut Subscription,
    incoming: Option<Incoming>,
    touched: &mut Touched,
) {
    match incoming {
        Some(Incoming::Message(message)) => handle_message(shared, message.payload, touched).await,
        Some(Incoming::Lost) => shared.refresh_all_acquaintances(),
        None => {
            *to_all = subscribe(shared, subject::GATEWAYS).await;
            shared.refresh_all_acquaintances();
        }
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

async fn handle_message(shared: &Shared, payload: bytes::Bytes, touched: &mut Touched) {
    let started = Instant::now();
    let message = match ToGateway::decode(payload) {
        Ok(message) => message,
        Err(error) => return tracing::warn!(%error, "a message from a worker could not be read"),
    };
    match message.body {
        Some(Body::Batch(batch)) => {
            if let Some(link) = shared.links.get(batch.partition as usize) {
                link.report_batch(batch.epoch, batch.number);
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
