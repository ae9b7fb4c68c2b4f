//! Decides who may use a conversation, by the conversation's namespace (`docs/configuration.md#who-may-do-what`).

pub(crate) mod admission;
pub mod auth;

use crate::access::auth::Identity;
use carillon_proto::id::ConversationId;
use carillon_proto::wire::Authority;
use carillon_runtime::settings::{Access, Settings};
use std::collections::BTreeMap;

/// The rules of this gateway.
pub struct AccessRules {
    default: Access,
    namespaces: BTreeMap<String, Access>,
}

impl AccessRules {
    /// The rules that the settings give.
    pub fn new(settings: &Settings) -> AccessRules {
        AccessRules {
            default: settings.access_default.clone(),
            namespaces: settings.access_namespaces.clone(),
        }
    }

    fn of(&self, conversation: &ConversationId) -> &Access {
        self.namespaces.get(conversation.namespace()).unwrap_or(&self.default)
    }

    /// What entitles `identity` to use the conversation; `None` if it may not. With [`Authority::Participant`] the
    /// owner checks the stored participants.
    pub fn authority(&self, identity: &Identity, conversation: &ConversationId) -> Option<Authority> {
        match self.of(conversation) {
            Access::Open => Some(Authority::Granted),
            Access::Participants => Some(Authority::Participant),
            Access::Token => {
                let names = |pattern: &String| matches(pattern, conversation.as_str());
                identity.conversations.iter().any(names).then_some(Authority::Granted)
            }
            // Webhooks are not served by this version, so access is refused. The gateway logs a warning when it starts.
            Access::Webhook(_) => None,
        }
    }

    /// Whether members see each other's presence because they joined, and not because they are stored participants.
    pub fn is_open(&self, conversation: &ConversationId) -> bool {
        *self.of(conversation) == Access::Open
    }
}

fn matches(pattern: &str, id: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => id.starts_with(prefix),
        None => pattern == id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::id::UserId;

    #[test]
    fn the_namespace_decides() {
        let rules = AccessRules {
            default: Access::Participants,
            namespaces: BTreeMap::from([("open".into(), Access::Open), ("team".into(), Access::Token)]),
        };
        let mut alice = Identity::unverified(UserId::parse("alice").expect("valid"), None);
        alice.conversations = ["team:a", "team:b-*"].map(String::from).into();
        let authority = |id: &str| rules.authority(&alice, &ConversationId::parse(id).expect("valid"));
        assert_eq!(authority("lobby"), Some(Authority::Participant));
        assert_eq!(authority("open:lobby"), Some(Authority::Granted));
        assert_eq!(authority("team:a"), Some(Authority::Granted));
        assert_eq!(authority("team:b-1"), Some(Authority::Granted));
        assert_eq!(authority("team:ab"), None);
    }
}
