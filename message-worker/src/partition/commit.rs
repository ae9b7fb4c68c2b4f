//! The commit: writes the rows of a group, again and again with the same bytes until the store confirms them. Only then
//! do acks and events leave.

use super::consume::{Consumer, Stage};
use super::fanout;
use super::group::Group;
use super::jobs::Done;
use crate::backoff::until_done;
use crate::context::{Context, StartOver};
use crate::store::{EventRow, Projection};
use carillon_runtime::metrics::{Stage as Latency, observe};
use carillon_runtime::time::steady_ms;
use std::time::Instant;

impl Consumer<'_> {
    /// Applies a group and begins to write its rows.
    pub(crate) fn commit(&mut self, group: Group) -> Stage {
        let began = Instant::now();
        let results = group.apply(&mut self.cache, steady_ms());
        observe(Latency::Apply, began.elapsed());
        let (context, rows) = (self.context.clone(), results.rows.clone());
        let (participants, ownership) = (results.participants.clone(), self.ownership.clone());
        self.job(async move {
            if !append(&context, &rows).await {
                return Done::Lost;
            }
            // Checked after the rows are stored: a worker that displaces this owner later will load them, however late
            // the acks leave.
            if !ownership.is_valid() && !until_done("tenure", || ownership.confirm()).await {
                return Done::Lost;
            }
            let participants = participants.is_empty() || project(&context, participants, rows).await;
            Done::Committed { participants }
        });
        Stage::Committing(results)
    }

    /// Handles that the rows are written: the results leave, if this worker still owns the partition.
    pub(crate) async fn committed(&mut self, participants_written: bool) -> Result<(), StartOver> {
        let Stage::Committing(results) = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return Ok(());
        };
        if !(self.context.is_ours)() {
            return Err(StartOver::because("the lease ran out before the acks"));
        }
        observe(Latency::Commit, results.applied.elapsed());
        let began = Instant::now();
        for (conversation, _) in &results.events {
            if let Some(slot) = self.cache.note(conversation) {
                slot.committed();
            }
            self.flush.touch(&mut self.cache, conversation);
        }
        let mut acquainted = results.acquainted_before;
        if participants_written {
            // Before the acks, so that a client that reads its lists after an ack sees the change.
            fanout::notify_acquainted(&*self.context.bus, results.acquainted).await;
        } else {
            acquainted.extend(results.acquainted);
        }
        self.flush.add_acquainted(acquainted);
        let outgoing = self.interest.batches(&results.events, results.outcomes);
        fanout::publish(&*self.context.bus, outgoing).await;
        observe(Latency::Fanout, began.elapsed());
        self.flush.project(results.projections);
        if !participants_written {
            self.flush.project(results.participants);
        }
        self.flush.worked(results.end, results.bytes);
        self.applied = results.end.position.sequence;
        if self.cache.len() > self.context.cache_limits().conversations {
            self.trim();
        }
        Ok(())
    }
}

/// Writes rows until the store confirms them. Returns `false` if this worker no longer holds the lease, which is
/// checked before each attempt: an owner that stood still for longer than its lease may hold commands that the log has
/// lost since, and must not overwrite the rows that its successor made from the present log.
///
/// The rows of a group become visible one by one. Creations are written first, because nothing in the event at seq 1
/// shows whether a creation precedes it.
async fn append(context: &Context, rows: &[EventRow]) -> bool {
    let (creations, others): (Vec<_>, Vec<_>) = rows.iter().cloned().partition(|row| row.seq == 0);
    for rows in [creations, others] {
        let attempt = || async {
            if (context.is_ours)() {
                context.store.append(rows.clone()).await.map(|()| true)
            } else {
                Ok(false)
            }
        };
        if !rows.is_empty() && !until_done("append", attempt).await {
            return false;
        }
    }
    true
}

/// Writes the changes of participants, so that lists show them as soon as they are acknowledged. There is one attempt,
/// because an ack must not wait for a projection that fails. Only an owner writes them: rows of an incarnation that is
/// over may still be overwritten, and their projections would stay.
async fn project(context: &Context, participants: Vec<Projection>, mut rows: Vec<EventRow>) -> bool {
    if !(context.is_ours)() || context.store.project(participants).await.is_err() {
        return false;
    }
    if context.exclusive {
        // The log dies with this process, so no replay repairs a projection that was not durable yet. One more write of
        // a row makes the projection durable: rows that are written after it are not durable before it.
        rows.truncate(1);
        until_done("append", || context.store.append(rows.clone())).await;
    }
    true
}
