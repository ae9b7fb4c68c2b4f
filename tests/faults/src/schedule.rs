//! Which faults come, and when: all of it follows from a seed. Pure.

use crate::deployment::{Role, Size};
use crate::people::Random;
use std::fmt;

/// What happens to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of a process, which is started again after so many milliseconds.
    Kill { role: Role, index: usize, away_ms: u64 },
    /// SIGTERM, then a new start.
    Terminate { role: Role, index: usize },
    /// SIGSTOP for so many milliseconds.
    Pause { role: Role, index: usize, away_ms: u64 },
    /// Its connections to NATS are reset.
    CutNats { role: Role, index: usize },
    /// Nothing passes between it and NATS for so many milliseconds.
    WithoutNats { role: Role, index: usize, away_ms: u64 },
    /// What it sends to NATS arrives, answers and messages do not come, for so many milliseconds.
    DeafToNats { role: Role, index: usize, away_ms: u64 },
    /// Nothing passes between it and the database.
    WithoutDatabase { role: Role, index: usize, away_ms: u64 },
    /// Its writes arrive in the database, and the answers do not come back.
    DeafToDatabase { role: Role, index: usize, away_ms: u64 },
    /// kill -9 of a nats-server, which is started again after so many milliseconds.
    KillNats { index: usize, away_ms: u64 },
    /// SIGSTOP of a nats-server.
    PauseNats { index: usize, away_ms: u64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill { role, index, away_ms } => write!(f, "kill -9 of {role} {index}, {away_ms} ms"),
            Fault::Terminate { role, index } => write!(f, "SIGTERM to {role} {index}"),
            Fault::Pause { role, index, away_ms } => write!(f, "SIGSTOP of {role} {index}, {away_ms} ms"),
            Fault::CutNats { role, index } => write!(f, "NATS connections of {role} {index} cut"),
            Fault::WithoutNats { role, index, away_ms } => {
                write!(f, "{role} {index} without NATS, {away_ms} ms")
            }
            Fault::DeafToNats { role, index, away_ms } => {
                write!(f, "{role} {index} deaf to NATS, {away_ms} ms")
            }
            Fault::WithoutDatabase { role, index, away_ms } => {
                write!(f, "{role} {index} without the database, {away_ms} ms")
            }
            Fault::DeafToDatabase { role, index, away_ms } => {
                write!(f, "{role} {index} deaf to the database, {away_ms} ms")
            }
            Fault::KillNats { index, away_ms } => write!(f, "kill -9 of nats-server {index}, {away_ms} ms"),
            Fault::PauseNats { index, away_ms } => write!(f, "SIGSTOP of nats-server {index}, {away_ms} ms"),
        }
    }
}

/// Faults without end, drawn from a seed.
pub struct Schedule {
    random: Random,
    size: Size,
    /// Longest pause, milliseconds.
    away_ms_max: u64,
}

impl Schedule {
    /// Faults for a deployment of this size, none of which lasts longer than `away_ms_max`, 1,000 at least.
    pub fn new(seed: u64, size: Size, away_ms_max: u64) -> Schedule {
        Schedule { random: Random(seed), size, away_ms_max: away_ms_max.max(1_000) }
    }

    /// The next fault, and milliseconds to wait before it.
    pub fn next_fault(&mut self) -> (u64, Fault) {
        let wait_ms = 500 + self.random.below(2_500);
        let away_ms = self.away_ms();
        let workers = [Role::MessageWorker, Role::MessageWorker, Role::PresenceWorker];
        let anyone = [Role::Gateway, Role::MessageWorker, Role::MessageWorker, Role::PresenceWorker];
        let worker = |random: &mut Random| workers[random.below(3) as usize];
        let fault = match self.random.below(16) {
            0..=3 => {
                let role = anyone[self.random.below(4) as usize];
                Fault::Kill { role, index: self.index(role), away_ms: away_ms.min(3_000) }
            }
            4 => {
                let role = worker(&mut self.random);
                Fault::Terminate { role, index: self.index(role) }
            }
            5 | 6 => {
                let role = anyone[self.random.below(4) as usize];
                Fault::Pause { role, index: self.index(role), away_ms }
            }
            7 | 8 => {
                let role = anyone[self.random.below(4) as usize];
                Fault::CutNats { role, index: self.index(role) }
            }
            9 => {
                let role = anyone[self.random.below(4) as usize];
                Fault::WithoutNats { role, index: self.index(role), away_ms }
            }
            10 => {
                let role = anyone[self.random.below(4) as usize];
                Fault::DeafToNats { role, index: self.index(role), away_ms }
            }
            11 => {
                let role = worker(&mut self.random);
                Fault::WithoutDatabase { role, index: self.index(role), away_ms }
            }
            12 | 13 => {
                let role = worker(&mut self.random);
                Fault::DeafToDatabase { role, index: self.index(role), away_ms }
            }
            14 => {
                let index = self.random.below(self.size.nats_servers as u64) as usize;
                Fault::KillNats { index, away_ms: away_ms.min(5_000) }
            }
            _ => {
                let index = self.random.below(self.size.nats_servers as u64) as usize;
                Fault::PauseNats { index, away_ms: away_ms.min(5_000) }
            }
        };
        (wait_ms, fault)
    }

    /// Mostly short, sometimes as long as it gets.
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
    fn a_seed_is_a_schedule() {
        assert_eq!(drawn(7, 100), drawn(7, 100));
        assert_ne!(drawn(7, 100), drawn(8, 100));
    }

    #[test]
    fn every_kind_comes_to_everybody_and_none_lasts_too_long() {
        let faults = drawn(1, 5_000);
        let kinds: HashSet<_> = faults.iter().map(|(_, fault)| std::mem::discriminant(fault)).collect();
        assert_eq!(kinds.len(), 10);
        let killed: HashSet<String> = faults
            .iter()
            .filter_map(|(_, fault)| match fault {
                Fault::Kill { role, index, .. } => Some(format!("{role} {index}")),
                Fault::KillNats { index, .. } => Some(format!("nats-server {index}")),
                _ => None,
            })
            .collect();
        assert_eq!(killed.len(), 2 + 3 + 2 + 3);
        let paused = faults.iter().filter_map(|(_, fault)| match fault {
            Fault::Pause { away_ms, .. } => Some(*away_ms),
            _ => None,
        });
        let (least, most) = paused.fold((u64::MAX, 0), |(least, most), ms| (ms.min(least), ms.max(most)));
        assert!(least >= 1_000 && most > 20_000 && most <= 30_000, "{least} {most}");
    }
}
