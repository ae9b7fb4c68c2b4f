//! What makes processes one cluster: a mark that its database carries, or its data directory, and that its bus carries
//! too. A process whose settings or surroundings do not fit the mark is refused before it does anything
//! (`docs/decisions/0014-a-cluster-has-a-mark.md`).

use std::collections::HashMap;
use std::fmt;
use uuid::Uuid;

/// The keys of a stream's metadata under which a bus carries the mark.
const KEY_ID: &str = "carillon.cluster";
const KEY_PARTITIONS: &str = "carillon.partitions";

/// A cluster's name for itself: random, made when its database or data directory is first used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterId(Uuid);

impl ClusterId {
    /// One that nobody has.
    pub fn random() -> ClusterId {
        ClusterId(Uuid::new_v4())
    }

    /// The id that `text` is.
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

/// What never changes about a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which one it is.
    pub id: ClusterId,
    /// Into how many partitions its conversations are divided: each is in the log that this number leads to.
    pub partitions: u32,
}

impl Mark {
    /// The mark of a cluster that begins now.
    pub fn new(partitions: u32) -> Mark {
        Mark { id: ClusterId::random(), partitions }
    }

    /// The mark that a stream's metadata carry, if they carry one.
    pub fn of_metadata(metadata: &HashMap<String, String>) -> Option<Mark> {
        let id = ClusterId::parse(metadata.get(KEY_ID)?)?;
        Some(Mark { id, partitions: metadata.get(KEY_PARTITIONS)?.parse().ok()? })
    }

    /// Puts the mark among a stream's metadata.
    pub fn put_into(&self, metadata: &mut HashMap<String, String>) {
        metadata.insert(KEY_ID.into(), self.id.to_string());
        metadata.insert(KEY_PARTITIONS.into(), self.partitions.to_string());
    }

    /// Whether the settings' number of partitions is that of the cluster, as `place` says it.
    ///
    /// # Errors
    /// When it is another.
    pub fn check_partitions(&self, place: impl fmt::Display, wanted: u32) -> Result<(), Misfit> {
        if self.partitions == wanted {
            return Ok(());
        }
        Err(Misfit::OtherPartitions { place: place.to_string(), found: self.partitions, wanted })
    }

    /// Whether the bus, which carries the mark `found`, is this cluster's.
    ///
    /// # Errors
    /// When it is another's.
    pub fn check_bus(&self, bus: impl fmt::Display, found: &Mark) -> Result<(), Misfit> {
        if self.id == found.id {
            return found.check_partitions(bus, self.partitions);
        }
        Err(Misfit::OtherCluster { bus: bus.to_string(), found: found.id, ours: self.id })
    }
}

/// Why a process cannot be part of what it was pointed at. Trying again helps nobody. Each is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Conversations would be looked for in other logs than those they are in.
    #[error(
        "{place} has {found} partitions, and the settings say {wanted}: set partitions to {found}, for the number is \
         fixed once a cluster has been used"
    )]
    OtherPartitions {
        /// What says so.
        place: String,
        /// How many there are.
        found: u32,
        /// How many the settings name.
        wanted: u32,
    },
    /// Two clusters would work each other's logs.
    #[error(
        "{bus} belongs to cluster {found}, and this is {ours}: set nats.prefix to a name that no other cluster there \
         has, or delete its streams if that cluster is gone"
    )]
    OtherCluster {
        /// The bus, in words.
        bus: String,
        /// Whose it is.
        found: ClusterId,
        /// Whose the database or data directory is.
        ours: ClusterId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_from_metadata_as_it_was_put_there() {
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
    fn what_does_not_fit_is_one_line_that_says_what_to_do() {
        let ours = Mark::new(16);
        assert_eq!(ours.check_partitions("keyspace carillon", 16), Ok(()));
        let other = ours.check_partitions("keyspace carillon", 32).expect_err("another number").to_string();
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
