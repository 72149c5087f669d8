//! What a checkpoint says: records of kind Checkpoint, and a stream's log in one.
//!
//! A checkpoint is a Begin, parts and an End, with other blocks in between. A stream's state is
//! cut into parts that follow each other without a record of that stream between them, so that it
//! is the state as of its last part, and of its first.

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

const HEAD_BYTES: usize = 32;
const BEGIN: u8 = 1;
const PART: u8 = 2;
const END: u8 = 3;
const EXTENT_BYTES: usize = 68;
const IMAGE_BYTES: usize = 88;
const BOUNDARY_BYTES: usize = 16;
const BALLOT_BYTES: usize = 20;

const _: () = assert!(HEAD_BYTES + CHECKPOINT_PART_BYTES <= 64 << 10, "a slice is 64 KiB");
const _: () = assert!(
    IMAGE_BYTES
        + CHECKPOINT_BOUNDARIES_MAX * BOUNDARY_BYTES
        + CHECKPOINT_EXTENTS_MAX * EXTENT_BYTES
        < CHECKPOINT_PARTS_MAX as usize * CHECKPOINT_PART_BYTES,
    "the largest image fits"
);
const _: () = assert!(IMAGE_BYTES == 2 * BOUNDARY_BYTES + 2 * BALLOT_BYTES + 8 + 2 * 4);
const _: () = assert!(EXTENT_BYTES == 5 * 8 + 4 + BALLOT_BYTES + 4);
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
        let mut out = Vec::with_capacity(HEAD_BYTES + bytes.len());
        out.extend_from_slice(&[code, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&part.to_le_bytes());
        out.extend_from_slice(&parts.to_le_bytes());
        out.extend_from_slice(&streams.to_le_bytes());
        assert!(out.len() == HEAD_BYTES, "the head has its length");
        out.extend_from_slice(bytes);
        out
    }

    /// Reads the bytes of a record.
    ///
    /// # Errors
    /// [`BadCheckpoint`].
    pub fn decode(record: &'a [u8]) -> Result<CheckpointRecord<'a>, BadCheckpoint> {
        let mut fields = Fields { rest: record };
        let code = fields.u64()?;
        let id = fields.u64()?;
        let (part, parts, streams) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let bytes = fields.rest;
        assert!(bytes.len() + HEAD_BYTES == record.len(), "the head was taken off");
        if bytes.len() > CHECKPOINT_PART_BYTES {
            return Err(BadCheckpoint::Impossible);
        }
        match u8::try_from(code).map_err(|_| BadCheckpoint::Impossible)? {
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
        let start = out.len();
        for boundary in [self.base, self.committed] {
            put_boundary(out, boundary);
        }
        put_ballot(out, self.promised);
        put_ballot(out, self.accepting);
        out.extend_from_slice(&self.last_scn.to_le_bytes());
        out.extend_from_slice(&(self.boundaries.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.extents.len() as u32).to_le_bytes());
        assert!(out.len() - start == IMAGE_BYTES, "the fixed part has its length");
        self.boundaries.iter().for_each(|boundary| put_boundary(out, *boundary));
        let taken = IMAGE_BYTES + self.boundaries.len() * BOUNDARY_BYTES;
        assert!(out.len() - start == taken, "a boundary has its length");
        for Extent { start, end, place, ballot, moved } in &self.extents {
            let at = out.len();
            for number in [start.0, end.0, place.segment, place.offset, place.block] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&place.len.to_le_bytes());
            put_ballot(out, *ballot);
            out.extend_from_slice(&u32::from(*moved).to_le_bytes());
            assert!(out.len() - at == EXTENT_BYTES, "a run has its length");
        }
    }

    /// Reads an image from the front of `bytes`, and says what is left.
    ///
    /// # Errors
    /// [`BadCheckpoint`]: bytes that are none, or that no log can be.
    pub fn decode(bytes: &[u8]) -> Result<(LogImage, &[u8]), BadCheckpoint> {
        let mut fields = Fields { rest: bytes };
        let (base, committed) = (fields.boundary()?, fields.boundary()?);
        let (promised, accepting) = (fields.ballot()?, fields.ballot()?);
        let last_scn = fields.u64()?;
        let (boundaries, extents) = (fields.u32()? as usize, fields.u32()? as usize);
        let read = bytes.len() - fields.rest.len();
        assert!(read == IMAGE_BYTES, "the fixed part is read as it is written");
        if boundaries > CHECKPOINT_BOUNDARIES_MAX || extents > CHECKPOINT_EXTENTS_MAX {
            return Err(BadCheckpoint::Impossible);
        }
        let boundaries = (0..boundaries).map(|_| fields.boundary()).collect::<Result<_, _>>()?;
        let extents = (0..extents).map(|_| fields.extent()).collect::<Result<_, _>>()?;
        let image =
            LogImage { base, committed, boundaries, extents, promised, accepting, last_scn };
        match image.is_sound() {
            true => Ok((image, fields.rest)),
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

fn put_boundary(out: &mut Vec<u8>, boundary: Boundary) {
    out.extend_from_slice(&boundary.lsn.0.to_le_bytes());
    out.extend_from_slice(&boundary.chain.to_le_bytes());
}

fn put_ballot(out: &mut Vec<u8>, ballot: Ballot) {
    out.extend_from_slice(&ballot.round.to_le_bytes());
    out.extend_from_slice(&ballot.incarnation.to_le_bytes());
    out.extend_from_slice(&ballot.node.to_le_bytes());
}

/// Takes fields from the front of a slice.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadCheckpoint> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(BadCheckpoint::Truncated)?;
        assert!(rest.len() + N == self.rest.len(), "a byte is read once");
        self.rest = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, BadCheckpoint> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, BadCheckpoint> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn boundary(&mut self) -> Result<Boundary, BadCheckpoint> {
        Ok(Boundary { lsn: Lsn(self.u64()?), chain: self.u64()? })
    }

    fn ballot(&mut self) -> Result<Ballot, BadCheckpoint> {
        Ok(Ballot { round: self.u64()?, incarnation: self.u64()?, node: self.u32()? })
    }

    fn extent(&mut self) -> Result<Extent, BadCheckpoint> {
        let before = self.rest.len();
        let (start, end) = (Lsn(self.u64()?), Lsn(self.u64()?));
        let (segment, offset, block) = (self.u64()?, self.u64()?, self.u64()?);
        let place = Place { segment, offset, block, len: self.u32()? };
        let ballot = self.ballot()?;
        let moved = match self.u32()? {
            0 => false,
            1 => true,
            _ => return Err(BadCheckpoint::Impossible),
        };
        assert!(before - self.rest.len() == EXTENT_BYTES, "a run is read as it is written");
        Ok(Extent { start, end, place, ballot, moved })
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
