//! What is acknowledged or read under a SYNC mark is committed at the cluster that it names, at
//! that very moment, unless a later mark let it go.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use palisade::Appended;
use palisade::Record;
use palisade::control::Mode;
use palisade::shard::sync::{Mark, Marked, SyncStatus};
use palisade_wal::{Ballot, Lsn};

use super::{Fork, Seat, Violation};

const NAME: &str = "sync_held";

/// Marks of each stream of the primary, and what standbys committed.
#[derive(Default)]
pub(super) struct SyncHeld {
    /// By where they end: what begins there is under them.
    marks: BTreeMap<u64, BTreeMap<Lsn, Marked>>,
    /// Those that another log took the place of, or that it committed in the same turn: they accuse
    /// nobody, and excuse what is below the mark that stood then.
    perhaps: BTreeMap<u64, Vec<(Marked, Lsn)>>,
    /// Those that were seen in a log and not committed yet, and under which ballot: several may
    /// become so in one turn.
    logged: BTreeMap<(usize, u64), (Ballot, BTreeMap<Lsn, Marked>)>,
    /// By cluster index and stream: committed by any of its nodes, and so by a majority.
    committed: BTreeMap<(usize, u64), Lsn>,
    /// Acknowledgements that a SYNC mark held up.
    pub(super) gated: u64,
}

impl SyncHeld {
    /// Looks at the marks of a stream of the primary after a turn: what stands, and all that are
    /// in the log here and not committed. A turn may log several, and a later one commit them all;
    /// or another log takes the place of this one, and all of that is committed in the same turn.
    pub(super) fn on_status(
        &mut self,
        seat: Seat,
        accepting: Ballot,
        status: &SyncStatus,
        logged: Vec<Marked>,
    ) {
        let marks = self.marks.entry(seat.stream).or_default();
        marks.extend(status.standing.map(|standing| (standing.end, standing)));
        let (under, known) = self.logged.entry((seat.node, seat.stream)).or_default();
        // What stood there, or above the last one, is void.
        known.retain(|start, _| status.mark.is_some_and(|last| *start < last.start));
        if std::mem::replace(under, accepting) != accepting {
            let gone = std::mem::take(known).into_values();
            // Those above are among `logged`, or void.
            let gone = gone.filter(|mark| mark.end <= status.committed);
            let stood = status.standing.map_or(Lsn::ZERO, |standing| standing.end);
            let perhaps = self.perhaps.entry(seat.stream).or_default();
            perhaps.extend(gone.filter(|mark| mark.end < stood).map(|mark| (mark, stood)));
        }
        known.extend(logged.into_iter().map(|mark| (mark.start, mark)));
        while let Some(first) = known.first_entry().filter(|it| it.get().end <= status.committed) {
            let mark = first.remove();
            marks.entry(mark.end).or_insert(mark);
        }
    }

    /// A node has committed so much of a stream; `own`: its cluster made that.
    pub(super) fn on_committed(
        &mut self,
        seat: Seat,
        own: bool,
        upto: Lsn,
    ) -> Result<(), Violation> {
        let known = self.committed.entry((seat.cluster, seat.stream)).or_default();
        *known = upto.max(*known);
        if own || seat.stream == 0 || upto == Lsn::ZERO {
            return Ok(());
        }
        // What another standby has is shown there.
        let last = Lsn(upto.0 - Lsn::ALIGN);
        self.check(seat.stream, last, upto, "taken by a standby").map(drop)
    }

    /// Marks of the lost primary above a fork govern nothing.
    pub(super) fn on_fork(&mut self, fork: Fork) {
        if let Some(marks) = self.marks.get_mut(&fork.stream) {
            marks.retain(|end, _| *end <= fork.at);
        }
        if let Some(perhaps) = self.perhaps.get_mut(&fork.stream) {
            perhaps.retain(|(mark, _)| mark.end <= fork.at);
        }
        if let Some(committed) = self.committed.get_mut(&(fork.lost, fork.stream)) {
            *committed = fork.at.min(*committed);
        }
    }

    /// What any node of a cluster has committed of a stream, and so a majority of it.
    pub(super) fn committed(&self, cluster: usize, stream: u64) -> Lsn {
        self.committed.get(&(cluster, stream)).copied().unwrap_or_default()
    }

    /// An acknowledgement.
    pub(super) fn on_acked(
        &mut self,
        cluster: usize,
        stream: u64,
        acked: &Appended,
    ) -> Result<(), Violation> {
        let Appended { lsn, end_lsn: end, level, .. } = *acked;
        let gated = self.check(stream, lsn, end, "acknowledged")?;
        self.gated += u64::from(gated);
        let has = |at: usize| self.committed.get(&(at, stream)).is_some_and(|held| *held >= end);
        let clusters = self.committed.keys().map(|(at, _)| *at).max().unwrap_or(0);
        let others = (0..=clusters).filter(|at| *at != cluster);
        if Mode::wants_sync(level) && !(gated && others.into_iter().any(has)) {
            let text = format!("stream {stream}: {lsn} to {end} is said to be worth {level:?}");
            return Err(Violation::new(NAME, text));
        }
        Ok(())
    }

    /// What a reader of a node got.
    pub(super) fn on_read(&self, seat: Seat, records: &[Record]) -> Result<(), Violation> {
        // Whoever holds the last one holds those before it; each mark has its own last one.
        for record in records {
            self.check(seat.stream, record.lsn, record.end_lsn, "shown to a reader")?;
        }
        Ok(())
    }

    /// Whether a SYNC mark stands before a position, which then is held.
    fn check(&self, stream: u64, lsn: Lsn, end: Lsn, what: &str) -> Result<bool, Violation> {
        let Some(marks) = self.marks.get(&stream) else { return Ok(false) };
        let Some((_, governs)) = marks.range(..=lsn).next_back() else { return Ok(false) };
        let Some(cluster) = governs.mark.cluster() else { return Ok(false) };
        let held = |mark: &Marked| match mark.mark {
            Mark::Async { .. } | Mark::Fence { .. } => true,
            Mark::Sync { cluster, .. } | Mark::End { cluster, .. } => {
                let at = (cluster as usize - 1, stream);
                self.committed.get(&at).is_some_and(|committed| *committed >= end)
            }
        };
        let later = marks.range((Excluded(lsn), Unbounded));
        let perhaps = self.perhaps.get(&stream).into_iter().flatten();
        let perhaps = perhaps.filter(|(mark, stood)| mark.end > governs.end && lsn < *stood);
        let mut excuses = later.map(|(_, mark)| mark).chain(perhaps.map(|(mark, _)| mark));
        if held(governs) || excuses.any(held) {
            return Ok(true);
        }
        let at = self.committed.get(&(cluster as usize - 1, stream));
        let text = format!(
            "stream {stream}: {lsn} to {end} is {what} under the mark at {} for cluster {cluster}, \
             which has committed {at:?}; the marks are {:?}",
            governs.start,
            marks.values().collect::<Vec<_>>()
        );
        Err(Violation::new(NAME, text))
    }
}
