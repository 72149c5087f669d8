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
    pub(super) changes: VecDeque<(Lsn, Change)>,
    /// Groups of the run staged for one takeover.
    staged: Option<Staged>,
    /// Highest catalogue id seen in any group, voided ones included.
    seen: Vec<Change>,
    pub(super) committed: Lsn,
}

impl Derived {
    /// Whether groups wait for their takeover.
    pub(super) fn is_staging(&self) -> bool {
        self.staged.is_some()
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

    /// A Takeover was logged: the log ends at `end`, with what was staged for it.
    pub fn on_takeover(&mut self, ballot: Ballot, end: Lsn) {
        let staged = self.staged.take().filter(|staged| {
            staged.ballot == ballot && staged.groups.iter().any(|group| group.end == end)
        });
        let start = staged.as_ref().and_then(|s| s.groups.first()).map(|g| g.start);
        let void = start.unwrap_or(end).min(end);
        self.producers.on_voided(void);
        while self.changes.back().is_some_and(|(at, _)| *at > void) {
            self.changes.pop_back();
        }
        // A run may begin below the committed position; what is committed is known already.
        let news = self.committed..end;
        for group in staged.into_iter().flat_map(|s| s.groups) {
            if news.contains(&group.start) {
                self.adopt(group);
            }
        }
    }

    /// Everything below `upto` is committed. Returns the catalogue changes that became so.
    pub fn on_committed(&mut self, upto: Lsn) -> Vec<Change> {
        self.committed = self.committed.max(upto);
        self.producers.on_committed(upto);
        let mut committed = Vec::new();
        while self.changes.front().is_some_and(|(end, _)| *end <= upto) {
            committed.extend(self.changes.pop_front().map(|(_, change)| change));
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
