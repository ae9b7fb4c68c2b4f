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

/// A reader, and what it returned.
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
