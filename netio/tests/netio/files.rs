//! Files through the ring, with direct I/O.

use std::path::PathBuf;

use palisade_netio::{
    Errno, Handle, Op, OpenHow, Payload, Purpose, REGISTERED_STEP, Ring, Run, SyncPath, Token,
    Uring, UringConfig, Wait,
};

use crate::pump::{Pump, pattern};

pub fn fresh_dir(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

pub fn open(pump: &mut Pump, path: PathBuf, how: OpenHow) -> Handle {
    match pump.run(Op::Open { path, how }) {
        completion if completion.result.is_ok() => match completion.payload {
            Payload::Handle(handle) => handle,
            other => panic!("opened {other:?}"),
        },
        completion => panic!("{completion:?}"),
    }
}

#[test]
fn a_barrier_write_of_many_runs_reads_back() {
    let dir = fresh_dir("barrier_write");
    let mut pump = Pump::new();
    let file = open(&mut pump, dir.join("segment"), OpenHow::CreateNew);
    let slots: Vec<_> = (0..5).map(|_| pump.pool.take(Purpose::Write, 1 << 20).unwrap()).collect();
    let lens = [4096, 8192, 1 << 20, REGISTERED_STEP, 12288];
    let mut expected = Vec::new();
    let mut runs = Vec::new();
    for (i, (&slot, &len)) in slots.iter().zip(&lens).enumerate() {
        let bytes = pattern(len, i as u64);
        pump.pool.bytes_mut(slot)[..len].copy_from_slice(&bytes);
        expected.extend_from_slice(&bytes);
        runs.push(Run { slot, at: 0, len: len as u32 });
    }
    let done = pump.run(Op::Write { handle: file, offset: 4096, runs, barrier: true });
    assert_eq!(done.result, Ok(expected.len() as u32));
    assert!(slots.iter().all(|&slot| pump.pool.owners(slot) == 1));

    let mut read = Vec::new();
    let run = Run { slot: slots[0], at: 0, len: 1 << 20 };
    loop {
        let offset = 4096 + read.len() as u64;
        let bytes = pump.run(Op::Read { handle: file, offset, run }).result.unwrap() as usize;
        if bytes == 0 {
            break;
        }
        read.extend_from_slice(&pump.pool.bytes(slots[0])[..bytes]);
    }
    assert!(read == expected);
    assert_eq!(pump.run(Op::Sync { handle: file, metadata: true }).result, Ok(0));
    assert_eq!(pump.run(Op::Sync { handle: file, metadata: false }).result, Ok(0));
    assert_eq!(pump.run(Op::Close { handle: file }).result, Ok(0));
}

/// More at a time than the queue has entries, so that chains meet its end.
#[test]
fn every_path_makes_many_writes_durable_at_once() {
    const COUNT: u64 = 41;
    let dir = fresh_dir("sync_paths");
    for sync_path in SyncPath::ALL {
        let mut pump = Pump::new();
        let config = UringConfig { entries: 3, sync_path, ..UringConfig::default() };
        pump.ring = Uring::new(config, &pump.pool).unwrap();
        let file = open(&mut pump, dir.join(sync_path.as_str()), OpenHow::CreateNew);
        for at in 0..COUNT {
            let slot = pump.pool.take(Purpose::Write, 4096).unwrap();
            pump.pool.bytes_mut(slot).copy_from_slice(&pattern(4096, at));
            let runs = vec![Run { slot, at: 0, len: 4096 }];
            let op = Op::Write { handle: file, offset: at * 4096, runs, barrier: true };
            pump.ring.submit(&mut pump.pool, Token(100 + 2 * at), op);
            pump.pool.release(slot);
            let op = Op::Sync { handle: file, metadata: false };
            pump.ring.submit(&mut pump.pool, Token(101 + 2 * at), op);
        }
        pump.until(|pump| pump.others.len() == 2 * COUNT as usize);
        for done in pump.others.drain(..) {
            let bytes = if done.token.0 % 2 == 0 { 4096 } else { 0 };
            assert_eq!(done.result, Ok(bytes), "{sync_path:?}");
        }
        assert_eq!((pump.ring.in_flight(), pump.pool.used(Purpose::Write)), (0, 0));
        let slot = pump.pool.take(Purpose::Read, 4096).unwrap();
        for at in 0..COUNT {
            let run = Run { slot, at: 0, len: 4096 };
            pump.run(Op::Read { handle: file, offset: at * 4096, run }).result.unwrap();
            assert!(pump.pool.bytes(slot) == pattern(4096, at));
        }
    }
}

#[test]
fn a_failed_write_is_reported_whatever_is_linked_to_it() {
    let dir = fresh_dir("failed_writes");
    for sync_path in SyncPath::ALL {
        let mut pump = Pump::new();
        let config = UringConfig { sync_path, ..UringConfig::default() };
        pump.ring = Uring::new(config, &pump.pool).unwrap();
        let path = dir.join(sync_path.as_str());
        open(&mut pump, path.clone(), OpenHow::CreateNew);
        let file = open(&mut pump, path, OpenHow::Read);
        let slot = pump.pool.take(Purpose::Write, 4096).unwrap();
        let runs = vec![Run { slot, at: 0, len: 4096 }];
        let done = pump.run(Op::Write { handle: file, offset: 0, runs, barrier: true });
        assert_eq!(done.result, Err(Errno(9)), "{sync_path:?}");
        assert_eq!((pump.ring.in_flight(), pump.pool.owners(slot)), (0, 1));
    }
}

/// A limit on the size of files cuts a write short. It counts for the whole process: the second
/// half of this test runs in one of its own.
#[test]
fn a_short_write_is_reported_whatever_is_linked_to_it() {
    const LIMITED: &str = "PALISADE_TEST_FILE_SIZE_IS_LIMITED";
    if std::env::var_os(LIMITED).is_none() {
        let test = "files::a_short_write_is_reported_whatever_is_linked_to_it";
        let script = "trap '' XFSZ; ulimit -f 128; exec \"$0\" --exact \"$1\"";
        let mut shell = std::process::Command::new("sh");
        let this = std::env::current_exe().unwrap();
        let output = shell.args(["-c", script]).arg(this).arg(test).env(LIMITED, "1").output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    const LEN: u32 = 1 << 20;
    let dir = fresh_dir("short_writes");
    for sync_path in SyncPath::ALL {
        let mut pump = Pump::new();
        let config = UringConfig { sync_path, ..UringConfig::default() };
        pump.ring = Uring::new(config, &pump.pool).unwrap();
        let file = open(&mut pump, dir.join(sync_path.as_str()), OpenHow::CreateNew);
        let slot = pump.pool.take(Purpose::Write, LEN as usize).unwrap();
        let run = Run { slot, at: 0, len: LEN };
        let op = Op::Write { handle: file, offset: 0, runs: vec![run], barrier: true };
        let written = pump.run(op).result.unwrap();
        assert!(written > 0 && written < LEN, "{written} of {LEN} by {sync_path:?}");
        let rest = Run { slot, at: written, len: LEN - written };
        let offset = u64::from(written);
        let op = Op::Write { handle: file, offset, runs: vec![rest], barrier: true };
        assert_eq!(pump.run(op).result, Err(Errno(27)), "{sync_path:?}");
        assert_eq!((pump.ring.in_flight(), pump.pool.owners(slot)), (0, 1));
    }
}

/// A write and its sync are one operation: who waits is woken once.
#[test]
fn a_durable_write_wakes_its_ring_once() {
    let dir = fresh_dir("one_wake");
    for sync_path in [SyncPath::Dsync, SyncPath::LinkedSync] {
        let mut pump = Pump::new();
        let config = UringConfig { sync_path, ..UringConfig::default() };
        pump.ring = Uring::new(config, &pump.pool).unwrap();
        let file = open(&mut pump, dir.join(sync_path.as_str()), OpenHow::CreateNew);
        let slot = pump.pool.take(Purpose::Write, 4096).unwrap();
        for at in 0..20 {
            let runs = vec![Run { slot, at: 0, len: 4096 }];
            let op = Op::Write { handle: file, offset: at * 4096, runs, barrier: true };
            pump.ring.submit(&mut pump.pool, Token(100), op);
            let mut done = Vec::new();
            pump.ring.enter(&mut pump.pool, Wait::Until(None), &mut done);
            assert_eq!(done.len(), 1, "{sync_path:?}");
            assert_eq!(done[0].result, Ok(4096));
        }
    }
}

/// Nobody arms the doorbell here: the ring itself listens for its helper.
#[test]
fn a_sync_of_the_helper_wakes_a_ring_that_waits_without_end() {
    let dir = fresh_dir("helper_wakes");
    let mut pump = Pump::new();
    let sync_path = SyncPath::WriteThenSync;
    let config = UringConfig { sync_path, ..UringConfig::default() };
    pump.ring = Uring::new(config, &pump.pool).unwrap();
    let file = open(&mut pump, dir.join("f"), OpenHow::CreateNew);
    for token in 0..50 {
        let op = Op::Sync { handle: file, metadata: false };
        pump.ring.submit(&mut pump.pool, Token(token), op);
        let mut done = Vec::new();
        while done.is_empty() {
            pump.ring.enter(&mut pump.pool, Wait::Until(None), &mut done);
        }
        assert_eq!((done[0].token, done[0].result), (Token(token), Ok(0)));
    }
    let helpers = std::fs::read_dir("/proc/self/task").unwrap().filter(|task| {
        let comm = task.as_ref().unwrap().path().join("comm");
        std::fs::read_to_string(comm).is_ok_and(|name| name.trim() == "palisade-sync")
    });
    assert!(helpers.count() > 0, "the syncs ran on a thread");
}

#[test]
fn registered_and_plain_writes_give_the_same_bytes() {
    let dir = fresh_dir("registered");
    for register_bytes_max in [0, 1 << 20, 64 << 20] {
        let mut pump = Pump::new();
        let config = UringConfig { entries: 4, register_bytes_max, ..UringConfig::default() };
        pump.ring = palisade_netio::Uring::new(config, &pump.pool).unwrap();
        assert!(pump.ring.registered_bytes() <= register_bytes_max);
        let path = dir.join(register_bytes_max.to_string());
        let file = open(&mut pump, path, OpenHow::CreateNew);
        let slots: Vec<_> =
            (0..40).map(|_| pump.pool.take(Purpose::Write, REGISTERED_STEP).unwrap()).collect();
        // More at a time than the queue has entries.
        for (i, &slot) in slots.iter().enumerate() {
            pump.pool.bytes_mut(slot).copy_from_slice(&pattern(REGISTERED_STEP, i as u64));
            let runs = vec![Run { slot, at: 0, len: REGISTERED_STEP as u32 }];
            let offset = (i * REGISTERED_STEP) as u64;
            let op = Op::Write { handle: file, offset, runs, barrier: false };
            pump.ring.submit(&mut pump.pool, Token(100 + i as u64), op);
        }
        assert_eq!(pump.ring.in_flight(), 40);
        pump.until(|pump| pump.others.len() == 40);
        assert_eq!(pump.ring.in_flight(), 0);
        for done in pump.others.drain(..) {
            assert_eq!(done.result, Ok(REGISTERED_STEP as u32));
        }
        for (i, &slot) in slots.iter().enumerate() {
            let run = Run { slot, at: 0, len: REGISTERED_STEP as u32 };
            pump.pool.bytes_mut(slot).fill(0);
            let offset = (i * REGISTERED_STEP) as u64;
            let done = pump.run(Op::Read { handle: file, offset, run });
            assert_eq!(done.result, Ok(REGISTERED_STEP as u32));
            assert!(pump.pool.bytes(slot) == pattern(REGISTERED_STEP, i as u64));
        }
        pump.run(Op::Close { handle: file });
    }
}

#[test]
fn names_and_facts() {
    let dir = fresh_dir("names");
    let mut pump = Pump::new();
    let file = open(&mut pump, dir.join("b"), OpenHow::CreateNew);
    assert_eq!(pump.run(Op::Allocate { handle: file, len: 1 << 20 }).result, Ok(0));
    let Payload::Facts(facts) = pump.run(Op::Facts { handle: file }).payload else {
        panic!("no facts");
    };
    assert_eq!(facts.size, 1 << 20);
    assert!(facts.offset_align >= 512 && facts.memory_align > 0 && facts.block >= 512);
    assert!(facts.free > 0);

    let rename = |from: &str, to: &str| Op::Rename { from: dir.join(from), to: dir.join(to) };
    assert_eq!(pump.run(rename("b", "a")).result, Ok(0));
    assert_eq!(pump.run(Op::MakeDir { path: dir.join("c") }).result, Ok(0));
    assert_eq!(pump.run(rename("a", "c")).result, Err(Errno::EXIST));
    let listed = pump.run(Op::List { path: dir.clone() });
    assert_eq!(listed.payload, Payload::Names(vec!["a".into(), "c".into()]));
    let handle = open(&mut pump, dir.clone(), OpenHow::Directory);
    assert_eq!(pump.run(Op::Sync { handle, metadata: true }).result, Ok(0));
    assert!(pump.run(Op::Facts { handle }).result.is_ok());
    assert_eq!(pump.run(Op::Unlink { path: dir.join("a") }).result, Ok(0));
    assert_eq!(pump.run(Op::Unlink { path: dir.join("a") }).result, Err(Errno::NOENT));
    pump.run(Op::Close { handle });
    pump.run(Op::Close { handle: file });
}

#[test]
fn errors_are_the_kernels() {
    let dir = fresh_dir("errors");
    let mut pump = Pump::new();
    let missing = Op::Open { path: dir.join("missing"), how: OpenHow::ReadWrite };
    assert_eq!(pump.run(missing).result, Err(Errno::NOENT));
    let path = dir.join("there");
    let file = open(&mut pump, path.clone(), OpenHow::CreateNew);
    let again = Op::Open { path: path.clone(), how: OpenHow::CreateNew };
    assert_eq!(pump.run(again).result, Err(Errno::EXIST));
    let nul = Op::Open { path: "a\0b".into(), how: OpenHow::Read };
    assert_eq!(pump.run(nul).result, Err(Errno::INVAL));
    let slot = pump.pool.take(Purpose::Write, 4096).unwrap();
    let write = |at, len, offset| Op::Write {
        handle: file,
        offset,
        runs: vec![Run { slot, at, len }],
        barrier: true,
    };
    assert_eq!(pump.run(write(0, 4096, 100)).result, Err(Errno::INVAL));
    assert_eq!(pump.pool.owners(slot), 1);
    pump.run(Op::Close { handle: file });
    let reader = open(&mut pump, path, OpenHow::Read);
    assert!(
        pump.run(Op::Write {
            handle: reader,
            offset: 0,
            runs: vec![Run { slot, at: 0, len: 4096 }],
            barrier: false,
        })
        .result
        .is_err()
    );
    let run = Run { slot, at: 0, len: 4096 };
    assert_eq!(pump.run(Op::Read { handle: reader, offset: 0, run }).result, Ok(0));
    assert_eq!(pump.run(Op::Cancel { target: Token(99) }).result, Err(Errno::NOENT));
    pump.run(Op::Close { handle: reader });
}
