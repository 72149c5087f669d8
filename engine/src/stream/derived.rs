//! Everything that a stream's log implies beyond its bytes: producers, and for stream 1 the
//! catalogue. Changed in log order by what is logged, committed and voided, when a node runs and
//! when it recovers, so that no derived table outlives the bytes that it came from.

use std::collections::VecDeque;

use palisade_wal::{Ballot, GroupHeader, GroupKind, Lsn, entries};
use zerocopy::FromBytes;

use super::catalogue::{CATALOGUE_STREAM, Change};
use super::producers::{Mark, Producers};

/// What one logged group implies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Implied {
    start: Lsn,
    end: Lsn,
    marks: Vec<Mark>,
    changes: Vec<Change>,
}

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
    /// Catalogue changes above the committed cursor.
    changes: VecDeque<(Lsn, Change)>,
    /// Groups of the run staged for one takeover.
    staged: Option<Staged>,
    /// Highest catalogue id seen in any group, voided ones included.
    seen: Vec<Change>,
    committed: Lsn,
    /// Ranges of the log that were lost before they were seen, in order.
    gaps: Vec<(Lsn, Lsn)>,
    /// Groups that were logged again, until their range is whole.
    moved: Vec<Implied>,
}

impl Derived {
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

    /// A Takeover was logged: the log ends at `end`, with what was staged for it.
    pub fn on_takeover(&mut self, ballot: Ballot, end: Lsn) {
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
            Some(last) if full => last.1 = end,
            _ => self.gaps.push((start, end)),
        }
    }

    fn void(&mut self, from: Lsn) {
        self.producers.on_voided(from);
        while self.changes.back().is_some_and(|(at, _)| *at > from) {
            self.changes.pop_back();
        }
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
        self.take_committed()
    }

    /// Everything below `upto` is committed. Returns the catalogue changes that became so, each
    /// with the end of its group.
    pub fn on_committed(&mut self, upto: Lsn) -> Vec<(Lsn, Change)> {
        self.committed = self.committed.max(upto);
        self.producers.on_committed(upto);
        self.take_committed()
    }

    fn take_committed(&mut self) -> Vec<(Lsn, Change)> {
        let mut committed = Vec::new();
        while self.changes.front().is_some_and(|(end, _)| *end <= self.committed) {
            committed.extend(self.changes.pop_front());
        }
        committed
    }

    /// Catalogue changes logged since the last call, committed or not: their ids are taken.
    pub fn take_seen(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.seen)
    }

    fn adopt(&mut self, group: Implied) {
        for mark in group.marks {
            self.producers.on_logged(mark);
        }
        for change in group.changes {
            self.changes.push_back((group.end, change));
            self.seen.push(change);
        }
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
    }
}

/// Lost ranges that are told apart.
const GAPS_MAX: usize = palisade_wal::limits::HOLES_MAX;

fn is_in(ranges: &[(Lsn, Lsn)], at: Lsn) -> bool {
    ranges.iter().any(|(start, end)| (*start..*end).contains(&at))
}

fn implied(bytes: &[u8], kind: GroupKind, start: Lsn, end: Lsn, scn: u64) -> Implied {
    let mut group = Implied { start, end, marks: Vec::new(), changes: Vec::new() };
    // A group of that kind in another stream is the work of a peer or a client that errs.
    let header = GroupHeader::read_from_prefix(bytes);
    let of_catalogue = header.is_ok_and(|(header, _)| header.stream.get() == CATALOGUE_STREAM);
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
        if kind == GroupKind::Catalogue && of_catalogue {
            group.changes.extend(Change::decode(entry.payload));
        }
    }
    group
}

#[cfg(test)]
mod tests {
    use palisade_wal::{BodyBuilder, CHAIN_START, Origin};

    use super::*;

    /// The bytes of one group of a producer, and what the log says of it.
    fn group(at: Lsn, before: u64, sequence: u64) -> (Vec<u8>, palisade_wal::RecordMeta) {
        let mut bytes = vec![0; 4096];
        let mut builder = BodyBuilder::new(&mut bytes);
        let origin = Origin { role_epoch: 1, cluster: 1, ballot: Ballot::NONE };
        let (stream, kind) = (CATALOGUE_STREAM, GroupKind::Catalogue);
        builder.begin_group(stream, at, Ballot::NONE, kind, origin, 0).unwrap();
        let change = Change::Create { stream: 10 + sequence };
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
            builder.push_entry(&Change::Create { stream: 9 }.encode(), 0, 0).unwrap();
            let meta = builder.end_group(1, CHAIN_START);
            let mut derived = Derived::default();
            derived.on_logged(&bytes[meta.range()], kind, meta.lsn, meta.end, meta.scn);
            assert_eq!(derived.take_seen().len(), named, "in stream {stream}");
            assert_eq!(derived.on_committed(meta.end).len(), named);
        }
    }
}
