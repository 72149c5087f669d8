//! Whether each stream's groups follow each other: by position and by chain.

use std::collections::BTreeMap;

use palisade_wal::{Ballot, CHAIN_START, GroupHeader, Kind, Lsn, RecordMeta};
use zerocopy::FromBytes;

/// The end of a stream as far as it was walked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// First position after its last group.
    pub(crate) lsn: Lsn,
    /// The chain there; none where what came before is not in these files, or lost.
    pub(crate) chain: Option<u64>,
}

#[derive(Debug)]
struct Line {
    end: End,
    /// After a loss any position is right once.
    is_lost: bool,
    /// End of the run that is staged for a takeover.
    staged: Option<(Ballot, End)>,
}

/// The streams of one log.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    lines: BTreeMap<u64, Line>,
}

impl Chains {
    /// A sound record, with the bytes of its body. Says what is wrong with its place.
    pub(crate) fn take(&mut self, meta: &RecordMeta, body: &[u8]) -> Result<(), String> {
        match meta.kind {
            // The stream begins later than before; what follows is the same.
            Kind::Base if meta.len <= 9 => Ok(()),
            Kind::Base => {
                let chain = (meta.lsn == Lsn::ZERO).then_some(CHAIN_START);
                let end = End { lsn: meta.lsn, chain };
                self.lines.insert(meta.stream, Line { end, is_lost: false, staged: None });
                Ok(())
            }
            Kind::Takeover => self.take_over(meta),
            Kind::Group => self.group(meta, body),
            _ => Ok(()),
        }
    }

    /// Bytes of any stream may be missing from here on.
    pub(crate) fn on_loss(&mut self) {
        self.lines.values_mut().for_each(|line| line.is_lost = true);
    }

    /// The ends of all streams.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (u64, End)> {
        self.lines.iter().map(|(&stream, line)| (stream, line.end))
    }

    fn group(&mut self, meta: &RecordMeta, body: &[u8]) -> Result<(), String> {
        let Ok((header, _)) = GroupHeader::read_from_prefix(&body[meta.range()]) else {
            return Err("a group without a header".to_owned());
        };
        let next = End { lsn: meta.end, chain: Some(meta.chain) };
        let first = End { lsn: meta.lsn, chain: None };
        let line = self.lines.entry(meta.stream);
        let line = line.or_insert(Line { end: first, is_lost: true, staged: None });
        if meta.is_staged() {
            let before = line.staged.filter(|(ballot, _)| *ballot == meta.ballot);
            let before = before.map(|(_, end)| end).filter(|end| end.lsn == meta.lsn);
            line.staged = Some((meta.ballot, next));
            return follows(meta, &header, before.and_then(|end| end.chain));
        }
        let before = std::mem::replace(&mut line.end, next);
        if std::mem::take(&mut line.is_lost) && before.lsn != meta.lsn {
            return Ok(());
        }
        if before.lsn != meta.lsn {
            let (stream, lsn) = (meta.stream, meta.lsn);
            return Err(format!("stream {stream}: a group at {lsn} after {}", before.lsn));
        }
        follows(meta, &header, before.chain)
    }

    fn take_over(&mut self, meta: &RecordMeta) -> Result<(), String> {
        let next = End { lsn: meta.lsn, chain: Some(meta.chain) };
        let Some(line) = self.lines.get_mut(&meta.stream) else {
            let line = Line { end: next, is_lost: false, staged: None };
            self.lines.insert(meta.stream, line);
            return Ok(());
        };
        let staged = line.staged.take().filter(|(ballot, _)| *ballot == meta.ballot);
        let known = staged.map_or(line.end, |(_, end)| end);
        let was_lost = std::mem::take(&mut line.is_lost);
        line.end = next;
        let differs = known.chain.is_some_and(|chain| chain != meta.chain);
        if known.lsn == meta.lsn && differs && !was_lost {
            return Err(format!("stream {}: takeover at {} of another log", meta.stream, meta.lsn));
        }
        Ok(())
    }
}

fn follows(meta: &RecordMeta, header: &GroupHeader, before: Option<u64>) -> Result<(), String> {
    match before {
        Some(before) if !header.follows(before) => {
            Err(format!("stream {}: the chain breaks at {}", meta.stream, meta.lsn))
        }
        _ => Ok(()),
    }
}
