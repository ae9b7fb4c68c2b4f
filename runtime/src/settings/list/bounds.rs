//! The settings for limits, times, Socket.IO and telemetry.

use super::Default::{Text, Unset};
use super::Slot::One;
use super::*;

pub(super) static LIMITS: Group = Group {
    title: "Limits",
    settings: &[
        Setting {
            path: "limits.connections_per_ip_per_minute",
            kind: "number",
            default: Text("10"),
            help: "new connections from an address in a minute; loopback and trusted proxies are exempt; 0: no limit",
            slot: One {
                set: |settings, text| {
                    put(&mut settings.limits.connections_per_ip_per_minute, per_minute(text))
                },
                get: |settings| Some(settings.limits.connections_per_ip_per_minute.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "limits.connections_per_user",
            kind: "number",
            default: Text("5"),
            help: "connections of a user, over all gateways; 0: no limit",
            slot: One {
                set: |settings, text| {
                    put(&mut settings.limits.connections_per_user, number_32(text, 0, 100_000))
                },
                get: |settings| Some(settings.limits.connections_per_user.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "limits.connections",
            kind: "number",
            default: Text("10000"),
            help: "connections of an instance; 0: no limit but that on open files",
            slot: One {
                set: |settings, text| put(&mut settings.limits.connections, number_32(text, 0, 10_000_000)),
                get: |settings| Some(settings.limits.connections.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "limits.messages_per_minute",
            kind: "number",
            default: Text("60"),
            help: "messages of a user in a minute, on each gateway; 0: no limit",
            slot: One {
                set: |settings, text| put(&mut settings.limits.messages_per_minute, per_minute(text)),
                get: |settings| Some(settings.limits.messages_per_minute.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "limits.operations_per_minute",
            kind: "number",
            default: Text("60"),
            help: "collaboration operations of a user in a minute, on each gateway; 0: no limit",
            slot: One {
                set: |settings, text| put(&mut settings.limits.operations_per_minute, per_minute(text)),
                get: |settings| Some(settings.limits.operations_per_minute.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "limits.cursors_per_minute",
            kind: "number",
            default: Text("60"),
            help: "cursor moves of a user in a minute, on each gateway; 0: no limit",
            slot: One {
                set: |settings, text| put(&mut settings.limits.cursors_per_minute, per_minute(text)),
                get: |settings| Some(settings.limits.cursors_per_minute.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "limits.typing_per_minute",
            kind: "number",
            default: Text("60"),
            help: "typing starts and stops of a user in a minute, on each gateway; 0: no limit",
            slot: One {
                set: |settings, text| put(&mut settings.limits.typing_per_minute, per_minute(text)),
                get: |settings| Some(settings.limits.typing_per_minute.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "limits.frame_bytes",
            kind: "size",
            default: Text("64KiB"),
            help: "bytes of a client's frame; 0: the most that the bus carries, 240KiB",
            slot: One {
                set: |settings, text| {
                    put(&mut settings.limits.frame_bytes, parse::size(text, 1_024, FRAME_BYTES_BOUND))
                },
                get: |settings| Some(parse::show_size(settings.limits.frame_bytes)),
            },
            ..PLAIN
        },
        Setting {
            path: "limits.content_chars",
            kind: "number",
            default: Text("5000"),
            help: "characters (code points) of a message; 0: the most that fit the largest frame, 50000",
            slot: One {
                set: |settings, text| put(&mut settings.limits.content_chars, content_chars(text)),
                get: |settings| Some(settings.limits.content_chars.to_string()),
            },
            ..PLAIN
        },
    ],
};

pub(super) static TIMES: Group = Group {
    title: "Times",
    settings: &[
        Setting {
            path: "ping_interval",
            kind: "time",
            aliases: &["WEBSOCKET_PING_INTERVAL"],
            default: Text("25s"),
            help: "between two pings to a Socket.IO client",
            slot: One {
                set: |settings, text| {
                    put(&mut settings.ping_interval, parse::duration(text, MILLISECOND, HOUR))
                },
                get: |settings| Some(parse::show_duration(settings.ping_interval)),
            },
            ..PLAIN
        },
        Setting {
            path: "ping_timeout",
            kind: "time",
            aliases: &["WEBSOCKET_PING_TIMEOUT"],
            default: Text("60s"),
            help: "until an unanswered ping ends a Socket.IO connection",
            slot: One {
                set: |settings, text| {
                    put(&mut settings.ping_timeout, parse::duration(text, MILLISECOND, HOUR))
                },
                get: |settings| Some(parse::show_duration(settings.ping_timeout)),
            },
            ..PLAIN
        },
        Setting {
            path: "drain_timeout",
            kind: "time",
            default: Text("25s"),
            help: "what a process has for sending its clients away and ending on SIGTERM",
            slot: One {
                set: |settings, text| {
                    put(&mut settings.drain_timeout, parse::duration(text, Duration::ZERO, HOUR))
                },
                get: |settings| Some(parse::show_duration(settings.drain_timeout)),
            },
            ..PLAIN
        },
        Setting {
            path: "presence.grace",
            kind: "time",
            default: Text("3s"),
            help: "how long after the end of a user's last connection others see the user offline",
            slot: One {
                set: |settings, text| {
                    put(&mut settings.presence_grace, parse::duration(text, Duration::ZERO, HOUR))
                },
                get: |settings| Some(parse::show_duration(settings.presence_grace)),
            },
            ..PLAIN
        },
    ],
};

pub(super) static SOCKET_IO: Group = Group {
    title: "Socket.IO",
    settings: &[Setting {
        path: "socketio.recovery",
        kind: "true or false",
        default: Text("false"),
        help: "Socket.IO's connection-state recovery for all clients",
        slot: One {
            set: |settings, text| put(&mut settings.socketio_recovery, parse::switch(text)),
            get: |settings| Some(settings.socketio_recovery.to_string()),
        },
        ..PLAIN
    }],
};

pub(super) static TELEMETRY: Group = Group {
    title: "Logs and traces",
    settings: &[
        Setting {
            path: "log",
            flag: Some("log"),
            kind: "filter",
            default: Text("info,async_nats=warn,scylla=warn"),
            help: "what is logged on standard error, such as warn or info,carillon_gateway=debug",
            slot: One {
                set: |settings, text| put(&mut settings.log, parse::filter(text)),
                get: |settings| Some(settings.log.clone()),
            },
            ..PLAIN
        },
        Setting {
            path: "log_json",
            kind: "true or false",
            default: Text("false"),
            help: "log lines as JSON instead of text",
            slot: One {
                set: |settings, text| put(&mut settings.log_json, parse::switch(text)),
                get: |settings| Some(settings.log_json.to_string()),
            },
            ..PLAIN
        },
        Setting {
            path: "otlp_endpoint",
            kind: "URL",
            aliases: &["OTEL_EXPORTER_OTLP_ENDPOINT"],
            default: Unset("nowhere"),
            help: "where traces go, by OTLP over gRPC, such as http://127.0.0.1:4317",
            slot: One {
                set: |settings, text| put(&mut settings.otlp_endpoint, some(parse::http_url(text))),
                get: |settings| settings.otlp_endpoint.clone(),
            },
            ..PLAIN
        },
        Setting {
            path: "trace_ratio",
            kind: "number, 0 to 1",
            default: Text("0.01"),
            help: "share of messages that are traced when traces go anywhere",
            slot: One {
                set: |settings, text| put(&mut settings.trace_ratio, parse::share(text)),
                get: |settings| Some(settings.trace_ratio.to_string()),
            },
            ..PLAIN
        },
    ],
};
