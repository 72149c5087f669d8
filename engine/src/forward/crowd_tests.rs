//! 256 readers at once, most of which mean no good: what is held for them stays bounded, and those
//! that keep up are served in time.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use palisade_netio::limits::FRAME_HEAD_BYTES;
use palisade_netio::{FrameHead, Identity, Nanos, Pool, Purpose};
use palisade_wal::Lsn;

use super::exchange::{Exchange, ForwarderConfig, Load, Need, Work};
use super::flow::{Outflow, Part};
use super::limits::{
    CONTROL_BYTES, CREDIT_BYTES_MAX, CURSOR_BYTES, FORWARD_BYTES_MAX, LOADS_MAX, Limits,
    PREFAULT_BYTES, WINDOWS_MAX,
};
use super::queue::{
    ForwardEvent, ForwardPort, Lease, LocateRequest, Located, Recent, Reply, SealedExtent, port,
};
use super::sender::ReaderId;
use super::testlog::{BALLOT, TestLog, mix, pool};
use super::windows::Warming;
use super::wire::{FROM_FORWARDER, Fetch, FromForwarder, FromReader};

const STREAM: u64 = 7;
const READERS: usize = 256;
const MS: u64 = 1_000_000;
/// Groups that are sealed, then those that are committed at the start.
const SEALED: usize = 1200;
const ACTIVE: usize = SEALED + 200;
const STEPS: usize = 2500;
/// Streams that nothing is ever written to.
const IDLE_STREAMS: u64 = 1000;

/// What a reader does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Follows the end and takes all it gets.
    Tail,
    /// Reads what is sealed, from an age of its own on, again and again.
    Cold,
    /// Follows the end, and takes nothing after a while.
    StuckTail,
    /// Starts at an age of its own, and takes nothing.
    StuckCold,
    /// Starts at what is in the active segment, and takes a few bytes now and then.
    Slow,
    /// Hangs up and comes again.
    Fickle,
    /// Asks for everything again and again, and takes nothing.
    Flood,
    /// Reads as many streams as it may.
    Wide,
}

const KINDS: [Kind; 8] = [
    Kind::Tail,
    Kind::Cold,
    Kind::StuckTail,
    Kind::StuckCold,
    Kind::Slow,
    Kind::Fickle,
    Kind::Flood,
    Kind::Wide,
];

#[derive(Debug)]
struct Segment(Arc<Vec<u8>>);

impl Deref for Segment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

struct Conn {
    kind: Kind,
    age: Lsn,
    out: Outflow<Segment>,
    /// Ends of the chunks in frames that wait; none for other frames.
    frames: VecDeque<Option<Lsn>>,
    got: Lsn,
    /// Streams that it still asks for.
    idle: u64,
}

struct Shard {
    port: ForwardPort,
    pool: Pool,
    log: TestLog,
    bounds: Vec<Lsn>,
    committed: usize,
    extents: Vec<SealedExtent>,
}

impl Shard {
    fn locate(&mut self, request: &LocateRequest) -> Reply {
        let LocateRequest { id, stream, from, .. } = *request;
        let committed = if stream == STREAM { self.bounds[self.committed] } else { Lsn(0) };
        let sealed = self.extents.iter().filter(|extent| extent.end > from).take(4).cloned();
        let sealed: Vec<SealedExtent> = sealed.collect();
        let located = if from >= committed {
            Located::NotYet
        } else if !sealed.is_empty() {
            Located::Sealed(sealed)
        } else {
            let at = self.bounds.partition_point(|&start| start <= from) - 1;
            let to = (at + 4).min(self.committed);
            self.recent(at, to).map_or(Located::Busy, Located::Active)
        };
        Reply { id, stream, committed, shown: None, base: Lsn(0), located }
    }

    /// None while half of what there is for readers is held.
    fn recent(&mut self, from: usize, to: usize) -> Option<Recent> {
        if self.pool.used(Purpose::Tail) > self.pool.quota(Purpose::Tail) / 2 {
            return None;
        }
        let (start, end) = (self.bounds[from], self.bounds[to]);
        let records = self.log.view(&mut self.pool, start, end);
        Some(Recent { stream: STREAM, start, end, records })
    }

    fn turn(&mut self, commits: bool) {
        while let Some(request) = self.port.poll_request() {
            let reply = self.locate(&request);
            self.port.reply(reply);
        }
        if commits && self.port.wants(STREAM) {
            self.committed += 1;
            let upto = self.bounds[self.committed];
            let event = match self.recent(self.committed - 1, self.committed) {
                Some(recent) => ForwardEvent::Tail(recent),
                None => ForwardEvent::Committed { stream: STREAM, upto, shown: None, base: Lsn(0) },
            };
            self.port.publish(event).unwrap();
        }
        self.port.flush();
        self.pool.collect();
    }
}

struct Crowd {
    seed: u64,
    now: Nanos,
    exchange: Exchange<Segment>,
    shard: Shard,
    segment: Arc<Vec<u8>>,
    conns: BTreeMap<ReaderId, Conn>,
    loads: Vec<(Load<Segment>, Option<Warming<Segment>>)>,
    aheads: Vec<Warming<Segment>>,
    /// Most that was counted.
    peak: u64,
}

impl Crowd {
    fn new() -> Crowd {
        let (mut seed, mut log) = (5, TestLog::new(STREAM));
        for group in 0..ACTIVE + STEPS + 1 {
            // More than a connection has for itself, and now and then much more.
            match group % 100 {
                99 => log.push(&[700_000, 700_000]),
                _ => log.push(&[1000 + mix(&mut seed) as usize % 60_000]),
            };
        }
        let (bounds, mut segment, mut extents) = (log.bounds(), Vec::new(), Vec::new());
        let lease = Lease::new();
        for at in (0..SEALED).step_by(10) {
            let (start, end) = (bounds[at], bounds[at + 10]);
            let expect = log.block(&mut segment, start, end);
            let (path, lease) = (Arc::from(Path::new("sealed")), lease.clone());
            extents.push(SealedExtent { path, lease, expect, start, end, ballot: BALLOT });
        }
        assert!(segment.len() > 2 * WINDOWS_MAX * PREFAULT_BYTES);
        let (port, side) = port();
        let (identity, limits) = (Identity::default(), Limits::default());
        let config =
            ForwarderConfig { identity, route: |_, _| 0, cpu: None, limits, compressed_from: None };
        let shard = Shard { port, pool: pool(), log, bounds, committed: ACTIVE, extents };
        Crowd {
            seed,
            now: Nanos(0),
            exchange: Exchange::new(vec![side], &config),
            shard,
            segment: Arc::new(segment),
            conns: BTreeMap::new(),
            loads: Vec::new(),
            aheads: Vec::new(),
            peak: 0,
        }
    }

    fn connect(&mut self, kind: Kind) {
        let reader = self.exchange.admit(0, self.now).unwrap();
        let bounds = &self.shard.bounds;
        let age = match kind {
            Kind::Cold | Kind::StuckCold | Kind::Fickle | Kind::Flood => {
                bounds[mix(&mut self.seed) as usize % SEALED]
            }
            Kind::Slow => bounds[SEALED + mix(&mut self.seed) as usize % (ACTIVE - SEALED)],
            Kind::Tail | Kind::StuckTail | Kind::Wide => bounds[self.shard.committed],
        };
        let (out, frames) = (Outflow::new(Vec::new()), VecDeque::new());
        let idle = if kind == Kind::Wide { IDLE_STREAMS } else { 0 };
        self.conns.insert(reader, Conn { kind, age, out, frames, got: age, idle });
        self.fetch(reader, STREAM);
    }

    fn fetch(&mut self, reader: ReaderId, stream: u64) {
        let from = self.conns[&reader].age;
        let (to, follow, credit_bytes) = (Lsn::MAX, true, CREDIT_BYTES_MAX);
        let fetch = Fetch { stream, from, to, follow, base: None, credit_bytes };
        self.exchange.on_said(reader, FromReader::Fetch(fetch));
    }

    fn close(&mut self, reader: ReaderId) {
        if self.conns.remove(&reader).is_some() {
            self.exchange.on_closed(reader);
        }
    }

    /// A reader asks for more streams, as far as it is listened to.
    fn widen(&mut self, reader: ReaderId) {
        if !self.exchange.listens(reader) {
            return;
        }
        let more = self.conns[&reader].idle.min((CONTROL_BYTES / FRAME_HEAD_BYTES) as u64);
        for _ in 0..more {
            let stream = STREAM + self.conns[&reader].idle;
            self.fetch(reader, stream);
            self.conns.get_mut(&reader).unwrap().idle -= 1;
        }
    }

    /// The forwarder gives a reader up.
    fn end(&mut self, reader: ReaderId) {
        if let Some(conn) = self.conns.get(&reader) {
            let stuck = matches!(conn.kind, Kind::StuckTail | Kind::StuckCold | Kind::Flood);
            assert!(stuck, "{:?} takes its bytes, however slowly, and stays", conn.kind);
            self.close(reader);
        }
    }

    /// Readers say what they say, and each that is gone comes again.
    fn misbehave(&mut self, step: usize) {
        for (reader, kind) in self.conns.iter().map(|(&id, c)| (id, c.kind)).collect::<Vec<_>>() {
            match kind {
                Kind::Fickle if mix(&mut self.seed).is_multiple_of(50) => self.close(reader),
                Kind::Wide => self.widen(reader),
                Kind::Flood => {
                    for _ in 0..20 {
                        if !self.exchange.listens(reader) {
                            break;
                        }
                        let stream = STREAM + mix(&mut self.seed) % 3 * 1_000_000;
                        self.fetch(reader, stream);
                        let stream = STREAM + mix(&mut self.seed) % 3 * 1_000_000;
                        self.exchange.on_said(reader, FromReader::Stop { stream });
                    }
                }
                // At the end again: what was sent is sent again.
                Kind::Cold if self.conns[&reader].got >= self.shard.bounds[SEALED] => {
                    self.exchange.on_said(reader, FromReader::Stop { stream: STREAM });
                    self.conns.get_mut(&reader).unwrap().got = Lsn(0);
                    self.fetch(reader, STREAM);
                }
                _ => {}
            }
        }
        for (at, kind) in KINDS.into_iter().enumerate() {
            // They come one after another.
            let due = (READERS / KINDS.len()).min(1 + step / (1 + at));
            let there = self.conns.values().filter(|conn| conn.kind == kind).count();
            (there..due).for_each(|_| self.connect(kind));
        }
    }

    fn go_on(&mut self, mut load: Load<Segment>) {
        match self.exchange.load(&mut load, self.now) {
            Need::Nothing => {}
            Need::Map(_) => self.loads.push((load, None)),
            Need::Warm(warming) => self.loads.push((load, Some(warming))),
        }
    }

    /// The disk: what was begun in the last step is there.
    fn disk(&mut self) {
        for (mut load, warming) in std::mem::take(&mut self.loads) {
            match warming {
                Some(warming) => self.exchange.on_warmed(&warming, true),
                None => {
                    let segment = Segment(self.segment.clone());
                    self.exchange.on_mapped(&mut load, segment, self.now);
                }
            }
            self.go_on(load);
        }
        let aheads = std::mem::take(&mut self.aheads);
        aheads.iter().for_each(|warming| self.exchange.on_warmed(warming, true));
    }

    fn turn(&mut self) {
        let mut more = true;
        for _ in 0..40 {
            if !more {
                break;
            }
            let mut work = Vec::new();
            more = self.exchange.take_events(self.now, &mut Vec::new());
            more |= self.exchange.turn(self.now, &mut work);
            for work in work {
                match work {
                    Work::Push { reader, head, body } => self.push(reader, head, body),
                    // All are moved in each step.
                    Work::Ring { .. } => {}
                    Work::Probe { reader } => self.exchange.on_probed(reader, 0, self.now),
                    Work::Abort { reader } => self.end(reader),
                    Work::Load(load) => self.go_on(load),
                    Work::Ahead(warming) => self.aheads.push(warming),
                }
            }
            assert!(self.loads.len() <= LOADS_MAX);
            self.look();
            self.write();
        }
    }

    fn push(&mut self, reader: ReaderId, head: Vec<u8>, body: super::flow::Body<Segment>) {
        let Some(conn) = self.conns.get_mut(&reader) else { return };
        let frame = FrameHead::parse(&head, &FROM_FORWARDER).unwrap();
        let said = FromForwarder::parse(&frame, &head[FRAME_HEAD_BYTES..]);
        let end = match said.unwrap() {
            FromForwarder::Chunk(chunk) => Some(chunk.end),
            _ => None,
        };
        conn.frames.push_back(end);
        conn.out.push(head, body);
    }

    fn write(&mut self) {
        for (&reader, conn) in &mut self.conns {
            let takes = match conn.kind {
                Kind::Tail | Kind::Cold | Kind::Wide => 512 << 10,
                Kind::Fickle => 64 << 10,
                Kind::StuckTail if conn.got.0 < conn.age.0 + 500_000 => 64 << 10,
                Kind::Slow => 1 << 10,
                Kind::StuckTail | Kind::StuckCold | Kind::Flood => 0,
            };
            let mut left = takes;
            loop {
                let len = match conn.out.next_part() {
                    Part::Bytes(bytes) => bytes.len().min(left),
                    Part::Mapped(_, range) => range.len().min(left),
                };
                if len == 0 {
                    break;
                }
                left -= len;
                let (bytes, frames) = conn.out.on_written(len);
                let written = conn.frames.drain(..frames).flatten().last();
                conn.got = written.unwrap_or(conn.got);
                self.exchange.on_sent(reader, bytes, frames, self.now);
            }
            let waits = !conn.out.is_empty() && !conn.out.is_blocked();
            if waits && self.exchange.on_blocked(reader) {
                conn.out.on_blocked();
            }
        }
    }

    /// What is held is no more than what is counted, and that is bounded.
    fn look(&mut self) {
        let counted = self.exchange.stats().memory;
        let held: usize = self.conns.values().map(|conn| conn.out.memory()).sum();
        assert!(held as u64 <= counted, "{held} bytes of frames, {counted} counted");
        assert!(counted <= FORWARD_BYTES_MAX, "{counted} bytes");
        self.peak = self.peak.max(counted);
    }
}

#[test]
fn what_256_readers_make_the_forwarder_hold_is_bounded_and_the_tail_comes_in_time() {
    let mut crowd = Crowd::new();
    let (mut lags, mut pinned) = (Vec::new(), 0);
    let mut due = VecDeque::new();
    for step in 0..STEPS {
        crowd.now = crowd.now.after(MS);
        crowd.misbehave(step);
        crowd.shard.turn(true);
        crowd.disk();
        if crowd.exchange.next_time(crowd.now).is_some_and(|at| at <= crowd.now) || step % 5 == 0 {
            crowd.exchange.on_time(crowd.now);
        }
        crowd.turn();
        pinned = pinned.max(crowd.shard.pool.used(Purpose::Tail));
        // How long each commit took to each reader at the tail.
        due.push_back((crowd.shard.bounds[crowd.shard.committed], crowd.now));
        let tails = || crowd.conns.values().filter(|conn| conn.kind == Kind::Tail);
        let all = tails().map(|conn| conn.got).min().unwrap_or(Lsn(0));
        while let Some((_, at)) = due.pop_front_if(|(end, _)| *end <= all) {
            lags.push(crowd.now.since(at) / MS);
        }
    }
    lags.extend(due.iter().map(|(_, at)| crowd.now.since(*at) / MS));
    lags.sort_unstable();
    let (p50, p99) = (lags[lags.len() / 2], lags[lags.len() * 99 / 100]);
    let stats = crowd.exchange.stats();
    println!("peak {} KiB, tail lag p50 {p50} ms p99 {p99} ms, {stats:?}", crowd.peak >> 10);
    assert!(crowd.conns.len() > READERS - KINDS.len() && lags.len() == STEPS);
    assert!(p99 <= 100, "the slowest reader at the tail gets one of 100 commits after {p99} ms");
    assert!(stats.misses == 0 && crowd.peak > 20 << 20, "{stats:?}");
    // Readers that take nothing hold no memory of a shard.
    assert!(pinned <= 40 << 20, "{pinned} bytes of the shard");
    let cold = crowd.conns.values().filter(|conn| conn.kind == Kind::Cold);
    assert!(cold.map(|conn| conn.got).all(|got| got > Lsn(0) || stats.chunks > 10_000));
    // Everything comes back.
    for reader in crowd.conns.keys().copied().collect::<Vec<_>>() {
        crowd.conns.remove(&reader);
        crowd.exchange.on_closed(reader);
    }
    assert_eq!(crowd.exchange.stats().cursors, 0);
    let windows = (WINDOWS_MAX * PREFAULT_BYTES) as u64;
    assert!(crowd.exchange.stats().memory <= windows);
    crowd.exchange.let_go();
    (crowd.loads, crowd.aheads) = (Vec::new(), Vec::new());
    assert_eq!(crowd.exchange.stats().memory, 0);
}

fn exchange() -> (Vec<ForwardPort>, Exchange<Segment>) {
    let ((port, side), identity) = (port(), Identity::default());
    let config = ForwarderConfig {
        identity,
        route: |_, _| 0,
        cpu: None,
        limits: Limits::default(),
        compressed_from: None,
    };
    (vec![port], Exchange::new(vec![side], &config))
}

fn fetch_idle(stream: u64) -> FromReader {
    let (from, to, follow, credit_bytes) = (Lsn(0), Lsn::MAX, true, 1);
    FromReader::Fetch(Fetch { stream, from, to, follow, base: None, credit_bytes })
}

#[test]
fn ten_thousand_streams_of_three_readers_fit_beside_others() {
    let (_ports, mut exchange) = exchange();
    for _ in 0..3 {
        let reader = exchange.admit(0, Nanos(0)).unwrap();
        (0..10_000).for_each(|stream| exchange.on_said(reader, fetch_idle(stream)));
    }
    for _ in 3..READERS {
        let reader = exchange.admit(0, Nanos(0)).unwrap();
        exchange.on_said(reader, fetch_idle(1));
    }
    let stats = exchange.stats();
    assert_eq!(stats.cursors, 30_000 + READERS as u64 - 3);
    assert!(stats.memory <= FORWARD_BYTES_MAX, "{stats:?}");
}

#[test]
fn the_cursors_of_one_reader_leave_room_for_others() {
    let (_ports, mut exchange) = exchange();
    let mut readers: Vec<ReaderId> = Vec::new();
    for at in 0..READERS {
        let reader = exchange.admit(0, Nanos(0)).unwrap();
        readers.push(reader);
        if at < 8 {
            (0..16 << 10).for_each(|stream| exchange.on_said(reader, fetch_idle(stream)));
        }
    }
    let stats = exchange.stats();
    assert!(stats.cursors > 10_000 && stats.memory <= FORWARD_BYTES_MAX, "{stats:?}");
    assert!(stats.memory >= stats.cursors * CURSOR_BYTES);
    // Each has room for one.
    readers[8..].iter().for_each(|&reader| exchange.on_said(reader, fetch_idle(1)));
    let more = exchange.stats();
    assert_eq!(more.cursors, stats.cursors + READERS as u64 - 8);
    assert_eq!(more.memory, stats.memory);
}
