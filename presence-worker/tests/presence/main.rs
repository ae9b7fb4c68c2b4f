//! The presence-worker, tested from outside: tables over the pure core, a property, and the worker on a bus.

mod driver;
mod dsl;
mod numbers;
mod property;
mod recovery;
mod rooms;
mod rows;
mod sessions;
mod silence;
mod watches;
