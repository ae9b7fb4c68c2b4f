//! The pure part of the message-worker: functions of state and input. This folder has no tokio, clock, randomness,
//! configuration or I/O. It defines the rows that `store/` reads and writes, and imports nothing of `store/`.

pub(crate) mod acquainted;
pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod audit_log;
pub(crate) mod author;
pub(crate) mod batch;
pub(crate) mod cache;
pub(crate) mod clocks;
pub(crate) mod conversation;
pub(crate) mod dedup;
pub(crate) mod incarnation;
pub(crate) mod interest;
pub(crate) mod ledger;
pub(crate) mod log_clock;
pub(crate) mod page;
pub(crate) mod partition_state;
pub(crate) mod projection;
pub(crate) mod purge;
pub(crate) mod rows;
pub(crate) mod suspended;
pub(crate) mod versions;
