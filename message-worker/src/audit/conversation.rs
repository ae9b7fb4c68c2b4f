//! Reads a conversation for the auditor: its head, the rows in pages from the head down, and the rows above the head.

use super::{Auditor, ROWS_MAX};
use crate::core::audit::{Judged, Kind, Row, Stored, judge};
use crate::core::audit_log::Log;
use crate::core::versions::VERSION;
use crate::ownership::load;
use crate::store::{Author, EventRow, SentRow, Store, StoreError};
use carillon_proto::id::ConversationId;
use carillon_proto::limits::DEDUP_CLIENT_IDS_MAX;
use carillon_proto::position::Position;
use carillon_proto::wire;
use prost::Message as _;
use std::collections::{HashMap, HashSet};

/// Rows that are read at a time.
const PAGE_ROWS: usize = 500;

/// The result of a look at a conversation.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) id: ConversationId,
    /// The judgement, or why the conversation could not be read.
    pub(super) judged: Result<Judged, StoreError>,
    pub(super) rows: u64,
    /// Rows below those that were read were left out.
    pub(super) is_cut: bool,
}

impl Auditor {
    /// Reads and judges a conversation.
    pub(super) async fn conversation(&self, log: &Log, id: ConversationId) -> Looked {
        let stored = match read(&*self.store, log, &id, self.options.rows).await {
            Ok(stored) => stored,
            Err(error) => return Looked { id, judged: Err(error), rows: 0, is_cut: false },
        };
        let rows = stored.rows.len() as u64 + u64::from(stored.creation.is_some());
        let judged = judge_all(&*self.store, &stored, log).await;
        Looked { id, judged, rows, is_cut: stored.is_cut }
    }
}

/// Reads a conversation. Each read sees at least what the reads before it saw. Reads at least `rows_max` rows up to the
/// head, and further down as far as the log has commands.
async fn read(
    store: &dyn Store,
    log: &Log,
    id: &ConversationId,
    rows_max: usize,
) -> Result<Stored, StoreError> {
    let loaded = store.load(id).await?;
    let head = loaded.head.map(wire::Head::decode).transpose();
    let head = head.map_err(|error| StoreError(format!("the head does not decode: {error}")))?;
    if head.as_ref().is_some_and(|head| head.version > VERSION) {
        return Err(StoreError("a newer version wrote the head: audit with that version".into()));
    }
    let head_seq = head.as_ref().map_or(0, |head| head.seq);
    let first = log.slots(id).first().map(|slot| log.position(*slot));
    let (mut pages, mut count, mut below) = (Vec::new(), 0, head_seq + 1);
    let mut is_cut = false;
    while below > 1 && !is_cut {
        let wanted = rows_max.checked_sub(count).filter(|wanted| *wanted > 0).unwrap_or(PAGE_ROWS);
        let page = store.events_before(id, below, wanted.min(PAGE_ROWS)).await?;
        let Some(lowest) = page.first() else { break };
        (below, count) = (lowest.seq, count + page.len());
        let is_enough = first.is_none_or(|first| log.here(lowest.position) <= first) || count >= ROWS_MAX;
        is_cut = below > 1 && count >= rows_max && is_enough;
        pages.push(slim(&page, log));
    }
    let mut rows: Vec<Row> = pages.into_iter().rev().flatten().collect();
    let creation = store.event(id, 0).await?.map(|row| Row::of(&row, log));
    let mut above = 0;
    while above < rows_max {
        let after_seq = head_seq + above as u64;
        let page = store.events_after(id, after_seq, PAGE_ROWS).await?;
        above += page.len();
        rows.extend(slim(&page, log));
        if page.len() < PAGE_ROWS {
            break;
        }
    }
    Ok(Stored { id: id.clone(), head, participants: loaded.participants, creation, rows, is_cut })
}

fn slim(rows: &[EventRow], log: &Log) -> Vec<Row> {
    rows.iter().map(|row| Row::of(row, log)).collect()
}

/// Judges a conversation. If rows were left out and commands seem to have no row, it is judged again with the commands
/// that repeat an event below the rows that were read.
async fn judge_all(store: &dyn Store, stored: &Stored, log: &Log) -> Result<Judged, StoreError> {
    let judged = judge(stored, log, &HashSet::new());
    let is_missing = judged.findings.iter().any(|finding| finding.kind == Kind::Missing);
    if !stored.is_cut || !is_missing {
        return Ok(judged);
    }
    let repeats = repeats(store, stored, log).await?;
    Ok(if repeats.is_empty() { judged } else { judge(stored, log, &repeats) })
}

/// Finds the commands without rows that repeat an earlier event, in the way that workers do: a `sent` row of the store
/// is a claim, and the event that it points to decides.
async fn repeats(store: &dyn Store, stored: &Stored, log: &Log) -> Result<HashSet<Position>, StoreError> {
    let rows: HashSet<Position> = stored.rows.iter().map(|row| row.position).collect();
    let mut sent: HashMap<Author, Vec<SentRow>> = HashMap::new();
    let mut repeats = HashSet::new();
    for slot in log.slots(&stored.id) {
        let position = log.position(*slot);
        if rows.contains(&position) {
            continue;
        }
        let Some((_, command)) = log.command(*slot) else { continue };
        let Some(sender) = Author::parse(&command.actor) else { continue };
        if !sent.contains_key(&sender) {
            let rows = store.sent(&stored.id, &sender, DEDUP_CLIENT_IDS_MAX).await?;
            sent.insert(sender.clone(), rows);
        }
        let known = sent.get(&sender).into_iter().flatten();
        for claim in known.filter(|claim| claim.client_id == command.client_id) {
            let Some(row) = store.event(&stored.id, claim.seq).await? else { continue };
            let event = load::decode(&row)?;
            let is_theirs = event.actor == command.actor && event.client_id == command.client_id;
            if is_theirs && log.here(row.position) < position {
                repeats.insert(position);
            }
        }
    }
    Ok(repeats)
}
