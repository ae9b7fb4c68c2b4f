//! Outcomes that a gateway requests because the batches that contained them are lost with the former owner.
//!
//! The client ids of accepted commands, which are kept to recognise repetitions, answer these requests as well. Nothing
//! is decided here: a command that is not known may still be in the log, and one that was refused may be sent again.

use super::consume::Consumer;
use super::group::GroupNeed;
use super::jobs::Done;
use crate::context::Context;
use crate::limits::{OUTCOME_READS_MAX, REQUESTED_OUTCOMES_MAX};
use crate::ownership::load::Purpose;
use bytes::Bytes;
use carillon_proto::id::ConversationId;
use carillon_proto::partition;
use carillon_proto::wire::{self, outcome, partition_reply};
use carillon_runtime::bus::ReplyHandle;
use futures_util::stream::{self, StreamExt as _};
use prost::Message as _;
use std::future::ready;
use std::time::Duration;

/// A command whose client id was accepted, in this entry or in another one.
struct Known {
    id: ConversationId,
    seq: u64,
    tag: Bytes,
    outcome: wire::Outcome,
}

impl Consumer<'_> {
    /// Sends the outcomes of commands that were accepted and whose rows are committed. Reads what the other commands
    /// need, so that it is known when the gateway requests their outcomes again.
    pub(crate) fn answer_outcomes(&mut self, reply: ReplyHandle, request: wire::AskOutcomes) {
        let commands = request.commands.into_iter().take(REQUESTED_OUTCOMES_MAX);
        let known: Vec<Known> = commands.filter_map(|command| self.known(command)).collect();
        let (context, epoch) = (self.context.clone(), self.interest.epoch());
        self.job(async move {
            let outcomes = stream::iter(known).map(|known| became_row(&context, known));
            let outcomes = outcomes.buffered(OUTCOME_READS_MAX).filter_map(ready).collect().await;
            let body = Some(partition_reply::Body::Outcomes(wire::KnownOutcomes { outcomes }));
            reply.send(wire::PartitionReply { epoch, body }.encode_to_vec().into());
            Done::Replied
        });
    }

    fn known(&mut self, command: wire::AskOutcome) -> Option<Known> {
        let id = ConversationId::parse(&command.conversation).ok()?;
        if partition::of_conversation(&id, self.context.partitions) != self.context.partition {
            return None;
        }
        // An outcome must count for good. So the conversation must be sealed, as it must be before commands are
        // applied.
        let Some(slot) = self.cache.get(&id).filter(|_| self.cache.is_decided(&id)) else {
            self.read_for_outcomes(GroupNeed::Conversation(id));
            return None;
        };
        if let Some(need) = slot.conversation.need(&command.actor, &command.client_id) {
            self.read_for_outcomes(GroupNeed::Of(id, need));
            return None;
        }
        let known =
            slot.conversation.known_outcome(&command.actor, &command.client_id, slot.committed_seq)?;
        let body = Some(outcome::Body::Accepted(known.clone()));
        let outcome = wire::Outcome { request: command.request, body };
        Some(Known { id, seq: known.seq, tag: command.tag, outcome })
    }

    /// Starts a read, unless so many reads run already that the log would lose its share.
    fn read_for_outcomes(&mut self, need: GroupNeed) {
        if self.outcome_reads.len() >= OUTCOME_READS_MAX || self.outcome_reads.contains(&need) {
            return;
        }
        let reads = match &need {
            GroupNeed::Conversation(id) => self.load(id, Purpose::Applying, Duration::ZERO),
            GroupNeed::Of(id, need) => self.read_about_sender(id.clone(), need.clone()),
            GroupNeed::Skip(_) => false,
        };
        if reads {
            self.outcome_reads.insert(need);
        }
    }
}

/// The outcome, if the row was made from this very entry. If it was made from another attempt of the command, that
/// attempt may come after later messages of the same sender. With this outcome the sender's messages would seem to be
/// in another order than they are.
async fn became_row(context: &Context, known: Known) -> Option<wire::Outcome> {
    let _turn = context.reads.acquire().await;
    let row = context.store.event(&known.id, known.seq).await.ok()??;
    (row.tag.0[..] == known.tag[..]).then_some(known.outcome)
}
