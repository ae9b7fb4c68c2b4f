//! How often what goes wrong by itself: a profile's share of faults, each in so many of 10,000 calls.

use crate::random::Random;

/// Chances of faults, in so many of 10,000 calls, and times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weather {
    /// A way takes up to this long, in each direction.
    pub latency_ms: u64,
    /// An append is refused: nothing was done.
    pub append_refused: u32,
    /// An append times out, and nothing was done.
    pub append_lost: u32,
    /// An append times out, and was done.
    pub append_lied: u32,
    /// An append times out, and is done only after its repetition may have come.
    pub append_strays: u32,
    /// A core message does not arrive.
    pub message_lost: u32,
    /// A core message, and what its sender says after it, takes up to a second.
    pub message_late: u32,
    /// A numbered batch arrives twice.
    pub batch_twice: u32,
    /// A subscription misses a message and is told so.
    pub subscription_lost: u32,
    /// A request does not arrive.
    pub request_lost: u32,
    /// An answer takes up to two seconds, often longer than it is awaited.
    pub answer_late: u32,
    /// A reader of a log breaks.
    pub reader_broken: u32,
    /// A question about a log is not answered.
    pub log_unknown: u32,
    /// A lease is not renewed, or not told of.
    pub lease_failed: u32,
    /// A write fails and nothing was done.
    pub write_lost: u32,
    /// A write fails and was done.
    pub write_lied: u32,
    /// A write fails, and is done later, as by hints that a database hands over when a replica is back (scylladb#7258).
    pub write_strays: u32,
    /// How long such a write strays at most, milliseconds. Below the two leases' time (4 s) that another life of a log
    /// waits for its predecessor, unless a run is meant for what is later.
    pub straying_ms: u64,
    /// A write fails half-way: some rows were written.
    pub write_half: u32,
    /// The store takes up to two seconds.
    pub store_slow: u32,
    /// A read fails.
    pub read_failed: u32,
    /// How long a log recognises a tag, milliseconds. JetStream's window is a setting of its stream, two minutes long,
    /// and not refreshed (nats-server#7302): instead of keeping a gateway from its bus for so long, it is shortened.
    pub tags_kept_ms: u64,
}

impl Weather {
    /// Nothing goes wrong.
    pub fn calm() -> Weather {
        Weather { latency_ms: 2, tags_kept_ms: 120_000, straying_ms: 1_500, ..Weather::default() }
    }

    /// As much goes wrong as `strength` says, 0 to 100: some of it often, some never, by `random`.
    pub fn drawn(random: &mut Random, strength: u64) -> Weather {
        let mut draw = |most: u64| {
            if random.below(3) == 0 { 0 } else { random.below(most * strength / 100 + 1) as u32 }
        };
        Weather {
            append_refused: draw(1200),
            append_lost: draw(1000),
            append_lied: draw(1500),
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
            write_lied: draw(1200),
            write_strays: draw(300),
            straying_ms: 1_500,
            write_half: draw(1500),
            store_slow: draw(500),
            read_failed: draw(900),
            latency_ms: 1 + random.below(1 + strength / 5),
            tags_kept_ms: if random.below(100) < strength / 2 { 150 } else { 120_000 },
        }
    }
}
