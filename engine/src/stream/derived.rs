//! Everything that a stream's log implies beyond its bytes: producers, sync marks, and for stream 1
//! the catalogue and the registry of clusters. Changed in log order by what is logged, committed
//! and voided, when a node runs and when it recovers, so that no derived table outlives the bytes
//! that it came from.

use std::collections::VecDeque;

use palisade_wal::{Ballot, Boundary, GroupHeader, GroupKind, Hole, Lsn, entries};
use zerocopy::FromBytes;

use super::base::{Base, Logged, Rebased};
use super::catalogue::{CATALOGUE_STREAM, Change};
use super::mark::{Mark as SyncMark, Marked, Marks};
use super::producers::{Mark, Producers};
use super::scns::Scns;
use crate::control;
use crate::seeded::is_seeded;

/// What one logged group implies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Implied {
    start: Lsn,
    end: Lsn,
    scn: u64,
    marks: Vec<Mark>,
    changes: Vec<Change>,
    registry: Vec<Entry>,
    sync: Option<Marked>,
    base: Option<Logged>,
}

/// A change of the registry, and where its entry ends.
type Entry = (Lsn, control::Change);

#[derive(Clone, Debug)]
struct Staged {
    ballot: Ballot,
    groups: Vec<Implied>,
}

/// The derived state of one stream.
#[derive(Clone, Debug, Default)]
pub struct Derived {
    /// Who appended what.
    pub producers: Producers,
    /// What acks wait for.
    pub marks: Marks,
    /// Where which SCN is; no checkpoint tells it.
    pub scns: Scns,
    /// Catalogue changes above the committed cursor.
    pub(super) changes: VecDeque<(Lsn, Change)>,
    /// Changes of the registry above the committed cursor, by the ends of their groups.
    pub(super) registry: VecDeque<(Lsn, Entry)>,
    /// Groups of the run staged for one takeover.
    staged: Option<Staged>,
    /// Highest catalogue id seen in any group, voided ones included.
    seen: Vec<Change>,
    pub(super) committed: Lsn,
    /// Ranges of the log that were lost before they were seen, in order.
    pub(super) gaps: Vec<(Lsn, Lsn)>,
    /// Groups that were logged again, until their range is whole.
    moved: Vec<Implied>,
    /// Bases above the committed cursor, by their ends.
    pub(super) bases: VecDeque<Logged>,
    /// Of the last one that was committed: nothing below its end is read, or comes back.
    pub(super) rebased: Option<Rebased>,
    /// Its end, until that was taken.
    based: Option<Lsn>,
}

impl Derived {
    /// Of a stream without a group, which was created with this mark.
    pub fn born(mark: Option<SyncMark>) -> Derived {
        Derived { marks: Marks::born(mark), ..Derived::default() }
    }

    /// Whether groups wait for their takeover, or a base for its commit.
    pub(crate) fn is_staging(&self) -> bool {
        self.staged.is_some() || !self.bases.is_empty()
    }

    /// A group was logged at the end of the log. Returns the changes in it.
    pub fn on_logged(&mut self, bytes: &[u8], kind: GroupKind, start: Lsn, end: Lsn, scn: u64) {
        let implied = implied(bytes, kind, start, end, scn);
        self.adopt(implied);
    }

    /// A group was staged for the takeover under `ballot`.
    pub fn on_staged(
        &mut self,
        ballot: Ballot,
        bytes: &[u8],
        kind: GroupKind,
        start: Lsn,
        end: Lsn,
        scn: u64,
    ) {
        let implied = implied(bytes, kind, start, end, scn);
        let continues = self.staged.as_ref().is_some_and(|staged| {
            staged.ballot == ballot && staged.groups.last().is_some_and(|g| g.end == start)
        });
        if !continues {
            self.staged = Some(Staged { ballot, groups: Vec::new() });
        }
        self.staged.as_mut().expect("set above").groups.push(implied);
    }

    /// A Takeover was logged: the log ends at `end`, with what was staged for it. Returns the
    /// catalogue changes that are committed and were lost before.
    pub fn on_takeover(&mut self, ballot: Ballot, end: Lsn) -> Vec<(Lsn, Change)> {
        let staged = self.staged.take().filter(|staged| {
            staged.ballot == ballot && staged.groups.iter().any(|group| group.end == end)
        });
        let start = staged.as_ref().and_then(|s| s.groups.first()).map(|g| g.start);
        let gaps = self.gaps.clone();
        self.void(start.unwrap_or(end).min(end));
        // A run may begin below the committed position; what is committed is known already, but
        // for what was lost.
        let news = self.committed..end;
        for group in staged.into_iter().flat_map(|s| s.groups) {
            if news.contains(&group.start) {
                self.adopt(group);
            } else if group.end <= end && is_in(&gaps, group.start) {
                self.adopt_late(group);
            }
        }
        self.marks.on_committed(self.known());
        self.take_committed()
    }

    /// A Takeover was replayed whose bytes above the known end of the log are all there: they were
    /// logged again before.
    pub fn on_moved_takeover(&mut self, known: Lsn, end: Lsn) {
        self.staged = None;
        self.on_lost(known, end);
        let committed = self.on_mended(known, end);
        assert!(committed.is_empty(), "committed above the end of the log");
    }

    /// A Takeover was replayed whose bytes above `committed` are lost.
    pub fn on_lost_takeover(&mut self, committed: Lsn, end: Lsn) {
        self.staged = None;
        self.void(committed);
        self.on_lost(committed, end);
    }

    /// The log goes on at `end` after a loss: what stood between was not seen.
    pub fn on_lost(&mut self, start: Lsn, end: Lsn) {
        assert!(start < end, "a loss from {start} to {end}");
        let full = self.gaps.len() >= GAPS_MAX;
        match self.gaps.last_mut() {
            // One too many: what was seen between them is told apart when it comes again.
            Some(last) if full || last.1 == start => last.1 = end,
            _ => self.gaps.push((start, end)),
        }
    }

    fn void(&mut self, from: Lsn) {
        // A run that fills a gap begins below what is committed. That stays, and waits here for
        // the gap.
        let kept = from.max(self.committed);
        if !is_seeded("producers_not_voided") {
            self.producers.on_voided(from);
        }
        self.marks.on_voided(kept);
        self.scns.on_voided(kept);
        while self.changes.back().is_some_and(|(at, _)| *at > kept) {
            self.changes.pop_back();
        }
        while self.registry.back().is_some_and(|(at, _)| *at > kept) {
            self.registry.pop_back();
        }
        self.bases.retain(|base| base.end() <= kept);
        self.gaps.retain(|(start, _)| *start < from);
        if let Some((_, end)) = self.gaps.last_mut() {
            *end = from.min(*end);
        }
        self.moved.retain(|group| group.end <= from);
    }

    /// A group of a lost range was logged again.
    pub fn on_moved(&mut self, bytes: &[u8], kind: GroupKind, start: Lsn, end: Lsn, scn: u64) {
        // A run that is begun again is another one.
        self.moved.retain(|group| group.end <= start);
        self.moved.push(implied(bytes, kind, start, end, scn));
    }

    /// A lost range was filled. Returns the catalogue changes in it that are committed.
    pub fn on_mended(&mut self, from: Lsn, upto: Lsn) -> Vec<(Lsn, Change)> {
        let range = from..upto;
        let within = |group: &mut Implied| range.contains(&group.start);
        let back: Vec<Implied> = self.moved.extract_if(.., within).collect();
        for group in back {
            if is_in(&self.gaps, group.start) {
                self.adopt_late(group);
            }
        }
        let gaps = std::mem::take(&mut self.gaps);
        for (start, end) in gaps {
            let parts = [(start, end.min(from)), (start.max(upto), end)];
            self.gaps.extend(parts.into_iter().filter(|(start, end)| start < end));
        }
        self.marks.on_committed(self.known());
        self.take_committed()
    }

    /// The log begins at `base` now. What was lost below comes from nobody any more.
    pub fn on_truncated(&mut self, base: Lsn) -> Vec<(Lsn, Change)> {
        self.moved.retain(|group| group.start >= base);
        self.on_mended(Lsn::ZERO, base)
    }

    /// Where the log was replayed to its end: what it does not lack was seen, though it may have
    /// been counted to a lost range beside it.
    pub fn on_replayed(&mut self, holes: &[Hole]) {
        let both = |(start, end): (Lsn, Lsn)| {
            let within = move |hole: &Hole| (start.max(hole.start), end.min(hole.end));
            holes.iter().map(within).filter(|(start, end)| start < end)
        };
        self.gaps = std::mem::take(&mut self.gaps).into_iter().flat_map(both).collect();
    }

    /// The end of the first lost range, as far as it is committed.
    pub fn lost_below(&self) -> Lsn {
        let first = self.gaps.first().filter(|(start, _)| *start < self.committed);
        first.map_or(Lsn::ZERO, |(_, end)| self.committed.min(*end))
    }

    /// Where the lost range begins that holds `at`.
    pub fn gap_at(&self, at: Lsn) -> Option<Lsn> {
        let gap = self.gaps.iter().find(|(start, end)| (*start..*end).contains(&at));
        gap.map(|(start, _)| *start)
    }

    /// Whether nothing is lost whose content is not known.
    pub fn is_whole(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Everything below `upto` is committed. Returns the catalogue changes that became so, each
    /// with the end of its group.
    pub fn on_committed(&mut self, upto: Lsn) -> Vec<(Lsn, Change)> {
        self.committed = self.committed.max(upto);
        while let Some(base) = self.bases.pop_front_if(|base| base.end() <= upto) {
            self.rebase(&base);
        }
        self.producers.on_committed(upto);
        self.marks.on_committed(self.known());
        self.take_committed()
    }

    /// A base was logged that ends here.
    pub(super) fn take_base(&mut self, base: Logged) {
        let last = self.bases.back().map(Logged::end);
        assert!(last.is_none_or(|last| last < base.end()), "in the order of the log");
        self.bases.push_back(base);
    }

    /// What stood before a base is let go with it.
    fn rebase(&mut self, base: &Logged) {
        let (end, told) = (base.end(), &base.told);
        assert!(end <= self.committed, "a base counts when it is committed");
        self.producers.on_committed(end);
        self.producers.rebase(told.expired, &told.producers);
        self.marks.on_committed(end.min(self.known()));
        self.marks.rebase(told, end);
        self.go_on_behind(base.rebased);
    }

    /// A base came that was lost. What followed it is known, and says more than it does.
    pub(super) fn adopt_base_late(&mut self, base: Logged) {
        let end = base.end();
        if end > self.committed {
            let at = self.bases.partition_point(|known| known.end() < end);
            return self.bases.insert(at, base);
        }
        if end <= self.rebased_end() {
            return;
        }
        base.told.producers.iter().for_each(|told| self.producers.on_told_late(*told));
        self.marks.rebase_late(&base.told, base.start, end);
        self.go_on_behind(base.rebased);
    }

    /// What was lost below a base that is committed comes from nobody any more, and nobody needs
    /// it.
    fn go_on_behind(&mut self, rebased: Rebased) {
        let end = rebased.end.lsn;
        assert!(end <= self.committed, "a base counts when it is committed");
        if end <= self.rebased_end() {
            return;
        }
        (self.rebased, self.based) = (Some(rebased), Some(end));
        self.moved.retain(|group| group.start >= end);
        self.gaps.retain(|(_, upto)| *upto > end);
        if let Some((start, _)) = self.gaps.first_mut() {
            *start = end.max(*start);
        }
        self.marks.on_committed(self.known());
    }

    /// Where the log goes on behind the last base that is committed.
    pub fn rebased(&self) -> Option<Rebased> {
        self.rebased
    }

    /// The end of that base, or the begin of all logs.
    pub fn rebased_end(&self) -> Lsn {
        self.rebased.map_or(Lsn::ZERO, |rebased| rebased.end.lsn)
    }

    /// The end of a base that was committed since this was asked last: nothing below is read.
    pub fn take_based(&mut self) -> Option<Lsn> {
        self.based.take()
    }

    /// How far the log is committed, and known without a gap. What changes the meaning of
    /// everything after it may stand in a lost range: marks and changes of the registry count up
    /// to there, and nothing above is acked or shown.
    pub fn known(&self) -> Lsn {
        self.gaps.first().map_or(self.committed, |(start, _)| self.committed.min(*start))
    }

    fn take_committed(&mut self) -> Vec<(Lsn, Change)> {
        let mut committed = Vec::new();
        while self.changes.front().is_some_and(|(end, _)| *end <= self.committed) {
            committed.extend(self.changes.pop_front());
        }
        committed
    }

    /// The changes of the registry that are committed and were not taken yet, in the order of the
    /// log, each with the end of its entry. Those above a lost range wait until it is whole: what
    /// they do depends on those before them.
    pub fn take_registry(&mut self) -> Vec<(Lsn, control::Change)> {
        let upto = self.known();
        let committed = self.registry.partition_point(|(end, _)| *end <= upto);
        self.registry.drain(..committed).map(|(_, entry)| entry).collect()
    }

    /// Whether every change of the registry in the log was taken.
    pub fn is_registry_settled(&self) -> bool {
        self.registry.is_empty()
    }

    /// Whether a change that hands the role over was not taken yet.
    pub fn hands_over(&self) -> bool {
        self.registry.iter().any(|(_, (_, change))| change.hands_over())
    }

    /// Where a change ends by which cluster `by` takes the role, and which was not taken yet.
    /// Another standby has the one of the new primary in its log too, and goes on with it.
    pub fn seizes_at(&self, by: u32) -> Option<Lsn> {
        let mut entries = self.registry.iter();
        let seizes = entries.find(|(_, (_, change))| change.seizes() && change.by == by);
        seizes.map(|(end, _)| *end)
    }

    /// Catalogue changes logged since the last call, committed or not: their ids are taken.
    pub fn take_seen(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.seen)
    }

    fn adopt(&mut self, group: Implied) {
        self.scns.on_logged(group.scn, group.end);
        for mark in group.marks {
            self.producers.on_logged(mark);
        }
        for change in group.changes {
            self.changes.push_back((group.end, change));
            self.seen.push(change);
        }
        for entry in group.registry {
            self.registry.push_back((group.end, entry));
        }
        group.sync.into_iter().for_each(|marked| self.marks.on_logged(marked));
        group.base.into_iter().for_each(|base| self.take_base(base));
    }

    /// As [`adopt`](Derived::adopt), for a group that is not the last one.
    fn adopt_late(&mut self, group: Implied) {
        for mark in group.marks {
            self.producers.on_logged_late(mark, self.committed);
        }
        for change in group.changes {
            let at = self.changes.partition_point(|(end, _)| *end <= group.end);
            self.changes.insert(at, (group.end, change));
            self.seen.push(change);
        }
        for entry in group.registry {
            let at = self.registry.partition_point(|(end, _)| *end <= group.end);
            self.registry.insert(at, (group.end, entry));
        }
        group.sync.into_iter().for_each(|marked| self.marks.on_logged(marked));
        group.base.into_iter().for_each(|base| self.adopt_base_late(base));
    }
}

/// Lost ranges that are told apart.
pub(super) const GAPS_MAX: usize = palisade_wal::limits::HOLES_MAX;

fn is_in(ranges: &[(Lsn, Lsn)], at: Lsn) -> bool {
    ranges.iter().any(|(start, end)| (*start..*end).contains(&at))
}

fn implied(bytes: &[u8], kind: GroupKind, start: Lsn, end: Lsn, scn: u64) -> Implied {
    let (changes, registry) = (Vec::new(), Vec::new());
    let marks = Vec::new();
    let (sync, base) = (None, None);
    let mut group = Implied { start, end, scn, marks, changes, registry, sync, base };
    // A group of that kind in another stream is the work of a peer or a client that errs.
    let header = GroupHeader::read_from_prefix(bytes);
    let header = header.map(|(header, _)| header).ok();
    let of_catalogue = header.is_some_and(|header| header.stream.get() == CATALOGUE_STREAM);
    if kind == GroupKind::Base {
        // One that cannot be read implies nothing, and is one all the same.
        let told = entries(bytes).next().and_then(|entry| Base::decode(entry.payload, end));
        let chain = header.map_or(0, |header| header.chain.get());
        let rebased = Rebased { end: Boundary { lsn: end, chain }, scn };
        group.base = Some(Logged { start, rebased, told: told.unwrap_or_default() });
        return group;
    }
    for entry in entries(bytes) {
        if entry.producer != 0 {
            group.marks.push(Mark {
                producer: entry.producer,
                sequence: entry.sequence,
                lsn: entry.lsn,
                end_lsn: entry.end,
                scn,
            });
        }
        if kind == GroupKind::Mark {
            let mark = SyncMark::decode(entry.payload).map(|mark| Marked { mark, start, end });
            group.sync = mark.or(group.sync);
        }
        if kind == GroupKind::Catalogue && of_catalogue {
            group.changes.extend(Change::decode(entry.payload));
        }
        if kind == GroupKind::Registry && of_catalogue {
            let change = control::Change::decode(entry.payload);
            group.registry.extend(change.map(|change| (entry.end, change.in_group(scn))));
        }
    }
    group
}

#[cfg(test)]
mod tests {
    use palisade_wal::{BodyBuilder, CHAIN_START, Origin};

    use super::*;
    use crate::control::{Cluster, Registry, What};
    use crate::limits::PRODUCER_EXPIRY_NS;
    use crate::stream::producers::Verdict;

    /// A group of a log that is made by chance.
    #[derive(Clone)]
    struct Made {
        bytes: Vec<u8>,
        start: Lsn,
        end: Lsn,
        scn: u64,
        producers: Vec<(u64, u64)>,
    }

    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % limit
        }
    }

    /// A group with records of few producers, after `start`, days after `scn` now and then.
    fn made(dice: &mut Dice, start: Lsn, scn: u64) -> Made {
        let mut buffer = vec![0; 4096];
        let mut builder = BodyBuilder::new(&mut buffer);
        let origin = Origin { role_epoch: 1, cluster: 1, ballot: Ballot::NONE };
        builder.begin_group(5, start, Ballot::NONE, GroupKind::Data, origin, 0).unwrap();
        let mut producers = Vec::new();
        for _ in 0..=dice.below(3) {
            let (producer, sequence) = (dice.below(6), 1 + dice.below(4));
            let sequence = if producer == 0 { 0 } else { sequence };
            builder.push_entry(b"x", producer, sequence).unwrap();
            producers.push((producer, sequence));
        }
        let scn = scn + 1 + dice.below(4) * PRODUCER_EXPIRY_NS / 5;
        let meta = builder.end_group(scn, CHAIN_START);
        let bytes = buffer[meta.range()].to_vec();
        Made { bytes, start, end: meta.end, scn, producers }
    }

    fn log(dice: &mut Dice, groups: u64, start: Lsn, scn: u64) -> Vec<Made> {
        let mut log: Vec<Made> = Vec::new();
        for _ in 0..groups {
            let (start, scn) = log.last().map_or((start, scn), |last| (last.end, last.scn));
            log.push(made(dice, start, scn));
        }
        log
    }

    fn logged(derived: &mut Derived, group: &Made) {
        derived.on_logged(&group.bytes, GroupKind::Data, group.start, group.end, group.scn);
    }

    /// The log as a replica sees it that is led by many: groups that a Takeover voids again, some
    /// staged, commits now and then.
    fn lived(dice: &mut Dice, log: &[Made]) -> Derived {
        let mut derived = Derived::default();
        let (mut at, mut committed, mut round) = (0, 0, 0);
        while at < log.len() {
            round += 1;
            let ballot = Ballot { round, node: 1, incarnation: 1 };
            match dice.below(4) {
                0 => {
                    // Another leader's groups, in place of those above; none is ever committed.
                    let (start, scn) = (log[at].start, log[at].scn);
                    let void = self::log(dice, 3, start, scn + 9 * PRODUCER_EXPIRY_NS);
                    void.iter().for_each(|group| logged(&mut derived, group));
                    derived.on_takeover(ballot, start);
                }
                1 => {
                    // Back to what is committed, and there again by a fetch for a Takeover.
                    for Made { bytes, start, end, scn, .. } in &log[committed..=at] {
                        derived.on_staged(ballot, bytes, GroupKind::Data, *start, *end, *scn);
                    }
                    derived.on_takeover(ballot, log[at].end);
                    at += 1;
                }
                2 if at > committed => {
                    committed += 1 + dice.below((at - committed) as u64) as usize;
                    derived.on_committed(log[committed - 1].end);
                }
                _ => {
                    logged(&mut derived, &log[at]);
                    at += 1;
                }
            }
        }
        derived.on_committed(log[log.len() - 1].end);
        derived
    }

    #[test]
    fn a_table_is_a_function_of_the_committed_log() {
        let (mut fresh, mut known) = (0, 0);
        for seed in 0..300 {
            let mut dice = Dice(seed);
            let log = log(&mut dice, 40, Lsn::ZERO, 1 << 50);
            let mut plain = Derived::default();
            for group in &log {
                logged(&mut plain, group);
                plain.on_committed(group.end);
            }
            for _ in 0..3 {
                let lived = lived(&mut dice, &log);
                assert_eq!(lived.producers, plain.producers, "seed {seed}");
            }
            // Who is known is who was heard of in time, by the newest record of any producer.
            let numbered = log.iter().filter(|g| g.producers.iter().any(|(id, _)| *id != 0));
            let newest = numbered.map(|group| group.scn).max().expect("some have producers");
            for id in 1..6 {
                let named = log.iter().filter(|g| g.producers.iter().any(|(p, _)| *p == id));
                let last = named.map(|group| group.scn).max();
                let expected = last.is_some_and(|scn| scn + PRODUCER_EXPIRY_NS >= newest);
                let is_new = plain.producers.check(id, 1, None) == Verdict::Fresh;
                assert_eq!(is_new, !expected, "seed {seed}, producer {id}");
                (fresh, known) = (fresh + u32::from(is_new), known + u32::from(!is_new));
            }
        }
        assert!(fresh > 100 && known > 100, "both happen: {fresh} expired, {known} known");
    }

    /// The bytes of one group of a producer, and what the log says of it.
    fn group(at: Lsn, before: u64, sequence: u64) -> (Vec<u8>, palisade_wal::RecordMeta) {
        let mut bytes = vec![0; 4096];
        let mut builder = BodyBuilder::new(&mut bytes);
        let origin = Origin { role_epoch: 1, cluster: 1, ballot: Ballot::NONE };
        let (stream, kind) = (CATALOGUE_STREAM, GroupKind::Catalogue);
        builder.begin_group(stream, at, Ballot::NONE, kind, origin, 0).unwrap();
        let change = Change::Create { stream: 10 + sequence, mark: None };
        builder.push_entry(&change.encode(), 7, sequence).unwrap();
        let meta = builder.end_group(sequence, before);
        (bytes[meta.range()].to_vec(), meta)
    }

    /// Whatever was committed, lost, and logged again in between: in the end the table is that of
    /// a log that was never damaged.
    #[test]
    fn what_comes_back_late_has_its_place() {
        use crate::stream::producers::Verdict;
        let (mut at, mut before, mut groups) = (Lsn::ZERO, CHAIN_START, Vec::new());
        for sequence in 1..=6 {
            let (bytes, meta) = group(at, before, sequence);
            (at, before) = (meta.end, meta.chain);
            groups.push((bytes, meta));
        }
        let kind = GroupKind::Catalogue;
        for committed in [0, 2, 4, 6] {
            let mut derived = Derived::default();
            for (number, (bytes, meta)) in groups.iter().enumerate() {
                if number == 4 {
                    derived.on_lost(groups[2].1.lsn, groups[4].1.lsn);
                }
                if !(2..4).contains(&number) {
                    derived.on_logged(bytes, kind, meta.lsn, meta.end, meta.scn);
                }
            }
            let upto = groups.get(committed).map_or(at, |(_, meta)| meta.lsn);
            let mut created = derived.on_committed(upto);
            // The first run was another's, or was cut off.
            for numbers in [2..3, 2..4] {
                for (bytes, meta) in &groups[numbers] {
                    derived.on_moved(bytes, kind, meta.lsn, meta.end, meta.scn);
                }
            }
            created.extend(derived.on_mended(groups[2].1.lsn, groups[4].1.lsn));
            created.extend(derived.on_committed(at));
            created.sort_by_key(|(end, _)| *end);
            let ends: Vec<Lsn> = groups.iter().map(|(_, meta)| meta.end).collect();
            assert_eq!(created.iter().map(|(end, _)| *end).collect::<Vec<_>>(), ends);
            assert_eq!(derived.take_seen().len(), 6);
            for (number, (_, meta)) in groups.iter().enumerate() {
                let Verdict::Duplicate(mark) = derived.producers.check(7, number as u64 + 1, None)
                else {
                    panic!("{number} is not known");
                };
                assert_eq!(mark.scn, meta.scn);
            }
            assert_eq!(derived.producers.check(7, 7, None), Verdict::Fresh);
        }
    }

    #[test]
    fn a_catalogue_group_of_another_stream_names_no_stream() {
        for (stream, named) in [(CATALOGUE_STREAM, 1), (5, 0)] {
            let mut bytes = vec![0; 4096];
            let mut builder = BodyBuilder::new(&mut bytes);
            let origin = Origin { role_epoch: 1, cluster: 1, ballot: Ballot::NONE };
            let kind = GroupKind::Catalogue;
            builder.begin_group(stream, Lsn::ZERO, Ballot::NONE, kind, origin, 0).unwrap();
            builder.push_entry(&Change::Create { stream: 9, mark: None }.encode(), 0, 0).unwrap();
            let meta = builder.end_group(1, CHAIN_START);
            let mut derived = Derived::default();
            derived.on_logged(&bytes[meta.range()], kind, meta.lsn, meta.end, meta.scn);
            assert_eq!(derived.take_seen().len(), named, "in stream {stream}");
            assert_eq!(derived.on_committed(meta.end).len(), named);
        }
    }

    const ROUNDS: u64 = 300;

    fn mix(seed: &mut u64) -> u64 {
        *seed =
            seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    }

    type Registered = (Vec<u8>, Lsn, Vec<control::Change>);

    /// A group of the catalogue with one or two changes, one of which may be of this version.
    fn registry_group(start: Lsn, version: u64, seed: &mut u64) -> Registered {
        let mut bytes = vec![0; 4096];
        let mut builder = BodyBuilder::new(&mut bytes);
        let origin = Origin { role_epoch: 1, cluster: 1, ballot: Ballot::NONE };
        let kind = GroupKind::Registry;
        builder.begin_group(CATALOGUE_STREAM, start, Ballot::NONE, kind, origin, 0).unwrap();
        let mut changes = Vec::new();
        for _ in 0..=mix(seed) % 2 {
            let id = 2 + (mix(seed) % 4) as u32;
            let what = match mix(seed) % 3 {
                0 => What::Remove(id),
                _ => What::Put(Cluster::new(id, crate::status::Transfer::Sync)),
            };
            let on = (version + mix(seed) % 3).saturating_sub(1);
            let change = control::Change { by: 1, on, what };
            builder.push_entry(&change.encode(), 0, 0).unwrap();
            changes.push(change);
        }
        let meta = builder.end_group(1, CHAIN_START);
        (bytes[meta.range()].to_vec(), meta.end, changes)
    }

    /// Groups are logged, staged, voided by takeovers and committed in any order: the registry is
    /// what the committed log says, and nothing of a voided group is ever seen.
    #[test]
    fn the_registry_is_what_the_committed_log_says() {
        for round in 0..ROUNDS {
            let mut seed = round;
            let mut derived = Derived::default();
            let (mut registry, mut expected) = (Registry::default(), Registry::default());
            // The log as it stands: ends and changes of its groups.
            let mut log: Vec<(Lsn, Vec<control::Change>)> = Vec::new();
            let (mut committed, mut ballot) = (0, 0);
            for _ in 0..60 {
                let end = log.last().map_or(Lsn::ZERO, |(end, _)| *end);
                let kind = GroupKind::Registry;
                match mix(&mut seed) % 4 {
                    0 | 1 => {
                        let version = registry.version();
                        let (bytes, to, changes) = registry_group(end, version, &mut seed);
                        derived.on_logged(&bytes, kind, end, to, 1);
                        log.push((to, changes));
                    }
                    2 => {
                        // A takeover keeps some of what is not committed, and brings other groups.
                        ballot += 1;
                        let ballot = Ballot { round: ballot, node: 1, incarnation: 1 };
                        let keep =
                            committed + mix(&mut seed) as usize % (log.len() - committed + 1);
                        log.truncate(keep);
                        let mut end = log.last().map_or(Lsn::ZERO, |(end, _)| *end);
                        for _ in 0..mix(&mut seed) % 3 {
                            let version = registry.version();
                            let (bytes, to, changes) = registry_group(end, version, &mut seed);
                            derived.on_staged(ballot, &bytes, kind, end, to, 1);
                            log.push((to, changes));
                            end = to;
                        }
                        derived.on_takeover(ballot, end);
                    }
                    _ => {
                        let upto =
                            committed + mix(&mut seed) as usize % (log.len() - committed + 1);
                        for (_, changes) in &log[committed..upto] {
                            for change in changes {
                                expected.apply(change);
                            }
                        }
                        committed = upto;
                        let upto = log[..upto].last().map_or(Lsn::ZERO, |(end, _)| *end);
                        derived.on_committed(upto);
                        for (_, change) in derived.take_registry() {
                            registry.apply(&change);
                        }
                    }
                }
                assert_eq!(registry, expected, "round {round}");
            }
        }
    }

    /// A group with one mark, or one record, of stream 5.
    fn marked_group(start: Lsn, mark: Option<SyncMark>) -> (Vec<u8>, GroupKind, Lsn, Lsn) {
        let mut bytes = vec![0; 4096];
        let mut builder = BodyBuilder::new(&mut bytes);
        let origin = Origin { role_epoch: 1, cluster: 1, ballot: Ballot::NONE };
        let kind = if mark.is_some() { GroupKind::Mark } else { GroupKind::Data };
        builder.begin_group(5, start, Ballot::NONE, kind, origin, 0).unwrap();
        let payload = mark.map_or([1; 16], SyncMark::encode);
        builder.push_entry(&payload, 0, 0).unwrap();
        let meta = builder.end_group(1, CHAIN_START);
        (bytes[meta.range()].to_vec(), kind, start, meta.end)
    }

    /// A node that lost the marks of a stream shows and acks nothing that the whole log would not,
    /// whatever marks stand above the lost range and in whatever order it learns what is
    /// committed; once the range is filled it is as if nothing had been lost.
    #[test]
    fn nothing_above_a_lost_range_is_released_before_its_marks_are_known() {
        let (mut held_back, mut gated) = (0, 0);
        for round in 0..ROUNDS {
            let mut seed = round;
            let (mut groups, mut end) = (Vec::new(), Lsn::ZERO);
            for epoch in 1..=12 {
                let mark = match mix(&mut seed) % 5 {
                    0 => Some(SyncMark::Async { epoch }),
                    1 | 2 => Some(SyncMark::Sync { cluster: 2, epoch }),
                    _ => None,
                };
                groups.push(marked_group(end, mark));
                end = groups.last().expect("just pushed").3;
            }
            let from = mix(&mut seed) as usize % 11;
            let upto = from + 1 + mix(&mut seed) as usize % (11 - from);
            let (mut whole, mut damaged) = (Derived::default(), Derived::default());
            let (lost, beyond) = (groups[from].2, groups[upto].2);
            for (at, (bytes, kind, start, end)) in groups.iter().enumerate() {
                whole.on_logged(bytes, *kind, *start, *end, 1);
                match at {
                    _ if at == from => damaged.on_lost(lost, beyond),
                    _ if (from..upto).contains(&at) => {}
                    _ => damaged.on_logged(bytes, *kind, *start, *end, 1),
                }
            }
            let held = groups[mix(&mut seed) as usize % 12].3;
            // Filled by what others logged again, or by a new leader's run from there on.
            let (again, ballot) = (mix(&mut seed) % 2, Ballot { round, node: 1, incarnation: 1 });
            let released = |derived: &Derived| derived.marks.released(derived.known(), |_| held);
            let mut mended = mix(&mut seed) as usize % 13;
            for (at, (.., end)) in groups.iter().enumerate() {
                if at == mended {
                    mended = usize::MAX;
                    for (bytes, kind, start, end) in &groups[from..upto] {
                        if again == 0 {
                            damaged.on_moved(bytes, *kind, *start, *end, 1);
                        }
                    }
                    for (bytes, kind, start, end) in &groups[from..] {
                        if again == 1 {
                            damaged.on_staged(ballot, bytes, *kind, *start, *end, 1);
                        }
                    }
                    match again {
                        0 => drop(damaged.on_mended(lost, beyond)),
                        _ => drop(damaged.on_takeover(ballot, groups[11].3)),
                    }
                    let all = released(&whole);
                    assert_eq!(released(&damaged), all, "round {round}: before more is committed");
                }
                whole.on_committed(*end);
                damaged.on_committed(*end);
                let (all, known) = (released(&whole), released(&damaged));
                assert!(known <= all, "round {round}: {known} is released, {all} may be");
                if mended == usize::MAX {
                    assert_eq!((&damaged.marks, known), (&whole.marks, all), "round {round}");
                }
                held_back += u32::from(known < all);
                gated += u32::from(all < *end);
            }
        }
        assert!(held_back > 100 && gated > 100, "{held_back} held back, {gated} gated");
    }

    /// So many ranges are lost that the last are told as one. What stands between them was seen:
    /// once the log lacks nothing there, nothing waits for it.
    #[test]
    fn what_the_log_does_not_lack_is_known() {
        let mut derived = Derived::default();
        for at in 0..GAPS_MAX as u64 {
            derived.on_lost(Lsn(at * 64), Lsn(at * 64 + 8));
        }
        let last = GAPS_MAX as u64 * 64;
        derived.on_lost(Lsn(last), Lsn(last + 8));
        derived.on_lost(Lsn(last + 8), Lsn(last + 16));
        assert_eq!(derived.gaps.len(), GAPS_MAX);
        let hole = |start, end| {
            let (start, end) = (Lsn(start), Lsn(end));
            Hole { start, chain: None, end, anchor: palisade_wal::Anchor::Unread }
        };
        derived.on_replayed(&[hole(64, 72), hole(last, last + 16)]);
        let left = [(Lsn(64), Lsn(72)), (Lsn(last), Lsn(last + 16))];
        assert_eq!((derived.gaps.as_slice(), derived.gap_at(Lsn(70))), (&left[..], Some(Lsn(64))));
        assert_eq!(derived.on_mended(Lsn(last), Lsn(last + 16)), []);
        assert!(!derived.is_whole() && derived.lost_below() == Lsn::ZERO);
        assert_eq!(derived.on_mended(Lsn(64), Lsn(72)), []);
        assert!(derived.is_whole());
    }

    /// Entries above a lost one would have no effect if they were taken before it.
    #[test]
    fn the_registry_waits_for_what_is_lost() {
        let kind = GroupKind::Registry;
        let (mut seed, mut end) = (7, Lsn::ZERO);
        let (mut expected, mut groups) = (Registry::default(), Vec::new());
        for _ in 0..4 {
            let (bytes, to, changes) = registry_group(end, expected.version(), &mut seed);
            for change in &changes {
                expected.apply(change);
            }
            groups.push((bytes, end, to));
            end = to;
        }
        let (mut derived, mut registry) = (Derived::default(), Registry::default());
        for (at, (bytes, start, end)) in groups.iter().enumerate() {
            match at {
                1 => derived.on_lost(*start, *end),
                _ => derived.on_logged(bytes, kind, *start, *end, 1),
            }
        }
        derived.on_committed(end);
        let mut take = |derived: &mut Derived| {
            for (_, change) in derived.take_registry() {
                registry.apply(&change);
            }
            registry.version()
        };
        let (before, all) = (take(&mut derived), expected.version());
        assert!(before < all, "{before} of {all}");
        let (bytes, start, end) = &groups[1];
        derived.on_moved(bytes, kind, *start, *end, 1);
        derived.on_mended(*start, *end);
        assert_eq!(take(&mut derived), all);
    }
}
