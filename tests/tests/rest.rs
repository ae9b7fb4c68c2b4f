//! The REST API (`docs/rest.md`) against a real standalone process: every route's success, and its refusals.

#[path = "rest/conversations.rs"]
mod conversations;
#[path = "rest/harness.rs"]
mod harness;
#[path = "rest/messages.rs"]
mod messages;
#[path = "rest/people.rs"]
mod people;
#[path = "rest/presence.rs"]
mod presence;
#[path = "rest/service.rs"]
mod service;
