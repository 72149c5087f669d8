//! What a finished read brings to whom.

use bytes::Bytes;
use palisade_netio::{FrameHead, HEAD_BYTES, Purpose, Ring, Run, SlotId};
use palisade_wal::{
    Ballot, Body, BodyBuilder, Expect, Extent, GroupHeader, GroupKind, Kind, Lsn, RecordMeta,
    check_headers_only, check_record, entries, parse_block,
};
use zerocopy::FromBytes;

use crate::error::{Error, ErrorKind};
use crate::forward::{Located, Recent, Reply};
use crate::handle::{ReadPart, Record};
use crate::kinds::KIND_FETCHED;
use crate::limits::READ_BYTES_MAX;
use crate::paxos::Want;
use crate::shard::Shard;
use crate::shard::batch::group_kind;
use crate::shard::frames::fetched_prefix;
use crate::shard::jobs::{Destination, Job, Running};
use crate::shard::stream::StreamState;

/// What became of groups for a peer.
enum Handed {
    Sent,
    /// No memory now.
    Later,
    /// It takes nothing; it asks again when it does.
    Gone,
}

/// A group in a slot.
pub(crate) struct Found {
    /// Offset of the group's bytes in the slot.
    pub(crate) at: usize,
    /// The chain behind it.
    pub(crate) chain: u64,
    pub(crate) meta: RecordMeta,
}

impl<R: Ring> Shard<R> {
    /// Hands over what a read brought.
    pub(crate) fn deliver(&mut self, running: Running) {
        let found = self.find_groups(&running);
        let Some(last) = found.last() else {
            return self.read_again(running, "its checksums are wrong");
        };
        let (stream, from, upto) = (running.job.stream, running.job.from, last.meta.end);
        let state = self.streams.get(&stream);
        if state.is_some_and(|state| state.replica.damaged().is_some()) {
            self.step(stream, |replica, _, _| replica.on_readable(from, upto));
        }
        self.hand_over(running, &found);
    }

    /// The good groups up to the first damage.
    fn find_groups(&self, running: &Running) -> Vec<Found> {
        let mut found = Vec::new();
        for extent in &running.extents {
            if self.find_in(running, extent, &mut found).is_none() {
                break;
            }
        }
        found
    }

    fn find_in(&self, running: &Running, extent: &Extent, found: &mut Vec<Found>) -> Option<()> {
        let bytes = self.io.pool.bytes(running.slot);
        let start = (extent.place.offset - running.offset) as usize;
        let block = bytes.get(start..start + extent.place.len as usize)?;
        let expect = self.expect_block(extent.place.segment, extent.place.offset);
        let head = parse_block(block, &expect).ok()?;
        let body = head.body(block)?;
        // A damaged record beside those that are wanted spoils none of them.
        let metas = check_headers_only(body, head.headers_crc.get()).ok()?;
        let wanted = metas.iter().filter(|meta| {
            meta.kind == if extent.moved { Kind::Moved } else { Kind::Group }
                && meta.stream == running.job.stream
                && meta.ballot == extent.ballot
                && meta.lsn < extent.end
                && meta.end > extent.start.max(running.job.from)
                && meta.lsn < running.job.upto
        });
        for meta in wanted {
            let meta = check_record(body, meta).ok()?;
            let at = start + HEAD_BYTES + meta.range().start;
            let (group, _) = GroupHeader::read_from_prefix(&bytes[at..]).ok()?;
            // What does not go on from the one before is read by itself.
            let goes_on = match (found.last(), &running.job.destination) {
                (Some(last), _) => last.meta.end == meta.lsn && group.follows(last.chain),
                // Also from what its reader got before.
                (None, Destination::Embedder { after: Some(chain), .. })
                    if meta.lsn == running.job.from =>
                {
                    group.follows(*chain)
                }
                // The first one holds what was asked for.
                (None, _) => meta.lsn <= running.job.from,
            };
            if !goes_on {
                return None;
            }
            found.push(Found { at, chain: group.chain.get(), meta });
        }
        Some(())
    }

    fn hand_over(&mut self, running: Running, found: &[Found]) {
        let Running { mut job, slot, .. } = running;
        let limit = match &job.destination {
            Destination::Forward { max_bytes, .. } => READ_BYTES_MAX.min(*max_bytes as usize),
            // The first group tells where the next one goes on.
            Destination::Base { .. } => 0,
            _ => READ_BYTES_MAX,
        };
        let mut bytes = 0;
        let fits = |f: &&Found| {
            let first = bytes == 0;
            bytes += f.meta.len as usize + palisade_wal::RECORD_HEADER_BYTES;
            first || bytes <= limit
        };
        let count = found.iter().take_while(fits).count();
        let found = &found[..count];
        let next = found[count - 1].meta.end;
        match &job.destination {
            Destination::Embedder { .. } => self.hand_to_embedder(job, slot, found, next),
            Destination::Peer { to, ballot, want } => {
                let (to, ballot, want) = (*to, *ballot, *want);
                match self.hand_to_peer(to, ballot, want, slot, found) {
                    Handed::Sent => job.go_on(next),
                    Handed::Later => {}
                    Handed::Gone => return,
                }
                self.jobs.resume(job);
            }
            Destination::Forward { .. } => self.hand_to_forwarder(job, slot, found, next),
            Destination::Base { id, from } => {
                self.on_first_group((*id, job.stream, *from), &found[0]);
            }
            Destination::Standby { due } => {
                let due = *due;
                self.hand_to_standby(&job, due, slot, found);
            }
            Destination::Move { segment } => {
                let segment = *segment;
                self.hand_to_move(job, segment, slot, found, next);
            }
            Destination::Anchor { start, accepting } => {
                let (start, accepting) = (*start, *accepting);
                self.anchor_hole(job, start, accepting, slot, &found[0]);
            }
        }
    }

    fn hand_to_embedder(&mut self, job: Job, slot: SlotId, found: &[Found], next: Lsn) {
        let mut records = Vec::new();
        for group in found {
            let bytes = &self.io.pool.bytes(slot)[group.at..group.at + group.meta.len as usize];
            if group_kind(bytes) == GroupKind::Base {
                // What comes behind it does not go on from what was read before.
                return self.answer_job(job, Err(ErrorKind::Recycled));
            }
            if group_kind(bytes) != GroupKind::Data {
                continue;
            }
            records.extend(entries(bytes).filter(|e| e.lsn >= job.from).map(|entry| Record {
                lsn: entry.lsn,
                end_lsn: entry.end,
                scn: group.meta.scn,
                producer: entry.producer,
                sequence: entry.sequence,
                payload: Bytes::copy_from_slice(entry.payload),
            }));
        }
        let Destination::Embedder { reply, .. } = job.destination else { return };
        let committed = self.streams[&job.stream].visible();
        let chain = found.last().map(|last| last.chain);
        let _ = reply.send(Ok(ReadPart { records, next, committed, chain }));
    }

    fn hand_to_move(
        &mut self,
        mut job: Job,
        segment: u64,
        slot: SlotId,
        found: &[Found],
        next: Lsn,
    ) {
        let groups: Vec<(usize, RecordMeta)> = found.iter().map(|f| (f.at, f.meta)).collect();
        match self.move_groups(job.stream, segment, slot, &groups) {
            Err(bytes) => {
                job.room = bytes;
                return self.jobs.resume(job);
            }
            // They are not committed yet, or stand elsewhere by now.
            Ok(0) => return self.end_move(false),
            Ok(_) => {}
        }
        let log = self.streams[&job.stream].replica.log();
        let more = log.find(next).is_some_and(|run| run.place.segment == segment);
        if !more || next >= log.committed().lsn {
            return self.end_move(true);
        }
        job.go_on(next);
        self.jobs.resume(job);
    }

    fn hand_to_peer(
        &mut self,
        to: u32,
        ballot: Ballot,
        want: Want,
        slot: SlotId,
        found: &[Found],
    ) -> Handed {
        let Some((copy, body)) = self.copy_groups(slot, found, Purpose::Read) else {
            return Handed::Later;
        };
        let prefix = fetched_prefix(ballot, want);
        let head = FrameHead::encode_bulk(
            KIND_FETCHED,
            body.headers_crc.into(),
            0,
            &prefix,
            body.len as usize,
        );
        let run = Run { slot: copy, at: HEAD_BYTES as u32, len: body.len };
        let io = &mut self.io;
        let sent = self.net.send_bulk(&mut io.ring, &mut io.pool, to, head, run);
        self.io.pool.release(copy);
        if sent { Handed::Sent } else { Handed::Gone }
    }

    fn hand_to_forwarder(&mut self, job: Job, slot: SlotId, found: &[Found], next: Lsn) {
        let Destination::Forward { id, .. } = job.destination else { return };
        let start = found[0].meta.lsn;
        let copy = self.copy_groups(slot, found, Purpose::Tail);
        let located = match copy {
            None => Located::Busy,
            Some((copy, body)) => {
                let range = HEAD_BYTES as u32..HEAD_BYTES as u32 + body.len;
                let view = self.io.pool.view(copy, range);
                self.io.pool.release(copy);
                view.map_or(Located::Busy, |records| {
                    Located::Active(Recent { stream: job.stream, start, end: next, records })
                })
            }
        };
        self.reply_forward(id, job.stream, located);
    }

    /// Answers the forwarder.
    pub(crate) fn reply_forward(&mut self, id: u64, stream: u64, located: Located) {
        let state = self.streams.get(&stream);
        let committed = state.map_or(Lsn::ZERO, |state| state.gate.released());
        let shown = state.and_then(StreamState::limit);
        let base = self.floor_of(stream);
        if let Some(port) = &mut self.forward {
            port.reply(Reply { id, stream, committed, shown, base, located });
        }
    }

    pub(crate) fn copy_groups(
        &mut self,
        slot: SlotId,
        found: &[Found],
        purpose: Purpose,
    ) -> Option<(SlotId, Body)> {
        let record = |f: &Found| f.meta.len as usize + palisade_wal::RECORD_HEADER_BYTES;
        let bytes: usize = found.iter().map(record).sum();
        let copy = self.io.pool.take(purpose, HEAD_BYTES + bytes)?;
        let (from, to) = self.io.pool.pair(slot, copy);
        let mut builder = BodyBuilder::new(&mut to[HEAD_BYTES..]);
        for group in found {
            let bytes = &from[group.at..group.at + group.meta.len as usize];
            let pushed = builder.push_raw_group(bytes, group.meta.ballot, 0);
            assert!(pushed.is_ok(), "a checked group fits a slot of its size: {pushed:?}");
        }
        Some((copy, builder.finish()))
    }

    /// Ends a job that brings nothing.
    pub(crate) fn answer_job(&mut self, job: Job, result: Result<(), ErrorKind>) {
        let log = self.streams.get(&job.stream).map(|state| state.replica.log());
        let base = self.floor_of(job.stream);
        let committed = self.streams.get(&job.stream).map_or(Lsn::ZERO, StreamState::visible);
        match job.destination {
            // It asks again, or the next leader.
            Destination::Peer { .. } | Destination::Anchor { .. } => {}
            Destination::Standby { due } => {
                let recycled = result == Err(ErrorKind::Recycled);
                self.fail_standby(job.stream, due, recycled);
            }
            Destination::Move { .. } => self.end_move(false),
            Destination::Forward { id, .. } | Destination::Base { id, .. } => {
                let is_base = matches!(job.destination, Destination::Base { .. });
                let located = match result {
                    Ok(()) => Located::NotYet,
                    // What is read for a base is what is left: more was let go since.
                    Err(ErrorKind::Recycled) if is_base => Located::Busy,
                    Err(ErrorKind::Recycled) => Located::Recycled(None),
                    Err(ErrorKind::UnknownStream) => Located::Unknown,
                    Err(ErrorKind::Busy) => Located::Busy,
                    Err(_) => Located::Damaged,
                };
                self.reply_forward(id, job.stream, located);
            }
            Destination::Embedder { reply, after: chain, .. } => {
                let answer = result.map_err(|kind| match kind {
                    ErrorKind::Recycled => Error::new(
                        kind,
                        format!("LSN {} is recycled; base_lsn is {base}", job.from),
                    ),
                    ErrorKind::Busy => Error::new(kind, "too many reads wait; try again"),
                    ErrorKind::UnknownStream => {
                        Error::new(kind, format!("no stream {} here", job.stream))
                    }
                    ErrorKind::Corrupt => {
                        let (stream, at) = (job.stream, job.from);
                        let repaired = log.is_some_and(|log| log.hole_at(at).is_some());
                        let todo = match repaired {
                            true => "it is being repaired from peers: try again, or another node",
                            false => "read it from another one",
                        };
                        let text =
                            format!("stream {stream} is damaged at LSN {at} on this node; {todo}");
                        Error::new(kind, text)
                    }
                    kind => {
                        Error::new(kind, format!("LSN {} cannot be read on this node", job.from))
                    }
                });
                let part = ReadPart { records: Vec::new(), next: job.from, committed, chain };
                let _ = reply.send(answer.map(|()| part));
            }
        }
    }

    /// Whose block stands at an offset of a segment of this shard.
    pub(crate) fn expect_block(&self, segment_seq: u64, offset: u64) -> Expect {
        Expect {
            cluster: self.me.cluster,
            node: self.me.node,
            incarnation: self.me.incarnation,
            shard: self.me.shard.into(),
            segment_seq,
            offset,
        }
    }
}
