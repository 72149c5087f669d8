//! Random appends, crashes and recoveries.

use palisade_wal::{Kind, Replay};

use crate::disk::{Dice, Disk, Fault};
use crate::node::{Node, config};
use palisade_netio::{Errno, Op};
use palisade_wal::SyncPath;

#[test]
fn everything_durable_is_replayed_in_order_and_nothing_torn_is() {
    for seed in 0..60 {
        run(seed);
    }
}

fn run(seed: u64) {
    let mut dice = Dice::new(seed + 1);
    let mut settings = config();
    settings.in_flight_max = 1 + dice.below(4) as usize;
    settings.sync_path = if dice.chance(50) { SyncPath::Dsync } else { SyncPath::WriteThenSync };
    settings.segment_bytes = if dice.chance(50) { 256 << 10 } else { 2 << 20 };
    let large = settings.segment_bytes / 5;
    let mut disk = Disk::new(seed);
    disk.shuffled = true;
    let mut node = Node::start_with(disk, settings);
    // LSN and chain of every durable group, by block.
    let mut promised: Vec<(u64, u64, u64)> = Vec::new();
    for _ in 0..6 {
        let mut weather = Dice::new(dice.roll());
        node.disk.fault = Box::new(move |op| match op {
            Op::Write { runs, .. } => {
                let len: u32 = runs.iter().map(|run| run.len).sum();
                match weather.below(20) {
                    0 => Fault::Short(weather.below(u64::from(len)) as u32),
                    1 => Fault::Errno(Errno(4)),
                    _ => Fault::None,
                }
            }
            _ => Fault::None,
        });
        for _ in 0..dice.below(60) {
            let len = if dice.chance(15) { dice.below(large) } else { dice.below(9000) };
            let _ = node.try_append(len as usize);
            for _ in 0..dice.below(4) {
                node.turn();
            }
            if dice.chance(10) {
                node.pass(11_000_000);
            }
        }
        assert_eq!(node.wal.poisoned(), None);
        node.submit();
        let durable = node.wal.durable();
        for (place, metas) in node.appended.iter().filter(|(place, _)| place.block <= durable) {
            promised.push((place.block, metas[0].lsn.0, metas[0].chain));
        }
        let written = node.appended.clone();
        node.disk.fault = Box::new(|_| Fault::None);
        node.disk.shuffled = true;
        node = node.crash();
        check(&node, &mut promised, &written, seed);
    }
}

fn check(
    node: &Node,
    promised: &mut Vec<(u64, u64, u64)>,
    written: &[(palisade_wal::Place, Vec<palisade_wal::RecordMeta>)],
    seed: u64,
) {
    assert!(node.corrupt().is_empty(), "seed {seed}: {:?}", node.corrupt());
    let groups: Vec<(u64, u64, u64)> = node
        .replayed
        .iter()
        .filter_map(|item| match item {
            Replay::Record { meta, place, .. } if meta.kind == Kind::Group => {
                Some((place.block, meta.lsn.0, meta.chain))
            }
            Replay::Damaged { .. } => panic!("seed {seed}: damaged"),
            _ => None,
        })
        .collect();
    assert!(groups.len() >= promised.len(), "seed {seed}: {} of {}", groups.len(), promised.len());
    assert_eq!(&groups[..promised.len()], &promised[..], "seed {seed}");
    for group in &groups[promised.len()..] {
        let known = written
            .iter()
            .any(|(place, metas)| (place.block, metas[0].lsn.0, metas[0].chain) == *group);
        assert!(known, "seed {seed}: {group:?} was never written");
    }
    *promised = groups;
}

/// Bytes change behind the log's back: recovery neither panics nor makes up records, and says
/// which promised blocks it cannot read.
#[test]
fn damage_is_never_replayed() {
    for seed in 0..120 {
        let mut dice = Dice::new(seed + 500);
        let mut node = Node::start(seed);
        for _ in 0..20 + dice.below(60) {
            node.append(dice.below(9000) as usize);
            if dice.chance(40) {
                node.settle();
            }
        }
        node.settle();
        let written = node.appended.clone();
        let segments = node.disk.segments();
        for _ in 0..1 + dice.below(4) {
            let (segment, _) = segments[dice.below(segments.len() as u64) as usize];
            let (from, len) = (dice.roll(), 1 + dice.below(9000) as usize);
            let fill = [0, 0xFF, dice.roll() as u8][dice.below(3) as usize];
            node.disk.damage(segment, |bytes| {
                let from = from as usize % bytes.len();
                let to = (from + len).min(bytes.len());
                bytes[from..to].fill(fill);
            });
        }
        node.disk.stop(&mut node.pool);
        let mut node = Node::unready(node.disk, node.config);
        node.recover().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let report = node.report();
        let mut seen = 0;
        for item in &node.replayed {
            match item {
                Replay::Record { meta, place, .. } => {
                    let (own, metas) = &written[place.block as usize - 1];
                    assert_eq!((own, &metas[0]), (place, meta), "seed {seed}");
                    assert!(place.block > seen, "seed {seed}: in order");
                    seen = place.block;
                }
                Replay::Damaged { place, .. } => seen = place.block,
                Replay::Corrupt { blocks, .. } => {
                    assert_eq!(blocks.0, seen + 1, "seed {seed}: no silent hole");
                    seen = blocks.1;
                }
                Replay::Done { .. } => {}
            }
        }
        assert_eq!(seen, report.kept.block, "seed {seed}");
        assert!(seen >= report.durable_upto, "seed {seed}");
        let next = node.append_durable(10);
        assert_eq!(next.block, seen + 1, "seed {seed}");
    }
}
