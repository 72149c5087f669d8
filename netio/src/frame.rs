//! The frame: what one message looks like between two processes.
//!
//! A head of 64 bytes, or of 512 for a bulk frame, then the body. All numbers are little-endian.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `PLSF` |
//! | 4..6 | version of this layout |
//! | 6..8 | kind; below 16 the handshake's, from 16 the user's |
//! | 8..10 | length of the head, 64 or 512 |
//! | 10..12 | flags, see [`BODY_UNCHECKED`] |
//! | 12..16 | length of the body |
//! | 16..20 | CRC-32C of the body, 0 if unchecked |
//! | 20..24 | CRC-32C of the whole head with this field zero |
//! | 24..32 | tag, opaque |
//! | 32..40 | second tag, opaque |
//! | 40..64 | zero |
//! | 64..512 | bulk only: the user's prefix, opaque |
//!
//! Lengths are judged from the first 64 bytes, before anything is allocated or waited for.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::{
    FRAME_BODY_MAX, FRAME_BULK_HEAD_BYTES, FRAME_HEAD_BYTES, FRAME_PREFIX_BYTES, GREETING_BODY_MAX,
};

/// The first bytes of every frame.
pub const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"PLSF");
/// Version of the frame layout.
pub const FRAME_VERSION: u16 = 1;
/// Flag: the body carries its own checksums and `body_crc` is 0.
pub const BODY_UNCHECKED: u16 = 1;
/// Lowest kind that is not the handshake's.
pub const KIND_USER_MIN: u16 = 16;

const FLAGS_KNOWN: u16 = BODY_UNCHECKED;
const CRC_AT: usize = 20;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    magic: U32,
    version: U16,
    kind: U16,
    head_len: U16,
    flags: U16,
    body_len: U32,
    body_crc: U32,
    crc: U32,
    tag: U64,
    tag2: U64,
    reserved: [u8; 24],
}

const _: () = assert!(size_of::<Wire>() == FRAME_HEAD_BYTES);

/// A frame's head, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// What the frame means; from [`KIND_USER_MIN`] the user's.
    pub kind: u16,
    /// Bytes of the head: 64 or 512.
    pub head_len: u16,
    /// [`BODY_UNCHECKED`] or 0.
    pub flags: u16,
    /// Bytes of the body.
    pub body_len: u32,
    /// CRC-32C of the body, 0 when unchecked.
    pub body_crc: u32,
    /// Opaque; a correlation or a stream.
    pub tag: u64,
    /// Opaque.
    pub tag2: u64,
}

/// What a receiver accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Longest body, at most [`FRAME_BODY_MAX`].
    pub body_bytes_max: u32,
    /// Whether heads of 64 bytes are accepted.
    pub plain: bool,
    /// Whether heads of 512 bytes are accepted.
    pub bulk: bool,
}

impl FrameLimits {
    /// Plain and bulk frames up to the largest body.
    pub const ANY: FrameLimits =
        FrameLimits { body_bytes_max: FRAME_BODY_MAX as u32, plain: true, bulk: true };
    /// Handshake frames.
    pub const GREETING: FrameLimits =
        FrameLimits { body_bytes_max: GREETING_BODY_MAX as u32, plain: true, bulk: false };
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More bytes are needed to say anything: not an error of the peer.
    #[error("the head needs {need} bytes")]
    Short {
        /// Bytes needed in all, from the start of the head.
        need: usize,
    },
    /// The first four bytes are not the magic.
    #[error("bad magic {0:#010x}")]
    Magic(u32),
    /// Another version of the layout.
    #[error("frame version {0}, this side speaks {FRAME_VERSION}")]
    Version(u16),
    /// A head of another length than 64 or 512, or one that is not accepted here.
    #[error("head of {0} bytes")]
    HeadLen(u16),
    /// A flag that is not known.
    #[error("unknown flags {0:#06x}")]
    Flags(u16),
    /// Reserved bytes that are not zero.
    #[error("reserved bytes are set")]
    Reserved,
    /// A body above the limit.
    #[error("body of {len} bytes, limit {max}")]
    BodyLen {
        /// Length that the head gives.
        len: u32,
        /// Limit of this receiver.
        max: u32,
    },
    /// The head does not match its checksum.
    #[error("head checksum {found:#010x}, computed {computed:#010x}")]
    HeadCrc {
        /// Checksum in the head.
        found: u32,
        /// Checksum of the bytes.
        computed: u32,
    },
    /// The body does not match its checksum.
    #[error("body checksum {found:#010x}, computed {computed:#010x}")]
    BodyCrc {
        /// Checksum in the head.
        found: u32,
        /// Checksum of the bytes.
        computed: u32,
    },
}

impl FrameHead {
    /// Encodes a whole small frame: a head of 64 bytes, then a copy of `body`.
    ///
    /// # Panics
    /// When `body` is above [`FRAME_BODY_MAX`].
    pub fn encode(kind: u16, tag: u64, tag2: u64, body: &[u8]) -> Vec<u8> {
        let crc = crc32c::crc32c(body);
        let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + body.len());
        push_head(&mut frame, FRAME_HEAD_BYTES, (kind, 0, tag, tag2), body.len(), crc, &[]);
        frame.extend_from_slice(body);
        frame
    }

    /// Encodes the 64-byte head of a frame whose body of `body_len` bytes follows from slots.
    /// With no `body_crc` the frame is marked [`BODY_UNCHECKED`].
    ///
    /// # Panics
    /// When `body_len` is above [`FRAME_BODY_MAX`].
    pub fn encode_head(
        kind: u16,
        tag: u64,
        tag2: u64,
        body_len: usize,
        body_crc: Option<u32>,
    ) -> Vec<u8> {
        let flags = if body_crc.is_none() { BODY_UNCHECKED } else { 0 };
        let mut head = Vec::with_capacity(FRAME_HEAD_BYTES);
        let crc = body_crc.unwrap_or(0);
        push_head(&mut head, FRAME_HEAD_BYTES, (kind, flags, tag, tag2), body_len, crc, &[]);
        head
    }

    /// Encodes the 512-byte head of a bulk frame, whose unchecked body of `body_len` bytes
    /// follows. `prefix` is filled up with zeroes to [`FRAME_PREFIX_BYTES`].
    ///
    /// # Panics
    /// When `prefix` or `body_len` is above its limit.
    pub fn encode_bulk(kind: u16, tag: u64, tag2: u64, prefix: &[u8], body_len: usize) -> Vec<u8> {
        let mut head = Vec::with_capacity(FRAME_BULK_HEAD_BYTES);
        let about = (kind, BODY_UNCHECKED, tag, tag2);
        push_head(&mut head, FRAME_BULK_HEAD_BYTES, about, body_len, 0, prefix);
        head
    }

    /// Reads the head at the start of `bytes`. Lengths are checked as soon as 64 bytes are there;
    /// the checksum when the whole head is.
    ///
    /// # Errors
    /// [`FrameError::Short`] while bytes are missing; otherwise what is wrong.
    pub fn parse(bytes: &[u8], limits: &FrameLimits) -> Result<FrameHead, FrameError> {
        let Ok((wire, _)) = Wire::ref_from_prefix(bytes) else {
            return Err(FrameError::Short { need: FRAME_HEAD_BYTES });
        };
        let head = judge(wire, limits)?;
        let len = usize::from(head.head_len);
        let Some(whole) = bytes.get(..len) else {
            return Err(FrameError::Short { need: len });
        };
        let (found, computed) = (wire.crc.get(), head_crc(whole));
        if found != computed {
            return Err(FrameError::HeadCrc { found, computed });
        }
        Ok(head)
    }

    /// Checks `body` against the head.
    ///
    /// # Errors
    /// When the checksum differs.
    pub fn check_body(&self, body: &[u8]) -> Result<(), FrameError> {
        if self.flags & BODY_UNCHECKED != 0 {
            return Ok(());
        }
        let computed = crc32c::crc32c(body);
        if computed == self.body_crc {
            return Ok(());
        }
        Err(FrameError::BodyCrc { found: self.body_crc, computed })
    }

    /// Bytes of head and body.
    pub fn frame_len(&self) -> usize {
        usize::from(self.head_len) + self.body_len as usize
    }
}

fn judge(wire: &Wire, limits: &FrameLimits) -> Result<FrameHead, FrameError> {
    if wire.magic.get() != FRAME_MAGIC {
        return Err(FrameError::Magic(wire.magic.get()));
    }
    if wire.version.get() != FRAME_VERSION {
        return Err(FrameError::Version(wire.version.get()));
    }
    let head_len = wire.head_len.get();
    let accepted = match usize::from(head_len) {
        FRAME_HEAD_BYTES => limits.plain,
        FRAME_BULK_HEAD_BYTES => limits.bulk,
        _ => false,
    };
    if !accepted {
        return Err(FrameError::HeadLen(head_len));
    }
    let flags = wire.flags.get();
    if flags & !FLAGS_KNOWN != 0 {
        return Err(FrameError::Flags(flags));
    }
    if wire.reserved != [0; 24] {
        return Err(FrameError::Reserved);
    }
    let (len, max) = (wire.body_len.get(), limits.body_bytes_max.min(FRAME_BODY_MAX as u32));
    if len > max {
        return Err(FrameError::BodyLen { len, max });
    }
    Ok(FrameHead {
        kind: wire.kind.get(),
        head_len,
        flags,
        body_len: len,
        body_crc: wire.body_crc.get(),
        tag: wire.tag.get(),
        tag2: wire.tag2.get(),
    })
}

fn push_head(
    out: &mut Vec<u8>,
    head_len: usize,
    (kind, flags, tag, tag2): (u16, u16, u64, u64),
    body_len: usize,
    body_crc: u32,
    prefix: &[u8],
) {
    assert!(body_len <= FRAME_BODY_MAX, "body of {body_len} bytes");
    assert!(prefix.len() <= FRAME_PREFIX_BYTES, "prefix of {} bytes", prefix.len());
    let start = out.len();
    let wire = Wire {
        magic: FRAME_MAGIC.into(),
        version: FRAME_VERSION.into(),
        kind: kind.into(),
        head_len: (head_len as u16).into(),
        flags: flags.into(),
        body_len: (body_len as u32).into(),
        body_crc: body_crc.into(),
        crc: 0.into(),
        tag: tag.into(),
        tag2: tag2.into(),
        reserved: [0; 24],
    };
    out.extend_from_slice(wire.as_bytes());
    out.extend_from_slice(prefix);
    out.resize(start + head_len, 0);
    let crc = head_crc(&out[start..]);
    out[start + CRC_AT..start + CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

fn head_crc(head: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&head[..CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &head[CRC_AT + 4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const BULK: FrameLimits = FrameLimits { plain: false, ..FrameLimits::ANY };

    #[test]
    fn a_frame_reads_back() {
        let frame = FrameHead::encode(17, 1, 2, b"body");
        let head = FrameHead::parse(&frame, &FrameLimits::ANY).unwrap();
        assert_eq!((head.kind, head.tag, head.tag2, head.body_len), (17, 1, 2, 4));
        assert_eq!(head.check_body(&frame[64..]), Ok(()));
        assert!(matches!(head.check_body(b"bodY"), Err(FrameError::BodyCrc { .. })));
        assert_eq!(head.frame_len(), frame.len());
    }

    #[test]
    fn a_bulk_head_carries_its_prefix_and_checks_it() {
        let mut head = FrameHead::encode_bulk(20, 7, 8, &[9; 448], FRAME_BODY_MAX);
        assert_eq!(head.len(), 512);
        let parsed = FrameHead::parse(&head, &BULK).unwrap();
        assert_eq!(parsed.body_len as usize, FRAME_BODY_MAX);
        assert_eq!(FrameHead::parse(&head[..100], &BULK), Err(FrameError::Short { need: 512 }));
        head[500] ^= 1;
        assert!(matches!(FrameHead::parse(&head, &BULK), Err(FrameError::HeadCrc { .. })));
    }

    #[test]
    fn every_flipped_bit_of_a_head_is_seen() {
        let frame = FrameHead::encode(17, 1, 2, b"body");
        for bit in 0..FRAME_HEAD_BYTES * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHead::parse(&bad, &FrameLimits::ANY).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lengths_are_refused_from_the_first_64_bytes() {
        let mut frame = FrameHead::encode(17, 1, 2, b"");
        frame[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let max = FRAME_BODY_MAX as u32;
        assert_eq!(
            FrameHead::parse(&frame, &FrameLimits::ANY),
            Err(FrameError::BodyLen { len: u32::MAX, max })
        );
        let bulk = FrameHead::encode_bulk(17, 0, 0, &[], 0);
        assert_eq!(
            FrameHead::parse(&bulk[..64], &FrameLimits::GREETING),
            Err(FrameError::HeadLen(512))
        );
    }
}
