//! How a session's members that fell behind read on from their cursors.

use super::{Done, Session, Work};
use crate::core::outbox::Urgency;
use crate::core::topic::{CatchUp, Event};
use crate::hub::Room;
use crate::reads::Page;
use std::sync::Arc;
use std::time::Duration;

/// Between two reads when the first brought nothing.
const RETRY_DELAY: Duration = Duration::from_millis(200);

impl Session {
    pub(super) fn fell_behind(&mut self, room: Arc<Room>) {
        if !self.behind.iter().any(|other| Arc::ptr_eq(other, &room)) {
            self.behind.push(room);
        }
    }

    /// Queues what members that are behind can take now, or says what to read for them.
    pub fn catch_up(&mut self) -> Option<Work> {
        while let Some(room) = self.behind.last().cloned() {
            if !self.connection.has_room() {
                return None;
            }
            let Some(slot) = self.joined.get(&room.conversation).map(|joined| joined.slot) else {
                self.behind.pop();
                continue;
            };
            let next = {
                let mut state = room.lock();
                let is_ours = state.topic.hearer(slot).is_some_and(|hearer| hearer.id == self.connection.id);
                if is_ours { state.topic.catch_up(slot) } else { CatchUp::Live }
            };
            match next {
                CatchUp::Live => drop(self.behind.pop()),
                CatchUp::Events(served) if served.is_empty() => return None,
                CatchUp::Events(_) => {}
                CatchUp::Read(after_seq) => {
                    let read = self.shared.clone().page_after(room.conversation.clone(), after_seq);
                    return Some(Box::pin(async move {
                        let page = read.await;
                        if page.as_ref().map_or(true, |events| events.is_empty()) {
                            tokio::time::sleep(RETRY_DELAY).await;
                        }
                        Done::Page(room, page)
                    }));
                }
            }
        }
        self.behind.shrink_to_fit();
        None
    }

    pub(super) fn queue_page(&self, room: &Arc<Room>, page: Page) {
        let (Ok(events), Some(joined)) = (page, self.joined.get(&room.conversation)) else { return };
        for event in events.iter().filter(|event| !event.frames().is_empty()) {
            self.connection.offer(event.frames(), Urgency::Reply);
        }
        if let Some(last) = events.last() {
            room.lock().topic.caught_up_to(joined.slot, last.seq());
        }
    }
}
