//! Building block bodies. Each payload is copied once and checksummed once, here.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::group::{
    ENTRY_HEADER_BYTES, EntryHeader, GROUP_BYTES_MAX, GROUP_HEADER_BYTES, GroupHeader, GroupKind,
    Origin, RECORD_BYTES_MAX, chain, entry_bytes, proof,
};
use crate::limits::{BLOCK_ALIGN, BLOCK_HEAD_BYTES, BODY_BYTES_MAX, block_bytes};
use crate::log::Boundary;
use crate::lsn::{Ballot, Lsn};
use crate::parse::{BadRecord, parse_group};
use crate::record::{FLAG_STAGED, Kind, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader};

/// What is known about one record of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMeta {
    /// What it is.
    pub kind: Kind,
    /// [`FLAG_STAGED`].
    pub flags: u8,
    /// The stream.
    pub stream: u64,
    /// Its position.
    pub lsn: Lsn,
    /// First byte after a group; for other kinds the same as `lsn`.
    pub end: Lsn,
    /// Ballot under which this node took it.
    pub ballot: Ballot,
    /// Of a Group the chain after it, of a Takeover the chain in its body, else 0. Whether a
    /// Group follows the log before it is not known here.
    pub chain: u64,
    /// Offset of the record header in the body.
    pub at: u32,
    /// Bytes of the record without header and pad; of a Group the bytes of the group.
    pub len: u32,
    /// Entries of a Group, else 0.
    pub records: u32,
    /// SCN of a Group, else 0.
    pub scn: u64,
}

impl RecordMeta {
    /// Where the record's bytes are in the body.
    pub fn range(&self) -> std::ops::Range<usize> {
        assert!((self.at as usize).is_multiple_of(RECORD_ALIGN), "records are aligned");
        assert!(self.end >= self.lsn, "positions go up");
        let start = self.at as usize + RECORD_HEADER_BYTES;
        start..start + self.len as usize
    }

    /// First byte after the record's pad in the body: there the next one starts.
    fn next_at(&self) -> usize {
        self.range().end.next_multiple_of(RECORD_ALIGN)
    }

    /// Whether the record is staged for a takeover or a lost range.
    pub fn is_staged(&self) -> bool {
        self.flags & FLAG_STAGED != 0
    }
}

/// A finished body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Bytes.
    pub len: u32,
    /// CRC-32C of all record headers, in order.
    pub headers_crc: u32,
    /// The records, in order.
    pub metas: Vec<RecordMeta>,
}

impl Body {
    /// Whether it holds hard state.
    pub fn holds_hard_state(&self) -> bool {
        self.metas.iter().any(|meta| meta.kind.is_hard_state())
    }

    /// Bytes of the block around it.
    pub fn block_bytes(&self) -> usize {
        block_bytes(self.len as usize)
    }

    /// What holds for every body: when it was made here, and when it is handed over for writing.
    pub(crate) fn assert_whole(&self) {
        let (len, metas) = (self.len as usize, &self.metas);
        assert!(len > 0 && len <= BODY_BYTES_MAX, "body of {len} bytes");
        assert!(len.is_multiple_of(RECORD_ALIGN), "records are padded");
        assert!(metas.first().is_some_and(|first| first.at == 0), "a body starts with a record");
        assert!(metas.last().is_some_and(|last| last.next_at() == len), "records fill the body");
        assert!(metas.len() <= len / RECORD_HEADER_BYTES, "each record has a header");
    }
}

/// A body, a group or a record has no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room left in the body")]
pub struct Full;

/// Why ready-made bytes were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPush {
    /// No room.
    #[error(transparent)]
    Full(#[from] Full),
    /// Not a valid group.
    #[error("not a group: {0}")]
    Group(BadRecord),
}

/// A body under construction without its bytes: between two calls the pool is free for others.
#[derive(Debug, Default)]
pub struct BodyState {
    len: usize,
    headers_crc: u32,
    metas: Vec<RecordMeta>,
    open: Option<OpenGroup>,
}

#[derive(Debug)]
struct OpenGroup {
    record: RecordHeader,
    group: GroupHeader,
    entries_crc: u32,
    records: u32,
    /// First free byte of the body.
    end: usize,
}

impl OpenGroup {
    /// `start` is where the group's header will stand in the body.
    fn assert_invariants(&self, start: usize) {
        let entries = start + GROUP_HEADER_BYTES;
        assert!(self.end >= entries, "the header of the group has its room");
        assert!(self.end.is_multiple_of(RECORD_ALIGN), "entries are padded");
        assert!(self.end - start <= GROUP_BYTES_MAX, "a group stays within its limit");
        assert!((self.records == 0) == (self.end == entries), "entries are counted");
        let least = self.records as usize * ENTRY_HEADER_BYTES;
        assert!(self.end - entries >= least, "each entry has a header");
        assert!(self.group.stream == self.record.stream && self.group.lsn == self.record.lsn);
    }
}

impl BodyState {
    /// Bytes of finished records.
    pub fn len(&self) -> usize {
        self.len
    }

    /// `room` is the length of the bytes that the body is made in.
    fn assert_invariants(&self, room: usize) {
        assert!(self.len <= room, "a body stays within its slot");
        assert!(self.len <= BODY_BYTES_MAX, "a body stays within its limit");
        assert!(self.len.is_multiple_of(RECORD_ALIGN), "records are padded");
        let end = self.metas.last().map_or(0, RecordMeta::next_at);
        assert!(self.len == end, "the last record ends the body");
        assert!(self.len > 0 || self.headers_crc == 0, "no header was summed up yet");
        if let Some(open) = &self.open {
            open.assert_invariants(self.len + RECORD_HEADER_BYTES);
            assert!(open.end <= room, "the open group stays within its slot");
        }
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.open.is_none()
    }
}

/// Writes records into the bytes of a slot after its head.
#[derive(Debug)]
pub struct BodyBuilder<'a> {
    bytes: &'a mut [u8],
    state: BodyState,
}

impl<'a> BodyBuilder<'a> {
    /// Starts an empty body in `bytes`: a slot without its first 512 bytes.
    pub fn new(bytes: &'a mut [u8]) -> BodyBuilder<'a> {
        BodyBuilder::resume(bytes, BodyState::default())
    }

    /// Goes on where [`suspend`](BodyBuilder::suspend) stopped, in the same bytes.
    ///
    /// # Panics
    /// When `bytes` is shorter than what is already there.
    pub fn resume(bytes: &'a mut [u8], state: BodyState) -> BodyBuilder<'a> {
        let limit = bytes.len().min(BODY_BYTES_MAX);
        state.assert_invariants(limit);
        BodyBuilder { bytes: &mut bytes[..limit], state }
    }

    /// What is in the body so far.
    pub fn state(&self) -> &BodyState {
        &self.state
    }

    /// Gives the bytes back and keeps the rest.
    pub fn suspend(self) -> BodyState {
        self.state
    }

    /// Bytes left: in the open group for entries with their headers, else for records with
    /// theirs.
    pub fn room(&self) -> usize {
        match &self.state.open {
            None => self.bytes.len() - self.state.len,
            Some(open) => {
                let start = self.state.len + RECORD_HEADER_BYTES;
                let most = (start + GROUP_BYTES_MAX).min(self.bytes.len());
                assert!(open.end <= most, "a group stays within its limit");
                assert!(open.end > start, "a group has a header");
                most - open.end
            }
        }
    }

    /// Whether an entry with a payload of `len` fits the open group.
    pub fn fits_entry(&self, len: usize) -> bool {
        assert!(self.state.open.is_some(), "an entry is part of a group");
        len <= RECORD_BYTES_MAX && entry_bytes(len) <= self.room()
    }

    /// Opens a group at `lsn`.
    ///
    /// # Errors
    /// [`Full`]: nothing changed.
    ///
    /// # Panics
    /// When a group is open, or `lsn` is not a multiple of [`Lsn::ALIGN`].
    pub fn begin_group(
        &mut self,
        stream: u64,
        lsn: Lsn,
        ballot: Ballot,
        kind: GroupKind,
        origin: Origin,
        flags: u8,
    ) -> Result<(), Full> {
        assert!(self.state.open.is_none(), "a group is open");
        assert!(lsn.0.is_multiple_of(Lsn::ALIGN), "group at {lsn}");
        assert!(lsn < Lsn::MAX, "group at {lsn}");
        if self.room() < RECORD_HEADER_BYTES + GROUP_HEADER_BYTES {
            return Err(Full);
        }
        let record = record_header(Kind::Group, flags, stream, lsn, ballot, 0);
        let group = GroupHeader {
            stream: stream.into(),
            lsn: lsn.0.into(),
            len: 0.into(),
            records: 0.into(),
            scn: 0.into(),
            role_epoch: origin.role_epoch.into(),
            round: origin.ballot.round.into(),
            incarnation: origin.ballot.incarnation.into(),
            node: origin.ballot.node.into(),
            cluster: origin.cluster.into(),
            kind: kind as u8,
            reserved: [0; 3],
            entries_crc: 0.into(),
            span: 0.into(),
            proof: 0.into(),
            chain: 0.into(),
        };
        let end = self.state.len + RECORD_HEADER_BYTES + GROUP_HEADER_BYTES;
        self.state.open = Some(OpenGroup { record, group, entries_crc: 0, records: 0, end });
        self.state.assert_invariants(self.bytes.len());
        assert!(self.room() <= GROUP_BYTES_MAX - GROUP_HEADER_BYTES, "the group has a limit");
        Ok(())
    }

    /// Adds an entry to the open group and returns its LSN.
    ///
    /// # Errors
    /// [`Full`]: nothing changed.
    ///
    /// # Panics
    /// When no group is open, or `payload` is longer than [`RECORD_BYTES_MAX`].
    pub fn push_entry(
        &mut self,
        payload: &[u8],
        producer: u64,
        sequence: u64,
    ) -> Result<Lsn, Full> {
        assert!(payload.len() <= RECORD_BYTES_MAX, "record of {} bytes", payload.len());
        let taken = entry_bytes(payload.len());
        assert!(self.state.open.is_some(), "an entry is part of a group");
        if self.room() < taken {
            return Err(Full);
        }
        let start = self.state.len + RECORD_HEADER_BYTES;
        let open = self.state.open.as_mut().expect("a group is open");
        let lsn = Lsn(open.group.lsn.get()).advance((open.end - start) as u64);
        let header = EntryHeader {
            len: (payload.len() as u32).into(),
            reserved: 0.into(),
            producer: producer.into(),
            sequence: sequence.into(),
        };
        let bytes = &mut self.bytes[open.end..open.end + taken];
        bytes[..ENTRY_HEADER_BYTES].copy_from_slice(header.as_bytes());
        let (body, pad) = bytes[ENTRY_HEADER_BYTES..].split_at_mut(payload.len());
        body.copy_from_slice(payload);
        assert!(pad.len() < RECORD_ALIGN, "the pad ends the entry");
        pad.fill(0);
        open.entries_crc = crc32c::crc32c_append(open.entries_crc, bytes);
        open.records += 1;
        open.end += taken;
        assert!(open.end - start <= GROUP_BYTES_MAX, "there was room");
        assert!(lsn.0.is_multiple_of(Lsn::ALIGN), "entries start at an LSN");
        assert!(lsn.0 >= open.group.lsn.get() + GROUP_HEADER_BYTES as u64);
        Ok(lsn)
    }

    /// Closes the open group: one SCN for all its records, and the chain after what was before.
    ///
    /// # Panics
    /// When no group is open.
    pub fn end_group(&mut self, scn: u64, chain_before: u64) -> RecordMeta {
        let mut open = self.state.open.take().expect("a group is open");
        let start = self.state.len + RECORD_HEADER_BYTES;
        open.assert_invariants(start);
        let len = open.end - start;
        let group = &mut open.group;
        group.len = (len as u32).into();
        group.records = open.records.into();
        group.scn = scn.into();
        group.entries_crc = open.entries_crc.into();
        group.chain = chain(chain_before, group).into();
        self.bytes[start..start + GROUP_HEADER_BYTES].copy_from_slice(group.as_bytes());
        open.record.len = (len as u32).into();
        assert!(open.group.follows(chain_before), "a reader will find the group in its chain");
        let meta = self.seal_group(open.record, &open.group);
        assert!(meta.records == open.records && meta.scn == scn);
        meta
    }

    /// Closes the open group, a base for a log that ends with the chain value `before`. The bytes
    /// that it stands for end at `end`.
    ///
    /// # Panics
    /// When no base is open, or it does not end above its start.
    pub fn end_base(&mut self, scn: u64, end: Boundary, before: u64) -> RecordMeta {
        let mut open = self.state.open.take().expect("a group is open");
        let start = self.state.len + RECORD_HEADER_BYTES;
        open.assert_invariants(start);
        let len = open.end - start;
        let group = &mut open.group;
        assert!(group.is_base(), "only a base takes positions without bytes");
        let Boundary { lsn: end, chain } = end;
        assert!(end.0.is_multiple_of(Lsn::ALIGN) && end <= Lsn::MAX, "a base to {end}");
        group.len = (len as u32).into();
        group.records = open.records.into();
        group.scn = scn.into();
        group.entries_crc = open.entries_crc.into();
        assert!(end > group.lsn(), "a base takes positions");
        group.span = end.since(group.lsn()).into();
        group.chain = chain.into();
        group.proof = proof(before, group).into();
        self.bytes[start..start + GROUP_HEADER_BYTES].copy_from_slice(group.as_bytes());
        open.record.len = (len as u32).into();
        assert!(open.group.follows(before), "a reader will find the group in its chain");
        let meta = self.seal_group(open.record, &open.group);
        assert!(meta.end == end && meta.chain == chain, "the log goes on behind it");
        meta
    }

    /// Copies a group that is already made.
    ///
    /// # Errors
    /// [`BadPush`]: nothing changed.
    ///
    /// # Panics
    /// When a group is open.
    pub fn push_raw_group(
        &mut self,
        group_bytes: &[u8],
        ballot: Ballot,
        flags: u8,
    ) -> Result<RecordMeta, BadPush> {
        self.copy_group(Kind::Group, group_bytes, ballot, flags)
    }

    /// Copies a group that was logged here before: `flags` is [`FLAG_STAGED`] when its first copy
    /// is lost and others gave it.
    ///
    /// # Errors
    /// [`BadPush`]: nothing changed.
    ///
    /// # Panics
    /// When a group is open.
    pub fn push_moved_group(
        &mut self,
        group_bytes: &[u8],
        ballot: Ballot,
        flags: u8,
    ) -> Result<RecordMeta, BadPush> {
        self.copy_group(Kind::Moved, group_bytes, ballot, flags)
    }

    fn copy_group(
        &mut self,
        kind: Kind,
        group_bytes: &[u8],
        ballot: Ballot,
        flags: u8,
    ) -> Result<RecordMeta, BadPush> {
        assert!(kind.is_group(), "a record of another kind");
        assert!(self.state.open.is_none(), "a group is open");
        let group = parse_group(group_bytes).map_err(BadPush::Group)?;
        if self.room() < RECORD_HEADER_BYTES + group_bytes.len() {
            return Err(Full.into());
        }
        let start = self.state.len + RECORD_HEADER_BYTES;
        self.bytes[start..start + group_bytes.len()].copy_from_slice(group_bytes);
        let (stream, lsn) = (group.stream.get(), group.lsn());
        let mut record = record_header(kind, flags, stream, lsn, ballot, 0);
        record.len = group.len;
        let meta = self.seal_group(record, &group);
        assert!(meta.len as usize == group_bytes.len(), "the group is there whole");
        assert!(meta.ballot == ballot && meta.flags == flags);
        Ok(meta)
    }

    /// Adds a record that takes no place in its stream. A Takeover's `body` starts with the
    /// chain at its LSN (u64, little-endian).
    ///
    /// # Errors
    /// [`Full`]: nothing changed.
    ///
    /// # Panics
    /// When a group is open, `kind` is one of groups, or a Takeover has no chain.
    pub fn push_record(
        &mut self,
        kind: Kind,
        stream: u64,
        lsn: Lsn,
        ballot: Ballot,
        body: &[u8],
    ) -> Result<RecordMeta, Full> {
        assert!(self.state.open.is_none(), "a group is open");
        assert!(!kind.is_group(), "groups are pushed as groups");
        assert!(kind != Kind::Takeover || body.len() >= 8, "a Takeover starts with a chain");
        let taken = RECORD_HEADER_BYTES + body.len().next_multiple_of(RECORD_ALIGN);
        if self.room() < taken {
            return Err(Full);
        }
        let start = self.state.len + RECORD_HEADER_BYTES;
        let (bytes, pad) = self.bytes[start..self.state.len + taken].split_at_mut(body.len());
        bytes.copy_from_slice(body);
        assert!(pad.len() < RECORD_ALIGN, "the pad ends the record");
        pad.fill(0);
        let mut header = record_header(kind, 0, stream, lsn, ballot, body.len());
        header.body_crc = crc32c::crc32c(body).into();
        let chain = if kind == Kind::Takeover { leading_u64(body) } else { 0 };
        let meta = RecordMeta {
            kind,
            flags: 0,
            stream,
            lsn,
            end: lsn,
            ballot,
            chain,
            at: self.state.len as u32,
            len: body.len() as u32,
            records: 0,
            scn: 0,
        };
        Ok(self.seal_record(header, meta))
    }

    /// Ends the body and zeroes the pad after it.
    ///
    /// # Panics
    /// When a group is open or nothing was pushed.
    pub fn finish(self) -> Body {
        let BodyBuilder { bytes, state } = self;
        assert!(state.open.is_none(), "a group is open");
        assert!(state.len > 0, "an empty body is not written");
        pad(bytes, state.len);
        let (len, headers_crc) = (state.len as u32, state.headers_crc);
        let body = Body { len, headers_crc, metas: state.metas };
        body.assert_whole();
        body
    }

    fn seal_group(&mut self, mut record: RecordHeader, group: &GroupHeader) -> RecordMeta {
        // What a reader compares: see `check_record`.
        assert!(record.stream == group.stream, "record and group are of one stream");
        assert!(record.lsn == group.lsn, "record and group stand at one position");
        assert!(record.len == group.len, "a group fills its record");
        record.body_crc = crc32c::crc32c(group.as_bytes()).into();
        record.span = group.span;
        let kind = Kind::from_code(record.kind).expect("made of a kind");
        let meta = RecordMeta {
            kind,
            flags: record.flags,
            stream: group.stream.get(),
            lsn: group.lsn(),
            end: group.end(),
            ballot: record.ballot(),
            chain: group.chain.get(),
            at: self.state.len as u32,
            len: group.len.get(),
            records: group.records.get(),
            scn: group.scn.get(),
        };
        self.seal_record(record, meta)
    }

    fn seal_record(&mut self, record: RecordHeader, meta: RecordMeta) -> RecordMeta {
        // The meta is what is known of the record while the node runs, the header what a recovery
        // will know.
        let at = self.state.len;
        assert!(meta.at as usize == at, "records stand next to each other");
        assert!(record.kind == meta.kind as u8 && record.flags == meta.flags);
        assert!(record.len.get() == meta.len && record.stream.get() == meta.stream);
        assert!(record.lsn() == meta.lsn && record.ballot() == meta.ballot);
        assert!(meta.end >= meta.lsn, "positions go up");
        assert!(meta.kind.is_group() == (meta.end > meta.lsn), "only a group takes a place");
        self.bytes[at..at + RECORD_HEADER_BYTES].copy_from_slice(record.as_bytes());
        self.state.headers_crc = crc32c::crc32c_append(self.state.headers_crc, record.as_bytes());
        self.state.metas.push(meta);
        self.state.len = meta.next_at();
        self.state.assert_invariants(self.bytes.len());
        meta
    }
}

/// Zeroes the pad after a body of `len` in `bytes`, a slot without its head. For bodies that were
/// received; [`BodyBuilder::finish`] does it by itself.
///
/// # Panics
/// When the body is longer than `bytes`.
pub fn pad(bytes: &mut [u8], len: usize) {
    assert!(len <= bytes.len(), "a body stays within its slot");
    let end = (block_bytes(len) - BLOCK_HEAD_BYTES).min(bytes.len());
    assert!(len <= end && end - len < BLOCK_ALIGN, "the pad ends the block");
    bytes[len..end].fill(0);
}

pub(crate) fn leading_u64(bytes: &[u8]) -> u64 {
    assert!(bytes.len() >= 8, "the length was checked");
    let first: [u8; 8] = bytes[..8].try_into().expect("eight bytes");
    U64::from_bytes(first).get()
}

fn record_header(
    kind: Kind,
    flags: u8,
    stream: u64,
    lsn: Lsn,
    ballot: Ballot,
    len: usize,
) -> RecordHeader {
    assert!(flags & !FLAG_STAGED == 0, "unknown flags {flags}");
    assert!(flags == 0 || kind.is_group(), "only groups are staged");
    assert!(lsn <= Lsn::MAX, "{kind:?} at {lsn}");
    assert!(len <= BODY_BYTES_MAX - RECORD_HEADER_BYTES, "{kind:?} of {len} bytes");
    RecordHeader {
        kind: kind as u8,
        flags,
        reserved: [0; 2],
        len: (len as u32).into(),
        stream: stream.into(),
        lsn: lsn.0.into(),
        round: ballot.round.into(),
        incarnation: ballot.incarnation.into(),
        node: ballot.node.into(),
        body_crc: 0.into(),
        span: 0.into(),
    }
}
