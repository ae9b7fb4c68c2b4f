//! Engine.IO and Socket.IO against the conformance server: the cases of the published suites, and malformed input.

mod engine_io;
mod socket_io;
