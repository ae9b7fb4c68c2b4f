//! Periodic work of a partition's owner: beats, comparing the log and the tenure with what the owner knows, and
//! removing what need not stay in memory or in the log.

use super::consume::{Consumer, Stage};
use super::fanout;
use super::jobs::Done;
use crate::metrics;
use crate::ownership::log_generation;
use carillon_proto::id::ConversationId;
use carillon_runtime::time::steady_ms;

impl Consumer<'_> {
    /// Runs once a second.
    pub(crate) async fn tick(&mut self) {
        let now_ms = steady_ms();
        let lag_ms = self.lag_ms(now_ms);
        if (self.context.is_ours)() {
            fanout::publish(&*self.context.bus, self.interest.beats(now_ms, lag_ms)).await;
        }
        self.interest.forget_silent(now_ms);
        self.flush.demand();
        if let (Some(landmark), false) = (self.landmark, self.checking) {
            self.checking = true;
            let context = self.context.clone();
            self.job(async move { Done::Checked(landmark, log_generation::holds(&context, landmark).await) });
        }
        self.trim();
        self.purge();
        self.probe();
        self.raise();
        let partition = self.context.partition.to_string();
        metrics::LAG_MS.with_label_values(&[&partition]).set(lag_ms as i64);
        metrics::CONVERSATIONS.with_label_values(&[&partition]).set(self.cache.len() as i64);
        metrics::VERSION.with_label_values(&[&partition]).set(self.ledger.version.into());
        let suspended = self.ledger.suspended.open().count();
        metrics::SUSPENDED.with_label_values(&[&partition]).set(suspended as i64);
    }

    /// Reads whether this worker still holds the tenure.
    pub(crate) fn confirm(&mut self) {
        self.confirming = true;
        let ownership = self.ownership.clone();
        self.job(async move { Done::Confirmed(ownership.confirm().await) });
    }

    /// The age of the oldest entry whose results have not left.
    fn lag_ms(&self, now_ms: u64) -> u64 {
        let oldest = match &self.stage {
            Stage::Idle => self.queue.oldest_time_ms(),
            Stage::Preparing(group) => Some(group.time_ms),
            Stage::Committing(results) => Some(results.time_ms),
        };
        oldest.map_or(0, |time_ms| self.log_clock.lag_ms(time_ms, now_ms))
    }

    /// Removes conversations from memory that are idle or too many.
    pub(crate) fn trim(&mut self) {
        let stage = &self.stage;
        let needed = |id: &ConversationId| matches!(stage, Stage::Preparing(group) if group.involves(id));
        let heads = self.cache.trim(steady_ms(), self.context.cache_limits(), needed);
        heads.iter().for_each(|conversation| self.flush.keep_head(conversation));
    }

    /// Purges entries that the log has kept for long enough.
    pub(crate) fn purge(&mut self) {
        if self.purging {
            return;
        }
        if let Some(below) = self.flush.purge_below(steady_ms()) {
            self.purging = true;
            let context = self.context.clone();
            self.job(async move {
                if let Err(error) = context.bus.purge_log(context.partition, below).await {
                    tracing::warn!(partition = context.partition, %error, "the log was not purged: trying again later");
                }
                Done::Purged
            });
        }
    }
}
