//! Order, prefix, short writes, errors, space, the closing block.

use palisade_netio::{Errno, Op, Purpose};
use palisade_wal::limits::RESERVE_FILES;
use palisade_wal::{
    Kind, NoRoom, RecordMeta, Replay, SyncPath, WalError, parse_block, parse_segment_index,
};

use crate::disk::{Disk, Event, Fault};
use crate::node::{Node, config};

fn big() -> Node {
    let mut settings = config();
    settings.segment_bytes = 8 << 20;
    Node::start_with(Disk::new(1), settings)
}

fn hold_blocks(node: &mut Node) {
    node.disk.fault = Box::new(|op| match op {
        Op::Write { barrier: true, .. } => Fault::Hold,
        _ => Fault::None,
    });
}

fn release(node: &mut Node) {
    node.disk.fault = Box::new(|_| Fault::None);
}

fn block_writes(node: &Node) -> Vec<(u64, usize, u32)> {
    let write = |event: &Event| match event {
        Event::Submitted(_, Op::Write { offset, runs, barrier: true, .. }) => {
            Some((*offset, runs.len(), runs.iter().map(|run| run.len).sum()))
        }
        _ => None,
    };
    node.disk.events.iter().filter_map(write).collect()
}

#[test]
fn small_blocks_wait_for_the_write_in_flight_and_go_out_together() {
    let mut node = big();
    hold_blocks(&mut node);
    assert!(node.wal.wants_block(0));
    for _ in 0..20 {
        node.append(3000);
        node.submit();
        assert!(!node.wal.wants_block(0));
    }
    release(&mut node);
    node.settle();
    let writes = block_writes(&node);
    assert_eq!(writes, [(4096, 1, 4096), (8192, 16, 16 * 4096), (17 * 4096 + 4096, 3, 3 * 4096)]);
    assert_eq!(node.wal.durable(), 20);
    assert_eq!(node.pool.used(Purpose::Write), 0, "all slots are given back");
}

#[test]
fn small_bodies_join_the_block_that_waits() {
    let mut node = big();
    assert_eq!(node.join(100), None, "nothing waits");
    hold_blocks(&mut node);
    node.append(100);
    assert_eq!(node.join(100).map(|at| at.block), Some(1), "not submitted yet");
    node.submit();
    assert_eq!(node.join(100), None, "what is in flight is closed");
    let open = node.append(1000);
    let joined: Vec<_> = (0..20).map_while(|_| node.join(500)).collect();
    assert!((2..5).contains(&joined.len()), "{} bodies of 500 bytes in a page", joined.len());
    assert!(joined.iter().all(|at| *at == open), "it keeps its place");
    // Others read what was in it before.
    let (slot, body) = node.body(100);
    let pinned = palisade_netio::Run { slot, at: 512, len: body.len };
    node.pool.pin_read(pinned);
    let watched = node.append_body(slot, body, false).unwrap();
    let before = node.pool.pinned(pinned).to_vec();
    assert_eq!(node.join(100), Some(watched));
    assert_eq!(node.pool.pinned(pinned), before);
    node.pool.unpin_read(pinned);
    // Hard state stands alone, and what is not small does.
    node.append_record(Kind::Promise, &[]);
    assert_eq!(node.join(100), None, "hard state");
    node.append(14 << 10);
    assert!(node.join(700).is_some(), "both are small");
    node.append((16 << 10) + 100);
    assert_eq!(node.join(100), None, "the open block is not small");
    release(&mut node);
    node.settle();
    // A segment that is left takes nothing more.
    let (left, bytes) = (node.wal.active().0, node.config.segment_bytes);
    while node.wal.active().1 + (2 << 20) < bytes {
        node.append_durable(500_000);
    }
    // The next one is prepared slowly.
    for _ in 0..200 {
        node.pass(10_000_000);
        node.settle();
    }
    hold_blocks(&mut node);
    node.append(100);
    node.submit();
    node.append(100);
    assert!(node.join(100).is_some_and(|at| at.segment == left));
    let next = node.wal.peek(2 << 20, false).expect("the next one is ready");
    assert!(next.segment > left);
    assert_eq!(node.join(100), None, "the last block stands in another segment");
    release(&mut node);
    node.settle();
    assert_eq!(node.wal.durable(), node.appended.last().unwrap().0.block);
    assert_eq!(node.pool.used(Purpose::Write), 0, "all slots are given back");

    let metas = |metas: &[RecordMeta]| metas.iter().map(|m| (m.lsn, m.end)).collect::<Vec<_>>();
    let appended: Vec<_> = node.appended.iter().flat_map(|(_, it)| metas(it)).collect();
    let node = node.crash();
    let replayed = node.replayed.iter().filter_map(|item| match item {
        Replay::Record { meta, .. } if meta.kind != Kind::Closing => Some((meta.lsn, meta.end)),
        _ => None,
    });
    assert_eq!(replayed.collect::<Vec<_>>(), appended);
}

#[test]
fn full_blocks_go_out_beside_the_one_in_flight_up_to_the_limit() {
    let mut node = big();
    hold_blocks(&mut node);
    for _ in 0..6 {
        node.append(300_000);
        node.submit();
    }
    assert_eq!(block_writes(&node).len(), 4);
    assert!(!node.wal.wants_block(0));
    release(&mut node);
    node.settle();
    assert_eq!(node.wal.durable(), 6);
}

#[test]
fn durable_is_the_longest_completed_prefix() {
    let mut node = big();
    hold_blocks(&mut node);
    let first = node.append(300_000);
    node.submit();
    for _ in 0..3 {
        node.append(300_000);
        node.submit();
    }
    let held = first.offset;
    node.disk.fault = Box::new(move |op| match op {
        Op::Write { offset, .. } if *offset == held => Fault::Hold,
        _ => Fault::None,
    });
    node.settle();
    assert_eq!(node.wal.durable(), 0, "block 1 is missing");
    release(&mut node);
    node.settle();
    assert_eq!(node.wal.durable(), 4);
}

#[test]
fn a_barrier_follows_the_completion_of_what_it_covers() {
    let mut settings = config();
    settings.sync_path = SyncPath::WriteThenSync;
    let mut node = Node::start_with(Disk::new(1), settings);
    node.disk.events.clear();
    for _ in 0..3 {
        node.append(5000);
        node.turn();
        assert_eq!(node.wal.durable(), node.appended.len() as u64 - 1, "written is not durable");
        node.turn();
        assert_eq!(node.wal.durable(), node.appended.len() as u64);
    }
    let mut written = None;
    for event in &node.disk.events {
        match event {
            Event::Submitted(token, Op::Write { offset, barrier, .. }) if *offset >= 4096 => {
                assert!(!barrier);
                written = Some((*token, false));
            }
            Event::Completed(token) if written == Some((*token, false)) => {
                written = Some((*token, true));
            }
            Event::Submitted(_, Op::Sync { .. }) => {
                assert!(written.is_some_and(|(_, done)| done), "a sync before its write is done");
            }
            _ => {}
        }
    }
}

#[test]
fn a_short_write_is_continued_before_a_barrier_covers_it() {
    for short in [1, 511, 4095, 4096, 5000, 8191, 8192, 12000] {
        let mut node = big();
        let mut left = 1;
        node.disk.fault = Box::new(move |op| match op {
            Op::Write { barrier: true, .. } if left > 0 => {
                left -= 1;
                Fault::Short(short)
            }
            _ => Fault::None,
        });
        node.disk.events.clear();
        let place = node.append_durable(11_000);
        assert_eq!(place.len, 12288);
        let mut rest = None;
        let mut synced = false;
        for event in &node.disk.events {
            match event {
                Event::Submitted(_, Op::Write { offset, barrier: false, runs, .. })
                    if !synced && (4096..16384).contains(offset) && rest.is_none() =>
                {
                    rest = Some((*offset, runs[0].len));
                }
                Event::Submitted(_, Op::Sync { .. }) => synced |= rest.is_some(),
                _ => {}
            }
        }
        let whole = short / 4096 * 4096;
        if short < 12000 || whole < 12288 {
            assert_eq!(rest, Some((4096 + u64::from(whole), 12288 - whole)), "short {short}");
            assert!(synced, "a barrier of its own follows");
        }
        let node = node.restart();
        assert_eq!(node.blocks(), [1]);
    }
}

#[test]
fn a_write_that_never_moves_poisons() {
    let mut node = Node::start(1);
    node.disk.fault = Box::new(|op| match op {
        Op::Write { .. } => Fault::Short(0),
        _ => Fault::None,
    });
    node.append(100);
    node.settle();
    assert!(matches!(node.wal.poisoned(), Some(WalError::Stuck { .. })));
}

#[test]
fn transient_errors_are_tried_again() {
    let mut node = Node::start(1);
    let mut left = 5;
    node.disk.fault = Box::new(move |op| match op {
        Op::Write { barrier: true, .. } if left > 0 => {
            left -= 1;
            Fault::Errno(Errno(11))
        }
        _ => Fault::None,
    });
    assert_eq!(node.append_durable(100).block, 1);
}

#[test]
fn an_error_of_a_write_or_a_barrier_poisons_and_nothing_is_durable_after_it() {
    for path in [SyncPath::Dsync, SyncPath::WriteThenSync] {
        for fail_sync in [false, true] {
            let mut settings = config();
            settings.sync_path = path;
            settings.segment_bytes = 8 << 20;
            let mut node = Node::start_with(Disk::new(1), settings);
            node.append_durable(100);
            node.settle();
            node.disk.fault = Box::new(move |op| match op {
                Op::Write { .. } if !fail_sync || path == SyncPath::Dsync => {
                    Fault::Errno(Errno::IO)
                }
                Op::Sync { .. } => Fault::Errno(Errno::IO),
                _ => Fault::None,
            });
            node.append(300_000);
            node.append(300_000);
            node.settle();
            assert!(matches!(node.wal.poisoned(), Some(WalError::Io { errno: Errno::IO, .. })));
            assert_eq!(node.wal.durable(), 1);
            // The device works again: that changes nothing.
            release(&mut node);
            node.disk.events.clear();
            assert_eq!(node.try_append(10), Err(NoRoom::Poisoned));
            node.settle();
            let submitted = |event: &Event| matches!(event, Event::Submitted(..));
            assert!(!node.disk.events.iter().any(submitted), "nothing more is asked for");
            assert_eq!(node.wal.durable(), 1);
            assert_eq!(node.wal.next_timer(), None);
            assert_eq!(node.pool.used(Purpose::Write), 0, "all slots are given back");
        }
    }
}

/// A barrier that failed may have dropped what it should have made durable: the next one succeeds
/// and says nothing about it.
#[test]
fn a_failed_barrier_is_never_asked_again() {
    for errno in [Errno(4), Errno(11), Errno::NOSPC, Errno::IO] {
        let mut settings = config();
        settings.sync_path = SyncPath::WriteThenSync;
        let mut node = Node::start_with(Disk::new(1), settings);
        node.append_durable(100);
        node.settle();
        let mut left = 1;
        node.disk.fault = Box::new(move |op| match op {
            Op::Sync { .. } if left > 0 => {
                left -= 1;
                Fault::Errno(errno)
            }
            _ => Fault::None,
        });
        node.append(300);
        node.settle();
        assert_eq!(
            node.wal.poisoned(),
            Some(&WalError::Io { what: "the barrier of a block", errno })
        );
        assert_eq!(node.wal.durable(), 1);
    }
}

/// As above, for each barrier of a preparation and of a seal in turn.
#[test]
fn a_failed_barrier_of_a_segment_is_never_asked_again() {
    let run = |fail: u32, errno: Errno| {
        let mut node = Node::start(1);
        let mut at = 0;
        node.disk.fault = Box::new(move |op| match op {
            Op::Sync { .. } => {
                at += 1;
                if at == fail { Fault::Errno(errno) } else { Fault::None }
            }
            _ => Fault::None,
        });
        for _ in 0..20 {
            if node.try_append(20_000).is_ok() {
                node.settle();
            }
        }
        node.settle();
        node.wal.poisoned().cloned()
    };
    assert_eq!(run(0, Errno::IO), None);
    // The file and the directory of the next segment; then the index of the first one.
    for fail in 1..=3 {
        for errno in [Errno(4), Errno(11), Errno::NOSPC, Errno::IO] {
            let error = run(fail, errno);
            assert!(matches!(error, Some(WalError::Io { .. })), "{fail}: {errno}: {error:?}");
        }
    }
}

#[test]
fn the_closing_block_is_written_after_a_rest_and_once() {
    let mut node = Node::start(1);
    for _ in 0..10 {
        node.pass(100_000_000);
        node.settle();
    }
    assert_eq!(node.disk.segments().len(), 1 + RESERVE_FILES);
    assert_eq!(node.wal.next_timer(), None);
    node.append_durable(100);
    node.settle();
    node.pass(1);
    let due = node.wal.next_timer().unwrap();
    assert_eq!(due.0 - node.now.0, 10_000_000);
    node.pass(9_999_999);
    node.settle();
    assert_eq!(node.wal.appended(), 1);
    node.pass(1);
    node.settle();
    assert_eq!((node.wal.appended(), node.wal.durable()), (2, 2));
    node.pass(1_000_000_000);
    node.settle();
    assert_eq!(node.wal.appended(), 2, "a closing block needs no other");
    assert_eq!(node.wal.next_timer(), None);
    let node = node.restart();
    assert_eq!(node.report().durable_upto, 1);
    assert_eq!(node.blocks(), [1]);
}

#[test]
fn a_full_segment_is_sealed_and_the_log_goes_on_in_the_next() {
    let mut node = Node::start(1);
    let places: Vec<_> = (0..60).map(|_| node.append(20_000)).collect();
    node.settle();
    assert!(places.last().unwrap().segment >= 5);
    let facts = node.wal.segments();
    assert!(facts.iter().rev().skip(1).all(|one| one.sealed));
    for fact in facts.iter().filter(|one| one.sealed) {
        let (_, id) = *node.disk.segments().iter().find(|one| one.0 == fact.seq).unwrap();
        let data = &node.disk.files[&id].data;
        assert_eq!(data.len(), 256 << 10);
        let index = parse_segment_index(data, &config().expect(fact.seq, 0)).unwrap();
        let own: Vec<_> = places.iter().filter(|place| place.segment == fact.seq).collect();
        assert_eq!(index.first_block, own[0].block);
        assert_eq!((index.last_block, index.end), (own.last().unwrap().block, fact.end));
        let points: Vec<u64> = index.streams[0].points.iter().map(|point| point.1).collect();
        assert_eq!(points, own.iter().map(|place| place.offset).collect::<Vec<_>>());
    }
    let node = node.restart();
    assert_eq!(node.blocks(), (1..=60).collect::<Vec<_>>());
}

/// A segment whose name is lost is lost with all that is in it.
#[test]
fn what_is_durable_in_a_new_segment_outlives_a_power_cut() {
    for seed in 0..16 {
        let mut node = Node::start(seed);
        let mut last = 0;
        while node.wal.segments().len() < 3 {
            last = node.append_durable(20_000).block;
        }
        let node = node.crash();
        assert_eq!(node.corrupt(), [], "seed {seed}");
        assert_eq!(node.blocks(), (1..=last).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn the_next_segment_is_ready_before_the_active_one_is_full() {
    let mut node = Node::start(1);
    while node.wal.segments().len() == 1 {
        node.append(20_000);
        node.settle();
        assert!(node.disk.segments().len() <= 2);
    }
    assert_eq!(node.disk.segments().len(), 2, "it was prepared in time");
}

#[test]
fn a_full_log_refuses_appends_and_keeps_a_reserve_for_hard_state() {
    let mut settings = config();
    settings.log_bytes_max = 512 << 10;
    let mut node = Node::start_with(Disk::new(1), settings);
    let refused = loop {
        match node.try_append(3000) {
            Ok(_) => node.settle(),
            Err(NoRoom::Preparing) => assert!(node.turn()),
            Err(why) => break why,
        }
    };
    assert_eq!(refused, NoRoom::Full);
    let space = node.wal.space();
    assert!(space.refuse_appends || (space.used + 4096) * 100 > space.limit * 95);
    assert!(space.throttle && node.disk.segments().len() == 2);
    for _ in 0..3 {
        node.append_record(Kind::Promise, &[1; 100]);
    }
    node.settle();
    assert_eq!(node.wal.durable(), node.wal.appended());
}

#[test]
fn a_full_disk_stops_the_preparation_and_not_the_log() {
    let mut node = Node::start(1);
    node.disk.fault = Box::new(|op| match op {
        Op::Open { .. } => Fault::Errno(Errno::NOSPC),
        _ => Fault::None,
    });
    let refused = loop {
        match node.try_append(20_000) {
            Ok(_) => node.settle(),
            Err(why) => break why,
        }
    };
    assert_eq!(refused, NoRoom::Full);
    assert_eq!(node.wal.poisoned(), None);
    release(&mut node);
    for _ in 0..20 {
        node.pass(2_000_000_000);
        node.settle();
    }
    assert!(node.try_append(20_000).is_ok());
}

/// A node that had time to get ready, on a file system that then fills up.
fn on_a_full_file_system() -> Node {
    let mut settings = config();
    settings.segment_bytes = 16 << 20;
    settings.log_bytes_max = 1 << 30;
    let mut node = Node::start_with(Disk::new(1), settings);
    for _ in 0..200 {
        node.pass(1_000_000);
        node.settle();
    }
    assert_eq!(node.disk.segments().len(), 1 + RESERVE_FILES);
    node.disk.full = true;
    node
}

#[test]
fn a_full_file_system_takes_no_groups_and_all_hard_state() {
    let mut node = on_a_full_file_system();
    let refused = loop {
        match node.try_append(100_000) {
            Ok(_) => node.settle(),
            Err(why) => break why,
        }
    };
    assert_eq!(refused, NoRoom::Full, "refused, not put off");
    let space = node.wal.space();
    assert!(space.throttle && space.used < space.limit / 2);
    assert!(node.wal.appended() > 100, "what was prepared was used");
    while node.try_append(100).is_ok() {
        node.settle();
    }
    assert!(node.wal.space().refuse_appends);
    for _ in 0..100 {
        node.append_record(Kind::Promise, &[1; 100]);
        node.pass(50_000_000);
        node.settle();
    }
    assert_eq!(node.wal.durable(), node.wal.appended());
    // As soon as there is space again.
    node.disk.full = false;
    for _ in 0..200 {
        node.pass(10_000_000);
        node.settle();
    }
    assert!(!node.wal.space().refuse_appends);
    node.append_durable(100_000);
}

#[test]
fn a_node_starts_and_votes_on_a_full_file_system() {
    let mut node = on_a_full_file_system();
    node.append_durable(100);
    for start in 1..=RESERVE_FILES as u64 {
        node = node.restart();
        assert_eq!(node.try_append(100), Err(NoRoom::Full), "start {start}");
        assert!(node.wal.space().refuse_appends);
        let promise = node.append_record(Kind::Promise, &[1; 100]);
        for _ in 0..20 {
            node.pass(100_000_000);
            node.settle();
        }
        assert_eq!(node.wal.durable(), promise.block);
        assert_eq!(node.try_append(100), Err(NoRoom::Full), "start {start}");
    }
    node.disk.full = false;
    for _ in 0..500 {
        node.pass(10_000_000);
        node.settle();
    }
    assert_eq!(node.append_durable(100).block, RESERVE_FILES as u64 + 2);
    let mut node = node.restart();
    assert_eq!(node.blocks(), (1..=RESERVE_FILES as u64 + 2).collect::<Vec<_>>());
    // Through the end of the first step, where what was cut short goes on.
    (0..120).for_each(|_| {
        node.append(100_000);
    });
}

#[test]
fn a_reserve_is_not_made_anew_by_every_start() {
    let mut node = on_a_full_file_system();
    node.disk.full = false;
    for _ in 0..10 {
        node.append_durable(100);
        node = node.restart();
        for _ in 0..300 {
            node.pass(1_000_000);
            node.settle();
        }
        let files = node.wal.segments().len() + RESERVE_FILES;
        assert_eq!(node.disk.segments().len(), files, "no file is left behind");
    }
}

#[test]
fn a_block_larger_than_a_segment_is_refused() {
    let mut node = Node::start(1);
    assert_eq!(node.try_append(300_000), Err(NoRoom::TooLarge));
}

#[test]
fn heads_say_what_was_durable_when_they_were_made() {
    let mut node = Node::start(1);
    (0..4).for_each(|_| {
        node.append_durable(100);
    });
    let (_, id) = node.disk.segments()[0];
    let data = &node.disk.files[&id].data;
    let mut before = 0;
    for (place, _) in &node.appended {
        let head = &data[place.offset as usize..];
        let head = parse_block(head, &config().expect(1, place.offset)).unwrap();
        assert_eq!(head.durable_upto.get(), place.block - 1);
        assert_eq!(head.previous_header_crc.get(), before);
        before = head.crc.get();
    }
}

#[test]
fn a_log_that_ends_gives_its_open_files_back() {
    let mut most = 0;
    for blocks in [0, 1, 5, 6, 8, 12, 30] {
        let mut node = Node::start(1);
        for _ in 0..blocks {
            node.append(20_000);
            node.settle();
        }
        let handles = node.wal.into_handles();
        assert_eq!(handles.len(), node.disk.open_files(), "after {blocks} blocks");
        most = most.max(handles.len());
    }
    assert_eq!(most, 3, "directory, active and next segment");
}

#[test]
fn every_kind_of_record_comes_back() {
    let mut node = Node::start(1);
    node.append_durable(50);
    let kinds = Kind::ALL
        .into_iter()
        .filter(|kind| !kind.is_group())
        .filter(|kind| !matches!(kind, Kind::SegmentIndex | Kind::Closing));
    let written: Vec<(Kind, Vec<u8>)> =
        kinds.enumerate().map(|(n, kind)| (kind, vec![n as u8 + 1; 8 + n * 3])).collect();
    for (kind, bytes) in &written {
        node.append_record(*kind, bytes);
        node.settle();
    }
    let node = node.restart();
    let read: Vec<(Kind, Vec<u8>)> = node
        .replayed
        .iter()
        .filter_map(|item| match item {
            Replay::Record { meta, bytes, .. } if meta.kind != Kind::Group => {
                Some((meta.kind, bytes.clone()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(read, written);
    let takeover = node.replayed.iter().find_map(|item| match item {
        Replay::Record { meta, .. } if meta.kind == Kind::Takeover => Some(meta.chain),
        _ => None,
    });
    assert_eq!(takeover, Some(u64::from_le_bytes([2; 8])));
}
