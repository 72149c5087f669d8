//! Reading block bodies. No length is trusted before it is checked against the bytes at hand.

use zerocopy::{FromBytes, IntoBytes};

use crate::body::{RecordMeta, leading_u64};
use crate::group::{
    ENTRY_HEADER_BYTES, EntryHeader, GROUP_BYTES_MAX, GROUP_HEADER_BYTES, GroupHeader, GroupKind,
    RECORD_BYTES_MAX, entry_bytes, positions,
};
use crate::limits::BODY_BYTES_MAX;
use crate::lsn::{Ballot, Lsn};
use crate::record::{FLAG_STAGED, Kind, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader};

/// Why a record is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// A kind that this program does not know.
    #[error("unknown kind")]
    Kind,
    /// Reserved bytes or flags are set.
    #[error("reserved bits are set")]
    Reserved,
    /// A length that cannot be.
    #[error("impossible length")]
    Length,
    /// A position that cannot be.
    #[error("impossible position")]
    Position,
    /// The checksum of the record's bytes does not match.
    #[error("the checksum does not match")]
    Checksum,
    /// The group is not the one of the record header.
    #[error("group and record header differ")]
    Group,
    /// The checksum of the entries does not match.
    #[error("the checksum of the entries does not match")]
    EntriesChecksum,
    /// The entries do not fill the group.
    #[error("impossible entries")]
    Entries,
}

/// Why a body is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// The record headers do not match their checksum, or do not fill the body.
    #[error("the record headers are not readable")]
    Headers,
    /// One record is bad.
    #[error("record at {at}: {why}")]
    Record {
        /// Offset of its header in the body.
        at: u32,
        /// What is wrong.
        why: BadRecord,
    },
}

/// One record of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its position.
    pub lsn: Lsn,
    /// First byte after it.
    pub end: Lsn,
    /// The embedder's bytes.
    pub payload: &'a [u8],
    /// Who appended it; 0 when it did not say.
    pub producer: u64,
    /// The producer's number for it.
    pub sequence: u64,
}

/// Reads a body and checks everything: record headers, every record's bytes, groups and entries.
///
/// # Errors
/// [`BadBody`]; nothing of a bad body is returned.
pub fn parse_body(body: &[u8], headers_crc: u32) -> Result<Vec<RecordMeta>, BadBody> {
    let mut metas = check_headers_only(body, headers_crc)?;
    for meta in &mut metas {
        let at = meta.at;
        *meta = check_record(body, meta).map_err(|why| BadBody::Record { at, why })?;
        assert!(meta.at == at, "a record stays where its header is");
    }
    Ok(metas)
}

/// Reads the record headers of a body alone, for a scan. What stands in the records' bytes
/// (chain, SCN, count of entries) is 0 in the result until [`check_record`] looked at them.
///
/// # Errors
/// [`BadBody`].
pub fn check_headers_only(body: &[u8], headers_crc: u32) -> Result<Vec<RecordMeta>, BadBody> {
    let mut crc = 0;
    let mut headers = Vec::new();
    for step in (Walk { body, at: 0 }) {
        let (at, header) = step?;
        crc = crc32c::crc32c_append(crc, header.as_bytes());
        headers.push((at, header));
    }
    if crc != headers_crc || headers.is_empty() {
        return Err(BadBody::Headers);
    }
    assert!(headers[0].0 == 0, "a body starts with a record");
    assert!(headers.len() <= body.len() / RECORD_HEADER_BYTES, "each record has a header");
    let meta = |(at, header)| meta_of(at, &header).map_err(|why| BadBody::Record { at, why });
    headers.into_iter().map(meta).collect()
}

/// Checks the bytes of one record whose header was checked before, and completes its meta.
///
/// # Errors
/// [`BadRecord`].
pub fn check_record(body: &[u8], meta: &RecordMeta) -> Result<RecordMeta, BadRecord> {
    let bytes = body.get(meta.range()).ok_or(BadRecord::Length)?;
    let header = body.get(meta.at as usize..).ok_or(BadRecord::Length)?;
    let (header, _) = RecordHeader::read_from_prefix(header).map_err(|_| BadRecord::Length)?;
    let mut meta = *meta;
    if !meta.kind.is_group() {
        if crc32c::crc32c(bytes) != header.body_crc.get() {
            return Err(BadRecord::Checksum);
        }
        assert!(meta.end == meta.lsn, "only a group takes a place in its stream");
        if meta.kind == Kind::Takeover {
            meta.chain = leading_u64(bytes);
        }
        return Ok(meta);
    }
    let head = bytes.get(..GROUP_HEADER_BYTES).ok_or(BadRecord::Length)?;
    if crc32c::crc32c(head) != header.body_crc.get() {
        return Err(BadRecord::Checksum);
    }
    let group = parse_group(bytes)?;
    if group.stream.get() != meta.stream || group.lsn() != meta.lsn || group.end() != meta.end {
        return Err(BadRecord::Group);
    }
    assert!(group.len.get() == meta.len, "the record header gave the length that the group has");
    meta.chain = group.chain.get();
    meta.scn = group.scn.get();
    meta.records = group.records.get();
    Ok(meta)
}

/// Reads the header of the group that `bytes` are, and checks header and entries. The chain is
/// not checked: what came before is not known here.
///
/// # Errors
/// [`BadRecord`].
pub fn parse_group(bytes: &[u8]) -> Result<GroupHeader, BadRecord> {
    let (group, rest) = GroupHeader::read_from_prefix(bytes).map_err(|_| BadRecord::Length)?;
    if group.len.get() as usize != bytes.len() || bytes.len() > GROUP_BYTES_MAX {
        return Err(BadRecord::Length);
    }
    if !bytes.len().is_multiple_of(RECORD_ALIGN) {
        return Err(BadRecord::Length);
    }
    check_position(group.lsn.get(), group.len.get(), group.span.get())?;
    let plain = group.span.get() == 0 && group.proof.get() == 0;
    let based = group.span.get() > 0 && group.is_base();
    if group.reserved != [0; 3] || !(based || plain && !group.is_base()) {
        return Err(BadRecord::Reserved);
    }
    if GroupKind::from_code(group.kind).is_none() {
        return Err(BadRecord::Kind);
    }
    if crc32c::crc32c(rest) != group.entries_crc.get() {
        return Err(BadRecord::EntriesChecksum);
    }
    let mut left = rest;
    let mut records = 0u32;
    while !left.is_empty() {
        let (_, next) = split_entry(left).ok_or(BadRecord::Entries)?;
        assert!(next.len() < left.len(), "every entry takes bytes");
        records += 1;
        left = next;
    }
    if records != group.records.get() {
        return Err(BadRecord::Entries);
    }
    let taken = group.end().since(group.lsn());
    assert!(group.end() <= Lsn::MAX && (group.is_base() || taken as usize == bytes.len()));
    Ok(group)
}

/// The entries of a group, in order. Ends early where the bytes are no entry; the bytes of a
/// checked group always are.
pub fn entries(group_bytes: &[u8]) -> Entries<'_> {
    let (header, left) = match GroupHeader::read_from_prefix(group_bytes) {
        Ok((header, left)) if header.lsn.get() < Lsn::MAX.0 => (header, left),
        _ => return Entries { lsn: Lsn::ZERO, left: &[] },
    };
    assert!(left.len() + GROUP_HEADER_BYTES == group_bytes.len(), "entries follow the header");
    Entries { lsn: Lsn(header.lsn.get() + GROUP_HEADER_BYTES as u64), left }
}

/// Iterator of [`entries`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    lsn: Lsn,
    left: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let (header, next) = split_entry(self.left)?;
        let taken = (self.left.len() - next.len()) as u64;
        assert!(taken as usize == entry_bytes(header.len.get() as usize));
        let payload =
            &self.left[ENTRY_HEADER_BYTES..ENTRY_HEADER_BYTES + header.len.get() as usize];
        let lsn = self.lsn;
        self.lsn = Lsn(lsn.0 + taken);
        self.left = next;
        let (producer, sequence) = (header.producer.get(), header.sequence.get());
        Some(Entry { lsn, end: self.lsn, payload, producer, sequence })
    }
}

/// Rewrites the accepting ballot in all record headers of a body, in place, and returns the new
/// checksum of the headers.
///
/// # Errors
/// [`BadBody::Headers`] when the bytes are no body; some ballots may then be rewritten.
pub fn restamp(body: &mut [u8], ballot: Ballot) -> Result<u32, BadBody> {
    let mut at = 0;
    let mut crc = 0;
    while at < body.len() {
        let step = Walk { body, at }.next().ok_or(BadBody::Headers)?;
        let (_, mut header) = step?;
        let next = at + record_bytes(&header);
        assert!(next > at, "every record takes bytes");
        assert!(next <= body.len(), "a record stays within its body");
        header.set_ballot(ballot);
        body[at..at + RECORD_HEADER_BYTES].copy_from_slice(header.as_bytes());
        crc = crc32c::crc32c_append(crc, header.as_bytes());
        at = next;
    }
    assert!(at == body.len(), "every record has the new ballot");
    Ok(crc)
}

struct Walk<'a> {
    body: &'a [u8],
    at: usize,
}

impl Iterator for Walk<'_> {
    type Item = Result<(u32, RecordHeader), BadBody>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.body.len() {
            return None;
        }
        assert!(self.at < self.body.len(), "the walk stays within the body");
        let before = self.at;
        let found = self.step();
        self.at = match &found {
            Ok((at, header)) => *at as usize + record_bytes(header),
            Err(_) => self.body.len(),
        };
        assert!(self.at > before, "the walk goes on");
        assert!(self.at <= self.body.len(), "the walk stays within the body");
        Some(found)
    }
}

impl Walk<'_> {
    fn step(&self) -> Result<(u32, RecordHeader), BadBody> {
        if self.body.len() > BODY_BYTES_MAX {
            return Err(BadBody::Headers);
        }
        let rest = self.body.get(self.at..).ok_or(BadBody::Headers)?;
        let (header, after) = RecordHeader::read_from_prefix(rest).map_err(|_| BadBody::Headers)?;
        let len = header.len.get() as usize;
        if len > after.len() || len.next_multiple_of(RECORD_ALIGN) > after.len() {
            return Err(BadBody::Headers);
        }
        assert!(self.at.is_multiple_of(RECORD_ALIGN), "records are padded");
        Ok((self.at as u32, header))
    }
}

fn record_bytes(header: &RecordHeader) -> usize {
    let bytes = RECORD_HEADER_BYTES + (header.len.get() as usize).next_multiple_of(RECORD_ALIGN);
    assert!(bytes <= BODY_BYTES_MAX, "the length was checked against the body");
    assert!(bytes.is_multiple_of(RECORD_ALIGN), "the next record is aligned");
    bytes
}

fn meta_of(at: u32, header: &RecordHeader) -> Result<RecordMeta, BadRecord> {
    let kind = Kind::from_code(header.kind).ok_or(BadRecord::Kind)?;
    let clean = header.reserved == [0; 2] && (header.span.get() == 0 || kind.is_group());
    let known = if kind.is_group() { FLAG_STAGED } else { 0 };
    if !clean || header.flags & !known != 0 {
        return Err(BadRecord::Reserved);
    }
    let len = header.len.get();
    let lsn = header.lsn();
    let mut end = lsn;
    if kind.is_group() {
        if (len as usize) < GROUP_HEADER_BYTES || len as usize > GROUP_BYTES_MAX {
            return Err(BadRecord::Length);
        }
        let span = header.span.get();
        check_position(lsn.0, len, span)?;
        end = lsn.advance(positions(len, span));
        assert!(end > lsn && end <= Lsn::MAX, "a group takes positions");
    } else if lsn > Lsn::MAX {
        return Err(BadRecord::Position);
    }
    if kind == Kind::Takeover && len < 8 {
        return Err(BadRecord::Length);
    }
    assert!(kind.is_group() == (end > lsn), "only a group takes a place in its stream");
    assert!(end <= Lsn::MAX, "the position was checked");
    Ok(RecordMeta {
        kind,
        flags: header.flags,
        stream: header.stream.get(),
        lsn,
        end,
        ballot: header.ballot(),
        chain: 0,
        at,
        len,
        records: 0,
        scn: 0,
    })
}

fn check_position(lsn: u64, len: u32, span: u64) -> Result<(), BadRecord> {
    let end = lsn.checked_add(positions(len, span)).ok_or(BadRecord::Position)?;
    let aligned = lsn.is_multiple_of(Lsn::ALIGN) && span.is_multiple_of(Lsn::ALIGN);
    if end > Lsn::MAX.0 || !aligned {
        return Err(BadRecord::Position);
    }
    Ok(())
}

fn split_entry(bytes: &[u8]) -> Option<(EntryHeader, &[u8])> {
    let (header, rest) = EntryHeader::read_from_prefix(bytes).ok()?;
    let len = header.len.get() as usize;
    if len > RECORD_BYTES_MAX || header.reserved.get() != 0 {
        return None;
    }
    let taken = entry_bytes(len) - ENTRY_HEADER_BYTES;
    assert!(taken >= len && taken - len < RECORD_ALIGN, "the pad ends the entry");
    let pad = rest.get(len..taken)?;
    pad.iter().all(|&byte| byte == 0).then_some((header, &rest[taken..]))
}
