//! Frames to one connection: replies to its commands, and what the gateway sends of its own accord.

use crate::connection::{ClientProtocol, Connection};
use crate::core::outbox::Urgency;
use crate::delivery::dialect::CommandOrigin;
use carillon_proto::dialect::socketio::vocabulary::{Verb, Vocabulary};
use carillon_proto::event::Reply;

/// Queues a reply for one connection.
pub fn reply_to(connection: &Connection, reply: &Reply, origin: &CommandOrigin) {
    connection.offer(&origin.encode_reply(reply), Urgency::Reply);
}

/// Sends a connection a frame that is not a reply to a command.
pub fn notify(connection: &Connection, reply: &Reply) {
    reply_to(connection, reply, &unprompted_origin(connection));
}

/// Sends a connection such a frame before all that is queued. Other tasks may queue frames at the same time.
pub fn notify_first(connection: &Connection, reply: &Reply) {
    let frame = unprompted_origin(connection).encode_reply(reply);
    if !frame.is_empty() {
        connection.outgoing.put_back(vec![frame]);
        connection.outgoing.wake();
    }
}

fn unprompted_origin(connection: &Connection) -> CommandOrigin {
    match connection.protocol {
        ClientProtocol::Native => CommandOrigin::NATIVE,
        ClientProtocol::SocketIo(namespace) => {
            CommandOrigin::Event { vocabulary: Vocabulary::Ring, namespace, verb: Verb::Unknown, ack: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::outgoing::Outgoing;
    use carillon_proto::id::UserId;
    use std::sync::Arc;

    /// Before the fix, the queue was emptied, the first frame queued, and the rest queued again. A change of presence
    /// that came in between was the first frame.
    #[test]
    fn the_first_frame_goes_before_all_that_is_queued() {
        let user = UserId::parse("ann").expect("valid");
        let connection =
            Connection::new(1, user, "ann".into(), ClientProtocol::Native, Arc::new(Outgoing::default()));
        notify(&connection, &Reply::Pong);
        notify_first(&connection, &Reply::OnlineUsers { users: vec!["ann".into()] });
        let sent = connection.outgoing.drain();
        let sent: Vec<_> = sent.iter().map(|frame| String::from_utf8_lossy(frame)).collect();
        assert!(sent.len() == 2 && sent[0].contains("online_users") && sent[1].contains("pong"), "{sent:?}");
    }
}
