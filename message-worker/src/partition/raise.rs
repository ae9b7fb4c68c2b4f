//! Raises the version of the state machine of a partition: once all live workers know a newer version, the owner
//! appends an entry that names it (`docs/decisions/0022-a-version-begins-by-a-log-entry.md`).

use super::consume::Consumer;
use super::jobs::Done;
use crate::context::{NEWER_VERSION, StartOver};
use crate::core::versions::Agreement;
use crate::limits::RAISE_AGAIN_MS;
use carillon_proto::id::Tag;
use carillon_proto::wire;
use carillon_runtime::time::steady_ms;
use prost::Message as _;

/// What an owner knows about the next version.
#[derive(Debug)]
pub(crate) struct Raising {
    agreement: Agreement,
    /// The steady time at which the entry was appended last.
    appended_ms: Option<u64>,
    attempts: u32,
}

impl Raising {
    pub(crate) fn new(now_ms: u64) -> Raising {
        Raising { agreement: Agreement::new(now_ms), appended_ms: None, attempts: 0 }
    }
}

impl Consumer<'_> {
    /// Appends the entry when it is time.
    pub(crate) fn raise(&mut self) {
        let now_ms = steady_ms();
        let live = self.context.live.borrow().clone();
        let version = self.raising.agreement.listed(&live, now_ms).min(self.context.version);
        let waits = self.raising.appended_ms.is_some_and(|at_ms| now_ms - at_ms < RAISE_AGAIN_MS);
        if version <= self.ledger.version || waits || self.ending || !(self.context.is_ours)() {
            return;
        }
        self.raising.appended_ms = Some(now_ms);
        self.raising.attempts += 1;
        let (partition, bus) = (self.context.partition, self.context.bus.clone());
        let tag = tag(self.ownership.epoch(), version, self.raising.attempts);
        let entry = wire::Entry { commands: Vec::new(), version }.encode_to_vec();
        self.job(async move {
            if let Err(error) = bus.append(partition, tag, entry.into()).await {
                tracing::warn!(partition, version, %error, "the version was not raised: trying again later");
            }
            Done::Raised
        });
    }

    /// Uses this version for the entries that follow. Starts over if this build does not know it.
    pub(crate) fn raised(&mut self, version: u32) -> Result<(), StartOver> {
        if version > self.context.version {
            self.context.outdated.report(version);
            return Err(StartOver::because(NEWER_VERSION));
        }
        if version > self.ledger.version {
            tracing::info!(partition = self.context.partition, version, "the partition's version is raised");
            self.ledger.version = version;
        }
        Ok(())
    }
}

/// A tag that only this attempt has.
fn tag(epoch: u64, version: u32, attempt: u32) -> Tag {
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&epoch.to_be_bytes());
    tag[8..12].copy_from_slice(&version.to_be_bytes());
    tag[12..].copy_from_slice(&attempt.to_be_bytes());
    Tag(tag)
}
