//! A few seeds of the simulated world: those that found a bug once, and some that must count.

use palisade::config::Role;
use palisade::shard::Halt;
use palisade_netio::Nanos;
use palisade_tests::sim::{Random, Universe};
use palisade_tests::world::{Fleet, SECOND, SeedReport, Settings, Turned, run_seed};

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

/// One node that gives up after three seconds without its disk.
struct Alone {
    universe: Universe,
    fleet: Fleet,
}

impl Alone {
    fn new(seed: u64) -> Alone {
        let universe = Universe::new(seed);
        let mut settings = Settings::draw(&mut Random::new(seed));
        settings.shards = 1;
        (settings.disk_stall_ns, settings.disk_stall_hard_ns) = (SECOND, 3 * SECOND);
        let mut fleet = Fleet::new(&universe, &settings);
        fleet.add_cluster(Role::Primary, 1, settings.shards, &[]).expect("formatted");
        fleet.start(0);
        let mut alone = Alone { universe, fleet };
        let led = alone.run(60 * SECOND, |fleet| fleet.leader(0, 1).is_some());
        assert_eq!(led, None);
        assert!(alone.fleet.leader(0, 1).is_some(), "it leads the catalogue");
        alone
    }

    /// Runs for so long, until `reached`, or until the shard stops: then why, and when.
    fn run(&mut self, ns: u64, reached: impl Fn(&Fleet) -> bool) -> Option<(Halt, Nanos)> {
        let end = self.universe.now().after(ns);
        while self.universe.now() < end && !reached(&self.fleet) {
            if self.universe.next_event().is_none_or(|at| at > end) {
                self.universe.advance_to(end);
            }
            for ring in self.universe.step() {
                if let Some((_, Turned::Halted(halt))) = self.fleet.turn(ring) {
                    return Some((halt, self.universe.now()));
                }
            }
        }
        None
    }

    /// Puts a write in flight.
    fn write(&self) {
        let port = self.fleet.port(0, 1).expect("it runs");
        drop(port.create_streams(1).expect("it takes commands"));
    }
}

#[test]
fn a_disk_that_stands_still_too_long_stops_its_node() {
    let mut alone = Alone::new(3);
    let began = alone.universe.now();
    alone.universe.stall(alone.fleet.nodes[0].host, began.after(1000 * SECOND));
    alone.write();
    let (halt, at) = alone.run(60 * SECOND, |_| false).expect("it stops");
    assert!(matches!(&halt, Halt::Poisoned(text) if text.contains("ms")), "{halt:?}");
    let age = at.since(began);
    assert!((3 * SECOND..4 * SECOND).contains(&age), "stopped after {age} ns");
}

#[test]
fn a_shorter_stall_and_a_process_that_stood_still_stop_nothing() {
    let mut alone = Alone::new(4);
    let began = alone.universe.now();
    alone.universe.stall(alone.fleet.nodes[0].host, began.after(2 * SECOND));
    alone.write();
    assert_eq!(alone.run(10 * SECOND, |_| false), None);
    alone.write();
    let process = alone.fleet.nodes[0].process.expect("it runs");
    alone.universe.pause(process, alone.universe.now().after(20 * SECOND));
    assert_eq!(alone.run(40 * SECOND, |_| false), None);
    assert!(alone.fleet.leader(0, 1).is_some(), "it goes on");
}
