//! Whose acquaintances a command changes: those who see each other's presence because they participate in the same
//! conversation, while that has few participants.

use super::conversation::Conversation;
use carillon_proto::limits::PRESENCE_PARTICIPANTS_MAX;
use carillon_proto::wire::{self, command::Body};

/// The users who may see others than before, now that `conversation` is as a command that was not refused left it, or
/// as it stands after later ones where the command is worked again. Nobody, where it shows nobody to anybody.
pub(crate) fn concerned(conversation: &Conversation, command: &wire::Command) -> Vec<String> {
    let participants = conversation.participants();
    let (fewest, removed) = match &command.body {
        Some(Body::CreateConversation(_)) => (participants.len(), None),
        // Above the bound, those of before do not see each other any more.
        Some(Body::AddParticipants(add)) => (participants.len().saturating_sub(add.users.len()), None),
        Some(Body::RemoveParticipant(remove)) => (participants.len(), Some(&remove.user)),
        Some(Body::SendMessage(_) | Body::UpdateConversation(_)) | None => return Vec::new(),
    };
    if fewest > PRESENCE_PARTICIPANTS_MAX {
        return Vec::new();
    }
    let removed = removed.filter(|user| !participants.contains(user.as_str()));
    let users: Vec<String> =
        participants.iter().map(|user| user.as_str().to_owned()).chain(removed.cloned()).collect();
    if users.len() < 2 { Vec::new() } else { users }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::id::{ConversationId, UserId};

    fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers.map(|number| format!("u{number:03}")).collect()
    }

    /// How many are concerned by a command after which there are so many participants.
    fn count(after: usize, body: Body) -> usize {
        let participants = names(0..after).iter().map(|user| UserId::parse(user).expect("valid")).collect();
        let conversation = Conversation::new(ConversationId::parse("room").expect("valid"), participants);
        let command = wire::Command { body: Some(body), ..wire::Command::default() };
        concerned(&conversation, &command).len()
    }

    #[test]
    fn those_who_see_others_than_before_are_concerned() {
        let create = || Body::CreateConversation(wire::CreateConversation::default());
        let add = |users| Body::AddParticipants(wire::AddParticipants { users });
        let remove = |user: &str| Body::RemoveParticipant(wire::RemoveParticipant { user: user.into() });
        let message = || Body::SendMessage(wire::SendMessage::default());
        for (after, body, expected) in [
            (1, create(), 0),
            (2, create(), 2),
            (100, create(), 100),
            (101, create(), 0),
            (3, add(names(2..3)), 3),
            (101, add(names(100..101)), 101),
            (102, add(names(101..102)), 0),
            (250, add(names(100..250)), 250),
            (1, remove("u001"), 2),
            (2, remove("u002"), 3),
            // Worked again, after they have been added anew.
            (2, remove("u001"), 2),
            (100, remove("u100"), 101),
            (101, remove("u101"), 0),
            (2, message(), 0),
        ] {
            assert_eq!(count(after, body.clone()), expected, "{after} after {body:?}");
        }
    }
}
