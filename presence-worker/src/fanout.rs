//! Pushes to gateways: at once while there are few changes, else in batches with the latest state of each user.

use crate::core::shard::Push;
use crate::limits::{OUTBOX_CHANGES_MAX, PUSH_BYTES_MAX, PUSH_INTERVAL_MS};
use crate::metrics;
use carillon_proto::id::GatewayId;
use carillon_proto::{subject, wire};
use carillon_runtime::bus::Bus;
use parking_lot::Mutex;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Least time between two pushes to one gateway.
const INTERVAL: Duration = Duration::from_millis(PUSH_INTERVAL_MS);

/// The changes that wait for one gateway.
#[derive(Default)]
struct Outbox {
    users: BTreeMap<String, wire::UserPresence>,
    rooms: Vec<wire::RoomChange>,
    snapshot_wanted: bool,
    crowded: BTreeSet<String>,
    version: u64,
    /// Earliest time of the next push; `None`: at once.
    not_before: Option<Instant>,
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.len() == 0 && !self.snapshot_wanted
    }

    fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    fn len(&self) -> usize {
        self.users.len() + self.rooms.len() + self.crowded.len()
    }

    fn add(&mut self, push: Push) {
        self.users.extend(push.news.users.into_iter().map(|presence| (presence.user.clone(), presence)));
        self.rooms.extend(push.news.rooms);
        self.snapshot_wanted |= push.news.snapshot_wanted;
        self.crowded.extend(push.news.crowded);
        self.version = push.version;
    }
}

#[derive(Default)]
struct State {
    outboxes: BTreeMap<GatewayId, Outbox>,
    /// Gateways that missed a push.
    lost: BTreeSet<GatewayId>,
}

/// The outboxes of one shard, and the task that sends them.
pub struct Fanout {
    shard: u32,
    epoch: u64,
    state: Mutex<State>,
    staged: Notify,
}

impl Fanout {
    /// Creates the fan-out of a shard for one ownership.
    pub fn new(shard: u32, epoch: u64) -> Arc<Fanout> {
        Arc::new(Fanout { shard, epoch, state: Mutex::default(), staged: Notify::new() })
    }

    /// Adds pushes to the outboxes. They leave as soon as the interval allows.
    pub fn stage(&self, pushes: Vec<Push>) {
        if pushes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for push in pushes {
            let gateway = push.gateway.clone();
            let outbox = state.outboxes.entry(gateway.clone()).or_default();
            outbox.add(push);
            if outbox.len() > OUTBOX_CHANGES_MAX {
                outbox.users.clear();
                outbox.rooms.clear();
                outbox.crowded.clear();
                metrics::PUSHES_LOST.inc();
                state.lost.insert(gateway);
            }
        }
        drop(state);
        self.staged.notify_one();
    }

    /// Gateways that missed a push since the last call.
    pub fn take_lost(&self) -> BTreeSet<GatewayId> {
        std::mem::take(&mut self.state.lock().lost)
    }

    /// The outboxes to send now, and the time at which the next one may be sent.
    fn take_due(&self, now: Instant) -> (Vec<(GatewayId, Outbox)>, Option<Instant>) {
        let mut due = Vec::new();
        let mut state = self.state.lock();
        // An empty outbox is kept only while the interval after its last push runs.
        state.outboxes.retain(|_, outbox| !(outbox.is_empty() && outbox.is_due(now)));
        for (gateway, outbox) in &mut state.outboxes {
            if outbox.is_due(now) {
                let next = Outbox { not_before: Some(now + INTERVAL), ..Outbox::default() };
                due.push((gateway.clone(), std::mem::replace(outbox, next)));
            }
        }
        let next = state
            .outboxes
            .values()
            .filter(|outbox| !outbox.is_empty())
            .filter_map(|outbox| outbox.not_before);
        (due, next.min())
    }

    /// Sends staged pushes until `stop`, while this worker owns the shard.
    pub async fn run(&self, bus: Arc<dyn Bus>, is_owner: impl Fn() -> bool, stop: CancellationToken) {
        loop {
            let (due, next) = self.take_due(Instant::now());
            for (gateway, outbox) in due {
                if !is_owner() || !self.send(&*bus, &gateway, outbox).await {
                    metrics::PUSHES_LOST.inc();
                    self.state.lock().lost.insert(gateway);
                }
            }
            let wait = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.staged.notified() => {}
                () = wait => {}
            }
        }
    }

    async fn send(&self, bus: &dyn Bus, gateway: &GatewayId, outbox: Outbox) -> bool {
        for changes in cut(outbox, self.shard, self.epoch) {
            let message = wire::ToGateway { body: Some(wire::to_gateway::Body::Presence(changes)) };
            if let Err(error) = bus.publish(&subject::gateway(gateway), message.encode_to_vec().into()).await
            {
                tracing::warn!(shard = self.shard, %gateway, %error, "presence changes not pushed");
                return false;
            }
            metrics::PUSHES.inc();
        }
        true
    }
}

/// Splits an outbox into messages within the bus's size limit.
fn cut(outbox: Outbox, shard: u32, epoch: u64) -> Vec<wire::PresenceChanges> {
    let empty = || wire::PresenceChanges { shard, epoch, version: outbox.version, ..Default::default() };
    let mut messages = vec![wire::PresenceChanges { snapshot_wanted: outbox.snapshot_wanted, ..empty() }];
    let mut bytes = 0;
    let mut room_for = |messages: &mut Vec<wire::PresenceChanges>, more: usize| {
        if bytes + more > PUSH_BYTES_MAX {
            messages.push(empty());
            bytes = 0;
        }
        bytes += more;
        messages.len() - 1
    };
    for presence in outbox.users.into_values() {
        let index = room_for(&mut messages, presence.encoded_len() + 4);
        messages[index].users.push(presence);
    }
    for change in outbox.rooms {
        let index = room_for(&mut messages, change.encoded_len() + 4);
        messages[index].rooms.push(change);
    }
    for user in outbox.crowded {
        let index = room_for(&mut messages, user.len() + 4);
        messages[index].crowded.push(user);
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::watch::News;

    fn push(user: &str, online: bool, version: u64) -> Push {
        let presence = wire::UserPresence { user: user.into(), online, ..Default::default() };
        let news = News { users: vec![presence], ..News::default() };
        Push { gateway: GatewayId::parse("one").expect("valid"), news, version }
    }

    #[test]
    fn the_first_push_leaves_at_once_and_later_ones_merge_into_the_latest_state() {
        let fanout = Fanout::new(3, 9);
        let start = Instant::now();
        fanout.stage(vec![push("ann", true, 1)]);
        assert_eq!(fanout.take_due(start).0.len(), 1);
        fanout.stage(vec![push("ann", false, 2)]);
        fanout.stage(vec![push("ann", true, 3), push("bob", true, 3)]);
        let (due, next) = fanout.take_due(start + INTERVAL / 2);
        assert!(due.is_empty());
        assert_eq!(next, Some(start + INTERVAL));
        let (mut due, next) = fanout.take_due(start + INTERVAL);
        assert_eq!(next, None);
        let messages = cut(due.remove(0).1, 3, 9);
        assert_eq!(messages.len(), 1);
        assert_eq!((messages[0].shard, messages[0].epoch, messages[0].version), (3, 9, 3));
        let pushed: Vec<_> = messages[0].users.iter().map(|user| (user.user.as_str(), user.online)).collect();
        assert_eq!(pushed, [("ann", true), ("bob", true)]);

        assert_eq!(fanout.take_due(start + INTERVAL * 3).0.len(), 0);
        assert!(fanout.state.lock().outboxes.is_empty(), "a quiet gateway must not have an outbox");
    }

    #[test]
    fn a_large_outbox_is_split_into_several_messages() {
        let mut outbox = Outbox { snapshot_wanted: true, ..Outbox::default() };
        for number in 0..5_000 {
            outbox.add(push(&format!("{number:0>128}"), true, 1));
            outbox
                .rooms
                .push(wire::RoomChange { conversation: format!("{number:0>128}"), ..Default::default() });
            outbox.crowded.insert(format!("{number:0>128}"));
        }
        let messages = cut(outbox, 0, 1);
        assert!(
            messages
                .iter()
                .all(|message| message.encoded_len() < carillon_proto::limits::BUS_MESSAGE_BYTES_MAX)
        );
        assert_eq!(messages.iter().map(|message| message.users.len()).sum::<usize>(), 5_000);
        assert_eq!(messages.iter().map(|message| message.rooms.len()).sum::<usize>(), 5_000);
        assert_eq!(messages.iter().map(|message| message.crowded.len()).sum::<usize>(), 5_000);
        assert_eq!(messages.iter().filter(|message| message.snapshot_wanted).count(), 1);
    }

    #[test]
    fn an_outbox_over_its_bound_is_emptied_and_its_gateway_marked() {
        let fanout = Fanout::new(0, 1);
        let start = Instant::now();
        fanout.stage(vec![push("first", true, 1)]);
        fanout.take_due(start);
        for number in 0..=OUTBOX_CHANGES_MAX {
            fanout.stage(vec![push(&number.to_string(), true, 2)]);
        }
        assert_eq!(fanout.take_lost().len(), 1);
        assert!(fanout.take_lost().is_empty());
        assert!(fanout.state.lock().outboxes.values().all(Outbox::is_empty));
    }
}
