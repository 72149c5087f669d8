//! Files through the ring, with direct I/O.

use std::path::PathBuf;

use palisade_netio::{
    Errno, Handle, Op, OpenHow, Payload, Purpose, REGISTERED_STEP, Ring, Run, Token, UringConfig,
};

use crate::pump::{Pump, pattern};

fn fresh_dir(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn open(pump: &mut Pump, path: PathBuf, how: OpenHow) -> Handle {
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

#[test]
fn registered_and_plain_writes_give_the_same_bytes() {
    let dir = fresh_dir("registered");
    for register_bytes_max in [0, 1 << 20, 64 << 20] {
        let mut pump = Pump::new();
        let config = UringConfig { entries: 4, register_bytes_max };
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
