use super::*;
use crate::group::{CHAIN_START, GROUP_HEADER_BYTES, GroupKind, chain};
use zerocopy::FromBytes;

pub(crate) const LEN: u64 = 128;

pub(crate) fn ballot(round: u64) -> Ballot {
    Ballot { round, node: 1, incarnation: 1 }
}

pub(crate) fn place(block: u64) -> Place {
    Place { segment: 1, offset: block * 4096, block, len: 4096 }
}

/// `count` groups from `before` on, told apart by `value`.
pub(crate) fn groups(before: Boundary, count: usize, value: u32) -> Vec<GroupHeader> {
    let (mut at, mut made) = (before, Vec::new());
    for number in 0..count as u32 {
        let mut header = GroupHeader::read_from_bytes(&[0; GROUP_HEADER_BYTES]).unwrap();
        header.lsn = at.lsn.0.into();
        header.len = (LEN as u32).into();
        header.records = 1.into();
        header.scn = (u64::from(number) + 1).into();
        header.kind = GroupKind::Data as u8;
        header.entries_crc = (value + number).into();
        header.chain = chain(at.chain, &header).into();
        at = end_of(&header);
        made.push(header);
    }
    made
}

pub(crate) fn end_of(header: &GroupHeader) -> Boundary {
    Boundary { lsn: header.end(), chain: header.chain.get() }
}

pub(crate) const START: Boundary = Boundary { lsn: Lsn(0), chain: CHAIN_START };

pub(crate) fn led() -> StreamLog {
    let mut log = StreamLog::default();
    log.take_over(ballot(1), START).unwrap();
    log
}

pub(crate) fn append(log: &mut StreamLog, groups: &[GroupHeader]) {
    for (at, header) in groups.iter().enumerate() {
        let block = header.lsn().0 / LEN + 1 + at as u64;
        let (round, scn) = (log.accepting(), header.scn.get());
        log.append(header.lsn(), end_of(header), round, scn, place(block));
    }
}

fn move_in(log: &mut StreamLog, groups: &[GroupHeader]) -> bool {
    let mut filled = false;
    for (at, header) in groups.iter().enumerate() {
        filled |= log.move_in(header, ballot(1), place(100 + at as u64));
    }
    filled
}

/// Eight groups of which the disk lost those of the range.
fn damaged(lost: std::ops::Range<usize>) -> (StreamLog, Vec<GroupHeader>) {
    let all = groups(START, 8, 10);
    let mut log = led();
    append(&mut log, &all[..lost.start]);
    log.lose_tail(false);
    assert!(log.resume(&all[lost.end], ballot(1), place(50)));
    append(&mut log, &all[lost.end + 1..]);
    (log, all)
}

#[test]
fn a_later_group_of_the_same_ballot_shows_what_is_lost() {
    let (log, all) = damaged(2..4);
    assert!(!log.is_unknown() && !log.is_whole());
    let hole = &log.holes()[0];
    assert_eq!((hole.start, hole.end), (all[2].lsn(), all[4].lsn()));
    assert_eq!(hole.chain, Some(all[1].chain.get()));
    assert!(hole.is_proven_by(all[3].chain.get()) && !hole.is_proven_by(1));
    assert_eq!(log.end(), end_of(&all[7]));
    assert_eq!(log.held(), end_of(&all[1]));
    assert!(log.find(all[3].lsn()).is_none() && log.find(all[4].lsn()).is_some());
    // Nothing of this stream was lost.
    let (log, _) = damaged(2..2);
    assert!(!log.is_unknown() && log.is_whole());
}

#[test]
fn a_group_after_lost_hard_state_or_of_another_ballot_shows_nothing() {
    let all = groups(START, 4, 10);
    for (hard_state, round, header) in
        [(true, 1, &all[2]), (false, 2, &all[2]), (false, 1, &all[0]), (true, 1, &all[1])]
    {
        let mut log = led();
        append(&mut log, &all[..1]);
        log.lose_tail(hard_state);
        assert!(!log.resume(header, ballot(round), place(9)), "{hard_state} {round}");
        assert!(log.is_unknown() && log.end() == end_of(&all[0]));
    }
    let mut log = led();
    log.promise(ballot(3));
    log.lose_tail(false);
    assert!(!log.resume(&all[0], ballot(1), place(9)), "no group follows a higher promise");
    // It stands where the log ends and is another one's successor.
    let mut log = led();
    append(&mut log, &all[..1]);
    log.lose_tail(false);
    let other = groups(end_of(&groups(START, 1, 99)[0]), 1, 5);
    assert!(!log.resume(&other[0], ballot(1), place(9)));
}

#[test]
fn a_hole_is_filled_by_the_groups_that_stood_there_and_by_no_others() {
    let (mut log, all) = damaged(2..4);
    let others = groups(end_of(&all[1]), 2, 77);
    assert!(log.takes_moved(&others[0]) && !log.takes_moved(&all[3]));
    assert!(!move_in(&mut log, &others), "its end is another");
    assert_eq!((log.is_whole(), log.moved_end(all[2].lsn())), (false, Some(end_of(&others[1]))));
    assert!(move_in(&mut log, &all[2..4]));
    assert!(log.is_whole() && log.held() == log.end());
    assert_eq!(log.chain_at(all[3].lsn()), Some(all[2].chain.get()));
    let found = log.find(all[3].lsn()).unwrap();
    assert_eq!((found.place, found.moved), (place(101), true));
    assert!(!log.find(all[4].lsn()).unwrap().moved);
}

#[test]
fn a_commit_above_a_hole_leaves_it_and_one_inside_of_it_is_not_known() {
    let (mut log, all) = damaged(2..4);
    log.commit(all[3].lsn());
    assert_eq!(log.committed(), START);
    log.commit(all[6].lsn());
    assert_eq!(log.committed(), end_of(&all[5]));
    assert!(!log.is_whole() && log.held() == log.end(), "no hole above the committed");
    assert!(move_in(&mut log, &all[2..4]));
    assert_eq!((log.committed(), log.end()), (end_of(&all[5]), end_of(&all[7])));
    assert!(log.is_whole());
}

/// Where it ends is what a peer says.
#[test]
fn a_takeover_that_ends_in_a_hole_below_the_committed_is_refused() {
    let (mut log, all) = damaged(2..4);
    log.commit(all[6].lsn());
    let inside = Boundary { lsn: all[3].lsn(), chain: all[2].chain.get() };
    assert!(log.is_held_for(ballot(2), inside), "no hole is above the committed");
    let refused = log.check_takeover(ballot(2), inside);
    assert!(matches!(refused, Err(TakeoverRefusal::BelowCommitted { .. })), "{refused:?}");
    log.truncate(all[6].lsn());
    let below = end_of(&all[0]);
    assert!(below.lsn < log.base().lsn && log.is_held_for(ballot(2), below));
}

#[test]
fn a_takeover_keeps_the_holes_below_its_end() {
    let (mut log, all) = damaged(2..4);
    let (below, at, above) = (end_of(&all[0]), end_of(&all[1]), end_of(&all[5]));
    assert!(log.is_held_for(ballot(2), at) && !log.is_held_for(ballot(2), above));
    for (end, whole) in [(below, true), (at, true), (above, false)] {
        let mut log = log.clone();
        log.take_over(ballot(2), end).unwrap();
        assert_eq!((log.end(), log.is_whole()), (end, whole));
    }
    let inside = Boundary { lsn: all[3].lsn(), chain: all[2].chain.get() };
    assert!(log.check_takeover(ballot(2), inside).is_err(), "nothing is known inside");
    // What is staged from the start of the hole on takes its place.
    for header in &all[2..5] {
        log.stage(header.lsn(), end_of(header), ballot(2), 1, place(70));
    }
    assert!(log.is_held_for(ballot(2), end_of(&all[4])));
    log.take_over(ballot(2), end_of(&all[4])).unwrap();
    assert!(log.is_whole() && log.find(all[3].lsn()).unwrap().place == place(70));
}

#[test]
fn a_takeover_whose_bytes_are_lost_makes_a_hole_down_to_the_committed() {
    let all = groups(START, 4, 10);
    let mut log = led();
    append(&mut log, &all[..2]);
    log.commit(all[1].lsn());
    let end = end_of(&all[3]);
    assert!(log.take_over_lost(ballot(3), end).is_err(), "nothing was ever lost");
    log.lose_tail(true);
    assert!(log.take_over_lost(ballot(3), log.committed()).is_err());
    log.take_over_lost(ballot(3), end).unwrap();
    assert_eq!((log.end(), log.accepting(), log.is_unknown()), (end, ballot(3), false));
    assert_eq!(log.held(), end_of(&all[0]));
    assert!(log.find(all[1].lsn()).is_none(), "it may be another one in that log");
    assert!(move_in(&mut log, &all[1..]));
    assert!(log.is_whole() && log.held() == end);
}

/// Walk of three nodes, seed 9092: the run was dropped, and nobody else had it any more.
#[test]
fn a_takeover_keeps_what_was_moved_behind_the_known_end_and_leads_to_its_chain() {
    let all = groups(START, 4, 10);
    let end = end_of(&all[3]);
    let others = groups(end_of(&all[1]), 2, 77);
    for (run, whole) in [(&all[2..], true), (&all[2..3], false), (&others[..], false)] {
        let mut log = led();
        append(&mut log, &all[..2]);
        log.commit(all[1].lsn());
        log.lose_tail(true);
        assert!(!move_in(&mut log, run), "nothing says yet where it ends");
        log.take_over_lost(ballot(3), end).unwrap();
        assert_eq!((log.end(), log.accepting(), log.is_whole()), (end, ballot(3), whole));
        let held = if whole { end } else { end_of(&all[0]) };
        assert_eq!((log.held(), log.find(all[1].lsn()).is_some()), (held, whole));
        assert_eq!(log.find(all[3].lsn()).is_some_and(|run| run.moved), whole);
    }
    // What ends at the known end is lost too: it is one loss.
    let mut log = led();
    append(&mut log, &all[..2]);
    assert!(log.open_hole(all[1].lsn(), all[2].lsn(), Anchor::Chain(all[1].chain.get())));
    log.lose_tail(true);
    move_in(&mut log, &all[2..]);
    log.take_over_lost(ballot(3), end).unwrap();
    assert!(!log.is_whole() && log.held() == START);
    assert!(move_in(&mut log, &all[..]) && log.is_whole());
}

#[test]
fn a_run_becomes_a_hole_when_it_cannot_be_read() {
    let all = groups(START, 6, 10);
    let mut log = led();
    append(&mut log, &all);
    log.commit(all[2].lsn());
    let (start, end) = (all[4].lsn(), all[5].lsn());
    assert!(!log.open_hole(Lsn(start.0 + 8), end, Anchor::Chain(1)));
    assert!(log.open_hole(start, end, Anchor::Chain(all[4].chain.get())));
    assert_eq!(log.held(), end_of(&all[3]));
    // The one below touches it; the one below the committed has no known chain.
    assert!(log.open_hole(all[3].lsn(), start, Anchor::Chain(all[3].chain.get())));
    assert!(log.open_hole(Lsn(0), all[1].lsn(), Anchor::Next(Box::new(all[1]))));
    let ranges: Vec<_> = log.holes().iter().map(|hole| (hole.start, hole.end)).collect();
    assert_eq!(ranges, [(Lsn(0), all[1].lsn()), (all[3].lsn(), end)]);
    assert_eq!(log.holes()[0].chain, None);
    assert!(move_in(&mut log, &all[..1]) && move_in(&mut log, &all[3..5]));
    assert!(log.is_whole());
    // At the end of the log the chain is known.
    assert!(log.open_hole(end, end_of(&all[5]).lsn, Anchor::Chain(all[5].chain.get())));
    assert_eq!((log.end(), log.held().lsn), (end_of(&all[5]), end));
    let end = Boundary { lsn: end, chain: all[4].chain.get() };
    log.take_over(ballot(2), end).unwrap();
    assert!(log.is_whole() && log.end() == end);
}

#[test]
fn what_was_moved_before_the_loss_is_seen_fills_it() {
    let all = groups(START, 4, 10);
    let mut log = led();
    append(&mut log, &all[..1]);
    log.lose_tail(false);
    assert!(!move_in(&mut log, &all[1..2]) && log.is_unknown());
    assert!(log.resume(&all[2], ballot(1), place(9)));
    assert!(log.is_whole() && log.find(all[1].lsn()).unwrap().moved);
}

#[test]
fn holes_are_bounded() {
    let all = groups(START, 3 * HOLES_MAX, 10);
    let mut log = led();
    append(&mut log, &all);
    for at in (0..all.len() - 1).step_by(2) {
        let anchor = Anchor::Next(Box::new(all[at + 1]));
        log.open_hole(all[at].lsn(), all[at + 1].lsn(), anchor);
    }
    assert_eq!(log.holes().len(), HOLES_MAX);
    let last = log.holes().last().unwrap();
    assert!(last.end.0 - last.start.0 > LEN && log.find(last.start).is_none());
    let lost: Vec<_> = log.holes().iter().map(|hole| (hole.start, hole.end)).collect();
    for (start, end) in lost {
        let within = |g: &&GroupHeader| g.lsn() >= start && g.end() <= end;
        let filling: Vec<GroupHeader> = all.iter().filter(within).copied().collect();
        assert!(move_in(&mut log, &filling));
    }
    assert!(log.is_whole());
}
