//! Makes a data directory with a damaged journal usable again, at the cost of the rows that cannot be read
//! (`docs/decisions/0019-a-damaged-journal-is-refused.md`).
//!
//! The rows before the damage are moved into the table, as after a crash. Of the rows after the damage, only those
//! count that do not depend on missing rows: events that continue a conversation without a gap, tenures, and skips.
//! Rows derived from events are left out, because they are made again from the events. So the store is as after a crash
//! between two writes. An event after a gap is given up: readers stop at a gap, so they could never reach it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use carillon_proto::id::ConversationId;

use super::journal::{FILES, Files, Scan};
use super::key::{self, RepairKind};
use super::overlay::Generation;
use super::row;
use super::sweep::Sweep;
use super::table::{self, Table};
use super::{OpenError, open_files, table_refused};
use crate::store::StoreError;

/// Maximum number of conversations that the report names.
const NAMED_MAX: usize = 100;

/// The lost events of a conversation, as far as they can be determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The seq of the first lost event. The next event that is sent gets this seq.
    pub from_seq: u64,
    /// The highest seq of the conversation that was found in the damaged journal.
    pub to_seq: u64,
}

/// The result of a repair, or the result that it would have.
#[derive(Debug, Default)]
pub struct Repair {
    /// The damages that were found. If empty, there is nothing to repair.
    pub damages: Vec<String>,
    /// Events after the damage that are kept.
    pub kept_events: usize,
    /// Conversations with lost events, as far as they can be determined.
    pub lost: BTreeMap<ConversationId, Lost>,
    /// Bytes that cannot be read. They may hold more rows than `lost` names.
    pub unreadable_bytes: usize,
    /// Copies of the damaged files. If empty, the repair was not made.
    pub copies: Vec<PathBuf>,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.damages.is_empty() {
            return writeln!(f, "the journal is sound: there is nothing to repair");
        }
        self.damages.iter().try_for_each(|damage| writeln!(f, "damaged: {damage}"))?;
        let (bytes, kept) = (self.unreadable_bytes, self.kept_events);
        writeln!(f, "after the damage, {kept} events can be kept, and {bytes} bytes cannot be read")?;
        for (conversation, lost) in self.lost.iter().take(NAMED_MAX) {
            let Lost { from_seq, to_seq } = lost;
            writeln!(
                f,
                "lost: {conversation} seq {from_seq} to {to_seq} (the next event gets seq {from_seq}: clients that have lost events keep them until they load the conversation again)"
            )?;
        }
        if let Some(more @ 1..) = self.lost.len().checked_sub(NAMED_MAX) {
            writeln!(f, "lost: events of {more} more conversations")?;
        }
        writeln!(f, "also lost: all other rows in the bytes that cannot be read")?;
        self.copies
            .iter()
            .try_for_each(|copy| writeln!(f, "the damaged file was copied to {}", copy.display()))
    }
}

/// Reports what a repair would lose. With `accept_loss` it makes the repair.
///
/// # Errors
/// When another process uses the directory, or its files cannot be read or written.
pub fn repair(dir: &Path, accept_loss: bool) -> Result<Repair, OpenError> {
    if !dir.join(table::FILE).is_file() {
        let reason = "it is missing, and the journal alone has only the newest rows: restore a backup of the directory";
        return Err(OpenError::Table { path: dir.join(table::FILE), reason: reason.into() });
    }
    let (files, table, scan) = open_files(dir)?;
    let mut repair = Repair {
        damages: scan.damages.iter().map(ToString::to_string).collect(),
        unreadable_bytes: scan.unreadable.iter().map(Bytes::len).sum(),
        ..Repair::default()
    };
    if repair.damages.is_empty() {
        return Ok(repair);
    }
    let kept = keep(&table, &scan, &mut repair).map_err(|error| table_refused(&table, error))?;
    if accept_loss {
        let refused = |source| OpenError::Directory { dir: dir.to_owned(), source };
        repair.copies = copy(dir).map_err(refused)?;
        table.take_in(&kept, &mut Sweep::new()).map_err(|error| table_refused(&table, error))?;
        Files::clear(&files).map_err(refused)?;
    }
    Ok(repair)
}

/// Collects the rows to keep, and notes in `repair` what is kept and lost.
fn keep(table: &Table, scan: &Scan, repair: &mut Repair) -> Result<Generation, StoreError> {
    let mut kept = Generation::last(scan.newest);
    scan.payloads.iter().for_each(|payload| kept.put_all(payload));
    let mut behind = Generation::default();
    scan.behind.iter().for_each(|payload| behind.put_all(payload));
    let mut seals = Vec::new();
    // Keys are in ascending order, so an event comes after the event before it.
    for (key, value) in behind.rows() {
        match key::repair_kind(key) {
            Some(RepairKind::Event(conversation, seq)) if row::is_there(value) => {
                let follows = seq == 0 || is_there(table, &kept, &conversation, seq - 1)?;
                if follows {
                    repair.kept_events += 1;
                    kept.put_row(key.clone(), value.clone());
                } else {
                    repair.lose(table, &kept, conversation, seq)?;
                }
            }
            Some(RepairKind::Event(..) | RepairKind::OfPartition) => kept.put_row(key.clone(), value.clone()),
            Some(RepairKind::Seal(conversation)) => seals.push((conversation, key, value)),
            Some(RepairKind::Derived) | None => {}
        }
    }
    for (conversation, key, value) in seals {
        let Some(seal) = row::read_seal(value) else { continue };
        // Drop a seal that counts rows which are lost. The next incarnation decides a new one.
        let counted = seal.seq == 0 || is_there(table, &kept, &conversation, seal.seq)?;
        if counted && (!seal.created || is_there(table, &kept, &conversation, 0)?) {
            kept.put_row(key.clone(), value.clone());
        }
    }
    // A record that is not whole may still hold readable rows. They name conversations with lost events.
    for payload in &scan.unreadable {
        for (key, value) in row::rows_of(payload.clone()) {
            if let Some(RepairKind::Event(conversation, seq)) = key::repair_kind(&key)
                && row::is_there(&value)
                && !is_there(table, &kept, &conversation, seq)?
            {
                repair.lose(table, &kept, conversation, seq)?;
            }
        }
    }
    Ok(kept)
}

impl Repair {
    fn lose(
        &mut self,
        table: &Table,
        kept: &Generation,
        conversation: ConversationId,
        seq: u64,
    ) -> Result<(), StoreError> {
        if let Some(lost) = self.lost.get_mut(&conversation) {
            lost.to_seq = lost.to_seq.max(seq);
            return Ok(());
        }
        let range = key::event(&conversation, 0)..key::event(&conversation, seq);
        let mut newest = 0;
        table.merge(&range, true, kept.range(&range), &mut |key, value| {
            let there = row::is_there(value);
            newest = if there { key::read_seq(key).unwrap_or(0) } else { newest };
            !there
        })?;
        let from_seq = (newest + 1).min(seq);
        self.lost.insert(conversation, Lost { from_seq, to_seq: seq });
        Ok(())
    }
}

/// Whether an event is among the rows that are kept.
fn is_there(
    table: &Table,
    kept: &Generation,
    conversation: &ConversationId,
    seq: u64,
) -> Result<bool, StoreError> {
    let key = key::event(conversation, seq);
    let newest =
        [table.get(&key)?, kept.get(&key)].into_iter().flatten().max_by_key(|value| row::timestamp_us(value));
    Ok(newest.is_some_and(|value| row::is_there(&value)))
}

/// Copies both files to unused names.
fn copy(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut copies = Vec::new();
    for name in FILES {
        let Some(copy) =
            (1..).map(|number| dir.join(format!("{name}.damaged.{number}"))).find(|path| !path.exists())
        else {
            continue;
        };
        std::fs::copy(dir.join(name), &copy)?;
        std::fs::File::open(&copy)?.sync_all()?;
        copies.push(copy);
    }
    std::fs::File::open(dir)?.sync_all()?;
    Ok(copies)
}
