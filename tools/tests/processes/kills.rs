//! SIGKILL at random moments: nothing acked is lost, and nothing needs repair.

use std::time::{Duration, Instant};

use palisade::config::{Role, TimingConfig};

use super::cluster::Cluster;
use super::history::{Answer, Attempt, History, judge};
use super::producer::{Clock, Plan, Producer};
use super::reading::{Follower, Subscriber, read_once};
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

fn acked(attempt: &Attempt) -> Option<Answer> {
    attempt.answer.filter(|answer| answer.acked)
}

/// First position after every acked record.
fn acked_end(history: &History) -> u64 {
    let ends = history.attempts.iter().filter_map(acked).map(|answer| answer.place.end_lsn);
    ends.max().expect("some were acked")
}

/// Reads everything from every node and judges.
fn conclude(cluster: &Cluster, stream: u64, mut history: History) {
    cluster.wait_settled(stream, acked_end(&history));
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

/// One misfortune and its end: kills, or a node that stands still while others do not.
fn strike(cluster: &mut Cluster, stream: u64, dice: &mut Dice) {
    let all = 0..cluster.nodes.len();
    let any = dice.below(cluster.nodes.len() as u64) as usize;
    let leader = leader(cluster, stream).unwrap_or(any);
    match dice.below(10) {
        0 => kill(cluster, all.collect(), dice),
        1 => kill(cluster, all.filter(|at| *at != any).collect(), dice),
        2 | 3 => kill(cluster, vec![any], dice),
        // Whoever leads stands still until another one does.
        4 => stand_still(cluster, leader, dice),
        // What the leader alone has must not be acked: it is gone before the others are back.
        5 | 6 => {
            let others: Vec<usize> = all.filter(|at| *at != leader).collect();
            others.iter().for_each(|at| cluster.nodes[*at].kill());
            dice.pause(20, 400);
            cluster.nodes[leader].kill();
            others.iter().for_each(|at| cluster.nodes[*at].spawn());
            others.iter().for_each(|at| cluster.nodes[*at].wait_ready());
            dice.pause(400, 900);
            cluster.nodes[leader].spawn();
            cluster.nodes[leader].wait_ready();
        }
        _ => kill(cluster, vec![leader], dice),
    }
}

fn stand_still(cluster: &Cluster, victim: usize, dice: &mut Dice) {
    cluster.nodes[victim].pause();
    dice.pause(100, 1500);
    cluster.nodes[victim].resume();
}

fn kill(cluster: &mut Cluster, victims: Vec<usize>, dice: &mut Dice) {
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
    let mut cluster = Cluster::plan("history", 3, Role::Primary);
    // Disks that stand still move leaders too, as where it is used.
    cluster.nodes.iter_mut().for_each(|node| node.config.timing = TimingConfig::default());
    cluster.format_and_start();
    let stream = cluster.create_stream();
    let clock = Clock(Instant::now());
    let producers = [1, 2, 3].map(|producer| {
        let mut plan = plan(&cluster, stream, producer);
        (plan.run_records, plan.kill_every) = (100 * producer, 3);
        Producer::start(plan, clock)
    });
    let subscriber = Subscriber::start(&cluster.at(), stream);
    let followers = [0, 1, 2].map(|at| Follower::start(cluster.nodes[at].at(), stream));
    let mut dice = Dice::new();
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(7));
    while Instant::now() < until {
        dice.pause(100, 1200);
        strike(&mut cluster, stream, &mut dice);
    }
    // Every producer gets somewhere once the killing is over.
    let before = producers.each_ref().map(Producer::acked);
    eventually("every producer goes on", Duration::from_secs(60), || {
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
    history.readings.push(subscriber.finish(acked_end(&history)));
    conclude(&cluster, stream, history);
    let list = palisade(&["stream", "list", "--json", "--at", &cluster.at()]).json();
    assert!(list["streams"].as_array().is_some_and(|streams| streams.len() >= 2), "{list}");
}

#[test]
fn a_node_that_is_told_to_end_ends_with_0_and_comes_back_with_everything() {
    let mut cluster = Cluster::start("told-to-end", 1);
    let stream = cluster.create_stream();
    let plan = Plan { at: cluster.at(), stream, producer: 1, run_records: 200, kill_every: 0 };
    let producer = Producer::start(plan, Clock(Instant::now()));
    eventually("records are acked", Duration::from_secs(60), || {
        (producer.acked() >= 300).then_some(())
    });
    cluster.nodes[0].terminate();
    let ended = eventually("it ends", Duration::from_secs(60), || cluster.nodes[0].ended());
    assert_eq!(ended, 0, "{}", cluster.nodes[0].log());
    cluster.nodes[0].spawn();
    cluster.nodes[0].wait_ready();
    let attempts = producer.finish();
    let readings = vec![read_once(&cluster.at(), stream, 0, true)];
    let verdict = judge(&History { attempts, readings });
    assert!(verdict.counts.is_empty(), "{verdict:#?}");
}
