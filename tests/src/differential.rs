//! One script of file operations for any ring.
//!
//! [`differential`] runs random operations one batch after the other and records what a caller
//! can see. Two rings are alike when the same seed gives the same record: the virtual ring
//! without faults, and the real one on a real file system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use palisade_netio::{
    Completion, Handle, Op, OpenHow, PAGE_BYTES, Payload, Pool, Purpose, Ring, Run, SlotId, Token,
    Wait,
};

use crate::sim::Random;

/// Files that a script plays with.
const FILES: u64 = 6;
/// Largest write or read of a script, in pages.
const PAGES_MAX: u64 = 16;
/// Extent of a file of a script, in pages.
const FILE_PAGES: u64 = 64;
/// Waits without any completion before a script gives up.
const WAITS_MAX: u32 = 1_000_000;

struct Script<'a, R> {
    ring: R,
    pool: &'a mut Pool,
    idle: &'a mut dyn FnMut(),
    random: Random,
    root: PathBuf,
    tokens: u64,
    open: BTreeMap<u64, Handle>,
    record: Vec<String>,
}

/// Runs `steps` steps of the script that `seed` gives on `ring`, in the directory `root`, which
/// must exist and be empty, and returns what was seen, a line a step. `idle` is called after each
/// wait that found nothing: on a virtual ring it moves the world on, on a real one it does
/// nothing.
///
/// # Panics
/// When the ring loses an operation, or the pool is too small (1 MiB for writes and for reads).
pub fn differential<R: Ring>(
    ring: R,
    pool: &mut Pool,
    root: &Path,
    seed: u64,
    steps: usize,
    idle: &mut dyn FnMut(),
) -> Vec<String> {
    let (random, root, open) = (Random::new(seed), root.to_owned(), BTreeMap::new());
    let mut script = Script { ring, pool, idle, random, root, tokens: 0, open, record: Vec::new() };
    for _ in 0..steps {
        script.step();
    }
    script.finish();
    script.record
}

impl<R: Ring> Script<'_, R> {
    fn step(&mut self) {
        let file = self.random.below(FILES);
        match self.random.below(20) {
            0..=1 => self.open(file),
            2..=7 => self.write(file),
            8..=12 => self.read(file),
            13..=14 => self.sync(file),
            15 => self.rename(file),
            16 => self.close(file),
            17 => self.unlink(file),
            18 => self.allocate(file),
            _ => self.look(file),
        }
    }

    fn path(&self, file: u64) -> PathBuf {
        self.root.join(format!("file-{file}"))
    }

    fn note(&mut self, what: &str, file: u64, end: &Completion) {
        let shown = match &end.payload {
            Payload::Names(names) => format!("{names:?}"),
            Payload::Facts(facts) => format!("size {}", facts.size),
            _ => String::new(),
        };
        self.record.push(format!("{what} {file}: {:?} {shown}", end.result));
    }

    fn open(&mut self, file: u64) {
        if self.open.contains_key(&file) {
            return;
        }
        let how = [OpenHow::CreateNew, OpenHow::ReadWrite][self.random.index(2)];
        let end = self.run(Op::Open { path: self.path(file), how });
        self.note(&format!("open {how:?}"), file, &end);
        if let Payload::Handle(handle) = end.payload {
            self.open.insert(file, handle);
        }
    }

    fn write(&mut self, file: u64) {
        let Some(&handle) = self.open.get(&file) else { return };
        // Several writes at a time, of ranges that do not meet.
        let count = self.random.between(1, 3);
        let share = FILE_PAGES / count;
        let mut writes = Vec::new();
        for part in 0..count {
            let pages = self.random.between(1, PAGES_MAX.min(share));
            let first = part * share + self.random.between(0, share - pages);
            let bytes = pages as usize * PAGE_BYTES;
            let slot = self.pool.take(Purpose::Write, bytes).expect("a slot to write from");
            let fill = self.random.bits();
            self.fill(slot, fill, bytes);
            let (offset, barrier) = (first * PAGE_BYTES as u64, self.random.coin());
            let runs = self.split(slot, bytes);
            writes.push((slot, Op::Write { handle, offset, runs, barrier }));
        }
        let (slots, ops): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
        for end in self.run_all(ops) {
            self.note("write", file, &end);
        }
        slots.into_iter().for_each(|slot| self.pool.release(slot));
    }

    fn fill(&mut self, slot: SlotId, seed: u64, bytes: usize) {
        let zeroes = seed.is_multiple_of(4);
        let mut content = Random::new(seed);
        for word in self.pool.bytes_mut(slot)[..bytes].chunks_exact_mut(8) {
            word.copy_from_slice(&if zeroes { 0 } else { content.bits() }.to_le_bytes());
        }
    }

    /// Cuts the front of a slot into one or two runs.
    fn split(&mut self, slot: SlotId, bytes: usize) -> Vec<Run> {
        let pages = (bytes / PAGE_BYTES) as u64;
        let run = |from: u64, to: u64| Run {
            slot,
            at: from as u32 * PAGE_BYTES as u32,
            len: (to - from) as u32 * PAGE_BYTES as u32,
        };
        if pages == 1 || self.random.coin() {
            return vec![run(0, pages)];
        }
        let cut = self.random.between(1, pages - 1);
        vec![run(0, cut), run(cut, pages)]
    }

    fn read(&mut self, file: u64) {
        let Some(&handle) = self.open.get(&file) else { return };
        let pages = self.random.between(1, PAGES_MAX);
        let offset = self.random.below(FILE_PAGES + 4) * PAGE_BYTES as u64;
        let bytes = pages as usize * PAGE_BYTES;
        let slot = self.pool.take(Purpose::Read, bytes).expect("a slot to read into");
        let end =
            self.run(Op::Read { handle, offset, run: Run { slot, at: 0, len: bytes as u32 } });
        self.note(&format!("read at {offset}"), file, &end);
        let len = end.result.unwrap_or(0) as usize;
        let sum = self.pool.bytes(slot)[..len]
            .chunks(8)
            .fold(0u64, |sum, word| word.iter().fold(sum, |s, &b| s.rotate_left(7) ^ u64::from(b)));
        self.record.push(format!("bytes {sum:#x}"));
        self.pool.release(slot);
    }

    fn sync(&mut self, file: u64) {
        let metadata = self.random.coin();
        if let Some(&handle) = self.open.get(&file) {
            let end = self.run(Op::Sync { handle, metadata });
            self.note("sync", file, &end);
        }
    }

    fn rename(&mut self, file: u64) {
        let other = self.random.below(FILES);
        let (from, to) = (self.path(file), self.path(other));
        // Handles follow the file, the script's names do not: it renames closed files only.
        if self.open.contains_key(&file) || self.open.contains_key(&other) || file == other {
            return;
        }
        let end = self.run(Op::Rename { from, to });
        self.note(&format!("rename to {other}"), file, &end);
        self.sync_root();
    }

    fn sync_root(&mut self) {
        let end = self.run(Op::Open { path: self.root.clone(), how: OpenHow::Directory });
        let Payload::Handle(handle) = end.payload else { panic!("the root opens: {end:?}") };
        let end = self.run(Op::Sync { handle, metadata: true });
        self.note("sync root", 0, &end);
        self.run(Op::Close { handle });
    }

    fn close(&mut self, file: u64) {
        if let Some(handle) = self.open.remove(&file) {
            let end = self.run(Op::Close { handle });
            self.note("close", file, &end);
        }
    }

    fn unlink(&mut self, file: u64) {
        if !self.open.contains_key(&file) {
            let end = self.run(Op::Unlink { path: self.path(file) });
            self.note("unlink", file, &end);
        }
    }

    fn allocate(&mut self, file: u64) {
        if let Some(&handle) = self.open.get(&file) {
            let len = self.random.between(1, FILE_PAGES) * PAGE_BYTES as u64;
            let end = self.run(Op::Allocate { handle, len });
            self.note(&format!("allocate {len}"), file, &end);
        }
    }

    fn look(&mut self, file: u64) {
        let end = self.run(Op::List { path: self.root.clone() });
        self.note("list", 0, &end);
        if let Some(&handle) = self.open.get(&file) {
            let end = self.run(Op::Facts { handle });
            self.note("facts", file, &end);
        }
        let made = self.run(Op::MakeDir { path: self.root.join("directory") });
        self.note("make directory", 0, &made);
    }

    fn finish(&mut self) {
        for file in 0..FILES {
            self.close(file);
        }
        assert_eq!(self.ring.in_flight(), 0);
    }

    fn run(&mut self, op: Op) -> Completion {
        self.run_all(vec![op]).pop().expect("one operation, one completion")
    }

    /// Runs operations together and gives their completions in the order of submission.
    fn run_all(&mut self, ops: Vec<Op>) -> Vec<Completion> {
        let first = self.tokens;
        for op in ops {
            self.ring.submit(self.pool, Token(self.tokens), op);
            self.tokens += 1;
        }
        let mut done = Vec::new();
        let mut waits = 0;
        while (done.len() as u64) < self.tokens - first {
            let before = done.len();
            self.ring.enter(self.pool, Wait::Until(None), &mut done);
            if done.len() == before {
                waits += 1;
                assert!(waits < WAITS_MAX, "an operation got lost");
                (self.idle)();
            }
        }
        done.sort_by_key(|end| end.token);
        done
    }
}
