//! Reads of logged groups: catch-up of peers, readers of this process, the forwarder's active
//! tail. Always by direct reads of durable blocks that the stream's extents name, so that a voided
//! byte is never served.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use palisade_netio::{Completion, Errno, Handle, Op, OpenHow, Payload, Purpose, Ring, Run, SlotId};
use palisade_wal::{Anchor, Ballot, Boundary, Extent, GroupHeader, Lsn};
use zerocopy::FromBytes;

use crate::error::{Error, ErrorKind};
use crate::forward::Depth;
use crate::handle::ReadPart;
use crate::limits::{READ_CHUNK_BYTES, READ_CUTS_MAX, READS_MAX, READS_WAITING_MAX, RIDERS_MAX};
use crate::paxos::Want;
use crate::shard::Shard;
use crate::shard::deliver::Found;
use crate::shard::token::{OWNER_READ, local_of, local_token};
use crate::transfer::ship::Due;

/// Segment files kept open for reading.
const FILES_MAX: usize = 16;

/// Who gets the groups.
pub(crate) enum Destination {
    /// A peer that fetches.
    Peer { to: u32, ballot: Ballot, want: Want },
    /// A reader in this process, with the chain where its last read ended.
    Embedder { follow: bool, after: Option<u64>, reply: SyncSender<Result<ReadPart, Error>> },
    /// The forwarding shard.
    Forward { id: u64, max_bytes: u32, depth: Depth },
    /// The same, a base: for a standby whose log ends at `from`, below the first group here.
    Base { id: u64, from: Boundary },
    /// A SYNC standby.
    Standby { due: Due },
    /// This log again: the segment is to be emptied.
    Move { segment: u64 },
    /// The log itself, which lost its groups from `start` to this one: it tells the chain there.
    Anchor { start: Lsn, accepting: Ballot },
}

/// A read of `[from, upto)` of a stream.
pub(crate) struct Job {
    pub(crate) stream: u64,
    pub(crate) from: Lsn,
    pub(crate) upto: Lsn,
    pub(crate) destination: Destination,
    /// Reads at `from` that were cut short or interrupted.
    cuts: u8,
    /// A read at `from` brought damage or an error.
    again: bool,
    /// Bytes of the body that what is moved found no room for: it is not read again before.
    pub(crate) room: usize,
}

impl Job {
    pub(crate) fn new(stream: u64, from: Lsn, upto: Lsn, destination: Destination) -> Job {
        Job { stream, from, upto, destination, cuts: 0, again: false, room: 0 }
    }

    /// Everything below `next` was brought.
    pub(crate) fn go_on(&mut self, next: Lsn) {
        (self.from, self.cuts, self.again, self.room) = (next, 0, false, 0);
    }
}

/// A read in flight: the extents that it covers, in one run of a segment.
pub(crate) struct Running {
    pub(crate) job: Job,
    pub(crate) extents: Vec<Extent>,
    pub(crate) slot: SlotId,
    /// Offset in the segment of the slot's first byte.
    pub(crate) offset: u64,
    len: u32,
    /// Cursors of the forwarder elsewhere in these extents, with what each wants of them.
    riders: Vec<(Job, Vec<Extent>)>,
}

impl Running {
    /// What is wanted of them is in this read too: the first of `extents` at least.
    fn brings(&self, stream: u64, extents: &[Extent]) -> bool {
        let forwarded = matches!(self.job.destination, Destination::Forward { .. });
        let first = extents.first();
        forwarded && self.job.stream == stream && first.is_some_and(|e| self.extents.contains(e))
    }
}

enum File {
    Opening,
    Open(Handle),
}

/// Reads of a shard.
#[derive(Default)]
pub(crate) struct Jobs {
    waiting: VecDeque<Job>,
    /// Readers that follow and wait for more.
    parked: Vec<Job>,
    pub(super) running: BTreeMap<u32, Running>,
    files: BTreeMap<u64, File>,
    opening: BTreeMap<u32, u64>,
    next: u32,
}

/// What to do with a job now.
enum Start {
    /// It cannot go on before something else happens.
    Later(Job),
    /// It follows and has everything.
    Park(Job),
    /// It is answered.
    Done,
}

impl Jobs {
    /// Takes a job. An older one for the same peer and stream is dropped: the peer asks for what
    /// it lacks now.
    ///
    /// # Errors
    /// The job comes back when too many wait.
    pub(crate) fn push(&mut self, job: Job) -> Result<(), Job> {
        if let Destination::Peer { to, want, .. } = job.destination {
            let lost = want == Want::Lost;
            self.waiting.retain(|old| {
                let same = matches!(old.destination, Destination::Peer { to: t, want: w, .. }
                    if t == to && (w == Want::Lost) == lost);
                !(same && old.stream == job.stream)
            });
        }
        if self.waiting.len() >= READS_WAITING_MAX {
            return Err(job);
        }
        self.waiting.push_back(job);
        Ok(())
    }

    /// Gives out every job, for the end of the shard.
    pub(crate) fn take_all(&mut self) -> Vec<Job> {
        let jobs = |read: Running| {
            std::iter::once(read.job).chain(read.riders.into_iter().map(|(job, _)| job))
        };
        let running = std::mem::take(&mut self.running).into_values().flat_map(jobs);
        running.chain(self.waiting.drain(..)).chain(self.parked.drain(..)).collect()
    }

    /// Gives out every open file, for the end of the shard.
    pub(crate) fn take_files(&mut self) -> Vec<Handle> {
        let handle = |file| match file {
            File::Open(handle) => Some(handle),
            File::Opening => None,
        };
        std::mem::take(&mut self.files).into_values().filter_map(handle).collect()
    }

    /// More of a stream is released: its followers go on.
    pub(crate) fn on_committed(&mut self, stream: u64) {
        let mut at = 0;
        while at < self.parked.len() {
            if self.parked[at].stream == stream {
                let job = self.parked.swap_remove(at);
                self.waiting.push_back(job);
            } else {
                at += 1;
            }
        }
    }
}

impl<R: Ring> Shard<R> {
    /// Takes a job, or answers that too many wait.
    pub(crate) fn push_job(&mut self, job: Job) {
        if let Err(job) = self.jobs.push(job) {
            self.answer_job(job, Err(ErrorKind::Busy));
        }
    }

    /// Starts what can start.
    pub(crate) fn run_jobs(&mut self) {
        for _ in 0..self.jobs.waiting.len() {
            let Some(job) = self.jobs.waiting.pop_front() else { return };
            match self.start_job(job) {
                Start::Later(job) => self.jobs.waiting.push_back(job),
                Start::Park(job) => self.jobs.parked.push(job),
                Start::Done => {}
            }
        }
    }

    fn start_job(&mut self, mut job: Job) -> Start {
        let Some(state) = self.streams.get(&job.stream) else {
            self.answer_job(job, Err(ErrorKind::UnknownStream));
            return Start::Done;
        };
        let log = state.replica.log();
        job.upto = match &job.destination {
            Destination::Peer { .. } | Destination::Anchor { .. } => job.upto.min(log.end().lsn),
            // What is not released is shipped, and is moved, all the same.
            Destination::Standby { .. } | Destination::Move { .. } | Destination::Base { .. } => {
                log.committed().lsn
            }
            Destination::Forward { .. } => state.gate.released(),
            Destination::Embedder { .. } => state.visible(),
        };
        let floor = match &job.destination {
            Destination::Embedder { .. } | Destination::Forward { depth: Depth::Shown, .. } => {
                state.floor.max(log.base().lsn)
            }
            // What readers let go is theirs while it is here.
            Destination::Forward { .. } | Destination::Standby { .. } => {
                log.base().lsn.max(state.derived.rebased_end())
            }
            _ => log.base().lsn,
        };
        if job.from < floor {
            self.answer_job(job, Err(ErrorKind::Recycled));
            return Start::Done;
        }
        if job.from >= job.upto {
            if matches!(job.destination, Destination::Embedder { follow: true, .. }) {
                return Start::Park(job);
            }
            self.answer_job(job, Ok(()));
            return Start::Done;
        }
        if let Destination::Peer { to, ballot, want } = job.destination {
            if !state.replica.may_serve(ballot, want) {
                return Start::Done;
            }
            match self.net.takes_fetched(&self.io.pool, to) {
                None => return Start::Done,
                Some(false) => return Start::Later(job),
                Some(true) => {}
            }
        }
        if job.room > 0 && !self.may_move(job.room) {
            return Start::Later(job);
        }
        self.start_read(job)
    }

    fn start_read(&mut self, job: Job) -> Start {
        if self.jobs.running.len() >= READS_MAX && !self.jobs.may_ride(&job) {
            return Start::Later(job);
        }
        let extents = self.gather(&job);
        let (job, extents) = match self.ride(job, extents) {
            Some(alone) => alone,
            None => return Start::Done,
        };
        if self.jobs.running.len() >= READS_MAX {
            return Start::Later(job);
        }
        let Some(first) = extents.first() else {
            let log = self.streams[&job.stream].replica.log();
            if log.find(job.from).is_some() {
                // Logged, and not durable yet.
                return Start::Later(job);
            }
            assert!(log.hole_at(job.from).is_some(), "what is logged and not lost has a block");
            self.answer_job(job, Err(ErrorKind::Corrupt));
            return Start::Done;
        };
        let (segment, offset) = (first.place.segment, first.place.offset);
        let Some(handle) = self.reading_handle(segment) else { return Start::Later(job) };
        let end = extents.iter().map(|e| e.place.offset + u64::from(e.place.len)).max();
        let len = (end.expect("not empty") - offset) as u32;
        let Some(slot) = self.io.pool.take(Purpose::Read, len as usize) else {
            return Start::Later(job);
        };
        let id = self.jobs.next_id();
        let run = Run { slot, at: 0, len };
        let op = Op::Read { handle, offset, run };
        self.io.ring.submit(&mut self.io.pool, local_token(OWNER_READ, id), op);
        let riders = Vec::new();
        self.jobs.running.insert(id, Running { job, extents, slot, offset, len, riders });
        Start::Done
    }

    /// Lets a cursor of the forwarder share a read in flight that brings what it wants. A job that
    /// cannot comes back.
    fn ride(&mut self, job: Job, mut extents: Vec<Extent>) -> Option<(Job, Vec<Extent>)> {
        let shares = self.jobs.may_ride(&job);
        let mut reads = self.jobs.running.values_mut().filter(|_| shares);
        let read =
            reads.find(|read| read.brings(job.stream, &extents) && read.riders.len() < RIDERS_MAX);
        let Some(read) = read else { return Some((job, extents)) };
        // Gathered just now: what was voided since the read began is not among them.
        extents.retain(|extent| read.extents.contains(extent));
        read.riders.push((job, extents));
        None
    }

    /// The durable extents from `job.from` on that one read of one segment brings.
    fn gather(&self, job: &Job) -> Vec<Extent> {
        let log = self.streams[&job.stream].replica.log();
        let durable = self.ledger.wal.durable();
        let mut extents: Vec<Extent> = Vec::new();
        let mut from = job.from;
        while let Some(extent) = log.find(from).filter(|_| from < job.upto) {
            let fits = extents.first().is_none_or(|first| {
                let span = (extent.place.offset + u64::from(extent.place.len))
                    .wrapping_sub(first.place.offset);
                first.place.segment == extent.place.segment
                    && extent.place.offset >= first.place.offset
                    && span <= READ_CHUNK_BYTES as u64
            });
            // An error may be of another block than the first.
            let enough = job.again && !extents.is_empty();
            if !fits || enough || extent.place.block > durable {
                break;
            }
            from = extent.end;
            extents.push(*extent);
        }
        extents
    }

    /// Closes what is open of segments below `segment`. The oldest of them that is still read.
    pub(crate) fn close_files_below(&mut self, segment: u64) -> Option<u64> {
        let running = self.jobs.running.values().map(|read| read.extents[0].place.segment);
        let opening = self.jobs.opening.values().copied();
        let oldest = running.chain(opening).min().filter(|oldest| *oldest < segment);
        let below = oldest.unwrap_or(segment);
        while let Some((&seq, File::Open(handle))) = self.jobs.files.range(..below).next() {
            let handle = *handle;
            self.jobs.files.remove(&seq);
            self.forget(Op::Close { handle });
        }
        assert!(self.jobs.files.range(..below).next().is_none(), "nothing is left open");
        oldest
    }

    /// A handle to read a segment with; none while it is being opened.
    fn reading_handle(&mut self, segment: u64) -> Option<Handle> {
        match self.jobs.files.get(&segment) {
            Some(File::Open(handle)) => return Some(*handle),
            Some(File::Opening) => return None,
            None => {}
        }
        if self.jobs.files.len() >= FILES_MAX {
            self.close_one_file();
        }
        let id = self.jobs.next_id();
        let path = self.segment_path(segment);
        let op = Op::Open { path, how: OpenHow::Read };
        self.io.ring.submit(&mut self.io.pool, local_token(OWNER_READ, id), op);
        self.jobs.files.insert(segment, File::Opening);
        self.jobs.opening.insert(id, segment);
        None
    }

    /// Answers the jobs that come next to a segment that cannot be opened.
    fn fail_jobs_of(&mut self, segment: u64) {
        for job in std::mem::take(&mut self.jobs.waiting) {
            let log = self.streams.get(&job.stream).map(|state| state.replica.log());
            let extent = log.and_then(|log| log.find(job.from));
            if extent.is_some_and(|extent| extent.place.segment == segment) {
                self.answer_job(job, Err(ErrorKind::Io));
            } else {
                self.jobs.waiting.push_back(job);
            }
        }
    }

    fn close_one_file(&mut self) {
        let idle = |(segment, file): (&u64, &File)| match file {
            File::Open(handle) => {
                let mut running = self.jobs.running.values();
                let used = running.any(|r| r.extents.first().unwrap().place.segment == *segment);
                (!used).then_some((*segment, *handle))
            }
            File::Opening => None,
        };
        if let Some((segment, handle)) = self.jobs.files.iter().find_map(idle) {
            self.jobs.files.remove(&segment);
            self.forget(Op::Close { handle });
        }
    }

    /// Path of a segment of this shard.
    pub(crate) fn segment_path(&self, segment: u64) -> PathBuf {
        self.config.dir.join(palisade_wal::segment_name(segment))
    }

    /// An operation of the jobs ended.
    pub(crate) fn on_read_completion(&mut self, done: Completion) {
        let id = local_of(done.token);
        if let Some(segment) = self.jobs.opening.remove(&id) {
            match done.payload {
                Payload::Handle(handle) => {
                    self.jobs.files.insert(segment, File::Open(handle));
                }
                _ => {
                    self.jobs.files.remove(&segment);
                    let errno = done.result.err().unwrap_or(Errno::IO);
                    self.alarm("segment-unreadable", format!("segment {segment:016x}: {errno}"));
                    self.fail_jobs_of(segment);
                }
            }
            return;
        }
        let mut running = self.jobs.running.remove(&id).expect("a read in flight");
        let (slot, offset, len) = (running.slot, running.offset, running.len);
        let riders = std::mem::take(&mut running.riders);
        match done.result {
            Ok(bytes) if bytes == running.len => {
                // Who finds no room for it reads it again, for as long as that takes.
                running.job.cuts = 0;
                self.deliver(running);
            }
            // Beyond the end of a file that should be longer.
            Ok(0) => self.read_again(running, "the file is too short"),
            // A short or interrupted read is simply done again.
            Ok(_) => self.read_rest(running),
            Err(errno) if errno.is_transient() => self.read_rest(running),
            Err(errno) => self.read_again(running, &errno.to_string()),
        }
        for (job, extents) in riders {
            match done.result {
                Ok(bytes) if bytes == len => {
                    let riders = Vec::new();
                    self.deliver(Running { job, extents, slot, offset, len, riders });
                }
                // Whatever it was, each finds out for itself.
                _ => self.jobs.waiting.push_back(job),
            }
        }
        self.io.pool.release(slot);
    }

    fn read_rest(&mut self, mut running: Running) {
        running.job.cuts += 1;
        if running.job.cuts > READ_CUTS_MAX {
            return self.read_again(running, "every read of it is cut short");
        }
        self.jobs.waiting.push_back(running.job);
    }

    /// A read brought nothing good. It may have come from the wrong place, or from an old copy:
    /// once more, and then it is damage.
    pub(crate) fn read_again(&mut self, mut running: Running, why: &str) {
        if !std::mem::replace(&mut running.job.again, true) {
            running.job.cuts = 0;
            self.jobs.waiting.push_back(running.job);
            return;
        }
        let extent = running.extents[0];
        let place = extent.place;
        let (block, offset, segment) = (place.block, place.offset, place.segment);
        let text = format!("block {block} at {offset} of segment {segment:016x}: {why}");
        self.on_damage(running.job, &extent, &text);
    }

    /// What a job wants next is not to be had from this disk: it is asked of other members.
    fn on_damage(&mut self, job: Job, extent: &Extent, why: &str) {
        let (stream, at) = (job.stream, job.from);
        let todo = "check this disk; keep the other members up: they have these bytes";
        self.alarm("block-damaged", format!("stream {stream}, LSN {at}: {why}; {todo}"));
        self.hand_overs.is_impaired = true;
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let log = state.replica.log();
        let (start, accepting) = match job.destination {
            // The range itself is lost already, when a checkpoint did not tell of it.
            Destination::Anchor { start, accepting } if log.hole_at(start).is_none() => {
                (start, accepting)
            }
            _ => (extent.start, log.accepting()),
        };
        let is_there = log.find(extent.start).is_some_and(|now| now.place == extent.place);
        if !state.replica.can_repair() {
            state.replica.on_damaged(at);
        } else if is_there && accepting == log.accepting() {
            // It may have grown since the read began.
            let end = log.find(extent.start).map_or(extent.end, |now| now.end);
            self.lose_range(stream, start, end);
        }
        self.answer_job(job, Err(ErrorKind::Corrupt));
    }

    /// The blocks of `[start, end)` are lost. What stood there is proven by the chain at its end:
    /// that of the committed boundary or one above, of the hole that begins there, or of the next
    /// group, which has to be read.
    fn lose_range(&mut self, stream: u64, start: Lsn, end: Lsn) {
        let Some(state) = self.streams.get(&stream) else { return };
        let log = state.replica.log();
        let next = log.holes().iter().find(|hole| hole.start == end);
        let anchor = match (log.chain_at(end), next) {
            (_, Some(hole)) => hole.anchor.clone(),
            (Some(chain), None) => Anchor::Chain(chain),
            (None, None) => {
                let destination = Destination::Anchor { start, accepting: log.accepting() };
                return self.push_job(Job::new(stream, end, log.end().lsn, destination));
            }
        };
        self.step(stream, |replica, now, fx| replica.on_lost(start, end, anchor, now, fx));
        self.checkpoints.forget();
    }

    /// Reads the groups after ranges that a checkpoint did not tell of.
    pub(crate) fn read_anchors(&mut self) {
        let mut jobs = Vec::new();
        for (stream, state) in &self.streams {
            let (log, accepting) = (state.replica.log(), state.replica.log().accepting());
            for hole in log.holes().iter().filter(|hole| hole.anchor == Anchor::Unread) {
                let destination = Destination::Anchor { start: hole.start, accepting };
                jobs.push(Job::new(*stream, hole.end, log.end().lsn, destination));
            }
        }
        jobs.into_iter().for_each(|job| self.push_job(job));
    }

    /// The group after a lost range was read.
    pub(crate) fn anchor_hole(
        &mut self,
        job: Job,
        start: Lsn,
        accepting: Ballot,
        slot: SlotId,
        found: &Found,
    ) {
        let bytes = &self.io.pool.bytes(slot)[found.at..found.at + found.meta.len as usize];
        let Ok((header, _)) = GroupHeader::read_from_prefix(bytes) else { return };
        let end = header.lsn();
        self.step(job.stream, |replica, now, fx| {
            if replica.log().hole_at(start).is_some_and(|hole| hole.end == end) {
                return replica.on_anchor(&header, now, fx);
            }
            // Under another ballot it may have been another group.
            if replica.log().accepting() == accepting && end == job.from {
                replica.on_lost(start, end, Anchor::Next(Box::new(header)), now, fx);
            }
        });
        self.checkpoints.forget();
    }
}

impl Jobs {
    /// Whether some read in flight may bring what a cursor of the forwarder wants.
    fn may_ride(&self, job: &Job) -> bool {
        let is_forwarded = |job: &Job| matches!(job.destination, Destination::Forward { .. });
        let mut running = self.running.values().map(|read| &read.job);
        is_forwarded(job)
            && !job.again
            && running.any(|read| read.stream == job.stream && is_forwarded(read))
    }

    fn next_id(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Puts back a job that has more to bring.
    pub(crate) fn resume(&mut self, job: Job) {
        self.waiting.push_front(job);
    }
}
