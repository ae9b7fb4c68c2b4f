//! Weather: small faults that each strike with a fixed chance per call.

use crate::random::Random;

/// The chance of a fault that always strikes.
pub const CERTAIN: u32 = 10_000;

/// Chances of faults, each in 10,000 calls, and delays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weather {
    /// Longest time of one direction of a call, in milliseconds.
    pub latency_ms: u64,
    /// An append is refused and has no effect.
    pub append_refused: u32,
    /// An append times out and has no effect.
    pub append_lost: u32,
    /// An append times out but has taken effect.
    pub append_unconfirmed: u32,
    /// An append times out and takes effect later, possibly after its repetition.
    pub append_strays: u32,
    /// A core message does not arrive.
    pub message_lost: u32,
    /// A core message, and its sender's later messages to the same receiver, are up to a second late.
    pub message_late: u32,
    /// A numbered batch arrives twice.
    pub batch_twice: u32,
    /// A subscription misses a message and receives a notice of it.
    pub subscription_lost: u32,
    /// A request does not arrive.
    pub request_lost: u32,
    /// An answer is up to two seconds late, which is often longer than its requester waits.
    pub answer_late: u32,
    /// A reader of a log breaks.
    pub reader_broken: u32,
    /// A request about a log gets no answer.
    pub log_unknown: u32,
    /// A request about a lease gets no answer.
    pub lease_failed: u32,
    /// A write fails and has no effect.
    pub write_lost: u32,
    /// A write fails but has taken effect.
    pub write_unconfirmed: u32,
    /// A write fails and takes effect later, as a hint does that a database hands over when a replica is back
    /// (scylladb#7258).
    pub write_strays: u32,
    /// A write fails half-way: some rows are written.
    pub write_half: u32,
    /// The store answers a call up to two seconds late.
    pub store_slow: u32,
    /// A read fails.
    pub read_failed: u32,
    /// How long a log recognises a tag, in milliseconds. JetStream's duplicate window is a setting of the stream, is
    /// two minutes long, and is not refreshed by repetitions (nats-server#7302). A run shortens it, because keeping a
    /// gateway from its bus for two minutes would take too long.
    pub tags_kept_ms: u64,
}

impl Weather {
    /// Weather without faults.
    pub fn calm() -> Weather {
        Weather { latency_ms: 2, tags_kept_ms: 120_000, ..Weather::default() }
    }

    /// Draws the chances. `strength` (0 to 100) scales them. About a third of the faults never strike.
    pub fn drawn(random: &mut Random, strength: u64) -> Weather {
        let mut draw = |most: u64| {
            if random.below(3) == 0 { 0 } else { random.below(most * strength / 100 + 1) as u32 }
        };
        Weather {
            append_refused: draw(1200),
            append_lost: draw(1000),
            append_unconfirmed: draw(1500),
            append_strays: draw(600),
            message_lost: draw(900),
            message_late: draw(500),
            batch_twice: draw(1200),
            subscription_lost: draw(60),
            request_lost: draw(800),
            answer_late: draw(800),
            reader_broken: draw(300),
            log_unknown: draw(900),
            lease_failed: draw(400),
            write_lost: draw(900),
            write_unconfirmed: draw(1200),
            write_strays: draw(300),
            write_half: draw(1500),
            store_slow: draw(500),
            read_failed: draw(900),
            latency_ms: 1 + random.below(1 + strength / 5),
            tags_kept_ms: if random.below(100) < strength / 2 { 150 } else { 120_000 },
        }
    }
}
