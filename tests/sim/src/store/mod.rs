//! The simulated store, as one process sees it. Rows are written one by one in any order, and a failed write may have
//! taken effect. Of two writes to a cell the one with the higher timestamp wins, in whatever order they arrive.

use crate::gate::Cut;
use crate::node::{Node, TimedOut};
use crate::weather::CERTAIN;
use crate::world::World;
use async_trait::async_trait;
use carillon_message_worker::store::{
    Author, Checkpoint, EventRow, LoadedConversation, PartitionState, Projection, Seal, SentRow, Store,
    StoreError, Suspension, Tenure,
};
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::position::Position;
use std::time::Duration;
use tokio::time::{Instant, sleep};

mod seals;
mod tables;
mod users;

pub use tables::Tables;

/// How late a stray write arrives at most, in milliseconds. This is less than the 4 s (two leases) that a worker waits
/// before it begins a new log generation.
const STRAYING_MS: u64 = 1_500;
/// The same while every write strays: longer than a paused worker's successor needs to apply new commands.
const LATE_MS: u64 = 8_000;

impl From<TimedOut> for StoreError {
    fn from(_: TimedOut) -> StoreError {
        StoreError("no answer".into())
    }
}

/// What happens to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    Lost,
    Unconfirmed,
    Half,
    Strays,
}

impl Node {
    fn write_fate(&self) -> Fate {
        let world = &self.world;
        if world.strikes(|weather| weather.write_lost) {
            Fate::Lost
        } else if world.strikes(|weather| weather.write_unconfirmed) {
            Fate::Unconfirmed
        } else if world
            .strikes(|weather| if world.every_write_strays() { CERTAIN } else { weather.write_strays })
        {
            Fate::Strays
        } else if world.strikes(|weather| weather.write_half) {
            Fate::Half
        } else {
            Fate::Done
        }
    }

    async fn maybe_slow(&self) {
        if self.world.strikes(|weather| weather.store_slow) {
            let slow_ms = self.world.dice(|random| random.below(2_000));
            sleep(Duration::from_millis(slow_ms)).await;
        }
    }

    /// Writes cells, each by itself.
    async fn write<C: Send + 'static>(
        &self,
        what: &str,
        mut cells: Vec<C>,
        write: impl Fn(&World, C) + Clone + Send + 'static,
    ) -> Result<(), StoreError> {
        self.way(Cut::Store).await?;
        self.maybe_slow().await;
        let (fate, count) = (self.write_fate(), cells.len());
        self.world.dice(|random| random.shuffle(&mut cells));
        match fate {
            Fate::Lost => cells.clear(),
            Fate::Half => cells.truncate(self.world.dice(|random| random.below(count as u64)) as usize),
            Fate::Done | Fate::Unconfirmed | Fate::Strays => {}
        }
        if fate == Fate::Strays {
            self.note(format_args!("writes {what}: {count} cells, {fate:?}"));
            self.stray(cells, write);
            return Err(self.no_answer().await.into());
        }
        let done = cells.into_iter().map(|cell| {
            let (world, write) = (self.world.clone(), write.clone());
            self.world.network.remote(self.world.latency(), move || write(&world, cell))
        });
        futures_util::future::join_all(done).await;
        if fate != Fate::Done {
            self.note(format_args!("writes {what}: {count} cells, {fate:?}"));
            self.world.count("failed or unconfirmed writes");
            return Err(StoreError(format!("{what}: {fate:?}")));
        }
        self.way(Cut::Store).await?;
        self.note(format_args!("writes {what}: {count} cells"));
        Ok(())
    }

    /// Writes cells much later, each by itself.
    fn stray<C: Send + 'static>(&self, cells: Vec<C>, write: impl Fn(&World, C) + Clone + Send + 'static) {
        self.world.count("writes that strayed");
        let most_ms = if self.world.every_write_strays() { LATE_MS } else { STRAYING_MS };
        for cell in cells {
            let after_ms = self.world.dice(|random| random.between(500..=most_ms));
            let (world, write) = (self.world.clone(), write.clone());
            self.world
                .network
                .at(Instant::now() + Duration::from_millis(after_ms), move || write(&world, cell));
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        what: &str,
        read: impl FnOnce(&Tables) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.way(Cut::Store).await?;
        self.maybe_slow().await;
        if self.world.strikes(|weather| weather.read_failed) {
            self.note(format_args!("reads {what}: failed"));
            return Err(StoreError(format!("{what}: not now")));
        }
        let world = self.world.clone();
        let read = move || read(&world.tables.lock());
        let rows = self.world.network.remote(self.world.latency(), read).await;
        self.way(Cut::Store).await?;
        self.note(format_args!("reads {what}"));
        Ok(rows)
    }
}

#[async_trait]
impl Store for Node {
    async fn append(&self, rows: Vec<EventRow>) -> Result<(), StoreError> {
        self.write("rows", rows, |world, row| world.write_event(row)).await
    }

    async fn events_after(
        &self,
        conversation: &ConversationId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        let id = conversation.to_string();
        self.read("events", move |tables| tables.events_after(&id, after_seq, limit)).await
    }

    async fn events_before(
        &self,
        conversation: &ConversationId,
        before_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        let id = conversation.to_string();
        self.read("events", move |tables| tables.events_before(&id, before_seq, limit)).await
    }

    async fn event(&self, conversation: &ConversationId, seq: u64) -> Result<Option<EventRow>, StoreError> {
        let id = conversation.to_string();
        self.read("event", move |tables| tables.event(&id, seq)).await
    }

    async fn seal(
        &self,
        conversation: &ConversationId,
        previous: Option<Seal>,
        next: Seal,
        timestamp_us: i64,
    ) -> Result<Seal, StoreError> {
        self.seal_rows(conversation, previous, next, timestamp_us).await
    }

    async fn known_seal(&self, conversation: &ConversationId) -> Result<Option<Seal>, StoreError> {
        let id = conversation.to_string();
        self.read("seal", move |tables| tables.seals.known(&id)).await
    }

    async fn project(&self, projections: Vec<Projection>) -> Result<(), StoreError> {
        self.write("projections", projections, |world, cell| world.tables.lock().project(cell)).await
    }

    async fn load(&self, conversation: &ConversationId) -> Result<LoadedConversation, StoreError> {
        let id = conversation.to_string();
        let head = self.read("head", move |tables| tables.head(&id)).await?;
        let id = conversation.to_string();
        let participants = self.read("participants", move |tables| tables.participants_of(&id)).await?;
        Ok(LoadedConversation { head, participants })
    }

    async fn sent(
        &self,
        conversation: &ConversationId,
        sender: &Author,
        limit: usize,
    ) -> Result<Vec<SentRow>, StoreError> {
        let (id, sender) = (conversation.to_string(), sender.as_str().to_owned());
        self.read("sent", move |tables| tables.sent_by(&id, &sender, limit)).await
    }

    async fn conversations_of(
        &self,
        user: &UserId,
        cursor: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, StoreError> {
        let (user, cursor) = (user.to_string(), cursor.map(ToString::to_string));
        self.read("conversations", move |tables| tables.conversations_of(&user, cursor.as_deref(), limit))
            .await
    }

    async fn partition(&self, partition: u32) -> Result<PartitionState, StoreError> {
        self.read("partition", move |tables| tables.partition(partition)).await
    }

    async fn tenure(&self, partition: u32) -> Result<Option<Tenure>, StoreError> {
        self.read("tenure", move |tables| tables.partition(partition).tenure).await
    }

    async fn change_tenure(
        &self,
        partition: u32,
        previous: Option<Tenure>,
        next: Tenure,
    ) -> Result<Tenure, StoreError> {
        self.way(Cut::Store).await?;
        let fate = self.write_fate();
        // A lightweight transaction is decided at once or not at all, so it cannot stray.
        if matches!(fate, Fate::Lost | Fate::Strays) {
            return Err(self.no_answer().await.into());
        }
        let world = self.world.clone();
        let wanted = next.clone();
        let change = move || world.change_tenure(partition, previous, wanted);
        let in_force = self.world.network.remote(self.world.latency(), change).await;
        self.note(format_args!(
            "wants {partition} in incarnation {} by {:?}: in force {in_force:?}, {fate:?}",
            next.incarnation.number, next.owner
        ));
        if fate != Fate::Done {
            return Err(self.no_answer().await.into());
        }
        self.way(Cut::Store).await?;
        Ok(in_force)
    }

    async fn checkpoint(&self, partition: u32, checkpoint: Checkpoint) -> Result<(), StoreError> {
        let write = move |world: &World, one| world.tables.lock().checkpoint(partition, one);
        self.write("checkpoint", vec![checkpoint], write).await
    }

    async fn record_skip(&self, partition: u32, position: Position, _: &str) -> Result<(), StoreError> {
        let write = move |world: &World, one| world.tables.lock().skip(partition, one);
        self.write("skip", vec![position], write).await
    }

    async fn skips(&self, partition: u32, incarnation: u32) -> Result<Vec<Position>, StoreError> {
        self.read("skips", move |tables| tables.skips_of(partition, incarnation)).await
    }

    async fn record_suspension(
        &self,
        partition: u32,
        suspension: &Suspension,
        timestamp_us: i64,
    ) -> Result<(), StoreError> {
        let write = move |world: &World, one| world.tables.lock().suspend(partition, one, timestamp_us);
        self.write("suspension", vec![suspension.clone()], write).await
    }

    async fn suspensions(&self, partition: u32) -> Result<Vec<Suspension>, StoreError> {
        self.read("suspensions", move |tables| tables.suspensions_of(partition)).await
    }

    async fn healthy(&self) -> bool {
        !self.gate.is_cut(Cut::Store) && !self.world.store_is_away()
    }
}
