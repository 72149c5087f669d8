//! Moving: the last live runs of an old segment are copied to where the log goes on, so that a
//! stream that nobody truncates does not hold a segment full of what nobody needs.

use palisade_netio::{HEAD_BYTES, PAGE_BYTES, Purpose, Ring, SlotId};
use palisade_wal::{Ballot, BodyBuilder, GroupHeader, Kind, Lsn, RECORD_HEADER_BYTES, RecordMeta};
use zerocopy::FromBytes;

use crate::shard::Shard;
use crate::shard::jobs::{Destination, Job};
use crate::shard::ledger::Claim;

/// Live bytes that are moved out of a segment: at most one part in so many of it.
const MOVE_PART: u64 = 16;
/// Younger segments are left alone: what is in them may stop being live by itself.
const AGE_MIN: u64 = 4;
/// Streams whose runs are moved at a time.
const MOVES_MAX: usize = 4;

impl<R: Ring> Shard<R> {
    /// Starts to move what is left in the oldest segment, if it is little.
    pub(crate) fn move_old_runs(&mut self) {
        let (active, _) = self.ledger.wal.active();
        let runs = self.streams.values().flat_map(|state| state.replica.log().extents());
        let Some(segment) = runs.map(|run| run.place.segment).min() else { return };
        if segment + AGE_MIN > active || self.checkpoints.moving > 0 {
            return;
        }
        let mut bytes = 0;
        let mut wanted: Vec<(u64, Lsn)> = Vec::new();
        for (stream, state) in &self.streams {
            let log = state.replica.log();
            let here = |run: &&palisade_wal::Extent| run.place.segment == segment;
            let mut runs = log.extents().filter(here).peekable();
            if let Some(first) = runs.peek() {
                wanted.push((*stream, first.start));
            }
            bytes += runs.map(bytes_of).sum::<u64>();
        }
        if bytes > self.config.segment_bytes / MOVE_PART {
            return;
        }
        for (stream, from) in wanted.into_iter().take(MOVES_MAX) {
            self.checkpoints.moving += 1;
            self.push_job(Job::new(stream, from, from, Destination::Move { segment }));
        }
    }

    /// Groups that a read brought are logged again. How many.
    ///
    /// # Errors
    /// Bytes of the body that finds no room now.
    pub(crate) fn move_groups(
        &mut self,
        stream: u64,
        segment: u64,
        slot: SlotId,
        found: &[(usize, RecordMeta)],
    ) -> Result<usize, usize> {
        let log = self.streams[&stream].replica.log();
        let (committed, accepting) = (log.committed().lsn, log.accepting());
        let still = |(_, meta): &&(usize, RecordMeta)| {
            let run = log.find(meta.lsn);
            let same = |run: &palisade_wal::Extent| {
                run.place.segment == segment && run.ballot == meta.ballot && meta.end <= run.end
            };
            run.is_some_and(same) && meta.end <= committed
        };
        let found: Vec<&(usize, RecordMeta)> = found.iter().filter(still).collect();
        if found.is_empty() {
            return Ok(0);
        }
        let size = |meta: &RecordMeta| RECORD_HEADER_BYTES + meta.len as usize;
        let groups: usize = found.iter().map(|(_, meta)| size(meta)).sum();
        let bytes = RECORD_HEADER_BYTES + groups;
        if !self.flush_own() || self.ledger.peek(bytes, Claim::Reserve).is_none() {
            return Err(bytes);
        }
        let len = (HEAD_BYTES + bytes).next_multiple_of(PAGE_BYTES);
        let copy = self.io.pool.take(Purpose::Write, len).ok_or(bytes)?;
        let (from, to) = self.io.pool.pair(slot, copy);
        let mut builder = BodyBuilder::new(&mut to[HEAD_BYTES..]);
        // Whoever reads the copies back knows that they are committed.
        let hint = builder.push_record(Kind::CommitHint, stream, committed, accepting, &[]);
        assert!(hint.is_ok(), "the slot was taken for it");
        for (at, meta) in &found {
            let group = &from[*at..*at + meta.len as usize];
            let pushed = builder.push_moved_group(group, meta.ballot, 0);
            assert!(pushed.is_ok(), "a checked group fits a slot of its size: {pushed:?}");
        }
        let header = |(at, meta): &&(usize, RecordMeta)| {
            let group = &from[*at..*at + meta.len as usize];
            let (header, _) = GroupHeader::read_from_prefix(group).expect("a checked group");
            (header, meta.ballot)
        };
        let headers: Vec<(GroupHeader, Ballot)> = found.iter().map(header).collect();
        let body = builder.finish();
        let place = self.ledger.append(&mut self.io.pool, copy, body, Vec::new(), Claim::Reserve);
        let replica = &mut self.streams.get_mut(&stream).expect("read from it").replica;
        let count = headers.len();
        for (header, ballot) in headers {
            let moved = replica.relocate(&header, ballot, place);
            assert!(moved, "a live run was looked up just now");
        }
        Ok(count)
    }

    /// Whether a body of `bytes` would find room, and memory.
    pub(crate) fn may_move(&mut self, bytes: usize) -> bool {
        if !self.flush_own() || !self.ledger.has_room(bytes, Claim::Reserve) {
            return false;
        }
        let len = (HEAD_BYTES + bytes).next_multiple_of(PAGE_BYTES);
        let slot = self.io.pool.take(Purpose::Write, len);
        slot.into_iter().for_each(|slot| self.io.pool.release(slot));
        slot.is_some()
    }

    /// A move is over.
    pub(crate) fn end_move(&mut self, moved: bool) {
        assert!(self.checkpoints.moving > 0, "a move that ends began");
        self.checkpoints.moving -= 1;
        // What could not be moved is not tried again before something else happens.
        self.checkpoints.look |= moved;
    }
}

/// Bytes of a run; a base takes more positions than it has bytes.
fn bytes_of(run: &palisade_wal::Extent) -> u64 {
    run.end.since(run.start).min(run.place.len.into())
}
