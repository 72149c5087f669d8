//! One write on its way to the device: blocks that go out together, and what is left of them.

use palisade_netio::{Handle, Op, Run, SlotId};

use crate::limits::{BLOCK_ALIGN, RETRIES_MAX, WRITE_BYTES_MAX, WRITE_RUNS_MAX};
use crate::segment::Place;

/// A block that has its place and waits for the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) slot: SlotId,
    pub(crate) place: Place,
    pub(crate) body_len: u32,
    pub(crate) headers_crc: u32,
    /// The last block that held hard state, this one included.
    pub(crate) hard_state_block: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A write is to be submitted.
    Write,
    /// A write is in flight.
    Writing,
    /// All bytes are written; a sync is to be submitted.
    Sync,
    /// A sync is in flight that covers it.
    Syncing,
    /// Durable.
    Done,
}

/// Blocks of one vectored write.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) id: u64,
    pub(crate) handle: Handle,
    pub(crate) blocks: Vec<Waiting>,
    /// Written as far as this, in bytes, a multiple of 4096.
    written: usize,
    /// Whether the write itself promises durability.
    barrier: bool,
    pub(crate) stage: Stage,
    retries: u32,
    /// Token of the sync that covers it.
    pub(crate) sync: u32,
    /// `durable_upto` in the heads.
    pub(crate) upto: u64,
}

/// What is left to do after a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The rest must be written.
    Again,
    /// All bytes are written.
    Whole,
    /// No progress although tried again and again.
    Stuck,
    /// More bytes than were asked for.
    Nonsense,
}

/// How many of the waiting blocks one write may take: next to each other, within the bounds of
/// a vectored write.
pub(crate) fn batch<'a>(blocks: impl Iterator<Item = &'a Waiting>) -> (usize, usize) {
    let (mut count, mut bytes) = (0usize, 0usize);
    let mut end: Option<(u64, u64)> = None;
    for block in blocks {
        let place = block.place;
        let next = end.is_none_or(|end| end == (place.segment, place.offset));
        let fits = bytes + place.len as usize <= WRITE_BYTES_MAX && count < WRITE_RUNS_MAX;
        if !next || (count > 0 && !fits) {
            break;
        }
        assert!((place.len as usize).is_multiple_of(BLOCK_ALIGN), "blocks are padded");
        count += 1;
        bytes += place.len as usize;
        end = Some((place.segment, place.end()));
    }
    assert!(count <= WRITE_RUNS_MAX, "a write takes {count} blocks");
    assert!(count <= 1 || bytes <= WRITE_BYTES_MAX, "only a single block is larger");
    assert!((count == 0) == (bytes == 0), "every block has bytes");
    (count, bytes)
}

impl Flight {
    pub(crate) fn new(
        id: u64,
        handle: Handle,
        blocks: Vec<Waiting>,
        barrier: bool,
        upto: u64,
    ) -> Flight {
        assert!(!blocks.is_empty() && blocks.len() <= WRITE_RUNS_MAX);
        for (before, after) in blocks.iter().zip(&blocks[1..]) {
            assert!(after.place.block == before.place.block + 1, "no block is left out");
            assert!(after.place.segment == before.place.segment, "one write, one file");
            assert!(after.place.offset == before.place.end(), "one write leaves no gap");
            assert!(after.hard_state_block >= before.hard_state_block, "hard state goes up");
        }
        let stage = Stage::Write;
        let flight =
            Flight { id, handle, blocks, written: 0, barrier, stage, retries: 0, sync: 0, upto };
        let blocks = flight.last_block() - flight.first_block() + 1;
        assert!(blocks == flight.blocks.len() as u64, "no block is left out");
        flight.assert_invariants();
        flight
    }

    fn assert_invariants(&self) {
        let bytes = self.bytes();
        assert!(self.written <= bytes, "no more is written than there is");
        assert!(self.written.is_multiple_of(BLOCK_ALIGN), "what is left starts aligned");
        assert!(self.upto < self.blocks[0].place.block, "no block is durable before its write");
        let whole = matches!(self.stage, Stage::Sync | Stage::Syncing | Stage::Done);
        assert!(
            whole == (self.written == bytes),
            "{:?} at {} of {bytes}",
            self.stage,
            self.written
        );
        let barrier_follows = matches!(self.stage, Stage::Sync | Stage::Syncing);
        assert!(!(self.barrier && barrier_follows), "a write with its barrier needs no other");
        assert!(self.retries <= RETRIES_MAX + 1, "retries are bounded");
    }

    pub(crate) fn first_block(&self) -> u64 {
        self.blocks[0].place.block
    }

    pub(crate) fn last_block(&self) -> u64 {
        self.blocks.last().expect("a write holds blocks").place.block
    }

    /// Whether the device may still be reading the slots.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.stage, Stage::Writing | Stage::Syncing)
    }

    pub(crate) fn is_synced_by(&self, sync: u32) -> bool {
        assert!(self.stage != Stage::Syncing || !self.barrier, "it is durable when it is written");
        self.stage == Stage::Syncing && self.sync == sync
    }

    fn bytes(&self) -> usize {
        let bytes: usize = self.blocks.iter().map(|block| block.place.len as usize).sum();
        assert!(bytes >= self.blocks.len() * BLOCK_ALIGN, "every block takes bytes");
        bytes
    }

    /// The write of what is left.
    pub(crate) fn write(&mut self) -> Op {
        assert!(self.stage == Stage::Write, "one write of a batch at a time");
        self.assert_invariants();
        let mut skip = self.written;
        let mut runs = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let len = block.place.len as usize;
            let at = skip.min(len);
            skip -= at;
            if at < len {
                runs.push(Run { slot: block.slot, at: at as u32, len: (len - at) as u32 });
            }
        }
        assert!(skip == 0 && !runs.is_empty(), "something is left to be written");
        let left: usize = runs.iter().map(|run| run.len as usize).sum();
        assert!(self.written + left == self.bytes(), "all that is left is written");
        self.stage = Stage::Writing;
        let offset = self.blocks[0].place.offset + self.written as u64;
        Op::Write { handle: self.handle, offset, runs, barrier: self.barrier }
    }

    /// Counts a write that wrote `count` bytes of what was left; 0 for a transient error.
    pub(crate) fn on_written(&mut self, count: usize) -> Written {
        assert!(self.stage == Stage::Writing, "a write is in flight");
        let left = self.bytes() - self.written;
        if count > left {
            return Written::Nonsense;
        }
        if count == left {
            self.written += count;
            self.stage = if self.barrier { Stage::Done } else { Stage::Sync };
            self.assert_invariants();
            return Written::Whole;
        }
        let whole = count / BLOCK_ALIGN * BLOCK_ALIGN;
        assert!(whole < left, "a short write leaves something to be written");
        self.retries = if whole == 0 { self.retries + 1 } else { 0 };
        self.stage = Stage::Write;
        if self.retries > RETRIES_MAX {
            return Written::Stuck;
        }
        self.written += whole;
        if count > 0 {
            // One barrier over the whole batch, after its last byte: what a short write with a
            // barrier of its own promises for its part is not relied on.
            self.barrier = false;
        }
        self.assert_invariants();
        Written::Again
    }
}
