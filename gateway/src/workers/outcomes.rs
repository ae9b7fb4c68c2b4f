//! Requests late outcomes from partitions' owners.
//!
//! Outcomes arrive in batches, and the owner that made a lost batch sends it again. If that owner is gone, or no longer
//! keeps the batch, the outcomes are requested here from its successor, which knows what was accepted. Without this, a
//! sender would wait for its timeout although its message is stored.

use crate::shared::Shared;
use crate::workers::pending::{CommandKey, Late};
use carillon_proto::partition;
use carillon_proto::subject;
use carillon_proto::wire::{self, partition_reply, partition_request};
use futures_util::future::join_all;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Time between two rounds. An owner that must first load the conversation, the sender's client ids and the event
/// answers in the fourth round.
const ROUND: Duration = Duration::from_millis(250);
/// Time for an answer. What the owner must read first is in the answer of a later round.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Commands per partition and round, the oldest first. When all of a partition's outcomes are late, the owner is behind
/// and sends them itself when it catches up, so more requests would not help.
const REQUESTED_MAX: usize = 256;

/// Requests late outcomes until the gateway ends.
pub async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(ROUND).await;
        let mut late: BTreeMap<u32, Vec<wire::AskOutcome>> = BTreeMap::new();
        for one in shared.delivery.pending.late(tokio::time::Instant::now()) {
            let of_partition =
                late.entry(partition::of_conversation(&one.key.conversation, shared.partitions));
            let commands = of_partition.or_default();
            if commands.len() < REQUESTED_MAX {
                commands.push(outcome_request(one));
            }
        }
        join_all(
            late.into_iter().map(|(partition, commands)| request_outcomes(&shared, partition, commands)),
        )
        .await;
    }
}

fn outcome_request(
    Late { request, key: CommandKey { conversation, actor, client_id }, tag }: Late,
) -> wire::AskOutcome {
    let actor = actor.map(|actor| actor.to_string()).unwrap_or_default();
    let tag = bytes::Bytes::copy_from_slice(&tag.0);
    let (conversation, client_id) = (conversation.to_string(), (*client_id).to_owned());
    wire::AskOutcome { request, conversation, actor, client_id, tag }
}

/// Applies the outcomes that the owner knows. For a command that is missing in the answer nothing is decided: the owner
/// may not have applied it yet.
async fn request_outcomes(shared: &Shared, partition: u32, commands: Vec<wire::AskOutcome>) {
    let request = wire::PartitionRequest {
        gateway: shared.id.to_string(),
        counter: 0,
        body: Some(partition_request::Body::AskOutcomes(wire::AskOutcomes { commands })),
    };
    let payload = request.encode_to_vec().into();
    let reply = match shared.bus.request(&subject::partition(partition), payload, ANSWER_TIMEOUT).await {
        Ok(reply) => wire::PartitionReply::decode(reply),
        Err(error) => {
            return tracing::debug!(partition, %error, "the owner did not answer a request for late outcomes");
        }
    };
    if let Ok(wire::PartitionReply { body: Some(partition_reply::Body::Outcomes(known)), .. }) = reply {
        crate::metrics::LATE_OUTCOMES.inc_by(known.outcomes.len() as u64);
        known.outcomes.into_iter().for_each(|outcome| shared.delivery.handle_outcome(outcome));
    }
}
