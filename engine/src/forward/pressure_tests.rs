//! Memory that all readers share is short: who is refused some, who gives it up, and who does not.

use std::path::Path;
use std::sync::Arc;

use palisade_netio::limits::FRAME_BULK_HEAD_BYTES;
use palisade_netio::{FrameHead, Nanos, Pool, Purpose};
use palisade_wal::Lsn;

use super::cut::{Want, block_body, cut};
use super::limits::{BEAT_NS, LEASE_NS_MAX, Limits, PRESSURE_NS, PRESSURE_TICK_NS};
use super::queue::{ForwardRequest, Lease, LocateRequest, Located, Recent, Reply, SealedExtent};
use super::sender::{CloseReason, Effect, ReaderId, Readers};
use super::testlog::{BALLOT, TestLog, pool};
use super::wire::{EndReason, FROM_FORWARDER, Fetch, FromForwarder};
use crate::config::Role;
use crate::control::Term;
use crate::transfer::Facts;

const STREAM: u64 = 7;
/// More than a connection has for itself.
const BODY: usize = 30_000;

/// Readers with little memory to share, and what they want done but for questions.
struct Room {
    readers: Readers,
    pool: Pool,
    log: TestLog,
    now: Nanos,
    asked: Vec<LocateRequest>,
}

impl Room {
    fn new(shared_bytes: u64) -> Room {
        let limits = Limits { shared_bytes, ..Limits::default() };
        let (mut log, now) = (TestLog::new(STREAM), Nanos(1));
        for _ in 0..200 {
            log.push(&[BODY]);
        }
        let readers = Readers::new(limits, 1, |_, _| 0);
        Room { readers, pool: pool(), log, now, asked: Vec::new() }
    }

    fn open(&mut self, credit_bytes: u64) -> ReaderId {
        let id = self.readers.on_open(0, self.now).unwrap();
        self.fetch(id, STREAM, credit_bytes);
        id
    }

    fn fetch(&mut self, id: ReaderId, stream: u64, credit_bytes: u64) {
        let fetch =
            Fetch { stream, from: Lsn(0), to: Lsn::MAX, follow: true, base: None, credit_bytes };
        self.readers.on_fetch(id, &fetch);
    }

    fn poll(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while self.readers.poll(self.now, 100, &mut effects) {}
        let (asks, rest): (Vec<_>, _) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::Ask { .. }));
        self.asked.extend(asks.into_iter().filter_map(|ask| match ask {
            Effect::Ask { request: ForwardRequest::Locate(request), .. } => Some(request),
            _ => None,
        }));
        rest
    }

    /// Answers what was asked; everything is committed, and groups are in memory one by one.
    fn answer(&mut self, located: impl Fn(&mut Room, Lsn) -> Located) {
        for request in std::mem::take(&mut self.asked) {
            let LocateRequest { id, stream, from, .. } = request;
            let located = located(self, from);
            let (committed, base) = (self.log.end(), Lsn(0));
            self.readers.on_located(&Reply { id, stream, committed, shown: None, base, located });
        }
    }

    fn recent(&mut self, from: Lsn) -> Located {
        let bounds = self.log.bounds();
        let at = bounds.iter().position(|&start| start == from).unwrap();
        let (start, end) = (bounds[at], bounds[at + 1]);
        let records = self.log.view(&mut self.pool, start, end);
        Located::Active(Recent { stream: STREAM, start, end, records })
    }

    /// A reader that was sent a large body, and stopped taking it after some bytes.
    fn stuck(&mut self, taken: u64) -> ReaderId {
        let id = self.open(1 << 30);
        self.poll();
        self.answer(Room::recent);
        let sent = self.poll();
        assert!(sent.iter().any(|effect| matches!(effect, Effect::Send { .. })), "{sent:?}");
        self.readers.on_sent(id, taken, 0, self.now);
        id
    }

    /// Says what each that is looked at has not acknowledged.
    fn acknowledge(&mut self, effects: &[Effect], waits: impl Fn(ReaderId) -> u64) {
        for effect in effects {
            if let Effect::Probe { reader } = *effect {
                self.readers.on_probed(reader, waits(reader), self.now);
            }
        }
    }

    fn wait(&mut self, ns: u64) {
        self.now = self.now.after(ns);
        self.readers.on_time(self.now);
    }
}

fn closed(effects: &[Effect]) -> Vec<ReaderId> {
    let closed = |effect: &Effect| match effect {
        Effect::Close { reader, .. } => Some(*reader),
        _ => None,
    };
    effects.iter().filter_map(closed).collect()
}

fn retried(effects: &[Effect], id: ReaderId) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Retry { reader } if *reader == id))
}

#[test]
fn who_stopped_taking_is_passed_over_in_its_turn() {
    let mut room = Room::new(1 << 20);
    let id = room.open(1 << 30);
    room.poll();
    room.answer(Room::recent);
    // It is in the round of turns when its socket is full.
    assert!(room.readers.on_blocked(id));
    let effects = room.poll();
    let sends = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Send { .. }));
    assert!(!sends(&effects), "a copy would be made that nobody counts: {effects:?}");
    room.pool.collect();
    assert_eq!(room.pool.used(Purpose::Tail), 0, "nor is memory of the shard held for it");
    room.readers.on_sent(id, 0, 0, room.now);
    room.poll();
    room.answer(Room::recent);
    assert!(sends(&room.poll()));
}

#[test]
fn one_at_a_time_is_ended_for_others_and_nobody_that_acknowledges() {
    // Room for one copy.
    let mut room = Room::new(12 << 10);
    let slow = room.stuck(20_000);
    assert!(room.readers.on_blocked(slow), "there is room for the first");
    room.wait(1);
    let (first, second) = (room.stuck(100), room.stuck(100));
    let mut left = 20_000;
    // Nobody is refused anything yet: who holds memory is left alone.
    for _ in 0..20 {
        room.wait(PRESSURE_TICK_NS);
        assert_eq!(closed(&room.poll()), []);
    }
    assert!(!room.readers.on_blocked(first));
    room.wait(1);
    assert!(!room.readers.on_blocked(second));
    let mut ended = Vec::new();
    for tick in 0..40 {
        room.wait(PRESSURE_TICK_NS);
        let effects = room.poll();
        let gone = closed(&effects);
        assert!(gone.len() <= 1, "one at a time: {gone:?}");
        ended.extend(gone.iter().map(|&id| (id, tick)));
        gone.into_iter().for_each(|id| room.readers.on_closed(id));
        left -= 1;
        room.acknowledge(&effects, |reader| if reader == slow { left } else { 50 });
    }
    let ids: Vec<ReaderId> = ended.iter().map(|(id, _)| *id).collect();
    assert!(ids.len() == 2 && ids.contains(&first) && ids.contains(&second), "{ended:?}");
    assert!(ended[0].1 >= PRESSURE_NS / PRESSURE_TICK_NS && ended[0].1 < ended[1].1, "{ended:?}");
    // Nobody waits for room any more: that one stopped too does not matter.
    for _ in 0..20 {
        room.wait(PRESSURE_TICK_NS);
        let effects = room.poll();
        room.acknowledge(&effects, |_| left);
        assert_eq!(closed(&effects), []);
    }
    assert_eq!(room.readers.stats().pressed, 2);
}

#[test]
fn who_was_refused_is_asked_again_when_there_is_room() {
    let mut room = Room::new(12 << 10);
    let holder = room.stuck(100);
    assert!(room.readers.on_blocked(holder));
    let (first, second) = (room.stuck(100), room.stuck(100));
    assert!(!room.readers.on_blocked(first) && !room.readers.on_blocked(second));
    let effects = room.poll();
    assert!(!retried(&effects, first) && !retried(&effects, second));
    room.readers.on_closed(holder);
    let effects = room.poll();
    assert!(retried(&effects, first), "{effects:?}");
    assert!(!retried(&effects, second), "there is room for one: {effects:?}");
    assert!(room.readers.on_blocked(first));
    // It takes what waits: the pressure is over at once.
    room.readers.on_sent(second, 1, 0, room.now);
    for _ in 0..20 {
        room.wait(PRESSURE_TICK_NS);
        assert_eq!(closed(&room.poll()), []);
    }
}

fn facts(number: u64) -> Facts {
    let (streams, places) = (Vec::new(), Vec::new());
    let (role, region) = (Role::Standby, "hz".into());
    let (own, known) = (Term::NONE, Term::NONE);
    Facts { number, cluster: 1, node: 2, shards: 1, role, region, own, known, streams, places }
}

#[test]
fn a_full_outbox_ends_nobody_who_asked_for_nothing() {
    const STREAMS: u64 = 1000;
    let mut room = Room::new(0);
    let id = room.readers.on_open(0, room.now).unwrap();
    for stream in 1..=STREAMS {
        room.fetch(id, stream, 1);
    }
    room.poll();
    let mut waiting = Vec::new();
    let mut take = |room: &mut Room| {
        let effects = room.poll();
        assert_eq!(closed(&effects), [], "it did nothing wrong");
        waiting.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::Say { frame, .. } => Some(frame),
            _ => None,
        }));
        assert!(room.readers.stats().memory < (1 << 10) * STREAMS, "own memory alone");
        std::mem::take(&mut waiting)
    };
    // Others do this, and it takes nothing for a while.
    (0..1000).for_each(|number| room.readers.on_facts(id, &facts(number)));
    let first = take(&mut room);
    assert!(!first.is_empty() && first.len() < 1000);
    assert!(!room.readers.listens(id), "what it says now could not be answered");
    room.wait(BEAT_NS);
    (1..=STREAMS).for_each(|stream| room.readers.on_gone(stream));
    let mut waits = [first, take(&mut room)].concat();
    // It hears of every end as it goes on.
    let (mut ends, mut asked) = (Vec::new(), false);
    while !waits.is_empty() {
        for frame in std::mem::take(&mut waits) {
            let head = FrameHead::parse(&frame, &FROM_FORWARDER).unwrap();
            if let Ok(FromForwarder::End(end)) =
                FromForwarder::parse(&head, &frame[palisade_netio::limits::FRAME_HEAD_BYTES..])
            {
                assert_eq!(end.reason, EndReason::UnknownStream);
                ends.push(end.stream);
            }
            room.readers.on_sent(id, frame.len() as u64, 1, room.now);
        }
        asked |= room.readers.listens(id);
        waits = take(&mut room);
    }
    ends.sort_unstable();
    assert_eq!(ends, (1..=STREAMS).collect::<Vec<_>>());
    assert!(asked && room.readers.stats().cursors == 0);
}

/// Each block with one group, in a segment that nobody else wants.
fn sealed(log: &TestLog) -> (Vec<u8>, Vec<SealedExtent>, Lease) {
    let (bounds, lease) = (log.bounds(), Lease::new());
    let (mut segment, mut extents) = (Vec::new(), Vec::new());
    for pair in bounds.windows(2) {
        let (path, lease) = (Arc::from(Path::new("sealed")), lease.clone());
        let (start, end) = (pair[0], pair[1]);
        let expect = log.block(&mut segment, start, end);
        extents.push(SealedExtent { path, lease, expect, start, end, ballot: BALLOT });
    }
    (segment, extents, lease)
}

fn read(segment: &[u8], extent: &SealedExtent, want: &Want) -> super::cut::Cut {
    let body = block_body(segment, &extent.expect).unwrap();
    let mut found = cut(&segment[body.clone()], want).unwrap();
    found.range = found.range.start + body.start..found.range.end + body.start;
    found
}

/// Bytes and frames that wait for a reader.
type Queued = (u64, usize);

fn count(effects: &[Effect], queued: &mut Queued) {
    for effect in effects {
        let bytes = match effect {
            Effect::Send { head, .. } => FRAME_BULK_HEAD_BYTES as u64 + u64::from(head.body_len),
            Effect::Say { frame, .. } => frame.len() as u64,
            _ => continue,
        };
        *queued = (queued.0 + bytes, queued.1 + 1);
    }
}

/// Lets a reader take a step a second. When it is ended, or its lease comes back, and how many
/// chunks it was sent.
fn trickle(
    room: &mut Room,
    id: ReaderId,
    step: impl Fn(&mut Room, Queued) -> Queued,
) -> (u64, Option<CloseReason>, usize) {
    let (segment, extents, mut lease) = sealed(&room.log);
    room.poll();
    room.answer(|_, _| Located::Sealed(extents.clone()));
    drop(extents);
    let (mut queued, mut chunks, mut next) = ((0, 0), 0, Vec::new());
    // What waits keeps its lease.
    let mut waits = Vec::new();
    for second in 0..200 {
        room.now = room.now.after(BEAT_NS);
        let mut effects: Vec<Effect> = std::mem::take(&mut next);
        effects.extend(room.poll());
        while let Some(at) = effects.iter().position(|e| matches!(e, Effect::Read { .. })) {
            let Effect::Read { reader, stream, ticket, extent, want } = effects.remove(at) else {
                unreachable!("it was just found")
            };
            let found = read(&segment, &extent, &want);
            room.readers.on_read(reader, stream, ticket, Ok(found));
            effects.extend(room.poll());
        }
        chunks += effects.iter().filter(|effect| matches!(effect, Effect::Send { .. })).count();
        count(&effects, &mut queued);
        queued = step(room, queued);
        waits.extend(effects);
        if queued.1 == 0 {
            waits.clear();
        }
        room.readers.on_time(room.now);
        next = room.poll();
        let close = next.iter().find_map(|effect| match effect {
            Effect::Close { why, .. } => Some(*why),
            _ => None,
        });
        if close.is_some() || !lease.is_held() {
            drop((next, waits));
            room.readers.on_closed(id);
            assert!(!lease.is_held());
            return (second * BEAT_NS, close, chunks);
        }
    }
    panic!("a segment is kept for ever");
}

#[test]
fn who_trickles_keeps_no_segment_for_ever() {
    let mut room = Room::new(1 << 20);
    let bounds = room.log.bounds();
    let body = room.log.records(bounds[0], bounds[1]).len() as u64;
    // It takes each chunk at once, and gives credit for one a second.
    let id = room.open(body);
    let (after, close, chunks) = trickle(&mut room, id, |room, (bytes, frames)| {
        room.readers.on_sent(id, bytes, frames, room.now);
        room.readers.on_credit(id, STREAM, body);
        (0, 0)
    });
    assert!(close.is_none() && chunks > 50, "{chunks} chunks, then {close:?}");
    assert!(after.abs_diff(LEASE_NS_MAX) <= 2 * BEAT_NS, "{after}");
    // It has credit for all, and takes a byte a second.
    let mut room = Room::new(1 << 20);
    let id = room.open(1 << 30);
    let (after, close, _) = trickle(&mut room, id, |room, (bytes, frames)| {
        room.readers.on_sent(id, 1, 0, room.now);
        (bytes - 1, frames)
    });
    assert_eq!(close, Some(CloseReason::Slow));
    assert!(after.abs_diff(LEASE_NS_MAX) <= 4 * BEAT_NS, "{after}");
}
