//! The result of a check, and how it is printed for people.

use std::collections::BTreeMap;
use std::fmt;

/// How many violations of each kind are kept; the rest is counted. One fault often breaks thousands of promises, and
/// the first few show which.
pub const VIOLATIONS_KEPT_MAX: usize = 20;

/// Defines [`Kind`] with its list and names from one table, so that no kind can be forgotten.
macro_rules! kinds {
    ($($kind:ident, $name:literal, $meaning:literal;)+) => {
        /// Which promise was broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = $meaning] $kind,)+
        }

        impl Kind {
            /// All kinds, in the order of reports.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)+];

            /// The kind's name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)+ }
            }

            /// What is wrong, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Kind::$kind => $meaning,)+ }
            }
        }
    };
}

kinds! {
    Lost, "lost", "A message was acknowledged and is not stored.";
    AckElsewhere, "ack elsewhere", "A message is stored at another seq, or under another id, than its ack reported.";
    AcksDiffer, "acks differ", "A message was acknowledged twice, with different seqs or ids.";
    Duplicated, "duplicated", "A message is stored at two seqs of a conversation.";
    Hole, "hole", "The seqs of a conversation's log are not 1, 2, 3 and so on.";
    SeqTwice, "seq twice", "Two events are stored at one seq.";
    Head, "head", "The server reports another head than the last stored seq, or reported one above it.";
    Phantom, "phantom", "A message is stored, received or acknowledged that no client sent, or before it was sent.";
    RefusedStored, "refused and stored", "A message is stored although every attempt at it was refused.";
    NotLinearizable, "not linearizable", "A message has a lower seq than one that was complete before it was sent.";
    ClientOrder, "client order", "Two messages of one client and connection are stored in another order than sent.";
    ReceivedUnstored, "received, not stored", "A client received an event at a seq at which nothing is stored.";
    ReceivedAltered, "received altered", "A client received an event that differs from the one stored at its seq.";
    ReceivedDiffer, "received differ", "Different events were received at one seq.";
    Early, "early", "A client received an event before the reply to its join on that connection.";
    BelowStart, "below start", "A client received an event at or below the seq at which it began.";
    Twice, "twice", "A client received an event again.";
    ReceivedReordered, "received reordered", "A client received an event after one with a higher seq.";
    Missed, "missed", "A client received a later event and never this one; a run of seqs counts once.";
    Incomplete, "incomplete", "A client did not receive the conversation to its end.";
    WrongCursor, "wrong cursor", "A client joined again after another seq than the last it had received.";
    Ghost, "ghost", "A user without a connection is shown as online.";
    Unseen, "unseen", "A user with a connection is shown as offline.";
    TimeBackwards, "time backwards", "A client's clock went back, so that times cannot be compared.";
    Malformed, "malformed", "The history contradicts itself: a client of no user or of two, or one with two contents for a client id.";
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise was broken.
    pub kind: Kind,
    /// One line: clients, conversation, seqs, client ids, times.
    pub detail: String,
}

/// How much a history holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Lines of the history.
    pub records: u64,
    /// Logical clients.
    pub clients: u64,
    /// Users who have clients.
    pub users: u64,
    /// Conversations that occur in any record.
    pub conversations: u64,
    /// Messages that were sent; each counts once, however often it was sent.
    pub sent: u64,
    /// Attempts beyond each message's first.
    pub resends: u64,
    /// Messages that were acknowledged; each counts once.
    pub acknowledged: u64,
    /// Messages whose every attempt was refused.
    pub refused: u64,
    /// Messages neither acknowledged nor refused on every attempt: they may be stored or not.
    pub open: u64,
    /// Stored events.
    pub stored: u64,
    /// Events that clients received, counted for each client.
    pub received: u64,
    /// Replies to joins.
    pub joins: u64,
    /// Connections beyond each client's first.
    pub reconnects: u64,
    /// Presence observations: one for each observer and user.
    pub seen: u64,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The first [`VIOLATIONS_KEPT_MAX`] violations of each kind.
    pub violations: Vec<Violation>,
    /// How much was checked.
    pub counts: Counts,
    /// How many violations of each kind there are; kinds without any are absent.
    pub totals: BTreeMap<Kind, u64>,
}

impl Report {
    /// Whether no promise was broken.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.totals.is_empty()
    }

    /// How many violations of a kind there are, including those that were not kept.
    #[must_use]
    pub fn total(&self, kind: Kind) -> u64 {
        self.totals.get(&kind).copied().unwrap_or(0)
    }

    /// Counts a violation, and keeps it while there is room for its kind.
    pub(crate) fn add(&mut self, kind: Kind, detail: impl FnOnce() -> String) {
        let total = self.totals.entry(kind).or_default();
        *total += 1;
        if *total <= VIOLATIONS_KEPT_MAX as u64 {
            self.violations.push(Violation { kind, detail: detail() });
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { acknowledged, sent, resends, refused, open, stored, received, .. } = self.counts;
        let shown = [Kind::Lost, Kind::Duplicated, Kind::Missed, Kind::Phantom];
        let orders = [Kind::NotLinearizable, Kind::ClientOrder, Kind::ReceivedReordered];
        let sum = |kinds: &[Kind]| kinds.iter().map(|kind| self.total(*kind)).sum::<u64>();
        let [lost, duplicated, missed, phantom] = shown.map(|kind| self.total(kind));
        let reordered = sum(&orders);
        let others = sum(Kind::ALL) - sum(&shown) - reordered;
        writeln!(
            formatter,
            "{acknowledged} acknowledged, {lost} lost, {duplicated} duplicated, {reordered} reordered, \
             {missed} missed, {phantom} phantom, {others} other violations"
        )?;
        writeln!(
            formatter,
            "{sent} sent, {resends} times again, {refused} refused, {open} open; {stored} stored; {received} received"
        )?;
        let Counts { records, clients, users, conversations, joins, reconnects, seen, .. } = self.counts;
        writeln!(
            formatter,
            "{clients} clients of {users} users in {conversations} conversations, {joins} joins, \
             {reconnects} reconnects, {seen} looks at presence; {records} records"
        )?;
        for (kind, total) in &self.totals {
            writeln!(formatter, "\n{}: {total}. {}", kind.name(), kind.meaning())?;
            let of_kind = self.violations.iter().filter(|violation| violation.kind == *kind);
            for violation in of_kind.clone() {
                writeln!(formatter, "  {}", violation.detail)?;
            }
            let rest = total.saturating_sub(of_kind.count() as u64);
            if rest > 0 {
                writeln!(formatter, "  and {rest} more")?;
            }
        }
        Ok(())
    }
}
