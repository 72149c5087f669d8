//! The configuration of a node: typed, validated, and documented by one table.
//!
//! The file form (`node.toml`) is any text that serde reads into a [`Value`]; this module knows
//! keys, bounds and contradictions, not TOML. [`Config::from_value`] finds every problem at once.

mod check;
mod fingerprint;
mod keys;
mod render;
mod units;
mod value;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use fingerprint::AGREED;
pub(crate) use fingerprint::difference;
pub use keys::{KEYS, Key, Preset, SECTIONS, Shape};
pub use palisade_netio::SyncPath;
pub use units::{format_size, format_time, parse_size, parse_time};
pub use value::Value;

/// Most members of a cluster.
pub const MEMBERS_MAX: usize = 9;
/// Most upstream endpoints.
pub const ENDPOINTS_MAX: usize = 16;
/// Segments that must fit into `log.log_bytes_max`.
pub const SEGMENTS_MIN: u64 = 4;
/// Heartbeats that must fit into an election timeout.
pub const HEARTBEATS_PER_ELECTION: u32 = 3;
/// Segments are a multiple of this.
pub const SEGMENT_STEP_BYTES: u64 = 256 << 10;

/// Everything that a node needs to know to start. What must agree in a cluster is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The cluster, as `format` writes it.
    pub cluster: ClusterConfig,
    /// This node.
    pub node: NodeConfig,
    /// First membership; `format` alone reads it.
    pub members: Vec<Member>,
    /// Where a standby finds logs.
    pub upstream: UpstreamConfig,
    /// Space and retention.
    pub log: LogConfig,
    /// Sockets.
    pub network: NetworkConfig,
    /// Timers.
    pub timing: TimingConfig,
}

/// The cluster of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Unique among clusters that exchange logs; not 0.
    pub id: u32,
    /// For people.
    pub name: String,
    /// Role at `format`; afterwards the log says.
    pub role: Role,
}

/// Role of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes appends.
    Primary,
    /// Receives the logs of a primary.
    Standby,
}

impl Role {
    /// The words of node.toml and of JSON, in the order of the roles.
    pub const WORDS: [&str; 2] = ["primary", "standby"];

    /// As in node.toml and in JSON.
    pub fn as_str(self) -> &'static str {
        Role::WORDS[self as usize]
    }

    /// The role of a word.
    pub fn from_word(word: &str) -> Option<Role> {
        [Role::Primary, Role::Standby].into_iter().find(|role| role.as_str() == word)
    }
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Unique in its cluster; not 0.
    pub id: u32,
    /// Where it stands.
    pub region: String,
    /// Data directory.
    pub data: PathBuf,
    /// Where peers, clients and readers connect; `None` when embedded without a listener.
    pub listen: Option<SocketAddr>,
    /// What others are told to connect to; `None` like `listen`.
    pub advertise: Option<SocketAddr>,
    /// Log shards, 1 to 64.
    pub shards: u16,
    /// CPUs to pin log shards to, in shard order; empty: not pinned.
    pub cpus: Vec<u16>,
    /// Whether a listener beyond loopback is accepted without TLS.
    pub insecure_network: bool,
    /// Whether a forwarding shard runs.
    pub forwarding: bool,
}

/// One node of the first membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub id: u32,
    /// Its advertised address; port 0 when it has no listener.
    pub addr: SocketAddr,
    /// Its region.
    pub region: String,
}

/// Where a standby finds the primary or another standby.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Nodes to ask; others are found through them.
    pub endpoints: Vec<SocketAddr>,
    /// Upstreams of this region go first; `None`: of the node's own.
    pub preferred_region: Option<String>,
    /// `upstream.override`: this one goes before all others while it can be used.
    pub fixed: Option<SocketAddr>,
}

/// Space and retention of logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Bytes of a segment: 8 MiB to 1 GiB.
    pub segment_bytes: u64,
    /// Bytes that all segments of the node may take.
    pub log_bytes_max: u64,
    /// Keep at least this long beyond need.
    pub retain: Duration,
    /// Bytes of a stream that are kept for standbys beyond its readers' need; 0: none.
    pub pin_bytes_max: u64,
    /// How writes are made durable; `None`: as the disk was measured.
    pub sync_path: Option<SyncPath>,
}

/// Sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Zero-copy sends.
    pub zero_copy: ZeroCopy,
    /// Bytes per second that the forwarding shard sends to all who read there; 0 for no cap.
    pub forward_max: u64,
    /// The same for the nodes of one standby cluster.
    pub forward_max_per_standby: u64,
    /// How what goes to clusters in other regions is compressed.
    pub forward_compression: Compression,
}

/// How what goes to clusters in other regions is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    Off,
    /// With LZ4, chunk by chunk.
    Lz4,
}

impl Compression {
    /// The words of node.toml, in the order of the variants.
    pub const WORDS: [&str; 2] = ["off", "lz4"];

    /// As in node.toml.
    pub fn as_str(self) -> &'static str {
        Compression::WORDS[self as usize]
    }

    /// What a word means.
    pub fn from_word(word: &str) -> Option<Compression> {
        [Compression::Off, Compression::Lz4].into_iter().find(|how| how.as_str() == word)
    }
}

/// When sends are zero-copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZeroCopy {
    /// Above a threshold, off per socket when the kernel reports a copy.
    Auto,
    /// Above a threshold, whatever the kernel reports.
    Always,
    /// Never.
    Never,
}

impl ZeroCopy {
    /// The words of node.toml, in the order of the variants.
    pub const WORDS: [&str; 3] = ["auto", "always", "never"];

    /// As in node.toml.
    pub fn as_str(self) -> &'static str {
        ZeroCopy::WORDS[self as usize]
    }

    /// What a word means.
    pub fn from_word(word: &str) -> Option<ZeroCopy> {
        let all = [ZeroCopy::Auto, ZeroCopy::Always, ZeroCopy::Never];
        all.into_iter().find(|when| when.as_str() == word)
    }
}

/// Timers; each is documented in [`KEYS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimingConfig {
    /// Between two heartbeats of a pair of shards.
    pub heartbeat: Duration,
    /// Silence of a leader after which a follower asks for votes.
    pub election: Duration,
    /// How long a member that comes first is well before a leader hands over to it; 0 for never.
    pub hand_over: Duration,
    /// Age of a leader's oldest write at which it stops its heartbeats.
    pub disk_stall_soft: Duration,
    /// Age of the oldest write at which the node stops by itself.
    pub disk_stall_hard: Duration,
    /// How long an idle shard looks for work before it sleeps; 0 for not at all.
    pub spin: Duration,
    /// First pause before a peer is dialled again.
    pub reconnect_min: Duration,
    /// Longest pause before a peer is dialled again.
    pub reconnect_max: Duration,
    /// Time for a connection and its greeting.
    pub handshake: Duration,
    /// Time that sent bytes may stay unacknowledged by a peer's kernel.
    pub peer_timeout: Duration,
    /// Time that a graceful stop waits for appends in flight.
    pub shutdown: Duration,
}

impl Default for TimingConfig {
    /// As where nothing is configured.
    fn default() -> TimingConfig {
        check::defaults().timing
    }
}

/// One problem of a configuration: which key, what it holds, what is allowed, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {allowed}; {fix}")]
pub struct ConfigError {
    /// Dotted path, members counted from 1: `log.segment_bytes`, `member[2].id`.
    pub key: String,
    /// What the file holds, shortened.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
    /// What to do.
    pub fix: String,
}

impl Config {
    /// Checks the file form and makes it ready for use.
    ///
    /// # Errors
    /// Every problem of the file, in file order where there is one.
    pub fn from_value(file: &Value) -> Result<Config, Vec<ConfigError>> {
        check::check(file)
    }

    /// A cluster of one node in this process: no listener, no forwarding shard, all defaults.
    pub fn embedded(path: impl AsRef<Path>) -> Config {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let region = "local".to_owned();
        Config {
            cluster: ClusterConfig { id: 1, name: "embedded".to_owned(), role: Role::Primary },
            node: NodeConfig {
                id: 1,
                region: region.clone(),
                data: path.as_ref().to_owned(),
                listen: None,
                advertise: None,
                shards: 1,
                cpus: Vec::new(),
                insecure_network: false,
                forwarding: false,
            },
            members: vec![Member { id: 1, addr: nowhere, region }],
            upstream: UpstreamConfig::default(),
            ..check::defaults()
        }
    }

    /// The file form of this configuration, complete; not meaningful for an embedded one.
    pub fn to_toml(&self) -> String {
        render::render(self)
    }

    /// Checks what only the machine knows: that each CPU is in the start-up affinity mask.
    ///
    /// # Errors
    /// One problem per CPU that this process may not use.
    pub fn check_cpus(&self, allowed: &[u16]) -> Result<(), Vec<ConfigError>> {
        let errors: Vec<_> = self
            .node
            .cpus
            .iter()
            .filter(|&cpu| !allowed.contains(cpu))
            .map(|cpu| ConfigError {
                key: "node.cpus".to_owned(),
                value: cpu.to_string(),
                allowed: format!("this process may use CPUs {allowed:?}"),
                fix: "name CPUs of that set, or leave the list empty".to_owned(),
            })
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Checks what only the disk knows: that no shard is to spin on a CPU that writes need.
    pub(crate) fn check_spin(&self, needs: &[u16]) -> Result<(), Vec<ConfigError>> {
        let spins = !self.timing.spin.is_zero();
        let needed = self.node.cpus.iter().filter(|cpu| spins && needs.contains(cpu));
        let errors: Vec<_> = needed
            .map(|cpu| ConfigError {
                key: "timing.spin".to_owned(),
                value: format!("{:?}, with node.cpus {:?}", self.timing.spin, self.node.cpus),
                allowed: format!("durable writes of this disk need CPU {cpu}"),
                fix: "leave that CPU out of node.cpus, name another log.sync_path, or let no \
                      shard spin"
                    .to_owned(),
            })
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}
