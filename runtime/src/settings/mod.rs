//! All settings, from `carillon.toml`, the environment and flags, validated before any port opens.

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

/// The role of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All services in one process.
    Standalone,
    /// Serves clients.
    Gateway,
    /// Applies the commands of partitions.
    MessageWorker,
    /// Keeps the presence of shards.
    PresenceWorker,
    /// Updates the database's schema and ends.
    Migrate,
    /// Prints a token and ends.
    Token,
    /// Compares logs, rows and heads of a system, once or repeatedly.
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

    /// The name of the subcommand.
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

    /// Whether clients connect to this role.
    pub fn serves_clients(self) -> bool {
        matches!(self, Self::Standalone | Self::Gateway)
    }

    /// Whether the bus and the store are embedded unless the settings name others. An audit inspects a system from
    /// outside, so it has to be given a bus and a store.
    pub fn is_embedded(self) -> bool {
        matches!(self, Self::Standalone | Self::Audit)
    }

    /// Whether this role checks or signs tokens, and therefore needs the secret.
    pub fn needs_secret(self) -> bool {
        self.serves_clients() || self == Self::Token
    }
}

/// Every setting with its value. Every role accepts all settings and ignores those of other roles.
#[derive(Clone)]
pub struct Settings {
    /// The address for clients.
    pub listen: SocketAddr,
    /// The address for probes and metrics; `None` on a gateway: on `listen`.
    pub admin_listen: Option<SocketAddr>,
    /// The directory of the embedded store.
    pub data_dir: PathBuf,
    /// For development: identity from the path, open access, the demo page.
    pub dev: bool,
    /// How tokens are checked.
    pub auth: Auth,
    /// The keys of backends.
    pub api_keys: Vec<String>,
    /// `None`: the embedded bus.
    pub nats_url: Option<String>,
    /// Prepended to every subject, stream and bucket on NATS.
    pub nats_prefix: Prefix,
    /// Copies of each stream; `None`: 3 in a cluster of 3 or more, else 1.
    pub nats_replicas: Option<usize>,
    /// The database's nodes, each as `host:port`; empty: the embedded store.
    pub scylla_nodes: Vec<String>,
    /// The keyspace in the database.
    pub scylla_keyspace: String,
    /// Copies of each row; `None`: one per node, at most 3.
    pub scylla_replication: Option<u32>,
    /// Limits on clients; 0: no limit.
    pub limits: Limits,
    /// The number of partitions of the command log.
    pub partitions: u32,
    /// Time between two pings (Engine.IO).
    pub ping_interval: Duration,
    /// After this time without a reply to a ping, the connection ends (Engine.IO).
    pub ping_timeout: Duration,
    /// Time over which a gateway disconnects its clients after SIGTERM.
    pub drain_timeout: Duration,
    /// Time between the end of a user's last connection and the user being offline.
    pub presence_grace: Duration,
    /// Access to conversations whose namespace has no rule.
    pub access_default: Access,
    /// Access to conversations by namespace.
    pub access_namespaces: BTreeMap<String, Access>,
    /// Browser origins that may connect; empty: the server's own, and localhost under `dev`.
    pub allowed_origins: Vec<String>,
    /// Addresses and networks whose `X-Forwarded-For` header is trusted.
    pub trusted_proxies: Networks,
    /// Whether all Socket.IO clients get connection-state recovery.
    pub socketio_recovery: bool,
    /// Where spans are exported, by OTLP over gRPC; `None`: no export.
    pub otlp_endpoint: Option<String>,
    /// The share of messages that are traced if spans are exported, 0 to 1.
    pub trace_ratio: f64,
    /// The `tracing` filter of the log on standard error.
    pub log: String,
    /// JSON log lines instead of text.
    pub log_json: bool,
}

impl Settings {
    /// The defaults of `role`.
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
    /// The HS256 secret.
    pub secret: Option<String>,
    /// The previous secret, which is still accepted.
    pub previous_secret: Option<String>,
    /// The URL of the keys for RS, ES and EdDSA tokens.
    pub jwks_url: Option<String>,
    /// The required `iss`.
    pub issuer: Option<String>,
    /// The required `aud`.
    pub audience: Option<String>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("jwks_url", &self.jwks_url).finish_non_exhaustive()
    }
}

/// Which users may use a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Its stored participants.
    Participants,
    /// Users whose token names it in the claim `conversations`.
    Token,
    /// Users whom the HTTP endpoint with this URL allows.
    Webhook(String),
    /// All users. A conversation is created on first use.
    Open,
}

/// Limits on clients (`docs/protocol.md#limits`); 0: no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// New connections per IP address and minute.
    pub connections_per_ip_per_minute: u32,
    /// Connections of a user, over all gateways.
    pub connections_per_user: u32,
    /// Connections of one process.
    pub connections: u32,
    /// Messages of a user per minute.
    pub messages_per_minute: u32,
    /// Operations of a user per minute.
    pub operations_per_minute: u32,
    /// Cursor moves of a user per minute.
    pub cursors_per_minute: u32,
    /// Typing starts and stops of a user per minute.
    pub typing_per_minute: u32,
    /// Bytes of a client's frame.
    pub frame_bytes: usize,
    /// Code points of a message.
    pub content_chars: usize,
}
