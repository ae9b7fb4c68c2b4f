//! Which users a caller may see (`docs/protocol.md#presence`): the caller, users that share a stored conversation with
//! the caller, and users that the caller's connections to this gateway see now. A backend sees all users.

use super::caller::Caller;
use crate::shared::Shared;
use carillon_proto::code::Failure;
use carillon_proto::id::UserId;
use std::collections::HashSet;

impl Shared {
    /// The users among `users` whom the caller may see.
    pub(super) async fn visible_to(
        &self,
        caller: &Caller,
        users: &[UserId],
    ) -> Result<HashSet<UserId>, Failure> {
        let (Caller::User(identity), false) = (caller, self.settings.dev) else {
            return Ok(users.iter().cloned().collect());
        };
        let mut seen = HashSet::from([identity.user.clone()]);
        let names: Vec<String> = users.iter().map(ToString::to_string).collect();
        for connection in self.directory.connections_of(&identity.user) {
            let here = self.audience.seen_by(&connection, &names);
            seen.extend(users.iter().filter(|user| here.contains(user.as_str())).cloned());
        }
        if users.iter().any(|user| !seen.contains(user)) {
            seen.extend(self.acquaintances(&identity.user).await?);
        }
        Ok(users.iter().filter(|user| seen.contains(*user)).cloned().collect())
    }
}
