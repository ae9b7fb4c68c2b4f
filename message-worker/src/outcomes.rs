//! Outcomes that a gateway asks for, because the batches that told them are gone with the owner that made them.
//!
//! Accepted commands are remembered by their client ids, for repeats; that memory answers here as well. Nothing is
//! decided: a command that is not known may still stand in the log, and one that was refused may be sent again.

use crate::consume::Consumer;
use crate::group::Need;
use crate::limits::{ASKED_OUTCOMES_MAX, OUTCOME_READS_MAX};
use crate::load::Purpose;
use carillon_proto::id::ConversationId;
use carillon_proto::partition;
use carillon_proto::wire;
use std::time::Duration;

impl Consumer<'_> {
    /// Those of the commands that were accepted, and whose rows are committed. What has to be read for the others is
    /// read until the gateway asks again.
    pub(crate) fn known_outcomes(&mut self, asked: wire::AskOutcomes) -> wire::KnownOutcomes {
        let commands = asked.commands.into_iter().take(ASKED_OUTCOMES_MAX);
        wire::KnownOutcomes {
            outcomes: commands.filter_map(|command| self.known_outcome(&command)).collect(),
        }
    }

    fn known_outcome(&mut self, asked: &wire::AskOutcome) -> Option<wire::Outcome> {
        let id = ConversationId::parse(&asked.conversation).ok()?;
        if partition::of_conversation(&id, self.context.partitions) != self.context.partition {
            return None;
        }
        // An outcome that is told must count for good, as with what is applied.
        let Some(slot) = self.cache.get(&id).filter(|_| self.cache.is_decided(&id)) else {
            self.read_for_outcomes(Need::Conversation(id));
            return None;
        };
        if let Some(need) = slot.conversation.need(&asked.actor, &asked.client_id) {
            self.read_for_outcomes(Need::Of(id, need));
            return None;
        }
        let known = slot.conversation.known_outcome(&asked.actor, &asked.client_id, slot.committed_seq);
        Some(wire::Outcome { request: asked.request, body: Some(known?) })
    }

    /// Reads something, unless so much is read already that the log would lose its share.
    fn read_for_outcomes(&mut self, need: Need) {
        if self.outcome_reads.len() >= OUTCOME_READS_MAX || self.outcome_reads.contains(&need) {
            return;
        }
        let reads = match &need {
            Need::Conversation(id) => self.load(id, Purpose::Applying, Duration::ZERO),
            Need::Of(id, need) => self.ask_about(id.clone(), need.clone()),
            Need::Skip(_) => false,
        };
        if reads {
            self.outcome_reads.insert(need);
        }
    }
}
