//! From a directory to a shard that serves: recovery, replicas, listener, peers.

use std::collections::BTreeMap;
use std::sync::Arc;

use palisade_netio::{Identity as Peer, ListenLimits, Listener, Pool, Ring};
use palisade_wal::{
    Ballot, Boundary, CHAIN_START, GroupHeader, IdentityFile, Kind, Lsn, Place, RecordMeta, Replay,
    Started, StreamLog, Wal, WalError,
};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use crate::config::Role;
use crate::handle::ShardPort;
use crate::paxos::codec::fixed;
use crate::paxos::{
    Config, Floors, Liveness, Me, Member, NodeKey, ReplayError, Replayed, Replica, replay,
    replay_group, replay_moved,
};
use crate::shard::checkpoint::{Checkpoints, read_base_moved};
use crate::shard::control::Controls;
use crate::shard::create::Creations;
use crate::shard::floor::read_floor;
use crate::shard::identity::identity_file;
use crate::shard::import::Imports;
use crate::shard::jobs::Jobs;
use crate::shard::ledger::{Ledger, OwnRecord};
use crate::shard::net::Net;
use crate::shard::replayable::Showing;
use crate::shard::stream::StreamState;
use crate::shard::token::{OWNER_LISTENER, owner_base};
use crate::shard::{Halt, Io, Shard, ShardConfig, Shared, mesh::shard_of};
use crate::stream::catalogue::{CATALOGUE_STREAM, Catalogue, Change, SYSTEM_STREAM};
use crate::stream::derived::Derived;
use crate::stream::mark::{MARK_BYTES, Mark};

/// Where a shard is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Reading or making the identity file.
    Identity,
    /// The boot count is on its way to the disk.
    CountingBoot,
    /// Reading the log.
    Recovering,
    /// The first records are on their way to the disk.
    Formatting,
    /// Serving.
    Running,
    /// Over; see `halt`.
    Stopped,
}

/// A stream while its records are replayed.
pub(crate) struct Replaying {
    pub(crate) log: StreamLog,
    pub(crate) config: Config,
    pub(crate) role: Role,
    pub(crate) derived: Derived,
    pub(crate) floor: Lsn,
    /// Where the log is to begin once that much is known to be committed, with the chain there, or
    /// 0.
    pub(crate) base: (Lsn, u64),
}

/// What is needed until the shard runs.
pub(crate) struct Booting {
    pub(crate) identity: IdentityFile,
    streams: BTreeMap<u64, Replaying>,
}

impl Booting {
    /// What was replayed of a stream.
    pub(crate) fn stream_mut(&mut self, stream: u64) -> Option<&mut Replaying> {
        self.streams.get_mut(&stream)
    }

    /// A stream that a checkpoint tells of.
    pub(crate) fn insert(&mut self, stream: u64, told: Replaying) {
        let before = self.streams.insert(stream, told);
        assert!(before.is_none(), "what was replayed counts");
    }
}

impl<R: Ring> Shard<R> {
    /// A shard that will read its directory, or make it when `config.format` says so.
    /// [`turn`](Shard::turn) drives it; what it is asked comes through `port`.
    ///
    /// # Panics
    /// When the port or an inbox of the mesh has a shard already, or the configuration is out of
    /// the bounds of the log.
    pub fn new(
        config: ShardConfig,
        ring: R,
        pool: Pool,
        port: std::sync::Arc<ShardPort>,
        mut shared: Shared,
    ) -> Shard<R> {
        attach(&ring, config.shard, &port, &mut shared);
        // Incarnation and boot count are in the identity file: nothing is asked of the log before.
        let me = formatted(&config);
        let wal = wal_config(&config, &me, Started::default());
        Shard {
            me,
            io: Io { now: ring.now(), ring, pool },
            phase: Phase::Identity,
            halt: None,
            ledger: Ledger::new(Wal::open(wal).expect("bounds were checked")),
            booting: Booting { identity: identity_file(&config), streams: BTreeMap::new() },
            streams: BTreeMap::new(),
            catalogue: Catalogue::default(),
            creations: Creations::default(),
            registry: Arc::default(),
            controls: Controls::default(),
            net: Net::new(me, &config),
            jobs: Jobs::default(),
            surveys: Default::default(),
            imports: Imports::default(),
            joins: Default::default(),
            shipping: Default::default(),
            levels: Default::default(),
            contacts: Default::default(),
            crossings: Default::default(),
            liveness: None,
            closing: Default::default(),
            showing: Showing::new(NodeKey { node: config.node, incarnation: 0 }),
            floors: Floors::new(NodeKey { node: config.node, incarnation: 0 }, 0),
            effects: Default::default(),
            touched: Vec::new(),
            timers: Default::default(),
            dirty: Default::default(),
            pending_count: 0,
            pending_bytes: 0,
            spare: None,
            hand_overs: Default::default(),
            stalled: false,
            pace: Default::default(),
            seal_stuck: false,
            tail_bytes: 0,
            lost_hard_state: false,
            role_epoch: 1,
            port,
            board: shared.board,
            mesh: shared.mesh,
            forward: shared.forward,
            unsent: Default::default(),
            told_leader: None,
            leases: BTreeMap::new(),
            checkpoints: Checkpoints::new(config.retain_ns),
            alarms: BTreeMap::new(),
            listening: None,
            booted: false,
            was_ready: false,
            driven: false,
            answered: false,
            once: 0,
            done: Vec::new(),
            ops: Vec::new(),
            config,
        }
    }

    /// One turn before the shard runs.
    pub(crate) fn boot(&mut self) {
        self.poll_identity();
        if self.phase == Phase::Recovering {
            self.take_replay();
        }
        if self.phase == Phase::Formatting {
            self.check_identity();
            self.finish_format();
        }
        let poisoned = self.ledger.wal.poisoned().or(self.booting.identity.poisoned());
        if let Some(error) = poisoned {
            self.halt = Some(match error {
                WalError::Io { .. } | WalError::Stuck { .. } | WalError::BadAnswer { .. } => {
                    Halt::Io(format!("{}: {error}", self.config.dir.display()))
                }
                error => Halt::Identity(format!("{}: {error}", self.config.dir.display())),
            });
        }
    }

    fn finish_format(&mut self) {
        self.flush_own();
        while self.ledger.poll_durable().is_some() {}
        let written = self.ledger.wal.durable() >= self.ledger.wal.appended();
        if written && self.ledger.is_settled() {
            self.halt = Some(Halt::Done);
        }
    }

    fn take_replay(&mut self) {
        while let Some(item) = self.ledger.wal.poll_replay(&mut self.io.pool) {
            match item {
                Replay::Record { meta, place, bytes } => self.replay(&meta, place, &bytes),
                Replay::Damaged { meta, .. } => {
                    self.break_checkpoint();
                    self.replay_damaged(&meta);
                }
                Replay::Corrupt { hard_state_maybe_lost, .. } => {
                    self.break_checkpoint();
                    self.replay_corrupt(hard_state_maybe_lost);
                }
                Replay::Done { report } => {
                    if let Some(segment) = report.gone {
                        let text = format!(
                            "segment {segment:016x} held the end of the log and is gone: this \
                             node does not know what it promised, and does not count until its \
                             peers have told it"
                        );
                        self.alarm("log-damaged", text);
                    } else if report.headless > 0 {
                        let text = format!(
                            "the headers of {} segments are damaged; nothing else is lost by it",
                            report.headless
                        );
                        self.alarm("log-damaged", text);
                    }
                    let lost = report.corrupt.len() > usize::from(report.gone.is_some());
                    if lost || report.damaged > 0 {
                        let text = format!(
                            "{} ranges and {} records of the log are damaged; peers repair them",
                            report.corrupt.len(),
                            report.damaged
                        );
                        self.alarm("log-damaged", text);
                    }
                    if !self.end_checkpoints(report.start) {
                        return self.lost("no checkpoint is whole");
                    }
                    return self.on_recovered(report.kept.block);
                }
            }
        }
    }

    fn replay(&mut self, meta: &RecordMeta, place: Place, bytes: &[u8]) {
        if meta.kind == Kind::Checkpoint {
            return self.replay_checkpoint(meta.stream, place, bytes);
        }
        let streams = &mut self.booting.streams;
        if meta.kind == Kind::Base {
            return self.replay_base(meta, bytes);
        }
        if meta.kind == Kind::ScnFloor {
            match read_floor(bytes) {
                Some(floor) => self.floors.on_replayed(floor),
                None => self.replay_corrupt(true),
            }
            return;
        }
        if meta.kind == Kind::Closed {
            // Of one that is damaged other disks know.
            read_floor(bytes).into_iter().for_each(|it| self.showing.replayable.on_replayed(it));
            return;
        }
        let Some(stream) = streams.get_mut(&meta.stream) else { return };
        let result = match meta.kind {
            Kind::Group => {
                stream.group(meta, place, bytes);
                Ok(Vec::new())
            }
            Kind::Moved if !meta.is_staged() => Ok(stream.relocated(meta, place, bytes)),
            Kind::Moved => Ok(stream.moved(meta, place, bytes)),
            Kind::CommitHint => {
                if meta.ballot == stream.log.accepting() || !meta.ballot.is_some() {
                    stream.log.commit(meta.lsn);
                    let changes = stream.derived.on_committed(stream.log.committed().lsn);
                    let registry = Arc::make_mut(&mut self.registry);
                    for (_, change) in stream.derived.take_registry() {
                        registry.apply(&change);
                    }
                    Ok(changes)
                } else {
                    Ok(Vec::new())
                }
            }
            _ => stream.state(meta, bytes),
        };
        // What does not fit a log that lost something is lost itself; a sound log has no such
        // record.
        let error = match result {
            Ok(changes) => {
                let committed = changes.into_iter().map(|(_, change)| change);
                return committed.for_each(|change| {
                    self.catalogue.on_committed(change);
                });
            }
            Err(error) => error,
        };
        if stream.log.is_lossy() {
            stream.lose(true);
        } else {
            let text = format!(
                "{}: stream {}, block {}: {error}",
                self.config.dir.display(),
                meta.stream,
                place.block
            );
            self.halt = Some(Halt::Corrupt(text));
        }
    }

    /// A stream begins here, or begins later than before.
    fn replay_base(&mut self, meta: &RecordMeta, bytes: &[u8]) {
        let streams = &mut self.booting.streams;
        if let Some(known) = streams.get_mut(&meta.stream) {
            known.truncate(meta.lsn, read_base_moved(bytes));
        } else if let Some(base) = read_base(bytes, meta.lsn) {
            let Base { role, start, mark, config } = base;
            let mut log = StreamLog::starting_at(start);
            if meta.ballot.is_some() {
                // Opened after its first records were lost, and not taken over since.
                log.mark_unknown(meta.ballot);
            }
            let (derived, floor) = (Derived::born(mark), start.lsn);
            let fresh = Replaying { log, config, role, derived, floor, base: (Lsn::ZERO, 0) };
            streams.insert(meta.stream, fresh);
        }
    }

    fn replay_damaged(&mut self, meta: &RecordMeta) {
        if meta.kind == Kind::ScnFloor {
            // What it vouched for it did for every stream.
            return self.replay_corrupt(true);
        }
        let Some(stream) = self.booting.streams.get_mut(&meta.stream) else { return };
        match meta.kind {
            Kind::Group if meta.is_staged() => stream.log.lose_staged(),
            Kind::Group => stream.lose(false),
            kind if kind.is_hard_state() => stream.lose(true),
            // What it says is in other records too, or is asked for again.
            _ => {}
        }
    }

    /// Lost blocks may have held records of any stream.
    fn replay_corrupt(&mut self, hard_state_maybe_lost: bool) {
        self.lost_hard_state |= hard_state_maybe_lost;
        for stream in self.booting.streams.values_mut() {
            stream.lose(hard_state_maybe_lost);
        }
    }

    /// Everything up to block `kept` was replayed, or reported as lost.
    fn on_recovered(&mut self, kept: u64) {
        let shards = self.me.shards;
        let owned = [SYSTEM_STREAM, CATALOGUE_STREAM]
            .into_iter()
            .filter(|stream| shard_of(*stream, shards) == self.me.shard);
        if let Some(format) = self.config.format.clone() {
            for stream in owned {
                let config = Config::first(format.members.clone());
                let config = config.expect("checked before formatting");
                self.ledger.push(base_record(stream, format.role, None, &config));
            }
            if self.ledger.is_settled() {
                // So that a log without a block is a lost one.
                self.ledger.push(empty_record());
            }
            self.phase = Phase::Formatting;
            return;
        }
        if kept == 0 {
            return self.lost("the log is empty");
        }
        if let Some(stream) = owned.into_iter().find(|s| !self.booting.streams.contains_key(s)) {
            return self.lost(&format!("the first record of stream {stream} is missing"));
        }
        self.phase = Phase::Running;
        let ceiling = self.ceiling();
        for (id, mut stream) in std::mem::take(&mut self.booting.streams) {
            for (_, change) in stream.finish(ceiling) {
                self.catalogue.on_committed(change);
            }
            let Replaying { log, config, role, mut derived, floor, .. } = stream;
            let floor = floor.max(derived.rebased_end());
            if log.is_lossy() {
                self.checkpoints.forget();
            }
            if id == CATALOGUE_STREAM && !log.is_unknown() {
                self.creations.fresh_from = Some(log.end().lsn);
            }
            let seen = derived.take_seen();
            seen.into_iter().for_each(|change| self.catalogue.on_logged(change));
            for (_, change) in derived.take_registry() {
                Arc::make_mut(&mut self.registry).apply(&change);
            }
            let (tuning, now) = (self.config.tuning.clone(), self.io.now);
            let seed = self.io.ring.random();
            let replica = Replica::recovered(id, self.member(), config, log, tuning, seed, now);
            let wall = self.io.ring.wall_ns();
            let mut state = StreamState::new(replica, role, derived, wall);
            state.restore_held(&self.checkpoints.held.remove(&id).unwrap_or_default());
            state.floor = floor;
            let pins = self.checkpoints.pins.remove(&id).unwrap_or_default();
            state.pins = pins.restarted(state.kept_from());
            self.checkpoints.retention.note(id, floor, now);
            self.streams.insert(id, state);
        }
        self.read_anchors();
        // Those that are opened now start by themselves.
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        self.start_listener();
        self.open_missing_streams();
        self.tell_registry();
        for stream in &streams {
            let members = self.streams[stream].replica.config().members.clone();
            self.connect_peers(&members);
        }
        for stream in streams {
            self.step(stream, |replica, now, fx| replica.start(now, fx));
        }
    }

    /// What this disk promised cannot be told any more: it must not come up as a new voter.
    fn lost(&mut self, what: &str) {
        let text = format!(
            "{}: {what}: format did not finish, or the start of the log is lost. This disk may \
             have voted and must not vote again: put its segments back if they were moved, else \
             replace the node",
            self.config.dir.display()
        );
        self.halt = Some(Halt::Corrupt(text));
    }

    /// The catalogue names streams whose first record never reached this disk.
    fn open_missing_streams(&mut self) {
        let named: Vec<u64> = self.catalogue.streams().collect();
        for stream in named {
            self.on_created(stream, false);
        }
    }

    fn start_listener(&mut self) {
        let Some(addr) = self.config.listen else { return };
        let base = owner_base(OWNER_LISTENER, 0);
        let handshake_ns = self.config.link_timing.handshake_ns;
        let limits = ListenLimits { handshake_ns, ..ListenLimits::default() };
        let mut listener = Listener::new(base, addr, limits);
        let io = &mut self.io;
        listener.start(&mut io.ring, &mut io.pool, io.now);
        self.net.listener = Some(listener);
    }

    /// Opens a stream that the catalogue names: its first record goes to the log. A `fresh` one
    /// was never open on this disk before.
    pub(crate) fn open_stream(
        &mut self,
        stream: u64,
        role: Role,
        mark: Option<Mark>,
        members: &[Member],
        fresh: bool,
    ) {
        let lost = self.lost_hard_state && !fresh;
        if self.streams.contains_key(&stream) {
            return;
        }
        // Bound as in the catalogue: a disk that came since in the place of another counts nowhere.
        let config = Config::first(members.to_vec()).expect("members of a stream that exists");
        let mut first = base_record(stream, role, mark, &config);
        if lost {
            first.ballot = self.ceiling();
        }
        self.ledger.push(first);
        let me = self.member();
        let (tuning, seed) = (self.config.tuning.clone(), self.io.ring.random());
        let replica = if lost {
            // The lost records may have been this stream's first ones and its promises.
            let mut log = StreamLog::default();
            log.mark_unknown(self.ceiling());
            Replica::recovered(stream, me, config, log, tuning, seed, self.io.now)
        } else {
            Replica::new(stream, me, config, tuning, seed)
        };
        let wall = self.io.ring.wall_ns();
        self.streams.insert(stream, StreamState::new(replica, role, Derived::born(mark), wall));
        self.review_opened(stream);
        self.board.listeners.tell(crate::event::Event::Created { stream });
        self.connect_peers(members);
        self.step(stream, |replica, now, fx| replica.start(now, fx));
        self.tell_liveness(stream);
    }

    /// Who this node is to the other members of its streams.
    fn member(&self) -> Me {
        let region = self.config.region.clone();
        Me { node: self.me.node, incarnation: self.me.incarnation, region }
    }

    /// A new replica hears who is alive.
    fn tell_liveness(&mut self, stream: u64) {
        let Some(liveness) = &self.liveness else { return };
        let up = self.net.peers.keys().copied().filter(|node| liveness.is_up(*node));
        let up: Vec<NodeKey> = up.filter_map(|node| self.peer_key(node)).collect();
        for peer in up {
            self.step(stream, |replica, now, fx| {
                replica.on_peer(peer, crate::paxos::PeerState::Up, now, fx);
            });
        }
    }

    /// Makes links to members that are new, and starts to tell them that this node lives.
    fn connect_peers(&mut self, members: &[Member]) {
        for member in members {
            let known = member.node == self.me.node || self.net.peers.contains_key(&member.node);
            if known {
                continue;
            }
            let Ok(addr) = member.addr.parse() else { continue };
            self.crossings.on_peer(member.node, &member.region, &self.config.region);
            let (now, io) = (self.io.now, &mut self.io);
            self.net.add_peer(&mut io.ring, &mut io.pool, now, member.node, addr);
            let (boot, tuning) = (self.me.boot, &self.config.tuning);
            let stall_ns = self.config.disk_stall_ns;
            let new = || Liveness::new(boot, &[], tuning).with_stall(stall_ns);
            self.liveness.get_or_insert_with(new).add(member.node);
        }
    }
}

impl Replaying {
    /// A record that a replica asked for. Returns the committed changes of the catalogue that came
    /// back with it.
    fn state(
        &mut self,
        meta: &RecordMeta,
        bytes: &[u8],
    ) -> Result<Vec<(Lsn, Change)>, ReplayError> {
        let RecordMeta { kind, ballot, lsn, chain, .. } = *meta;
        let fits = self.log.check_takeover(ballot, Boundary { lsn, chain }).is_ok();
        let end = self.log.end().lsn;
        replay(&mut self.log, &mut self.config, kind, ballot, lsn, bytes)?;
        if kind != Kind::Takeover {
            return Ok(Vec::new());
        }
        if fits {
            return Ok(self.derived.on_takeover(ballot, lsn));
        }
        match end < lsn && self.log.hole_at(end).is_none() {
            true => self.derived.on_moved_takeover(end, lsn),
            false => self.derived.on_lost_takeover(self.log.committed().lsn, lsn),
        }
        Ok(Vec::new())
    }

    /// Records that followed those replayed so far are lost. The ceiling waits for the end of the
    /// log: Takeovers that were logged since are below it.
    pub(crate) fn lose(&mut self, hard_state: bool) {
        self.log.lose_tail(hard_state);
    }

    /// Everything was replayed. Returns the changes of the catalogue that nothing lost is before
    /// any more.
    fn finish(&mut self, ceiling: Ballot) -> Vec<(Lsn, Change)> {
        self.truncate(self.base.0, Some(self.base.1));
        self.log.end_replay();
        if self.log.lost_hard_state() {
            assert!(self.log.is_unknown(), "what was lost is unknown");
            self.log.mark_unknown(ceiling.max(self.log.promised()));
        }
        // What is lost below the base is not asked of anybody.
        self.derived.on_replayed(self.log.holes());
        self.derived.on_truncated(self.log.base().lsn)
    }

    /// Readers need nothing below `to`, or nobody does. That was said of what a hint before had
    /// said to be committed; where that hint is lost, the next one serves.
    pub(crate) fn truncate(&mut self, to: Lsn, moved: Option<u64>) {
        let Some(chain) = moved else {
            self.floor = self.floor.max(to);
            return;
        };
        self.base = self.base.max((to, chain));
        let (lsn, chain) = self.base;
        self.log.truncate(lsn.min(self.log.committed().lsn));
        self.log.tell_base(Boundary { lsn, chain });
    }

    fn group(&mut self, meta: &RecordMeta, place: Place, bytes: &[u8]) {
        let Ok((header, _)) = GroupHeader::read_from_prefix(bytes) else { return };
        let kind = crate::shard::batch::group_kind(bytes);
        let end = self.log.end().lsn;
        match replay_group(&mut self.log, &header, meta.ballot, meta.is_staged(), place) {
            Replayed::Nothing => {}
            Replayed::Staged => {
                let (ballot, scn) = (meta.ballot, meta.scn);
                self.derived.on_staged(ballot, bytes, kind, meta.lsn, meta.end, scn);
            }
            Replayed::Logged => {
                if meta.lsn > end {
                    self.derived.on_lost(end, meta.lsn);
                }
                if self.log.hole_at(end).is_none() {
                    // It may have been one loss with what was lost before it. Nothing is known to
                    // be committed up there.
                    let whole = |from: &Lsn| self.log.hole_at(*from).is_none();
                    let from = self.derived.gap_at(end).filter(whole).unwrap_or(end);
                    let committed = self.derived.on_mended(from, meta.lsn);
                    assert!(committed.is_empty(), "committed above the end of the log");
                }
                self.derived.on_logged(bytes, kind, meta.lsn, meta.end, meta.scn);
            }
        }
    }

    /// A committed group was copied. Returns the committed changes of the catalogue that came back
    /// with it, where it was lost before.
    fn relocated(&mut self, meta: &RecordMeta, place: Place, bytes: &[u8]) -> Vec<(Lsn, Change)> {
        let Ok((header, _)) = GroupHeader::read_from_prefix(bytes) else { return Vec::new() };
        let lost = self.log.hole_at(meta.lsn).is_some();
        if !self.log.relocate(&header, meta.ballot, place) || !lost {
            return Vec::new();
        }
        let kind = crate::shard::batch::group_kind(bytes);
        self.derived.on_moved(bytes, kind, meta.lsn, meta.end, meta.scn);
        self.derived.on_mended(meta.lsn, meta.end)
    }

    /// A group that was logged again. Returns the committed changes of the catalogue that came
    /// back with it.
    fn moved(&mut self, meta: &RecordMeta, place: Place, bytes: &[u8]) -> Vec<(Lsn, Change)> {
        let Ok((header, _)) = GroupHeader::read_from_prefix(bytes) else { return Vec::new() };
        let kind = crate::shard::batch::group_kind(bytes);
        let holes: Vec<(Lsn, Lsn)> = self.log.holes().iter().map(|h| (h.start, h.end)).collect();
        let Some(filled) = replay_moved(&mut self.log, &header, meta.ballot, place) else {
            return Vec::new();
        };
        self.derived.on_moved(bytes, kind, meta.lsn, meta.end, meta.scn);
        let hole = holes.into_iter().find(|(_, upto)| filled && *upto == meta.end);
        hole.map_or(Vec::new(), |(from, upto)| self.derived.on_mended(from, upto))
    }
}

/// Whoever asks something of the shard wakes its ring.
fn attach<R: Ring>(ring: &R, shard: u16, port: &ShardPort, shared: &mut Shared) {
    port.attach(ring.waker());
    if let Some(mesh) = &shared.mesh {
        mesh.attach(shard, ring.waker());
    }
    if let Some(forward) = &mut shared.forward {
        forward.set_waker(ring.waker());
    }
}

/// Who a shard is, as far as its configuration says.
fn formatted(config: &ShardConfig) -> Peer {
    let ShardConfig { cluster, node, shard, shards, fingerprint, .. } = *config;
    Peer { cluster, node, shard, shards, fingerprint, ..Peer::default() }
}

pub(crate) fn wal_config(
    config: &ShardConfig,
    me: &Peer,
    started: Started,
) -> palisade_wal::Config {
    palisade_wal::Config {
        dir: config.dir.clone(),
        cluster: me.cluster,
        node: me.node,
        incarnation: me.incarnation,
        shard: me.shard.into(),
        segment_bytes: config.segment_bytes,
        log_bytes_max: config.log_bytes_max,
        in_flight_max: config.writes_in_flight,
        sync_path: config.sync_path,
        started: Some(started),
    }
}

/// The first record of a stream on a node.
fn base_record(stream: u64, role: Role, mark: Option<Mark>, config: &Config) -> OwnRecord {
    let role = match role {
        Role::Primary => 1,
        Role::Standby => 2,
    };
    let (chain, mark) = (CHAIN_START.into(), Mark::encode_or_none(mark));
    let mut body = BaseHead { role, reserved: [0; 7], chain, mark }.as_bytes().to_vec();
    config.encode_into(&mut body);
    OwnRecord { stream, kind: Kind::Base, lsn: Lsn::ZERO, ballot: Ballot::NONE, body, id: None }
}

/// A record that says nothing; the block around it counts.
fn empty_record() -> OwnRecord {
    let (lsn, ballot, body) = (Lsn::ZERO, Ballot::NONE, Vec::new());
    OwnRecord { stream: SYSTEM_STREAM, kind: Kind::Closing, lsn, ballot, body, id: None }
}

/// What the first record of a stream says.
#[derive(Debug, PartialEq, Eq)]
struct Base {
    role: Role,
    start: Boundary,
    /// The mark that it was created with.
    mark: Option<Mark>,
    config: Config,
}

fixed! {
    /// The configuration follows.
    BaseHead: 32 { role: u8, reserved: [u8; 7], chain: U64, mark: [u8; MARK_BYTES] }
}

fn read_base(bytes: &[u8], lsn: Lsn) -> Option<Base> {
    let (head, config) = BaseHead::ref_from_prefix(bytes).ok()?;
    let role = match head.role {
        1 => Role::Primary,
        2 => Role::Standby,
        _ => return None,
    };
    let start = Boundary { lsn, chain: head.chain.get() };
    let mark = Mark::decode_or_none(&head.mark)?;
    Some(Base { role, start, mark, config: Config::decode(config).ok()? })
}

#[cfg(test)]
mod tests {
    use palisade_wal::{BodyBuilder, GroupKind, Origin};

    use super::*;
    use crate::paxos::TakeoverBody;

    #[test]
    fn a_base_record_reads_back() {
        let addr = "127.0.0.1:7001".to_string();
        let member = Member { node: 1, incarnation: None, addr, region: "sh".to_string() };
        let config = Config::first(vec![member]).unwrap();
        let start = Boundary { lsn: Lsn(0), chain: CHAIN_START };
        for mark in [None, Some(Mark::Sync { cluster: 2, epoch: 7 })] {
            let record = base_record(5, Role::Standby, mark, &config);
            let base = Base { role: Role::Standby, start, mark, config: config.clone() };
            assert_eq!(read_base(&record.body, record.lsn), Some(base));
            assert_eq!(read_base(&record.body[..size_of::<BaseHead>() + 1], record.lsn), None);
        }
    }

    const ORIGIN: Origin = Origin { role_epoch: 1, cluster: 1, ballot: Ballot::NONE };

    /// A group of one record, and what the log says of it.
    fn group(start: Boundary, round: u64, staged: bool) -> (RecordMeta, Vec<u8>) {
        let mut bytes = vec![0; 4096];
        let mut builder = BodyBuilder::new(&mut bytes);
        let (ballot, flags) = (Ballot { round, node: 1, incarnation: 1 }, u8::from(staged));
        builder.begin_group(5, start.lsn, ballot, GroupKind::Data, ORIGIN, flags).unwrap();
        builder.push_entry(&[round as u8; 40], 0, 0).unwrap();
        let meta = builder.end_group(round, start.chain);
        let bytes = bytes[meta.range()].to_vec();
        (meta, bytes)
    }

    fn replaying() -> Replaying {
        let addr = "127.0.0.1:7001".to_string();
        let member = Member { node: 1, incarnation: None, addr, region: "sh".to_string() };
        Replaying {
            log: StreamLog::default(),
            config: Config::first(vec![member]).unwrap(),
            role: Role::Primary,
            derived: Derived::default(),
            floor: Lsn::ZERO,
            base: (Lsn::ZERO, 0),
        }
    }

    /// What a log says of a takeover at the end of `stream`.
    fn take_over(stream: &mut Replaying, round: u64) -> Result<(), ReplayError> {
        take_over_at(stream, round, stream.log.end())
    }

    fn take_over_at(s: &mut Replaying, round: u64, end: Boundary) -> Result<(), ReplayError> {
        let ballot = Ballot { round, node: 1, incarnation: 1 };
        let config = s.config.stamped(ballot, &[]);
        let body = TakeoverBody { chain: end.chain, scn: 0, config }.encode();
        let mut bytes = vec![0; 4096];
        let mut builder = BodyBuilder::new(&mut bytes);
        builder.push_record(Kind::Takeover, 5, end.lsn, ballot, &body).unwrap();
        let meta = builder.finish().metas[0];
        s.state(&meta, &body).map(drop)
    }

    /// Groups behind the known end were logged again, and then a takeover says that the log ends
    /// with them: nothing is lost of the log, and nothing of what it implies.
    #[test]
    fn a_takeover_that_leads_to_what_was_moved_leaves_nothing_unknown() {
        let place = Place { segment: 1, offset: 4096, block: 1, len: 4096 };
        for whole in [true, false] {
            let (mut stream, mut groups) = (replaying(), Vec::new());
            let mut end = Boundary { lsn: Lsn::ZERO, chain: CHAIN_START };
            take_over(&mut stream, 1).unwrap();
            for _ in 0..4 {
                groups.push(group(end, 1, false));
                let meta = &groups.last().expect("just pushed").0;
                end = Boundary { lsn: meta.end, chain: meta.chain };
            }
            groups[..2].iter().for_each(|(meta, bytes)| stream.group(meta, place, bytes));
            stream.log.commit(groups[0].0.end);
            assert_eq!(stream.derived.on_committed(groups[0].0.end), []);
            stream.lose(true);
            for (meta, bytes) in &groups[2..if whole { 4 } else { 3 }] {
                assert_eq!(stream.moved(meta, place, bytes), []);
            }
            take_over_at(&mut stream, 3, end).unwrap();
            assert_eq!((stream.log.is_whole(), stream.derived.is_whole()), (whole, whole));
            assert_eq!(stream.finish(Ballot::NONE), []);
            assert_eq!(stream.derived.on_committed(end.lsn), []);
            let known = if whole { end.lsn } else { groups[0].0.end };
            assert_eq!(stream.derived.known(), known);
        }
    }

    /// The ceiling stands for promises that were lost, and for those alone: not for groups, and
    /// not for what a takeover that was logged since has made good.
    #[test]
    fn the_ceiling_stands_for_what_is_lost_at_the_end() {
        let ceiling = Ballot { round: 1024, node: u32::MAX, incarnation: u64::MAX };
        for (hard_state, healed) in [(false, false), (true, false), (true, true), (false, true)] {
            let mut stream = replaying();
            take_over(&mut stream, 1).unwrap();
            stream.lose(hard_state);
            assert_eq!(stream.log.promised().round, 1, "takeovers since are below the ceiling");
            if healed {
                take_over(&mut stream, 2).unwrap();
            }
            stream.finish(ceiling);
            let promised = if hard_state && !healed { 1024 } else { 1 + u64::from(healed) };
            let found = (stream.log.promised().round, stream.log.is_unknown());
            assert_eq!(found, (promised, !healed), "{hard_state} {healed}");
        }
    }

    /// A lost block held the takeover that put another group in the place of the last one. What
    /// was staged later follows that group; with it the log would hold bytes that were voided.
    #[test]
    fn a_staged_run_that_follows_a_lost_group_is_not_part_of_the_log() {
        let place = Place { segment: 1, offset: 4096, block: 1, len: 4096 };
        let mut start = Boundary { lsn: Lsn::ZERO, chain: CHAIN_START };
        let mut stream = replaying();
        let first = Ballot { round: 1, node: 1, incarnation: 1 };
        stream.log.take_over(first, start).unwrap();
        let mut lost = start;
        for _ in 0..2 {
            let (meta, bytes) = group(start, 1, false);
            stream.group(&meta, place, &bytes);
            (lost, start) = (start, Boundary { lsn: meta.end, chain: meta.chain });
        }
        assert_eq!(stream.log.end(), start);
        stream.log.mark_unknown(first);

        let (voiding, _) = group(lost, 2, false);
        let (meta, bytes) = group(Boundary { lsn: voiding.end, chain: voiding.chain }, 3, true);
        assert_eq!(meta.lsn, start.lsn, "the lost group ended where the voided one did");
        stream.group(&meta, place, &bytes);
        let end = Boundary { lsn: meta.end, chain: meta.chain };
        assert!(stream.log.take_over(meta.ballot, end).is_err());
        assert!(stream.log.is_unknown());

        let (meta, bytes) = group(start, 3, true);
        stream.group(&meta, place, &bytes);
        let end = Boundary { lsn: meta.end, chain: meta.chain };
        stream.log.take_over(meta.ballot, end).unwrap();
        assert_eq!((stream.log.end(), stream.log.is_unknown()), (end, false));
    }

    /// A lost range that the log begins after is nobody's any more: what waits for it would wait
    /// for ever.
    #[test]
    fn what_is_lost_below_the_base_holds_nothing_up() {
        let place = Place { segment: 1, offset: 4096, block: 1, len: 4096 };
        let mut stream = replaying();
        take_over(&mut stream, 1).unwrap();
        stream.lose(false);
        let mut start = Boundary { lsn: Lsn::ZERO, chain: CHAIN_START };
        let mut ends = Vec::new();
        for round in 0..3 {
            let (meta, bytes) = group(start, 1, false);
            start = Boundary { lsn: meta.end, chain: meta.chain };
            ends.push(meta.end);
            if round != 0 {
                stream.group(&meta, place, &bytes);
            }
        }
        stream.log.commit(ends[2]);
        stream.derived.on_committed(ends[2]);
        assert_eq!((stream.derived.known(), stream.log.end()), (Lsn::ZERO, start));
        stream.truncate(ends[1], Some(0));
        assert_eq!(stream.finish(Ballot::NONE), []);
        assert_eq!((stream.derived.known(), stream.log.base().lsn), (ends[2], ends[0]));
    }
}
