use palisade_netio::{Errno, Nanos, Op, OpenHow, Payload, Run};
use palisade_tests::sim::{FaultKind, FaultPlan};

use crate::rig::{PAGE, Rig};

const SEEDS: u64 = 64;

fn all(bytes: &[u8], byte: u8) -> bool {
    bytes.iter().all(|&b| b == byte)
}

#[test]
fn unsynced_writes_survive_a_power_cut_whole_in_part_or_not_at_all() {
    let (mut whole, mut none, mut part) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut rig = Rig::new(seed);
        let file = rig.file("/data/f", 8);
        rig.write(file, 0, 7, 8 * PAGE, false).unwrap();
        assert!(all(&rig.read(file, 0, 8 * PAGE).unwrap(), 7));
        let rig = rig.power_cycle();
        let left = rig.universe.read(rig.host, "/data/f").unwrap();
        assert_eq!(left.len(), 8 * PAGE);
        for sector in left.chunks(512) {
            assert!(all(sector, 0) || all(sector, 7), "a sector is written as one");
        }
        match (all(&left, 7), all(&left, 0)) {
            (true, _) => whole += 1,
            (_, true) => none += 1,
            _ => part += 1,
        }
    }
    assert!(whole > 0 && none > 0 && part > 0, "{whole} {none} {part}");
}

#[test]
fn synced_writes_survive_every_power_cut() {
    for seed in 0..SEEDS {
        let mut rig = Rig::new(seed);
        let file = rig.file("/data/f", 4);
        rig.write(file, 0, 7, 4 * PAGE, false).unwrap();
        rig.sync(file).unwrap();
        let rig = rig.power_cycle();
        assert!(all(&rig.universe.read(rig.host, "/data/f").unwrap(), 7));
    }
}

#[test]
fn a_barrier_makes_only_its_own_bytes_durable() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let mut rig = Rig::new(seed);
        let file = rig.file("/data/f", 4);
        rig.write(file, 0, 7, PAGE, false).unwrap();
        rig.write(file, PAGE as u64, 8, PAGE, true).unwrap();
        let rig = rig.power_cycle();
        let left = rig.universe.read(rig.host, "/data/f").unwrap();
        assert!(all(&left[PAGE..2 * PAGE], 8));
        lost += usize::from(!all(&left[..PAGE], 7));
    }
    assert!(lost > 0);
}

#[test]
fn a_sync_submitted_before_a_write_completes_does_not_cover_it() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let mut rig = Rig::new(seed);
        let file = rig.file("/data/f", 4);
        let write = rig.start_write(file, 0, 7, PAGE, false);
        let sync = rig.submit(Op::Sync { handle: file, metadata: false });
        rig.wait(sync).result.unwrap();
        rig.wait(write).result.unwrap();
        let rig = rig.power_cycle();
        lost += usize::from(!all(&rig.universe.read(rig.host, "/data/f").unwrap()[..PAGE], 7));
    }
    assert!(lost > 0);
}

#[test]
fn a_write_in_flight_is_torn_by_a_power_cut() {
    let mut torn = 0;
    for seed in 0..SEEDS {
        let mut rig = Rig::new(seed);
        let file = rig.file("/data/f", 4);
        rig.start_write(file, 0, 7, 4 * PAGE, true);
        rig.poll();
        let rig = rig.power_cycle();
        let left = rig.universe.read(rig.host, "/data/f").unwrap();
        torn += usize::from(!all(&left, 7) && !all(&left, 0));
    }
    assert!(torn > 5, "{torn}");
}

#[test]
fn a_kill_keeps_what_completed_and_tears_nothing() {
    let (mut happened, mut vanished) = (0, 0);
    for seed in 0..SEEDS {
        let mut rig = Rig::new(seed);
        let file = rig.file("/data/f", 4);
        rig.write(file, 0, 7, PAGE, false).unwrap();
        rig.start_write(file, PAGE as u64, 8, 2 * PAGE, false);
        rig.poll();
        let rig = rig.restart();
        let left = rig.universe.read(rig.host, "/data/f").unwrap();
        assert!(all(&left[..PAGE], 7));
        let late = &left[PAGE..3 * PAGE];
        happened += usize::from(all(late, 8));
        vanished += usize::from(all(late, 0));
    }
    assert_eq!(happened + vanished, SEEDS as usize);
    assert!(happened > 0 && vanished > 0);
}

#[test]
fn a_name_is_durable_after_a_sync_of_its_directory_only() {
    let (mut created, mut renamed) = (0, 0);
    for seed in 0..SEEDS {
        let mut rig = Rig::new(seed);
        rig.file("/data/kept", 1);
        rig.file("/data/old", 1);
        let fresh = rig.open("/data/fresh", OpenHow::CreateNew);
        rig.write(fresh, 0, 1, PAGE, true).unwrap();
        rig.run(Op::Sync { handle: fresh, metadata: true }).result.unwrap();
        let (from, to) = ("/data/old".into(), "/data/new".into());
        rig.run(Op::Rename { from, to }).result.unwrap();
        let rig = rig.power_cycle();
        let names: Vec<_> =
            rig.universe.files(rig.host).into_iter().map(|(path, _)| path).collect();
        let has = |name: &str| names.iter().any(|path| path.ends_with(name));
        assert!(has("kept") && (has("old") != has("new")));
        assert!(has("fresh") || !has("new"), "what survives is a prefix");
        created += usize::from(has("fresh"));
        renamed += usize::from(has("new"));
    }
    for count in [created, renamed] {
        assert!(count > 0 && count < SEEDS as usize);
    }
}

#[test]
fn a_synced_rename_survives() {
    for seed in 0..SEEDS {
        let mut rig = Rig::new(seed);
        rig.file("/data/old", 1);
        let (from, to) = ("/data/old".into(), "/data/new".into());
        rig.run(Op::Rename { from, to }).result.unwrap();
        rig.sync_parent("/data/new");
        let mut rig = rig.power_cycle();
        rig.open("/data/new", OpenHow::Read);
    }
}

#[test]
fn a_rename_replaces_nothing() {
    let mut rig = Rig::new(1);
    rig.file("/data/a", 1);
    rig.file("/data/b", 1);
    let (from, to) = ("/data/a".into(), "/data/b".into());
    assert_eq!(rig.run(Op::Rename { from, to }).result, Err(Errno::EXIST));
}

#[test]
fn a_file_grows_durably_by_a_barrier_and_not_by_a_write() {
    let mut shrunk = 0;
    for seed in 0..SEEDS {
        let mut rig = Rig::new(seed);
        let file = rig.file("/data/f", 1);
        rig.write(file, PAGE as u64, 7, PAGE, true).unwrap();
        rig.write(file, 2 * PAGE as u64, 8, 4 * PAGE, false).unwrap();
        let rig = rig.power_cycle();
        let left = rig.universe.read(rig.host, "/data/f").unwrap();
        assert!(left.len() >= 2 * PAGE && left.len() <= 6 * PAGE);
        assert!(all(&left[PAGE..2 * PAGE], 7));
        shrunk += usize::from(left.len() < 6 * PAGE);
    }
    assert!(shrunk > 0);
}

#[test]
fn misaligned_operations_are_invalid() {
    let mut rig = Rig::new(1);
    let file = rig.file("/data/f", 4);
    assert_eq!(rig.write(file, 512, 1, PAGE, true), Err(Errno::INVAL));
    assert_eq!(rig.write(file, 0, 1, 512, true), Err(Errno::INVAL));
    assert_eq!(rig.read(file, 100, PAGE), Err(Errno::INVAL));
    let slot = rig.slot(1, 2 * PAGE);
    let runs = vec![Run { slot, at: 512, len: PAGE as u32 }];
    let end = rig.run(Op::Write { handle: file, offset: 0, runs, barrier: false });
    assert_eq!(end.result, Err(Errno::INVAL));
    rig.universe.set_alignment(512);
    assert_eq!(rig.write(file, 512, 1, 512, true), Ok(512));
}

#[test]
fn short_writes_and_reads_end_at_the_alignment() {
    let mut rig = Rig::new(3);
    let file = rig.file("/data/f", 16);
    rig.universe.arm(rig.host, FaultKind::ShortWrite, 1);
    let wrote = rig.write(file, 0, 7, 16 * PAGE, true).unwrap() as usize;
    assert!(wrote > 0 && wrote < 16 * PAGE && wrote.is_multiple_of(PAGE));
    let seen = rig.universe.read_durable(rig.host, "/data/f").unwrap();
    assert!(all(&seen[..wrote], 7) && all(&seen[wrote..], 0));
    rig.universe.arm(rig.host, FaultKind::ShortRead, 1);
    let read = rig.read(file, 0, 16 * PAGE).unwrap().len();
    assert!(read > 0 && read < 16 * PAGE && read.is_multiple_of(PAGE));
    assert_eq!(rig.write(file, 0, 8, 16 * PAGE, true), Ok(16 * PAGE as u32), "once only");
}

#[test]
fn armed_errors_strike_once_each() {
    let mut rig = Rig::new(5);
    let file = rig.file("/data/f", 4);
    for kind in [FaultKind::WriteError, FaultKind::BarrierError] {
        rig.universe.arm(rig.host, kind, 1);
        let barrier = kind == FaultKind::BarrierError;
        assert_eq!(rig.write(file, 0, 7, PAGE, !barrier), Ok(PAGE as u32), "not this kind");
        assert_eq!(rig.write(file, 0, 7, PAGE, barrier), Err(Errno::IO));
        assert_eq!(rig.write(file, 0, 7, PAGE, barrier), Ok(PAGE as u32));
    }
    rig.universe.arm(rig.host, FaultKind::BarrierError, 1);
    assert_eq!(rig.sync(file), Err(Errno::IO));
    rig.universe.arm(rig.host, FaultKind::ReadError, 1);
    assert!(rig.read(file, 0, PAGE).is_err_and(Errno::is_media));
    let counts = rig.universe.fault_counts();
    assert_eq!(counts[&FaultKind::BarrierError], 2);
    assert_eq!(counts[&FaultKind::ReadError], 1);
}

#[test]
fn a_failed_sync_is_not_mended_by_the_next() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let mut rig = Rig::new(seed);
        let file = rig.file("/data/f", 1);
        rig.write(file, 0, 7, PAGE, false).unwrap();
        rig.universe.arm(rig.host, FaultKind::BarrierError, 1);
        assert_eq!(rig.sync(file), Err(Errno::IO));
        assert_eq!(rig.sync(file), Ok(0));
        let rig = rig.power_cycle();
        lost += usize::from(!all(&rig.universe.read(rig.host, "/data/f").unwrap(), 7));
    }
    assert!(lost > 0);
}

#[test]
fn a_full_disk_takes_what_fits_and_no_more() {
    let mut rig = Rig::new(1);
    rig.universe.set_capacity(rig.host, 4 * PAGE as u64);
    let file = rig.file("/data/f", 2);
    assert_eq!(rig.write(file, 2 * PAGE as u64, 1, 4 * PAGE, false), Ok(2 * PAGE as u32));
    assert_eq!(rig.write(file, 4 * PAGE as u64, 1, PAGE, false), Err(Errno::NOSPC));
    assert_eq!(rig.write(file, 0, 1, 4 * PAGE, true), Ok(4 * PAGE as u32), "in place");
    let end = rig.run(Op::Allocate { handle: file, len: 8 * PAGE as u64 });
    assert_eq!(end.result, Err(Errno::NOSPC));
    rig.run(Op::Close { handle: file }).result.unwrap();
    rig.run(Op::Unlink { path: "/data/f".into() }).result.unwrap();
    rig.sync_parent("/data/f");
    let other = rig.file("/data/g", 4);
    let Payload::Facts(facts) = rig.run(Op::Facts { handle: other }).payload else { panic!() };
    assert_eq!((facts.size, facts.free), (4 * PAGE as u64, 0));
}

#[test]
fn a_stalled_disk_completes_nothing_until_it_goes_on() {
    let mut rig = Rig::new(1);
    let file = rig.file("/data/f", 1);
    let write = rig.start_write(file, 0, 1, PAGE, true);
    rig.poll();
    let until = Nanos(rig.universe.now().0 + 5_000_000_000);
    rig.universe.stall(rig.host, until);
    rig.wait(write).result.unwrap();
    assert!(rig.universe.now() >= until);
}

#[test]
fn a_bit_flips_on_the_medium() {
    let mut rig = Rig::new(1);
    let file = rig.file("/data/f", 1);
    assert!(rig.universe.flip(rig.host, "/data/f", 100));
    assert!(!rig.universe.flip(rig.host, "/data/f", 1 << 40));
    assert!(!rig.universe.flip(rig.host, "/data/none", 0));
    let ones: u32 = rig.read(file, 0, PAGE).unwrap().iter().map(|b| b.count_ones()).sum();
    assert_eq!(ones, 1);
}

#[test]
fn lying_disks_lose_and_misplace() {
    let mut rig = Rig::new(1);
    let file = rig.file("/data/f", 32);
    rig.universe.arm(rig.host, FaultKind::LostWrite, 1);
    rig.write(file, 0, 7, PAGE, true).unwrap();
    assert!(all(&rig.read(file, 0, PAGE).unwrap(), 0));
    rig.universe.arm(rig.host, FaultKind::MisdirectedWrite, 1);
    rig.write(file, 16 * PAGE as u64, 7, PAGE, true).unwrap();
    let seen = rig.universe.read(rig.host, "/data/f").unwrap();
    assert!(all(&seen[16 * PAGE..17 * PAGE], 0) && seen.contains(&7));
    rig.write(file, 8 * PAGE as u64, 9, PAGE, true).unwrap();
    rig.universe.arm(rig.host, FaultKind::MisdirectedRead, 1);
    assert!(!all(&rig.read(file, 8 * PAGE as u64, PAGE).unwrap(), 9));
    let mut lost = 0;
    for seed in 0..SEEDS {
        let mut rig = Rig::new(seed);
        let file = rig.file("/data/f", 1);
        rig.universe.arm(rig.host, FaultKind::LyingBarrier, 1);
        rig.write(file, 0, 7, PAGE, true).unwrap();
        let rig = rig.power_cycle();
        lost += usize::from(!all(&rig.universe.read(rig.host, "/data/f").unwrap(), 7));
    }
    assert!(lost > 0);
}

#[test]
#[should_panic(expected = "slot changed while in flight")]
fn a_slot_changed_under_a_write_is_caught() {
    let mut rig = Rig::new(1);
    let handle = rig.file("/data/f", 2);
    let slot = rig.slot(1, 2 * PAGE);
    let run = Run { slot, at: PAGE as u32, len: PAGE as u32 };
    let token = rig.submit(Op::Write { handle, offset: 0, runs: vec![run], barrier: true });
    rig.poll();
    rig.corrupt_in_flight(run);
    rig.wait(token).result.unwrap();
}

#[test]
fn transient_errors_leave_no_effect() {
    let mut rig = Rig::new(1);
    let file = rig.file("/data/f", 1);
    rig.universe.set_faults(FaultPlan::none().with(FaultKind::Transient, 1_000_000));
    let errno = rig.write(file, 0, 7, PAGE, true).unwrap_err();
    assert!(errno.is_transient());
    assert!(all(&rig.universe.read(rig.host, "/data/f").unwrap(), 0));
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    let mut rig = Rig::new(1);
    let file = rig.file("/data/f", 1);
    rig.write(file, 0, 7, PAGE, true).unwrap();
    rig.run(Op::Unlink { path: "/data/f".into() }).result.unwrap();
    rig.sync_parent("/data/f");
    assert!(all(&rig.read(file, 0, PAGE).unwrap(), 7));
    assert_eq!(rig.run(Op::List { path: "/data".into() }).payload, Payload::Names(Vec::new()));
}

#[test]
fn handles_mean_nothing_once_closed() {
    let mut rig = Rig::new(1);
    let file = rig.file("/data/f", 1);
    rig.run(Op::Close { handle: file }).result.unwrap();
    assert_eq!(rig.read(file, 0, PAGE), Err(Errno(9)));
    let reader = rig.open("/data/f", OpenHow::Read);
    assert_eq!(reader, file, "numbers are given again");
    assert_eq!(rig.write(reader, 0, 1, PAGE, true), Err(Errno(9)), "opened to read");
}
