//! Preparing a segment: header, zeros, syncs. One operation in flight at a time.
//!
//! Zeros are written ahead so that a later durable write changes no metadata of the file. A
//! segment becomes usable in steps; what was synced stays usable while the rest is written.

use std::path::{Path, PathBuf};

use palisade_netio::seeded::is_seeded;
use palisade_netio::{Completion, Errno, Handle, Op, OpenHow, Payload, Pool, Purpose, Run, SlotId};

use crate::config::WalError;
use crate::limits::{
    BLOCK_ALIGN, PREPARE_STEP_BYTES, PREPARE_WRITE_BYTES, RESERVE_BYTES, RETRIES_MAX,
    SEGMENT_HEADER_BYTES, reserve_min,
};
use crate::recover::check_alignment;
use crate::segment::{SegmentHeader, segment_name};

/// A segment that is open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenSegment {
    pub(crate) seq: u64,
    pub(crate) handle: Handle,
    /// Bytes of the segment.
    pub(crate) bytes: u64,
    /// First byte that must not be written yet.
    pub(crate) usable: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Open,
    Facts,
    Header,
    SyncHeader,
    Rename,
    Zero,
    SyncFile,
    SyncDir,
    Done,
}

/// What a step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More steps follow.
    Going,
    /// More bytes of the segment are usable.
    Usable,
    /// The file system is full; the step may be tried again later.
    NoSpace,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Preparer {
    dir: PathBuf,
    dir_handle: Handle,
    header: SegmentHeader,
    /// File that is taken again, by the sequence in its name.
    spare: Option<u64>,
    handle: Option<Handle>,
    step: Step,
    in_flight: bool,
    dir_synced: bool,
    zeroed: u64,
    usable: u64,
    /// Where the first step ends, if earlier than others.
    first_goal: u64,
    slot: Option<SlotId>,
    retries: u32,
}

impl Preparer {
    /// Makes a new segment, or takes the file of segment `spare` again.
    pub(crate) fn new(
        dir: &Path,
        dir_handle: Handle,
        header: SegmentHeader,
        spare: Option<u64>,
    ) -> Preparer {
        assert!(spare.is_none_or(|seq| seq < header.seq.get()), "sequences only grow");
        let preparer = Preparer {
            dir: dir.to_path_buf(),
            dir_handle,
            header,
            spare,
            handle: None,
            step: Step::Open,
            in_flight: false,
            dir_synced: false,
            zeroed: 0,
            usable: 0,
            first_goal: u64::MAX,
            slot: None,
            retries: 0,
        };
        preparer.assert_invariants();
        preparer
    }

    fn assert_invariants(&self) {
        let bytes = self.bytes();
        assert!(self.zeroed <= bytes, "zeros stay within the segment");
        assert!(self.zeroed.is_multiple_of(BLOCK_ALIGN as u64), "zeros end aligned");
        assert!(self.usable <= self.zeroed, "what is usable was zeroed before");
        assert!((self.step == Step::Done) == (self.usable == bytes), "all is usable in the end");
        assert!((self.step == Step::Open) == self.handle.is_none(), "the file is opened first");
        let taking = matches!(self.step, Step::SyncHeader | Step::Rename);
        assert!(!taking || self.spare.is_some(), "only a file that is taken again is renamed");
        assert!(self.usable == 0 || self.spare.is_none(), "a usable segment has its own name");
        assert!(self.usable == 0 || self.dir_synced, "the name of a usable segment is durable");
        assert!(self.step != Step::Done || self.slot.is_none(), "memory was given back");
        assert!(self.step != Step::Done || !self.in_flight, "a finished segment asks nothing");
        assert!(self.retries <= RETRIES_MAX, "retries are bounded");
    }

    pub(crate) fn seq(&self) -> u64 {
        self.header.seq.get()
    }

    fn bytes(&self) -> u64 {
        self.header.bytes.get()
    }

    /// The segment as far as it can be used; none before the first step is complete.
    pub(crate) fn segment(&self) -> Option<OpenSegment> {
        let handle = self.handle.filter(|_| self.usable > 0)?;
        assert!(self.usable > SEGMENT_HEADER_BYTES as u64, "a usable segment has its header");
        assert!(self.dir_synced, "the name of a usable segment is durable");
        Some(OpenSegment { seq: self.seq(), handle, bytes: self.bytes(), usable: self.usable })
    }

    /// The file, if it is open.
    pub(crate) fn open_handle(&self) -> Option<Handle> {
        self.handle
    }

    pub(crate) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// Whether an operation could be submitted.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.in_flight && self.step != Step::Done
    }

    /// Whether the next operation is one that should be paced.
    pub(crate) fn is_zeroing(&self) -> bool {
        self.step == Step::Zero
    }

    /// Makes no more than a start on a full file system needs.
    pub(crate) fn only_reserve(mut self) -> Preparer {
        assert!(self.step == Step::Open, "nothing was done yet");
        self.first_goal = (SEGMENT_HEADER_BYTES as u64 + RESERVE_BYTES).min(self.bytes());
        assert!(self.first_goal >= reserve_min(self.bytes()), "too small for a start");
        self
    }

    /// Without space for more zeros, makes those usable that there are. False when these are too
    /// few.
    pub(crate) fn settle(&mut self) -> bool {
        assert!(!self.in_flight && self.usable == 0, "nothing is usable yet");
        if self.step != Step::Zero || self.zeroed < reserve_min(self.bytes()) {
            return false;
        }
        assert!(self.zeroed < self.goal(), "what is whole is not cut short");
        self.first_goal = self.zeroed;
        self.step = Step::SyncFile;
        self.assert_invariants();
        true
    }

    /// Whether less than a step is usable for want of space.
    pub(crate) fn is_cut_short(&self) -> bool {
        self.usable == self.first_goal && self.usable < self.bytes()
    }

    fn is_barrier(&self) -> bool {
        matches!(self.step, Step::SyncHeader | Step::SyncFile | Step::SyncDir)
    }

    /// First byte of the segment that will not be usable after the step under way.
    fn goal(&self) -> u64 {
        assert!(self.usable < self.bytes(), "a finished segment has no goal");
        let step = self.usable / PREPARE_STEP_BYTES + 1;
        // The index stands at the end, so a short last step joins the one before.
        let goal = step * PREPARE_STEP_BYTES;
        let goal = if goal + PREPARE_STEP_BYTES > self.bytes() { self.bytes() } else { goal };
        let goal = if self.usable == 0 { goal.min(self.first_goal) } else { goal };
        assert!(goal > self.usable && goal <= self.bytes(), "every step brings more");
        goal
    }

    /// The next operation. None while one is in flight, when all is done, or when the pool has
    /// no slot now.
    pub(crate) fn poll_op(&mut self, pool: &mut Pool) -> Option<Op> {
        if self.in_flight {
            return None;
        }
        let seq = self.spare.unwrap_or(self.seq());
        let path = self.dir.join(segment_name(seq));
        let op = match self.step {
            Step::Done => return None,
            Step::Open => {
                let how =
                    if self.spare.is_some() { OpenHow::ReadWrite } else { OpenHow::CreateNew };
                Op::Open { path, how }
            }
            Step::Rename => Op::Rename { from: path, to: self.dir.join(segment_name(self.seq())) },
            Step::SyncDir => Op::Sync { handle: self.dir_handle, metadata: true },
            Step::Facts => Op::Facts { handle: self.handle() },
            Step::SyncHeader | Step::SyncFile => Op::Sync { handle: self.handle(), metadata: true },
            Step::Header => self.write(pool, SEGMENT_HEADER_BYTES)?,
            Step::Zero => {
                assert!(self.zeroed < self.goal(), "zeros that are there are not written again");
                let left = (self.goal() - self.zeroed) as usize;
                self.write(pool, left.min(PREPARE_WRITE_BYTES))?
            }
        };
        self.in_flight = true;
        self.assert_invariants();
        Some(op)
    }

    fn handle(&self) -> Handle {
        assert!(self.step != Step::Open, "the first step opens the file");
        self.handle.expect("the segment is open")
    }

    fn write(&mut self, pool: &mut Pool, len: usize) -> Option<Op> {
        assert!(len > 0 && len.is_multiple_of(BLOCK_ALIGN));
        assert!(len <= PREPARE_WRITE_BYTES, "a write stays within its slot");
        assert!(self.step == Step::Header || self.zeroed >= SEGMENT_HEADER_BYTES as u64);
        assert!(self.step == Step::Header || self.zeroed >= self.usable, "blocks are left alone");
        if self.slot.is_none() {
            let slot = pool.take(Purpose::Write, PREPARE_WRITE_BYTES)?;
            pool.bytes_mut(slot).fill(0);
            self.slot = Some(slot);
        }
        let slot = self.slot.expect("taken above");
        let first = &mut pool.bytes_mut(slot)[..SEGMENT_HEADER_BYTES];
        let mut offset = self.zeroed;
        first.fill(0);
        if self.step == Step::Header {
            assert!(self.usable == 0, "the header is written before any block");
            self.header.encode(first);
            offset = 0;
        }
        assert!(offset + len as u64 <= self.bytes(), "a write stays within the segment");
        assert!(len <= pool.capacity(slot), "a write stays within its slot");
        let runs = vec![Run { slot, at: 0, len: len as u32 }];
        Some(Op::Write { handle: self.handle(), offset, runs, barrier: false })
    }

    /// Takes the completion of the operation in flight.
    pub(crate) fn on_completion(
        &mut self,
        pool: &mut Pool,
        done: &Completion,
    ) -> Result<Progress, WalError> {
        assert!(self.in_flight, "an operation is in flight");
        let before = (self.zeroed, self.usable);
        self.in_flight = false;
        let what = self.what();
        let count = match done.result {
            Ok(count) => u64::from(count),
            // No barrier that failed is asked again, whatever it says.
            Err(errno) if self.is_barrier() => return Err(WalError::Io { what, errno }),
            Err(errno) if errno.is_transient() => return self.retry(what),
            Err(Errno::NOSPC) => {
                self.give_back(pool);
                return Ok(Progress::NoSpace);
            }
            Err(errno) => return Err(WalError::Io { what, errno }),
        };
        let progress = self.advance(pool, what, count, &done.payload)?;
        self.assert_invariants();
        assert!(progress != Progress::Usable || self.segment().is_some(), "what is usable is open");
        assert!(self.zeroed >= before.0, "zeros stay");
        assert!(self.usable >= before.1, "what is usable stays usable");
        assert!((self.usable > before.1) == (progress == Progress::Usable), "the owner is told");
        Ok(progress)
    }

    fn advance(
        &mut self,
        pool: &mut Pool,
        what: &'static str,
        count: u64,
        payload: &Payload,
    ) -> Result<Progress, WalError> {
        let align = BLOCK_ALIGN as u64;
        match self.step {
            Step::Open => {
                let Payload::Handle(handle) = payload else {
                    return Err(WalError::BadAnswer { what });
                };
                assert!(self.handle.is_none(), "the file is opened once");
                self.handle = Some(*handle);
                self.step = Step::Facts;
            }
            Step::Facts => {
                let Payload::Facts(facts) = payload else {
                    return Err(WalError::BadAnswer { what });
                };
                check_alignment(facts)?;
                assert!(self.zeroed == 0 && self.usable == 0, "nothing was written yet");
                self.zeroed = (facts.size / align * align).min(self.bytes());
                self.step = Step::Header;
            }
            Step::Header if count < SEGMENT_HEADER_BYTES as u64 => return self.retry(what),
            Step::Header => {
                self.zeroed = self.zeroed.max(SEGMENT_HEADER_BYTES as u64);
                self.step =
                    if self.spare.is_some() { Step::SyncHeader } else { self.after_zeros() };
            }
            Step::SyncHeader => self.step = Step::Rename,
            Step::Rename => {
                assert!(self.usable == 0, "a file is renamed before it is used");
                self.spare = None;
                self.step = self.after_zeros();
            }
            Step::Zero => {
                let whole = count / align * align;
                if whole == 0 {
                    return self.retry(what);
                }
                if self.zeroed + whole > self.goal() {
                    // More than was asked for.
                    return Err(WalError::BadAnswer { what });
                }
                self.zeroed += whole;
                self.step = self.after_zeros();
            }
            Step::SyncFile if !self.dir_synced && !is_seeded("directory_not_synced") => {
                self.step = Step::SyncDir;
            }
            Step::SyncFile | Step::SyncDir => {
                assert!(self.zeroed >= self.goal(), "what was synced was zeroed before");
                self.dir_synced = true;
                self.retries = 0;
                return Ok(self.on_usable(pool));
            }
            Step::Done => return Err(WalError::BadAnswer { what }),
        }
        self.retries = 0;
        Ok(Progress::Going)
    }

    fn after_zeros(&self) -> Step {
        assert!(self.zeroed >= SEGMENT_HEADER_BYTES as u64, "the header is written first");
        assert!(self.handle.is_some(), "the file is opened first");
        if self.zeroed < self.goal() { Step::Zero } else { Step::SyncFile }
    }

    fn on_usable(&mut self, pool: &mut Pool) -> Progress {
        let before = self.usable;
        assert!(self.dir_synced && self.spare.is_none(), "the name of the segment is durable");
        // A file that is taken again may be longer than one step.
        while self.usable < self.bytes() && self.goal() <= self.zeroed {
            self.usable = self.goal();
        }
        assert!(self.usable > before, "a step makes more bytes usable");
        assert!(self.usable <= self.zeroed && self.usable <= self.bytes());
        self.step = Step::Zero;
        if self.usable == self.bytes() {
            self.step = Step::Done;
            self.give_back(pool);
        }
        Progress::Usable
    }

    fn retry(&mut self, what: &'static str) -> Result<Progress, WalError> {
        assert!(!self.in_flight, "a step is tried again after it ended");
        assert!(self.step != Step::Done, "a finished segment asks nothing");
        assert!(!self.is_barrier(), "no barrier that failed is asked again");
        self.retries += 1;
        if self.retries > RETRIES_MAX {
            return Err(WalError::Stuck { what });
        }
        Ok(Progress::Going)
    }

    /// Frees the slot. Only while no operation is in flight.
    pub(crate) fn give_back(&mut self, pool: &mut Pool) {
        if let Some(slot) = self.slot.take_if(|_| !self.in_flight) {
            pool.release(slot);
        }
        assert!(self.in_flight || self.slot.is_none(), "only an operation keeps the slot");
    }

    fn what(&self) -> &'static str {
        match self.step {
            Step::Open => "opening a segment to prepare",
            Step::Facts => "looking at a segment to prepare",
            Step::Header => "writing a segment header",
            Step::SyncHeader => "syncing a segment header",
            Step::Rename => "renaming a segment",
            Step::Zero => "zeroing a segment",
            Step::SyncFile => "syncing a new segment",
            Step::SyncDir => "syncing the directory",
            Step::Done => "preparing a segment",
        }
    }
}
