//! Several clusters on one NATS server: subject prefixes separate them, and without a prefix the second is refused.

use super::{CLUSTER, SOON, append_all, bytes, config, connect, entries_of, eventually};
use async_nats::jetstream;
use carillon_proto::id::WorkerId;
use carillon_proto::subject::{self, Prefix};
use carillon_runtime::bus::nats::{ConnectError, NatsBus, NatsConfig};
use carillon_runtime::bus::{Bus, BusError, Incoming, LogBounds};
use carillon_runtime::cluster::{ClusterId, Misfit};
use carillon_tests::parts::{NatsOptions, NatsServer};
use std::sync::Arc;
use tokio::time::timeout;

/// Each cluster reserves four gigabytes for its logs.
const STORE_MEGABYTES: u32 = 65_536;

async fn start() -> Option<NatsServer> {
    NatsServer::start(NatsOptions { store_megabytes: STORE_MEGABYTES, ..NatsOptions::default() }).await
}

async fn connect_as(config: NatsConfig) -> Arc<NatsBus> {
    NatsBus::connect(config).await.expect("connected")
}

fn with_prefix(server: &NatsServer, prefix: &str) -> NatsConfig {
    let prefix = Prefix::parse(prefix).expect("a prefix");
    NatsConfig { prefix, cluster: Some(ClusterId::random()), ..config(&server.url()) }
}

fn of_another_cluster(server: &NatsServer) -> NatsConfig {
    NatsConfig { cluster: Some(ClusterId::random()), ..config(&server.url()) }
}

async fn refusal(config: NatsConfig) -> Misfit {
    match NatsBus::connect(config).await {
        Err(ConnectError::Misfit(misfit)) => misfit,
        Err(ConnectError::Bus(error)) => panic!("{error}"),
        Ok(_) => panic!("a connection that must be refused was accepted"),
    }
}

async fn stream_names(server: &NatsServer) -> Vec<String> {
    let client = async_nats::connect(server.url()).await.expect("connected");
    let names = futures_util::StreamExt::collect::<Vec<_>>(jetstream::new(client).stream_names()).await;
    let mut names: Vec<String> = names.into_iter().map(|name| name.expect("a name")).collect();
    names.sort();
    names
}

/// Before the fix, subjects, streams and leases had no prefix: each cluster received, worked and answered the other's
/// messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_with_different_prefixes_share_no_log_message_or_lease() {
    let Some(server) = start().await else { return };
    let plain = connect(&server.url()).await.expect("connected");
    let blue = connect_as(with_prefix(&server, "blue")).await;
    let green = connect_as(with_prefix(&server, "green")).await;

    assert_eq!(append_all(&*blue, 1, ["of blue".into()]).await, [1]);
    assert_eq!(append_all(&*green, 1, ["of green".into()]).await, [1]);
    assert_eq!(plain.log_bounds(1).await, Ok(LogBounds { first: 1, last: 0 }));
    assert_eq!(entries_of(&*blue, 1).await, ["of blue"]);
    assert_eq!(entries_of(&*green, 1).await, ["of green"]);

    let mut heard = blue.subscribe(subject::READ, Some(subject::READ_GROUP)).await.expect("subscribed");
    for other in [&plain, &green] {
        other.publish(subject::READ, bytes("not for blue")).await.expect("published");
        let asked = other.request(subject::READ, bytes("anybody?"), SOON).await;
        assert!(
            matches!(asked, Err(BusError::Unavailable(_))),
            "a request was answered by another prefix: {asked:?}"
        );
    }
    blue.publish(subject::READ, bytes("for blue")).await.expect("published");
    let incoming = timeout(SOON, heard.next()).await.expect("in time");
    assert!(matches!(incoming, Some(Incoming::Message(message)) if message.payload == "for blue"));

    let worker = WorkerId::parse("a").expect("a worker id");
    blue.renew_lease("kind", &worker).await.expect("renewed");
    assert_eq!(blue.live_leases("kind").await, Ok(vec![worker]));
    assert_eq!(green.live_leases("kind").await, Ok(Vec::new()));
    assert_eq!(plain.live_leases("kind").await, Ok(Vec::new()));
    assert!(stream_names(&server).await.contains(&"KV_blue_carillon_kind".to_owned()));
}

/// A second cluster on the same prefix is refused. A process without a database, such as a gateway, has no cluster id
/// to compare and is accepted once the streams exist. Before the fix, the second cluster was accepted, and half of the
/// reads returned rows of the other cluster's database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_is_refused_and_a_process_without_a_database_is_accepted() {
    let Some(server) = start().await else { return };
    let guest = || NatsConfig { cluster: None, ..config(&server.url()) };
    let Err(ConnectError::Bus(early)) = NatsBus::connect(guest()).await else {
        panic!("connected to a server without streams")
    };
    assert!(early.to_string().contains("no message-worker has marked"), "{early}");
    assert_eq!(
        stream_names(&server).await,
        Vec::<String>::new(),
        "a process without a cluster id must not create streams"
    );

    connect(&server.url()).await.expect("the first cluster marks the streams");
    let other = of_another_cluster(&server);
    let said =
        Misfit::OtherCluster { bus: "nats".into(), found: *CLUSTER, ours: other.cluster.expect("given") };
    assert_eq!(refusal(other).await, said);
    NatsBus::connect(guest()).await.expect("a process without a cluster id is accepted");
    connect(&server.url()).await.expect("the same cluster connects again");
}

/// Before the fix, a gateway or worker with another number of partitions looked for conversations in the wrong logs,
/// and created missing ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_number_of_partitions_is_refused_and_creates_no_stream() {
    let Some(server) = start().await else { return };
    connect(&server.url()).await.expect("connected");
    let before = stream_names(&server).await;
    for (partitions, cluster) in [(8, Some(*CLUSTER)), (8, None), (2, None)] {
        let wrong = NatsConfig { partitions, cluster, ..config(&server.url()) };
        let said = refusal(wrong).await.to_string();
        let expected =
            format!("nats has 4 partitions, and the settings say {partitions}: set partitions to 4");
        assert!(said.starts_with(&expected), "{said}");
    }
    assert_eq!(stream_names(&server).await, before);
}

/// Each stream is created together with its mark, and of two clusters that create one stream at once JetStream refuses
/// the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_clusters_that_connect_at_once_one_is_refused() {
    let Some(server) = start().await else { return };
    for round in 0..10 {
        let prefix = format!("round-{round}");
        let connect = || NatsBus::connect(with_prefix(&server, &prefix));
        let (one, two) = tokio::join!(connect(), connect());
        assert!(one.is_ok() != two.is_ok(), "{:?} {:?}", one.err(), two.err());
        let lost = one.err().or(two.err()).expect("one of the two is refused");
        assert!(matches!(lost, ConnectError::Misfit(Misfit::OtherCluster { .. })), "{lost}");
    }
}

/// Releases before clusters had marks created streams without one. The first cluster that connects marks them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_without_a_mark_are_marked_by_the_first_cluster() {
    let Some(server) = start().await else { return };
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.expect("connected"));
    for partition in 0..4 {
        let (name, subjects) =
            (Prefix::default().command_stream(partition), vec![Prefix::default().command(partition)]);
        let unmarked = jetstream::stream::Config { name, subjects, ..Default::default() };
        jetstream.create_stream(unmarked).await.expect("a stream without a mark");
    }
    connect(&server.url()).await.expect("connected");
    assert!(matches!(refusal(of_another_cluster(&server)).await, Misfit::OtherCluster { .. }));
}

/// A NATS server that lost its disk has no mark. The first cluster that creates its streams again marks them, and the
/// other cluster is refused from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_lost_disk_the_first_cluster_to_create_its_streams_owns_the_server() {
    let Some(mut server) = start().await else { return };
    let ours = connect(&server.url()).await.expect("connected");
    let lose = |server: &mut NatsServer| {
        server.kill();
        server.lose_disk();
    };
    lose(&mut server);
    server.start_again().await;
    eventually("a log", || async { ours.log_bounds(0).await.ok() }).await;
    assert!(matches!(refusal(of_another_cluster(&server)).await, Misfit::OtherCluster { .. }));

    lose(&mut server);
    server.start_again().await;
    let theirs = connect_as(of_another_cluster(&server)).await;
    let said = eventually("a refusal", || async {
        ours.log_bounds(0).await.err().filter(|error| error.to_string().contains("belongs to cluster"))
    });
    assert!(matches!(said.await, BusError::Unavailable(_)), "the log of another cluster must be refused");
    assert!(theirs.log_bounds(0).await.is_ok());
}
