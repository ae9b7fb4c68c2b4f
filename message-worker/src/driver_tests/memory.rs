//! An in-memory store that keeps the promises of the trait and no more. Its calls can fail before or after they have
//! written, can wait, and can stop in the middle as in a crash.

pub(super) use super::faults::{Call, Fault};
use super::tables::Tables;
use crate::store::{
    Author, Checkpoint, EventRow, LoadedConversation, PartitionState, Projection, Seal, SentRow, Store,
    StoreError, Suspension, Tenure,
};
use async_trait::async_trait;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::partition::stable_hash;
use carillon_proto::position::Position;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Default)]
struct State {
    tables: Tables,
    faults: HashMap<Call, VecDeque<Fault>>,
    /// Cells that may still be written. At 0, every write waits for ever.
    fuse: Option<usize>,
    /// Rows that were written with other bytes at an existing row's timestamp. This must never happen.
    torn: Vec<EventRow>,
    calls: Vec<Call>,
    /// Conversations that cannot be read, as if their token range had no quorum. `*`: nothing can be read.
    unreadable: BTreeSet<String>,
    loading: usize,
    loading_most: usize,
    /// The tables as on disk, after [`MemoryStore::be_lazy`]: projections reach the disk only with the rows or
    /// checkpoints after them.
    disk: Option<Tables>,
    /// The seed of the delays of calls; 0 means no delays.
    unevenness: u64,
}

pub(super) struct MemoryStore {
    state: Arc<Mutex<State>>,
    held: watch::Sender<BTreeSet<Call>>,
}

impl MemoryStore {
    pub(super) fn new() -> Arc<MemoryStore> {
        Arc::new(MemoryStore { state: Arc::default(), held: watch::Sender::default() })
    }

    /// The same store as another process sees it: [`MemoryStore::hold`] affects only one of the two.
    pub(super) fn twin(&self) -> Arc<MemoryStore> {
        Arc::new(MemoryStore { state: self.state.clone(), held: watch::Sender::default() })
    }

    /// Makes the next calls of this kind fail, each with the next of these faults.
    pub(super) fn fail(&self, call: Call, faults: &[Fault]) {
        self.state.lock().faults.entry(call).or_default().extend(faults);
    }

    /// Makes a conversation unreadable. `*`: nothing can be read.
    pub(super) fn lose_quorum(&self, of: &str) {
        self.state.lock().unreadable.insert(of.to_owned());
    }

    /// Makes everything readable again.
    pub(super) fn regain_quorum(&self) {
        self.state.lock().unreadable.clear();
    }

    fn reach(&self, of: &str) -> Result<(), StoreError> {
        let lost = &self.state.lock().unreadable;
        if lost.contains(of) || lost.contains("*") { Err(StoreError("no quorum".into())) } else { Ok(()) }
    }

    /// Makes calls of this kind wait.
    pub(super) fn hold(&self, call: Call) {
        self.held.send_modify(|held| held.extend([call]));
    }

    /// Lets calls of this kind go on.
    pub(super) fn release(&self, call: Call) {
        self.held.send_modify(|held| held.retain(|other| *other != call));
    }

    /// From now on projections are durable only with the rows or checkpoints that are written after them.
    pub(super) fn be_lazy(&self) {
        let state = &mut *self.state.lock();
        state.disk = Some(state.tables.clone());
    }

    /// Drops everything that is not on disk.
    pub(super) fn lose_power(&self) {
        let state = &mut *self.state.lock();
        state.tables = state.disk.clone().expect("the store keeps a separate copy for the disk");
    }

    /// After this many more cells, every write waits for ever.
    pub(super) fn crash_after(&self, cells: usize) {
        self.state.lock().fuse = Some(cells);
    }

    /// Lets writes go through again.
    pub(super) fn repair(&self) {
        self.state.lock().fuse = None;
    }

    /// Whether the cells of [`MemoryStore::crash_after`] are used up.
    pub(super) fn has_crashed(&self) -> bool {
        self.state.lock().fuse == Some(0)
    }

    pub(super) fn tables(&self) -> Tables {
        self.state.lock().tables.clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Tables)) {
        change(&mut self.state.lock().tables);
    }

    pub(super) fn torn(&self) -> Vec<EventRow> {
        self.state.lock().torn.clone()
    }

    pub(super) fn count(&self, call: Call) -> usize {
        self.state.lock().calls.iter().filter(|made| **made == call).count()
    }

    /// The largest number of conversations that were loaded at the same time.
    pub(super) fn loading_most(&self) -> usize {
        self.state.lock().loading_most
    }

    /// The checkpoint of partition 0.
    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        self.state.lock().tables.partitions.get(&0).and_then(|state| state.checkpoint)
    }

    /// Delays calls by times that follow from `seed`.
    pub(super) fn unevenly(&self, seed: u64) {
        self.state.lock().unevenness = seed;
    }

    async fn enter(&self, call: Call) {
        let turns = {
            let state = &mut *self.state.lock();
            state.calls.push(call);
            state.unevenness = state.unevenness.wrapping_mul(6_364_136_223_846_793_005);
            state.unevenness >> 61
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held.contains(&call)).await.expect("the store outlives its calls");
    }

    /// Writes cells one by one, as far as the faults and `fuse` allow.
    async fn write<C>(
        &self,
        call: Call,
        cells: Vec<C>,
        mut cell: impl FnMut(&mut State, C),
    ) -> Result<(), StoreError> {
        self.enter(call).await;
        let (fault, blown) = {
            let state = &mut *self.state.lock();
            let fault = state.faults.get_mut(&call).and_then(VecDeque::pop_front);
            let count = match fault {
                Some(Fault::Panic) => panic!("panic requested by the test"),
                Some(Fault::Lost) => 0,
                Some(Fault::Half) => cells.len() / 2,
                Some(Fault::Lied) | None => cells.len(),
            };
            let mut blown = false;
            for value in cells.into_iter().take(count) {
                blown = state.fuse == Some(0);
                if blown {
                    break;
                }
                state.fuse = state.fuse.map(|left| left - 1);
                cell(state, value);
            }
            if call != Call::Project && state.disk.is_some() {
                state.disk = Some(state.tables.clone());
            }
            (fault, blown || state.fuse == Some(0))
        };
        if blown {
            std::future::pending::<()>().await;
        }
        fault.map_or(Ok(()), |fault| Err(StoreError(format!("{call:?}: {fault:?}"))))
    }

    async fn read<T>(&self, call: Call, read: impl FnOnce(&Tables) -> T) -> Result<T, StoreError> {
        self.enter(call).await;
        let state = &mut *self.state.lock();
        match state.faults.get_mut(&call).and_then(VecDeque::pop_front) {
            Some(fault) => Err(StoreError(format!("{call:?}: {fault:?}"))),
            None => Ok(read(&state.tables)),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn append(&self, rows: Vec<EventRow>) -> Result<(), StoreError> {
        // The rows of a group are written one by one and in another order, because the trait promises neither atomicity
        // nor order.
        let (seed, mut rows) = (self.state.lock().unevenness, rows);
        rows.sort_by_key(|row| stable_hash(&format!("{seed} {:?}", row.position)));
        self.write(Call::Append, rows, |state, row| state.torn.extend(state.tables.write_event(row))).await
    }

    async fn events_after(
        &self,
        conversation: &ConversationId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.read(Call::Read, |tables| {
            let row = |seq| tables.events.get(&(conversation.as_str().to_owned(), seq)).cloned();
            (after_seq + 1..).map_while(row).take(limit).collect()
        })
        .await
    }

    async fn events_before(
        &self,
        conversation: &ConversationId,
        before_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.read(Call::Read, |tables| {
            let id = || conversation.as_str().to_owned();
            let rows = tables.events.range((id(), 1)..(id(), before_seq.max(1)));
            let mut rows: Vec<EventRow> = rows.rev().take(limit).map(|(_, row)| row.clone()).collect();
            rows.reverse();
            rows
        })
        .await
    }

    async fn event(&self, conversation: &ConversationId, seq: u64) -> Result<Option<EventRow>, StoreError> {
        self.read(Call::Read, |tables| tables.events.get(&(conversation.as_str().to_owned(), seq)).cloned())
            .await
    }

    async fn seal(
        &self,
        conversation: &ConversationId,
        previous: Option<Seal>,
        next: Seal,
        timestamp_us: i64,
    ) -> Result<Seal, StoreError> {
        let (mut in_force, id) = (next, conversation.as_str());
        self.write(Call::Seal, vec![next], |state, next| {
            in_force = state.tables.seal(id, previous, next, timestamp_us);
        })
        .await?;
        Ok(in_force)
    }

    async fn known_seal(&self, conversation: &ConversationId) -> Result<Option<Seal>, StoreError> {
        self.read(Call::Read, |tables| tables.seals.get(conversation.as_str()).copied()).await
    }

    async fn project(&self, projections: Vec<Projection>) -> Result<(), StoreError> {
        self.write(Call::Project, projections, |state, cell| state.tables.project(cell)).await
    }

    async fn load(&self, conversation: &ConversationId) -> Result<LoadedConversation, StoreError> {
        self.reach(conversation.as_str())?;
        {
            let state = &mut *self.state.lock();
            state.loading += 1;
            state.loading_most = state.loading_most.max(state.loading);
        }
        let head = self
            .read(Call::Load, |tables| tables.heads.get(conversation.as_str()).map(|(_, blob)| blob.clone()));
        let head = head.await;
        // Head and participants are two reads, in the order that the trait promises.
        let participants =
            self.read(Call::Read, |tables| tables.participants_of(conversation.as_str())).await;
        self.state.lock().loading -= 1;
        Ok(LoadedConversation { head: head?, participants: participants? })
    }

    async fn sent(
        &self,
        conversation: &ConversationId,
        sender: &Author,
        limit: usize,
    ) -> Result<Vec<SentRow>, StoreError> {
        let key = (conversation.as_str().to_owned(), sender.as_str().to_owned());
        self.read(Call::Read, |tables| {
            tables
                .sent
                .get(&key)
                .map(|rows| rows.values().rev().take(limit).cloned().collect())
                .unwrap_or_default()
        })
        .await
    }

    async fn conversations_of(
        &self,
        user: &UserId,
        cursor: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, StoreError> {
        self.read(Call::Read, |tables| {
            let theirs = tables
                .participants
                .iter()
                .filter(|((_, name), (_, present))| *present && name == user.as_str());
            let above =
                theirs.filter(|((id, _), _)| cursor.is_none_or(|cursor| id.as_str() > cursor.as_str()));
            above.take(limit).map(|((id, _), _)| ConversationId::parse(id).expect("stored")).collect()
        })
        .await
    }

    async fn partition(&self, partition: u32) -> Result<PartitionState, StoreError> {
        self.reach("")?;
        self.read(Call::Read, |tables| tables.partitions.get(&partition).cloned().unwrap_or_default()).await
    }

    async fn tenure(&self, partition: u32) -> Result<Option<Tenure>, StoreError> {
        self.partition(partition).await.map(|state| state.tenure)
    }

    async fn change_tenure(
        &self,
        partition: u32,
        previous: Option<Tenure>,
        next: Tenure,
    ) -> Result<Tenure, StoreError> {
        let tables = &mut self.state.lock().tables;
        let state = tables.partitions.entry(partition).or_default();
        if state.tenure == previous {
            state.tenure = Some(next.clone());
        }
        Ok(state.tenure.clone().unwrap_or(next))
    }

    async fn checkpoint(&self, partition: u32, checkpoint: Checkpoint) -> Result<(), StoreError> {
        self.write(Call::Checkpoint, vec![checkpoint], |state, checkpoint| {
            let there = state.tables.partitions.entry(partition).or_default();
            if there.checkpoint.is_none_or(|there| there.timestamp_us <= checkpoint.timestamp_us) {
                there.checkpoint = Some(checkpoint);
            }
        })
        .await
    }

    async fn record_skip(&self, partition: u32, position: Position, _reason: &str) -> Result<(), StoreError> {
        self.write(Call::Skip, vec![position], |state, position| {
            state.tables.skips.entry(partition).or_default().insert(position);
        })
        .await
    }

    async fn skips(&self, partition: u32, incarnation: u32) -> Result<Vec<Position>, StoreError> {
        self.read(Call::Read, |tables| {
            let skips = tables.skips.get(&partition).into_iter().flatten();
            skips.filter(|position| position.incarnation == incarnation).copied().collect()
        })
        .await
    }

    async fn record_suspension(
        &self,
        partition: u32,
        suspension: &Suspension,
        timestamp_us: i64,
    ) -> Result<(), StoreError> {
        self.write(Call::Skip, vec![suspension.clone()], |state, suspension| {
            let key = (partition, suspension.conversation.to_string());
            let there = state.tables.suspensions.entry(key).or_insert((i64::MIN, suspension.clone()));
            if there.0 <= timestamp_us {
                *there = (timestamp_us, suspension);
            }
        })
        .await
    }

    async fn suspensions(&self, partition: u32) -> Result<Vec<Suspension>, StoreError> {
        self.read(Call::Read, |tables| {
            let here = tables.suspensions.iter().filter(|((of, _), _)| *of == partition);
            here.map(|(_, (_, suspension))| suspension.clone()).collect()
        })
        .await
    }

    async fn healthy(&self) -> bool {
        true
    }
}
