//! SYNC shipping by hand: a primary of three nodes and a SYNC standby of three, with leaders that
//! go and come on either side.

use palisade::config::Role;
use palisade::control::{self, Controlled, Mode, Phase, Request};
use palisade::paxos::Tuning;
use palisade::shard::Halt;
use palisade::shard::sync::{Mark, SyncStatus};
use palisade::status::Transfer;
use palisade::{AppendFuture, Appended, Error, ErrorKind, NewRecord, Outcome, Protection, Stream};
use palisade_netio::ZeroCopyMode;
use palisade_tests::sim::{FaultKind, FaultPlan, Random, Universe};
use palisade_tests::world::{Fleet, MS, SECOND, Settings, Turned};
use palisade_wal::Lsn;

const PRIMARY: usize = 0;
const STANDBY: usize = 1;
/// The catalogue's stream.
const CATALOGUE: u64 = 1;
/// Id of the standby.
const NAMED: u32 = 2;
/// Its net timeout and health check, where it is registered.
const NET_MS: u32 = 1000;
const HEALTH_MS: u32 = 500;
const MARK: Mark = Mark::Sync { cluster: NAMED, epoch: 1 };

struct Pair {
    universe: Universe,
    fleet: Fleet,
}

impl Pair {
    /// Two clusters that run, and two streams.
    fn new(seed: u64, standbys: u32) -> (Pair, u64, u64) {
        Pair::with(seed, standbys, 1)
    }

    fn with(seed: u64, standbys: u32, shards: u16) -> (Pair, u64, u64) {
        Pair::build(seed, standbys, shards, true)
    }

    /// The same, whose marks are written by the level, with a SYNC standby that is registered.
    fn levelled(seed: u64, standbys: u32, shards: u16) -> (Pair, u64, u64) {
        let (mut pair, stream, other) = Pair::build(seed, standbys, shards, false);
        let endpoints = pair.fleet.clusters[STANDBY].nodes.iter();
        let endpoints = endpoints.map(|node| pair.fleet.nodes[*node].addr.to_string()).collect();
        let settings = control::Settings {
            name: Some("standby".to_string()),
            region: Some("there".to_string()),
            endpoints: Some(endpoints),
            transfer: Some(Transfer::Sync),
            net_timeout_ms: Some(NET_MS),
            health_check_ms: Some(HEALTH_MS),
            upstream: None,
        };
        pair.ask(Request::Add { cluster: NAMED, settings }).expect("registered");
        (pair, stream, other)
    }

    fn build(seed: u64, standbys: u32, shards: u16, by_hand: bool) -> (Pair, u64, u64) {
        let universe = Universe::new(seed);
        universe.follow_frames();
        let mut settings = Settings::draw(&mut Random::new(seed));
        (settings.shards, settings.tuning) = (shards, Tuning::default());
        (settings.zero_copy, settings.segment_bytes) = (ZeroCopyMode::Auto, 2 << 20);
        settings.forwarding = palisade::forward::Limits::default();
        // Members say with each commit what nobody asks for any more.
        settings.tuning.commit_hint_bytes = 0;
        let mut fleet = Fleet::new(&universe, &settings);
        fleet.by_hand = by_hand;
        fleet.add_cluster(Role::Primary, 3, shards, &[]).expect("formatted");
        fleet.add_cluster(Role::Standby, standbys, shards, &[0, 1, 2]).expect("formatted");
        (0..fleet.nodes.len()).for_each(|node| fleet.start(node));
        let mut pair = Pair { universe, fleet };
        assert!(pair.run(20 * SECOND, |pair| pair.fleet.leader(PRIMARY, 1).is_some()));
        let made = [pair.create(), pair.create()];
        let both = |pair: &Pair| made.iter().all(|s| pair.fleet.leader(STANDBY, *s).is_some());
        assert!(pair.run(20 * SECOND, |pair| both(pair)), "the standby has them");
        (pair, made[0], made[1])
    }

    /// A new stream.
    fn create(&mut self) -> u64 {
        let leader = self.await_leader(PRIMARY, CATALOGUE);
        let port = self.fleet.port(leader, CATALOGUE).expect("it runs");
        let (answer, mut made) = (port.create_streams(1).expect("room"), None);
        assert!(self.run(20 * SECOND, |_| {
            made = answer.try_take().map(|made| made.expect("a stream"));
            made.is_some()
        }));
        let made = made.expect("it came")[0];
        self.await_leader(PRIMARY, made);
        made
    }

    /// Runs until `done`, or for so long: whether it was reached.
    fn run(&mut self, ns: u64, mut done: impl FnMut(&Pair) -> bool) -> bool {
        let end = self.universe.now().after(ns);
        loop {
            if done(self) {
                return true;
            }
            if self.universe.now() >= end {
                return false;
            }
            if self.universe.next_event().is_none_or(|at| at > end) {
                self.universe.advance_to(end);
            }
            self.step();
        }
    }

    fn step(&mut self) {
        for ring in self.universe.step() {
            if let Some((node, Turned::Halted(halt))) = self.fleet.turn(ring) {
                assert_eq!(halt, Halt::Done, "node {node}");
            }
        }
    }

    fn leader(&self, cluster: usize, stream: u64) -> usize {
        self.fleet.leader(cluster, stream).expect("it is led")
    }

    /// Waits for a leader, and for clients to be served there.
    fn await_leader(&mut self, cluster: usize, stream: u64) -> usize {
        assert!(self.run(20 * SECOND, |pair| pair.fleet.leader(cluster, stream).is_some()));
        self.leader(cluster, stream)
    }

    fn status(&self, stream: u64) -> SyncStatus {
        let leader = self.leader(PRIMARY, stream);
        self.fleet.sync_status(leader, stream).expect("it has the stream")
    }

    /// Writes a mark, under whoever leads, and waits until it is committed.
    fn mark(&mut self, stream: u64, mark: Mark) {
        let end = self.universe.now().after(5 * SECOND);
        let stands = |pair: &Pair| {
            let leader = pair.fleet.leader(PRIMARY, stream);
            let status = leader.and_then(|node| pair.fleet.sync_status(node, stream));
            status.and_then(|status| status.standing).map(|it| it.mark) == Some(mark)
        };
        while !stands(self) {
            assert!(self.universe.now() < end, "{mark:?} is not committed");
            if let Some(leader) = self.fleet.leader(PRIMARY, stream) {
                self.fleet.write_mark(leader, stream, mark);
            }
            self.run(100 * MS, stands);
        }
    }

    fn append(&self, stream: u64, bytes: usize) -> AppendFuture {
        let leader = self.leader(PRIMARY, stream);
        let port = self.fleet.port(leader, stream).expect("it runs");
        Stream::new(stream, port).append(vec![7; bytes])
    }

    fn outcome(&mut self, future: &mut AppendFuture, ns: u64) -> Option<Outcome> {
        let mut outcome = None;
        self.run(ns, |_| {
            outcome = future.try_take();
            outcome.is_some()
        });
        outcome
    }

    /// Appends until it is acked, as a client does whose leader may be gone; says where it ends.
    fn acked(&mut self, stream: u64, ns: u64) -> Lsn {
        let end = self.universe.now().after(ns);
        loop {
            let left = end.since(self.universe.now());
            assert!(left > 0, "nothing is acked: {:?}", self.status(stream));
            self.await_leader(PRIMARY, stream);
            let mut future = self.append(stream, 100);
            match self.outcome(&mut future, left.min(3 * SECOND)) {
                Some(Ok(appended)) => {
                    self.check_held(stream, appended.end_lsn);
                    return appended.end_lsn;
                }
                Some(Err(_)) => drop(self.run(20 * MS, |_| false)),
                None => {}
            }
        }
    }

    /// What a majority of the standby has on its disks reaches so far.
    fn check_held(&self, stream: u64, end: Lsn) {
        let nodes = &self.fleet.clusters[STANDBY].nodes;
        let durable = |node: &&usize| {
            self.fleet.replica(**node, stream).is_some_and(|replica| replica.durable() >= end)
        };
        let count = nodes.iter().filter(durable).count();
        assert!(count * 2 > nodes.len(), "{count} nodes of the standby hold {end}");
    }

    fn kill(&mut self, cluster: usize) {
        for node in self.fleet.clusters[cluster].nodes.clone() {
            self.fleet.kill(node);
        }
    }

    fn start(&mut self, cluster: usize) {
        for node in self.fleet.clusters[cluster].nodes.clone() {
            self.fleet.start(node);
        }
    }

    /// Where a reader of a node stops.
    fn readable(&mut self, node: usize, stream: u64) -> Lsn {
        let mut from = Lsn::ZERO;
        loop {
            let port = self.fleet.port(node, stream).expect("it runs");
            let (answer, mut part) = (port.read(stream, from).expect("room"), None);
            assert!(self.run(5 * SECOND, |_| {
                part = answer.try_take();
                part.is_some()
            }));
            let part = part.expect("it came").expect("readable");
            if part.next == from {
                return from;
            }
            from = part.next;
        }
    }
}

#[test]
fn an_ack_waits_for_a_majority_of_the_sync_standby_and_for_nothing_else() {
    for standbys in [1, 3] {
        let (mut pair, stream, other) = Pair::new(11, standbys);
        pair.acked_alone(stream);
        pair.mark(stream, MARK);
        pair.acked(stream, 10 * SECOND);
        // Shipped from leader to leader.
        let (from, node) = pair.fleet.upstream(STANDBY, stream).expect("it is connected");
        assert_eq!((from, node), (PRIMARY, pair.leader(PRIMARY, stream)));
        let mut slowest = 0;
        for _ in 0..20 {
            let began = pair.universe.now();
            pair.acked(stream, SECOND);
            slowest = slowest.max(pair.universe.now().since(began));
        }
        assert!(slowest < 100 * MS, "{slowest} ns for an ack");
        pair.kill(STANDBY);
        let mut gated = pair.append(stream, 100);
        assert!(pair.outcome(&mut gated, 5 * SECOND).is_none(), "acked alone");
        pair.acked_alone(other);
        let status = pair.status(stream);
        assert!(status.committed > status.held && status.waits.is_some(), "{status:?}");
        for node in pair.fleet.clusters[PRIMARY].nodes.clone() {
            assert!(pair.readable(node, stream) <= status.held, "{status:?}");
        }
        pair.start(STANDBY);
        let acked = pair.outcome(&mut gated, 10 * SECOND).expect("acked").expect("acked");
        pair.check_held(stream, acked.end_lsn);
        for node in pair.fleet.clusters[PRIMARY].nodes.clone() {
            let mut seen = Lsn::ZERO;
            for _ in 0..20 {
                seen = pair.readable(node, stream);
                pair.run(50 * MS, |_| false);
            }
            assert!(seen >= acked.end_lsn, "node #{node} shows {seen}");
        }
        assert_eq!(pair.status(stream).waits, None);
    }
}

impl Pair {
    fn acked_alone(&mut self, stream: u64) {
        let mut future = self.append(stream, 100);
        self.outcome(&mut future, SECOND).expect("acked").expect("acked");
    }
}

#[test]
fn a_record_that_is_sent_again_waits_as_it_did_the_first_time() {
    let (mut pair, stream, _) = Pair::new(17, 1);
    pair.mark(stream, MARK);
    pair.acked(stream, 10 * SECOND);
    pair.kill(STANDBY);
    let again = |pair: &Pair| {
        let port = pair.fleet.port(pair.leader(PRIMARY, stream), stream).expect("it runs");
        let payload = vec![9; 100].into();
        let record = NewRecord { payload, producer: 5, sequence: 1, ..NewRecord::default() };
        Stream::new(stream, port).append_record(record)
    };
    let mut first = again(&pair);
    pair.run(SECOND, |_| false);
    let status = pair.status(stream);
    assert!(status.committed > status.held, "it is in the log: {status:?}");
    let mut second = again(&pair);
    assert!(pair.outcome(&mut second, 3 * SECOND).is_none(), "acked alone");
    pair.start(STANDBY);
    let first = pair.outcome(&mut first, 10 * SECOND).expect("acked").expect("acked");
    let second = pair.outcome(&mut second, SECOND).expect("acked").expect("acked");
    assert_eq!(first.lsn, second.lsn);
    pair.check_held(stream, first.end_lsn);
}

/// Every frame between the leaders, and to followers, is lost now and then, or late, or comes
/// twice. What was lost is said again, in a world without faults and without another append.
#[test]
fn lost_words_are_said_again_where_something_waits() {
    for seed in 20..40 {
        let (mut pair, stream, _) = Pair::new(seed, 3);
        pair.mark(stream, MARK);
        pair.acked(stream, 10 * SECOND);
        let rough = FaultPlan::none()
            .with(FaultKind::FrameLost, 200_000)
            .with(FaultKind::FrameAgain, 100_000)
            .with(FaultKind::FrameLate, 100_000);
        pair.universe.set_faults(rough);
        let mut futures = Vec::new();
        for _ in 0..20 {
            if pair.fleet.leader(PRIMARY, stream).is_some() {
                futures.push(pair.append(stream, 100));
            }
            pair.run(100 * MS, |_| false);
        }
        pair.universe.calm();
        let mut end = Lsn::ZERO;
        for future in &mut futures {
            let outcome = pair.outcome(future, 10 * SECOND).expect("it is answered");
            end = end.max(outcome.map_or(end, |acked| acked.end_lsn));
        }
        assert!(end > Lsn::ZERO, "nothing was acked under seed {seed}");
        pair.check_held(stream, end);
        let nodes = pair.fleet.clusters[PRIMARY].nodes.clone();
        for node in nodes {
            let until = pair.universe.now().after(5 * SECOND);
            // How far a follower knows to be committed is another matter.
            let waits = |pair: &Pair| {
                let known = pair.fleet.sync_status(node, stream).expect("it has it");
                known.released < known.committed.min(end)
            };
            while waits(&pair) {
                let known = pair.fleet.sync_status(node, stream);
                let now = pair.universe.now();
                assert!(now < until, "#{node} of seed {seed} stops below {end}: {known:?}");
                pair.run(100 * MS, |_| false);
            }
        }
    }
}

#[test]
fn leaders_change_on_either_side_and_acks_go_on() {
    let (mut pair, stream, _) = Pair::new(12, 3);
    pair.mark(stream, MARK);
    pair.acked(stream, 10 * SECOND);
    for round in 0..6 {
        let cluster = if round % 2 == 0 { PRIMARY } else { STANDBY };
        let leader = pair.leader(cluster, stream);
        pair.fleet.kill(leader);
        let began = pair.universe.now();
        pair.acked(stream, 10 * SECOND);
        let gap = pair.universe.now().since(began);
        assert!(gap < 4 * SECOND, "{gap} ns after the leader of cluster {cluster} was killed");
        pair.fleet.start(leader);
        pair.run(2 * SECOND, |_| false);
    }
    // Both at once.
    for cluster in [PRIMARY, STANDBY] {
        let leader = pair.leader(cluster, stream);
        pair.fleet.kill(leader);
    }
    pair.acked(stream, 10 * SECOND);
}

#[test]
fn a_new_leader_knows_the_mark_from_the_log_alone() {
    let (mut pair, stream, _) = Pair::new(13, 1);
    pair.mark(stream, MARK);
    let held = pair.acked(stream, 10 * SECOND);
    pair.kill(STANDBY);
    pair.kill(PRIMARY);
    pair.start(PRIMARY);
    pair.await_leader(PRIMARY, stream);
    let mut gated = pair.append(stream, 100);
    assert!(pair.outcome(&mut gated, 5 * SECOND).is_none(), "acked alone");
    for node in pair.fleet.clusters[PRIMARY].nodes.clone() {
        assert!(pair.readable(node, stream) <= held);
    }
    // The level falls: an ASYNC mark lets it go.
    pair.mark(stream, Mark::Async { epoch: 2 });
    let acked = pair.outcome(&mut gated, SECOND).expect("acked").expect("acked");
    assert!(pair.status(stream).released >= acked.end_lsn);
    // And up again: what was not shipped meanwhile comes before what is acked.
    pair.start(STANDBY);
    pair.mark(stream, Mark::Sync { cluster: NAMED, epoch: 3 });
    pair.acked(stream, 10 * SECOND);
}

#[test]
fn a_stream_is_created_with_the_mark_of_the_catalogue_and_gated_from_its_first_group() {
    for shards in [1, 3] {
        let (mut pair, ..) = Pair::with(15, 3, shards);
        pair.mark(CATALOGUE, MARK);
        let born = pair.create();
        assert_eq!(pair.status(born).mark.map(|it| it.mark), Some(MARK));
        let held = pair.acked(born, 10 * SECOND);
        // Another that nobody appended to while the standby was there.
        let idle = pair.create();
        pair.await_leader(STANDBY, idle);
        pair.kill(STANDBY);
        let mut gated = [born, idle].map(|stream| pair.append(stream, 100));
        pair.run(3 * SECOND, |_| false);
        assert!(gated.iter_mut().all(|it| it.try_take().is_none()), "acked alone");
        // The first record of the stream says so too, whoever starts first.
        pair.kill(PRIMARY);
        pair.start(PRIMARY);
        for (stream, held) in [(born, held), (idle, Lsn::ZERO)] {
            pair.await_leader(PRIMARY, stream);
            let mut gated = pair.append(stream, 100);
            assert!(pair.outcome(&mut gated, 3 * SECOND).is_none(), "acked alone");
            for node in pair.fleet.clusters[PRIMARY].nodes.clone() {
                assert!(pair.readable(node, stream) <= held, "node {node}");
            }
        }
        pair.start(STANDBY);
        for stream in [born, idle] {
            pair.acked(stream, 10 * SECOND);
        }
        // And the end of it.
        pair.mark(CATALOGUE, Mark::Async { epoch: 2 });
        let free = pair.create();
        pair.kill(STANDBY);
        pair.acked_alone(free);
        assert_eq!(pair.status(free).mark.map(|it| it.mark), Some(Mark::Async { epoch: 2 }));
    }
}

#[test]
fn a_mark_goes_before_creations_that_wait() {
    let (mut pair, stream, _) = Pair::new(16, 1);
    let leader = pair.leader(PRIMARY, CATALOGUE);
    let mut waited = 0;
    for epoch in 1..40 {
        // The device is busy with other records, so that creations wait for a group.
        let node = pair.leader(PRIMARY, stream);
        let port = pair.fleet.port(node, stream).expect("it runs");
        let many: Vec<AppendFuture> =
            (0..8).map(|_| Stream::new(stream, port.clone()).append(vec![1; 256 << 10])).collect();
        let port = pair.fleet.port(leader, CATALOGUE).expect("it runs");
        let answer = port.create_streams(1).expect("room");
        let mark = Mark::Sync { cluster: NAMED, epoch };
        for _ in 0..epoch {
            pair.step();
        }
        assert!(pair.fleet.write_mark(leader, CATALOGUE, mark));
        let mut made = None;
        assert!(pair.run(20 * SECOND, |_| {
            made = answer.try_take().map(|made| made.expect("a stream"));
            made.is_some()
        }));
        let born = made.expect("it came")[0];
        pair.await_leader(PRIMARY, born);
        let found = pair.status(born).mark.map(|it| it.mark);
        // Logged before the mark or after it, and under the last one before.
        let before = (epoch > 1).then_some(Mark::Sync { cluster: NAMED, epoch: epoch - 1 });
        assert!(found == Some(mark) || found == before, "{found:?} in round {epoch}");
        waited += usize::from(found == Some(mark));
        drop(many);
    }
    assert!(waited > 0, "none waited");
}

#[test]
fn a_standby_that_was_away_catches_up_from_disk_and_takes_no_room_of_others() {
    let (mut pair, stream, other) = Pair::new(14, 3);
    pair.mark(stream, MARK);
    pair.acked(stream, 10 * SECOND);
    pair.kill(STANDBY);
    let mut futures = Vec::new();
    let mut refused = 0;
    while refused == 0 && futures.len() < 100 {
        let mut future = pair.append(stream, 512 << 10);
        match pair.outcome(&mut future, 50 * MS) {
            None => futures.push(future),
            Some(Err(error)) if error.kind() == ErrorKind::Busy => refused += 1,
            Some(outcome) => panic!("{outcome:?}"),
        }
        pair.acked_alone(other);
    }
    assert!(refused == 1 && futures.len() >= 60, "{} wait, {refused} refused", futures.len());
    pair.start(STANDBY);
    for future in &mut futures {
        let acked = pair.outcome(future, 20 * SECOND).expect("acked").expect("acked");
        pair.check_held(stream, acked.end_lsn);
    }
    pair.acked(stream, SECOND);
}

/// The standby was away when the log was recycled, and is named after that. Acks wait, and it says
/// for what, until a node that kept everything brings it to where the leader's log begins; if there
/// is one.
#[test]
fn a_sync_standby_below_the_base_says_so_and_is_shipped_to_once_another_node_helped() {
    for is_kept in [false, true] {
        let (mut pair, stream, _) = Pair::new(18, 1);
        pair.acked_alone(stream);
        // One that has nothing begins anew by itself.
        let has = |pair: &Pair| {
            let log = |node| Some(pair.fleet.replica(node, stream)?.log().committed().lsn);
            let nodes = &pair.fleet.clusters[STANDBY].nodes;
            nodes.iter().all(|node| log(*node).is_some_and(|known| known > Lsn::ZERO))
        };
        assert!(pair.run(20 * SECOND, has), "nothing comes to the standby");
        pair.kill(STANDBY);
        pair.acked_alone(stream);
        let mut last = pair.append(stream, 100);
        let last = pair.outcome(&mut last, SECOND).expect("acked").expect("acked").lsn;
        let leader = pair.leader(PRIMARY, stream);
        let mut told = pair.fleet.clusters[PRIMARY].nodes.clone();
        let follower = told.iter().position(|node| *node != leader).expect("three nodes");
        if is_kept {
            told.remove(follower);
        }
        pair.recycle(stream, last, &told);

        pair.start(STANDBY);
        pair.mark(stream, MARK);
        let says = |pair: &Pair| {
            let nodes = &pair.fleet.clusters[STANDBY].nodes;
            let transfer = pair.fleet.transfer(nodes[0], stream).unwrap_or_default();
            transfer.starts_with("source-has-a-gap") && transfer.contains("leader begins at LSN")
        };
        if is_kept {
            pair.acked(stream, 60 * SECOND);
            assert!(!says(&pair));
            continue;
        }
        assert!(pair.run(20 * SECOND, says), "it does not say why nothing comes");
        let mut gated = pair.append(stream, 100);
        assert!(pair.outcome(&mut gated, 5 * SECOND).is_none(), "acked alone");
        pair.mark(stream, Mark::Async { epoch: 2 });
        pair.outcome(&mut gated, SECOND).expect("acked").expect("acked");
    }
}

impl Pair {
    /// Truncates a stream on some nodes of the primary, and waits until their logs begin later.
    fn recycle(&mut self, stream: u64, to: Lsn, nodes: &[usize]) {
        let mut left = nodes.to_vec();
        let end = self.universe.now().after(20 * SECOND);
        while !left.is_empty() {
            assert!(self.universe.now() < end, "nodes {left:?} keep everything");
            for node in &left {
                let port = self.fleet.port(*node, stream).expect("it runs");
                // A follower may not know yet that it is committed.
                drop(port.truncate_to(stream, to).expect("room"));
            }
            // What all members hold is told with what is appended.
            self.acked_alone(stream);
            self.run(200 * MS, |_| false);
            left.retain(|node| {
                let replica = self.fleet.replica(*node, stream).expect("it runs");
                replica.log().base().lsn == Lsn::ZERO
            });
        }
    }
}

/// With the level.
impl Pair {
    /// Asks for a change of the registry, as often as leaders change meanwhile.
    fn ask(&mut self, request: Request) -> Result<Controlled, Error> {
        for _ in 0..20 {
            let leader = self.await_leader(PRIMARY, CATALOGUE);
            let port = self.fleet.port(leader, CATALOGUE).expect("it runs");
            let (answer, mut told) = (port.control(request.clone()).expect("room"), None);
            self.run(2 * SECOND, |_| {
                told = answer.try_take();
                told.is_some()
            });
            match told {
                Some(Err(error)) if error.kind() == ErrorKind::Forbidden => return Err(error),
                Some(Ok(done)) => return Ok(done),
                Some(Err(_)) | None => self.run(100 * MS, |_| false),
            };
        }
        panic!("nobody takes {request:?}");
    }

    fn set_mode(&mut self, mode: Protection, force: bool) -> Result<Controlled, Error> {
        self.ask(Request::SetMode { mode, force })
    }

    /// Mode and level as the leader of the catalogue has them committed.
    fn mode(&self) -> Mode {
        let leader = self.fleet.leader(PRIMARY, CATALOGUE);
        let registry = leader.and_then(|node| self.fleet.registries(node).next());
        registry.map(|registry| registry.mode()).unwrap_or_default()
    }

    /// Waits until the level is this, and steady; gives how long that took.
    fn wait_level(&mut self, level: Protection) -> u64 {
        let began = self.universe.now();
        let is_it = |pair: &Pair| pair.mode().level == level && pair.mode().is_steady();
        let risen = self.run(30 * SECOND, is_it);
        assert!(risen, "{:?}, streams: {:?}", self.mode(), self.statuses());
        self.universe.now().since(began)
    }

    fn statuses(&self) -> Vec<(u64, Option<SyncStatus>)> {
        let streams = self.fleet.streams(PRIMARY).into_iter();
        let status = |stream| {
            let leader = self.fleet.leader(PRIMARY, stream)?;
            self.fleet.sync_status(leader, stream)
        };
        streams.map(|stream| (stream, status(stream))).collect()
    }

    /// Appends until it is acked; an ack of a SYNC level is at the standby.
    fn ack(&mut self, stream: u64) -> Appended {
        let end = self.universe.now().after(20 * SECOND);
        while self.universe.now() < end {
            self.await_leader(PRIMARY, stream);
            let mut future = self.append(stream, 100);
            match self.outcome(&mut future, 10 * SECOND) {
                Some(Ok(appended)) => {
                    if Mode::wants_sync(appended.level) {
                        self.check_held(stream, appended.end_lsn);
                    }
                    return appended;
                }
                Some(Err(_)) | None => self.run(20 * MS, |_| false),
            };
        }
        panic!("nothing is acked: {:?}, {:?}", self.mode(), self.statuses());
    }
}

#[test]
fn the_level_rises_when_the_standby_has_every_mark_and_each_ack_says_what_it_is_worth() {
    for (standbys, shards) in [(1, 1), (3, 1), (1, 3)] {
        let (mut pair, stream, other) = Pair::levelled(31, standbys, shards);
        assert_eq!(pair.ack(stream).level, Protection::Performance);
        pair.set_mode(Protection::Availability, false).expect("one SYNC standby");
        pair.wait_level(Protection::Availability);
        for stream in pair.fleet.streams(PRIMARY).into_iter().filter(|it| *it > 0) {
            let status = pair.status(stream);
            let standing = status.standing.expect("it is marked");
            assert_eq!(standing.mark, pair.mode().mark, "stream {stream}");
            assert!(status.held >= standing.end, "stream {stream}: {status:?}");
        }
        // Every shard hears of it before long.
        pair.run(SECOND, |_| false);
        for stream in [stream, other] {
            assert_eq!(pair.ack(stream).level, Protection::Availability);
        }
        // What is created now begins with the mark.
        let late = pair.create();
        let named = pair.status(late).mark.and_then(|it| it.mark.cluster());
        assert_eq!(named, Some(NAMED));
        assert_eq!(pair.ack(late).level, Protection::Availability);
        pair.set_mode(Protection::Performance, false).expect("no proof is needed");
        pair.wait_level(Protection::Performance);
        pair.kill(STANDBY);
        for stream in [stream, other, late] {
            assert_eq!(pair.ack(stream).level, Protection::Performance);
        }
    }
}

#[test]
fn availability_goes_on_without_its_standby_and_returns_to_it() {
    for (seed, shards) in [(32, 1), (33, 3)] {
        let (mut pair, stream, other) = Pair::levelled(seed, 3, shards);
        pair.set_mode(Protection::Availability, false).expect("one SYNC standby");
        pair.wait_level(Protection::Availability);
        pair.run(SECOND, |_| false);
        pair.kill(STANDBY);
        let began = pair.universe.now();
        let acked = pair.ack(stream);
        let took = pair.universe.now().since(began);
        assert_eq!(acked.level, Protection::Resync);
        let net_ns = u64::from(NET_MS) * MS;
        assert!(took >= net_ns && took < net_ns + 3 * SECOND, "acked alone after {took} ns");
        assert_eq!(pair.ack(other).level, Protection::Resync);
        // It does not rise while nobody is there, whoever leads the catalogue.
        let leader = pair.leader(PRIMARY, CATALOGUE);
        pair.fleet.kill(leader);
        pair.run(10 * SECOND, |_| false);
        pair.await_leader(PRIMARY, CATALOGUE);
        assert_eq!(pair.mode().level, Protection::Resync);
        assert_eq!(pair.mode().phase, Phase::Steady);
        pair.fleet.start(leader);
        pair.start(STANDBY);
        pair.wait_level(Protection::Availability);
        pair.run(SECOND, |_| false);
        for stream in [stream, other] {
            assert_eq!(pair.ack(stream).level, Protection::Availability);
        }
    }
}

#[test]
fn protection_waits_for_its_standby_and_is_left_with_its_word_or_by_force() {
    let (mut pair, stream, other) = Pair::levelled(34, 3, 1);
    pair.set_mode(Protection::Protection, false).expect("one SYNC standby");
    pair.wait_level(Protection::Protection);
    pair.run(SECOND, |_| false);
    assert_eq!(pair.ack(stream).level, Protection::Protection);
    pair.kill(STANDBY);
    let mut gated = pair.append(stream, 100);
    assert!(pair.outcome(&mut gated, 10 * SECOND).is_none(), "acked alone");
    assert_eq!((pair.mode().level, pair.mode().phase), (Protection::Protection, Phase::Steady));
    let refused = pair.set_mode(Protection::Performance, false).expect_err("nobody would know");
    assert!(refused.to_string().contains("--force"), "{refused}");
    pair.set_mode(Protection::Performance, true).expect("forced");
    let acked = pair.outcome(&mut gated, 10 * SECOND).expect("acked").expect("acked");
    assert_eq!(acked.level, Protection::Performance);
    assert!(pair.mode().forced > 0);
    pair.start(STANDBY);
    pair.set_mode(Protection::Protection, false).expect("one SYNC standby");
    pair.wait_level(Protection::Protection);
    pair.run(SECOND, |_| false);
    assert_eq!(pair.ack(other).level, Protection::Protection);
    let forced = pair.mode().forced;
    pair.set_mode(Protection::Availability, false).expect("the standby will know");
    pair.wait_level(Protection::Availability);
    assert_eq!(pair.mode().forced, forced);
}
