//! Segment headers, file names and places. Mirrors FORMAT.md, "Segment header".

use std::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{BLOCK_MAGIC, Expect};
use crate::limits::{
    BLOCK_ALIGN, BLOCK_SEQ_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES,
};
use crate::recycle::LogStart;

/// First bytes of every segment.
pub const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"PLSDSEG1");
/// Version of the segment format.
pub const SEGMENT_FORMAT: u32 = 1;
/// Bytes of one copy of the segment header.
pub const SEGMENT_COPY_BYTES: usize = 512;
/// Offsets of the two copies.
pub const SEGMENT_COPIES: [usize; 2] = [0, 2048];

/// Segments are numbered up to this.
pub const SEGMENT_SEQ_MAX: u64 = 1 << 62;
/// A log whose files have higher numbers than this is not opened: it keeps numbers to go on.
pub(crate) const SEGMENT_SEQ_FOUND_MAX: u64 = SEGMENT_SEQ_MAX / 2;

const _: () = assert!(SEGMENT_SEQ_FOUND_MAX < SEGMENT_SEQ_MAX, "what is opened can go on");

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// Sequence of the segment.
    pub segment: u64,
    /// Byte offset of the block head.
    pub offset: u64,
    /// Number of the block.
    pub block: u64,
    /// Bytes of the block.
    pub len: u32,
}

impl Place {
    /// Whether a block can stand there.
    pub(crate) fn is_sound(&self) -> bool {
        let numbered = (1..=BLOCK_SEQ_MAX).contains(&self.block)
            && (1..=SEGMENT_SEQ_MAX).contains(&self.segment);
        let end = self.offset.checked_add(self.len.into());
        numbered && self.len > 0 && end.is_some_and(|end| end <= SEGMENT_BYTES_MAX)
    }

    /// First byte after the block.
    pub fn end(&self) -> u64 {
        let end = self.offset + u64::from(self.len);
        assert!(end <= SEGMENT_BYTES_MAX, "a block stands inside its segment");
        end
    }
}

/// The last block that a recovery kept. Blocks after it in older segments are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Kept {
    /// Segment of the block; 0 when no block was kept.
    pub segment_seq: u64,
    /// Number of the block.
    pub block_seq: u64,
    /// Checksum of its head; 0 when it was not readable.
    pub header_crc: u32,
}

/// The newest segments that may hold blocks, as the identity file names them before the first
/// block goes into one. So the loss of the last segment is seen, which no block tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Started {
    /// The newest one; 0 for none. It may be empty.
    pub newest: u64,
    /// The one before it, 0 when the header of the newest tells of all before.
    pub before: u64,
    /// Where the log began then: the header that said it first may be the one that is lost.
    pub start: LogStart,
}

impl Started {
    /// Whether a log can go on from there: numbers go up, and do not end.
    pub(crate) fn is_sound(&self) -> bool {
        let Started { newest, before, start } = *self;
        let upwards = (before < newest || before == 0) && start.segment <= newest;
        let numbered = newest < SEGMENT_SEQ_MAX && start.block <= BLOCK_SEQ_MAX;
        upwards && numbered && (start.segment == 0) == (start.block == 0)
    }
}

/// The header of a segment file; stands there twice.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SegmentHeader {
    /// [`SEGMENT_MAGIC`].
    pub magic: U64,
    /// [`SEGMENT_FORMAT`].
    pub format: U32,
    /// Cluster of the writer.
    pub cluster: U32,
    /// Node of the writer.
    pub node: U32,
    /// Shard of the writer.
    pub shard: U32,
    /// Which disk of that node.
    pub incarnation: U64,
    /// Sequence of the segment.
    pub seq: U64,
    /// Bytes of the segment.
    pub bytes: U64,
    /// See [`Kept`].
    pub kept_segment: U64,
    /// See [`Kept`].
    pub kept_block: U64,
    /// See [`Kept`].
    pub kept_crc: U32,
    /// 1 when a recovery started this segment, so that the kept block counts; else 0.
    pub recovered: U32,
    /// See [`LogStart`].
    pub first_segment: U64,
    /// See [`LogStart`].
    pub first_block: U64,
    /// Zero.
    pub reserved: [u8; 420],
    /// CRC-32C of the copy with this field zero.
    pub crc: U32,
}

const _: () = assert!(size_of::<SegmentHeader>() == SEGMENT_COPY_BYTES);
const _: () = assert!(SEGMENT_COPIES[1] + SEGMENT_COPY_BYTES <= SEGMENT_HEADER_BYTES);
const _: () = assert!(SEGMENT_COPIES[0] + SEGMENT_COPY_BYTES <= SEGMENT_COPIES[1]);
const _: () = assert!(
    offset_of!(SegmentHeader, crc) + size_of::<U32>() == SEGMENT_COPY_BYTES,
    "the checksum stands last"
);
const _: () = assert!(SEGMENT_MAGIC != BLOCK_MAGIC, "a segment header is no block");

/// Why bytes are no segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSegment {
    /// Both copies are zeros: the segment was never ready.
    #[error("zeros")]
    Zero,
    /// No copy is readable.
    #[error("no copy of the segment header is readable")]
    Unreadable,
    /// A readable header of another log.
    #[error("a segment of another log")]
    Foreign,
}

impl SegmentHeader {
    /// The header of segment `place.segment_seq`.
    pub fn new(place: &Expect, bytes: u64, kept: Option<Kept>) -> SegmentHeader {
        assert!((SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes));
        assert!(bytes.is_multiple_of(BLOCK_ALIGN as u64));
        assert!(place.segment_seq > 0, "segments are numbered from 1");
        assert!(place.offset == 0, "a header stands at the start of its segment");
        let recovered = u32::from(kept.is_some());
        let found = kept;
        let kept = kept.unwrap_or_default();
        assert!(kept.segment_seq < place.segment_seq, "what was kept stands in an older segment");
        assert!(kept.header_crc == 0 || kept.block_seq > 0, "the checksum is that of a block");
        let mut header = SegmentHeader {
            magic: SEGMENT_MAGIC.into(),
            format: SEGMENT_FORMAT.into(),
            cluster: place.cluster.into(),
            node: place.node.into(),
            shard: place.shard.into(),
            incarnation: place.incarnation.into(),
            seq: place.segment_seq.into(),
            bytes: bytes.into(),
            kept_segment: kept.segment_seq.into(),
            kept_block: kept.block_seq.into(),
            kept_crc: kept.header_crc.into(),
            recovered: recovered.into(),
            first_segment: 0.into(),
            first_block: 0.into(),
            reserved: [0; 420],
            crc: 0.into(),
        };
        header.crc = crc32c::crc32c(header.as_bytes()).into();
        assert!(header.kept() == found, "a recovery will read what this one says");
        header
    }

    /// The same header, saying too where the log begins.
    #[must_use]
    pub fn with_start(mut self, start: LogStart) -> SegmentHeader {
        assert!(start.segment <= self.seq.get(), "a log begins in it or before it");
        assert!(start.first_due() > 0, "blocks are numbered from 1");
        self.first_segment = start.segment.into();
        self.first_block = start.block.into();
        self.crc = 0.into();
        self.crc = crc32c::crc32c(self.as_bytes()).into();
        assert!(self.start() == start, "a recovery will read what this one says");
        self
    }

    /// Where the log began when the segment was made.
    pub fn start(&self) -> LogStart {
        LogStart { segment: self.first_segment.get(), block: self.first_block.get() }
    }

    /// Writes both copies into the first 4096 bytes of a segment.
    ///
    /// # Panics
    /// When `block` is shorter.
    pub fn encode(&self, block: &mut [u8]) {
        assert!(block.len() >= SEGMENT_HEADER_BYTES);
        block[..SEGMENT_HEADER_BYTES].fill(0);
        for at in SEGMENT_COPIES {
            let copy = &mut block[at..at + SEGMENT_COPY_BYTES];
            copy.copy_from_slice(self.as_bytes());
            let back = parse_copy(copy).expect("what is about to be written is readable");
            assert!(back.seq == self.seq, "the copy is that of the segment");
            assert!(back.kept() == self.kept(), "the copy says what the header says");
        }
    }

    /// Reads the first 4096 bytes of a segment. The sequence is not compared with `expect`: a
    /// recovery may have stopped between the header and the name.
    ///
    /// # Errors
    /// [`BadSegment`].
    pub fn parse(block: &[u8], expect: &Expect) -> Result<SegmentHeader, BadSegment> {
        let copies = SEGMENT_COPIES.map(|at| block.get(at..at + SEGMENT_COPY_BYTES));
        let found = copies.iter().flatten().find_map(|copy| parse_copy(copy));
        let Some(header) = found else {
            let zero = block.iter().all(|&byte| byte == 0);
            return Err(if zero { BadSegment::Zero } else { BadSegment::Unreadable });
        };
        let owner = (header.cluster.get(), header.node.get(), header.shard.get());
        let expected = (expect.cluster, expect.node, expect.shard);
        if owner != expected || header.incarnation.get() != expect.incarnation {
            return Err(BadSegment::Foreign);
        }
        Ok(header)
    }

    /// The block that a recovery kept, if a recovery started the segment.
    pub fn kept(&self) -> Option<Kept> {
        (self.recovered.get() == 1).then(|| Kept {
            segment_seq: self.kept_segment.get(),
            block_seq: self.kept_block.get(),
            header_crc: self.kept_crc.get(),
        })
    }
}

fn parse_copy(copy: &[u8]) -> Option<SegmentHeader> {
    assert!(copy.len() == SEGMENT_COPY_BYTES, "a copy was cut out whole");
    let header = SegmentHeader::read_from_bytes(copy).ok()?;
    let mut plain = header;
    plain.crc = 0.into();
    let bytes = header.bytes.get();
    let sane = header.magic.get() == SEGMENT_MAGIC
        && header.crc.get() == crc32c::crc32c(plain.as_bytes())
        && header.format.get() == SEGMENT_FORMAT
        && (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
        && bytes.is_multiple_of(BLOCK_ALIGN as u64)
        && says_kept(&header)
        && header.first_block.get() <= BLOCK_SEQ_MAX
        && header.reserved == [0; 420]
        && header.first_segment.get() <= header.seq.get()
        && (header.first_segment.get() == 0) == (header.first_block.get() == 0)
        && (1..=SEGMENT_SEQ_MAX).contains(&header.seq.get());
    sane.then_some(header)
}

/// Whether the fields of the kept block fit each other.
fn says_kept(header: &SegmentHeader) -> bool {
    let (segment, block) = (header.kept_segment.get(), header.kept_block.get());
    let crc = header.kept_crc.get();
    match header.recovered.get() {
        0 => (segment, block, crc) == (0, 0, 0),
        1 => segment < header.seq.get() && block <= BLOCK_SEQ_MAX && (crc == 0 || block > 0),
        _ => false,
    }
}

/// The file name of a segment.
pub fn segment_name(seq: u64) -> String {
    assert!((1..=SEGMENT_SEQ_MAX).contains(&seq), "segment {seq} has no file");
    let name = format!("{seq:016x}.seg");
    assert!(parse_segment_name(&name) == Some(seq), "a recovery finds the file by its name");
    name
}

/// The sequence in a file name, none when it is not a segment's.
pub fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if digits.len() != 16 || !plain {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().filter(|seq| (1..=SEGMENT_SEQ_MAX).contains(seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect() -> Expect {
        Expect { cluster: 1, node: 2, incarnation: 3, shard: 4, segment_seq: 5, offset: 0 }
    }

    #[test]
    fn one_damaged_copy_does_no_harm() {
        let kept = Kept { segment_seq: 4, block_seq: 77, header_crc: 9 };
        let header = SegmentHeader::new(&expect(), 8 << 20, Some(kept));
        for damaged in SEGMENT_COPIES {
            let mut block = [0; SEGMENT_HEADER_BYTES];
            header.encode(&mut block);
            block[damaged + 100] ^= 1;
            let found = SegmentHeader::parse(&block, &expect()).unwrap();
            assert_eq!((found.kept(), found.seq.get()), (Some(kept), 5));
        }
        let mut block = [0; SEGMENT_HEADER_BYTES];
        assert_eq!(SegmentHeader::parse(&block, &expect()).unwrap_err(), BadSegment::Zero);
        block[3000] = 1;
        let unreadable = SegmentHeader::parse(&block, &expect()).unwrap_err();
        assert_eq!(unreadable, BadSegment::Unreadable);
        header.encode(&mut block);
        let other = Expect { node: 8, ..expect() };
        assert_eq!(SegmentHeader::parse(&block, &other).unwrap_err(), BadSegment::Foreign);
    }

    #[test]
    fn names_are_read_back_and_strangers_are_not() {
        assert_eq!(parse_segment_name(&segment_name(0xabc)), Some(0xabc));
        for name in ["identity", "1.seg", "000000000000000A.seg", "+00000000000000a.seg", ".seg"] {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
        assert_eq!(parse_segment_name("0000000000000000.seg"), None);
    }
}
