//! Every subject, stream and bucket on the bus, built here from numbers and validated ids, and nowhere else.

use crate::id::{GatewayId, InvalidId, WorkerId};
use crate::limits::PREFIX_LENGTH_MAX;
use std::fmt;

/// What keeps the subjects, streams and buckets of one installation apart from those of another on the same servers:
/// nothing, or a name before each of them. Services know only their own subjects; the bus puts the prefix before them.
///
/// Two prefixes never come to the same name: subjects begin with the name and a dot, and no name has a dot in it;
/// streams and buckets end with what this module calls them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Prefix {
    name: String,
    /// The name and a dot.
    of_subjects: String,
    /// The name and what streams and buckets allow instead.
    of_streams: String,
}

impl Prefix {
    /// No prefix, or the one that `name` is.
    ///
    /// # Errors
    /// When `name` is too long, has a character that is not allowed, or begins with one that NATS keeps for itself.
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

    /// The name; empty where there is none.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// A subject, or a queue group, as the servers know it.
    pub fn subject(&self, subject: &str) -> String {
        [&self.of_subjects, subject].concat()
    }

    /// The name of a partition's command stream.
    pub fn command_stream(&self, partition: u32) -> String {
        format!("{}CMD_{partition}", self.of_streams)
    }

    /// The one subject of a partition's command stream.
    pub fn command(&self, partition: u32) -> String {
        format!("{}cmd.{partition}", self.of_subjects)
    }

    /// The key-value bucket in which workers of one kind keep their leases.
    pub fn lease_bucket(&self, kind: &str) -> String {
        format!("{}carillon_{kind}", self.of_streams)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

/// The owner of a partition answers registrations here.
pub fn partition(partition: u32) -> String {
    format!("part.{partition}")
}

/// Typing, cursors and broadcasts of a partition's conversations, for its owner to pass on.
pub fn ephemeral(partition: u32) -> String {
    format!("eph.{partition}")
}

/// Everything that workers have for a gateway.
pub fn gateway(gateway: &GatewayId) -> String {
    format!("gw.{gateway}")
}

/// A gateway answers here for the polling sessions that live on it.
pub fn engine(gateway: &GatewayId) -> String {
    format!("engine.{gateway}")
}

/// A partition's new owner says here, to every gateway, that it is there.
pub const GATEWAYS: &str = "gateways";

/// Workers of one kind say here that they have come or gone, so that the others look at once.
pub fn lease_changed(kind: &str) -> String {
    format!("lease.{kind}")
}

/// The owner of a presence shard answers here.
pub fn presence(shard: u32) -> String {
    format!("pres.{shard}")
}

/// Any message-worker answers reads here, one of a queue group.
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
    fn without_a_prefix_everything_is_called_as_ever() {
        let none = Prefix::parse("").expect("no prefix");
        assert_eq!((none.command_stream(3).as_str(), none.command(3).as_str()), ("CMD_3", "cmd.3"));
        assert_eq!((none.subject(READ).as_str(), none.lease_bucket("a").as_str()), ("read", "carillon_a"));
        assert_eq!(none, Prefix::default());
    }

    #[test]
    fn a_prefix_is_before_everything() {
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
