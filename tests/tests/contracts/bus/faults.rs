//! How the bus over NATS behaves when servers and streams fail.

use super::{
    PARTITIONS, SOON, append_all, bytes, config, connect, eventually, eventually_within, next_one,
    random_tag, read_some,
};
use async_nats::jetstream;
use bytes::Bytes;
use carillon_proto::id::{Tag, WorkerId};
use carillon_proto::limits::BUS_MESSAGE_BYTES_MAX;
use carillon_proto::subject::{self, Prefix};
use carillon_runtime::bus::nats::{ConnectError, NatsBus, NatsConfig};
use carillon_runtime::bus::{Bus, BusError, Incoming, LEASE_MS, LogBounds, LogReader, Subscription};
use carillon_tests::parts::{NatsCluster, NatsOptions, NatsServer, Signal};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

async fn start() -> Option<(NatsServer, Arc<NatsBus>)> {
    let server = NatsServer::start(NatsOptions::default()).await?;
    let bus = connect(&server.url()).await.expect("connected");
    Some((server, bus))
}

/// JetStream over a connection of its own, as an operator uses it.
async fn jetstream(server: &NatsServer) -> jetstream::Context {
    jetstream::new(async_nats::connect(server.url()).await.expect("connected"))
}

fn entries(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("entry {number}")).collect()
}

/// Appends the same entry until its outcome is known, as a gateway does.
async fn append_surely(bus: &NatsBus, partition: u32) -> u64 {
    let tag = random_tag();
    eventually("an append", || async { bus.append(partition, tag, bytes("sure")).await.ok() }).await
}

/// Reads until the reader breaks, and returns the sequence that was expected next. The entries before it must have no
/// gap.
async fn read_until_broken(reader: &mut dyn LogReader, mut expected: u64) -> u64 {
    loop {
        match next_one(reader).await {
            Ok(entry) => assert_eq!(entry.sequence, expected),
            Err(BusError::Broken(_)) => return expected,
            Err(other) => panic!("{other}"),
        }
        expected += 1;
    }
}

async fn hear_lost(subscription: &mut Subscription) {
    let incoming = timeout(SOON, subscription.next()).await.expect("a mark arrives in time");
    assert!(matches!(incoming, Some(Incoming::Lost)), "{incoming:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_are_in_force_for_other_processes_at_once() {
    let Some((server, ours)) = start().await else { return };
    let theirs = connect(&server.url()).await.expect("connected");
    for partition in 0..300 {
        let subject = subject::partition(partition);
        let mut heard = ours.subscribe(&subject, None).await.expect("subscribed");
        theirs.publish(&subject, bytes("x")).await.expect("the message is handed over to the client");
        let incoming = timeout(SOON, heard.next()).await.expect("soon");
        assert!(matches!(incoming, Some(Incoming::Message(_))), "{incoming:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_recovers_when_a_killed_server_comes_back() {
    let Some((mut server, bus)) = start().await else { return };
    let mut heard = bus.subscribe(&subject::partition(0), None).await.expect("subscribed");
    append_all(&*bus, 0, entries(10)).await;
    let mut reader = bus.read_log(0, 1).await.expect("a reader");
    assert_eq!(read_some(&mut *reader, 10, 10).await.len(), 10);

    server.kill();
    let gone = eventually("appends fail", || async { bus.append(0, random_tag(), bytes("x")).await.err() });
    assert!(matches!(gone.await, BusError::Unavailable(_) | BusError::Timeout(_)));
    eventually("refused without waiting", || async {
        let began = Instant::now();
        let refused = matches!(bus.append(0, random_tag(), bytes("x")).await, Err(BusError::Unavailable(_)));
        (refused && began.elapsed() < Duration::from_millis(100)).then_some(())
    })
    .await;
    assert!(!bus.healthy().await);
    assert!(bus.publish(&subject::partition(0), bytes("x")).await.is_err());
    assert_eq!(read_until_broken(&mut *reader, 11).await, 11);

    server.start_again().await;
    let sequence = append_surely(&bus, 0).await;
    assert!(sequence >= 11, "{sequence}");
    let bounds = bus.log_bounds(0).await.expect("an answer");
    assert_eq!((bounds.first, bounds.last >= sequence), (1, true), "an acknowledged entry is lost");
    let mut again = bus.read_log(0, 11).await.expect("a reader");
    assert_eq!(next_one(&mut *again).await.expect("whole").sequence, 11);

    hear_lost(&mut heard).await;
    bus.publish(&subject::partition(0), bytes("again"))
        .await
        .expect("the message is handed over to the client");
    let incoming = timeout(SOON, heard.next()).await.expect("soon");
    assert!(matches!(incoming, Some(Incoming::Message(message)) if message.payload == "again"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_loses_its_disk_gets_new_logs_and_higher_lease_numbers() {
    let Some((mut server, bus)) = start().await else { return };
    let worker = WorkerId::parse("a").expect("a worker id");
    append_all(&*bus, 1, entries(5)).await;
    let mut number = 0;
    for _ in 0..20 {
        number = bus.renew_lease("message", &worker).await.expect("renewed");
    }
    server.kill();
    server.lose_disk();
    server.start_again().await;
    // The same bus goes on without a new connect: it creates what is missing.
    assert_eq!(append_surely(&bus, 1).await, 1);
    assert_eq!(bus.log_bounds(2).await, Ok(LogBounds { first: 1, last: 0 }));
    assert_eq!(bus.log_entry(3, 1).await, Ok(None));
    let renewed = eventually("a lease", || async { bus.renew_lease("message", &worker).await.ok() }).await;
    assert!(renewed > number, "lease number {renewed} came after {number}");
    assert_eq!(bus.live_leases("message").await, Ok(vec![worker]));
}

/// Before the fix, the first worker that reconnected found itself alone and took over everything that all others
/// worked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_outlast_a_restart_of_the_server() {
    let Some((mut server, bus)) = start().await else { return };
    let [back, late] = ["back", "late"].map(|name| WorkerId::parse(name).expect("a worker id"));
    for worker in [&back, &late] {
        bus.renew_lease("message", worker).await.expect("renewed");
    }
    let live = || async {
        let mut live = bus.live_leases("message").await.expect("an answer");
        live.sort();
        live
    };
    assert_eq!(live().await, [back.clone(), late.clone()]);
    server.kill();
    server.start_again().await;
    let renew = || async { bus.renew_lease("message", &back).await.ok() };
    eventually("a lease", renew).await;
    assert_eq!(live().await, [back.clone(), late], "a worker that may still reconnect must keep its lease");
    let began = Instant::now();
    while live().await != [back.clone()] {
        renew().await;
        assert!(
            began.elapsed() < 2 * Duration::from_millis(LEASE_MS),
            "the lease of the missing worker did not expire"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_noticed() {
    let Some((server, bus)) = start().await else { return };
    append_all(&*bus, 0, entries(3)).await;
    let mut reader = bus.read_log(0, 1).await.expect("a reader");
    assert_eq!(read_some(&mut *reader, 3, 10).await.len(), 3);
    // This is longer than the silence that breaks a reader, but heartbeats keep an idle reader whole.
    assert!(timeout(Duration::from_secs(4), reader.next(1)).await.is_err());

    server.signal(Signal::STOP);
    let began = Instant::now();
    let tag = random_tag();
    let appending = bus.clone();
    let append = tokio::spawn(async move { appending.append(0, tag, bytes("unknown")).await });
    let broken = next_one(&mut *reader).await;
    assert!(matches!(broken, Err(BusError::Broken(_))), "{broken:?}");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let unknown = append.await.expect("no panic");
    assert!(matches!(unknown, Err(BusError::Timeout(_))), "{unknown:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    server.signal(Signal::CONT);
    let sequence =
        eventually("an append", || async { bus.append(0, tag, bytes("unknown")).await.ok() }).await;
    assert_eq!(sequence, 4);
    let mut again = bus.read_log(0, 4).await.expect("a reader");
    assert_eq!(next_one(&mut *again).await.expect("whole").tag, tag);
    assert_eq!(
        bus.log_bounds(0).await,
        Ok(LogBounds { first: 1, last: 4 }),
        "an entry that was sent repeatedly must be stored once"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_stream_breaks_its_readers() {
    let Some((server, bus)) = start().await else { return };
    append_all(&*bus, 0, entries(5)).await;
    let mut reader = bus.read_log(0, 1).await.expect("a reader");
    assert_eq!(read_some(&mut *reader, 5, 10).await.len(), 5);
    let jetstream = jetstream(&server).await;
    jetstream.delete_stream(Prefix::default().command_stream(0)).await.expect("deleted");
    // Entries are appended at once, so that the new stream holds more than the reader has seen of the old one.
    assert_eq!(append_surely(&bus, 0).await, 1);
    append_all(&*bus, 0, entries(9)).await;
    assert_eq!(
        read_until_broken(&mut *reader, 6).await,
        6,
        "the reader took entries of the new stream for entries of the old one"
    );
    let mut again = bus.read_log(0, 1).await.expect("a reader of the new stream");
    assert_eq!(read_some(&mut *again, 10, 3).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_breaks_a_reader() {
    let Some((server, bus)) = start().await else { return };
    append_all(&*bus, 0, entries(6)).await;
    let jetstream = jetstream(&server).await;
    let stream = jetstream.get_stream(Prefix::default().command_stream(0)).await.expect("a stream");
    stream.delete_message(4).await.expect("deleted");
    let mut reader = bus.read_log(0, 1).await.expect("a reader");
    assert_eq!(read_until_broken(&mut *reader, 1).await, 4);
    // The consumer is deleted while a reader uses it.
    let mut reader = bus.read_log(0, 5).await.expect("a reader");
    assert_eq!(read_some(&mut *reader, 2, 10).await.len(), 2);
    let mut names = stream.consumer_names();
    while let Some(name) = futures_util::StreamExt::next(&mut names).await {
        stream.delete_consumer(&name.expect("a name")).await.expect("deleted");
    }
    assert_eq!(read_until_broken(&mut *reader, 7).await, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_refuses_until_it_is_purged() {
    let Some((server, bus)) = start().await else { return };
    let jetstream = jetstream(&server).await;
    let mut stream = jetstream.get_stream(Prefix::default().command_stream(0)).await.expect("a stream");
    let mut config = stream.info().await.expect("the state of the stream").config.clone();
    config.max_bytes = 4 * BUS_MESSAGE_BYTES_MAX as i64;
    jetstream.update_stream(&config).await.expect("made smaller");

    let large = Bytes::from(vec![1; BUS_MESSAGE_BYTES_MAX]);
    let mut taken = 0;
    let refused = loop {
        match bus.append(0, random_tag(), large.clone()).await {
            Ok(sequence) => taken = sequence,
            Err(error) => break error,
        }
        assert!(taken < 10, "the log did not become full");
    };
    assert!(matches!(refused, BusError::Unavailable(_)), "{refused}");
    assert!(refused.to_string().contains("maximum bytes"), "the error does not name its cause: {refused}");
    assert_eq!(taken, 3);
    assert_eq!(append_all(&*bus, 1, entries(1)).await, [1], "the logs of other partitions must not be full");
    bus.purge_log(0, 3).await.expect("purged");
    assert_eq!(bus.append(0, random_tag(), large).await, Ok(4), "sequences must go on after the purge");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_bytes_than_a_pull_request_takes_are_read_whole() {
    let Some((_server, bus)) = start().await else { return };
    const COUNT: usize = 60;
    for number in 0..COUNT {
        let payload = Bytes::from(vec![number as u8; BUS_MESSAGE_BYTES_MAX - 7 * number]);
        bus.append(0, random_tag(), payload).await.expect("appended");
    }
    let mut reader = bus.read_log(0, 1).await.expect("a reader");
    let entries = read_some(&mut *reader, COUNT, 16).await;
    for (number, entry) in entries.iter().enumerate() {
        assert_eq!(
            (entry.payload.len(), entry.payload[0]),
            (BUS_MESSAGE_BYTES_MAX - 7 * number, number as u8)
        );
    }
    append_all(&*bus, 0, ["behind them".into()]).await;
    assert_eq!(next_one(&mut *reader).await.expect("whole").payload, "behind them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn existing_streams_are_updated_and_keep_their_entries() {
    let Some(server) = NatsServer::start(NatsOptions { sync_always: true, ..NatsOptions::default() }).await
    else {
        return;
    };
    let jetstream = jetstream(&server).await;
    let found = jetstream::stream::Config {
        name: Prefix::default().command_stream(2),
        subjects: vec![Prefix::default().command(2)],
        max_age: Duration::from_secs(3_600),
        description: Some("the operator's words".into()),
        ..Default::default()
    };
    jetstream.create_stream(found).await.expect("a stream that was there before");
    jetstream
        .publish(Prefix::default().command(2), "foreign".into())
        .await
        .expect("sent")
        .await
        .expect("stored");

    let bus = connect(&server.url()).await.expect("connected");
    assert_eq!(append_all(&*bus, 2, entries(1)).await, [2]);
    let mut reader = bus.read_log(2, 1).await.expect("a reader");
    let read = read_some(&mut *reader, 2, 2).await;
    assert_eq!((read[0].tag.0, read[0].payload.as_ref()), ([0; 16], &b"foreign"[..]));
    for partition in 0..PARTITIONS {
        let mut stream =
            jetstream.get_stream(Prefix::default().command_stream(partition)).await.expect("a stream");
        let config = stream.info().await.expect("the state of the stream").config.clone();
        assert_eq!(config.discard, jetstream::stream::DiscardPolicy::New);
        assert_eq!((config.max_age, config.duplicate_window), (Duration::ZERO, Duration::from_secs(120)));
        assert!(config.max_bytes > 0 && config.num_replicas == 1);
        assert_eq!(config.description.is_some(), partition == 2);
    }
    let durability = bus.durability().await.expect("an answer");
    assert_eq!((durability.replicas, durability.warnings.as_slice()), (1, &[][..]), "{durability}");
    let second = connect(&server.url()).await.expect("a second connect is accepted");
    assert_eq!(second.log_bounds(2).await, Ok(LogBounds { first: 1, last: 2 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_without_a_server_fails_without_showing_the_password() {
    let began = Instant::now();
    let url = format!("nats://user:hunter2@127.0.0.1:{}", carillon_tests::parts::free_port());
    let config = NatsConfig { partitions: 1, ..config(&url) };
    assert!(!format!("{config:?}").contains("hunter2"));
    let Err(error) = NatsBus::connect(config).await else { panic!("connected to a port without a server") };
    assert!(matches!(error, ConnectError::Bus(BusError::Unavailable(_))), "{error:?}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    assert!(began.elapsed() < SOON);
}

/// Servers elect a leader after 4 to 9 seconds of silence, first for the cluster and then for a stream. On a busy
/// machine they do so more than once.
const ELECTIONS: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_three_copies_and_survives_any_server() {
    let Some(mut cluster) = NatsCluster::start(3).await else { return };
    let url = cluster.url();
    let bus = eventually_within(ELECTIONS, "three copies", || async {
        let bus = connect(&url).await.ok()?;
        (bus.durability().await.ok()?.replicas == 3).then_some(bus)
    })
    .await;
    assert_eq!(bus.durability().await.expect("an answer").warnings, Vec::<String>::new());
    append_all(&*bus, 0, entries(20)).await;
    let worker = WorkerId::parse("a").expect("a worker id");
    let renewal = || async { bus.renew_lease("message", &worker).await.ok() };
    let mut number = eventually_within(ELECTIONS, "a lease", renewal).await;
    // First the server that leads the log's copies is killed, then one that does not lead them.
    let leader = leader(&cluster).await;
    for killed in [leader, (leader + 1) % 3] {
        cluster.servers[killed].kill();
        let tag = random_tag();
        let append = || async { bus.append(0, tag, bytes("sure")).await.ok() };
        let last = eventually_within(ELECTIONS, "an append", append).await;
        assert!(last >= 21, "an acknowledged entry is lost");
        let renewed = eventually_within(ELECTIONS, "a lease", renewal).await;
        assert!(renewed > number, "lease number {renewed} came after {number}");
        number = renewed;
        let read = || read_whole(&bus, last);
        assert_eq!(eventually_within(ELECTIONS, "a whole log", read).await, tag);
        cluster.servers[killed].start_again().await;
        let all = || async { copies(&cluster.servers[killed]).await.filter(|(_, current)| *current == 2) };
        eventually_within(ELECTIONS, "all copies again", all).await;
    }
}

/// Reads a log up to `last` and returns that entry's tag, or `None` if the reader breaks: its consumer may be on a
/// server that is down.
async fn read_whole(bus: &NatsBus, last: u64) -> Option<Tag> {
    let mut reader = bus.read_log(0, 1).await.ok()?;
    let mut next = 1;
    loop {
        for entry in timeout(SOON, reader.next(100)).await.expect("the wait ends in time").ok()? {
            assert_eq!(entry.sequence, next);
            if next == last {
                return Some(entry.tag);
            }
            next += 1;
        }
    }
}

/// The index of the server that leads the copies of the first partition's log.
async fn leader(cluster: &NatsCluster) -> usize {
    let (leader, _) = eventually_within(ELECTIONS, "a leader", || copies(&cluster.servers[0])).await;
    leader.rsplit_once('-').and_then(|(_, index)| index.parse().ok()).expect("server-INDEX")
}

/// The name of the server that leads the copies of the first partition's log, and how many other copies are up to date.
async fn copies(server: &NatsServer) -> Option<(String, usize)> {
    let client = async_nats::connect(server.url()).await.ok()?;
    let mut stream = jetstream::new(client).get_stream(Prefix::default().command_stream(0)).await.ok()?;
    let cluster = stream.info().await.ok()?.cluster.clone()?;
    let current = cluster.replicas.iter().filter(|replica| replica.current && !replica.offline).count();
    Some((cluster.leader?, current))
}
