//! What a recovery tells its owner.

use crate::body::RecordMeta;
use crate::recycle::LogStart;
use crate::segment::Place;

/// One thing that recovery found, in the order of the log.
#[derive(Clone, Debug)]
pub enum Replay {
    /// A whole record. Closing records and segment indexes are not replayed.
    Record {
        /// What it is.
        meta: RecordMeta,
        /// The block that holds it.
        place: Place,
        /// The bytes of the record.
        bytes: Vec<u8>,
    },
    /// A record whose header is readable and whose bytes are damaged, in a block that was
    /// promised. `meta` lacks what stands in the bytes (chain, SCN, count of entries).
    Damaged {
        /// What it is.
        meta: RecordMeta,
        /// The block that holds it.
        place: Place,
    },
    /// Promised blocks of which not even the record headers are readable: any stream of the
    /// shard may have had records in them.
    Corrupt {
        /// The last block before them that is readable; all zero when there is none.
        after: Place,
        /// The first and last lost block.
        blocks: (u64, u64),
        /// Whether a lost block may have held hard state.
        hard_state_maybe_lost: bool,
    },
    /// Recovery is complete and durable; blocks can be appended.
    Done {
        /// What it did.
        report: Report,
    },
}

/// What stood behind the last block that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// A new log.
    Fresh,
    /// Zeros.
    Zero,
    /// Blocks of an earlier life of the file.
    Stale,
    /// A block that was not written whole.
    Torn,
    /// Whole blocks behind one that is missing or torn.
    Hole,
}

/// What a recovery did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What stood behind the last block kept.
    pub tail: Tail,
    /// Highest block that any valid block calls durable.
    pub durable_upto: u64,
    /// Where the log begins.
    pub start: LogStart,
    /// The last block kept. Only the number is set when it is not readable.
    pub kept: Place,
    /// Segments that hold kept blocks.
    pub segments: usize,
    /// Blocks kept.
    pub blocks: u64,
    /// Records replayed.
    pub records: u64,
    /// Whole blocks dropped behind the last one kept.
    pub dropped: u64,
    /// Ranges of lost blocks, as in [`Replay::Corrupt`]; at most
    /// [`REPORT_RANGES_MAX`](crate::limits::REPORT_RANGES_MAX).
    pub corrupt: Vec<CorruptRange>,
    /// The last segment, when it is not there any more, or nothing in it can be read.
    pub gone: Option<u64>,
    /// Segments with blocks whose header cannot be read.
    pub headless: u64,
    /// Records with damaged bytes.
    pub damaged: u64,
    /// Pages that the device could not read.
    pub unreadable_pages: u64,
    /// Files in the directory that are not the log's; at most
    /// [`REPORT_RANGES_MAX`](crate::limits::REPORT_RANGES_MAX).
    pub strangers: Vec<String>,
    /// The segment that was started.
    pub segment: u64,
}

/// Promised blocks that are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptRange {
    /// The last readable block before them.
    pub after: Place,
    /// First lost block.
    pub first: u64,
    /// Last lost block.
    pub last: u64,
}
