//! The gateway's side of the workers: registrations with partitions' owners, publishing to their logs, and outcomes.

pub mod links;
pub mod outcomes;
pub mod pending;
pub mod publish;
pub mod reader;
pub mod registration;
pub mod submit;
