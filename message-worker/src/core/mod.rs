//! The pure heart of the message-worker: given state and input, what becomes of it. No tokio, no clock, no
//! randomness, no configuration and no I/O in here.

pub(crate) mod acquainted;
pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod audit_log;
pub(crate) mod batch;
pub(crate) mod cache;
pub(crate) mod clocks;
pub(crate) mod conversation;
pub(crate) mod dedup;
pub(crate) mod incarnation;
pub(crate) mod interest;
pub(crate) mod log_clock;
pub(crate) mod page;
pub(crate) mod projection;
pub(crate) mod purge;
pub(crate) mod suspended;
pub(crate) mod versions;
