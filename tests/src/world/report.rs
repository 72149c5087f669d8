//! What a seed came to.

use std::collections::BTreeMap;

use super::check::Violation;
use crate::sim::FaultKind;

/// What forwarders sent to standbys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shipped {
    /// Chunks from memory of a shard.
    pub recent: u64,
    /// Chunks from sealed segments.
    pub sealed: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Bytes of those that were compressed, and what was sent of them.
    pub plain: u64,
    /// See `plain`.
    pub compressed: u64,
}

impl Shipped {
    /// Counts what others sent too.
    pub fn add(&mut self, other: Shipped) {
        self.recent += other.recent;
        self.sealed += other.sealed;
        self.bytes += other.bytes;
        self.plain += other.plain;
        self.compressed += other.compressed;
    }
}

/// What the failovers of worlds came to whose primary died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailedOver {
    /// Standbys that took the role and served.
    pub done: u64,
    /// Acknowledgements, below any SYNC level, that a failover lost.
    pub lost: u64,
    /// Failovers that stopped, since a stream had been acked alone.
    pub stopped: u64,
    /// Failovers that were refused for that.
    pub refused: u64,
}

impl FailedOver {
    /// Counts those of another world too.
    pub fn add(&mut self, other: FailedOver) {
        self.done += other.done;
        self.lost += other.lost;
        self.stopped += other.stopped;
        self.refused += other.refused;
    }
}

/// What a seed came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// Simulated time, in nanoseconds.
    pub simulated_ns: u64,
    /// Acknowledged records.
    pub acks: u64,
    /// Those of them from before the first fault.
    pub acks_before_fault: u64,
    /// How often each kind of fault struck.
    pub fault_counts: BTreeMap<FaultKind, u64>,
    /// What forwarders sent.
    pub shipped: Shipped,
    /// Truncations of streams, and segments that shards let go.
    pub truncations: u64,
    /// See `truncations`.
    pub let_go: u64,
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// Entries of the trace.
    pub steps: u64,
    /// Turns of shards.
    pub turns: u64,
    /// Leaderships that an operator moved.
    pub moved: u64,
    /// Changes of the registry of clusters that were acknowledged.
    pub changes: u64,
    /// Requests that a rule forbade, or that somebody else outran.
    pub forbidden: u64,
    /// Times that the role of the primary went on, or was taken back.
    pub switchovers: u64,
    /// What became of a primary that died.
    pub failover: FailedOver,
    /// Sync marks that were written.
    pub marks: u64,
    /// Acknowledgements that waited for a SYNC standby.
    pub gated: u64,
    /// Whether the run was long and hard enough to count.
    pub ok: bool,
}

/// A seed that broke an invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How far it came.
    pub report: SeedReport,
    /// What broke.
    pub violation: Violation,
    /// The world's settings.
    pub settings: String,
    /// Every replica at that moment.
    pub state: Vec<String>,
    /// The last things that happened, oldest first.
    pub trace: Vec<String>,
}
