//! The store on ScyllaDB, in CQL that Apache Cassandra 5 accepts too.
//!
//! Rows, projections and deletions are written at QUORUM with the timestamp of their log position, so that repeating a
//! write changes nothing. Only the tables of incarnations and seals use lightweight transactions. A batch stays within
//! one database partition. All other writes are single statements, with some of them in flight at once.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use carillon_proto::id::{ConversationId, Tag, UserId};
use carillon_proto::position::{Incarnation, Position};
use carillon_runtime::cluster::Mark;
use carillon_runtime::database::{
    self, DatabaseConfig, DatabaseError, Durability, connect, durability, one_line,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::query_result::QueryRowsResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use super::{
    Author, Checkpoint, EventRow, FIRST_VERSION, LoadedConversation, PartitionState, Projection, Seal,
    SentRow, Store, StoreError, Suspension, Tenure,
};
use statements::Statements;

mod events;
mod seals;
mod statements;
mod suspensions;
mod tenures;

/// Maximum statements of one call in flight at once: enough to keep a few shards busy, too few to be a burst.
const CONCURRENCY_MAX: usize = 32;

/// The store of conversations in a keyspace.
pub struct ScyllaStore {
    session: Arc<Session>,
    statements: Statements,
    keyspace: String,
}

/// Converts an error of the driver.
fn failed(error: &impl std::fmt::Display) -> StoreError {
    StoreError(one_line(error))
}

impl ScyllaStore {
    /// Connects to the keyspace. `carillon migrate` must have made its schema.
    ///
    /// # Errors
    /// When no node answers or the schema does not exist.
    pub async fn connect(config: &DatabaseConfig) -> Result<Arc<ScyllaStore>, DatabaseError> {
        let session = connect(&config.nodes, &config.keyspace).await?;
        let statements = Statements::prepare(&session).await?;
        Ok(Arc::new(ScyllaStore { session, statements, keyspace: config.keyspace.clone() }))
    }

    /// Reads how durably the database keeps acknowledged writes.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn durability(&self) -> Result<Durability, DatabaseError> {
        durability(&self.session, &self.keyspace).await
    }

    /// Reads the mark of the cluster that owns this database. `None` before the cluster's first worker has started.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn mark(&self) -> Result<Option<Mark>, DatabaseError> {
        database::mark(&self.session).await
    }

    /// Reads the mark, and writes one if there is none. A new mark has as many partitions as have tenures in a database
    /// from before marks existed, and otherwise `partitions`, which comes from the settings.
    ///
    /// # Errors
    /// When the database cannot be used. Try again.
    pub async fn mark_or_make(&self, partitions: u32) -> anyhow::Result<Mark> {
        if let Some(mark) = self.mark().await? {
            return Ok(mark);
        }
        let worked = self.worked_partitions().await?;
        Ok(database::put_mark(&self.session, Mark::new(worked.unwrap_or(partitions))).await?)
    }

    async fn write(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), StoreError> {
        self.session.execute_unpaged(statement, values).await.map(|_| ()).map_err(|error| failed(&error))
    }

    async fn select(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryRowsResult, StoreError> {
        let result = self.session.execute_unpaged(statement, values).await.map_err(|error| failed(&error))?;
        result.into_rows_result().map_err(|error| failed(&error))
    }

    async fn read_head(&self, conversation: &ConversationId) -> Result<Option<Bytes>, StoreError> {
        let rows = self.select(&self.statements.head, (conversation.as_str(),)).await?;
        Ok(first::<(&[u8],)>(&rows)?.map(|(blob,)| Bytes::copy_from_slice(blob)))
    }

    async fn read_checkpoint(&self, partition: u32) -> Result<Option<Checkpoint>, StoreError> {
        let rows = self.select(&self.statements.checkpoint, (partition as i32,)).await?;
        let Some(row) = first::<(i32, i64, i32, &[u8], i64, Option<i32>)>(&rows)? else {
            return Ok(None);
        };
        let (incarnation, sequence, index, tag, timestamp_us, version) = row;
        let tag = tag
            .try_into()
            .map_err(|_| StoreError(format!("the tag of checkpoint {partition} is cut off")))?;
        let position =
            Position { incarnation: incarnation as u32, sequence: sequence as u64, index: index as u32 };
        // Checkpoints from before versions were recorded have no version.
        let version = version.map_or(FIRST_VERSION, |version| version as u32);
        Ok(Some(Checkpoint { position, tag: Tag(tag), timestamp_us, version }))
    }

    async fn write_projection(&self, projection: Projection) -> Result<(), StoreError> {
        let statements = &self.statements;
        match projection {
            Projection::Head { conversation, timestamp_us, blob } => {
                let values = (conversation.as_str(), &blob[..], timestamp_us);
                self.write(&statements.insert_head, values).await
            }
            Projection::Participant { conversation, user, timestamp_us, present } => {
                self.write_participant(conversation.as_str(), user.as_str(), timestamp_us, present).await
            }
            Projection::Sent { conversation, sender, timestamp_us, time_ms, client_id, seq } => {
                let key = (conversation.as_str(), sender.as_str(), timestamp_us);
                let (time_ms, client_id, seq) = (time_ms as i64, client_id.as_str(), seq as i64);
                let values = (key.0, key.1, key.2, time_ms, client_id, seq, timestamp_us);
                self.write(&statements.insert_sent, values).await
            }
        }
    }

    async fn write_participant(
        &self,
        conversation: &str,
        participant: &str,
        timestamp_us: i64,
        present: bool,
    ) -> Result<(), StoreError> {
        let statements = &self.statements;
        if present {
            self.write(&statements.insert_participant, (conversation, participant, timestamp_us)).await?;
            self.write(&statements.insert_conversation, (participant, conversation, timestamp_us)).await
        } else {
            self.write(&statements.delete_participant, (timestamp_us, conversation, participant)).await?;
            self.write(&statements.delete_conversation, (timestamp_us, participant, conversation)).await
        }
    }

    /// Reads all values of a single-column select, over all its pages.
    async fn all_texts(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Vec<String>, StoreError> {
        let pager =
            self.session.execute_iter(statement.clone(), values).await.map_err(|error| failed(&error))?;
        let rows = pager.rows_stream::<(String,)>().map_err(|error| failed(&error))?;
        rows.map_ok(|(text,)| text).try_collect().await.map_err(|error| failed(&error))
    }
}

fn first<'rows, R: DeserializeRow<'rows, 'rows>>(
    rows: &'rows QueryRowsResult,
) -> Result<Option<R>, StoreError> {
    rows.maybe_first_row().map_err(|error| failed(&error))
}

#[async_trait]
impl Store for ScyllaStore {
    async fn clock_ms(&self) -> Result<Option<u64>, StoreError> {
        let rows = self.select(&self.statements.clock, ()).await?;
        Ok(first::<(i64,)>(&rows)?.and_then(|(now_ms,)| u64::try_from(now_ms).ok()))
    }

    async fn append(&self, rows: Vec<EventRow>) -> Result<(), StoreError> {
        self.append_rows(rows).await
    }

    async fn events_after(
        &self,
        conversation: &ConversationId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.rows_after(conversation, after_seq, limit).await
    }

    async fn events_before(
        &self,
        conversation: &ConversationId,
        before_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.rows_before(conversation, before_seq, limit).await
    }

    async fn event(&self, conversation: &ConversationId, seq: u64) -> Result<Option<EventRow>, StoreError> {
        let values = (conversation.as_str(), events::bucket(seq), events::bigint(seq));
        let rows = self.select_events(conversation, &self.statements.event, values).await?;
        Ok(rows.into_iter().next())
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
        self.read_seal(&self.statements.known_seal, conversation.as_str()).await
    }

    async fn project(&self, projections: Vec<Projection>) -> Result<(), StoreError> {
        // The order does not matter here: of two writes to one row the higher timestamp wins.
        let writes = projections.into_iter().map(|projection| self.write_projection(projection));
        stream::iter(writes).buffer_unordered(CONCURRENCY_MAX).try_collect::<()>().await
    }

    async fn load(&self, conversation: &ConversationId) -> Result<LoadedConversation, StoreError> {
        // The head is read first. Participants that are newer than the head are corrected by the rows above it; a head
        // newer than the participants could not be corrected.
        let head = self.read_head(conversation).await?;
        let participants = self.all_texts(&self.statements.participants, (conversation.as_str(),)).await?;
        let participants = participants.iter().filter_map(|id| UserId::parse(id).ok()).collect();
        Ok(LoadedConversation { head, participants })
    }

    async fn sent(
        &self,
        conversation: &ConversationId,
        sender: &Author,
        limit: usize,
    ) -> Result<Vec<SentRow>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let values = (conversation.as_str(), sender.as_str(), i32::try_from(limit).unwrap_or(i32::MAX));
        let rows = self.select(&self.statements.sent, values).await?;
        let rows = rows.rows::<(String, i64, i64)>().map_err(|error| failed(&error))?;
        rows.map(|row| {
            let (client_id, seq, time_ms) = row.map_err(|error| failed(&error))?;
            Ok(SentRow { client_id, seq: seq as u64, time_ms: time_ms as u64 })
        })
        .collect()
    }

    async fn conversations_of(
        &self,
        user: &UserId,
        cursor: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let cursor = cursor.map_or("", ConversationId::as_str);
        let values = (user.as_str(), cursor, i32::try_from(limit).unwrap_or(i32::MAX));
        let ids = self.all_texts(&self.statements.conversations, values).await?;
        Ok(ids.iter().filter_map(|id| ConversationId::parse(id).ok()).collect())
    }

    async fn partition(&self, partition: u32) -> Result<PartitionState, StoreError> {
        let tenure = self.read_tenure(partition).await?;
        let checkpoint = self.read_checkpoint(partition).await?;
        Ok(PartitionState { tenure, checkpoint })
    }

    async fn tenure(&self, partition: u32) -> Result<Option<Tenure>, StoreError> {
        self.read_tenure(partition).await
    }

    async fn incarnation(&self, partition: u32) -> Result<Option<Incarnation>, StoreError> {
        let tenure = self.select_tenure(&self.statements.incarnation, partition).await?;
        Ok(tenure.map(|tenure| tenure.incarnation))
    }

    async fn change_tenure(
        &self,
        partition: u32,
        previous: Option<Tenure>,
        next: Tenure,
    ) -> Result<Tenure, StoreError> {
        if self.try_change(partition, previous.as_ref(), &next).await? {
            return Ok(next);
        }
        let in_force = self.read_tenure(partition).await?;
        in_force.ok_or_else(|| {
            StoreError(format!("partition {partition} has no tenure, and {previous:?} was expected"))
        })
    }

    async fn checkpoint(&self, partition: u32, checkpoint: Checkpoint) -> Result<(), StoreError> {
        let Checkpoint { position, tag, timestamp_us, version } = checkpoint;
        let Position { incarnation, sequence, index } = position;
        let position = (incarnation as i32, sequence as i64, index as i32);
        let values = (
            partition as i32,
            position.0,
            position.1,
            position.2,
            &tag.0[..],
            timestamp_us,
            version as i32,
            timestamp_us,
        );
        self.write(&self.statements.insert_checkpoint, values).await
    }

    async fn record_skip(&self, partition: u32, position: Position, reason: &str) -> Result<(), StoreError> {
        let Position { incarnation, sequence, index } = position;
        let values = (partition as i32, incarnation as i32, sequence as i64, index as i32, reason);
        self.write(&self.statements.insert_skip, values).await
    }

    async fn skips(&self, partition: u32, incarnation: u32) -> Result<Vec<Position>, StoreError> {
        let rows = self.select(&self.statements.skips, (partition as i32, incarnation as i32)).await?;
        let rows = rows.rows::<(i64, i32)>().map_err(|error| failed(&error))?;
        rows.map(|row| {
            let (sequence, index) = row.map_err(|error| failed(&error))?;
            Ok(Position { incarnation, sequence: sequence as u64, index: index as u32 })
        })
        .collect()
    }

    async fn record_suspension(
        &self,
        partition: u32,
        suspension: &Suspension,
        timestamp_us: i64,
    ) -> Result<(), StoreError> {
        self.write_suspension(partition, suspension, timestamp_us).await
    }

    async fn suspensions(&self, partition: u32) -> Result<Vec<Suspension>, StoreError> {
        self.read_suspensions(partition).await
    }

    async fn healthy(&self) -> bool {
        // Read one row at QUORUM, because every commit needs a QUORUM too.
        self.read_checkpoint(0).await.is_ok()
    }
}
