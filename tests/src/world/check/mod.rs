//! What must never be, one invariant a file.
//!
//! While the world runs, the checks look at every shard after its turn and at every outcome and
//! read; at the end, when all is calm, at everything that every node holds.

mod ack_order;
mod acked_survives;
mod ballot_monotonic;
mod closed_holds;
mod cursor_order;
mod failed_is_absent;
mod no_duplicate;
mod one_value_per_lsn;
mod reader_saw_all;
mod shown_is_replayable;
mod standby_is_prefix;
mod sync_held;

use palisade::paxos::{Closed, Replica};
use palisade::shard::sync::{Marked, SyncStatus};
use palisade::{Outcome, Record};
use palisade_wal::{Ballot, Lsn};

use super::history::{History, Stretch};

pub use ballot_monotonic::Raised;
pub use shown_is_replayable::Shown;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub check: &'static str,
    /// What was seen.
    pub text: String,
}

impl Violation {
    /// What was seen, for the report.
    pub fn new(check: &'static str, text: impl Into<String>) -> Violation {
        Violation { check, text: text.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.check, self.text)
    }
}

/// One replica of one start of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    /// Index of the cluster.
    pub cluster: usize,
    /// Index of the node in the fleet.
    pub node: usize,
    /// Which start of the node.
    pub boot: u64,
    /// The stream.
    pub stream: u64,
}

impl std::fmt::Display for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Seat { cluster, node, boot, stream } = self;
        write!(f, "cluster {cluster}, node #{node}, start {boot}, stream {stream}")
    }
}

/// Everything that a replica holds of its stream: the data records, in order.
pub struct FullCopy {
    /// Whose.
    pub seat: Seat,
    /// Committed there.
    pub committed: Lsn,
    /// The records.
    pub records: Vec<Record>,
}

/// Where the log of a stream goes on at another cluster.
#[derive(Clone, Copy, Debug)]
pub struct Fork {
    /// The stream.
    pub stream: u64,
    /// What stands below is the same.
    pub at: Lsn,
    /// Index of the cluster that is lost, with what it alone has above.
    pub lost: usize,
    /// Index of the cluster that takes its role.
    pub taker: usize,
    /// That cluster may have acked and shown something alone.
    pub may_lose: bool,
}

/// All checks, with what they remember.
#[derive(Default)]
pub struct Checks {
    cursors: cursor_order::CursorOrder,
    ballots: ballot_monotonic::BallotMonotonic,
    values: one_value_per_lsn::OneValuePerLsn,
    order: ack_order::AckOrder,
    prefixes: standby_is_prefix::StandbyIsPrefix,
    closed: closed_holds::ClosedHolds,
    shown: shown_is_replayable::ShownIsReplayable,
    sync: sync_held::SyncHeld,
}

impl Checks {
    /// Looks at a replica after a turn of its shard, and says what moved. `acts`: the shard holds
    /// itself for the primary's.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn on_turn(
        &mut self,
        seat: Seat,
        acts: bool,
        replica: &Replica,
    ) -> Result<Raised, Violation> {
        if let Some(reason) = replica.halted() {
            return Err(Violation::new("stream-halted", format!("{seat}: {reason}")));
        }
        let raised = self.ballots.on_turn(seat, replica)?;
        if let Some(ballot) = replica.serving().filter(|_| raised.leads) {
            self.values.on_leads(seat, ballot, replica.log())?;
        }
        self.prefixes.on_turn(seat, acts, replica.log())?;
        if let Some(committed) = self.cursors.on_turn(seat, replica)? {
            let own = acts || self.prefixes.is_own(seat, committed);
            self.prefixes.on_committed(seat, own, committed)?;
            self.sync.on_committed(seat, own, committed.lsn)?;
            self.values.on_committed(seat, replica.log().accepting(), committed)?;
            return Ok(Raised { committed: true, ..raised });
        }
        Ok(raised)
    }

    /// A stream goes on without its old primary: what only that one has above is no truth any more.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn on_fork(&mut self, fork: Fork) -> Result<(), Violation> {
        self.values.on_fork(fork)?;
        self.prefixes.on_fork(fork);
        self.closed.on_fork(fork, self.shown.shown_by(fork.taker));
        self.sync.on_fork(fork);
        Ok(())
    }

    /// Streams that a primary has, but the system stream.
    pub fn streams(&self) -> Vec<u64> {
        self.prefixes.streams()
    }

    /// Looks at the marks of a stream of the primary after a turn; `logged` are not committed.
    pub fn on_sync_status(
        &mut self,
        seat: Seat,
        accepting: Ballot,
        status: &SyncStatus,
        logged: Vec<Marked>,
    ) {
        self.sync.on_status(seat, accepting, status, logged);
    }

    /// Acknowledgements that waited for a SYNC standby.
    pub fn gated(&self) -> u64 {
        self.sync.gated
    }

    /// Looks at what a shard knows to be closed in a stream.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn on_closed(&mut self, seat: Seat, closed: Closed) -> Result<(), Violation> {
        self.closed.on_closed(seat, closed)
    }

    /// Looks at what a shard shows of a stream.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn on_shown(&mut self, seat: Seat, shown: Shown) -> Result<(), Violation> {
        let committed = self.sync.committed(seat.cluster, seat.stream);
        let wrote = self.prefixes.wrote(seat, shown.upto);
        self.shown.on_shown(seat, shown, committed, wrote)
    }

    /// A candidate counts on the promise of a node.
    pub fn on_counted(&mut self, node: usize, stream: u64, ballot: Ballot) {
        self.ballots.on_counted(node, stream, ballot);
    }

    /// Looks at an outcome of a cluster, before the history takes it. `by_leader`: it came from the
    /// newest leader; an older one, that does not know yet, may know less.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn on_outcome(
        &mut self,
        history: &History,
        attempt: usize,
        outcome: &Outcome,
        cluster: usize,
        by_leader: bool,
    ) -> Result<(), Violation> {
        if let Ok(appended) = outcome {
            let stream = history.records[history.attempts[attempt].record].stream;
            self.sync.on_acked(cluster, stream, appended)?;
        }
        self.order.on_outcome(history, attempt, outcome, by_leader)
    }

    /// Looks at what a reader got.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn on_read(&mut self, seat: Seat, from: Lsn, records: &[Record]) -> Result<(), Violation> {
        self.sync.on_read(seat, records)?;
        let mut at = from;
        for record in records {
            if record.lsn < at || record.end_lsn <= record.lsn {
                let text = format!("{seat}: a read from {at} brought {}", record.lsn);
                return Err(Violation::new("read-order", text));
            }
            at = record.end_lsn;
            self.values.on_record(seat, record)?;
        }
        Ok(())
    }

    /// Looks at all copies of all streams of a calm world.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn at_end(&mut self, history: &History, copies: &[FullCopy]) -> Result<(), Violation> {
        for copy in copies {
            self.on_read(copy.seat, Lsn::ZERO, &copy.records)?;
            self.values.at_end(copy)?;
            self.closed.at_end(copy)?;
            self.shown.at_end(copy)?;
            acked_survives::at_end(history, copy)?;
            failed_is_absent::at_end(history, copy)?;
            no_duplicate::at_end(history, copy)?;
            ack_order::at_end(copy)?;
            let of_stream = |stretch: &&Stretch| stretch.stream == copy.seat.stream;
            for stretch in history.stretches.iter().filter(of_stream) {
                reader_saw_all::at_end(stretch, copy)?;
            }
        }
        Ok(())
    }
}
