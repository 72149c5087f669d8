//! Where in a stream which SCN is: as much of it as is needed to show readers of a standby what is
//! below an SCN, in bounded memory.

use std::collections::VecDeque;

use palisade_wal::Lsn;

/// Positions of one stream that are told apart. Where there are more groups, some of them count as
/// one: what ends there is shown with the next.
const SCNS_MAX: usize = 96;

/// Ends of groups with their SCNs, both growing; the last group of the log is always among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scns {
    ends: VecDeque<(u64, Lsn)>,
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
        while self.ends.front().is_some_and(|(_, end)| *end <= shown) {
            self.ends.pop_front();
        }
        if self.ends.len() < SCNS_MAX / 4 {
            (self.joined, self.last) = (0, 0);
        }
    }

    /// The end of the last group that is known to have this SCN or a lower one, and that ends at or
    /// below `limit`. Zero where none is known.
    pub fn upto(&self, scn: u64, limit: Lsn) -> Lsn {
        let below = self.ends.partition_point(|(known, end)| *known <= scn && *end <= limit);
        below.checked_sub(1).map_or(Lsn::ZERO, |at| self.ends[at].1)
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
        assert_eq!(scns, Scns::default());
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
