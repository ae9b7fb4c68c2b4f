//! What is done when a user has as many connections as allowed: a new one waits while the others are pinged, on whatever
//! gateways they are, and takes the place of one that does not answer. A phone that lost its network is not locked out by
//! its own dead connections.

use crate::connection::{Connection, Signal};
use crate::core::probe::{Probe, Verdict};
use crate::directory::LocalSession;
use crate::metrics;
use crate::presence::Admission;
use crate::shared::Shared;
use carillon_proto::code::Close;
use carillon_proto::id::UserId;
use carillon_proto::limits::PROBE_MS;
use carillon_runtime::time::steady_ms;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a new connection waits for a place: for the ping's answer, and for its way there and back over the bus.
const WAIT: Duration = Duration::from_millis(PROBE_MS + 1_500);
/// Between two looks whether there is one. A session whose client comes back is mostly on its way out already.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

impl Shared {
    /// Announces a session as [`Shared::start_session`] does, and waits for a place if there is none.
    pub async fn find_place(&self, session: LocalSession, limit: u32) -> Admission {
        let mut admission = self.start_session(session.clone(), limit).await;
        if admission == Admission::Admitted {
            return admission;
        }
        let user = session.connection.user.clone();
        let waiting = self.directory.wait(&user, limit);
        let deadline = Instant::now() + if waiting.is_some() { WAIT } else { LOOK_INTERVAL };
        while admission == Admission::TooMany && Instant::now() < deadline && !self.draining.is_cancelled() {
            sleep(LOOK_INTERVAL).await;
            admission = self.start_session(session.clone(), limit).await;
        }
        admission
    }

    /// Pings the connections of a user here, and ends those that do not answer.
    pub fn find_dead(&self, user: &str) {
        let (Some(shared), Ok(user)) = (self.this.upgrade(), UserId::parse(user)) else { return };
        for connection in self.directory.connections_of(&user) {
            // One to which nobody listens, as it begins or waits for an answer, is not asked.
            if connection.outgoing.heard_ms().is_some() && connection.begin_probe() {
                tokio::spawn(probe(shared.clone(), connection));
            }
        }
    }
}

/// At most one at a time for each connection.
async fn probe(shared: Arc<Shared>, connection: Arc<Connection>) {
    let mut probe = Probe::new(steady_ms());
    loop {
        connection.ping();
        sleep(Duration::from_millis(probe.next_ms().saturating_sub(steady_ms()))).await;
        match probe.due(steady_ms(), connection.outgoing.heard_ms()) {
            Verdict::Ask => {}
            Verdict::Alive => break,
            Verdict::Dead => {
                metrics::FOUND_DEAD.inc();
                // Not counted from now on, however long it takes to end.
                shared.end_session(&connection);
                connection.signal(Signal::Close(Close::Unresponsive));
                break;
            }
        }
    }
    connection.end_probe();
}
