//! The contracts of the bus and of the stores: one suite each for all implementations, and faults that only one of them
//! can have.

mod bus;
mod store;
