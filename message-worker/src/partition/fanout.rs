//! Publishes messages to gateways on the bus, in order.

use crate::core::interest::Outgoing;
use crate::metrics;
use carillon_proto::subject;
use carillon_proto::wire::{self, to_gateway};
use carillon_runtime::bus::Bus;
use prost::Message as _;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// The longest time that one pass spends on a bus that fails. Then the remaining messages are dropped: the next beat
/// shows the gateways what they missed.
const PASS_MAX: Duration = Duration::from_secs(2);

/// Users named in one message. With the longest ids they take a quarter of what the bus allows.
const ACQUAINTED_MAX: usize = 1_000;

/// Notifies all gateways that the acquaintances of these users may have changed. All, because a worker does not know to
/// which gateways the users are connected. A gateway that loses the message notices that, and reads the acquaintances
/// again.
pub(crate) async fn notify_acquainted(bus: &dyn Bus, users: BTreeSet<String>) {
    let users: Vec<String> = users.into_iter().collect();
    for users in users.chunks(ACQUAINTED_MAX) {
        let changed = wire::AcquaintancesChanged { users: users.to_vec() };
        let message = wire::ToGateway { body: Some(to_gateway::Body::Acquaintances(changed)) };
        if let Err(error) = bus.publish(subject::GATEWAYS, message.encode_to_vec().into()).await {
            metrics::UNSENT.inc();
            tracing::warn!(%error, "gateways were not notified of changed acquaintances");
        }
    }
}

/// Publishes each message to its gateway. A message that fails is not published again here: it has a number and is
/// kept, so the gateway will request it.
pub(crate) async fn publish(bus: &dyn Bus, outgoing: Vec<Outgoing>) {
    let started = Instant::now();
    let count = outgoing.len();
    for (nth, Outgoing { gateway, message }) in outgoing.into_iter().enumerate() {
        let Err(error) = bus.publish(&subject::gateway(&gateway), message).await else { continue };
        metrics::UNSENT.inc();
        tracing::warn!(%gateway, %error, "a message to a gateway could not be published");
        if started.elapsed() > PASS_MAX {
            metrics::UNSENT.inc_by((count - nth - 1) as u64);
            return;
        }
    }
}
