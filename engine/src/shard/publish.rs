//! What the forwarding shard learns from a log shard, and where it finds bytes.

use std::sync::Arc;

use palisade_netio::Ring;
use palisade_wal::{Ballot, Boundary, Extent, Kind, Lsn};

use crate::error::{Error, ErrorKind};
use crate::forward::{
    Depth, EXTENTS_MAX, ForwardEvent, Lease, LocateRequest, Located, Recent, SealedExtent,
};
use crate::shard::Shard;
use crate::shard::jobs::{Destination, Job};
use crate::shard::ledger::OwnRecord;
use crate::shard::stream::TailRun;
use crate::stream::catalogue::FIRST_STREAM;

impl<R: Ring> Shard<R> {
    /// What is released of a stream moved; `runs` are its bytes that are still in memory.
    pub(crate) fn publish_committed(&mut self, stream: u64, upto: Lsn, runs: &[TailRun]) {
        let base = self.floor_of(stream);
        let shown = self.streams[&stream].limit();
        let Some(port) = self.forward.as_mut().filter(|port| port.wants(stream)) else { return };
        for run in runs {
            let range = run.at..run.at + run.len.next_multiple_of(8);
            // Too many views are out: the forwarder finds these bytes on disk.
            let Some(records) = self.io.pool.view(run.slot, range) else { break };
            let recent = Recent { stream, start: run.start, end: run.end, records };
            let _ = port.publish(ForwardEvent::Tail(recent));
        }
        let _ = port.publish(ForwardEvent::Committed { stream, upto, shown, base });
    }

    /// First position that readers of this node are served.
    pub fn floor_of(&self, stream: u64) -> Lsn {
        let state = self.streams.get(&stream);
        state.map_or(Lsn::ZERO, |state| state.floor.max(state.replica.log().base().lsn))
    }

    /// Readers need nothing below `to` any more.
    pub(crate) fn truncate(&mut self, stream: u64, to: Lsn) -> Result<(), Error> {
        let bound = self.may_wait();
        // What this cluster has alone is kept whole.
        self.check_fence(stream)?;
        let Some(state) = self.streams.get_mut(&stream) else {
            let text = format!("no stream {stream} here");
            return Err(Error::new(ErrorKind::UnknownStream, text));
        };
        if stream < FIRST_STREAM {
            let text = format!("stream {stream} is the cluster's own and is kept whole");
            return Err(Error::new(ErrorKind::Config, text));
        }
        // What nobody was shown is not let go; but what nobody has can only be let go.
        let lost = if state.has_lost(bound) { state.derived.lost_below() } else { Lsn::ZERO };
        let shown = state.visible().max(state.floor).max(lost);
        if to > shown || !to.0.is_multiple_of(Lsn::ALIGN) {
            let lost = match state.derived.is_whole() {
                true => "",
                false => "; a range of it is lost: see range-lost in OPERATIONS.md",
            };
            let lost = match state.limit() == Some(shown) && shown < state.gate.released() {
                true => "; at a standby they stop at its replayable SCN",
                false => lost,
            };
            let text = format!(
                "stream {stream} cannot be truncated to {to}: readers are shown what is below \
                 {shown} here, and records start at multiples of {}{lost}",
                Lsn::ALIGN
            );
            return Err(Error::new(ErrorKind::Config, text));
        }
        self.raise_floor(stream, to);
        Ok(())
    }

    /// Readers are served from `to` on, and the log may begin there.
    pub(crate) fn raise_floor(&mut self, stream: u64, to: Lsn) {
        let state = self.state(stream);
        if to <= state.floor {
            return;
        }
        state.floor = to;
        self.checkpoints.retention.note(stream, to, self.io.now);
        self.ledger.push(OwnRecord {
            stream,
            kind: Kind::Base,
            lsn: to,
            ballot: Ballot::NONE,
            body: Vec::new(),
            id: None,
        });
    }

    /// Answers what the forwarding shard asks.
    pub(crate) fn serve_forwarder(&mut self) {
        while let Some(request) = self.forward.as_mut().and_then(|port| port.poll_request()) {
            self.locate(request);
        }
        while let Some((reader, question)) =
            self.forward.as_mut().and_then(|port| port.poll_question())
        {
            let facts = self.facts_for(&question);
            self.forward.iter_mut().for_each(|port| port.answer(reader, facts.clone()));
        }
        if let Some(port) = &mut self.forward {
            port.flush();
        }
    }

    fn locate(&mut self, request: LocateRequest) {
        let LocateRequest { id, stream, from, max_bytes, missed, depth, chain } = request;
        let Some(state) = self.streams.get(&stream) else {
            return self.reply_forward(id, stream, Located::Unknown);
        };
        let committed = state.gate.released();
        let floor = if depth == Depth::Shown { state.floor } else { Lsn::ZERO };
        if from < floor.max(self.kept_from(stream)) {
            return match depth {
                Depth::Based => self.offer_base(id, stream, Boundary { lsn: from, chain }),
                _ => self.reply_forward(id, stream, Located::Recycled(None)),
            };
        }
        if from >= committed {
            return self.reply_forward(id, stream, Located::NotYet);
        }
        let sealed = match missed {
            true => Vec::new(),
            false => self.sealed_extents(stream, from, committed, max_bytes),
        };
        if !sealed.is_empty() {
            return self.reply_forward(id, stream, Located::Sealed(sealed));
        }
        let destination = Destination::Forward { id, max_bytes, depth };
        self.push_job(Job::new(stream, from, committed, destination));
    }

    /// The committed runs from `from` on that stand in sealed segments.
    fn sealed_extents(
        &mut self,
        stream: u64,
        from: Lsn,
        committed: Lsn,
        max_bytes: u32,
    ) -> Vec<SealedExtent> {
        let log = self.streams[&stream].replica.log();
        let mut extents: Vec<Extent> = Vec::new();
        let mut next = from;
        while let Some(extent) = log.find(next).filter(|_| next < committed) {
            let enough = next.0 - from.0 >= u64::from(max_bytes) || extents.len() == EXTENTS_MAX;
            let sealed = self.ledger.wal.is_sealed(extent.place.segment);
            // The forwarder knows groups in their first place only.
            if !sealed || enough || extent.moved {
                break;
            }
            next = extent.end;
            extents.push(*extent);
        }
        extents.into_iter().map(|extent| self.sealed_extent(extent, committed)).collect()
    }

    fn sealed_extent(&mut self, extent: Extent, committed: Lsn) -> SealedExtent {
        let segment = extent.place.segment;
        let path = self.segment_path(segment);
        let (path, lease) =
            self.leases.entry(segment).or_insert_with(|| (Arc::from(path), Lease::new())).clone();
        SealedExtent {
            path,
            lease,
            expect: self.expect_block(segment, extent.place.offset),
            start: extent.start,
            end: extent.end.min(committed),
            ballot: extent.ballot,
        }
    }
}
