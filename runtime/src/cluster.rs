//! The mark of a cluster, which its database (or data directory) and its bus carry. A process whose settings, database
//! or bus do not match the mark is refused before it does anything (`docs/decisions/0014-a-cluster-has-a-mark.md`).

use std::collections::HashMap;
use std::fmt;
use uuid::Uuid;

/// The keys of a stream's metadata that hold the mark.
const KEY_ID: &str = "carillon.cluster";
const KEY_PARTITIONS: &str = "carillon.partitions";

/// A cluster's random id, created when its database or data directory is first used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterId(Uuid);

impl ClusterId {
    /// A new id.
    pub fn random() -> ClusterId {
        ClusterId(Uuid::new_v4())
    }

    /// The id in `text`; `None` if it is not a UUID.
    pub fn parse(text: &str) -> Option<ClusterId> {
        Uuid::try_parse(text).ok().map(ClusterId)
    }

    /// The id from its bytes.
    pub fn of_bytes(bytes: [u8; 16]) -> ClusterId {
        ClusterId(Uuid::from_bytes(bytes))
    }

    /// The id's bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The facts about a cluster that never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The cluster's id.
    pub id: ClusterId,
    /// The number of partitions. It decides in which log a conversation is.
    pub partitions: u32,
}

impl Mark {
    /// The mark of a new cluster.
    pub fn new(partitions: u32) -> Mark {
        Mark { id: ClusterId::random(), partitions }
    }

    /// The mark in a stream's metadata, if there is one.
    pub fn of_metadata(metadata: &HashMap<String, String>) -> Option<Mark> {
        let id = ClusterId::parse(metadata.get(KEY_ID)?)?;
        Some(Mark { id, partitions: metadata.get(KEY_PARTITIONS)?.parse().ok()? })
    }

    /// Adds the mark to a stream's metadata.
    pub fn put_into(&self, metadata: &mut HashMap<String, String>) {
        metadata.insert(KEY_ID.into(), self.id.to_string());
        metadata.insert(KEY_PARTITIONS.into(), self.partitions.to_string());
    }

    /// Checks the settings' number of partitions against the cluster's, which is read from `place`.
    ///
    /// # Errors
    /// When the numbers differ.
    pub fn check_partitions(&self, place: impl fmt::Display, wanted: u32) -> Result<(), Misfit> {
        if self.partitions == wanted {
            return Ok(());
        }
        Err(Misfit::OtherPartitions { place: place.to_string(), found: self.partitions, wanted })
    }

    /// Checks that the bus, which carries the mark `found`, belongs to this cluster.
    ///
    /// # Errors
    /// When it belongs to another cluster, or has another number of partitions.
    pub fn check_bus(&self, bus: impl fmt::Display, found: &Mark) -> Result<(), Misfit> {
        if self.id == found.id {
            return found.check_partitions(bus, self.partitions);
        }
        Err(Misfit::OtherCluster { bus: bus.to_string(), found: found.id, ours: self.id })
    }
}

/// Why a process must not join this cluster. Trying again cannot help. Each text is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// This process would look for conversations in the wrong logs.
    #[error(
        "{place} has {found} partitions, and the settings say {wanted}: set partitions to {found}, for the number is \
         fixed once a cluster has been used"
    )]
    OtherPartitions {
        /// Where the found number was read.
        place: String,
        /// The cluster's number of partitions.
        found: u32,
        /// The settings' number of partitions.
        wanted: u32,
    },
    /// Two clusters would work on each other's logs.
    #[error(
        "{bus} belongs to cluster {found}, and this is {ours}: set nats.prefix to a name that no other cluster there \
         has, or delete its streams if that cluster is gone"
    )]
    OtherCluster {
        /// The bus's name for users.
        bus: String,
        /// The cluster to which the bus belongs.
        found: ClusterId,
        /// The cluster to which the database or data directory belongs.
        ours: ClusterId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_from_metadata_as_it_was_written() {
        let mark = Mark::new(16);
        let mut metadata = HashMap::from([("mine".to_owned(), "the operator's".to_owned())]);
        assert_eq!(Mark::of_metadata(&metadata), None);
        mark.put_into(&mut metadata);
        assert_eq!((Mark::of_metadata(&metadata), metadata.len()), (Some(mark), 3));
        metadata.insert(KEY_PARTITIONS.into(), "many".into());
        assert_eq!(Mark::of_metadata(&metadata), None);
        assert_ne!(Mark::new(16), mark);
        assert_eq!(ClusterId::of_bytes(*mark.id.as_bytes()), mark.id);
    }

    #[test]
    fn a_misfit_is_one_line_that_names_the_remedy() {
        let ours = Mark::new(16);
        assert_eq!(ours.check_partitions("keyspace carillon", 16), Ok(()));
        let other = ours
            .check_partitions("keyspace carillon", 32)
            .expect_err("another number of partitions is refused")
            .to_string();
        assert!(
            other.contains("keyspace carillon has 16 partitions") && other.contains("set partitions to 16")
        );

        assert_eq!(ours.check_bus("nats", &ours), Ok(()));
        let theirs = Mark::new(16);
        let foreign = ours.check_bus("nats", &theirs).expect_err("another cluster").to_string();
        assert!(foreign.contains(&format!("belongs to cluster {}", theirs.id)), "{foreign}");
        assert!(foreign.contains("set nats.prefix") && !foreign.contains('\n'), "{foreign}");
        let fewer = Mark { partitions: 8, ..ours };
        assert!(matches!(ours.check_bus("nats", &fewer), Err(Misfit::OtherPartitions { .. })));
    }
}
