//! Message-workers of this release and of the next one together, on real parts under load: upgraded, downgraded, and
//! upgraded for good.

use carillon_faults::deployment::{Deployment, Node, Role, Size};
use carillon_faults::run::{Load, Stage};
use carillon_message_worker::VERSION;
use carillon_proto::limits::PARTITIONS;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const METRIC: &str = "carillon_partition_version";
/// Longer than a lease, and than the time between two checks of the live workers by an owner.
const A_LEASE: Duration = Duration::from_secs(4);
/// Time limit for owners to raise the version, on a loaded machine.
const RAISE_TIMEOUT: Duration = Duration::from_secs(60);

fn next() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_carillon-next"))
}

fn worker(stage: &mut Stage, index: usize) -> &mut Node {
    stage.deployment.of(Role::MessageWorker).swap_remove(index)
}

/// How many partitions are owned, and how many of them are at a later version than this release's.
async fn worked(deployment: &mut Deployment) -> anyhow::Result<(usize, usize)> {
    let (mut partitions, mut raised) = (0, 0);
    for node in deployment.of(Role::MessageWorker) {
        let versions = node.values(METRIC).await?;
        partitions += versions.len();
        raised += versions.iter().filter(|version| **version > f64::from(VERSION)).count();
    }
    Ok((partitions, raised))
}

/// A version must begin only when no live worker lacks it, and from then on such a worker must be refused. Through all
/// of this nothing acknowledged may be lost, doubled or reordered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn versions_work_side_by_side_forward_and_back() {
    let size = Size { message_workers: 2, ..Size::default() };
    let load = Load { rate: 5.0, ..Load::default() };
    let Some(mut stage) = Stage::set(size, load).await.expect("everything starts") else { return };
    stage.begin_sending();
    sleep(A_LEASE).await;

    stage.note("worker 0: forward");
    worker(&mut stage, 0).release(next()).expect("the worker is replaced");
    sleep(A_LEASE).await;
    let (_, raised) = worked(&mut stage.deployment).await.expect("metrics");
    assert_eq!(raised, 0, "a version started that a live worker does not know");

    stage.note("worker 0: back");
    let this = carillon_tests::server::binary();
    worker(&mut stage, 0).release(&this).expect("the worker is replaced");
    sleep(A_LEASE).await;

    for index in [0, 1] {
        stage.note(format!("worker {index}: forward"));
        worker(&mut stage, index).release(next()).expect("the worker is replaced");
    }
    let began = Instant::now();
    while worked(&mut stage.deployment).await.expect("metrics") != (PARTITIONS as usize, PARTITIONS as usize)
    {
        assert!(began.elapsed() < RAISE_TIMEOUT, "the new version did not start in time");
        sleep(Duration::from_millis(200)).await;
    }

    stage.note("worker 1: back, kill -9");
    worker(&mut stage, 1).kill();
    let (status, printed) = worker(&mut stage, 1).refused(&this);
    assert_eq!(status.code(), Some(64), "{printed}");
    assert!(printed.contains("knows versions up to"), "{printed}");
    worker(&mut stage, 1).restart_as(next());
    sleep(A_LEASE).await;

    let outcome = stage.end(None).await.expect("a judgement");
    eprintln!("{outcome}");
    assert!(outcome.is_good(), "{outcome}");
    assert!(outcome.report.counts.acknowledged >= 2_000, "{outcome}");
}
