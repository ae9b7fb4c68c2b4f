//! The types that every part of Carillon shares: ids, bus subjects, error codes, limits, commands and events, the
//! messages on the bus and in the store, and the vocabularies of the clients.
//!
//! This crate has no tokio, no sockets, no clock and no randomness: every function depends on its arguments only.

pub mod code;
pub mod command;
pub mod dialect;
pub mod event;
pub mod id;
pub mod limits;
pub mod partition;
pub mod position;
pub mod subject;
pub mod timestamp;

/// Messages on the bus and in the store, generated from `proto/carillon/v1/*.proto`.
#[allow(missing_docs, clippy::all)]
#[rustfmt::skip]
#[path = "gen/carillon.v1.rs"]
pub mod wire;
