//! Suspensions in the embedded store: one row for each conversation. The row stays when the suspension has ended.

use super::EmbeddedStore;
use super::key;
use super::ranges::starting_with;
use super::row::{self, Rows};
use crate::store::{StoreError, Suspension};

impl EmbeddedStore {
    pub(super) async fn write_suspension(
        &self,
        partition: u32,
        suspension: &Suspension,
        timestamp_us: i64,
    ) -> Result<(), StoreError> {
        let mut rows = Rows::default();
        rows.put_suspension(partition, suspension, timestamp_us);
        self.write(rows.into_bytes()).await
    }

    pub(super) async fn read_suspensions(&self, partition: u32) -> Result<Vec<Suspension>, StoreError> {
        self.read(usize::MAX, move |shared| {
            let mut suspensions = Vec::new();
            shared.scan(starting_with(key::suspensions(partition)), false, usize::MAX, |key, value| {
                suspensions.extend(row::read_suspension(partition, key, value));
                true
            })?;
            Ok(suspensions)
        })
        .await
    }
}
