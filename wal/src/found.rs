//! Segment files as a recovery finds them, and what they say about each other.

use crate::block::BlockHead;
use crate::limits::{BLOCK_ALIGN, SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES, data_end};
use crate::parse::check_headers_only;
use crate::record::Kind;
use crate::recycle::LogStart;
use crate::segment::{Place, SegmentHeader, Started};

/// A segment file as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The sequence in its name.
    pub(crate) seq: u64,
    pub(crate) size: u64,
    /// Bytes of the segment; the most there can be while no header says.
    pub(crate) bytes: u64,
    pub(crate) header: Option<SegmentHeader>,
    /// Its header is neither zero nor readable.
    pub(crate) unreadable: bool,
    pub(crate) index: Option<BlockHead>,
    /// Its header has another sequence: it was about to be taken again.
    pub(crate) renamed: bool,
    /// First block that an end scan met.
    pub(crate) first_block: Option<Place>,
    /// Scanned, and no block stands in it.
    pub(crate) empty: bool,
    pub(crate) stale: bool,
    /// Bytes that are neither zero nor stale nor a block stand in it.
    pub(crate) junk: bool,
    pub(crate) kept: bool,
    pub(crate) end: u64,
}

impl Found {
    /// A file of which the name alone is known.
    pub(crate) fn new(seq: u64) -> Found {
        assert!(seq > 0, "segments are numbered from 1");
        Found {
            seq,
            size: 0,
            bytes: SEGMENT_BYTES_MAX,
            header: None,
            unreadable: false,
            index: None,
            renamed: false,
            first_block: None,
            empty: false,
            stale: false,
            junk: false,
            kept: false,
            end: SEGMENT_HEADER_BYTES as u64,
        }
    }

    /// Whether the file is no part of a log that begins at `start`. What a header says to be taken
    /// again is none anyway.
    pub(crate) fn is_let_go(&self, start: LogStart) -> bool {
        assert!(!self.kept || self.seq >= start.segment, "what was let go is not kept");
        self.seq < start.segment && !self.renamed
    }

    pub(crate) fn assert_invariants(&self) {
        assert!(self.header.is_none() || !self.unreadable, "a header is readable or not");
        assert!(!self.renamed || self.header.is_some(), "the other sequence is in the header");
        assert!(!self.renamed || !self.kept, "nothing counts in a file that is taken again");
        assert!(!self.empty || self.first_block.is_none(), "a block was met or not");
        assert!(self.kept == (self.end > SEGMENT_HEADER_BYTES as u64), "what is kept has an end");
        assert!(self.end.is_multiple_of(BLOCK_ALIGN as u64), "blocks end aligned");
        assert!(self.end <= data_end(self.bytes), "blocks end before the index");
        assert!(!self.kept || self.end <= self.size, "what is kept stands in its file");
        assert!(!self.kept || !self.empty, "what holds no block is not replayed");
    }

    /// The sequence that counts for what stands in the file.
    fn header_seq(&self) -> u64 {
        let seq = self.header.map_or(self.seq, |header| header.seq.get());
        assert!(seq >= self.seq, "a header with a lower sequence is of another log");
        assert!(self.renamed == (seq > self.seq), "a higher one means that it is taken again");
        seq
    }

    /// The block above which everything in older segments is void, if this one says so. No block
    /// up to `known` was ever discarded.
    fn limit(&self, known: impl FnOnce() -> u64) -> Option<u64> {
        match &self.header {
            Some(header) => header.kept().map(|kept| kept.block_seq),
            None => self.first_block.map(|first| {
                assert!(first.offset >= SEGMENT_HEADER_BYTES as u64, "a block on the header");
                assert!(first.block > 0, "blocks are numbered from 1");
                // Every page before the first readable block may have been one.
                let pages = (first.offset - SEGMENT_HEADER_BYTES as u64) / BLOCK_ALIGN as u64;
                (first.block - 1).saturating_sub(pages).max(known()).min(first.block - 1)
            }),
        }
    }

    /// The highest block that header and index call durable or kept.
    fn known(&self) -> u64 {
        let kept = self.header.and_then(|header| header.kept()).map_or(0, |kept| kept.block_seq);
        self.index.map_or(0, |head| head.durable_upto.get()).max(kept)
    }
}

/// Blocks of segment `at` above this were discarded by an earlier recovery.
pub(crate) fn kept_limit(found: &[Found], at: usize) -> u64 {
    assert!(at < found.len(), "a limit is that of a segment");
    let seq = found[at].seq;
    let later = found.iter().filter(|one| one.header_seq() > seq);
    let limit = |one: &Found| {
        let older = found.iter().filter(|older| older.header_seq() < one.header_seq());
        one.limit(|| older.map(Found::known).max().unwrap_or(0))
    };
    later.filter_map(limit).min().unwrap_or(u64::MAX)
}

/// Where the log begins: the furthest that any header or the identity file says. Each said the
/// truth when it was written, and a log is never taken back.
pub(crate) fn log_start(found: &[Found], named: LogStart) -> LogStart {
    let starts = found.iter().filter_map(|one| one.header).map(|header| header.start());
    let start = starts.max().unwrap_or_default().max(named);
    assert!(start >= named, "what was let go does not come back");
    assert!(start.first_due() > 0, "blocks are numbered from 1");
    start
}

/// Whether what the header of `one` calls discarded is called so by a later one too. Then nothing
/// is forgotten when its file is taken again.
pub(crate) fn says_nothing_alone(found: &[Found], one: &Found) -> bool {
    let limit = |one: &Found| one.header.and_then(|header| header.kept());
    let Some(own) = limit(one) else { return true };
    let says_it_too = |later: &Found| limit(later).is_some_and(|k| k.block_seq <= own.block_seq);
    found.iter().any(|later| later.header_seq() > one.header_seq() && says_it_too(later))
}

/// A segment that was started and is not there any more, or of which nothing can be read. What it
/// held is not known, and neither is whether it held anything. What was let go is not missed.
pub(crate) fn gone(found: &[Found], started: Started, start: LogStart) -> Option<u64> {
    assert!(start >= started.start, "the log begins where it began then, or later");
    let one = |seq: u64| found.iter().find(|one| one.header_seq() == seq);
    let speaks =
        |seq| one(seq).is_some_and(|one| one.header.is_some() || one.first_block.is_some());
    // A recovery that started a later one has seen to it: what it kept is named there.
    let recovered = |one: &Found| one.header.is_some_and(|header| header.kept().is_some());
    let later = found.iter().any(|one| one.header_seq() > started.newest && recovered(one));
    if started.newest < start.segment.max(1) || later {
        return None;
    }
    if !speaks(started.newest) {
        return Some(started.newest);
    }
    // Its first block tells how far the one before it went.
    let told = found.iter().any(|one| one.seq >= started.newest && one.first_block.is_some());
    let due = started.before >= start.segment.max(1);
    (!told && due && !speaks(started.before)).then_some(started.before)
}

/// Whether a block is the index of its segment: met by who walks past the last block.
pub(crate) fn is_index(head: &BlockHead, block: &[u8]) -> bool {
    let body = head.body(block).expect("a valid head fits its block");
    let metas = check_headers_only(body, head.headers_crc.get());
    metas.is_ok_and(|metas| metas.iter().any(|meta| meta.kind == Kind::SegmentIndex))
}

/// The sequence of the segment that a recovery starts: above every one in a name or a header.
pub(crate) fn next_seq(found: &[Found]) -> u64 {
    let next = found.iter().map(Found::header_seq).max().unwrap_or(0) + 1;
    assert!(found.iter().all(|one| one.seq < next), "a name is used once");
    next
}
