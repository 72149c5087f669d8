//! How it works: a log of a few small segments is changed in several places, mostly where heads and
//! records stand, its checksums are set right or left, and the identity file names any segments.
//! Recovery refuses the log with a typed error, or replays blocks in order and starts. A log that
//! was started takes a block, and the next recovery gives all of it again.

use palisade_tests::formats::mend_segment;
use palisade_wal::{Config, LogStart, Replay, SyncPath, Wal, segment_name};
use palisade_wal::{Kind, Started};
use proptest::prelude::*;

use crate::change::{Change, change};
use crate::disk::Disk;
use crate::node::{Node, config};
use crate::run::fuzz;

const SEGMENT_BYTES: u64 = 64 << 10;

/// Segments with their bytes.
type Files = Vec<(u64, Vec<u8>)>;

fn settings() -> Config {
    Config {
        segment_bytes: SEGMENT_BYTES,
        log_bytes_max: 4 << 20,
        sync_path: SyncPath::Dsync,
        ..config()
    }
}

/// A log that was written, crashed and went on: groups, hard state, two starts, sealed segments.
fn written() -> (Files, Config) {
    let mut node = Node::start_with(Disk::new(1), settings());
    for part in 0..3 {
        for len in [300, 9_000, 20_000, 100] {
            node.append_durable(len);
        }
        node.append_record(Kind::Promise, &[part; 24]);
        node.settle();
        node = node.restart();
    }
    node.append_durable(100);
    node.settle();
    let files = &node.disk.files;
    let found = node.disk.segments();
    (found.iter().map(|(seq, id)| (*seq, files[id].data.clone())).collect(), node.config)
}

/// Where in its segment a change is made.
#[derive(Clone, Debug)]
struct Hit {
    segment: usize,
    /// A page; the change is in its first `part` bytes.
    page: usize,
    part: usize,
    change: Change,
}

fn hit() -> impl Strategy<Value = Hit> {
    let part = prop_oneof![Just(96usize), Just(512), Just(800), Just(4096)];
    (0usize..16, 0usize..16, part, change()).prop_map(|(segment, page, part, change)| Hit {
        segment,
        page,
        part,
        change,
    })
}

fn started() -> impl Strategy<Value = Option<Started>> {
    let edge = || {
        prop_oneof![
            3 => 0u64..8,
            1 => prop::sample::select(vec![1 << 32, (1 << 61) - 8, (1 << 61) + 1, u64::MAX]),
        ]
    };
    let any = (edge(), edge(), edge(), edge()).prop_map(|(newest, before, segment, block)| {
        let start = LogStart { segment, block: if segment == 0 { 0 } else { block.max(1) } };
        Some(Started { newest, before, start })
    });
    prop_oneof![4 => Just(None), 1 => any]
}

fn disk_of(files: &Files, config: &Config) -> Disk {
    let mut disk = Disk::new(1);
    for ((seq, bytes), id) in files.iter().zip(1..) {
        let file = disk.files.entry(id).or_default();
        file.data.clone_from(bytes);
        disk.names.insert(config.dir.join(segment_name(*seq)), id);
    }
    disk
}

/// Blocks with whole records are replayed in order, and nothing promised is left out in silence.
fn check(node: &Node) {
    let mut seen = 0;
    for item in &node.replayed {
        match item {
            Replay::Record { place, .. } | Replay::Damaged { place, .. } => {
                assert!(place.block >= seen, "{place:?} after block {seen}");
                seen = place.block;
            }
            Replay::Corrupt { blocks, .. } => {
                assert!(blocks.0 > seen && blocks.0 <= blocks.1, "{blocks:?} after {seen}");
                seen = blocks.1;
            }
            Replay::Done { report } => {
                assert!(report.kept.block >= report.durable_upto.min(seen), "{report:?}");
            }
        }
    }
}

#[test]
fn log() {
    let (files, config) = written();
    let input = (prop::collection::vec(hit(), 0..6), prop::bool::weighted(0.8), started());
    fuzz("recovery::log", input, |(hits, mended, started)| {
        let mut changed = files.clone();
        for Hit { segment, page, part, change } in &hits {
            let count = changed.len();
            let (_, bytes) = &mut changed[segment % count];
            let from = page * 4096 % bytes.len();
            let mut cut = bytes[from..from + part].to_vec();
            change.apply(&mut cut, true);
            bytes[from..from + part].copy_from_slice(&cut);
        }
        if mended {
            changed.iter_mut().for_each(|(_, bytes)| mend_segment(bytes));
        }
        let mut config = config.clone();
        config.started = started.or(config.started);
        if Wal::open(config.clone()).is_err() {
            assert!(started.is_some(), "what a node wrote itself is refused");
            return;
        }
        let mut node = Node::unready(disk_of(&changed, &config), config.clone());
        let Ok(_) = node.recover() else {
            let plain = hits.is_empty() && started.is_none();
            assert!(!plain, "a log that nobody changed is refused");
            return;
        };
        check(&node);
        let before = node.blocks();
        // A log with too many lost bytes may have no room; then it says so.
        let Ok(place) = node.try_append(100) else { return };
        node.settle();
        assert_eq!(node.wal.durable(), place.block);
        let again = node.restart();
        check(&again);
        let blocks = again.blocks();
        assert!(before.iter().all(|block| blocks.contains(block)), "{before:?} then {blocks:?}");
        assert_eq!(blocks.last(), Some(&place.block), "what was appended is there");
    });
}
