//! Carillon under faults: real processes on real parts that are killed, paused and cut off while people talk, and a
//! judgement of everything that those people were told.

pub mod deployment;
pub mod dump;
pub mod figures;
pub mod people;
pub mod person;
pub mod proxy;
pub mod run;
pub mod scenarios;
pub mod schedule;
