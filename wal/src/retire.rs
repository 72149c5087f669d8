//! Sealing a full segment: its index is written and synced, then the file is closed.

use palisade_netio::{Completion, Handle, Op, Pool, Purpose, Run, SlotId};

use crate::block::{BlockFacts, seal};
use crate::body::BodyBuilder;
use crate::config::{Config, WalError};
use crate::index::IndexBuilder;
use crate::limits::{BLOCK_ALIGN, BLOCK_HEAD_BYTES, RETRIES_MAX, data_end, index_reserve};
use crate::lsn::{Ballot, Lsn};
use crate::prepare::OpenSegment;
use crate::record::Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Write,
    Sync,
    Sealed,
    Closed,
}

/// A segment that takes no more blocks.
#[derive(Debug)]
pub(crate) struct Retired {
    segment: OpenSegment,
    index: IndexBuilder,
    hard_state_block: u64,
    step: Step,
    in_flight: bool,
    slot: Option<(SlotId, usize)>,
    written: usize,
    retries: u32,
}

impl Retired {
    /// `hard_state_block` is that of the last block of the segment.
    pub(crate) fn new(segment: OpenSegment, index: IndexBuilder, hard_state_block: u64) -> Retired {
        assert!(index.last_block() > 0, "an empty segment is not sealed");
        assert!(hard_state_block <= index.last_block());
        assert!(segment.usable == segment.bytes, "a full segment was prepared whole");
        assert!(index.end() <= data_end(segment.bytes), "blocks end before the index");
        Retired {
            segment,
            index,
            hard_state_block,
            step: Step::Write,
            in_flight: false,
            slot: None,
            written: 0,
            retries: 0,
        }
    }

    fn assert_invariants(&self) {
        assert!(self.written.is_multiple_of(BLOCK_ALIGN), "what is left starts aligned");
        let (step, bytes) = (self.step, self.slot.map_or(0, |(_, bytes)| bytes));
        assert!(self.slot.is_none() || self.written < bytes, "the slot is given back when written");
        assert!(step == Step::Write || self.slot.is_none(), "memory was given back");
        assert!(step == Step::Write || self.written > 0, "the index was written");
        assert!(step != Step::Sealed || !self.in_flight, "a sealed segment is closed next");
        assert!(self.written <= index_reserve(self.segment.bytes) as usize);
        assert!(self.retries <= RETRIES_MAX, "retries are bounded");
    }

    pub(crate) fn seq(&self) -> u64 {
        self.segment.seq
    }

    /// First byte of the index.
    pub(crate) fn data_end(&self) -> u64 {
        data_end(self.segment.bytes)
    }

    pub(crate) fn end(&self) -> u64 {
        self.index.end()
    }

    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self.step, Step::Sealed | Step::Closed)
    }

    /// Whether its index is not written yet.
    pub(crate) fn is_writing(&self) -> bool {
        self.step == Step::Write
    }

    /// The file, unless it is closed or being closed.
    pub(crate) fn open_handle(&self) -> Option<Handle> {
        (self.step != Step::Closed).then_some(self.segment.handle)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.step == Step::Closed && !self.in_flight
    }

    /// The next operation; none while its blocks are not durable, one is in flight, or the pool
    /// has no slot now.
    pub(crate) fn poll_op(&mut self, pool: &mut Pool, config: &Config, durable: u64) -> Option<Op> {
        if self.in_flight || durable < self.index.last_block() {
            return None;
        }
        assert!(self.step != Step::Closed || self.slot.is_none(), "a closed file needs no memory");
        assert!(self.hard_state_block <= durable, "an index speaks of what is durable");
        let handle = self.segment.handle;
        let op = match self.step {
            Step::Write => self.write(pool, config)?,
            Step::Sync => Op::Sync { handle, metadata: true },
            Step::Sealed => {
                self.step = Step::Closed;
                Op::Close { handle }
            }
            Step::Closed => return None,
        };
        self.in_flight = true;
        self.assert_invariants();
        Some(op)
    }

    fn write(&mut self, pool: &mut Pool, config: &Config) -> Option<Op> {
        if self.slot.is_none() {
            self.slot = Some(self.fill(pool, config)?);
        }
        let (slot, bytes) = self.slot.expect("filled above");
        assert!(self.written < bytes, "something is left to be written");
        assert!(self.data_end() + bytes as u64 <= self.segment.bytes, "an index ends its segment");
        assert!(bytes <= pool.capacity(slot), "an index lies within its slot");
        let run = Run { slot, at: self.written as u32, len: (bytes - self.written) as u32 };
        let offset = self.data_end() + self.written as u64;
        Some(Op::Write { handle: self.segment.handle, offset, runs: vec![run], barrier: false })
    }

    fn fill(&self, pool: &mut Pool, config: &Config) -> Option<(SlotId, usize)> {
        let record = self.index.encode();
        let most = index_reserve(self.segment.bytes) as usize;
        let room = BLOCK_HEAD_BYTES + record.len() + BLOCK_ALIGN;
        let slot = pool.take(Purpose::Write, room.next_multiple_of(BLOCK_ALIGN))?;
        let bytes = pool.bytes_mut(slot);
        let mut body = BodyBuilder::new(&mut bytes[BLOCK_HEAD_BYTES..]);
        body.push_record(Kind::SegmentIndex, 0, Lsn::ZERO, Ballot::NONE, &record)
            .expect("the slot was taken for it");
        let body = body.finish();
        assert!(body.metas.len() == 1, "an index stands alone in its block");
        assert!(body.block_bytes() <= most, "an index stays within its reserve");
        assert!(body.block_bytes() <= bytes.len(), "the slot was taken for it");
        let block = self.index.last_block();
        assert!(self.hard_state_block <= block, "an index knows no later block");
        let facts = BlockFacts {
            place: config.expect(self.segment.seq, self.data_end()),
            block_seq: block,
            body_len: body.len,
            headers_crc: body.headers_crc,
            durable_upto: block,
            hard_state_block: self.hard_state_block,
            previous_header_crc: 0,
        };
        seal(&mut bytes[..BLOCK_HEAD_BYTES], &facts);
        Some((slot, body.block_bytes()))
    }

    /// Takes the completion of the operation in flight.
    pub(crate) fn on_completion(
        &mut self,
        pool: &mut Pool,
        done: &Completion,
    ) -> Result<(), WalError> {
        assert!(self.in_flight, "an operation is in flight");
        assert!(self.step != Step::Sealed, "a sealed segment has nothing in flight");
        self.in_flight = false;
        let what = match self.step {
            Step::Write => "writing a segment index",
            Step::Sync => "sealing a segment",
            Step::Sealed | Step::Closed => "closing a segment",
        };
        let count = match done.result {
            Ok(count) => count as usize,
            Err(errno) if errno.is_transient() && self.step == Step::Write => 0,
            // A close that fails has closed; nothing is written through it any more.
            Err(_) if self.step == Step::Closed => return Ok(()),
            Err(errno) => return Err(WalError::Io { what, errno }),
        };
        match self.step {
            Step::Write => {
                let (_, bytes) = self.slot.expect("a write has a slot");
                self.written += count / BLOCK_ALIGN * BLOCK_ALIGN;
                if self.written == bytes {
                    self.step = Step::Sync;
                    self.give_back(pool);
                    self.assert_invariants();
                    return Ok(());
                }
                if self.written > bytes {
                    return Err(WalError::BadAnswer { what });
                }
                self.retry(what)
            }
            Step::Sync => {
                self.step = Step::Sealed;
                self.assert_invariants();
                Ok(())
            }
            Step::Sealed | Step::Closed => Ok(()),
        }
    }

    fn retry(&mut self, what: &'static str) -> Result<(), WalError> {
        assert!(!self.in_flight, "a step is tried again after it ended");
        assert!(self.step == Step::Write, "no barrier and no close is tried again");
        self.retries += 1;
        if self.retries > RETRIES_MAX { Err(WalError::Stuck { what }) } else { Ok(()) }
    }

    /// Frees the slot. Only while no operation is in flight.
    pub(crate) fn give_back(&mut self, pool: &mut Pool) {
        if let Some((slot, _)) = self.slot.take_if(|_| !self.in_flight) {
            pool.release(slot);
        }
        assert!(self.in_flight || self.slot.is_none(), "only an operation keeps the slot");
    }
}
