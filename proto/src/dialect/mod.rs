//! The clients' vocabularies: bytes to commands, events and replies to bytes. One file per vocabulary;
//! none knows of connections, and nothing outside knows their field names.

mod body;
mod fields;
pub mod native;
pub mod socketio;
