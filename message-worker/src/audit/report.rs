//! The report of an audit: counts for each partition, as text, as JSON, and as metrics.

use crate::core::audit::{Finding, Kind};
use crate::metrics::AUDIT;
use serde_json::{Value, json};
use std::fmt;
use std::ops::AddAssign;

/// Findings, and reasons why something could not be read, that are listed one by one. Further ones are only counted.
const LISTED_MAX: usize = 100;

/// The counts of an audit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Findings by kind, in the order of [`Kind::ALL`].
    pub found: [u64; Kind::ALL.len()],
    /// Conversations that were audited.
    pub conversations: u64,
    /// Conversations whose oldest rows were left out.
    pub conversations_cut: u64,
    /// Rows that were read.
    pub rows: u64,
    /// Rows above the head of their conversation. They were written within the last second or so, and are no error.
    pub rows_above_head: u64,
    /// Entries of the log that were compared.
    pub entries: u64,
    /// Entries up to the checkpoint that found no room in memory.
    pub entries_left_out: u64,
    /// Commands that were compared.
    pub commands: u64,
    /// Commands of conversations beyond the limit for one partition.
    pub commands_left_out: u64,
    /// Commands below the rows that were read, which could not be judged.
    pub unjudged: u64,
    /// Entries of the log above the checkpoint, which are being applied.
    pub pending: u64,
    /// What could not be read, or not be compared.
    pub unread: u64,
}

impl Counts {
    /// The number of findings of a kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.found[kind as usize]
    }

    /// The number of all findings.
    pub fn findings(&self) -> u64 {
        self.found.iter().sum()
    }

    /// Whether everything was read, and nothing was found.
    pub fn is_ok(&self) -> bool {
        self.findings() == 0 && self.unread == 0
    }

    fn json(&self) -> Value {
        let mut object = json!({
            "conversations": self.conversations,
            "conversations_cut": self.conversations_cut,
            "rows": self.rows,
            "rows_above_head": self.rows_above_head,
            "entries": self.entries,
            "entries_left_out": self.entries_left_out,
            "commands": self.commands,
            "commands_left_out": self.commands_left_out,
            "unjudged": self.unjudged,
            "pending": self.pending,
            "unread": self.unread,
        });
        for kind in Kind::ALL {
            object[kind.as_str()] = self.of(kind).into();
        }
        object
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        for (found, others) in self.found.iter_mut().zip(other.found) {
            *found += others;
        }
        self.conversations += other.conversations;
        self.conversations_cut += other.conversations_cut;
        self.rows += other.rows;
        self.rows_above_head += other.rows_above_head;
        self.entries += other.entries;
        self.entries_left_out += other.entries_left_out;
        self.commands += other.commands;
        self.commands_left_out += other.commands_left_out;
        self.unjudged += other.unjudged;
        self.pending += other.pending;
        self.unread += other.unread;
    }
}

/// The report on one partition.
#[derive(Debug, Clone)]
pub struct PartitionReport {
    /// The partition.
    pub partition: u32,
    /// The number of the log's incarnation. `None` if the partition was never worked.
    pub incarnation: Option<u32>,
    /// The sequence of the checkpoint in this log generation.
    pub checkpoint: Option<u64>,
    /// The counts of this partition.
    pub counts: Counts,
    findings: Vec<Finding>,
    unread: Vec<String>,
}

impl PartitionReport {
    pub(super) fn new(partition: u32) -> PartitionReport {
        let (counts, findings, unread) = (Counts::default(), Vec::new(), Vec::new());
        PartitionReport { partition, incarnation: None, checkpoint: None, counts, findings, unread }
    }

    pub(super) fn found(&mut self, finding: Finding) {
        self.counts.found[finding.kind as usize] += 1;
        if self.findings.len() < LISTED_MAX {
            self.findings.push(finding);
        }
    }

    pub(super) fn unread(&mut self, reason: String) {
        self.counts.unread += 1;
        if self.unread.len() < LISTED_MAX {
            self.unread.push(reason);
        }
    }
}

/// The report of an audit.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The reports on the partitions, in ascending order.
    pub partitions: Vec<PartitionReport>,
    /// The sums of all partitions.
    pub total: Counts,
    /// Findings, at most 100. Further ones are only counted.
    pub findings: Vec<Finding>,
    /// What could not be read or compared, and why; at most 100. Further ones are only counted.
    pub unread: Vec<String>,
    /// When the audit ended, milliseconds since 1970.
    pub finished_ms: u64,
}

impl Report {
    pub(super) fn add(&mut self, mut partition: PartitionReport) {
        self.total += partition.counts;
        self.findings.append(&mut partition.findings);
        self.findings.truncate(LISTED_MAX);
        self.unread.append(&mut partition.unread);
        self.unread.truncate(LISTED_MAX);
        self.partitions.push(partition);
    }

    /// Whether everything was read, and nothing was found.
    pub fn is_ok(&self) -> bool {
        self.total.is_ok()
    }

    /// Sets the metrics `carillon_audit_…`.
    pub fn export(&self) {
        let total = &self.total;
        for (gauge, count) in AUDIT.found.iter().zip(total.found) {
            gauge.set(count as i64);
        }
        AUDIT.conversations.set(total.conversations as i64);
        AUDIT.rows.set(total.rows as i64);
        AUDIT.entries.set(total.entries as i64);
        AUDIT.pending.set(total.pending as i64);
        AUDIT.last_run_timestamp_seconds.set((self.finished_ms / 1_000) as i64);
        AUDIT.last_run_ok.set(self.is_ok().into());
    }

    /// A table for people, with a line for each partition.
    pub fn table(&self) -> String {
        let line = |cells: [String; 8]| {
            let [partition, incarnation, checkpoint, conversations, rows, entries, pending, found] = cells;
            format!(
                "{partition:>9}  {incarnation:>11}  {checkpoint:>12}  {conversations:>13}  {rows:>9}  {entries:>9}  {pending:>7}  {found:>6}\n"
            )
        };
        let heading = [
            "partition",
            "incarnation",
            "checkpoint",
            "conversations",
            "rows",
            "entries",
            "pending",
            "found",
        ];
        let mut table = line(heading.map(str::to_owned));
        for report in &self.partitions {
            let cell = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
            let counts = &report.counts;
            let found = if counts.unread > 0 { "unread".into() } else { counts.findings().to_string() };
            table += &line([
                report.partition.to_string(),
                cell(report.incarnation.map(u64::from)),
                cell(report.checkpoint),
                counts.conversations.to_string(),
                counts.rows.to_string(),
                counts.entries.to_string(),
                counts.pending.to_string(),
                found,
            ]);
        }
        table
    }

    /// The report as one JSON object, in one line.
    pub fn json(&self) -> String {
        let partition = |report: &PartitionReport| {
            let mut object = report.counts.json();
            object["partition"] = report.partition.into();
            object["incarnation"] = report.incarnation.into();
            object["checkpoint"] = report.checkpoint.into();
            object
        };
        let finding = |finding: &Finding| {
            json!({
                "kind": finding.kind.as_str(),
                "conversation": finding.conversation.as_str(),
                "seq": finding.seq,
                "to_seq": finding.to_seq,
                "position": finding.position.map(|at| json!({
                    "incarnation": at.incarnation, "sequence": at.sequence, "index": at.index
                })),
                "what": finding.what,
                "advice": finding.kind.advice(),
            })
        };
        json!({
            "ok": self.is_ok(),
            "finished_ms": self.finished_ms,
            "total": self.total.json(),
            "partitions": self.partitions.iter().map(partition).collect::<Vec<_>>(),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "unread": self.unread,
        })
        .to_string()
    }
}

/// The text for people: the findings, what was left out, and a line with the sums.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        more(f, self.total.findings(), self.findings.len(), "findings")?;
        for reason in &self.unread {
            writeln!(f, "not read: {reason}")?;
        }
        more(f, self.total.unread, self.unread.len(), "that could not be read")?;
        self.left_out(f)?;
        let total = &self.total;
        write!(
            f,
            "acknowledged-but-missing {}, duplicate {}, out of order {}, holes {}, heads ahead {}, foreign rows {}; \
             {} conversations, {} rows, {} entries, {} pending",
            total.of(Kind::Missing),
            total.of(Kind::Duplicate),
            total.of(Kind::OutOfOrder),
            total.of(Kind::Hole),
            total.of(Kind::HeadAhead),
            total.of(Kind::ForeignRow),
            total.conversations,
            total.rows,
            total.entries,
            total.pending
        )
    }
}

fn more(f: &mut fmt::Formatter<'_>, all: u64, listed: usize, what: &str) -> fmt::Result {
    let others = all.saturating_sub(listed as u64);
    if others > 0 { writeln!(f, "and {others} more {what}") } else { Ok(()) }
}

impl Report {
    /// Lists what was left out.
    fn left_out(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = &self.total;
        let lines = [
            (
                total.conversations_cut,
                "conversations have more rows than were asked for: their oldest were left out",
            ),
            (
                total.entries_left_out,
                "entries of the log were left out: more was worked than fits into memory",
            ),
            (
                total.commands_left_out,
                "commands were left out: more conversations in one partition than are followed",
            ),
            (total.unjudged, "commands stand below the rows that were read, and were not judged"),
        ];
        for (count, what) in lines.iter().filter(|(count, _)| *count > 0) {
            writeln!(f, "{count} {what}")?;
        }
        Ok(())
    }
}

/// One line: what was found, where, and what to do about it.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { kind, conversation, seq, to_seq, position, what } = self;
        write!(f, "{}: conversation {conversation}, seq {seq}", kind.as_str())?;
        if to_seq != seq {
            write!(f, " to {to_seq}")?;
        }
        if let Some(at) = position {
            write!(f, ", position {}.{}.{}", at.incarnation, at.sequence, at.index)?;
        }
        write!(f, ": {what}; {}", kind.advice())
    }
}
