//! Who is typing in one conversation: starts renew, ends come by themselves, and members are told a user's latest state
//! at most once a second (protocol §2).

use carillon_proto::id::UserId;
use carillon_proto::limits::{TYPING_MS, TYPING_RENEWAL_MS};
use carillon_runtime::collections::Spare;
use std::collections::HashMap;

/// What members are to be told now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// How the typist is shown.
    pub name: Box<str>,
    /// Whether they type, or have stopped.
    pub typing: bool,
    /// Other gateways are to be told, too: it was said here.
    pub pass_on: bool,
    /// The client ids of messages that the typist sent before they began to type.
    pub sent: Box<[String]>,
}

/// What a typist says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Whether they type, or have stopped.
    pub typing: bool,
    /// It was said to this gateway, not to another one.
    pub here: bool,
    /// The client ids of the messages that they sent before, as far as those may still be on their way.
    pub sent: Box<[String]>,
}

#[derive(Debug)]
struct Typist {
    name: Box<str>,
    /// What was said last.
    said: Said,
    /// When typing ends, if nothing renews it.
    ends_ms: u64,
    /// What members were told last, and when.
    told: bool,
    told_ms: u64,
    /// What was said last has to wait until a second after that.
    waits: bool,
    /// When [`Typists::due`] is to be asked, as it is known outside.
    rings_ms: u64,
}

impl Typist {
    fn tell(&mut self, now_ms: u64, pass_on: bool) -> Told {
        (self.told, self.told_ms, self.waits) = (self.said.typing, now_ms, false);
        Told {
            name: self.name.clone(),
            typing: self.told,
            pass_on,
            sent: if self.told { self.said.sent.clone() } else { Box::default() },
        }
    }

    /// Ends the typing: members who saw it are told at once.
    fn end(&mut self, now_ms: u64, pass_on: bool) -> Option<Told> {
        (self.said.typing, self.waits) = (false, false);
        self.told.then(|| self.tell(now_ms, pass_on))
    }

    fn may_be_told_ms(&self) -> u64 {
        self.told_ms + TYPING_RENEWAL_MS
    }

    /// When something is due: what waits, an end, or being forgotten.
    fn next_ms(&self) -> u64 {
        match (self.said.typing, self.waits) {
            (true, false) => self.ends_ms,
            (true, true) => self.ends_ms.min(self.may_be_told_ms()),
            (false, _) => self.may_be_told_ms(),
        }
    }
}

/// The typists of one conversation. Those who stopped are kept for the second in which nothing more is told of them.
#[derive(Debug, Default)]
pub struct Typists(HashMap<UserId, Typist>);

impl Typists {
    /// A typist starts, goes on, or stops: what is told of it now. What is news, and comes within a second of what was told
    /// last, waits for the end of that second, unless it is overtaken.
    pub fn say(&mut self, user: &UserId, name: &str, said: Said, now_ms: u64) -> Option<Told> {
        let Some(typist) = self.0.get_mut(user) else {
            return if said.typing { Some(self.begin(user, name, said, now_ms)) } else { None };
        };
        typist.said = said;
        if typist.said.typing {
            typist.ends_ms = now_ms + TYPING_MS;
        }
        typist.waits = typist.said.typing != typist.told;
        let due = (typist.waits || typist.said.typing) && now_ms >= typist.may_be_told_ms();
        due.then(|| typist.tell(now_ms, typist.said.here))
    }

    fn begin(&mut self, user: &UserId, name: &str, said: Said, now_ms: u64) -> Told {
        let pass_on = said.here;
        let mut typist = Typist {
            name: name.into(),
            said,
            ends_ms: now_ms + TYPING_MS,
            told: false,
            told_ms: now_ms,
            waits: false,
            rings_ms: u64::MAX,
        };
        let told = typist.tell(now_ms, pass_on);
        self.0.insert(user.clone(), typist);
        told
    }

    /// A typist left, or their connection ended: that is told at once.
    pub fn end(&mut self, user: &str, here: bool, now_ms: u64) -> Option<Told> {
        self.0.get_mut(user)?.end(now_ms, here)
    }

    /// A message of the typist came, which ends what they typed until they sent it. Every gateway sees the message, and
    /// none has to be told.
    pub fn message(&mut self, user: &str, client_id: &str, now_ms: u64) -> Option<Told> {
        let typist = self.0.get_mut(user)?;
        let began_later = typist.said.typing && typist.said.sent.iter().any(|sent| sent == client_id);
        if began_later { None } else { typist.end(now_ms, false) }
    }

    /// When [`Typists::due`] is to be asked about a user, if that is sooner than was said before.
    pub fn rings(&mut self, user: &str) -> Option<u64> {
        let typist = self.0.get_mut(user)?;
        let next_ms = typist.next_ms();
        let sooner = next_ms < typist.rings_ms;
        typist.rings_ms = typist.rings_ms.min(next_ms);
        sooner.then_some(next_ms)
    }

    /// The time has come that [`Typists::rings`] said: what is told.
    pub fn due(&mut self, user: &str, rang_ms: u64, now_ms: u64) -> Option<Told> {
        let typist = self.0.get_mut(user).filter(|typist| typist.rings_ms == rang_ms)?;
        typist.rings_ms = u64::MAX;
        if typist.said.typing && now_ms >= typist.ends_ms {
            // Every gateway ends it by itself, so that a typist's may die.
            return typist.end(now_ms, false);
        }
        if now_ms < typist.may_be_told_ms() {
            return None;
        }
        if typist.waits {
            return Some(typist.tell(now_ms, typist.said.here));
        }
        if !typist.said.typing {
            self.0.remove(user);
            self.0.give_spare_back();
        }
        None
    }
}

#[cfg(test)]
#[path = "typing_tests.rs"]
mod tests;
