//! The list of all settings. The parser, the help and `docs/configuration.md` are made from it.

use super::parse::{self, number_32};
use super::{Access, Auth, Limits, Networks, Role, Settings};
use carillon_proto::subject::Prefix;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

mod bounds;
mod places;

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name in `carillon.toml`, from which its name in the environment follows. The last part may be `*`: any name.
    pub path: &'static str,
    /// The name of its flag, without dashes.
    pub flag: Option<&'static str>,
    /// The kind of its value, for people.
    pub kind: &'static str,
    /// Further names of it in the environment.
    pub aliases: &'static [&'static str],
    /// The value if it is not set.
    pub default: Default,
    /// The part of its value that must not be shown.
    pub secret: Secret,
    /// A sentence about it without a full stop.
    pub help: &'static str,
    /// The functions that write and read its value.
    pub slot: Slot,
}

/// The value of a setting that is not set.
#[derive(Debug)]
pub enum Default {
    /// This text.
    Text(&'static str),
    /// No value. The text describes what that means.
    Unset(&'static str),
    /// A text or no value, depending on the role.
    ByRole {
        /// The text for a role.
        of: fn(Role) -> Option<&'static str>,
        /// The description for users.
        description: &'static str,
    },
}

/// The part of a setting's value that must not be shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Secret {
    /// The whole value may be shown.
    No,
    /// The user and password of a URL.
    UserInfo,
    /// The whole value.
    All,
}

/// How a setting's value is written from text, and read as text that sets the same value again.
#[derive(Debug)]
pub enum Slot {
    /// One value.
    One {
        /// Parses a text and stores the value.
        set: fn(&mut Settings, &str) -> Result<(), String>,
        /// The text of the value, if there is one.
        get: fn(&Settings) -> Option<String>,
    },
    /// One value for each name in the place of `*`.
    Each {
        /// Parses the text for a name and stores the value.
        set: fn(&mut Settings, &str, &str) -> Result<(), String>,
        /// All names and texts.
        get: fn(&Settings) -> Vec<(String, String)>,
    },
}

impl Setting {
    /// The name in the environment, which follows from the path.
    pub fn environment(&self) -> String {
        format!("CARILLON_{}", self.path.replace('.', "__").to_ascii_uppercase())
    }

    /// Whether `name` is a further name of this setting in the environment.
    pub fn has_alias(&self, name: &str) -> bool {
        self.aliases.contains(&name)
    }

    /// The description of the default.
    pub fn default_description(&self) -> &'static str {
        match self.default {
            Default::Text(description)
            | Default::Unset(description)
            | Default::ByRole { description, .. } => description,
        }
    }

    /// The fixed part of the path, if its last part is `*`.
    pub fn prefix(&self) -> Option<&'static str> {
        self.path.strip_suffix('*')
    }
}

/// A group of settings under one heading.
#[derive(Debug)]
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// The settings, in the order of the documentation.
    pub settings: &'static [Setting],
}

/// The groups, in the order of the documentation.
pub static GROUPS: [&Group; 8] = [
    &places::ADDRESSES,
    &places::TOKENS,
    &places::BUS_AND_STORE,
    &places::ACCESS,
    &bounds::LIMITS,
    &bounds::TIMES,
    &bounds::SOCKET_IO,
    &bounds::TELEMETRY,
];

/// All settings, in the order of the documentation.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().flat_map(|group| group.settings)
}

/// The settings of `role` without any source.
///
/// # Panics
/// When a default in this list is invalid. A test excludes that.
pub(super) fn defaults(role: Role) -> Settings {
    let mut settings = blank();
    for setting in all() {
        let text = match setting.default {
            Default::Text(text) => Some(text),
            Default::Unset(_) => None,
            Default::ByRole { of, .. } => of(role),
        };
        if let (Some(text), Slot::One { set, .. }) = (text, &setting.slot) {
            set(&mut settings, text).unwrap_or_else(|wrong| panic!("default of {}: {wrong}", setting.path));
        }
    }
    settings
}

/// All paths and values, with secrets hidden.
pub fn shown(settings: &Settings) -> Vec<(String, String)> {
    let mut texts = Vec::new();
    for setting in all() {
        match &setting.slot {
            Slot::One { get, .. } => {
                let text = get(settings).map_or_else(String::new, |text| setting.secret.hide(&text));
                texts.push((setting.path.to_owned(), text));
            }
            Slot::Each { get, .. } => {
                let prefix = setting.prefix().unwrap_or_default();
                texts.extend(get(settings).into_iter().map(|(name, text)| (format!("{prefix}{name}"), text)));
            }
        }
    }
    texts
}

impl Secret {
    fn hide(&self, text: &str) -> String {
        match self {
            Self::No => text.to_owned(),
            Self::All if text.is_empty() => String::new(),
            Self::All => "(hidden)".to_owned(),
            Self::UserInfo => parse::parts(text).map(hide_user_info).collect::<Vec<_>>().join(","),
        }
    }
}

fn hide_user_info(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://(hidden)@{host}"),
        _ => url.to_owned(),
    }
}

fn put<T>(slot: &mut T, value: Result<T, String>) -> Result<(), String> {
    value.map(|value| *slot = value)
}

fn some<T>(value: Result<T, String>) -> Result<Option<T>, String> {
    value.map(Some)
}

fn joined(texts: &[String]) -> Option<String> {
    (!texts.is_empty()).then(|| texts.join(","))
}

/// A time of zero would make a busy loop.
const MILLISECOND: Duration = Duration::from_millis(1);
/// A longer time is a mistake.
const HOUR: Duration = Duration::from_secs(3_600);

fn worker_admin(role: Role) -> Option<&'static str> {
    matches!(role, Role::MessageWorker | Role::PresenceWorker).then_some("127.0.0.1:9000")
}

fn listen_default(role: Role) -> Option<&'static str> {
    Some(if role == Role::Gateway { "0.0.0.0:8000" } else { "127.0.0.1:8000" })
}

fn nats_default(role: Role) -> Option<&'static str> {
    (!role.is_embedded()).then_some("nats://127.0.0.1:4222")
}

fn scylla_default(role: Role) -> Option<&'static str> {
    (!role.is_embedded()).then_some("127.0.0.1:9042")
}

/// Most bytes of a client's frame: its content must fit a log entry besides the entry's own fields.
pub const FRAME_BYTES_BOUND: usize = carillon_proto::limits::ENTRY_BYTES_MAX - 16 * 1024;
/// Most code points of a message: with four bytes each, they must fit such a frame.
pub const CONTENT_CHARS_BOUND: usize = 50_000;
const _: () = assert!(CONTENT_CHARS_BOUND * 4 < FRAME_BYTES_BOUND);
/// Highest limit per minute: a million a second. Higher limits need no counting.
const PER_MINUTE_BOUND: u32 = 60_000_000;
/// HS256 is as strong as its key: RFC 7518 §3.2 requires as many bits as the hash has.
pub const SECRET_BYTES_MIN: usize = 32;

fn per_minute(text: &str) -> Result<u32, String> {
    number_32(text, 0, PER_MINUTE_BOUND)
}

fn content_chars(text: &str) -> Result<usize, String> {
    let chars = parse::number(text, 0, CONTENT_CHARS_BOUND as u64)? as usize;
    Ok(if chars == 0 { CONTENT_CHARS_BOUND } else { chars })
}

fn secret(text: &str) -> Result<Option<String>, String> {
    match text.len() {
        0..SECRET_BYTES_MIN => Err(format!("has {} bytes, and needs {SECRET_BYTES_MIN} or more", text.len())),
        _ => Ok(Some(text.to_owned())),
    }
}

/// Settings without values, to which every default is then applied.
fn blank() -> Settings {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    Settings {
        listen: nowhere,
        admin_listen: None,
        data_dir: std::path::PathBuf::new(),
        dev: false,
        auth: Auth::default(),
        api_keys: Vec::new(),
        nats_url: None,
        nats_prefix: Prefix::default(),
        nats_replicas: None,
        scylla_nodes: Vec::new(),
        scylla_keyspace: String::new(),
        scylla_replication: None,
        limits: Limits {
            connections_per_ip_per_minute: 0,
            connections_per_user: 0,
            connections: 0,
            messages_per_minute: 0,
            operations_per_minute: 0,
            cursors_per_minute: 0,
            typing_per_minute: 0,
            frame_bytes: 0,
            content_chars: 0,
        },
        partitions: 0,
        ping_interval: Duration::ZERO,
        ping_timeout: Duration::ZERO,
        drain_timeout: Duration::ZERO,
        presence_grace: Duration::ZERO,
        access_default: Access::Participants,
        access_namespaces: BTreeMap::new(),
        allowed_origins: Vec::new(),
        trusted_proxies: Networks::default(),
        socketio_recovery: false,
        otlp_endpoint: None,
        trace_ratio: 0.0,
        log: String::new(),
        log_json: false,
    }
}

const PLAIN: Setting = Setting {
    path: "",
    flag: None,
    kind: "text",
    aliases: &[],
    default: Default::Unset("none"),
    secret: Secret::No,
    help: "",
    slot: Slot::One { set: |_, _| Ok(()), get: |_| None },
};
