//! All readers and their cursors: who gets which bytes next. No I/O, no clock, no thread.
//!
//! Inputs are `on_*`; [`Readers::poll`] appends what is to be done. A driver does it and reports
//! back; it decides nothing. Readers take [turns](super::turns), one chunk each; a reader that does
//! not take its bytes keeps its turn to itself.

mod compression;
mod pressure;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use palisade_netio::limits::FRAME_BULK_HEAD_BYTES;
use palisade_netio::{FrameHead, Nanos};
use palisade_wal::Lsn;

use super::compress::Compressor;
pub use super::cursor::Source;
use super::cursor::{Cursor, Phase, Step, Targets};
use super::cut::{Cut, NoCut};
pub use super::effect::{CloseReason, Effect};
use super::limits::{
    BEAT_NS, BEHIND_TURNS_MAX, COMPRESS_GRID_BYTES, CREDIT_BYTES_MAX, CURSOR_BYTES, HOLD_NS_MAX,
    LEASE_NS_MAX, LOCATE_BYTES, LOCATES_MAX, Limits, MEMORY_CHUNK_BYTES, OUTPUT_FRAMES_MAX,
    PRESSURE_TICK_NS, READERS_ROOM, RETRY_NS, STALL_NS, TAIL_NEAR_BYTES,
};
use super::memory::{Cost, ExtentCount, Output, Shared, admits, peers_bytes, trim};
use super::queue::{Depth, ForwardRequest, LocateRequest, Located, Recent, Reply};
use super::tail::Tail;
use super::turns::Turns;
use super::watchers::Watchers;
use super::wire::{Beat, ChunkHead, End, EndReason, Fetch, FromForwarder, Status};
use crate::kinds::KIND_CLOSED;
use crate::paxos::ClosedNews;
use crate::stream::catalogue::CATALOGUE_STREAM;
use crate::transfer::facts::{Facts, Question, Wanted};

/// Names one connection of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub u64);

/// Counters since the start, except the first two and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections now.
    pub readers: u64,
    /// Cursors now.
    pub cursors: u64,
    /// Chunks sent.
    pub chunks: u64,
    /// Chunks that came from recent records.
    pub chunks_recent: u64,
    /// Bytes of records sent.
    pub bytes: u64,
    /// Chunks compressed: each once, however many readers got it.
    pub compressions: u64,
    /// Bytes of records that were sent compressed, and what was sent of them.
    pub bytes_plain: u64,
    /// See `bytes_plain`.
    pub bytes_compressed: u64,
    /// Questions asked.
    pub locates: u64,
    /// Sources that did not hold what they should.
    pub misses: u64,
    /// Turns that a cap put off.
    pub held: u64,
    /// Connections that were ended because others needed the memory that they held.
    pub pressed: u64,
    /// Bytes held for readers now: at most [`FORWARD_BYTES_MAX`](super::limits::FORWARD_BYTES_MAX).
    pub memory: u64,
}

/// Which shard owns a stream: of its id and the number of shards.
pub type Route = fn(u64, usize) -> usize;

#[derive(Debug, Default)]
struct Stream {
    committed: Option<Lsn>,
    /// Readers of no other cluster get what is below, and nothing before it was said.
    shown: Option<Shown>,
    base: Lsn,
    readers: Watchers,
}

/// How far a stream is shown; none: as far as it is committed.
type Shown = Option<Lsn>;

#[derive(Debug)]
struct Reader {
    /// Of which other cluster it is; 0: of none.
    cluster: u32,
    /// Its chunks are compressed.
    compressed: bool,
    cursors: BTreeMap<u64, Box<Cursor>>,
    ready: VecDeque<u64>,
    in_turn: bool,
    /// Chunks in a row.
    row: u32,
    output: Output,
    /// Whether it is among those that were refused room.
    refused: bool,
    closing: bool,
}

#[derive(Debug)]
struct Open {
    stream: u64,
    from: Lsn,
    chain: u64,
    shard: u32,
    /// Whether the shard has it.
    asked: bool,
    /// Something was not where a shard had said.
    missed: bool,
    depth: Depth,
    waiters: Vec<(ReaderId, u64)>,
}

// Maps may be half empty, and lists are allocated. A question that is open holds no extent.
const _: () = {
    let (link, list) = (16, 32);
    let cursor = size_of::<Cursor>() + link + 2 * (8 + 16) + link;
    let stream = 2 * (8 + size_of::<Stream>()) + list;
    let question = 2 * (8 + size_of::<Open>()) + list + 2 * (16 + 8) + link;
    // Of each of the sets of cursors, of the list of ready ones, and of what shards are told.
    let sets = 2 * 16 + 2 * 8 + 2 * 16;
    assert!((cursor + stream + question + sets) as u64 <= CURSOR_BYTES);
};

/// See the [module](self).
#[derive(Debug)]
pub struct Readers {
    limits: Limits,
    route: Route,
    readers: BTreeMap<ReaderId, Reader>,
    streams: BTreeMap<u64, Stream>,
    /// Cursors beyond one of each reader.
    more_cursors: u64,
    turns: Turns,
    tail: Tail,
    shared: Shared,
    compressor: Compressor,
    extents: ExtentCount,
    /// Those that found no memory for what they do not take, or for answers.
    refused: VecDeque<ReaderId>,
    /// When one that holds much of it may be ended.
    press_at: Nanos,
    open: BTreeMap<u64, Open>,
    open_by_place: BTreeMap<(u64, Lsn), u64>,
    /// Of each shard: questions asked, and questions to be asked when there is room.
    shards: Vec<(usize, VecDeque<u64>)>,
    later: BTreeSet<(ReaderId, u64)>,
    /// Cursors whose readers are told with each beat where the log ends: those beyond the committed
    /// end here, and those that found no room for that.
    untold: BTreeSet<(ReaderId, u64)>,
    effects: Vec<Effect>,
    asks: Vec<(usize, ForwardRequest)>,
    role_epoch: u64,
    next: u64,
    beats: u64,
    beat_at: Nanos,
    now: Nanos,
    stats: Stats,
}

impl Readers {
    /// No readers yet; `shards` log shards to ask.
    pub fn new(limits: Limits, shards: usize, route: Route) -> Readers {
        assert!(shards > 0 && limits.locates > 0 && limits.locates <= LOCATES_MAX);
        Readers {
            limits,
            route,
            readers: BTreeMap::new(),
            streams: BTreeMap::new(),
            more_cursors: 0,
            turns: Turns::new(limits.rate, limits.cluster_rate),
            tail: Tail::new(limits.tail_bytes),
            shared: Shared::new(limits.shared_bytes),
            compressor: Compressor::new(limits.compressed_bytes),
            extents: ExtentCount::default(),
            refused: VecDeque::new(),
            press_at: Nanos(0),
            open: BTreeMap::new(),
            open_by_place: BTreeMap::new(),
            shards: (0..shards).map(|_| (0, VecDeque::new())).collect(),
            later: BTreeSet::new(),
            untold: BTreeSet::new(),
            effects: Vec::new(),
            asks: Vec::new(),
            role_epoch: 0,
            next: 1,
            beats: 0,
            beat_at: Nanos(0),
            now: Nanos(0),
            stats: Stats::default(),
        }
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats {
            readers: self.readers.len() as u64,
            compressions: self.compressor.runs(),
            memory: self.memory(),
            ..self.stats
        }
    }

    /// What is held for readers, but for mapped segments.
    fn memory(&self) -> u64 {
        let peers = peers_bytes(self.readers.len(), self.more_cursors);
        let extents = self.extents.bytes(self.stats.cursors);
        let tail = self.tail.bytes() as u64;
        peers + self.shared.used() + self.compressor.held() + tail + extents
    }

    /// A reader of another cluster (0: of none) connected. None when there are too many.
    pub fn on_open(&mut self, cluster: u32, now: Nanos) -> Option<ReaderId> {
        self.now = self.now.max(now);
        let full = !admits(self.readers.len() + 1, self.more_cursors);
        if full || self.readers.len() >= self.limits.readers {
            return None;
        }
        let id = ReaderId(self.number());
        let reader = Reader {
            cluster,
            compressed: false,
            cursors: BTreeMap::new(),
            ready: VecDeque::new(),
            in_turn: false,
            row: 0,
            output: Output::new(now),
            refused: false,
            closing: false,
        };
        self.readers.insert(id, reader);
        Some(id)
    }

    /// A reader's connection ended.
    pub fn on_closed(&mut self, id: ReaderId) {
        let Some(mut reader) = self.readers.remove(&id) else { return };
        self.more_cursors -= reader.cursors.len().saturating_sub(1) as u64;
        for (stream, cursor) in std::mem::take(&mut reader.cursors) {
            self.forget(id, stream, &cursor);
        }
        reader.output.release(&mut self.shared);
        self.refused.retain(|refused| *refused != id);
        self.drop_compressed();
    }

    /// A reader is not to be served any more.
    pub fn on_unwanted(&mut self, id: ReaderId) {
        self.close(id, CloseReason::Unwanted);
    }

    /// Committed bytes of the streams of a reader that were not sent to it yet.
    pub fn lag_bytes(&self, id: ReaderId) -> u64 {
        let Some(reader) = self.readers.get(&id) else { return 0 };
        let behind = reader.cursors.iter().map(|(stream, cursor)| {
            let committed = self.streams.get(stream).and_then(|stream| stream.committed);
            committed.map_or(0, |committed| committed.0.saturating_sub(cursor.position.0))
        });
        behind.sum()
    }

    /// A reader asks for a stream.
    pub fn on_fetch(&mut self, id: ReaderId, fetch: &Fetch) {
        let stream = fetch.stream;
        let readers = self.readers.len();
        let Some(reader) = self.readers.get_mut(&id) else { return };
        let known = reader.cursors.contains_key(&stream);
        let full = reader.cursors.len() >= self.limits.streams_per_reader
            || self.stats.cursors >= self.limits.cursors as u64
            || !reader.cursors.is_empty()
                && !admits(readers.max(READERS_ROOM), self.more_cursors + 1);
        if full && !known {
            self.end(id, stream, EndReason::Busy);
            return;
        }
        self.drop_cursor(id, stream);
        self.stats.cursors += 1;
        let reader = self.readers.get_mut(&id).expect("it was just there");
        let cursor = Cursor::new(fetch, reader.cluster, self.extents.clone());
        reader.cursors.insert(stream, Box::new(cursor));
        self.more_cursors += u64::from(reader.cursors.len() > 1);
        if !self.streams.contains_key(&stream) {
            self.ask(stream, ForwardRequest::Watch { stream });
        }
        self.streams.entry(stream).or_default().readers.insert(id);
        self.ready(id, stream);
    }

    /// A reader can take more.
    pub fn on_credit(&mut self, id: ReaderId, stream: u64, bytes: u64) {
        let Some(cursor) = self.cursor(id, stream) else { return };
        cursor.credit = cursor.credit.saturating_add(bytes).min(CREDIT_BYTES_MAX);
        if matches!(cursor.phase, Phase::Credit(need) if need <= cursor.credit) {
            self.ready(id, stream);
        }
    }

    /// A reader wants no more of a stream.
    pub fn on_stop(&mut self, id: ReaderId, stream: u64) {
        self.end(id, stream, EndReason::Stopped);
    }

    /// A standby asks how streams stand here: each shard answers for its own. Who asks of none is
    /// answered by the shard of the catalogue.
    pub fn on_ask(&mut self, id: ReaderId, question: &Question) {
        let shards = self.shards.len();
        let of_none = question.streams.is_empty().then(|| (self.route)(CATALOGUE_STREAM, shards));
        for shard in 0..shards {
            let is_here = |wanted: &&Wanted| (self.route)(wanted.stream, shards) == shard;
            let streams: Vec<Wanted> = question.streams.iter().filter(is_here).copied().collect();
            if !streams.is_empty() || of_none == Some(shard) {
                let question = Box::new(Question { streams, ..question.clone() });
                let request = ForwardRequest::Ask { reader: id, question };
                self.asks.push((shard, request));
            }
        }
    }

    /// A standby hears what is closed. False when there is no room for that.
    pub fn on_closed_news(&mut self, id: ReaderId, news: &ClosedNews, shard: usize) -> bool {
        let mut body = Vec::new();
        news.encode_into(&mut body);
        let frame = FrameHead::encode(KIND_CLOSED, shard as u64, self.role_epoch, &body);
        let cost = Cost::small(frame.len()).own;
        let fits = |reader: &Reader| reader.output.fits(cost, &self.shared);
        let said = self.readers.get(&id).is_some_and(fits);
        if said {
            self.say(id, frame);
        }
        said
    }

    /// What shards are to be asked, without waiting for a turn.
    pub(crate) fn take_asks(&mut self) -> Vec<(usize, ForwardRequest)> {
        std::mem::take(&mut self.asks)
    }

    /// A shard answered a standby, which asks again if there is no room for the answer.
    pub fn on_facts(&mut self, id: ReaderId, facts: &Facts) {
        self.say_if_free(id, facts.encode());
    }

    /// So many bytes of so many frames left for a reader.
    pub fn on_sent(&mut self, id: ReaderId, bytes: u64, frames: usize, now: Nanos) {
        self.now = self.now.max(now);
        let Some(reader) = self.readers.get_mut(&id) else { return };
        reader.output.on_sent(bytes, frames, now, &mut self.shared);
        if std::mem::take(&mut reader.refused) {
            self.refused.retain(|refused| *refused != id);
        }
        self.enlist(id);
    }

    /// So many of the bytes that left for a reader were not acknowledged by it yet.
    pub fn on_probed(&mut self, id: ReaderId, unacknowledged: u64, now: Nanos) {
        self.now = self.now.max(now);
        let Some(reader) = self.readers.get_mut(&id) else { return };
        reader.output.on_probed(unacknowledged, now);
    }

    /// A stream's committed end moved. Where the records are known too, use
    /// [`on_tail`](Readers::on_tail) instead.
    pub fn on_committed(&mut self, stream: u64, upto: Lsn, base: Lsn) {
        let Some(known) = self.streams.get_mut(&stream) else { return };
        known.base = known.base.max(base);
        if known.committed.is_some_and(|committed| committed >= upto) {
            return;
        }
        known.committed = Some(upto);
        for id in known.readers.take_waiting() {
            self.ready(id, stream);
        }
    }

    /// How far readers of no other cluster see a stream; none: as far as it is committed.
    pub fn on_shown(&mut self, stream: u64, shown: Option<Lsn>) {
        let Some(known) = self.streams.get_mut(&stream) else { return };
        if known.shown.replace(shown) == Some(shown) {
            return;
        }
        for id in known.readers.take_waiting() {
            self.ready(id, stream);
        }
    }

    /// Records were committed.
    pub fn on_tail(&mut self, recent: Recent) {
        let (stream, end) = (recent.stream, recent.end);
        if self.streams.contains_key(&stream) {
            self.tail.push(recent);
            self.on_committed(stream, end, Lsn::ZERO);
        }
    }

    /// A stream is gone from here, or changed below its committed end.
    pub fn on_gone(&mut self, stream: u64) {
        self.tail.forget(stream);
        self.detach(stream);
        let readers = self.streams.get(&stream).map(|s| s.readers.ids()).unwrap_or_default();
        for id in readers {
            self.end(id, stream, EndReason::UnknownStream);
        }
    }

    /// Answers that are on their way speak of what was.
    fn detach(&mut self, stream: u64) {
        let places = self.open_by_place.range((stream, Lsn(0))..=(stream, Lsn::MAX));
        let places: Vec<(u64, Lsn)> = places.map(|(&place, _)| place).collect();
        for place in places {
            let id = self.open_by_place.remove(&place).expect("it was just there");
            self.open.get_mut(&id).expect("an open question").waiters.clear();
            self.forget_question(id);
        }
    }

    /// A cursor waits for no answer any more.
    fn withdraw(&mut self, id: ReaderId, place: (u64, Lsn), phase: Phase) {
        let Phase::Waiting(ticket) = phase else { return };
        let Some(&question) = self.open_by_place.get(&place) else { return };
        let open = self.open.get_mut(&question).expect("an open question");
        open.waiters.retain(|waiter| *waiter != (id, ticket));
        if open.waiters.is_empty() && !open.asked {
            self.open_by_place.remove(&place);
            self.forget_question(question);
        }
    }

    /// Nobody waits for a question: it is not asked, if it was not yet.
    fn forget_question(&mut self, id: u64) {
        let open = &self.open[&id];
        if open.asked {
            return;
        }
        let shard = open.shard as usize;
        self.open.remove(&id);
        let queue = &mut self.shards[shard].1;
        if queue.len() > 2 * self.open.len() + LOCATES_MAX {
            queue.retain(|id| self.open.contains_key(id));
        }
    }

    /// A newer role epoch is known.
    pub fn on_role_epoch(&mut self, epoch: u64) {
        self.role_epoch = self.role_epoch.max(epoch);
    }

    /// A shard answered.
    pub fn on_located(&mut self, reply: &Reply) {
        let Some(open) = self.open.remove(&reply.id) else { return };
        self.shards[open.shard as usize].0 -= 1;
        self.ask_waiting(open.shard as usize);
        let place = (open.stream, open.from);
        if self.open_by_place.get(&place) != Some(&reply.id) {
            return;
        }
        self.open_by_place.remove(&place);
        if reply.stream != open.stream {
            self.stats.misses += 1;
        }
        if !matches!(reply.located, Located::Unknown | Located::Busy) {
            self.on_committed(open.stream, reply.committed, reply.base);
            // Later on the events say it, which this answer may be older than.
            let untold = self.streams.get(&open.stream).is_some_and(|it| it.shown.is_none());
            if untold {
                self.on_shown(open.stream, reply.shown);
            }
        }
        for (id, ticket) in open.waiters {
            self.answer(id, open.stream, ticket, reply);
        }
    }

    fn answer(&mut self, id: ReaderId, stream: u64, ticket: u64, reply: &Reply) {
        let Some(cursor) = self.cursor(id, stream) else { return };
        if cursor.phase != Phase::Waiting(ticket) {
            return;
        }
        let base = reply.base;
        match &reply.located {
            Located::Sealed(extents) => cursor.on_sealed(extents),
            Located::Active(recent) => cursor.on_recent(recent),
            Located::NotYet if reply.committed > cursor.position => cursor.on_miss(),
            Located::NotYet => {}
            Located::Recycled(Some(base)) => cursor.on_recent(base),
            Located::Busy => return self.ask_later(id, stream),
            Located::Recycled(None) => return self.end(id, stream, EndReason::Recycled { base }),
            Located::Unknown => return self.end(id, stream, EndReason::UnknownStream),
            Located::Damaged => return self.end(id, stream, EndReason::Damaged),
        }
        self.ready(id, stream);
    }

    /// What an [`Effect::Read`] found; the range counts from the start of the segment.
    pub fn on_read(&mut self, id: ReaderId, stream: u64, ticket: u64, found: Result<Cut, NoCut>) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        reader.output.end_read(&mut self.shared);
        self.take_read(id, stream, ticket, found);
        self.enlist(id);
    }

    fn take_read(&mut self, id: ReaderId, stream: u64, ticket: u64, found: Result<Cut, NoCut>) {
        let Some(cursor) = self.cursor(id, stream) else { return };
        if cursor.phase != Phase::Waiting(ticket) {
            return;
        }
        let (charged, cluster) = (std::mem::take(&mut cursor.charged), self.readers[&id].cluster);
        self.turns.on_unsent(cluster, charged);
        let cursor = self.cursor(id, stream).expect("it was just there");
        match found {
            Ok(found) => {
                let extent = cursor.reading().expect("an extent is being read").clone();
                let source = Source::Mapped { extent, range: found.range.clone() };
                self.send(id, stream, found, source);
            }
            // More credit, or a later committed end, may have come while it was read.
            Err(NoCut::Credit(need)) if need > cursor.credit => {
                self.wait_for_credit(id, stream, Phase::Credit(need));
            }
            Err(NoCut::Credit(_)) => self.ready(id, stream),
            Err(NoCut::NotCommitted) => {
                let looked = cursor.looked_upto();
                if self.limit(id, stream) > looked {
                    self.ready(id, stream);
                } else {
                    self.wait_at_end(id, stream);
                }
            }
            Err(_) => {
                cursor.on_miss();
                self.stats.misses += 1;
                self.ready(id, stream);
            }
        }
    }

    /// Time passed.
    pub fn on_time(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        for (id, stream) in std::mem::take(&mut self.later) {
            if self.cursor(id, stream).is_some_and(|cursor| cursor.phase == Phase::Later) {
                self.ready(id, stream);
            }
        }
        if !self.refused.is_empty() && now >= self.press_at {
            self.press_at = now.after(PRESSURE_TICK_NS);
            self.press();
        }
        if now.since(self.beat_at) < BEAT_NS {
            return;
        }
        self.beat_at = now;
        self.beats += 1;
        let beat = FromForwarder::Beat(Beat { number: self.beats, role_epoch: self.role_epoch });
        let frame = beat.encode();
        for id in self.readers.keys().copied().collect::<Vec<_>>() {
            let reader = self.readers.get_mut(&id).expect("it was just there");
            reader.cursors.values_mut().for_each(|cursor| cursor.on_beat(now));
            let stalled = reader.output.stalled_ns(now);
            if stalled > STALL_NS {
                self.close(id, CloseReason::Stalled);
            } else if reader.output.pinned_ns(now) > LEASE_NS_MAX {
                self.close(id, CloseReason::Slow);
            } else if stalled <= BEAT_NS {
                // Who takes nothing would find them all at once.
                self.say_if_free(id, frame.clone());
            } else {
                self.effects.push(Effect::Probe { reader: id });
            }
        }
        self.tell_untold();
    }

    /// When [`on_time`](Readers::on_time) is due.
    pub fn next_time(&self) -> Option<Nanos> {
        let beat = (!self.readers.is_empty()).then(|| self.beat_at.after(BEAT_NS));
        let later = (!self.later.is_empty()).then(|| self.now.after(RETRY_NS));
        let press = (!self.refused.is_empty()).then_some(self.press_at);
        beat.into_iter().chain(later).chain(press).chain(self.turns.next_release()).min()
    }

    /// The node stops: every cursor ends.
    pub fn on_shutdown(&mut self) {
        for id in self.readers.keys().copied().collect::<Vec<_>>() {
            let streams: Vec<u64> = self.readers[&id].cursors.keys().copied().collect();
            streams.into_iter().for_each(|stream| self.end(id, stream, EndReason::ShuttingDown));
        }
    }

    /// Lets up to `turns` cursors take their turn and appends everything that is to be done.
    /// Returns whether more is ready.
    pub fn poll(&mut self, now: Nanos, turns: usize, effects: &mut Vec<Effect>) -> bool {
        self.now = self.now.max(now);
        for id in self.turns.release(self.now) {
            if let Some(reader) = self.readers.get_mut(&id) {
                reader.in_turn = false;
                self.enlist(id);
            }
        }
        for _ in 0..turns {
            let Some(id) = self.turns.pop() else { break };
            self.take_turn(id);
        }
        self.offer_room();
        let ask = |(shard, request)| Effect::Ask { shard, request };
        effects.extend(self.take_asks().into_iter().map(ask));
        effects.append(&mut self.effects);
        !self.turns.is_empty()
    }

    fn take_turn(&mut self, id: ReaderId) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if let Some(until) = self.turns.hold(id, reader.cluster, self.now) {
            self.stats.held += 1;
            // What comes next is soon sent: read again and again, it would never be.
            let kept = usize::from(until.since(self.now) < HOLD_NS_MAX);
            return reader.let_go(kept);
        }
        reader.in_turn = false;
        // Since it came into the round it may have stopped taking what waits.
        if !reader.output.has_room(self.limits.output_bytes) {
            return reader.let_go(0);
        }
        let Some(stream) = reader.ready.pop_front() else { return };
        trim(&mut reader.ready);
        let cursor = reader.cursors.get_mut(&stream).expect("a ready cursor is there");
        assert!(std::mem::take(&mut cursor.listed), "a ready cursor is listed");
        let committed = self.streams.get(&stream).and_then(|known| known.limit(reader.cluster));
        let segment = self.limits.chunk_bytes;
        let (memory, grid) = match reader.compressed {
            true => (segment, Some(COMPRESS_GRID_BYTES)),
            false => (segment.min(MEMORY_CHUNK_BYTES), None),
        };
        let targets = Targets { memory, segment, grid };
        let step = cursor.step(stream, committed, &mut self.tail, targets);
        self.take_step(id, stream, step);
        self.enlist(id);
    }

    fn take_step(&mut self, id: ReaderId, stream: u64, step: Step) {
        match step {
            Step::Chunk(cut, source) => {
                self.stats.chunks_recent += 1;
                self.send(id, stream, cut, source);
            }
            Step::Read(extent, want) => {
                let ticket = self.number();
                self.set_phase(id, stream, Phase::Waiting(ticket));
                let reader = self.readers.get_mut(&id).expect("it has a turn");
                reader.output.begin_read(&mut self.shared);
                self.charge(id, stream, want.bytes_max.min(want.bytes_target.into()));
                self.effects.push(Effect::Read { reader: id, stream, ticket, extent, want });
            }
            Step::Locate => self.locate(id, stream),
            Step::Park(Phase::Tail) => self.wait_at_end(id, stream),
            Step::Park(phase) => self.wait_for_credit(id, stream, phase),
            Step::End(reason) => self.end(id, stream, reason),
        }
    }

    /// What is being read for a reader counts at once, or many reads would go beyond a cap.
    fn charge(&mut self, id: ReaderId, stream: u64, bytes: u64) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        let Some(cursor) = reader.cursors.get_mut(&stream) else { return };
        cursor.charged = bytes;
        self.turns.on_sent(reader.cluster, bytes, self.now);
    }

    fn send(&mut self, id: ReaderId, stream: u64, cut: Cut, source: Source) {
        let committed = self.limit(id, stream);
        let source = self.compressed(id, stream, &cut, source);
        let compressed = match &source {
            Source::Compressed(made) => Some(made.bytes().len() as u32),
            Source::View { .. } | Source::Mapped { .. } => None,
        };
        let head = ChunkHead {
            stream,
            start: cut.start,
            end: cut.end,
            committed: committed.unwrap_or(cut.end).max(cut.end),
            headers_crc: cut.headers_crc,
            role_epoch: self.role_epoch,
            body_len: cut.range.len() as u32,
            base: cut.base,
            compressed,
        };
        let body = u64::from(head.wire_len());
        self.stats.chunks += 1;
        self.stats.bytes += u64::from(head.body_len);
        if compressed.is_some() {
            self.stats.bytes_plain += u64::from(head.body_len);
            self.stats.bytes_compressed += body;
        }
        let now = self.now;
        let reader = self.readers.get_mut(&id).expect("a cursor has a reader");
        reader.cursors.get_mut(&stream).expect("a chunk has a cursor").advance(&cut);
        let bytes = FRAME_BULK_HEAD_BYTES as u64 + body;
        let cost = Cost::chunk(&source, body);
        reader.output.queue(bytes, cost, now, &mut self.shared);
        reader.row += 1;
        self.turns.on_sent(reader.cluster, body, now);
        self.untold.remove(&(id, stream));
        self.effects.push(Effect::Send { reader: id, head, source });
        self.ready(id, stream);
    }

    /// The reader learns that there is more than its credit allows.
    fn wait_for_credit(&mut self, id: ReaderId, stream: u64, phase: Phase) {
        self.set_phase(id, stream, phase);
        if !self.tell(id, stream) {
            self.untold.insert((id, stream));
        }
    }

    fn wait_at_end(&mut self, id: ReaderId, stream: u64) {
        self.set_phase(id, stream, Phase::Tail);
        let committed = self.limit(id, stream);
        let known = self.streams.get_mut(&stream).expect("a cursor has a stream");
        known.readers.wait(id);
        let Some(cursor) = self.cursor(id, stream) else { return };
        let ahead = committed.is_none_or(|committed| cursor.position > committed);
        let told = std::mem::replace(&mut cursor.told, true);
        let was_untold = self.untold.remove(&(id, stream));
        // Who was ahead waits to hear that it is no more.
        let is_due = !told || (was_untold && !ahead);
        let said = !is_due || self.tell(id, stream);
        if ahead || !said {
            self.untold.insert((id, stream));
        }
    }

    /// Says where the log ends. False when there was no room for it.
    fn tell(&mut self, id: ReaderId, stream: u64) -> bool {
        let Some(known) = self.streams.get(&stream) else { return true };
        let committed = self.limit(id, stream).unwrap_or(known.base);
        let status = Status { stream, committed, base: known.base };
        self.say_if_free(id, FromForwarder::Status(status).encode())
    }

    /// Says again where the log ends to those that are ahead of it, or found no room.
    fn tell_untold(&mut self) {
        for (id, stream) in self.untold.clone() {
            let output = &self.readers[&id].output;
            if output.stalled_ns(self.now) > BEAT_NS || !output.has_room(u64::MAX) {
                continue;
            }
            let said = self.tell(id, stream);
            let limit = self.limit(id, stream);
            let Some(cursor) = self.cursor(id, stream) else { continue };
            if said && limit.is_some_and(|limit| cursor.position <= limit) {
                self.untold.remove(&(id, stream));
            }
        }
    }

    fn locate(&mut self, id: ReaderId, stream: u64) {
        let ticket = self.number();
        self.set_phase(id, stream, Phase::Waiting(ticket));
        let cursor = self.cursor(id, stream).expect("a cursor asks");
        let (from, missed, (depth, chain)) = (cursor.position, cursor.has_missed(), cursor.depth());
        if let Some(open) = self.open_by_place.get(&(stream, from)) {
            let open = self.open.get_mut(open).expect("an open question");
            if (open.depth, open.chain) != (depth, chain) {
                return self.ask_later(id, stream); // What answers one does not answer the other.
            }
            open.waiters.push((id, ticket));
            open.missed |= missed;
            return;
        }
        let (question, shard) = (self.number(), (self.route)(stream, self.shards.len()));
        let (at, asked, waiters) = (shard as u32, false, vec![(id, ticket)]);
        let open = Open { stream, from, chain, shard: at, asked, missed, depth, waiters };
        self.open.insert(question, open);
        self.open_by_place.insert((stream, from), question);
        self.shards[shard].1.push_back(question);
        self.ask_waiting(shard);
    }

    fn ask_later(&mut self, id: ReaderId, stream: u64) {
        self.set_phase(id, stream, Phase::Later);
        self.later.insert((id, stream));
    }

    fn ask_waiting(&mut self, shard: usize) {
        while self.shards[shard].0 < self.limits.locates {
            let Some(id) = self.shards[shard].1.pop_front() else { break };
            let Some(open) = self.open.get_mut(&id) else { continue };
            open.asked = true;
            let Open { stream, from, missed, depth, chain, .. } = *open;
            let max_bytes = LOCATE_BYTES;
            let ask = LocateRequest { id, stream, from, missed, depth, chain, max_bytes };
            self.shards[shard].0 += 1;
            self.stats.locates += 1;
            self.asks.push((shard, ForwardRequest::Locate(ask)));
        }
    }

    fn ask(&mut self, stream: u64, request: ForwardRequest) {
        let shard = (self.route)(stream, self.shards.len());
        self.asks.push((shard, request));
    }

    fn end(&mut self, id: ReaderId, stream: u64, reason: EndReason) {
        let known = self.streams.get(&stream);
        let committed = self.limit(id, stream).unwrap_or(Lsn::ZERO);
        let base = match reason {
            EndReason::Recycled { base } => base,
            _ => known.map_or(Lsn::ZERO, |known| known.base),
        };
        let end = FromForwarder::End(End { stream, reason, committed, base }).encode();
        if self.has_room_for(id, end.len()) {
            self.drop_cursor(id, stream);
            self.say(id, end);
        } else if let Some(cursor) = self.cursor(id, stream) {
            // It hears of it in its turn, when there is room.
            cursor.over = Some(reason);
            let (place, phase) = ((stream, cursor.position), cursor.phase);
            self.withdraw(id, place, phase);
            self.ready(id, stream);
        } else {
            self.close(id, CloseReason::Flood);
        }
    }

    fn has_room_for(&self, id: ReaderId, len: usize) -> bool {
        let Some(reader) = self.readers.get(&id) else { return false };
        let few = reader.output.frames() < OUTPUT_FRAMES_MAX;
        few && reader.output.fits(Cost::small(len).own, &self.shared)
    }

    /// For what is said again anyway: it takes no memory that others need.
    fn say_if_free(&mut self, id: ReaderId, frame: Vec<u8>) -> bool {
        let cost = Cost::small(frame.len()).own;
        let fits = self.readers.get(&id).is_some_and(|reader| reader.output.fits_alone(cost));
        if fits {
            self.say(id, frame);
        }
        fits
    }

    fn say(&mut self, id: ReaderId, frame: Vec<u8>) {
        let now = self.now;
        let Some(reader) = self.readers.get_mut(&id).filter(|reader| !reader.closing) else {
            return;
        };
        let (bytes, cost) = (frame.len() as u64, Cost::small(frame.len()));
        reader.output.queue(bytes, cost, now, &mut self.shared);
        self.effects.push(Effect::Say { reader: id, frame });
    }

    fn close(&mut self, id: ReaderId, why: CloseReason) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if !std::mem::replace(&mut reader.closing, true) {
            self.effects.push(Effect::Close { reader: id, why });
        }
    }

    fn drop_cursor(&mut self, id: ReaderId, stream: u64) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if let Some(cursor) = reader.cursors.remove(&stream) {
            if cursor.listed {
                reader.ready.retain(|&ready| ready != stream);
            }
            self.more_cursors -= u64::from(!reader.cursors.is_empty());
            self.forget(id, stream, &cursor);
        }
    }

    /// What the rest knows of a cursor that is gone.
    fn forget(&mut self, id: ReaderId, stream: u64, cursor: &Cursor) {
        self.stats.cursors -= 1;
        self.withdraw(id, (stream, cursor.position), cursor.phase);
        self.untold.remove(&(id, stream));
        self.later.remove(&(id, stream));
        let known = self.streams.get_mut(&stream).expect("a cursor has a stream");
        known.readers.remove(id);
        if known.readers.is_empty() {
            self.streams.remove(&stream);
            self.tail.forget(stream);
            self.detach(stream);
            self.ask(stream, ForwardRequest::Unwatch { stream });
        }
    }

    /// How far a reader is sent a stream.
    fn limit(&self, id: ReaderId, stream: u64) -> Option<Lsn> {
        let cluster = self.readers.get(&id).map_or(0, |reader| reader.cluster);
        self.streams.get(&stream)?.limit(cluster)
    }

    fn cursor(&mut self, id: ReaderId, stream: u64) -> Option<&mut Cursor> {
        self.readers.get_mut(&id)?.cursors.get_mut(&stream).map(Box::as_mut)
    }

    fn set_phase(&mut self, id: ReaderId, stream: u64, phase: Phase) {
        if let Some(cursor) = self.cursor(id, stream) {
            cursor.phase = phase;
        }
    }

    fn ready(&mut self, id: ReaderId, stream: u64) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        let Some(cursor) = reader.cursors.get_mut(&stream) else { return };
        cursor.phase = Phase::Ready;
        if !std::mem::replace(&mut cursor.listed, true) {
            reader.ready.push_back(stream);
        }
        self.enlist(id);
    }

    /// Puts a reader into the round of turns, if it has something to do and room for it.
    fn enlist(&mut self, id: ReaderId) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if reader.in_turn || reader.closing || reader.ready.is_empty() {
            return;
        }
        if !reader.output.has_room(self.limits.output_bytes) {
            return reader.let_go(0);
        }
        reader.in_turn = true;
        let near = reader.ready.front().is_some_and(|stream| {
            let known = self.streams.get(stream);
            let committed = known.and_then(|known| known.limit(reader.cluster));
            committed.is_some_and(|end| keeps_up(&reader.cursors[stream], end))
        });
        // What is in memory for a reader that catches up is used before it goes.
        let again = !near && (1..BEHIND_TURNS_MAX).contains(&reader.row);
        if again {
            self.turns.push_again(id);
        } else {
            reader.row = 0;
            self.turns.push(id, near);
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Stream {
    /// How far readers of that cluster (0: of none but this) are sent it. Other clusters show
    /// nothing but what they know to be replayable themselves.
    fn limit(&self, cluster: u32) -> Option<Lsn> {
        let committed = self.committed?;
        match (cluster, self.shown) {
            (0, Some(Some(shown))) => Some(shown.min(committed)),
            (0, None) => None,
            _ => Some(committed),
        }
    }
}

impl Reader {
    /// What it would have sent from a shard's memory is not held for it, but for the next `kept`
    /// streams.
    fn let_go(&mut self, kept: usize) {
        for stream in self.ready.iter().skip(kept) {
            self.cursors.get_mut(stream).into_iter().for_each(|cursor| cursor.let_go());
        }
    }
}

/// Whether a reader is near the committed end.
fn keeps_up(cursor: &Cursor, committed: Lsn) -> bool {
    committed.0.saturating_sub(cursor.position.0) <= TAIL_NEAR_BYTES
}
