//! All statements of the store, prepared once.

use carillon_runtime::database::{DatabaseError, prepare};
use scylla::client::session::Session;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident: $cql:expr;)+) => {
        /// The prepared statements.
        pub(super) struct Statements {
            $($(#[$doc])* pub(super) $name: PreparedStatement,)+
        }

        impl Statements {
            /// Prepares all statements.
            pub(super) async fn prepare(session: &Session) -> Result<Statements, DatabaseError> {
                let mut statements = Statements { $($name: prepare(session, $cql).await?,)+ };
                statements.mark_transactions();
                Ok(statements)
            }
        }
    };
}

macro_rules! select_events {
    ($rest:literal) => {
        concat!(
            "SELECT seq, incarnation, sequence, command_index, tag, event, WRITETIME(event) FROM events ",
            "WHERE conversation = ? AND bucket = ? AND ",
            $rest
        )
    };
}

statements! {
    insert_event: "INSERT INTO events \
        (conversation, bucket, seq, incarnation, sequence, command_index, tag, event) \
        VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    event: select_events!("seq = ?");
    events_from: select_events!("seq >= ? LIMIT ?");
    events_below: select_events!("seq >= ? AND seq < ? ORDER BY seq DESC LIMIT ?");
    any_event: "SELECT seq FROM events WHERE conversation = ? AND bucket = ? LIMIT 1";

    insert_head: "INSERT INTO heads (conversation, head) VALUES (?, ?) USING TIMESTAMP ?";
    head: "SELECT head FROM heads WHERE conversation = ?";

    insert_participant: "INSERT INTO participants (conversation, participant) VALUES (?, ?) USING TIMESTAMP ?";
    delete_participant: "DELETE FROM participants USING TIMESTAMP ? WHERE conversation = ? AND participant = ?";
    participants: "SELECT participant FROM participants WHERE conversation = ?";
    insert_conversation: "INSERT INTO conversations_by_user (participant, conversation) VALUES (?, ?) USING TIMESTAMP ?";
    delete_conversation: "DELETE FROM conversations_by_user USING TIMESTAMP ? WHERE participant = ? AND conversation = ?";
    conversations: "SELECT conversation FROM conversations_by_user WHERE participant = ? AND conversation > ? LIMIT ?";

    insert_sent: "INSERT INTO sent (conversation, sender, timestamp_us, time_ms, client_id, seq) \
        VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    sent: "SELECT client_id, seq, time_ms FROM sent WHERE conversation = ? AND sender = ? LIMIT ?";

    insert_checkpoint: "INSERT INTO partitions (id, incarnation, sequence, command_index, tag, timestamp_us, version) \
        VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    checkpoint: "SELECT incarnation, sequence, command_index, tag, timestamp_us, version FROM partitions \
        WHERE id = ?";

    /// Lightweight transaction.
    insert_tenure: "INSERT INTO incarnations \
        (number, first_sequence, base_us, ground, ground_sequence, epoch, holder, id) \
        VALUES (?, ?, ?, ?, ?, ?, ?, ?) \
        IF NOT EXISTS";
    /// Lightweight transaction.
    update_tenure: "UPDATE incarnations \
        SET number = ?, first_sequence = ?, base_us = ?, ground = ?, ground_sequence = ?, epoch = ?, holder = ? \
        WHERE id = ? IF number = ? AND first_sequence = ? AND base_us = ? AND epoch = ? AND holder = ?";
    /// Serial: it returns the result of a transaction that is still undecided.
    tenure: "SELECT number, first_sequence, base_us, ground, ground_sequence, epoch, holder FROM incarnations \
        WHERE id = ?";
    worked: "SELECT id FROM incarnations";

    /// At QUORUM: it returns the result of every transaction that has been answered, and does not conflict with any.
    incarnation: "SELECT number, first_sequence, base_us, ground, ground_sequence, epoch, holder FROM incarnations \
        WHERE id = ?";

    /// Lightweight transaction.
    insert_seal: "INSERT INTO seals (conversation, incarnation, created, seq) VALUES (?, ?, ?, ?) IF NOT EXISTS";
    /// Lightweight transaction.
    update_seal: "UPDATE seals SET incarnation = ?, created = ?, seq = ? WHERE conversation = ? \
        IF incarnation = ? AND created = ? AND seq = ?";
    /// Serial: it returns the result of a transaction that is still undecided.
    seal: "SELECT incarnation, created, seq FROM seals WHERE conversation = ?";
    /// At QUORUM: it returns the result of every transaction that has been answered, and does not conflict with any.
    known_seal: "SELECT incarnation, created, seq FROM seals WHERE conversation = ?";
    delete_events_above: "DELETE FROM events USING TIMESTAMP ? WHERE conversation = ? AND bucket = ? AND seq > ?";
    delete_event: "DELETE FROM events USING TIMESTAMP ? WHERE conversation = ? AND bucket = ? AND seq = ?";

    insert_suspension: "INSERT INTO suspensions (id, conversation, from_incarnation, from_sequence, from_index, \
        until_incarnation, until_sequence, until_index, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) \
        USING TIMESTAMP ? AND TTL ?";
    suspensions: "SELECT conversation, from_incarnation, from_sequence, from_index, until_incarnation, \
        until_sequence, until_index, reason FROM suspensions WHERE id = ?";
    clock: "SELECT toUnixTimestamp(now()) FROM system.local";

    insert_skip: "INSERT INTO skips (id, incarnation, sequence, command_index, reason) VALUES (?, ?, ?, ?, ?)";
    skips: "SELECT sequence, command_index FROM skips WHERE id = ? AND incarnation = ?";
}

impl Statements {
    fn mark_transactions(&mut self) {
        // The driver must not repeat these by itself: if the first attempt succeeded, the second would be refused, and
        // the success would look like a refusal.
        self.insert_tenure.set_is_idempotent(false);
        self.update_tenure.set_is_idempotent(false);
        self.tenure.set_consistency(Consistency::Serial);
        self.insert_seal.set_is_idempotent(false);
        self.update_seal.set_is_idempotent(false);
        self.seal.set_consistency(Consistency::Serial);
    }
}
