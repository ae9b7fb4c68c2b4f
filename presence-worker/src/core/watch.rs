//! Sets of gateways, and the changes to push to each gateway.

use super::gateways::GatewayIndex;
use carillon_proto::wire;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// A small set of gateways: a user's watchers, or the gateways through which a user is in a room.
#[derive(Debug, Clone, Default)]
pub struct GatewaySet(SmallVec<[GatewayIndex; 8]>);

impl GatewaySet {
    /// Adds a gateway; `false` if it was in the set.
    pub fn add(&mut self, gateway: GatewayIndex) -> bool {
        let new = !self.0.contains(&gateway);
        if new {
            self.0.push(gateway);
        }
        new
    }

    /// Removes a gateway; `false` if it was not in the set.
    pub fn remove(&mut self, gateway: GatewayIndex) -> bool {
        let Some(index) = self.0.iter().position(|other| *other == gateway) else { return false };
        self.0.swap_remove(index);
        true
    }

    /// Whether the gateway is in the set.
    pub fn contains(&self, gateway: GatewayIndex) -> bool {
        self.0.contains(&gateway)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The gateways of the set.
    pub fn iter(&self) -> impl Iterator<Item = GatewayIndex> + '_ {
        self.0.iter().copied()
    }
}

/// The changes that one request or tick causes for one gateway.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct News {
    /// The presence of users that the gateway watches.
    pub users: Vec<wire::UserPresence>,
    /// Users who joined or left rooms in which the gateway has members.
    pub rooms: Vec<wire::RoomChange>,
    /// The gateway must announce everything again.
    pub snapshot_wanted: bool,
    /// Users at their limit. The gateway must ping its sessions of them and end those that do not reply.
    pub crowded: Vec<String>,
}

/// The changes that one request or tick causes, by gateway and in order.
#[derive(Debug, Default)]
pub struct Pushes(BTreeMap<GatewayIndex, News>);

impl Pushes {
    /// Adds a user's presence for a gateway.
    pub fn user(&mut self, gateway: GatewayIndex, presence: wire::UserPresence) {
        self.0.entry(gateway).or_default().users.push(presence);
    }

    /// Adds a change in a room for a gateway.
    pub fn room(&mut self, gateway: GatewayIndex, change: wire::RoomChange) {
        self.0.entry(gateway).or_default().rooms.push(change);
    }

    /// Makes a gateway check which sessions of a user are still alive.
    pub fn crowded(&mut self, gateway: GatewayIndex, user: &str) {
        let crowded = &mut self.0.entry(gateway).or_default().crowded;
        if !crowded.iter().any(|known| known == user) {
            crowded.push(user.to_owned());
        }
    }

    /// Makes a gateway announce everything again.
    pub fn want_snapshot(&mut self, gateway: GatewayIndex) {
        self.0.entry(gateway).or_default().snapshot_wanted = true;
    }

    /// The gateways and the changes for each.
    pub fn into_news(self) -> impl Iterator<Item = (GatewayIndex, News)> {
        self.0.into_iter()
    }
}
