//! The writer: gives blocks their places, writes them, and says what is durable.
//!
//! Three cursors: appended (has a place) >= submitted (head sealed, in flight) >= durable (the
//! longest prefix of blocks whose write and barrier completed). Only `durable` may be promised.

mod open_block;
mod space;
mod supply;

use std::collections::VecDeque;

use palisade_netio::{Completion, Handle, Nanos, Op, Pool, Purpose};

use crate::block::{BlockFacts, seal};
use crate::body::BodyBuilder;
use crate::config::{Config, WalError};
use crate::flight::{Flight, Stage, Waiting, Written, batch};
use crate::index::IndexBuilder;
use crate::limits::{
    BATCHES_MAX, BLOCK_ALIGN, BLOCK_BYTES_TARGET, BLOCK_HEAD_BYTES, BLOCKS_WAITING_MAX,
    CLOSING_AFTER_NS, RESERVE_FILES, SEGMENT_HEADER_BYTES, data_end,
};
use crate::lsn::{Ballot, Lsn};
use crate::prepare::{OpenSegment, Preparer};
use crate::record::Kind;
use crate::recycle::{LetGo, LogStart};
use crate::retire::Retired;
use crate::room::{NewBlock, NoRoom};
use crate::segment::{Place, Started};

/// A segment of the log as readers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Its sequence; [`segment_name`](crate::segment_name) gives its file.
    pub seq: u64,
    /// First byte after its last block.
    pub end: u64,
    /// Whether it is sealed: complete, with its index, readable through the page cache.
    pub sealed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Write { flight: u64 },
    Sync,
    Prepare,
    Close,
    Retire { seq: u64 },
}

/// Where a recovery left the log.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) log_start: LogStart,
    pub(crate) config: Config,
    pub(crate) dir: Handle,
    /// The preparation of the new segment, past its first step.
    pub(crate) preparer: Preparer,
    pub(crate) sealed: Vec<SegmentFacts>,
    /// Files that are taken again: too small for a start on a full file system, and others.
    pub(crate) spares: Vec<u64>,
    pub(crate) reserve: Vec<u64>,
    pub(crate) next_seq: u64,
    pub(crate) last_block: u64,
    pub(crate) last_crc: u32,
    pub(crate) hard_state_block: u64,
    pub(crate) next_local: u32,
}

/// The writing half of a log.
#[derive(Debug)]
pub(crate) struct Writer {
    config: Config,
    dir: Handle,
    active: OpenSegment,
    /// First free byte of the active segment.
    at: u64,
    index: IndexBuilder,
    next: Option<OpenSegment>,
    /// Blocks go into no later segment yet.
    allowed: u64,
    preparer: Option<Preparer>,
    /// What is being prepared is for the reserve.
    reserving: bool,
    /// A file of the reserve that is ready, to be closed.
    ready: Option<Handle>,
    /// The preparation waits until then: paced, or the disk was full.
    prepare_at: Nanos,
    /// No space was found, and no whole step of a preparation succeeded since.
    disk_full: bool,
    retired: Vec<Retired>,
    sealed: Vec<SegmentFacts>,
    gone: LetGo,
    spares: Vec<u64>,
    /// Files that hold nothing, for the next starts: a full file system makes no new one.
    reserve: Vec<u64>,
    next_seq: u64,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    flights: VecDeque<Flight>,
    next_flight: u64,
    tasks: Vec<(u32, Task)>,
    next_local: u32,
    appended: u64,
    submitted: u64,
    durable: u64,
    hard_state_block: u64,
    previous_crc: u32,
    /// Highest `durable_upto` that is durable itself, and the last block that needs a witness.
    witnessed: u64,
    last_content: u64,
    /// Blocks up to this stay without a witness: the log is full.
    unclosed: u64,
    now: Nanos,
    /// When the time was told first.
    started: Option<Nanos>,
    quiet_from: Nanos,
    touched: bool,
    error: Option<WalError>,
}

impl Writer {
    pub(crate) fn new(start: Start) -> Writer {
        let active = start.preparer.segment().expect("recovery prepared a segment");
        let old = |files: &[u64]| files.iter().all(|&spare| spare < active.seq);
        assert!(old(&start.spares) && old(&start.reserve), "old files are spares");
        let disk_full = start.preparer.is_cut_short();
        let preparer = Some(start.preparer).filter(|preparer| !preparer.is_done());
        let writer = Writer {
            index: IndexBuilder::new(active.bytes),
            allowed: start.config.started.map_or(u64::MAX, |_| 0),
            config: start.config,
            dir: start.dir,
            active,
            at: SEGMENT_HEADER_BYTES as u64,
            next: None,
            preparer,
            reserving: false,
            ready: None,
            prepare_at: Nanos(0),
            disk_full,
            retired: Vec::new(),
            sealed: start.sealed,
            gone: LetGo::new(start.log_start),
            spares: start.spares,
            reserve: start.reserve,
            next_seq: start.next_seq,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            flights: VecDeque::new(),
            next_flight: 0,
            tasks: Vec::new(),
            next_local: start.next_local,
            appended: start.last_block,
            submitted: start.last_block,
            durable: start.last_block,
            hard_state_block: start.hard_state_block,
            previous_crc: start.last_crc,
            witnessed: start.last_block,
            last_content: start.last_block,
            unclosed: 0,
            now: Nanos(0),
            started: None,
            quiet_from: Nanos(0),
            touched: false,
            error: None,
        };
        writer.assert_invariants();
        writer
    }

    /// What holds between two calls, as long as nothing failed. A few comparisons: it runs with
    /// every block.
    fn assert_invariants(&self) {
        assert!(self.error.is_none(), "a poisoned log holds nothing to be true");
        assert!(self.durable <= self.submitted, "only what was submitted is durable");
        assert!(self.submitted <= self.appended, "only what has a place is submitted");
        assert!(self.appended - self.submitted == self.waiting.len() as u64, "the rest waits");
        assert!(
            self.waiting.is_empty() == (self.waiting_bytes == 0),
            "bytes that wait are counted"
        );
        assert!(self.waiting.len() <= BLOCKS_WAITING_MAX && self.flights.len() <= BATCHES_MAX);
        let first = self.flights.front().map_or(self.durable + 1, Flight::first_block);
        let last = self.flights.back().map_or(self.submitted, Flight::last_block);
        assert!(first == self.durable + 1, "the block after the durable ones is in flight");
        assert!(last == self.submitted, "the last block submitted is in flight");
        assert!(self.flights.len() as u64 <= self.submitted - self.durable, "a write has blocks");
        // The preparation, and the closing of what it made before.
        let tasks = self.flights.len() + self.retired.len() + 1 + RESERVE_FILES;
        assert!(self.tasks.len() <= tasks, "each part asks for one operation at a time");

        assert!(self.witnessed <= self.durable, "a witness is durable");
        assert!(self.last_content <= self.appended && self.unclosed <= self.last_content);
        assert!(self.hard_state_block <= self.appended, "hard state has a place");
        assert!(self.quiet_from <= self.now, "the log rests since some time ago");
        self.assert_segments();
    }

    fn assert_segments(&self) {
        let active = &self.active;
        assert!(self.at >= SEGMENT_HEADER_BYTES as u64, "the segment header is left alone");
        assert!(self.at.is_multiple_of(BLOCK_ALIGN as u64), "blocks start aligned");
        assert!(self.at <= active.usable, "only what was zeroed and synced is written");
        assert!(self.at <= data_end(active.bytes), "the index keeps its room");
        assert!(active.usable <= active.bytes, "a segment ends with its file");
        assert!(self.index.end() == self.at, "the index has every block of the segment");
        let noted = self.index.last_block();
        assert!(noted == 0 || noted == self.appended, "the index has the last block");
        assert!(active.seq < self.next_seq, "sequences are used once");
        let next = self.next.as_ref().map_or(active.seq + 1, |next| next.seq);
        assert!(active.seq < next && next <= self.next_seq, "the next segment is a later one");
        let preparing = self.preparer.as_ref().map(Preparer::seq);
        assert!(preparing.is_none_or(|seq| seq == active.seq || seq == self.next_seq - 1));
        assert!(!self.disk_full || preparing.is_some(), "what found no space is tried again");
        assert!(!self.reserving || preparing.is_some(), "the reserve is being prepared");
        assert!(self.sealed.last().is_none_or(|facts| facts.seq < active.seq), "sealed is older");
        assert!(self.retired.last().is_none_or(|retired| retired.seq() < active.seq));
        assert!(self.gone.start().segment <= active.seq, "blocks go where the log goes on");
    }

    /// See [`LetGo`].
    pub(crate) fn let_go(&mut self, start: LogStart, free_below: u64) {
        assert!(start.block <= self.durable, "a log begins at a durable block");
        self.gone.advance(start, free_below);
        self.assert_segments();
    }

    pub(crate) fn append(&mut self, pool: &Pool, block: NewBlock) -> Result<Place, NoRoom> {
        let len = block.body.block_bytes();
        assert!(len <= pool.capacity(block.slot), "a body lies within its slot");
        block.body.assert_whole();
        let hard_state = block.body.holds_hard_state();
        assert!(block.hard_state || !hard_state, "hard state is never refused for want of space");
        self.make_room(len as u64, block.hard_state)?;
        let place = self.place(len as u32);
        if hard_state {
            self.hard_state_block = place.block;
        }
        self.index.note(&place, &block.body.metas);
        let closing = block.body.metas.iter().all(|meta| meta.kind == Kind::Closing);
        if !closing {
            self.last_content = place.block;
        }
        let before = self.waiting.back().map_or(self.submitted, |last| last.place.block);
        assert!(place.block == before + 1, "blocks wait in order");
        assert!(place.len as usize == len, "the place has the length of the block");
        self.waiting_bytes += len;
        self.waiting.push_back(Waiting {
            slot: block.slot,
            place,
            body_len: block.body.len,
            headers_crc: block.body.headers_crc,
            hard_state_block: self.hard_state_block,
        });
        self.touched = true;
        self.assert_invariants();
        Ok(place)
    }

    /// Where a block of `len` bytes would stand, if it was appended next. Closes a segment that is
    /// too full for it.
    pub(crate) fn peek(&mut self, len: usize, hard_state: bool) -> Result<Place, NoRoom> {
        assert!(len > 0 && len.is_multiple_of(BLOCK_ALIGN));
        self.make_room(len as u64, hard_state)?;
        let place = Place {
            segment: self.active.seq,
            offset: self.at,
            block: self.appended + 1,
            len: len as u32,
        };
        assert!(place.end() <= self.active.usable, "the place is prepared");
        assert!(place.end() <= data_end(self.active.bytes), "the index keeps its room");
        Ok(place)
    }

    /// What the identity file has to say before blocks go into a segment that is ready.
    pub(crate) fn wants_segment(&self) -> Option<Started> {
        if self.error.is_some() {
            return None;
        }
        let start = self.gone.start();
        if self.active.seq > self.allowed {
            // A recovery started it: its header names the last block before it.
            return Some(Started { newest: self.active.seq, before: 0, start });
        }
        let next = self.next.as_ref().filter(|next| next.seq > self.allowed)?;
        assert!(next.seq > self.active.seq, "sequences only grow");
        Some(Started { newest: next.seq, before: self.active.seq, start })
    }

    pub(crate) fn start_segment(&mut self, newest: u64) {
        assert!(newest < self.next_seq, "segment {newest} was never prepared");
        assert!(newest >= self.allowed, "what was started stays so");
        self.allowed = newest;
    }

    pub(crate) fn is_sealed(&self, segment: u64) -> bool {
        let sealed = self.sealed.iter().any(|facts| facts.seq == segment);
        assert!(!sealed || segment < self.active.seq, "the active segment is open");
        sealed
    }

    fn place(&mut self, len: u32) -> Place {
        assert!(len > 0 && (len as usize).is_multiple_of(BLOCK_ALIGN), "block of {len} bytes");
        let (segment, offset) = (self.active.seq, self.at);
        self.appended += 1;
        self.at += u64::from(len);
        assert!(self.at <= self.active.usable, "there was room");
        Place { segment, offset, block: self.appended, len }
    }

    pub(crate) fn poll_ops(&mut self, pool: &mut Pool, out: &mut Vec<(u32, Op)>) {
        if self.error.is_some() {
            return;
        }
        self.poll_closing(pool);
        self.poll_flights(pool, out);
        self.poll_retired(pool, out);
        self.poll_preparer(pool, out);
        self.assert_invariants();
    }

    fn poll_flights(&mut self, pool: &mut Pool, out: &mut Vec<(u32, Op)>) {
        while self.may_submit() {
            self.start_flight(pool);
        }
        for at in 0..self.flights.len() {
            let flight = &mut self.flights[at];
            if flight.stage == Stage::Write {
                let (id, op) = (flight.id, flight.write());
                self.issue(Task::Write { flight: id }, op, out);
            } else if flight.stage == Stage::Sync {
                let handle = flight.handle;
                // One sync covers every batch of the file whose bytes are all written.
                for other in self.flights.iter_mut().filter(|other| other.handle == handle) {
                    if other.stage == Stage::Sync {
                        other.stage = Stage::Syncing;
                        other.sync = self.next_local;
                    }
                }
                self.issue(Task::Sync, Op::Sync { handle, metadata: false }, out);
                assert!(self.flights[at].stage == Stage::Syncing, "the sync covers its batch");
            }
            let stage = self.flights[at].stage;
            assert!(stage != Stage::Write && stage != Stage::Sync, "what can start has started");
        }
    }

    fn in_flight(&self) -> usize {
        self.flights.iter().filter(|flight| flight.stage != Stage::Done).count()
    }

    /// Another write starts only when it is full or none is in flight.
    fn may_submit(&self) -> bool {
        let in_flight = self.in_flight();
        // A prefix that does not grow holds the slots of all writes after it.
        let open = in_flight < self.config.in_flight_max && self.flights.len() < BATCHES_MAX;
        if self.waiting.is_empty() || !open {
            return false;
        }
        in_flight == 0 || batch(self.waiting.iter()).1 >= BLOCK_BYTES_TARGET
    }

    fn start_flight(&mut self, pool: &mut Pool) {
        let (count, bytes) = batch(self.waiting.iter());
        assert!(count > 0 && bytes <= self.waiting_bytes);
        assert!(self.in_flight() < self.config.in_flight_max, "writes in flight are bounded");
        let blocks: Vec<Waiting> = self.waiting.drain(..count).collect();
        self.waiting_bytes -= bytes;
        let segment = blocks[0].place.segment;
        for block in &blocks {
            let place = block.place;
            assert!(place.block == self.submitted + 1, "blocks are submitted in order");
            assert!(self.durable < place.block, "no block is durable before its write");
            assert!(block.hard_state_block <= place.block);
            let facts = BlockFacts {
                place: self.config.expect(segment, place.offset),
                block_seq: place.block,
                body_len: block.body_len,
                headers_crc: block.headers_crc,
                durable_upto: self.durable,
                hard_state_block: block.hard_state_block,
                previous_header_crc: self.previous_crc,
            };
            self.previous_crc = seal(pool.head_mut(block.slot), &facts);
            self.submitted = place.block;
        }
        let next = self.waiting.front().map_or(self.appended + 1, |block| block.place.block);
        assert!(next == self.submitted + 1, "what waits comes after what was submitted");
        let handle = self.handle_of(segment).expect("a segment with waiting blocks is open");
        let barrier = self.config.sync_path.is_one_operation();
        let id = self.next_flight;
        self.next_flight += 1;
        self.flights.push_back(Flight::new(id, handle, blocks, barrier, self.durable));
    }

    fn handle_of(&self, segment: u64) -> Option<Handle> {
        if self.active.seq == segment {
            return Some(self.active.handle);
        }
        let retired = self.retired.iter().find(|retired| retired.seq() == segment)?;
        assert!(!retired.is_sealed(), "a sealed segment has no waiting blocks");
        retired.open_handle()
    }

    fn poll_retired(&mut self, pool: &mut Pool, out: &mut Vec<(u32, Op)>) {
        for at in 0..self.retired.len() {
            let seq = self.retired[at].seq();
            assert!(seq < self.active.seq, "a retired segment takes no more blocks");
            let op = self.retired[at].poll_op(pool, &self.config, self.durable);
            if let Some(op) = op {
                self.issue(Task::Retire { seq }, op, out);
            }
        }
    }

    fn issue(&mut self, task: Task, op: Op, out: &mut Vec<(u32, Op)>) {
        let local = self.next_local;
        assert!(self.tasks.iter().all(|&(used, _)| used != local), "tokens are used once");
        assert!(self.error.is_none(), "a poisoned log asks for nothing");
        self.next_local = self.next_local.wrapping_add(1);
        self.tasks.push((local, task));
        out.push((local, op));
    }

    /// Writes the closing block when the log is at rest and its last blocks have no witness.
    fn poll_closing(&mut self, pool: &mut Pool) {
        let due = self.closing_due().is_some_and(|due| due <= self.now) && !self.touched;
        if !due {
            return;
        }
        assert!(self.durable == self.appended && self.flights.is_empty());
        assert!(self.witnessed < self.last_content, "a closed log needs no other closing block");
        let Some(slot) = pool.take(Purpose::Write, BLOCK_ALIGN) else {
            self.quiet_from = self.now;
            return;
        };
        let mut body = BodyBuilder::new(&mut pool.bytes_mut(slot)[BLOCK_HEAD_BYTES..]);
        body.push_record(Kind::Closing, 0, Lsn::ZERO, Ballot::NONE, &[])
            .expect("an empty slot takes an empty record");
        let body = body.finish();
        assert!(body.block_bytes() == BLOCK_ALIGN, "a closing block is small");
        // It may use the space above 95 %, but not the last of a full file system.
        let hard_state = !self.disk_full;
        if let Err(why) = self.append(pool, NewBlock { slot, body, hard_state }) {
            pool.release(slot);
            self.quiet_from = self.now;
            if why == NoRoom::Full {
                self.unclosed = self.last_content;
            }
            return;
        }
        assert!(self.last_content < self.appended, "a closing block asks for no other");
    }

    fn closing_due(&self) -> Option<Nanos> {
        let rest = self.flights.is_empty() && self.waiting.is_empty() && self.error.is_none();
        let from = if self.touched { self.now } else { self.quiet_from };
        let witnessed = self.witnessed.max(self.unclosed);
        assert!(!rest || self.durable == self.appended, "a log at rest is durable");
        (rest && self.last_content > witnessed).then(|| from.after(CLOSING_AFTER_NS))
    }

    pub(crate) fn on_completion(&mut self, pool: &mut Pool, local: u32, done: &Completion) {
        let at = self.tasks.iter().position(|&(used, _)| used == local);
        let (_, task) = self.tasks.swap_remove(at.expect("the operation is one of this log"));
        let result = match task {
            Task::Write { flight } => self.on_written(flight, done),
            Task::Sync => self.on_synced(local, done),
            Task::Prepare => self.on_prepared(pool, done),
            // A close that fails has closed.
            Task::Close => Ok(()),
            Task::Retire { seq } => self.on_retired(pool, seq, done),
        };
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
        if self.error.is_some() {
            self.drop_all(pool);
            return;
        }
        self.advance_durable(pool);
        self.assert_invariants();
    }

    fn on_written(&mut self, flight: u64, done: &Completion) -> Result<(), WalError> {
        let what = "writing a block";
        let at = self.flights.iter().position(|other| other.id == flight);
        let flight = &mut self.flights[at.expect("a write in flight is known")];
        let count = match done.result {
            Ok(count) => count as usize,
            Err(errno) if errno.is_transient() => 0,
            Err(errno) => {
                flight.stage = Stage::Write;
                return Err(WalError::Io { what, errno });
            }
        };
        self.touched = true;
        assert!(flight.first_block() > self.durable, "what is durable is not written again");
        assert!(flight.last_block() <= self.submitted, "what is written was submitted");
        match flight.on_written(count) {
            Written::Again | Written::Whole => Ok(()),
            Written::Stuck => Err(WalError::Stuck { what }),
            Written::Nonsense => {
                flight.stage = Stage::Write;
                Err(WalError::BadAnswer { what })
            }
        }
    }

    fn on_synced(&mut self, local: u32, done: &Completion) -> Result<(), WalError> {
        let what = "the barrier of a block";
        let covered = self.flights.iter_mut().filter(|flight| flight.is_synced_by(local));
        let mut count = 0;
        for flight in covered {
            count += 1;
            let failed = done.result.is_err();
            flight.stage = if failed { Stage::Sync } else { Stage::Done };
        }
        assert!(count > 0, "a sync covers what is in flight");
        self.touched = true;
        // Not even one that was interrupted is asked again: the next one succeeds and says nothing
        // about what this one lost.
        done.result.map(|_| ()).map_err(|errno| WalError::Io { what, errno })
    }

    fn on_retired(&mut self, pool: &mut Pool, seq: u64, done: &Completion) -> Result<(), WalError> {
        let at = self.retired.iter().position(|retired| retired.seq() == seq);
        let at = at.expect("a segment being sealed is known");
        let retired = &mut self.retired[at];
        assert!(seq < self.active.seq, "a retired segment takes no more blocks");
        let before = retired.is_sealed();
        retired.on_completion(pool, done)?;
        if retired.is_sealed() && !before {
            let end = retired.end();
            assert!(end <= retired.data_end(), "the index stands behind the blocks");
            let place = self.sealed.partition_point(|facts| facts.seq < seq);
            assert!(self.sealed.get(place).is_none_or(|facts| facts.seq > seq), "sealed once");
            self.sealed.insert(place, SegmentFacts { seq, end, sealed: true });
        }
        if self.retired[at].is_closed() {
            self.retired.remove(at);
        }
        Ok(())
    }

    fn advance_durable(&mut self, pool: &mut Pool) {
        while self.flights.front().is_some_and(|flight| flight.stage == Stage::Done) {
            let flight = self.flights.pop_front().expect("there is a first one");
            assert!(flight.first_block() == self.durable + 1, "durable is a prefix");
            assert!(flight.upto <= self.durable, "a head says what was durable before it");
            self.durable = flight.last_block();
            self.witnessed = self.witnessed.max(flight.upto);
            flight.blocks.iter().for_each(|block| pool.release(block.slot));
        }
        assert!(self.durable <= self.submitted, "only what was submitted is durable");
    }

    /// After an error: gives back every slot that the device does not use any more.
    fn drop_all(&mut self, pool: &mut Pool) {
        assert!(self.error.is_some());
        self.waiting.drain(..).for_each(|block| pool.release(block.slot));
        self.waiting_bytes = 0;
        self.flights.retain(|flight| {
            if !flight.is_busy() {
                flight.blocks.iter().for_each(|block| pool.release(block.slot));
            }
            flight.is_busy()
        });
        self.retired.iter_mut().for_each(|retired| retired.give_back(pool));
        self.preparer.iter_mut().for_each(|preparer| preparer.give_back(pool));
        assert!(self.waiting.is_empty() && self.waiting_bytes == 0);
        assert!(self.flights.iter().all(Flight::is_busy), "only the device keeps slots");
    }

    pub(crate) fn on_time(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        self.started.get_or_insert(self.now);
        if std::mem::take(&mut self.touched) {
            self.quiet_from = self.now;
        }
        assert!(self.quiet_from <= self.now, "the log rests since some time ago");
    }

    pub(crate) fn next_timer(&self) -> Option<Nanos> {
        if self.error.is_some() {
            return None;
        }
        let waits = self.preparer.as_ref().is_some_and(Preparer::is_waiting);
        let prepare = Some(self.prepare_at).filter(|&at| waits && at > self.now);
        prepare.into_iter().chain(self.closing_due()).chain(self.reserve_due()).min()
    }

    pub(crate) fn active(&self) -> (u64, u64) {
        (self.active.seq, self.at)
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    pub(crate) fn appended(&self) -> u64 {
        self.appended
    }

    pub(crate) fn wants_block(&self, bytes: usize) -> bool {
        let in_flight = self.in_flight();
        let full = self.waiting_bytes + bytes >= BLOCK_BYTES_TARGET;
        let free = in_flight == 0 && self.waiting.is_empty();
        // What frees space gets the other turns of the disk.
        let full = full && !self.space().throttle;
        let more = in_flight + self.waiting.len() < self.config.in_flight_max && full;
        self.error.is_none() && (free || more)
    }

    pub(crate) fn poisoned(&self) -> Option<&WalError> {
        self.error.as_ref()
    }

    pub(crate) fn segment_facts(&self) -> Vec<SegmentFacts> {
        let unsealed = self.retired.iter().filter(|retired| !retired.is_sealed());
        let mut facts = self.sealed.clone();
        facts.extend(unsealed.map(|retired| SegmentFacts {
            seq: retired.seq(),
            end: retired.end(),
            sealed: false,
        }));
        facts.push(SegmentFacts { seq: self.active.seq, end: self.at, sealed: false });
        facts
    }

    /// The files that are open, the directory among them.
    pub(crate) fn open_handles(&self) -> Vec<Handle> {
        let mut handles = vec![self.dir, self.active.handle];
        let next = self.preparer.as_ref().and_then(Preparer::open_handle);
        for handle in next.into_iter().chain(self.next.map(|next| next.handle)) {
            if !handles.contains(&handle) {
                handles.push(handle);
            }
        }
        handles.extend(self.retired.iter().filter_map(Retired::open_handle).chain(self.ready));
        let most = self.retired.len() + 5;
        assert!(handles.len() <= most, "two segments, the directory, the retired, a spare");
        handles
    }
}
