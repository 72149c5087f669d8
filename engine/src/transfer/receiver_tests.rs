//! The receiver against the real readers' state machine, with links that break at any time.

use std::collections::{BTreeMap, VecDeque};

use palisade_netio::limits::FRAME_HEAD_BYTES;
use palisade_netio::{FrameHead, HEAD_BYTES, Nanos, Pool, Purpose};
use palisade_wal::{Ballot, BodyBuilder, Boundary, CHAIN_START, GroupKind, Lsn, Origin};

use super::check::{BadChunk, Continuation, continues};
use super::limits::{BEHIND_NS, RETRY_NS};
use super::receiver::{Output, Receiver, ReceiverLimits, State};
use crate::forward::compress::{compress, decompress};
use crate::forward::limits::Limits;
use crate::forward::queue::{Depth, ForwardRequest, LocateRequest, Located, Recent, Reply};
use crate::forward::sender::{Effect, ReaderId, Readers, Source};
use crate::forward::testlog::{TestLog, mix, pool};
use crate::forward::wire::{ChunkHead, End, EndReason, FROM_FORWARDER, FromForwarder, Status};
use crate::paxos::Closed;
use crate::stream::base::Base;

const START: Boundary = Boundary { lsn: Lsn(0), chain: CHAIN_START };

/// One upstream cluster: logs, how far each is committed, and the forwarder's state machine.
struct Upstream {
    readers: Readers,
    pool: Pool,
    logs: BTreeMap<u64, TestLog>,
    committed: BTreeMap<u64, usize>,
    base: BTreeMap<u64, usize>,
    offers_bases: bool,
    now: Nanos,
}

/// A base in memory of a shard.
fn made_base(pool: &mut Pool, stream: u64, from: Boundary, end: Boundary, scn: u64) -> Recent {
    let slot = pool.take(Purpose::Tail, 4096).expect("a slot");
    let mut builder = BodyBuilder::new(&mut pool.bytes_mut(slot)[HEAD_BYTES..]);
    let (ballot, origin) = (Ballot { round: 1, node: 1, incarnation: 1 }, Origin::default());
    builder.begin_group(stream, from.lsn, ballot, GroupKind::Base, origin, 0).unwrap();
    builder.push_entry(&Base::default().encode(), 0, 0).unwrap();
    builder.end_base(scn, end, from.chain);
    let len = builder.finish().len;
    let range = HEAD_BYTES as u32..HEAD_BYTES as u32 + len;
    let records = pool.view(slot, range).expect("a view");
    pool.release(slot);
    Recent { stream, start: from.lsn, end: end.lsn, records }
}

impl Upstream {
    fn new(logs: &BTreeMap<u64, TestLog>, seed: &mut u64) -> Upstream {
        let committed = logs.keys().map(|&s| (s, mix(seed) as usize % 20)).collect();
        let limits = Limits { chunk_bytes: 1500, output_bytes: 4000, ..Limits::default() };
        let readers = Readers::new(limits, 1, |_, _| 0);
        let (base, offers_bases, now) = (BTreeMap::new(), false, Nanos(0));
        let (pool, logs) = (pool(), logs.clone());
        Upstream { readers, pool, logs, committed, base, offers_bases, now }
    }

    fn end(&self, stream: u64) -> Lsn {
        self.logs[&stream].bounds()[self.committed[&stream]]
    }

    fn commit(&mut self, stream: u64, groups: usize) {
        let most = self.logs[&stream].bounds().len() - 1;
        let committed = self.committed.get_mut(&stream).unwrap();
        *committed = (*committed + groups).min(most);
        self.readers.on_committed(stream, self.end(stream), Lsn(0));
    }

    fn locate(&mut self, request: &LocateRequest) -> Reply {
        let LocateRequest { id, stream, from, .. } = *request;
        let Some(log) = self.logs.get(&stream) else {
            let (committed, base) = (Lsn(0), Lsn(0));
            let located = Located::Unknown;
            return Reply { id, stream, committed, shown: None, base, located };
        };
        let bounds = log.bounds();
        let (upto, base) = (self.committed[&stream], bounds[*self.base.get(&stream).unwrap_or(&0)]);
        let committed = bounds[upto];
        let located = if from >= committed {
            Located::NotYet
        } else if from < base {
            let end = Boundary { lsn: base, chain: log.chain(base) };
            let base = match request.depth {
                Depth::Based if self.offers_bases => {
                    let from = Boundary { lsn: from, chain: request.chain };
                    Some(made_base(&mut self.pool, stream, from, end, 1))
                }
                _ => None,
            };
            Located::Recycled(base)
        } else {
            let at = bounds.iter().rposition(|&start| start <= from).unwrap();
            let (start, end) = (bounds[at], bounds[(at + 7).min(upto)]);
            let records = log.view(&mut self.pool, start, end);
            Located::Active(Recent { stream, start, end, records })
        };
        Reply { id, stream, committed, shown: None, base, located }
    }

    fn pump(&mut self, reader: ReaderId, wire: &mut VecDeque<(FromForwarder, Vec<u8>)>) {
        let mut effects = Vec::new();
        while self.readers.poll(self.now, 4, &mut effects) || !effects.is_empty() {
            for effect in effects.drain(..) {
                let (to, sent) = match effect {
                    Effect::Send { reader, head, source: Source::View { view, range } } => {
                        (reader, (FromForwarder::Chunk(head), view[range].to_vec()))
                    }
                    Effect::Send { reader, head, source: Source::Compressed(made) } => {
                        (reader, (FromForwarder::Chunk(head), made.bytes().to_vec()))
                    }
                    Effect::Say { reader, frame } => {
                        let head = FrameHead::parse(&frame, &FROM_FORWARDER).unwrap();
                        let rest = &frame[FRAME_HEAD_BYTES..];
                        (reader, (FromForwarder::parse(&head, rest).unwrap(), rest.to_vec()))
                    }
                    Effect::Ask { request: ForwardRequest::Locate(request), .. } => {
                        let reply = self.locate(&request);
                        self.readers.on_located(&reply);
                        continue;
                    }
                    Effect::Ask { .. } => continue,
                    other => panic!("{other:?}"),
                };
                if to == reader {
                    wire.push_back(sent);
                }
            }
            self.pool.collect();
        }
    }
}

/// As a shard does it.
fn take_chunk(
    receiver: &mut Receiver,
    head: &ChunkHead,
    body: &[u8],
    now: Nanos,
    out: &mut Vec<Output>,
) {
    assert_eq!(body.len(), head.wire_len() as usize);
    if head.compressed.is_none() || !receiver.takes(head) {
        return receiver.on_chunk(head, body, now, out);
    }
    let mut records = vec![0; head.body_len as usize];
    match decompress(body, &mut records) {
        true => receiver.on_chunk(head, &records, now, out),
        false => receiver.on_damaged(head, now, out),
    }
}

struct Link {
    endpoint: usize,
    reader: ReaderId,
    wire: VecDeque<(FromForwarder, Vec<u8>)>,
}

struct World {
    seed: u64,
    now: Nanos,
    upstreams: Vec<Upstream>,
    receiver: Receiver,
    limits: ReceiverLimits,
    link: Option<Link>,
    dialing: Option<usize>,
    /// What the standby holds of each stream that it leads.
    imported: BTreeMap<u64, Boundary>,
    /// Handed out to be imported, in order.
    importing: BTreeMap<u64, VecDeque<Boundary>>,
    out: Vec<Output>,
}

impl World {
    fn new(mut seed: u64, streams: u64) -> World {
        let logs: BTreeMap<u64, TestLog> =
            (1..=streams).map(|s| (s, TestLog::random(s, 50, &mut seed))).collect();
        let upstreams = (0..3).map(|_| Upstream::new(&logs, &mut seed)).collect();
        let limits = ReceiverLimits { window: 8000, window_first: 600, total: 12_000 };
        World {
            seed,
            now: Nanos(1),
            upstreams,
            receiver: Receiver::new(limits, 3, seed | 1),
            limits,
            link: None,
            dialing: None,
            imported: BTreeMap::new(),
            importing: BTreeMap::new(),
            out: Vec::new(),
        }
    }

    fn pick(&mut self, below: usize) -> usize {
        mix(&mut self.seed) as usize % below
    }

    fn do_outputs(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        for output in out.drain(..) {
            match output {
                Output::Dial { endpoint } => self.dialing = Some(endpoint),
                Output::Hangup => self.cut(),
                Output::Import { stream, start, end, .. } => {
                    let queue = self.importing.entry(stream).or_default();
                    let last = queue.back().map_or(self.imported[&stream].lsn, |b| b.lsn);
                    assert_eq!(start, last, "a gap or a repeat");
                    let log = &self.upstreams[0].logs[&stream];
                    assert_eq!(log.chain(end.lsn), end.chain);
                    queue.push_back(end);
                }
                Output::Fetch(fetch) => {
                    assert!(fetch.credit_bytes <= self.limits.window);
                    let link = self.link.as_ref().unwrap();
                    self.upstreams[link.endpoint].readers.on_fetch(link.reader, &fetch);
                }
                Output::Credit { stream, bytes } => {
                    let link = self.link.as_ref().unwrap();
                    self.upstreams[link.endpoint].readers.on_credit(link.reader, stream, bytes);
                }
                Output::Stop { stream } => {
                    let link = self.link.as_ref().unwrap();
                    self.upstreams[link.endpoint].readers.on_stop(link.reader, stream);
                }
                Output::Skip { .. } | Output::State { .. } => {}
            }
        }
    }

    fn cut(&mut self) {
        self.dialing = None;
        if let Some(link) = self.link.take() {
            self.upstreams[link.endpoint].readers.on_closed(link.reader);
        }
    }

    fn receive(&mut self) {
        let Some(link) = self.link.as_mut() else { return };
        let upstream = &mut self.upstreams[link.endpoint];
        upstream.pump(link.reader, &mut link.wire);
        let Some((said, body)) = link.wire.pop_front() else { return };
        upstream.now = self.now;
        let (receiver, out, now) = (&mut self.receiver, &mut self.out, self.now);
        match said {
            FromForwarder::Chunk(head) => {
                upstream.readers.on_sent(link.reader, 512 + body.len() as u64, 1, now);
                take_chunk(receiver, &head, &body, now, out);
                let given = |o: &Output| matches!(o, Output::Import { .. } | Output::Skip { .. });
                assert_eq!(out.iter().filter(|&o| given(o)).count(), 1);
                assert!(!out.contains(&Output::Hangup), "credit was exceeded");
            }
            other => {
                let len = (FRAME_HEAD_BYTES + body.len()) as u64;
                upstream.readers.on_sent(link.reader, len, 1, now);
                match other {
                    FromForwarder::End(end) => receiver.on_end(&end, now, out),
                    FromForwarder::Status(status) => receiver.on_status(&status, now, out),
                    FromForwarder::Beat(beat) => receiver.on_beat(beat.role_epoch, now),
                    FromForwarder::Chunk(_) => unreachable!(),
                }
            }
        }
        self.do_outputs();
    }

    fn import(&mut self) {
        let streams: Vec<u64> = self.importing.keys().copied().collect();
        for stream in streams {
            let Some(end) = self.importing.get_mut(&stream).and_then(VecDeque::pop_front) else {
                continue;
            };
            self.imported.insert(stream, end);
            self.receiver.on_imported(stream, end.lsn, &mut self.out);
            self.do_outputs();
        }
    }

    fn lead(&mut self, stream: u64) {
        // What was handed out and not imported is lost with the leadership.
        self.importing.remove(&stream);
        let at = *self.imported.entry(stream).or_insert(START);
        self.receiver.on_leading(stream, at, self.now, &mut self.out);
        self.do_outputs();
    }

    fn time(&mut self, ns: u64) {
        self.now = self.now.after(ns);
        for upstream in &mut self.upstreams {
            upstream.readers.on_time(self.now);
        }
        self.receiver.on_time(self.now, &mut self.out);
        self.do_outputs();
    }

    fn dial(&mut self, works: bool) {
        let Some(endpoint) = self.dialing.take() else { return };
        if works {
            let readers = &mut self.upstreams[endpoint].readers;
            let reader = readers.on_open(1, self.now).unwrap();
            // By one upstream always, by another now and then.
            readers.on_compressed(reader, endpoint == 1 || endpoint == 2 && self.now.0 % 2 == 1);
            self.link = Some(Link { endpoint, reader, wire: VecDeque::new() });
            self.receiver.on_link_up(self.now, &mut self.out);
        } else {
            self.receiver.on_link_down(self.now, &mut self.out);
        }
        self.do_outputs();
    }

    fn step(&mut self, streams: u64) {
        let stream = 1 + self.pick(streams as usize) as u64;
        match self.pick(40) {
            0 => self.lead(stream),
            1 if self.importing.get(&stream).is_none_or(VecDeque::is_empty) => {
                self.receiver.on_not_leading(stream, &mut self.out);
                self.do_outputs();
            }
            2 => {
                self.cut();
                self.receiver.on_link_down(self.now, &mut self.out);
                self.do_outputs();
            }
            3..=6 => {
                let (at, groups) = (self.pick(3), self.pick(4));
                self.upstreams[at].commit(stream, groups);
            }
            7..=9 => {
                let works = self.pick(4) > 0;
                self.dial(works);
            }
            10..=14 => self.import(),
            15..=18 => {
                let ns = self.pick(300_000_000) as u64;
                self.time(ns);
            }
            _ => self.receive(),
        }
    }
}

#[test]
fn every_stream_gets_the_committed_log_without_gap_or_repeat_whatever_breaks() {
    for seed in 0..60 {
        let streams = 1 + seed % 6;
        let mut world = World::new(seed, streams);
        (0..3000).for_each(|_| world.step(streams));
        (1..=streams).for_each(|stream| world.lead(stream));
        for at in 0..3 {
            (1..=streams).for_each(|stream| world.upstreams[at].commit(stream, 50));
        }
        for _ in 0..4000 {
            world.time(20_000_000);
            world.dial(true);
            (0..4).for_each(|_| world.receive());
            world.import();
        }
        for stream in 1..=streams {
            let report = world.receiver.report(stream).unwrap();
            let end = world.upstreams[0].end(stream);
            assert_eq!(report.imported, end, "seed {seed} stream {stream}: {report:?}");
            assert_eq!(report.state, State::Sync, "{report:?}");
        }
    }
}

#[test]
fn another_log_is_reported_and_the_other_streams_go_on() {
    let mut world = World::new(9, 2);
    let mut fork = TestLog::new(1);
    fork.push(&[1]);
    let end = fork.end();
    let wrong = Boundary { lsn: end, chain: fork.chain(end) };
    let first = world.upstreams[0].logs[&1].bounds()[1];
    let wrong = Boundary { lsn: first, ..wrong };
    world.imported.insert(1, wrong);
    for stream in 1..=2 {
        (0..3).for_each(|at| world.upstreams[at].commit(stream, 50));
        world.lead(stream);
    }
    for _ in 0..300 {
        world.time(20_000_000);
        world.dial(true);
        (0..4).for_each(|_| world.receive());
        world.import();
    }
    let report = world.receiver.report(1).unwrap();
    assert_eq!((report.state, report.position), (State::LogNotMatch, first));
    assert_eq!(report.state.name(), "log-not-match");
    assert_eq!(world.receiver.report(2).unwrap().imported, world.upstreams[0].end(2));
}

#[test]
fn a_gap_at_one_upstream_is_filled_from_another() {
    let mut world = World::new(4, 1);
    (0..3).for_each(|at| world.upstreams[at].commit(1, 50));
    for at in 0..2 {
        world.upstreams[at].base.insert(1, 30);
    }
    world.lead(1);
    let mut gap = false;
    for _ in 0..4000 {
        world.time(20_000_000);
        world.dial(true);
        (0..4).for_each(|_| world.receive());
        world.import();
        gap |= world.receiver.report(1).unwrap().state == State::SourceHasAGap;
    }
    assert!(gap);
    assert_eq!(world.receiver.report(1).unwrap().imported, world.upstreams[2].end(1));
}

/// A world in which every upstream has let stream 2 go below its group 30, the standby having
/// everything below group `has`.
fn recycled(has: usize) -> World {
    let mut world = World::new(4, 2);
    let log = &world.upstreams[0].logs[&2];
    let lsn = log.bounds()[has];
    let end = Boundary { lsn, chain: if has > 0 { log.chain(lsn) } else { CHAIN_START } };
    world.imported.insert(2, end);
    for upstream in &mut world.upstreams {
        upstream.commit(2, 50);
        (upstream.offers_bases, _) = (true, upstream.base.insert(2, 30));
    }
    world.lead(2);
    world
}

/// Long enough for every upstream to be asked.
fn ask_all(world: &mut World) {
    (0..8).for_each(|_| settle(world));
}

#[test]
fn a_stream_with_nothing_yet_begins_at_the_base_of_its_upstream() {
    let mut world = recycled(0);
    ask_all(&mut world);
    let report = world.receiver.report(2).unwrap();
    assert_eq!((report.state, report.imported), (State::Sync, world.upstreams[0].end(2)));
}

/// A base is for want of anything better: whoever has the first byte goes before.
#[test]
fn a_stream_with_nothing_yet_begins_anew_only_where_nobody_has_its_begin() {
    for whole in 0..3 {
        let mut world = recycled(0);
        world.upstreams[whole].base.insert(2, 0);
        let (mut begun, second) = (false, world.upstreams[0].logs[&2].bounds()[1]);
        for _ in 0..4000 {
            world.time(20_000_000);
            world.dial(true);
            world.receive();
            world.import();
            let at = world.imported[&2].lsn;
            begun |= at > Lsn::ZERO && at <= world.upstreams[0].logs[&2].bounds()[29];
        }
        assert!(begun && second > Lsn::ZERO, "it was begun at the base, with {whole} whole");
    }
}

/// Stream 1 says which streams exist: all of it is needed.
#[test]
fn the_clusters_own_streams_have_no_base() {
    let mut world = recycled(0);
    for upstream in &mut world.upstreams {
        upstream.commit(1, 50);
        upstream.base.insert(1, 30);
    }
    world.lead(1);
    world.receiver.on_rebuild(1, &mut world.out);
    world.do_outputs();
    ask_all(&mut world);
    let report = world.receiver.report(1).unwrap();
    assert_eq!((report.state, report.position), (State::SourceHasAGap, Lsn::ZERO));
}

/// What it has is let go only by the word of an operator.
#[test]
fn a_stream_that_has_something_begins_anew_when_it_is_told_to() {
    let mut world = recycled(10);
    ask_all(&mut world);
    let report = world.receiver.report(2).unwrap();
    let has = world.upstreams[0].logs[&2].bounds()[10];
    assert_eq!((report.state, report.position), (State::SourceHasAGap, has));
    assert!(report.state.action().contains("palisade standby rebuild"), "{report:?}");
    world.receiver.on_rebuild(2, &mut world.out);
    world.do_outputs();
    settle(&mut world);
    let report = world.receiver.report(2).unwrap();
    assert_eq!((report.state, report.imported), (State::Sync, world.upstreams[0].end(2)));
}

/// The upstream was built anew itself: its log goes on further up than this one ends.
#[test]
fn a_base_that_was_not_asked_for_is_not_taken() {
    let mut world = recycled(10);
    for _ in 0..20 {
        world.time(20_000_000);
        world.dial(true);
    }
    let (head, body, end) = base_chunk(&world, 1);
    assert_eq!(continues(&head, &body, end).unwrap().end.lsn, head.end, "it is a good one");
    let lie = ChunkHead { base: false, ..head };
    assert_eq!(continues(&lie, &body, end), Err(BadChunk::Damaged));
    let fork = Boundary { chain: end.chain + 1, ..end };
    assert_eq!(continues(&head, &body, fork), Err(BadChunk::NotMatch(end.lsn)));
    world.receiver.on_chunk(&head, &body, world.now, &mut world.out);
    assert!(world.out.contains(&Output::Skip { stream: 2 }));
    let report = world.receiver.report(2).unwrap();
    assert_eq!((report.state, report.position), (State::SourceHasAGap, end.lsn));
}

/// A base for group 10 of stream 2, up to group 30, and the end of the log that it is for.
fn base_chunk(world: &World, scn: u64) -> (ChunkHead, Vec<u8>, Boundary) {
    let mut pool = pool();
    let log = &world.upstreams[0].logs[&2];
    let (from, lsn) = (log.bounds()[10], log.bounds()[30]);
    let after = Boundary { lsn: from, chain: log.chain(from) };
    let base = made_base(&mut pool, 2, after, Boundary { lsn, chain: log.chain(lsn) }, scn);
    let body = base.records.to_vec();
    let head = ChunkHead {
        stream: 2,
        start: from,
        end: lsn,
        committed: lsn,
        headers_crc: crc32c::crc32c(&body[..palisade_wal::RECORD_HEADER_BYTES]),
        role_epoch: 1,
        body_len: body.len() as u32,
        base: true,
        compressed: None,
    };
    (head, body, after)
}

/// A base that is above a hold may stand for groups that are not: nothing is complete up to the
/// hold then.
#[test]
fn a_base_above_the_hold_says_nothing_of_what_is_below() {
    let mut world = recycled(10);
    hold(&mut world, Some(5000));
    world.receiver.on_rebuild(2, &mut world.out);
    for _ in 0..20 {
        world.time(20_000_000);
        world.dial(true);
    }
    let (head, body, after) = base_chunk(&world, 5001);
    world.receiver.on_chunk(&head, &body, world.now, &mut world.out);
    let report = world.receiver.report(2).unwrap();
    assert_eq!((report.state, report.position), (State::Suspended, after.lsn));
    assert_eq!(world.receiver.held_at(2), None);
    world.out.clear();
    // Where a group is, all below it that was allowed is there.
    let mut world = recycled(10);
    world.upstreams.iter_mut().for_each(|upstream| upstream.base.clear());
    let until = world.upstreams[0].logs[&2].bounds()[20].0;
    hold(&mut world, Some(until));
    settle(&mut world);
    let end = world.upstreams[0].logs[&2].bounds()[20];
    assert_eq!(world.receiver.held_at(2), Some(Closed { scn: until, end }));
}

/// Until nothing moves any more.
fn settle(world: &mut World) {
    for _ in 0..400 {
        world.time(20_000_000);
        world.dial(true);
        (0..4).for_each(|_| world.receive());
        world.import();
    }
}

/// A small group in front leaves a window that is almost full, too full to be worth a grant, and
/// still too small for the next group (simulator, seed 1795327089000154).
#[test]
fn a_group_of_any_size_fits_the_window_whatever_came_before_it() {
    for large in (100..5900).step_by(97) {
        let mut world = World::new(large as u64, 1);
        for upstream in &mut world.upstreams {
            let mut log = TestLog::new(1);
            for _ in 0..5 {
                log.push(&[40]);
                log.push(&[large]);
            }
            upstream.logs.insert(1, log);
        }
        (0..3).for_each(|at| world.upstreams[at].commit(1, 50));
        world.lead(1);
        settle(&mut world);
        let report = world.receiver.report(1).unwrap();
        assert_eq!(report.imported, world.upstreams[0].end(1), "group of {large}: {report:?}");
    }
}

fn hold(world: &mut World, hold: Option<u64>) {
    world.receiver.on_hold(hold, world.now, &mut world.out);
    world.do_outputs();
}

/// Where an operator holds it, each stream of the embedder ends at the last group that is allowed,
/// whatever breaks meanwhile; the catalogue goes on, and so does everything after the hold.
#[test]
fn a_held_standby_imports_nothing_above_the_hold() {
    for seed in 0..30 {
        let streams = 3;
        let mut world = World::new(seed, streams);
        (1..=streams).for_each(|stream| world.lead(stream));
        let bounds = world.upstreams[0].logs[&2].bounds();
        // The SCN of a group here is one above its start.
        let until = bounds[10 + seed as usize].0 + 1;
        hold(&mut world, Some(until));
        (0..2000).for_each(|_| world.step(streams));
        for at in 0..3 {
            (1..=streams).for_each(|stream| world.upstreams[at].commit(stream, 50));
        }
        // Who leads anew is held too.
        (1..=streams).for_each(|stream| world.lead(stream));
        settle(&mut world);
        for stream in 1..=streams {
            let (report, log) = (world.receiver.report(stream).unwrap(), &world.upstreams[0]);
            let bounds = log.logs[&stream].bounds();
            let allowed = bounds[..bounds.len() - 1].iter().rposition(|start| start.0 < until);
            let (end, state) = match stream {
                1 => (log.end(1), State::Sync),
                _ => (bounds[allowed.unwrap() + 1], State::Suspended),
            };
            assert_eq!((report.imported, report.state), (end, state), "seed {seed} {report:?}");
        }
        hold(&mut world, Some(0));
        world.lead(2);
        settle(&mut world);
        assert_eq!(world.receiver.report(2).unwrap().state, State::Suspended);
        hold(&mut world, None);
        settle(&mut world);
        for stream in 1..=streams {
            let report = world.receiver.report(stream).unwrap();
            let end = world.upstreams[0].end(stream);
            assert_eq!((report.imported, report.state), (end, State::Sync), "seed {seed}");
        }
    }
}

#[test]
fn a_refusal_is_shown_with_its_reason_and_other_upstreams_are_asked() {
    let mut world = World::new(7, 1);
    (0..3).for_each(|at| world.upstreams[at].commit(1, 50));
    world.lead(1);
    let mut asked = Vec::new();
    for _ in 0..3 {
        while world.dialing.is_none() {
            world.time(20_000_000);
        }
        asked.extend(world.dialing.take());
        world.receiver.on_refused("not registered", world.now, &mut world.out);
        world.do_outputs();
        let report = world.receiver.report(1).unwrap();
        assert_eq!(
            (report.state, report.reason.as_str()),
            (State::SourceRefuses, "not registered")
        );
    }
    assert_eq!(asked, [0, 1, 2]);
    settle(&mut world);
    assert_eq!(world.receiver.report(1).unwrap().imported, world.upstreams[0].end(1));
}

/// When it does that, while nothing more is heard.
fn until_due(receiver: &mut Receiver, from: Nanos, is_due: impl Fn(&Output) -> bool) -> Nanos {
    let (mut now, mut out) = (from, Vec::new());
    while !out.iter().any(&is_due) {
        let due = receiver.next_time().expect("it tries again");
        assert!(due <= from.after(RETRY_NS), "not before {due:?}");
        now = due.max(now);
        receiver.on_beat(1, now);
        receiver.on_time(now, &mut out);
    }
    now
}

/// What goes over by itself: no reason to look for another log, nor to wake an operator.
#[test]
fn what_passes_is_not_told_as_what_lasts() {
    let (mut receiver, head, _) = compressed();
    let (mut now, mut out) = (Nanos(1), Vec::new());
    let passes = |receiver: &Receiver, what: &str| {
        let state = receiver.report(1).expect("it is received").state;
        assert!(matches!(state, State::Wait | State::CheckNetwork), "{what}: {state:?}");
    };
    let is_fetch = |said: &Output| matches!(said, Output::Fetch(_));
    // A chunk is lost on its way: the rest is asked for again at once.
    let mut log = TestLog::new(1);
    (0..5).for_each(|_| drop(log.push(&[400]).to_vec()));
    let start = log.bounds()[2];
    let records = log.records(start, log.end());
    let (headers_crc, body_len) = (log.headers_crc(start, log.end()), records.len() as u32);
    let late = ChunkHead { start, headers_crc, body_len, compressed: None, ..head };
    receiver.on_chunk(&late, records, now, &mut out);
    passes(&receiver, "a gap");
    let (committed, base) = (Lsn::ZERO, Lsn::ZERO);
    let mut end = End { stream: 1, reason: EndReason::Stopped, committed, base };
    out.clear();
    receiver.on_end(&end, now, &mut out);
    assert!(out.iter().any(is_fetch), "{out:?}");
    // The rest comes, and then from a new leader that has not heard yet how far all is committed.
    let (start, body) = (START.lsn, log.records(START.lsn, log.end()));
    let (headers_crc, body_len) = (log.headers_crc(start, log.end()), body.len() as u32);
    let whole = ChunkHead { start, headers_crc, body_len, ..late };
    receiver.on_chunk(&whole, body, now, &mut out);
    let status = Status { stream: 1, committed: Lsn(8), base };
    for _ in 0..5 {
        receiver.on_status(&status, now, &mut out);
        assert_eq!(receiver.report(1).map(|report| report.state), Some(State::Sync));
        now = now.after(BEHIND_NS / 5);
    }
    // It has no room, or it stops, or nobody is there: it is asked again, the same one if need be.
    end.reason = EndReason::Busy;
    receiver.on_end(&end, now, &mut out);
    passes(&receiver, "busy");
    now = until_due(&mut receiver, now, is_fetch);
    for reason in [EndReason::ShuttingDown, EndReason::Stopped] {
        match reason {
            EndReason::Stopped => receiver.on_link_down(now, &mut Vec::new()),
            _ => receiver.on_end(&End { reason, ..end }, now, &mut Vec::new()),
        }
        passes(&receiver, "no connection");
        now = until_due(&mut receiver, now, |said| *said == Output::Dial { endpoint: 0 });
        let mut out = Vec::new();
        receiver.on_link_up(now, &mut out);
        assert!(out.iter().any(is_fetch), "{out:?}");
        passes(&receiver, "asked");
    }
}

#[test]
fn a_chunk_is_checked_whole() {
    let mut log = TestLog::new(1);
    for len in [10, 20, 30, 40] {
        log.push(&[len]);
    }
    let bounds = log.bounds();
    let body = log.records(bounds[0], bounds[4]).to_vec();
    let head = ChunkHead {
        base: false,
        stream: 1,
        start: bounds[0],
        end: bounds[4],
        committed: bounds[4],
        headers_crc: log.headers_crc(bounds[0], bounds[4]),
        role_epoch: 1,
        body_len: body.len() as u32,
        compressed: None,
    };
    let at = |lsn| Boundary { lsn, chain: log.chain(lsn) };
    let whole = continues(&head, &body, START).unwrap();
    let starts = |found: &Continuation| found.metas.iter().map(|m| m.lsn).collect::<Vec<_>>();
    assert_eq!((starts(&whole), whole.end), (bounds[..4].to_vec(), at(bounds[4])));
    let part = continues(&head, &body, at(bounds[2])).unwrap();
    assert_eq!((starts(&part), part.end), (bounds[2..4].to_vec(), at(bounds[4])));
    assert!(continues(&head, &body, at(bounds[4])).unwrap().metas.is_empty());
    let other = Boundary { chain: 1, ..at(bounds[1]) };
    assert_eq!(continues(&head, &body, other), Err(BadChunk::NotMatch(bounds[1])));
    let inside = Boundary { lsn: Lsn(bounds[1].0 + 8), chain: 1 };
    assert_eq!(continues(&head, &body, inside), Err(BadChunk::NotMatch(bounds[1])));
    let late =
        ChunkHead { start: bounds[1], headers_crc: log.headers_crc(bounds[1], bounds[4]), ..head };
    let tail = log.records(bounds[1], bounds[4]);
    let late = ChunkHead { body_len: tail.len() as u32, ..late };
    assert_eq!(continues(&late, tail, START), Err(BadChunk::Gap(bounds[1])));
    let longer = ChunkHead { end: Lsn(bounds[4].0 + 8), ..head };
    assert_eq!(continues(&longer, &body, START), Err(BadChunk::Damaged));
    for at in (0..body.len()).step_by(3) {
        let mut bad = body.clone();
        bad[at] ^= 0x10;
        assert_eq!(continues(&head, &bad, START), Err(BadChunk::Damaged), "byte {at}");
    }
}

#[test]
fn a_chunk_with_an_scn_that_nothing_can_follow_is_refused() {
    use palisade_wal::{Ballot, BodyBuilder, GroupKind, Origin};
    for (scn, taken) in [(1 << 63, true), (u64::MAX, false)] {
        let mut bytes = vec![0; 4096];
        let mut builder = BodyBuilder::new(&mut bytes);
        let origin = Origin { role_epoch: 1, cluster: 1, ballot: Ballot::NONE };
        builder.begin_group(1, START.lsn, Ballot::NONE, GroupKind::Data, origin, 0).unwrap();
        builder.push_entry(b"late", 0, 0).unwrap();
        let end = builder.end_group(scn, START.chain).end;
        let body = builder.finish();
        let head = ChunkHead {
            base: false,
            stream: 1,
            start: START.lsn,
            end,
            committed: end,
            headers_crc: body.headers_crc,
            role_epoch: 1,
            body_len: body.len,
            compressed: None,
        };
        let found = continues(&head, &bytes[..body.len as usize], START);
        assert_eq!(found.is_ok(), taken, "{found:?}");
    }
}

/// A log that is fetched, and one chunk of it as it comes over a border.
fn compressed() -> (Receiver, ChunkHead, Vec<u8>) {
    let mut log = TestLog::new(1);
    for _ in 0..5 {
        log.push(&[400]);
    }
    let (start, end) = (START.lsn, log.end());
    let body = log.records(start, end).to_vec();
    let bytes = compress(&body).unwrap();
    let (headers_crc, role_epoch) = (log.headers_crc(start, end), 1);
    let (body_len, compressed) = (body.len() as u32, Some(bytes.len() as u32));
    let head = ChunkHead {
        stream: 1,
        start,
        end,
        committed: end,
        headers_crc,
        role_epoch,
        body_len,
        base: false,
        compressed,
    };
    let (mut receiver, mut out) = (Receiver::new(ReceiverLimits::default(), 1, 7), Vec::new());
    receiver.on_leading(1, START, Nanos(1), &mut out);
    receiver.on_link_up(Nanos(1), &mut out);
    assert!(out.iter().any(|said| matches!(said, Output::Fetch(_))), "{out:?}");
    (receiver, head, bytes)
}

#[test]
fn a_compressed_chunk_is_imported_and_counts_as_its_records() {
    let (mut receiver, head, bytes) = compressed();
    let mut out = Vec::new();
    take_chunk(&mut receiver, &head, &bytes, Nanos(2), &mut out);
    let end = |said: &Output| matches!(said, Output::Import { end, .. } if end.lsn == head.end);
    assert!(out.iter().any(end), "{out:?}");
    // More than the credit is not looked at, however little comes.
    let (mut receiver, head, bytes) = compressed();
    let more = ChunkHead { body_len: 3 << 20, ..head };
    assert!(!receiver.takes(&more));
    take_chunk(&mut receiver, &more, &bytes, Nanos(2), &mut out);
    assert!(out.contains(&Output::Hangup), "{out:?}");
}

#[test]
fn hostile_compressed_chunks_are_damage_of_the_source() {
    let (_, head, good) = compressed();
    let longer = ChunkHead { body_len: head.body_len + 8, ..head };
    let shorter = ChunkHead { body_len: head.body_len - 8, ..head };
    let cut = ChunkHead { compressed: Some(good.len() as u32 / 2), ..head };
    let junk = vec![0xA5; good.len()];
    let half = good[..good.len() / 2].to_vec();
    let all = [(longer, &good), (shorter, &good), (head, &junk), (cut, &half)];
    for (head, bytes) in all {
        let ((mut receiver, ..), mut out) = (compressed(), Vec::new());
        take_chunk(&mut receiver, &head, bytes, Nanos(2), &mut out);
        assert!(out.contains(&Output::Skip { stream: 1 }), "{out:?}");
        assert!(!out.iter().any(|said| matches!(said, Output::Import { .. })), "{out:?}");
        let report = receiver.report(1).unwrap();
        assert_eq!(report.state, State::SourceDamaged);
        assert_eq!(report.reason, BadChunk::Compressed.to_string());
        assert!(out.contains(&Output::Stop { stream: 1 }), "no more of it is wanted");
    }
    // What decompresses is checked as if it had come so.
    let (mut receiver, head, good) = compressed();
    let mut records = vec![0; head.body_len as usize];
    assert!(decompress(&good, &mut records));
    records[100] ^= 1;
    let bytes = compress(&records).unwrap();
    let head = ChunkHead { compressed: Some(bytes.len() as u32), ..head };
    take_chunk(&mut receiver, &head, &bytes, Nanos(2), &mut Vec::new());
    assert_eq!(receiver.report(1).unwrap().reason, BadChunk::Damaged.to_string());
}
