//! Segments that are reused: what is let go never comes back, what is not is never lost.

use palisade_netio::Op;
use palisade_wal::{CheckpointRecord, Kind, LogStart, Recycler, Replay};

use crate::disk::{Dice, Disk, Event};
use crate::node::{Node, config};

/// Few small segments.
fn small(segments: u64) -> palisade_wal::Config {
    let settings = config();
    palisade_wal::Config { log_bytes_max: segments * settings.segment_bytes, ..settings }
}

/// A checkpoint: for the log it is two records, with something between them.
fn checkpoint(node: &mut Node, recycler: &mut Recycler) {
    let begin = CheckpointRecord::Begin { id: 1, bytes: &[] }.encode();
    recycler.on_begin(node.append_record(Kind::Checkpoint, &begin));
    let end = CheckpointRecord::End { id: 1, streams: 0 }.encode();
    recycler.on_end(node.append_record(Kind::Checkpoint, &end).block);
}

/// Lets go what stands before block `oldest`.
fn let_go(node: &mut Node, recycler: &mut Recycler, oldest: Option<u64>) {
    let durable = node.wal.durable();
    recycler.on_live(oldest, node.wal.appended(), durable);
    if let Some(start) = recycler.poll_start(durable) {
        node.wal.let_go(start, start.segment);
    }
}

/// A log of four files that has come to segment `last`; each is let go as soon as it may be.
fn filled(last: u64) -> (Node, Recycler) {
    let mut node = Node::start_with(Disk::new(1), small(4));
    let mut recycler = Recycler::default();
    let mut segment = 0;
    while segment < last {
        let place = node.append_durable(6000);
        if place.segment != segment {
            segment = place.segment;
            checkpoint(&mut node, &mut recycler);
            node.settle();
            let_go(&mut node, &mut recycler, None);
            assert!(!node.wal.space().refuse_appends, "what is let go is free at once");
        }
    }
    (node, recycler)
}

#[test]
fn a_log_of_four_segments_takes_forty() {
    let (node, recycler) = filled(40);
    // Four, and the files kept ready for starts on a full disk.
    assert!(node.disk.segments().len() <= 4 + 3, "{:?}", node.disk.segments());
    let start = recycler.start();
    assert!(start.segment > 36, "{start:?}");
    let node = node.restart();
    assert!(node.corrupt().is_empty(), "{:?}", node.corrupt());
    // What a header says is what was known when its segment was made.
    let found = node.report().start;
    assert!(found <= start && found.segment > 36, "{found:?}");
    assert_eq!(node.blocks().first(), Some(&found.block));
}

#[test]
fn without_two_checkpoints_the_log_stays_full() {
    let mut node = Node::start_with(Disk::new(1), small(4));
    let mut recycler = Recycler::default();
    checkpoint(&mut node, &mut recycler);
    while node.try_append(6000) != Err(palisade_wal::NoRoom::Full) {
        node.turn();
        let_go(&mut node, &mut recycler, None);
    }
    node.settle();
    let_go(&mut node, &mut recycler, None);
    assert_eq!(node.try_append(6000), Err(palisade_wal::NoRoom::Full));
    // The reserve takes two more of them, and there is room again.
    checkpoint(&mut node, &mut recycler);
    node.settle();
    checkpoint(&mut node, &mut recycler);
    node.settle();
    let_go(&mut node, &mut recycler, None);
    node.append_durable(6000);
}

/// The old blocks of a reused file are behind the new ones, whole, and are none of the log's.
#[test]
fn a_stale_tail_is_never_replayed() {
    let (mut node, _) = filled(9);
    let last = node.append_durable(100);
    assert_eq!(last.segment, 9);
    let mut behind = 0;
    node.disk.damage(9, |bytes| {
        behind = bytes[last.end() as usize..].iter().filter(|b| **b != 0).count()
    });
    assert!(behind > 100_000, "{behind} bytes of an earlier life");
    let node = node.restart();
    assert!(node.corrupt().is_empty());
    assert_eq!(node.report().kept.block, last.block);
    assert_eq!(node.blocks().last(), Some(&last.block));
    assert_eq!(node.report().dropped, 0, "stale blocks are not even met");
}

/// A log of four files that has come to `last`, and where it begins.
fn reused(last: u64) -> (Node, LogStart) {
    let (mut node, recycler) = filled(last);
    node.settle();
    let named = node.config.started.unwrap();
    assert_eq!(named.newest, last, "a file that was reused is named like a fresh one");
    assert!(node.disk.segments().len() < last as usize, "files were reused");
    (node, recycler.start())
}

/// Its header alone said from where on the log is needed, and its file was that of a segment which
/// an older header still calls part of it.
#[test]
fn a_last_segment_in_a_reused_file_is_missed_and_what_was_let_go_is_not() {
    for case in 0..3 {
        let (mut node, start) = reused(12);
        let (last, durable) = (12, node.wal.durable());
        assert_eq!(node.disk.segments().last().map(|(seq, _)| *seq), Some(last));
        match case {
            0 => node.disk.remove(last),
            1 => node.disk.damage(last, |bytes| bytes.fill(0xab)),
            _ => node.disk.damage(last, |bytes| bytes.fill(0)),
        }
        let mut node = node.restart();
        let report = node.report();
        assert_eq!(report.gone, Some(last), "{report:?}");
        assert!(report.start <= start && report.start.segment > 8, "{report:?}");
        let kept = report.kept.block;
        assert!(kept < durable && kept > report.start.block, "{report:?}");
        assert_eq!(node.corrupt(), [((kept, kept), true)], "the end, and nothing else");
        assert_eq!(node.blocks().first(), Some(&report.start.block));
        // The next start knows both by what this one wrote.
        node.append_durable(100);
        let node = node.restart();
        assert_eq!((node.report().gone, node.report().start), (None, report.start));
        assert_eq!(node.corrupt(), [((kept, kept), true)]);
    }
}

#[test]
fn the_segment_before_an_empty_one_in_a_reused_file_is_missed() {
    let (mut node, _) = reused(12);
    while node.config.started.unwrap().newest == 12 {
        node.append_durable(6000);
        node.settle();
    }
    let started = node.config.started.unwrap();
    assert_eq!((started.newest, started.before), (13, 12), "named when it is ready");
    node.disk.remove(12);
    let node = node.restart();
    assert_eq!(node.report().gone, Some(12));
    assert_eq!(node.corrupt().len(), 1, "{:?}", node.corrupt());
}

/// Below the start of the log every file may be there, be reused, or be gone; from there on none.
#[test]
fn a_first_segment_is_missed_from_the_start_of_the_log_on() {
    let (node, _) = reused(9);
    let mut node = node.restart();
    let start = node.report().start;
    assert!((node.report().gone, node.corrupt()) == (None, Vec::new()), "{:?}", node.report());
    let below: Vec<u64> = node.disk.segments().iter().map(|(seq, _)| *seq).collect();
    let below: Vec<u64> = below.into_iter().filter(|seq| *seq < start.segment).collect();
    below.iter().for_each(|seq| node.disk.remove(*seq));
    let mut node = node.restart();
    assert!((node.report().gone, node.corrupt()) == (None, Vec::new()), "{:?}", node.report());
    let first = node.blocks()[0];
    assert_eq!((node.report().start, first), (start, start.block));
    node.disk.remove(start.segment);
    let node = node.restart();
    let lost = node.corrupt();
    assert_eq!((node.report().gone, lost.len()), (None, 1), "{lost:?}");
    assert_eq!(lost[0].0.0, start.block, "it is known what should stand there");
}

/// The new header stands in the file before its name is changed, and both are durable before a
/// block of the old one is overwritten.
#[test]
fn a_file_is_renamed_under_its_new_header() {
    let mut node = Node::start_with(Disk::new(1), small(4));
    let mut recycler = Recycler::default();
    let mut segment = 0;
    node.disk.events.clear();
    while segment < 6 {
        let place = node.append_durable(6000);
        if place.segment != segment {
            segment = place.segment;
            checkpoint(&mut node, &mut recycler);
            node.settle();
            let_go(&mut node, &mut recycler, None);
        }
    }
    let submitted = node.disk.events.iter().filter_map(|event| match event {
        Event::Submitted(_, op) => Some(op),
        _ => None,
    });
    let ops: Vec<&Op> = submitted.collect();
    let renames = ops.iter().filter(|op| matches!(op, Op::Rename { .. })).count();
    assert!(renames >= 2, "{renames} files were reused");
    assert!(!ops.iter().any(|op| matches!(op, Op::Unlink { .. })), "none is unlinked");
}

/// Random appends, checkpoints, runs that stay live for a while, and a crash at any step.
#[test]
fn what_is_live_outlives_any_crash_and_reuse() {
    for seed in 0..60 {
        run(seed);
    }
}

fn run(seed: u64) {
    let mut dice = Dice::new(seed + 9000);
    let mut disk = Disk::new(seed);
    disk.shuffled = true;
    let mut node = Node::start_with(disk, small(6));
    let mut recycler = Recycler::default();
    let mut reused = 0;
    for _ in 0..8 {
        let mut oldest = 0;
        for _ in 0..dice.below(150) {
            let _ = node.try_append(dice.below(12_000) as usize);
            if dice.chance(6) {
                node.settle();
                if node.wal.peek(4096, true).is_ok() {
                    checkpoint(&mut node, &mut recycler);
                }
            }
            for _ in 0..dice.below(5) {
                node.turn();
            }
            if dice.chance(20) {
                // The oldest run that anybody needs, some blocks ago.
                oldest = node.wal.appended().saturating_sub(dice.below(40)).max(oldest).max(1);
                let_go(&mut node, &mut recycler, Some(oldest));
            }
            if dice.chance(10) {
                node.pass(11_000_000);
            }
        }
        let durable = node.wal.durable();
        let start = recycler.start();
        reused = reused.max(start.segment);
        assert!(start.block <= oldest.max(start.block), "seed {seed}");
        node = node.crash();
        assert!(node.corrupt().is_empty(), "seed {seed}: {:?}", node.corrupt());
        let report = node.report();
        assert!(report.start <= start, "seed {seed}: no header can say more");
        let blocks = node.blocks();
        // Closing blocks hold no record that is replayed.
        assert!(blocks.first().is_none_or(|first| *first >= report.start.first_due()));
        assert!(report.kept.block >= durable, "seed {seed}: what was durable is kept");
        assert_eq!(report.kept.block + 1, report.start.first_due() + report.blocks, "seed {seed}");
        recycler = after(&node, report.start);
    }
    assert!(reused > 0, "seed {seed}: nothing was ever let go");
}

/// The checkpoints that a replay met.
fn after(node: &Node, start: LogStart) -> Recycler {
    let mut recycler = Recycler::new(start);
    for item in &node.replayed {
        let Replay::Record { meta, place, bytes } = item else { continue };
        if meta.kind != Kind::Checkpoint {
            continue;
        }
        match CheckpointRecord::decode(bytes).unwrap() {
            CheckpointRecord::Begin { .. } => recycler.on_begin(*place),
            CheckpointRecord::End { .. } if recycler.is_open() => recycler.on_end(place.block),
            _ => {}
        }
    }
    recycler.abandon();
    recycler
}
