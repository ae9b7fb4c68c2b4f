//! Faults of the log: it is purged, recreated empty, rolled back to an older copy, or its disk is full.

use super::{CALM, Scenario, seconds, steady_again};
use crate::deployment::{Role, Size};
use crate::run::{Load, Stage};
use anyhow::Context;
use carillon_proto::subject::Prefix;
use carillon_tests::parts::NatsOptions;
use std::time::Duration;
use tokio::time::sleep;

/// A store limit in megabytes that is too low for the streams' next blocks.
const FULL_MEGABYTES: u32 = 1;

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "nats-recreated",
            about: "nats-server comes back without anything that it stored, three times",
            size: Size::default,
            load: Load::default,
            happen: |stage| Box::pin(recreated(stage)),
            figures: |_| Vec::new(),
        },
        Scenario {
            name: "nats-purged",
            about: "every stream is purged under load, three times",
            size: Size::default,
            load: Load::default,
            happen: |stage| Box::pin(purged(stage)),
            figures: |_| Vec::new(),
        },
        Scenario {
            name: "nats-rolled-back",
            about: "nats-server is restored to an older copy under live workers; then while they are away, and has \
                    grown past their checkpoints when they come",
            size: Size::default,
            load: Load::default,
            happen: |stage| Box::pin(rolled_back(stage)),
            figures: |_| Vec::new(),
        },
        Scenario {
            name: "nats-full",
            about: "nats-server's disk is full for 20 s",
            size: Size::default,
            load: Load::default,
            happen: |stage| Box::pin(full(stage)),
            figures: steady_again,
        },
    ]
}

async fn recreated(stage: &mut Stage) -> anyhow::Result<()> {
    for _ in 0..3 {
        sleep(seconds(5)).await;
        stage.note("nats-server loses its disk");
        let server = stage.deployment.nats.server(0);
        server.kill();
        server.lose_disk();
        server.start_again().await;
    }
    sleep(CALM).await;
    Ok(())
}

async fn purged(stage: &mut Stage) -> anyhow::Result<()> {
    let client = async_nats::connect(stage.deployment.nats.server(0).url()).await?;
    let jetstream = async_nats::jetstream::new(client);
    for _ in 0..3 {
        sleep(seconds(5)).await;
        stage.note("every stream is purged");
        for partition in 0..carillon_proto::limits::PARTITIONS {
            let stream = jetstream.get_stream(Prefix::default().command_stream(partition)).await?;
            stream.purge().await.context("purged")?;
        }
    }
    sleep(CALM).await;
    Ok(())
}

async fn rolled_back(stage: &mut Stage) -> anyhow::Result<()> {
    sleep(seconds(5)).await;
    let server = stage.deployment.nats.server(0);
    server.kill();
    let copy = server.copy_disk();
    server.start_again().await;
    for round in 0..3 {
        sleep(seconds(6)).await;
        stage.note(format!("nats-server is rolled back under live workers, round {round}"));
        let server = stage.deployment.nats.server(0);
        server.kill();
        server.restore_disk(&copy);
        server.start_again().await;
    }
    sleep(seconds(6)).await;
    stage.note("message-workers away, nats-server rolled back, and its log grows");
    stage.deployment.of(Role::MessageWorker).into_iter().for_each(|worker| worker.kill());
    let server = stage.deployment.nats.server(0);
    server.kill();
    server.restore_disk(&copy);
    server.start_again().await;
    // Clients continue to send: their commands get sequences that the lost entries had.
    sleep(Duration::from_secs(8)).await;
    stage.deployment.of(Role::MessageWorker).into_iter().for_each(|worker| worker.restart());
    sleep(CALM).await;
    Ok(())
}

async fn full(stage: &mut Stage) -> anyhow::Result<()> {
    sleep(CALM).await;
    stage.note("nats-server's disk is full, 20 s");
    let options =
        NatsOptions { sync_always: true, store_megabytes: FULL_MEGABYTES, ..NatsOptions::default() };
    let server = stage.deployment.nats.server(0);
    server.kill();
    server.start_again_as(&options).await;
    sleep(seconds(20)).await;
    let server = stage.deployment.nats.server(0);
    server.kill();
    server.start_again_as(&NatsOptions { store_megabytes: 0, ..options }).await;
    stage.note("healed");
    sleep(seconds(30)).await;
    Ok(())
}
