//! The REST API (`docs/rest.md`) against a real standalone process: every route's success, and its refusals.

mod conversations;
mod harness;
mod messages;
mod people;
mod presence;
mod service;
