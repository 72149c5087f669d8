//! A log on a disk in memory, and the stream that a test appends to it.

use std::path::PathBuf;

use palisade_netio::{Nanos, Pool, Purpose, Token};
use palisade_wal::{
    Ballot, Body, BodyBuilder, CHAIN_START, Config, GroupKind, Kind, Lsn, NewBlock, NoRoom, Origin,
    Place, RecordMeta, Replay, Report, Started, SyncPath, Wal, WalError,
};

use crate::disk::{Disk, pool};

pub const STREAM: u64 = 7;
pub const BALLOT: Ballot = Ballot { round: 3, node: 1, incarnation: 9 };

pub fn config() -> Config {
    Config {
        dir: PathBuf::from("/log"),
        cluster: 1,
        node: 2,
        incarnation: 77,
        shard: 0,
        segment_bytes: 256 << 10,
        log_bytes_max: 64 << 20,
        in_flight_max: 4,
        sync_path: SyncPath::Dsync,
        started: Some(Started::default()),
    }
}

pub struct Node {
    pub disk: Disk,
    pub pool: Pool,
    pub config: Config,
    /// Whether the identity file is written as the log wants it.
    pub names: bool,
    pub wal: Wal,
    pub now: Nanos,
    pub lsn: Lsn,
    pub chain: u64,
    /// Everything appended since the last start, in order.
    pub appended: Vec<(Place, Vec<RecordMeta>)>,
    pub replayed: Vec<Replay>,
}

impl Node {
    pub fn start(seed: u64) -> Node {
        Node::start_with(Disk::new(seed), config())
    }

    pub fn start_with(disk: Disk, config: Config) -> Node {
        let mut node = Node::unready(disk, config);
        node.recover().expect("recovery succeeds");
        node
    }

    pub fn unready(disk: Disk, config: Config) -> Node {
        let wal = Wal::open(config.clone()).unwrap();
        Node {
            disk,
            pool: pool(),
            config,
            names: true,
            wal,
            now: Nanos(0),
            lsn: Lsn::ZERO,
            chain: CHAIN_START,
            appended: Vec::new(),
            replayed: Vec::new(),
        }
    }

    /// The settings outlive a crash here, as the identity file does.
    fn name_segments(&mut self) {
        if let Some(started) = self.wal.wants_segment().filter(|_| self.names) {
            self.config.started = Some(started);
            self.wal.start_segment(started.newest);
        }
    }

    pub fn submit(&mut self) {
        let mut ops = Vec::new();
        self.wal.poll_ops(&mut self.pool, &mut ops);
        for (local, op) in ops {
            self.disk.submit(&mut self.pool, Token(local.into()), op);
        }
    }

    /// One completion. False when nothing can move.
    pub fn turn(&mut self) -> bool {
        self.submit();
        let Some(done) = self.disk.complete(&mut self.pool) else { return false };
        let local = done.token.0 as u32;
        self.wal.on_completion(&mut self.pool, local, done);
        self.name_segments();
        true
    }

    pub fn recover(&mut self) -> Result<Report, WalError> {
        for _ in 0..1_000_000 {
            while let Some(item) = self.wal.poll_replay(&mut self.pool) {
                if let Replay::Record { meta, .. } = &item
                    && meta.kind == Kind::Group
                    && meta.stream == STREAM
                {
                    (self.lsn, self.chain) = (meta.end, meta.chain);
                }
                self.replayed.push(item);
            }
            if self.wal.is_ready() {
                self.name_segments();
                return Ok(self.report());
            }
            let moved = self.turn();
            if let Some(error) = self.wal.poisoned() {
                return Err(error.clone());
            }
            assert!(moved, "recovery moves on");
        }
        panic!("recovery ends")
    }

    pub fn report(&self) -> Report {
        match self.replayed.last() {
            Some(Replay::Done { report }) => report.clone(),
            _ => panic!("recovery is done"),
        }
    }

    /// A block with one group whose payload is `len` bytes.
    pub fn body(&mut self, len: usize) -> (palisade_netio::SlotId, Body) {
        let slot = self.pool.take(Purpose::Write, 512 + 200 + len.next_multiple_of(8)).unwrap();
        let mut body = BodyBuilder::new(&mut self.pool.bytes_mut(slot)[512..]);
        let origin = Origin { role_epoch: 1, cluster: 1, ballot: BALLOT };
        body.begin_group(STREAM, self.lsn, BALLOT, GroupKind::Data, origin, 0).unwrap();
        body.push_entry(&vec![self.lsn.0 as u8 | 1; len], 5, 6).unwrap();
        body.end_group(self.lsn.0 + 1, self.chain);
        (slot, body.finish())
    }

    pub fn try_append(&mut self, len: usize) -> Result<Place, NoRoom> {
        let (slot, body) = self.body(len);
        self.append_body(slot, body, false)
    }

    pub fn append_body(
        &mut self,
        slot: palisade_netio::SlotId,
        body: Body,
        hard_state: bool,
    ) -> Result<Place, NoRoom> {
        let metas = body.metas.clone();
        let result = self.wal.append(&mut self.pool, NewBlock { slot, body, hard_state });
        match result {
            Err(_) => self.pool.release(slot),
            Ok(place) => {
                for meta in metas.iter().filter(|meta| meta.kind == Kind::Group) {
                    (self.lsn, self.chain) = (meta.end, meta.chain);
                }
                self.appended.push((place, metas));
            }
        }
        result
    }

    /// Adds a group to the open block. None where no block is open for it.
    pub fn join(&mut self, len: usize) -> Option<Place> {
        let (slot, body) = self.body(len);
        if self.wal.open_block(body.len as usize).is_none() {
            self.pool.release(slot);
            return None;
        }
        let metas = body.metas.clone();
        let place = self.wal.join(&mut self.pool, NewBlock { slot, body, hard_state: false });
        for meta in &metas {
            (self.lsn, self.chain) = (meta.end, meta.chain);
        }
        self.appended.push((place, metas));
        Some(place)
    }

    /// Appends, and lets the log work while it has no room.
    pub fn append(&mut self, len: usize) -> Place {
        for _ in 0..10_000 {
            match self.try_append(len) {
                Ok(place) => return place,
                Err(NoRoom::Preparing | NoRoom::Busy) => assert!(self.turn(), "room will come"),
                Err(why) => panic!("no room: {why}"),
            }
        }
        panic!("room comes")
    }

    pub fn append_record(&mut self, kind: Kind, bytes: &[u8]) -> Place {
        let slot = self.pool.take(Purpose::Write, 512 + 64 + bytes.len() + 8).unwrap();
        let mut body = BodyBuilder::new(&mut self.pool.bytes_mut(slot)[512..]);
        body.push_record(kind, STREAM, self.lsn, BALLOT, bytes).unwrap();
        let body = body.finish();
        self.append_body(slot, body, true).unwrap()
    }

    /// Lets everything in flight complete.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("the log comes to rest")
    }

    pub fn append_durable(&mut self, len: usize) -> Place {
        let place = self.append(len);
        while self.wal.durable() < place.block {
            assert!(self.turn(), "the block becomes durable");
        }
        place
    }

    /// Time passes with nothing to do.
    pub fn pass(&mut self, ns: u64) {
        self.now = self.now.after(ns);
        self.wal.on_time(self.now);
    }

    /// The process ends with the disk as it is, and starts again.
    pub fn restart(mut self) -> Node {
        self.disk.stop(&mut self.pool);
        Node::start_with(self.disk, self.config)
    }

    /// The power fails, and the node starts again.
    pub fn crash(mut self) -> Node {
        self.disk.crash(&mut self.pool);
        Node::start_with(self.disk, self.config)
    }

    /// The blocks of which records were replayed.
    pub fn blocks(&self) -> Vec<u64> {
        let mut blocks: Vec<u64> = Vec::new();
        for item in &self.replayed {
            if let Replay::Record { place, .. } = item
                && blocks.last() != Some(&place.block)
            {
                blocks.push(place.block);
            }
        }
        blocks
    }

    /// The lost blocks, and whether hard state may be among them.
    pub fn corrupt(&self) -> Vec<((u64, u64), bool)> {
        let lost = |item: &Replay| match item {
            Replay::Corrupt { blocks, hard_state_maybe_lost, .. } => {
                Some((*blocks, *hard_state_maybe_lost))
            }
            _ => None,
        };
        self.replayed.iter().filter_map(lost).collect()
    }
}
