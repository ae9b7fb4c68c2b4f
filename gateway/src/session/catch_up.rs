//! How a session's members that fell behind catch up from their cursors.

use super::{PageCursor, Session, Work, WorkResult};
use crate::core::outbox::Urgency;
use crate::core::topic::{CatchUp, Slot};
use crate::delivery::dialect::Dialect;
use crate::delivery::hub::{self, Encoded, Room};
use crate::delivery::reads::Page;
use std::sync::Arc;
use std::time::Duration;

/// Delay before the next read when one failed or was empty.
const RETRY_DELAY: Duration = Duration::from_millis(200);

impl Session {
    pub(super) fn fell_behind(&mut self, room: Arc<Room>) {
        if !self.behind.iter().any(|other| Arc::ptr_eq(other, &room)) {
            self.behind.push(room);
        }
    }

    /// Serves members that are behind from their rooms' rings. Returns the read that the next member needs from the
    /// store.
    pub fn catch_up(&mut self) -> Option<Work> {
        while let Some(room) = self.behind.last().cloned() {
            if !self.connection.outgoing.has_room() {
                return None;
            }
            let (member, next) = self.read_on(&room);
            match next {
                CatchUp::Live | CatchUp::Ended => drop(self.behind.pop()),
                CatchUp::Events(served) if served.is_empty() => return None,
                CatchUp::Events(_) => {}
                CatchUp::Read { after_seq, up_to_seq } => {
                    let (dialect, slot) = member;
                    let shared = self.shared.clone();
                    let read =
                        shared.reads.clone().page_after(room.conversation.clone(), after_seq, up_to_seq);
                    return Some(Box::pin(async move {
                        let page = read.await;
                        if page.as_ref().map_or(true, |events| events.is_empty()) {
                            tokio::time::sleep(RETRY_DELAY).await;
                        }
                        WorkResult::Page(PageCursor { room, dialect, slot, after_seq }, page)
                    }));
                }
            }
        }
        self.behind.shrink_to_fit();
        None
    }

    /// The next step of the first member in a room that is not at the head.
    fn read_on(&self, room: &Arc<Room>) -> ((Dialect, Slot), CatchUp<Encoded>) {
        let joined = self.joined.get(&room.conversation);
        let members = joined.map(|joined| joined.members.as_slice()).unwrap_or_default();
        let mut state = room.lock();
        for member in members {
            if !state.is_slot_of(member.slot, &self.connection, member.dialect) {
                continue;
            }
            match state.topic.poll_catch_up(member.slot) {
                CatchUp::Live => {}
                CatchUp::Ended => hub::end(room, &mut state, member.slot),
                next => return ((member.dialect, member.slot), next),
            }
        }
        ((Dialect::Native, 0), CatchUp::Live)
    }

    /// Queues a page for the member that it was read for, if the member's cursor has not moved since. Otherwise the
    /// member left, was removed or joined again at another seq, and the page is dropped. Events above the user's
    /// removal are left out.
    pub(super) fn queue_page(&self, cursor: &PageCursor, page: Page) {
        let Ok(events) = page else { return };
        let mut state = cursor.room.lock();
        if !state.is_slot_of(cursor.slot, &self.connection, cursor.dialect)
            || state.topic.cursor(cursor.slot) != Some(cursor.after_seq)
        {
            return;
        }
        state.topic.handle_page(cursor.slot, &events, |member, event| {
            member.queue(event, Urgency::Reply);
        });
    }
}
