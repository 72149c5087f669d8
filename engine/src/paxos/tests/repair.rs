//! Lost ranges: they are repaired by whoever has them, and nobody leads without them.

use palisade_wal::{Kind, Lsn};

use super::super::*;
use super::cluster::{Cluster, Load, Packet};
use super::node::{GROUP_BYTES, Record, group};

fn committed(cluster: &Cluster, node: u32) -> Vec<u64> {
    let groups = cluster.nodes[node as usize - 1].committed();
    groups.iter().map(|g| g.chain.get()).collect()
}

/// Three nodes with `count` groups, everything durable everywhere.
fn with_groups(seed: u64, count: usize) -> Cluster {
    let mut c = Cluster::new(3, seed);
    c.elect(1);
    for _ in 0..count {
        c.propose(0).unwrap();
        c.rest(10);
    }
    c.rest(100);
    let end = Lsn(count as u64 * GROUP_BYTES);
    assert!((1..=3).all(|node| c.log(node).committed().lsn == end));
    c
}

/// Where the record of the group number `group` is.
fn record_of(c: &Cluster, at: usize, group: u64) -> usize {
    let is_it = |record: &Record| {
        matches!(record, Record::Group { header, staged: false, .. }
            if header.lsn() == Lsn(group * GROUP_BYTES))
    };
    c.nodes[at].wal.iter().position(is_it).expect("it has the group")
}

fn lost_range_asked(packet: &Packet) -> Option<FetchRequest> {
    let Load::Message(bytes) = &packet.load else { return None };
    match Message::decode(bytes).unwrap().0.body {
        Body::Fetch(request) if request.want == Want::Lost => Some(request),
        _ => None,
    }
}

/// A hole above what is known to be committed is fetched with all above it before a Takeover is
/// logged: `Accepted` of that ballot says that everything is there.
#[test]
fn a_takeover_is_logged_over_no_open_hole() {
    let mut c = with_groups(67, 1);
    c.isolate(&[3]);
    for _ in 0..2 {
        c.propose(0).unwrap();
    }
    for packet in std::mem::take(&mut c.network) {
        c.deliver(packet);
    }
    c.sync(0, 99);
    c.sync(1, 99);
    c.nodes[1].crash();
    let record = record_of(&c, 1, 1);
    c.lose(1, [record]);
    restart(&mut c, 1);
    let first = c.log(2).accepting();
    assert_eq!((c.log(2).held().lsn, c.log(2).end().lsn), (Lsn(128), Lsn(384)));
    c.nodes[0].crash();
    restart(&mut c, 0);
    c.network.clear();
    c.link();
    // Nobody answers the repair.
    for _ in 0..2000 {
        c.now = c.now.after(1_000_000);
        for at in 0..2 {
            c.tick(at);
            c.sync(at, 99);
            c.end_turn(at);
        }
        for packet in std::mem::take(&mut c.network) {
            if lost_range_asked(&packet).is_none() {
                c.deliver(packet);
            }
        }
        let log = c.log(2);
        assert!(log.accepting() == first || log.held() == log.end(), "{:?}", log.held());
    }
    assert!(c.log(2).accepting() > first && c.log(2).is_whole());
}

fn crash_all(c: &mut Cluster) {
    for node in &mut c.nodes {
        node.crash();
    }
    c.network.clear();
}

fn restart(c: &mut Cluster, at: usize) {
    let now = c.now;
    c.nodes[at].restart(at as u64 + 5, now);
    c.run(at, |r, now, fx| r.start(now, fx));
}

#[test]
fn three_nodes_that_lost_different_groups_all_come_back() {
    let mut c = with_groups(60, 8);
    let before = committed(&c, 1);
    crash_all(&mut c);
    for at in 0..3 {
        let lost = [1, 2].map(|group| record_of(&c, at, group + 2 * at as u64));
        c.lose(at, lost);
        restart(&mut c, at);
    }
    for node in 1..=3 {
        let first = Lsn((1 + 2 * (u64::from(node) - 1)) * GROUP_BYTES);
        let holes = c.log(node).holes();
        assert_eq!((holes.len(), holes[0].start), (1, first), "known but for what is lost");
    }
    c.link();
    c.settle("a leader", |c| c.leader().is_some());
    c.rest(100);
    assert!((1..=3).all(|node| c.log(node).is_whole()));
    assert_eq!(c.mended, 3);
    assert!((1..=3).all(|node| committed(&c, node)[..8] == before[..8]));
    // What was logged again is there after the next start too.
    crash_all(&mut c);
    (0..3).for_each(|at| restart(&mut c, at));
    assert!((1..=3).all(|node| c.log(node).is_whole()));
}

#[test]
fn a_group_that_everyone_lost_elects_nobody_until_one_has_it() {
    let mut c = with_groups(61, 4);
    let before = committed(&c, 1);
    crash_all(&mut c);
    let good = c.nodes[2].wal.clone();
    for at in 0..3 {
        let record = record_of(&c, at, 1);
        c.lose(at, [record]);
        restart(&mut c, at);
    }
    c.link();
    c.rest(3000);
    assert!(c.leader().is_none());
    for node in 0..3 {
        let lost = (Lsn(GROUP_BYTES), Lsn(2 * GROUP_BYTES), true);
        assert_eq!(c.nodes[node].replica().lost_range(), Some(lost));
        assert!(c.nodes[node].replica().status().reason.contains("lost"));
    }
    // The sectors of one were only unreadable for a while.
    c.nodes[2].crash();
    c.nodes[2].wal[..good.len()].clone_from_slice(&good);
    restart(&mut c, 2);
    c.link();
    c.settle("a leader", |c| c.leader().is_some());
    c.settle("the group everywhere", |c| (1..=3).all(|n| c.log(n).is_whole()));
    assert_eq!(committed(&c, 1)[..4], before[..]);
}

/// The log forgot that copy when it was superseded. A start reads the whole disk.
#[test]
fn an_older_copy_of_what_all_lost_is_found_by_a_restart() {
    let mut c = with_groups(68, 4);
    let before = committed(&c, 1);
    c.nodes[2].crash();
    let (record, good) = (record_of(&c, 2, 1), c.nodes[2].wal.clone());
    c.lose(2, [record]);
    restart(&mut c, 2);
    c.link();
    c.settle("a whole log", |c| c.log(3).is_whole());
    c.rest(100);
    c.nodes[2].wal[record] = good[record].clone();
    c.isolate(&[1, 2, 3]);
    for at in 0..3 {
        assert!(c.lose_while_it_runs(at, Lsn(GROUP_BYTES)), "the moved copy on the third");
    }
    c.isolate(&[]);
    c.rest(3000);
    assert!((0..3).all(|at| c.nodes[at].replica().lost_range().is_some_and(|lost| lost.2)));
    c.nodes[2].crash();
    restart(&mut c, 2);
    assert!(c.log(3).is_whole());
    c.isolate(&[]);
    c.settle("a leader", |c| c.leader().is_some());
    c.settle("the group everywhere", |c| (1..=3).all(|n| c.log(n).is_whole()));
    assert_eq!(committed(&c, 1)[..4], before[..]);
}

#[test]
fn a_leader_that_loses_a_group_leads_on_and_has_it_back() {
    let mut c = with_groups(62, 6);
    let ballot = c.log(1).accepting();
    let before = committed(&c, 1);
    for group in [4, 0, 5] {
        assert!(c.lose_while_it_runs(0, Lsn(group * GROUP_BYTES)));
        assert_eq!(c.leader(), Some(0));
    }
    assert_eq!(c.log(1).holes().len(), 2);
    assert!(c.propose(0).is_some(), "it knows what follows what");
    c.settle("a whole log", |c| c.log(1).is_whole());
    c.rest(50);
    assert_eq!((c.leader(), c.log(1).accepting()), (Some(0), ballot));
    assert_eq!(committed(&c, 1)[..6], before[..]);
    // One that follows has no right to lead before it is whole.
    c.isolate(&[2]);
    assert!(c.lose_while_it_runs(1, Lsn(GROUP_BYTES)));
    c.run(1, |r, now, fx| r.on_turn_end(now, fx));
    let now = c.now;
    c.settle("a while", |c| c.now.since(now) > 500_000_000);
    assert!(!c.log(2).is_whole() && c.log(2).promised() == ballot);
    c.isolate(&[]);
    c.settle("a whole log", |c| c.log(2).is_whole());
}

/// The longest tail has a hole that nobody can fill: the others can be enough without it.
#[test]
fn what_one_member_alone_had_and_lost_is_waited_for_or_was_never_committed() {
    let mut c = with_groups(63, 2);
    // Only on the first: never committed.
    let packets = |c: &mut Cluster| c.network.clear();
    for _ in 0..3 {
        c.propose(0).unwrap();
        packets(&mut c);
    }
    c.sync(0, 99);
    crash_all(&mut c);
    let record = record_of(&c, 0, 3);
    c.lose(0, [record]);
    restart(&mut c, 0);
    restart(&mut c, 1);
    c.link();
    c.rest(3000);
    assert!(c.leader().is_none(), "the third may have accepted it with the first");
    assert_eq!(c.log(1).holes().len(), 1);
    restart(&mut c, 2);
    c.link();
    c.settle("a leader of those who never had it", |c| c.leader().is_some());
    let leader = c.leader().unwrap();
    assert_ne!(leader, 0);
    c.propose(leader).unwrap();
    c.settle("one log", |c| {
        (1..=3).all(|n| c.log(n).is_whole() && c.log(n).committed().lsn == Lsn(3 * GROUP_BYTES))
    });
    assert_eq!(committed(&c, 1), committed(&c, 3));
}

#[test]
fn what_fills_a_hole_counts_when_it_is_durable() {
    let mut c = with_groups(64, 1);
    // Two more on a majority, their commit on the leader alone.
    c.isolate(&[3]);
    c.propose(0).unwrap();
    c.propose(0).unwrap();
    for packet in std::mem::take(&mut c.network) {
        c.deliver(packet);
    }
    c.sync(1, 99);
    c.nodes[1].crash();
    let record = record_of(&c, 1, 1);
    c.lose(1, [record]);
    restart(&mut c, 1);
    assert_eq!(c.log(2).held().lsn, Lsn(GROUP_BYTES));
    c.network.clear();
    c.link();
    let mut said = Vec::new();
    for _ in 0..400 {
        c.now = c.now.after(1_000_000);
        for at in 0..2 {
            c.tick(at);
            c.end_turn(at);
        }
        c.sync(0, 99);
        for packet in std::mem::take(&mut c.network) {
            if let (Load::Message(bytes), 2) = (&packet.load, packet.from.node)
                && let Body::Accepted { upto, .. } = Message::decode(bytes).unwrap().0.body
            {
                said.push(upto);
            }
            c.deliver(packet);
        }
    }
    assert!(c.log(2).is_whole() && c.nodes[1].durable < c.nodes[1].wal.len());
    let hint = |r: &Record| matches!(r, Record::State(s) if s.kind == Kind::CommitHint);
    assert!(c.nodes[1].wal[c.nodes[1].durable..].iter().any(hint));
    assert!(said.iter().all(|upto| *upto <= Lsn(GROUP_BYTES)), "{said:?}");
    c.sync(1, 99);
    c.end_turn(1);
    c.rest(100);
    assert_eq!(c.log(1).committed().lsn, Lsn(3 * GROUP_BYTES));
}

#[test]
fn other_bytes_than_those_that_stood_there_fill_nothing() {
    let mut c = with_groups(65, 4);
    crash_all(&mut c);
    let record = record_of(&c, 1, 2);
    c.lose(1, [record]);
    (0..3).for_each(|at| restart(&mut c, at));
    // Whoever is asked answers with a group that follows the one before, and is another.
    let ballot = c.log(2).accepting();
    let chain_before = c.log(2).holes()[0].chain.unwrap();
    let lsn = Lsn(2 * GROUP_BYTES);
    let forged = group(&ProposePosition { ballot, lsn, chain_before, scn_floor: 3 }, 777);
    let mut refused = 0;
    c.link();
    while refused < 4 {
        for packet in std::mem::take(&mut c.network) {
            let Some(asked) = lost_range_asked(&packet).filter(|_| packet.from.node == 2) else {
                continue;
            };
            assert_eq!(asked.from, lsn);
            let from = NodeKey { node: packet.to, incarnation: 100 };
            let head = AcceptHead { ballot, header: &forged, commit: Lsn::ZERO, want: Want::Lost };
            let verdict = c.run(1, |r, now, fx| r.on_fetched(from, &head, now, fx));
            assert_eq!(verdict, AcceptVerdict::Refuse(RefuseReason::ChainMismatch));
            refused += 1;
        }
        c.now = c.now.after(1_000_000);
        c.tick(1);
    }
    assert!(!c.log(2).is_whole());
    c.isolate(&[]);
    c.settle("a whole log", |c| c.log(2).is_whole());
    c.settle("a leader", |c| c.leader().is_some());
}
