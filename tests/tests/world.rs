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

/// A cluster whose nodes give up after three seconds without their disk.
struct Small {
    universe: Universe,
    fleet: Fleet,
}

impl Small {
    fn new(seed: u64, nodes: u32) -> Small {
        let universe = Universe::new(seed);
        let mut settings = Settings::draw(&mut Random::new(seed));
        settings.shards = 1;
        (settings.disk_stall_ns, settings.disk_stall_hard_ns) = (SECOND, 3 * SECOND);
        let mut fleet = Fleet::new(&universe, &settings);
        fleet.add_cluster(Role::Primary, nodes, settings.shards, &[]).expect("formatted");
        (0..nodes as usize).for_each(|node| fleet.start(node));
        let mut small = Small { universe, fleet };
        let led = small.run(60 * SECOND, |fleet| fleet.leader(0, 1).is_some());
        assert_eq!(led, None);
        assert!(small.fleet.leader(0, 1).is_some(), "one leads the catalogue");
        small
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
        let leader = self.fleet.leader(0, 1).expect("one leads");
        let port = self.fleet.port(leader, 1).expect("it runs");
        drop(port.create_streams(1).expect("it takes commands"));
    }

    /// Flips a bit in the head of the last block with hard state of a node that came to rest and
    /// does not run.
    fn rot(&self, node: usize) {
        let host = self.fleet.nodes[node].host;
        let files = self.universe.files(host);
        let mut segments = files.iter().map(|(path, _)| path).filter(|p| p.extension().is_some());
        let second = segments.nth(1).expect("a segment of the first start");
        let bytes = self.universe.read(host, second).expect("it is there");
        let number = |head: &[u8], at| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let pages = bytes.chunks(4096).enumerate();
        let heads: Vec<_> = pages.filter(|(_, page)| page.starts_with(b"PLSDBLK1")).collect();
        let last = number(heads.last().expect("a block").1, HARD_STATE_BLOCK);
        let head = heads.iter().find(|(_, head)| number(head, BLOCK_SEQ) == last);
        let (page, _) = head.expect("its hard state is of the first start");
        assert!(self.universe.flip(host, second, *page as u64 * 4096 + 100));
    }

    /// Whether a node knows all of its streams to their ends.
    fn is_whole(fleet: &Fleet, node: usize) -> bool {
        let mut replicas = fleet.streams(0).into_iter().map(|s| fleet.replica(node, s));
        replicas.all(|replica| replica.is_some_and(|replica| !replica.log().is_unknown()))
    }
}

/// Where these are in the head of a block.
const BLOCK_SEQ: usize = 40;
const HARD_STATE_BLOCK: usize = 80;

#[test]
fn a_disk_that_stands_still_too_long_stops_its_node() {
    let mut alone = Small::new(3, 1);
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
    let mut alone = Small::new(4, 1);
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

/// Two nodes lost hard state one after the other, and the others made it good. The damage is
/// still on their disks when the power fails; it does not keep them from voting.
#[test]
fn healed_damage_stays_healed_over_restarts() {
    let mut small = Small::new(5, 3);
    (0..4).for_each(|_| small.write());
    assert_eq!(small.run(5 * SECOND, |_| false), None);
    for node in [0, 1] {
        small.fleet.power_cut(node);
        small.rot(node);
        small.fleet.start(node);
        let unknown = |fleet: &Fleet| {
            let known = fleet.replica(node, 1);
            known.is_some_and(|replica| replica.log().is_unknown())
        };
        assert_eq!(small.run(10 * SECOND, unknown), None);
        assert!(unknown(&small.fleet), "the damage is met");
        assert_eq!(small.run(60 * SECOND, |fleet| Small::is_whole(fleet, node)), None);
        assert!(Small::is_whole(&small.fleet, node), "the others heal it");
        assert_eq!(small.run(5 * SECOND, |_| false), None);
    }
    (0..3).for_each(|node| small.fleet.power_cut(node));
    [0, 1].into_iter().for_each(|node| small.fleet.start(node));
    assert_eq!(small.run(60 * SECOND, |fleet| fleet.leader(0, 1).is_some()), None);
    assert!(small.fleet.leader(0, 1).is_some(), "two of three elect a leader");
}
