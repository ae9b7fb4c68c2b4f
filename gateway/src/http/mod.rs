//! HTTP: the listener, routes, WebSocket handshakes, and the pages in the binary.

pub mod listen;
pub(crate) mod page;
pub mod routes;
pub(crate) mod upgrade;
