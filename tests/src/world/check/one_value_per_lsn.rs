//! At most one value is ever committed at a position, on any replica of any cluster; and leaders
//! have it.

use std::collections::BTreeMap;

use palisade::Record;
use palisade_wal::{Ballot, Boundary, Lsn, StreamLog};

use super::{Fork, FullCopy, Seat, Violation};
use crate::world::payload;

const NAME: &str = "one_value_per_lsn";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Value {
    end: Lsn,
    scn: u64,
    producer: u64,
    sequence: u64,
    record: u64,
    len: usize,
}

/// Who committed up to where, by cluster and ballot.
type ByBallot = BTreeMap<(usize, Ballot), (Boundary, Seat)>;

/// Chains and records that anybody saw committed.
#[derive(Default)]
pub(super) struct OneValuePerLsn {
    chains: BTreeMap<(usize, u64), BTreeMap<Lsn, (u64, Seat)>>,
    records: BTreeMap<u64, BTreeMap<Lsn, (Value, Seat)>>,
    /// What was known to be committed by replicas of a cluster under an accepting ballot.
    ballots: BTreeMap<(usize, u64), ByBallot>,
}

/// Whose log a stream is: the system stream is each cluster's own.
fn log_of(seat: Seat) -> (usize, u64) {
    (if seat.stream == 0 { seat.cluster } else { 0 }, seat.stream)
}

impl OneValuePerLsn {
    pub(super) fn on_committed(
        &mut self,
        seat: Seat,
        accepting: Ballot,
        at: Boundary,
    ) -> Result<(), Violation> {
        let ballots = self.ballots.entry(log_of(seat)).or_default();
        let highest = ballots.entry((seat.cluster, accepting)).or_insert((at, seat));
        if highest.0.lsn < at.lsn {
            *highest = (at, seat);
        }
        let chains = self.chains.entry(log_of(seat)).or_default();
        let (chain, first) = *chains.entry(at.lsn).or_insert((at.chain, seat));
        if chain == at.chain {
            return Ok(());
        }
        let text = format!("{seat} committed another log at {} than {first}", at.lsn);
        Err(Violation::new(NAME, text))
    }

    /// What only the lost primary has above a fork counts no more. Nobody was shown it, unless that
    /// one went on alone.
    pub(super) fn on_fork(&mut self, fork: Fork) -> Result<(), Violation> {
        let alone = |seat: &Seat| seat.cluster == fork.lost;
        if let Some(chains) = self.chains.get_mut(&(0, fork.stream)) {
            chains.retain(|lsn, (_, seat)| *lsn <= fork.at || !alone(seat));
        }
        let Some(records) = self.records.get_mut(&fork.stream) else { return Ok(()) };
        let above = records.range(fork.at..).find(|(_, (_, seat))| alone(seat));
        if let Some((lsn, (value, seat))) = above.filter(|_| !fork.may_lose) {
            let text = format!("{seat} showed {value:?} at {lsn}, which is lost: {fork:?}");
            return Err(Violation::new("shown_survives", text));
        }
        records.retain(|lsn, (_, seat)| *lsn < fork.at || !alone(seat));
        Ok(())
    }

    /// Who begins to lead has everything that was committed under a lower ballot.
    pub(super) fn on_leads(
        &self,
        seat: Seat,
        ballot: Ballot,
        log: &StreamLog,
    ) -> Result<(), Violation> {
        let Some(ballots) = self.ballots.get(&log_of(seat)) else { return Ok(()) };
        let before = ballots.range((seat.cluster, Ballot::NONE)..(seat.cluster, ballot));
        let newest = before.map(|(_, committed)| committed).max_by_key(|(at, _)| at.lsn);
        let Some(&(at, first)) = newest else { return Ok(()) };
        let same = log.chain_at(at.lsn).is_none_or(|own| own == at.chain);
        if log.end().lsn >= at.lsn && same {
            return Ok(());
        }
        let text = format!(
            "{seat} leads under {ballot} with a log up to {}, without what {first} committed at {}",
            log.end().lsn,
            at.lsn
        );
        Err(Violation::new("leader_is_complete", text))
    }

    pub(super) fn on_record(&mut self, seat: Seat, record: &Record) -> Result<(), Violation> {
        let Some(id) = payload::record_of(&record.payload) else {
            let text = format!("{seat}: nobody wrote the bytes at {}", record.lsn);
            return Err(Violation::new("phantom", text));
        };
        let value = Value {
            end: record.end_lsn,
            scn: record.scn,
            producer: record.producer,
            sequence: record.sequence,
            record: id,
            len: record.payload.len(),
        };
        let records = self.records.entry(seat.stream).or_default();
        let (known, first) = *records.entry(record.lsn).or_insert((value, seat));
        if known == value {
            return Ok(());
        }
        let text = format!("at {} {seat} has {value:?}, {first} had {known:?}", record.lsn);
        Err(Violation::new(NAME, text))
    }

    /// What was ever read committed is still there.
    pub(super) fn at_end(&self, copy: &FullCopy) -> Result<(), Violation> {
        let Some(records) = self.records.get(&copy.seat.stream) else { return Ok(()) };
        if records.len() == copy.records.len() {
            return Ok(());
        }
        let is_gone = |lsn: &&Lsn| copy.records.binary_search_by_key(*lsn, |r| r.lsn).is_err();
        let gone = records.keys().find(is_gone);
        let text = format!("{}: what was committed at {gone:?} is gone", copy.seat);
        Err(Violation::new(NAME, text))
    }
}
