//! A standalone process with a token secret and an API key, and an HTTP client for requests to it.

use carillon_tests::client::Client;
use carillon_tests::parts::free_port;
use carillon_tests::server::{Server, command};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
pub const KEY: &str = "a-key-for-backends";
/// For lists, which follow a write within a second, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Carillon {
    pub server: Server,
    client: reqwest::Client,
    _data: TempDir,
}

/// The value of the header `Authorization`, or none.
#[derive(Clone)]
pub struct Credentials(Option<String>);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body of an answer that must have this status.
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.body
    }

    /// The status and code of an answer that must be an error.
    pub fn error(&self) -> (u16, &str) {
        assert_eq!(self.headers["content-type"], "application/json", "{self:?}");
        assert!(self.body["error"].is_string() && self.body["message"].is_string(), "{self:?}");
        (self.status, self.body["code"].as_str().expect("a code"))
    }
}

pub fn nobody() -> Credentials {
    Credentials(None)
}

pub fn backend() -> Credentials {
    Credentials(Some(format!("apikey {KEY}")))
}

/// A user with a token that is valid for an hour.
pub fn user(id: &str) -> Credentials {
    user_with(id, &[])
}

/// A user whose token is made with more arguments of `carillon token`.
pub fn user_with(id: &str, arguments: &[&str]) -> Credentials {
    Credentials(Some(format!("Bearer {}", token(id, arguments))))
}

/// Exactly this value of the header `Authorization`.
pub fn authorization(value: String) -> Credentials {
    Credentials(Some(value))
}

pub fn token(id: &str, arguments: &[&str]) -> String {
    let output = command().args(["token", "--sub", id]).args(arguments).env("AUTH_SECRET", SECRET).output();
    let output = output.expect("carillon token runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

impl Carillon {
    pub fn start() -> Carillon {
        Self::start_with(&[])
    }

    pub fn start_with(environment: &[(&str, &str)]) -> Carillon {
        let (port, data) = (free_port(), TempDir::new().expect("a directory"));
        let data_dir = data.path().display().to_string();
        let arguments = ["standalone", "--listen", &format!("127.0.0.1:{port}"), "--data-dir", &data_dir];
        let secrets = [("AUTH_SECRET", SECRET), ("CARILLON_API__KEYS", KEY)];
        let environment: Vec<_> = secrets.iter().chain(environment).copied().collect();
        let server = Server::start(port, arguments.map(String::from).into(), &environment);
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().expect("a client");
        Carillon { server, client, _data: data }
    }

    pub async fn ask(
        &self,
        who: &Credentials,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.server.http()));
        if let Credentials(Some(value)) = who {
            request = request.header("authorization", value);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("text");
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") };
        Answer { status, headers, body }
    }

    pub async fn get(&self, who: &Credentials, path: &str) -> Answer {
        self.ask(who, Method::GET, path, None, &[]).await
    }

    pub async fn post(&self, who: &Credentials, path: &str, body: Value) -> Answer {
        self.ask(who, Method::POST, path, Some(body), &[]).await
    }

    pub async fn patch(&self, who: &Credentials, path: &str, body: Value) -> Answer {
        self.ask(who, Method::PATCH, path, Some(body), &[]).await
    }

    pub async fn delete(&self, who: &Credentials, path: &str) -> Answer {
        self.ask(who, Method::DELETE, path, None, &[]).await
    }

    pub async fn create(&self, owner: &Credentials, id: &str, participants: &[&str]) -> Value {
        let body = json!({"id": id, "participants": participants});
        self.post(owner, "/api/conversations", body).await.ok(201)
    }

    pub async fn say(&self, who: &Credentials, conversation: &str, content: &str) -> Value {
        let path = format!("/api/conversations/{conversation}/messages");
        self.post(who, &path, json!({"content": content})).await.ok(201)
    }

    /// Repeats a GET until its body fits, because lists follow writes within a second.
    pub async fn eventually(&self, who: &Credentials, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(who, path).await;
            if answer.status == 200 && fits(&answer.body) {
                return answer.body;
            }
            assert!(Instant::now() < deadline, "{path} did not change in time: {answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A native WebSocket client with this token, after its first frame.
    pub async fn connect(&self, token: &str) -> Client {
        let mut client = Client::connect(&format!("{}/ws/auth?token={token}", self.server.ws())).await;
        client.expect("online_users").await;
        client
    }
}
