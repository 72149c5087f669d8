//! A log on a ring, driven by the measuring thread as a shard drives its own.

use std::path::{Path, PathBuf};

use palisade_netio::{Completion, Nanos, Op, Pool, Quotas, Ring, Token, Uring, UringConfig, Wait};
use palisade_wal::limits::WRITES_IN_FLIGHT_MAX;
use palisade_wal::{Config, Replay, SyncPath, Wal, WalError};

use crate::exit::{Exit, Failure};

/// Memory for blocks that wait or are in flight.
const WRITE_QUOTA_BYTES: usize = 32 << 20;
/// Memory for each of the other uses.
const OTHER_QUOTA_BYTES: usize = 4 << 20;
/// Longest sleep, so that the caller can look at its clock.
const SLEEP_NS_MAX: u64 = 20_000_000;

/// Ring, slots and log of one thread.
pub(super) struct Lane {
    pub(super) pool: Pool,
    pub(super) wal: Wal,
    dir: PathBuf,
    ring: Uring,
    ops: Vec<(u32, Op)>,
    done: Vec<Completion>,
}

/// Ring and slots, kept from one log to the next.
pub(super) struct Machinery {
    ring: Uring,
    pool: Pool,
}

impl Machinery {
    /// A ring of this thread that makes writes durable by `sync_path`.
    pub(super) fn new(sync_path: SyncPath) -> Result<Machinery, Failure> {
        let quotas = Quotas {
            write: WRITE_QUOTA_BYTES,
            receive: OTHER_QUOTA_BYTES,
            tail: OTHER_QUOTA_BYTES,
            read: OTHER_QUOTA_BYTES,
        };
        let pool = Pool::new(quotas).map_err(|error| Failure::io("memory for blocks", &error))?;
        let config = UringConfig { sync_path, ..UringConfig::default() };
        let ring = Uring::new(config, &pool);
        let ring = ring.map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
        Ok(Machinery { ring, pool })
    }
}

/// The settings of a log that is measured.
pub(super) fn log_config(
    dir: &Path,
    segment_bytes: u64,
    segments: u64,
    life: u64,
    sync_path: SyncPath,
) -> Config {
    Config {
        dir: dir.to_owned(),
        cluster: 1,
        node: 1,
        incarnation: life,
        shard: 0,
        segment_bytes,
        log_bytes_max: segment_bytes * segments,
        in_flight_max: WRITES_IN_FLIGHT_MAX,
        sync_path,
        started: None,
    }
}

impl Lane {
    /// Opens the log and recovers it.
    pub(super) fn open(machinery: Machinery, config: Config) -> Result<Lane, Failure> {
        let Machinery { ring, pool } = machinery;
        let dir = config.dir.clone();
        let wal = Wal::open(config).map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
        let mut lane = Lane { pool, wal, dir, ring, ops: Vec::new(), done: Vec::new() };
        while !lane.wal.is_ready() {
            lane.turn()?;
            while let Some(item) = lane.wal.poll_replay(&mut lane.pool) {
                if let Replay::Done { .. } = item {
                    break;
                }
            }
        }
        Ok(lane)
    }

    /// Submits what the log asks for, waits for a completion, and hands over what completed.
    pub(super) fn turn(&mut self) -> Result<(), Failure> {
        let now = self.ring.now();
        self.wal.on_time(now);
        self.wal.poll_ops(&mut self.pool, &mut self.ops);
        for (local, op) in self.ops.drain(..) {
            self.ring.submit(&mut self.pool, Token(local.into()), op);
        }
        let until = self.wal.next_timer().unwrap_or(Nanos(u64::MAX)).min(now.after(SLEEP_NS_MAX));
        self.ring.enter(&mut self.pool, Wait::Until(Some(until)), &mut self.done);
        for done in self.done.drain(..) {
            let local = done.token.0 as u32;
            self.wal.on_completion(&mut self.pool, local, done);
        }
        match self.wal.poisoned() {
            // As a node says it of a place where it cannot be.
            Some(WalError::Refused(why)) => {
                let text = format!("{}: {why}", self.dir.display());
                Err(Failure::new(Exit::Configuration, text))
            }
            Some(error) => Err(Failure::new(Exit::Io, format!("the log stopped: {error}"))),
            None => Ok(()),
        }
    }

    /// Brings everything under way to its end and closes the files of the log.
    pub(super) fn close(mut self) -> Result<Machinery, Failure> {
        loop {
            self.wal.poll_ops(&mut self.pool, &mut self.ops);
            let idle = self.ops.is_empty() && self.ring.in_flight() == 0;
            if idle && self.wal.durable() == self.wal.appended() {
                break;
            }
            for (local, op) in self.ops.drain(..) {
                self.ring.submit(&mut self.pool, Token(local.into()), op);
            }
            self.turn()?;
        }
        for (at, handle) in self.wal.into_handles().into_iter().enumerate() {
            self.ring.submit(&mut self.pool, Token(at as u64), Op::Close { handle });
        }
        while self.ring.in_flight() > 0 {
            let until = self.ring.now().after(SLEEP_NS_MAX);
            self.ring.enter(&mut self.pool, Wait::Until(Some(until)), &mut self.done);
        }
        self.done.clear();
        Ok(Machinery { ring: self.ring, pool: self.pool })
    }
}
