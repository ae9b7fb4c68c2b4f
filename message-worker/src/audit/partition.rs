//! Audits a partition: reads its checkpoint, then its log up to there, and then the conversations that have commands in
//! it.

use super::Auditor;
use super::conversation::Looked;
use super::report::PartitionReport;
use crate::core::audit::{Finding, Key};
use crate::core::audit_log::Log;
use crate::core::suspended::Suspended;
use crate::ownership::log_generation::Landmark;
use crate::store::{FIRST_VERSION, PartitionState, StoreError, Suspension};
use carillon_proto::id::ConversationId;
use carillon_proto::position::Position;
use carillon_runtime::bus::{BusError, LogBounds};
use futures_util::stream::{self, StreamExt as _};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Conversations that are read at once: enough to hide the latency of a QUORUM read, and few enough not to load the
/// store.
const READS_MAX: usize = 8;
/// Entries requested at a time.
const ENTRIES_MAX: usize = 256;
/// An entry that exists and does not arrive within this time will not arrive.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(10);
/// A partition whose log is purged or replaced more often than this while it is read is not audited in this run.
const ATTEMPTS_MAX: u32 = 3;
/// Time between two log lines about the progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Why a partition was not audited.
#[derive(Debug)]
enum Unread {
    /// The log or its incarnation changed during the audit: read again from the beginning.
    Moved(&'static str),
    /// The partition cannot be read, or not be compared.
    For(String),
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        Self::For(error.to_string())
    }
}

impl From<BusError> for Unread {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Broken(_) => Self::Moved("the log moved on while it was read"),
            other => Self::For(other.to_string()),
        }
    }
}

impl Unread {
    fn reason(self) -> String {
        match self {
            Self::Moved(reason) => reason.to_owned(),
            Self::For(reason) => reason,
        }
    }
}

/// Conversations that looked wrong, with their findings. The set is empty for a conversation that could not be read.
type Suspects = HashMap<ConversationId, HashSet<Key>>;

impl Auditor {
    /// Audits a partition, and repeats that if its log changes meanwhile.
    pub(super) async fn partition(&self, partition: u32) -> PartitionReport {
        let mut attempt = 1;
        loop {
            let mut report = PartitionReport::new(partition);
            match self.attempt(partition, &mut report).await {
                Ok(()) => return report,
                Err(Unread::Moved(reason)) if attempt < ATTEMPTS_MAX => {
                    tracing::info!(partition, reason, "reading the partition again");
                    tokio::time::sleep(self.before_another_look).await;
                    attempt += 1;
                }
                Err(unread) => {
                    let mut report = PartitionReport::new(partition);
                    report.unread(format!("partition {partition}: {}", unread.reason()));
                    return report;
                }
            }
        }
    }

    async fn attempt(&self, partition: u32, report: &mut PartitionReport) -> Result<(), Unread> {
        let state = self.store.partition(partition).await?;
        let Some(incarnation) = state.incarnation() else {
            let LogBounds { first, last } = self.bus.log_bounds(partition).await?;
            report.counts.pending = (last + 1).saturating_sub(first);
            return Ok(());
        };
        report.incarnation = Some(incarnation.number);
        let log = self.read_log(partition, &state, report).await?;
        let counted = log.counted;
        if counted.elsewhere > 0 {
            let advice = "set partitions to what all other roles have";
            return Err(Unread::For(format!("its log has commands of other partitions: {advice}")));
        }
        report.counts.entries = log.entries();
        report.counts.entries_left_out = log.entries_left_out();
        report.counts.commands = counted.commands;
        report.counts.commands_left_out = counted.left_out;
        let mut ids: Vec<ConversationId> = log.conversations().cloned().collect();
        ids.sort_unstable();
        let mut suspects = self.look(&log, ids, report).await;
        while !suspects.is_empty() {
            tokio::time::sleep(self.before_another_look).await;
            if self.store.partition(partition).await?.incarnation() != Some(incarnation) {
                return Err(Unread::Moved("another incarnation of the log has begun"));
            }
            suspects = self.look_again(&log, suspects, report).await;
        }
        Ok(())
    }

    /// Reads the entries up to the checkpoint that the log still holds.
    async fn read_log(
        &self,
        partition: u32,
        state: &PartitionState,
        report: &mut PartitionReport,
    ) -> Result<Log, Unread> {
        let Some(incarnation) = state.incarnation() else {
            return Err(Unread::Moved("the partition has no incarnation"));
        };
        let checkpoint = state.checkpoint.filter(|checkpoint| incarnation.stands_on(checkpoint.position));
        let worked = checkpoint
            .map_or(incarnation.generation.first_sequence - 1, |checkpoint| checkpoint.position.sequence);
        let mut skips = HashSet::new();
        for number in incarnation.generation.incarnation..=incarnation.number {
            let skipped = self.store.skips(partition, number).await?;
            skips.extend(skipped.into_iter().map(|at| incarnation.position(at.sequence, at.index)));
        }
        let suspensions = self.store.suspensions(partition).await?;
        for Suspension { conversation, from, reason, .. } in
            suspensions.iter().filter(|one| one.until.is_none())
        {
            let Position { incarnation, sequence, index } = from;
            report.unread(format!(
                "conversation {conversation} is suspended, its commands are refused from {incarnation}.{sequence}.{index} on: {reason}"
            ));
        }
        if let Some(checkpoint) = checkpoint {
            let landmark = Landmark { sequence: worked, tag: checkpoint.tag };
            self.recognise(partition, landmark).await?;
        }
        let bounds = self.bus.log_bounds(partition).await?;
        report.checkpoint = checkpoint.map(|checkpoint| checkpoint.position.sequence);
        report.counts.pending = bounds.last.saturating_sub(worked.max(bounds.first.saturating_sub(1)));
        let from = bounds.first.max(incarnation.generation.first_sequence);
        let of = (partition, self.options.partitions);
        let version = checkpoint.map_or(FIRST_VERSION, |checkpoint| checkpoint.version);
        let mut log = Log::new(of, incarnation, skips, (from, worked), &self.named(partition), version)
            .suspending(Suspended::of(incarnation, suspensions));
        if log.wanted().is_none() {
            return Ok(log);
        }
        let mut reader = self.bus.read_log(partition, from).await?;
        let mut progress = Progress::new(partition);
        while log.wanted().is_some() {
            let next = tokio::time::timeout(ENTRY_TIMEOUT, reader.next(ENTRIES_MAX)).await;
            let entries = next.map_err(|_| Unread::Moved("the log has stopped yielding entries"))??;
            for entry in entries {
                match log.wanted() {
                    Some(sequence) if sequence == entry.sequence => log.add_entry(&entry),
                    Some(_) => return Err(Unread::Moved("the log moved on while it was read")),
                    None => break,
                }
            }
            progress.report("entries", log.entries());
        }
        Ok(log)
    }

    /// Checks that the log is the one of the checkpoint.
    async fn recognise(&self, partition: u32, landmark: Landmark) -> Result<(), Unread> {
        let Landmark { sequence, tag } = landmark;
        match self.bus.log_entry(partition, sequence).await? {
            Some(entry) if entry.tag == tag => Ok(()),
            Some(_) => Err(Unread::Moved(
                "the log is not the one that was worked: its worker begins another incarnation",
            )),
            None if self.bus.log_bounds(partition).await?.last < sequence => {
                Err(Unread::Moved("the log ends below the checkpoint: its worker begins another incarnation"))
            }
            None => Err(Unread::Moved("the log begins above the checkpoint")),
        }
    }

    /// The first look, at all conversations.
    async fn look(&self, log: &Log, ids: Vec<ConversationId>, report: &mut PartitionReport) -> Suspects {
        let mut suspects = Suspects::new();
        let mut progress = Progress::new(log.partition);
        let mut looks = stream::iter(ids).map(|id| self.conversation(log, id)).buffer_unordered(READS_MAX);
        while let Some(Looked { id, judged, rows, is_cut }) = looks.next().await {
            report.counts.conversations += 1;
            report.counts.conversations_cut += u64::from(is_cut);
            report.counts.rows += rows;
            progress.report("conversations", report.counts.conversations);
            match judged {
                Ok(judged) => {
                    report.counts.rows_above_head += judged.above_head;
                    report.counts.unjudged += judged.unjudged;
                    if !judged.findings.is_empty() {
                        suspects.insert(id, judged.findings.iter().map(Finding::key).collect());
                    }
                }
                Err(error) => {
                    tracing::warn!(conversation = %id, %error, "a conversation cannot be read, trying again");
                    suspects.insert(id, HashSet::new());
                }
            }
        }
        suspects
    }

    /// Looks again at conversations that looked wrong. A finding is reported if both looks have it. Returns the
    /// conversations that could be read for the first time now, and look wrong.
    async fn look_again(&self, log: &Log, before: Suspects, report: &mut PartitionReport) -> Suspects {
        let mut suspects = Suspects::new();
        let mut ids: Vec<ConversationId> = before.keys().cloned().collect();
        ids.sort_unstable();
        let mut looks = stream::iter(ids).map(|id| self.conversation(log, id)).buffered(READS_MAX);
        while let Some(Looked { id, judged, .. }) = looks.next().await {
            let known = before.get(&id).filter(|known| !known.is_empty());
            match (judged, known) {
                (Ok(judged), Some(known)) => {
                    let same = |finding: &Finding| known.contains(&finding.key());
                    judged.findings.into_iter().filter(same).for_each(|finding| report.found(finding));
                }
                (Ok(judged), None) if judged.findings.is_empty() => {}
                (Ok(judged), None) => {
                    suspects.insert(id, judged.findings.iter().map(Finding::key).collect());
                }
                (Err(error), _) => report.unread(format!("conversation {id}: {error}")),
            }
        }
        suspects
    }
}

/// Logs the progress once a second.
struct Progress {
    partition: u32,
    reported: Instant,
}

impl Progress {
    fn new(partition: u32) -> Progress {
        Progress { partition, reported: Instant::now() }
    }

    fn report(&mut self, what: &'static str, count: u64) {
        if self.reported.elapsed() >= PROGRESS_EVERY {
            self.reported = Instant::now();
            tracing::info!(partition = self.partition, "{count} {what} read");
        }
    }
}
