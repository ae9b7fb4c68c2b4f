//! Every subject and stream on the bus, built here from numbers and validated ids, and nowhere else.

use crate::id::{GatewayId, WorkerId};

/// The owner of a partition answers registrations here.
pub fn partition(partition: u32) -> String {
    format!("part.{partition}")
}

/// Typing, cursors and broadcasts of a partition's conversations, for its owner to pass on.
pub fn ephemeral(partition: u32) -> String {
    format!("eph.{partition}")
}

/// Everything that workers have for a gateway.
pub fn gateway(gateway: &GatewayId) -> String {
    format!("gw.{gateway}")
}

/// A gateway answers here for the polling sessions that live on it.
pub fn engine(gateway: &GatewayId) -> String {
    format!("engine.{gateway}")
}

/// A partition's new owner says here, to every gateway, that it is there.
pub const GATEWAYS: &str = "gateways";

/// Workers of one kind say here that they have come or gone, so that the others look at once.
pub fn lease_changed(kind: &str) -> String {
    format!("lease.{kind}")
}

/// The owner of a presence shard answers here.
pub fn presence(shard: u32) -> String {
    format!("pres.{shard}")
}

/// Any message-worker answers reads here, one of a queue group.
pub const READ: &str = "read";

/// The queue group of [`READ`].
pub const READ_GROUP: &str = "message-workers";

/// The name of a partition's command stream.
pub fn command_stream(partition: u32) -> String {
    format!("CMD_{partition}")
}

/// The one subject of a partition's command stream.
pub fn command(partition: u32) -> String {
    format!("cmd.{partition}")
}

/// The key-value bucket in which workers of one kind keep their leases.
pub fn lease_bucket(kind: &str) -> String {
    format!("carillon_{kind}")
}

/// The lease key of a worker.
pub fn lease_key(worker: &WorkerId) -> String {
    worker.to_string()
}
