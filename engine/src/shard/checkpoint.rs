//! Checkpoints of a shard: written in slices behind appends, and read back by recovery. With them
//! the log may begin later than with its first block: what stands before is let go.
//!
//! A slice is one block with the states of streams as they are after everything in the blocks
//! before it: nothing waits for the log while a slice is made. A stream that cannot be told now
//! ends its checkpoint; the next segment brings another. A recycled log that lost one of its two
//! writes another as soon as every stream can be told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use palisade_netio::{HEAD_BYTES, PAGE_BYTES, Purpose, Ring};
use palisade_wal::{
    Ballot, BodyBuilder, CHECKPOINT_PART_BYTES, CHECKPOINT_PARTS_MAX, CheckpointRecord, Kind,
    LogStart, Lsn, Place, RECORD_HEADER_BYTES, Recycler, StreamLog,
};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use crate::control::Registry;
use crate::paxos::codec::fixed;
use crate::shard::Shard;
use crate::shard::boot::Replaying;
use crate::shard::ledger::{Claim, OwnRecord};
use crate::shard::pins::Pinning;
use crate::shard::retention::Retention;
use crate::shard::stream::StreamState;
use crate::stream::catalogue::{CATALOGUE_STREAM, Catalogue};
use crate::stream::image::StreamImage;
use crate::stream::pin::Pins;

/// Bytes of a slice: of all of them but those of one stream that needs more.
const SLICE_BYTES: usize = 64 << 10;
/// A segment gets its checkpoint when this part of it is written: a start alone writes none.
const BEGIN_PART: u64 = 8;
/// From this part of the space on, in percent, a checkpoint does not wait for the next segment,
/// and nothing is retained.
const RECYCLE_PERCENT: u64 = 80;
/// Such checkpoints for one and the same oldest run: one to begin at, and one behind it.
const URGENT_MAX: u8 = 2;
/// A record's header, the head of its part and some pad.
const RECORD_BYTES: usize = RECORD_HEADER_BYTES + 64;
/// Body of a base record that moves the base; one without a body moves the readers' floor.
const BASE_MOVED: u8 = 1;

/// That body; the chain at the base follows where it is known.
fn base_moved(chain: u64) -> Vec<u8> {
    let told = U64::new(chain);
    let chain = Some(told.as_bytes()).filter(|_| chain != 0);
    [&[BASE_MOVED], chain.unwrap_or_default()].concat()
}

/// Reads it: the chain, or 0. None when it is none.
pub(crate) fn read_base_moved(body: &[u8]) -> Option<u64> {
    match body.split_first()? {
        (&BASE_MOVED, []) => Some(0),
        (&BASE_MOVED, chain) => U64::read_from_bytes(chain).ok().map(U64::get),
        _ => None,
    }
}

fixed! {
    /// What a Begin says: whether hard state was lost, the SCN floor, and what is complete.
    ShardImage: 24 { lost: U64, floor: U64, complete: U64 }
}

/// Bytes of one that does not say what is complete.
const SHARD_IMAGE_SHORT: usize = 16;

const _: () = assert!(CHECKPOINT_PART_BYTES + RECORD_BYTES <= SLICE_BYTES);

/// What a shard knows of its checkpoints.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    pub(crate) recycler: Recycler,
    /// The open checkpoint.
    id: u64,
    /// Its streams that were not told yet, and how many were.
    todo: BTreeSet<u64>,
    told: u64,
    /// The segment that the last one began in.
    segment: u64,
    /// The stream that ended the last one, as it could not be told.
    untold: Option<u64>,
    /// The newest one that was looked at with the live runs.
    seen: Option<LogStart>,
    /// Runs stopped being live, or moved: something may be let go.
    pub(crate) look: bool,
    /// The segment with the oldest live run in the last look, and urgent checkpoints since.
    oldest: Option<u64>,
    urgent: u8,
    /// What readers let go and the log still keeps.
    pub(crate) retention: Retention,
    /// What of it is kept for standbys.
    pub(crate) pinning: Pinning,
    /// How far the bases of streams may go that are below it.
    floors: BTreeMap<u64, Lsn>,
    /// Moves under way.
    pub(crate) moving: usize,
    /// Segments below this may be reused; below the start some may still be read.
    free_below: u64,
    reading: Reading,
    /// What the last checkpoint that was read says of SYNC standbys.
    pub(crate) held: BTreeMap<u64, Vec<(u32, Lsn)>>,
    /// The same of what is kept for standbys.
    pub(crate) pins: BTreeMap<u64, Pins>,
}

/// A checkpoint that is being replayed.
#[derive(Debug, Default)]
struct Reading {
    /// Its id, and the streams that were told, while nothing of it is missing.
    open: Option<(u64, u64)>,
    /// A stream of which parts are missing: id, parts, next one, bytes.
    stream: Option<(u64, u32, u32, Vec<u8>)>,
}

impl Checkpoints {
    /// For a log of which things stay so long beyond need.
    pub(crate) fn new(retain_ns: u64) -> Checkpoints {
        Checkpoints {
            recycler: Recycler::default(),
            id: 0,
            todo: BTreeSet::new(),
            told: 0,
            segment: 0,
            untold: None,
            seen: None,
            look: false,
            oldest: None,
            urgent: 0,
            retention: Retention::new(retain_ns),
            pinning: Pinning::default(),
            floors: BTreeMap::new(),
            moving: 0,
            free_below: 0,
            reading: Reading::default(),
            held: BTreeMap::new(),
            pins: BTreeMap::new(),
        }
    }

    /// Whether slices are still to be written.
    pub(crate) fn is_open(&self) -> bool {
        self.recycler.is_open()
    }

    /// Whether anything is to be done before something else happens.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_open() || self.look
    }

    fn abandon(&mut self) {
        self.recycler.abandon();
        self.todo.clear();
    }

    /// A range of a stream is lost: no older checkpoint knows of it.
    pub(crate) fn forget(&mut self) {
        self.recycler.forget();
        self.todo.clear();
        assert!(!self.is_open(), "the open one is among them");
    }
}

/// Writing.
impl<R: Ring> Shard<R> {
    /// One step, once a turn, when everything of the turn has its place in the log.
    pub(crate) fn run_checkpoint(&mut self) {
        self.advance_bases();
        let durable = self.ledger.wal.durable();
        let newest = self.checkpoints.recycler.newest(durable);
        if std::mem::take(&mut self.checkpoints.look) || newest != self.checkpoints.seen {
            self.checkpoints.seen = newest;
            self.look_at_runs();
        }
        self.release_segments();
        if !self.checkpoints.is_open() && self.checkpoint_is_due() && self.flush_own() {
            self.begin_checkpoint();
        }
        if self.checkpoints.is_open() && self.flush_own() {
            self.write_slice();
        }
    }

    /// Moves the bases of streams towards their readers' floors.
    fn advance_bases(&mut self) {
        let full = self.is_to_recycle();
        while let Some((stream, floor)) = self.checkpoints.retention.poll(self.io.now, full) {
            self.checkpoints.floors.insert(stream, floor);
            self.checkpoints.pinning.hurry(stream);
        }
        self.look_at_pins(full);
        let waits = |stream: &u64| self.checkpoints.pinning.waits(*stream);
        let floors = self.checkpoints.floors.iter().filter(|(stream, _)| !waits(stream));
        let floors: Vec<(u64, Lsn)> = floors.map(|(stream, floor)| (*stream, *floor)).collect();
        let bound = self.may_wait();
        for (stream, floor) in floors {
            let Some(state) = self.streams.get(&stream) else { continue };
            assert!(floor <= state.floor, "readers let it go before");
            let to = floor.min(state.free_below(bound)).min(self.pinned_below(stream, floor));
            let Some(state) = self.streams.get(&stream) else { continue };
            // A step is work, after which the next turn does not wait.
            let moved = match state.replica.can_truncate(to) {
                true => self.step(stream, |replica, now, fx| replica.truncate(to, now, fx)),
                false => None,
            };
            let moved = moved.flatten();
            let Some(state) = self.streams.get(&stream) else { continue };
            let log = state.replica.log();
            let last = log.base_within(floor);
            if log.extents().next().is_none_or(|run| run.end > last) {
                self.checkpoints.floors.remove(&stream);
            }
            let Some(base) = moved else { continue };
            let chain = state.replica.log().base().chain;
            self.on_pinned_base(stream);
            self.checkpoints.look = true;
            self.ledger.push(OwnRecord {
                stream,
                kind: Kind::Base,
                lsn: base,
                ballot: Ballot::NONE,
                body: base_moved(chain),
                id: None,
            });
        }
    }

    fn checkpoint_is_due(&mut self) -> bool {
        let (segment, end) = self.ledger.wal.active();
        // A log of one segment has nothing to let go.
        if segment <= self.checkpoints.recycler.start().segment.max(1) {
            return false;
        }
        let is_first = segment != self.checkpoints.segment;
        if is_first && end >= self.config.segment_bytes / BEGIN_PART {
            return true;
        }
        if self.lacks_checkpoint() && (is_first || self.can_tell_more()) {
            return true;
        }
        let full = self.is_to_recycle();
        let checkpoints = &mut self.checkpoints;
        let gains = checkpoints.oldest.unwrap_or(segment) > checkpoints.recycler.start().segment;
        let urgent = full && gains && checkpoints.urgent < URGENT_MAX;
        checkpoints.urgent += u8::from(urgent);
        urgent
    }

    /// One of the two that a recycled log keeps was damaged: the other must not become the last.
    fn lacks_checkpoint(&self) -> bool {
        let recycler = &self.checkpoints.recycler;
        recycler.start() != LogStart::default() && recycler.complete() < 2
    }

    /// Whether the stream that ended the last checkpoint can be told now, or is gone.
    fn can_tell_more(&self) -> bool {
        let Some(untold) = self.checkpoints.untold else { return false };
        self.streams.get(&untold).is_none_or(StreamState::can_be_told)
    }

    /// Whether space goes before retention, and before waiting for the next segment.
    pub(crate) fn is_to_recycle(&self) -> bool {
        let space = self.ledger.wal.space();
        assert!(space.limit > 0, "a log has space");
        space.used * 100 >= space.limit * RECYCLE_PERCENT
    }

    fn begin_checkpoint(&mut self) {
        let (segment, _) = self.ledger.wal.active();
        self.checkpoints.segment = segment;
        self.checkpoints.untold = None;
        let id = self.ledger.wal.appended() + 1;
        let shard = self.shard_image();
        let begin = CheckpointRecord::Begin { id, bytes: &shard }.encode();
        let Some(place) = self.append_slice(&[(0, begin)]) else {
            // Again, when there is room.
            self.checkpoints.segment = 0;
            return;
        };
        assert!(place.block == id, "it is called by its first block");
        self.checkpoints.recycler.on_begin(place);
        self.checkpoints.segment = place.segment;
        self.checkpoints.id = id;
        self.checkpoints.told = 0;
        self.checkpoints.todo = self.streams.keys().copied().collect();
    }

    /// What goes for every stream of the shard. Records of these things may be let go.
    fn shard_image(&self) -> Vec<u8> {
        assert!(!self.ledger.has_own(), "what was said before stands before it");
        let complete = self.showing.replayable.logged();
        put_shard_image(self.lost_hard_state, self.floors.logged(), complete)
    }

    /// Tells as many streams as fit a slice, or the end.
    fn write_slice(&mut self) {
        let id = self.checkpoints.id;
        let mut told = Vec::new();
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(&stream) = self.checkpoints.todo.iter().nth(told.len()) {
            let Some(blob) = self.stream_image(stream) else {
                // One that is too long waits for the next segment.
                let is_whole = self.streams[&stream].can_be_told();
                self.checkpoints.untold = (!is_whole).then_some(stream);
                return self.checkpoints.abandon();
            };
            let parts = blob.len().div_ceil(CHECKPOINT_PART_BYTES);
            let size = blob.len() + parts * RECORD_BYTES;
            if parts > CHECKPOINT_PARTS_MAX as usize {
                return self.checkpoints.abandon();
            }
            if !told.is_empty() && bytes + size > SLICE_BYTES {
                break;
            }
            bytes += size;
            for (part, bytes) in blob.chunks(CHECKPOINT_PART_BYTES).enumerate() {
                let (part, parts) = (part as u32, parts as u32);
                let record = CheckpointRecord::Part { id, part, parts, bytes };
                records.push((stream, record.encode()));
            }
            told.push(stream);
            if bytes >= SLICE_BYTES / 2 {
                break;
            }
        }
        let ends = told.len() == self.checkpoints.todo.len();
        if ends {
            let streams = self.checkpoints.told + told.len() as u64;
            records.push((0, CheckpointRecord::End { id, streams }.encode()));
        }
        let Some(block) = self.append_slices(&records) else { return };
        self.checkpoints.told += told.len() as u64;
        told.iter().for_each(|stream| {
            self.checkpoints.todo.remove(stream);
        });
        if ends {
            self.checkpoints.recycler.on_end(block);
        }
    }

    /// The state of a stream; none when it cannot be told now.
    fn stream_image(&self, stream: u64) -> Option<Vec<u8>> {
        let begin = self.checkpoints.recycler.open().expect("a checkpoint is open").block;
        let state = &self.streams[&stream];
        if !state.can_be_told() {
            return None;
        }
        let image = StreamImage {
            log: state.replica.log().image(begin)?,
            config: state.replica.config().clone(),
            role: state.role,
            floor: state.floor,
            derived: state.derived.clone(),
            held: state.gate.words().to_vec(),
            pins: state.pins.clone(),
            catalogue: (stream == CATALOGUE_STREAM)
                .then(|| (self.catalogue.clone(), (*self.registry).clone())),
        };
        image.encode()
    }

    /// Appends records in blocks one behind the other. None when the first finds no room now;
    /// when a later one does not, the checkpoint is over. The block of the last record.
    fn append_slices(&mut self, records: &[(u64, Vec<u8>)]) -> Option<u64> {
        let mut last = None;
        let mut rest = records;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(_, record): &&(u64, Vec<u8>)| {
                bytes += RECORD_HEADER_BYTES + record.len().next_multiple_of(8);
                bytes <= 4 * SLICE_BYTES
            };
            let count = rest.iter().take_while(fits).count();
            let (now, later) = rest.split_at(count);
            match self.append_slice(now) {
                Some(place) => last = Some(place.block),
                None if last.is_some() => {
                    self.checkpoints.abandon();
                    return None;
                }
                None => return None,
            }
            rest = later;
        }
        last
    }

    fn append_slice(&mut self, records: &[(u64, Vec<u8>)]) -> Option<Place> {
        assert!(!self.ledger.has_own(), "what waits stands before it");
        let size = |record: &Vec<u8>| RECORD_HEADER_BYTES + record.len().next_multiple_of(8);
        let bytes: usize = records.iter().map(|(_, record)| size(record)).sum();
        self.ledger.peek(bytes, Claim::Reserve)?;
        let len = (HEAD_BYTES + bytes).next_multiple_of(PAGE_BYTES);
        let slot = self.io.pool.take(Purpose::Write, len)?;
        let mut builder = BodyBuilder::new(&mut self.io.pool.bytes_mut(slot)[HEAD_BYTES..len]);
        for (stream, record) in records {
            let pushed =
                builder.push_record(Kind::Checkpoint, *stream, Lsn::ZERO, Ballot::NONE, record);
            assert!(pushed.is_ok(), "the slot was taken for them");
        }
        let body = builder.finish();
        Some(self.ledger.append(&mut self.io.pool, slot, body, Vec::new(), Claim::Reserve))
    }

    /// Which block the oldest live run stands in, and what that allows.
    fn look_at_runs(&mut self) {
        if self.checkpoints.recycler.complete() == 0 {
            return;
        }
        if !self.flush_own() {
            // A base or a run that moved is not in the log yet.
            self.checkpoints.look = true;
            return;
        }
        let logs = self.streams.values().map(|state| state.replica.log());
        let runs = logs.clone().flat_map(StreamLog::extents);
        let segment = runs.map(|run| run.place.segment).min();
        let oldest = logs.filter_map(StreamLog::oldest_block).min();
        if segment != self.checkpoints.oldest {
            (self.checkpoints.oldest, self.checkpoints.urgent) = (segment, 0);
        }
        let (appended, durable) = (self.ledger.wal.appended(), self.ledger.wal.durable());
        self.checkpoints.recycler.on_live(oldest, appended, durable);
        self.move_old_runs();
    }

    /// Lets go of segments before the start of the log that nobody reads.
    fn release_segments(&mut self) {
        let durable = self.ledger.wal.durable();
        let moved = self.checkpoints.recycler.poll_start(durable).is_some();
        let start = self.checkpoints.recycler.start();
        if self.checkpoints.free_below == start.segment {
            return;
        }
        let mut below = self.leases.range_mut(..start.segment);
        let held = below.find_map(|(segment, (_, lease))| lease.is_held().then_some(*segment));
        let mut free_below = held.unwrap_or(start.segment);
        if let Some(read) = self.close_files_below(free_below) {
            free_below = free_below.min(read);
        }
        if free_below == self.checkpoints.free_below && !moved {
            return;
        }
        self.leases.retain(|segment, _| *segment >= free_below);
        self.assert_free(start);
        self.ledger.wal.let_go(start, free_below);
        self.checkpoints.free_below = free_below;
        self.checkpoints.look |= moved;
        if !self.ledger.wal.space().refuse_appends {
            self.alarms.remove("log-full");
        }
    }

    /// No live run stands before the start of the log. The last look before anything is reused.
    fn assert_free(&self, start: LogStart) {
        let logs = self.streams.values().map(|state| state.replica.log());
        let oldest = logs.filter_map(StreamLog::oldest_block).min();
        assert!(oldest.is_none_or(|oldest| oldest >= start.block), "a live run is let go");
        assert!(start.block <= self.ledger.wal.durable(), "a log begins at a durable block");
    }
}

/// Reading back.
impl<R: Ring> Shard<R> {
    /// A record of a checkpoint. Bytes that are none end it.
    pub(crate) fn replay_checkpoint(&mut self, stream: u64, place: Place, bytes: &[u8]) {
        let Ok(record) = CheckpointRecord::decode(bytes) else {
            return self.break_checkpoint();
        };
        let checkpoints = &mut self.checkpoints;
        match record {
            CheckpointRecord::Begin { id, bytes } => {
                let Some((lost, floor, complete)) = read_shard_image(bytes) else {
                    return self.break_checkpoint();
                };
                checkpoints.reading = Reading { open: Some((id, 0)), stream: None };
                checkpoints.recycler.on_begin(place);
                // Streams that were opened after that loss may have been lost before it.
                self.lost_hard_state |= lost;
                self.floors.on_replayed(floor);
                self.showing.replayable.on_replayed(complete);
            }
            CheckpointRecord::Part { id, part, parts, bytes } => {
                let reading = &mut checkpoints.reading;
                if reading.open.is_none_or(|(open, _)| open != id) {
                    return self.break_checkpoint();
                }
                let started = reading.stream.take().filter(|(of, of_parts, next, _)| {
                    (*of, *of_parts, *next) == (stream, parts, part)
                });
                let mut blob = match started {
                    Some((.., blob)) => blob,
                    None if part == 0 => Vec::new(),
                    None => return self.break_checkpoint(),
                };
                blob.extend_from_slice(bytes);
                if part + 1 < parts {
                    reading.stream = Some((stream, parts, part + 1, blob));
                    return;
                }
                match StreamImage::decode(stream, &blob) {
                    Some(image) => self.take_image(stream, place, image),
                    None => self.break_checkpoint(),
                }
            }
            CheckpointRecord::End { id, streams } => {
                let reading = std::mem::take(&mut checkpoints.reading);
                if reading.open == Some((id, streams)) && reading.stream.is_none() {
                    checkpoints.recycler.on_end(place.block);
                } else {
                    self.break_checkpoint();
                }
            }
        }
    }

    /// Something is missing or damaged: the checkpoint that is being read counts as none.
    pub(crate) fn break_checkpoint(&mut self) {
        self.checkpoints.reading = Reading::default();
        self.checkpoints.recycler.abandon();
    }

    /// A stream's state at this place of the log. What was replayed of it is the same, or it
    /// stood in segments that were let go.
    fn take_image(&mut self, stream: u64, place: Place, image: StreamImage) {
        if let Some((_, told)) = &mut self.checkpoints.reading.open {
            *told += 1;
        }
        let StreamImage { log, config, role, floor, derived, held, pins, catalogue } = image;
        self.checkpoints.held.insert(stream, held);
        self.checkpoints.pins.insert(stream, pins);
        if let Some(known) = self.booting.stream_mut(stream) {
            // What a loss took of the base, the checkpoint says again.
            known.truncate(log.base.lsn, Some(log.base.chain));
            known.floor = known.floor.max(floor);
            let found = (known.log.promised(), known.log.accepting(), known.log.end());
            let told = (log.promised, log.accepting, log.end());
            if found != told && known.log.is_lossy() {
                known.lose(true);
            } else if found != told {
                let text = format!(
                    "{}: stream {stream}, block {}: the checkpoint says {told:?}, its records \
                     {found:?}",
                    self.config.dir.display(),
                    place.block
                );
                self.halt = Some(crate::shard::Halt::Corrupt(text));
            } else if !known.derived.is_whole() && derived.is_whole() {
                // Whoever told it had everything. What is lost may be gone everywhere by now.
                known.log.commit(log.committed.lsn);
                if known.log.committed().lsn == log.committed.lsn {
                    known.derived = derived;
                    self.take_catalogue(catalogue);
                }
            }
            return;
        }
        self.take_catalogue(catalogue);
        let log = StreamLog::restore(log);
        let fresh = Replaying { log, config, role, derived, floor, base: (Lsn::ZERO, 0) };
        self.booting.insert(stream, fresh);
    }

    /// The streams and clusters that a checkpoint told, if it was of the catalogue.
    fn take_catalogue(&mut self, told: Option<(Catalogue, Registry)>) {
        if let Some((streams, registry)) = told {
            self.catalogue = streams;
            self.registry = Arc::new(registry);
        }
    }

    /// The log was read. False when its start is lost: it begins with no complete checkpoint.
    pub(crate) fn end_checkpoints(&mut self, start: LogStart) -> bool {
        self.break_checkpoint();
        self.checkpoints.recycler.on_recovered(start);
        self.checkpoints.free_below = start.segment;
        start == LogStart::default() || self.checkpoints.recycler.complete() > 0
    }
}

fn put_shard_image(lost: bool, floor: u64, complete: u64) -> Vec<u8> {
    let (lost, floor, complete) = (u64::from(lost).into(), floor.into(), complete.into());
    ShardImage { lost, floor, complete }.as_bytes().to_vec()
}

/// Whether hard state was lost, the SCN floor, and what is complete, as a Begin says them. One that
/// was written before anything was known to be complete is shorter.
fn read_shard_image(bytes: &[u8]) -> Option<(bool, u64, u64)> {
    let mut whole = [0; size_of::<ShardImage>()];
    if bytes.len() != whole.len() && bytes.len() != SHARD_IMAGE_SHORT {
        return None;
    }
    whole[..bytes.len()].copy_from_slice(bytes);
    let ShardImage { lost, floor, complete } = ShardImage::ref_from_bytes(&whole).ok()?;
    match lost.get() {
        lost @ 0..=1 => Some((lost == 1, floor.get(), complete.get())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_for_the_whole_shard_reads_back() {
        for (lost, floor, complete) in [(false, 0, 0), (true, 77, 70), (false, u64::MAX, 5)] {
            let bytes = put_shard_image(lost, floor, complete);
            assert_eq!(read_shard_image(&bytes), Some((lost, floor, complete)));
            assert_eq!(read_shard_image(&bytes[..SHARD_IMAGE_SHORT]), Some((lost, floor, 0)));
            for len in (0..bytes.len()).filter(|len| *len != SHARD_IMAGE_SHORT) {
                assert_eq!(read_shard_image(&bytes[..len]), None, "{len}");
            }
            assert_eq!(read_shard_image(&[&[2], &bytes[1..]].concat()), None);
        }
    }
}
