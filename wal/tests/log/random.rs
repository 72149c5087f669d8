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
            Op::Sync { .. } if weather.chance(5) => Fault::Errno(Errno(11)),
            _ => Fault::None,
        });
        for _ in 0..dice.below(60) {
            let len = if dice.chance(10) { dice.below(100_000) } else { dice.below(9000) };
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
