//! `carillon audit`: compares logs, rows and heads of a live system from outside, once or at intervals.

use crate::connect::{self, AnyStore, Opened};
use crate::parts::Parts;
use crate::roles::{self, Needs};
use carillon_message_worker::audit::{Auditor, NAMED_MAX, Options, Report};
use carillon_proto::id::ConversationId;
use carillon_runtime::settings::{Refused, Role, Settings};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// An audit writes nothing, so it can be stopped without waiting for it.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The options of an audit: what it reads, and how it reports.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Conversations to audit in addition to the ones that have commands in the logs.
    pub conversations: Vec<ConversationId>,
    /// How many of the newest rows of each conversation are read.
    pub rows: usize,
    /// Print the report as one JSON object instead of text.
    pub json: bool,
    /// Repeat the audit at this interval until the process is stopped.
    pub every: Option<Duration>,
}

/// Checks the settings and options before anything is opened.
///
/// # Errors
/// When the settings do not name both a bus and a database, or too many conversations are named.
pub fn check(settings: &Settings, wanted: &Wanted) -> Result<(), Refused> {
    if settings.nats_url.is_none() || settings.scylla_nodes.is_empty() {
        let why = "a standalone process keeps its log in its own memory, so there is nothing to compare from outside";
        return Err(Refused(vec![format!("an audit needs both --nats and --scylla: {why}")]));
    }
    if wanted.conversations.len() > NAMED_MAX {
        return Err(Refused(vec![format!("name at most {NAMED_MAX} conversations")]));
    }
    Ok(())
}

/// Audits once, or repeatedly until `shutdown`.
///
/// # Errors
/// When bus or database cannot be used. A single audit also fails if it found something or could not read everything;
/// it has then printed its report.
pub async fn run(settings: Settings, wanted: Wanted, shutdown: CancellationToken) -> anyhow::Result<()> {
    let needs = Arc::new(Needs::default());
    let mut parts = Parts::default();
    if wanted.every.is_some() {
        roles::serve_probes(&mut parts, &settings, Role::Audit, &needs, &shutdown).await?;
    }
    let begun = roles::unless(&shutdown, begin(&settings, &wanted, &needs)).await?;
    match (begun, wanted.every) {
        (Some(auditor), Some(every)) => {
            parts.start("audit", STOP_TIMEOUT, |stop| repeat(auditor, every, wanted.json, stop));
            roles::until(parts, shutdown).await
        }
        (Some(auditor), None) => {
            let looked = roles::unless(&shutdown, async { Ok(auditor.run().await) }).await?;
            looked.map_or_else(
                || anyhow::bail!("stopped before everything was read"),
                |report| conclude(&report, wanted.json),
            )
        }
        (None, Some(_)) => parts.stop().await,
        (None, None) => anyhow::bail!("stopped before anything was read"),
    }
}

async fn begin(settings: &Settings, wanted: &Wanted, needs: &Needs) -> anyhow::Result<Auditor> {
    // The store is opened first: it checks the number of partitions, and connecting to the bus creates a log for each
    // partition.
    let Opened { store, cluster } = connect::messages(settings, Role::Audit).await?;
    let bus = connect::bus(settings, &roles::worker_id()?, Some(cluster)).await?;
    needs.bus.get_or_init(|| bus.clone());
    needs.store.get_or_init(|| AnyStore::Messages(store.clone()));
    let (rows, conversations) = (wanted.rows, wanted.conversations.clone());
    Ok(Auditor::new(bus, store, Options { partitions: settings.partitions, rows, conversations }))
}

/// Prints the report of a single audit, and fails if it found something or could not read everything.
fn conclude(report: &Report, json: bool) -> anyhow::Result<()> {
    print(&if json { report.json() } else { format!("{}{report}", report.table()) });
    let total = &report.total;
    if report.is_ok() {
        return Ok(());
    }
    anyhow::bail!("the audit found {}, and could not read {}", total.findings(), total.unread)
}

async fn repeat(
    auditor: Auditor,
    every: Duration,
    json: bool,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looking = async {
        loop {
            tick.tick().await;
            let report = auditor.run().await;
            report.export();
            print(&if json { report.json() } else { report.to_string() });
        }
    };
    tokio::select! {
        () = looking => Ok(()),
        () = stop.cancelled() => Ok(()),
    }
}

fn print(text: &str) {
    // A closed pipe is not a failure: the exit code and the metrics still show the result.
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_needs_a_bus_and_a_database_and_a_bounded_list_of_conversations() {
        let named = || {
            let mut settings = Settings::defaults(Role::Audit);
            settings.nats_url = Some("nats://127.0.0.1:4222".into());
            settings.scylla_nodes = vec!["127.0.0.1:9042".into()];
            settings
        };
        assert_eq!(check(&named(), &Wanted::default()), Ok(()));
        let without: [fn(&mut Settings); 2] =
            [|settings| settings.nats_url = None, |settings| settings.scylla_nodes.clear()];
        for change in without {
            let mut settings = named();
            change(&mut settings);
            let Refused(reasons) = check(&settings, &Wanted::default()).expect_err("refused");
            assert!(
                reasons.len() == 1 && reasons[0].contains("nothing to compare from outside"),
                "{reasons:?}"
            );
        }
        let room = ConversationId::parse("room").expect("valid");
        let many = Wanted { conversations: vec![room; NAMED_MAX + 1], ..Wanted::default() };
        assert!(check(&named(), &many).is_err());
    }
}
