//! Carillon in simulations: as many seeds as `CARILLON_SIM_SEEDS` names (200 by default), every scripted run, and
//! whether a seed repeats its run.

use std::process::{Command, Output};

/// Seeds in every test run, if `CARILLON_SIM_SEEDS` gives no other number.
const SEEDS: u64 = 200;

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().expect("the simulator runs")
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn random_faults_break_no_promise() {
    let seeds = std::env::var("CARILLON_SIM_SEEDS").ok();
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().expect("CARILLON_SIM_SEEDS is a number"));
    let output = sim(&["--seeds", &format!("0..{seeds}")]);
    assert!(output.status.success(), "{}", printed(&output));
}

#[test]
fn every_scripted_run_passes() {
    let output = sim(&["--scenarios"]);
    assert!(output.status.success(), "{}", printed(&output));
}

/// The hash in the line that a run prints about its result. It does not depend on real time.
fn hash(seed: &str) -> String {
    let printed = printed(&sim(&["--seed", seed]));
    let hash = printed.lines().find_map(|line| line.rsplit_once("hash "));
    hash.unwrap_or_else(|| panic!("no hash in {printed}")).1.to_owned()
}

#[test]
fn a_seed_repeats_its_run_and_seeds_differ() {
    let seeds = ["3", "7", "13", "28"];
    let hashes = seeds.map(hash);
    assert_eq!(hashes, seeds.map(hash));
    let distinct = hashes.iter().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(distinct.len(), seeds.len(), "{hashes:?}");
}

/// The order of hash tables and new ids follow from the seed as well. The first line of the trace shows both.
#[test]
fn the_systems_randomness_follows_from_the_seed() {
    let first = |seed| {
        let output = sim(&["--seed", seed, "--trace"]);
        String::from_utf8_lossy(&output.stdout).lines().next().expect("a line").to_owned()
    };
    let line = first("5");
    assert!(line.contains("hash tables have the order"), "{line}");
    assert_eq!(line, first("5"));
    assert_ne!(line, first("6"));
}

#[test]
fn wrong_arguments_are_explained() {
    for wrong in [&["--seeds", "5..5"][..], &["--scenario", "none"], &["--seed", "1", "--seeds", "0..2"], &[]]
    {
        let output = sim(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", printed(&output));
    }
    let help = printed(&sim(&["--help"]));
    assert!(help.contains("--seed 42 --trace") && help.contains("rollback"), "{help}");
}
