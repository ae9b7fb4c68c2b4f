//! What can be set, from `carillon.toml`, the environment and flags, validated before any port opens.

use carillon_proto::subject::Prefix;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub mod document;
pub mod list;
pub mod load;
mod nearest;
mod network;
pub mod parse;
pub mod secret;
#[cfg(test)]
mod tests;

pub use load::{Loaded, Origin, Refused, Sources};
pub use network::{Network, Networks};

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything in one process.
    Standalone,
    /// Serves clients.
    Gateway,
    /// Works partitions of the command log.
    MessageWorker,
    /// Works shards of presence.
    PresenceWorker,
    /// Brings the database's schema up to date, and ends.
    Migrate,
    /// Prints a token, and ends.
    Token,
    /// Compares logs, rows and heads of a system, once or again and again.
    Audit,
}

impl Role {
    /// All roles, in the order of the help.
    pub const ALL: [Role; 7] = [
        Self::Standalone,
        Self::Gateway,
        Self::MessageWorker,
        Self::PresenceWorker,
        Self::Migrate,
        Self::Token,
        Self::Audit,
    ];

    /// The subcommand's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Gateway => "gateway",
            Self::MessageWorker => "message-worker",
            Self::PresenceWorker => "presence-worker",
            Self::Migrate => "migrate",
            Self::Token => "token",
            Self::Audit => "audit",
        }
    }

    /// Whether clients connect to it.
    pub fn serves_clients(self) -> bool {
        matches!(self, Self::Standalone | Self::Gateway)
    }

    /// Whether it has a bus and a store of its own, unless the settings name others. An audit looks at a system from
    /// outside: there is none to look at unless it is named.
    pub fn is_embedded(self) -> bool {
        matches!(self, Self::Standalone | Self::Audit)
    }

    /// Whether it checks or signs tokens, and so cannot do without the secret.
    pub fn needs_secret(self) -> bool {
        self.serves_clients() || self == Self::Token
    }
}

/// Every setting, with its value decided. Every role takes all and ignores what is not its own.
#[derive(Clone)]
pub struct Settings {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where probes and metrics are served; gateways: `None` means on `listen`.
    pub admin_listen: Option<SocketAddr>,
    /// Where the embedded store lies.
    pub data_dir: PathBuf,
    /// Development: identity from the path, open access, the demo page.
    pub dev: bool,
    /// Tokens.
    pub auth: Auth,
    /// Keys of backends.
    pub api_keys: Vec<String>,
    /// `None`: the embedded bus.
    pub nats_url: Option<String>,
    /// Stands before every subject, stream and bucket on NATS.
    pub nats_prefix: Prefix,
    /// Copies of each stream; `None`: 3 in a cluster of 3 or more, else 1.
    pub nats_replicas: Option<usize>,
    /// Empty: the embedded store. `host:port` each.
    pub scylla_nodes: Vec<String>,
    /// The keyspace.
    pub scylla_keyspace: String,
    /// Copies of each row; `None`: min(3, nodes).
    pub scylla_replication: Option<u32>,
    /// Bounds on clients; 0: none.
    pub limits: Limits,
    /// Partitions of the command log.
    pub partitions: u32,
    /// Between two pings (Engine.IO).
    pub ping_interval: Duration,
    /// Until an unanswered ping ends the connection (Engine.IO).
    pub ping_timeout: Duration,
    /// The time a gateway takes to send its clients away on SIGTERM.
    pub drain_timeout: Duration,
    /// Between a user's last connection and their being offline.
    pub presence_grace: Duration,
    /// Who may do what where no namespace says otherwise.
    pub access_default: Access,
    /// Who may do what, by namespace.
    pub access_namespaces: BTreeMap<String, Access>,
    /// Browser origins that may connect; empty: the server's own (under `dev` also localhost).
    pub allowed_origins: Vec<String>,
    /// Addresses and networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
    /// Socket.IO's connection-state recovery for all.
    pub socketio_recovery: bool,
    /// Where spans go, by OTLP over gRPC; `None`: nowhere.
    pub otlp_endpoint: Option<String>,
    /// Share of messages traced when spans go anywhere, 0 to 1.
    pub trace_ratio: f64,
    /// `tracing` filter of the log on standard error.
    pub log: String,
    /// JSON log lines instead of text.
    pub log_json: bool,
}

impl Settings {
    /// What `role` runs with when nothing is set.
    pub fn defaults(role: Role) -> Settings {
        list::defaults(role)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(list::shown(self)).finish()
    }
}

/// How tokens are checked.
#[derive(Clone, Default)]
pub struct Auth {
    /// HS256 secret.
    pub secret: Option<String>,
    /// The one before, still accepted.
    pub previous_secret: Option<String>,
    /// Keys of RS, ES and EdDSA tokens.
    pub jwks_url: Option<String>,
    /// Required `iss`.
    pub issuer: Option<String>,
    /// Required `aud`.
    pub audience: Option<String>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("jwks_url", &self.jwks_url).finish_non_exhaustive()
    }
}

/// Who may use a conversation (protocol §7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// The participants stored with it.
    Participants,
    /// Whom the token's `conversations` claim names.
    Token,
    /// Whom an HTTP endpoint allows.
    Webhook(String),
    /// Anyone; created on first use.
    Open,
}

/// Bounds on clients (protocol §8); 0: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// New connections from an address.
    pub connections_per_ip_per_minute: u32,
    /// Connections of a user, over all gateways.
    pub connections_per_user: u32,
    /// Connections of an instance.
    pub connections: u32,
    /// Messages of a user.
    pub messages_per_minute: u32,
    /// Operations of a user.
    pub operations_per_minute: u32,
    /// Cursor moves of a user.
    pub cursors_per_minute: u32,
    /// Typing starts and stops of a user.
    pub typing_per_minute: u32,
    /// Bytes of a client's frame.
    pub frame_bytes: usize,
    /// Code points of a message.
    pub content_chars: usize,
}
