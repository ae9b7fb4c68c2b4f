//! Delivery: events from workers to rooms, from rooms to their members, and the frames that they become.

pub mod batches;
pub mod deliver;
pub mod dialect;
pub mod ephemeral;
pub mod hub;
pub mod reads;
pub mod touched;
