//! Measures the embedded store: CPU and latency of an append with its projections.
//!
//! `cargo run --release -p carillon-message-worker --example store_bench -- [DIRECTORY] [SECONDS]`
//!
//! An append is one row of 400 bytes in one of 1,000 conversations, followed by the projection of its client id. Every
//! tenth append also writes a head and a checkpoint. In the first run appends arrive one at a time, 1,000 a second; the
//! other runs keep 1, 16 and 128 appends in flight. CPU is that of the whole process. The first line shows how much of
//! it this program needs without a store.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use carillon_message_worker::store::embedded::EmbeddedStore;
use carillon_message_worker::store::{Author, Checkpoint, EventRow, Projection, Store};
use carillon_proto::id::{ConversationId, Tag};
use carillon_proto::position::Position;

const CONVERSATIONS: u64 = 1_000;
const ARRIVALS_PER_SECOND: u32 = 1_000;

/// Appends one message with its projections. With `None` it only builds them, to measure this program alone.
async fn append(store: Option<&EmbeddedStore>, number: u64) {
    let conversation =
        ConversationId::parse(&format!("room:{:06}", number * 7_919 % CONVERSATIONS)).expect("an id");
    let sender = Author::parse(&format!("user-{:06}", number * 31 % 5_000)).expect("a user's id");
    let (timestamp_us, seq) = (1_700_000_000_000_000 + number as i64, 1 + number / CONVERSATIONS);
    let position = Position { incarnation: 1, sequence: number, index: 0 };
    let tag = Tag([7; 16]);
    let blob = Bytes::from(vec![b'x'; 350]);
    let row = EventRow { conversation: conversation.clone(), seq, position, tag, timestamp_us, blob };
    let client_id = format!("client-id-{number:012}");
    let time_ms = 1_700_000_000_000 + number;
    let mut projections = vec![Projection::Sent {
        conversation: conversation.clone(),
        sender,
        timestamp_us,
        time_ms,
        client_id,
        seq,
    }];
    let marks = number.is_multiple_of(10);
    if marks {
        projections.push(Projection::Head { conversation, timestamp_us, blob: Bytes::from(vec![b'h'; 300]) });
    }
    let Some(store) = store else { return };
    store.append(vec![row]).await.expect("appended");
    store.project(projections).await.expect("projected");
    if marks {
        store.checkpoint(3, Checkpoint { position, tag, timestamp_us, version: 1 }).await.expect("marked");
    }
}

/// User and system time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("linux");
    let after_name = stat.rsplit(')').next().expect("a name in brackets");
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_millis(ticks * 10)
}

fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4 / 1024
}

struct Run {
    begun: Instant,
    cpu_before: Duration,
    first: u64,
}

impl Run {
    fn begin(numbers: &AtomicU64) -> Run {
        Run { begun: Instant::now(), cpu_before: cpu(), first: numbers.load(Ordering::Relaxed) }
    }

    fn report(self, name: &str, numbers: &AtomicU64, mut latencies: Vec<Duration>) {
        let (seconds, cpu) = (self.begun.elapsed().as_secs_f64(), cpu() - self.cpu_before);
        let count = numbers.load(Ordering::Relaxed) - self.first;
        latencies.sort_unstable();
        let quantile = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_micros();
        println!(
            "{name:<24} {:>8.0}/s  cpu {:>6.1} us each  latency us: p50 {:>6} p99 {:>6} max {:>7}  resident {} MiB",
            count as f64 / seconds,
            cpu.as_secs_f64() * 1e6 / count as f64,
            quantile(0.5),
            quantile(0.99),
            quantile(1.0),
            resident_mib(),
        );
    }
}

async fn arriving(name: &str, store: Option<Arc<EmbeddedStore>>, numbers: Arc<AtomicU64>, seconds: u32) {
    let run = Run::begin(&numbers);
    let begun = tokio::time::Instant::now();
    let mut under_way = Vec::new();
    for arrival in 0..seconds * ARRIVALS_PER_SECOND {
        tokio::time::sleep_until(begun + Duration::from_secs(1) * arrival / ARRIVALS_PER_SECOND).await;
        let (store, numbers) = (store.clone(), Arc::clone(&numbers));
        under_way.push(tokio::spawn(async move {
            let at = Instant::now();
            append(store.as_deref(), numbers.fetch_add(1, Ordering::Relaxed)).await;
            at.elapsed()
        }));
    }
    let mut latencies = Vec::new();
    for task in under_way {
        latencies.push(task.await.expect("no panic"));
    }
    run.report(name, &numbers, latencies);
}

async fn saturated(store: Arc<EmbeddedStore>, numbers: Arc<AtomicU64>, concurrency: usize, seconds: u32) {
    let run = Run::begin(&numbers);
    let until = Instant::now() + Duration::from_secs(seconds.into());
    let under_way: Vec<_> = (0..concurrency)
        .map(|_| {
            let (store, numbers) = (Arc::clone(&store), Arc::clone(&numbers));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < until {
                    let at = Instant::now();
                    append(Some(&store), numbers.fetch_add(1, Ordering::Relaxed)).await;
                    latencies.push(at.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in under_way {
        latencies.extend(task.await.expect("no panic"));
    }
    run.report(&format!("{concurrency} under way"), &numbers, latencies);
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory =
        arguments.next().map_or_else(|| std::env::temp_dir().join("carillon-store-bench"), PathBuf::from);
    let seconds = arguments.next().map_or(10, |seconds| seconds.parse().expect("a number of seconds"));
    drop(std::fs::remove_dir_all(&directory));
    let store = EmbeddedStore::open(&directory).expect("opens");
    let numbers = Arc::new(AtomicU64::new(0));
    arriving("this program alone", None, Arc::clone(&numbers), seconds).await;
    arriving("1,000 a second", Some(Arc::clone(&store)), Arc::clone(&numbers), seconds).await;
    for concurrency in [1, 16, 128] {
        saturated(Arc::clone(&store), Arc::clone(&numbers), concurrency, seconds).await;
    }
    drop(store);
    std::fs::remove_dir_all(&directory).expect("removed");
}
