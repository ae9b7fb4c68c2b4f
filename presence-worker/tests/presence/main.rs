//! Tests of the presence-worker from outside: tables over the pure core, a property test, and the worker on a bus.

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
