//! The simulated bus, as one process sees it. It keeps exactly the promises of the `Bus` trait and nothing beyond them.

use crate::gate::Cut;
use crate::node::{Node, TimedOut};
use crate::world::World;
use async_trait::async_trait;
use bytes::Bytes;
use carillon_message_worker::VERSION;
use carillon_proto::id::{Tag, WorkerId};
use carillon_proto::wire;
use carillon_runtime::bus::{Bus, BusError, LogBounds, LogEntry, LogReader, Subscription};
use prost::Message as _;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

mod leases;
mod log;
mod reader;
mod subjects;

pub use leases::Leases;
pub use log::{Log, TAGS_KEPT};
pub use subjects::Subjects;

impl From<TimedOut> for BusError {
    fn from(_: TimedOut) -> BusError {
        BusError::Timeout("no answer".into())
    }
}

/// What happens to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    Refused,
    Lost,
    Unconfirmed,
    Strays,
}

impl Node {
    fn fate(&self) -> Fate {
        let world = &self.world;
        if world.strikes(|weather| weather.append_refused) {
            Fate::Refused
        } else if world.strikes(|weather| weather.append_lost) {
            Fate::Lost
        } else if world.strikes(|weather| weather.append_unconfirmed) {
            Fate::Unconfirmed
        } else if world.strikes(|weather| weather.append_strays) {
            Fate::Strays
        } else {
            Fate::Accepted
        }
    }

    /// Sends a request about a log or a lease and waits for the answer. With `fails` no answer comes.
    async fn call<T: Send + 'static>(
        &self,
        what: &str,
        fails: bool,
        answer: impl FnOnce(&World) -> T + Send + 'static,
    ) -> Result<T, BusError> {
        self.way(Cut::Bus).await?;
        if fails {
            self.note(format_args!("requests {what}: no answer"));
            return Err(self.no_answer().await.into());
        }
        let world = self.world.clone();
        let answer = self.world.network.remote(self.world.latency(), move || answer(&world)).await;
        self.way(Cut::Bus).await?;
        self.note(format_args!("requests {what}"));
        Ok(answer)
    }
}

/// Whether an entry holds one sender's client id more than once.
fn holds_an_id_twice(payload: &Bytes) -> bool {
    let Ok(entry) = wire::Entry::decode(payload.clone()) else { return false };
    let mut ids = BTreeSet::new();
    entry.commands.iter().any(|one| !ids.insert((&one.conversation, &one.actor, &one.client_id)))
}

#[async_trait]
impl Bus for Node {
    async fn append(&self, partition: u32, tag: Tag, payload: Bytes) -> Result<u64, BusError> {
        self.way(Cut::Bus).await?;
        let fate = self.fate();
        let (world, name) = (self.world.clone(), self.gate.name.clone());
        let append = move || {
            // A short `tags_kept_ms` simulates a repetition that arrives after the log forgot the tag. An append that
            // strays for seconds must still be recognised, so it gets the full time. So does an append to a partition
            // of an earlier version, in which workers do not recognise a repeated command of a backend.
            let kept = match fate {
                Fate::Strays => TAGS_KEPT,
                _ if world.version(partition) < VERSION => TAGS_KEPT,
                _ => Duration::from_millis(world.weather.lock().tags_kept_ms),
            };
            if holds_an_id_twice(&payload) {
                world.count("entries with an id twice");
            }
            let sequence = world.logs[partition as usize].lock().append(tag, payload, kept);
            world.grown[partition as usize].notify_waiters();
            world.note(format_args!("log {partition} appends {sequence} from {name}, {fate:?}"));
            sequence
        };
        let network = &self.world.network;
        match fate {
            Fate::Refused => {
                self.world.count("appends refused");
                self.note(format_args!("append {partition}: refused"));
                return Err(BusError::Unavailable("refused".into()));
            }
            Fate::Lost => return Err(self.no_answer().await.into()),
            Fate::Strays => {
                let after_ms = self.world.dice(|random| random.between(500..=4_000));
                network.at(Instant::now() + Duration::from_millis(after_ms), move || {
                    append();
                });
                return Err(self.no_answer().await.into());
            }
            Fate::Accepted | Fate::Unconfirmed => {}
        }
        let sequence = network.remote(self.world.latency(), append).await;
        if fate == Fate::Unconfirmed {
            self.world.count("unconfirmed appends");
            return Err(self.no_answer().await.into());
        }
        self.way(Cut::Bus).await?;
        Ok(sequence)
    }

    async fn log_bounds(&self, partition: u32) -> Result<LogBounds, BusError> {
        let fails = self.world.strikes(|weather| weather.log_unknown);
        self.call("bounds", fails, move |world| world.logs[partition as usize].lock().bounds()).await
    }

    async fn log_entry(&self, partition: u32, sequence: u64) -> Result<Option<LogEntry>, BusError> {
        let fails = self.world.strikes(|weather| weather.log_unknown);
        self.call("entry", fails, move |world| world.logs[partition as usize].lock().entry(sequence)).await
    }

    async fn read_log(&self, partition: u32, from_sequence: u64) -> Result<Box<dyn LogReader>, BusError> {
        let fails = self.world.strikes(|weather| weather.log_unknown);
        let bounds = move |world: &World| world.logs[partition as usize].lock().bounds();
        let LogBounds { first, last } = self.call("reader", fails, bounds).await?;
        if from_sequence < first || from_sequence > last + 1 {
            return Err(BusError::Broken(format!("the log holds {first} to {last}, not {from_sequence}")));
        }
        Ok(Box::new(reader::Reader::new(self.clone(), partition, from_sequence)))
    }

    async fn purge_log(&self, partition: u32, below: u64) -> Result<(), BusError> {
        self.call("purge", false, move |world| world.logs[partition as usize].lock().purge(below)).await
    }

    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        self.way(Cut::Bus).await?;
        subjects::publish(self, subject, &payload);
        Ok(())
    }

    async fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Subscription, BusError> {
        self.way(Cut::Bus).await?;
        let subscription = subjects::subscribe(self, subject, group);
        self.note(format_args!("subscribes to {subject}"));
        Ok(subscription)
    }

    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        let deadline = Instant::now() + timeout;
        self.gate.running().await;
        let timed_out = || BusError::Timeout(format!("no answer on {subject} within {timeout:?}"));
        if self.gate.is_cut(Cut::Bus) {
            sleep_until(deadline).await;
            self.gate.running().await;
            return Err(timed_out());
        }
        let Some(answers) = subjects::request(self, subject, &payload) else {
            self.note(format_args!("request on {subject}: no subscriber"));
            return Err(BusError::Unavailable(format!("nobody listens on {subject}")));
        };
        let answered = timeout_at(deadline, async {
            let (answer, _) = futures_util::future::select_ok(answers).await.ok()?;
            let late = self.world.strikes(|weather| weather.answer_late);
            if late && subject.starts_with("part.") {
                self.world.count("late answers to gateways");
            }
            let late_ms = if late { self.world.dice(|random| random.below(2_000)) } else { 0 };
            sleep_until(Instant::now() + self.world.latency() + Duration::from_millis(late_ms)).await;
            Some(answer)
        });
        let answered = answered.await.ok().flatten();
        self.gate.running().await;
        if let (Some(answer), false) = (answered, self.gate.is_cut(Cut::Bus)) {
            self.note(format_args!("request on {subject}: {} bytes", answer.len()));
            return Ok(answer);
        }
        // On a real network a requester cannot see that its request was discarded, so it waits for the whole timeout.
        sleep_until(deadline).await;
        self.gate.running().await;
        self.note(format_args!("request on {subject}: no answer"));
        Err(timed_out())
    }

    async fn renew_lease(&self, kind: &str, worker: &WorkerId) -> Result<u64, BusError> {
        let fails = self.world.strikes(|weather| weather.lease_failed);
        let (kind, worker) = (kind.to_owned(), worker.clone());
        let renew = move |world: &World| world.leases.lock().entry(kind).or_default().renew(worker);
        self.call("renewal", fails, renew).await
    }

    async fn live_leases(&self, kind: &str) -> Result<Vec<WorkerId>, BusError> {
        let fails = self.world.strikes(|weather| weather.lease_failed);
        let kind = kind.to_owned();
        self.call("leases", fails, move |world| world.leases.lock().entry(kind).or_default().live()).await
    }

    async fn release_lease(&self, kind: &str, worker: &WorkerId) -> Result<(), BusError> {
        let (kind, worker) = (kind.to_owned(), worker.clone());
        let release = move |world: &World| world.leases.lock().entry(kind).or_default().release(&worker);
        self.call("release", false, release).await
    }

    async fn healthy(&self) -> bool {
        !self.gate.is_cut(Cut::Bus)
    }
}
