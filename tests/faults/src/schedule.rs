//! The faults of a run and their times, drawn from a seed. No I/O.

use crate::deployment::{Role, Size};
use crate::people::Random;
use std::fmt;

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// Kills the process by SIGKILL, and starts it again after the fault's time.
    Kill,
    /// Sends SIGTERM, and starts the process again when it has ended.
    Terminate,
    /// Sends SIGSTOP, and SIGCONT after the fault's time.
    Pause,
    /// Resets the process's connections to NATS.
    CutNats,
    /// Nothing passes between the process and NATS.
    WithoutNats,
    /// What the process sends to NATS arrives; answers and messages from NATS do not.
    WithoutNatsAnswers,
    /// Nothing passes between the process and the database.
    WithoutDatabase,
    /// The process's writes arrive in the database; the answers do not come back.
    WithoutDatabaseAnswers,
}

/// The process that a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whom {
    /// The process of this role with this number.
    Node(Role, usize),
    /// The nats-server with this number. It can be killed and paused only.
    Nats(usize),
}

/// A kind of fault, the process that it strikes, and how long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub what: What,
    /// The process.
    pub whom: Whom,
    /// How long the fault lasts, in milliseconds, if it lasts at all.
    pub away_ms: u64,
}

impl Fault {
    /// A fault of a Carillon process.
    pub fn of(what: What, role: Role, index: usize, away_ms: u64) -> Fault {
        Fault { what, whom: Whom::Node(role, index), away_ms }
    }

    /// kill -9 of the first nats-server.
    pub fn nats_killed(away_ms: u64) -> Fault {
        Fault { what: What::Kill, whom: Whom::Nats(0), away_ms }
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whom::Node(role, index) => write!(f, "{role} {index}"),
            Whom::Nats(index) => write!(f, "nats-server {index}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { what, whom, away_ms } = self;
        match what {
            What::Kill => write!(f, "kill -9 of {whom}")?,
            What::Terminate => return write!(f, "SIGTERM to {whom}"),
            What::Pause => write!(f, "SIGSTOP of {whom}")?,
            What::CutNats => return write!(f, "{whom}: NATS connections cut"),
            What::WithoutNats => write!(f, "{whom}: without NATS")?,
            What::WithoutNatsAnswers => write!(f, "{whom}: without answers of NATS")?,
            What::WithoutDatabase => write!(f, "{whom}: without the database")?,
            What::WithoutDatabaseAnswers => write!(f, "{whom}: without answers of the database")?,
        }
        write!(f, ", {away_ms} ms")
    }
}

/// Endless faults, drawn from a seed.
pub struct Schedule {
    random: Random,
    size: Size,
    /// The longest duration of a fault, in milliseconds.
    away_ms_max: u64,
}

impl Schedule {
    /// Faults for a deployment of this size. None lasts longer than `away_ms_max`, which counts as 1,000 at least.
    pub fn new(seed: u64, size: Size, away_ms_max: u64) -> Schedule {
        Schedule { random: Random(seed), size, away_ms_max: away_ms_max.max(1_000) }
    }

    /// The next fault, and the milliseconds to wait before it.
    pub fn next_fault(&mut self) -> (u64, Fault) {
        let wait_ms = 500 + self.random.below(2_500);
        let away_ms = self.away_ms();
        let fault = match self.random.below(16) {
            0..=3 => self.of_anyone(What::Kill, away_ms.min(3_000)),
            4 => self.of_a_worker(What::Terminate, 0),
            5 | 6 => self.of_anyone(What::Pause, away_ms),
            7 | 8 => self.of_anyone(What::CutNats, 0),
            9 => self.of_anyone(What::WithoutNats, away_ms),
            10 => self.of_anyone(What::WithoutNatsAnswers, away_ms),
            11 => self.of_a_worker(What::WithoutDatabase, away_ms),
            12 | 13 => self.of_a_worker(What::WithoutDatabaseAnswers, away_ms),
            14 => self.of_nats(What::Kill, away_ms.min(5_000)),
            _ => self.of_nats(What::Pause, away_ms.min(5_000)),
        };
        (wait_ms, fault)
    }

    fn of_anyone(&mut self, what: What, away_ms: u64) -> Fault {
        let roles = [Role::Gateway, Role::MessageWorker, Role::MessageWorker, Role::PresenceWorker];
        let role = roles[self.random.below(4) as usize];
        Fault::of(what, role, self.index(role), away_ms)
    }

    fn of_a_worker(&mut self, what: What, away_ms: u64) -> Fault {
        let roles = [Role::MessageWorker, Role::MessageWorker, Role::PresenceWorker];
        let role = roles[self.random.below(3) as usize];
        Fault::of(what, role, self.index(role), away_ms)
    }

    fn of_nats(&mut self, what: What, away_ms: u64) -> Fault {
        let index = self.random.below(self.size.nats_servers as u64) as usize;
        Fault { what, whom: Whom::Nats(index), away_ms }
    }

    /// A duration: mostly at most 4 s, and in one of four cases up to the maximum.
    fn away_ms(&mut self) -> u64 {
        let most = if self.random.below(4) == 0 { self.away_ms_max } else { self.away_ms_max.min(4_000) };
        1_000 + self.random.below(most - 999)
    }

    fn index(&mut self, role: Role) -> usize {
        let count = match role {
            Role::Gateway => self.size.gateways,
            Role::MessageWorker => self.size.message_workers,
            Role::PresenceWorker => self.size.presence_workers,
        };
        self.random.below(count as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn drawn(seed: u64, count: usize) -> Vec<(u64, Fault)> {
        let mut schedule = Schedule::new(seed, Size { nats_servers: 3, ..Size::default() }, 30_000);
        (0..count).map(|_| schedule.next_fault()).collect()
    }

    #[test]
    fn a_seed_repeats_its_schedule() {
        assert_eq!(drawn(7, 100), drawn(7, 100));
        assert_ne!(drawn(7, 100), drawn(8, 100));
    }

    #[test]
    fn every_kind_strikes_every_process_and_none_lasts_too_long() {
        let faults = drawn(1, 5_000);
        let kinds: HashSet<_> = faults.iter().map(|(_, fault)| fault.what).collect();
        assert_eq!(kinds.len(), 8);
        let killed = faults.iter().filter(|(_, fault)| fault.what == What::Kill);
        let killed: HashSet<Whom> = killed.map(|(_, fault)| fault.whom).collect();
        assert_eq!(killed.len(), 2 + 3 + 2 + 3);
        let paused =
            faults.iter().filter(|(_, fault)| fault.what == What::Pause).map(|(_, fault)| fault.away_ms);
        let (least, most) = paused.fold((u64::MAX, 0), |(least, most), ms| (ms.min(least), ms.max(most)));
        assert!(least >= 1_000 && most > 20_000 && most <= 30_000, "{least} {most}");
    }
}
