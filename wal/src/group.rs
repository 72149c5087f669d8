//! Groups: the unit of agreement, write, send and transfer. Mirrors FORMAT.md, "Group header".
//!
//! The bytes of a group are made once, by the leader, and are the same on every disk and every
//! wire. A group is a [`GroupHeader`] and its entries, each an [`EntryHeader`] and a payload
//! padded with zeros to 8. The stream is these bytes end to end: a record's LSN is the position
//! of its entry header, the group's LSN that of its group header.

use std::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::lsn::{Ballot, Lsn};
use crate::record::RECORD_ALIGN;

/// Bytes of a group header.
pub const GROUP_HEADER_BYTES: usize = 96;
/// Bytes of an entry header.
pub const ENTRY_HEADER_BYTES: usize = 24;
/// Largest payload of one record.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Largest group, header included.
pub const GROUP_BYTES_MAX: usize = (2 << 20) - 4096;

/// Who a group is for. Readers of data see [`GroupKind::Data`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GroupKind {
    /// The embedder's records.
    Data = 1,
    /// A role entry (START or END).
    Role = 2,
    /// A sync mark.
    Mark = 3,
    /// Streams created and dropped.
    Catalogue = 4,
    /// Changes of the registry of clusters and of the protection mode.
    Registry = 5,
    /// What stands in place of bytes that nobody keeps: what they implied. It takes all their
    /// positions.
    Base = 6,
}

impl GroupKind {
    /// The kind with this code.
    pub fn from_code(code: u8) -> Option<GroupKind> {
        use GroupKind::{Base, Catalogue, Data, Mark, Registry, Role};
        [Data, Role, Mark, Catalogue, Registry, Base].into_iter().find(|&kind| kind as u8 == code)
    }
}

/// Who made a group: part of its immutable bytes, and so of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Origin {
    /// Generation of the primary role.
    pub role_epoch: u64,
    /// Cluster of the maker.
    pub cluster: u32,
    /// Ballot under which the maker led.
    pub ballot: Ballot,
}

/// The header of a group, little-endian, without padding.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GroupHeader {
    /// The stream.
    pub stream: U64,
    /// Position of this header in the stream.
    pub lsn: U64,
    /// Bytes of the group, this header included; a multiple of 8.
    pub len: U32,
    /// Entries in it.
    pub records: U32,
    /// One SCN for all its records.
    pub scn: U64,
    /// See [`Origin`].
    pub role_epoch: U64,
    /// See [`Origin`].
    pub round: U64,
    /// See [`Origin`].
    pub incarnation: U64,
    /// See [`Origin`].
    pub node: U32,
    /// See [`Origin`].
    pub cluster: U32,
    /// A [`GroupKind`].
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// CRC-32C of everything after this header.
    pub entries_crc: U32,
    /// Of a base the positions that it takes, however many bytes it has; else 0.
    pub span: U64,
    /// Of a base [`proof`], else 0.
    pub proof: U64,
    /// [`chain`] of the group before and of this header up to here. Of a base: the chain at its
    /// end, as the bytes had it that it stands for.
    pub chain: U64,
}

const _: () = assert!(size_of::<GroupHeader>() == GROUP_HEADER_BYTES);
const _: () = assert!(
    offset_of!(GroupHeader, chain) + size_of::<U64>() == GROUP_HEADER_BYTES,
    "the chain stands last, and is a hash of everything before it"
);
const _: () = assert!(GROUP_HEADER_BYTES.is_multiple_of(RECORD_ALIGN), "entries are aligned");
const _: () = assert!(GROUP_BYTES_MAX.is_multiple_of(RECORD_ALIGN));
const _: () = assert!(GROUP_BYTES_MAX <= u32::MAX as usize, "the length of a group is a u32");
const _: () = assert!(RECORD_ALIGN as u64 == Lsn::ALIGN, "every entry starts at an LSN");
const _: () = assert!(GroupKind::Data as u8 != 0, "zeros are no group");
const _: () = assert!(CHAIN_START != 0, "0 says that a record has no chain");
const _: () = assert!(
    GROUP_HEADER_BYTES + ENTRY_HEADER_BYTES + RECORD_BYTES_MAX.next_multiple_of(RECORD_ALIGN)
        <= GROUP_BYTES_MAX,
    "the largest record fits a group"
);

/// The header of a record in a group.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EntryHeader {
    /// Bytes of the payload without pad.
    pub len: U32,
    /// Zero.
    pub reserved: U32,
    /// Who appended it; 0 when it did not say.
    pub producer: U64,
    /// The producer's number for it, from 1.
    pub sequence: U64,
}

const _: () = assert!(size_of::<EntryHeader>() == ENTRY_HEADER_BYTES);
const _: () = assert!(ENTRY_HEADER_BYTES.is_multiple_of(RECORD_ALIGN), "payloads are aligned");

/// The value of the chain before the first group of a stream.
pub const CHAIN_START: u64 = 0x7061_6c69_7361_6465;

/// The chain after a group: a hash (not a CRC) of the chain before it and of its header, which
/// holds its origin and the checksum of its entries. It alone decides whether two logs match.
pub fn chain(before: u64, header: &GroupHeader) -> u64 {
    let bytes = header.as_bytes();
    xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[..GROUP_HEADER_BYTES - 8], before)
}

/// What binds a base to the one log that it follows, which ends with the chain value `before`, and
/// to the chain at its end: a hash of that and of the header up to the proof.
pub fn proof(before: u64, header: &GroupHeader) -> u64 {
    const UPTO: usize = offset_of!(GroupHeader, proof);
    assert!(header.is_base(), "other groups follow by their chain");
    let mut bytes = [0; UPTO + size_of::<u64>()];
    bytes[..UPTO].copy_from_slice(&header.as_bytes()[..UPTO]);
    bytes[UPTO..].copy_from_slice(header.chain.as_bytes());
    xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, before)
}

/// Positions that a group of `len` bytes takes in its stream.
pub(crate) fn positions(len: u32, span: u64) -> u64 {
    if span > 0 { span } else { len.into() }
}

/// Bytes that a record with a payload of `len` takes in its stream.
pub fn entry_bytes(len: usize) -> usize {
    let bytes = ENTRY_HEADER_BYTES + len.next_multiple_of(RECORD_ALIGN);
    assert!(bytes.is_multiple_of(RECORD_ALIGN), "the next entry is aligned");
    assert!(bytes - len < ENTRY_HEADER_BYTES + RECORD_ALIGN, "a pad is shorter than its unit");
    bytes
}

impl GroupHeader {
    /// First byte.
    pub fn lsn(&self) -> Lsn {
        Lsn(self.lsn.get())
    }

    /// First byte after the group.
    pub fn end(&self) -> Lsn {
        Lsn(self.lsn.get().saturating_add(positions(self.len.get(), self.span.get())))
    }

    /// Whether it stands in place of bytes that nobody keeps.
    pub fn is_base(&self) -> bool {
        self.kind == GroupKind::Base as u8
    }

    /// Who made it.
    pub fn origin(&self) -> Origin {
        Origin {
            role_epoch: self.role_epoch.get(),
            cluster: self.cluster.get(),
            ballot: Ballot {
                round: self.round.get(),
                node: self.node.get(),
                incarnation: self.incarnation.get(),
            },
        }
    }

    /// Whether this header follows a log that ends with the chain value `before`. A base follows
    /// the one that it was made for, though what came before is let go with it.
    pub fn follows(&self, before: u64) -> bool {
        match self.is_base() {
            true => proof(before, self) == self.proof.get(),
            false => chain(before, self) == self.chain.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{Body, BodyBuilder};
    use crate::log::Boundary;
    use crate::parse::parse_body;

    const BALLOT: Ballot = Ballot { round: 3, node: 1, incarnation: 7 };

    /// A base from `from` to `to` with a payload of 40 bytes.
    fn base(bytes: &mut [u8], from: u64, to: u64) -> Body {
        let mut builder = BodyBuilder::new(bytes);
        let origin = Origin { role_epoch: 1, cluster: 1, ballot: BALLOT };
        builder.begin_group(5, Lsn(from), BALLOT, GroupKind::Base, origin, 0).unwrap();
        builder.push_entry(&[7; 40], 0, 0).unwrap();
        builder.end_base(77, Boundary { lsn: Lsn(to), chain: 0xc0ffee }, CHAIN_START);
        builder.finish()
    }

    #[test]
    fn a_base_takes_its_positions_however_many_bytes_it_has() {
        for (from, to) in [(0, 8), (0, 160), (800, 1 << 40)] {
            let mut bytes = vec![0; 4096];
            let body = base(&mut bytes, from, to);
            let metas = parse_body(&bytes[..body.len as usize], body.headers_crc).unwrap();
            assert_eq!(metas, body.metas);
            let found = (metas[0].lsn, metas[0].end, metas[0].chain, metas[0].scn);
            assert_eq!(found, (Lsn(from), Lsn(to), 0xc0ffee, 77));
            let (group, _) = GroupHeader::read_from_prefix(&bytes[metas[0].range()]).unwrap();
            assert!(group.is_base() && group.follows(CHAIN_START));
            assert!(!group.follows(1) && !group.follows(0xc0ffee), "it was made for one log");
        }
    }

    /// Positions, chain and kind are bound to each other: with one changed it is no group.
    #[test]
    fn a_base_that_says_something_else_is_none() {
        let fresh = || {
            let mut bytes = vec![0; 4096];
            let body = base(&mut bytes, 0, 160);
            (bytes, body)
        };
        let (bytes, body) = fresh();
        let at = body.metas[0].range().start;
        let (good, _) = GroupHeader::read_from_prefix(&bytes[at..]).unwrap();
        let changes: [fn(&mut GroupHeader); 5] = [
            |group| group.span = 168.into(),
            |group| group.span = 0.into(),
            |group| group.chain = 0xc0ffed.into(),
            |group| group.proof = 1.into(),
            |group| group.kind = GroupKind::Data as u8,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut group = good;
            change(&mut group);
            let mut bad = bytes[body.metas[0].range()].to_vec();
            bad[..GROUP_HEADER_BYTES].copy_from_slice(group.as_bytes());
            let read = crate::parse::parse_group(&bad);
            assert!(read.is_err() || !group.follows(CHAIN_START), "{number}");
        }
        assert!(good.follows(CHAIN_START));
    }

    #[test]
    fn only_a_base_has_positions_without_bytes() {
        let mut bytes = vec![0; 4096];
        let mut builder = BodyBuilder::new(&mut bytes);
        builder.begin_group(5, Lsn(0), BALLOT, GroupKind::Data, Origin::default(), 0).unwrap();
        builder.push_entry(&[7; 40], 0, 0).unwrap();
        let meta = builder.end_group(77, CHAIN_START);
        let mut bad = bytes[meta.range()].to_vec();
        let (mut group, _) = GroupHeader::read_from_prefix(&bad).unwrap();
        group.span = 160.into();
        group.chain = chain(CHAIN_START, &group).into();
        bad[..GROUP_HEADER_BYTES].copy_from_slice(group.as_bytes());
        assert!(crate::parse::parse_group(&bad).is_err());
    }
}
