//! The simulated store of users.

use crate::gate::Cut;
use crate::node::Node;
use async_trait::async_trait;
use carillon_presence_worker::store::{StoreError, UserRow, UserStore};
use carillon_proto::id::UserId;

#[async_trait]
impl UserStore for Node {
    async fn put(&self, rows: Vec<UserRow>) -> Result<(), StoreError> {
        let away = |_| StoreError("no answer".into());
        self.way(Cut::Store).await.map_err(away)?;
        let lost = self.world.strikes(|weather| weather.write_lost);
        let world = self.world.clone();
        let write = move || {
            let mut users = world.users.lock();
            for row in rows.into_iter().filter(|_| !lost) {
                let there = users.entry(row.user.to_string()).or_insert_with(|| row.clone());
                if there.updated_ms <= row.updated_ms {
                    *there = row;
                }
            }
        };
        self.world.network.remote(self.world.latency(), write).await;
        if lost || self.world.strikes(|weather| weather.write_unconfirmed) {
            return Err(StoreError("not now".into()));
        }
        self.way(Cut::Store).await.map_err(away)
    }

    async fn get(&self, users: &[UserId]) -> Result<Vec<UserRow>, StoreError> {
        let away = |_| StoreError("no answer".into());
        self.way(Cut::Store).await.map_err(away)?;
        if self.world.strikes(|weather| weather.read_failed) {
            return Err(StoreError("not now".into()));
        }
        let rows = self.world.users.lock();
        Ok(users.iter().filter_map(|user| rows.get(user.as_str()).cloned()).collect())
    }

    async fn healthy(&self) -> bool {
        !self.gate.is_cut(Cut::Store)
    }
}
