//! The native vocabulary (`docs/protocol.md#native-websocket`): JSON text frames with a `type`, a superset of Gator's
//! chat protocol.

mod decode;
mod encode;

pub use decode::{Frame, InvalidFrame, decode};
pub use encode::{ephemeral, event, presence, reply};
