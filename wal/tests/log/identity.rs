//! The identity file: both copies before it counts, either copy is enough.

use std::path::PathBuf;

use palisade_netio::{Errno, Op, Pool, Purpose, Token};
use palisade_wal::{Identity, IdentityEvent, IdentityFile, LogStart, Started};

use crate::disk::{Dice, Disk, Event, Fault, pool};

fn identity() -> Identity {
    Identity {
        cluster: 1,
        node: 2,
        incarnation: 3,
        shard: 4,
        shards: 5,
        role: 6,
        boots: 0,
        round_ceiling: 100,
        started: Started { newest: 3, before: 2, start: LogStart { segment: 1, block: 1 } },
        term_epoch: 2,
        term_cluster: 3,
    }
}

fn dir() -> PathBuf {
    PathBuf::from("/log")
}

fn drive(file: &mut IdentityFile, disk: &mut Disk, pool: &mut Pool) -> Option<IdentityEvent> {
    for _ in 0..200 {
        if let Some(event) = file.poll_event() {
            return Some(event);
        }
        let mut ops = Vec::new();
        file.poll_ops(pool, &mut ops);
        for (local, op) in ops {
            disk.submit(pool, Token(local.into()), op);
        }
        let done = disk.complete(pool)?;
        file.on_completion(pool, done.token.0 as u32, done);
    }
    panic!("the file comes to rest")
}

fn formatted() -> (IdentityFile, Disk, Pool) {
    let (mut disk, mut pool) = (Disk::new(1), pool());
    let mut file = IdentityFile::format(&dir(), identity());
    let event = drive(&mut file, &mut disk, &mut pool);
    assert_eq!(event, Some(IdentityEvent::Updated(identity())));
    assert_eq!(pool.used(Purpose::Write), 0);
    (file, disk, pool)
}

fn reopened(disk: &mut Disk, pool: &mut Pool) -> IdentityEvent {
    disk.stop(pool);
    drive(&mut IdentityFile::open(&dir()), disk, pool).unwrap()
}

fn damage(disk: &mut Disk, copy: usize) {
    let file = disk.files.values_mut().next().unwrap();
    file.data[copy * 4096 + 60] ^= 1;
}

#[test]
fn no_file_is_missing_and_two_bad_copies_are_lost() {
    let (mut disk, mut pool) = (Disk::new(1), pool());
    assert_eq!(reopened(&mut disk, &mut pool), IdentityEvent::Missing);
    for copy in 0..2 {
        let (_, mut disk, mut pool) = formatted();
        damage(&mut disk, copy);
        assert_eq!(reopened(&mut disk, &mut pool), IdentityEvent::Found(identity()));
        damage(&mut disk, 1 - copy);
        assert_eq!(reopened(&mut disk, &mut pool), IdentityEvent::Lost);
    }
}

#[test]
fn a_change_counts_when_both_copies_are_written() {
    let (mut file, mut disk, mut pool) = formatted();
    disk.events.clear();
    let new = Identity { round_ceiling: 200, boots: 1, ..identity() };
    file.update(new);
    assert_eq!(file.identity(), Some(identity()));
    let event = drive(&mut file, &mut disk, &mut pool);
    assert_eq!(event, Some(IdentityEvent::Updated(new)));
    assert!(file.is_idle());
    let order: Vec<Option<u64>> = disk
        .events
        .iter()
        .map(|event| match event {
            Event::Submitted(_, Op::Write { offset, barrier: true, .. }) => Some(*offset),
            Event::Completed(_) => None,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(order, [Some(0), None, Some(4096), None]);
    for copy in 0..2 {
        damage(&mut disk, copy);
        assert_eq!(reopened(&mut disk, &mut pool), IdentityEvent::Found(new), "either copy");
        damage(&mut disk, copy);
    }
}

#[test]
fn a_crash_in_a_change_keeps_the_old_or_the_new_identity() {
    for seed in 0..100 {
        let (mut file, mut disk, mut pool) = formatted();
        disk.dice = Dice::new(seed);
        let new = Identity { round_ceiling: 200, ..identity() };
        file.update(new);
        let steps = seed % 4;
        for step in 0..=steps {
            let mut ops = Vec::new();
            file.poll_ops(&mut pool, &mut ops);
            for (local, op) in ops {
                disk.submit(&mut pool, Token(local.into()), op);
            }
            if step < steps
                && let Some(done) = disk.complete(&mut pool)
            {
                file.on_completion(&mut pool, done.token.0 as u32, done);
            }
        }
        let told = file.poll_event().is_some();
        disk.crash(&mut pool);
        match reopened(&mut disk, &mut pool) {
            IdentityEvent::Found(found) => assert!(found == new || (!told && found == identity())),
            other => panic!("seed {seed}: {other:?}"),
        }
    }
}

#[test]
fn a_change_never_touches_the_only_good_copy_first() {
    for copy in 0..2 {
        let (_, mut disk, mut pool) = formatted();
        damage(&mut disk, copy);
        disk.stop(&mut pool);
        let mut file = IdentityFile::open(&dir());
        let found = drive(&mut file, &mut disk, &mut pool);
        assert_eq!(found, Some(IdentityEvent::Found(identity())));
        file.update(Identity { round_ceiling: 200, ..identity() });
        let mut ops = Vec::new();
        file.poll_ops(&mut pool, &mut ops);
        let [(_, Op::Write { offset, .. })] = &ops[..] else { panic!("{ops:?}") };
        assert_eq!(*offset, copy as u64 * 4096, "the damaged copy is written first");
        // As if that write was torn: the good copy is still there.
        assert_eq!(reopened(&mut disk, &mut pool), IdentityEvent::Found(identity()));
        // The next changes find two good copies, and both are written in each.
        let mut file = IdentityFile::open(&dir());
        drive(&mut file, &mut disk, &mut pool);
        for ceiling in [200, 300] {
            let new = Identity { round_ceiling: ceiling, ..identity() };
            file.update(new);
            let event = drive(&mut file, &mut disk, &mut pool);
            assert_eq!(event, Some(IdentityEvent::Updated(new)));
            for copy in 0..2 {
                damage(&mut disk, copy);
                assert_eq!(reopened(&mut disk, &mut pool), IdentityEvent::Found(new));
                damage(&mut disk, copy);
            }
            file = IdentityFile::open(&dir());
            drive(&mut file, &mut disk, &mut pool);
        }
    }
}

#[test]
fn a_failed_write_poisons_the_file() {
    let (mut file, mut disk, mut pool) = formatted();
    file.update(Identity { boots: 1, ..identity() });
    disk.fault = Box::new(|op| match op {
        Op::Write { .. } => Fault::Errno(Errno::IO),
        _ => Fault::None,
    });
    assert_eq!(drive(&mut file, &mut disk, &mut pool), None);
    assert!(file.poisoned().is_some() && !file.is_idle());
    assert_eq!(file.identity(), Some(identity()));
    assert_eq!(pool.used(Purpose::Write), 0);
}

#[test]
fn short_and_interrupted_writes_are_done_again() {
    let (mut file, mut disk, mut pool) = formatted();
    let mut left = 4;
    disk.fault = Box::new(move |op| match op {
        Op::Write { .. } if left > 0 => {
            left -= 1;
            if left % 2 == 0 { Fault::Short(512) } else { Fault::Errno(Errno(4)) }
        }
        _ => Fault::None,
    });
    let new = Identity { boots: 1, ..identity() };
    file.update(new);
    let event = drive(&mut file, &mut disk, &mut pool);
    assert_eq!(event, Some(IdentityEvent::Updated(new)));
}

#[test]
fn a_generation_after_which_there_is_none_is_refused() {
    let (_, mut disk, mut pool) = formatted();
    let file = disk.files.values_mut().next().unwrap();
    palisade_wal::encode_identity(&identity(), 1 << 62, &mut file.data[..4096]);
    disk.stop(&mut pool);
    let mut file = IdentityFile::open(&dir());
    assert_eq!(drive(&mut file, &mut disk, &mut pool), None);
    let error = file.poisoned().expect("it is refused").to_string();
    assert!(error.contains("generation"), "{error}");
}

#[test]
fn bytes_that_are_to_be_zero_are_looked_at() {
    let mut bytes = vec![0; 512];
    palisade_wal::encode_identity(&identity(), 1, &mut bytes);
    bytes[200] = 1;
    bytes[508..].fill(0);
    let crc = crc32c::crc32c(&bytes);
    bytes[508..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(palisade_wal::decode_identity(&bytes), None);
}
