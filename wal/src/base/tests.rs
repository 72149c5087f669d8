use super::*;
use crate::hole::tests::{LEN, START, append, ballot, end_of, groups, led, place};

/// Groups in blocks 1, 3, 5, 7..., committed but for the last.
fn log_of(count: usize) -> (StreamLog, Vec<GroupHeader>) {
    let all = groups(START, count, 10);
    let mut log = led();
    append(&mut log, &all);
    log.commit(all[count - 2].end());
    let blocks: Vec<u64> = log.extents().map(|run| run.place.block).collect();
    assert_eq!(blocks, (0..count as u64).map(|n| 2 * n + 1).collect::<Vec<_>>());
    (log, all)
}

fn lsn(group: u64) -> Lsn {
    Lsn(group * LEN)
}

#[test]
fn a_truncation_drops_whole_runs_up_to_the_committed_position() {
    let (mut log, all) = log_of(4);
    let at = |group: usize, chain| Boundary { lsn: all[group].lsn(), chain };
    log.truncate(Lsn(LEN + 8));
    assert_eq!((log.base(), log.oldest_block()), (at(1, 0), Some(3)));
    assert!(log.find(Lsn(LEN - 1)).is_none() && log.find(lsn(1)).is_some());
    log.truncate(Lsn(8));
    assert_eq!(log.base(), at(1, 0), "it never goes back");
    log.truncate(lsn(3));
    assert_eq!((log.base(), log.oldest_block()), (at(3, all[2].chain.get()), Some(7)));
    assert_eq!((log.end(), log.committed()), (end_of(&all[3]), end_of(&all[2])));
}

/// What stood before the begin of the checkpoint is a hole until records tell of it.
#[test]
fn an_image_brings_back_a_log_whose_older_runs_are_holes() {
    let (mut log, all) = log_of(5);
    let mut back = StreamLog::restore(log.image(7).unwrap());
    assert_eq!((back.end(), back.committed()), (log.end(), log.committed()));
    assert_eq!((back.base(), back.oldest_block()), (START, Some(7)));
    let hole = &back.holes()[0];
    assert_eq!((hole.start, hole.end, &hole.anchor), (lsn(0), lsn(3), &Anchor::Unread));
    assert!(!back.is_lossy(), "as yet");
    assert_eq!(back.image(0), None, "another image would not know of it");
    // One is copied, one is let go, and the last one is copied.
    for log in [&mut log, &mut back] {
        assert!(log.relocate(&all[1], ballot(1), place(20)));
        log.truncate(lsn(1));
        assert!(log.relocate(&all[2], ballot(1), place(21)));
    }
    back.end_replay();
    assert!(back.is_whole() && !back.is_lossy());
    assert_eq!(back.image(0), log.image(0));
    log.stage(lsn(5), Boundary { lsn: lsn(6), chain: 16 }, ballot(2), 9, place(30));
    assert_eq!(log.image(0), None, "what is staged has no place in an image");
}

/// The record that told of a run is lost: the range is a loss, and others can fill it.
#[test]
fn a_run_that_no_record_tells_of_is_lost() {
    let (log, all) = log_of(5);
    let mut back = StreamLog::restore(log.image(7).unwrap());
    assert!(back.relocate(&all[0], ballot(1), place(20)));
    assert!(back.relocate(&all[2], ballot(1), place(21)));
    back.end_replay();
    assert!(back.is_lossy() && !back.is_whole());
    let hole = back.holes()[0].clone();
    assert_eq!((hole.start, hole.end), (lsn(1), lsn(2)));
    assert_eq!(hole.chain, Some(all[0].chain.get()));
    assert!(hole.is_proven_by(all[1].chain.get()) && !hole.is_proven_by(1));
    assert_eq!(back.image(0), None, "a loss is not forgotten");
    assert!(back.move_in(&all[1], ballot(1), place(40)));
    assert!(back.is_whole() && back.image(0).is_some());
}

#[test]
fn a_hole_whose_end_was_not_read_is_proven_by_nothing() {
    let (log, all) = log_of(5);
    let mut back = StreamLog::restore(log.image(7).unwrap());
    back.end_replay();
    assert!(!back.holes()[0].is_proven_by(all[2].chain.get()));
    assert!(!back.tell_anchor(&all[2]), "another group");
    assert!(back.tell_anchor(&all[3]));
    assert!(back.holes()[0].is_proven_by(all[2].chain.get()));
    assert!(!back.tell_anchor(&all[3]), "once");
}

#[test]
fn a_truncation_lets_go_of_holes_that_end_there() {
    let (log, _) = log_of(5);
    let mut back = StreamLog::restore(log.image(7).unwrap());
    back.truncate(lsn(2));
    assert_eq!((back.base().lsn, back.holes().len()), (lsn(0), 1), "part of it is needed");
    back.truncate(lsn(3));
    assert_eq!((back.base().lsn, back.is_whole()), (lsn(3), true));
}

#[test]
fn a_copy_counts_in_place_of_a_live_run_alone() {
    let (mut log, all) = log_of(5);
    assert!(log.relocate(&all[0], ballot(1), place(20)));
    assert_eq!(log.oldest_block(), Some(3));
    assert!(log.relocate(&all[1], ballot(1), place(20)));
    assert_eq!(log.find(lsn(1)).unwrap().start, lsn(0), "one run in one block");
    assert!(log.find(lsn(0)).unwrap().moved && !log.find(lsn(2)).unwrap().moved);
    assert!(!log.relocate(&all[2], ballot(2), place(22)), "others stand there");
    assert!(!log.relocate(&all[4], ballot(1), place(22)), "it is not committed");
    log.truncate(lsn(2));
    assert!(!log.relocate(&all[1], ballot(1), place(23)), "nobody needs it");
    assert_eq!((log.oldest_block(), log.end()), (Some(5), end_of(&all[4])));
}

/// A copy of other bytes than those that stood in a hole is none.
#[test]
fn a_hole_takes_no_copy_of_another_group() {
    let (log, all) = log_of(5);
    let others = groups(START, 5, 70);
    let mut back = StreamLog::restore(log.image(7).unwrap());
    assert!(!back.relocate(&others[0], ballot(1), place(20)) || others[0].follows(START.chain));
    assert!(back.tell_anchor(&all[3]));
    assert!(!back.relocate(&others[2], ballot(1), place(20)), "the next group follows another");
    assert!(back.relocate(&all[2], ballot(1), place(20)));
    assert!(!back.relocate(&others[1], ballot(1), place(21)), "as before");
}

/// A takeover whose staged run begins below what was committed since stands in for older runs.
#[test]
fn a_staged_run_stands_in_for_runs_that_an_image_left_out() {
    let all = groups(START, 6, 10);
    let mut log = led();
    append(&mut log, &all[..5]);
    log.commit(lsn(2));
    let mut back = StreamLog::restore(log.image(20).unwrap());
    for log in [&mut log, &mut back] {
        for group in &all[2..] {
            log.stage(group.lsn(), end_of(group), ballot(2), 1, place(30));
        }
        log.commit(lsn(4));
        log.take_over(ballot(2), end_of(&all[5])).unwrap();
        assert_eq!(log.find(lsn(2)).map(|run| run.place), Some(place(30)));
    }
    back.truncate(lsn(2));
    back.end_replay();
    log.truncate(lsn(2));
    assert_eq!(back.image(0), log.image(0));
}

/// Seed 1795469990000435: a start had forgotten how far the log was committed, and a run was staged
/// from further down than the image knew it to be that counted later.
#[test]
fn a_staged_run_may_begin_below_what_an_image_knew_to_be_committed() {
    let all = groups(START, 6, 10);
    let mut log = led();
    append(&mut log, &all[..5]);
    log.commit(lsn(3));
    let stage = |log: &mut StreamLog, all: &[GroupHeader]| {
        for group in all {
            assert!(log.takes_staged(group, ballot(2)));
            log.stage(group.lsn(), end_of(group), ballot(2), 1, place(30));
        }
        log.take_over(ballot(2), end_of(&all[all.len() - 1]))
    };
    let others = groups(Boundary { lsn: lsn(1), chain: 99 }, 5, 50);
    for begin in [0, 1] {
        let mut back = StreamLog::restore(log.image(20).unwrap());
        assert!(!back.takes_staged(&others[3], ballot(2)), "above what is committed");
        stage(&mut back, &all[begin..]).unwrap();
        back.truncate(lsn(begin as u64));
        back.end_replay();
        assert!(back.is_whole() && !back.is_lossy());
    }
    let mut back = StreamLog::restore(log.image(20).unwrap());
    stage(&mut back, &others).expect_err("it leads to other bytes than those that are committed");
    back.end_replay();
    assert!(back.is_lossy() && !back.takes_staged(&all[1], ballot(2)), "nothing else will tell");
}

/// A log that is told to another one begins where the chain is known, if need be one run early.
#[test]
fn a_log_begins_where_its_chain_is_known() {
    let (mut log, all) = log_of(6);
    let mut back = StreamLog::restore(log.image(0).unwrap());
    for (log, begin) in [(&mut log, 2), (&mut back, 1)] {
        assert_eq!(log.base_within(lsn(9)), all[4].end(), "up to what is committed");
        let to = log.base_within(Lsn(2 * LEN + 8));
        log.truncate(to);
        log.learn_base();
        assert_eq!(log.base().lsn, lsn(begin), "group 2 is needed");
    }
    assert_eq!(log.base().chain, all[1].chain.get());
    assert_eq!(back.base().chain, 0, "the end of group 1 tells what follows");
    back.tell_base(Boundary { lsn: lsn(1), chain: all[0].chain.get() });
    assert_eq!(back.base().chain, all[0].chain.get());
    back.tell_base(log.base());
    assert_eq!(back.base().lsn, lsn(1), "it is the base of another log");
}

/// Seed 1795460911000072: records of copies are of another kind, and who reads the block looks for
/// one kind in each run.
#[test]
fn a_copy_and_the_new_groups_behind_it_in_one_block_are_two_runs() {
    let all = groups(START, 5, 10);
    let mut log = led();
    append(&mut log, &all[..3]);
    log.commit(all[2].end());
    assert!(log.relocate(&all[2], ballot(1), place(20)));
    for group in &all[3..] {
        log.append(group.lsn(), end_of(group), ballot(1), group.scn.get(), place(20));
    }
    let runs: Vec<_> = log.extents().map(|run| (run.start, run.end, run.moved)).collect();
    assert_eq!(runs[2..], [(lsn(2), lsn(3), true), (lsn(3), lsn(5), false)]);
    // So are they where a group before a copy is new.
    log.commit(all[4].end());
    assert!(log.relocate(&all[4], ballot(1), place(20)));
    let runs: Vec<_> = log.extents().map(|run| (run.start, run.moved)).collect();
    assert_eq!(runs[2..], [(lsn(2), true), (lsn(3), false), (lsn(4), true)]);
}
