//! Frames to one connection: replies to its commands, and what the gateway sends of its own accord.

use crate::connection::{Connection, Speaks};
use crate::core::outbox::Urgency;
use crate::delivery::dialect::Asked;
use carillon_proto::dialect::socketio::vocabulary::{Verb, Vocabulary};
use carillon_proto::event::Reply;

/// Queues a reply for one connection.
pub fn reply_to(connection: &Connection, reply: &Reply, asked: &Asked) {
    connection.offer(&asked.answer(reply), Urgency::Reply);
}

/// Sends a connection a frame that is not a reply to a command.
pub fn tell(connection: &Connection, reply: &Reply) {
    let asked = match connection.speaks {
        Speaks::Native => Asked::NATIVE,
        Speaks::SocketIo(namespace) => {
            Asked::Event { vocabulary: Vocabulary::Ring, namespace, verb: Verb::Unknown, ack: None }
        }
    };
    reply_to(connection, reply, &asked);
}
