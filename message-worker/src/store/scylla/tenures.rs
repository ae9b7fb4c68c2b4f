//! Tenures in CQL: lightweight transactions on one row for each partition.

use super::{ScyllaStore, failed, first};
use crate::store::{Owner, StoreError, Tenure};
use carillon_proto::position::{Incarnation, LogGeneration};
use carillon_runtime::database::applied;
use scylla::statement::prepared::PreparedStatement;

/// number, first_sequence, base_us, ground, ground_sequence, epoch, holder (the owner). Columns that later migrations
/// added may be empty.
type Stored = (i32, i64, i64, Option<i32>, Option<i64>, Option<i64>, Option<String>);

impl ScyllaStore {
    pub(super) async fn read_tenure(&self, partition: u32) -> Result<Option<Tenure>, StoreError> {
        self.select_tenure(&self.statements.tenure, partition).await
    }

    pub(super) async fn select_tenure(
        &self,
        statement: &PreparedStatement,
        partition: u32,
    ) -> Result<Option<Tenure>, StoreError> {
        let rows = self.select(statement, (partition as i32,)).await?;
        Ok(first::<Stored>(&rows)?.map(of_stored))
    }

    /// The number of partitions that have tenures, taken from the highest partition id. It is the cluster's number of
    /// partitions, because its workers together take all of them.
    pub(super) async fn worked_partitions(&self) -> Result<Option<u32>, StoreError> {
        let rows = self.select(&self.statements.worked, ()).await?;
        let ids = rows.rows::<(i32,)>().map_err(|error| failed(&error))?;
        Ok(ids.flatten().map(|(id,)| id.unsigned_abs() + 1).max())
    }

    /// Changes a tenure from `previous` to `next`. Returns false if the row was not `previous`.
    pub(super) async fn try_change(
        &self,
        partition: u32,
        previous: Option<&Tenure>,
        next: &Tenure,
    ) -> Result<bool, StoreError> {
        let (id, incarnation) = (partition as i32, next.incarnation);
        let (number, first_sequence, base_us, epoch) = identity(next);
        let generation =
            (incarnation.generation.incarnation as i32, incarnation.generation.first_sequence as i64);
        let owner = next.owner.as_ref().map(Owner::as_str);
        let outcome = match previous {
            None => {
                let values = (number, first_sequence, base_us, generation.0, generation.1, epoch, owner, id);
                self.session.execute_unpaged(&self.statements.insert_tenure, values).await
            }
            Some(previous) => {
                let known = identity(previous);
                let known_owner = previous.owner.as_ref().map(Owner::as_str);
                let values = (
                    number,
                    first_sequence,
                    base_us,
                    generation.0,
                    generation.1,
                    epoch,
                    owner,
                    id,
                    known.0,
                    known.1,
                    known.2,
                    known.3,
                    known_owner,
                );
                self.session.execute_unpaged(&self.statements.update_tenure, values).await
            }
        };
        Ok(applied(outcome.map_err(|error| failed(&error))?))
    }
}

fn identity(tenure: &Tenure) -> (i32, i64, i64, Option<i64>) {
    let Incarnation { number, first_sequence, base_us, .. } = tenure.incarnation;
    let epoch = (tenure.epoch > 0).then_some(tenure.epoch as i64);
    (number as i32, first_sequence as i64, base_us, epoch)
}

fn of_stored((number, first_sequence, base_us, generation, ground_sequence, epoch, owner): Stored) -> Tenure {
    let bare = Incarnation::new(number as u32, first_sequence as u64, base_us);
    let generation = generation.zip(ground_sequence).map(|(incarnation, first_sequence)| LogGeneration {
        incarnation: incarnation as u32,
        first_sequence: first_sequence as u64,
    });
    let incarnation = Incarnation { generation: generation.unwrap_or(bare.generation), ..bare };
    Tenure { incarnation, epoch: epoch.unwrap_or(0) as u64, owner: owner.map(Owner::stored) }
}
