//! Seals in CQL. A lightweight transaction decides the seal, and deletions with its timestamp make the rows void that
//! it does not count.

use carillon_proto::id::ConversationId;

use super::events::{BUCKET_ROWS, bigint, bucket};
use super::{ScyllaStore, failed, first};
use crate::store::{SEALED_ROWS_MAX, Seal, StoreError};
use carillon_runtime::database::applied;
use scylla::statement::prepared::PreparedStatement;

// The rows to delete above a seal begin in the seal's bucket and end in the next one at the latest.
const _: () = assert!(SEALED_ROWS_MAX <= BUCKET_ROWS);

impl ScyllaStore {
    /// See [`crate::store::Store::seal`].
    pub(super) async fn seal_rows(
        &self,
        conversation: &ConversationId,
        previous: Option<Seal>,
        next: Seal,
        timestamp_us: i64,
    ) -> Result<Seal, StoreError> {
        let in_force = self.decide_seal(conversation.as_str(), previous, next).await?;
        if in_force.incarnation == next.incarnation {
            self.shut_out(conversation.as_str(), in_force, timestamp_us).await?;
        }
        Ok(in_force)
    }

    async fn decide_seal(
        &self,
        conversation: &str,
        mut previous: Option<Seal>,
        next: Seal,
    ) -> Result<Seal, StoreError> {
        loop {
            if self.try_seal(conversation, previous, next).await? {
                return Ok(next);
            }
            if let Some(in_force) = self.read_seal(&self.statements.seal, conversation).await? {
                return Ok(in_force);
            }
            // `previous` came from a head, but the database has lost that seal. Seal as if there had been none.
            previous = None;
        }
    }

    pub(super) async fn read_seal(
        &self,
        statement: &PreparedStatement,
        conversation: &str,
    ) -> Result<Option<Seal>, StoreError> {
        let rows = self.select(statement, (conversation,)).await?;
        let seal = first::<(i32, bool, i64)>(&rows)?;
        Ok(seal.map(|(incarnation, created, seq)| Seal {
            incarnation: incarnation as u32,
            created,
            seq: seq as u64,
        }))
    }

    async fn try_seal(
        &self,
        conversation: &str,
        previous: Option<Seal>,
        next: Seal,
    ) -> Result<bool, StoreError> {
        let (incarnation, seq) = (next.incarnation as i32, bigint(next.seq));
        let statements = &self.statements;
        let outcome = match previous {
            None => {
                let values = (conversation, incarnation, next.created, seq);
                self.session.execute_unpaged(&statements.insert_seal, values).await
            }
            Some(Seal { incarnation: known, created, seq: known_seq }) => {
                let known = (known as i32, created, bigint(known_seq));
                let values = (incarnation, next.created, seq, conversation, known.0, known.1, known.2);
                self.session.execute_unpaged(&statements.update_seal, values).await
            }
        };
        Ok(applied(outcome.map_err(|error| failed(&error))?))
    }

    /// Deletes the rows that a seal does not count. The deletions also hide such rows if they arrive later. Every
    /// worker that is returned this seal repeats the deletions, because the worker that decided it may have stopped
    /// before them.
    async fn shut_out(&self, conversation: &str, seal: Seal, timestamp_us: i64) -> Result<(), StoreError> {
        let Seal { created, seq, .. } = seal;
        let last = if seq == 0 && !created { -1 } else { bigint(seq) };
        let above = |bucket| {
            let values = (timestamp_us, conversation, bucket, last);
            self.write(&self.statements.delete_events_above, values)
        };
        let creation = async {
            if created || seq == 0 {
                return Ok(());
            }
            self.write(&self.statements.delete_event, (timestamp_us, conversation, bucket(0), 0_i64)).await
        };
        let here = bucket(seq);
        tokio::try_join!(above(here), above(here.saturating_add(1)), creation).map(|_| ())
    }
}
