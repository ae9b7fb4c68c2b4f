//! Carillon under faults: real processes, nats-server and database, killed, paused and cut off under load, and a
//! judgement of everything that clients received.

pub mod deployment;
pub mod dump;
pub mod figures;
pub mod people;
pub mod person;
pub mod proxy;
pub mod run;
pub mod scenarios;
pub mod schedule;
