//! Where in a stream which SCN is: as much of it as is needed to show readers of a standby what is
//! below an SCN, in bounded memory.

use std::collections::VecDeque;

use palisade_wal::Lsn;

/// Positions of one stream that are told apart. Where there are more groups, some of them count as
/// one: what ends there is shown with the next.
const SCNS_MAX: usize = 96;

/// Most that a checkpoint tells.
pub(super) const TOLD_MAX: usize = SCNS_MAX + 1;

/// Ends of groups with their SCNs, both growing; the last group of the log is always among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scns {
    ends: VecDeque<(u64, Lsn)>,
    /// The last of them that was shown.
    shown: (u64, Lsn),
    /// Groups that count as one, less one; and those since the last but one of `ends`.
    joined: u32,
    last: u32,
}

impl Scns {
    /// A group stands at the end of the log.
    pub fn on_logged(&mut self, scn: u64, end: Lsn) {
        if self.last < self.joined {
            self.last += 1;
            self.ends.pop_back();
        } else {
            self.last = 0;
        }
        if self.ends.len() == SCNS_MAX {
            let mut at = 0;
            self.ends.retain(|_| {
                at += 1;
                at % 2 == 0
            });
            self.joined = self.joined.saturating_mul(2).saturating_add(1);
        }
        // One that is logged again after a loss is behind those that are known.
        while self.ends.back().is_some_and(|(known, at)| *known >= scn || *at >= end) {
            self.ends.pop_back();
        }
        self.ends.push_back((scn, end));
        assert!(self.ends.len() <= SCNS_MAX, "more than are told apart");
        assert!(self.ends.iter().is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
    }

    /// What ends above `from` is void.
    pub fn on_voided(&mut self, from: Lsn) {
        while self.ends.back().is_some_and(|(_, end)| *end > from) {
            self.ends.pop_back();
        }
    }

    /// What ends at or below `shown` is shown, and asked for no more.
    pub fn on_shown(&mut self, shown: Lsn) {
        while let Some(first) = self.ends.pop_front_if(|(_, end)| *end <= shown) {
            self.shown = first;
        }
        if self.ends.len() < SCNS_MAX / 4 {
            (self.joined, self.last) = (0, 0);
        }
    }

    /// The end of the last group that is known to have this SCN or a lower one, and that ends at or
    /// below `limit`. Zero where none is known.
    pub fn upto(&self, scn: u64, limit: Lsn) -> Lsn {
        let below = self.ends.partition_point(|(known, end)| *known <= scn && *end <= limit);
        let shown = if self.shown.0 <= scn { self.shown.1.min(limit) } else { Lsn::ZERO };
        below.checked_sub(1).map_or(shown, |at| self.ends[at].1)
    }

    /// What a checkpoint tells: the last one that was shown, and those above.
    pub(super) fn told(&self) -> impl Iterator<Item = (u64, Lsn)> {
        let shown = Some(self.shown).filter(|(scn, _)| *scn > 0);
        shown.into_iter().chain(self.ends.iter().copied())
    }

    /// The same again; none where that cannot be.
    pub(super) fn restore(told: &[(u64, Lsn)]) -> Option<Scns> {
        let ordered = told.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
        let sound = ordered && told.len() <= TOLD_MAX && told.first().is_none_or(|it| it.0 > 0);
        let (first, rest) = told.split_first().map_or((&(0, Lsn::ZERO), told), |parts| parts);
        let ends = rest.iter().copied().collect();
        sound.then_some(Scns { ends, shown: *first, ..Scns::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_scn_is_found_by_the_group_that_ends_it() {
        let mut scns = Scns::default();
        for (scn, end) in [(10, 64), (20, 128), (20, 192), (30, 256)] {
            scns.on_logged(scn, Lsn(end));
        }
        let table = [(9, 256, 0), (10, 256, 64), (19, 256, 64), (20, 256, 192), (99, 256, 256)];
        for (scn, limit, expected) in table {
            assert_eq!(scns.upto(scn, Lsn(limit)), Lsn(expected), "{scn}");
        }
        assert_eq!(scns.upto(99, Lsn(200)), Lsn(192), "what is not committed");
        scns.on_voided(Lsn(192));
        assert_eq!(scns.upto(99, Lsn(512)), Lsn(192));
        scns.on_shown(Lsn(192));
        assert_eq!((scns.ends.len(), scns.upto(20, Lsn::MAX)), (0, Lsn(192)), "shown is known");
        assert_eq!(scns.upto(19, Lsn::MAX), Lsn::ZERO);
    }

    #[test]
    fn what_a_checkpoint_tells_reads_back() {
        let mut scns = Scns::default();
        assert_eq!(Scns::restore(&[]), Some(Scns::default()));
        (1..=5).for_each(|group| scns.on_logged(group * 10, Lsn(group * 8)));
        scns.on_shown(Lsn(16));
        let told: Vec<(u64, Lsn)> = scns.told().collect();
        assert_eq!(told.len(), 4);
        let again = Scns::restore(&told).expect("it was told so");
        for scn in 0..60 {
            let known = if scn < 20 { Lsn::ZERO } else { scns.upto(scn, Lsn::MAX) };
            assert_eq!(again.upto(scn, Lsn::MAX), known, "{scn}");
        }
        assert_eq!(Scns::restore(&[told[1], told[0]]), None);
        assert_eq!(Scns::restore(&[(0, Lsn(8))]), None);
    }

    #[test]
    fn of_many_groups_few_are_told_apart_and_the_last_one_always_is() {
        let mut scns = Scns::default();
        for group in 1..=10_000 {
            scns.on_logged(group, Lsn(group * 8));
            assert_eq!(scns.upto(u64::MAX, Lsn::MAX), Lsn(group * 8));
            let half = scns.upto(group / 2, Lsn::MAX);
            assert!(half <= Lsn(group / 2 * 8), "shown above what was asked");
        }
        assert!(scns.upto(5_000, Lsn::MAX) > Lsn(4_000 * 8));
        assert!(scns.ends.len() <= SCNS_MAX);
    }
}
