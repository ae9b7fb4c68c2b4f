//! The author of a command, as events and the store name it.

use carillon_proto::id::UserId;
use std::borrow::Borrow;

/// The author of a command: a user, or a backend that acts for no user. All such backends are one author, because they
/// share the API keys and their client ids are made by gateways, which never make the same one twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Author(Box<str>);

impl Author {
    /// The author that an event or a command names: a user's id, or nothing for a backend. `None` if it is neither.
    pub fn parse(actor: &str) -> Option<Author> {
        (actor.is_empty() || UserId::parse(actor).is_ok()).then(|| Author(actor.into()))
    }

    /// The user's id, or an empty string for a backend.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Author {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_author_is_a_user_or_a_backend() {
        assert_eq!(Author::parse("ann").map(|author| author.as_str().to_owned()).as_deref(), Some("ann"));
        assert_eq!(Author::parse("").map(|author| author.as_str().to_owned()).as_deref(), Some(""));
        assert_eq!(Author::parse("a user"), None);
    }
}
