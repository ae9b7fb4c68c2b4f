//! The parts of the REST API that all routes share: health, the OpenAPI document, credentials, origins, and the limits
//! on a request's body.

use super::harness::{Carillon, backend, nobody, user};
use carillon_tests::server::Server;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

#[tokio::test]
async fn health_and_openapi_need_no_credentials() {
    let carillon = Carillon::start();
    let ready = |health: &serde_json::Value| health["status"] == "ok";
    let health = carillon.eventually(&nobody(), "/api/v1/health", ready).await;
    let expected = json!({
        "status": "ok", "version": env!("CARGO_PKG_VERSION"), "connections": 0, "rooms": 0, "bus": "ok", "store": "ok"
    });
    assert_eq!(health, expected);
    let mut ann = carillon.connect(&super::harness::token("ann", &[])).await;
    carillon.create(&user("ann"), "room", &[]).await;
    ann.join("room").await;
    let health = carillon.get(&nobody(), "/api/v1/health").await.ok(200);
    assert_eq!((&health["connections"], &health["rooms"]), (&json!(1), &json!(1)));
    let document = carillon.get(&nobody(), "/api/openapi.json").await.ok(200);
    assert_eq!(document["info"]["title"], "Carillon");
    assert!(document["paths"].as_object().is_some_and(|paths| paths.len() >= 12));
}

/// `--dev` takes the identity from the path of a WebSocket only, never from a header or query of the REST API.
#[tokio::test]
async fn a_token_or_key_is_required_even_with_dev() {
    let data = TempDir::new().expect("a directory");
    let server = Server::standalone(data.path(), &[]);
    let client = reqwest::Client::builder().build().expect("a client");
    for path in ["/api/conversations", "/api/conversations?user=ann", "/api/users", "/api/presence?ids=ann"] {
        let answer = client.get(format!("{}{path}", server.http())).header("x-user", "ann").send().await;
        assert_eq!(answer.expect("an answer").status().as_u16(), 401, "{path}");
    }
}

#[tokio::test]
async fn only_allowed_origins_may_send_requests_from_a_browser() {
    let carillon = Carillon::start_with(&[("CARILLON_ALLOWED_ORIGINS", "https://app.example")]);
    let ann = user("ann");
    let from = |origin| [("origin", origin), ("access-control-request-method", "POST")];
    let preflight = async |origin| {
        carillon.ask(&nobody(), Method::OPTIONS, "/api/conversations", None, &from(origin)).await
    };
    let allowed = preflight("https://app.example").await;
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.headers["access-control-allow-origin"], "https://app.example");
    assert_eq!(allowed.headers["vary"], "Origin");
    assert_eq!(preflight("https://evil.example").await.error(), (403, "forbidden"));
    let body = Some(json!({"id": "room"}));
    let refused =
        carillon.ask(&ann, Method::POST, "/api/conversations", body, &from("https://evil.example")).await;
    assert_eq!(refused.error(), (403, "forbidden"));
    assert_eq!(carillon.get(&backend(), "/api/conversations/room").await.error(), (404, "not_found"));
}

/// Bodies over 68 KiB are refused. 5,000 characters of four bytes with metadata fit, and JSON may nest 32 levels.
#[tokio::test]
async fn a_body_over_the_limit_gets_too_large_and_one_within_it_is_stored() {
    let carillon = Carillon::start();
    let ann = user("ann");
    carillon.create(&ann, "room", &[]).await;
    let path = "/api/conversations/room/messages";
    for bytes in [70 * 1024, 900 * 1024] {
        let refused = carillon.post(&ann, path, json!({"content": "x".repeat(bytes)})).await;
        assert_eq!(refused.error(), (413, "too_large"), "{bytes}");
    }
    let content = "😀".repeat(5_000);
    let metadata = json!({"a": "x".repeat(4_000)});
    let sent = carillon.post(&ann, path, json!({"content": content, "metadata": metadata})).await.ok(201);
    assert_eq!((&sent["content"], &sent["metadata"]), (&json!(content), &metadata));
    let deep = format!("{}1{}", "{\"a\":".repeat(33), "}".repeat(33));
    let deep: serde_json::Value = serde_json::from_str(&deep).expect("JSON");
    let refused = carillon.post(&ann, path, json!({"content": "a", "metadata": deep})).await;
    assert_eq!(refused.error(), (413, "too_large"));
}
