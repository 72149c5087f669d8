//! What messages and record bodies are made of: heads of a fixed size, and a length-checked reader
//! of heads, lists and texts.

use palisade_wal::{Ballot, Boundary, Lsn};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// No election gets this far; a higher round is no ballot, so that rounds never wrap.
pub(crate) const ROUND_MAX: u64 = 1 << 62;

/// Nanoseconds of the year 2262; a group with a higher SCN is none, so that SCNs never wrap.
pub(crate) const SCN_MAX: u64 = 1 << 63;

const _: () = assert!(ROUND_MAX < u64::MAX, "a round follows each");
const _: () = assert!(SCN_MAX < u64::MAX, "an SCN follows each");

/// Of a fixed size, the same in memory as on a disk; any bytes of that size are one.
pub(crate) trait Fixed: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned> Fixed for T {}

/// Heads of a fixed size as they stand on a disk and a wire: their name, bytes and fields, which
/// are little-endian and follow each other without padding.
macro_rules! fixed {
    ($($(#[$doc:meta])* $name:ident: $bytes:literal { $($field:ident: $type:ty),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(
            zerocopy::FromBytes,
            zerocopy::IntoBytes,
            zerocopy::Immutable,
            zerocopy::KnownLayout,
            zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub(crate) struct $name {
            $(pub(crate) $field: $type),+
        }
        const _: () = assert!(size_of::<$name>() == $bytes, "a head of another size");
    )+};
}
pub(crate) use fixed;

fixed! {
    RawBallot: 20 { round: U64, node: U32, incarnation: U64 }
    RawBoundary: 16 { lsn: U64, chain: U64 }
    /// As between shards: in words.
    WideBallot: 24 { round: U64, incarnation: U64, node: U32, reserved: [u8; 4] }
}

/// Why bytes are not what they should be. Bytes of a peer or a disk never panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("the bytes end in the middle of a value")]
    Truncated,
    /// A length or count is above its limit.
    #[error("a length is above its limit")]
    TooLong,
    /// A code has no meaning.
    #[error("unknown code {0}")]
    UnknownCode(u8),
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    NotText,
    /// Bytes are left after the value.
    #[error("bytes are left after the value")]
    Trailing,
    /// Values that contradict each other.
    #[error("values contradict each other")]
    Inconsistent,
}

/// Takes fields from the front of a slice.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let before = self.rest.len();
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        assert!(taken.len() == len, "a field has its length");
        assert!(self.rest.len() + len == before, "a byte is read once");
        Ok(taken)
    }

    /// The next head.
    pub(crate) fn head<T: Fixed>(&mut self) -> Result<&'a T, DecodeError> {
        let (head, rest) = T::ref_from_prefix(self.rest).map_err(|_| DecodeError::Truncated)?;
        assert!(rest.len() + size_of::<T>() == self.rest.len(), "a byte is read once");
        self.rest = rest;
        Ok(head)
    }

    /// So many of them, end to end.
    pub(crate) fn list<T: Fixed>(&mut self, count: usize) -> Result<&'a [T], DecodeError> {
        let list = <[T]>::ref_from_prefix_with_elems(self.rest, count);
        let (list, rest) = list.map_err(|_| DecodeError::Truncated)?;
        assert!(list.len() == count, "a list has its length");
        assert!(rest.len() + size_of_val(list) == self.rest.len(), "a byte is read once");
        self.rest = rest;
        Ok(list)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.head().copied()
    }

    /// A text after its u16 length, of at most `max` bytes.
    pub(crate) fn text(&mut self, max: usize) -> Result<String, DecodeError> {
        assert!(max <= usize::from(u16::MAX), "a limit that no length reaches");
        let len = usize::from(self.head::<U16>()?.get());
        if len > max {
            return Err(DecodeError::TooLong);
        }
        let text = std::str::from_utf8(self.bytes(len)?).map_err(|_| DecodeError::NotText)?;
        assert!(text.len() == len, "a text has its length");
        Ok(text.to_owned())
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

/// Bytes that are one head and nothing else.
pub(crate) fn exact<T: Fixed>(bytes: &[u8]) -> Result<&T, DecodeError> {
    let mut reader = Reader::new(bytes);
    let head = reader.head()?;
    reader.finish()?;
    assert!(size_of::<T>() == bytes.len(), "nothing else");
    Ok(head)
}

/// Appends a head.
pub(crate) fn put<T: Fixed>(out: &mut Vec<u8>, head: &T) {
    out.extend_from_slice(head.as_bytes());
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("texts are bounded where they are made");
    let start = out.len();
    put(out, &U16::new(len));
    out.extend_from_slice(text.as_bytes());
    assert!(out.len() - start == 2 + usize::from(len), "a text has its length");
}

/// A byte that says yes or no.
pub(crate) fn flag(byte: u8) -> Result<bool, DecodeError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        code => Err(DecodeError::UnknownCode(code)),
    }
}

/// Reserved bytes.
pub(crate) fn zeros(bytes: &[u8]) -> Result<(), DecodeError> {
    match bytes.iter().find(|byte| **byte != 0) {
        None => Ok(()),
        Some(code) => Err(DecodeError::UnknownCode(*code)),
    }
}

pub(crate) fn read_lsn(number: U64) -> Result<Lsn, DecodeError> {
    let lsn = Lsn(number.get());
    let good = lsn < Lsn::MAX && lsn.0.is_multiple_of(Lsn::ALIGN);
    if good { Ok(lsn) } else { Err(DecodeError::Inconsistent) }
}

pub(super) fn read_scn(number: U64) -> Result<u64, DecodeError> {
    let scn = number.get();
    if scn <= SCN_MAX { Ok(scn) } else { Err(DecodeError::Inconsistent) }
}

impl RawBallot {
    pub(super) fn read(&self) -> Result<Ballot, DecodeError> {
        let (round, node) = (self.round.get(), self.node.get());
        let ballot = Ballot { round, node, incarnation: self.incarnation.get() };
        if round <= ROUND_MAX { Ok(ballot) } else { Err(DecodeError::Inconsistent) }
    }
}

impl WideBallot {
    pub(crate) fn read(&self) -> Result<Ballot, DecodeError> {
        zeros(&self.reserved)?;
        let WideBallot { round, incarnation, node, .. } = *self;
        RawBallot { round, node, incarnation }.read()
    }
}

impl From<Ballot> for WideBallot {
    fn from(ballot: Ballot) -> WideBallot {
        let RawBallot { round, node, incarnation } = ballot.into();
        WideBallot { round, incarnation, node, reserved: [0; 4] }
    }
}

impl From<Ballot> for RawBallot {
    fn from(Ballot { round, node, incarnation }: Ballot) -> RawBallot {
        RawBallot { round: round.into(), node: node.into(), incarnation: incarnation.into() }
    }
}

impl RawBoundary {
    pub(super) fn read(&self) -> Result<Boundary, DecodeError> {
        Ok(Boundary { lsn: read_lsn(self.lsn)?, chain: self.chain.get() })
    }
}

impl From<Boundary> for RawBoundary {
    fn from(Boundary { lsn, chain }: Boundary) -> RawBoundary {
        RawBoundary { lsn: lsn.0.into(), chain: chain.into() }
    }
}
