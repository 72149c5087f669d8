//! What `status --json` prints, field by field. Enumerations are lower-kebab; positions, SCNs and
//! ids are whole numbers; durations and times carry their unit in the name.

use serde::{Deserialize, Serialize};

/// The state of a node, as it sees itself and its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its cluster.
    pub cluster: ClusterStatus,
    /// The node.
    pub node: NodeStatus,
    /// Every stream that has a replica here.
    pub streams: Vec<StreamStatus>,
    /// The registered standbys, and other clusters that fetch from this node.
    pub standbys: Vec<StandbyStatus>,
    /// Bytes that came to this node from other regions.
    pub borders: Vec<BorderStatus>,
    /// Space and the chosen way to make bytes durable.
    pub disk: DiskStatus,
    /// What needs attention.
    pub alarms: Vec<Alarm>,
}

/// A cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster.
    pub id: u32,
    /// For people.
    pub name: String,
    /// Its role by its log.
    pub role: ClusterRole,
    /// Generation of the primary role.
    pub role_epoch: u64,
    /// What was asked for.
    pub protection_mode: Protection,
    /// What holds now.
    pub protection_level: Protection,
    /// Nanoseconds since 1970 when the node learned of the last step of mode or level; 0 when there
    /// was none.
    #[serde(default)]
    pub level_since: u64,
    /// Why the level is not what the mode asks for; empty when it is.
    #[serde(default)]
    pub level_reason: String,
    /// Closed SCN over all streams: what a cut at a failover would keep. At a standby it is the
    /// replayable SCN: readers see nothing above it.
    pub sync_scn: u64,
}

/// Role of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterRole {
    /// Takes appends.
    #[default]
    Primary,
    /// Receives the logs of a primary.
    Standby,
    /// Was the primary, and heard of a later one: takes nothing more.
    Fenced,
}

/// A protection mode, or the level that holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// Acks do not wait for a standby.
    #[default]
    Performance,
    /// Acks wait for the SYNC standby while it answers.
    Availability,
    /// Acks always wait for the SYNC standby.
    Protection,
    /// Level only: the SYNC standby is catching up.
    Resync,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub id: u32,
    /// Where it stands.
    pub region: String,
    /// Which life of its disk.
    pub incarnation: u64,
    /// Version of the program.
    pub version: String,
    /// What went to other regions compressed; none while nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionStatus>,
}

/// What a node's forwarding shard sent compressed, since the start of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressionStatus {
    /// Chunks that were compressed: each once, however many readers got it.
    pub compressions: u64,
    /// Bytes of records that were sent compressed, once for each reader.
    pub plain_bytes: u64,
    /// Bytes that were sent of them.
    pub sent_bytes: u64,
}

/// A replica of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// The stream.
    pub id: u64,
    /// What this replica is.
    pub role: ReplicaRole,
    /// The ballot that this replica follows.
    pub ballot: BallotStatus,
    /// Nodes with a vote.
    pub members: Vec<u32>,
    /// Nodes that get the log without a vote: their disks are in no config yet, for the moment
    /// between their first contact with a leader and the config that names them.
    pub learners: Vec<u32>,
    /// Where the log starts here.
    pub base_lsn: u64,
    /// On this disk.
    pub durable_lsn: u64,
    /// Durable on a majority under one ballot, as far as known here.
    pub committed_lsn: u64,
    /// In memory here.
    pub end_lsn: u64,
    /// SCN of the last committed group.
    pub scn: u64,
    /// From where a standby's leader fetches; absent elsewhere.
    pub upstream: Option<UpstreamStatus>,
    /// What it is doing, a lower-kebab word.
    pub state: String,
    /// Since when, in nanoseconds of the Unix epoch.
    pub since: u64,
    /// Why; of a normal replica, what it does.
    pub reason: String,
    /// What to do about it; empty when nothing.
    pub action: String,
    /// What is kept here for standbys beyond the readers' need, and for whom no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<PinStatus>,
    /// How old this is, when the shard of the stream did not report in time; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_us: Option<u64>,
}

/// What is kept of a stream for a standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinStatus {
    /// The standby.
    pub cluster: u32,
    /// Where the part begins that it may lack.
    pub from_lsn: u64,
    /// Bytes that readers let go and the log keeps for it; at most `log.pin_bytes_max`.
    pub bytes: u64,
    /// It lacks what is gone: it has to be built anew.
    pub is_lost: bool,
}

/// Role of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaRole {
    /// Proposes and serves appends.
    Leader,
    /// Accepts.
    #[default]
    Follower,
    /// Asks for votes.
    Candidate,
    /// Gets the log, no vote.
    Learner,
}

/// A ballot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BallotStatus {
    /// Grows with every election.
    pub round: u64,
    /// Whose it is; 0 while there was none.
    pub node: u32,
}

/// Where a stream is fetched from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Its cluster.
    pub cluster: u32,
    /// Its node.
    pub node: u32,
}

/// A standby cluster as its upstream sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyStatus {
    /// The cluster.
    pub cluster: u32,
    /// Where it stands.
    pub region: String,
    /// How it is served.
    pub transfer: Transfer,
    /// A lower-kebab word: `connected` to this node, `not-connected` to it, `suspended`, or
    /// `unregistered`.
    pub state: String,
    /// Committed bytes that this node has not sent it yet, over the streams that it reads here;
    /// as of the last second.
    pub lag_bytes: u64,
    /// How long it has been behind here.
    pub lag_us: u64,
}

/// How a standby is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transfer {
    /// Acks wait for it.
    Sync,
    /// It follows.
    #[default]
    Async,
}

/// Bytes over a border between regions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BorderStatus {
    /// Region that sent.
    pub from: String,
    /// Region that received.
    pub to: String,
    /// Bytes since the start of the node.
    pub bytes: u64,
}

/// The data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Bytes of segments in use.
    pub used: u64,
    /// `log.log_bytes_max`.
    pub limit: u64,
    /// How bytes are made durable: `rwf-dsync`, `linked-fdatasync` or `fdatasync`.
    pub sync_path: String,
}

/// Something that needs attention.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// A lower-kebab word.
    pub code: String,
    /// Since when, in nanoseconds of the Unix epoch.
    pub since: u64,
    /// What to do.
    pub hint: String,
}

impl Status {
    /// The state of one stream here.
    pub fn stream(&self, id: u64) -> Option<&StreamStatus> {
        self.streams.iter().find(|stream| stream.id == id)
    }
}
