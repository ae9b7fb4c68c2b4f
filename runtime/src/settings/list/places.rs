//! The settings for addresses, tokens, bus and store, and access.

use super::Default::{ByRole, Text, Unset};
use super::Slot::{Each, One};
use super::*;

pub(super) static ADDRESSES: Group = Group {
    title: "Addresses and data",
    settings: &[
        Setting {
            path: "listen",
            flag: Some("listen"),
            kind: "address",
            default: ByRole { of: listen_default, description: "127.0.0.1:8000 (gateway: 0.0.0.0:8000)" },
            help: "where clients connect",
            slot: One {
                set: |settings, text| put(&mut settings.listen, parse::address(text)),
                get: |settings| Some(settings.listen.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "admin_listen",
            flag: Some("admin-listen"),
            kind: "address",
            default: ByRole {
                of: worker_admin,
                description: "gateways: the same as listen; workers: 127.0.0.1:9000; audit: nowhere",
            },
            help: "where probes and metrics are served",
            slot: One {
                set: |settings, text| put(&mut settings.admin_listen, some(parse::address(text))),
                get: |settings| settings.admin_listen.map(|address| address.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "data_dir",
            flag: Some("data-dir"),
            kind: "directory",
            default: Text("./carillon-data"),
            help: "where the embedded store lies, and the secret that dev makes",
            slot: One {
                set: |settings, text| put(&mut settings.data_dir, parse::text(text).map(Into::into)),
                get: |settings| Some(settings.data_dir.display().to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "dev",
            flag: Some("dev"),
            kind: "true or false",
            default: Text("false"),
            help: "development: identity from the path, open access, the demo page, a secret made by itself; never in production",
            slot: One {
                set: |settings, text| put(&mut settings.dev, parse::switch(text)),
                get: |settings| Some(settings.dev.to_string()),
            },
            ..PLAIN
        },
    ],
};

pub(super) static TOKENS: Group = Group {
    title: "Tokens and keys",
    settings: &[
        Setting {
            path: "auth.secret",
            kind: "text of 32 bytes or more",
            aliases: &["AUTH_SECRET"],
            default: Unset("none; with dev one is made in the data directory"),
            secret: Secret::All,
            help: "signs and checks HS256 tokens; standalone, gateway and token need it",
            slot: One {
                set: |settings, text| put(&mut settings.auth.secret, secret(text)),
                get: |settings| settings.auth.secret.clone(),
            },
            ..PLAIN
        },
        Setting {
            path: "auth.previous_secret",
            kind: "text of 32 bytes or more",
            aliases: &["AUTH_SECRET_PREVIOUS"],
            secret: Secret::All,
            help: "the secret before, still accepted",
            slot: One {
                set: |settings, text| put(&mut settings.auth.previous_secret, secret(text)),
                get: |settings| settings.auth.previous_secret.clone(),
            },
            ..PLAIN
        },
        Setting {
            path: "auth.jwks_url",
            kind: "URL",
            help: "keys of RS, ES and EdDSA tokens",
            slot: One {
                set: |settings, text| put(&mut settings.auth.jwks_url, some(parse::http_url(text))),
                get: |settings| settings.auth.jwks_url.clone(),
            },
            ..PLAIN
        },
        Setting {
            path: "auth.issuer",
            help: "the `iss` that tokens must have",
            slot: One {
                set: |settings, text| put(&mut settings.auth.issuer, some(parse::text(text))),
                get: |settings| settings.auth.issuer.clone(),
            },
            ..PLAIN
        },
        Setting {
            path: "auth.audience",
            help: "the `aud` that tokens must have",
            slot: One {
                set: |settings, text| put(&mut settings.auth.audience, some(parse::text(text))),
                get: |settings| settings.auth.audience.clone(),
            },
            ..PLAIN
        },
        Setting {
            path: "api.keys",
            kind: "list",
            secret: Secret::All,
            help: "keys with which backends use the REST API",
            slot: One {
                set: |settings, text| {
                    put(&mut settings.api_keys, Ok(parse::parts(text).map(str::to_owned).collect()))
                },
                get: |settings| joined(&settings.api_keys),
            },
            ..PLAIN
        },
    ],
};

pub(super) static BUS_AND_STORE: Group = Group {
    title: "Bus and store",
    settings: &[
        Setting {
            path: "nats.url",
            flag: Some("nats"),
            kind: "URL, or several",
            aliases: &["NATS_URL"],
            default: ByRole {
                of: nats_default,
                description: "standalone: the embedded bus; audit: none; others: nats://127.0.0.1:4222",
            },
            secret: Secret::UserInfo,
            help: "the NATS servers, with JetStream",
            slot: One {
                set: |settings, text| put(&mut settings.nats_url, some(parse::nats_url(text))),
                get: |settings| settings.nats_url.clone(),
            },
        },
        Setting {
            path: "nats.prefix",
            kind: "name",
            help: "stands before every subject, stream and bucket, so that several installations can share NATS servers; the same for all processes of one",
            slot: One {
                set: |settings, text| put(&mut settings.nats_prefix, parse::prefix(text)),
                get: |settings| {
                    let prefix = settings.nats_prefix.as_str();
                    (!prefix.is_empty()).then(|| prefix.to_owned())
                },
            },
            ..PLAIN
        },
        Setting {
            path: "nats.replicas",
            kind: "number, 1 to 5",
            default: Unset("3 if the servers form a cluster of 3 or more, else 1"),
            help: "copies of each stream",
            slot: One {
                set: |settings, text| {
                    put(&mut settings.nats_replicas, some(number_32(text, 1, 5).map(|count| count as usize)))
                },
                get: |settings| settings.nats_replicas.map(|count| count.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "scylla.nodes",
            flag: Some("scylla"),
            kind: "list of host:port",
            aliases: &["SCYLLA_NODES"],
            default: ByRole {
                of: scylla_default,
                description: "standalone: the embedded store; audit: none; others: 127.0.0.1:9042",
            },
            help: "nodes of ScyllaDB to begin with, or of another database that speaks CQL",
            slot: One {
                set: |settings, text| put(&mut settings.scylla_nodes, parse::nodes(text)),
                get: |settings| joined(&settings.scylla_nodes),
            },
            ..PLAIN
        },
        Setting {
            path: "scylla.keyspace",
            aliases: &["SCYLLA_KEYSPACE"],
            default: Text("carillon"),
            help: "the keyspace",
            slot: One {
                set: |settings, text| put(&mut settings.scylla_keyspace, parse::keyspace(text)),
                get: |settings| Some(settings.scylla_keyspace.clone()),
            },
            ..PLAIN
        },
        Setting {
            path: "scylla.replication",
            kind: "number, 1 to 9",
            default: Unset("3, or the number of nodes if that is less"),
            help: "copies of each row, when `migrate` makes the keyspace",
            slot: One {
                set: |settings, text| put(&mut settings.scylla_replication, some(number_32(text, 1, 9))),
                get: |settings| settings.scylla_replication.map(|count| count.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "partitions",
            kind: "number, 1 to 1024",
            default: Text("16"),
            help: "partitions of the command log, the same for all processes; fixed when a cluster is first used, and another number is refused from then on",
            slot: One {
                set: |settings, text| {
                    put(&mut settings.partitions, number_32(text, 1, carillon_proto::limits::PARTITIONS_MAX))
                },
                get: |settings| Some(settings.partitions.to_string()),
            },
            ..PLAIN
        },
    ],
};

pub(super) static ACCESS: Group = Group {
    title: "Who may do what",
    settings: &[
        Setting {
            path: "access.default",
            kind: "rule",
            default: ByRole { of: |_| Some("participants"), description: "participants; with dev: open" },
            help: "who may use a conversation: participants, token, open, or webhook:URL",
            slot: One {
                set: |settings, text| put(&mut settings.access_default, parse::access(text)),
                get: |settings| Some(parse::show_access(&settings.access_default)),
            },
            ..PLAIN
        },
        Setting {
            path: "access.namespaces.*",
            kind: "rule",
            help: "the same for conversations whose id begins with this name and a colon; in the environment the name is read in lower case",
            slot: Each {
                set: |settings, name, text| {
                    let (name, access) = (parse::namespace(name)?, parse::access(text)?);
                    settings.access_namespaces.insert(name, access);
                    Ok(())
                },
                get: |settings| {
                    let rules = settings.access_namespaces.iter();
                    rules.map(|(name, access)| (name.clone(), parse::show_access(access))).collect()
                },
            },
            ..PLAIN
        },
        Setting {
            path: "allowed_origins",
            kind: "list",
            default: Unset("the server's own; with dev also localhost"),
            help: "browser origins that may connect",
            slot: One {
                set: |settings, text| put(&mut settings.allowed_origins, parse::origins(text)),
                get: |settings| joined(&settings.allowed_origins),
            },
            ..PLAIN
        },
        Setting {
            path: "trusted_proxies",
            kind: "list of addresses and networks",
            help: "proxies whose `X-Forwarded-For` is believed, such as 10.42.0.0/16",
            slot: One {
                set: |settings, text| put(&mut settings.trusted_proxies, parse::networks(text)),
                get: |settings| {
                    let networks = settings.trusted_proxies.0.iter();
                    joined(&networks.map(ToString::to_string).collect::<Vec<_>>())
                },
            },
            ..PLAIN
        },
    ],
};
