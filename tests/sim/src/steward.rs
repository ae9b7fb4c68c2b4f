//! The steward changes the participants of clubs through the REST API for as long as a run lasts.

use crate::club::{NAMESPACE, club};
use crate::cluster::{Cluster, Kind};
use crate::random::Random;
use crate::world::World;
use carillon_proto::id::UserId;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The API key with which the steward authenticates as a backend.
pub const API_KEY: &str = "the-steward's-key";
/// How long the steward waits for an answer. This is longer than a gateway waits before it reports an unknown outcome.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time between two attempts to create a club.
const AGAIN: Duration = Duration::from_millis(500);

/// Changes the participants of clubs.
pub struct Steward {
    world: Arc<World>,
    cluster: Arc<Cluster>,
    random: Random,
    users: Vec<UserId>,
    clubs: u64,
    /// The members by the requests that were sent. The actual participants are those in the rows.
    members: Vec<BTreeSet<UserId>>,
    pause_ms: u64,
}

impl Steward {
    /// A steward of `clubs` clubs that waits at most `pause_ms` milliseconds between two changes.
    pub fn new(
        world: Arc<World>,
        cluster: Arc<Cluster>,
        users: Vec<UserId>,
        clubs: u64,
        pause_ms: u64,
    ) -> Steward {
        let random = world.dice(Random::fork);
        let members = (0..clubs).map(|_| users.iter().cloned().collect()).collect();
        Steward { world, cluster, random, users, clubs, members, pause_ms }
    }

    /// Creates the clubs with all users in them, then changes their participants until the future is dropped.
    pub async fn run(mut self) {
        for number in 0..self.clubs {
            let participants: Vec<_> = self.users.iter().map(UserId::to_string).collect();
            let new = json!({ "id": club(number), "participants": participants });
            while !matches!(self.request("POST", "/api/conversations", &new).await, Some(200..=201 | 409)) {
                sleep(AGAIN).await;
            }
        }
        loop {
            let pause_ms = self.random.between(1..=self.pause_ms);
            sleep(Duration::from_millis(pause_ms)).await;
            self.change().await;
        }
    }

    async fn change(&mut self) {
        let number = self.random.below(self.clubs);
        let Some(user) = self.random.pick(&self.users).cloned() else { return };
        let path = format!("/api/conversations/{NAMESPACE}:{number}/participants");
        let members = &mut self.members[number as usize];
        let status = if members.remove(&user) {
            self.request("DELETE", &format!("{path}/{user}"), &Value::Null).await
        } else {
            members.insert(user.clone());
            self.request("POST", &path, &json!({ "userIds": [user.as_str()] })).await
        };
        if matches!(status, Some(200..=204)) {
            self.world.count("changes of participants");
        }
    }

    async fn request(&mut self, method: &str, path: &str, body: &Value) -> Option<u16> {
        let gateway = self.random.below(self.cluster.count(Kind::Gateway) as u64) as usize;
        let answer = self.cluster.rest(gateway, method, path, body);
        timeout(PATIENCE, answer).await.ok().flatten()
    }
}
