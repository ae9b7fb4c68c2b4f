//! Users and their presence. Profiles come from the claims of the users' tokens.

use super::ErrorResponse;
use super::body::{OfUser, Params, page_limit, user_ids};
use super::caller::{Caller, user_id};
use super::error::ErrorResponses;
use super::shapes::{Presence, User};
use crate::shared::Shared;
use axum::extract::State;
use axum::response::Json;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::event::unknown_presence;
use carillon_proto::id::UserId;
use carillon_proto::wire::{self, presence_change::Body as Change, presence_result::Body as Outcome};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UserParams {
    /// At most 200 ids, separated by commas; a `+` in an id is written `%2B`. Without it, the answer is a page of the
    /// users who share a conversation with the caller. A backend must give it.
    ids: Option<String>,
    /// Without `ids`: maximum number of users in the page, 50 by default. A value outside 1 to 200 counts as the
    /// nearest of these.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// Without `ids`: the `nextCursor` of the previous page.
    cursor: Option<String>,
}

/// A page of users.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserPage {
    /// The users in the order of `ids`, or else sorted by id.
    users: Vec<User>,
    /// The `cursor` of the next page; `null` on the last page and with `ids`.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// List users
///
/// Returns the users of `ids` whom the caller may see, or all users who share a conversation with the caller. A backend
/// receives only users who have connected at least once.
#[utoipa::path(
    operation_id = "listUsers", get, path = "/api/users", tag = "Users and presence", params(UserParams),
    responses((status = 200, body = UserPage, description = "A page of users."), ErrorResponses), security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(params): Params<UserParams>,
) -> Result<Json<UserPage>, ErrorResponse> {
    let (ids, next_cursor) = match (&params.ids, caller.user()) {
        (Some(ids), _) => {
            let ids = user_ids(ids)?;
            let visible = shared.visible_to(&caller, &ids).await?;
            (ids.into_iter().filter(|id| visible.contains(id)).collect(), None)
        }
        (None, Some(user)) => page(shared.acquaintances(user).await?, &params)?,
        (None, None) => return Err(Failure::invalid_payload("missing ids").into()),
    };
    let profiles = try_join_all(ids.iter().map(|id| profile(&shared, &caller, id))).await?;
    let known = profiles.into_iter().filter(|profile| caller.user().is_some() || is_known(profile));
    let users = known.map(|profile| shown(&caller, profile)).collect();
    Ok(Json(UserPage { users, next_cursor }))
}

/// A page of sorted users, and the cursor of the next page.
fn page(users: Vec<UserId>, params: &UserParams) -> Result<(Vec<UserId>, Option<String>), Failure> {
    let limit = page_limit(params.limit) as usize;
    let after = params.cursor.as_deref().filter(|cursor| !cursor.is_empty()).map(user_id).transpose()?;
    let mut rest = users.into_iter().filter(|user| after.as_ref().is_none_or(|after| user > after));
    let page: Vec<UserId> = rest.by_ref().take(limit).collect();
    let next_cursor = rest.next().and(page.last()).map(ToString::to_string);
    Ok((page, next_cursor))
}

/// Read a user
///
/// Returns the profile, which comes from the token with which the user last connected.
#[utoipa::path(
    operation_id = "readUser", get, path = "/api/users/{id}", tag = "Users and presence",
    params(("id" = String, Path, description = "The user's id.")),
    responses((status = 200, body = User, description = "The user."), ErrorResponses), security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    OfUser(user): OfUser<false>,
) -> Result<Json<User>, ErrorResponse> {
    if shared.visible_to(&caller, std::slice::from_ref(&user)).await?.is_empty() {
        return Err(Failure::new(ErrorCode::Forbidden, "you may not see this user").into());
    }
    let profile = profile(&shared, &caller, &user).await?;
    if caller.user().is_none() && !is_known(&profile) {
        return Err(Failure::new(ErrorCode::NotFound, "this user has never connected").into());
    }
    Ok(Json(shown(&caller, profile)))
}

/// A user's profile: the caller's own from the token, another user's from the presence-worker.
async fn profile(shared: &Shared, caller: &Caller, user: &UserId) -> Result<wire::Profile, Failure> {
    if let Caller::User(identity) = caller
        && identity.user == *user
    {
        return Ok(identity.profile.clone());
    }
    let query = Change::ProfileQuery(wire::ProfileQuery { user: user.to_string() });
    match shared.request_presence(query).await {
        Some(Outcome::Profile(profile)) => Ok(wire::Profile { user: user.to_string(), ..profile }),
        _ => {
            Err(Failure::new(ErrorCode::Unavailable, "profiles cannot be read now: try again")
                .retry_after(1_000))
        }
    }
}

/// Whether the profile has more than the id.
fn is_known(profile: &wire::Profile) -> bool {
    !profile.name.is_empty()
}

fn shown(caller: &Caller, profile: wire::Profile) -> User {
    let own = caller.user().is_none_or(|user| user.as_str() == profile.user);
    User::of(profile, own)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PresenceParams {
    /// At most 200 ids, separated by commas; a `+` in an id is written `%2B`.
    #[param(required = true)]
    ids: Option<String>,
}

/// The presence of users, by their ids.
#[derive(Serialize, ToSchema)]
pub(super) struct PresenceById {
    /// The presence of each requested user, by id.
    users: BTreeMap<String, Presence>,
}

/// Read users' presence
///
/// Every requested id is in the answer. Users whom the caller may not see are shown offline, with `lastSeen` `null`.
#[utoipa::path(
    operation_id = "readPresence", get, path = "/api/presence", tag = "Users and presence", params(PresenceParams),
    responses((status = 200, body = PresenceById, description = "The presence of the requested users."), ErrorResponses), security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn presence(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(params): Params<PresenceParams>,
) -> Result<Json<PresenceById>, ErrorResponse> {
    let ids = params.ids.ok_or_else(|| Failure::invalid_payload("missing ids"))?;
    let ids = user_ids(&ids)?;
    let visible = shared.visible_to(&caller, &ids).await?;
    let (seen, hidden): (Vec<UserId>, Vec<UserId>) = ids.into_iter().partition(|id| visible.contains(id));
    let mut users = shared.presence_of(&seen).await;
    users.extend(hidden.iter().map(|user| unknown_presence(user.as_str())));
    let users = users.iter().map(|user| (user.user.clone(), Presence::of(user))).collect();
    Ok(Json(PresenceById { users }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_users_join_without_a_gap() {
        let all: Vec<UserId> = ["a", "b", "c", "d"].map(|id| user_id(id).expect("valid")).into();
        let turn = |cursor: Option<&str>, limit| {
            let params = UserParams { ids: None, limit: Some(limit), cursor: cursor.map(str::to_owned) };
            let (users, next) = page(all.clone(), &params).expect("a page");
            (users.iter().map(ToString::to_string).collect::<String>(), next)
        };
        assert_eq!(turn(None, 3), ("abc".into(), Some("c".into())));
        assert_eq!(turn(Some("c"), 3), ("d".into(), None));
        assert_eq!(turn(None, 4), ("abcd".into(), None));
        assert_eq!(turn(Some("bb"), 1), ("c".into(), Some("c".into())));
    }
}
