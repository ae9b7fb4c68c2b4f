//! Typing in one conversation. A start must be renewed or it ends, and members receive a user's latest state at most
//! once a second (`docs/protocol.md#details`).

use carillon_proto::id::UserId;
use carillon_proto::limits::{TYPING_MS, TYPING_RENEWAL_MS};
use carillon_runtime::collections::Spare;
use std::collections::HashMap;

/// A typing state to send to members now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypingUpdate {
    /// The typist's display name.
    pub name: Box<str>,
    pub typing: bool,
    /// Send it to other gateways, too: it came from a client here.
    pub pass_on: bool,
    /// The client ids of messages that the typist sent before typing began.
    pub sent: Box<[String]>,
}

/// A typing state that a typist sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypingInput {
    pub typing: bool,
    /// Whether it came from a client of this gateway, not from another gateway.
    pub here: bool,
    /// The client ids of messages that the typist sent before, and that may not have been delivered yet.
    pub sent: Box<[String]>,
}

#[derive(Debug)]
struct Typist {
    name: Box<str>,
    /// The last state that the typist sent.
    input: TypingInput,
    /// When typing ends unless it is renewed.
    ends_ms: u64,
    /// The last state that members received, and when.
    shown: bool,
    shown_ms: u64,
    /// The last state that the typist sent is held back until a second after `shown_ms`.
    held_back: bool,
    /// The earliest time at which the caller will call [`Typists::handle_timeout`].
    timeout_ms: u64,
}

impl Typist {
    fn show(&mut self, now_ms: u64, pass_on: bool) -> TypingUpdate {
        (self.shown, self.shown_ms, self.held_back) = (self.input.typing, now_ms, false);
        TypingUpdate {
            name: self.name.clone(),
            typing: self.shown,
            pass_on,
            sent: if self.shown { self.input.sent.clone() } else { Box::default() },
        }
    }

    /// Ends the typing. Members that received the start receive the end at once.
    fn end(&mut self, now_ms: u64, pass_on: bool) -> Option<TypingUpdate> {
        (self.input.typing, self.held_back) = (false, false);
        self.shown.then(|| self.show(now_ms, pass_on))
    }

    fn may_show_ms(&self) -> u64 {
        self.shown_ms + TYPING_RENEWAL_MS
    }

    /// When the next action is due: a state that was held back, the end of typing, or the removal of the entry.
    fn next_ms(&self) -> u64 {
        match (self.input.typing, self.held_back) {
            (true, false) => self.ends_ms,
            (true, true) => self.ends_ms.min(self.may_show_ms()),
            (false, _) => self.may_show_ms(),
        }
    }
}

/// The typists of one conversation. A user who stopped stays for the second in which no further state is sent.
#[derive(Debug, Default)]
pub struct Typists(HashMap<UserId, Typist>);

impl Typists {
    /// Applies a start, renewal or stop of a typist. Returns the state to send now. A changed state within a second of
    /// the last one is held back until the end of that second, unless a newer state replaces it.
    pub fn handle_input(
        &mut self,
        user: &UserId,
        name: &str,
        input: TypingInput,
        now_ms: u64,
    ) -> Option<TypingUpdate> {
        let Some(typist) = self.0.get_mut(user) else {
            return if input.typing { Some(self.insert(user, name, input, now_ms)) } else { None };
        };
        typist.input = input;
        if typist.input.typing {
            typist.ends_ms = now_ms + TYPING_MS;
        }
        typist.held_back = typist.input.typing != typist.shown;
        let due = (typist.held_back || typist.input.typing) && now_ms >= typist.may_show_ms();
        due.then(|| typist.show(now_ms, typist.input.here))
    }

    fn insert(&mut self, user: &UserId, name: &str, input: TypingInput, now_ms: u64) -> TypingUpdate {
        let pass_on = input.here;
        let mut typist = Typist {
            name: name.into(),
            input,
            ends_ms: now_ms + TYPING_MS,
            shown: false,
            shown_ms: now_ms,
            held_back: false,
            timeout_ms: u64::MAX,
        };
        let update = typist.show(now_ms, pass_on);
        self.0.insert(user.clone(), typist);
        update
    }

    /// A typist left or lost the connection. Returns the end, which is sent at once.
    pub fn handle_leave(&mut self, user: &str, here: bool, now_ms: u64) -> Option<TypingUpdate> {
        self.0.get_mut(user)?.end(now_ms, here)
    }

    /// Applies a message of the typist. It ends the typing, unless the typing began after the message was sent. Every
    /// gateway receives the message, so the end is not passed on.
    pub fn handle_message(&mut self, user: &str, client_id: &str, now_ms: u64) -> Option<TypingUpdate> {
        let typist = self.0.get_mut(user)?;
        let began_later = typist.input.typing && typist.input.sent.iter().any(|sent| sent == client_id);
        if began_later { None } else { typist.end(now_ms, false) }
    }

    /// When to call [`Typists::handle_timeout`] for a user, if that is earlier than the time returned before.
    pub fn poll_timeout_ms(&mut self, user: &str) -> Option<u64> {
        let typist = self.0.get_mut(user)?;
        let next_ms = typist.next_ms();
        let sooner = next_ms < typist.timeout_ms;
        typist.timeout_ms = typist.timeout_ms.min(next_ms);
        sooner.then_some(next_ms)
    }

    /// Applies the time that [`Typists::poll_timeout_ms`] returned. Returns the state to send.
    pub fn handle_timeout(&mut self, user: &str, timeout_ms: u64, now_ms: u64) -> Option<TypingUpdate> {
        let typist = self.0.get_mut(user).filter(|typist| typist.timeout_ms == timeout_ms)?;
        typist.timeout_ms = u64::MAX;
        if typist.input.typing && now_ms >= typist.ends_ms {
            // Every gateway ends it by itself, so that it ends even if the typist's gateway has died.
            return typist.end(now_ms, false);
        }
        if now_ms < typist.may_show_ms() {
            return None;
        }
        if typist.held_back {
            return Some(typist.show(now_ms, typist.input.here));
        }
        if !typist.input.typing {
            self.0.remove(user);
            self.0.give_spare_back();
        }
        None
    }
}

#[cfg(test)]
#[path = "typing_tests.rs"]
mod tests;
