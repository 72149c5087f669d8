//! Peers and disks that say what cannot be: nothing is believed, and nothing panics.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Boundary, CHAIN_START, Kind, Lsn, StreamLog};

use super::super::*;
use super::cluster::Cluster;
use super::node::{GROUP_BYTES, STREAM, group, members};

fn key(node: u32, incarnation: u64) -> NodeKey {
    NodeKey { node, incarnation }
}

fn say(c: &mut Cluster, to: u32, from: NodeKey, body: Body) {
    let message = Message { stream: STREAM, body };
    c.run(to as usize - 1, |r, now, fx| r.on_message(from, &message, now, fx));
}

#[test]
fn a_group_of_a_stranger_ends_no_leadership() {
    let mut c = Cluster::new(3, 40);
    let ballot = c.elect(1);
    let position = c.nodes[0].replica().leader_slot().unwrap();
    let stranger = Ballot { round: ballot.round + 1, node: 9, incarnation: 100 };
    // And nobody else has the name of this node.
    for (from, ballot) in [(key(9, 100), stranger), (key(1, 100), ballot)] {
        let header = group(&ProposePosition { ballot, ..position }, 1);
        let head = AcceptHead { ballot, header: &header, commit: header.end(), want: Want::Next };
        let verdict = c.run(0, |r, now, fx| r.on_accept(from, &head, now, fx));
        assert_eq!(verdict, AcceptVerdict::Refuse(RefuseReason::Unasked));
        let verdict = c.run(0, |r, now, fx| r.on_fetched(from, &head, now, fx));
        assert_eq!(verdict, AcceptVerdict::Refuse(RefuseReason::Unasked));
        assert_eq!(c.nodes[0].replica().serving(), Some(position.ballot));
    }
}

#[test]
fn an_accepted_inside_of_a_group_counts_for_nothing() {
    let mut c = Cluster::new(3, 41);
    let ballot = c.elect(1);
    c.propose(0).unwrap();
    c.propose(0).unwrap();
    let all = 2 * GROUP_BYTES;
    for upto in [8, GROUP_BYTES + 8, all + 8, u64::MAX / 2] {
        say(
            &mut c,
            1,
            key(2, 100),
            Body::Accepted { ballot, upto: Lsn(upto), seq: 0, low: Lsn::MAX, committed: Lsn::MAX },
        );
        say(
            &mut c,
            1,
            key(3, 100),
            Body::Accepted { ballot, upto: Lsn(upto), seq: 0, low: Lsn::MAX, committed: Lsn::MAX },
        );
        c.end_turn(0);
        assert_eq!(c.log(1).committed().lsn, Lsn::ZERO);
    }
    c.settle("both groups", |c| c.log(1).committed().lsn == Lsn(all));
}

/// What all hold is committed. A leader that says more leaves nothing behind that the next one
/// would say again.
#[test]
fn who_leads_next_does_not_say_that_all_hold_what_is_not_committed() {
    let mut c = Cluster::new(3, 46);
    let ballot = c.elect(1);
    c.propose(0).unwrap();
    c.settle("a group", |c| (1..=3).all(|node| c.log(node).committed().lsn == Lsn(GROUP_BYTES)));
    let (upto, end, held) = (Lsn(1 << 30), Lsn(1 << 30), Lsn(1 << 30));
    for node in [2, 3] {
        say(&mut c, node, key(1, 100), Body::Commit { ballot, upto, end, held });
        let replica = c.nodes[node as usize - 1].replica();
        assert_eq!(replica.held(), Lsn(GROUP_BYTES));
    }
    c.isolate(&[1]);
    c.settle("another leader", |c| c.leader().is_some_and(|at| at > 0));
    let at = c.leader().unwrap();
    c.propose(at).unwrap();
    let both = Lsn(2 * GROUP_BYTES);
    c.settle("its group", |c| [2, 3].iter().all(|node| c.log(*node).committed().lsn == both));
}

#[test]
fn a_node_with_two_disks_has_one_pre_vote() {
    let mut c = Cluster::new(5, 42);
    c.run(0, |r, now, fx| r.campaign(now, fx));
    let ballot = Ballot { round: 1, node: 1, incarnation: 100 };
    for incarnation in 100..200 {
        let promised = Ballot::NONE;
        let reply = Body::PreVoteReply { ballot, granted: true, promised, leader: promised };
        say(&mut c, 1, key(2, incarnation), reply);
    }
    assert_eq!(c.nodes[0].replica().status().role, RoleName::PreCandidate);
}

#[test]
fn who_is_no_member_any_more_is_not_heard() {
    let mut c = Cluster::new(3, 43);
    let ballot = c.elect(1);
    c.rest(50);
    assert_eq!(c.nodes[1].replica().status().up, 3);
    let ballot = Ballot { round: ballot.round + 1, ..ballot };
    let mut config = c.nodes[0].replica().config().stamped(ballot, &[]);
    config.members.retain(|m| m.node != 3);
    let end = Boundary { lsn: Lsn::ZERO, chain: CHAIN_START };
    say(&mut c, 2, key(1, 100), Body::Takeover { ballot, end, scn: 0, config });
    assert_eq!(c.log(2).accepting(), ballot);
    assert_eq!(c.nodes[1].replica().status().up, 2);
}

#[test]
fn a_round_that_nothing_can_follow_makes_no_ballot() {
    let mut c = Cluster::new(3, 44);
    let promised = Ballot { round: 1 << 62, node: 2, incarnation: 100 };
    let ballot = Ballot::NONE;
    say(&mut c, 1, key(2, 100), Body::Refuse { ballot, promised, no_takeover: false });
    c.network.clear();
    c.run(0, |r, now, fx| r.campaign(now, fx));
    assert!(c.network.is_empty(), "nobody could read that round");
    assert_eq!(c.nodes[0].replica().status().reason, "the rounds are used up");
    // The others do not mind.
    c.settle("another leader", |c| c.leader().is_some_and(|at| at != 0));
}

#[test]
fn an_scn_that_nothing_can_follow_is_not_taken() {
    let mut c = Cluster::new(3, 45);
    c.elect(1);
    let position = c.nodes[0].replica().leader_slot().unwrap();
    let mut header = group(&position, 1);
    header.scn = u64::MAX.into();
    header.chain = palisade_wal::chain(position.chain_before, &header).into();
    let (ballot, commit) = (position.ballot, Lsn::ZERO);
    let head = AcceptHead { ballot, header: &header, commit, want: Want::Next };
    c.link();
    let verdict = c.run(1, |r, now, fx| r.on_accept(key(1, 100), &head, now, fx));
    assert_eq!(verdict, AcceptVerdict::Refuse(RefuseReason::ChainMismatch));
    // Nor does a candidate start above it.
    let end = Boundary { lsn: Lsn::ZERO, chain: CHAIN_START };
    let config = members(3);
    let (accepting, committed, base) = (Ballot::NONE, Lsn::ZERO, Lsn::ZERO);
    let promise = Promise {
        ballot,
        accepting,
        end,
        committed,
        base,
        unknown: false,
        holes: Vec::new(),
        scn: u64::MAX,
        config,
    };
    let mut bytes = Vec::new();
    Message { stream: STREAM, body: Body::Promise(promise) }.encode_into(&mut bytes);
    assert_eq!(Message::decode(&bytes), Err(DecodeError::Inconsistent));
}

/// What stands below the base of the best tail can be had from nobody. Who has that tail is told
/// to ask for votes itself.
#[test]
fn who_lacks_the_base_of_the_best_tail_yields_to_who_has_it() {
    for (base, gives_up) in [(Lsn(GROUP_BYTES), true), (Lsn::ZERO, false)] {
        let mut c = Cluster::new(3, 46);
        c.link();
        c.run(0, |r, now, fx| r.campaign(now, fx));
        for _ in 0..2 {
            // The question before the vote, and its answers.
            std::mem::take(&mut c.network).into_iter().for_each(|packet| c.deliver(packet));
        }
        c.sync(0, 9);
        c.end_turn(0);
        let ballot = c.log(1).promised();
        assert_eq!((ballot.node, c.nodes[0].replica().status().role), (1, RoleName::Candidate));
        let end = Boundary { lsn: Lsn(2 * GROUP_BYTES), chain: 7 };
        let promise = Promise {
            ballot,
            accepting: Ballot { round: 1, node: 2, incarnation: 100 },
            end,
            committed: Lsn(GROUP_BYTES),
            base,
            unknown: false,
            holes: Vec::new(),
            scn: 0,
            config: members(3),
        };
        say(&mut c, 1, key(2, 100), Body::Promise(promise));
        let (role, reason) =
            (c.nodes[0].replica().status().role, c.nodes[0].replica().status().reason);
        assert_eq!(reason == "the best tail begins above this log", gives_up, "{reason}");
        assert_eq!(role == RoleName::Follower, gives_up, "{role:?}");
        // The disk of node 2 has promised as well.
        let packets = std::mem::take(&mut c.network);
        packets.into_iter().filter(|p| p.to == 2).for_each(|packet| c.deliver(packet));
        let better = c.nodes[1].replica().status().role;
        assert_eq!(better == RoleName::PreCandidate, gives_up, "{better:?}");
    }
}

#[test]
fn a_takeover_record_with_members_of_another_ballot_is_not_replayed() {
    let (mut log, mut config) = (StreamLog::default(), members(3));
    let ballot = Ballot { round: 3, node: 1, incarnation: 100 };
    let later = Ballot { round: 4, ..ballot };
    let body =
        TakeoverBody { chain: CHAIN_START, scn: 0, config: config.stamped(later, &[]) }.encode();
    let lsn = Lsn::ZERO;
    let refused = replay(&mut log, &mut config, Kind::Takeover, ballot, lsn, &body);
    assert_eq!(refused, Err(ReplayError::Body(DecodeError::Inconsistent)));
    assert_eq!((log.accepting(), config.ballot), (Ballot::NONE, Ballot::NONE));
    assert_eq!(replay(&mut log, &mut config, Kind::Takeover, later, lsn, &body), Ok(()));
    assert_eq!((log.accepting(), config.ballot), (later, later));
}

/// A follower promises by its Takeover alone. Where bytes below it are lost the log is what it
/// names all the same: they are a hole. An older leader is refused, and the newer members count.
#[test]
fn a_takeover_above_lost_bytes_is_still_a_promise() {
    let (mut log, mut config) = (StreamLog::default(), members(5));
    let ballot = |round, node| Ballot { round, node, incarnation: 100 };
    let takeover = |ballot, lsn: u64, chain| {
        let body = TakeoverBody { chain, scn: 0, config: members(5).stamped(ballot, &[]) }.encode();
        (ballot, Lsn(lsn), body)
    };
    let mut again = |log: &mut StreamLog, (ballot, lsn, body): (Ballot, Lsn, Vec<u8>)| {
        replay(log, &mut config, Kind::Takeover, ballot, lsn, &body)
    };
    assert_eq!(again(&mut log, takeover(ballot(5, 1), 0, CHAIN_START)), Ok(()));
    let refused = again(&mut log, takeover(ballot(6, 4), GROUP_BYTES, 77));
    assert!(matches!(refused, Err(ReplayError::Takeover(_))), "nothing is lost: {refused:?}");
    log.lose_tail(true);
    let refused = again(&mut log, takeover(ballot(6, 4), 0, 77));
    assert!(matches!(refused, Err(ReplayError::Takeover(_))), "{refused:?}");
    assert_eq!((log.promised(), log.is_unknown()), (ballot(6, 4), true));
    assert_eq!(again(&mut log, takeover(ballot(7, 2), GROUP_BYTES, 77)), Ok(()));
    assert_eq!((log.promised(), log.accepting()), (ballot(7, 2), ballot(7, 2)));
    assert!(!log.is_unknown() && config.ballot == ballot(7, 2));
    assert_eq!((log.end().lsn, log.held().lsn), (Lsn(GROUP_BYTES), Lsn::ZERO));

    let me = Me { node: 5, incarnation: 100, region: String::new() };
    let (tuning, mut fx) = (super::node::tuning(), Effects::default());
    let mut replica = Replica::recovered(STREAM, me, config, log, tuning, 1, Nanos(0));
    replica.start(Nanos(0), &mut fx);
    let older = members(5).stamped(ballot(6, 3), &[]);
    let end = Boundary { lsn: Lsn::ZERO, chain: CHAIN_START };
    let body = Body::Takeover { ballot: ballot(6, 3), end, scn: 0, config: older };
    replica.on_message(key(3, 100), &Message { stream: STREAM, body }, Nanos(1), &mut fx);
    assert_eq!(replica.log().accepting(), ballot(7, 2));
}
