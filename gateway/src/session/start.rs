//! The start of a session, over any transport: its connection is counted for its user, who may be at the limit.

use super::Session;
use super::running::RunningSession;
use crate::access::auth::Identity;
use crate::connection::outgoing::Outgoing;
use crate::connection::{ClientProtocol, Connection};
use crate::metrics;
use crate::presence::SessionAdmission;
use crate::presence::directory::LocalSession;
use crate::shared::Shared;
use carillon_proto::code::Close;
use carillon_proto::wire::{SessionPlace, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The conditions under which a connection is counted for its user.
pub struct Claim {
    /// The maximum number of the user's connections; 0 means no limit.
    pub limit: u32,
    /// The session that this one replaces, at the gateway where it is still counted.
    pub moved_from: Option<SessionPlace>,
    /// The status that the user had set, with its text.
    pub status: Option<(Status, String)>,
}

impl Claim {
    /// The claim of a new connection.
    pub fn new(shared: &Shared) -> Claim {
        Claim { limit: shared.settings.limits.connections_per_user, moved_from: None, status: None }
    }
}

/// Counts a connection in and begins its session.
///
/// # Errors
/// When the user has the maximum number of connections, and all of them are alive.
pub async fn start(
    shared: Arc<Shared>,
    mut identity: Identity,
    protocol: ClientProtocol,
    outgoing: Arc<Outgoing>,
    claim: Claim,
) -> Result<RunningSession, Close> {
    // The directory keeps the profile, so the identity does not need a second copy.
    let profile = std::mem::take(&mut identity.profile);
    let id = shared.next_connection.fetch_add(1, Ordering::Relaxed) + 1;
    let connection = Connection::new(id, identity.user.clone(), identity.name.clone(), protocol, outgoing);
    let connection = Arc::new(connection);
    let Claim { limit, moved_from, status } = claim;
    let session = LocalSession { connection: connection.clone(), profile, status, moved_from };
    if Box::pin(shared.find_place(session, limit)).await == SessionAdmission::TooMany {
        metrics::REFUSED.inc();
        return Err(Close::TooManyConnections);
    }
    metrics::ACCEPTED.inc();
    Ok(RunningSession::new(Session::new(shared, connection, identity)))
}
