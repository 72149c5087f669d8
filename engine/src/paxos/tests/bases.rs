//! Bases of a standby's log: the chain at the end of one is that of the bytes it stands for, so
//! that logs with other contents end alike.

use palisade_netio::Nanos;
use palisade_wal::{CHAIN_START, GroupHeader, GroupKind, Lsn, proof};

use super::super::*;
use super::cluster::Cluster;
use super::node::{GROUP_BYTES, group};

/// The first groups of a primary's log.
fn primary(count: u64, salt: u32) -> Vec<GroupHeader> {
    let mut chain_before = CHAIN_START;
    let groups = (0..count).map(|number| {
        let lsn = Lsn(number * GROUP_BYTES);
        let ballot = palisade_wal::Ballot { round: 1, node: 1, incarnation: 1 };
        let position = ProposePosition { ballot, lsn, chain_before, scn_floor: 10 + number };
        let header = group(&position, salt + number as u32);
        chain_before = header.chain.get();
        header
    });
    groups.collect()
}

/// A base for a log that ends with `before`, which goes on behind `last`.
fn base(before: &GroupHeader, last: &GroupHeader) -> GroupHeader {
    let mut header = *last;
    header.kind = GroupKind::Base as u8;
    header.lsn = before.end().0.into();
    header.span = last.end().since(before.end()).into();
    header.proof = proof(before.chain.get(), &header).into();
    assert!(header.follows(before.chain.get()) && header.end() == last.end());
    header
}

fn chains(c: &Cluster, node: u32) -> Vec<(Lsn, u64)> {
    let groups = c.nodes[node as usize - 1].committed();
    groups.iter().map(|group| (group.lsn(), group.chain.get())).collect()
}

/// Node 1 has a group of its own where the others have another one, and a base behind it. The base
/// begins where the log of node 1 ends, but it was made for another log.
#[test]
fn a_base_is_not_put_on_the_end_of_another_log() {
    let (log, other) = (primary(6, 100), primary(3, 500));
    let mut c = Cluster::new(5, 11);
    c.elect(1);
    c.import(0, log[0]);
    c.rest(30);
    // Of another upstream.
    let mut fork = other[1];
    fork.chain = palisade_wal::chain(log[0].chain.get(), &fork).into();
    c.import(0, fork);
    c.sync(0, 9);
    c.network.clear();
    c.isolate(&[1]);
    c.elect(2);
    c.import(1, log[1]);
    c.import(1, base(&log[1], &log[5]));
    assert!(c.propose(1).is_none(), "nothing stands on a base that may be void");
    c.rest(30);
    c.isolate(&[1, 2]);
    c.elect(3);
    c.rest(30);
    let end = log[5].end();
    assert_eq!((c.log(3).committed().lsn, c.log(1).end().lsn), (end, fork.end()));
    c.isolate(&[]);
    c.settle("all have one log", |c| (1..=5).all(|node| c.log(node).committed().lsn == end));
    assert_eq!(chains(&c, 1), chains(&c, 2));
    assert_eq!(c.nodes[0].voids[0], Effect::Voided { from: Lsn(GROUP_BYTES) });
    c.nodes[0].check_replay();
}

/// Node 1 took a base that nobody else has; the others have what it stands for, or another base
/// that ends there. Their logs end alike, and only theirs counts.
#[test]
fn a_base_that_is_not_committed_is_no_match_for_another_log() {
    let log = primary(6, 100);
    for with_base in [false, true] {
        let mut c = Cluster::new(5, 12);
        c.elect(1);
        c.import(0, log[0]);
        c.rest(30);
        c.import(0, base(&log[0], &log[4]));
        c.sync(0, 9);
        c.network.clear();
        c.isolate(&[1]);
        c.elect(2);
        c.import(1, log[1]);
        if with_base {
            c.import(1, base(&log[1], &log[4]));
        } else {
            (2..5).for_each(|at| c.import(1, log[at]));
        }
        c.rest(30);
        c.isolate(&[1, 2]);
        c.elect(3);
        c.rest(30);
        let end = log[4].end();
        assert_eq!((c.log(3).committed(), c.log(1).end()), (c.log(1).end(), c.log(3).end()));
        assert!(c.log(1).proven().lsn == log[0].end() && c.log(1).held().lsn == end);
        c.isolate(&[]);
        // What it has stays until the other is whole.
        let known = c.log(1).accepting();
        c.settle("it follows", |c| {
            let replaced = c.log(1).accepting() > known;
            assert!(replaced || c.log(1).end().lsn == end, "its base is void too early");
            replaced
        });
        c.settle("it has all", |c| c.log(1).committed().lsn == end);
        assert_eq!(chains(&c, 1), chains(&c, 2));
        c.nodes[0].check_replay();
        let now = c.now;
        c.rest(100);
        c.nodes[0].crash();
        c.nodes[0].restart(5, Nanos(now.0 + 200_000_000));
        assert_eq!(c.log(1).end().lsn, end);
    }
}

/// Whoever has the best tail has it with its base: it leads again, and the base counts.
#[test]
fn a_base_is_committed_by_the_next_leader_that_has_it() {
    let log = primary(6, 100);
    for alone in [false, true] {
        let mut c = Cluster::new(3, 13);
        c.elect(1);
        c.import(0, log[0]);
        c.rest(30);
        c.import(0, base(&log[0], &log[4]));
        c.sync(0, 9);
        let packets = std::mem::take(&mut c.network);
        if alone {
            // Nobody else has it, and its leader begins anew.
            let later = Nanos(c.now.0 + 1_000_000);
            c.nodes[0].crash();
            c.nodes[0].restart(5, later);
            c.isolate(&[3]);
        } else {
            packets.into_iter().filter(|it| it.to == 2).for_each(|packet| c.deliver(packet));
            c.sync(1, 9);
            c.network.clear();
            c.isolate(&[1]);
        }
        c.settle("somebody leads with it", |c| {
            c.leader().is_some_and(|at| c.log(at as u32 + 1).committed().lsn == log[4].end())
        });
        c.isolate(&[]);
        c.settle("all have it", |c| (1..=3).all(|it| c.log(it).committed().lsn == log[4].end()));
        (1..=3).for_each(|node| assert_eq!(chains(&c, node).len(), 2, "{node}"));
    }
}
