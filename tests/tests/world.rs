//! A few seeds of the simulated world: those that found a bug once, and some that must count.

use std::collections::BTreeMap;

use palisade::config::Role;
use palisade::paxos::Tuning;
use palisade::shard::Halt;
use palisade::{AppendFuture, Error, ErrorKind, Record, Stream};
use palisade_netio::{Nanos, ZeroCopyMode};
use palisade_tests::sim::{FaultKind, Random, RingId, Universe};
use palisade_tests::world::{
    Fleet, MS, SECOND, SeedReport, Settings, Turned, run_failover, run_late, run_seed,
};
use palisade_wal::{BlockHead, Lsn, parse_body};
use zerocopy::FromBytes;

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

/// A standby is started when the primary has let go what its streams began with, and then
/// everything goes wrong that may.
#[test]
fn a_standby_that_comes_late_begins_where_the_log_begins() {
    late_worlds(false);
}

/// A standby is away until the primary has let go what it needs next: an operator builds it anew.
#[test]
fn a_standby_that_returns_too_late_is_built_anew() {
    late_worlds(true);
}

fn late_worlds(returns: bool) {
    let mut came = 0;
    for seed in 1.. {
        let report = run_late(seed, returns).unwrap_or_else(|failure| {
            panic!("seed {seed}: {}\n{}", failure.violation, failure.state.join("\n"))
        });
        came += report.map_or(0, |_| 1);
        if came == LATE_WORLDS {
            return;
        }
    }
}

/// The primary dies for good, and its SYNC standby takes the role, whatever happens to it then.
///
/// - 1: a third standby whose leader had the entry of the failover in its log, and not committed,
///   never asked for more of the catalogue: it took it for its own.
#[test]
fn a_sync_standby_takes_the_role_of_a_primary_that_is_lost() {
    for seed in [1, 2, 3, 4] {
        let report = run_failover(seed).unwrap_or_else(|failure| {
            panic!("seed {seed}: {}\n{}", failure.violation, failure.state.join("\n"))
        });
        assert_eq!((report.failover.done, report.switchovers), (1, 3), "seed {seed}: {report:?}");
    }
}

/// Worlds with a standby that comes late.
const LATE_WORLDS: u32 = 6;

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
    // The disk goes on, and the write ends, while the process does not look.
    let now = alone.universe.now();
    alone.universe.stall(alone.fleet.nodes[0].host, now.after(SECOND / 10));
    alone.write();
    assert_eq!(alone.run(SECOND / 100, |_| false), None);
    let process = alone.fleet.nodes[0].process.expect("it runs");
    alone.universe.pause(process, alone.universe.now().after(20 * SECOND));
    assert_eq!(alone.run(40 * SECOND, |_| false), None);
    assert!(alone.fleet.leader(0, 1).is_some(), "it goes on");
}

/// The power fails behind a partition: nobody hears that connections ended. One on which nothing is
/// sent looks sound for ever to who dialled it.
#[test]
fn a_node_that_lost_its_power_behind_a_partition_is_heard_again() {
    let mut small = Small::new(9, 3);
    let all_up = |fleet: &Fleet| {
        let up = |node| fleet.replica(node, 1).is_some_and(|it| it.status().up == 3);
        (0..3).all(up)
    };
    assert_eq!(small.run(20 * SECOND, all_up), None);
    assert!(all_up(&small.fleet));
    let hosts: Vec<_> = small.fleet.nodes.iter().map(|node| node.host).collect();
    (0..2).for_each(|node| small.universe.partition(hosts[node], hosts[2], false));
    small.fleet.power_cut(2);
    assert_eq!(small.run(30 * SECOND, |_| false), None);
    small.universe.heal_all();
    small.fleet.start(2);
    assert_eq!(small.run(20 * SECOND, all_up), None);
    assert!(all_up(&small.fleet), "both links of each pair are there again");
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

/// The first one that may be appended to.
const STREAM: u64 = 2;

/// Three nodes of one shard each, and one stream.
struct Three {
    universe: Universe,
    fleet: Fleet,
    rings: BTreeMap<usize, RingId>,
}

impl Three {
    fn new(seed: u64, tuning: Tuning) -> Three {
        let universe = Universe::new(seed);
        let mut settings = Settings::draw(&mut Random::new(seed));
        (settings.shards, settings.writes_in_flight, settings.tuning) = (1, 4, tuning);
        settings.zero_copy = ZeroCopyMode::Auto;
        let mut fleet = Fleet::new(&universe, &settings);
        fleet.add_cluster(Role::Primary, 3, settings.shards, &[]).expect("formatted");
        (0..3).for_each(|node| fleet.start(node));
        let mut three = Three { universe, fleet, rings: BTreeMap::new() };
        assert!(three.run(120 * SECOND, |three| three.fleet.leader(0, 1).is_some()), "it is led");
        let leader = three.fleet.leader(0, 1).expect("it is led");
        let port = three.fleet.port(leader, 1).expect("it runs");
        let (made, mut ids) = (port.create_streams(1).expect("room"), None);
        three.run(20 * SECOND, |_| {
            ids = ids.take().or_else(|| made.try_take());
            ids.is_some()
        });
        assert_eq!(ids.expect("in time").expect("it leads"), [STREAM]);
        let led = |three: &Three| three.fleet.leader(0, STREAM).is_some();
        assert!(three.run(120 * SECOND, led), "it is led");
        three
    }

    fn leader(&self) -> usize {
        self.fleet.leader(0, STREAM).expect("it is led")
    }

    /// Runs until `reached`; false when that takes longer than `ns`.
    fn run(&mut self, ns: u64, mut reached: impl FnMut(&Three) -> bool) -> bool {
        let end = self.universe.now().after(ns);
        while !reached(self) {
            if self.universe.now() >= end {
                return false;
            }
            if self.universe.next_event().is_none_or(|at| at > end) {
                self.universe.advance_to(end);
            }
            for ring in self.universe.step() {
                match self.fleet.turn(ring) {
                    Some((node, Turned::Halted(halt))) => panic!("node {node}: {halt:?}"),
                    Some((node, _)) if self.fleet.shard(ring).is_some() => {
                        self.rings.insert(node, ring);
                    }
                    _ => {}
                }
            }
        }
        true
    }

    fn append(&self, node: usize, payload: Vec<u8>) -> AppendFuture {
        Stream::new(STREAM, self.fleet.port(node, STREAM).expect("it runs")).append(payload)
    }

    /// Appends, and says where the record stands.
    fn append_now(&mut self, node: usize, payload: Vec<u8>) -> (Lsn, Lsn) {
        let (mut future, mut outcome) = (self.append(node, payload), None);
        self.run(10 * SECOND, |_| {
            outcome = future.try_take();
            outcome.is_some()
        });
        let appended = outcome.expect("in time").expect("it leads");
        (appended.lsn, appended.end_lsn)
    }

    fn read(&mut self, node: usize, from: Lsn) -> Result<Vec<Record>, Error> {
        let answer =
            self.fleet.port(node, STREAM).expect("it runs").read(STREAM, from).expect("room");
        let mut part = None;
        self.run(10 * SECOND, |_| {
            part = answer.try_take();
            part.is_some()
        });
        part.expect("an answer in time").map(|part| part.records)
    }

    fn committed(&self, node: usize) -> Lsn {
        let replica = self.fleet.replica(node, STREAM);
        replica.map_or(Lsn::ZERO, |replica| replica.log().committed().lsn)
    }

    fn is_whole(&self, node: usize) -> bool {
        self.fleet.replica(node, STREAM).expect("it runs").log().is_whole()
    }

    fn alarms(&self, node: usize) -> Vec<(&'static str, String)> {
        let shard = self.fleet.shard(self.rings[&node]).expect("it runs");
        // Hosts here have addresses of a network.
        let alarms = shard.alarms().filter(|(code, _)| *code != "insecure-network");
        alarms.map(|(code, text)| (code, text.to_string())).collect()
    }

    /// Flips a bit of the first copy of `mark` on the disk of a node.
    fn spoil(&self, node: usize, mark: &[u8]) {
        let host = self.fleet.nodes[node].host;
        let found = self.universe.files(host).into_iter().find_map(|(path, _)| {
            let bytes = self.universe.read(host, &path)?;
            let at = bytes.windows(mark.len()).position(|window| window == mark)?;
            Some((path, at as u64))
        });
        let (path, at) = found.expect("it is on the disk");
        assert!(self.universe.flip(host, path, at), "a byte of a file");
    }
}

fn marked(number: usize) -> Vec<u8> {
    let mut payload = format!("record {number:06} of the test").into_bytes();
    payload.resize(3000, b'.');
    payload
}

#[test]
fn a_peer_that_reads_nothing_stops_no_appends_and_catches_up() {
    // It is heard for long after it went silent.
    let tuning = Tuning {
        heartbeat_ns: SECOND,
        election_ns: 60 * SECOND,
        retry_ns: SECOND,
        candidacy_ns: 10 * SECOND,
        ..Tuning::default()
    };
    let mut three = Three::new(5, tuning);
    let leader = three.leader();
    let silent = (leader + 1) % 3;
    let wakes = three.universe.now().after(30 * SECOND);
    three.universe.pause(three.fleet.nodes[silent].process.expect("it runs"), wakes);
    // A page for each record: more than all slots for writes.
    let (mut futures, mut acked) = (Vec::new(), 0);
    let blocks = |three: &Three| {
        three.fleet.replica(leader, STREAM).map_or(0, |replica| replica.log().extents().count())
    };
    let enough = three.run(20 * SECOND, |three| {
        futures.retain_mut(|future: &mut AppendFuture| match future.try_take() {
            Some(outcome) => {
                acked += usize::from(outcome.is_ok());
                false
            }
            None => true,
        });
        while futures.len() < 4 {
            futures.push(three.append(leader, vec![7; 100]));
        }
        blocks(three) >= 6000
    });
    assert!(enough, "{acked} records and {} blocks, and no more", blocks(&three));
    assert!(three.universe.now() < wakes, "it reads nothing yet");
    assert!(three.run(60 * SECOND, |three| three.universe.now() > wakes
        && three.committed(silent) >= three.committed(leader)));
    assert_eq!(three.leader(), leader);
}

#[test]
fn what_a_leader_cannot_read_is_repaired_for_who_lacks_it() {
    let mut three = Three::new(6, Tuning::default());
    let leader = three.leader();
    let late = (leader + 1) % 3;
    three.append_now(leader, marked(0));
    three.fleet.kill(late);
    let places: Vec<(Lsn, Lsn)> = (1..=40).map(|n| three.append_now(leader, marked(n))).collect();
    // Its group begins where the one before it ends.
    let (bad, end) = (places[19].1, places[39].1);
    three.spoil(leader, b"record 000021");
    three.fleet.start(late);
    assert!(three.run(60 * SECOND, |three| three.committed(late) >= end), "it lacks them for ever");
    let alarms = three.alarms(leader);
    let names =
        |(code, text): &(&str, String)| *code == "block-damaged" && text.contains("stream 2, LSN ");
    assert!(alarms.iter().any(names), "{alarms:?}");
    // The third member had it; the leader leads on, and reads what it was given back.
    assert!(three.run(10 * SECOND, |three| three.is_whole(leader)), "it is not repaired");
    assert_eq!(three.leader(), leader);
    for node in [leader, late] {
        assert!(three.read(node, bad).is_ok_and(|records| records[0].lsn == places[20].0));
    }
    let (_, end) = three.append_now(leader, marked(41));
    assert!(three.run(10 * SECOND, |three| (0..3).all(|node| three.committed(node) >= end)));
}

#[test]
fn a_read_that_fails_once_is_done_again_and_one_that_fails_twice_is_damage() {
    let mut three = Three::new(7, Tuning::default());
    let leader = three.leader();
    let (lsn, end) = three.append_now(leader, marked(1));
    let host = three.fleet.nodes[leader].host;
    three.universe.arm(host, FaultKind::ReadError, 1);
    assert_eq!(three.read(leader, lsn).expect("the second read is good").len(), 1);
    assert!(three.alarms(leader).is_empty() && three.leader() == leader);
    three.universe.arm(host, FaultKind::ReadError, 2);
    assert_eq!(three.read(leader, lsn).expect_err("no good read").kind(), ErrorKind::Corrupt);
    assert!(three.alarms(leader).iter().any(|(code, _)| *code == "block-damaged"));
    // The others have it.
    assert!(three.run(10 * SECOND, |three| three.is_whole(leader)), "it is not repaired");
    assert!(three.read(leader, lsn).is_ok_and(|records| records.len() == 1));
    assert_eq!((three.leader(), three.committed(leader)), (leader, end));
}

#[test]
fn a_block_that_is_always_read_in_part_is_damage() {
    let mut three = Three::new(8, Tuning::default());
    let leader = three.leader();
    let mut payload = marked(1);
    payload.resize(20_000, b'.');
    let (lsn, _) = three.append_now(leader, payload);
    let host = three.fleet.nodes[leader].host;
    three.universe.arm(host, FaultKind::ShortRead, 3);
    assert!(three.read(leader, lsn).is_ok(), "a short read is usual");
    three.universe.arm(host, FaultKind::ShortRead, 1_000_000);
    assert_eq!(three.read(leader, lsn).expect_err("no whole read").kind(), ErrorKind::Corrupt);
    three.universe.calm();
    three.run(100 * MS, |_| false);
}

#[test]
fn the_first_member_leads_again_when_it_was_well_for_a_while() {
    let tuning = Tuning { hand_over_ns: 2 * SECOND, ..Tuning::default() };
    let mut three = Three::new(8, tuning);
    let leads = |three: &Three, node| three.fleet.leader(0, STREAM) == Some(node);
    assert!(three.run(10 * SECOND, |three| leads(three, 0)), "the first one leads");
    let (_, end) = three.append_now(0, marked(0));
    three.fleet.kill(0);
    let other = |three: &Three| leads(three, 1) || leads(three, 2);
    assert!(three.run(10 * SECOND, other), "another one while it is down");
    three.fleet.start(0);
    let back = three.universe.now();
    assert!(three.run(10 * SECOND, |three| leads(three, 0)), "leadership comes back");
    let took = three.universe.now().since(back);
    assert!((2 * SECOND..4 * SECOND).contains(&took), "after {took} ns");
    assert!(three.committed(0) >= end, "with all that was acked");
    assert!(!three.run(20 * SECOND, |three| !leads(three, 0)), "and stays");
    // What an operator wants is not undone.
    let port = three.fleet.port(0, STREAM).expect("it runs");
    let (answer, mut said) = (port.transfer_leader(STREAM, 3).expect("room"), None);
    assert!(three.run(10 * SECOND, |_| {
        said = answer.try_take();
        said.is_some()
    }));
    let ballot = three.fleet.replica(2, STREAM).and_then(|replica| replica.serving());
    assert_eq!(said.map(|said| said.ok()), Some(ballot.map(|ballot| ballot.round)));
    assert!(!three.run(20 * SECOND, |three| !leads(three, 2)), "it keeps what it was given");
    // Its successor by itself does not.
    three.fleet.kill(2);
    assert!(three.run(10 * SECOND, |three| leads(three, 0)));
    three.fleet.start(2);
    assert!(!three.run(20 * SECOND, |three| !leads(three, 0)), "who comes later waits");
}

#[test]
fn a_leader_with_a_full_disk_hands_over_to_a_member_with_space() {
    let tuning = Tuning { hand_over_ns: 0, ..Tuning::default() };
    let mut three = Three::new(9, tuning);
    let leader = three.leader();
    three.universe.set_full(three.fleet.nodes[leader].host, true);
    let (mut future, mut acked, mut refused) = (None, 0, Vec::new());
    let moved = three.run(60 * SECOND, |three| {
        let next = future.get_or_insert_with(|| three.append(leader, vec![7; 100_000]));
        match next.try_take() {
            Some(Ok(_)) => acked += 1,
            Some(Err(error)) => refused.push(error.kind()),
            None => return three.fleet.leader(0, STREAM).is_some_and(|node| node != leader),
        }
        future = None;
        false
    });
    assert!(moved, "{acked} records acked, {} refused", refused.len());
    let allowed = [ErrorKind::NoSpace, ErrorKind::NotLeader];
    assert!(refused.iter().all(|kind| allowed.contains(kind)), "{refused:?}");
    let other = three.leader();
    for number in 0..40 {
        three.append_now(other, marked(number));
    }
    assert!(
        !three.run(10 * SECOND, |three| three.fleet.leader(0, STREAM) != Some(other)),
        "it stays"
    );
    // Space comes back: the node takes part as before.
    three.universe.set_full(three.fleet.nodes[leader].host, false);
    assert!(three.run(20 * SECOND, |three| three.committed(leader) >= three.committed(other)));
}

/// What two leaders send while a follower's disk is busy with a write goes into one block of its
/// log, not into a page each.
#[test]
fn small_bodies_of_several_leaders_share_a_block_of_their_follower() {
    let mut three = Three::new(12, Tuning::default());
    let catalogue = three.fleet.leader(0, 1).expect("it is led");
    let made = three.fleet.port(catalogue, 1).expect("it runs").create_streams(1).expect("room");
    let mut ids = None;
    three.run(20 * SECOND, |_| {
        ids = ids.take().or_else(|| made.try_take());
        ids.is_some()
    });
    let other = ids.expect("in time").expect("it leads")[0];
    let led = |three: &Three| three.fleet.leader(0, other).is_some();
    assert!(three.run(120 * SECOND, led), "it is led");
    let (from, to) = (three.fleet.leader(0, other).expect("it is led"), (three.leader() + 1) % 3);
    if from != to {
        let port = three.fleet.port(from, other).expect("it runs");
        let answer = port.transfer_leader(other, to as u32 + 1).expect("room");
        assert!(three.run(20 * SECOND, |_| answer.try_take().is_some()), "an answer in time");
    }
    let leaders = [(STREAM, three.leader()), (other, to)];
    assert_eq!(three.fleet.leader(0, other), Some(to));
    let follower = 3 - leaders[0].1 - leaders[1].1;
    let host = three.fleet.nodes[follower].host;
    three.universe.stall(host, three.universe.now().after(100 * MS));
    for number in 0..20 {
        for (stream, leader) in leaders {
            let port = three.fleet.port(leader, stream).expect("it runs");
            drop(Stream::new(stream, port).append(vec![number; 100]));
        }
        assert!(!three.run(MS, |_| false), "time passes");
    }
    assert!(three.run(20 * SECOND, |three| {
        let end = |node| three.fleet.replica(node, other).map(|replica| replica.log().end().lsn);
        let ends = (three.committed(follower), end(follower));
        ends == (three.committed(leaders[0].1), end(to)) && ends.0 > Lsn::ZERO
    }));
    three.fleet.power_cut(follower);

    let files = three.universe.files(host).into_iter();
    let mut shared = 0;
    for (path, _) in files.filter(|(path, _)| path.extension().is_some_and(|it| it == "seg")) {
        let bytes = three.universe.read(host, &path).expect("it is there");
        for page in (0..bytes.len()).step_by(4096) {
            let Ok(head) = BlockHead::read_from_prefix(&bytes[page..]) else { break };
            let len = head.0.body_len.get() as usize;
            let Some(body) = bytes.get(page + 512..page + 512 + len) else { continue };
            let Ok(metas) = parse_body(body, head.0.headers_crc.get()) else {
                continue;
            };
            let has = |stream| metas.iter().any(|m| m.kind.is_group() && m.stream == stream);
            shared += usize::from(has(STREAM) && has(other));
        }
    }
    assert!(shared > 0, "each body stands in a block of its own");
}
