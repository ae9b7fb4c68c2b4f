//! Takes a partition: finds out where work begins, takes the tenure, and starts another incarnation if necessary.

use super::log_generation::Landmark;
use super::tenure::{self, Ownership, TenureRead};
use crate::backoff::{Backoff, until_answered, until_done};
use crate::context::Context;
use crate::core::incarnation::{self, Found, Start};
use crate::core::ledger::Ledger;
use crate::core::suspended::Suspended;
use crate::metrics;
use crate::store::{Checkpoint, FIRST_VERSION, Owner, Tenure};
use carillon_proto::position::Incarnation;
use carillon_runtime::bus::LEASE_MS;
use carillon_runtime::time::wall_ms;
use std::sync::Arc;
use std::time::Duration;

/// How long a worker waits before it starts an incarnation in a new log generation. In this time, everything arrives
/// that gateways published before the log lost entries, with their repeats of it, and is skipped. If it arrived later,
/// it would be applied after newer commands of the same senders.
const BEFORE_ANOTHER_INCARNATION: Duration = Duration::from_millis(2 * LEASE_MS);

/// Delay before the lease is checked again. The task of a partition without a lease is stopped soon anyway.
const UNTIL_STOPPED: Duration = Duration::from_millis(10);

/// Time between two comparisons of a wrong clock. The worker gives up its lease meanwhile.
const UNTIL_CLOCKS_AGREE: Duration = Duration::from_secs(1);

/// Where the work on a partition begins, as [`take_partition`] determined it.
#[derive(Debug)]
pub(crate) struct StartingPoint {
    pub(crate) ledger: Ledger,
    pub(crate) ownership: Arc<Ownership>,
    /// The first entry to apply.
    pub(crate) from: u64,
    /// The entry before `from`, if the log is recognised by it.
    pub(crate) landmark: Option<Landmark>,
}

/// The inputs of a start of the work, besides the store and the log.
pub(crate) struct StartParameters {
    /// The number of the lease.
    pub(crate) epoch: u64,
    /// The owner that this worker becomes. `None` if the log belongs to this process alone.
    pub(crate) owner: Option<Owner>,
    /// The log was made with this process.
    pub(crate) made_anew: bool,
    /// An incarnation that is known to be over.
    pub(crate) forgotten: Option<u32>,
}

impl StartParameters {
    /// The tenure that follows `previous`. A new owner gets a higher epoch, even if its lease has a lower number: a
    /// worker that was displaced for a moment may come back with its old lease.
    fn tenure(&self, previous: Option<&Tenure>, incarnation: Incarnation) -> Tenure {
        let epoch = previous.map_or(0, |previous| previous.epoch);
        let is_owner = |previous: &Tenure| self.owner.is_none() || previous.owner == self.owner;
        let epoch = if previous.is_some_and(is_owner) { epoch } else { self.epoch.max(epoch + 1) };
        Tenure { incarnation, epoch, owner: self.owner.clone() }
    }
}

/// Finds out where work begins, takes the partition, and starts another incarnation if necessary. If this is cancelled,
/// the caller gives `taken` back.
pub(crate) async fn take_partition(
    context: &Context,
    parameters: &StartParameters,
    taken: &mut Option<Arc<Ownership>>,
) -> StartingPoint {
    let (mut waits, mut displaced) = (Waits { log: context.exclusive, tenure: None }, false);
    loop {
        // The lease has run out, so another worker may own the partition now.
        if !(context.is_ours)() {
            tokio::time::sleep(UNTIL_STOPPED).await;
            continue;
        }
        let read = TenureRead::now();
        let found = find(context, parameters).await;
        let version = found.state.checkpoint.map_or(FIRST_VERSION, |checkpoint| checkpoint.version);
        if version > context.version {
            context.outdated.report(version);
            // `outdated` stops the worker.
            return std::future::pending().await;
        }
        let previous = found.state.tenure.clone();
        let start = incarnation::decide(&found);
        if waits.before(context, start, previous.as_ref()).await {
            continue;
        }
        let (incarnation, from) = start.begins_at();
        let next = parameters.tenure(previous.as_ref(), incarnation);
        if previous.as_ref() != Some(&next) {
            // An earlier task of this worker counts too: it may have displaced another owner, and have ended before
            // that owner certainly acknowledged nothing any more.
            displaced |= previous.as_ref().is_some_and(|previous| previous.owner.is_some());
            if !change_tenure(context, previous, &next).await {
                continue;
            }
        }
        report_start(context, start);
        if displaced {
            // If cancelled here, this worker still holds the partition, so the next owner must wait just as long.
            tenure::wait_for_last_acknowledgements().await;
            displaced = false;
            // The former owner may have written a checkpoint meanwhile, and it may name a newer version.
            continue;
        }
        let ownership = Ownership::new(context, next, read);
        // If the caller gives the tenure back, the write of the checkpoint below may still be under way. That is
        // harmless: its timestamp is below all others of the incarnation, and a successor writes the same checkpoint.
        *taken = Some(ownership.clone());
        let known = found.state.checkpoint.filter(|known| incarnation.stands_on(known.position));
        let checkpoint = match known {
            Some(known) => Some(known),
            None => mark(context, incarnation, version).await,
        };
        return starting_point(context, checkpoint, version, ownership, from).await;
    }
}

/// What a start has waited for.
struct Waits {
    /// Everything that was on its way to the log has arrived.
    log: bool,
    /// The tenure that its owner had the time to give back.
    tenure: Option<Tenure>,
}

impl Waits {
    /// Waits for what must come before this start. Returns whether it has waited: then the store and the log are read
    /// again.
    async fn before(&mut self, context: &Context, start: Start, previous: Option<&Tenure>) -> bool {
        let partition = context.partition;
        if matches!(start, Start::TakeOver(_)) && self.tenure.as_ref() != previous {
            tenure::wait_for_hand_over(context, previous).await;
            self.tenure = previous.cloned();
            return true;
        }
        if let (Start::Renew { reason, .. }, false) = (start, self.log) {
            tracing::error!(
                partition,
                reason,
                "the log lost entries: waiting until earlier publishes have arrived"
            );
            tokio::time::sleep(BEFORE_ANOTHER_INCARNATION).await;
            self.log = true;
            return true;
        }
        // All write timestamps of an incarnation follow from the wall clock at its start, so it must not start with a
        // wrong clock.
        if !matches!(start, Start::Continue { .. })
            && let Some(found) = context.clocks.compare().await
        {
            tracing::error!(partition, "{found}: no incarnation starts with this clock");
            context.clocks.suspect();
            tokio::time::sleep(UNTIL_CLOCKS_AGREE).await;
            return true;
        }
        false
    }
}

/// Changes the partition's tenure from `previous` to `next`. Returns whether `next` is in force.
async fn change_tenure(context: &Context, previous: Option<Tenure>, next: &Tenure) -> bool {
    let partition = context.partition;
    match context.store.change_tenure(partition, previous, next.clone()).await {
        Ok(in_force) => in_force == *next,
        Err(error) => {
            // The outcome is unknown: what is there is read again.
            tracing::warn!(partition, %error, "the partition was not taken");
            Backoff::new().wait().await;
            false
        }
    }
}

/// Logs and counts the start of an incarnation.
fn report_start(context: &Context, start: Start) {
    let partition = context.partition;
    match start {
        Start::Continue { .. } | Start::First(_) => {}
        Start::TakeOver(next) => {
            let reason = "its former owner may still be writing";
            tracing::info!(partition, reason, next.number, "another incarnation begins");
            metrics::TAKEOVERS.inc();
        }
        Start::Renew { next, reason } => {
            // A log in memory is made anew whenever its process starts, so a new incarnation is normal there.
            if context.exclusive {
                tracing::debug!(partition, reason, next.number, "another incarnation begins");
            } else {
                tracing::warn!(partition, reason, next.number, "another incarnation begins");
            }
            metrics::INCARNATIONS.inc();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the timestamps of an incarnation's rows are stored, and start at the wall clock's time"
)]
async fn find(context: &Context, parameters: &StartParameters) -> Found {
    let partition = context.partition;
    let state = until_done("partition", || context.store.partition(partition)).await;
    let bounds = until_answered("log_bounds", || context.bus.log_bounds(partition)).await;
    let tag_at_checkpoint = match state.checkpoint {
        Some(checkpoint) => {
            let sequence = checkpoint.position.sequence;
            let entry = until_answered("log_entry", || context.bus.log_entry(partition, sequence)).await;
            entry.map(|entry| entry.tag)
        }
        None => None,
    };
    let number = state.incarnation().map(|incarnation| incarnation.number);
    let forgotten = parameters.forgotten.is_some() && parameters.forgotten == number;
    let owner = state.tenure.as_ref().and_then(|tenure| tenure.owner.as_ref());
    let has_other_owner = owner.is_some() && owner != parameters.owner.as_ref();
    let made_anew = parameters.made_anew;
    let now_us = i64::try_from(wall_ms() * 1_000).unwrap_or(i64::MAX);
    Found { state, bounds, tag_at_checkpoint, made_anew, forgotten, has_other_owner, now_us }
}

/// Writes a checkpoint of a new incarnation at the entry before its first one, so that the log can be recognised before
/// any entry is applied. `None` if the log does not hold that entry.
async fn mark(context: &Context, incarnation: Incarnation, version: u32) -> Option<Checkpoint> {
    let before = incarnation.first_sequence - 1;
    if before == 0 {
        return None;
    }
    let read = || context.bus.log_entry(context.partition, before);
    let entry = until_answered("log_entry", read).await?;
    let timestamp_us = incarnation::checkpoint_before_us(incarnation);
    let checkpoint =
        Checkpoint { position: incarnation.position(before, 0), tag: entry.tag, timestamp_us, version };
    until_done("checkpoint", || context.store.checkpoint(context.partition, checkpoint)).await;
    Some(checkpoint)
}

async fn starting_point(
    context: &Context,
    checkpoint: Option<Checkpoint>,
    version: u32,
    ownership: Arc<Ownership>,
    from: u64,
) -> StartingPoint {
    let (partition, incarnation) = (context.partition, ownership.incarnation());
    let skips = until_done("skips", || context.store.skips(partition, incarnation.number)).await;
    let at_checkpoint = |checkpoint: &Checkpoint| {
        incarnation.stands_on(checkpoint.position) && checkpoint.position.sequence + 1 == from
    };
    let landmark = checkpoint
        .filter(at_checkpoint)
        .map(|checkpoint| Landmark { sequence: checkpoint.position.sequence, tag: checkpoint.tag });
    let skips = skips.into_iter().collect();
    // Read only now: a displaced owner sends nothing any more, so it no longer refuses commands because of a
    // suspension that it records from here on.
    let suspended = until_done("suspensions", || context.store.suspensions(partition)).await;
    let suspended = Suspended::of(incarnation, suspended);
    let ledger = Ledger { partition, partitions: context.partitions, incarnation, skips, suspended, version };
    tracing::debug!(partition, incarnation = incarnation.number, from, "reading the log");
    StartingPoint { ledger, ownership, from, landmark }
}
