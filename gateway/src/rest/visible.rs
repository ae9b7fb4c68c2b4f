//! Whom a caller may see (protocol §2): themself, who shares a stored conversation with them, and whom their
//! connections here see now. A backend sees everybody.

use super::caller::Caller;
use super::conversations::wrong_reply;
use crate::shared::Shared;
use carillon_proto::code::Failure;
use carillon_proto::id::UserId;
use carillon_proto::wire::{self, read_reply, read_request};
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

    /// Users who share a stored conversation of at most 100 participants with this one, sorted.
    pub(super) async fn acquaintances(&self, user: &UserId) -> Result<Vec<UserId>, Failure> {
        let read = wire::ReadAcquaintances { user: user.to_string() };
        let users = match self.read(read_request::Body::Acquaintances(read)).await? {
            read_reply::Body::Users(users) => users.users,
            _ => return Err(wrong_reply()),
        };
        let mut users: Vec<UserId> = users.iter().filter_map(|id| UserId::parse(id).ok()).collect();
        users.sort_unstable();
        Ok(users)
    }
}
