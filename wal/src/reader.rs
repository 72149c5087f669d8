//! Reading a stream's groups out of blocks: of a slot, of a direct read, of a mapped segment.

use std::ops::Range;

use crate::block::{BadBlock, Expect, parse};
use crate::body::RecordMeta;
use crate::limits::BLOCK_HEAD_BYTES;
use crate::lsn::Lsn;
use crate::parse::{check_headers_only, check_record};
use crate::record::Kind;

/// A group in a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundGroup {
    /// Where its bytes are in the chunk.
    pub range: Range<usize>,
    /// What it is; `at` counts from the start of the body of its block.
    pub meta: RecordMeta,
    /// The block that holds it.
    pub block: u64,
}

/// Why a walk over a chunk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The chunk ends here, perhaps in the middle of a block.
    EndOfChunk,
    /// No block of this log starts here.
    Block(BadBlock),
    /// The record headers of the block are not readable.
    Headers,
    /// A group that was asked for is damaged.
    Group(Lsn),
}

/// How far a walk came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Bytes of whole blocks that were taken. The next chunk starts there.
    pub consumed: usize,
    /// Why it ended.
    pub stop: Stop,
}

/// Appends to `out` the groups of `stream` that reach into `from..to`, in the order of the log,
/// from `chunk`: bytes of a segment from a block boundary at `expect.offset` on. Every group that
/// is returned was checked whole. Staged groups and groups that a takeover voided are returned
/// too: which extent counts is known to the owner, who compares `meta`.
pub fn read_groups(
    chunk: &[u8],
    expect: &Expect,
    stream: u64,
    from: Lsn,
    to: Lsn,
    out: &mut Vec<FoundGroup>,
) -> Walked {
    assert!(from <= to, "a range of LSNs goes up");
    let mut consumed = 0;
    loop {
        let rest = &chunk[consumed..];
        if rest.len() < BLOCK_HEAD_BYTES {
            return Walked { consumed, stop: Stop::EndOfChunk };
        }
        let head = match parse(rest, &expect.at(expect.offset + consumed as u64)) {
            Ok(head) => head,
            Err(why) => return Walked { consumed, stop: Stop::Block(why) },
        };
        let Some(body) = head.body(rest).filter(|_| head.bytes() <= rest.len()) else {
            return Walked { consumed, stop: Stop::EndOfChunk };
        };
        let Ok(metas) = check_headers_only(body, head.headers_crc.get()) else {
            return Walked { consumed, stop: Stop::Headers };
        };
        let wanted = |meta: &&RecordMeta| {
            meta.kind == Kind::Group && meta.stream == stream && meta.lsn < to && meta.end > from
        };
        let before = out.len();
        for meta in metas.iter().filter(wanted) {
            let Ok(meta) = check_record(body, meta) else {
                out.truncate(before);
                return Walked { consumed, stop: Stop::Group(meta.lsn) };
            };
            let start = consumed + BLOCK_HEAD_BYTES + meta.range().start;
            let range = start..start + meta.len as usize;
            assert!(range.end <= chunk.len());
            out.push(FoundGroup { range, meta, block: head.seq() });
        }
        consumed += head.bytes();
    }
}
