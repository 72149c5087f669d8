//! What a seed's world looks like before anything goes wrong.

use palisade::forward::Limits;
use palisade::paxos::Tuning;
use palisade_netio::{Nanos, ZeroCopyMode};
use palisade_wal::SyncPath;

use crate::sim::Random;

/// A millisecond, in the unit of [`Nanos`].
pub const MS: u64 = 1_000_000;
/// A second, in the unit of [`Nanos`].
pub const SECOND: u64 = 1000 * MS;

/// Sizes, timers and loads of one world.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Nodes of the primary cluster.
    pub nodes: u32,
    /// Shards of each node.
    pub shards: u16,
    /// Streams created at the start.
    pub streams: usize,
    /// Streams created later, while faults strike.
    pub late_streams: usize,
    /// Standby clusters.
    pub standbys: Vec<Standby>,
    /// Bounds of the forwarders.
    pub forwarding: Limits,
    /// What goes to clusters in other regions is compressed.
    pub compresses: bool,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes that a shard's segments may take.
    pub log_bytes_max: u64,
    /// How long the log stays beyond need.
    pub retain_ns: u64,
    /// Bytes of a stream that are kept for standbys.
    pub pin_bytes_max: u64,
    /// How writes are made durable.
    pub sync_path: SyncPath,
    /// Durable writes in flight.
    pub writes_in_flight: usize,
    /// Zero-copy sends.
    pub zero_copy: ZeroCopyMode,
    /// A write that takes longer makes its node fall silent, in nanoseconds.
    pub disk_stall_ns: u64,
    /// A write that takes longer stops its node, in nanoseconds.
    pub disk_stall_hard_ns: u64,
    /// Timers and windows of the replicas.
    pub tuning: Tuning,
    /// Region of each node of the primary, then of each standby, all of whose nodes are in one.
    pub regions: Vec<&'static str>,
    /// How long faults may strike, from the start of the world, in nanoseconds.
    pub faulty_ns: u64,
    /// Clients without producer ids.
    pub plain_clients: usize,
    /// Clients with producer ids, which try again until they know.
    pub producers: usize,
    /// Clients that follow a stream.
    pub readers: usize,
    /// Mean time between two issues of a client, in nanoseconds.
    pub pause_ns: u64,
    /// Records of one issue, at most.
    pub burst: u64,
    /// Records of one client that wait for their outcome, at most.
    pub window: usize,
    /// Largest payload, in bytes.
    pub payload_max: u64,
}

/// Where a standby fetches from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// The nodes of the primary.
    Primary,
    /// The nodes of the standby before it.
    Standby,
    /// Both, those of the standby first.
    Both,
}

/// A cluster that follows the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standby {
    /// Its nodes.
    pub nodes: u32,
    /// Shards of each node.
    pub shards: u16,
    /// Where it fetches from.
    pub upstream: Upstream,
}

/// Bytes that are kept for standbys where they will not be enough.
pub const PINS_FEW: u64 = 4 << 10;
/// The same where they will.
pub const PINS_ALL: u64 = 1 << 40;
/// What clients append in a second, at most: the log of a run must fit its disk.
const BYTES_PER_SECOND: u64 = 400_000;
/// Simulated time of a world's faulty part, at least.
const FAULTY_NS: u64 = 60 * SECOND;

impl Settings {
    /// Draws the settings of a seed.
    pub fn draw(random: &mut Random) -> Settings {
        let (plain_clients, producers) = (random.between(1, 4), random.between(1, 5));
        let window: usize = pick(random, &[1, 4, 16, 64]);
        let burst = pick(random, &[1, 1, 2, 4, 8, 32]).min(window as u64);
        let per_second = pick(random, &[20, 60, 60, 150, 400]);
        let payload_max = pick(random, &[64, 512, 512, 4096, 32 << 10]);
        Settings {
            nodes: if random.below(8) == 0 { 5 } else { 3 },
            shards: if random.below(4) == 0 { 2 } else { 1 },
            streams: random.between(1, 5) as usize,
            late_streams: random.below(4) as usize,
            segment_bytes: pick(random, &[1 << 20, 1 << 20, 2 << 20]),
            log_bytes_max: 512 << 20,
            retain_ns: if burst >= 4 { 3 * SECOND } else { 0 },
            pin_bytes_max: 0,
            // A linked sync is, at the seam, the same operation as `Dsync`.
            sync_path: pick(random, &[SyncPath::Dsync, SyncPath::WriteThenSync]),
            writes_in_flight: random.between(1, 4) as usize,
            zero_copy: pick(random, &[ZeroCopyMode::Auto, ZeroCopyMode::Always]),
            disk_stall_ns: SECOND,
            disk_stall_hard_ns: 20 * SECOND,
            tuning: tuning(random),
            faulty_ns: FAULTY_NS + random.below(5 * SECOND),
            plain_clients: plain_clients as usize,
            producers: producers as usize,
            readers: random.between(0, 3) as usize,
            pause_ns: (plain_clients + producers) * burst.div_ceil(2) * SECOND / per_second,
            burst,
            window,
            payload_max: payload_max.min(BYTES_PER_SECOND / per_second),
            standbys: standbys(random),
            forwarding: forwarding(random),
            compresses: false,
            regions: Vec::new(),
        }
    }

    /// Draws where clusters stand, by chances of its own.
    pub fn draw_regions(&mut self, random: &mut Random) {
        let all: &[&'static str] = pick(random, &[&["sh"][..], &["sh", "hz"], &["sh", "hz", "bj"]]);
        let count = self.nodes as usize + self.standbys.len();
        self.regions = (0..count).map(|_| pick(random, all)).collect();
    }

    /// Draws whether what crosses borders is compressed, by chances of its own.
    pub fn draw_compression(&mut self, random: &mut Random) {
        self.compresses = random.coin();
        if self.compresses && random.coin() {
            // What slow readers hold leaves little room for more.
            self.forwarding.compressed_bytes = 64 << 10;
        }
    }

    /// Draws what is kept for standbys, by chances of its own.
    pub fn draw_pins(&mut self, random: &mut Random) {
        self.pin_bytes_max = pick(random, &[0, PINS_FEW, PINS_ALL]);
    }

    /// The region of a node of a cluster, the primary being the first.
    pub fn region(&self, cluster: usize, id: u32) -> &'static str {
        let at = match cluster {
            0 => id as usize - 1,
            standby => self.nodes as usize + standby - 1,
        };
        self.regions.get(at).copied().unwrap_or("here")
    }

    /// The present time plus so many nanoseconds drawn around the mean pause of a client.
    pub fn next_issue(&self, now: Nanos, random: &mut Random) -> Nanos {
        now.after(random.between(1, 2 * self.pause_ns))
    }
}

fn standbys(random: &mut Random) -> Vec<Standby> {
    let count = pick(random, &[0, 1, 1, 1, 1, 1, 2, 2]);
    let standby = |at| Standby {
        nodes: pick(random, &[1, 1, 3]),
        shards: pick(random, &[1, 1, 1, 2]),
        upstream: match at {
            0 => Upstream::Primary,
            _ => pick(random, &[Upstream::Primary, Upstream::Standby, Upstream::Both]),
        },
    };
    (0..count).map(standby).collect()
}

/// Small bounds let every wait of a forwarder happen.
fn forwarding(random: &mut Random) -> Limits {
    let usual = Limits::default();
    if random.coin() {
        return usual;
    }
    let output_bytes = pick(random, &[1, 16 << 10, usual.output_bytes]);
    let chunk_bytes = pick(random, &[1, 4 << 10, usual.chunk_bytes]);
    Limits {
        output_bytes,
        chunk_bytes,
        // Caps come with small chunks.
        rate: if chunk_bytes == 4 << 10 { 16 << 20 } else { 0 },
        cluster_rate: if chunk_bytes == 1 { 8 << 20 } else { 0 },
        tail_bytes: pick(random, &[0, 64 << 10, usual.tail_bytes]),
        locates: pick(random, &[1, 2, usual.locates]),
        ..usual
    }
}

fn tuning(random: &mut Random) -> Tuning {
    let usual = Tuning::default();
    if random.coin() {
        return usual;
    }
    Tuning {
        commit_hint_bytes: pick(random, &[0, 4096, 256 << 10]),
        window_groups_max: pick(random, &[1, 4, 64, 1024]),
        election_jitter_ns: pick(random, &[MS, 50 * MS, 150 * MS]),
        rank_step_ns: pick(random, &[0, 10 * MS]),
        ..usual
    }
}

/// One of `choices`.
pub(crate) fn pick<T: Clone>(random: &mut Random, choices: &[T]) -> T {
    choices[random.index(choices.len())].clone()
}
