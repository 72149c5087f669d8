//! Traces that once broke a protocol, one by one.

use palisade_wal::{Ballot, Boundary, Lsn};

use super::super::*;
use super::cluster::{Cluster, Load, Packet};
use super::node::{GROUP_BYTES, STREAM, group};
use super::walk::Dice;

fn committed(cluster: &Cluster, node: u32) -> Vec<u64> {
    let groups = cluster.nodes[node as usize - 1].committed();
    groups.iter().map(|g| g.chain.get()).collect()
}

#[test]
fn a_group_of_a_prior_ballot_is_committed_by_the_takeover_alone() {
    let mut c = Cluster::new(5, 1);
    let first = c.elect(1);
    c.rest(50);
    // On two of five, under the first ballot.
    let group = c.propose(0).expect("it leads").chain.get();
    c.sync(0, 9);
    let packet = c.network.iter().find(|p| p.to == 2).cloned().unwrap();
    c.deliver(packet);
    c.sync(1, 9);
    assert_eq!(c.log(2).end().lsn, Lsn(GROUP_BYTES));
    // The fifth takes over without it, but nobody hears of that.
    c.isolate(&[1, 2]);
    c.run(4, |r, now, fx| r.campaign(now, fx));
    while c.log(5).accepting() == first {
        for node in 0..5 {
            c.sync(node, 9);
        }
        for packet in std::mem::take(&mut c.network) {
            c.deliver(packet);
        }
    }
    c.isolate(&[5]);
    let lone = c.log(5).accepting();
    assert_eq!((c.log(5).end().lsn, c.log(4).accepting()), (Lsn::ZERO, first));
    // Two of five held it, and now a majority does; but it is the new ballot that counts.
    c.settle("a leader of the others", |c| c.leader().is_some());
    assert!(c.log(c.leader().unwrap() as u32 + 1).accepting() > lone);
    c.rest(50);
    let leader = c.leader().unwrap() as u32 + 1;
    assert_eq!(c.log(leader).committed().chain, group);
    // The fifth comes back, and has its own takeover voided.
    c.isolate(&[leader]);
    c.settle("another leader", |c| c.leader().is_some_and(|at| at as u32 + 1 != leader));
    c.isolate(&[]);
    c.settle("the group everywhere", |c| (1..=5).all(|n| c.log(n).committed().chain == group));
}

#[test]
fn an_isolated_leader_learns_that_its_groups_are_void_and_when_that_is_settled() {
    let mut c = Cluster::new(3, 2);
    c.elect(1);
    c.propose(0).unwrap();
    c.rest(30);
    c.isolate(&[2, 3]);
    // It has no majority any more, so that these can be told nothing.
    assert!(c.propose(0).is_none(), "it stepped down");
    c.isolate(&[]);
    c.elect(1);
    c.propose(0).unwrap();
    c.network.clear();
    c.isolate(&[1]);
    c.elect(2);
    c.propose(1).unwrap();
    c.rest(30);
    c.isolate(&[]);
    c.rest(100);
    let from = Lsn(GROUP_BYTES);
    let expected = [Effect::Voided { from }, Effect::SettledVoid { from }];
    assert_eq!(c.nodes[0].voids, expected);
    assert_eq!(committed(&c, 1), committed(&c, 2));
    assert_eq!(c.log(1).committed().lsn, Lsn(2 * GROUP_BYTES));
}

#[test]
fn a_restart_during_a_staged_fetch_forgets_nothing_and_promises_the_old_log() {
    let mut c = Cluster::new(3, 3);
    c.elect(1);
    c.rest(50);
    c.isolate(&[3]);
    for _ in 0..4 {
        c.propose(0).unwrap();
        c.rest(20);
    }
    let first = c.log(1).accepting();
    c.isolate(&[1]);
    let at = 2;
    c.run(at, |r, now, fx| r.campaign(now, fx));
    // Until the third has staged two of the four groups.
    let mut staged = 0;
    'fetching: for _ in 0..200 {
        for node in 0..3 {
            c.sync(node, 9);
            c.end_turn(node);
        }
        for packet in std::mem::take(&mut c.network) {
            staged += usize::from(matches!(packet.load, Load::Fetched { .. }) && packet.to == 3);
            c.deliver(packet);
            if staged == 2 {
                break 'fetching;
            }
        }
    }
    assert_eq!(staged, 2);
    c.sync(at, 9);
    let (promised, end) = (c.log(3).promised(), c.log(3).end());
    assert_eq!((c.log(3).accepting(), end.lsn), (first, Lsn::ZERO));
    c.nodes[at].crash();
    let now = c.now;
    c.nodes[at].restart(9, now);
    let log = c.log(3);
    assert_eq!((log.promised(), log.accepting(), log.end()), (promised, first, end));
    assert_eq!(log.staged_end(promised).map(|s| s.lsn), Some(Lsn(2 * GROUP_BYTES)));
    c.run(at, |r, now, fx| r.start(now, fx));
    c.isolate(&[]);
    c.settle("all four on the third", |c| c.log(3).committed().lsn == Lsn(4 * GROUP_BYTES));
    c.nodes[at].check_replay();
}

#[test]
fn a_single_member_leads_at_once_and_again_after_a_restart() {
    let mut c = Cluster::new(1, 4);
    for round in 1..=3_u64 {
        c.sync(0, 9);
        assert_eq!(c.leader(), Some(0), "no time passed");
        c.propose(0).unwrap();
        assert_eq!(c.log(1).committed().lsn, Lsn((round - 1) * GROUP_BYTES));
        c.sync(0, 9);
        assert_eq!(c.log(1).committed().lsn, Lsn(round * GROUP_BYTES));
        assert_eq!(c.nodes[0].replica().next_deadline(), None);
        c.nodes[0].crash();
        let now = c.now;
        c.nodes[0].restart(round, now);
        c.run(0, |r, now, fx| r.start(now, fx));
    }
}

#[test]
fn an_unknown_tail_elects_nobody_until_a_takeover_ends_it() {
    let mut c = Cluster::new(3, 5);
    c.elect(1);
    c.isolate(&[3]);
    let group = c.propose(0).unwrap().chain.get();
    c.rest(40);
    assert_eq!(c.log(1).committed().lsn, Lsn(GROUP_BYTES));
    // The second loses it to a corruption. The third never had it.
    c.nodes[1].crash();
    let keep = c.nodes[1].durable - 2;
    c.nodes[1].corrupt(keep);
    let now = c.now;
    c.nodes[1].restart(1, now);
    c.run(1, |r, now, fx| r.start(now, fx));
    c.isolate(&[1]);
    c.rest(2000);
    assert!(c.leader().is_none() && c.log(2).is_unknown());
    c.isolate(&[]);
    c.settle("the group everywhere", |c| {
        (1..=3).all(|n| c.log(n).committed().chain == group) && !c.log(2).is_unknown()
    });
}

#[test]
fn a_corrupted_follower_makes_its_leader_take_a_higher_ballot() {
    let mut c = Cluster::new(3, 6);
    let first = c.elect(1);
    c.propose(0).unwrap();
    c.rest(40);
    c.nodes[1].crash();
    let keep = c.nodes[1].durable - 1;
    c.nodes[1].corrupt(keep);
    let now = c.now;
    c.nodes[1].restart(1, now);
    c.run(1, |r, now, fx| r.start(now, fx));
    c.link();
    c.settle("a known tail", |c| !c.log(2).is_unknown());
    assert!(c.log(2).accepting() > first);
}

#[test]
fn another_incarnation_of_a_bound_member_is_not_counted() {
    let mut c = Cluster::new(3, 7);
    c.elect(1);
    c.propose(0).unwrap();
    c.rest(40);
    let bound: Vec<_> = c.nodes[0].replica().config().members.clone();
    let lost = bound.iter().find(|m| m.node != 1 && m.incarnation.is_some()).unwrap().node;
    let other = 5 - lost;
    // The disk is gone; its place is taken by an empty one.
    let at = lost as usize - 1;
    let (first, config) = (c.nodes[at].first.clone(), c.nodes[0].replica().config().clone());
    c.nodes[at] = super::node::Node::new(NodeKey { node: lost, incarnation: 200 }, first, 1);
    c.run(at, |r, now, fx| r.start(now, fx));
    c.isolate(&[1]);
    c.rest(1000);
    assert!(c.leader().is_none(), "{lost} and {other} are no majority of {config:?}");
    // It gets the log, but what it has does not commit.
    c.isolate(&[other]);
    c.rest(300);
    assert!(c.leader().is_none());
    c.isolate(&[]);
    c.settle("a leader", |c| c.leader().is_some());
    c.rest(100);
    assert_eq!(c.nodes[at].replica().status().role, RoleName::Learner);
    assert_eq!(c.log(lost).committed().lsn, Lsn(GROUP_BYTES));
    let leader = c.leader().unwrap();
    // Without being noticed, so that the leader goes on.
    c.isolated = vec![if leader == 0 { other } else { 1 }];
    c.propose(leader).unwrap();
    c.rest(100);
    assert_eq!(c.log(lost).end().lsn, Lsn(2 * GROUP_BYTES));
    assert_eq!(c.log(leader as u32 + 1).committed().lsn, Lsn(GROUP_BYTES));
}

/// Puts an empty disk in the place of the one of `node`.
fn replace_disk(c: &mut Cluster, node: u32, incarnation: u64) {
    let at = node as usize - 1;
    let first = c.nodes[at].first.clone();
    c.nodes[at] = super::node::Node::new(NodeKey { node, incarnation }, first, 1);
    c.run(at, |r, now, fx| r.start(now, fx));
}

fn bound(c: &Cluster, node: u32) -> Vec<Option<u64>> {
    let replica = c.nodes[node as usize - 1].replica.as_ref().expect("the node runs");
    replica.config().members.iter().map(|m| m.incarnation).collect()
}

fn is_accepted_of_the_third(packet: &Packet) -> bool {
    packet.from.node == 3 && matches!(body_of(packet), Some(Body::Accepted { .. }))
}

/// Three nodes: the first leads on the promises of itself and the second, and the third has its
/// Takeover, which it has not said yet.
fn two_bound(seed: u64) -> Cluster {
    let mut c = Cluster::new(3, seed);
    c.cuts.insert((1, 3));
    c.cuts.insert((2, 3));
    c.elect(1);
    c.rest(30);
    c.cuts.clear();
    assert_eq!(bound(&c, 1), [Some(100), Some(100), None]);
    for _ in 0..20 {
        c.now = c.now.after(15_000_000);
        c.tick(0);
        exchange(&mut c, &[1, 2, 3], |p| !is_accepted_of_the_third(p));
    }
    assert_eq!(c.log(3).accepting(), c.log(1).accepting());
    c
}

/// The second node is down, the first and the third go on: what was acked must not be lost with
/// the disk of the third while the first is down.
#[test]
fn an_acked_append_outlives_a_disk_that_was_bound_late() {
    let mut c = two_bound(61);
    c.network.clear();
    // Nobody notices yet that the second is gone.
    c.isolated = vec![2];
    let group = c.propose(0).expect("it leads").chain.get();
    exchange(&mut c, &[1, 3], |_| true);
    assert_eq!(c.log(1).committed().chain, group, "it is acked");
    c.isolate(&[1]);
    replace_disk(&mut c, 3, 200);
    c.link();
    c.rest(2000);
    assert!(c.leader().is_none(), "{:?}", bound(&c, 2));
    // When the first is back, it is there.
    c.isolate(&[]);
    c.settle("the group everywhere", |c| (1..=3).all(|n| c.log(n).end().chain == group));
}

/// Were the promise of the third to count, then the second, which heard nothing of that, could go
/// on with another disk of the third just as well.
#[test]
fn a_member_that_is_not_bound_elects_nobody_once_a_majority_is() {
    let mut c = two_bound(62);
    c.isolate(&[2]);
    c.rest(2000);
    assert!(c.leader().is_none(), "{:?}", bound(&c, 3));
    c.isolate(&[]);
    c.settle("a leader", |c| c.leader().is_some());
    c.rest(200);
    assert!((1..=3).all(|node| bound(&c, node) == [Some(100); 3]));
}

#[test]
fn every_member_is_bound_soon_and_a_restart_forgets_no_binding() {
    let mut c = Cluster::new(5, 63);
    let down = [(1, 4), (2, 4), (3, 4), (4, 5), (1, 5), (2, 5), (3, 5)];
    c.cuts.extend(down);
    let ballot = c.elect(1);
    c.rest(100);
    assert_eq!(bound(&c, 2), [Some(100), Some(100), Some(100), None, None]);
    c.cuts.clear();
    c.rest(100);
    let all = [Some(100); 5];
    for node in 1..=5 {
        assert_eq!(bound(&c, node), all, "on {node}");
        c.nodes[node as usize - 1].check_replay();
    }
    assert_eq!(c.log(1).accepting(), ballot, "no election was needed");
    assert!(c.nodes.iter().all(|n| n.replica.as_ref().unwrap().next_deadline().is_none()));
    c.nodes[3].crash();
    let now = c.now;
    c.nodes[3].restart(1, now);
    assert_eq!(bound(&c, 4), all);
}

#[test]
fn a_leader_steps_down_when_the_disks_that_count_are_no_majority() {
    let mut c = Cluster::new(3, 64);
    c.elect(1);
    c.rest(50);
    assert_eq!(bound(&c, 1), [Some(100); 3]);
    // The second comes back on an empty disk, then the third dies.
    c.isolate(&[2]);
    replace_disk(&mut c, 2, 200);
    c.isolate(&[]);
    c.rest(50);
    assert_eq!(c.leader(), Some(0));
    c.isolate(&[3]);
    assert!(c.leader().is_none(), "nothing can be committed");
    c.isolate(&[]);
    c.settle("a leader", |c| c.leader().is_some());
}

#[test]
fn a_commit_of_another_ballot_is_ignored() {
    let mut c = Cluster::new(3, 8);
    let old = c.elect(1);
    c.propose(0).unwrap();
    let packets: Vec<Packet> = c.network.drain(..).collect();
    for packet in packets {
        c.deliver(packet);
    }
    c.sync(1, 9);
    c.network.clear();
    assert_eq!(c.log(2).end().lsn, Lsn(GROUP_BYTES));
    let newer = Ballot { round: old.round + 5, node: 3, incarnation: 100 };
    let end = Lsn(GROUP_BYTES);
    let tell = |ballot: Ballot, c: &mut Cluster| {
        let from = NodeKey { node: ballot.node, incarnation: 100 };
        let body = Body::Commit { ballot, upto: end, end, held: Lsn::ZERO };
        let message = Message { stream: STREAM, body };
        c.run(1, |r, now, fx| r.on_message(from, &message, now, fx));
        c.log(2).committed().lsn
    };
    assert_eq!(tell(newer, &mut c), Lsn::ZERO);
    assert_eq!(tell(Ballot { node: 3, ..old }, &mut c), Lsn::ZERO);
    assert_eq!(tell(old, &mut c), end);
}

#[test]
fn a_takeover_below_the_committed_position_halts_the_stream() {
    let mut c = Cluster::new(3, 9);
    let first = c.elect(1);
    c.propose(0).unwrap();
    c.rest(40);
    let ballot = Ballot { round: first.round + 1, node: 3, incarnation: 100 };
    let config = c.nodes[0].replica().config().stamped(ballot, &[]);
    let end = Boundary { lsn: Lsn::ZERO, chain: palisade_wal::CHAIN_START };
    let takeover = Body::Takeover { ballot, end, scn: 0, config };
    let message = Message { stream: STREAM, body: takeover };
    let from = NodeKey { node: 3, incarnation: 100 };
    let mut fx = Effects::default();
    let now = c.now;
    c.nodes[1].replica().on_message(from, &message, now, &mut fx);
    assert!(matches!(fx.0.last(), Some(Effect::Halt { .. })), "{fx:?}");
    assert_eq!(c.nodes[1].replica().status().role, RoleName::Halted);
    assert_eq!(c.log(2).committed().lsn, Lsn(GROUP_BYTES));
}

/// The third claims a log that parts from the second's below what is committed there, and goes on
/// above it.
#[test]
fn another_log_below_the_committed_position_halts_the_stream() {
    let mut c = Cluster::new(3, 65);
    let first = c.elect(1);
    c.propose(0).unwrap();
    c.rest(40);
    let committed = c.log(2).committed().lsn;
    assert_eq!(committed, Lsn(GROUP_BYTES));
    let ballot = Ballot { round: first.round + 1, node: 3, incarnation: 100 };
    let follow = |lsn: Lsn, chain_before: u64, value: u32| {
        group(&ProposePosition { ballot, lsn, chain_before, scn_floor: 0 }, value)
    };
    let other = follow(Lsn::ZERO, palisade_wal::CHAIN_START, 90);
    let next = follow(committed, other.chain.get(), 91);
    let config = c.nodes[0].replica().config().stamped(ballot, &[]);
    let end = Boundary { lsn: next.end(), chain: next.chain.get() };
    let message = Message { stream: STREAM, body: Body::Takeover { ballot, end, scn: 0, config } };
    let from = NodeKey { node: 3, incarnation: 100 };
    c.run(1, |r, now, fx| r.on_message(from, &message, now, fx));
    let head = AcceptHead { ballot, header: &next, commit: Lsn::ZERO, want: Want::Staged };
    let (mut fx, now) = (Effects::default(), c.now);
    let verdict = c.nodes[1].replica().on_fetched(from, &head, now, &mut fx);
    assert_eq!(verdict, AcceptVerdict::Refuse(RefuseReason::Halted));
    let reason = HaltReason::CommittedMismatch { ballot, committed };
    assert_eq!(fx.0.last(), Some(&Effect::Halt { reason }));
}

/// Three nodes, the first leading with one group that only its own disk holds. What it sent to
/// the others is returned, not delivered.
fn one_group_on_its_way(seed: u64) -> (Cluster, u64, Vec<Packet>) {
    let mut c = Cluster::new(3, seed);
    c.elect(1);
    c.rest(50);
    c.network.clear();
    let group = c.propose(0).expect("it leads").chain.get();
    c.sync(0, 9);
    let sent = std::mem::take(&mut c.network);
    // The third takes the leader for dead, and its lease for over.
    let lease_until = c.now;
    c.peer(2, 1, PeerState::Down { lease_until });
    (c, group, sent)
}

fn body_of(packet: &Packet) -> Option<Body> {
    let Load::Message(bytes) = &packet.load else { return None };
    Some(Message::decode(bytes).expect("it was encoded").0.body)
}

/// A few turns in which these disks work, and these packets pass. The others are lost.
fn exchange(c: &mut Cluster, synced: &[u32], passes: impl Fn(&Packet) -> bool) {
    for _ in 0..10 {
        for &node in synced {
            c.sync(node as usize - 1, 9);
            c.end_turn(node as usize - 1);
        }
        for packet in std::mem::take(&mut c.network) {
            if passes(&packet) {
                let to = packet.to as usize - 1;
                c.deliver(packet);
                c.end_turn(to);
            }
        }
    }
}

/// `node` loses what is not durable, comes back, gets the group, and so commits it.
fn restart_and_commit(c: &mut Cluster, node: u32, sent: Vec<Packet>) {
    let (at, now) = (node as usize - 1, c.now);
    c.network.clear();
    c.nodes[at].crash();
    c.nodes[at].restart(9, now);
    for packet in sent.into_iter().filter(|p| p.to == node) {
        c.deliver(packet);
    }
    c.sync(at, 9);
    c.end_turn(at);
    for packet in std::mem::take(&mut c.network) {
        if matches!(body_of(&packet), Some(Body::Accepted { .. })) {
            c.deliver(packet);
        }
    }
    assert_eq!(c.log(1).committed().lsn, Lsn(GROUP_BYTES), "nobody promised it away");
}

/// Under load a frame with groups says what is committed, and nothing else does.
#[test]
fn a_cursor_that_rode_on_a_frame_is_not_said_again() {
    let mut c = Cluster::new(3, 25);
    c.elect(1);
    c.rest(50);
    let is_commit = |p: &Packet| matches!(body_of(p), Some(Body::Commit { .. }));
    c.network.clear();
    c.propose(0).unwrap();
    c.sync(0, 9);
    for packet in std::mem::take(&mut c.network) {
        let to = packet.to as usize - 1;
        c.deliver(packet);
        c.sync(to, 9);
        c.end_turn(to);
    }
    // The answers come, and the next group leaves before the turn ends.
    for packet in std::mem::take(&mut c.network) {
        c.deliver(packet);
    }
    assert_eq!(c.log(1).committed().lsn, Lsn(GROUP_BYTES));
    c.propose(0).unwrap();
    c.end_turn(0);
    assert!(!c.network.iter().any(is_commit), "it rides");
    let said = |p: &Packet| matches!(p.load, Load::Group { commit, .. } if commit.0 == GROUP_BYTES);
    assert_eq!(c.network.iter().filter(|p| said(p)).count(), 2);
}

/// The outbox of a link drops what it has no room for, and the link goes on.
#[test]
fn a_commit_that_is_lost_is_said_again_to_an_idle_follower() {
    let mut c = Cluster::new(3, 24);
    c.elect(1);
    c.rest(50);
    c.propose(0).unwrap();
    let is_commit = |p: &Packet| matches!(body_of(p), Some(Body::Commit { .. }));
    exchange(&mut c, &[1, 2, 3], |p| !(p.to == 3 && is_commit(p)));
    let committed = [1, 2, 3].map(|n| c.log(n).committed().lsn);
    assert_eq!(committed, [Lsn(GROUP_BYTES), Lsn(GROUP_BYTES), Lsn::ZERO]);
    assert_eq!(c.log(3).end().lsn, Lsn(GROUP_BYTES), "all that it lacks is the word");
    c.settle("told again", |c| c.log(3).committed().lsn == Lsn(GROUP_BYTES));
    // Whoever answered is left alone.
    c.rest(50);
    c.network.clear();
    c.now = c.now.after(1_000_000_000);
    c.tick(0);
    c.end_turn(0);
    assert!(!c.network.iter().any(is_commit), "{} packets", c.network.len());
}

#[test]
fn a_candidate_that_forgets_its_promise_has_asked_for_none() {
    let (mut c, group, sent) = one_group_on_its_way(20);
    // The disk of the candidate does nothing, that of the third everything.
    c.run(1, |r, now, fx| r.campaign(now, fx));
    exchange(&mut c, &[3], |p| p.to != 1 && p.from.node != 1);
    assert!(c.log(2).promised() > c.log(1).accepting(), "logged, not durable");
    restart_and_commit(&mut c, 2, sent);
    // What the third knows must not be a tail without the group.
    c.isolate(&[1]);
    c.settle("the group on both", |c| (2..=3).all(|n| c.log(n).committed().chain == group));
}

#[test]
fn a_promise_that_is_forgotten_was_never_heard() {
    let (mut c, group, sent) = one_group_on_its_way(21);
    // The disk of the third does nothing; should the candidate win, then nobody hears of it.
    c.run(1, |r, now, fx| r.campaign(now, fx));
    let is_takeover = |p: &Packet| matches!(body_of(p), Some(Body::Takeover { .. }));
    exchange(&mut c, &[2], |p| p.to != 1 && p.from.node != 1 && !is_takeover(p));
    assert!(c.log(3).promised() > c.log(1).accepting(), "logged, not durable");
    restart_and_commit(&mut c, 3, sent);
    c.isolate(&[1]);
    c.settle("the group on both", |c| (2..=3).all(|n| c.log(n).committed().chain == group));
}

#[test]
fn a_candidate_without_the_bytes_of_its_tail_outranks_nobody() {
    let mut c = Cluster::new(3, 22);
    let first = c.elect(1);
    c.rest(50);
    c.isolate(&[3]);
    let group = c.propose(0).unwrap().chain.get();
    c.rest(20);
    assert_eq!(c.log(1).committed().lsn, Lsn(GROUP_BYTES));
    // The third wins the votes, and its question for the bytes is lost.
    c.isolate(&[1]);
    c.run(2, |r, now, fx| r.campaign(now, fx));
    let is_fetch = |p: &Packet| matches!(body_of(p), Some(Body::Fetch(_)));
    exchange(&mut c, &[2, 3], |p| p.to != 1 && p.from.node != 1 && !is_fetch(p));
    assert_eq!(c.nodes[2].replica().status().role, RoleName::Fetching);
    assert_eq!((c.log(3).accepting(), c.log(3).end().lsn), (first, Lsn::ZERO));
    c.isolate(&[2]);
    c.settle("the group on both", |c| [1, 3].iter().all(|&n| c.log(n).committed().chain == group));
}

#[test]
fn a_takeover_that_comes_twice_acts_once() {
    let (mut c, group, sent) = one_group_on_its_way(23);
    let (ballot, config) = (c.log(1).accepting(), c.nodes[0].replica().config().clone());
    for packet in sent.into_iter().filter(|p| p.to == 2) {
        c.deliver(packet);
    }
    exchange(&mut c, &[2], |p| matches!(body_of(p), Some(Body::Accepted { .. })));
    assert_eq!(c.log(1).committed().lsn, Lsn(GROUP_BYTES));
    assert_eq!(c.log(2).committed().lsn, Lsn::ZERO, "it was not told");
    let end = Boundary { lsn: Lsn::ZERO, chain: palisade_wal::CHAIN_START };
    let message = Message { stream: STREAM, body: Body::Takeover { ballot, end, scn: 0, config } };
    let from = NodeKey { node: 1, incarnation: 100 };
    c.run(1, |r, now, fx| r.on_message(from, &message, now, fx));
    assert_eq!(c.log(2).end().chain, group, "what followed it stays");
    c.sync(1, 9);
    c.isolate(&[1]);
    c.settle("the group on both", |c| (2..=3).all(|n| c.log(n).committed().chain == group));
}

/// The third node, taken over by a later leader while the first one, which is still heard, has
/// one of two groups committed. That group is common, the other is not. What comes back is the
/// cluster, the later ballot and the end of its log.
fn taken_over_while_the_old_leader_is_heard(seed: u64) -> (Cluster, Ballot, Boundary) {
    let mut c = Cluster::new(3, seed);
    let first = c.elect(1);
    c.rest(50);
    let later = Ballot { round: first.round + 1, node: 2, incarnation: 100 };
    let follow = |ballot: Ballot, lsn: Lsn, chain_before: u64, value: u32| {
        group(&ProposePosition { ballot, lsn, chain_before, scn_floor: 0 }, value)
    };
    let (start, middle) = (Lsn::ZERO, Lsn(GROUP_BYTES));
    let common = follow(first, start, palisade_wal::CHAIN_START, 1);
    let (old, new) = (
        follow(first, middle, common.chain.get(), 2),
        follow(later, middle, common.chain.get(), 3),
    );
    let key = |node: u32| NodeKey { node, incarnation: 100 };
    let send = |c: &mut Cluster, from: u32, load: Load| {
        c.deliver(Packet { from: key(from), to: 3, load });
    };
    let staged = |header| Load::Fetched { ballot: later, header, want: Want::Staged };
    let led = |header, commit| Load::Group { ballot: first, header, commit };
    let config = c.nodes[0].replica().config().stamped(later, &[]);
    let end = Boundary { lsn: new.end(), chain: new.chain.get() };
    let body = Body::Takeover { ballot: later, end, scn: 0, config };
    let mut bytes = Vec::new();
    Message { stream: STREAM, body }.encode_into(&mut bytes);
    send(&mut c, 2, Load::Message(bytes));
    // Half of what the Takeover needs is there when the first leader is heard again.
    send(&mut c, 2, staged(common));
    send(&mut c, 1, led(common, start));
    send(&mut c, 1, led(old, middle));
    assert_eq!(c.log(3).committed().lsn, middle);
    send(&mut c, 2, staged(new));
    (c, later, end)
}

#[test]
fn a_void_never_reaches_below_the_committed_position() {
    let (c, later, end) = taken_over_while_the_old_leader_is_heard(24);
    assert_eq!((c.log(3).accepting(), c.log(3).end()), (later, end));
    assert_eq!(c.nodes[2].voids, [Effect::Voided { from: Lsn(GROUP_BYTES) }]);
}

#[test]
fn who_is_taken_over_follows_no_earlier_leader() {
    let (mut c, later, _) = taken_over_while_the_old_leader_is_heard(25);
    assert_eq!(c.nodes[2].replica().leader(), later);
}

#[test]
fn leadership_is_handed_over_with_the_whole_log() {
    let mut c = Cluster::new(3, 10);
    c.elect(1);
    for _ in 0..3 {
        c.propose(0).unwrap();
    }
    let before = c.now;
    c.run(0, |r, now, fx| r.on_transfer(2, false, now, fx)).unwrap();
    assert_eq!(c.nodes[0].replica().leader_slot(), Err(NoSlot::Transferring));
    c.settle("the successor", |c| c.leader() == Some(1));
    assert!(c.now.since(before) < 60_000_000, "took {} ns", c.now.since(before));
    assert_eq!(c.log(2).committed().lsn, Lsn(3 * GROUP_BYTES));
}

#[test]
fn a_stalled_disk_does_not_lead() {
    let mut c = Cluster::new(3, 11);
    c.elect(1);
    c.run(0, |r, now, fx| r.on_disk_stalled(true, now, fx));
    c.settle("another leader", |c| c.leader().is_some_and(|at| at != 0));
    c.isolate(&[2]);
    c.rest(500);
    assert_ne!(c.leader(), Some(0));
}

#[test]
fn a_lone_member_with_a_stalled_disk_leads_on() {
    let mut c = Cluster::new(1, 16);
    c.settle("a leader", |c| c.leader().is_some());
    let ballot = c.nodes[0].replica().serving();
    c.run(0, |r, now, fx| r.on_disk_stalled(true, now, fx));
    c.propose(0).unwrap();
    c.rest(500);
    c.run(0, |r, now, fx| r.on_disk_stalled(false, now, fx));
    assert_eq!(c.nodes[0].replica().serving(), ballot);
}

#[test]
fn a_lone_member_with_a_damaged_log_leads_on() {
    let mut c = Cluster::new(1, 15);
    c.settle("a leader", |c| c.leader().is_some());
    c.propose(0).unwrap();
    let replica = c.nodes[0].replica();
    assert!(!replica.can_repair());
    replica.on_damaged(Lsn(8));
    replica.on_damaged(Lsn(0));
    assert_eq!(replica.damaged(), Some(Lsn(0)));
    c.rest(500);
    assert_eq!(c.leader(), Some(0));
    c.run(0, |r, _, _| r.on_readable(Lsn(0), Lsn(8)));
    assert_eq!(c.nodes[0].replica().damaged(), None);
}

#[test]
fn a_full_window_is_busy() {
    let mut c = Cluster::new(3, 12);
    c.elect(1);
    while c.propose(0).is_some() {}
    assert_eq!(c.nodes[0].replica().leader_slot(), Err(NoSlot::Busy));
    c.rest(50);
    assert!(c.nodes[0].replica().leader_slot().is_ok());
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    let mut c = Cluster::new(3, 13);
    c.elect(1);
    c.propose(0).unwrap();
    let config = c.nodes[0].replica().config().clone();
    let ballot = c.log(1).accepting();
    let end = Boundary { lsn: Lsn(64), chain: 7 };
    let message = Message { stream: 3, body: Body::Takeover { ballot, end, scn: 0, config } };
    let mut bytes = Vec::new();
    message.encode_into(&mut bytes);
    assert_eq!(Message::decode(&bytes), Ok((message, bytes.len())));
    for len in 0..bytes.len() {
        assert!(Message::decode(&bytes[..len]).is_err());
    }
    let mut dice = Dice(1);
    for _ in 0..20_000 {
        let mut bad = bytes.clone();
        for _ in 0..=dice.below(4) {
            let at = dice.below(bad.len());
            bad[at] = dice.next() as u8;
        }
        if let Ok((message, len)) = Message::decode(&bad) {
            let mut again = Vec::new();
            message.encode_into(&mut again);
            assert_eq!(again.len(), len);
        }
    }
}
