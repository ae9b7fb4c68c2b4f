//! The reader of a partition's log, with the read that is under way.

use carillon_runtime::bus::{BusError, LogEntry, LogReader};
use futures_util::future::BoxFuture;
use std::future::poll_fn;
use std::task::{Context, Poll};

/// A reader, if there is one. A read stays under way while the partition's task does other things, so that waiting for
/// entries costs nothing when the task wakes for another reason.
#[derive(Default)]
pub(crate) enum Reading {
    #[default]
    Closed,
    Open(Box<dyn LogReader>),
    UnderWay(BoxFuture<'static, Read>),
}

/// A reader with the result of its read.
type Read = (Box<dyn LogReader>, Result<Vec<LogEntry>, BusError>);

impl Reading {
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    /// Waits for entries. A read begins when there is room for entries, and returns at most as many as there was room
    /// for then.
    pub(crate) async fn next(&mut self, entries_max: usize) -> Result<Vec<LogEntry>, BusError> {
        poll_fn(|context| self.poll_next(context, entries_max)).await
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        entries_max: usize,
    ) -> Poll<Result<Vec<LogEntry>, BusError>> {
        let mut read = match std::mem::take(self) {
            Self::UnderWay(read) => read,
            Self::Open(reader) if entries_max > 0 => Box::pin(read(reader, entries_max)),
            idle => {
                *self = idle;
                return Poll::Pending;
            }
        };
        let Poll::Ready((reader, entries)) = read.as_mut().poll(context) else {
            *self = Self::UnderWay(read);
            return Poll::Pending;
        };
        *self = Self::Open(reader);
        Poll::Ready(entries)
    }
}

async fn read(mut reader: Box<dyn LogReader>, entries_max: usize) -> Read {
    let entries = reader.next(entries_max).await;
    (reader, entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use carillon_proto::id::Tag;
    use carillon_runtime::bus::Bus;
    use carillon_runtime::bus::embedded::EmbeddedBus;
    use futures_util::FutureExt;

    async fn append(bus: &EmbeddedBus, number: u8) {
        bus.append(0, Tag([number; 16]), Bytes::new()).await.expect("appended");
    }

    fn sequences(read: Option<Result<Vec<LogEntry>, BusError>>) -> Option<Vec<u64>> {
        read.map(|entries| entries.expect("read").iter().map(|entry| entry.sequence).collect())
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_loses_no_entry_and_a_full_queue_reads_none() {
        let bus = EmbeddedBus::new(1);
        let mut reading = Reading::Open(bus.read_log(0, 1).await.expect("opened"));
        assert_eq!(sequences(reading.next(2).now_or_never()), None);
        (1..=3).for_each(|number| append(&bus, number).now_or_never().expect("at once"));
        assert_eq!(sequences(reading.next(2).now_or_never()), Some(vec![1, 2]));
        assert_eq!(sequences(reading.next(0).now_or_never()), None);
        assert_eq!(sequences(reading.next(1).now_or_never()), Some(vec![3]));
        reading = Reading::Closed;
        assert_eq!(sequences(reading.next(1).now_or_never()), None);
    }
}
