//! A SYNC standby that stalls, in each protection mode: its processes stop, or packets to it are
//! lost while its own arrive.

use std::time::{Duration, Instant};

use super::super::cluster::{Cluster, Node};
use super::super::history::Attempt;
use super::super::producer::{Clock, Plan, Producer};
use super::super::reading::Follower;
use super::super::run::eventually;
use super::load::{assert_sound, end_of};
use super::region::Regions;
use super::topology::{
    FOUND, SYNC, ask, leader, primary, set_mode, standby, wait_committed, wait_level,
};

/// How the standby stalls.
#[derive(Clone, Copy, Debug)]
enum Stall {
    /// Its processes keep their sockets and do nothing.
    Stopped,
    /// It hears nothing from the primary.
    Deaf,
}

const STALLS: [Stall; 2] = [Stall::Stopped, Stall::Deaf];

/// A net timeout, and what may pass after it until an ack comes: the leases of all shards end,
/// and the fall is committed.
const NET_TIMEOUT: Duration = Duration::from_millis(1500);
const FALLEN: Duration = Duration::from_millis(1500);
/// How long a standby stays stalled where no ack may come, and what was under way before.
const SILENCE: Duration = Duration::from_secs(4);
const UNDER_WAY: Duration = Duration::from_millis(300);

/// A primary and its SYNC standby across a border, with one who appends and one who reads at the
/// standby.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    stream: u64,
    clock: Clock,
    producer: Producer,
    follower: Follower,
    regions: Regions,
}

impl Pair {
    fn start(mode: &str) -> Pair {
        let regions = Regions::new(&["sh", "hz"]);
        let primary = primary(&regions, &["sh"; 3]);
        let stream = primary.create_stream();
        let standby = standby(&regions, 2, "hz", &primary, SYNC);
        set_mode(&primary, mode);
        let end = leader(&primary, stream).expect("it has a leader").1.committed_lsn;
        wait_committed(&standby, stream, end, FOUND);
        let (at, clock) = (primary.at(), Clock(Instant::now()));
        let plan = Plan { at, stream, producer: 1, run_records: 100, kill_every: 0 };
        let producer = Producer::start(plan, clock);
        let follower = Follower::start(standby.nodes[0].at(), stream);
        let pair = Pair { primary, standby, stream, clock, producer, follower, regions };
        pair.wait_acks(500);
        pair
    }

    fn begin(&self, stall: Stall) -> u64 {
        match stall {
            Stall::Stopped => self.standby.nodes.iter().for_each(Node::pause),
            Stall::Deaf => self.regions.drop_packets("sh", "hz"),
        }
        self.clock.now()
    }

    fn end(&self, stall: Stall) -> u64 {
        let now = self.clock.now();
        match stall {
            Stall::Stopped => self.standby.nodes.iter().for_each(Node::resume),
            Stall::Deaf => self.regions.pass_packets("hz"),
        }
        now
    }

    /// Waits for so many further acks.
    fn wait_acks(&self, count: u64) {
        let before = self.producer.acked();
        eventually("records are acked", FOUND, || {
            (self.producer.acked() >= before + count).then_some(())
        });
    }

    fn set_net_timeout(&self, limit: Duration) {
        let words = format!("standby set --cluster 2 --net-timeout {} --yes", limit.as_millis());
        ask(&self.primary, &words);
    }

    fn assert_level(&self, level: &str) {
        wait_level(&self.primary, level, Duration::ZERO);
    }

    /// The standby has all, and nobody saw what must not be; gives the attempts.
    fn finish(self) -> Vec<Attempt> {
        let attempts = self.producer.finish();
        wait_committed(&self.standby, self.stream, end_of(&attempts), FOUND);
        let readings = self.follower.finish();
        assert!(readings.iter().any(|reading| !reading.records.is_empty()), "it was read");
        assert_sound(attempts.clone(), readings, &[&self.primary, &self.standby], self.stream);
        attempts
    }
}

/// When records were acked, in order.
fn acks(attempts: &[Attempt]) -> Vec<u64> {
    let answers = attempts.iter().filter_map(|attempt| attempt.answer);
    let mut times: Vec<u64> = answers.filter(|answer| answer.acked).map(|a| a.at).collect();
    times.sort_unstable();
    times
}

/// The longest time without an ack between two moments.
fn longest_silence(acks: &[u64], from: u64, to: u64) -> Duration {
    let inside = acks.iter().copied().filter(|at| (from..to).contains(at));
    let times: Vec<u64> = std::iter::once(from).chain(inside).chain([to]).collect();
    let gaps = times.windows(2).map(|two| two[1] - two[0]);
    Duration::from_micros(gaps.max().expect("two moments"))
}

#[test]
fn performance_does_not_notice_that_its_standby_stalls() {
    let pair = Pair::start("performance");
    let mut stalled = Vec::new();
    for stall in STALLS {
        let begin = pair.begin(stall);
        pair.wait_acks(1500);
        pair.assert_level("performance");
        stalled.push((stall, begin, pair.end(stall)));
        pair.wait_acks(200);
    }
    let acks = acks(&pair.finish());
    for (stall, from, to) in stalled {
        let silence = longest_silence(&acks, from, to);
        println!("performance, {stall:?}: no ack for {silence:?} at most");
        assert!(silence < NET_TIMEOUT, "acks waited for it");
    }
}

#[test]
fn availability_goes_on_alone_after_the_net_timeout_and_returns_by_itself() {
    let pair = Pair::start("availability");
    let mut stalled = Vec::new();
    for stall in STALLS {
        pair.set_net_timeout(NET_TIMEOUT);
        pair.wait_acks(200);
        let begin = pair.begin(stall);
        wait_level(&pair.primary, "resync", FOUND);
        pair.wait_acks(1000);
        let end = pair.end(stall);
        let returns = Instant::now();
        wait_level(&pair.primary, "availability", FOUND);
        println!("availability, {stall:?}: the level is back after {:?}", returns.elapsed());
        pair.wait_acks(200);
        stalled.push((stall, begin, end));
    }
    let acks = acks(&pair.finish());
    for (stall, from, to) in stalled {
        let silence = longest_silence(&acks, from, to);
        println!("availability, {stall:?}: no ack for {silence:?}");
        assert!(silence + UNDER_WAY >= NET_TIMEOUT, "acks did not wait for it");
        assert!(silence < NET_TIMEOUT + FALLEN, "acks waited for too long");
    }
}

#[test]
fn protection_acks_nothing_until_its_standby_is_back() {
    let pair = Pair::start("protection");
    let mut stalled = Vec::new();
    for stall in STALLS {
        let begin = pair.begin(stall);
        // Everything else goes on meanwhile.
        let silent = Instant::now() + SILENCE;
        while Instant::now() < silent {
            pair.assert_level("protection");
            for node in &pair.primary.nodes {
                let read = super::super::reading::read_once(&node.at(), pair.stream, 0, true);
                assert!(!read.records.is_empty(), "what was acked is read");
            }
        }
        stalled.push((stall, begin, pair.end(stall)));
        pair.wait_acks(500);
        pair.assert_level("protection");
    }
    let acks = acks(&pair.finish());
    for (stall, from, to) in stalled {
        let from = from + UNDER_WAY.as_micros() as u64;
        let alone = acks.iter().filter(|at| (from..to).contains(at)).count();
        let next = acks.iter().find(|at| **at >= to).expect("acks go on");
        println!("protection, {stall:?}: acks go on after {} ms", (next - to) / 1000);
        assert_eq!(alone, 0, "acked without its standby");
    }
}
