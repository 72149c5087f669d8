//! The gate of each stream: sync marks are written here, and acks and readers of a primary stop
//! where its SYNC standby has everything.
//!
//! Who decides on marks calls [`Shard::write_mark`] on the shard that leads the stream and looks at
//! [`Shard::sync_status`]. A stream gates from the group of its SYNC mark on, and stops when an
//! ASYNC mark is committed; see [`Marks`](crate::stream::mark::Marks).

use bytes::Bytes;
use palisade_netio::{Nanos, Ring};
use palisade_wal::{GroupKind, Lsn};

use crate::config::Role;
use crate::error::{Error, ErrorKind};
use crate::limits::SYNC_BACKLOG_BYTES;
use crate::seeded::is_seeded;
use crate::shard::Shard;
use crate::shard::stream::{Pending, Reply, StreamState, Waiting};
use crate::status::Protection;
use crate::stream::catalogue::{Change, SYSTEM_STREAM};
pub use crate::stream::mark::{Mark, Marked};

/// How a stream stands to its SYNC standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncStatus {
    /// The last mark of the log here, committed or not. Acks of what comes after it wait for the
    /// cluster that it names.
    pub mark: Option<Marked>,
    /// The last committed mark: what holds.
    pub standing: Option<Marked>,
    /// Committed here.
    pub committed: Lsn,
    /// Committed by the cluster whose word counts, as far as this node has heard.
    pub held: Lsn,
    /// Acked up to here, and shown to readers.
    pub released: Lsn,
    /// Since when something waits for that cluster and nothing came from it.
    pub waits: Option<Nanos>,
}

impl<R: Ring> Shard<R> {
    /// Writes a mark into a stream that this node leads, before everything that waits for a group.
    /// Whether it is in the log, and committed, [`sync_status`](Shard::sync_status) says. The same
    /// mark as the last one is not written again.
    ///
    /// # Errors
    /// This node does not lead the stream, or it is not a primary's, or stays home; or a mark of a
    /// later epoch is in the log.
    pub fn write_mark(&mut self, stream: u64, mark: Mark) -> Result<(), Error> {
        self.check_leads(stream)?;
        if stream == SYSTEM_STREAM {
            let text = "the system stream leaves no cluster and has no marks";
            return Err(Error::new(ErrorKind::Forbidden, text));
        }
        let state = self.streams.get_mut(&stream).expect("checked");
        let last = state.derived.marks.last().map(|last| last.mark);
        if last.is_some_and(|last| last.epoch() > mark.epoch()) {
            let text = format!("{mark:?} comes after {last:?}: a newer step was taken meanwhile");
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        let waits = state.pending.front().is_some_and(|first| first.kind == GroupKind::Mark);
        if last == Some(mark) && !waits {
            return Ok(());
        }
        let before = (state.pending.len(), state.pending_bytes);
        state.put_mark(mark);
        let blocked = std::mem::take(&mut state.blocked);
        if before.0 == 0 || blocked {
            self.dirty.push_back(stream);
        }
        self.pending_count += state.pending.len() - before.0;
        self.pending_bytes += state.pending_bytes - before.1;
        Ok(())
    }

    /// How a stream stands to its SYNC standby; none when it is not here.
    pub fn sync_status(&self, stream: u64) -> Option<SyncStatus> {
        let state = self.streams.get(&stream)?;
        let marks = &state.derived.marks;
        Some(SyncStatus {
            mark: marks.last(),
            standing: marks.standing(),
            committed: state.replica.log().committed().lsn,
            held: marks.named().map_or(Lsn::ZERO, |cluster| state.gate.held(cluster)),
            released: state.visible(),
            waits: state.gate.waits(),
        })
    }

    /// The marks of a stream that are in the log here and not committed, in its order.
    pub fn logged_marks(&self, stream: u64) -> impl Iterator<Item = Marked> {
        self.streams.get(&stream).into_iter().flat_map(|state| state.derived.marks.logged())
    }

    /// A mark is in the log, committed or not.
    pub(crate) fn on_mark_logged(&mut self, stream: u64) {
        self.levels.look();
        let state = self.state(stream);
        if state.role == Role::Primary {
            self.close_from_here(stream);
            self.ship_anew(stream);
            self.note_fence(stream);
        } else if state.leading && state.derived.marks.named() == Some(self.me.cluster) {
            self.want_join(stream);
        }
    }

    /// More of a stream is committed; before, acks waited for `named`.
    pub(crate) fn on_marks_committed(&mut self, stream: u64, named: Option<u32>) {
        if self.streams[&stream].derived.marks.named() != named {
            self.ship_anew(stream);
        }
    }

    /// What is committed, marked or held of a stream changed: who may be answered is, and readers
    /// go on.
    pub(crate) fn release(&mut self, stream: u64) {
        let (now, replayable) = (self.io.now, self.showing.scn);
        let state = self.state(stream);
        let released = state.release(now, replayable);
        let published = (state.open_upto(), state.limit());
        let moved = std::mem::replace(&mut state.published, published) != published;
        let settled = state.settle(released);
        let waits = state.gate.waits().is_some();
        self.note_waiting(stream, waits);
        let state = self.state(stream);
        let mut runs = Vec::new();
        while state.runs.front().is_some_and(|run| run.end <= released) {
            runs.extend(state.runs.pop_front());
        }
        for Waiting { mut appended, reply } in settled {
            appended.level = self.worth(stream, appended.lsn);
            self.settle(reply, Ok(appended));
        }
        if moved || !runs.is_empty() {
            self.publish_committed(stream, published.0, &runs);
            self.jobs.on_committed(stream);
        }
        self.release_runs(runs);
    }

    /// What an ack of a record at `lsn` is worth.
    pub(crate) fn worth(&self, stream: u64, lsn: Lsn) -> Protection {
        let mode = self.registry.mode();
        let marks = &self.streams[&stream].derived.marks;
        if let Some(lease) = self.levels.lease() {
            return lease.worth(marks.is_gated(lsn));
        }
        if marks.is_gated(lsn) {
            return match mode.mode {
                Protection::Protection => Protection::Protection,
                _ => Protection::Availability,
            };
        }
        match mode.level {
            Protection::Resync => Protection::Resync,
            _ => Protection::Performance,
        }
    }
}

impl StreamState {
    /// Readers of this node see what is below.
    pub(crate) fn visible(&self) -> Lsn {
        self.limit().unwrap_or(self.open_upto())
    }

    /// Readers and other clusters may have what is below: no more than is acked.
    fn open_upto(&self) -> Lsn {
        match is_seeded("shown_before_held") {
            true => self.replica.log().committed().lsn,
            false => self.gate.released(),
        }
    }

    /// What that is at a standby, which may be less than what others get who take the stream from
    /// here.
    pub(crate) fn limit(&self) -> Option<Lsn> {
        self.is_limited().then(|| self.shown.min(self.gate.released()))
    }

    /// Whether readers of this node stop at the replayable SCN: also where what is known of the
    /// role is older than the log, as after a start.
    pub(crate) fn is_limited(&self) -> bool {
        let last = self.derived.marks.standing().map_or(0, |standing| standing.mark.epoch());
        let primary = self.role == Role::Primary && self.told.is_some_and(|told| last <= told);
        !primary && self.replica.stream() != SYSTEM_STREAM
    }

    /// The last mark of the log as it will be when everything that waits is logged.
    pub(crate) fn mark_to_come(&self) -> Option<Mark> {
        let first = self.pending.front().filter(|first| first.kind == GroupKind::Mark);
        let waits = first.and_then(|first| Mark::decode(&first.payload));
        waits.or(self.derived.marks.last().map(|last| last.mark))
    }

    /// Puts a mark before everything that waits. One that waits already is in no log yet: this one
    /// takes its place.
    pub(crate) fn put_mark(&mut self, mark: Mark) {
        self.drop_mark();
        let (payload, kind) = (Bytes::copy_from_slice(&mark.encode()), GroupKind::Mark);
        let (producer, sequence, scn_floor, reply) = (0, 0, 0, Reply::Nobody);
        self.push_first(Pending { payload, producer, sequence, scn_floor, kind, reply });
        self.mark_creations(Some(mark));
    }

    /// The mark that is in no log yet.
    pub(crate) fn pop_mark(&mut self) -> Option<Pending> {
        let waits = self.pending.front().is_some_and(|first| first.kind == GroupKind::Mark);
        waits.then(|| self.pop()).flatten()
    }

    /// Takes back a mark that is in no log yet.
    pub(crate) fn drop_mark(&mut self) {
        if self.pop_mark().is_some() {
            self.mark_creations(self.derived.marks.last().map(|last| last.mark));
        }
    }

    /// Streams whose creation waits for a group are created after this mark.
    fn mark_creations(&mut self, mark: Option<Mark>) {
        for waits in self.pending.iter_mut().filter(|it| it.kind == GroupKind::Catalogue) {
            if let Some(Change::Create { stream, .. }) = Change::decode(&waits.payload) {
                let change = Change::Create { stream, mark };
                waits.payload = Bytes::copy_from_slice(&change.encode());
            }
        }
    }

    /// What SYNC standbys said before this start. A fact for good: readers go that far, though
    /// nobody is there to say it again.
    pub(crate) fn restore_held(&mut self, held: &[(u32, Lsn)]) {
        for (by, held) in held {
            self.gate.on_told(*by, *held, Nanos(0));
        }
        self.release(Nanos(0), 0);
    }

    /// Moves on what is released, and what is shown of it where that is up to an SCN.
    pub(crate) fn release(&mut self, now: Nanos, replayable: u64) -> Lsn {
        let released = self.move_gate(now);
        let log = self.replica.log();
        let upto = match self.is_limited() && log.last_scn() > replayable {
            true => self.derived.scns.upto(replayable, released),
            // All of it is below, or there is no limit.
            false => released,
        };
        let before = self.shown;
        self.shown = before.max(upto);
        self.derived.scns.on_shown(self.shown);
        assert!(self.shown >= before, "what somebody was shown stays shown");
        released
    }

    fn move_gate(&mut self, now: Nanos) -> Lsn {
        let committed = self.replica.log().committed().lsn;
        if self.is_passing() {
            // What is imported was released by the primary, or comes to its SYNC standby.
            return self.gate.pass(committed);
        }
        // A SYNC mark may stand in what is lost.
        let known = self.derived.known().min(committed);
        self.gate.release(&self.derived.marks, known, now)
    }

    /// How far the log may be let go. Whoever leads the stream ships from its log, and every node
    /// may be the next one: what the SYNC standby lacks stays on all of them. `bound`: there is one
    /// to wait for.
    pub(crate) fn free_below(&self, bound: bool) -> Lsn {
        let committed = self.replica.log().committed().lsn;
        let known = committed.min(self.derived.known());
        match self.is_passing() {
            true => committed,
            // Nobody leads the stream as long as it lacks that, and so nobody ships from it.
            false if self.has_lost(bound) => committed,
            false => self.gate.free_below(&self.derived.marks, known),
        }
    }

    /// Whether a range is lost that nobody has, and nothing depends on the marks in it: then the
    /// log may begin behind it.
    pub(crate) fn has_lost(&self, bound: bool) -> bool {
        let asked = self.replica.lost_range().is_some_and(|(.., vain)| vain);
        let alone = self.replica.config().members.len() == 1;
        !bound && !self.derived.is_whole() && (asked || alone)
    }

    /// Whether so much waits for the SYNC standby that its stream takes no more records.
    pub(crate) fn is_gate_full(&self) -> bool {
        let marks = &self.derived.marks;
        let gated = marks.last().is_some_and(|last| last.mark.cluster().is_some());
        let open = self.replica.log().end().lsn.0.saturating_sub(self.gate.released().0);
        gated && open > SYNC_BACKLOG_BYTES
    }
}
