//! SIGKILL at random moments: nothing acked is lost, and nothing needs repair.

use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::history::{Attempt, History, judge};
use super::producer::{Clock, Plan, Producer};
use super::reading::{Follower, read_once};
use super::run::{eventually, palisade};

/// Times that a node is killed.
const KILLS: usize = 10;

/// Random choices; the seed is printed when a test fails.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let seed = std::env::var("PALISADE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("PALISADE_SEED={seed}");
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    /// Passes some time: what happens meanwhile is up to chance.
    fn pause(&mut self, from_ms: u64, to_ms: u64) {
        let until = Instant::now()
            + Duration::from_millis(from_ms)
            + Duration::from_micros(self.below((to_ms - from_ms) * 1000));
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
    }
}

fn plan(cluster: &Cluster, stream: u64, producer: u64) -> Plan {
    Plan { at: cluster.at(), stream, producer, run_records: 400, kill_every: 0 }
}

/// Reads everything from every node and judges.
fn conclude(cluster: &Cluster, stream: u64, mut history: History) {
    let acked = |attempt: &Attempt| attempt.answer.filter(|answer| answer.acked);
    let end = history.attempts.iter().filter_map(acked).map(|a| a.place.end_lsn).max();
    cluster.wait_settled(stream, end.expect("some were acked"));
    cluster.assert_healthy();
    for node in &cluster.nodes {
        history.readings.push(read_once(&node.at(), stream, 0, true));
    }
    let verdict = judge(&history);
    let acks = history.attempts.iter().filter(|attempt| acked(attempt).is_some()).count();
    println!(
        "{} attempts, {acks} acked, {} reads with {} records",
        history.attempts.len(),
        history.readings.len(),
        history.readings.iter().map(|reading| reading.records.len()).sum::<usize>()
    );
    let logs: Vec<String> = cluster.nodes.iter().map(|node| node.log()).collect();
    assert!(verdict.counts.is_empty(), "{verdict:#?}\n{}", logs.concat());
}

/// Kills one node again and again while a producer appends.
fn kill_one(name: &str, nodes: u32) {
    let mut cluster = Cluster::start(name, nodes);
    let stream = cluster.create_stream();
    let clock = Clock(Instant::now());
    let producer = Producer::start(plan(&cluster, stream, 7), clock);
    let mut dice = Dice::new();
    let victim = dice.below(u64::from(nodes)) as usize;
    for _ in 0..KILLS {
        dice.pause(50, 350);
        let node = &mut cluster.nodes[victim];
        node.kill();
        node.spawn();
        node.wait_ready();
    }
    let attempts = producer.finish();
    conclude(&cluster, stream, History { attempts, readings: Vec::new() });
}

#[test]
fn a_single_node_keeps_what_it_acked() {
    kill_one("single", 1);
}

#[test]
fn a_cluster_goes_on_while_one_node_is_killed() {
    kill_one("one-of-three", 3);
}

/// Kills a node, mostly the leader, or two or all at once, and starts them again.
fn strike(cluster: &mut Cluster, stream: u64, dice: &mut Dice) {
    let count = cluster.nodes.len() as u64;
    let victims: Vec<usize> = match dice.below(10) {
        0 => (0..cluster.nodes.len()).collect(),
        1 => {
            let spared = dice.below(count) as usize;
            (0..cluster.nodes.len()).filter(|at| *at != spared).collect()
        }
        2..=4 => vec![dice.below(count) as usize],
        _ => vec![leader(cluster, stream).unwrap_or(0)],
    };
    for at in &victims {
        cluster.nodes[*at].kill();
    }
    dice.pause(1, 900);
    for at in &victims {
        cluster.nodes[*at].spawn();
        dice.pause(0, 50);
    }
    for at in &victims {
        cluster.nodes[*at].wait_ready();
    }
}

fn leader(cluster: &Cluster, stream: u64) -> Option<usize> {
    let status = cluster.nodes.iter().find_map(|node| node.status())?;
    let node = status.stream(stream)?.ballot.node;
    (node as usize).checked_sub(1)
}

#[test]
fn a_history_from_outside_has_no_anomaly() {
    let seconds = std::env::var("PALISADE_HISTORY_SECONDS").ok().and_then(|s| s.parse().ok());
    let mut cluster = Cluster::start("history", 3);
    let stream = cluster.create_stream();
    let clock = Clock(Instant::now());
    let producers = [1, 2, 3].map(|producer| {
        let mut plan = plan(&cluster, stream, producer);
        (plan.run_records, plan.kill_every) = (100 * producer, 3);
        Producer::start(plan, clock)
    });
    let followers = [0, 1, 2].map(|at| Follower::start(cluster.nodes[at].at(), stream));
    let mut dice = Dice::new();
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(7));
    while Instant::now() < until {
        dice.pause(100, 1200);
        strike(&mut cluster, stream, &mut dice);
    }
    // Every producer gets somewhere once the killing is over.
    let before = producers.each_ref().map(Producer::acked);
    eventually("every producer goes on", Duration::from_secs(5), || {
        let moved = producers.iter().zip(before).all(|(producer, old)| producer.acked() > old);
        moved.then_some(())
    });
    let mut history = History::default();
    for producer in producers {
        history.attempts.extend(producer.finish());
    }
    for follower in followers {
        history.readings.extend(follower.finish());
    }
    conclude(&cluster, stream, history);
    let list = palisade(&["stream", "list", "--json", "--at", &cluster.at()]).json();
    assert!(list["streams"].as_array().is_some_and(|streams| streams.len() >= 2), "{list}");
}
