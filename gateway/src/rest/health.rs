//! The gateway's health, for people and monitoring. Liveness and readiness probes have their own endpoints.

use crate::shared::Shared;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use carillon_proto::wire::{self, read_request};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

/// A check that takes longer counts as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a result is reused, so that frequent requests cost nothing.
const JUDGEMENT_AGE_MAX: Duration = Duration::from_secs(1);

/// The last result, and when it was found.
#[derive(Default)]
pub struct RecentHealth(tokio::sync::Mutex<Option<(Instant, Judgement)>>);

#[derive(Clone, Copy)]
struct Judgement {
    bus: bool,
    store: bool,
}

/// `ok`, `draining` while the gateway shuts down, or `unavailable`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Usable {
    Ok,
    Draining,
    Unavailable,
}

/// The gateway's health.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `draining` while the gateway shuts down; otherwise `ok` if the bus and the store can be used.
    status: Usable,
    /// The version of Carillon.
    version: &'static str,
    /// Number of client connections to this gateway now.
    connections: u32,
    /// Number of conversations with members at this gateway now.
    rooms: usize,
    /// Whether the bus can be used.
    bus: Usable,
    /// Whether a worker answers and its store can be used.
    store: Usable,
}

/// Read the gateway's health
///
/// The bus and the store are checked at most once a second. A check that takes longer than 2 seconds has failed.
#[utoipa::path(
    operation_id = "readHealth", get, path = "/api/v1/health", tag = "Service",
    responses(
        (status = 200, body = Health, description = "The bus and the store can be used."),
        (status = 503, body = Health, description = "The bus or the store cannot be used, or the gateway shuts down."),
    ),
    security(()),
)]
pub(super) async fn health(State(shared): State<Arc<Shared>>) -> (StatusCode, Json<Health>) {
    let Judgement { bus, store } = shared.judge().await;
    let state = |usable| if usable { Usable::Ok } else { Usable::Unavailable };
    let (code, status) = match (shared.draining.is_cancelled(), bus && store) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, Usable::Draining),
        (false, true) => (StatusCode::OK, Usable::Ok),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, Usable::Unavailable),
    };
    let health = Health {
        status,
        version: env!("CARGO_PKG_VERSION"),
        connections: shared.admission.connections(),
        rooms: shared.delivery.hub.count(),
        bus: state(bus),
        store: state(store),
    };
    (code, Json(health))
}

impl Shared {
    async fn judge(&self) -> Judgement {
        let mut recent = self.health.0.lock().await;
        if let Some((at, judgement)) = *recent
            && at.elapsed() < JUDGEMENT_AGE_MAX
        {
            return judgement;
        }
        // A user id that no real user is expected to have, so the read is cheap and finds nothing.
        let nobody =
            wire::ReadConversations { user: "health@carillon".into(), cursor: String::new(), limit: 1 };
        let store =
            timeout(CHECK_TIMEOUT, self.delivery.reader.read(read_request::Body::Conversations(nobody)));
        let (bus, store) = tokio::join!(timeout(CHECK_TIMEOUT, self.bus.healthy()), store);
        let judgement = Judgement { bus: bus.unwrap_or(false), store: matches!(store, Ok(Ok(_))) };
        *recent = Some((Instant::now(), judgement));
        judgement
    }
}
