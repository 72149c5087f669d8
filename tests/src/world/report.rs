//! What a seed came to.

use std::collections::BTreeMap;

use super::check::Violation;
use crate::sim::FaultKind;

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
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// Entries of the trace.
    pub steps: u64,
    /// Turns of shards.
    pub turns: u64,
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
