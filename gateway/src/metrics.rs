//! The metrics that a gateway exports.

use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};
use std::sync::LazyLock;

macro_rules! counter {
    ($name:ident, $metric:literal, $help:literal) => {
        #[doc = $help]
        pub static $name: LazyLock<IntCounter> =
            LazyLock::new(|| register_int_counter!($metric, $help).expect("a name registered once"));
    };
}

macro_rules! gauge {
    ($name:ident, $metric:literal, $help:literal) => {
        #[doc = $help]
        pub static $name: LazyLock<IntGauge> =
            LazyLock::new(|| register_int_gauge!($metric, $help).expect("a name registered once"));
    };
}

gauge!(CONNECTIONS, "carillon_connections", "Client connections now.");
gauge!(ROOMS, "carillon_rooms", "Conversations with local members now.");
counter!(ACCEPTED, "carillon_connections_accepted_total", "Client connections admitted.");
counter!(REFUSED, "carillon_connections_refused_total", "Client connections refused.");
counter!(FRAMES_IN, "carillon_frames_received_total", "Frames received from clients.");
counter!(EVENTS, "carillon_events_received_total", "Durable events received from workers.");
counter!(WRITES, "carillon_socket_writes_total", "Writes to client sockets.");
counter!(FRAMES_OUT, "carillon_frames_sent_total", "Frames written to clients.");
counter!(ERRORS, "carillon_errors_sent_total", "Errors sent to clients.");
counter!(REST_REQUESTS, "carillon_rest_requests_total", "Requests to the REST API.");
counter!(TIMEOUTS, "carillon_command_timeouts_total", "Commands whose outcome did not come in time.");
counter!(
    LATE_OUTCOMES,
    "carillon_late_outcomes_total",
    "Outcomes that did not come by themselves and were asked for."
);
counter!(FETCHES, "carillon_gap_fetches_total", "Ranges of events fetched because they were missed.");
counter!(
    FOUND_DEAD,
    "carillon_connections_found_dead_total",
    "Connections that did not answer a ping when their user had too many."
);
counter!(TYPING_DROPPED, "carillon_typing_dropped_total", "Typing frames dropped above their rate.");
counter!(CURSORS_DROPPED, "carillon_cursors_dropped_total", "Cursor frames dropped above their rate.");
counter!(RESYNCS, "carillon_resyncs_total", "Times that all interest of a partition was registered again.");
counter!(
    RECOVERED,
    "carillon_sessions_recovered_total",
    "Socket.IO sessions that went on where their client had heard them."
);
counter!(
    NOT_RECOVERED,
    "carillon_sessions_not_recovered_total",
    "Socket.IO clients that came back to a session of which not enough was known."
);
counter!(
    CATCH_UP_READS,
    "carillon_catch_up_reads_total",
    "Pages read from the store for members that were behind."
);
