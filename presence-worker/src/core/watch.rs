//! Who hears of whom: the gateways that watch a user, and what each gateway is to be told.

use super::gateways::GatewayIndex;
use carillon_proto::wire;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// A small set of gateways: the watchers of a user, or those through which somebody is in a room.
#[derive(Debug, Clone, Default)]
pub struct GatewaySet(SmallVec<[GatewayIndex; 8]>);

impl GatewaySet {
    /// Adds a gateway; `false` when it was there.
    pub fn add(&mut self, gateway: GatewayIndex) -> bool {
        let new = !self.0.contains(&gateway);
        if new {
            self.0.push(gateway);
        }
        new
    }

    /// Removes a gateway; `false` when it was not there.
    pub fn remove(&mut self, gateway: GatewayIndex) -> bool {
        let Some(place) = self.0.iter().position(|other| *other == gateway) else { return false };
        self.0.swap_remove(place);
        true
    }

    /// Whether the gateway is among them.
    pub fn contains(&self, gateway: GatewayIndex) -> bool {
        self.0.contains(&gateway)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The gateways.
    pub fn iter(&self) -> impl Iterator<Item = GatewayIndex> + '_ {
        self.0.iter().copied()
    }
}

/// What one gateway is told of one request or tick.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct News {
    /// Presence of users it watches.
    pub users: Vec<wire::UserPresence>,
    /// Users who came to or left rooms in which it has members.
    pub rooms: Vec<wire::RoomChange>,
    /// It is to announce everything again.
    pub snapshot_wanted: bool,
    /// Users of whom it is to ping its sessions, and to end those that do not answer.
    pub crowded: Vec<String>,
}

/// What gateways are told of one request or tick, in order.
#[derive(Debug, Default)]
pub struct Pushes(BTreeMap<GatewayIndex, News>);

impl Pushes {
    /// Tells a gateway a user's presence.
    pub fn user(&mut self, gateway: GatewayIndex, presence: wire::UserPresence) {
        self.0.entry(gateway).or_default().users.push(presence);
    }

    /// Tells a gateway of a change in a room.
    pub fn room(&mut self, gateway: GatewayIndex, change: wire::RoomChange) {
        self.0.entry(gateway).or_default().rooms.push(change);
    }

    /// Has a gateway find out which sessions of a user still live.
    pub fn crowded(&mut self, gateway: GatewayIndex, user: &str) {
        let crowded = &mut self.0.entry(gateway).or_default().crowded;
        if !crowded.iter().any(|known| known == user) {
            crowded.push(user.to_owned());
        }
    }

    /// Asks a gateway to announce everything again.
    pub fn want_snapshot(&mut self, gateway: GatewayIndex) {
        self.0.entry(gateway).or_default().snapshot_wanted = true;
    }

    /// The gateways and what each is told.
    pub fn into_news(self) -> impl Iterator<Item = (GatewayIndex, News)> {
        self.0.into_iter()
    }
}
