//! Which worker owns a partition, and which rows count: the tenure, the recognition of the log, and the loading and
//! sealing of conversations.

pub(crate) mod load;
pub(crate) mod log_generation;
pub(crate) mod seal;
pub(crate) mod take;
pub(crate) mod tenure;
