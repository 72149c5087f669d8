//! What a checkpoint says: records of kind Checkpoint, and a stream's log in one.
//!
//! A checkpoint is a Begin, parts and an End, with other blocks in between. A stream's state is
//! cut into parts that follow each other without a record of that stream between them, so that it
//! is the state as of its last part, and of its first.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::HOLES_MAX;
use crate::log::{Boundary, Extent};
use crate::lsn::{Ballot, Lsn};
use crate::record::Kind;
use crate::segment::Place;

/// Bytes of a part, the head of its record not counted.
pub const CHECKPOINT_PART_BYTES: usize = 60 << 10;
/// Parts of one stream.
pub const CHECKPOINT_PARTS_MAX: u32 = 256;
/// Ends of groups above the committed position in one image.
pub const CHECKPOINT_BOUNDARIES_MAX: usize = 64 << 10;
/// Runs in one image: those since the begin of the checkpoint.
pub const CHECKPOINT_EXTENTS_MAX: usize = 64 << 10;

const HEAD_BYTES: usize = size_of::<CheckpointHead>();
const BEGIN: u8 = 1;
const PART: u8 = 2;
const END: u8 = 3;

/// Begins every record; bytes of the owner or of a stream's state follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct CheckpointHead {
    code: u8,
    reserved: [u8; 7],
    id: U64,
    part: U32,
    parts: U32,
    streams: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBoundary {
    lsn: U64,
    chain: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBallot {
    round: U64,
    incarnation: U64,
    node: U32,
}

/// Begins an image; so many boundaries and so many runs follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ImageHead {
    base: RawBoundary,
    committed: RawBoundary,
    promised: RawBallot,
    accepting: RawBallot,
    last_scn: U64,
    boundaries: U32,
    extents: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtent {
    start: U64,
    end: U64,
    segment: U64,
    offset: U64,
    block: U64,
    len: U32,
    ballot: RawBallot,
    moved: U32,
}

const _: () = assert!(HEAD_BYTES == 32);
const _: () = assert!(size_of::<ImageHead>() == 88);
const _: () = assert!(size_of::<RawBoundary>() == 16);
const _: () = assert!(size_of::<RawBallot>() == 20);
const _: () = assert!(size_of::<RawExtent>() == 68);
const _: () = assert!(HEAD_BYTES + CHECKPOINT_PART_BYTES <= 64 << 10, "a slice is 64 KiB");
const _: () = assert!(
    size_of::<ImageHead>()
        + CHECKPOINT_BOUNDARIES_MAX * size_of::<RawBoundary>()
        + CHECKPOINT_EXTENTS_MAX * size_of::<RawExtent>()
        < CHECKPOINT_PARTS_MAX as usize * CHECKPOINT_PART_BYTES,
    "the largest image fits"
);
const _: () = assert!(BEGIN != 0 && PART != 0 && END != 0, "zeros are no checkpoint");
const _: () = assert!(!Kind::Checkpoint.is_hard_state(), "it says again what others said");

/// Why bytes are no part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCheckpoint {
    /// The bytes end in the middle of a value.
    #[error("the bytes end in the middle of a value")]
    Truncated,
    /// A code, count or reserved byte that cannot be.
    #[error("impossible values")]
    Impossible,
}

/// One record of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointRecord<'a> {
    /// It begins.
    Begin {
        /// Which one: as in its other records.
        id: u64,
        /// What the owner says of the whole shard.
        bytes: &'a [u8],
    },
    /// Part of a stream's state.
    Part {
        /// Which checkpoint.
        id: u64,
        /// Its number, from 0.
        part: u32,
        /// Parts of the stream.
        parts: u32,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// It is complete.
    End {
        /// Which one.
        id: u64,
        /// Streams in it.
        streams: u64,
    },
}

impl<'a> CheckpointRecord<'a> {
    /// The bytes of the record.
    pub fn encode(&self) -> Vec<u8> {
        let (code, id, part, parts, streams, bytes): (u8, u64, u32, u32, u64, &[u8]) = match *self {
            CheckpointRecord::Begin { id, bytes } => (BEGIN, id, 0, 0, 0, bytes),
            CheckpointRecord::Part { id, part, parts, bytes } => (PART, id, part, parts, 0, bytes),
            CheckpointRecord::End { id, streams } => (END, id, 0, 0, streams, &[]),
        };
        assert!(bytes.len() <= CHECKPOINT_PART_BYTES, "a slice of {} bytes", bytes.len());
        assert!(part <= parts && parts <= CHECKPOINT_PARTS_MAX, "part {part} of {parts}");
        let (id, streams) = (id.into(), streams.into());
        let (part, parts) = (part.into(), parts.into());
        let head = CheckpointHead { code, reserved: [0; 7], id, part, parts, streams };
        let mut out = head.as_bytes().to_vec();
        assert!(out.len() == HEAD_BYTES, "the head has its length");
        out.extend_from_slice(bytes);
        out
    }

    /// Reads the bytes of a record.
    ///
    /// # Errors
    /// [`BadCheckpoint`].
    pub fn decode(record: &'a [u8]) -> Result<CheckpointRecord<'a>, BadCheckpoint> {
        let (head, bytes) = CheckpointHead::ref_from_prefix(record).map_err(truncated)?;
        assert!(bytes.len() + HEAD_BYTES == record.len(), "the head was taken off");
        if head.reserved != [0; 7] || bytes.len() > CHECKPOINT_PART_BYTES {
            return Err(BadCheckpoint::Impossible);
        }
        let (id, streams) = (head.id.get(), head.streams.get());
        let (part, parts) = (head.part.get(), head.parts.get());
        match head.code {
            BEGIN if (part, parts, streams) == (0, 0, 0) => {
                Ok(CheckpointRecord::Begin { id, bytes })
            }
            PART if part < parts && parts <= CHECKPOINT_PARTS_MAX && streams == 0 => {
                Ok(CheckpointRecord::Part { id, part, parts, bytes })
            }
            END if (part, parts) == (0, 0) && bytes.is_empty() => {
                Ok(CheckpointRecord::End { id, streams })
            }
            _ => Err(BadCheckpoint::Impossible),
        }
    }
}

/// A [`StreamLog`](crate::StreamLog) as a checkpoint tells it. Runs before the checkpoint's begin
/// are left out: they are replayed from their own records, or the log begins behind them because
/// none of them is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogImage {
    /// Where the log begins.
    pub base: Boundary,
    /// Known committed.
    pub committed: Boundary,
    /// Ends of groups above it.
    pub boundaries: Vec<Boundary>,
    /// The runs since the begin of the checkpoint.
    pub extents: Vec<Extent>,
    /// Highest ballot promised.
    pub promised: Ballot,
    /// Ballot of the last takeover.
    pub accepting: Ballot,
    /// Highest SCN of any group.
    pub last_scn: u64,
}

impl LogImage {
    /// End of the log.
    pub fn end(&self) -> Boundary {
        self.boundaries.last().copied().unwrap_or(self.committed)
    }

    /// Ranges of the log without a run in the image.
    pub(crate) fn gaps(&self) -> Vec<(Lsn, Lsn)> {
        let starts = std::iter::once(self.base.lsn).chain(self.extents.iter().map(|run| run.end));
        let ends = self.extents.iter().map(|run| run.start).chain([self.end().lsn]);
        let gaps: Vec<(Lsn, Lsn)> = starts.zip(ends).filter(|(start, end)| start < end).collect();
        assert!(gaps.len() <= self.extents.len() + 1, "one before each run, and one at the end");
        gaps
    }

    /// Appends the encoding.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        assert!(self.boundaries.len() <= CHECKPOINT_BOUNDARIES_MAX, "its owner looked");
        assert!(self.extents.len() <= CHECKPOINT_EXTENTS_MAX, "its owner looked");
        let head = ImageHead {
            base: self.base.into(),
            committed: self.committed.into(),
            promised: self.promised.into(),
            accepting: self.accepting.into(),
            last_scn: self.last_scn.into(),
            boundaries: (self.boundaries.len() as u32).into(),
            extents: (self.extents.len() as u32).into(),
        };
        let start = out.len();
        out.extend_from_slice(head.as_bytes());
        for boundary in &self.boundaries {
            out.extend_from_slice(RawBoundary::from(*boundary).as_bytes());
        }
        for run in &self.extents {
            out.extend_from_slice(RawExtent::from(run).as_bytes());
        }
        let runs = self.extents.len() * size_of::<RawExtent>();
        let len = size_of::<ImageHead>() + self.boundaries.len() * size_of::<RawBoundary>() + runs;
        assert!(out.len() - start == len, "every part has its length");
    }

    /// Reads an image from the front of `bytes`, and says what is left.
    ///
    /// # Errors
    /// [`BadCheckpoint`]: bytes that are none, or that no log can be.
    pub fn decode(bytes: &[u8]) -> Result<(LogImage, &[u8]), BadCheckpoint> {
        let (head, rest) = ImageHead::ref_from_prefix(bytes).map_err(truncated)?;
        assert!(bytes.len() - rest.len() == size_of::<ImageHead>(), "the head was taken off");
        let (boundaries, extents) = (head.boundaries.get() as usize, head.extents.get() as usize);
        if boundaries > CHECKPOINT_BOUNDARIES_MAX || extents > CHECKPOINT_EXTENTS_MAX {
            return Err(BadCheckpoint::Impossible);
        }
        let (boundaries, rest) =
            <[RawBoundary]>::ref_from_prefix_with_elems(rest, boundaries).map_err(truncated)?;
        let (extents, rest) =
            <[RawExtent]>::ref_from_prefix_with_elems(rest, extents).map_err(truncated)?;
        let taken = size_of::<ImageHead>() + size_of_val(boundaries) + size_of_val(extents);
        assert!(taken + rest.len() == bytes.len(), "a byte is read once");
        let image = LogImage {
            base: head.base.into(),
            committed: head.committed.into(),
            boundaries: boundaries.iter().map(|boundary| (*boundary).into()).collect(),
            extents: extents.iter().map(RawExtent::read).collect::<Result<_, _>>()?,
            promised: head.promised.into(),
            accepting: head.accepting.into(),
            last_scn: head.last_scn.get(),
        };
        match image.is_sound() {
            true => Ok((image, rest)),
            false => Err(BadCheckpoint::Impossible),
        }
    }

    /// Whether a log can be like that: what the log's own invariants ask for.
    pub(crate) fn is_sound(&self) -> bool {
        let (base, committed, end) = (self.base.lsn, self.committed.lsn, self.end().lsn);
        let aligned = |b: &Boundary| b.lsn.0.is_multiple_of(Lsn::ALIGN) && b.lsn < Lsn::MAX;
        let ordered = self.boundaries.is_sorted_by(|one, next| one.lsn < next.lsn)
            && self.boundaries.first().is_none_or(|first| first.lsn > committed);
        let aligned_run = |run: &Extent| run.start.0.is_multiple_of(Lsn::ALIGN);
        let runs = self.extents.is_sorted_by(|one, next| one.end <= next.start)
            && self.extents.iter().all(|run| run.start < run.end && run.place.is_sound())
            && self.extents.iter().all(aligned_run);
        let within = self.extents.first().is_none_or(|run| run.start >= base)
            && self.extents.last().is_none_or(|run| run.end <= end);
        base <= committed
            && self.gaps().len() <= HOLES_MAX
            && [self.base, self.committed].iter().chain(&self.boundaries).all(aligned)
            && (base < committed || self.base == self.committed)
            && self.accepting <= self.promised
            && ordered
            && runs
            && within
    }
}

fn truncated<T>(_: T) -> BadCheckpoint {
    BadCheckpoint::Truncated
}

impl From<Boundary> for RawBoundary {
    fn from(boundary: Boundary) -> RawBoundary {
        RawBoundary { lsn: boundary.lsn.0.into(), chain: boundary.chain.into() }
    }
}

impl From<RawBoundary> for Boundary {
    fn from(raw: RawBoundary) -> Boundary {
        Boundary { lsn: Lsn(raw.lsn.get()), chain: raw.chain.get() }
    }
}

impl From<Ballot> for RawBallot {
    fn from(Ballot { round, node, incarnation }: Ballot) -> RawBallot {
        RawBallot { round: round.into(), incarnation: incarnation.into(), node: node.into() }
    }
}

impl From<RawBallot> for Ballot {
    fn from(RawBallot { round, incarnation, node }: RawBallot) -> Ballot {
        Ballot { round: round.get(), node: node.get(), incarnation: incarnation.get() }
    }
}

impl From<&Extent> for RawExtent {
    fn from(Extent { start, end, place, ballot, moved }: &Extent) -> RawExtent {
        RawExtent {
            start: start.0.into(),
            end: end.0.into(),
            segment: place.segment.into(),
            offset: place.offset.into(),
            block: place.block.into(),
            len: place.len.into(),
            ballot: (*ballot).into(),
            moved: u32::from(*moved).into(),
        }
    }
}

impl RawExtent {
    fn read(&self) -> Result<Extent, BadCheckpoint> {
        let (start, end) = (Lsn(self.start.get()), Lsn(self.end.get()));
        let (segment, offset, block) = (self.segment.get(), self.offset.get(), self.block.get());
        let place = Place { segment, offset, block, len: self.len.get() };
        let moved = match self.moved.get() {
            moved @ 0..=1 => moved == 1,
            _ => return Err(BadCheckpoint::Impossible),
        };
        Ok(Extent { start, end, place, ballot: self.ballot.into(), moved })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> LogImage {
        let ballot = |round| Ballot { round, node: 1, incarnation: 9 };
        let at = |lsn, chain| Boundary { lsn: Lsn(lsn), chain };
        let run = |start, end, block| Extent {
            start: Lsn(start),
            end: Lsn(end),
            place: Place { segment: 3, offset: block * 4096, block, len: 4096 },
            ballot: ballot(4),
            moved: block == 8,
        };
        LogImage {
            base: at(80, 0),
            committed: at(160, 2),
            boundaries: vec![at(240, 3), at(320, 4)],
            extents: vec![run(96, 160, 7), run(160, 240, 8), run(240, 320, 9)],
            promised: ballot(5),
            accepting: ballot(4),
            last_scn: 77,
        }
    }

    #[test]
    fn an_image_reads_back_and_a_shorter_one_does_not() {
        let mut bytes = Vec::new();
        image().encode_into(&mut bytes);
        bytes.extend_from_slice(b"rest");
        assert_eq!(LogImage::decode(&bytes), Ok((image(), &b"rest"[..])));
        for len in 0..bytes.len() - 4 {
            assert_eq!(LogImage::decode(&bytes[..len]), Err(BadCheckpoint::Truncated), "{len}");
        }
    }

    /// Whatever the bytes are, they are no log or one whose invariants hold.
    #[test]
    fn a_hostile_image_is_refused_or_sound() {
        let mut bytes = Vec::new();
        image().encode_into(&mut bytes);
        let mut refused = 0;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                match LogImage::decode(&bad) {
                    Ok((image, _)) => {
                        let log = crate::StreamLog::restore(image.clone());
                        assert_eq!(log.end(), image.end());
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > 100, "{refused}");
    }

    #[test]
    fn a_record_reads_back_and_garbage_does_not() {
        let records = [
            CheckpointRecord::Begin { id: 7, bytes: b"shard" },
            CheckpointRecord::Part { id: 7, part: 1, parts: 3, bytes: &[5; 100] },
            CheckpointRecord::End { id: 7, streams: 2 },
        ];
        for record in records {
            let bytes = record.encode();
            assert_eq!(CheckpointRecord::decode(&bytes), Ok(record));
            for len in 0..HEAD_BYTES {
                let short = CheckpointRecord::decode(&bytes[..len]);
                assert_eq!(short, Err(BadCheckpoint::Truncated));
            }
            for at in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 0x40;
                assert_eq!(CheckpointRecord::decode(&bad), Err(BadCheckpoint::Impossible));
            }
        }
        let beyond = CheckpointRecord::Part { id: 1, part: 2, parts: 2, bytes: &[] }.encode();
        assert_eq!(CheckpointRecord::decode(&beyond), Err(BadCheckpoint::Impossible));
        let long = [records[2].encode(), vec![0; 8]].concat();
        assert_eq!(CheckpointRecord::decode(&long), Err(BadCheckpoint::Impossible));
    }

    #[test]
    fn a_run_where_no_block_can_stand_is_none() {
        let places: [fn(&mut Place); 4] = [
            |place| place.offset = u64::MAX,
            |place| place.block = u64::MAX,
            |place| place.segment = 0,
            |place| place.len = 0,
        ];
        for change in places {
            let mut place = Place { segment: 3, offset: 4096, block: 1, len: 4096 };
            assert!(place.is_sound());
            change(&mut place);
            assert!(!place.is_sound(), "{place:?}");
            let run = Extent {
                start: Lsn::ZERO,
                end: Lsn(64),
                place,
                ballot: Ballot::NONE,
                moved: false,
            };
            let end = Boundary { lsn: Lsn(64), chain: 1 };
            let image = LogImage {
                base: Boundary { lsn: Lsn::ZERO, chain: 0 },
                committed: end,
                boundaries: Vec::new(),
                extents: vec![run],
                promised: Ballot::NONE,
                accepting: Ballot::NONE,
                last_scn: 0,
            };
            let mut bytes = Vec::new();
            image.encode_into(&mut bytes);
            assert_eq!(LogImage::decode(&bytes).err(), Some(BadCheckpoint::Impossible));
        }
    }
}
