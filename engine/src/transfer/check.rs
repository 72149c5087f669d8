//! Whether a chunk continues a log: every checksum, every position, the chain.

use palisade_wal::{
    Boundary, GROUP_HEADER_BYTES, GroupHeader, Kind, Lsn, RecordMeta, entries, parse_body,
};
use zerocopy::FromBytes;

use crate::forward::wire::ChunkHead;
use crate::paxos::SCN_MAX;
use crate::seeded::is_seeded;
use crate::stream::base::Base;

/// Part of a chunk's body that continues a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// Whole records of the body, one after the other up to its end; none when all of it is
    /// known already.
    pub metas: Vec<RecordMeta>,
    /// Where the log ends with them.
    pub end: Boundary,
}

/// Why a chunk does not continue a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChunk {
    /// It starts later: something is missing before it.
    #[error("the chunk starts at {0}, later than expected")]
    Gap(Lsn),
    /// The bytes are not what their checksums or the head say.
    #[error("the chunk is damaged")]
    Damaged,
    /// What was compressed is no LZ4 block of that length.
    #[error("the chunk does not decompress to its length")]
    Compressed,
    /// It holds another log.
    #[error("the log of the source does not match at {0}")]
    NotMatch(Lsn),
}

/// Checks a whole chunk against the end of a log. Groups that the log has already are left out;
/// that they are the same ones is not checked.
///
/// # Errors
/// [`BadChunk`].
pub fn continues(head: &ChunkHead, body: &[u8], after: Boundary) -> Result<Continuation, BadChunk> {
    if body.len() != head.body_len as usize {
        return Err(BadChunk::Damaged);
    }
    let mut metas = parse_body(body, head.headers_crc).map_err(|_| BadChunk::Damaged)?;
    let (mut at, mut end) = (head.start, after);
    let (mut known, alone) = (0, metas.len() == 1);
    for meta in &metas {
        let ours = meta.kind == Kind::Group && meta.stream == head.stream && meta.lsn == at;
        if !ours || meta.scn > SCN_MAX {
            return Err(BadChunk::Damaged);
        }
        at = meta.end;
        if meta.end <= after.lsn {
            known += 1;
            continue;
        }
        if meta.lsn > end.lsn {
            return Err(BadChunk::Gap(meta.lsn));
        }
        let group = &body[meta.range()][..GROUP_HEADER_BYTES];
        let group = GroupHeader::ref_from_bytes(group).map_err(|_| BadChunk::Damaged)?;
        let follows = group.follows(end.chain) || is_seeded("chunk_chain_unchecked");
        if group.is_base() != head.base || head.base && !(alone && is_good_base(meta, body)) {
            return Err(BadChunk::Damaged);
        }
        if meta.lsn < end.lsn || !follows {
            return Err(BadChunk::NotMatch(meta.lsn));
        }
        end = Boundary { lsn: meta.end, chain: meta.chain };
    }
    if at != head.end {
        return Err(BadChunk::Damaged);
    }
    metas.drain(..known);
    Ok(Continuation { metas, end })
}

/// Whether a base says what it is to say, and the log can go on behind it.
fn is_good_base(meta: &RecordMeta, body: &[u8]) -> bool {
    let mut told = entries(&body[meta.range()]);
    let good = told.next().is_some_and(|entry| {
        entry.producer == 0 && Base::decode(entry.payload, meta.end).is_some()
    });
    good && told.next().is_none() && meta.end < Lsn::MAX
}
