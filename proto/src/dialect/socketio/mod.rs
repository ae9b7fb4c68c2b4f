//! Engine.IO 4 and Socket.IO 5 on the wire: bytes to packets and back, without I/O, and the three vocabularies over
//! them.

pub mod assembly;
pub mod engine;
pub mod offset;
pub mod packet;
pub mod vocabulary;
