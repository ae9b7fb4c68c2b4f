//! One task per partition keeps the registration with the partition's owner equal to the rooms in the hub.

use crate::core::link::{Link, Repair, RoomDigest};
use crate::delivery::batches::Delivery;
use crate::delivery::hub::{Hub, Room};
use crate::delivery::touched::Touched;
use crate::workers::registration::{
    FullRegistration, Join, REGISTRATIONS_MAX, Registration, RegistrationEffects, unavailable,
};
use carillon_proto::code::Failure;
use carillon_proto::id::{GatewayId, UserId};
use carillon_proto::{subject, wire};
use carillon_runtime::bus::Bus;
use carillon_runtime::time::steady_ms;
use parking_lot::{Mutex, MutexGuard};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

/// Requests that wait for a partition's task. When the queue is full, a join fails with `unavailable`. The number is
/// above the default limit of connections per gateway (10,000), because each connection has at most one join under way.
const INPUTS_MAX: usize = 16_384;
/// How long one request to the owner may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a join is retried. It covers a change of owners: a lease of 2 s and the successor's loading.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay between two tries.
const RETRY_DELAY: Duration = Duration::from_millis(100);

enum LinkInput {
    Join(Join),
    FromOwner(OwnerMessage),
}

/// The owner's messages other than batches.
enum OwnerMessage {
    Beat(wire::Beat),
    Lost,
}

/// The state of a partition's handle and its task.
#[derive(Default)]
struct SharedLink {
    link: Mutex<Link>,
    /// Notified when the task must repair something.
    repair: Notify,
}

pub struct LinkHandle {
    inputs: mpsc::Sender<LinkInput>,
    shared: Arc<SharedLink>,
}

impl LinkHandle {
    /// Registers a room that the caller holds open and returns the seq from which the user may receive events. With
    /// `check`, the owner also checks that this user may join. Without it, a room that knows its head is registered
    /// already.
    ///
    /// # Errors
    /// `forbidden`, or `unavailable` when the owner did not answer in time.
    pub async fn join(&self, room: &Room, check: Option<UserId>) -> Result<u64, Failure> {
        if check.is_none()
            && let Some(head) = room.lock().topic.head()
        {
            return Ok(head);
        }
        let (answer, answered) = oneshot::channel();
        let join = Join { conversation: room.conversation.clone(), check, answer, since: Instant::now() };
        if self.inputs.try_send(LinkInput::Join(join)).is_err() {
            return Err(unavailable());
        }
        answered.await.unwrap_or_else(|_| Err(unavailable()))
    }

    /// Reports that a batch with this number arrived. The partition's task is woken only if one is missing before it,
    /// because most messages arrive in a batch of their own.
    pub fn report_batch(&self, epoch: u64, number: u64) {
        let mut link = self.shared.link.lock();
        link.handle_batch(epoch, number);
        if link.needs_repair() {
            self.shared.repair.notify_one();
        }
    }

    /// Reports that a beat arrived.
    pub async fn report_beat(&self, beat: wire::Beat) {
        let _ = self.inputs.send(LinkInput::FromOwner(OwnerMessage::Beat(beat))).await;
    }

    /// Reports that messages from the owner may have been lost.
    pub async fn report_loss(&self) {
        let _ = self.inputs.send(LinkInput::FromOwner(OwnerMessage::Lost)).await;
    }

    /// The owner's lag behind its log, in milliseconds, if it is too large to send the owner more commands.
    pub fn overloaded(&self) -> Option<u64> {
        self.shared.link.lock().overloaded()
    }
}

/// Makes a partition's handle and the task behind it.
pub fn link() -> (LinkHandle, LinkTask) {
    let (sender, inputs) = mpsc::channel(INPUTS_MAX);
    let shared = Arc::<SharedLink>::default();
    (LinkHandle { inputs: sender, shared: shared.clone() }, LinkTask { inputs, shared })
}

/// A partition's task before it runs.
pub struct LinkTask {
    inputs: mpsc::Receiver<LinkInput>,
    shared: Arc<SharedLink>,
}

/// The requests that a partition's task handles in one round.
#[derive(Default)]
pub(crate) struct Gathered {
    pub(crate) joins: Vec<Join>,
    from_owner: Vec<OwnerMessage>,
}

impl LinkTask {
    /// Waits for a request or a change, and takes all requests that are queued by then. `None` when the gateway ends.
    /// It is safe to cancel.
    pub(crate) async fn gather(&mut self, changed: impl Future<Output = ()>) -> Option<Gathered> {
        let mut gathered = Gathered::default();
        let mut next = tokio::select! {
            biased;
            input = self.inputs.recv() => Some(input?),
            () = changed => None,
        };
        while let Some(input) = next.take().or_else(|| self.inputs.try_recv().ok()) {
            match input {
                LinkInput::Join(join) => gathered.joins.push(join),
                LinkInput::FromOwner(message) => gathered.from_owner.push(message),
            }
            if gathered.joins.len() >= REGISTRATIONS_MAX || gathered.from_owner.len() >= INPUTS_MAX {
                break;
            }
        }
        Some(gathered)
    }

    /// Serves one partition until the gateway ends.
    pub async fn run(mut self, gateway: GatewayId, bus: Arc<dyn Bus>, delivery: Delivery, partition: u32) {
        let shared = self.shared.clone();
        let mut owner = OwnerLink { gateway, bus, delivery, partition, shared: shared.clone() };
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let hub = &owner.delivery.hub;
            let gathered = tokio::select! {
                biased;
                _ = tick.tick() => {
                    let serves = hub.count_of(partition) > 0;
                    shared.link.lock().handle_timeout(steady_ms(), serves);
                    Gathered::default()
                }
                gathered = self.gather(changed(hub, partition, &shared.repair)) => match gathered {
                    Some(gathered) => gathered,
                    None => return,
                },
            };
            gathered.from_owner.into_iter().for_each(|message| owner.handle_owner_message(message));
            owner.register(gathered.joins).await;
            owner.repair().await;
        }
    }
}

/// Waits until a room of the partition was closed, or something must be repaired.
async fn changed(hub: &Hub, partition: u32, repair: &Notify) {
    tokio::select! {
        () = hub.changed(partition) => {}
        () = repair.notified() => {}
    }
}

struct OwnerLink {
    gateway: GatewayId,
    bus: Arc<dyn Bus>,
    delivery: Delivery,
    partition: u32,
    shared: Arc<SharedLink>,
}

impl OwnerLink {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.shared.link.lock()
    }

    fn handle_owner_message(&mut self, message: OwnerMessage) {
        match message {
            OwnerMessage::Beat(beat) => {
                let hub = &self.delivery.hub;
                let rooms = RoomDigest {
                    expected: hub.expected(self.partition),
                    any: hub.count_of(self.partition) > 0,
                };
                self.link().handle_beat(steady_ms(), &beat, &rooms);
            }
            OwnerMessage::Lost => self.link().handle_loss(),
        }
    }

    /// Sends the owner a registration of rooms that were joined, opened or closed.
    async fn register(&mut self, mut joins: Vec<Join>) {
        let registration = loop {
            match Registration::of(&self.delivery.hub, self.partition, joins) {
                Ok(None) => return,
                Ok(Some(registration)) => break registration,
                Err(waiting) => joins = waiting,
            }
            let finished = self.resync().await;
            self.link().handle_resynced(finished);
        };
        let body = wire::partition_request::Body::Register(registration.request());
        // Without a waiting join, give up after one second, so that later joins do not wait for this registration.
        let alone = || Instant::now() + REQUEST_TIMEOUT;
        let deadline = registration.since().map_or_else(alone, |since| since + JOIN_TIMEOUT);
        let registered = match self.request(body, deadline).await {
            Some(wire::partition_reply::Body::Registered(registered)) => Some(registered),
            _ => None,
        };
        let done = registration.answered(&self.delivery.hub, registered);
        self.serve(done).await;
    }

    async fn serve(&self, done: RegistrationEffects) {
        for fetch in done.fetches {
            self.delivery.start_fetch(Some(fetch));
        }
        for room in done.touched {
            room.flush().await;
        }
    }

    async fn repair(&mut self) {
        let (repair, epoch) = {
            let mut link = self.link();
            (link.poll_repair(), link.epoch())
        };
        let Some(Repair { resend, mut resync }) = repair else { return };
        if let Some(from) = resend {
            match self.resend(epoch, from).await {
                Some(whole) => resync |= !whole,
                None => self.link().handle_unanswered(epoch, from),
            }
        }
        if resync {
            let finished = self.resync().await;
            self.link().handle_resynced(finished);
        }
    }

    /// Requests the batches from number `from` on and applies them. `Some(true)` if the owner still had them, `None` if
    /// it did not answer.
    async fn resend(&mut self, epoch: u64, from: u64) -> Option<bool> {
        let body = wire::partition_request::Body::Resend(wire::Resend { epoch, from });
        let reply = self.request(body, Instant::now() + REQUEST_TIMEOUT).await?;
        let wire::partition_reply::Body::Resent(resent) = reply else { return Some(false) };
        let whole = !resent.batches.is_empty();
        let mut touched = Touched::default();
        for batch in resent.batches {
            self.delivery.handle_batch(batch, &mut touched);
        }
        touched.flush().await;
        Some(whole)
    }

    /// Registers all rooms of the partition and replaces the earlier registration. Returns `true` if every page was
    /// answered with all heads.
    async fn resync(&mut self) -> bool {
        crate::metrics::RESYNCS.inc();
        let mut finished = true;
        let mut anew = FullRegistration::of(&self.delivery.hub, self.partition);
        while let Some(register) = anew.request() {
            let body = wire::partition_request::Body::Register(register);
            let reply = self.request(body, Instant::now() + JOIN_TIMEOUT).await;
            let Some(wire::partition_reply::Body::Registered(registered)) = reply else { return false };
            finished &= registered.unread.is_empty();
            let done = anew.answered(&self.delivery.hub, &registered);
            self.serve(done).await;
        }
        finished
    }

    /// Sends a request to the owner until it is answered or `deadline` passes. Each try has its own counter.
    async fn request(
        &mut self,
        body: wire::partition_request::Body,
        deadline: Instant,
    ) -> Option<wire::partition_reply::Body> {
        let (registers, replaces) = match &body {
            wire::partition_request::Body::Register(register) => (true, register.replace),
            _ => (false, false),
        };
        loop {
            let counter = self.link().next_counter(registers);
            let request = wire::PartitionRequest {
                gateway: self.gateway.to_string(),
                counter,
                body: Some(body.clone()),
            };
            let payload = request.encode_to_vec().into();
            let subject = subject::partition(self.partition);
            let reply = self.bus.request(&subject, payload, REQUEST_TIMEOUT).await;
            match reply.map(wire::PartitionReply::decode) {
                Ok(Ok(reply)) if self.link().handle_reply(reply.epoch, replaces) => match reply.body {
                    Some(wire::partition_reply::Body::Failure(failure)) => {
                        tracing::debug!(
                            partition = self.partition,
                            code = failure.code,
                            "the owner refused a request"
                        );
                    }
                    body => return body,
                },
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(partition = self.partition, %error, "a reply could not be read")
                }
                Err(error) => tracing::debug!(partition = self.partition, %error, "the owner did not answer"),
            }
            if Instant::now() + RETRY_DELAY >= deadline {
                return None;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_batch_wakes_the_task_only_if_one_is_missing_before_it() {
        let (handle, task) = link();
        let is_woken = || task.shared.repair.notified().now_or_never().is_some();
        (1..=3).for_each(|number| handle.report_batch(7, number));
        assert!(!is_woken());
        handle.report_batch(7, 5);
        assert!(is_woken());
        let repair = task.shared.link.lock().poll_repair();
        assert_eq!(repair, Some(Repair { resend: Some(4), resync: false }));
    }
}
