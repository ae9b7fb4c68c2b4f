//! An owner's knowledge about the commands of its partition before it applies them: which are skipped, and which are
//! refused.

use super::suspended::Suspended;
use carillon_proto::position::{Incarnation, Position};
use std::collections::HashSet;

/// Places the commands of a group: decides which are applied, skipped or refused.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) partition: u32,
    pub(crate) partitions: u32,
    pub(crate) incarnation: Incarnation,
    /// Positions of poison commands that are skipped.
    pub(crate) skips: HashSet<Position>,
    /// Conversations whose commands are refused because they cannot be read.
    pub(crate) suspended: Suspended,
    /// The version of the state machine for the next entry.
    pub(crate) version: u32,
}
