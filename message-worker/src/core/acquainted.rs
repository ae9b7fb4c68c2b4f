//! The users whose acquaintances a command changes. Users see each other's presence if they participate in the same
//! conversation, as long as it has few participants.

use super::conversation::Conversation;
use carillon_proto::limits::PRESENCE_PARTICIPANTS_MAX;
use carillon_proto::wire::{self, command::Body};

/// Whether a command may change the participants.
pub(crate) fn changes_participants(command: &wire::Command) -> bool {
    match &command.body {
        Some(Body::CreateConversation(_) | Body::AddParticipants(_) | Body::RemoveParticipant(_)) => true,
        Some(Body::SendMessage(_) | Body::UpdateConversation(_)) | None => false,
    }
}

/// The users who may see other users than before the command. `conversation` is the state after a command that was not
/// refused, or after later commands where the command is replayed. Empty if the conversation shows no user to another.
pub(crate) fn concerned(conversation: &Conversation, command: &wire::Command) -> Vec<String> {
    let participants = conversation.participants();
    let (fewest, removed) = match &command.body {
        Some(Body::CreateConversation(_)) => (participants.len(), None),
        // Above the limit, the earlier participants no longer see each other, so they are concerned as well.
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

    /// The number of users concerned by a command that leaves `after` participants.
    fn count(after: usize, body: Body) -> usize {
        let participants = names(0..after).iter().map(|user| UserId::parse(user).expect("valid")).collect();
        let conversation = Conversation::new(ConversationId::parse("room").expect("valid"), participants);
        let command = wire::Command { body: Some(body), ..wire::Command::default() };
        concerned(&conversation, &command).len()
    }

    #[test]
    fn users_who_see_other_users_than_before_are_concerned() {
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
            // Replayed after the user was added again.
            (2, remove("u001"), 2),
            (100, remove("u100"), 101),
            (101, remove("u101"), 0),
            (2, message(), 0),
        ] {
            assert_eq!(count(after, body.clone()), expected, "{after} after {body:?}");
        }
    }
}
