//! A cascade of depth three: an upstream in its middle is killed, and who took from it goes on
//! from another one.

use std::time::{Duration, Instant};

use super::super::cluster::{Cluster, Node};
use super::super::producer::{Clock, Plan, Producer};
use super::super::reading::Follower;
use super::super::run::eventually;
use super::load::{assert_sound, end_of};
use super::region::Regions;
use super::topology::{FOUND, leader, primary, standby, wait_committed, wait_upstream};

/// Until another upstream brings what was committed when the first one ended.
const REPLACED: Duration = Duration::from_secs(5);

/// Who the leader of a standby takes the stream from.
fn upstream_of(standby: &Cluster, stream: u64) -> Option<u32> {
    leader(standby, stream)?.1.upstream.map(|upstream| upstream.cluster)
}

fn wait_cluster(standby: &Cluster, stream: u64, upstream: u32) {
    let nodes: Vec<(u32, u32)> = (1..=3).map(|node| (upstream, node)).collect();
    wait_upstream(standby, stream, &nodes, FOUND);
}

/// Kills every node of `upstream`; its child has from another one, in time, what is committed at
/// the primary by then.
fn kill_above(primary: &Cluster, upstream: &mut Cluster, child: &Cluster, stream: u64) {
    let id = upstream.nodes[0].config.cluster.id;
    upstream.nodes.iter_mut().for_each(Node::kill);
    let killed = Instant::now();
    let end = leader(primary, stream).expect("it leads").1.committed_lsn;
    let from = eventually("another upstream", REPLACED, || {
        let (_, seen) = leader(child, stream)?;
        let from = seen.upstream.filter(|from| from.cluster != id && seen.committed_lsn > end)?;
        (seen.state == "sync").then_some(from.cluster)
    });
    println!(
        "cluster {id} killed: its child has {end} from cluster {from} after {:?}",
        killed.elapsed()
    );
}

#[test]
fn who_lost_its_upstream_takes_another_and_misses_nothing() {
    let regions = Regions::new(&["sh", "hz", "gz"]);
    let primary = primary(&regions, &["sh"; 3]);
    let stream = primary.create_stream();
    let mut second = standby(&regions, 2, "hz", &primary, "--transfer async");
    let mut third = standby(&regions, 3, "gz", &primary, "--transfer async --upstream 2");
    let fourth = standby(&regions, 4, "gz", &primary, "--transfer async --upstream 3");
    let wait_chain = |chain: &[&Cluster]| {
        for (cluster, upstream) in chain.iter().zip(1..) {
            wait_cluster(cluster, stream, upstream);
        }
    };
    wait_chain(&[&second, &third, &fourth]);
    let (at, clock) = (primary.at(), Clock(Instant::now()));
    let plan = Plan { at, stream, producer: 1, run_records: 200, kill_every: 0 };
    let producer = Producer::start(plan, clock);
    let acks = |count: u64| {
        eventually("records are acked", FOUND, || (producer.acked() >= count).then_some(()));
    };
    let follower = Follower::start(fourth.nodes[0].at(), stream);

    acks(1000);
    kill_above(&primary, &mut third, &fourth, stream);
    third.nodes.iter_mut().for_each(Node::spawn);
    third.nodes.iter_mut().for_each(Node::wait_ready);
    wait_chain(&[&second, &third, &fourth]);

    kill_above(&primary, &mut second, &third, stream);
    assert_eq!(upstream_of(&fourth, stream), Some(3), "nothing changes for it");
    // Who comes after its leader never led, and knows all the same who was named.
    let lead = leader(&third, stream).expect("it leads").0.config.node.id as usize - 1;
    third.nodes[lead].kill();
    second.nodes.iter_mut().for_each(Node::spawn);
    second.nodes.iter_mut().for_each(Node::wait_ready);
    wait_chain(&[&second, &third, &fourth]);
    third.nodes[lead].spawn();
    third.nodes[lead].wait_ready();

    let (attempts, clusters) = (producer.finish(), [&primary, &second, &third, &fourth]);
    let end = end_of(&attempts);
    clusters.iter().for_each(|cluster| wait_committed(cluster, stream, end, FOUND));
    assert_sound(attempts, follower.finish(), &clusters, stream);
}
