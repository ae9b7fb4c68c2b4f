//! The rooms of a shard: their users in the order of joining, and the gateways through which each user is joined.
//!
//! A user who joins again while in the room keeps the place. A user sees the room, and is seen in it, if the place at
//! joining is below [`PRESENCE_PARTICIPANTS_MAX`] (`docs/decisions/0005-presence-in-open-conversations.md`).

use super::announced::Announced;
use super::gateways::GatewayIndex;
use super::watch::{GatewaySet, Pushes};
use crate::limits::{ROOM_SEARCHED_USERS_MAX, ROOM_USERS_MAX, ROOMS_MAX};
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::PRESENCE_PARTICIPANTS_MAX;
use carillon_proto::wire;
use carillon_runtime::collections::Spare;
use smallvec::SmallVec;
use std::collections::HashMap;

#[derive(Debug)]
struct Member {
    /// Rises with every user who joins.
    order: u64,
    user: UserId,
    gateways: GatewaySet,
}

/// A room with at least one user.
#[derive(Debug, Default)]
struct RoomPresence {
    /// Ascending by `order`.
    members: Vec<Member>,
    /// The order of each user, kept only while there are too many members to search.
    orders: Option<HashMap<UserId, u64>>,
    /// The number of members joined through each gateway.
    gateways: SmallVec<[(GatewayIndex, u32); 4]>,
    joins: u64,
}

impl RoomPresence {
    fn place(&self, user: &str) -> Option<usize> {
        match &self.orders {
            None => self.members.iter().position(|member| member.user.as_str() == user),
            Some(orders) => {
                let order = orders.get(user)?;
                self.members.binary_search_by_key(order, |member| member.order).ok()
            }
        }
    }

    fn add(&mut self, user: UserId, gateway: GatewayIndex) {
        self.joins += 1;
        let order = self.joins;
        if let Some(orders) = &mut self.orders {
            orders.insert(user.clone(), order);
        }
        let mut gateways = GatewaySet::default();
        gateways.add(gateway);
        self.members.push(Member { order, user, gateways });
        if self.orders.is_none() && self.members.len() > ROOM_SEARCHED_USERS_MAX {
            let orders = self.members.iter().map(|member| (member.user.clone(), member.order));
            self.orders = Some(orders.collect());
        }
    }

    fn count_gateway(&mut self, gateway: GatewayIndex) {
        match self.gateways.iter_mut().find(|(other, _)| *other == gateway) {
            Some((_, members)) => *members += 1,
            None => self.gateways.push((gateway, 1)),
        }
    }

    fn discount_gateway(&mut self, gateway: GatewayIndex) {
        let Some(place) = self.gateways.iter().position(|(other, _)| *other == gateway) else { return };
        self.gateways[place].1 -= 1;
        if self.gateways[place].1 == 0 {
            self.gateways.swap_remove(place);
        }
    }

    fn remove(&mut self, place: usize) {
        let member = self.members.remove(place);
        if let Some(orders) = &mut self.orders {
            orders.remove(member.user.as_str());
            if orders.len() <= ROOM_SEARCHED_USERS_MAX / 2 {
                self.orders = None;
            }
        }
        self.members.give_spare_back();
    }

    fn push_change(&self, change: &wire::RoomChange, except: Option<GatewayIndex>, pushes: &mut Pushes) {
        for (gateway, _) in self.gateways.iter().filter(|(gateway, _)| Some(*gateway) != except) {
            pushes.room(*gateway, change.clone());
        }
    }

    fn participants(&self) -> u32 {
        self.members.len() as u32
    }
}

fn change(conversation: &str, user: &str, joined: bool, place: usize, participants: u32) -> wire::RoomChange {
    wire::RoomChange {
        conversation: conversation.into(),
        user: user.into(),
        joined,
        visible: place < PRESENCE_PARTICIPANTS_MAX,
        disconnected: false,
        participants,
    }
}

/// The rooms of a shard.
#[derive(Debug, Default)]
pub struct Rooms {
    rooms: HashMap<ConversationId, RoomPresence>,
    memberships: usize,
}

impl Rooms {
    /// Adds a user to a room through a gateway. Returns `None` if an id is invalid or memory is full, else whether the
    /// user is new to the room. With `pushes`, the other gateways receive that news.
    pub fn join(
        &mut self,
        gateway: GatewayIndex,
        joined: &wire::RoomJoined,
        pushes: Option<&mut Pushes>,
    ) -> Option<(ConversationId, UserId, bool)> {
        let conversation = self.open(&joined.conversation)?;
        let room = self.rooms.entry(conversation.clone()).or_default();
        if let Some(place) = room.place(&joined.user) {
            let member = &mut room.members[place];
            let user = member.user.clone();
            if member.gateways.add(gateway) {
                room.count_gateway(gateway);
            }
            return Some((conversation, user, false));
        }
        let user = UserId::parse(&joined.user).ok().filter(|_| room.members.len() < ROOM_USERS_MAX);
        let Some(user) = user else {
            self.close_if_empty(&conversation);
            return None;
        };
        room.add(user.clone(), gateway);
        room.count_gateway(gateway);
        self.memberships += 1;
        if let Some(pushes) = pushes {
            let place = room.members.len() - 1;
            let change = change(conversation.as_str(), user.as_str(), true, place, room.participants());
            room.push_change(&change, Some(gateway), pushes);
        }
        Some((conversation, user, true))
    }

    fn open(&self, conversation: &str) -> Option<ConversationId> {
        if let Some((known, _)) = self.rooms.get_key_value(conversation) {
            return Some(known.clone());
        }
        ConversationId::parse(conversation).ok().filter(|_| self.rooms.len() < ROOMS_MAX)
    }

    fn close_if_empty(&mut self, conversation: &ConversationId) {
        if self.rooms.get(conversation).is_some_and(|room| room.members.is_empty()) {
            self.rooms.remove(conversation);
            self.rooms.give_spare_back();
        }
    }

    /// Removes a user from a room at a gateway. Returns whether this was the user's last gateway; the other gateways
    /// receive that news.
    pub fn leave(&mut self, gateway: GatewayIndex, left: &wire::RoomLeft, pushes: &mut Pushes) -> bool {
        let Some((conversation, _)) = self.rooms.get_key_value(left.conversation.as_str()) else {
            return false;
        };
        let conversation = conversation.clone();
        let Some(room) = self.rooms.get_mut(&conversation) else { return false };
        let Some(place) = room.place(&left.user) else { return false };
        if !room.members[place].gateways.remove(gateway) {
            return false;
        }
        room.discount_gateway(gateway);
        if !room.members[place].gateways.is_empty() {
            return false;
        }
        room.remove(place);
        self.memberships -= 1;
        let change = change(&left.conversation, &left.user, false, place, room.participants());
        room.push_change(
            &wire::RoomChange { disconnected: left.disconnected, ..change },
            Some(gateway),
            pushes,
        );
        self.close_if_empty(&conversation);
        true
    }

    /// Removes everything of a gateway that its snapshot does not announce. If a user thereby leaves a room, all its
    /// gateways receive that, including this one, whose reply does not contain it.
    pub fn sweep(&mut self, gateway: GatewayIndex, announced: &Announced, pushes: &mut Pushes) {
        let concerned = |room: &RoomPresence| room.gateways.iter().any(|(other, _)| *other == gateway);
        let found = self.rooms.iter().filter(|(_, room)| concerned(room)).map(|(id, _)| id.clone());
        let mut found: Vec<ConversationId> = found.collect();
        found.sort_unstable();
        for conversation in found {
            let Some(room) = self.rooms.get_mut(&conversation) else { continue };
            let before = room.members.len();
            sweep_room(room, &conversation, gateway, announced, pushes);
            self.memberships -= before - room.members.len();
            self.close_if_empty(&conversation);
        }
    }

    /// The room's state for a user who is in it. A user who is not yet in it is counted as if joining now.
    pub fn state(&self, conversation: &str, user: &str) -> wire::RoomState {
        let Some(room) = self.rooms.get(conversation) else {
            return wire::RoomState { participants: 1, visible: vec![user.into()], changed: false };
        };
        let place = room.place(user);
        let participants = room.participants() + u32::from(place.is_none());
        let mut visible = Vec::new();
        if place.unwrap_or(room.members.len()) < PRESENCE_PARTICIPANTS_MAX {
            visible.reserve_exact(room.members.len().min(PRESENCE_PARTICIPANTS_MAX) + 1);
            let first = room.members.iter().take(PRESENCE_PARTICIPANTS_MAX);
            visible.extend(first.map(|member| member.user.to_string()));
            if place.is_none() {
                visible.push(user.into());
            }
        }
        wire::RoomState { participants, visible, changed: false }
    }

    /// The number of users in a room.
    pub fn participants(&self, conversation: &str) -> u32 {
        self.rooms.get(conversation).map_or(0, RoomPresence::participants)
    }

    /// The number of rooms, and the sum of their users.
    pub fn count(&self) -> (usize, usize) {
        (self.rooms.len(), self.memberships)
    }
}

/// Removes a gateway from those members of a room that its snapshot does not announce.
fn sweep_room(
    room: &mut RoomPresence,
    conversation: &ConversationId,
    gateway: GatewayIndex,
    announced: &Announced,
    pushes: &mut Pushes,
) {
    let mut gone = Vec::new();
    for place in 0..room.members.len() {
        let member = &mut room.members[place];
        if announced.has_room(conversation, &member.user) || !member.gateways.remove(gateway) {
            continue;
        }
        if member.gateways.is_empty() {
            gone.push((place, member.user.clone()));
        }
        room.discount_gateway(gateway);
    }
    if gone.is_empty() {
        return;
    }
    room.members.retain(|member| !member.gateways.is_empty());
    room.orders = None;
    if room.members.len() > ROOM_SEARCHED_USERS_MAX {
        let orders = room.members.iter().map(|member| (member.user.clone(), member.order));
        room.orders = Some(orders.collect());
    }
    room.members.give_spare_back();
    let stay = room.participants() + gone.len() as u32;
    for (index, (place, user)) in gone.into_iter().enumerate() {
        let participants = stay - index as u32 - 1;
        let change = change(conversation.as_str(), user.as_str(), false, place - index, participants);
        room.push_change(&wire::RoomChange { disconnected: true, ..change }, None, pushes);
    }
}
