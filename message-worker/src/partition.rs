//! A partition's ownership: where its work begins, and its beginning again when the ground has moved.

use crate::backoff::{Backoff, until_done};
use crate::consume::{Beginning, Consumer};
use crate::context::{Context, StartOver};
use crate::core::incarnation::{self, Found, Start};
use crate::core::interest::Interest;
use crate::ground::Landmark;
use crate::group::Ledger;
use crate::metrics;
use crate::store::Checkpoint;
use carillon_proto::position::Incarnation;
use carillon_proto::subject;
use carillon_runtime::bus::LEASE_MS;
use carillon_runtime::time::now_ms;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Another worker's lease has run out twice when this is over: nobody acknowledges in the old life any more.
const BEFORE_ANOTHER_LIFE: Duration = Duration::from_millis(2 * LEASE_MS);

/// Works a partition until `shutdown`. `made_anew`: its log was made with this process.
pub(crate) async fn work(context: Context, epoch: u64, mut made_anew: bool, shutdown: CancellationToken) {
    let partition = context.partition;
    tracing::debug!(partition, epoch, "working a partition");
    let mut interest = Interest::new(partition, epoch);
    let mut forgotten = None;
    let mut backoff = Backoff::new();
    while !shutdown.is_cancelled() {
        let lived = live(&context, &mut interest, made_anew, forgotten, &shutdown).await;
        let Err(StartOver { reason, forgotten: life }) = lived else { break };
        if !shutdown.is_cancelled() {
            tracing::warn!(partition, reason, "starting over");
        }
        forgotten = life;
        made_anew = false;
        interest.forget_registrations();
        tokio::select! {
            () = backoff.wait() => {}
            () = shutdown.cancelled() => {}
        }
    }
    metrics::forget_partition(&partition.to_string());
    tracing::debug!(partition, epoch, "no longer working a partition");
}

/// From one beginning to its end.
async fn live(
    context: &Context,
    interest: &mut Interest,
    made_anew: bool,
    forgotten: Option<u32>,
    shutdown: &CancellationToken,
) -> Result<(), StartOver> {
    let beginning = tokio::select! {
        beginning = begin(context, made_anew, forgotten) => beginning,
        () = shutdown.cancelled() => return Ok(()),
    };
    let subscribe = async |subject: &str| {
        let subscribed = context.bus.subscribe(subject, None).await;
        subscribed.map_err(|error| {
            tracing::warn!(subject, %error, "cannot subscribe");
            StartOver::because("the bus cannot be reached")
        })
    };
    let requests = subscribe(&subject::partition(context.partition)).await?;
    let ephemerals = subscribe(&subject::ephemeral(context.partition)).await?;
    if (context.is_ours)()
        && let Err(error) = context.bus.publish(subject::GATEWAYS, interest.arrival()).await
    {
        tracing::warn!(partition = context.partition, %error, "gateways hear of this owner by its beats only");
    }
    let consumer = Consumer::new(context, interest, beginning);
    consumer.run(requests, ephemerals, shutdown).await
}

/// Finds out where work begins, and begins another life of the log where it has to.
async fn begin(context: &Context, made_anew: bool, forgotten: Option<u32>) -> Beginning {
    let mut waited = context.exclusive;
    loop {
        let found = find(context, made_anew, forgotten).await;
        let (previous, next) = match incarnation::decide(&found) {
            Start::Continue { incarnation, from } => {
                return beginning(context, found.state.checkpoint, incarnation, from).await;
            }
            Start::First(next) => (None, next),
            Start::Renew { reason, .. } if !waited => {
                tracing::error!(
                    partition = context.partition,
                    reason,
                    "the log forgot, waiting for others to notice"
                );
                tokio::time::sleep(BEFORE_ANOTHER_LIFE).await;
                waited = true;
                continue;
            }
            Start::Renew { previous, next, reason } => {
                let (partition, number) = (context.partition, next.number);
                // A log in memory is made anew at every start of its process.
                if context.exclusive {
                    tracing::debug!(partition, reason, number, "another life of the log");
                } else {
                    tracing::warn!(partition, reason, number, "another life of the log");
                }
                metrics::INCARNATIONS.inc();
                (Some(previous), next)
            }
        };
        let begun = context.store.begin_incarnation(context.partition, previous, next).await;
        match begun {
            Ok(in_force) if in_force == next => {
                let checkpoint = mark(context, next).await;
                return beginning(context, checkpoint, next, next.first_sequence).await;
            }
            Ok(_) => {}
            Err(error) => {
                // The outcome is unknown: what is there is read again.
                tracing::warn!(partition = context.partition, %error, "a life of the log was not begun");
                Backoff::new().wait().await;
            }
        }
    }
}

async fn find(context: &Context, made_anew: bool, forgotten: Option<u32>) -> Found {
    let partition = context.partition;
    let state = until_done("partition", || context.store.partition(partition)).await;
    let bounds = until_done("log_bounds", || context.bus.log_bounds(partition)).await;
    let tag_at_checkpoint = match state.checkpoint {
        Some(checkpoint) => {
            let sequence = checkpoint.position.sequence;
            let entry = until_done("log_entry", || context.bus.log_entry(partition, sequence)).await;
            entry.map(|entry| entry.tag)
        }
        None => None,
    };
    let number = state.incarnation.map(|incarnation| incarnation.number);
    let forgotten = forgotten.is_some() && forgotten == number;
    let now_us = i64::try_from(now_ms() * 1_000).unwrap_or(i64::MAX);
    Found { state, bounds, tag_at_checkpoint, made_anew, forgotten, now_us }
}

/// Checkpoints a new life at the entry before its first, so that its log is recognised before anything is worked.
/// `None` if the log holds no such entry.
async fn mark(context: &Context, life: Incarnation) -> Option<Checkpoint> {
    let before = life.first_sequence - 1;
    if before == 0 {
        return None;
    }
    let read = || context.bus.log_entry(context.partition, before);
    let entry = until_done("log_entry", read).await?;
    let timestamp_us = incarnation::checkpoint_before_us(life);
    let checkpoint = Checkpoint { position: life.position(before, 0), tag: entry.tag, timestamp_us };
    until_done("checkpoint", || context.store.checkpoint(context.partition, checkpoint)).await;
    Some(checkpoint)
}

async fn beginning(
    context: &Context,
    checkpoint: Option<Checkpoint>,
    life: Incarnation,
    from: u64,
) -> Beginning {
    let partition = context.partition;
    let skips = until_done("skips", || context.store.skips(partition, life.number)).await;
    let at_checkpoint = |checkpoint: &Checkpoint| {
        checkpoint.position.incarnation == life.number && checkpoint.position.sequence + 1 == from
    };
    let landmark = checkpoint
        .filter(at_checkpoint)
        .map(|checkpoint| Landmark { sequence: checkpoint.position.sequence, tag: checkpoint.tag });
    let skips = skips.into_iter().collect();
    let ledger = Ledger { partition, partitions: context.partitions, incarnation: life, skips };
    tracing::debug!(partition, incarnation = life.number, from, "the log is read");
    Beginning { ledger, from, landmark }
}
