//! The mark of the cluster that owns a directory's data. It is one row, written once.

use super::key;
use super::row::{self, Rows};
use super::{EmbeddedStore, starting_with};
use crate::store::StoreError;
use carillon_runtime::cluster::Mark;

impl EmbeddedStore {
    /// Reads the mark of the cluster that owns the data, and writes one if there is none. A new mark has as many
    /// partitions as have tenures in a directory from before marks existed, and otherwise `partitions`, which comes
    /// from the settings.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub async fn mark_or_make(&self, partitions: u32) -> Result<Mark, StoreError> {
        if let Some(mark) = self.shared.get(key::MARK)?.as_deref().and_then(row::read_mark) {
            return Ok(mark);
        }
        let mut worked = None;
        self.shared.scan(starting_with(key::PARTITIONS.to_vec()), false, usize::MAX, |key, _| {
            worked = worked.max(key::read_incarnation_key(key).map(|partition| partition + 1));
            true
        })?;
        // Only this process uses the directory, so no other mark can be written meanwhile.
        let mark = Mark::new(worked.unwrap_or(partitions));
        let mut rows = Rows::default();
        rows.put_mark(&mark);
        self.write(rows.into_bytes()).await?;
        Ok(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, Tenure};
    use carillon_proto::position::Incarnation;

    #[tokio::test]
    async fn a_directory_is_marked_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || EmbeddedStore::open(directory.path()).expect("opened");
        let mark = open().mark_or_make(16).await.expect("marked");
        assert_eq!(mark.partitions, 16);
        assert_eq!(
            open().mark_or_make(32).await,
            Ok(mark),
            "the mark is kept when the store is opened again"
        );
    }

    #[tokio::test]
    async fn a_directory_without_a_mark_gets_as_many_partitions_as_have_tenures() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(directory.path()).expect("opened");
        for partition in [0, 7, 300] {
            let tenure = Tenure { incarnation: Incarnation::new(1, 1, 1), epoch: 1, owner: None };
            store.change_tenure(partition, None, tenure).await.expect("the tenure is written");
        }
        assert_eq!(store.mark_or_make(16).await.expect("marked").partitions, 301);
    }
}
