//! Readers in other regions: what they get is compressed once for all of them, and only for those
//! that can read it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use palisade_netio::limits::{FRAME_BULK_HEAD_BYTES, FRAME_HEAD_BYTES};
use palisade_netio::{FrameHead, Identity, Nanos};
use palisade_wal::Lsn;

use super::compress::decompress;
use super::exchange::{Exchange, ForwarderConfig, Load, Need, Work};
use super::flow::Outflow;
use super::limits::{
    COMPRESS_GRID_BYTES, COMPRESSED_BYTES_MAX, FORWARD_BYTES_MAX, Limits, OUTPUT_SHARED_BYTES,
    PREFAULT_BYTES, RETRY_NS, WINDOWS_MAX,
};
use super::queue::{ForwardPort, Lease, LocateRequest, Located, Reply, SealedExtent, port};
use super::sender::{ReaderId, Stats};
use super::testlog::{BALLOT, TestLog, mix};
use super::wire::{FEATURE_LZ4, FROM_FORWARDER, Fetch, FromForwarder, FromReader};
use crate::control::{Change, Cluster, Registry, What};
use crate::status::Transfer;

const STREAM: u64 = 7;
/// In the region of the node, in another, and in none that is known.
const NEAR: u32 = 2;
const FAR: u32 = 3;
const STRANGE: u32 = 4;
/// Between two turns of the forwarder.
const TURN_NS: u64 = 1_000_000;

#[derive(Debug)]
struct Segment(Arc<Vec<u8>>);

impl Deref for Segment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// What a reader got.
struct Got {
    out: Outflow<Segment>,
    bytes: Vec<u8>,
    next: Lsn,
    /// Chunks as they are, and compressed ones.
    chunks: (usize, usize),
    stuck: bool,
}

/// A forwarder over a log in sealed segments.
struct Node {
    exchange: Exchange<Segment>,
    port: ForwardPort,
    log: TestLog,
    segment: Arc<Vec<u8>>,
    extents: Vec<SealedExtent>,
    readers: BTreeMap<ReaderId, Got>,
    now: Nanos,
}

/// Where each cluster is.
fn registry() -> Registry {
    let mut registry = Registry::default();
    for (id, region) in [(NEAR, "sh"), (FAR, "hz"), (STRANGE, "")] {
        let cluster = Cluster { region: region.into(), ..Cluster::new(id, Transfer::Async) };
        let change = Change { on: registry.version(), by: 1, what: What::Put(cluster) };
        assert!(registry.apply(&change));
    }
    registry
}

impl Node {
    /// Groups with a payload each, and how many of them are in a block.
    fn new(groups: usize, each: usize, payload: impl Fn(&mut u64) -> Vec<u8>) -> Node {
        let (mut log, mut seed) = (TestLog::new(STREAM), 3);
        for _ in 0..groups {
            log.push_payloads(&[payload(&mut seed)]);
        }
        let (bounds, mut segment, mut extents) = (log.bounds(), Vec::new(), Vec::new());
        let lease = Lease::new();
        for at in (0..groups).step_by(each) {
            let (start, end) = (bounds[at], bounds[(at + each).min(groups)]);
            let expect = log.block(&mut segment, start, end);
            let (path, lease) = (Arc::from(Path::new("sealed")), lease.clone());
            extents.push(SealedExtent { path, lease, expect, start, end, ballot: BALLOT });
        }
        let (port, side) = port();
        let (identity, limits) =
            (Identity { cluster: 1, ..Identity::default() }, Limits::default());
        let compressed_from = Some("sh".to_owned());
        let config =
            ForwarderConfig { identity, route: |_, _| 0, cpu: None, limits, compressed_from };
        let mut exchange = Exchange::new(vec![side], &config);
        exchange.on_registry(Arc::new(registry()));
        let (segment, readers) = (Arc::new(segment), BTreeMap::new());
        Node { exchange, port, log, segment, extents, readers, now: Nanos(0) }
    }

    fn open(&mut self, cluster: u32, features: u8, from: Lsn) -> ReaderId {
        let reader = self.exchange.admit(cluster, self.now).unwrap();
        self.exchange.on_features(reader, features);
        let (to, follow, credit_bytes) = (Lsn::MAX, true, 1 << 30);
        let fetch = Fetch { stream: STREAM, from, to, follow, credit_bytes, base: None };
        self.exchange.on_said(reader, FromReader::Fetch(fetch));
        let out = Outflow::new(Vec::new());
        let got = Got { out, bytes: Vec::new(), next: from, chunks: (0, 0), stuck: false };
        self.readers.insert(reader, got);
        reader
    }

    fn answer(&mut self) {
        while let Some(request) = self.port.poll_request() {
            let LocateRequest { id, stream, from, .. } = request;
            let committed = self.log.end();
            let sealed = self.extents.iter().filter(|extent| extent.end > from).take(8).cloned();
            let located = match from >= committed {
                true => Located::NotYet,
                false => Located::Sealed(sealed.collect()),
            };
            self.port.reply(Reply { id, stream, committed, shown: None, base: Lsn(0), located });
        }
    }

    fn load(&mut self, mut load: Load<Segment>) {
        loop {
            match self.exchange.load(&mut load, self.now) {
                Need::Nothing => return,
                Need::Map(_) => {
                    let segment = Segment(self.segment.clone());
                    self.exchange.on_mapped(&mut load, segment, self.now);
                }
                Need::Warm(warming) => self.exchange.on_warmed(&warming, true),
            }
        }
    }

    /// Until nobody gets any more. The most memory that was counted.
    fn run(&mut self) -> u64 {
        let (mut idle, mut peak) = (0, 0);
        // Two questions about one place are not asked at once: the second one waits.
        while idle * TURN_NS < 2 * RETRY_NS {
            self.now = self.now.after(TURN_NS);
            if self.now.0.is_multiple_of(RETRY_NS) {
                self.exchange.on_time(self.now);
            }
            self.answer();
            let mut work = Vec::new();
            let more = self.exchange.take_events(self.now, &mut Vec::new());
            let more = self.exchange.turn(self.now, &mut work) || more;
            idle = if more || !work.is_empty() { 0 } else { idle + 1 };
            for work in work {
                match work {
                    Work::Push { reader, head, body } => {
                        self.readers.get_mut(&reader).unwrap().out.push(head, body);
                    }
                    Work::Load(load) => self.load(load),
                    Work::Ahead(warming) => self.exchange.on_warmed(&warming, true),
                    Work::Abort { .. } => panic!("nobody misbehaves"),
                    Work::Ring { .. } | Work::Probe { .. } => {}
                }
            }
            self.write();
            peak = peak.max(self.exchange.stats().memory);
            assert!(peak <= FORWARD_BYTES_MAX);
        }
        peak
    }

    fn write(&mut self) {
        for (&reader, got) in self.readers.iter_mut().filter(|(_, got)| !got.stuck) {
            loop {
                let next = got.out.next_bytes().to_vec();
                if next.is_empty() {
                    break;
                }
                got.bytes.extend_from_slice(&next);
                let (bytes, frames) = got.out.on_written(next.len());
                self.exchange.on_sent(reader, bytes, frames, self.now);
            }
            got.read(&self.log);
        }
    }

    fn stats(&self) -> Stats {
        self.exchange.stats()
    }
}

impl Got {
    /// Reads whole frames as a standby does: each chunk is what comes next of the log.
    fn read(&mut self, log: &TestLog) {
        let mut at = 0;
        while let Ok(head) = FrameHead::parse(&self.bytes[at..], &FROM_FORWARDER) {
            let frame = &self.bytes[at..at + head.frame_len()];
            at += frame.len();
            let said = FromForwarder::parse(&head, &frame[FRAME_HEAD_BYTES..]).unwrap();
            let FromForwarder::Chunk(chunk) = said else { continue };
            let body = &frame[FRAME_BULK_HEAD_BYTES..];
            let mut records = vec![0; chunk.body_len as usize];
            match chunk.compressed {
                None => records.copy_from_slice(body),
                Some(_) => assert!(decompress(body, &mut records)),
            }
            assert_eq!(chunk.start, log.floor(self.next), "a gap or a repeat");
            assert!(records == log.records(chunk.start, chunk.end));
            self.next = chunk.end;
            match chunk.compressed {
                None => self.chunks.0 += 1,
                Some(_) => self.chunks.1 += 1,
            }
        }
        self.bytes.drain(..at);
    }
}

#[test]
fn only_who_is_in_another_region_and_can_read_it_gets_compressed_chunks() {
    let mut node = Node::new(400, 40, |seed| vec![7; 500 + mix(seed) as usize % 3000]);
    let far = node.open(FAR, FEATURE_LZ4, Lsn(0));
    let plain = [
        node.open(FAR, 0, Lsn(0)),
        node.open(FAR, !FEATURE_LZ4, Lsn(0)),
        node.open(NEAR, FEATURE_LZ4, Lsn(0)),
        node.open(STRANGE, FEATURE_LZ4, Lsn(0)),
        node.open(0, FEATURE_LZ4, Lsn(0)),
    ];
    node.run();
    let end = node.log.end();
    assert!(node.readers.values().all(|got| got.next == end));
    assert!(node.readers[&far].chunks.1 > 5 && node.readers[&far].chunks.0 <= 1);
    for reader in plain {
        assert_eq!(node.readers[&reader].chunks.1, 0);
    }
    let stats = node.stats();
    assert!(stats.bytes_compressed < stats.bytes_plain / 4, "{stats:?}");
    // It moves to the region of the node, and starts again.
    let mut registry = registry();
    let cluster = Cluster { region: "sh".into(), ..Cluster::new(FAR, Transfer::Async) };
    let change = Change { on: registry.version(), by: 1, what: What::Put(cluster) };
    assert!(registry.apply(&change));
    node.exchange.on_registry(Arc::new(registry));
    let again = node.open(FAR, FEATURE_LZ4, Lsn(0));
    node.run();
    assert_eq!((node.readers[&again].next, node.readers[&again].chunks.1), (end, 0));
}

#[test]
fn what_many_readers_get_is_compressed_once() {
    let mut node = Node::new(2000, 40, |seed| vec![7; 100 + mix(seed) as usize % 2000]);
    let bounds = node.log.bounds();
    // All of them at once, each from a place of its own near the start.
    let readers: Vec<ReaderId> =
        (0..100).map(|at| node.open(FAR, FEATURE_LZ4, bounds[at / 2])).collect();
    let peak = node.run();
    assert!(readers.iter().all(|reader| node.readers[reader].next == node.log.end()));
    let chunks: usize = readers.iter().map(|reader| node.readers[reader].chunks.1).sum();
    // A chunk for each block and each part of the grid, and a first one for each place.
    let cells = node.extents.len() + (node.log.end().0 / COMPRESS_GRID_BYTES) as usize + 1;
    let stats = node.stats();
    println!("{chunks} chunks, {cells} of them different, peak {} KiB, {stats:?}", peak >> 10);
    assert!(stats.compressions <= cells as u64 + 2 * 50, "{stats:?}");
    assert!(chunks as u64 > 20 * stats.compressions, "{chunks} chunks, {stats:?}");
}

#[test]
fn readers_that_take_nothing_cannot_hold_more_than_there_is_for_that() {
    // Groups of half a MiB; half of it can be compressed.
    let mut node = Node::new(120, 2, |seed| {
        let random = (0..250_000).map(|_| mix(seed) as u8);
        random.chain([0; 250_000]).collect()
    });
    let bounds = node.log.bounds();
    let readers: Vec<ReaderId> =
        (0..100).map(|at| node.open(FAR, FEATURE_LZ4, bounds[at])).collect();
    node.readers.values_mut().for_each(|got| got.stuck = true);
    let others = [node.open(FAR, FEATURE_LZ4, Lsn(0)), node.open(NEAR, FEATURE_LZ4, Lsn(0))];
    let before = node.stats().memory;
    let peak = node.run();
    // Windows of segments are in it too.
    let windows = (WINDOWS_MAX * PREFAULT_BYTES) as u64;
    println!("peak {} KiB, {:?}", peak >> 10, node.stats());
    assert!(peak > before + COMPRESSED_BYTES_MAX / 2, "{peak}");
    assert!(peak <= before + COMPRESSED_BYTES_MAX + OUTPUT_SHARED_BYTES + windows, "{peak}");
    let sent = |reader: &ReaderId| node.readers[reader].chunks;
    assert!(sent(&others[0]).0 > 0, "what finds no room goes as it is");
    assert!(others.iter().all(|reader| node.readers[reader].next == node.log.end()));
    for reader in readers {
        node.readers.remove(&reader);
        node.exchange.on_closed(reader);
    }
    for reader in others {
        node.readers.remove(&reader);
        node.exchange.on_closed(reader);
    }
    node.exchange.let_go();
    assert_eq!(node.stats().memory, 0, "everything comes back");
}
