//! A shard: one thread, one ring, one WAL, and the streams it owns.
//!
//! Generic over the ring alone: production and simulator run the same code.
//!
//! # Driving a shard yourself
//!
//! [`Node`](crate::Node) does this for a whole node. By hand: [`Shard::new`] with a ring, a pool
//! of [`quotas`], a [`ShardPort`] and what it shares with the other shards of its node; with
//! [`ShardConfig::format`] it makes its directory and halts with [`Halt::Done`], without it
//! recovers and serves. Then [`Shard::turn`] for as long as it says true. Appends come through
//! [`Stream::new`](crate::Stream::new), everything else through the port.
//!
//! Everything happens in [`Shard::turn`]: completions and commands go in, operations go out, and
//! the ring is entered once. A shard starts by itself (identity, recovery, replicas); it stops for
//! good when [`Shard::halted`] says why. It shares nothing with other threads but bounded queues,
//! the [`Board`] of status, and views of slots.

mod agreement;
mod base;
mod batch;
mod boot;
mod checkpoint;
mod contact;
mod control;
mod create;
mod crossing;
mod deliver;
mod effects;
mod failover;
mod floor;
mod frames;
mod halt;
mod hand_over;
mod identity;
mod import;
mod jobs;
mod join;
mod ledger;
mod level;
mod mesh;
mod moving;
mod net;
mod pins;
mod publish;
mod replayable;
mod report;
mod retention;
mod role;
mod session;
mod ship;
mod stream;
mod survey;
pub mod sync;
#[cfg(test)]
mod tests;
mod token;
mod turn;
mod upstream;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palisade_netio::{
    Completion, Identity, LinkTiming, Nanos, Op, Pool, Quotas, Ring, SlotId, SyncPath, ZeroCopyMode,
};
use palisade_wal::Ballot;

use crate::config::Role;
use crate::control::Registry;
use crate::forward::{ForwardPort, Lease};
pub use crate::handle::{Answer, ReadPart, ShardPort};
use crate::paxos::{Effects, Floors, Liveness, Member, Replica, Tuning};
use crate::stream::catalogue::Catalogue;

pub(crate) use boot::Phase;
pub(crate) use halt::halt_error;
pub use mesh::{Mesh, shard_of};
pub use report::Board;

/// What a shard is told when it starts.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// The cluster.
    pub cluster: u32,
    /// Its name, for people.
    pub cluster_name: String,
    /// What it tells its peers of its settings, see `Config::fingerprint`.
    pub fingerprint: u64,
    /// This node.
    pub node: u32,
    /// Its region.
    pub region: String,
    /// This shard.
    pub shard: u16,
    /// Shards of the node.
    pub shards: u16,
    /// The shard's directory.
    pub dir: PathBuf,
    /// Where to accept connections; shard 0 of a node with a listener alone.
    pub listen: Option<SocketAddr>,
    /// Where a standby finds its upstream.
    pub upstream: Vec<SocketAddr>,
    /// Upstreams of this region go first.
    pub upstream_region: String,
    /// This upstream goes before all others while it can be used.
    pub upstream_override: Option<SocketAddr>,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes that the shard's segments may take.
    pub log_bytes_max: u64,
    /// How long the log stays beyond need while there is space, in nanoseconds.
    pub retain_ns: u64,
    /// Bytes of a stream that are kept for standbys beyond its readers' need; 0: none.
    pub pin_bytes_max: u64,
    /// How writes are made durable; the ring must be made for the same path.
    pub sync_path: SyncPath,
    /// Durable writes in flight, 1 to 4.
    pub writes_in_flight: usize,
    /// Zero-copy sends.
    pub zero_copy: ZeroCopyMode,
    /// How long links wait for what.
    pub link_timing: LinkTiming,
    /// A write that takes longer makes the node fall silent, in nanoseconds.
    pub disk_stall_ns: u64,
    /// A write that takes longer stops the shard, in nanoseconds.
    pub disk_stall_hard_ns: u64,
    /// How long the shard looks for work before it sleeps, in nanoseconds.
    pub spin_ns: u64,
    /// Timers and windows of the replicas.
    pub tuning: Tuning,
    /// First members and role: makes a new shard in an empty directory, and stops.
    pub format: Option<Format>,
}

/// What `format` writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// Role of the cluster.
    pub role: Role,
    /// Its first members.
    pub members: Vec<Member>,
    /// Random number of this disk, the same for all shards of the node.
    pub incarnation: u64,
}

/// Why a shard stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// It was asked to, or has formatted.
    Done,
    /// The directory holds no shard of this node.
    Identity(String),
    /// Recovery found what it cannot go on with.
    Corrupt(String),
    /// The operating system refused something at the start.
    Io(String),
    /// The address cannot be used.
    Listen(String),
    /// A write or barrier failed.
    Poisoned(String),
}

/// Ring, memory and time of a shard.
pub(crate) struct Io<R> {
    pub(crate) ring: R,
    pub(crate) pool: Pool,
    pub(crate) now: Nanos,
}

/// What a shard shares with the rest of its node.
pub struct Shared {
    /// Status of all shards.
    pub board: Arc<Board>,
    /// Mail between shards; none on a node with one.
    pub mesh: Option<Arc<Mesh>>,
    /// The forwarding shard, if there is one.
    pub forward: Option<ForwardPort>,
}

/// See the [module](self).
pub struct Shard<R: Ring> {
    pub(crate) config: ShardConfig,
    pub(crate) me: Identity,
    pub(crate) io: Io<R>,
    pub(crate) phase: Phase,
    pub(crate) halt: Option<Halt>,
    pub(crate) ledger: ledger::Ledger,
    pub(crate) booting: boot::Booting,
    pub(crate) streams: BTreeMap<u64, stream::StreamState>,
    pub(crate) catalogue: Catalogue,
    pub(crate) creations: create::Creations,
    /// As far as the catalogue is committed here; of another shard's catalogue, as last told.
    pub(crate) registry: Arc<Registry>,
    pub(crate) controls: control::Controls,
    pub(crate) net: net::Net,
    pub(crate) jobs: jobs::Jobs,
    pub(crate) surveys: survey::Surveys,
    pub(crate) imports: import::Imports,
    pub(crate) joins: join::Joins,
    pub(crate) shipping: ship::Shipping,
    pub(crate) levels: level::Levels,
    pub(crate) contacts: contact::Contacts,
    pub(crate) crossings: crossing::Crossings,
    pub(crate) hand_overs: hand_over::HandOvers,
    pub(crate) liveness: Option<Liveness>,
    pub(crate) floors: Floors,
    pub(crate) closing: floor::Closing,
    pub(crate) showing: replayable::Showing,
    pub(crate) effects: Effects,
    pub(crate) touched: Vec<u64>,
    pub(crate) timers: BTreeSet<(Nanos, u64)>,
    /// Streams with records that wait for a group.
    pub(crate) dirty: VecDeque<u64>,
    pub(crate) pending_count: usize,
    pub(crate) pending_bytes: usize,
    pub(crate) spare: Option<SlotId>,
    pub(crate) stalled: bool,
    pace: turn::Pace,
    /// A batch could not be made for lack of memory or space.
    pub(crate) seal_stuck: bool,
    /// Bytes of groups that are kept for readers until they are committed.
    pub(crate) tail_bytes: usize,
    /// Recovery lost records that may have been hard state of any stream.
    pub(crate) lost_hard_state: bool,
    pub(crate) role_epoch: u64,
    pub(crate) port: Arc<ShardPort>,
    pub(crate) board: Arc<Board>,
    pub(crate) mesh: Option<Arc<Mesh>>,
    pub(crate) forward: Option<ForwardPort>,
    pub(crate) unsent: VecDeque<(u16, mesh::Mail)>,
    /// What the mesh says of who leads the catalogue of this shard, and whether it is this node.
    pub(crate) told_leader: Option<(bool, Ballot)>,
    pub(crate) leases: BTreeMap<u64, (Arc<Path>, Lease)>,
    pub(crate) checkpoints: checkpoint::Checkpoints,
    pub(crate) alarms: BTreeMap<&'static str, (u64, String)>,
    pub(crate) listening: Option<SocketAddr>,
    booted: bool,
    /// It was ready once.
    was_ready: bool,
    /// Its owner drives it, and looks at outcomes between two turns.
    pub(crate) driven: bool,
    /// An outcome was given in this turn.
    pub(crate) answered: bool,
    once: u32,
    done: Vec<Completion>,
    ops: Vec<(u32, Op)>,
}

/// Memory of a shard for its pool: enough for a window of groups, what is received meanwhile, and
/// a tail for readers.
pub fn quotas(segment_bytes: u64) -> Quotas {
    // Small segments mean small tests.
    let unit = if segment_bytes <= 4 << 20 { 16 << 20 } else { 64 << 20 };
    Quotas { write: unit, receive: unit, tail: unit / 2, read: unit / 2 }
}

impl<R: Ring> Shard<R> {
    /// Why the shard stopped, if it did.
    pub fn halted(&self) -> Option<&Halt> {
        self.halt.as_ref()
    }

    /// Whether recovery is over and the listener, if any, listens. A node that is alone in its
    /// cluster also leads: it waits for nobody.
    pub fn is_ready(&self) -> bool {
        let listens = self.config.listen.is_none() || self.listening.is_some();
        let leads = |state: &stream::StreamState| {
            // A log that lost something never leads by itself; status says so.
            let log = state.replica.log();
            let lost = log.is_unknown() || !log.is_whole();
            let given_up = state.halted.is_some() || lost;
            state.leading || given_up || state.replica.config().members.len() > 1
        };
        matches!(self.phase, Phase::Running) && listens && self.streams.values().all(leads)
    }

    /// Who it is, once it serves.
    pub fn identity(&self) -> Identity {
        self.me
    }

    /// Where it listens.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.listening
    }

    /// The replicas of this shard by their streams, for who looks on.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.streams.values().map(|state| &state.replica)
    }

    /// The registry of clusters as far as the catalogue is committed at this node.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What this shard complains about: code and words.
    pub fn alarms(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.alarms.iter().map(|(code, (_, hint))| (*code, hint.as_str()))
    }

    /// Where this shard's log begins: what stands before was let go.
    pub fn log_start(&self) -> palisade_wal::LogStart {
        self.checkpoints.recycler.start()
    }

    /// The ring, for who drives the shard.
    pub fn ring(&mut self) -> &mut R {
        &mut self.io.ring
    }

    /// Submits an operation whose end nobody waits for.
    pub(crate) fn forget(&mut self, op: Op) {
        self.once = self.once.wrapping_add(1);
        let token = token::local_token(token::OWNER_ONCE, self.once);
        self.io.ring.submit(&mut self.io.pool, token, op);
    }

    pub(crate) fn state(&mut self, stream: u64) -> &mut stream::StreamState {
        self.streams.get_mut(&stream).expect("a stream of this shard")
    }

    /// Raises an alarm; it stays until it is taken back.
    pub(crate) fn alarm(&mut self, code: &'static str, hint: String) {
        let wall = self.io.ring.wall_ns();
        self.alarms.entry(code).or_insert((wall, hint));
    }
}

impl<R: Ring> Drop for Shard<R> {
    fn drop(&mut self) {
        self.give_up();
    }
}
