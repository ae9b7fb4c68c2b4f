//! The presence-worker's metrics.

use crate::core::shard::Census;
use carillon_runtime::metrics::LATENCY_BUCKETS;
use prometheus::{
    Histogram, IntCounter, IntGaugeVec, register_histogram, register_int_counter, register_int_gauge_vec,
};
use std::sync::LazyLock;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $metric:literal, $help:literal) => {
        $(#[$doc])*
        pub static $name: LazyLock<IntCounter> =
            LazyLock::new(|| register_int_counter!($metric, $help).expect("registered once, under a valid name"));
    };
}

counter! {
    REQUESTS, "carillon_presence_requests_total", "requests from gateways that presence shards answered"
}
counter! {
    SNAPSHOTS_WANTED, "carillon_presence_snapshots_wanted_total", "answers that request a snapshot from the gateway"
}
counter! {
    PUSHES, "carillon_presence_pushes_total", "messages with presence changes pushed to gateways"
}
counter! {
    PUSHES_LOST, "carillon_presence_pushes_lost_total", "lost pushes to gateways, which must then send a snapshot"
}
counter! {
    ROWS_WRITTEN, "carillon_presence_rows_written_total", "user rows written to the store"
}
counter! {
    ROWS_GIVEN_UP, "carillon_presence_rows_given_up_total", "user rows never written: too many waited for the store"
}
counter! {
    STORE_FAILURES, "carillon_presence_store_failures_total", "reads and writes of user rows that failed or timed out"
}

pub static REQUEST_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    let (name, help) =
        ("carillon_presence_request_seconds", "seconds from a request's arrival to its answer");
    register_histogram!(name, help, LATENCY_BUCKETS.to_vec()).expect("registered once, under a valid name")
});

macro_rules! gauge {
    ($name:ident, $metric:literal, $help:literal) => {
        static $name: LazyLock<IntGaugeVec> = LazyLock::new(|| {
            register_int_gauge_vec!($metric, $help, &["shard"]).expect("registered once, under a valid name")
        });
    };
}

gauge!(GATEWAYS, "carillon_presence_gateways", "gateways that are not silent");
gauge!(USERS, "carillon_presence_users", "users in memory: online, watched, or with a row to read or write");
gauge!(SESSIONS, "carillon_presence_sessions", "sessions of the users in memory");
gauge!(ROOMS, "carillon_presence_rooms", "rooms with at least one user");
gauge!(MEMBERSHIPS, "carillon_presence_room_members", "users in rooms, counted once per room");
gauge!(RECORDS, "carillon_presence_recovery_records", "Socket.IO sessions that can be recovered");

/// Shows what a shard holds.
pub fn show(shard: u32, census: Census) {
    let shard = shard.to_string();
    let values = [
        (&GATEWAYS, census.gateways),
        (&USERS, census.users),
        (&SESSIONS, census.sessions),
        (&ROOMS, census.rooms),
        (&MEMBERSHIPS, census.memberships),
        (&RECORDS, census.records),
    ];
    for (gauge, value) in values {
        gauge.with_label_values(&[&shard]).set(value as i64);
    }
}

/// A shard is no longer this worker's.
pub fn hide(shard: u32) {
    for gauge in [&GATEWAYS, &USERS, &SESSIONS, &ROOMS, &MEMBERSHIPS, &RECORDS] {
        let _ = gauge.remove_label_values(&[&shard.to_string()]);
    }
}
