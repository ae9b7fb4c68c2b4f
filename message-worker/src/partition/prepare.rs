//! Prepares a group: reads everything that it needs, side by side, and records poison commands, before anything is
//! applied.

use super::consume::{Consumer, Stage};
use super::group::{Group, GroupNeed};
use super::jobs::Done;
use super::suspend::Suspect;
use crate::backoff::until_done;
use crate::context::StartOver;
use crate::core::conversation;
use crate::limits::GROUP_READS_MAX;
use crate::metrics;
use crate::ownership::load::{self, LoadError, Loaded, Purpose};
use crate::store::{Author, SentRow};
use carillon_proto::id::ConversationId;
use carillon_proto::limits::DEDUP_CLIENT_IDS_MAX;
use carillon_proto::position::Position;
use carillon_proto::wire;
use carillon_runtime::time::steady_ms;
use std::time::Duration;

/// The delay before a conversation that could not be loaded is loaded again.
pub(crate) const LOAD_AGAIN: Duration = Duration::from_millis(100);

impl Consumer<'_> {
    /// Starts the jobs for what the group needs, or commits the group when nothing is missing.
    pub(crate) fn prepare(&mut self, mut group: Group) -> Stage {
        loop {
            if group.needs.is_empty() && group.awaited.is_empty() {
                group.needs = group.missing(&self.cache, &self.ledger).into_iter().collect();
                if group.needs.is_empty() {
                    return self.commit(group);
                }
            }
            while group.awaited.len() < GROUP_READS_MAX
                && let Some(need) = group.needs.pop_front()
            {
                if self.start_job_for(&need, &group) {
                    group.awaited.insert(need);
                }
            }
            if !group.awaited.is_empty() {
                return Stage::Preparing(group);
            }
        }
    }

    /// Starts a job for a need. Returns whether there is something to wait for.
    fn start_job_for(&mut self, need: &GroupNeed, group: &Group) -> bool {
        match need.clone() {
            GroupNeed::Conversation(id) => self.load(&id, Purpose::Applying, Duration::ZERO),
            GroupNeed::Of(id, need) => self.read_about_sender(id, need),
            GroupNeed::Skip(position) => self.record_skip(position, group.poison(&position)),
        }
    }

    /// Reads what a conversation must know about a sender. Returns whether there is something to wait for.
    pub(crate) fn read_about_sender(&mut self, id: ConversationId, need: conversation::Need) -> bool {
        match need {
            conversation::Need::Sender(sender) => self.read_sent(id, sender),
            need @ conversation::Need::First { .. } => self.read_first(id, need),
        }
    }

    /// Loads a conversation, unless it is in memory in the state that `purpose` needs. Returns whether there is
    /// something to wait for.
    pub(crate) fn load(&mut self, id: &ConversationId, purpose: Purpose, delay: Duration) -> bool {
        let there = match purpose {
            Purpose::Applying => self.cache.is_decided(id),
            Purpose::Showing => self.cache.contains(id),
        };
        if there {
            return false;
        }
        if self.loading.insert(id.clone()) {
            let (context, id) = (self.context.clone(), id.clone());
            let (incarnation, applied) = (self.ledger.incarnation, self.applied);
            self.job(async move {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let _turn = context.reads.acquire().await;
                let loaded = load::by_owner(&context, incarnation, applied, &id, purpose).await;
                Done::Loaded(id, purpose, Box::new(loaded))
            });
        }
        true
    }

    fn read_sent(&mut self, id: ConversationId, sender: Author) -> bool {
        let Some(instance) = self.cache.get(&id).map(|slot| slot.instance) else { return false };
        let (store, reads) = (self.context.store.clone(), self.context.reads.clone());
        self.job(async move {
            let _turn = reads.acquire().await;
            let rows = until_done("sent", || store.sent(&id, &sender, DEDUP_CLIENT_IDS_MAX)).await;
            Done::Sender { id, instance, sender, rows }
        });
        true
    }

    fn read_first(&mut self, id: ConversationId, need: conversation::Need) -> bool {
        let conversation::Need::First { seq, .. } = need else { return false };
        let (store, reads) = (self.context.store.clone(), self.context.reads.clone());
        self.job(async move {
            let _turn = reads.acquire().await;
            let row = until_done("event", || store.event(&id, seq)).await;
            // A row that does not decode makes its conversation unreadable when that is loaded. Here it only refutes
            // the claim.
            let event = row.and_then(|row| load::decode(&row).ok()).map(Box::new);
            Done::First(id, need, event)
        });
        true
    }

    fn record_skip(&mut self, position: Position, reason: &'static str) -> bool {
        let (store, partition) = (self.context.store.clone(), self.context.partition);
        metrics::POISON.inc();
        tracing::error!(partition, ?position, reason, "a poison command is skipped");
        self.job(async move {
            until_done("skip", || store.record_skip(partition, position, reason)).await;
            Done::Skipped(position)
        });
        true
    }

    /// Marks a need of the group in preparation, or of a gateway's request, as met.
    pub(crate) fn arrived(&mut self, need: &GroupNeed) {
        self.outcome_reads.remove(need);
        if let Stage::Preparing(group) = &mut self.stage {
            group.awaited.remove(need);
        }
    }

    pub(crate) fn loaded(
        &mut self,
        id: ConversationId,
        purpose: Purpose,
        loaded: Result<Loaded, LoadError>,
    ) -> Result<(), StartOver> {
        self.loading.remove(&id);
        self.outcome_reads.remove(&GroupNeed::Conversation(id.clone()));
        let needed = matches!(&self.stage, Stage::Preparing(group) if group.involves(&id));
        match loaded {
            Ok(loaded) => {
                self.probes.is_read(&id);
                self.answer_loaded(&loaded.conversation);
                // A conversation that does not exist is not cached: repeated requests for it must not displace others.
                if purpose == Purpose::Applying || loaded.conversation.exists() {
                    self.keep(loaded);
                }
                self.arrived(&GroupNeed::Conversation(id));
            }
            Err(LoadError::Unreadable(unreadable)) => {
                tracing::warn!(
                    partition = self.context.partition,
                    conversation = %id,
                    %unreadable,
                    "a conversation is unreadable"
                );
                self.leave_out(&id);
                if needed {
                    self.suspend(id, unreadable.to_string(), Suspect::Conversation);
                }
            }
            Err(LoadError::Store(error)) => {
                tracing::warn!(
                    partition = self.context.partition,
                    conversation = %id,
                    %error,
                    "loading a conversation failed"
                );
                self.refuse_loaded(&id);
                if needed && self.probes.has_waited_for(&id) {
                    self.suspend(id, error.to_string(), Suspect::Store);
                } else if needed {
                    self.load(&id, Purpose::Applying, LOAD_AGAIN);
                }
            }
            Err(LoadError::StartOver(start_over)) => return Err(start_over),
        }
        Ok(())
    }

    /// Puts a conversation into memory.
    fn keep(&mut self, loaded: Loaded) {
        let id = loaded.conversation.id().clone();
        let known = !loaded.above_head || self.flush.has_head(&loaded.conversation);
        self.cache.insert(loaded.conversation, loaded.decided, steady_ms());
        if !known {
            self.flush.project(loaded.projections);
            self.flush.touch(&mut self.cache, &id);
        }
    }

    /// Gives the stored rows of a sender to the conversation, unless it was loaded again since they were requested.
    pub(crate) fn sender(&mut self, id: ConversationId, instance: u64, sender: Author, rows: Vec<SentRow>) {
        let need = GroupNeed::Of(id.clone(), conversation::Need::Sender(sender.clone()));
        self.arrived(&need);
        if let Some(slot) = self.cache.note(&id).filter(|slot| slot.instance == instance) {
            slot.conversation.learn(sender, rows);
        }
    }

    pub(crate) fn first(
        &mut self,
        id: ConversationId,
        need: conversation::Need,
        event: Option<&wire::Event>,
    ) {
        if let conversation::Need::First { sender, client_id, .. } = &need
            && let Some(slot) = self.cache.note(&id)
        {
            slot.conversation.confirm(sender, client_id, event);
        }
        self.arrived(&GroupNeed::Of(id, need));
    }

    pub(crate) fn skipped(&mut self, position: Position) {
        self.ledger.skips.insert(position);
        self.arrived(&GroupNeed::Skip(position));
    }
}
