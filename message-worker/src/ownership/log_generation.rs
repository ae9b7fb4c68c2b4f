//! Recognises the log by one of its entries, so that a worker notices when the log has lost entries that it has read.

use crate::backoff::Backoff;
use crate::context::{Context, StartOver};
use carillon_proto::id::Tag;
use carillon_runtime::bus::{BusError, LogReader};

/// An entry by which the worker recognises the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Landmark {
    pub(crate) sequence: u64,
    pub(crate) tag: Tag,
}

/// How many failures are retried because the log begins above the entry that is to be read next. At the next one,
/// the work starts over.
const BROKEN_MAX: u32 = 3;

/// Whether the log holds the landmark, or held it and has purged it since.
pub(crate) async fn holds(context: &Context, landmark: Landmark) -> Result<bool, BusError> {
    let Landmark { sequence, tag } = landmark;
    if let Some(entry) = context.bus.log_entry(context.partition, sequence).await? {
        return Ok(entry.tag == tag);
    }
    let bounds = context.bus.log_bounds(context.partition).await?;
    Ok(bounds.first > sequence && bounds.last >= sequence)
}

/// The time of the log's newest entry, in milliseconds since 1970, if that entry is at or above `from`. `None` also if
/// the bus does not answer.
pub(crate) async fn newest_ms(context: &Context, from: u64) -> Option<u64> {
    let bounds = context.bus.log_bounds(context.partition).await.ok()?;
    if bounds.last < from {
        return None;
    }
    let entry = context.bus.log_entry(context.partition, bounds.last).await.ok()?;
    entry.map(|entry| entry.time_ms)
}

/// Opens a reader at `from`, once the landmark shows that the log generation is the same. Retries while the bus is
/// down.
pub(crate) async fn reader(
    context: &Context,
    incarnation: u32,
    landmark: Option<Landmark>,
    from: u64,
) -> Result<Box<dyn LogReader>, StartOver> {
    let mut backoff = Backoff::of_bus();
    let (mut reported, mut broken) = (false, 0);
    loop {
        match open(context, landmark, from).await {
            Ok(Some(reader)) => return Ok(reader),
            Ok(None) => return Err(forgotten(incarnation)),
            Err(BusError::Broken(_)) if broken == BROKEN_MAX => {
                return Err(StartOver::because("the log begins above the entry that is to be read next"));
            }
            Err(error) => {
                broken += u32::from(matches!(error, BusError::Broken(_)));
                // Warn only once, because each partition retries several times a second.
                if std::mem::replace(&mut reported, true) {
                    tracing::debug!(partition = context.partition, %error, "the log still cannot be read");
                } else {
                    tracing::warn!(partition = context.partition, %error, "the log cannot be read, trying again");
                }
                backoff.wait().await;
            }
        }
    }
}

/// Start over in another incarnation: the log no longer holds entries that were read from it in this one.
pub(crate) fn forgotten(incarnation: u32) -> StartOver {
    StartOver {
        reason: "the log no longer holds an entry that was read from it",
        forgotten: Some(incarnation),
    }
}

async fn open(
    context: &Context,
    landmark: Option<Landmark>,
    from: u64,
) -> Result<Option<Box<dyn LogReader>>, BusError> {
    if let Some(landmark) = landmark
        && !holds(context, landmark).await?
    {
        return Ok(None);
    }
    context.bus.read_log(context.partition, from).await.map(Some)
}
