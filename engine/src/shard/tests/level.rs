//! Shards under a level that a test speaks for: what they write, and what they say of streams.

use super::*;
use crate::control::{Change, Cluster, LevelAsk, LevelTold, Mode, Registry, Standing, What};
use crate::forward::wire::{ChunkHead, FROM_FORWARDER};
use crate::handle::NewRecord;
use crate::shard::join::Join;
use crate::shard::stream::{Pending, Reply};
use crate::status::Protection;
use crate::transfer::limits::SYNC_LINKS_MAX;
use crate::transfer::sync::{FromStandby, SyncFetch};
use palisade_netio::{Frame, FrameHead, Run};
use palisade_wal::{BodyBuilder, Boundary, CHAIN_START, GroupKind, Origin};

/// The level is up, under [`MARK`].
const UP: Mode = Mode {
    mode: Protection::Availability,
    level: Protection::Availability,
    phase: crate::control::Phase::Steady,
    mark: MARK,
    epoch: 3,
    forced: 0,
    office: crate::control::Office {
        role_epoch: 1,
        holder: 0,
        before: 0,
        target: 0,
        since: 0,
        scn: 0,
        proof: None,
        sealed: 0,
    },
};
/// It fell.
const FALLEN: Mode =
    Mode { level: Protection::Resync, mark: Mark::Async { epoch: 4 }, epoch: 4, ..UP };

/// A mode that wants this cluster as the SYNC standby.
fn wants(cluster: u32) -> Registry {
    let mut registry = Registry::default();
    let standby = Cluster::new(cluster, Transfer::Sync);
    assert!(registry.apply(&Change { by: 1, on: 0, what: What::Put(standby) }));
    let what = What::Mode(registry.mode().asked(Protection::Availability, false));
    assert!(registry.apply(&Change { by: 1, on: 1, what }));
    registry
}

impl Seat {
    /// A stream with [`MARK`], all of which the standby holds; from now on the level has this mode
    /// and writes the marks.
    fn marked(&mut self, mode: Mode) -> u64 {
        let stream = self.create(1)[0].id();
        self.mark(stream);
        self.hold(stream);
        self.shard.levels.by_hand = false;
        self.shard.levels.lease.on_mode(mode);
        self.turns();
        stream
    }

    fn turns(&mut self) {
        (0..200).for_each(|_| assert!(self.shard.turn(false), "{:?}", self.shard.halted()));
    }

    /// The last mark of a stream, and the last one that is committed.
    fn marks(&self, stream: u64) -> [Option<Mark>; 2] {
        let status = self.shard.sync_status(stream).expect("it is here");
        [status.mark, status.standing].map(|marked| marked.map(|marked| marked.mark))
    }
}

#[test]
fn an_idle_stream_is_taken_from_its_sync_standby_when_another_one_is_wanted() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.marked(FALLEN);
    assert_eq!(seat.marks(stream), [Some(MARK); 2], "nothing waits");
    seat.shard.note_mode(&wants(STANDBY + 1));
    assert_eq!(seat.shard.standing().0.behind, u64::MAX, "who is wanted has nothing of it");
    seat.until(|seat| (seat.marks(stream) == [Some(FALLEN.mark); 2]).then_some(()));
    let target = seat.shard.sync_target(&seat.shard.streams[&stream]);
    assert_eq!(target, Some(STANDBY + 1));
}

/// Another shard of the node asks while a turn goes on. What is reckoned from a clock that was read
/// before would end before the lease does.
#[test]
fn a_question_is_answered_by_a_clock_that_was_read_after_it() {
    let home = Home::new(1);
    let mut seat = home.open();
    seat.shard.levels.by_hand = false;
    seat.until(|seat| seat.shard.levels.level().map(|_| ()));
    let begun = seat.shard.io.now;
    let mut asked = begun;
    while asked == begun {
        asked = seat.shard.io.ring.now();
    }
    seat.shard.pass_ask(&LevelAsk { asked_at: asked.0, ..LevelAsk::default() });
    let mut lease = seat.shard.levels.lease.clone();
    let heard = lease.ask(0, &Standing::default(), std::iter::empty(), asked).token;
    assert!(heard >= asked.0, "it says {heard} to who asked at {asked:?}");
}

impl Seat {
    /// A lease from this time on.
    fn lease(&mut self, from: Nanos, lease_ns: u64) {
        let ballot = Ballot { round: 1, node: 1, incarnation: 1 };
        let (shard, asked_at, token) = (0, from.0, from.0);
        let told = LevelTold { shard, asked_at, lease_ns, ballot, token, mode: UP };
        self.shard.levels.lease.on_told(&told, from);
    }
}

/// A lease ends in the middle of a turn, and there is another one before the next turn.
#[test]
fn what_was_held_in_the_middle_of_a_turn_is_written_in_the_next_one() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.marked(UP);
    // What a slow disk still writes would keep the record from a batch, and so from the lease.
    seat.until(|seat| seat.shard.ledger.wal.wants_block(1).then_some(()));
    let before = seat.shard.streams[&stream].replica.log().end().lsn;
    let begun = seat.shard.io.ring.now();
    seat.lease(begun, 1);
    seat.shard.io.now = begun;
    seat.shard.run_levels();
    let record = NewRecord { payload: vec![7; 100].into(), ..NewRecord::default() };
    seat.shard.take_append(stream, record, GroupKind::Data, Reply::Nobody);
    seat.shard.seal();
    assert!(seat.shard.streams[&stream].blocked, "the lease is over");
    let renewed = seat.shard.io.ring.now();
    seat.lease(renewed, 3_600_000_000_000);
    seat.until(|seat| (seat.shard.streams[&stream].replica.log().end().lsn > before).then_some(()));
}

#[test]
fn a_full_log_refuses_records_and_keeps_the_mark_that_waits() {
    let home = Home::new(1);
    let mut seat = home.open_small();
    let stream = seat.create(1).remove(0);
    fill(&mut seat);
    while !seat.shard.ledger.is_full(1 << 12) {
        seat.shard.ledger.push(super::record(4000));
        assert!(seat.shard.turn(false), "{:?}", seat.shard.halted());
    }
    seat.shard.write_mark(stream.id(), MARK).expect("it leads");
    let pending = Pending {
        payload: vec![7; 100].into(),
        producer: 0,
        sequence: 0,
        scn_floor: 0,
        kind: GroupKind::Data,
        reply: Reply::Nobody,
    };
    seat.shard.pending_count += 1;
    seat.shard.pending_bytes += pending.payload.len();
    seat.shard.streams.get_mut(&stream.id()).expect("it is here").push(pending);
    seat.shard.refuse_when_full(1 << 12);
    let state = &seat.shard.streams[&stream.id()];
    assert_eq!((state.pending.len(), state.mark_to_come()), (1, Some(MARK)));
    assert!(seat.shard.dirty.contains(&stream.id()), "it is tried again");
    let waits = (seat.shard.pending_count, seat.shard.pending_bytes);
    assert_eq!(waits, (1, crate::stream::mark::MARK_BYTES));
}

impl Seat {
    /// The standby's leader says FETCH, of a log that is empty.
    fn fetch_all(&mut self, stream: u64) {
        let ballot = Ballot { round: 1, node: 1, incarnation: 1 };
        let from = Boundary { lsn: Lsn::ZERO, chain: CHAIN_START };
        let (number, committed, role_epoch) = (1, Lsn::ZERO, 1);
        let fetch = SyncFetch { stream, number, from, committed, role_epoch, ballot };
        self.shard.on_sync_fetch((77, STANDBY), &fetch);
    }
}

#[test]
fn a_standby_takes_no_memory_with_streams_that_do_not_exist() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1)[0].id();
    (0..1000).for_each(|other| seat.fetch_all(stream + other));
    assert_eq!(seat.shard.shipping.ships.wanted(), 1);
}

#[test]
fn a_standby_that_was_wiped_is_behind_whatever_it_had_before() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.marked(UP);
    assert_eq!(seat.shard.standing().0.behind, u64::MAX, "it is not there");
    seat.shard.levels.by_hand = true;
    seat.mark(CATALOGUE_STREAM);
    seat.hold(CATALOGUE_STREAM);
    seat.fetch_all(CATALOGUE_STREAM);
    seat.fetch_all(stream);
    seat.turns();
    let committed = |stream: u64| seat.shard.streams[&stream].replica.log().committed().lsn.0;
    let most = committed(stream).max(committed(CATALOGUE_STREAM));
    assert_eq!(seat.shard.standing().0.behind, most);
    seat.shard.note_mode(&wants(STANDBY + 1));
    assert_eq!(seat.shard.standing().0.behind, u64::MAX, "the mark names another one");
}

#[test]
fn connections_of_one_standby_take_no_room_from_another() {
    let home = Home::new(1);
    let mut seat = home.open();
    let net = &mut seat.shard.net;
    let mut admitted = |cluster: u32| net.admit_standby(cluster).is_ok();
    assert!(!admitted(1), "its own cluster");
    assert!((0..SYNC_LINKS_MAX).all(|_| admitted(STANDBY)));
    assert!(!admitted(STANDBY) && admitted(3) && admitted(4) && !admitted(5));
    net.standby_gone(3);
    net.standby_gone(STANDBY);
    assert!([5, STANDBY].into_iter().all(|cluster| net.admit_standby(cluster).is_ok()));
}

/// A chunk may be late: from before the sender, or this cluster, heard of a newer role.
#[test]
fn what_is_shipped_under_an_older_role_is_not_taken() {
    let home = Home::of(Role::Standby, 1);
    for (known, offered, shipped, taken) in [(2, 1, 1, false), (1, 2, 1, false), (2, 2, 2, true)] {
        let mut seat = home.open();
        seat.shard.role_epoch = known;
        let ballot = Ballot { round: 1, node: 1, incarnation: 1 };
        let mut bytes = vec![0; 4096];
        let mut builder = BodyBuilder::new(&mut bytes);
        let origin = Origin { role_epoch: 1, cluster: 2, ballot };
        let (stream, start) = (CATALOGUE_STREAM, Lsn::ZERO);
        builder.begin_group(stream, start, ballot, GroupKind::Data, origin, 0).expect("room");
        builder.push_entry(b"x", 0, 0).expect("room");
        let group = builder.end_group(1, CHAIN_START);
        let body = builder.finish();
        // It has come before.
        let position = Boundary { lsn: group.end, chain: group.chain };
        let join = Join { conn: 5, offer: (offered, ballot), position, since: Nanos(0) };
        seat.shard.joins.joined.insert(CATALOGUE_STREAM, join);
        let head = ChunkHead {
            base: false,
            stream,
            start,
            end: group.end,
            committed: group.end,
            headers_crc: body.headers_crc,
            role_epoch: shipped,
            body_len: body.len,
            compressed: None,
        };
        let slot = seat.shard.io.pool.take(Purpose::Read, 4096).expect("memory");
        seat.shard.io.pool.bytes_mut(slot)[..4096].copy_from_slice(&bytes);
        let run = Run { slot, at: 0, len: body.len };
        let bytes = FromStandby::Stop { stream: CATALOGUE_STREAM, number: 1 }.encode();
        let head_of_any = FrameHead::parse(&bytes, &FROM_FORWARDER).expect("a head");
        let frame = Frame { head: head_of_any, slot, prefix: run, body: run };
        seat.shard.on_shipped(5, &head, &frame);
        assert_eq!(seat.shard.is_joined(CATALOGUE_STREAM), taken, "{known} {offered} {shipped}");
        seat.stop();
    }
}
