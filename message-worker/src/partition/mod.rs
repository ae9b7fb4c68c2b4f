//! Works a partition: takes it, consumes its log, and starts over when the work fails or the log has lost entries.

mod commit;
mod consume;
mod fanout;
mod flush;
mod group;
mod jobs;
mod outcomes;
mod prepare;
mod raise;
mod reading;
mod register;
mod suspend;
mod upkeep;

use crate::backoff::Backoff;
use crate::context::{Context, StartOver};
use crate::core::interest::Interest;
use crate::metrics;
use crate::ownership::take::{StartParameters, StartingPoint, take_partition};
use crate::store::Owner;
use carillon_proto::subject;
use carillon_runtime::bus::Subscription;
use consume::{Consumer, Ended};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Work that lasted this long resets the backoff: earlier failures no longer delay the next start.
const WELL_AGAIN: Duration = Duration::from_secs(10);

/// Works a partition until `shutdown`, and starts over if the task panics. The other partitions go on meanwhile. Giving
/// the partition to another worker would not help, because that worker would meet the same panic. `made_anew`: the log
/// was made with this process.
pub(crate) async fn work(context: Context, epoch: u64, made_anew: bool, shutdown: CancellationToken) {
    let (partition, mut backoff) = (context.partition, Backoff::new());
    // Each start takes the partition as another owner, because writes of a task that panicked may still be under way.
    let starts = Arc::new(AtomicU64::new(0));
    loop {
        let made_anew = made_anew && starts.load(Ordering::Relaxed) == 0;
        let began = Instant::now();
        let work = until_shutdown(context.clone(), epoch, made_anew, starts.clone(), shutdown.clone());
        let Err(error) = AbortOnDropHandle::new(tokio::spawn(work)).await else { return };
        metrics::PANICS.inc();
        tracing::error!(partition, %error, "a partition's task panicked: starting over");
        if began.elapsed() >= WELL_AGAIN {
            backoff = Backoff::new();
        }
        tokio::select! {
            () = context.leaving.idle(backoff.wait()) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

pub(crate) async fn until_shutdown(
    context: Context,
    epoch: u64,
    mut made_anew: bool,
    starts: Arc<AtomicU64>,
    shutdown: CancellationToken,
) {
    let partition = context.partition;
    tracing::debug!(partition, epoch, "working a partition");
    let mut interest = Interest::new(partition, epoch);
    let mut forgotten = None;
    let mut backoff = Backoff::new();
    while !shutdown.is_cancelled() {
        let start = starts.fetch_add(1, Ordering::Relaxed);
        let owner = Owner::new(&context.worker, epoch, start);
        let parameters =
            StartParameters { epoch, owner: (!context.exclusive).then_some(owner), made_anew, forgotten };
        let began = Instant::now();
        let worked = take_and_consume(&context, parameters, &mut interest, &shutdown).await;
        if began.elapsed() >= WELL_AGAIN {
            backoff = Backoff::new();
        }
        let Err(StartOver { reason, forgotten: incarnation }) = worked else { break };
        if !shutdown.is_cancelled() {
            tracing::warn!(partition, reason, "starting over");
        }
        forgotten = incarnation;
        made_anew = false;
        interest.forget_registrations();
        tokio::select! {
            () = context.leaving.idle(backoff.wait()) => {}
            () = shutdown.cancelled() => {}
        }
    }
    metrics::forget_partition(&partition.to_string());
    tracing::debug!(partition, epoch, "no longer working a partition");
}

/// Takes the partition and consumes its log, until `shutdown` or until the work has to start over.
async fn take_and_consume(
    context: &Context,
    parameters: StartParameters,
    interest: &mut Interest,
    shutdown: &CancellationToken,
) -> Result<(), StartOver> {
    let mut taken = None;
    let starting_point = tokio::select! {
        starting_point = context.leaving.idle(take_partition(context, &parameters, &mut taken)) => starting_point,
        () = shutdown.cancelled() => {
            if let Some(ownership) = taken {
                ownership.give_back().await;
            }
            return Ok(());
        }
    };
    let ownership = starting_point.ownership.clone();
    if ownership.is_contested() {
        *interest = Interest::new(context.partition, ownership.epoch());
    }
    let Ended { result, all_written } = consume(context, interest, starting_point, shutdown).await;
    if all_written {
        context.leaving.idle(ownership.give_back()).await;
    }
    result
}

async fn consume(
    context: &Context,
    interest: &mut Interest,
    starting_point: StartingPoint,
    shutdown: &CancellationToken,
) -> Ended {
    let subscribed = async {
        let requests = subscribe(context, &subject::partition(context.partition)).await?;
        Ok((requests, subscribe(context, &subject::ephemeral(context.partition)).await?))
    };
    let (requests, ephemerals) = match subscribed.await {
        Ok(subscriptions) => subscriptions,
        Err(start_over) => return Ended { result: Err(start_over), all_written: true },
    };
    if (context.is_ours)()
        && let Err(error) = context.bus.publish(subject::GATEWAYS, interest.arrival()).await
    {
        tracing::warn!(partition = context.partition, %error, "this owner was not announced: only its beats show it");
    }
    Consumer::new(context, interest, starting_point).run(requests, ephemerals, shutdown).await
}

async fn subscribe(context: &Context, subject: &str) -> Result<Subscription, StartOver> {
    context.bus.subscribe(subject, None).await.map_err(|error| {
        tracing::warn!(subject, %error, "cannot subscribe");
        StartOver::because("the bus cannot be reached")
    })
}
