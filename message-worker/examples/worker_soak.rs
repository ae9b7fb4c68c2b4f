//! Measures a message-worker on the embedded bus and store, fed by one gateway: its latency, its throughput, and the
//! memory that it keeps.
//!
//! `cargo run --release -p carillon-message-worker --example worker_soak -- [MESSAGES] [CONVERSATIONS] [ROUNDS]`
//!
//! First it sends one message at a time, for the latency from publish to ack. Then it sends all messages, coalesced as
//! a busy gateway would, for the throughput. Then it idles until idle conversations have left memory, for the memory
//! that is given back. Further rounds show whether the remaining memory grows (a leak) or stays.

use bytes::Bytes;
use carillon_message_worker::store::embedded::EmbeddedStore;
use carillon_message_worker::{Config, VERSION, run};
use carillon_proto::id::{ConversationId, GatewayId, Tag, WorkerId};
use carillon_proto::limits::CONVERSATION_IDLE_MS;
use carillon_proto::wire::{self, Authority, command::Body, to_gateway};
use carillon_proto::{partition, subject};
use carillon_runtime::bus::embedded::EmbeddedBus;
use carillon_runtime::bus::{Bus, Incoming, Subscription};
use prost::Message as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The same allocator as in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: u32 = 16;
const GATEWAY: &str = "soak";
const ALONE: u64 = 500;
/// Maximum commands in flight: four publishes for each of the 16 partitions.
const UNDER_WAY_MAX: u64 = 4_096;
const COMMANDS_A_PUBLISH: usize = 64;

fn conversation(number: u64) -> ConversationId {
    ConversationId::parse(&format!("room:{number}")).expect("an id")
}

fn command(number: u64, conversations: u64) -> (u32, wire::Command) {
    let conversation = conversation(number * 7_919 % conversations);
    let message = wire::SendMessage { content: "x".repeat(200), ..wire::SendMessage::default() };
    let command = wire::Command {
        conversation: conversation.as_str().into(),
        actor: format!("user-{}", number * 31 % 5_000),
        client_id: format!("client-id-{number}"),
        authority: Authority::Granted.into(),
        gateway: GATEWAY.into(),
        request: number,
        body: Some(Body::SendMessage(message)),
        ..wire::Command::default()
    };
    (partition::of_conversation(&conversation, PARTITIONS), command)
}

async fn publish(bus: &EmbeddedBus, partition: u32, commands: Vec<wire::Command>) {
    let tag = Tag((u128::from(commands[0].request) << 32 | u128::from(partition)).to_be_bytes());
    let payload = Bytes::from(wire::Entry { commands, version: 0 }.encode_to_vec());
    while let Err(error) = bus.append(partition, tag, payload.clone()).await {
        eprintln!("{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits for the next batch, and returns how many commands it accepts.
async fn accepted(batches: &mut Subscription) -> u64 {
    loop {
        let Some(Incoming::Message(message)) = batches.next().await else { panic!("something was lost") };
        let body = wire::ToGateway::decode(message.payload).expect("decodes").body;
        if let Some(to_gateway::Body::Batch(batch)) = body {
            let accepted =
                |outcome: &wire::Outcome| matches!(outcome.body, Some(wire::outcome::Body::Accepted(_)));
            assert!(batch.outcomes.iter().all(accepted), "refused");
            return batch.outcomes.len() as u64;
        }
    }
}

fn rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1_024
}

async fn alone(bus: &EmbeddedBus, batches: &mut Subscription, conversations: u64) {
    let mut latencies = Vec::new();
    for number in 0..ALONE {
        let (partition, command) = command(u64::MAX / 8_192 + number, conversations);
        let began = Instant::now();
        publish(bus, partition, vec![command]).await;
        while accepted(batches).await == 0 {}
        latencies.push(began.elapsed());
    }
    latencies.sort();
    let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize].as_micros();
    println!("one at a time: p50 {} µs, p99 {} µs", at(0.5), at(0.99));
}

async fn together(
    bus: &EmbeddedBus,
    batches: &mut Subscription,
    first: u64,
    messages: u64,
    conversations: u64,
) {
    let began = Instant::now();
    let mut entries: Vec<Vec<wire::Command>> = (0..PARTITIONS).map(|_| Vec::new()).collect();
    let (mut sent, mut acked, mut peak_mib) = (0, 0, 0);
    while acked < messages {
        while sent < messages && sent - acked < UNDER_WAY_MAX {
            let (partition, command) = command(first + sent, conversations);
            sent += 1;
            let entry = &mut entries[partition as usize];
            entry.push(command);
            if entry.len() == COMMANDS_A_PUBLISH {
                publish(bus, partition, std::mem::take(entry)).await;
            }
        }
        for (partition, entry) in (0..).zip(&mut entries).filter(|(_, entry)| !entry.is_empty()) {
            publish(bus, partition, std::mem::take(entry)).await;
        }
        acked += accepted(batches).await;
        peak_mib = peak_mib.max(if acked % 64 == 0 { rss_mib() } else { 0 });
    }
    let rate = messages as f64 / began.elapsed().as_secs_f64();
    println!("{messages} messages: {rate:.0}/s, at most {peak_mib} MiB");
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let messages = arguments.next().unwrap_or(1_000_000);
    let (conversations, rounds) = (arguments.next().unwrap_or(20_000), arguments.next().unwrap_or(1));
    let dir = tempfile::tempdir()?;
    let (bus, store) = (EmbeddedBus::new(PARTITIONS), EmbeddedStore::open(dir.path())?);
    let mut batches = bus.subscribe(&subject::gateway(&GatewayId::parse(GATEWAY)?), None).await?;
    let shutdown = CancellationToken::new();
    let config = Config {
        worker: WorkerId::parse("soak")?,
        partitions: PARTITIONS,
        exclusive: true,
        version: VERSION,
    };
    let worker = tokio::spawn(run(config, bus.clone(), store as Arc<_>, shutdown.clone()));
    alone(&bus, &mut batches, conversations).await;
    println!("before: {} MiB", rss_mib());
    for round in 0..rounds {
        together(&bus, &mut batches, round * messages, messages, conversations).await;
        tokio::time::sleep(Duration::from_millis(CONVERSATION_IDLE_MS + 10_000)).await;
        let held = |line: &&str| line.starts_with("carillon_partition_conversations_count{");
        let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
        let held: u64 = carillon_runtime::metrics::render().lines().filter(held).filter_map(count).sum();
        println!("idle: {} MiB, {held} conversations in memory", rss_mib());
    }
    shutdown.cancel();
    worker.await?
}
