//! Replicas and the liveness between their nodes together, with the default timers.

use palisade_netio::Nanos;

use super::super::*;
use super::cluster::Cluster;
use super::walk::Dice;

const MS: u64 = 1_000_000;

struct World {
    cluster: Cluster,
    liveness: Vec<Liveness>,
    boots: Vec<u64>,
    /// Heartbeats of this millisecond: from, to, what.
    beats: Vec<(u32, u32, Heartbeat)>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut cluster = Cluster::new(3, seed);
        let tuning = Tuning::default();
        for at in 0..3 {
            cluster.nodes[at].tuning = tuning.clone();
            cluster.nodes[at].crash();
            let now = cluster.now;
            cluster.nodes[at].restart(seed + at as u64, now);
            cluster.run(at, |r, now, fx| r.start(now, fx));
        }
        let liveness = (1..=3).map(|node| World::liveness(node, 1)).collect();
        let mut world = World { cluster, liveness, boots: vec![1; 3], beats: Vec::new() };
        for at in 0..3 {
            world.connect(at);
        }
        world
    }

    fn liveness(node: u32, boot: u64) -> Liveness {
        let peers: Vec<u32> = (1..=3).filter(|&n| n != node).collect();
        Liveness::new(boot, &peers, &Tuning::default())
    }

    fn runs(&self, at: usize) -> bool {
        self.cluster.nodes[at].replica.is_some()
    }

    fn give(&mut self, at: usize, fx: Vec<LivenessEffect>) {
        for effect in fx {
            match effect {
                LivenessEffect::Send { to, heartbeat } => {
                    self.beats.push((at as u32 + 1, to, heartbeat));
                }
                LivenessEffect::Peer { node, state } => self.cluster.peer(at, node, state),
            }
        }
    }

    fn link(&mut self, at: usize, node: u32, up: bool) {
        let (now, mut fx) = (self.cluster.now, Vec::new());
        if up {
            self.liveness[at].on_link_up(node, now, &mut fx);
        } else {
            self.liveness[at].on_link_down(node, &mut fx);
        }
        self.give(at, fx);
    }

    fn connect(&mut self, at: usize) {
        for other in (0..3).filter(|&other| other != at) {
            if self.runs(other) {
                self.link(at, other as u32 + 1, true);
                self.link(other, at as u32 + 1, true);
            }
        }
    }

    fn kill(&mut self, at: usize) {
        self.cluster.nodes[at].crash();
        for other in (0..3).filter(|&other| other != at) {
            self.link(other, at as u32 + 1, false);
        }
    }

    fn revive(&mut self, at: usize, seed: u64) {
        let now = self.cluster.now;
        self.boots[at] += 1;
        self.liveness[at] = World::liveness(at as u32 + 1, self.boots[at]);
        self.cluster.nodes[at].restart(seed, now);
        self.cluster.run(at, |r, now, fx| r.start(now, fx));
        self.connect(at);
    }

    /// One millisecond: a hop of every message, a write of every disk.
    fn pass(&mut self) {
        for (from, to, heartbeat) in std::mem::take(&mut self.beats) {
            let (at, now, mut fx) = (to as usize - 1, self.cluster.now, Vec::new());
            if self.runs(at) {
                self.liveness[at].on_heartbeat(from, heartbeat, now, &mut fx);
                self.give(at, fx);
            }
        }
        for at in (0..3).filter(|&at| self.cluster.nodes[at].replica.is_some()).collect::<Vec<_>>()
        {
            let (now, mut fx) = (self.cluster.now, Vec::new());
            self.liveness[at].on_time(now, &mut fx);
            self.give(at, fx);
            self.cluster.tick(at);
            self.cluster.sync(at, usize::MAX);
            self.cluster.end_turn(at);
        }
        for packet in std::mem::take(&mut self.cluster.network) {
            let to = packet.to as usize - 1;
            self.cluster.deliver(packet);
            self.cluster.end_turn(to);
        }
        self.cluster.now = self.cluster.now.after(MS);
    }

    /// Until a new group is committed; the milliseconds that it took.
    fn commit(&mut self) -> u64 {
        let (start, before) = (self.cluster.now, self.cluster.oracle.committed_end());
        let mut proposed = None;
        while self.cluster.oracle.committed_end() == before {
            let leader = self.cluster.leader();
            if proposed != leader {
                proposed = leader;
                leader.map(|at| self.cluster.propose(at));
            }
            self.pass();
            assert!(self.cluster.now.since(start) < 2000 * MS, "no commit within two seconds");
        }
        self.cluster.now.since(start) / MS
    }

    fn rest(&mut self, ms: u64) {
        let until = self.cluster.now.after(ms * MS);
        while self.cluster.now < until {
            self.pass();
        }
    }
}

#[test]
fn a_killed_leader_is_replaced_within_half_a_second() {
    let mut times = Vec::new();
    for seed in 0..10 {
        let mut world = World::new(seed);
        let mut dice = Dice(seed);
        world.commit();
        for kill in 0..5 {
            let leader = world.cluster.leader().expect("it just committed");
            world.kill(leader);
            times.push(world.commit());
            world.rest(dice.below(100) as u64);
            world.revive(leader, seed * 100 + kill);
            world.rest(600);
        }
    }
    times.sort_unstable();
    println!("{} kills: median {} ms, worst {} ms", times.len(), times[25], times[49]);
    assert!(times[47] <= 500, "{times:?}");
}

#[test]
fn a_quiet_cluster_keeps_its_leader_and_sets_no_timer() {
    let mut world = World::new(77);
    world.commit();
    world.rest(500);
    let leader = world.cluster.leader();
    let ballot = world.cluster.log(1).accepting();
    world.rest(5000);
    assert_eq!((world.cluster.leader(), world.cluster.log(1).accepting()), (leader, ballot));
    for node in &mut world.cluster.nodes {
        assert_eq!(node.replica().next_deadline(), None);
        assert!(node.replica().status().reason.len() > 1 && Nanos(0) < world.cluster.now);
    }
}

#[test]
fn a_leader_that_restarts_at_once_is_missed_at_once() {
    let mut world = World::new(78);
    world.commit();
    world.rest(300);
    let leader = world.cluster.leader().unwrap();
    world.kill(leader);
    world.revive(leader, 5);
    let took = world.commit();
    assert!(took < 400, "{took} ms");
}

/// What it granted before it died, nobody knows: a leader may count on it for one lease more.
#[test]
fn who_restarted_votes_for_nobody_for_one_lease() {
    let mut cluster = Cluster::new(3, 31);
    cluster.elect(1);
    cluster.rest(50);
    cluster.nodes[1].crash();
    let began = cluster.now;
    cluster.nodes[1].restart(32, began);
    cluster.run(1, |replica, now, fx| replica.start(now, fx));
    cluster.isolate(&[1]);
    let election_ns = cluster.nodes[1].tuning.election_ns;
    let ask = |cluster: &mut Cluster| {
        cluster.run(2, |replica, now, fx| replica.campaign(now, fx));
        for packet in std::mem::take(&mut cluster.network) {
            cluster.deliver(packet);
        }
        for packet in std::mem::take(&mut cluster.network) {
            cluster.deliver(packet);
        }
        cluster.nodes[2].replica().status().role
    };
    cluster.now = began.after(election_ns - 1);
    assert_eq!(ask(&mut cluster), RoleName::PreCandidate, "no vote within the lease");
    cluster.now = began.after(election_ns);
    assert_eq!(ask(&mut cluster), RoleName::Candidate, "the lease is over");
    cluster.settle("a leader of the two", |c| c.leader().is_some_and(|at| at != 0));
}
