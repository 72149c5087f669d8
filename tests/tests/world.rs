//! A few seeds of the simulated world: those that found a bug once, and some that must count.

use palisade_tests::world::{SeedReport, run_seed};

/// Seeds that found bugs: a number, and what it was.
const SEEDS: &str = include_str!("../seeds.txt");

fn run(seed: u64) -> SeedReport {
    match run_seed(seed) {
        Ok(report) => report,
        Err(failure) => panic!(
            "seed {seed}: {}\n{}\nreplay: cargo run --release -p palisade-tests --bin sim -- \
             --seed {seed}",
            failure.violation,
            failure.state.join("\n")
        ),
    }
}

fn regressions() -> Vec<u64> {
    let lines =
        SEEDS.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let seed = |line: &str| line.split_whitespace().next().and_then(|word| word.parse().ok());
    lines.map(|line| seed(line).unwrap_or_else(|| panic!("no seed: {line}"))).collect()
}

#[test]
fn seeds_that_found_bugs_find_none_now() {
    for seed in regressions() {
        run(seed);
    }
}

#[test]
fn a_seed_tells_the_same_story_twice_and_counts() {
    let (first, second) = (run(1), run(1));
    assert_eq!(first, second);
    assert!(first.ok, "{first:?}");
}
