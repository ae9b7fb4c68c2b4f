//! The vocabularies of the clients: they decode bytes to commands and encode events and replies to bytes. Each
//! vocabulary has its own file or folder. Only this module knows their field names, and it knows nothing of
//! connections.

mod body;
mod fields;
pub mod native;
pub mod socketio;
