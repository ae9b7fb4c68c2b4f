//! The native vocabulary (protocol §2): JSON text frames with a `type`, a superset of Gator's.

mod decode;
mod encode;

pub use decode::{Frame, Refused, decode};
pub use encode::{ephemeral, event, presence, reply};
