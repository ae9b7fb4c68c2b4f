//! HTTP: the listener, routes, WebSocket handshakes, and the pages in the binary.

pub mod listen;
pub mod page;
pub mod routes;
pub mod upgrade;
