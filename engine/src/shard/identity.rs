//! Who this disk is: its identity file is read or made before the log, counted up at each boot,
//! and names each segment and a ceiling of rounds before they are used.

use palisade_netio::{Completion, Ring};
use palisade_wal::{Ballot, Identity, IdentityEvent, IdentityFile, Started, Wal};

use crate::config::Role;
use crate::paxos::{Floors, NodeKey, Publisher, ROUND_MAX};
use crate::shard::boot::{Phase, wal_config};
use crate::shard::ledger::Ledger;
use crate::shard::replayable::Showing;
use crate::shard::token::{OWNER_IDENTITY, local_of, local_token};
use crate::shard::{Format, Halt, Shard, ShardConfig};

/// Starts of one disk. A session is numbered by the boot count in its upper half.
const BOOTS_MAX: u64 = u32::MAX as u64;
/// Rounds that the ceiling is raised by, ahead of use.
const CEILING_STEP: u64 = 1024;
/// The ceiling is raised when fewer rounds than this are left below it.
const CEILING_RESERVE: u64 = 512;

impl<R: Ring> Shard<R> {
    pub(crate) fn on_identity_completion(&mut self, done: &Completion) {
        let pool = &mut self.io.pool;
        self.booting.identity.on_completion(pool, local_of(done.token), done.clone());
    }

    /// Moves the identity file along; also while the shard runs, when the ceiling is raised.
    pub(crate) fn poll_identity(&mut self) {
        let mut ops = Vec::new();
        self.booting.identity.poll_ops(&mut self.io.pool, &mut ops);
        for (local, op) in ops {
            self.io.ring.submit(&mut self.io.pool, local_token(OWNER_IDENTITY, local), op);
        }
        match self.booting.identity.poll_event() {
            None => {}
            Some(IdentityEvent::Missing) => {
                let dir = self.config.dir.display();
                let text = format!("{dir} is not formatted; run `palisade format` first");
                self.halt = Some(Halt::Identity(text));
            }
            Some(IdentityEvent::Lost) => {
                let dir = self.config.dir.display();
                let text = format!("both copies of {dir}/identity are damaged: the disk is lost");
                self.halt = Some(Halt::Corrupt(text));
            }
            Some(IdentityEvent::Found(identity)) => {
                self.on_identity(identity);
                self.poll_identity();
            }
            Some(IdentityEvent::Updated(identity)) => self.on_identity_updated(identity),
        }
    }

    fn on_identity(&mut self, found: Identity) {
        let config = &self.config;
        let pairs = [
            ("cluster", u64::from(found.cluster), u64::from(config.cluster)),
            ("node", found.node.into(), config.node.into()),
            ("shard", found.shard.into(), config.shard.into()),
            ("shard count", found.shards.into(), config.shards.into()),
        ];
        if let Some((what, disk, file)) = pairs.into_iter().find(|(_, disk, file)| disk != file) {
            let text = format!(
                "{} was formatted for {what} {disk}, the configuration says {file}; use the \
                 data directory of this node, or its configuration",
                self.config.dir.display()
            );
            self.halt = Some(Halt::Identity(text));
            return;
        }
        if found.boots >= BOOTS_MAX || found.round_ceiling > ROUND_MAX {
            let dir = self.config.dir.display();
            let text = format!("{dir}: its numbers are too high: format another data directory");
            self.halt = Some(Halt::Identity(text));
            return;
        }
        let ceiling = found.round_ceiling.max(CEILING_STEP);
        let boots = found.boots + 1;
        self.booting.identity.update(Identity { boots, round_ceiling: ceiling, ..found });
        self.phase = Phase::CountingBoot;
    }

    fn on_identity_updated(&mut self, identity: Identity) {
        self.on_term_written();
        if !matches!(self.phase, Phase::CountingBoot | Phase::Identity) {
            if self.ledger.wal.is_ready() {
                self.ledger.wal.start_segment(identity.started.newest);
            }
            return;
        }
        self.me.incarnation = identity.incarnation;
        self.me.boot = identity.boots;
        self.net.me = self.me;
        match Wal::open(wal_config(&self.config, &self.me, identity.started)) {
            Ok(wal) => {
                self.ledger = Ledger::new(wal);
                let key = NodeKey { node: self.me.node, incarnation: self.me.incarnation };
                self.floors = Floors::new(key, self.me.boot);
                self.closing.publisher = Publisher::new(self.me.boot);
                self.closing.lines = Publisher::new(self.me.boot);
                self.showing = Showing::new(key);
                self.phase = Phase::Recovering;
            }
            Err(error) => self.halt = Some(Halt::Identity(error.to_string())),
        }
    }

    /// Raises the ceiling ahead of use, and names a segment before the first block in it.
    pub(crate) fn check_identity(&mut self) {
        self.poll_identity();
        let Some(known) = self.booting.identity.identity() else { return };
        let mut identity = known;
        let wanted = self.ledger.highest_round + CEILING_RESERVE;
        if identity.round_ceiling < wanted {
            identity.round_ceiling = wanted + CEILING_STEP;
        }
        if let Some(started) = self.ledger.wal.wants_segment() {
            identity.started = started;
        }
        let heard = self.heard_term();
        (identity.term_epoch, identity.term_cluster) = (heard.epoch, heard.cluster);
        if identity != known && self.booting.identity.is_idle() {
            self.booting.identity.update(identity);
            self.poll_identity();
        }
        if let Some(error) = self.booting.identity.poisoned() {
            self.halt = Some(Halt::Poisoned(error.to_string()));
        }
    }

    /// Highest round that a hard-state record may carry now.
    pub(crate) fn round_limit(&self) -> u64 {
        self.booting.identity.identity().map_or(0, |identity| identity.round_ceiling)
    }

    /// The ballot that covers every promise that this disk may have made.
    pub(crate) fn ceiling(&self) -> Ballot {
        let round = self.booting.identity.identity().map_or(0, |identity| identity.round_ceiling);
        Ballot { round, node: u32::MAX, incarnation: u64::MAX }
    }
}

pub(crate) fn identity_file(config: &ShardConfig) -> IdentityFile {
    match &config.format {
        Some(format) => IdentityFile::format(&config.dir, first_identity(config, format)),
        None => IdentityFile::open(&config.dir),
    }
}

fn first_identity(config: &ShardConfig, format: &Format) -> Identity {
    Identity {
        cluster: config.cluster,
        node: config.node,
        incarnation: format.incarnation,
        shard: config.shard.into(),
        shards: config.shards.into(),
        role: match format.role {
            Role::Primary => 1,
            Role::Standby => 2,
        },
        boots: 0,
        round_ceiling: CEILING_STEP,
        started: Started::default(),
        term_epoch: 0,
        term_cluster: 0,
    }
}
