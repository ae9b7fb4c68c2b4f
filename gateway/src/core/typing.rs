//! Who is typing in one conversation: starts renew, ends come by themselves (protocol §2).

use carillon_proto::id::UserId;
use carillon_proto::limits::{TYPING_MS, TYPING_RENEWAL_MS};
use std::collections::HashMap;

#[derive(Debug)]
struct Typist {
    name: Box<str>,
    ends_ms: u64,
    passed_on_ms: u64,
}

/// The typists of one conversation.
#[derive(Debug, Default)]
pub struct Typists(HashMap<UserId, Typist>);

impl Typists {
    /// A start: whether it is passed on, which a renewal is at most once a second.
    pub fn start(&mut self, user: &UserId, name: &str, now_ms: u64) -> bool {
        let ends_ms = now_ms + TYPING_MS;
        match self.0.get_mut(user) {
            Some(typist) => {
                typist.ends_ms = ends_ms;
                let due = now_ms >= typist.passed_on_ms + TYPING_RENEWAL_MS;
                if due {
                    typist.passed_on_ms = now_ms;
                }
                due
            }
            None => {
                self.0.insert(user.clone(), Typist { name: name.into(), ends_ms, passed_on_ms: now_ms });
                true
            }
        }
    }

    /// A stop, a message, a leave or the end of the connection: the typist's name, if there is an end to
    /// pass on.
    pub fn stop(&mut self, user: &str) -> Option<Box<str>> {
        let typist = self.0.remove(user);
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
        typist.map(|typist| typist.name)
    }

    /// The time a typist set is over, if nothing renews it; `None` for who does not type.
    pub fn ends_ms(&self, user: &str) -> Option<u64> {
        self.0.get(user).map(|typist| typist.ends_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_are_passed_on_once_a_second_and_prolong_always() {
        let (mut typists, user) = (Typists::default(), UserId::parse("u").expect("valid"));
        assert!(typists.start(&user, "U", 0));
        assert!(!typists.start(&user, "U", 999));
        assert_eq!(typists.ends_ms("u"), Some(5_999));
        assert!(typists.start(&user, "U", 1_000));
        assert_eq!(typists.stop("u").as_deref(), Some("U"));
        assert_eq!(typists.stop("u"), None);
        assert_eq!(typists.ends_ms("u"), None);
        assert!(typists.start(&user, "U", 1_100), "a new start is not a renewal");
    }
}
