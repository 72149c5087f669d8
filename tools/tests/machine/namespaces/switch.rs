//! The role goes from region to region and back, under load.

use std::time::{Duration, Instant};

use super::super::cluster::Cluster;
use super::super::history::Attempt;
use super::super::producer::{Clock, Plan, Producer};
use super::super::reading::Follower;
use super::super::run::{eventually, palisade};
use super::load::{assert_sound, end_of};
use super::region::Regions;
use super::topology::{FOUND, ask, primary, standby, wait_committed, wait_upstream};

const SWITCHOVERS: usize = 30;
/// Nobody may append for so long: in nineteen of twenty switchovers, and in any.
const GAPS_MS: (u64, u64) = (500, 2000);
/// What is looked at of a switchover begins when it is asked for, and ends so long after it.
const AFTER: Duration = Duration::from_millis(500);

/// Hands the role over; when that was asked for, and when it had been done.
fn switchover(from: &Cluster, to: u32, clock: Clock) -> (u64, u64) {
    let at = from.at();
    eventually("a switchover that is not given up", FOUND, || {
        let asked = clock.now();
        let to = to.to_string();
        let done = palisade(&["switchover", "--to", &to, "--at", &at, "--timeout", "60000"]);
        let given_up = done.code == Some(1) && done.err.contains("stays the primary");
        assert!(done.code == Some(0) || given_up, "{done:?}");
        (!given_up).then(|| (asked, clock.now()))
    })
}

/// The longest time without an ack in each of `spans`, in milliseconds, in order.
fn gaps(attempts: &[Attempt], spans: &[(u64, u64)]) -> Vec<u64> {
    let mut acks: Vec<u64> =
        attempts.iter().filter_map(|attempt| attempt.answer).map(|answer| answer.at).collect();
    acks.sort_unstable();
    let gap = |(from, to): &(u64, u64)| {
        let to = to + AFTER.as_micros() as u64;
        let first = acks.partition_point(|at| at < from).saturating_sub(1);
        let within = acks[first..].iter().take_while(|at| **at <= to);
        let within: Vec<u64> = within.copied().collect();
        let longest = within.windows(2).map(|pair| pair[1] - pair[0].max(*from)).max();
        longest.expect("acks before and after") / 1000
    };
    let mut gaps: Vec<u64> = spans.iter().map(gap).collect();
    gaps.sort_unstable();
    gaps
}

#[test]
fn the_role_goes_from_region_to_region_thirty_times() {
    let regions = Regions::new(&["sh", "hz"]);
    let one = primary(&regions, &["sh"; 3]);
    let stream = one.create_stream();
    let two = standby(&regions, 2, "hz", &one, "--transfer async");
    ask(&one, "primary set --transfer async");
    wait_upstream(&two, stream, &[(1, 1), (1, 2), (1, 3)], FOUND);
    let clock = Clock(Instant::now());
    let at = format!("{},{}", one.at(), two.at());
    let plan = Plan { at, stream, producer: 1, run_records: 500, kill_every: 0 };
    let producer = Producer::start(plan, clock);
    let follower = Follower::start(two.nodes[0].at(), stream);
    let clusters = [&one, &two];
    let mut spans = Vec::new();
    for number in 0..SWITCHOVERS {
        let acked = producer.acked();
        eventually("records are acked", FOUND, || (producer.acked() > acked + 50).then_some(()));
        let (from, to) = (clusters[number % 2], clusters[(number + 1) % 2]);
        spans.push(switchover(from, to.nodes[0].config.cluster.id, clock));
    }
    let acked = producer.acked();
    eventually("records are acked", FOUND, || (producer.acked() > acked + 50).then_some(()));
    let attempts = producer.finish();
    let gaps = gaps(&attempts, &spans);
    let took: Vec<u64> = spans.iter().map(|(from, to)| (to - from) / 1000).collect();
    let p95 = gaps[SWITCHOVERS * 95 / 100];
    println!("gaps {gaps:?} ms, p95 {p95} ms; switchovers took {took:?} ms");
    let end = end_of(&attempts);
    clusters.iter().for_each(|cluster| wait_committed(cluster, stream, end, FOUND));
    assert_sound(attempts, follower.finish(), &clusters, stream);
    let longest = gaps[SWITCHOVERS - 1];
    assert!(p95 <= GAPS_MS.0 && longest <= GAPS_MS.1, "p95 {p95} ms, longest {longest} ms");
}
