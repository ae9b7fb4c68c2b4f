//! Tests the API without workers: its description, credentials, origins, and that every error is JSON with a code.

use super::*;
use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, Method, Request};
use carillon_proto::{subject, wire};
use carillon_runtime::bus::embedded::EmbeddedBus;
use carillon_runtime::bus::{Bus, Incoming};
use carillon_runtime::settings::{Role, Settings};
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio::task::JoinSet;
use tower::ServiceExt;

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
const KEY: &str = "a-key-for-backends";

pub(super) struct Api {
    router: Router,
    shared: Arc<Shared>,
    pub(super) bus: Arc<EmbeddedBus>,
    pub(super) tasks: JoinSet<()>,
}

pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The status and code of an error. Checks that it has every field of an error.
    fn error(&self) -> (u16, String) {
        assert_eq!(self.headers[CONTENT_TYPE], "application/json", "{}", self.text);
        let body = self.json();
        assert_eq!(body["error"], self.status.canonical_reason().expect("a known status"));
        assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        (self.status.as_u16(), body["code"].as_str().expect("a code").to_owned())
    }
}

impl Api {
    pub(super) fn start(change: impl FnOnce(&mut Settings)) -> Api {
        let mut settings = Settings::defaults(Role::Gateway);
        settings.partitions = 1;
        settings.auth.secret = Some(SECRET.into());
        settings.api_keys = vec![KEY.into()];
        change(&mut settings);
        let (bus, mut tasks) = (EmbeddedBus::new(1), JoinSet::new());
        let shared = crate::assemble(settings, bus.clone(), &mut tasks).expect("a gateway");
        Api { router: crate::http::routes::router(shared.clone()), shared, bus, tasks }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), 1024 * 1024).await.expect("a body");
        Answer { status, headers, text: String::from_utf8(bytes.into()).expect("text") }
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request(Method::GET, path, headers, Body::empty()).await
    }

    async fn description(&self) -> Value {
        self.get("/api/openapi.json", &[]).await.json()
    }
}

pub(super) fn bearer(seconds: i64) -> String {
    let exp = crate::wall::token_ms() as i64 / 1_000 + seconds;
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let claims = json!({"sub": "ann", "exp": exp});
    format!("Bearer {}", jsonwebtoken::encode(&Default::default(), &claims, &key).expect("a token"))
}

/// Every operation of the description: path, method in capitals, and content.
fn operations(document: &Value) -> Vec<(String, Method, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let method = method.to_uppercase().parse().expect("a method");
            all.push((path.clone(), method, operation.clone()));
        }
    }
    all
}

/// Calls `visit` with every value in a document.
fn walk(value: &Value, visit: &mut impl FnMut(&Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Object(fields) => fields.values().for_each(|field| walk(field, visit)),
        _ => {}
    }
}

#[tokio::test]
async fn the_description_names_every_route_of_the_contract() {
    let document = Api::start(|_| {}).description().await;
    let described: BTreeSet<String> =
        operations(&document).iter().map(|(path, method, _)| format!("{method} {path}")).collect();
    let contract = [
        "DELETE /api/conversations/{id}/participants/{userId}",
        "GET /api/auth/session",
        "GET /api/conversations",
        "GET /api/conversations/{id}",
        "GET /api/conversations/{id}/messages",
        "GET /api/docs",
        "GET /api/openapi.json",
        "GET /api/presence",
        "GET /api/users",
        "GET /api/users/{id}",
        "GET /api/v1/health",
        "GET /api/websocket/auth",
        "PATCH /api/conversations/{id}",
        "POST /api/conversations",
        "POST /api/conversations/{id}/messages",
        "POST /api/conversations/{id}/participants",
    ];
    assert_eq!(described, contract.map(String::from).into());
}

#[tokio::test]
async fn served_and_described_routes_are_the_same() {
    let api = Api::start(|_| {});
    let operations = operations(&api.description().await);
    let paths: BTreeSet<&String> = operations.iter().map(|(path, ..)| path).collect();
    for path in paths {
        let concrete = path.replace("{id}", "room").replace("{userId}", "ben");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let described = operations.iter().any(|(other, its, _)| other == path && *its == method);
            let answer = api.request(method.clone(), &concrete, &[], Body::empty()).await;
            let served =
                answer.status != StatusCode::METHOD_NOT_ALLOWED && answer.status != StatusCode::NOT_FOUND;
            assert_eq!(served, described, "{method} {path}: {}", answer.status);
            if !served {
                assert!(answer.headers.contains_key(ALLOW), "{method} {path}");
                assert_eq!(answer.error(), (405, "invalid_payload".into()));
            }
        }
    }
    // A handler that is described but not registered would be missing in both lists above.
    let sources = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/rest")).expect("sources");
    let described_in = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path).expect("a source");
        text.lines().filter(|line| line.starts_with("#[utoipa::path(")).count()
    };
    assert_eq!(
        sources.map(|file| described_in(file.expect("a file").path())).sum::<usize>(),
        operations.len()
    );
}

#[tokio::test]
async fn the_description_is_consistent() {
    let document = Api::start(|_| {}).description().await;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{document}");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    walk(&document, &mut |value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').expect("a reference into the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    });
    let codes = &document["components"]["schemas"]["ErrorCode"]["enum"];
    assert_eq!(*codes, json!(ErrorCode::ALL.map(ErrorCode::as_str)));
    let mut names = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let place = format!("{method} {path}");
        assert!(names.insert(operation["operationId"].as_str().expect("a name").to_owned()), "{place}");
        assert!(operation["summary"].is_string() && operation["tags"].is_array(), "{place}");
        let security = operation["security"].as_array().expect("the operation names its security schemes");
        for scheme in security.iter().flat_map(|one| one.as_object().expect("schemes").keys()) {
            assert!(document["components"]["securitySchemes"][scheme].is_object(), "{place}: {scheme}");
        }
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        for segment in path.split('/').filter_map(|segment| segment.strip_prefix('{')) {
            let name = segment.trim_end_matches('}');
            let named = |parameter: &Value| parameter["in"] == "path" && parameter["name"] == name;
            assert!(parameters.iter().any(named), "{place}: {name}");
        }
        let responses = operation["responses"].as_object().expect("responses");
        assert!(responses.keys().any(|status| status.starts_with('2')), "{place}");
        assert!(responses.values().all(|response| response["description"].is_string()), "{place}");
        let only_public = security.iter().all(|one| one.as_object().is_some_and(|one| one.is_empty()));
        for status in ["400", "401", "403", "429", "503", "504"] {
            assert!(
                only_public || path == "/api/auth/session" || responses.contains_key(status),
                "{place}: {status}"
            );
        }
    }
}

#[tokio::test]
async fn requests_without_valid_credentials_are_refused() {
    let api = Api::start(|_| {});
    let wrong_key = format!("apikey {KEY}s");
    for (credentials, code) in [
        (None, "unauthorized"),
        (Some("Bearer nonsense"), "unauthorized"),
        (Some("Basic YTpi"), "unauthorized"),
        (Some(bearer(-60).as_str()), "token_expired"),
        (Some("apikey"), "unauthorized"),
        (Some(wrong_key.as_str()), "unauthorized"),
    ] {
        let headers: Vec<_> = credentials.iter().map(|value| ("authorization", *value)).collect();
        for (path, method, operation) in operations(&api.description().await) {
            let bearer_only = operation["security"] == json!([{"bearer": []}]);
            if !bearer_only && operation["security"] != json!([{"bearer": []}, {"apiKey": []}]) {
                continue;
            }
            let path = path.replace("{id}", "room").replace("{userId}", "ben");
            let answer = api.request(method.clone(), &path, &headers, Body::empty()).await;
            assert_eq!(answer.error(), (401, code.to_owned()), "{method} {path} {credentials:?}");
            assert!(answer.headers.contains_key(WWW_AUTHENTICATE));
        }
    }
}

#[tokio::test]
async fn wrong_requests_get_the_code_of_their_error() {
    let api = Api::start(|_| {});
    let (token, long) = (bearer(60), format!("{{\"title\":\"{}\"}}", "x".repeat(70 * 1024)));
    let json = ("content-type", "application/json");
    let post = async |path: &str, kind: (&str, &str), body: &str| {
        api.request(Method::POST, path, &[("authorization", &token), kind], body.to_owned()).await.error()
    };
    let (conversations, messages) = ("/api/conversations", "/api/conversations/room/messages");
    let refused = |status, code: &str| (status, code.to_owned());
    assert_eq!(
        post(conversations, ("content-type", "text/plain"), "{}").await,
        refused(415, "invalid_frame")
    );
    assert_eq!(post(conversations, ("x-none", "1"), "{}").await, refused(415, "invalid_frame"));
    assert_eq!(post(conversations, json, &long).await, refused(413, "too_large"));
    for (path, body, expected) in [
        (conversations, "{", refused(400, "invalid_frame")),
        (conversations, "[]", refused(400, "invalid_frame")),
        (conversations, r#"{"title":1}"#, refused(400, "invalid_payload")),
        (conversations, r#"{"id":"a b"}"#, refused(400, "invalid_payload")),
        (conversations, r#"{"participants":["a/b"]}"#, refused(400, "invalid_payload")),
        (conversations, r#"{"metadata":[1]}"#, refused(400, "invalid_payload")),
        (conversations, r#"{"ownerId":"ben"}"#, refused(403, "forbidden")),
        (messages, r#"{}"#, refused(400, "invalid_payload")),
        (messages, r#"{"content":" \n "}"#, refused(400, "empty_content")),
        (messages, r#"{"content":"a","clientId":"a b"}"#, refused(400, "invalid_payload")),
        (messages, r#"{"content":"a","replyTo":"a"}"#, refused(400, "invalid_payload")),
        (messages, r#"{"content":"a","senderId":"ben"}"#, refused(403, "forbidden")),
        (messages, r#"{"content":"a","senderName":"Ben"}"#, refused(403, "forbidden")),
        (messages, r#"{"content":"a","personaId":"p"}"#, refused(403, "forbidden")),
        (messages, r#"{"content":"a","isAi":true}"#, refused(403, "forbidden")),
        ("/api/conversations/a%20b/messages", r#"{"content":"a"}"#, refused(400, "invalid_payload")),
        ("/api/conversations/a%ff/messages", r#"{"content":"a"}"#, refused(400, "invalid_payload")),
        ("/api/conversations/room/participants", r#"{"userIds":[]}"#, refused(400, "invalid_payload")),
        ("/api/nothing/here", "{}", refused(404, "not_found")),
        ("/api/conversations/room/nothing", "{}", refused(404, "not_found")),
        ("/nothing", "{}", refused(404, "not_found")),
        ("/livez", "{}", refused(405, "invalid_payload")),
    ] {
        assert_eq!(post(path, json, body).await, expected, "{path} {body}");
    }
    let content = serde_json::json!({"content": "ä".repeat(5_001)}).to_string();
    assert_eq!(post(messages, json, &content).await, refused(413, "too_large"));
    for query in ["messages?limit=many", "messages?beforeSeq=1&afterSeq=1", "messages?afterSeq=-1"] {
        let answer = api.get(&format!("/api/conversations/room/{query}"), &[("authorization", &token)]).await;
        assert_eq!(answer.error(), refused(400, "invalid_payload"), "{query}");
    }
}

#[tokio::test]
async fn requests_of_other_origins_are_refused() {
    let api = Api::start(|settings| settings.allowed_origins = vec!["https://app.example".into()]);
    let requested = ("access-control-request-method", "PATCH");
    let preflight = async |origin: &str| {
        api.request(
            Method::OPTIONS,
            "/api/conversations/room",
            &[("origin", origin), requested],
            Body::empty(),
        )
        .await
    };
    let allowed = preflight("https://app.example").await;
    assert_eq!(allowed.status, StatusCode::NO_CONTENT);
    assert_eq!(allowed.headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
    assert_eq!(allowed.headers[ACCESS_CONTROL_ALLOW_METHODS], "GET, POST, PUT, PATCH, DELETE");
    assert!(allowed.headers[ACCESS_CONTROL_ALLOW_HEADERS].to_str().expect("text").contains("authorization"));
    assert_eq!(allowed.headers[VARY], "Origin");
    for foreign in ["https://evil.example", "null", "https://app.example.evil.example"] {
        let refused = preflight(foreign).await;
        assert_eq!(refused.error(), (403, "forbidden".into()));
        assert!(!refused.headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        let refused = api.get("/api/auth/session", &[("origin", foreign)]).await;
        assert_eq!(refused.error(), (403, "forbidden".into()));
    }
    // An allowed page can also read refusals.
    let refused = api.get("/api/conversations", &[("origin", "https://app.example")]).await;
    assert_eq!(refused.error(), (401, "unauthorized".into()));
    assert_eq!(refused.headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
    assert_eq!(refused.headers["cache-control"], "no-store");
    let plain = api.request(Method::OPTIONS, "/api/conversations", &[], Body::empty()).await;
    assert_eq!(plain.error(), (405, "invalid_payload".into()));
}

#[tokio::test]
async fn without_workers_reads_and_health_are_unavailable() {
    let api = Api::start(|_| {});
    let answer = api.get("/api/conversations", &[("authorization", &bearer(60))]).await;
    assert_eq!(answer.error(), (503, "unavailable".into()));
    assert_eq!(answer.headers[RETRY_AFTER], "1");
    assert_eq!(answer.json()["retry_after_ms"], 1_000);
    let health = api.get("/api/v1/health", &[]).await;
    assert_eq!(health.status, StatusCode::SERVICE_UNAVAILABLE);
    let expected = json!({
        "status": "unavailable", "version": env!("CARGO_PKG_VERSION"), "connections": 0, "rooms": 0,
        "bus": "ok", "store": "unavailable"
    });
    assert_eq!(health.json(), expected);
}

#[tokio::test]
async fn a_missing_outcome_is_a_timeout() {
    let api = Api::start(|_| {});
    let (token, json) = (bearer(60), ("content-type", "application/json"));
    let headers = [("authorization", token.as_str()), json];
    let send = api.request(Method::POST, "/api/conversations/room/messages", &headers, r#"{"content":"hi"}"#);
    let late = async {
        while api.bus.log_bounds(0).await.expect("the log").last == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let after = crate::workers::pending::OUTCOME_TIMEOUT + std::time::Duration::from_secs(1);
        api.shared.delivery.pending.sweep(tokio::time::Instant::now() + after);
    };
    let (answer, ()) = tokio::join!(send, late);
    assert_eq!(answer.error(), (504, "timeout".into()));
}

#[tokio::test]
async fn many_health_requests_cause_one_read_of_the_store() {
    let api = Api::start(|_| {});
    let mut reads = api.bus.subscribe(subject::READ, None).await.expect("subscribed");
    let worker = tokio::spawn(async move {
        let body = wire::read_reply::Body::Conversations(wire::Conversations::default());
        let empty = wire::ReadReply { body: Some(body) }.encode_to_vec();
        let Some(Incoming::Message(message)) = reads.next().await else { panic!("no read request arrived") };
        message.reply.expect("a request").send(empty.into());
        reads
    });
    for _ in 0..3 {
        let health = api.get("/api/v1/health", &[]).await;
        assert_eq!((health.status, health.json()["status"].clone()), (StatusCode::OK, json!("ok")));
    }
    assert!(worker.await.expect("ended").try_next().is_none(), "the health requests must share one read");
}

#[tokio::test]
async fn the_docs_page_uses_only_its_own_files() {
    let api = Api::start(|_| {});
    let page = api.get("/api/docs", &[]).await;
    assert_eq!(page.status, StatusCode::OK);
    let policy = page.headers[CONTENT_SECURITY_POLICY].to_str().expect("text");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(!page.text.contains("<style") && !page.text.contains("//cdn") && !page.text.contains("http"));
    let linked = page.text.split('"').filter(|part| part.starts_with("/api/docs/"));
    let linked: BTreeSet<&str> = linked.map(|part| part.split('#').next().expect("a path")).collect();
    assert_eq!(linked.len(), crate::http::page::DOCS_FILES.len());
    for path in linked {
        assert_eq!(api.get(path, &[]).await.status, StatusCode::OK, "{path}");
    }
}
