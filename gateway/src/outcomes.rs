//! Asks for outcomes that are late.
//!
//! Outcomes come in batches, and batches that were lost are sent again by the owner that made them. Where that owner has
//! gone meanwhile, or keeps them no longer, its successor knows what was accepted, and is asked here. Without this a
//! sender would wait for its timeout, although its message is stored.

use crate::pending::{Key, Late};
use crate::shared::Shared;
use carillon_proto::partition;
use carillon_proto::subject;
use carillon_proto::wire::{self, partition_reply, partition_request};
use futures_util::future::join_all;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Between two rounds of questions. An owner that has to load the conversation, its sender's client ids and the event
/// tells in the fourth.
const ROUND: Duration = Duration::from_millis(250);
/// Time for an answer: what the owner must read first it tells in a later round.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Commands asked about in one round and partition, the oldest first: what a gateway has under way where everything is
/// late is told by the owner itself when it catches up.
const ASKED_MAX: usize = 256;

/// Asks until the gateway ends.
pub async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(ROUND).await;
        let mut late: BTreeMap<u32, Vec<wire::AskOutcome>> = BTreeMap::new();
        for one in shared.pending.late(tokio::time::Instant::now()) {
            let of_partition =
                late.entry(partition::of_conversation(&one.key.conversation, shared.partitions));
            let commands = of_partition.or_default();
            if commands.len() < ASKED_MAX {
                commands.push(asked(one));
            }
        }
        join_all(late.into_iter().map(|(partition, commands)| ask(&shared, partition, commands))).await;
    }
}

fn asked(Late { request, key: Key { conversation, actor, client_id }, tag }: Late) -> wire::AskOutcome {
    let actor = actor.map(|actor| actor.to_string()).unwrap_or_default();
    let (conversation, tag) = (conversation.to_string(), bytes::Bytes::copy_from_slice(&tag.0));
    wire::AskOutcome { request, conversation, actor, client_id, tag }
}

/// Takes what the owner knows. Of a message that it does not know nothing follows: it may not have been worked yet.
async fn ask(shared: &Shared, partition: u32, commands: Vec<wire::AskOutcome>) {
    let request = wire::PartitionRequest {
        gateway: shared.id.to_string(),
        counter: 0,
        body: Some(partition_request::Body::AskOutcomes(wire::AskOutcomes { commands })),
    };
    let payload = request.encode_to_vec().into();
    let reply = match shared.bus.request(&subject::partition(partition), payload, ANSWER_TIMEOUT).await {
        Ok(reply) => wire::PartitionReply::decode(reply),
        Err(error) => {
            return tracing::debug!(partition, %error, "the owner does not tell late outcomes");
        }
    };
    if let Ok(wire::PartitionReply { body: Some(partition_reply::Body::Outcomes(known)), .. }) = reply {
        crate::metrics::LATE_OUTCOMES.inc_by(known.outcomes.len() as u64);
        known.outcomes.into_iter().for_each(|outcome| shared.take_outcome(outcome));
    }
}
