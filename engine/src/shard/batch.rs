//! Batches: records of this turn, all streams, become groups in one slot: copied once, checksummed
//! once, written and sent from there. A batch closes when the write before it completes, or when
//! it is full; never by a timer.

use palisade_netio::{FrameHead, HEAD_BYTES, Pool, Purpose, Ring, Run, SlotId};
use palisade_wal::limits::SPACE_THROTTLE_PERCENT;
use palisade_wal::{
    Body, BodyBuilder, Boundary, GroupKind, Kind, Origin, RECORD_HEADER_BYTES, entry_bytes,
};

use crate::append::{Appended, Outcome};
use crate::config::Role;
use crate::control::SEIZED_EPOCHS;
use crate::error::{Error, ErrorKind};
use crate::handle::NewRecord;
use crate::kinds::KIND_GROUPS;
use crate::limits::{
    BATCH_BYTES, HARD_STATE_SLOTS_BYTES, PENDING_BYTES_MAX, PENDING_MAX, SCN_AHEAD_MAX_NS,
    SYNC_RUNS_BYTES_MAX, TAIL_RUNS_BYTES_MAX,
};
use crate::paxos::{GroupMark, ProposePosition};
use crate::shard::Shard;
use crate::shard::ledger::{Claim, group_items};
use crate::shard::mesh::CatalogueLeader;
use crate::shard::stream::{Pending, Reply, StreamState, TailRun, Waiting};
use crate::status::Protection;
use crate::stream::catalogue::{Change, FIRST_STREAM, SYSTEM_STREAM};
use crate::stream::producers::Verdict;

/// What an operator of a full node is told.
const LOG_FULL: &str =
    "the log disk is full or at its limit (log_bytes_max); raise it or free space";
/// Committed bytes after which a group carries the commit cursor as a record.
const HINT_BYTES: u64 = 1 << 20;

/// One group of a batch, with those who wait for its records.
struct Sealed {
    stream: u64,
    waiting: Vec<Waiting>,
}

impl<R: Ring> Shard<R> {
    /// Takes a record for a stream, or answers why not.
    pub(crate) fn take_append(
        &mut self,
        stream: u64,
        record: NewRecord,
        kind: GroupKind,
        reply: Reply,
    ) {
        let is_client = matches!(reply, Reply::Session { .. });
        if is_client && self.port.is_refusing() {
            let text = "the node is stopping; append at another one";
            return self.settle(reply, Err(Error::new(ErrorKind::Shutdown, text)));
        }
        let is_step = matches!(reply, Reply::Level);
        match self.admit(stream, kind, is_step, &record) {
            Err(error) => self.settle(reply, Err(error)),
            Ok(Some(original)) => self.await_original(stream, original, reply),
            Ok(None) => {
                self.pending_bytes += record.payload.len();
                self.pending_count += 1;
                let NewRecord { payload, producer, sequence, scn_floor } = record;
                let pending = Pending { payload, producer, sequence, scn_floor, kind, reply };
                let state = self.streams.get_mut(&stream).expect("admitted");
                state.push(pending);
                // What is said of mode and level does not wait for what they hold back.
                let goes_on = kind == GroupKind::Registry && std::mem::take(&mut state.blocked);
                if state.pending.len() == 1 || goes_on {
                    self.dirty.push_back(stream);
                }
            }
        }
    }

    /// Whether a record may be appended; a place if its original is in the log already. A step of
    /// mode, level or role is one at a time, and what waits may wait for it.
    fn admit(
        &mut self,
        stream: u64,
        kind: GroupKind,
        is_step: bool,
        record: &NewRecord,
    ) -> Result<Option<Appended>, Error> {
        self.check_leads(stream)?;
        self.check_handed_over(stream)?;
        if kind == GroupKind::Data && stream < FIRST_STREAM {
            let text = format!(
                "reserved-stream: stream {stream} is palisade's own; append to one that \
                 `palisade stream create` made"
            );
            return Err(Error::new(ErrorKind::Forbidden, text));
        }
        let state = self.streams.get_mut(&stream).expect("checked");
        let judged = judge(state, record);
        if matches!(&judged, Err(error) if error.kind() == ErrorKind::SequenceGap) {
            self.check_lacks(stream)?;
        }
        if let Some(original) = judged? {
            return Ok(Some(original));
        }
        if self.ledger.wal.space().refuse_appends && !is_step {
            return Err(Error::new(ErrorKind::NoSpace, LOG_FULL));
        }
        if !is_step {
            self.check_members(stream)?;
        }
        if kind != GroupKind::Registry {
            self.check_gate(stream)?;
        }
        let is_full = self.pending_count >= PENDING_MAX || self.pending_bytes >= PENDING_BYTES_MAX;
        if is_full && !is_step {
            return Err(Error::new(ErrorKind::Busy, "too many appends wait; try again"));
        }
        if !is_step {
            self.check_floor(record.scn_floor)?;
        }
        Ok(None)
    }

    /// Whether a majority has space. What no majority can take would wait for ever, with a place
    /// in the log: it is refused before it gets one.
    fn check_members(&self, stream: u64) -> Result<(), Error> {
        let peers = &self.net.peers;
        if self.net.short_peers == 0 {
            return Ok(());
        }
        let config = self.streams[&stream].replica.config();
        let roomy = |node: u32| peers.get(&node).is_none_or(|peer| !peer.short);
        if config.members.iter().filter(|member| roomy(member.node)).count() >= config.majority() {
            return Ok(());
        }
        let text = "the logs of too many members are nearly full; raise log_bytes_max there";
        Err(Error::new(ErrorKind::NoSpace, text))
    }

    /// Whether the SYNC standby follows. What waits for it in one stream takes no room from others.
    fn check_gate(&self, stream: u64) -> Result<(), Error> {
        if self.streams[&stream].is_gate_full() {
            let text = "too much waits for the SYNC standby, which does not follow; try again";
            return Err(Error::new(ErrorKind::Busy, text));
        }
        Ok(())
    }

    /// Whether a record may be asked to come after `floor`. Most name none, and cost no look at
    /// the clock.
    fn check_floor(&self, floor: u64) -> Result<(), Error> {
        if floor == 0 {
            return Ok(());
        }
        let ahead = floor.saturating_sub(self.io.ring.wall_ns());
        if ahead <= SCN_AHEAD_MAX_NS {
            return Ok(());
        }
        let text = format!(
            "SCN {floor} is {} s ahead of this node's clock; an hour is the most",
            ahead / 1_000_000_000
        );
        Err(Error::new(ErrorKind::ScnTooFarAhead, text))
    }

    /// Whether this node takes appends for a stream.
    pub(crate) fn check_leads(&self, stream: u64) -> Result<(), Error> {
        let state = self.check_stream(stream)?;
        if state.role == Role::Standby {
            let text = match self.other_primary() {
                Some(primary) => format!(
                    "this cluster is a standby; append at its primary, cluster {}, at {}",
                    primary.id,
                    primary.endpoints.join(",")
                ),
                None => "this cluster is a standby; append at its primary".to_owned(),
            };
            return Err(Error::new(ErrorKind::Standby, text).with_leader(self.any_primary()));
        }
        self.check_fence(stream)?;
        self.check_leader(stream, state)
    }

    /// A node of the primary, another one each time: one of them may be down.
    pub(super) fn any_primary(&self) -> Option<String> {
        let primary = self.other_primary()?;
        let at = self.io.now.0 as usize % primary.endpoints.len().max(1);
        primary.endpoints.get(at).cloned()
    }

    pub(crate) fn check_stream(&self, stream: u64) -> Result<&StreamState, Error> {
        self.streams.get(&stream).ok_or_else(|| self.unknown_stream(stream))
    }

    /// Why this node does not serve a stream that it does not know. Only who leads the catalogue
    /// can say that there is none: another node may be about to hear of it.
    fn unknown_stream(&self, stream: u64) -> Error {
        let (text, hint) = match self.catalogue_leader() {
            CatalogueLeader::Here => {
                let text = format!("no stream {stream} here; see `palisade stream list`");
                return Error::new(ErrorKind::UnknownStream, text);
            }
            CatalogueLeader::At { node, addr } => {
                let text = format!(
                    "stream {stream} is not known here yet; node {node} at {addr}, which leads \
                     the catalogue, knows whether it exists"
                );
                (text, Some(addr))
            }
            CatalogueLeader::Unknown => {
                let text = format!(
                    "stream {stream} is not known here, and the catalogue has no leader now; \
                     try again"
                );
                (text, None)
            }
        };
        Error::new(ErrorKind::NotLeader, text).with_leader(hint)
    }

    /// Whether this node leads a stream, in whichever role the cluster is.
    pub(crate) fn check_leader(&self, stream: u64, state: &StreamState) -> Result<(), Error> {
        if state.leading {
            return Ok(());
        }
        let leader = state.replica.leader();
        let config = state.replica.config();
        let hint = config.member(leader.node).filter(|_| leader.is_some()).map(|m| m.addr.clone());
        let text = match &hint {
            Some(addr) => format!("stream {stream} is led by node {} at {addr}", leader.node),
            None => format!("stream {stream} has no leader now; try again"),
        };
        Err(Error::new(ErrorKind::NotLeader, text).with_leader(hint))
    }

    fn await_original(&mut self, stream: u64, original: Appended, reply: Reply) {
        let state = self.streams.get_mut(&stream).expect("admitted");
        if original.end_lsn <= state.gate.released() {
            let level = self.worth(stream, original.lsn);
            return self.settle(reply, Ok(Appended { level, ..original }));
        }
        state.wait_for(Waiting { appended: original, reply });
    }

    /// Closes batches as long as the device takes them.
    pub(crate) fn seal(&mut self) {
        self.seal_stuck = false;
        self.warn_of_space();
        while !self.dirty.is_empty() && self.ledger.wal.wants_block(self.pending_bytes) {
            if !self.flush_own() || !self.seal_batch() {
                // Memory, space or a ceiling comes with a completion, and that with a turn.
                self.seal_stuck = true;
                return;
            }
        }
    }

    /// An operator hears of a log that fills up while there is time.
    fn warn_of_space(&mut self) {
        let space = self.ledger.wal.space();
        // A full file system has its own alarm.
        if space.used * 100 < space.limit * SPACE_THROTTLE_PERCENT {
            self.alarms.remove("log-nearly-full");
            return;
        }
        let text = format!(
            "{} of {} bytes of the log are used: appends go one write at a time, and end at 95 %; \
             raise log_bytes_max or truncate streams",
            space.used, space.limit
        );
        self.alarm("log-nearly-full", text);
    }

    /// Makes one batch of what waits. False when nothing could be made.
    fn seal_batch(&mut self) -> bool {
        let want = (self.pending_bytes + self.pending_count * 64 + self.dirty.len() * 256)
            .clamp(4096 - HEAD_BYTES, BATCH_BYTES - HEAD_BYTES)
            .max(self.largest_first());
        let Some(want) = self.room_for(want) else { return false };
        let bytes = want + HEAD_BYTES;
        let Some(slot) = take_for_groups(&mut self.io.pool, bytes) else { return false };
        let Some((body, sealed)) = self.fill(slot, want) else {
            self.io.pool.release(slot);
            return false;
        };
        self.log_batch(slot, body, sealed);
        true
    }

    /// How long the next body may be: what is wanted, or what the last of the space still takes.
    fn room_for(&mut self, want: usize) -> Option<usize> {
        let least = self.largest_first().max(4096 - HEAD_BYTES);
        for bytes in [want, least] {
            if self.ledger.has_room(bytes, Claim::Groups) {
                return Some(bytes);
            }
            if !self.ledger.is_full(bytes) {
                // There will be room when something has completed.
                return None;
            }
        }
        self.refuse_when_full(least);
        None
    }

    /// On a full log nothing that waits will find room: it has no LSN, and is refused. A mark
    /// nobody would ask for again: it waits.
    pub(super) fn refuse_when_full(&mut self, least: usize) {
        if !self.note_full(least) {
            return;
        }
        for stream in std::mem::take(&mut self.dirty) {
            let mark = self.state(stream).pop_mark();
            while let Some(record) = self.state(stream).pop() {
                self.pending_count -= 1;
                self.pending_bytes -= record.payload.len();
                self.settle(record.reply, Err(Error::new(ErrorKind::NoSpace, LOG_FULL)));
            }
            if let Some(mark) = mark {
                self.state(stream).push_first(mark);
                self.dirty.push_back(stream);
            }
        }
    }

    /// Whether the log has no space for groups of so many bytes; an operator is told.
    pub(crate) fn note_full(&mut self, body_bytes: usize) -> bool {
        let full = self.ledger.is_full(body_bytes);
        if full {
            self.note_no_room();
            self.alarm("log-full", LOG_FULL.to_string());
        }
        full
    }

    /// Room that the first record in line needs.
    fn largest_first(&self) -> usize {
        let first = self.dirty.front().and_then(|id| self.streams[id].pending.front());
        first.map_or(0, |p| entry_bytes(p.payload.len()) + 2 * RECORD_HEADER_BYTES + 128)
    }

    /// Moves records into groups. None when every stream with records is blocked.
    fn fill(&mut self, slot: SlotId, want: usize) -> Option<(Body, Vec<Sealed>)> {
        let wall = self.io.ring.wall_ns();
        // The turn may have begun long ago: what was taken since may be the effect of what was
        // acked after the lease.
        let leased = self.levels.is_leased();
        let now = if leased { self.io.ring.now() } else { self.io.now };
        // What the level says goes with the role that it was said under.
        let (cluster, office) = (self.me.cluster, self.levels.lease_mode().office);
        let (role_epoch, role_scn) = (office.role_epoch, office.scn);
        let is_fenced = self.fenced().is_some();
        let bytes = &mut self.io.pool.bytes_mut(slot)[HEAD_BYTES..];
        let room = bytes.len().min(want);
        let mut builder = BodyBuilder::new(&mut bytes[..room]);
        let mut sealed = Vec::new();
        for _ in 0..self.dirty.len() {
            let id = self.dirty.pop_front().expect("counted");
            let state = self.streams.get_mut(&id).expect("dirty streams exist");
            state.replica.set_floor(self.floors.bound().max(role_scn));
            // Its records wait until it may go on, or are answered when it steps down.
            let Ok(position) = state.replica.leader_slot() else {
                state.blocked = true;
                continue;
            };

            // A standby appends nothing but what begins its own role epoch.
            let takes = state.role == Role::Standby && !state.pending.is_empty();
            let role_epoch = role_epoch + u64::from(takes) * SEIZED_EPOCHS;
            let origin = Origin { role_epoch, cluster, ballot: position.ballot };
            let before = (state.pending.len(), state.pending_bytes);
            let is_open = !is_fenced || id == SYSTEM_STREAM;
            let may = is_open && self.levels.lets(id, state, now);
            if !may {
                // The lease may have ended since marks were looked at, and the next one come
                // before they are again.
                self.levels.look();
            }
            if !may || state.pending.is_empty() {
                self.pending_count -= before.0 - state.pending.len();
                self.pending_bytes -= before.1 - state.pending_bytes;
                state.blocked = !state.pending.is_empty();
                continue;
            }
            let group = fill_group(&mut builder, id, state, &position, origin, wall);
            let after = (state.pending.len(), state.pending_bytes);
            // A mark may have come first.
            self.pending_count = self.pending_count + after.0 - before.0;
            self.pending_bytes = self.pending_bytes + after.1 - before.1;
            let full = group.is_none();
            sealed.extend(group.map(|waiting| Sealed { stream: id, waiting }));
            if !state.pending.is_empty() {
                self.dirty.push_back(id);
            }
            if full {
                break;
            }
        }
        (!builder.state().is_empty()).then(|| (builder.finish(), sealed))
    }

    /// Logs a batch and sends it to every peer.
    fn log_batch(&mut self, slot: SlotId, body: Body, sealed: Vec<Sealed>) {
        let run = Run { slot, at: HEAD_BYTES as u32, len: body.len };
        let headers_crc = body.headers_crc;
        let metas = body.metas.clone();
        self.io.pool.retain(slot);
        let items = group_items(&metas);
        let place = self.ledger.append(&mut self.io.pool, slot, body, items, Claim::Groups);
        let mut waiting = sealed.into_iter();
        for meta in metas.iter().filter(|meta| meta.kind == Kind::Group) {
            let group = waiting.next().expect("one waiting list per group");
            assert!(group.stream == meta.stream);
            self.note_logged(slot, meta);
            if meta.stream != SYSTEM_STREAM {
                self.floors.on_scn(meta.scn);
            }
            let state = self.streams.get_mut(&meta.stream).expect("sealed from it");
            let end = Boundary { lsn: meta.end, chain: meta.chain };
            let mark = GroupMark { start: meta.lsn, end, scn: meta.scn, place, base: false };
            state.replica.on_proposed(mark, self.io.now);
            state.waiting.extend(group.waiting);
            self.touch(meta.stream);
        }
        self.send_batch(run, headers_crc, &metas);
        self.io.pool.release(slot);
    }

    /// Sends a body that was just logged to every peer, with the commit cursors of its streams.
    pub(crate) fn send_batch(
        &mut self,
        run: Run,
        headers_crc: u32,
        metas: &[palisade_wal::RecordMeta],
    ) {
        let peers: Vec<u32> = self.net.peers.keys().copied().collect();
        for to in peers {
            // What nobody hears would only hold its slot; it is fetched later.
            if self.liveness.as_ref().is_some_and(|liveness| !liveness.is_up(to)) {
                continue;
            }
            let head =
                FrameHead::encode_bulk(KIND_GROUPS, headers_crc.into(), 0, &[], run.len as usize);
            let io = &mut self.io;
            if !self.net.send_bulk(&mut io.ring, &mut io.pool, to, head, run) {
                continue;
            }
            for meta in metas.iter().filter(|meta| meta.kind == Kind::CommitHint) {
                if let Some(state) = self.streams.get_mut(&meta.stream) {
                    state.replica.on_commit_carried(to);
                }
            }
        }
    }

    /// A group of `meta` in `slot` is part of the log now: derived state, and its bytes for
    /// readers while it is not committed.
    pub(crate) fn note_logged(&mut self, slot: SlotId, meta: &palisade_wal::RecordMeta) {
        let at = HEAD_BYTES + meta.range().start;
        let state = self.streams.get_mut(&meta.stream).expect("logged to it");
        let bytes = &self.io.pool.bytes(slot)[at..at + meta.len as usize];
        let kind = group_kind(bytes);
        state.derived.on_logged(bytes, kind, meta.lsn, meta.end, meta.scn);
        let seen = state.derived.take_seen();
        let forwarded = self.forward.as_ref().is_some_and(|port| port.wants(meta.stream));
        if kind == GroupKind::Mark {
            self.on_mark_logged(meta.stream);
        }
        if forwarded || self.is_shipped(meta.stream) {
            self.keep_run(slot, meta);
        }
        let state = &self.streams[&meta.stream];
        let last = state.derived.marks.last().map(|last| last.mark);
        let own = state.leading && state.role == Role::Primary;
        for change in seen {
            let Change::Create { mark, .. } = change;
            assert!(!own || mark == last, "created with the last mark before it");
            self.catalogue.on_logged(change);
        }
    }

    /// Keeps a group in memory for readers until it is committed, if there is room: others find
    /// it on disk. A small group in a large slot is copied, or it would pin the whole slot.
    fn keep_run(&mut self, slot: SlotId, meta: &palisade_wal::RecordMeta) {
        let len = RECORD_HEADER_BYTES + meta.len as usize;
        let record = HEAD_BYTES + meta.at as usize;
        let pool = &mut self.io.pool;
        if self.tail_bytes + meta.len as usize > TAIL_RUNS_BYTES_MAX {
            return;
        }
        // What waits for a SYNC standby may wait for long.
        let state = &self.streams[&meta.stream];
        let waits = meta.lsn.0.saturating_sub(state.gate.released().0) > SYNC_RUNS_BYTES_MAX;
        if waits && state.gate.waits().is_some() {
            return;
        }
        let (slot, at) = if pool.capacity(slot) <= 2 * len {
            pool.retain(slot);
            (slot, record)
        } else {
            // Half of the quota stays for reads of the active segment.
            let used = pool.used(Purpose::Tail) + Pool::slot_bytes(HEAD_BYTES + len);
            if used > pool.quota(Purpose::Tail) / 2 {
                return;
            }
            let Some(copy) = pool.take(Purpose::Tail, HEAD_BYTES + len) else { return };
            let (from, to) = pool.pair(slot, copy);
            to[HEAD_BYTES..HEAD_BYTES + len].copy_from_slice(&from[record..record + len]);
            (copy, HEAD_BYTES)
        };
        self.tail_bytes += meta.len as usize;
        let (start, end, at, len) = (meta.lsn, meta.end, at as u32, len as u32);
        self.state(meta.stream).runs.push_back(TailRun { start, end, slot, at, len });
    }

    /// Gives an outcome to who waits for it.
    pub(crate) fn settle(&mut self, reply: Reply, outcome: Outcome) {
        self.answered = true;
        match reply {
            Reply::Promise(promise) => promise.settle(outcome),
            Reply::Session { conn, request, index } => {
                self.settle_session(conn, request, index, outcome);
            }
            Reply::Create(ticket) => self.settle_create(ticket, outcome),
            Reply::Control(ticket) => self.settle_control(ticket, outcome),
            Reply::Level => self.settle_level(outcome.is_err()),
            Reply::Nobody => {}
        }
    }
}

/// The kind in a group's header; data when the code is none that this version knows.
pub(crate) fn group_kind(bytes: &[u8]) -> GroupKind {
    let code = bytes[std::mem::offset_of!(palisade_wal::GroupHeader, kind)];
    GroupKind::from_code(code).unwrap_or(GroupKind::Data)
}

fn judge(state: &StreamState, record: &NewRecord) -> Result<Option<Appended>, Error> {
    let NewRecord { producer, sequence, .. } = *record;
    if producer != 0 && sequence == 0 {
        let text = format!("producer {producer} sent sequence 0; the first is 1");
        return Err(Error::new(ErrorKind::SequenceGap, text).with_expected(1));
    }
    match state.judge(producer, sequence) {
        None => {
            // Neither "failed" nor "nothing was done": it may well be committed.
            let text = "the original of this record is on its way; ask again for its place";
            Err(Error::new(ErrorKind::Unknown, text))
        }
        Some(Verdict::Fresh) => Ok(None),
        Some(Verdict::Duplicate(mark)) => Ok(Some(Appended {
            lsn: mark.lsn,
            end_lsn: mark.end_lsn,
            scn: mark.scn,
            level: Protection::Performance,
        })),
        Some(Verdict::Forgotten) => {
            let text = format!(
                "sequence {sequence} of producer {producer} is in the log, its place is forgotten"
            );
            Err(Error::new(ErrorKind::Unknown, text))
        }
        Some(Verdict::Gap { expected }) => {
            let text =
                format!("producer {producer} sent sequence {sequence}, the next one is {expected}");
            Err(Error::new(ErrorKind::SequenceGap, text).with_expected(expected))
        }
    }
}

/// Moves records of one kind from a stream's queue into a group. None when there is no room.
fn fill_group(
    builder: &mut BodyBuilder<'_>,
    id: u64,
    state: &mut StreamState,
    position: &ProposePosition,
    origin: Origin,
    wall: u64,
) -> Option<Vec<Waiting>> {
    let first = state.pending.front()?;
    let (kind, len) = (first.kind, first.payload.len());
    let need = entry_bytes(len) + 2 * RECORD_HEADER_BYTES + palisade_wal::GROUP_HEADER_BYTES;
    if builder.room() < need {
        return None;
    }
    let committed = state.replica.log().committed().lsn;
    let news = committed.0 - state.hinted.0;
    if news >= HINT_BYTES || (news > 0 && builder.state().is_empty()) {
        state.hinted = committed;
        builder.push_record(Kind::CommitHint, id, committed, position.ballot, &[]).ok()?;
    }
    builder.begin_group(id, position.lsn, position.ballot, kind, origin, 0).ok()?;
    let mut waiting = Vec::new();
    let mut scn = wall.max(position.scn_floor + 1);
    while let Some(record) = state.pending.front() {
        let Pending { payload, producer, sequence, scn_floor, .. } = record;
        let fits = record.kind == kind && builder.fits_entry(payload.len());
        let pushed = fits.then(|| builder.push_entry(payload, *producer, *sequence).ok());
        let Some(lsn) = pushed.flatten() else { break };
        let end_lsn = lsn.advance(entry_bytes(payload.len()) as u64);
        scn = scn.max(*scn_floor);
        let record = state.pop().expect("it is the front");
        let appended = Appended { lsn, end_lsn, scn: 0, level: Protection::Performance };
        waiting.push(Waiting { appended, reply: record.reply });
    }
    assert!(!waiting.is_empty(), "room for the first record was checked");
    builder.end_group(scn, position.chain_before);
    waiting.iter_mut().for_each(|waiting| waiting.appended.scn = scn);
    Some(waiting)
}

/// Takes a slot for groups. Some of the quota stays for hard state, which must always find room.
pub(crate) fn take_for_groups(pool: &mut Pool, len: usize) -> Option<SlotId> {
    let room = has_room_for_groups(pool, Pool::slot_bytes(len));
    room.then(|| pool.take(Purpose::Write, len)).flatten()
}

/// Whether so many bytes of slots are left for groups.
pub(crate) fn has_room_for_groups(pool: &Pool, bytes: usize) -> bool {
    let left = pool.quota(Purpose::Write).saturating_sub(pool.used(Purpose::Write));
    left >= bytes + HARD_STATE_SLOTS_BYTES
}
