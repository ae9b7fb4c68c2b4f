//! Carillon in a simulation: the real services on one thread and a virtual clock, with a bus and a store whose faults
//! follow from a seed. The same seed gives the same run.

pub mod bus;
pub mod client;
pub mod club;
pub mod cluster;
pub mod disaster;
pub mod door;
pub mod frame;
pub mod gate;
pub mod judge;
pub mod network;
pub mod node;
pub mod profile;
pub mod random;
pub mod run;
pub mod scenario;
pub mod steward;
pub mod store;
pub mod trace;
pub mod weather;
pub mod world;
