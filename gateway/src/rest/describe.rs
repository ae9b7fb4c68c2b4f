//! The API's description, generated from its code, and the page for reading and trying it.

use super::error::Error;
use super::{conversations, health, messages, participants, session, users};
use crate::http::page;
use crate::shared::Shared;
use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use std::sync::{Arc, LazyLock};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The parts of the description that are not routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Carillon",
        description = "Conversations, messages, users and presence. A write is stored durably before it is answered, \
                       and connected clients receive it at once. Times are in UTC, in the form \
                       `2026-01-01T12:00:00.000Z`. Ids in paths and queries are percent-encoded. Bodies are JSON \
                       objects; unknown fields are ignored, and `null` means that a field is absent. Every error has \
                       a `code` for programs. A `forbidden` is the same whether the resource exists or not.",
    ),
    components(schemas(Error)),
    modifiers(&Credentials),
    tags(
        (name = "Conversations"), (name = "Participants"), (name = "Messages"), (name = "Users and presence"),
        (name = "Session"), (name = "Service"),
    ),
)]
struct Description;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("A user's token, the same as for WebSockets."))
            .build();
        let key = "A backend's key: `apikey KEY`, with a key of the setting `api.keys`.";
        let key = ApiKeyValue::with_description("Authorization", key);
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        components.add_security_scheme("apiKey", SecurityScheme::ApiKey(ApiKey::Header(key)));
    }
}

/// All routes, with their descriptions.
pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(conversations::list, conversations::create))
        .routes(routes!(conversations::read, conversations::update))
        .routes(routes!(participants::add))
        .routes(routes!(participants::remove))
        .routes(routes!(messages::list, messages::send))
        .routes(routes!(users::list))
        .routes(routes!(users::read))
        .routes(routes!(users::presence))
        .routes(routes!(session::websocket_token))
        .routes(routes!(session::current))
        .routes(routes!(health::health))
        .routes(routes!(description))
        .routes(routes!(docs))
}

/// The files of the page. They are not part of the API.
pub fn page() -> Router<Arc<Shared>> {
    page::DOCS_FILES.iter().fold(Router::new(), |router, (path, content_type, content)| {
        router.route(path, get(move || async move { page::docs_response(content_type, content) }))
    })
}

/// Serialized once, because it never changes.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let json = routes().into_openapi().to_json();
    json.unwrap_or_else(|error| {
        tracing::error!(%error, "the description of the API cannot be written");
        String::from("{}")
    })
    .into()
});

/// Read this description
///
/// Returns the description of the API as an OpenAPI document. It needs no credentials.
#[utoipa::path(
    operation_id = "readDescription", get, path = "/api/openapi.json", tag = "Service", security(()),
    responses((status = 200, content_type = "application/json", description = "This description, as an OpenAPI document.")),
)]
async fn description() -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], DOCUMENT.clone()).into_response()
}

/// Read and try the API
///
/// Returns a page that shows this description and can send requests. It needs no credentials.
#[utoipa::path(
    operation_id = "readDocs", get, path = "/api/docs", tag = "Service", security(()),
    responses((status = 200, content_type = "text/html", description = "A page that shows this description and sends requests.")),
)]
async fn docs() -> Response {
    page::docs_response("text/html; charset=utf-8", page::DOCS)
}
