//! Block heads. Mirrors FORMAT.md, "Block head".
//!
//! A block is what one durable write adds: a head of 512 bytes, a body of records, and zeros up
//! to the next multiple of 4096. The head's checksum starts from the incarnation, the segment and
//! the offset, so that a block is valid in one place of one life of one disk only.

use std::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::{
    BLOCK_ALIGN, BLOCK_BYTES_MAX, BLOCK_HEAD_BYTES, BLOCK_SEQ_MAX, SEGMENT_HEADER_BYTES,
    block_bytes,
};

/// First bytes of every block.
pub const BLOCK_MAGIC: u64 = u64::from_le_bytes(*b"PLSDBLK1");
/// Version of the block format.
pub const BLOCK_FORMAT: u32 = 1;

/// The head of a block, little-endian, without padding.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockHead {
    /// [`BLOCK_MAGIC`].
    pub magic: U64,
    /// [`BLOCK_FORMAT`].
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
    pub segment_seq: U64,
    /// Number of the block in its shard, from 1, without gaps.
    pub block_seq: U64,
    /// Byte offset of this head in the segment.
    pub offset: U64,
    /// Bytes of the body.
    pub body_len: U32,
    /// Bytes of the block; a multiple of 4096.
    pub total_len: U32,
    /// CRC-32C of all record headers of the body, in order.
    pub headers_crc: U32,
    /// `crc` of the block before; 0 for the first one or when it was not readable.
    pub previous_header_crc: U32,
    /// Highest block of this shard known durable when this head was made.
    pub durable_upto: U64,
    /// The last block that held hard state, this one included; 0 for none.
    pub hard_state_block: U64,
    /// Zero.
    pub reserved: [u8; 420],
    /// CRC-32C of the head with this field zero, seeded by incarnation, segment and offset.
    pub crc: U32,
}

const _: () = assert!(size_of::<BlockHead>() == BLOCK_HEAD_BYTES);
const _: () = assert!(
    offset_of!(BlockHead, crc) + size_of::<U32>() == BLOCK_HEAD_BYTES,
    "the checksum stands last, and covers everything before it"
);
const _: () = assert!(BLOCK_MAGIC != 0, "zeros are no block");

/// Where and whose a block should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The cluster.
    pub cluster: u32,
    /// The node.
    pub node: u32,
    /// The disk of that node.
    pub incarnation: u64,
    /// The shard.
    pub shard: u32,
    /// The segment.
    pub segment_seq: u64,
    /// Byte offset in the segment.
    pub offset: u64,
}

impl Expect {
    /// The same log and segment at another offset.
    #[must_use]
    pub fn at(self, offset: u64) -> Expect {
        assert!(offset.is_multiple_of(BLOCK_ALIGN as u64), "no block starts at {offset}");
        Expect { offset, ..self }
    }
}

/// What [`seal`] puts into a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockFacts {
    /// Whose and where.
    pub place: Expect,
    /// Number of the block.
    pub block_seq: u64,
    /// Bytes of the body.
    pub body_len: u32,
    /// CRC-32C of its record headers.
    pub headers_crc: u32,
    /// Highest block known durable.
    pub durable_upto: u64,
    /// The last block that held hard state.
    pub hard_state_block: u64,
    /// `crc` of the block before.
    pub previous_header_crc: u32,
}

/// Why bytes are no block of this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBlock {
    /// Fewer bytes than a head.
    #[error("fewer bytes than a block head")]
    Short,
    /// Nothing was written here.
    #[error("zeros")]
    Zero,
    /// A whole block head of another place: of an earlier life of the file, or misdirected.
    #[error("a block of another segment, offset or incarnation")]
    Stale,
    /// Not the first bytes of a block.
    #[error("no block starts here")]
    Magic,
    /// The checksum does not match.
    #[error("the checksum of the block head does not match")]
    Checksum,
    /// A format that this program does not know.
    #[error("unknown block format {0}")]
    Format(u32),
    /// A valid head of another cluster, node or shard.
    #[error("a block of another cluster, node or shard")]
    Foreign,
    /// Lengths that cannot be.
    #[error("impossible lengths in a block head")]
    Length,
}

fn head_crc(bytes: &[u8], incarnation: u64, segment_seq: u64, offset: u64) -> u32 {
    assert!(bytes.len() == BLOCK_HEAD_BYTES);
    let mut seed = [0u8; 24];
    seed[..8].copy_from_slice(&incarnation.to_le_bytes());
    seed[8..16].copy_from_slice(&segment_seq.to_le_bytes());
    seed[16..].copy_from_slice(&offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&seed), &bytes[..BLOCK_HEAD_BYTES - 4]);
    crc32c::crc32c_append(crc, &[0; 4])
}

/// Writes a block head over the first 512 bytes of a slot. Returns its checksum.
///
/// # Panics
/// When `head` is not 512 bytes long or the facts cannot be.
pub fn seal(head: &mut [u8], facts: &BlockFacts) -> u32 {
    assert!(head.len() == BLOCK_HEAD_BYTES, "a head is {BLOCK_HEAD_BYTES} bytes");
    assert!(facts.place.offset.is_multiple_of(BLOCK_ALIGN as u64));
    assert!(facts.place.offset >= SEGMENT_HEADER_BYTES as u64, "the segment header is not hit");
    assert!(facts.place.segment_seq > 0, "segments are numbered from 1");
    assert!(facts.block_seq > 0, "blocks are numbered from 1");
    assert!(facts.body_len > 0, "an empty body is not written");
    assert!(facts.durable_upto <= facts.block_seq, "no later block is durable");
    assert!(facts.hard_state_block <= facts.block_seq, "hard state is not in a later block");
    let mut made = BlockHead {
        magic: BLOCK_MAGIC.into(),
        format: BLOCK_FORMAT.into(),
        cluster: facts.place.cluster.into(),
        node: facts.place.node.into(),
        shard: facts.place.shard.into(),
        incarnation: facts.place.incarnation.into(),
        segment_seq: facts.place.segment_seq.into(),
        block_seq: facts.block_seq.into(),
        offset: facts.place.offset.into(),
        body_len: facts.body_len.into(),
        total_len: (block_bytes(facts.body_len as usize) as u32).into(),
        headers_crc: facts.headers_crc.into(),
        previous_header_crc: facts.previous_header_crc.into(),
        durable_upto: facts.durable_upto.into(),
        hard_state_block: facts.hard_state_block.into(),
        reserved: [0; 420],
        crc: 0.into(),
    };
    let place = &facts.place;
    let crc = head_crc(made.as_bytes(), place.incarnation, place.segment_seq, place.offset);
    made.crc = crc.into();
    head.copy_from_slice(made.as_bytes());
    let back = parse(head, place).expect("what is about to be written is readable");
    assert!(back.seq() == facts.block_seq && back.crc.get() == crc);
    crc
}

/// Reads the block head at the start of `bytes` and checks all of it. The body is not looked at.
///
/// # Errors
/// [`BadBlock`].
pub fn parse(bytes: &[u8], expect: &Expect) -> Result<BlockHead, BadBlock> {
    let Some(bytes) = bytes.get(..BLOCK_HEAD_BYTES) else { return Err(BadBlock::Short) };
    let head = BlockHead::read_from_bytes(bytes).map_err(|_| BadBlock::Short)?;
    if head.magic.get() != BLOCK_MAGIC {
        let zero = bytes.iter().all(|&byte| byte == 0);
        return Err(if zero { BadBlock::Zero } else { BadBlock::Magic });
    }
    let crc = head_crc(bytes, expect.incarnation, expect.segment_seq, expect.offset);
    if crc != head.crc.get() {
        let (incarnation, seq) = (head.incarnation.get(), head.segment_seq.get());
        let own = head_crc(bytes, incarnation, seq, head.offset.get());
        return Err(if own == head.crc.get() { BadBlock::Stale } else { BadBlock::Checksum });
    }
    head.check(expect)?;
    assert!(head.bytes() > BLOCK_HEAD_BYTES, "a block holds more than its head");
    assert!(head.seq() > 0 && head.seq() >= head.durable_upto.get(), "checked above");
    Ok(head)
}

impl BlockHead {
    /// The number of the block.
    pub fn seq(&self) -> u64 {
        self.block_seq.get()
    }

    /// Bytes of the block.
    pub fn bytes(&self) -> usize {
        self.total_len.get() as usize
    }

    /// The body inside the bytes of the block, none when they are too few.
    pub fn body<'a>(&self, block: &'a [u8]) -> Option<&'a [u8]> {
        let end = BLOCK_HEAD_BYTES.checked_add(self.body_len.get() as usize)?;
        block.get(BLOCK_HEAD_BYTES..end)
    }

    /// What the checksum alone does not say. Runs after it, so a difference is no damage.
    fn check(&self, expect: &Expect) -> Result<(), BadBlock> {
        if self.format.get() != BLOCK_FORMAT {
            return Err(BadBlock::Format(self.format.get()));
        }
        let place = (self.incarnation.get(), self.segment_seq.get(), self.offset.get());
        if place != (expect.incarnation, expect.segment_seq, expect.offset) {
            return Err(BadBlock::Stale);
        }
        let owner = (self.cluster.get(), self.node.get(), self.shard.get());
        if owner != (expect.cluster, expect.node, expect.shard) {
            return Err(BadBlock::Foreign);
        }
        let (body, total) = (self.body_len.get() as usize, self.bytes());
        let least = BLOCK_HEAD_BYTES.saturating_add(body);
        let fits = total <= BLOCK_BYTES_MAX && least <= total && total - least < BLOCK_ALIGN;
        if !fits || !total.is_multiple_of(BLOCK_ALIGN) || body == 0 {
            return Err(BadBlock::Length);
        }
        let upto = self.durable_upto.get().max(self.hard_state_block.get());
        let numbered = (1..=BLOCK_SEQ_MAX).contains(&self.seq());
        if !numbered || upto > self.seq() || self.reserved.iter().any(|&byte| byte != 0) {
            return Err(BadBlock::Length);
        }
        // Reading and writing agree on the bytes of a block.
        assert!(block_bytes(body) == total);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect() -> Expect {
        Expect { cluster: 1, node: 2, incarnation: 3, shard: 4, segment_seq: 5, offset: 8192 }
    }

    fn facts() -> BlockFacts {
        BlockFacts {
            place: expect(),
            block_seq: 9,
            body_len: 4000,
            headers_crc: 7,
            durable_upto: 8,
            hard_state_block: 6,
            previous_header_crc: 11,
        }
    }

    #[test]
    fn a_head_comes_back_as_it_was() {
        let mut bytes = [0xAA; BLOCK_HEAD_BYTES];
        let crc = seal(&mut bytes, &facts());
        let head = parse(&bytes, &expect()).unwrap();
        assert_eq!((head.seq(), head.bytes(), head.crc.get()), (9, 8192, crc));
        assert_eq!((head.durable_upto.get(), head.hard_state_block.get()), (8, 6));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut bytes = [0; BLOCK_HEAD_BYTES];
        seal(&mut bytes, &facts());
        for bit in 0..BLOCK_HEAD_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bytes, &expect()).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_block_is_valid_in_one_place_only() {
        let mut bytes = [0; BLOCK_HEAD_BYTES];
        seal(&mut bytes, &facts());
        let right = expect();
        for wrong in [
            Expect { incarnation: 4, ..right },
            Expect { segment_seq: 6, ..right },
            Expect { offset: 4096, ..right },
        ] {
            assert_eq!(parse(&bytes, &wrong).unwrap_err(), BadBlock::Stale);
        }
        for wrong in [
            Expect { cluster: 9, ..right },
            Expect { node: 9, ..right },
            Expect { shard: 9, ..right },
        ] {
            assert_eq!(parse(&bytes, &wrong).unwrap_err(), BadBlock::Foreign);
        }
        assert_eq!(parse(&[0; 512], &right).unwrap_err(), BadBlock::Zero);
        assert_eq!(parse(&[1; 512], &right).unwrap_err(), BadBlock::Magic);
        assert_eq!(parse(&[0; 511], &right).unwrap_err(), BadBlock::Short);
    }
}
