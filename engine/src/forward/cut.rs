//! Cutting a chunk out of records: which bytes of a body go to a reader next.
//!
//! Looks at record and group headers only; the bytes of entries are the reader's to check. The
//! chain is verified from group to group, and from chunk to chunk where the last one is known.

use std::ops::Range;

use palisade_wal::{
    Ballot, BlockHead, Expect, GROUP_HEADER_BYTES, GroupHeader, Kind, Lsn, RECORD_ALIGN,
    RECORD_HEADER_BYTES, RecordHeader,
};
use zerocopy::{FromBytes, IntoBytes};

/// What a cursor needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The stream.
    pub stream: u64,
    /// The first byte: the start of a group once `chain` is known, else anywhere in one.
    pub from: Lsn,
    /// The chain at `from`, when known.
    pub chain: Option<u64>,
    /// Groups end here at the latest: the committed end.
    pub committed: Lsn,
    /// Groups that start here or later are not wanted.
    pub to: Lsn,
    /// Bytes of records that may be taken: the credit.
    pub bytes_max: u64,
    /// Bytes of records that should not be exceeded, except by the first group.
    pub bytes_target: u32,
    /// When known, the ballot of the records that count; others of the stream are void.
    pub ballot: Option<Ballot>,
}

/// A run of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where it is in the bytes that were looked at.
    pub range: Range<usize>,
    /// Start of the first group.
    pub start: Lsn,
    /// End of the last group.
    pub end: Lsn,
    /// CRC-32C over the record headers.
    pub headers_crc: u32,
    /// The chain after the last group.
    pub chain: u64,
    /// It is a base, and nothing else.
    pub base: bool,
}

/// Why nothing was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCut {
    /// The group that is needed is not in these bytes.
    #[error("the group at that position is not here")]
    NotHere,
    /// It ends above the committed end.
    #[error("not committed yet")]
    NotCommitted,
    /// It is larger than the credit.
    #[error("needs a credit of {0} bytes")]
    Credit(u64),
    /// It does not follow what was sent before.
    #[error("the chain does not fit")]
    Chain,
    /// The bytes are no records.
    #[error("damaged records")]
    Damaged,
}

/// Cuts the next chunk out of `records`, which start at a record header.
///
/// # Errors
/// [`NoCut`] when there is no first group; what stops later groups only ends the chunk.
pub fn cut(records: &[u8], want: &Want) -> Result<Cut, NoCut> {
    let mut found: Option<Cut> = None;
    let mut at = 0;
    while at < records.len() {
        let stepped = step(records, at)
            .and_then(|(header, next)| Ok((header, next, candidate(records, at, &header, want)?)));
        let (header, next, group) = match stepped {
            Ok((header, next, Some(group))) => (header, next, group),
            // Behind what was found it does not matter what stands there.
            _ if found.is_some() => break,
            Ok((_, next, None)) => {
                at = next;
                continue;
            }
            Err(why) => return Err(why),
        };
        match found.as_mut() {
            None if group.end() <= want.from => {}
            None => found = Some(first(&group, &header, at..next, want)?),
            Some(cut) => {
                if !extend(cut, &group, &header, next, want) {
                    break;
                }
            }
        }
        at = next;
    }
    found.ok_or(NoCut::NotHere)
}

fn first(
    group: &GroupHeader,
    header: &RecordHeader,
    range: Range<usize>,
    want: &Want,
) -> Result<Cut, NoCut> {
    let (start, end) = (group.lsn(), group.end());
    if start > want.from || (want.chain.is_some() && start != want.from) {
        return Err(NoCut::NotHere);
    }
    if end > want.committed {
        return Err(NoCut::NotCommitted);
    }
    if want.chain.is_some_and(|chain| !group.follows(chain)) {
        return Err(NoCut::Chain);
    }
    if range.len() as u64 > want.bytes_max {
        return Err(NoCut::Credit(range.len() as u64));
    }
    let headers_crc = crc32c::crc32c(header.as_bytes());
    Ok(Cut { range, start, end, headers_crc, chain: group.chain.get(), base: group.is_base() })
}

fn extend(
    cut: &mut Cut,
    group: &GroupHeader,
    header: &RecordHeader,
    next: usize,
    want: &Want,
) -> bool {
    let len = (next - cut.range.start) as u64;
    let fits = len <= want.bytes_max && len <= u64::from(want.bytes_target);
    let alone = cut.base || group.is_base();
    let in_order = group.lsn() == cut.end && group.follows(cut.chain) && !alone;
    if !fits || !in_order || group.end() > want.committed || group.lsn() >= want.to {
        return false;
    }
    cut.range.end = next;
    cut.end = group.end();
    cut.chain = group.chain.get();
    cut.headers_crc = crc32c::crc32c_append(cut.headers_crc, header.as_bytes());
    true
}

/// The header of the group at `at`, if it is one that counts for `want`.
fn candidate(
    records: &[u8],
    at: usize,
    header: &RecordHeader,
    want: &Want,
) -> Result<Option<GroupHeader>, NoCut> {
    let ours = header.kind == Kind::Group as u8 && header.stream.get() == want.stream;
    if !ours || want.ballot.is_some_and(|ballot| ballot != header.ballot()) {
        return Ok(None);
    }
    let bytes = &records[at + RECORD_HEADER_BYTES..][..header.len.get() as usize];
    let (group, _) = GroupHeader::read_from_prefix(bytes).map_err(|_| NoCut::Damaged)?;
    let sound = crc32c::crc32c(&bytes[..GROUP_HEADER_BYTES]) == header.body_crc.get()
        && group.len == header.len
        && group.stream == header.stream
        && group.lsn == header.lsn
        && group.span == header.span
        && group.end() <= Lsn::MAX
        && group.end() > group.lsn();
    if sound { Ok(Some(group)) } else { Err(NoCut::Damaged) }
}

/// The record header at `at`, and where the next one is.
fn step(records: &[u8], at: usize) -> Result<(RecordHeader, usize), NoCut> {
    let (header, rest) =
        RecordHeader::read_from_prefix(&records[at..]).map_err(|_| NoCut::Damaged)?;
    let len = (header.len.get() as usize).checked_next_multiple_of(RECORD_ALIGN);
    let len = len.filter(|&len| len <= rest.len()).ok_or(NoCut::Damaged)?;
    Ok((header, at + RECORD_HEADER_BYTES + len))
}

/// Where the body of the block at `expect.offset` is in the bytes of its segment, after a check
/// of the block head and of all record headers.
///
/// # Errors
/// [`NoCut::Damaged`] when there is no such block.
pub fn block_body(segment: &[u8], expect: &Expect) -> Result<Range<usize>, NoCut> {
    let offset = usize::try_from(expect.offset).map_err(|_| NoCut::Damaged)?;
    let block = segment.get(offset..).ok_or(NoCut::Damaged)?;
    let head: BlockHead = palisade_wal::parse_block(block, expect).map_err(|_| NoCut::Damaged)?;
    let body = head.body(block).ok_or(NoCut::Damaged)?;
    let (mut at, mut crc) = (0, 0);
    while at < body.len() {
        let (header, next) = step(body, at)?;
        crc = crc32c::crc32c_append(crc, header.as_bytes());
        at = next;
    }
    if crc != head.headers_crc.get() {
        return Err(NoCut::Damaged);
    }
    let start = offset + palisade_wal::limits::BLOCK_HEAD_BYTES;
    Ok(start..start + body.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testlog::{TestLog, mix};

    fn want(stream: u64, from: Lsn) -> Want {
        Want {
            stream,
            from,
            chain: None,
            committed: Lsn::MAX,
            to: Lsn::MAX,
            bytes_max: u64::MAX,
            bytes_target: u32::MAX,
            ballot: None,
        }
    }

    #[test]
    fn a_run_ends_where_the_stream_is_interrupted() {
        let mut log = TestLog::new(1);
        let mut other = TestLog::new(2);
        log.push(&[10]);
        let first = log.end();
        log.push(&[20, 30]);
        let second = log.end();
        log.push(&[7]);
        let mut body = other.push(&[5]).to_vec();
        body.extend_from_slice(log.records(Lsn(0), second));
        body.extend_from_slice(other.push(&[6]));
        body.extend_from_slice(log.records(second, log.end()));
        let all = cut(&body, &want(1, Lsn(0))).unwrap();
        assert_eq!((all.start, all.end), (Lsn(0), second));
        assert_eq!(&body[all.range.clone()], log.records(Lsn(0), second));
        assert_eq!(all.headers_crc, log.headers_crc(Lsn(0), second));
        // From inside of a group: the whole group.
        let inside = cut(&body, &want(1, Lsn(first.0 + 9))).unwrap();
        assert_eq!((inside.start, inside.end), (first, second));
        let rest = Want { chain: Some(all.chain), ..want(1, second) };
        assert_eq!(cut(&body, &rest).unwrap().end, log.end());
        assert_eq!(cut(&body, &Want { chain: Some(1), ..rest }), Err(NoCut::Chain));
        assert_eq!(cut(&body, &want(1, log.end())), Err(NoCut::NotHere));
        assert_eq!(cut(&body, &want(3, Lsn(0))), Err(NoCut::NotHere));
    }

    #[test]
    fn limits_end_a_chunk_and_only_the_first_group_may_exceed_the_target() {
        let mut log = TestLog::new(1);
        for _ in 0..4 {
            log.push(&[100]);
        }
        let all = log.records(Lsn(0), log.end()).to_vec();
        let (one, each) = (all.len() / 4, log.end().0 / 4);
        let base = want(1, Lsn(0));
        let end = |want: Want| cut(&all, &want).map(|cut| cut.end.0 / each);
        assert_eq!(end(Want { bytes_target: 1, ..base }), Ok(1));
        assert_eq!(end(Want { bytes_target: one as u32 * 2, ..base }), Ok(2));
        assert_eq!(end(Want { bytes_max: one as u64 * 3 + 1, ..base }), Ok(3));
        assert_eq!(end(Want { bytes_max: 1, ..base }), Err(NoCut::Credit(one as u64)));
        assert_eq!(end(Want { committed: Lsn(each * 2), ..base }), Ok(2));
        assert_eq!(end(Want { committed: Lsn(0), ..base }), Err(NoCut::NotCommitted));
        assert_eq!(end(Want { to: Lsn(each + 1), ..base }), Ok(2));
        assert_eq!(end(Want { ballot: Some(Ballot::NONE), ..base }), Err(NoCut::NotHere));
    }

    #[test]
    fn garbage_is_refused_and_never_panics() {
        let mut log = TestLog::new(1);
        for len in [10, 300, 4000] {
            log.push(&[len]);
        }
        let good = log.records(Lsn(0), log.end()).to_vec();
        let mut seed = 5;
        for _ in 0..20_000 {
            let mut bad = good.clone();
            for _ in 0..1 + mix(&mut seed) % 3 {
                let at = mix(&mut seed) as usize % bad.len();
                bad[at] = mix(&mut seed) as u8;
            }
            bad.truncate(bad.len() - mix(&mut seed) as usize % 100);
            let _ = cut(&bad, &want(1, Lsn(mix(&mut seed) % (log.end().0 + 8))));
            let _ = block_body(&bad, &crate::forward::testlog::EXPECT);
        }
    }
}
