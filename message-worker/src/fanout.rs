//! Handing messages to gateways over the bus, in order.

use crate::core::interest::Outgoing;
use crate::metrics;
use carillon_proto::subject;
use carillon_runtime::bus::Bus;
use std::time::Duration;
use tokio::time::Instant;

/// A bus that is away may take its time with every message; the rest is left to the beat, by which gateways see
/// what they missed.
const PASS_MAX: Duration = Duration::from_secs(2);

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
