//! Whole shards on the real ring, turned by hand, with somebody who meddles between the two.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use palisade_netio::{
    Completion, Errno, LinkTiming, Nanos, Op, Pool, Purpose, Ring, Token, Uring, UringConfig, Wait,
    Wake, ZeroCopyMode,
};
use palisade_wal::{Ballot, Kind, Lsn, NoRoom, SyncPath};

use super::boot::Phase;
use super::ledger::OwnRecord;
use super::mesh::CatalogueLeader;
use super::sync::Mark;
use super::{Board, Format, Halt, Mesh, Shard, ShardConfig, ShardPort, Shared, quotas};
use crate::append::AppendFuture;
use crate::client::{Client, ClientOptions};
use crate::config::Role;
use crate::control::Request;
use crate::error::{Error, ErrorKind};
use crate::forward::queue::ForwardRequest;
use crate::forward::{ForwardEvent, ForwardPort, ForwarderSide};
use crate::handle::{Command, Stream};
use crate::paxos::{Member, Tuning};
use crate::status::{Status, Transfer};
use crate::stream::catalogue::CATALOGUE_STREAM;
use crate::transfer::sync::SyncEnd;

mod fence;
mod hand_over;
mod level;
mod pins;
mod reads;
mod role;

const PATIENCE: Duration = Duration::from_secs(60);
const SEGMENT_BYTES: u64 = 4 << 20;
/// The SYNC standby, which is not there: a test speaks for it.
const STANDBY: u32 = 2;
const MARK: Mark = Mark::Sync { cluster: STANDBY, epoch: 3 };

/// What happens between a shard and its ring.
#[derive(Default)]
struct Meddler {
    /// Every write that begins from now on fails.
    fail_writes: AtomicBool,
    /// The shard is asked to stop after it looked and before its bell is armed.
    stop_before_arming: AtomicBool,
    /// It was about to sleep although it was asked to stop.
    overslept: AtomicBool,
}

/// The real ring.
struct Meddled {
    ring: Uring,
    meddler: Arc<Meddler>,
    port: Arc<ShardPort>,
    /// Writes that are to fail.
    writes: HashSet<Token>,
    /// The shard said that it is about to sleep.
    armed: bool,
}

impl Ring for Meddled {
    fn submit(&mut self, pool: &mut Pool, token: Token, op: Op) {
        if matches!(op, Op::Write { .. }) && self.meddler.fail_writes.load(Ordering::SeqCst) {
            self.writes.insert(token);
        }
        self.ring.submit(pool, token, op);
    }

    fn enter(&mut self, pool: &mut Pool, wait: Wait, done: &mut Vec<Completion>) {
        let mut wait = wait;
        let armed = std::mem::take(&mut self.armed);
        if armed && matches!(wait, Wait::Until(_)) && self.port.is_stopping() {
            self.meddler.overslept.store(true, Ordering::SeqCst);
            wait = Wait::No;
        }
        let before = done.len();
        self.ring.enter(pool, wait, done);
        for completion in &mut done[before..] {
            if self.writes.remove(&completion.token) {
                completion.result = Err(Errno::IO);
            }
        }
    }

    fn arm(&mut self) {
        if self.meddler.stop_before_arming.load(Ordering::SeqCst) {
            self.port.stop();
        }
        self.armed = true;
        self.ring.arm();
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.ring.waker()
    }

    fn now(&self) -> Nanos {
        self.ring.now()
    }

    fn wall_ns(&self) -> u64 {
        self.ring.wall_ns()
    }

    fn random(&mut self) -> u64 {
        self.ring.random()
    }

    fn in_flight(&self) -> usize {
        self.ring.in_flight()
    }
}

/// The directory of a node that is alone in its cluster.
struct Home {
    dir: tempfile::TempDir,
    shards: u16,
    role: Role,
    /// The level writes the marks, and nobody else.
    levels: bool,
}

/// A shard and what is around it.
struct Seat {
    shard: Shard<Meddled>,
    port: Arc<ShardPort>,
    meddler: Arc<Meddler>,
    forwarder: ForwarderSide,
}

impl Home {
    /// A formatted node.
    fn new(shards: u16) -> Home {
        Home::of(Role::Primary, shards)
    }

    fn of(role: Role, shards: u16) -> Home {
        let dir = tempfile::tempdir_in("/var/tmp");
        let home = Home { dir: dir.expect("a directory"), shards, role, levels: false };
        for shard in 0..shards {
            let config = home.config(shard);
            std::fs::create_dir(&config.dir).expect("a new directory");
            let addr = "127.0.0.1:1".to_owned();
            let member = Member { node: 1, incarnation: None, addr, region: "r".to_owned() };
            let format = Format { role, members: vec![member], incarnation: 7 };
            let config = ShardConfig { listen: None, format: Some(format), ..config };
            let mut seat = home.seat(config, None, Arc::new(Board::new(shards)));
            while seat.shard.turn(true) {}
            assert_eq!(seat.shard.halted(), Some(&Halt::Done));
        }
        home
    }

    fn config(&self, shard: u16) -> ShardConfig {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let nobody: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let upstream = match self.role {
            Role::Primary => Vec::new(),
            Role::Standby => vec![nobody],
        };
        ShardConfig {
            cluster: 1,
            cluster_name: "one".to_owned(),
            fingerprint: 0,
            node: 1,
            region: "r".to_owned(),
            shard,
            shards: self.shards,
            dir: PathBuf::from(self.dir.path()).join(format!("shard-{shard}")),
            listen: (shard == 0).then_some(any),
            upstream,
            upstream_region: "here".to_string(),
            upstream_override: None,
            segment_bytes: SEGMENT_BYTES,
            log_bytes_max: 256 << 20,
            retain_ns: 0,
            pin_bytes_max: 1 << 20,
            sync_path: SyncPath::Dsync,
            writes_in_flight: 2,
            zero_copy: ZeroCopyMode::Never,
            link_timing: LinkTiming::default(),
            disk_stall_ns: 10_000_000_000,
            disk_stall_hard_ns: 100_000_000_000,
            spin_ns: 0,
            tuning: Tuning::default(),
            format: None,
        }
    }

    fn seat(&self, config: ShardConfig, mesh: Option<Arc<Mesh>>, board: Arc<Board>) -> Seat {
        let pool = Pool::new(quotas(config.segment_bytes)).expect("memory");
        let ring_config = UringConfig { register_bytes_max: 0, ..UringConfig::default() };
        let ring = Uring::new(ring_config, &pool).expect("io_uring");
        let (port, meddler) = (Arc::new(ShardPort::new()), Arc::new(Meddler::default()));
        let (writes, armed) = (HashSet::new(), false);
        let ring = Meddled { ring, meddler: meddler.clone(), port: port.clone(), writes, armed };
        let (forward, forwarder): (ForwardPort, ForwarderSide) = crate::forward::port();
        let shared = Shared { board, mesh, forward: Some(forward) };
        let mut shard = Shard::new(config, ring, pool, port.clone(), shared);
        if !self.levels {
            shard.mark_by_hand();
        }
        Seat { shard, port, meddler, forwarder }
    }

    /// The only shard, once it serves.
    fn open(&self) -> Seat {
        let mut seat = self.seat(self.config(0), None, Arc::new(Board::new(1)));
        seat.until(|seat| seat.shard.is_ready().then_some(()));
        seat
    }

    /// The same, which logs at once what is committed: so much it may let go.
    fn open_eager(&self) -> Seat {
        let mut config = self.config(0);
        config.tuning.commit_hint_bytes = 1;
        let mut seat = self.seat(config, None, Arc::new(Board::new(1)));
        seat.until(|seat| seat.shard.is_ready().then_some(()));
        seat
    }
}

impl Seat {
    /// Turns until there is something, or the shard has stopped.
    fn try_until<T>(&mut self, mut probe: impl FnMut(&mut Seat) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = probe(self) {
                return Some(found);
            }
            assert!(Instant::now() < deadline, "it takes too long");
            if !self.shard.turn(false) {
                return probe(self);
            }
        }
    }

    fn until<T>(&mut self, probe: impl FnMut(&mut Seat) -> Option<T>) -> T {
        let found = self.try_until(probe);
        found.unwrap_or_else(|| panic!("it stopped: {:?}", self.shard.halted()))
    }

    fn create(&mut self, count: usize) -> Vec<Stream> {
        let answer = self.port.create_streams(count).expect("room");
        let ids = self.until(|_| answer.try_take()).expect("it leads");
        ids.into_iter().map(|id| Stream::new(id, self.port.clone())).collect()
    }
}

/// Streams with marks.
impl Seat {
    /// Writes a mark, and waits until it is committed.
    fn mark(&mut self, stream: u64) {
        self.shard.write_mark(stream, MARK).expect("it leads");
        self.until(|seat| {
            let status = seat.shard.sync_status(stream).expect("it is here");
            (status.standing.map(|standing| standing.mark) == Some(MARK)).then_some(())
        });
    }

    /// Waits until everything that was appended is committed here: where that ends.
    fn committed(&mut self, stream: u64, above: Lsn) -> Lsn {
        self.until(|seat| {
            let log = seat.shard.streams[&stream].replica.log();
            let committed = log.committed().lsn;
            (committed > above && committed == log.end().lsn).then_some(committed)
        })
    }

    /// The SYNC standby says that it has all of a stream that is committed.
    fn hold(&mut self, stream: u64) {
        let now = self.shard.io.now;
        let state = self.shard.streams.get_mut(&stream).expect("it is here");
        let committed = state.replica.log().committed().lsn;
        assert!(state.gate.on_held(&state.derived.marks, STANDBY, committed, now));
        self.shard.release(stream);
    }

    /// Appends a record that is acked when the SYNC standby has it, and not before: its LSN.
    fn append_held(&mut self, stream: &Stream) -> Lsn {
        let before = self.shard.sync_status(stream.id()).expect("it is here");
        let mut future = stream.append("gated");
        let end = self.committed(stream.id(), before.committed);
        assert!(future.try_take().is_none(), "acked alone");
        let status = self.shard.sync_status(stream.id()).expect("it is here");
        assert!(status.released <= before.committed && status.committed == end, "{status:?}");
        self.hold(stream.id());
        self.until(|_| future.try_take()).expect("it is acked").lsn
    }

    fn stop(mut self) {
        self.port.stop();
        while self.shard.turn(false) {}
    }

    fn truncate(&mut self, stream: u64, to: Lsn) -> Result<(), Error> {
        let answer = self.port.truncate_to(stream, to).expect("room");
        self.until(|_| answer.try_take())
    }

    /// Appends to a stream and truncates it until the log begins behind this segment.
    fn churn(&mut self, stream: &Stream, segment: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.shard.log_start().segment <= segment {
            let start = self.shard.log_start();
            assert!(Instant::now() < deadline, "segment {segment} is kept: {start:?}");
            let mut future = stream.append(vec![9; 256 << 10]);
            let lsn = self.until(|_| future.try_take()).expect("it leads").lsn;
            self.truncate(stream.id(), lsn).expect("it was acked");
        }
    }

    fn base(&self, stream: u64) -> Lsn {
        self.shard.streams[&stream].replica.log().base().lsn
    }
}

/// A mark stands in a group that is let go. Without it in the image of its stream, and in that of
/// the catalogue, acks would wait for nobody after a restart.
#[test]
fn a_recycled_stream_is_gated_as_before_after_a_restart() {
    let home = Home::new(1);
    let mut seat = home.open_eager();
    let streams = seat.create(2);
    let [gated, busy] = &streams[..] else { panic!("two streams") };
    seat.mark(CATALOGUE_STREAM);
    let before = seat.shard.sync_status(CATALOGUE_STREAM).expect("it is here").committed;
    let answer = seat.port.create_streams(1).expect("room");
    seat.committed(CATALOGUE_STREAM, before);
    seat.hold(CATALOGUE_STREAM);
    let born = seat.until(|_| answer.try_take()).expect("it is held")[0];
    seat.mark(gated.id());
    let marked = seat.shard.sync_status(gated.id()).and_then(|it| it.standing).expect("a mark");
    let log = seat.shard.streams[&gated.id()].replica.log();
    let segment = log.find(marked.start).expect("its group").place.segment;
    seat.append_held(gated);
    let last = seat.append_held(gated);
    seat.truncate(gated.id(), last).expect("it was shown");
    seat.until(|seat| (seat.base(gated.id()) >= marked.end).then_some(()));
    seat.churn(busy, segment);
    seat.stop();

    let mut seat = home.open();
    assert!(seat.shard.log_start().segment > segment);
    let status = seat.shard.sync_status(gated.id()).expect("it is here");
    assert_eq!(status.standing, Some(marked));
    // The checkpoint tells what the standby said: readers go as far as they did.
    assert!(status.held > last && status.released == status.held, "{status:?}");
    assert!(status.released <= status.committed, "{status:?}");
    let gated = Stream::new(gated.id(), seat.port.clone());
    seat.append_held(&gated);
    let status = seat.shard.sync_status(born).expect("it is here");
    assert_eq!(status.standing.map(|standing| standing.mark), Some(MARK), "it was born with it");
    assert_eq!(seat.shard.catalogue.mark(born), Some(MARK));
    let born = Stream::new(born, seat.port.clone());
    seat.append_held(&born);
}

#[test]
fn what_a_sync_standby_lacks_is_kept() {
    let home = Home::new(1);
    let mut seat = home.open_eager();
    let streams = seat.create(2);
    let [gated, busy] = &streams[..] else { panic!("two streams") };
    let mut acked = Vec::new();
    for _ in 0..3 {
        let mut future = gated.append("from before the mark");
        acked.push(seat.until(|_| future.try_take()).expect("it leads").lsn);
    }
    seat.mark(gated.id());
    let before = seat.shard.sync_status(gated.id()).expect("it is here").committed;
    let mut waits = gated.append("not shown");
    let end = seat.committed(gated.id(), before);
    let refused = seat.truncate(gated.id(), end).expect_err("nobody was shown it");
    assert_eq!(refused.kind(), ErrorKind::Config);
    seat.truncate(gated.id(), acked[2]).expect("it was shown");
    // Nothing else holds it back.
    seat.until(|seat| {
        let replica = &seat.shard.streams[&gated.id()].replica;
        replica.can_truncate(acked[2]).then_some(())
    });
    let segment = seat.shard.ledger.wal.active().0;
    seat.churn(busy, segment);
    assert_eq!(seat.base(gated.id()), Lsn::ZERO, "it is moved, and not let go");
    assert!(waits.try_take().is_none());

    seat.hold(gated.id());
    seat.until(|_| waits.try_take()).expect("it is held");
    let last = seat.append_held(gated);
    seat.truncate(gated.id(), last).expect("it was shown");
    seat.until(|seat| (seat.base(gated.id()) >= end).then_some(()));
    seat.stop();
}

#[test]
fn a_sync_standby_that_is_below_the_base_says_so() {
    let home = Home::of(Role::Standby, 1);
    let mut seat = home.open();
    seat.until(|seat| seat.shard.imports.chooser.is_some().then_some(()));
    let state = |seat: &Seat| {
        let transfer = seat.shard.import_state(CATALOGUE_STREAM).expect("it is imported");
        (transfer.state, transfer.reason)
    };
    seat.shard.want_join(CATALOGUE_STREAM);
    for reason in [SyncEnd::NotLeader, SyncEnd::Recycled { base: Lsn::ZERO }] {
        seat.shard.on_ship_end(0, CATALOGUE_STREAM, reason);
        assert_ne!(state(&seat).0, "source-has-a-gap", "{reason:?}");
    }
    seat.shard.on_ship_end(0, CATALOGUE_STREAM, SyncEnd::Recycled { base: Lsn(80) });
    let (name, reason) = state(&seat);
    assert!(name == "source-has-a-gap" && reason.contains("begins at LSN 80"), "{name}: {reason}");
    // Nobody says that acks wait for it.
    seat.until(|seat| seat.shard.gap(CATALOGUE_STREAM).is_none().then_some(()));
    assert_ne!(state(&seat).0, "source-has-a-gap");
}

#[test]
fn under_a_mark_that_may_have_ended_only_what_is_said_of_the_level_is_written() {
    let mut home = Home::new(1);
    let stream = {
        let mut seat = home.open();
        let stream = seat.create(1)[0].id();
        [CATALOGUE_STREAM, stream].into_iter().for_each(|stream| seat.mark(stream));
        stream
    };
    home.levels = true;
    let mut seat = home.open();
    let end = |seat: &Seat| seat.shard.sync_status(stream).expect("it is here").committed;
    let before = end(&seat);
    let mut held = Stream::new(stream, seat.port.clone()).append(vec![7; 100]);
    let made = seat.port.create_streams(1).expect("room");
    let asked = Request::SetPrimary { transfer: Transfer::Sync };
    let told = seat.port.control(asked).expect("room");
    let done = seat.until(|_| told.try_take()).expect("it waits for no lease");
    assert!(done.changed);
    (0..100).for_each(|_| assert!(seat.shard.turn(false)));
    assert!(held.try_take().is_none() && made.try_take().is_none());
    assert_eq!(end(&seat), before, "nothing was written to a stream that holds");
}

/// The kind of error that an append has by now.
fn kind(future: &mut AppendFuture) -> Option<ErrorKind> {
    future.try_take().map(|outcome| outcome.expect_err("it was not acked").kind())
}

#[test]
fn small_watched_groups_pin_no_large_slots() {
    let home = Home::new(1);
    let mut seat = home.open();
    let streams = seat.create(2);
    let [small, large] = &streams[..] else { panic!("two streams") };
    let watch = ForwardRequest::Watch { stream: small.id() };
    seat.forwarder.request(watch).expect("room");
    seat.until(|seat| {
        let watched = seat.shard.forward.as_ref().is_some_and(|port| port.wants(small.id()));
        watched.then_some(())
    });
    // A reader that keeps up, and a forwarder that keeps everything for it.
    let mut kept = Vec::new();
    for round in 0..150 {
        let mut futures = [small.append(vec![1; 100]), large.append(vec![2; 200 << 10])];
        for future in &mut futures {
            let outcome = seat.until(|_| future.try_take());
            assert!(outcome.is_ok(), "round {round}: {outcome:?}");
        }
        while let Some(event) = seat.forwarder.pop_event() {
            kept.extend(matches!(event, ForwardEvent::Tail(_)).then_some(event));
        }
    }
    assert!(kept.len() > 100, "{} groups came from memory", kept.len());
    let used = seat.shard.io.pool.used(Purpose::Write);
    assert!(used <= 4 << 20, "{used} bytes of slots for {} small groups", kept.len());
}

#[test]
fn a_request_to_stop_is_seen_although_it_rings_no_bell() {
    let home = Home::new(1);
    let mut seat = home.open();
    seat.meddler.stop_before_arming.store(true, Ordering::SeqCst);
    let deadline = Instant::now() + PATIENCE;
    while seat.shard.turn(true) {
        assert!(Instant::now() < deadline, "it never stops");
    }
    assert_eq!(seat.shard.halted(), Some(&Halt::Done));
    assert!(!seat.meddler.overslept.load(Ordering::SeqCst), "it sleeps on the request");
}

#[test]
fn a_shard_that_spins_sleeps_once_it_was_idle_for_that_long() {
    let home = Home::new(1);
    let config = ShardConfig { spin_ns: 200_000_000, ..home.config(0) };
    let mut seat = home.seat(config, None, Arc::new(Board::new(1)));
    seat.until(|seat| seat.shard.is_ready().then_some(()));
    seat.meddler.stop_before_arming.store(true, Ordering::SeqCst);
    let (idle_since, mut turns) = (Instant::now(), 0);
    while seat.shard.turn(true) {
        turns += 1;
        assert!(idle_since.elapsed() < PATIENCE, "it never sleeps");
    }
    assert!(idle_since.elapsed() >= Duration::from_millis(100), "it sleeps after {turns} turns");
}

/// A stream that was created a moment ago is not known everywhere yet.
#[test]
fn only_who_leads_the_catalogue_says_that_a_stream_does_not_exist() {
    let home = Home::new(2);
    let mesh = Arc::new(Mesh::new(2));
    let board = Arc::new(Board::new(2));
    let seat = |shard| home.seat(home.config(shard), Some(mesh.clone()), board.clone());
    let (mut first, mut second) = (seat(0), seat(1));
    second.until(|seat| (seat.shard.phase == Phase::Running).then_some(()));
    let refusal = |seat: &Seat| seat.shard.check_stream(99).err().expect("there is none");
    // Stream 1 is of the second shard: this one recovers and has not told the first one yet.
    assert_eq!(refusal(&first).kind(), ErrorKind::NotLeader);
    second.until(|seat| seat.shard.is_ready().then_some(()));
    for seat in [&mut first, &mut second] {
        seat.until(|seat| {
            seat.shard.turn(false);
            (refusal(seat).kind() == ErrorKind::UnknownStream).then_some(())
        });
    }
    *mesh.catalogue() = CatalogueLeader::At { node: 2, addr: "10.0.0.2:7".to_owned() };
    let error = refusal(&first);
    assert_eq!((error.kind(), error.leader_hint()), (ErrorKind::NotLeader, Some("10.0.0.2:7")));
}

/// A shard without a stream, whose log is gone while its identity is there: it may have promised
/// anything, and nothing on this disk would say so.
#[test]
fn a_log_that_is_gone_makes_no_new_voter() {
    let home = Home::new(3);
    let boot = || {
        let mut seat = home.seat(home.config(2), None, Arc::new(Board::new(3)));
        seat.try_until(|seat| (seat.shard.phase == Phase::Running).then_some(()));
        seat.shard.halted().cloned()
    };
    let segments = || {
        let names = std::fs::read_dir(home.config(2).dir).expect("a directory");
        let paths = names.map(|name| name.expect("a name").path());
        paths.filter(|path| path.extension().is_some()).collect::<Vec<_>>()
    };
    let is_corrupt = |halt: &Option<Halt>| match halt {
        Some(Halt::Corrupt(text)) => text.contains("replace the node"),
        _ => false,
    };
    assert_eq!(boot(), None, "a log without records is whole");
    assert!(!segments().is_empty());
    for path in segments() {
        let len = std::fs::metadata(&path).expect("a file").len() as usize;
        std::fs::write(path, vec![0; len]).expect("space");
    }
    let halt = boot();
    assert!(is_corrupt(&halt), "{halt:?}");
    segments().iter().for_each(|path| std::fs::remove_file(path).expect("a file"));
    for again in 0..2 {
        let halt = boot();
        assert!(is_corrupt(&halt), "{again}: {halt:?}");
    }
}

/// Everything that can be asked of a shard, and waits.
struct Asked {
    append: AppendFuture,
    report: crate::handle::Answer<()>,
    read: crate::handle::Answer<crate::handle::ReadPart>,
    create: crate::handle::Answer<Vec<u64>>,
}

fn ask(port: &Arc<ShardPort>, stream: &Stream) -> Result<Asked, Error> {
    Ok(Asked {
        append: stream.append("asked"),
        report: port.request(|reply| Command::Report { reply })?,
        read: port.read(stream.id(), Lsn(0))?,
        create: port.create_streams(1)?,
    })
}

impl Asked {
    /// The kinds of errors that came, in the order of the fields.
    fn kinds(&mut self) -> [Option<ErrorKind>; 4] {
        let kind_of = |error: Error| error.kind();
        [
            kind(&mut self.append),
            self.report.try_take().map(|answer| answer.map_err(kind_of).unwrap_err()),
            self.read.try_take().map(|answer| answer.map_err(kind_of).unwrap_err()),
            self.create.try_take().map(|answer| answer.map_err(kind_of).unwrap_err()),
        ]
    }
}

/// A shard that is over answers who waited and refuses who comes, without another turn.
fn assert_over(seat: &Seat, stream: &Stream, expected: ErrorKind) {
    let mut later = stream.append("later");
    assert_eq!(kind(&mut later), Some(expected));
    assert_eq!(ask(&seat.port, stream).err().map(|error| error.kind()), Some(expected));
    assert_eq!(stream.truncate_to(Lsn(0)).unwrap_err().kind(), expected);
    let read = stream.reader(Lsn(0)).next().expect("an error");
    assert_eq!(read.unwrap_err().kind(), expected);
}

#[test]
fn a_poisoned_shard_answers_everyone() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    let mut follower = seat.port.request(|reply| Command::Read {
        stream: stream.id(),
        from: Lsn(0),
        after: None,
        follow: true,
        reply,
    });
    let follower = follower.as_mut().expect("room");
    seat.meddler.fail_writes.store(true, Ordering::SeqCst);
    let mut logged = stream.append("it has a place when the write fails");
    seat.try_until(|_| None::<()>);
    assert!(matches!(seat.shard.halted(), Some(Halt::Poisoned(_))), "{:?}", seat.shard.halted());
    assert_eq!(kind(&mut logged), Some(ErrorKind::Unknown));
    let followed = follower.try_take().expect("an answer").unwrap_err();
    assert_eq!(followed.kind(), ErrorKind::Poisoned);
    assert_over(&seat, &stream, ErrorKind::Poisoned);
    assert!(!seat.shard.turn(false), "it stays so");
}

#[test]
fn a_poisoned_shard_serves_nobody_in_the_turn_that_learns_of_it() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    seat.meddler.fail_writes.store(true, Ordering::SeqCst);
    let _logged = stream.append("it has a place when the write fails");
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "it takes too long");
        let report = seat.port.request(|reply| Command::Report { reply }).expect("room");
        let goes_on = seat.shard.turn(false);
        let answer = report.try_take().expect("each turn answers");
        if !goes_on {
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::Poisoned);
            return;
        }
        assert!(answer.is_ok());
    }
}

/// A record of so many bytes.
fn record(len: usize) -> OwnRecord {
    OwnRecord {
        stream: 0,
        kind: Kind::CommitHint,
        lsn: Lsn(0),
        ballot: Ballot::NONE,
        body: vec![1; len],
        id: None,
    }
}

impl Home {
    /// The only shard, with little space.
    fn open_small(&self) -> Seat {
        let config = ShardConfig { log_bytes_max: 2 * SEGMENT_BYTES, ..self.config(0) };
        let mut seat = self.seat(config, None, Arc::new(Board::new(1)));
        seat.until(|seat| seat.shard.is_ready().then_some(()));
        seat
    }
}

/// Fills a log but for its last pages.
fn fill(seat: &mut Seat) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "it takes too long");
        match seat.shard.ledger.wal.peek(128 << 10, true) {
            Ok(_) => seat.shard.ledger.push(record(100 << 10)),
            Err(NoRoom::Full) if seat.shard.ledger.is_settled() => break,
            Err(_) => {}
        }
        assert!(seat.shard.turn(false), "{:?}", seat.shard.halted());
    }
}

#[test]
fn the_last_pages_of_a_full_log_take_one_record_at_a_time() {
    let home = Home::new(1);
    let mut seat = home.open_small();
    fill(&mut seat);
    let before = seat.shard.ledger.wal.appended();
    // Together more than is left.
    (0..40).for_each(|_| seat.shard.ledger.push(record(4000)));
    // One more may be the closing block.
    seat.until(|seat| (seat.shard.ledger.wal.durable() > before + 2).then_some(()));
}

#[test]
fn a_shard_that_stops_answers_everyone() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    let mut asked = ask(&seat.port, &stream).expect("room");
    seat.port.stop();
    assert_over(&seat, &stream, ErrorKind::Shutdown);
    assert!(!seat.shard.turn(true));
    assert_eq!(asked.kinds(), [Some(ErrorKind::Shutdown); 4], "what was not taken is not appended");
    assert_over(&seat, &stream, ErrorKind::Shutdown);
    drop(seat.shard);
    let after = Stream::new(stream.id(), seat.port).append("after").wait();
    assert_eq!(after.unwrap_err().kind(), ErrorKind::Shutdown);
}

#[test]
fn what_was_taken_and_not_logged_is_not_appended_when_the_shard_stops() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    // More than the device takes at once: the last ones are in no group when it stops.
    let mut futures: Vec<AppendFuture> =
        (0..40).map(|_| stream.append(vec![3; 200 << 10])).collect();
    seat.shard.turn(false);
    seat.port.stop();
    assert!(!seat.shard.turn(false));
    let kinds: Vec<_> = futures.iter_mut().map(|future| kind(future).expect("settled")).collect();
    let unknown = kinds.iter().take_while(|kind| **kind == ErrorKind::Unknown).count();
    assert!(unknown > 0 && unknown < kinds.len(), "{kinds:?}");
    assert!(kinds[unknown..].iter().all(|kind| *kind == ErrorKind::Shutdown), "{kinds:?}");
    drop(seat);
    let seat = home.open();
    let state = &seat.shard.streams[&stream.id()];
    let at_most = unknown as u64 * ((200 << 10) + 256);
    assert!(state.replica.log().end().lsn.0 <= at_most, "something else is in the log");
}

/// Asks a node for its status while its shards are turned here.
fn status_of(addr: SocketAddr, seats: &mut [Seat]) -> Status {
    let asked = std::thread::spawn(move || {
        let options = ClientOptions { cluster: 1, timeout: PATIENCE };
        let mut client = Client::new(&[addr.to_string()], options).expect("an address");
        client.status_json()
    });
    while !asked.is_finished() {
        assert!(seats.iter_mut().all(|seat| seat.shard.turn(false)), "a shard stopped");
    }
    let json = asked.join().expect("no panic").expect("an answer");
    serde_json::from_slice(&json).expect("a status")
}

#[test]
fn a_silent_shard_is_shown_as_of_its_last_report() {
    let home = Home::new(2);
    let (mesh, board) = (Arc::new(Mesh::new(2)), Arc::new(Board::new(2)));
    let seat = |shard| home.seat(home.config(shard), Some(mesh.clone()), board.clone());
    let mut seats = [seat(0), seat(1)];
    let deadline = Instant::now() + PATIENCE;
    while !seats.iter().all(|seat| seat.shard.is_ready()) {
        assert!(Instant::now() < deadline, "not ready in time");
        assert!(seats.iter_mut().all(|seat| seat.shard.turn(false)), "a shard stopped");
    }
    let addr = seats[0].shard.listening().expect("it listens");

    // Shard 1 has never reported and is not turned.
    let status = status_of(addr, &mut seats[..1]);
    assert!(status.stream(0).is_some() && status.stream(1).is_none(), "{status:?}");
    assert_eq!(status.alarms.iter().map(|a| &a.code[..]).collect::<Vec<_>>(), ["shard-silent"]);

    let made = seats[1].port.create_streams(2).expect("room");
    let ids = loop {
        assert!(seats.iter_mut().all(|seat| seat.shard.turn(false)), "a shard stopped");
        if let Some(ids) = made.try_take() {
            break ids.expect("it leads");
        }
    };
    assert_eq!(ids, [2, 3]);
    let stream = Stream::new(3, seats[1].port.clone());
    let mut future = stream.append("only shard 1 knows");
    let outcome = seats[1].until(|_| future.try_take()).expect("it leads");
    let status = status_of(addr, &mut seats);
    let shown = status.stream(3).expect("both shards report");
    assert_eq!((shown.committed_lsn, shown.age_us), (outcome.end_lsn.0, None));
    assert!(status.alarms.is_empty(), "{status:?}");

    let mut future = stream.append("shown later");
    let later = seats[1].until(|_| future.try_take()).expect("it leads");
    let status = status_of(addr, &mut seats[..1]);
    let shown = status.stream(3).expect("as of its last report");
    assert_eq!(shown.committed_lsn, outcome.end_lsn.0);
    assert!(shown.age_us.is_some_and(|age| age >= crate::limits::SURVEY_NS / 1000), "{shown:?}");
    assert_eq!(status.stream(0).expect("its own").age_us, None);
    assert_eq!(status.alarms.len(), 1, "{status:?}");

    let status = status_of(addr, &mut seats);
    assert_eq!(status.stream(3).expect("again").committed_lsn, later.end_lsn.0);
}

#[test]
fn a_disk_whose_numbers_are_used_up_starts_no_shard() {
    for (boots, round_ceiling) in [(1 << 32, 1024), (1, u64::MAX)] {
        let home = Home::new(1);
        let path = home.config(0).dir.join("identity");
        let mut bytes = std::fs::read(&path).expect("the identity file");
        let (found, generation) = palisade_wal::decode_identity(&bytes).expect("a whole copy");
        let used_up = palisade_wal::Identity { boots, round_ceiling, ..found };
        for copy in bytes.chunks_mut(4096) {
            palisade_wal::encode_identity(&used_up, generation, copy);
        }
        std::fs::write(&path, &bytes).expect("the identity file");
        let mut seat = home.seat(home.config(0), None, Arc::new(Board::new(1)));
        let halted =
            seat.try_until(|seat| seat.shard.halt.as_ref().map(|halt| format!("{halt:?}")));
        let halted = halted.expect("it stops");
        assert!(halted.contains("numbers are too high"), "{halted}");
    }
}
