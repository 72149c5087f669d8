//! The readers' state machine against a virtual driver: logs in memory, events in any order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use palisade_netio::{Nanos, Pool};
use palisade_wal::Lsn;

use super::compress::decompress;
use super::cut::{block_body, cut};
use super::limits::Limits;
use super::queue::{ForwardRequest, Lease, LocateRequest, Located, Recent, Reply, SealedExtent};
use super::sender::{Effect, ReaderId, Readers, Source};
use super::testlog::{BALLOT, TestLog, groups, mix, pool};
use super::wire::{EndReason, FROM_FORWARDER, Fetch, FromForwarder};
use palisade_netio::FrameHead;
use palisade_netio::limits::FRAME_HEAD_BYTES;

/// A shard that knows a few logs: parts in sealed blocks, the rest in memory.
struct Shard {
    pool: Pool,
    logs: BTreeMap<u64, TestLog>,
    /// Groups of each log that are committed.
    committed: BTreeMap<u64, usize>,
    segment: Vec<u8>,
    extents: BTreeMap<u64, Vec<SealedExtent>>,
    lease: Lease,
    watched: Vec<u64>,
}

impl Shard {
    fn new(streams: u64, count: usize, seed: &mut u64) -> Shard {
        let mut shard = Shard {
            pool: pool(),
            logs: BTreeMap::new(),
            committed: BTreeMap::new(),
            segment: Vec::new(),
            extents: BTreeMap::new(),
            lease: Lease::new(),
            watched: Vec::new(),
        };
        for stream in 1..=streams {
            let log = TestLog::random(stream, count, seed);
            let (bounds, mut at) = (log.bounds(), 0);
            let mut extents = Vec::new();
            while at < count / 2 {
                let next = at + 1 + mix(seed) as usize % 4;
                let (start, end) = (bounds[at], bounds[next]);
                // Some blocks go on with a group that was voided: it follows, and does not count.
                let expect = match mix(seed) % 3 {
                    0 => {
                        let fork = log.fork(end);
                        fork.block(&mut shard.segment, start, fork.end())
                    }
                    _ => log.block(&mut shard.segment, start, end),
                };
                let (path, lease) = (Arc::from(Path::new("sealed")), shard.lease.clone());
                extents.push(SealedExtent { path, lease, expect, start, end, ballot: BALLOT });
                at = next;
            }
            shard.extents.insert(stream, extents);
            shard.committed.insert(stream, mix(seed) as usize % count);
            shard.logs.insert(stream, log);
        }
        shard
    }

    fn committed(&self, stream: u64) -> Lsn {
        self.logs[&stream].bounds()[self.committed[&stream]]
    }

    fn recent(&mut self, stream: u64, from: usize, to: usize) -> Recent {
        let log = &self.logs[&stream];
        let (start, end) = (log.bounds()[from], log.bounds()[to]);
        Recent { stream, start, end, records: log.view(&mut self.pool, start, end) }
    }

    fn locate(&mut self, request: &LocateRequest, seed: &mut u64) -> Reply {
        let LocateRequest { id, stream, from, .. } = *request;
        let (shown, base) = (None, Lsn(0));
        let reply = |committed, located| Reply { id, stream, committed, shown, base, located };
        if !self.logs.contains_key(&stream) {
            return reply(Lsn(0), Located::Unknown);
        }
        let committed = self.committed(stream);
        if from >= committed {
            return reply(committed, Located::NotYet);
        }
        if mix(seed).is_multiple_of(8) {
            return reply(committed, Located::Busy);
        }
        let sealed: Vec<_> =
            self.extents[&stream].iter().filter(|e| e.end > from).take(3).cloned().collect();
        if !sealed.is_empty() && sealed[0].start <= from {
            return reply(committed, Located::Sealed(sealed));
        }
        let bounds = self.logs[&stream].bounds();
        let at = bounds.iter().rposition(|&start| start <= from).unwrap();
        let to = (at + 1 + mix(seed) as usize % 5).min(self.committed[&stream]);
        let recent = self.recent(stream, at, to);
        reply(committed, Located::Active(recent))
    }
}

/// What one reader asked for and got.
struct Client {
    id: ReaderId,
    wants: BTreeMap<u64, Got>,
    unsent: Vec<(u64, usize)>,
}

struct Got {
    fetch: Fetch,
    credit: u64,
    next: Option<Lsn>,
    bytes: u64,
    ended: Option<EndReason>,
}

struct World {
    seed: u64,
    now: Nanos,
    readers: Readers,
    shard: Shard,
    clients: Vec<Client>,
    asked: Vec<LocateRequest>,
    reads: Vec<Effect>,
}

impl World {
    fn new(mut seed: u64) -> World {
        let number = seed;
        let shard = Shard::new(3, 60, &mut seed);
        let limits = Limits {
            output_bytes: 6000,
            chunk_bytes: 2000,
            tail_bytes: 8000,
            locates: 2,
            // Caps that readers meet, and that leave time for all of it.
            rate: if number % 2 == 1 { 500_000 } else { 0 },
            cluster_rate: if number % 3 == 1 { 200_000 } else { 0 },
            ..Limits::default()
        };
        let readers = Readers::new(limits, 1, |_, _| 0);
        let (clients, now) = (Vec::new(), Nanos(0));
        World { seed, now, readers, shard, clients, asked: Vec::new(), reads: Vec::new() }
    }

    fn pick(&mut self, below: usize) -> usize {
        mix(&mut self.seed) as usize % below
    }

    fn fetch(&mut self, at: usize, follow: bool) {
        let stream = 1 + self.pick(3) as u64;
        let end = self.shard.logs[&stream].end();
        let (a, b) = (self.pick(end.0 as usize) as u64, self.pick(end.0 as usize) as u64);
        let from = if self.pick(2) == 0 { 0 } else { a.min(b) };
        let to = if self.pick(2) == 0 { Lsn::MAX } else { Lsn(a.max(b)) };
        let credit_bytes = self.pick(5000) as u64;
        let fetch = Fetch { stream, from: Lsn(from), to, follow, base: None, credit_bytes };
        let client = &mut self.clients[at];
        let got = Got { fetch, credit: credit_bytes, next: None, bytes: 0, ended: None };
        client.wants.insert(stream, got);
        self.readers.on_fetch(client.id, &fetch);
    }

    fn turn(&mut self) {
        let mut effects = Vec::new();
        self.readers.poll(self.now, 3, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send { reader, head, source } => {
                    assert_eq!(head.compressed.is_some(), matches!(source, Source::Compressed(_)));
                    let bytes = match &source {
                        Source::View { view, range } => view[range.clone()].to_vec(),
                        Source::Mapped { range, .. } => self.shard.segment[range.clone()].to_vec(),
                        Source::Compressed(made) => {
                            assert_eq!(head.wire_len() as usize, made.bytes().len());
                            assert!(head.wire_len() < head.body_len);
                            let mut records = vec![0; head.body_len as usize];
                            assert!(decompress(made.bytes(), &mut records));
                            records
                        }
                    };
                    self.got(reader, head, &bytes);
                }
                Effect::Say { reader, frame } => self.said(reader, &frame),
                Effect::Ask { request: ForwardRequest::Locate(request), .. } => {
                    self.asked.push(request);
                    assert!(self.asked.len() <= 2);
                }
                Effect::Ask { request: ForwardRequest::Watch { stream }, .. } => {
                    assert!(!self.shard.watched.contains(&stream));
                    self.shard.watched.push(stream);
                }
                Effect::Ask { request: ForwardRequest::Unwatch { stream }, .. } => {
                    self.shard.watched.retain(|&watched| watched != stream);
                }
                Effect::Ask { request: ForwardRequest::Ask { .. }, .. } => {
                    panic!("nobody asks where to take logs from")
                }
                Effect::Read { .. } => self.reads.push(effect),
                Effect::Probe { reader } => self.readers.on_probed(reader, 0, self.now),
                Effect::Retry { .. } => {}
                Effect::Close { .. } => panic!("nobody misbehaves"),
            }
        }
    }

    fn got(&mut self, reader: ReaderId, head: super::wire::ChunkHead, bytes: &[u8]) {
        let committed = self.shard.committed(head.stream);
        let log = &self.shard.logs[&head.stream];
        assert_eq!(bytes, log.records(head.start, head.end));
        assert_eq!(head.headers_crc, log.headers_crc(head.start, head.end));
        assert!(head.end <= committed && head.committed <= committed);
        let Some(client) = self.clients.iter_mut().find(|client| client.id == reader) else {
            return;
        };
        assert!(head.compressed.is_none() || client.id.0 % 2 == 1);
        client.unsent.push((512 + u64::from(head.wire_len()), 1));
        let got = client.wants.get_mut(&head.stream).expect("nothing comes unasked");
        let expected = got.next.unwrap_or_else(|| log.floor(got.fetch.from));
        assert_eq!(head.start, expected, "a gap or a repeat");
        got.next = Some(head.end);
        got.credit = got.credit.checked_sub(bytes.len() as u64).expect("credit is exceeded");
        got.bytes += bytes.len() as u64;
        assert!(groups(bytes).iter().all(|group| group.lsn() < got.fetch.to));
        assert!(got.ended.is_none());
    }

    fn said(&mut self, reader: ReaderId, frame: &[u8]) {
        let head = FrameHead::parse(frame, &FROM_FORWARDER).unwrap();
        let said = FromForwarder::parse(&head, &frame[FRAME_HEAD_BYTES..]).unwrap();
        let Some(client) = self.clients.iter_mut().find(|client| client.id == reader) else {
            return;
        };
        client.unsent.push((frame.len() as u64, 1));
        if let FromForwarder::End(end) = said {
            let got = client.wants.get_mut(&end.stream).unwrap();
            assert_eq!(got.ended.replace(end.reason), None);
        }
    }

    fn commit(&mut self) {
        let stream = 1 + self.pick(3) as u64;
        let from = self.shard.committed[&stream];
        let to = (from + 1 + self.pick(3)).min(60);
        self.shard.committed.insert(stream, to);
        if !self.shard.watched.contains(&stream) || to == from {
            return;
        }
        match self.pick(3) {
            0 => self.readers.on_committed(stream, self.shard.committed(stream), Lsn(0)),
            _ => {
                let recent = self.shard.recent(stream, from, to);
                self.readers.on_tail(recent);
            }
        }
    }

    fn answer(&mut self) {
        if !self.asked.is_empty() {
            let at = self.pick(self.asked.len());
            let request = self.asked.swap_remove(at);
            let reply = self.shard.locate(&request, &mut self.seed);
            self.readers.on_located(&reply);
        }
        self.shard.pool.collect();
    }

    fn read(&mut self) {
        if self.reads.is_empty() {
            return;
        }
        let at = self.pick(self.reads.len());
        let Effect::Read { reader, stream, ticket, extent, want } = self.reads.swap_remove(at)
        else {
            unreachable!()
        };
        let found = block_body(&self.shard.segment, &extent.expect).and_then(|body| {
            let mut found = cut(&self.shard.segment[body.clone()], &want)?;
            found.range = found.range.start + body.start..found.range.end + body.start;
            Ok(found)
        });
        if let Ok(found) = &found {
            let records = &self.shard.segment[found.range.clone()];
            self.readers.on_records(reader, stream, found, records);
        }
        self.readers.on_read(reader, stream, ticket, found);
    }

    fn step(&mut self, calm: bool) {
        self.now = self.now.after(1_000_000);
        let event = self.pick(if calm { 5 } else { 12 });
        let at = if self.clients.is_empty() { 0 } else { self.pick(self.clients.len()) };
        match event {
            0 => self.answer(),
            1 => self.read(),
            2 => self.readers.on_time(self.now),
            3 => {
                if let Some(client) = self.clients.get_mut(at) {
                    let (bytes, frames) = client
                        .unsent
                        .drain(..)
                        .fold((0, 0), |(b, f), (bytes, frames)| (b + bytes, f + frames));
                    self.readers.on_sent(client.id, bytes, frames, self.now);
                }
            }
            4 | 5 => self.grant(at),
            6..=8 => self.commit(),
            9 if self.clients.len() < 6 => {
                let cluster = self.pick(3) as u32;
                let id = self.readers.on_open(cluster, self.now).unwrap();
                // Some of them.
                self.readers.on_compressed(id, id.0 % 2 == 1);
                self.clients.push(Client { id, wants: BTreeMap::new(), unsent: Vec::new() });
            }
            10 if at < self.clients.len() => {
                let follow = self.pick(2) == 0;
                self.fetch(at, follow);
            }
            11 if self.pick(20) == 0 && at < self.clients.len() => {
                let client = self.clients.swap_remove(at);
                self.readers.on_closed(client.id);
            }
            _ => {}
        }
        self.turn();
    }

    fn grant(&mut self, at: usize) {
        let bytes = 1 + self.pick(4000) as u64;
        let Some(client) = self.clients.get_mut(at) else { return };
        for (&stream, got) in &mut client.wants {
            got.credit += bytes;
            self.readers.on_credit(client.id, stream, bytes);
        }
    }
}

#[test]
fn readers_get_exactly_what_is_committed_in_any_order_of_events() {
    let (mut ended, mut held, mut saved) = (0, 0, 0);
    for seed in 0..150 {
        let mut world = World::new(seed);
        (0..1500).for_each(|_| world.step(false));
        // Nothing new comes; everybody who has credit gets everything.
        (0..4000).for_each(|_| world.step(true));
        for client in &world.clients {
            for (stream, got) in &client.wants {
                let committed = world.shard.committed(*stream);
                let next = got.next.unwrap_or(got.fetch.from);
                let wanted = got.fetch.to.min(committed);
                match got.ended {
                    Some(reason) => {
                        assert_eq!(reason, EndReason::ReachedTo);
                        assert!(!got.fetch.follow || next >= got.fetch.to);
                        ended += 1;
                    }
                    None => assert!(got.fetch.follow && next >= wanted, "seed {seed} stuck"),
                }
            }
        }
        let ids: Vec<_> = world.clients.iter().map(|client| client.id).collect();
        ids.into_iter().for_each(|id| world.readers.on_closed(id));
        let stats = world.readers.stats();
        assert_eq!((stats.readers, stats.cursors, stats.misses), (0, 0, 0));
        held += stats.held;
        saved += stats.bytes_plain - stats.bytes_compressed;
        world.turn();
        assert!(world.shard.watched.is_empty());
        drop(world.readers);
        world.shard.extents.clear();
        world.reads.clear();
        assert!(!world.shard.lease.is_held());
    }
    assert!(ended > 50, "{ended} fetches ended");
    assert!(held > 1000, "caps held {held} turns");
    assert!(saved > 1 << 20, "{saved} bytes were not sent");
}

#[test]
fn a_reader_that_takes_nothing_is_given_up_and_holds_no_memory() {
    let mut world = World::new(1);
    world.shard.committed.insert(1, 60);
    let id = world.readers.on_open(0, Nanos(0)).unwrap();
    let fetch = Fetch {
        stream: 1,
        from: Lsn(0),
        to: Lsn::MAX,
        follow: true,
        base: None,
        credit_bytes: 1 << 30,
    };
    world.readers.on_fetch(id, &fetch);
    let mut closed = false;
    for second in 0..40 {
        let mut effects = Vec::new();
        for _ in 0..50 {
            world.readers.poll(world.now, 8, &mut effects);
            for effect in effects.drain(..) {
                match effect {
                    Effect::Ask { request: ForwardRequest::Locate(request), .. } => {
                        world.asked.push(request);
                    }
                    Effect::Read { .. } => world.reads.push(effect),
                    Effect::Close { .. } => closed = true,
                    _ => {}
                }
            }
            world.answer();
            world.read();
        }
        assert_eq!(world.shard.pool.used(palisade_netio::Purpose::Tail), 0);
        world.readers.on_time(Nanos(second * 1_000_000_000));
    }
    assert!(closed);
}

/// One that holds a segment would keep the whole log from being recycled.
#[test]
fn a_reader_that_waits_holds_no_segment() {
    // Enough for all, and for the first part only.
    for credit_bytes in [1 << 30, 600] {
        let mut world = World::new(1);
        world.shard.committed.insert(1, 60);
        let id = world.readers.on_open(0, Nanos(0)).unwrap();
        let fetch =
            Fetch { stream: 1, from: Lsn(0), to: Lsn::MAX, follow: true, base: None, credit_bytes };
        world.readers.on_fetch(id, &fetch);
        let mut sent = 0;
        for second in 0..4 {
            let mut effects = Vec::new();
            for _ in 0..200 {
                world.readers.poll(world.now, 8, &mut effects);
                for effect in effects.drain(..) {
                    match effect {
                        Effect::Ask { request: ForwardRequest::Locate(request), .. } => {
                            world.asked.push(request);
                        }
                        Effect::Read { .. } => world.reads.push(effect),
                        Effect::Send { head, .. } => {
                            sent += 1;
                            world.readers.on_sent(id, head.body_len.into(), 1, world.now);
                        }
                        _ => {}
                    }
                }
                world.answer();
                world.read();
            }
            world.readers.on_time(Nanos(second * 1_000_000_000));
        }
        assert!(sent > 0);
        world.shard.extents.clear();
        assert!(!world.shard.lease.is_held(), "with credit {credit_bytes} after {sent} chunks");
    }
}

#[test]
fn unknown_streams_and_too_many_streams_end_at_once() {
    let limits = Limits { streams_per_reader: 1, readers: 1, ..Limits::default() };
    let mut readers = Readers::new(limits, 1, |_, _| 0);
    let id = readers.on_open(0, Nanos(0)).unwrap();
    assert!(readers.on_open(0, Nanos(0)).is_none());
    let fetch =
        Fetch { stream: 1, from: Lsn(0), to: Lsn::MAX, follow: true, base: None, credit_bytes: 1 };
    readers.on_fetch(id, &fetch);
    readers.on_fetch(id, &Fetch { stream: 2, ..fetch });
    let mut effects = Vec::new();
    readers.poll(Nanos(0), 8, &mut effects);
    let mut says = effects.iter().filter_map(|effect| match effect {
        Effect::Say { frame, .. } => Some(frame),
        _ => None,
    });
    let frame = says.next().unwrap();
    let head = FrameHead::parse(frame, &FROM_FORWARDER).unwrap();
    let said = FromForwarder::parse(&head, &frame[FRAME_HEAD_BYTES..]).unwrap();
    assert!(matches!(said, FromForwarder::End(end) if end.reason == EndReason::Busy));
    readers.on_gone(1);
    effects.clear();
    readers.poll(Nanos(0), 8, &mut effects);
    assert!(matches!(effects.last(), Some(Effect::Say { .. })));
    assert_eq!(readers.stats().cursors, 0);
}

/// A shard that just started knows less of what is committed than a standby has. Who asked it then
/// must hear of it when it knows, though no byte comes: it waits for that word.
#[test]
fn who_was_ahead_of_the_log_hears_that_it_is_no_more() {
    let (stream, from, mut now) = (1, Lsn(64), Nanos(1));
    let mut readers = Readers::new(Limits::default(), 1, |_, _| 0);
    let reader = readers.on_open(2, now).expect("there is room");
    let (to, follow, base, credit_bytes) = (Lsn::MAX, true, None, 1 << 20);
    readers.on_fetch(reader, &Fetch { stream, from, to, follow, base, credit_bytes });
    let mut heard = Vec::new();
    let mut turn = |readers: &mut Readers, now: Nanos| {
        let (mut effects, mut asked) = (Vec::new(), None);
        readers.on_time(now);
        while readers.poll(now, 8, &mut effects) {}
        for effect in effects {
            match effect {
                Effect::Ask { request: ForwardRequest::Locate(request), .. } => {
                    asked = Some(request);
                }
                Effect::Say { reader: to, frame } => {
                    readers.on_sent(to, frame.len() as u64, 1, now);
                    let head = FrameHead::parse(&frame, &FROM_FORWARDER).unwrap();
                    let said = FromForwarder::parse(&head, &frame[FRAME_HEAD_BYTES..]);
                    if let Ok(FromForwarder::Status(status)) = said {
                        heard.push(status.committed);
                    }
                }
                _ => {}
            }
        }
        asked
    };
    let request = turn(&mut readers, now).expect("it asks where that is");
    let (shown, base, located) = (None, Lsn(0), Located::NotYet);
    readers.on_located(&Reply { id: request.id, stream, committed: Lsn(8), shown, base, located });
    turn(&mut readers, now);
    readers.on_committed(stream, from, base);
    for _ in 0..4 {
        turn(&mut readers, now);
        now = now.after(super::limits::BEAT_NS);
    }
    assert_eq!(heard, [Lsn(8), from], "once each, for nothing moved since");
}
