//! Tests the checker with good histories of many seeds, and with the same histories damaged in one way at a time.

mod damage;
mod generator;
mod promises;
mod random;
#[expect(clippy::ptr_arg, reason = "one table holds those that insert and those that only alter")]
mod received;
#[expect(clippy::ptr_arg, reason = "one table holds those that insert and those that only alter")]
mod stored;

use carillon_history::{Counts, Kind, Record, check, read, write};
use damage::Damage;
use random::Random;
use std::collections::BTreeSet;

const SEEDS: u64 = 60;
/// The least number of histories that a damage must fit, so that its test shows something.
const DAMAGED_MIN: usize = 30;

fn damages() -> impl Iterator<Item = &'static Damage> {
    stored::DAMAGES.iter().chain(received::DAMAGES)
}

#[test]
fn good_histories_have_no_violations() {
    let mut sum = Counts::default();
    for seed in 0..300 {
        let report = check(&generator::history(seed));
        assert!(report.is_good(), "seed {seed}:\n{report}");
        sum.acknowledged += report.counts.acknowledged;
        sum.resends += report.counts.resends;
        sum.refused += report.counts.refused;
        sum.open += report.counts.open;
        sum.received += report.counts.received;
        sum.reconnects += report.counts.reconnects;
        sum.seen += report.counts.seen;
    }
    // The histories must contain enough of everything for the test to show something.
    let Counts { acknowledged, resends, refused, open, received, reconnects, seen, .. } = sum;
    for (name, count) in [
        ("acknowledged", acknowledged),
        ("resends", resends),
        ("refused", refused),
        ("open", open),
        ("received", received),
        ("reconnects", reconnects),
        ("seen", seen),
    ] {
        assert!(count > 300, "only {count} {name} in all histories");
    }
}

#[test]
fn every_damage_is_reported() {
    let histories: Vec<Vec<Record>> = (0..SEEDS).map(generator::history).collect();
    for Damage { name, apply, kind, alone } in damages() {
        let mut damaged = 0;
        for (seed, good) in histories.iter().enumerate() {
            let mut records = good.clone();
            let mut random = Random::new(seed as u64 ^ 0xdead_beef);
            if apply(&mut records, &mut random).is_none() {
                continue;
            }
            damaged += 1;
            let report = check(&records);
            assert!(report.total(*kind) > 0, "{name}, seed {seed}: no {kind:?} in\n{report}");
            assert!(
                !*alone || report.totals.len() == 1,
                "{name}, seed {seed}: more than {kind:?} in\n{report}"
            );
        }
        assert!(damaged >= DAMAGED_MIN, "{name}: only {damaged} of {SEEDS} histories could be damaged");
    }
}

#[test]
fn every_kind_has_a_damage() {
    let covered: BTreeSet<Kind> = damages().map(|damage| damage.kind).collect();
    let uncovered: Vec<&Kind> = Kind::ALL.iter().filter(|kind| !covered.contains(kind)).collect();
    assert!(uncovered.is_empty(), "no damage leads to a finding of {uncovered:?}");
}

#[test]
fn the_order_of_clients_does_not_matter() {
    for seed in 0..SEEDS {
        let mut records = generator::history(seed);
        let before = check(&records);
        records.sort_by(|one, other| other.what.client().cmp(&one.what.client()));
        let after = check(&records);
        assert!(after.is_good(), "seed {seed}:\n{after}");
        assert_eq!(before.counts, after.counts, "seed {seed}");
    }
}

#[test]
fn histories_survive_writing_and_reading() {
    let records = generator::history(1);
    let mut text = Vec::new();
    write(&mut text, &records).expect("the history is written to memory");
    assert_eq!(read(text.as_slice()).expect("what was written can be read"), records);
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), records.len());
}

#[test]
fn a_malformed_record_is_refused_with_its_line_number() {
    let good = r#"{"at_us":1,"what":"disconnected","client":"c"}"#;
    let long = format!("{good}\n{}", "x".repeat(200_000));
    for (text, line) in [
        (format!("{good}\n\n{{}}\n"), "line 3: "),
        (format!("{good}\n{}", &good[..20]), "line 2: "),
        (good.replace("disconnected", "vanished"), "line 1: "),
        (long, "line 2: longer than"),
    ] {
        let error = read(text.as_bytes()).expect_err("a broken history is refused");
        assert!(error.starts_with(line), "{error}");
    }
}

#[test]
fn a_report_shows_the_first_violations_of_a_kind_and_counts_the_rest() {
    let mut records = generator::history(2);
    let acknowledged = check(&records).counts.acknowledged;
    records.retain(|record| !matches!(record.what, carillon_history::What::Stored { .. }));
    let report = check(&records);
    assert!(acknowledged > 20, "too few for this test: {acknowledged}");
    assert_eq!(report.total(Kind::Lost), acknowledged);
    assert_eq!(report.violations.iter().filter(|violation| violation.kind == Kind::Lost).count(), 20);
    let text = report.to_string();
    assert!(
        text.starts_with(&format!("{acknowledged} acknowledged, {acknowledged} lost, 0 duplicated, ")),
        "{text}"
    );
    assert!(text.contains(&format!("\nlost: {acknowledged}. ")), "{text}");
    assert!(text.contains(&format!("\n  and {} more\n", acknowledged - 20)), "{text}");
    assert!(report.violations.iter().all(|violation| !violation.detail.contains('\n')), "{text}");
}
