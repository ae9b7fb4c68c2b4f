//! The profile of a run, drawn from its seed: its sizes, its weather, and how often disasters strike.

use crate::client::Plan;
use crate::club::club;
use crate::random::Random;
use crate::weather::Weather;
use carillon_proto::id::UserId;
use std::fmt;
use std::time::Duration;

/// Partitions of every run: few enough that conversations share one, and enough that several workers own some.
pub const PARTITIONS: u32 = 4;

/// A run's sizes and faults.
#[derive(Debug, Clone)]
pub struct Profile {
    /// A name for people who read the result.
    pub name: &'static str,
    /// Number of gateways.
    pub gateways: usize,
    /// Number of message-workers.
    pub workers: usize,
    /// Number of presence-workers.
    pub presence: usize,
    /// The clients and what they do.
    pub clients: Vec<Plan>,
    /// Number of clubs: conversations whose participants change.
    pub clubs: u64,
    /// Longest time between two changes of participants, in milliseconds.
    pub club_pause_ms: u64,
    /// The chances of small faults.
    pub weather: Weather,
    /// Average time between two disasters; `None`: there are none.
    pub disasters_every: Option<Duration>,
    /// How long clients send and disasters strike.
    pub time: Duration,
}

impl Profile {
    /// Draws a run's profile.
    pub fn drawn(random: &mut Random) -> Profile {
        let (name, strength, disasters_ms) = match random.below(10) {
            0 => ("calm", 0, None),
            1..=3 => ("breezy", 25, Some(4_000)),
            4..=7 => ("rough", 60, Some(2_000)),
            _ => ("hostile", 100, Some(1_200)),
        };
        let gateways = random.between(2..=3) as usize;
        let clubs = random.below(3);
        Profile {
            name,
            gateways,
            workers: random.between(2..=3) as usize,
            presence: 2,
            clients: clients(random, gateways, clubs),
            clubs,
            club_pause_ms: random.between(50..=4_000),
            weather: if strength == 0 { Weather::calm() } else { Weather::drawn(random, strength) },
            disasters_every: disasters_ms.map(Duration::from_millis),
            time: Duration::from_secs(random.between(20..=60)),
        }
    }
}

/// The id of the open conversation with this number.
pub fn conversation(number: u64) -> String {
    format!("room-{number}")
}

/// The id of the user with this number.
pub fn user(number: u64) -> UserId {
    // A word, a dash and a number are a valid user id.
    UserId::parse(&format!("user-{number}")).unwrap_or_else(|error| unreachable!("{error}"))
}

fn clients(random: &mut Random, gateways: usize, clubs: u64) -> Vec<Plan> {
    let conversations = random.between(1..=8);
    let (count, users) = (random.between(4..=10), random.between(3..=8));
    let plan = |number: u64| {
        let mut joined: Vec<u64> = (0..conversations).collect();
        random.shuffle(&mut joined);
        joined.truncate(random.between(1..=4) as usize);
        Plan {
            name: format!("c{number}"),
            user: user(number % users),
            conversations: joined.into_iter().map(conversation).chain((0..clubs).map(club)).collect(),
            messages: random.between(20..=80),
            pause_ms: random.between(200..=3_000),
            burst: random.between(1..=6),
            dawdles: random.below(4) == 0,
            gateway: random.below(gateways as u64) as usize,
        }
    };
    (0..count).map(plan).collect()
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: u64 = self.clients.iter().map(|client| client.messages).sum();
        write!(
            f,
            "{}: {} gateways, {} message-workers, {} presence-workers, {} clients, {messages} messages, {:?}, \
             disasters every {:?}, {:?}",
            self.name,
            self.gateways,
            self.workers,
            self.presence,
            self.clients.len(),
            self.time,
            self.disasters_every,
            self.weather
        )
    }
}
