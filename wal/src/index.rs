//! The index at the end of a sealed segment: which streams it holds and where. Mirrors FORMAT.md,
//! "Segment index".
//!
//! It is made from what is in the segment and can be made again; when it is damaged a reader
//! scans the segment.

use std::collections::BTreeMap;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{Expect, parse};
use crate::body::RecordMeta;
use crate::limits::{BLOCK_ALIGN, BLOCK_HEAD_BYTES, SEGMENT_HEADER_BYTES, data_end, index_reserve};
use crate::lsn::Lsn;
use crate::parse::parse_body;
use crate::record::{Kind, RECORD_ALIGN, RECORD_HEADER_BYTES};
use crate::segment::{Place, SegmentHeader};

/// The start of an index.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexHeader {
    /// 1.
    pub format: U32,
    /// 1 when every stream of the segment is listed.
    pub complete: U32,
    /// Streams listed.
    pub streams: U32,
    /// Points listed.
    pub points: U32,
    /// First block of the segment; 0 when it holds none.
    pub first_block: U64,
    /// Last block of the segment.
    pub last_block: U64,
    /// First byte after the last block.
    pub end: U64,
    /// Zero.
    pub reserved: U64,
}

/// One stream of an index.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexStream {
    /// The stream.
    pub stream: U64,
    /// Lowest LSN of its groups.
    pub first_lsn: U64,
    /// Highest end of its groups.
    pub last_lsn: U64,
    /// Lowest SCN.
    pub first_scn: U64,
    /// Highest SCN.
    pub last_scn: U64,
    /// Its first point in the list of points.
    pub first_point: U32,
    /// Its points.
    pub points: U32,
}

/// A block in which a stream has groups.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexPoint {
    /// LSN of the stream's first group in the block.
    pub lsn: U64,
    /// Offset of the block in the segment.
    pub offset: U64,
}

const INDEX_FORMAT: u32 = 1;
const HEADER: usize = size_of::<IndexHeader>();
const STREAM: usize = size_of::<IndexStream>();
const POINT: usize = size_of::<IndexPoint>();

const _: () = assert!(HEADER.is_multiple_of(RECORD_ALIGN), "an index needs no pad");
const _: () = assert!(STREAM.is_multiple_of(RECORD_ALIGN) && POINT.is_multiple_of(RECORD_ALIGN));
const _: () = assert!(
    BLOCK_HEAD_BYTES + RECORD_HEADER_BYTES + HEADER + STREAM + POINT <= BLOCK_ALIGN,
    "the smallest index has room for a stream"
);

/// What a sealed segment says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentIndex {
    /// Whether every stream of the segment is listed; if not, an unlisted stream may be in it.
    pub complete: bool,
    /// First block; 0 when the segment holds none.
    pub first_block: u64,
    /// Last block.
    pub last_block: u64,
    /// First byte after the last block.
    pub end: u64,
    /// The streams, by id.
    pub streams: Vec<StreamExtent>,
}

/// One stream in a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamExtent {
    /// The stream.
    pub stream: u64,
    /// Lowest LSN of its groups.
    pub first: Lsn,
    /// Highest end of its groups.
    pub last: Lsn,
    /// Lowest SCN.
    pub first_scn: u64,
    /// Highest SCN.
    pub last_scn: u64,
    /// LSN and offset of some of its blocks, in the order of the segment. LSNs may go back where
    /// a takeover voided a tail.
    pub points: Vec<(Lsn, u64)>,
}

impl SegmentIndex {
    /// From where to read to meet everything of `stream` from `lsn` on: the offset of a block at
    /// or before the first group that reaches beyond `lsn`.
    pub fn find(&self, stream: u64, lsn: Lsn) -> Option<u64> {
        let at = self.streams.binary_search_by_key(&stream, |extent| extent.stream).ok()?;
        let extent = &self.streams[at];
        if lsn >= extent.last {
            return None;
        }
        let before = extent.points.iter().rfind(|(first, _)| *first <= lsn);
        before.or(extent.points.first()).map(|&(_, offset)| offset)
    }
}

/// Why a segment has no usable index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the segment has no readable index")]
pub struct BadIndex;

/// Reads the index at the end of a segment, for example of a mapped file.
///
/// # Errors
/// [`BadIndex`]: not sealed, or damaged.
pub fn parse_segment_index(segment: &[u8], expect: &Expect) -> Result<SegmentIndex, BadIndex> {
    let header = SegmentHeader::parse(segment, expect).map_err(|_| BadIndex)?;
    let at = data_end(header.bytes.get());
    let block = segment.get(at as usize..).ok_or(BadIndex)?;
    parse_index_block(block, &expect.at(at), at)
}

/// Reads an index from the bytes of its block alone. `data_end` bounds the offsets in it.
///
/// # Errors
/// [`BadIndex`].
pub fn parse_index_block(
    block: &[u8],
    expect: &Expect,
    data_end: u64,
) -> Result<SegmentIndex, BadIndex> {
    assert!(data_end.is_multiple_of(BLOCK_ALIGN as u64), "blocks end aligned");
    let head = parse(block, expect).map_err(|_| BadIndex)?;
    let body = head.body(block).ok_or(BadIndex)?;
    let metas = parse_body(body, head.headers_crc.get()).map_err(|_| BadIndex)?;
    let meta = metas.first().filter(|meta| meta.kind == Kind::SegmentIndex).ok_or(BadIndex)?;
    decode(&body[meta.range()], data_end).ok_or(BadIndex)
}

fn decode(bytes: &[u8], data_end: u64) -> Option<SegmentIndex> {
    let (header, rest) = IndexHeader::read_from_prefix(bytes).ok()?;
    let (streams, points) = (header.streams.get() as usize, header.points.get() as usize);
    let streams_len = streams.checked_mul(STREAM)?;
    let points_len = points.checked_mul(POINT)?;
    if header.format.get() != INDEX_FORMAT || streams_len.checked_add(points_len)? != rest.len() {
        return None;
    }
    let (stream_bytes, point_bytes) = rest.split_at(streams_len);
    let mut index = SegmentIndex {
        complete: header.complete.get() == 1,
        first_block: header.first_block.get(),
        last_block: header.last_block.get(),
        end: header.end.get(),
        streams: Vec::with_capacity(streams),
    };
    let mut above = None;
    for bytes in stream_bytes.chunks_exact(STREAM) {
        let stream = IndexStream::read_from_bytes(bytes).ok()?;
        let id = stream.stream.get();
        if above.is_some_and(|above| id <= above) || index.end > data_end {
            return None;
        }
        above = Some(id);
        let first = stream.first_point.get() as usize;
        let last = first.checked_add(stream.points.get() as usize)?;
        let own = point_bytes.get(first.checked_mul(POINT)?..last.checked_mul(POINT)?)?;
        let mut points = Vec::with_capacity(own.len() / POINT);
        for bytes in own.chunks_exact(POINT) {
            let point = IndexPoint::read_from_bytes(bytes).ok()?;
            let offset = point.offset.get();
            if offset >= index.end || !offset.is_multiple_of(BLOCK_ALIGN as u64) {
                return None;
            }
            points.push((Lsn(point.lsn.get()), offset));
        }
        index.streams.push(StreamExtent {
            stream: id,
            first: Lsn(stream.first_lsn.get()),
            last: Lsn(stream.last_lsn.get()),
            first_scn: stream.first_scn.get(),
            last_scn: stream.last_scn.get(),
            points,
        });
    }
    assert!(index.streams.len() == streams, "each stream once");
    assert!(index.streams.is_sorted_by_key(|extent| extent.stream), "found by halving");
    Some(index)
}

/// Collects the index of a segment while its blocks are placed. Bounded by the room at the end
/// of the segment: points get sparser, and then streams are left out.
#[derive(Debug)]
pub(crate) struct IndexBuilder {
    room: usize,
    stride: u64,
    points: usize,
    index: SegmentIndex,
    streams: BTreeMap<u64, StreamExtent>,
}

impl IndexBuilder {
    pub(crate) fn new(segment_bytes: u64) -> IndexBuilder {
        let room = index_reserve(segment_bytes) as usize - BLOCK_HEAD_BYTES - RECORD_HEADER_BYTES;
        assert!(room > HEADER + STREAM + POINT, "an index has room for a stream");
        let index = SegmentIndex {
            complete: true,
            first_block: 0,
            last_block: 0,
            end: SEGMENT_HEADER_BYTES as u64,
            streams: Vec::new(),
        };
        let room = room - room % RECORD_ALIGN;
        let streams = BTreeMap::new();
        let builder = IndexBuilder { room, stride: 1, points: 0, index, streams };
        builder.assert_invariants();
        builder
    }

    fn assert_invariants(&self) {
        let SegmentIndex { first_block, last_block, end, complete, .. } = self.index;
        assert!((first_block == 0) == (last_block == 0), "blocks are numbered from 1");
        assert!(first_block <= last_block, "blocks go up");
        assert!(end.is_multiple_of(BLOCK_ALIGN as u64), "blocks end aligned");
        let header = SEGMENT_HEADER_BYTES as u64;
        assert!((last_block == 0) == (end == header), "a block takes bytes after the header");
        assert!(self.bytes() <= self.room, "an index stays within its room");
        assert!(self.points >= self.streams.len(), "every stream is found by a point");
        assert!(complete || !self.streams.is_empty(), "streams are left out of a full index only");
        assert!(self.stride.is_power_of_two(), "the stride grows by doubling");
    }

    pub(crate) fn last_block(&self) -> u64 {
        self.index.last_block
    }

    pub(crate) fn end(&self) -> u64 {
        self.index.end
    }

    /// Takes in one block. Blocks come in the order of their offsets.
    pub(crate) fn note(&mut self, place: &Place, metas: &[RecordMeta]) {
        assert!(place.offset >= self.index.end, "blocks are noted in order");
        assert!(place.block > self.index.last_block, "blocks are noted once");
        assert!(place.end() > place.offset, "a block has bytes");
        if self.index.first_block == 0 {
            self.index.first_block = place.block;
        }
        self.index.last_block = place.block;
        self.index.end = place.end();
        self.note_groups(place, metas);
    }

    /// Takes in more records of the last block.
    pub(crate) fn note_more(&mut self, place: &Place, metas: &[RecordMeta]) {
        assert!(place.block == self.index.last_block, "only the last block grows");
        assert!(place.end() == self.index.end, "a block keeps its place");
        self.note_groups(place, metas);
    }

    fn note_groups(&mut self, place: &Place, metas: &[RecordMeta]) {
        assert!(self.index.first_block <= place.block, "blocks are noted in order");
        assert!(place.end() <= self.index.end, "the block was noted");
        for meta in metas.iter().filter(|meta| meta.kind == Kind::Group) {
            self.note_group(place.offset, meta);
        }
        self.assert_invariants();
    }

    fn note_group(&mut self, offset: u64, meta: &RecordMeta) {
        assert!(meta.lsn < meta.end, "a group takes a place in its stream");
        assert!(offset < self.index.end, "the group stands in a block that was noted");
        if !self.streams.contains_key(&meta.stream) {
            while self.bytes() + STREAM + POINT > self.room && self.thin() {}
            if self.bytes() + STREAM + POINT > self.room {
                self.index.complete = false;
                return;
            }
        }
        let extent = self.streams.entry(meta.stream).or_insert_with(|| StreamExtent {
            stream: meta.stream,
            first: meta.lsn,
            last: meta.end,
            first_scn: meta.scn,
            last_scn: meta.scn,
            points: Vec::new(),
        });
        extent.first = extent.first.min(meta.lsn);
        extent.last = extent.last.max(meta.end);
        extent.first_scn = extent.first_scn.min(meta.scn);
        extent.last_scn = extent.last_scn.max(meta.scn);
        let far = extent.points.last().is_none_or(|&(_, last)| offset >= last + self.stride);
        if far {
            extent.points.push((meta.lsn, offset));
            self.points += 1;
            while self.bytes() > self.room && self.thin() {}
        }
        assert!(extent_is_sound(&self.streams[&meta.stream], meta), "the group is found again");
    }

    fn bytes(&self) -> usize {
        HEADER + self.streams.len() * STREAM + self.points * POINT
    }

    /// Makes points sparser. False when each stream has one only.
    fn thin(&mut self) -> bool {
        if self.points <= self.streams.len() {
            return false;
        }
        self.stride = (self.stride * 2).max(2 * BLOCK_ALIGN as u64);
        assert!(self.stride >= 2 * BLOCK_ALIGN as u64, "points get sparser than blocks");
        let before = std::mem::take(&mut self.points);
        for extent in self.streams.values_mut() {
            let mut last = None;
            let stride = self.stride;
            extent.points.retain(|&(_, offset)| {
                let keep = last.is_none_or(|last| offset >= last + stride);
                last = if keep { Some(offset) } else { last };
                keep
            });
            assert!(!extent.points.is_empty(), "the first point stays");
            self.points += extent.points.len();
        }
        assert!(self.points <= before, "points are only taken away");
        true
    }

    /// The bytes of the SegmentIndex record.
    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(self.index.last_block > 0, "an empty segment has no index");
        assert!(self.index.first_block > 0 && self.bytes() <= self.room);
        let mut bytes = Vec::with_capacity(self.bytes());
        let header = IndexHeader {
            format: INDEX_FORMAT.into(),
            complete: u32::from(self.index.complete).into(),
            streams: (self.streams.len() as u32).into(),
            points: (self.points as u32).into(),
            first_block: self.index.first_block.into(),
            last_block: self.index.last_block.into(),
            end: self.index.end.into(),
            reserved: 0.into(),
        };
        bytes.extend_from_slice(header.as_bytes());
        let mut first_point = 0u32;
        for extent in self.streams.values() {
            let stream = IndexStream {
                stream: extent.stream.into(),
                first_lsn: extent.first.0.into(),
                last_lsn: extent.last.0.into(),
                first_scn: extent.first_scn.into(),
                last_scn: extent.last_scn.into(),
                first_point: first_point.into(),
                points: (extent.points.len() as u32).into(),
            };
            bytes.extend_from_slice(stream.as_bytes());
            first_point += extent.points.len() as u32;
        }
        for &(lsn, offset) in self.streams.values().flat_map(|extent| &extent.points) {
            let point = IndexPoint { lsn: lsn.0.into(), offset: offset.into() };
            bytes.extend_from_slice(point.as_bytes());
        }
        assert!(bytes.len() == self.bytes() && bytes.len() <= self.room);
        assert!(first_point as usize == self.points, "every point is of one stream");
        let back = decode(&bytes, self.index.end).expect("what is about to be written is readable");
        assert!(back.end == self.index.end && back.last_block == self.index.last_block);
        assert!(back.streams.len() == self.streams.len(), "every stream is read back");
        bytes
    }
}

/// Whether a stream's part of an index covers a group of it.
fn extent_is_sound(extent: &StreamExtent, meta: &RecordMeta) -> bool {
    let lsns = extent.first <= meta.lsn && meta.end <= extent.last;
    let scns = extent.first_scn <= meta.scn && meta.scn <= extent.last_scn;
    lsns && scns && !extent.points.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Ballot;

    fn meta(stream: u64, lsn: u64) -> RecordMeta {
        RecordMeta {
            kind: Kind::Group,
            flags: 0,
            stream,
            lsn: Lsn(lsn),
            end: Lsn(lsn + 96),
            ballot: Ballot::NONE,
            chain: 0,
            at: 0,
            len: 96,
            records: 0,
            scn: lsn,
        }
    }

    #[test]
    fn points_get_sparser_and_then_streams_are_left_out() {
        // Room for 4096 bytes: first many points of one stream, then many streams.
        let mut builder = IndexBuilder::new(256 << 10);
        for block in 1..=60u64 {
            let place = Place { segment: 1, offset: block * 4096, block, len: 4096 };
            builder.note(&place, &[meta(2, block * 96)]);
        }
        let index = decode(&builder.encode(), 256 << 10).unwrap();
        assert!(index.complete && index.streams[0].points.len() == 60);
        let mut builder = IndexBuilder::new(4 << 20);
        for block in 1..=900u64 {
            let place = Place { segment: 1, offset: block * 4096, block, len: 4096 };
            let own: Vec<_> = (0..block.min(700)).map(|stream| meta(stream, block * 96)).collect();
            builder.note(&place, &own);
        }
        let bytes = builder.encode();
        assert!(bytes.len() <= (4 << 20) / 100);
        let index = decode(&bytes, 4 << 20).unwrap();
        assert!(!index.complete && index.streams.len() > 400);
        for extent in &index.streams {
            let (first, offset) = extent.points[0];
            assert_eq!((first, offset), (extent.first, first.0 / 96 * 4096));
            let found = index.find(extent.stream, Lsn(extent.last.0 - 8)).unwrap();
            assert!(found <= 900 * 4096 && found >= offset);
        }
        for len in 0..bytes.len().min(4000) {
            assert!(decode(&bytes[..len], 4 << 20).is_none());
        }
    }
}
