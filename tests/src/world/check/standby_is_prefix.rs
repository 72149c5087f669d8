//! What is committed anywhere is a prefix of what the primary cluster committed: the same chain at
//! the same group ends, and never more.
//!
//! The chain at the end of a group stands for all bytes below it. Every log of the primary cluster
//! is looked at while its groups are not committed yet, so that the ends in between are known too
//! when a commit covers several.

use std::collections::BTreeMap;

use palisade_wal::{Boundary, CHAIN_START, Lsn, StreamLog};

use super::{Seat, Violation};

const NAME: &str = "standby_is_prefix";
/// Index of the cluster that takes appends.
const PRIMARY: usize = 0;

const START: Boundary = Boundary { lsn: Lsn::ZERO, chain: CHAIN_START };

#[derive(Default)]
struct Stream {
    /// Group ends in any log of the primary cluster, each with the end before it.
    logged: BTreeMap<(Lsn, u64), Boundary>,
    /// Chains at the group ends that the primary cluster committed.
    committed: BTreeMap<Lsn, u64>,
}

/// Group ends of each stream.
#[derive(Default)]
pub(super) struct StandbyIsPrefix(BTreeMap<u64, Stream>);

impl StandbyIsPrefix {
    /// Looks at a log after a turn.
    pub(super) fn on_turn(&mut self, seat: Seat, log: &StreamLog) {
        if seat.cluster != PRIMARY {
            return;
        }
        let stream = self.0.entry(seat.stream).or_default();
        let mut ends = log.boundaries().rev().peekable();
        while let (Some(end), Some(before)) = (ends.next(), ends.peek()) {
            if stream.logged.insert((end.lsn, end.chain), *before).is_some() {
                break;
            }
        }
    }

    /// Looks at a committed end that moved.
    pub(super) fn on_committed(&mut self, seat: Seat, at: Boundary) -> Result<(), Violation> {
        if seat.stream == 0 && seat.cluster != PRIMARY {
            // The system stream is each cluster's own.
            return Ok(());
        }
        let stream = self.0.entry(seat.stream).or_default();
        if seat.cluster == PRIMARY {
            stream.commit(at);
        }
        let known = stream.committed.get(&at.lsn);
        if known == Some(&at.chain) {
            return Ok(());
        }
        let highest = stream.committed.last_key_value().map_or(Lsn::ZERO, |(lsn, _)| *lsn);
        let what = match known {
            Some(_) => "with another log than the primary cluster".to_string(),
            None if at.lsn > highest => format!("above {highest}, all that the primary has"),
            None => "where no group of the primary cluster ends".to_string(),
        };
        Err(Violation::new(NAME, format!("{seat} committed up to {}, {what}", at.lsn)))
    }
}

impl Stream {
    /// Everything up to a group end is committed by the primary cluster.
    fn commit(&mut self, at: Boundary) {
        let mut end = at;
        while end != START && !self.committed.contains_key(&end.lsn) {
            self.committed.insert(end.lsn, end.chain);
            let Some(before) = self.logged.get(&(end.lsn, end.chain)) else { return };
            end = *before;
        }
    }
}
