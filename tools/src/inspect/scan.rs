//! One segment, block by block.

use palisade_wal::limits::{BLOCK_ALIGN, BLOCK_BYTES_MAX, SEGMENT_HEADER_BYTES};
use palisade_wal::{
    BadBlock, BadBody, BadRecord, BlockHead, RecordMeta, check_headers_only, check_record,
    parse_block,
};
use zerocopy::FromBytes;

use super::files::SegmentFile;

/// A record, and what is wrong with its bytes.
pub(crate) type Checked = (RecordMeta, Option<BadRecord>);

/// What stands where no block does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Zeros.
    Zero,
    /// Blocks of an earlier life of the file.
    Stale,
    /// Anything else, and what is wrong with its first page.
    Junk(BadBlock),
}

/// What stands at a place of a segment.
pub(crate) enum Found<'a> {
    /// A block whose head is sound.
    Block {
        offset: u64,
        head: Box<BlockHead>,
        body: &'a [u8],
        records: Result<Vec<Checked>, BadBody>,
    },
    /// Something else, from `offset` up to the next block or the end.
    Gap { offset: u64, end: u64, gap: Gap },
}

/// Calls `take` with everything in the data part of a segment, in order.
///
/// # Errors
/// The first error of `take`.
pub(crate) fn scan<E>(
    file: &SegmentFile,
    bytes: &[u8],
    mut take: impl FnMut(Found<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let Some(expect) = &file.expect else { return Ok(()) };
    let end = file.data_end().min(bytes.len() as u64);
    let mut at = SEGMENT_HEADER_BYTES as u64;
    let mut stale_until = 0;
    let mut gap: Option<(u64, Gap)> = None;
    while at < end {
        let rest = &bytes[at as usize..end as usize];
        let why = match parse_block(rest, &expect.at(at)) {
            Ok(head) if head.bytes() <= rest.len() => {
                if let Some((offset, gap)) = gap.take() {
                    take(Found::Gap { offset, end: at, gap })?;
                }
                let step = head.bytes() as u64;
                take(read_block(at, head, rest))?;
                at += step;
                continue;
            }
            Ok(_) => BadBlock::Length,
            Err(why) => why,
        };
        let page = match why {
            BadBlock::Stale => {
                stale_until = at + stale_bytes(rest);
                Gap::Stale
            }
            _ if at < stale_until => Gap::Stale,
            BadBlock::Zero if rest[..rest.len().min(BLOCK_ALIGN)].iter().all(|&b| b == 0) => {
                Gap::Zero
            }
            why => Gap::Junk(why),
        };
        gap = match (gap, page) {
            (Some((offset, Gap::Zero)), page) => Some((offset, page)),
            (Some((offset, Gap::Stale)), Gap::Junk(why)) => Some((offset, Gap::Junk(why))),
            (Some(known), _) => Some(known),
            (None, page) => Some((at, page)),
        };
        at += BLOCK_ALIGN as u64;
    }
    match gap {
        Some((offset, gap)) => take(Found::Gap { offset, end, gap }),
        None => Ok(()),
    }
}

fn stale_bytes(page: &[u8]) -> u64 {
    let head = BlockHead::read_from_prefix(page);
    head.map_or(0, |(head, _)| head.bytes().min(BLOCK_BYTES_MAX) as u64)
}

fn read_block(offset: u64, head: BlockHead, rest: &[u8]) -> Found<'_> {
    let body = head.body(rest).unwrap_or_default();
    let records = check_headers_only(body, head.headers_crc.get());
    let check = |meta: RecordMeta| match check_record(body, &meta) {
        Ok(full) => (full, None),
        Err(why) => (meta, Some(why)),
    };
    let records = records.map(|records| records.into_iter().map(check).collect());
    Found::Block { offset, head: Box::new(head), body, records }
}
