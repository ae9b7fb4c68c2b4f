//! Durations computed from a history: times until answers, when all clients were back, and when all had received
//! everything. No I/O.

use carillon_history::{Record, What};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A measured quantity and its goal.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured, with its unit, for people.
    pub name: String,
    /// The value, in the unit that the name gives.
    pub value: f64,
    /// The goal: at most this.
    pub at_most: Option<f64>,
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:.0}", self.name, self.value)?;
        match self.at_most {
            Some(goal) if self.value <= goal => write!(f, " (goal {goal:.0}: reached)"),
            Some(goal) => write!(f, " (goal {goal:.0}: NOT reached)"),
            None => Ok(()),
        }
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

/// Milliseconds from first sending to ack, ascending, of the messages first sent between `from_us` and `to_us`. A
/// message that was never acknowledged counts as infinitely long.
pub fn answers_ms(records: &[Record], from_us: u64, to_us: u64) -> Vec<f64> {
    let mut sent: HashMap<&str, u64> = HashMap::new();
    let mut times_ms = Vec::new();
    for record in records {
        match &record.what {
            What::Send { client_id, .. } if (from_us..to_us).contains(&record.at_us) => {
                sent.entry(client_id).or_insert(record.at_us);
            }
            What::Send { client_id, .. } if record.at_us < from_us => {
                sent.entry(client_id).or_insert(u64::MAX);
            }
            What::Ack { client_id, .. } => match sent.get_mut(client_id.as_str()) {
                Some(at_us) if *at_us != u64::MAX => {
                    times_ms.push(ms(record.at_us - *at_us));
                    *at_us = u64::MAX;
                }
                _ => {}
            },
            _ => {}
        }
    }
    let unanswered = sent.values().filter(|at_us| **at_us != u64::MAX).count();
    times_ms.extend(std::iter::repeat_n(f64::INFINITY, unanswered));
    times_ms.sort_by(f64::total_cmp);
    times_ms
}

/// The value below which this share of ascending values lies; 0 if there are none.
pub fn quantile(ascending: &[f64], share: f64) -> f64 {
    let last = ascending.len().saturating_sub(1);
    ascending.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

/// Of the clients that lost their connection between `since_us` and `to_us`: milliseconds after `since_us` until all
/// were back in all their conversations, and the number of clients.
pub fn back_ms(records: &[Record], since_us: u64, to_us: u64) -> (f64, usize) {
    let mut joins: HashMap<&str, HashSet<&str>> = HashMap::new();
    let mut gone: BTreeMap<&str, (HashSet<&str>, Option<u64>)> = BTreeMap::new();
    for record in records {
        match &record.what {
            What::Joined { client, conversation, .. } => {
                joins.entry(client).or_default().insert(conversation);
                if let Some((missing, back)) = gone.get_mut(client.as_str())
                    && missing.remove(conversation.as_str())
                    && missing.is_empty()
                {
                    *back = Some(record.at_us);
                }
            }
            What::Disconnected { client } if (since_us..to_us).contains(&record.at_us) => {
                let missing = joins.get(client.as_str()).cloned().unwrap_or_default();
                gone.insert(client, (missing, None));
            }
            _ => {}
        }
    }
    let last = gone.values().map(|(_, back)| back.map_or(f64::INFINITY, |at_us| ms(at_us - since_us)));
    (last.fold(0.0, f64::max), gone.len())
}

/// Milliseconds after `healed_us` until every member had received the events that were acknowledged between `from_us`
/// and `healed_us`.
pub fn complete_ms(records: &[Record], from_us: u64, healed_us: u64) -> f64 {
    let mut acknowledged: HashSet<(&str, u64)> = HashSet::new();
    for record in records {
        if let What::Ack { conversation, seq, .. } = &record.what
            && (from_us..healed_us).contains(&record.at_us)
        {
            acknowledged.insert((conversation, *seq));
        }
    }
    let received = records.iter().filter_map(|record| match &record.what {
        What::Received { conversation, seq, .. } if acknowledged.contains(&(conversation.as_str(), *seq)) => {
            Some(record.at_us)
        }
        _ => None,
    });
    received.max().map_or(0.0, |last_us| ms(last_us.saturating_sub(healed_us)))
}

/// The number of acks in this time.
pub fn acknowledged(records: &[Record], from_us: u64, to_us: u64) -> usize {
    let acks = records.iter().filter(|record| matches!(record.what, What::Ack { .. }));
    acks.filter(|record| (from_us..to_us).contains(&record.at_us)).count()
}

/// Seconds after `healed_us` until throughput is steady: for three seconds at least `share` of the average rate of acks
/// in the ten seconds before `broken_us`.
pub fn steady_s(records: &[Record], broken_us: u64, healed_us: u64, share: f64) -> f64 {
    const SECOND_US: u64 = 1_000_000;
    let mut per_second: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut before, mut last_us) = (0u64, 0);
    for record in records {
        if matches!(record.what, What::Ack { .. }) {
            if (broken_us.saturating_sub(10 * SECOND_US)..broken_us).contains(&record.at_us) {
                before += 1;
            }
            if record.at_us >= healed_us {
                *per_second.entry((record.at_us - healed_us) / SECOND_US).or_default() += 1;
                last_us = record.at_us;
            }
        }
    }
    let seconds = last_us.saturating_sub(healed_us) / SECOND_US;
    let enough =
        |second: &u64| per_second.get(second).copied().unwrap_or(0) as f64 >= share * before as f64 / 10.0;
    (0..seconds.saturating_sub(2))
        .find(|from| (*from..from + 3).all(|second| enough(&second)))
        .map_or(f64::INFINITY, |s| s as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_ms: u64, what: What) -> Record {
        Record { at_us: at_ms * 1_000, what }
    }

    fn send(at_ms: u64, number: u64) -> Record {
        let (client_id, content) = (format!("a-{number}"), format!("{number}"));
        at(at_ms, What::Send { client: "a".into(), conversation: "r".into(), client_id, content })
    }

    fn ack(at_ms: u64, number: u64) -> Record {
        let client_id = format!("a-{number}");
        let id = format!("id-{number}");
        at(at_ms, What::Ack { client: "a".into(), conversation: "r".into(), client_id, seq: number, id })
    }

    fn received(at_ms: u64, client: &str, seq: u64) -> Record {
        let (id, content) = (format!("id-{seq}"), format!("{seq}"));
        let (client, conversation, sender) = (client.into(), "r".into(), "a".into());
        at(at_ms, What::Received { client, conversation, seq, id, sender, client_id: None, content })
    }

    fn joined(at_ms: u64, client: &str) -> Record {
        at(at_ms, What::Joined { client: client.into(), conversation: "r".into(), after_seq: None, head: 0 })
    }

    #[test]
    fn answers_are_timed_from_the_first_sending() {
        let records = [
            send(5, 1),
            send(10, 2),
            ack(12, 1),
            send(20, 2),
            ack(40, 2),
            send(50, 3),
            send(90, 4),
            ack(95, 4),
        ];
        assert_eq!(answers_ms(&records, 0, 100_000), [5.0, 7.0, 30.0, f64::INFINITY]);
        assert_eq!(
            answers_ms(&records, 10_000, 40_000),
            [30.0],
            "a command must be counted when it was first sent"
        );
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.99), 3.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_client_is_back_once_it_joined_all_its_conversations() {
        let gone = |at_ms, client: &str| at(at_ms, What::Disconnected { client: client.into() });
        let records = [joined(1, "a"), joined(2, "b"), gone(110, "a"), joined(300, "a")];
        assert_eq!(back_ms(&records, 100_000, 200_000), (200.0, 1));
        let never = [joined(1, "a"), gone(110, "a")];
        assert_eq!(back_ms(&never, 100_000, 200_000), (f64::INFINITY, 1));
    }

    #[test]
    fn completeness_is_timed_by_the_last_member() {
        let records =
            [ack(10, 1), ack(20, 2), received(21, "a", 2), received(130, "b", 2), received(900, "c", 9)];
        assert_eq!(complete_ms(&records, 0, 100_000), 30.0);
    }

    #[test]
    fn throughput_is_steady_from_the_first_of_three_good_seconds() {
        let mut records: Vec<Record> = (0..1_000).map(|n| ack(n * 10, n)).collect();
        records.extend((0..200).map(|n| ack(20_000 + n * 10, 2_000 + n)));
        records.extend((0..800).map(|n| ack(23_000 + n * 10, 3_000 + n)));
        assert_eq!(steady_s(&records, 10_000_000, 20_000_000, 0.8), 3.0);
        assert_eq!(steady_s(&records[..1_100], 10_000_000, 20_000_000, 0.8), f64::INFINITY);
    }
}
