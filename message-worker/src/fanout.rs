//! Handing messages to gateways over the bus, in order.

use crate::core::interest::Outgoing;
use crate::metrics;
use carillon_proto::subject;
use carillon_proto::wire::{self, to_gateway};
use carillon_runtime::bus::Bus;
use prost::Message as _;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// A bus that is away may take its time with every message; the rest is left to the beat, by which gateways see
/// what they missed.
const PASS_MAX: Duration = Duration::from_secs(2);

/// Users named in one message: with the longest ids, a quarter of what the bus takes.
const ACQUAINTED_MAX: usize = 1_000;

/// Tells every gateway that these users may see others than before: the gateways that they are connected to are known
/// to nobody here. One that does not hear it notices that it missed something, and looks for itself.
pub(crate) async fn tell_acquainted(bus: &dyn Bus, users: BTreeSet<String>) {
    let users: Vec<String> = users.into_iter().collect();
    for users in users.chunks(ACQUAINTED_MAX) {
        let changed = wire::AcquaintancesChanged { users: users.to_vec() };
        let message = wire::ToGateway { body: Some(to_gateway::Body::Acquaintances(changed)) };
        if let Err(error) = bus.publish(subject::GATEWAYS, message.encode_to_vec().into()).await {
            metrics::UNSENT.inc();
            tracing::warn!(%error, "gateways were not told whose acquaintances changed");
        }
    }
}

/// Publishes each message to its gateway. A message that fails is not tried again here: it has a number, is kept,
/// and will be asked for.
pub(crate) async fn publish(bus: &dyn Bus, outgoing: Vec<Outgoing>) {
    let started = Instant::now();
    let count = outgoing.len();
    for (nth, Outgoing { gateway, message }) in outgoing.into_iter().enumerate() {
        let Err(error) = bus.publish(&subject::gateway(&gateway), message).await else { continue };
        metrics::UNSENT.inc();
        tracing::warn!(%gateway, %error, "a message to a gateway was not taken");
        if started.elapsed() > PASS_MAX {
            metrics::UNSENT.inc_by((count - nth - 1) as u64);
            return;
        }
    }
}
