//! One segment, block by block.

use palisade_wal::limits::{BLOCK_ALIGN, SEGMENT_HEADER_BYTES, data_end};
use palisade_wal::{BadBlock, BadBody, BlockHead, RecordMeta, parse_block, parse_body};

use super::files::SegmentFile;

/// What stands at a place of a segment.
pub(crate) enum Found<'a> {
    /// A block whose head is sound.
    Block {
        offset: u64,
        head: Box<BlockHead>,
        body: &'a [u8],
        records: Result<Vec<RecordMeta>, BadBody>,
    },
    /// Something else, from `offset` up to the next block or the end.
    Gap { offset: u64, end: u64, why: BadBlock },
}

/// Everything in the data part of a segment, in order; runs of zeros and of blocks of an earlier
/// life of the file count as one gap.
pub(crate) fn scan(file: &SegmentFile) -> Vec<Found<'_>> {
    let Some(header) = &file.header else { return Vec::new() };
    let end = data_end(header.bytes.get()).min(file.bytes.len() as u64);
    let mut found = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES as u64;
    while at < end {
        let bytes = &file.bytes[at as usize..end as usize];
        match parse_block(bytes, &file.expect.at(at)) {
            Ok(head) => {
                let body = head.body(bytes).unwrap_or_default();
                let records = parse_body(body, head.headers_crc.get());
                let step = head.bytes() as u64;
                let head = Box::new(head);
                found.push(Found::Block { offset: at, head, body, records });
                at += step;
            }
            Err(why) => {
                let start = at;
                at = skip(file, at, end);
                found.push(Found::Gap { offset: start, end: at, why });
            }
        }
    }
    found
}

/// The next place at which a block of this segment starts, or the end.
fn skip(file: &SegmentFile, from: u64, end: u64) -> u64 {
    let mut at = from + BLOCK_ALIGN as u64;
    while at < end {
        let bytes = &file.bytes[at as usize..end as usize];
        if parse_block(bytes, &file.expect.at(at)).is_ok() {
            return at;
        }
        at += BLOCK_ALIGN as u64;
    }
    end
}
