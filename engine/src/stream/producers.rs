//! Producers: who appended what, so that a retry finds its original instead of a second place.
//!
//! The table derives from the log alone. What is committed is in `settled`; what is logged above
//! that is an overlay that a takeover may void. It is bounded: of the producers with the oldest
//! SCN the places are forgotten first and the last sequence later. And it expires: a committed
//! record forgets every producer whose last one is more than `PRODUCER_EXPIRY_NS` of SCN older.
//! Nothing else ages a producer, no clock and no restart, so that every replica that has
//! committed the same knows the same last sequences. Whoever is forgotten entirely counts as new.
//! A checkpoint tells of fewer places than a replica may know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use palisade_wal::Lsn;

use crate::limits::{
    PRODUCER_EXPIRY_NS, PRODUCER_SEQUENCES_MAX, PRODUCERS_LAST_MAX, PRODUCERS_MAX,
};

/// Where a producer's record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The producer.
    pub producer: u64,
    /// Its number for the record.
    pub sequence: u64,
    /// Position of the record.
    pub lsn: Lsn,
    /// First position after it.
    pub end_lsn: Lsn,
    /// Timestamp of its group.
    pub scn: u64,
}

/// What a producer's sequence means for an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The next one.
    Fresh,
    /// In the log already; the answer waits until `Mark::end_lsn` is committed.
    Duplicate(Mark),
    /// So old that its place is forgotten.
    Forgotten,
    /// Numbers are missing before it.
    Gap {
        /// The next one.
        expected: u64,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) last: u64,
    pub(super) scn: u64,
    pub(super) recent: VecDeque<Mark>,
}

/// Producers whose places are forgotten: the last sequence of each, and its SCN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lasts {
    by_id: BTreeMap<u64, (u64, u64)>,
    by_scn: BTreeSet<(u64, u64)>,
}

impl Lasts {
    fn get(&self, producer: u64) -> Option<u64> {
        self.by_id.get(&producer).map(|(last, _)| *last)
    }

    fn insert(&mut self, producer: u64, last: u64, scn: u64) {
        self.by_id.insert(producer, (last, scn));
        self.by_scn.insert((scn, producer));
        if self.by_id.len() > PRODUCERS_LAST_MAX {
            let (_, oldest) = self.by_scn.pop_first().expect("one for each id");
            self.by_id.remove(&oldest);
        }
    }

    /// Forgets those whose SCN is below `scn`.
    fn expire(&mut self, scn: u64) {
        while let Some((_, id)) = self.by_scn.first().copied().filter(|(at, _)| *at < scn) {
            self.by_scn.pop_first();
            self.by_id.remove(&id);
        }
        assert!(self.by_id.len() == self.by_scn.len(), "one for each id");
    }

    fn take(&mut self, producer: u64) -> Option<(u64, u64)> {
        let (last, scn) = self.by_id.remove(&producer)?;
        assert!(self.by_scn.remove(&(scn, producer)), "one for each id");
        Some((last, scn))
    }
}

/// The producers of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    pub(super) settled: BTreeMap<u64, Producer>,
    /// No SCN in `settled` is below this.
    oldest: u64,
    /// Whoever was last heard of before this is forgotten.
    pub(super) expired: u64,
    lasts: Lasts,
    /// Logged above the committed cursor, in log order.
    pub(super) overlay: VecDeque<Mark>,
}

impl Producers {
    /// Judges the append of `sequence`. `queued` is the highest sequence of this producer that
    /// waits to be logged.
    pub fn check(&self, producer: u64, sequence: u64, queued: Option<u64>) -> Verdict {
        assert!(producer != 0, "0 names no producer");
        let logged = self.overlay.iter().rev().find(|m| m.producer == producer);
        let settled = self.settled.get(&producer);
        let committed = settled.map(|p| p.last).or_else(|| self.lasts.get(producer));
        let last = queued.or(logged.map(|m| m.sequence)).or(committed).unwrap_or(0);
        if sequence == last + 1 {
            return Verdict::Fresh;
        }
        if sequence > last {
            return Verdict::Gap { expected: last + 1 };
        }
        let is_it = |m: &&Mark| m.producer == producer && m.sequence == sequence;
        let mark = self
            .overlay
            .iter()
            .find(is_it)
            .or_else(|| settled.and_then(|p| p.recent.iter().find(is_it)));
        mark.map_or(Verdict::Forgotten, |m| Verdict::Duplicate(*m))
    }

    /// A record was logged.
    pub fn on_logged(&mut self, mark: Mark) {
        assert!(mark.end_lsn > mark.lsn);
        if mark.producer != 0 {
            self.overlay.push_back(mark);
        }
    }

    /// A record that was lost came back: others that stand above it were logged before.
    pub fn on_logged_late(&mut self, mark: Mark, committed: Lsn) {
        assert!(mark.end_lsn > mark.lsn);
        if mark.producer == 0 {
            return;
        }
        if mark.end_lsn > committed {
            let at = self.overlay.partition_point(|known| known.lsn < mark.lsn);
            if self.overlay.get(at).is_none_or(|known| known.lsn != mark.lsn) {
                self.overlay.insert(at, mark);
            }
            return;
        }
        // Whatever followed it, it was forgotten since.
        if mark.scn < self.expired {
            return;
        }
        let known = self.settled.get(&mark.producer);
        if known.is_some_and(|p| p.recent.iter().any(|known| known.lsn == mark.lsn)) {
            return;
        }
        let oldest = self.settled.values().map(|p| p.scn).min().unwrap_or(0);
        if known.is_none() && self.settled.len() >= PRODUCERS_MAX && mark.scn < oldest {
            let (last, scn) = self.lasts.take(mark.producer).unwrap_or_default();
            self.lasts.insert(mark.producer, last.max(mark.sequence), scn.max(mark.scn));
            return;
        }
        self.settle(mark);
        let recent = &mut self.settled.get_mut(&mark.producer).expect("settled above").recent;
        recent.make_contiguous().sort_unstable_by_key(|mark| mark.lsn);
    }

    /// Everything below `upto` is committed.
    pub fn on_committed(&mut self, upto: Lsn) {
        while self.overlay.front().is_some_and(|m| m.end_lsn <= upto) {
            let mark = self.overlay.pop_front().expect("checked");
            self.settle(mark);
        }
    }

    /// What was logged at or above `from` is void.
    pub fn on_voided(&mut self, from: Lsn) {
        while self.overlay.back().is_some_and(|m| m.end_lsn > from) {
            self.overlay.pop_back();
        }
    }

    /// Producers of which the last sequence alone is known, with their SCNs.
    pub(super) fn lasts(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.lasts.by_id.iter().map(|(id, (last, scn))| (*id, *last, *scn))
    }

    /// Who appended below `lsn`, where the log has `scn`, as far as it is known: the last sequence
    /// of each there, and its SCN.
    pub(super) fn lasts_below(&self, lsn: Lsn, scn: u64) -> Vec<(u64, u64, u64)> {
        let settled = self.settled.iter().filter_map(|(id, known)| {
            if known.scn <= scn {
                return Some((*id, known.last, known.scn));
            }
            let below = known.recent.iter().rev().find(|mark| mark.end_lsn <= lsn)?;
            Some((*id, below.sequence, below.scn))
        });
        settled.chain(self.lasts().filter(|(.., at)| *at <= scn)).collect()
    }

    /// The log goes on behind a base that says this. What is logged above is kept.
    pub(super) fn rebase(&mut self, expired: u64, lasts: &[(u64, u64, u64)]) {
        let overlay = std::mem::take(&mut self.overlay);
        let mut told = Producers { overlay, ..Producers::default() };
        lasts.iter().for_each(|(id, last, scn)| told.restore_last(*id, *last, *scn));
        *self = told.restored(expired);
    }

    /// A base that was lost says this of a producer; what followed it was seen.
    pub(super) fn on_told_late(&mut self, (id, last, scn): (u64, u64, u64)) {
        let known = self.settled.contains_key(&id) || self.lasts.get(id).is_some();
        if !known && scn >= self.expired {
            self.restore_last(id, last, scn);
        }
    }

    /// Puts one of them back.
    pub(super) fn restore_last(&mut self, id: u64, last: u64, scn: u64) {
        self.lasts.take(id);
        self.lasts.insert(id, last, scn);
    }

    /// The settled ones were put back.
    pub(super) fn restored(mut self, expired: u64) -> Producers {
        self.expired = expired;
        self.oldest = self.settled.values().map(|p| p.scn).min().unwrap_or(expired);
        assert!(self.settled.values().all(|p| p.scn >= self.oldest));
        self
    }

    /// Forgets entirely who was last heard of before `scn`.
    fn expire(&mut self, scn: u64) {
        self.expired = self.expired.max(scn);
        self.lasts.expire(scn);
        if self.oldest >= scn {
            return;
        }
        self.settled.retain(|_, producer| producer.scn >= scn);
        self.oldest = self.settled.values().map(|p| p.scn).min().unwrap_or(scn);
        assert!(self.oldest >= scn, "who has expired is still there");
    }

    fn settle(&mut self, mark: Mark) {
        self.expire(mark.scn.saturating_sub(PRODUCER_EXPIRY_NS));
        if self.settled.len() >= PRODUCERS_MAX && !self.settled.contains_key(&mark.producer) {
            let oldest = self.settled.iter().min_by_key(|(id, p)| (p.scn, **id));
            let oldest = *oldest.expect("the table is full").0;
            if let Some(Producer { last, scn, .. }) = self.settled.remove(&oldest) {
                self.lasts.insert(oldest, last, scn);
            }
        }
        let (last, scn) = self.lasts.take(mark.producer).unwrap_or_default();
        let producer = self.settled.entry(mark.producer).or_default();
        producer.last = producer.last.max(mark.sequence).max(last);
        producer.scn = producer.scn.max(mark.scn).max(scn);
        self.oldest = self.oldest.min(producer.scn);
        if producer.recent.len() == PRODUCER_SEQUENCES_MAX {
            producer.recent.pop_front();
        }
        producer.recent.push_back(mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(producer: u64, sequence: u64) -> Mark {
        let lsn = Lsn(sequence * 100);
        Mark { producer, sequence, lsn, end_lsn: Lsn(lsn.0 + 100), scn: sequence }
    }

    #[test]
    fn a_sequence_is_fresh_once() {
        let mut producers = Producers::default();
        assert_eq!(producers.check(7, 1, None), Verdict::Fresh);
        producers.on_logged(mark(7, 1));
        assert_eq!(producers.check(7, 1, None), Verdict::Duplicate(mark(7, 1)));
        producers.on_committed(Lsn(200));
        assert_eq!(producers.check(7, 1, None), Verdict::Duplicate(mark(7, 1)));
        assert_eq!(producers.check(7, 3, None), Verdict::Gap { expected: 2 });
        assert_eq!(producers.check(7, 3, Some(2)), Verdict::Fresh);
        assert_eq!(producers.check(8, 1, None), Verdict::Fresh);
    }

    #[test]
    fn a_voided_sequence_is_fresh_again() {
        let mut producers = Producers::default();
        producers.on_logged(mark(7, 1));
        producers.on_committed(Lsn(200));
        producers.on_logged(mark(7, 2));
        producers.on_logged(mark(7, 3));
        producers.on_voided(Lsn(300));
        assert_eq!(producers.check(7, 2, None), Verdict::Duplicate(mark(7, 2)));
        assert_eq!(producers.check(7, 3, None), Verdict::Fresh);
    }

    #[test]
    fn what_is_forgotten_is_not_fresh() {
        let mut producers = Producers::default();
        for sequence in 1..=PRODUCER_SEQUENCES_MAX as u64 + 1 {
            producers.on_logged(mark(7, sequence));
        }
        producers.on_committed(Lsn::MAX);
        assert_eq!(producers.check(7, 1, None), Verdict::Forgotten);
        assert_eq!(producers.check(7, 2, None), Verdict::Duplicate(mark(7, 2)));
    }

    /// The first record of each producer from 1 to `count`, all committed.
    fn crowd(count: u64) -> Producers {
        let mut producers = Producers::default();
        for id in 1..=count {
            let lsn = Lsn(id * 100);
            let end_lsn = Lsn(lsn.0 + 100);
            producers.on_logged(Mark { producer: id, sequence: 1, lsn, end_lsn, scn: id });
        }
        producers.on_committed(Lsn::MAX);
        producers
    }

    /// Commits the record of a producer at an SCN.
    fn commit(producers: &mut Producers, producer: u64, sequence: u64, scn: u64) -> Mark {
        let mark = Mark { scn, ..mark(producer, sequence) };
        producers.on_logged(mark);
        producers.on_committed(Lsn::MAX);
        mark
    }

    #[test]
    fn a_producer_expires_by_the_scn_of_what_is_committed() {
        let mut producers = Producers::default();
        let first = commit(&mut producers, 7, 1, 1000);
        commit(&mut producers, 8, 1, 2000);
        // Exactly that old is not too old.
        commit(&mut producers, 9, 1, 1000 + PRODUCER_EXPIRY_NS);
        assert_eq!(producers.check(7, 1, None), Verdict::Duplicate(first));
        // What is logged and not committed forgets nobody.
        let next = Mark { scn: 1001 + PRODUCER_EXPIRY_NS, ..mark(9, 2) };
        producers.on_logged(next);
        assert_eq!(producers.check(7, 2, None), Verdict::Fresh);
        producers.on_voided(Lsn::ZERO);
        assert_eq!(producers.check(7, 1, None), Verdict::Duplicate(first));
        commit(&mut producers, 9, 2, next.scn);
        assert_eq!(producers.check(7, 1, None), Verdict::Fresh, "it counts as new");
        assert_eq!(producers.check(7, 2, None), Verdict::Gap { expected: 1 });
        assert_eq!(producers.check(8, 2, None), Verdict::Fresh, "the others stay");
        assert_eq!(producers.check(9, 3, None), Verdict::Fresh);
    }

    #[test]
    fn a_last_sequence_expires_like_a_place() {
        let mut producers = crowd(PRODUCERS_MAX as u64 + 2);
        assert_eq!(producers.check(1, 2, None), Verdict::Fresh);
        commit(&mut producers, 1 << 40, 1, 2 + PRODUCER_EXPIRY_NS);
        assert_eq!(producers.check(1, 2, None), Verdict::Gap { expected: 1 });
        assert_eq!(producers.check(2, 2, None), Verdict::Fresh);
    }

    #[test]
    fn a_producer_whose_uncommitted_record_outlives_it_goes_on() {
        let mut producers = Producers::default();
        commit(&mut producers, 7, 4, 1000);
        // Another producer's record forgets it while its own next one is on its way.
        let late = 2000 + PRODUCER_EXPIRY_NS;
        let (other, own) = (mark(8, 1), mark(7, 5));
        producers.on_logged(Mark { scn: late, ..other });
        producers.on_logged(Mark { scn: late, ..own });
        producers.on_committed(other.end_lsn);
        assert_eq!(producers.check(7, 6, None), Verdict::Fresh);
        assert_eq!(producers.check(7, 4, None), Verdict::Forgotten);
        producers.on_committed(own.end_lsn);
        assert_eq!(producers.check(7, 6, None), Verdict::Fresh);
        assert_eq!(producers.check(7, 4, None), Verdict::Forgotten);
    }

    #[test]
    fn a_producer_that_others_pushed_out_is_not_new() {
        let mut producers = crowd(PRODUCERS_MAX as u64 + 1);
        assert_eq!(producers.check(1, 1, None), Verdict::Forgotten);
        assert_eq!(producers.check(1, 2, None), Verdict::Fresh);
        assert_eq!(producers.check(1, 3, None), Verdict::Gap { expected: 2 });
        // It comes back, with its place in the order; another one goes.
        let back = Mark { sequence: 2, scn: PRODUCER_EXPIRY_NS, ..mark(1, 1 << 40) };
        producers.on_logged(back);
        producers.on_committed(Lsn::MAX);
        assert_eq!(producers.check(1, 2, None), Verdict::Duplicate(back));
        assert_eq!(producers.check(1, 1, None), Verdict::Forgotten);
        assert_eq!(producers.check(2, 1, None), Verdict::Forgotten);
        assert_eq!(producers.check(2, 2, None), Verdict::Fresh);
    }

    #[test]
    fn a_producer_that_is_forgotten_entirely_counts_as_new() {
        let known = (PRODUCERS_MAX + PRODUCERS_LAST_MAX) as u64;
        assert_eq!(crowd(known).check(1, 1, None), Verdict::Forgotten);
        let producers = crowd(known + 1);
        assert_eq!(producers.check(1, 1, None), Verdict::Fresh);
        assert_eq!(producers.check(1, 2, None), Verdict::Gap { expected: 1 });
        assert_eq!(producers.check(2, 1, None), Verdict::Forgotten);
        assert_eq!(producers.lasts.by_id.len(), producers.lasts.by_scn.len());
    }
}
