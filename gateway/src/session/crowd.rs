//! Makes room when a user has the maximum number of connections. The new connection waits while the others are pinged,
//! on all gateways, and takes the place of one that does not answer. Otherwise a phone that lost its network would be
//! locked out by its own dead connections (`docs/decisions/0015-the-dead-make-room.md`).

use crate::connection::{Connection, Signal};
use crate::core::probe::{Probe, Verdict};
use crate::metrics;
use crate::presence::SessionAdmission;
use crate::presence::directory::LocalSession;
use crate::shared::Shared;
use carillon_proto::code::Close;
use carillon_proto::id::UserId;
use carillon_proto::limits::PROBE_MS;
use carillon_runtime::time::steady_ms;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a new connection waits for a place: the time for a ping's answer, and for messages over the bus.
const WAIT: Duration = Duration::from_millis(PROBE_MS + 1_500);
/// How often it tries again. If its client only reconnects, its old session usually ends within this time.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

impl Shared {
    /// Announces a session as [`Shared::start_session`] does. If the user has too many, it waits for a place.
    pub async fn find_place(&self, session: LocalSession, limit: u32) -> SessionAdmission {
        let mut admission = self.start_session(session.clone(), limit).await;
        if admission == SessionAdmission::Admitted {
            return admission;
        }
        let user = session.connection.user.clone();
        let waiting = self.directory.wait(&user, limit);
        let deadline = Instant::now() + if waiting.is_some() { WAIT } else { LOOK_INTERVAL };
        while admission == SessionAdmission::TooMany
            && Instant::now() < deadline
            && !self.draining.is_cancelled()
        {
            sleep(LOOK_INTERVAL).await;
            admission = self.start_session(session.clone(), limit).await;
        }
        admission
    }

    /// Pings the user's connections to this gateway and ends those that do not answer.
    pub fn find_dead(&self, user: &str) {
        let (Some(shared), Ok(user)) = (self.this.upgrade(), UserId::parse(user)) else { return };
        for connection in self.directory.connections_of(&user) {
            // A connection that is not read now, because it is beginning or waits for an outcome, cannot answer a ping,
            // so it is not probed.
            if connection.outgoing.last_activity_ms().is_some() && connection.try_start_probe() {
                tokio::spawn(probe(shared.clone(), connection));
            }
        }
    }
}

/// Probes one connection. At most one probe runs per connection.
async fn probe(shared: Arc<Shared>, connection: Arc<Connection>) {
    let mut probe = Probe::new(steady_ms());
    loop {
        connection.ping();
        sleep(Duration::from_millis(probe.poll_timeout_ms().saturating_sub(steady_ms()))).await;
        match probe.handle_timeout(steady_ms(), connection.outgoing.last_activity_ms()) {
            Verdict::PingAgain => {}
            Verdict::Alive => break,
            Verdict::Dead => {
                metrics::FOUND_DEAD.inc();
                // It is no longer counted from now on, even if closing it takes time.
                shared.end_session(&connection);
                connection.signal(Signal::Close(Close::Unresponsive));
                break;
            }
        }
    }
    connection.end_probe();
}
