//! Floors and closed SCNs: what a promise, a loss or a link does to them.

use super::super::*;
use super::cluster::{Cluster, Load};
use super::node::Record;

/// A leader on node 1 with one group, closed.
fn closed_once(seed: u64) -> Cluster {
    let mut c = Cluster::new(3, seed);
    c.elect(1);
    c.propose(0).expect("it leads");
    c.closes = true;
    c.settle("the group is closed", |c| c.last_scn > 0 && c.oracle.closed() >= c.last_scn);
    c.closes = false;
    c
}

/// Lets the floors of `nodes` talk for a while.
fn talk(c: &mut Cluster, nodes: &[usize], wall: u64) {
    for _ in 0..40 {
        c.now = c.now.after(1_000_000);
        for &at in nodes {
            c.sync(at, usize::MAX);
            c.floors(at, wall);
        }
        for packet in std::mem::take(&mut c.network) {
            if matches!(packet.load, Load::Ask(_) | Load::Held(_)) {
                c.deliver(packet);
            }
        }
    }
}

/// A majority closes without a peer whose question got lost. It is asked again: the streams that
/// it leads are to be closed as far, and idle ones give no SCN that would let it ask by itself.
#[test]
fn who_missed_a_question_is_asked_again_also_when_a_majority_answered() {
    let mut c = closed_once(4);
    c.nodes[0].floors.on_spread(1000);
    for _ in 0..100 {
        c.now = c.now.after(1_000_000);
        for at in [0, 1] {
            c.sync(at, usize::MAX);
            c.floors(at, 1000);
        }
        for packet in std::mem::take(&mut c.network) {
            if matches!(packet.load, Load::Ask(_) | Load::Held(_)) && packet.to != 3 {
                c.deliver(packet);
            }
        }
    }
    assert!(c.oracle.closed() >= 1000 && c.nodes[2].floors.durable() < 1000);
    for _ in 0..25 {
        talk(&mut c, &[0, 1, 2], 1000);
    }
    assert!(c.nodes[2].floors.durable() >= 1000, "it never heard of it");
    c.rest(50);
}

#[test]
fn a_floor_that_came_after_a_promise_to_another_closes_nothing() {
    let mut c = closed_once(1);
    let (first, before) = (c.nodes[0].key, c.oracle.closed());
    c.cuts.insert((1, 3));
    for at in [1, 2] {
        let lease_until = c.now;
        let down = PeerState::Down { lease_until };
        c.run(at, |r, now, fx| r.on_peer(first, down, now, fx));
    }
    c.run(2, |r, now, fx| r.campaign(now, fx));
    while c.log(2).promised().node != 3 {
        c.sync(1, 9);
        c.sync(2, 9);
        for packet in std::mem::take(&mut c.network) {
            if packet.to != 1 && packet.from.node != 1 {
                c.deliver(packet);
            }
        }
    }
    c.sync(1, 9);
    // The second has promised the third, and names no floor. The first leads on, for what it knows.
    assert!(c.nodes[0].replica().serving().is_some());
    c.nodes[0].floors.on_spread(1000);
    let kept = std::mem::take(&mut c.network);
    talk(&mut c, &[0, 1], 1000);
    assert!(c.nodes[1].floors.durable() >= 1000, "the floor itself is there");
    assert_eq!(c.oracle.closed(), before);
    c.network = kept;
    c.cuts.insert((1, 2));
    c.settle("the third leads", |c| c.leader() == Some(2));
    c.isolate(&[1]);
    // That is why: an SCN below.
    assert!(c.propose(2).expect("it leads").scn.get() < 1000);
    c.rest(50);
}

#[test]
fn a_closed_scn_outlives_the_loss_of_a_floor() {
    let mut c = closed_once(2);
    c.isolate(&[3]);
    c.nodes[0].floors.on_spread(1000);
    talk(&mut c, &[0, 1], 1000);
    assert!(c.oracle.closed() >= 1000);
    // The second loses it, and knows that it lost something.
    c.nodes[1].crash();
    let floor = |r: &Record| matches!(r, Record::Floor(floor) if *floor >= 1000);
    let at = c.nodes[1].wal.iter().position(floor).expect("it was durable");
    c.nodes[1].corrupt(at);
    let now = c.now;
    c.nodes[1].restart(7, now);
    c.run(1, |r, now, fx| r.start(now, fx));
    assert!(c.nodes[1].floors.durable() < 1000 && c.log(2).is_unknown());
    c.isolate(&[]);
    c.run(0, |r, now, fx| r.on_transfer(3, true, now, fx)).expect("it leads");
    c.settle("the third leads", |c| c.leader() == Some(2));
    c.settle("the loss is made good", |c| !c.log(2).is_unknown());
    // Both forget what they were told but for their logs; the first is gone.
    for at in [1, 2] {
        c.sync(at, usize::MAX);
        c.nodes[at].crash();
        let now = c.now;
        c.nodes[at].restart(8, now);
        c.run(at, |r, now, fx| r.start(now, fx));
    }
    c.isolate(&[1]);
    c.settle("another leader", |c| c.leader().is_some_and(|at| at != 0));
    let at = c.leader().expect("just seen");
    assert!(c.propose(at).expect("it leads").scn.get() > 1000);
    c.rest(50);
}

#[test]
fn a_floor_is_kept_over_a_restart() {
    let mut c = closed_once(3);
    c.nodes[0].floors.on_spread(1000);
    talk(&mut c, &[0, 1], 1000);
    let (bound, durable) = (c.nodes[1].floors.bound(), c.nodes[1].floors.durable());
    c.nodes[1].crash();
    let now = c.now;
    c.nodes[1].restart(7, now);
    let floors = &c.nodes[1].floors;
    assert!(durable >= 1000 && bound == durable);
    assert_eq!((floors.bound(), floors.durable()), (durable, durable));
}

#[test]
fn an_idle_leader_whose_groups_are_closed_asks_nobody() {
    let mut c = closed_once(4);
    talk(&mut c, &[0, 1, 2], 50);
    let records: Vec<usize> = c.nodes.iter().map(|n| n.wal.len()).collect();
    talk(&mut c, &[0, 1, 2], 5000);
    assert_eq!(records, c.nodes.iter().map(|n| n.wal.len()).collect::<Vec<_>>());
    assert!(
        c.nodes
            .iter()
            .zip([true, false, false])
            .all(|(n, leads)| { n.floors.next_deadline(leads).is_none() })
    );
}

#[test]
fn views_that_do_not_follow_begin_anew() {
    let mut c = closed_once(5);
    // An answer is lost: the next one says only what changed since.
    c.nodes[0].floors.on_spread(100);
    for at in [0, 1] {
        c.now = c.now.after(50_000_000);
        c.sync(at, 9);
        c.floors(at, 100);
        let packets = std::mem::take(&mut c.network);
        for packet in packets.into_iter().filter(|p| matches!(p.load, Load::Ask(_))) {
            c.deliver(packet);
        }
    }
    c.sync(1, 9);
    c.floors(1, 100);
    let held = |p: &super::cluster::Packet| matches!(p.load, Load::Held(_)) && p.to == 1;
    assert!(c.network.iter().any(held), "it answers");
    c.network.clear();
    c.nodes[0].floors.on_spread(1000);
    talk(&mut c, &[0, 1], 1000);
    assert!(c.oracle.closed() >= 1000, "{}", c.oracle.closed());
}
