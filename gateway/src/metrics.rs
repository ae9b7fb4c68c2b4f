//! The metrics that a gateway exports.

use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};
use std::sync::LazyLock;

macro_rules! counter {
    ($name:ident, $metric:literal, $help:literal) => {
        #[doc = $help]
        pub static $name: LazyLock<IntCounter> =
            LazyLock::new(|| register_int_counter!($metric, $help).expect("the name is registered once"));
    };
}

macro_rules! gauge {
    ($name:ident, $metric:literal, $help:literal) => {
        #[doc = $help]
        pub static $name: LazyLock<IntGauge> =
            LazyLock::new(|| register_int_gauge!($metric, $help).expect("the name is registered once"));
    };
}

gauge!(CONNECTIONS, "carillon_connections", "Client connections that are open now.");
gauge!(ROOMS, "carillon_rooms", "Conversations that have members on this gateway now.");
counter!(ACCEPTED, "carillon_connections_accepted_total", "Client connections admitted.");
counter!(REFUSED, "carillon_connections_refused_total", "Client connections refused.");
counter!(FRAMES_IN, "carillon_frames_received_total", "Frames received from clients.");
counter!(EVENTS, "carillon_events_received_total", "Durable events received from workers.");
counter!(WRITES, "carillon_socket_writes_total", "Writes to client sockets.");
counter!(FRAMES_OUT, "carillon_frames_sent_total", "Frames written to clients.");
counter!(ERRORS, "carillon_errors_sent_total", "Errors sent to clients.");
counter!(REST_REQUESTS, "carillon_rest_requests_total", "Requests to the REST API.");
counter!(
    TIMEOUTS,
    "carillon_command_timeouts_total",
    "Commands answered with `timeout` because no outcome arrived in time."
);
counter!(
    LATE_OUTCOMES,
    "carillon_late_outcomes_total",
    "Outcomes received only after the gateway requested them from the partition's owner."
);
counter!(
    FETCHES,
    "carillon_gap_fetches_total",
    "Attempts to fetch events that a conversation's members had missed."
);
counter!(
    FOUND_DEAD,
    "carillon_connections_found_dead_total",
    "Connections closed because they did not answer the ping that is sent when their user has too many."
);
counter!(
    TYPING_DROPPED,
    "carillon_typing_dropped_total",
    "Typing frames dropped because they exceeded their rate limit."
);
counter!(
    CURSORS_DROPPED,
    "carillon_cursors_dropped_total",
    "Cursor frames dropped because they exceeded their rate limit."
);
counter!(
    RESYNCS,
    "carillon_resyncs_total",
    "Attempts to register all conversations of a partition again with its owner."
);
counter!(
    RECOVERED,
    "carillon_sessions_recovered_total",
    "Socket.IO sessions recovered from the last event that their client had received."
);
counter!(
    NOT_RECOVERED,
    "carillon_sessions_not_recovered_total",
    "Session recoveries that Socket.IO clients requested and that failed."
);
counter!(
    CATCH_UP_READS,
    "carillon_catch_up_reads_total",
    "Pages of events read for members that were behind their conversation."
);
