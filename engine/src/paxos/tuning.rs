//! Timers and windows, with their bounds.

use palisade_wal::limits::BODY_BYTES_MAX;
use palisade_wal::{GROUP_HEADER_BYTES, RECORD_HEADER_BYTES};

use super::member::MEMBERS_MAX;

/// Milliseconds in the unit of [`Nanos`](palisade_netio::Nanos).
const MS: u64 = 1_000_000;

/// Between two heartbeats, unless set otherwise.
pub const HEARTBEAT_NS: u64 = 50 * MS;
/// Silence after which a node is taken to be dead, unless set otherwise.
pub const ELECTION_NS: u64 = 200 * MS;

/// How long a preferred member is well before it is handed leaderships, unless set otherwise.
pub const HAND_OVER_NS: u64 = 30_000 * MS;

/// Timers and windows of every replica and of the liveness between nodes. Times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Between two heartbeats of a pair of shards. 50 ms; 1 ms to 10 s.
    pub heartbeat_ns: u64,
    /// Without a heartbeat for this long, a node is taken to be dead; also the length of a
    /// lease. 200 ms; at least three heartbeats, at most 60 s.
    pub election_ns: u64,
    /// Random part of every election delay. 50 ms; not 0, at most `election_ns`.
    pub election_jitter_ns: u64,
    /// Between the candidacies of members that lost the same leader, by rank. 10 ms; at most
    /// `election_ns`.
    pub rank_step_ns: u64,
    /// An unanswered message is sent again after this. 100 ms; at least one heartbeat.
    pub retry_ns: u64,
    /// A candidate that gets no further for this long gives up. 1 s; at least twice `retry_ns`.
    pub candidacy_ns: u64,
    /// A leader hands over to a member that is preferred to it when that was well, and it led, for
    /// this long, but no sooner than `election_ns`. 30 s; 0 for never; at most a day.
    pub hand_over_ns: u64,
    /// Bytes above the committed position. 32 MiB; at least one group.
    pub window_bytes_max: u64,
    /// Groups above the committed position. 1024; 1 to 65536.
    pub window_groups_max: usize,
    /// Bytes asked for by one fetch. 8 MiB; at least one group.
    pub fetch_bytes_max: u64,
    /// Bytes committed between two CommitHint records. 4 MiB; 0 logs one for every step.
    pub commit_hint_bytes: u64,
}

/// Hard state records that one replica may have on the way to the disk; beyond it, it does not
/// answer those who ask for more.
pub const RECORDS_IN_FLIGHT_MAX: usize = 16;

/// Groups that one block can hold.
const BLOCK_GROUPS_MAX: usize = BODY_BYTES_MAX / (RECORD_HEADER_BYTES + GROUP_HEADER_BYTES);

const DEFAULT: Tuning = Tuning {
    heartbeat_ns: HEARTBEAT_NS,
    election_ns: ELECTION_NS,
    election_jitter_ns: 50 * MS,
    rank_step_ns: 10 * MS,
    retry_ns: 100 * MS,
    candidacy_ns: 1000 * MS,
    hand_over_ns: HAND_OVER_NS,
    window_bytes_max: 32 << 20,
    window_groups_max: 1024,
    fetch_bytes_max: 8 << 20,
    commit_hint_bytes: 4 << 20,
};

const GROUP_BYTES: u64 = palisade_wal::GROUP_BYTES_MAX as u64;

// A promise of another and a Takeover may be under way together, and the own ones besides.
const _: () = assert!(RECORDS_IN_FLIGHT_MAX >= 4);
// Two heartbeats may be lost before a node is taken to be dead.
const _: () = assert!(DEFAULT.election_ns > 3 * DEFAULT.heartbeat_ns);
// Who misses a leader by chance comes within the lease of the next one.
const _: () = assert!(DEFAULT.election_jitter_ns < DEFAULT.election_ns);
// Ranks are told apart although all members wait by chance, and the last one waits no lease.
const _: () = assert!(DEFAULT.rank_step_ns * MEMBERS_MAX as u64 <= DEFAULT.election_ns);
const _: () = assert!(DEFAULT.rank_step_ns < DEFAULT.heartbeat_ns);
// What is said again was not just late, and a pre-vote is over before a lease is.
const _: () = assert!(DEFAULT.retry_ns >= DEFAULT.heartbeat_ns);
const _: () = assert!(DEFAULT.retry_ns < DEFAULT.election_ns);
// A candidate may ask several times, and outlives the lease that made others refuse it.
const _: () = assert!(DEFAULT.candidacy_ns >= 2 * DEFAULT.retry_ns);
const _: () = assert!(DEFAULT.candidacy_ns > DEFAULT.election_ns);
// A window holds several groups, and a member that missed a whole one is back in a few fetches.
const _: () = assert!(DEFAULT.window_bytes_max >= 4 * GROUP_BYTES);
const _: () = assert!(DEFAULT.fetch_bytes_max >= GROUP_BYTES);
const _: () = assert!(DEFAULT.fetch_bytes_max <= DEFAULT.window_bytes_max);
// A restart knows all but a part of a window to be committed.
const _: () = assert!(DEFAULT.commit_hint_bytes < DEFAULT.window_bytes_max);

impl Tuning {
    /// How long a preferred member is well before it is handed leaderships; none for never.
    pub fn hand_over_after(&self) -> Option<u64> {
        // A leadership lasts longer than an election takes.
        (self.hand_over_ns > 0).then(|| self.hand_over_ns.max(self.election_ns))
    }

    /// Groups in flight at the very most: a window that has room takes what stands in one block.
    pub(super) fn window_groups_bound(&self) -> usize {
        self.window_groups_max + BLOCK_GROUPS_MAX
    }
}

impl Default for Tuning {
    fn default() -> Tuning {
        DEFAULT
    }
}

/// A value out of its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is out of its bounds")]
pub struct TuningError(pub &'static str);

impl Tuning {
    /// Whether every value is in its bounds.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), TuningError> {
        let bounds = [
            ("heartbeat_ns", self.heartbeat_ns, MS, 10_000 * MS),
            ("election_ns", self.election_ns, 3 * self.heartbeat_ns, 60_000 * MS),
            ("election_jitter_ns", self.election_jitter_ns, 1, self.election_ns),
            ("rank_step_ns", self.rank_step_ns, 0, self.election_ns),
            ("retry_ns", self.retry_ns, self.heartbeat_ns, 60_000 * MS),
            ("candidacy_ns", self.candidacy_ns, 2 * self.retry_ns, 600_000 * MS),
            ("hand_over_ns", self.hand_over_ns, 0, 86_400_000 * MS),
            ("window_bytes_max", self.window_bytes_max, GROUP_BYTES, 1 << 40),
            ("window_groups_max", self.window_groups_max as u64, 1, 65_536),
            ("fetch_bytes_max", self.fetch_bytes_max, GROUP_BYTES, 1 << 40),
            ("commit_hint_bytes", self.commit_hint_bytes, 0, 1 << 40),
        ];
        match bounds.iter().find(|(_, value, low, high)| !(low..=high).contains(&value)) {
            Some((name, ..)) => Err(TuningError(name)),
            None => {
                assert!(self.heartbeat_ns < self.election_ns, "every heartbeat comes too late");
                assert!(self.retry_ns < self.candidacy_ns, "a candidate asks but once");
                Ok(())
            }
        }
    }
}
