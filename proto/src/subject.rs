//! The names of every subject, stream and bucket on the bus. They are built only here, from numbers and validated ids.

use crate::id::{GatewayId, InvalidId, WorkerId};
use crate::limits::PREFIX_LENGTH_MAX;
use std::fmt;

/// The prefix that separates one installation from others on the same NATS servers: empty, or a name in front of every
/// subject, stream and bucket. Services use names without it; the bus adds it.
///
/// Two prefixes never lead to the same name. A subject begins with the prefix and a dot, and no prefix contains a dot.
/// Streams and buckets end with the fixed names of this module.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Prefix {
    name: String,
    /// The name and a dot; empty without a name.
    of_subjects: String,
    /// The name and `_`, because names of streams and buckets allow no dot; empty without a name.
    of_streams: String,
}

impl Prefix {
    /// Parses a prefix. An empty `name` means no prefix.
    ///
    /// # Errors
    /// When `name` is too long, has a character that is not allowed, or begins with a character that NATS reserves.
    pub fn parse(name: &str) -> Result<Prefix, InvalidId> {
        if name.is_empty() {
            return Ok(Prefix::default());
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric());
        if begins && name.len() <= PREFIX_LENGTH_MAX && name.bytes().all(allowed) {
            let (of_subjects, of_streams) = (format!("{name}."), format!("{name}_"));
            return Ok(Prefix { name: name.to_owned(), of_subjects, of_streams });
        }
        Err(InvalidId::new("a prefix", PREFIX_LENGTH_MAX, "A-Z a-z 0-9 _ -, the first a letter or digit"))
    }

    /// The name; empty if there is no prefix.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// A subject or a queue group with the prefix.
    pub fn subject(&self, subject: &str) -> String {
        [&self.of_subjects, subject].concat()
    }

    /// The name of a partition's command stream.
    pub fn command_stream(&self, partition: u32) -> String {
        format!("{}CMD_{partition}", self.of_streams)
    }

    /// The subject of a partition's command stream, which has only this one.
    pub fn command(&self, partition: u32) -> String {
        format!("{}cmd.{partition}", self.of_subjects)
    }

    /// The key-value bucket with the leases of the workers of one kind.
    pub fn lease_bucket(&self, kind: &str) -> String {
        format!("{}carillon_{kind}", self.of_streams)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

/// The subject on which the owner of a partition receives requests of gateways.
pub fn partition(partition: u32) -> String {
    format!("part.{partition}")
}

/// The subject for typing, cursors and broadcasts in a partition's conversations. The owner sends them on to the
/// interested gateways.
pub fn ephemeral(partition: u32) -> String {
    format!("eph.{partition}")
}

/// The subject on which a gateway receives the messages of workers.
pub fn gateway(gateway: &GatewayId) -> String {
    format!("gw.{gateway}")
}

/// The subject on which a gateway receives polls and posts of its sessions that reached other gateways.
pub fn engine(gateway: &GatewayId) -> String {
    format!("engine.{gateway}")
}

/// The subject for messages of workers to all gateways: a new owner's announcement, and users whose acquaintances may
/// have changed.
pub const GATEWAYS: &str = "gateways";

/// The subject on which workers of one kind announce that they have come or gone, so that the others look at the leases
/// at once.
pub fn lease_changed(kind: &str) -> String {
    format!("lease.{kind}")
}

/// The subject on which the owner of a presence shard receives requests of gateways.
pub fn presence(shard: u32) -> String {
    format!("pres.{shard}")
}

/// The subject for reads. One message-worker of the queue group [`READ_GROUP`] answers each read.
pub const READ: &str = "read";

/// The queue group of [`READ`].
pub const READ_GROUP: &str = "message-workers";

/// The lease key of a worker.
pub fn lease_key(worker: &WorkerId) -> String {
    worker.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_prefix_by_default() {
        let none = Prefix::parse("").expect("no prefix");
        assert_eq!((none.command_stream(3).as_str(), none.command(3).as_str()), ("CMD_3", "cmd.3"));
        assert_eq!((none.subject(READ).as_str(), none.lease_bucket("a").as_str()), ("read", "carillon_a"));
        assert_eq!(none, Prefix::default());
    }

    #[test]
    fn a_prefix_stands_before_every_name() {
        let prefix = Prefix::parse("blue").expect("a prefix");
        assert_eq!(prefix.command_stream(3), "blue_CMD_3");
        assert_eq!(
            (prefix.command(3).as_str(), prefix.subject("part.3").as_str()),
            ("blue.cmd.3", "blue.part.3")
        );
        assert_eq!(prefix.lease_bucket("a"), "blue_carillon_a");
    }

    #[test]
    fn a_prefix_is_one_token_of_a_subject() {
        for good in ["a", "0", "team-a_2", &"p".repeat(PREFIX_LENGTH_MAX)] {
            assert!(Prefix::parse(good).is_ok(), "{good}");
        }
        for bad in ["_INBOX", "$JS", "-a", "a.b", "a b", "a*", ">", "ä", &"p".repeat(PREFIX_LENGTH_MAX + 1)]
        {
            assert!(Prefix::parse(bad).is_err(), "{bad}");
        }
    }
}
