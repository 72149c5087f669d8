//! The recovery table on real bytes: a test per row.

use palisade_netio::{Errno, Op};
use palisade_wal::{Kind, NoRoom, Replay, SEGMENT_SEQ_MAX, Tail, WalError, segment_name};

use crate::disk::{Disk, Event, Fault, SECTOR};
use crate::node::{Node, STREAM, config};

/// Five durable blocks of 8 KiB in segment 1, at 4096 + 8192 * n, D = 4 on disk.
fn five() -> Node {
    let mut node = Node::start(1);
    (0..5).for_each(|_| {
        node.append_durable(6000);
    });
    assert_eq!(node.wal.durable(), 5);
    node
}

const BLOCK: usize = 8192;

fn at(block: usize) -> usize {
    4096 + (block - 1) * BLOCK
}

#[test]
fn an_empty_directory_is_a_new_log() {
    let node = Node::start(1);
    let report = node.report();
    assert_eq!((report.tail, report.blocks, report.segment), (Tail::Fresh, 0, 1));
    assert_eq!(node.disk.segments().len(), 1);
}

#[test]
fn what_was_durable_is_replayed_in_order_and_the_log_goes_on() {
    let mut node = five().restart();
    let report = node.report();
    assert_eq!(node.blocks(), [1, 2, 3, 4, 5]);
    assert_eq!((report.tail, report.kept.block, report.segment), (Tail::Zero, 5, 2));
    let place = node.append_durable(100);
    assert_eq!((place.block, place.segment, place.offset), (6, 2, 4096));
    let node = node.restart();
    assert_eq!(node.blocks(), [1, 2, 3, 4, 5, 6]);
    assert!(node.corrupt().is_empty());
}

#[test]
fn the_tail_torn_at_every_sector_is_dropped() {
    for sector in 0..BLOCK / SECTOR {
        let mut node = five();
        let start = at(5) + sector * SECTOR;
        node.disk.damage(1, |bytes| bytes[start..at(5) + BLOCK].fill(0));
        let node = node.restart();
        let report = node.report();
        // The payload ends within the block; what is torn behind it is pad.
        let whole = sector * SECTOR >= 512 + 56 + 96 + 24 + 6000;
        let expected: &[u64] = if whole { &[1, 2, 3, 4, 5] } else { &[1, 2, 3, 4] };
        assert_eq!(node.blocks(), expected, "sector {sector}");
        let tail = if whole || sector == 0 { Tail::Zero } else { Tail::Torn };
        assert_eq!((report.tail, report.corrupt.len()), (tail, 0), "sector {sector}");
    }
}

/// Block 1 durable, then 2, 3 and 4 in flight together, all sealed with D = 1; block 2 is damaged.
fn hole() -> Node {
    let mut settings = config();
    settings.segment_bytes = 8 << 20;
    let mut node = Node::start_with(Disk::new(1), settings);
    node.append_durable(100);
    node.disk.fault = Box::new(|op| match op {
        Op::Write { barrier: true, .. } => Fault::Hold,
        _ => Fault::None,
    });
    for _ in 0..3 {
        node.append(300_000);
        node.submit();
    }
    node.disk.fault = Box::new(|_| Fault::None);
    node.settle();
    assert_eq!(node.wal.durable(), 4);
    let hole = node.appended[1].0;
    node.disk.damage(1, |bytes| bytes[hole.offset as usize + 600] ^= 1);
    node
}

#[test]
fn a_hole_before_valid_blocks_is_the_end() {
    let node = hole().restart();
    let report = node.report();
    assert_eq!((report.tail, report.dropped, report.durable_upto), (Tail::Hole, 2, 1));
    assert_eq!(node.blocks(), [1]);
    assert!(node.corrupt().is_empty());
}

#[test]
fn an_index_is_written_when_what_it_calls_durable_is() {
    let mut node = five();
    let index =
        config().segment_bytes - palisade_wal::limits::index_reserve(config().segment_bytes);
    node.disk.events.clear();
    let node = node.restart();
    let is_index = |event: &Event| match event {
        Event::Submitted(_, Op::Write { offset, .. }) => *offset == index,
        _ => false,
    };
    let is_sync = |event: &Event| matches!(event, Event::Submitted(_, Op::Sync { .. }));
    let index = node.disk.events.iter().position(is_index).expect("the segment was sealed");
    assert!(node.disk.events[..index].iter().any(is_sync), "sealed before it was synced");
}

#[test]
fn a_discarded_block_never_comes_back() {
    let mut node = hole().restart();
    let place = node.append_durable(100);
    assert_eq!((place.block, place.segment), (2, 2));
    let node = node.restart();
    assert_eq!(node.blocks(), [1, 2]);
    assert_eq!((node.report().tail, node.report().dropped), (Tail::Zero, 0));
    // The rewritten block is torn: still nothing of the old ones.
    let mut node = hole().restart();
    let place = node.append_durable(100);
    node.disk.damage(2, |bytes| bytes[place.offset as usize + 600] ^= 1);
    let node = node.restart();
    assert_eq!(node.blocks(), [1]);
    assert_eq!(node.report().tail, Tail::Torn);
    // Nor when the segment that names the last block kept has lost its header.
    let mut node = hole().restart();
    (0..2).for_each(|_| {
        node.append_durable(100);
    });
    node.disk.damage(2, |bytes| bytes[..4096].fill(7));
    let node = node.restart();
    assert_eq!(node.blocks(), [1, 2, 3]);
    assert_eq!(node.report().segment, 3);
}

#[test]
fn damage_at_or_before_d_is_corrupt_and_not_truncated() {
    // Head, record header, body: of block 3, promised by block 4 and 5.
    for (offset, lost, damaged) in [(8, 1, 0), (520, 1, 0), (1000, 0, 1)] {
        let mut node = five();
        node.disk.damage(1, |bytes| bytes[at(3) + offset] ^= 1);
        let node = node.restart();
        let report = node.report();
        assert_eq!(node.blocks(), [1, 2, 4, 5], "offset {offset}");
        assert_eq!((report.corrupt.len(), report.damaged), (lost, damaged), "offset {offset}");
        if lost == 1 {
            assert_eq!(node.corrupt(), [((3, 3), false)]);
        }
        let hurt = node.replayed.iter().find_map(|item| match item {
            Replay::Damaged { meta, place } => Some((meta.stream, place.block)),
            _ => None,
        });
        assert_eq!(hurt, (damaged == 1).then_some((STREAM, 3)));
        assert_eq!((report.kept.block, report.tail), (5, Tail::Zero));
    }
}

#[test]
fn lost_hard_state_is_told_from_lost_data() {
    for (hard_block, lost_block, maybe) in [(2, 3, false), (3, 3, true), (4, 3, true)] {
        let mut node = Node::start(1);
        let mut places = Vec::new();
        for block in 1..=6 {
            let place = if block == hard_block {
                node.append_record(Kind::Promise, &[1; 6000])
            } else {
                node.append(6000)
            };
            places.push(place);
            node.settle();
        }
        node.disk.damage(1, |bytes| bytes[at(lost_block)] ^= 1);
        let node = node.restart();
        assert_eq!(node.corrupt(), [((3, 3), maybe)], "hard state in {hard_block}");
    }
}

#[test]
fn damaged_hard_state_with_readable_headers_is_lost_hard_state() {
    let mut node = Node::start(1);
    node.append_durable(6000);
    node.append_record(Kind::Promise, &[1; 6000]);
    node.settle();
    (0..2).for_each(|_| {
        node.append_durable(6000);
    });
    node.disk.damage(1, |bytes| bytes[at(2) + 1000] ^= 1);
    let node = node.restart();
    assert_eq!(node.corrupt(), [((2, 2), true)]);
    assert_eq!((node.blocks(), node.report().damaged), (vec![1, 3, 4], 1));
}

#[test]
fn promised_blocks_that_are_lost_at_the_end_are_corrupt() {
    let mut node = five();
    // The closing block promises all five.
    node.pass(1);
    node.pass(20_000_000);
    node.settle();
    assert_eq!(node.wal.appended(), 6);
    node.disk.damage(1, |bytes| bytes[at(4)..at(6)].fill(0));
    let mut node = node.restart();
    assert_eq!(node.blocks(), [1, 2, 3]);
    assert_eq!(node.corrupt(), [((4, 5), false)]);
    assert_eq!(node.report().kept.block, 6);
    assert_eq!(node.append_durable(10).block, 7);
}

#[test]
fn a_lost_first_block_is_noticed() {
    let mut node = five();
    node.disk.damage(1, |bytes| bytes[at(1)] ^= 1);
    let node = node.restart();
    assert_eq!(node.blocks(), [2, 3, 4, 5]);
    assert_eq!(node.corrupt(), [((1, 1), false)]);
}

#[test]
fn a_stale_tail_is_not_read_as_current() {
    let mut node = five();
    // The file held another life before: the same blocks under another sequence.
    let mut old = Node::start_with(Disk::new(2), {
        let mut other = config();
        other.incarnation = 5;
        other
    });
    (0..8).for_each(|_| {
        old.append_durable(6000);
    });
    let (_, id) = old.disk.segments()[0];
    let stale = old.disk.files[&id].data.clone();
    node.disk.damage(1, |bytes| bytes[at(6)..at(9)].copy_from_slice(&stale[at(6)..at(9)]));
    let node = node.restart();
    assert_eq!(node.blocks(), [1, 2, 3, 4, 5]);
    assert_eq!(node.report().tail, Tail::Stale);
}

#[test]
fn a_misdirected_write_is_seen_at_both_places() {
    let mut node = five();
    node.disk.damage(1, |bytes| bytes.copy_within(at(4)..at(4) + BLOCK, at(2)));
    let node = node.restart();
    assert_eq!(node.blocks(), [1, 3, 4, 5]);
    assert_eq!(node.corrupt(), [((2, 2), false)]);
}

#[test]
fn an_unreadable_page_is_corrupt_and_the_rest_is_read() {
    let mut node = five();
    node.disk.stop(&mut node.pool);
    let bad = at(3) as u64;
    node.disk.fault = Box::new(move |op| match op {
        Op::Read { offset, run, .. } if (*offset..*offset + u64::from(run.len)).contains(&bad) => {
            Fault::Errno(Errno::IO)
        }
        _ => Fault::None,
    });
    let node = Node::start_with(node.disk, node.config);
    assert_eq!(node.blocks(), [1, 2, 4, 5]);
    assert_eq!(node.corrupt(), [((3, 3), false)]);
    assert_eq!(node.report().unreadable_pages, 1);
}

#[test]
fn a_bad_sector_is_an_unreadable_page_whatever_the_kernel_calls_it() {
    // EIO, ENODATA, EILSEQ, EREMOTEIO: what block devices answer for a bad medium.
    for errno in [5, 61, 84, 121] {
        // Also when the first answer for the large read was no error of the medium.
        for interrupted in [false, true] {
            let mut node = five();
            node.disk.stop(&mut node.pool);
            let bad = at(3) as u64;
            let mut left = u32::from(interrupted);
            node.disk.fault = Box::new(move |op| match op {
                Op::Read { offset, run, .. }
                    if (*offset..*offset + u64::from(run.len)).contains(&bad) =>
                {
                    let first = std::mem::take(&mut left) > 0;
                    Fault::Errno(Errno(if first { 11 } else { errno }))
                }
                _ => Fault::None,
            });
            let node = Node::start_with(node.disk, node.config);
            assert_eq!(node.blocks(), [1, 2, 4, 5], "errno {errno}");
            assert_eq!(node.corrupt(), [((3, 3), false)]);
            assert_eq!(node.report().unreadable_pages, 1);
        }
    }
}

#[test]
fn a_crash_loop_does_not_eat_the_disk() {
    let mut node = five();
    for round in 0..6 {
        node = node.restart();
        assert_eq!(node.blocks(), [1, 2, 3, 4, 5]);
        assert_eq!(node.disk.segments().len(), 2);
        assert_eq!(node.report().segment, 2 + round);
    }
}

/// Two segments with blocks, the second with `count`; gives its sequence.
fn two(count: usize) -> (Node, u64) {
    let mut node = five().restart();
    (0..count).for_each(|_| {
        node.append_durable(6000);
    });
    let (_, started) = (node.disk.segments(), node.config.started.unwrap());
    (node, started.newest)
}

/// Without the identity file the log would end before it, and everything in it would be forgotten.
#[test]
fn the_last_segment_is_missed() {
    for case in 0..3 {
        let (mut node, last) = two(3);
        match case {
            0 => node.disk.remove(last),
            1 => node.disk.damage(last, |bytes| bytes[..at(4)].fill(0xab)),
            _ => node.disk.damage(last, |bytes| bytes.fill(0)),
        }
        let mut node = node.restart();
        let report = node.report();
        assert_eq!((report.gone, report.kept.block), (Some(last), 6), "{report:?}");
        assert_eq!(node.corrupt(), [((6, 6), true)], "what it held is not known");
        assert!(report.segment > last, "its number is not used again");
        // The next start knows of it as well, by what this one kept.
        node.append_durable(100);
        let node = node.restart();
        assert_eq!((node.report().gone, node.corrupt()), (None, vec![((6, 6), true)]));
        assert_eq!(node.blocks(), [1, 2, 3, 4, 5, 7]);
    }
}

#[test]
fn the_segment_before_an_empty_one_is_missed() {
    let mut node = five().restart();
    // Until the next segment is ready, and named, before anything is in it.
    while node.config.started.unwrap().before == 0 {
        node.append_durable(6000);
        node.settle();
    }
    let before = node.config.started.unwrap().before;
    node.disk.remove(before);
    let node = node.restart();
    assert_eq!(node.report().gone, Some(before));
    assert_eq!(node.corrupt(), [((6, 6), true)]);
}

#[test]
fn a_segment_that_was_named_and_never_written_is_no_loss() {
    let (mut node, mut named) = (five(), 0);
    for _ in 0..20 {
        node = node.restart();
        assert_eq!(node.report().gone, None);
        node.submit();
        let newest = node.config.started.unwrap().newest;
        assert!(newest > named, "each start names its own");
        named = newest;
    }
    assert_eq!((node.blocks(), node.disk.segments().len()), (vec![1, 2, 3, 4, 5], 2));
}

#[test]
fn no_block_goes_into_a_segment_that_is_not_named() {
    let mut node = Node::unready(Disk::new(1), config());
    node.names = false;
    node.recover().unwrap();
    assert_eq!(node.try_append(100), Err(NoRoom::Preparing));
    let started = node.wal.wants_segment().unwrap();
    assert_eq!((started.newest, started.before), (1, 0));
    node.wal.start_segment(1);
    assert_eq!(node.wal.wants_segment(), None);
    assert!(node.try_append(100).is_ok());
}

#[test]
fn a_crash_at_any_step_of_recovery_loses_nothing() {
    for steps in 0..80 {
        let mut node = five();
        node.disk.stop(&mut node.pool);
        let mut half = Node::unready(node.disk, node.config);
        half.disk.dice = crate::disk::Dice::new(steps);
        for _ in 0..steps {
            while half.wal.poll_replay(&mut half.pool).is_some() {}
            if !half.turn() {
                break;
            }
        }
        half.submit();
        let mut node = half.crash();
        assert_eq!(node.blocks(), [1, 2, 3, 4, 5], "after {steps} steps");
        assert!(node.disk.segments().len() <= 3, "after {steps} steps");
        node.append_durable(100);
        assert_eq!(node.restart().blocks(), [1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn another_logs_segment_is_refused() {
    let mut node = five();
    node.disk.stop(&mut node.pool);
    let mut other = config();
    other.node = 3;
    let error = Node::unready(node.disk, other).recover().unwrap_err();
    assert_eq!(error, WalError::Foreign { segment: 1 });
}

#[test]
fn a_file_system_without_direct_io_is_refused() {
    for align in [0, 8192] {
        let mut disk = Disk::new(1);
        (disk.facts.offset_align, disk.facts.memory_align) = (align, align);
        let error = Node::unready(disk, config()).recover().unwrap_err();
        assert!(matches!(error, WalError::Refused(_)));
    }
}

#[test]
fn a_file_system_with_blocks_above_ours_is_refused() {
    for (block, refused) in [(512, false), (4096, false), (8192, true), (65536, true)] {
        let mut disk = Disk::new(1);
        disk.facts.block = block;
        let error = Node::unready(disk, config()).recover().err();
        assert_eq!(matches!(error, Some(WalError::Refused(_))), refused, "blocks of {block}");
    }
}

/// A torn write of one block could reach into another one.
#[test]
fn a_device_with_sectors_above_ours_is_refused() {
    for (sector, refused) in [(0, false), (512, false), (4096, false), (16384, true)] {
        let mut disk = Disk::new(1);
        disk.facts.sector = sector;
        let error = Node::unready(disk, config()).recover().err();
        assert_eq!(matches!(error, Some(WalError::Refused(_))), refused, "sectors of {sector}");
    }
}

#[test]
fn strangers_are_reported_and_left_alone() {
    let mut node = five();
    let file = node.config.dir.join("notes.txt");
    node.disk.names.insert(file.clone(), 1);
    let node = node.restart();
    assert_eq!(node.report().strangers, ["notes.txt"]);
    assert!(node.disk.names.contains_key(&file));
}

#[test]
fn a_file_whose_name_leaves_no_numbers_is_refused() {
    let mut node = five();
    let name = node.config.dir.join(segment_name(SEGMENT_SEQ_MAX));
    node.disk.names.insert(name, 1);
    node.disk.stop(&mut node.pool);
    let Node { disk, config, .. } = node;
    let refused = Node::unready(disk, config).recover();
    assert_eq!(refused, Err(WalError::Refused("the number of a segment is too high")));
}

#[test]
fn the_recovered_segment_gets_its_index() {
    let node = five().restart();
    let (_, id) = node.disk.segments()[0];
    let data = &node.disk.files[&id].data;
    let index = palisade_wal::parse_segment_index(data, &config().expect(1, 0)).unwrap();
    assert_eq!((index.first_block, index.last_block, index.streams.len()), (1, 5, 1));
    assert_eq!(index.streams[0].last, node.lsn);
    assert_eq!(index.find(STREAM, index.streams[0].points[3].0), Some(at(4) as u64));
    assert_eq!(index.find(STREAM, node.lsn), None);
}

#[test]
fn a_segment_that_was_never_ready_is_taken_again() {
    let mut node = five();
    node.disk.stop(&mut node.pool);
    let path = node.config.dir.join(segment_name(2));
    let id = 99;
    node.disk.files.insert(id, Default::default());
    node.disk.names.insert(path, id);
    let node = Node::start_with(node.disk, node.config);
    assert_eq!(node.report().segment, 3);
    assert_eq!(node.disk.segments().iter().map(|one| one.0).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn what_a_recovery_kept_is_promised() {
    let mut node = five().restart();
    let end = node.disk.segments()[0];
    let len = node.disk.files[&end.1].data.len();
    // Block 5 and the index are lost; the header of segment 2 still names block 5.
    node.disk.damage(1, |bytes| {
        bytes[at(5)] ^= 1;
        bytes[len - 4096] ^= 1;
    });
    let mut node = node.restart();
    assert_eq!(node.blocks(), [1, 2, 3, 4]);
    assert_eq!(node.corrupt(), [((5, 5), true)]);
    assert_eq!((node.report().kept.block, node.report().durable_upto), (5, 5));
    assert_eq!(node.append_durable(10).block, 6);
    // It stays reported, and is not cut by later starts.
    let node = node.restart();
    assert_eq!((node.blocks(), node.corrupt()), (vec![1, 2, 3, 4, 6], vec![((5, 5), true)]));
}

#[test]
fn a_whole_segment_that_is_lost_is_reported() {
    let mut node = Node::start(1);
    let places: Vec<_> = (0..40).map(|_| node.append(20_000)).collect();
    node.settle();
    let own: Vec<u64> =
        places.iter().filter(|place| place.segment == 2).map(|place| place.block).collect();
    node.disk.stop(&mut node.pool);
    let path = node.config.dir.join(segment_name(2));
    node.disk.names.remove(&path);
    let node = Node::start_with(node.disk, node.config);
    assert_eq!(node.corrupt(), [((own[0], *own.last().unwrap()), false)]);
    let rest: Vec<u64> = (1..=40).filter(|block| !own.contains(block)).collect();
    assert_eq!(node.blocks(), rest);
}

#[test]
fn a_failed_barrier_of_a_recovery_is_never_asked_again() {
    // Of the segment that was read, of its index, of the new segment, of the directory.
    for fail in 1..=4 {
        for errno in [Errno(4), Errno(11), Errno::NOSPC, Errno::IO] {
            let mut node = five();
            node.disk.stop(&mut node.pool);
            let mut at = 0;
            node.disk.fault = Box::new(move |op| match op {
                Op::Sync { .. } => {
                    at += 1;
                    if at == fail { Fault::Errno(errno) } else { Fault::None }
                }
                _ => Fault::None,
            });
            let error = Node::unready(node.disk, node.config).recover();
            assert!(matches!(error, Err(WalError::Io { .. })), "{fail}: {errno}: {error:?}");
        }
    }
}

#[test]
fn an_index_that_finds_no_space_is_left_out() {
    let mut node = five();
    node.disk.stop(&mut node.pool);
    let index = palisade_wal::limits::data_end(config().segment_bytes);
    node.disk.fault = Box::new(move |op| match op {
        Op::Write { offset, .. } if *offset == index => Fault::Errno(Errno::NOSPC),
        _ => Fault::None,
    });
    let node = Node::start_with(node.disk, node.config);
    assert_eq!(node.blocks(), [1, 2, 3, 4, 5]);
}

/// As [`hole`]: segment 1 holds block 1 and the discarded 3 and 4. Segment 2 then holds the real
/// 2, 3 and 4, each on one page, and segment 3 holds 5.
fn discarded_and_written_anew() -> Node {
    let mut node = hole().restart();
    (0..3).for_each(|_| {
        node.append_durable(100);
    });
    let mut node = node.restart();
    assert_eq!(node.append_durable(100).segment, 3);
    assert_eq!(node.disk.segments().len(), 3);
    node
}

#[test]
fn a_segment_header_that_was_never_written_still_voids_what_was_discarded() {
    let mut node = discarded_and_written_anew();
    node.disk.damage(2, |bytes| bytes[..4096].fill(0));
    let node = node.restart();
    assert_eq!((node.blocks(), node.corrupt()), (vec![1, 2, 3, 4, 5], vec![]));
    assert_eq!(node.report().records, 5);
}

#[test]
fn a_header_lost_with_the_first_blocks_still_voids_what_was_discarded() {
    for fill in [0, 7] {
        let mut node = discarded_and_written_anew();
        node.disk.damage(2, |bytes| bytes[..12288].fill(fill));
        let node = node.restart();
        assert_eq!((node.blocks(), node.corrupt()), (vec![1, 4, 5], vec![((2, 3), false)]));
    }
}

#[test]
fn a_header_lost_with_the_first_block_voids_nothing_that_an_index_names() {
    let mut node = five().restart();
    assert_eq!(node.append_durable(60_000).segment, 2);
    node.append_durable(100);
    // Fifteen blocks could have stood where block 6 was.
    node.disk.damage(2, |bytes| bytes[..8192].fill(7));
    let node = node.restart();
    assert_eq!((node.blocks(), node.corrupt()), (vec![1, 2, 3, 4, 5, 7], vec![((6, 6), false)]));
}

#[test]
fn a_segment_without_its_header_is_read_to_its_end_whatever_the_settings_say() {
    for sealed in [false, true] {
        for lost in [false, true] {
            let mut settings = config();
            settings.segment_bytes = 2 << 20;
            let mut node = Node::start_with(Disk::new(1), settings);
            (0..20).for_each(|_| {
                node.append_durable(50_000);
            });
            if sealed {
                node = node.restart();
            }
            let end = node.wal.segments()[0].end as usize;
            node.disk.damage(1, |bytes| bytes[..if lost { end } else { 4096 }].fill(7));
            node.config.segment_bytes = 256 << 10;
            let node = node.restart();
            let all: Vec<u64> = (1..=20).collect();
            match (sealed, lost) {
                (_, false) => assert_eq!((node.blocks(), node.corrupt()), (all, vec![])),
                // The whole log is lost, which its owner knows by itself.
                (false, true) => assert_eq!((node.blocks(), node.corrupt()), (vec![], vec![])),
                (true, true) => assert_eq!(node.corrupt(), [((1, 20), true)]),
            }
        }
    }
}

#[test]
fn a_recovery_without_space_takes_what_is_zeroed() {
    for (size, enough) in [(0, false), (64 << 10, false), (68 << 10, true), (1 << 20, true)] {
        let mut settings = config();
        settings.segment_bytes = 16 << 20;
        let mut node = Node::start_with(Disk::new(1), settings);
        node.append_durable(100);
        node.disk.stop(&mut node.pool);
        let path = node.config.dir.join(segment_name(9));
        node.disk.files.insert(99, Default::default());
        node.disk.names.insert(path, 99);
        node.disk.damage(9, |bytes| bytes.resize(size, 0));
        node.disk.full = true;
        let mut node = Node::unready(node.disk, node.config);
        let error = node.recover().err();
        let full = WalError::Io { what: "starting a segment", errno: Errno::NOSPC };
        assert_eq!(error, (!enough).then_some(full), "{size} bytes");
        if enough {
            assert_eq!(node.append_record(Kind::Promise, &[1; 100]).block, 2);
            node.settle();
            assert_eq!(node.wal.durable(), 2);
        }
    }
}

/// Block 1 is due on every start. Else a log without its start, or with another one's, would come
/// up as if nothing had ever been promised below it.
#[test]
fn a_lost_start_of_the_log_is_reported() {
    let filled = || {
        let mut node = Node::start(1);
        node.append_record(Kind::Promise, &[1; 100]);
        let places: Vec<_> = (0..40).map(|_| node.append(20_000)).collect();
        node.settle();
        node.disk.stop(&mut node.pool);
        let lost = places.iter().filter(|place| place.segment == 1).count() as u64 + 1;
        assert!((2..40).contains(&lost));
        (node, lost)
    };
    let (mut node, lost) = filled();
    let path = node.config.dir.join(segment_name(1));
    node.disk.names.remove(&path);
    let node = Node::start_with(node.disk, node.config);
    assert_eq!(node.corrupt(), [((1, lost), true)]);

    for garbage in [0, 7] {
        let (mut node, lost) = filled();
        node.disk.damage(1, |bytes| bytes.fill(garbage));
        let node = Node::start_with(node.disk, node.config);
        assert_eq!(node.corrupt(), [((1, lost), true)], "{garbage}");
    }
}

/// Writes bytes into both copies of the header of segment 1, and sets their checksums.
fn forge_header(node: &mut Node, at: usize, field: &[u8]) {
    node.disk.damage(1, |bytes| {
        for copy in palisade_wal::SEGMENT_COPIES {
            let copy = &mut bytes[copy..copy + palisade_wal::SEGMENT_COPY_BYTES];
            copy[at..at + field.len()].copy_from_slice(field);
            copy[508..].fill(0);
            let crc = crc32c::crc32c(copy);
            copy[508..].copy_from_slice(&crc.to_le_bytes());
        }
    });
}

fn recovered(mut node: Node) -> Result<Node, WalError> {
    node.disk.stop(&mut node.pool);
    let mut node = Node::unready(node.disk, node.config);
    node.recover().map(|_| node)
}

#[test]
fn a_header_whose_number_leaves_none_is_refused() {
    let mut node = five();
    forge_header(&mut node, 32, &SEGMENT_SEQ_MAX.to_le_bytes());
    let refused = recovered(node).err();
    assert_eq!(refused, Some(WalError::Refused("the number of a segment is too high")));
}

/// The highest number that is opened: the next segment has a higher one, and is this node's own.
/// Found by the fuzzer, seed 1882639734669325.
#[test]
fn a_log_goes_on_from_the_highest_number_that_is_opened() {
    let mut node = five();
    forge_header(&mut node, 32, &(SEGMENT_SEQ_MAX / 2).to_le_bytes());
    let mut node = recovered(node).expect("it is not too high");
    let place = node.append(100);
    node.settle();
    let again = node.restart();
    assert_eq!(again.blocks().last(), Some(&place.block));
}

#[test]
fn a_header_with_impossible_numbers_is_not_read() {
    // What was kept: in a later segment, of too high a number, without the mark that it counts.
    let high = u64::MAX.to_le_bytes();
    for (at, field, recovered_too) in [(48, high, 1), (56, high, 1), (56, [1; 8], 0)] {
        let mut node = five();
        forge_header(&mut node, at, &field);
        forge_header(&mut node, 68, &[recovered_too]);
        let node = recovered(node).expect("the blocks say where they are");
        assert_eq!((node.blocks().len(), node.report().headless), (5, 1));
    }
    // Where the log begins, and bytes that are zero.
    for (at, field) in [(80, high), (88, [1; 8])] {
        let mut node = five();
        forge_header(&mut node, at, &field);
        let node = recovered(node).expect("the blocks say where they are");
        assert_eq!((node.blocks().len(), node.report().headless), (5, 1));
    }
}

#[test]
fn a_block_after_which_there_is_no_number_is_none() {
    let mut bytes = vec![0; 4096];
    let mut builder = palisade_wal::BodyBuilder::new(&mut bytes[512..]);
    builder
        .push_record(Kind::Closing, 0, palisade_wal::Lsn::ZERO, Default::default(), b"")
        .unwrap();
    let body = builder.finish();
    let place = config().expect(1, 4096);
    let facts = palisade_wal::BlockFacts {
        place,
        block_seq: palisade_wal::limits::BLOCK_SEQ_MAX,
        body_len: body.len,
        headers_crc: body.headers_crc,
        durable_upto: 0,
        hard_state_block: 0,
        previous_header_crc: 0,
    };
    palisade_wal::seal(&mut bytes[..512], &facts);
    assert!(palisade_wal::parse_block(&bytes, &place).is_ok());
    bytes[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
    bytes[508..512].fill(0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[24..40]), &bytes[48..56]);
    let crc = crc32c::crc32c_append(crc, &bytes[..512]);
    bytes[508..512].copy_from_slice(&crc.to_le_bytes());
    let bad = palisade_wal::parse_block(&bytes, &place).err();
    assert_eq!(bad, Some(palisade_wal::BadBlock::Length));
}

#[test]
fn a_record_of_no_group_is_not_staged() {
    let mut bytes = vec![0; 512];
    let mut builder = palisade_wal::BodyBuilder::new(&mut bytes);
    builder
        .push_record(Kind::Promise, 7, palisade_wal::Lsn::ZERO, Default::default(), b"")
        .unwrap();
    let len = builder.finish().len as usize;
    bytes[1] = palisade_wal::FLAG_STAGED;
    let crc = crc32c::crc32c(&bytes[..palisade_wal::RECORD_HEADER_BYTES]);
    assert!(palisade_wal::parse_body(&bytes[..len], crc).is_err());
}

#[test]
fn a_log_is_not_opened_where_the_identity_file_leaves_no_numbers() {
    let sound = palisade_wal::Started { newest: 9, before: 8, ..Default::default() };
    let start = palisade_wal::LogStart { segment: 1 << 32, block: 1 };
    for started in [
        palisade_wal::Started { newest: u64::MAX, ..sound },
        palisade_wal::Started { before: 9, ..sound },
        palisade_wal::Started { start, ..sound },
    ] {
        let settings = palisade_wal::Config { started: Some(started), ..config() };
        let error = palisade_wal::Wal::open(settings).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("started is out of bounds"), "{started:?}");
    }
    let settings = palisade_wal::Config { started: Some(sound), ..config() };
    assert!(palisade_wal::Wal::open(settings).is_ok());
}
