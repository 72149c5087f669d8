//! Records: what a block body is made of. Mirrors FORMAT.md, "Record header".
//!
//! A body is a run of records, each a [`RecordHeader`] and its bytes, padded with zeros to 8. The
//! headers of one body are covered together by `headers_crc` in the block head (on the wire: in
//! the frame prefix); each record's bytes are covered by its own `body_crc`.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::lsn::{Ballot, Lsn};

/// Bytes of a record header.
pub const RECORD_HEADER_BYTES: usize = 56;
/// Records and entries are padded to this.
pub const RECORD_ALIGN: usize = 8;

/// What a record is. Only groups take a place in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A group of the stream at `lsn`.
    Group = 1,
    /// This node promised `ballot`.
    Promise = 2,
    /// The log up to `lsn` is taken over under `ballot`; what stands above is void.
    Takeover = 3,
    /// Members of the stream.
    Config = 4,
    /// Everything below `lsn` is known committed.
    CommitHint = 5,
    /// No SCN at or below the one in the body will be given out again.
    ScnFloor = 6,
    /// Closed SCNs of a transfer source.
    Closed = 7,
    /// Pins of standby clusters.
    Pins = 8,
    /// The stream starts at `lsn` here.
    Base = 9,
    /// A slice of a checkpoint.
    Checkpoint = 10,
    /// A group that is logged again, since its first copy here is lost or in the way.
    Moved = 11,
    /// The index at the end of a sealed segment.
    SegmentIndex = 12,
    /// Nothing: the closing block that carries `durable_upto`.
    Closing = 13,
}

impl Kind {
    /// Every kind, in code order.
    pub const ALL: [Kind; 13] = [
        Kind::Group,
        Kind::Promise,
        Kind::Takeover,
        Kind::Config,
        Kind::CommitHint,
        Kind::ScnFloor,
        Kind::Closed,
        Kind::Pins,
        Kind::Base,
        Kind::Checkpoint,
        Kind::Moved,
        Kind::SegmentIndex,
        Kind::Closing,
    ];

    /// The kind with this code.
    pub fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|&kind| kind as u8 == code)
    }

    /// Whether the record's bytes are a group.
    pub const fn is_group(self) -> bool {
        matches!(self, Kind::Group | Kind::Moved)
    }

    /// Whether losing such a record loses a promise to other nodes (hard state).
    pub const fn is_hard_state(self) -> bool {
        matches!(self, Kind::Promise | Kind::Takeover | Kind::Config | Kind::Base | Kind::ScnFloor)
    }
}

/// Bytes that were fetched and are no part of the log yet. A Group's count from the Takeover under
/// the header's ballot on, a Moved record's once they fill a lost range.
pub const FLAG_STAGED: u8 = 1;

/// The header of a record, little-endian, without padding.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    /// A [`Kind`].
    pub kind: u8,
    /// [`FLAG_STAGED`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Bytes of the record without header and pad.
    pub len: U32,
    /// The stream.
    pub stream: U64,
    /// A position in the stream; its meaning depends on the kind.
    pub lsn: U64,
    /// Ballot under which this node took the record.
    pub round: U64,
    /// See `round`.
    pub incarnation: U64,
    /// See `round`.
    pub node: U32,
    /// CRC-32C: of a group its [`GroupHeader`](crate::GroupHeader) (which holds the checksum of
    /// the entries), of any other kind all its bytes.
    pub body_crc: U32,
    /// Of a base the positions that it takes, else 0: as in its group header.
    pub span: U64,
}

const _: () = assert!(size_of::<RecordHeader>() == RECORD_HEADER_BYTES);
const _: () = assert!(RECORD_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));
const _: () = assert!(FLAG_STAGED.is_power_of_two(), "a flag is one bit");
const _: () = assert!(Kind::Group as u8 != 0, "zeros are no record");
const _: () = assert!(!Kind::Group.is_hard_state(), "groups are fetched again from others");
const _: () = assert!(!Kind::Moved.is_hard_state(), "nor is what is logged again");
const _: () = assert!(Kind::Promise.is_hard_state() && Kind::Takeover.is_hard_state());
const _: () = assert!(!Kind::Closing.is_hard_state(), "a closing block asks for no other");
const _: () = {
    let mut at = 0;
    while at < Kind::ALL.len() {
        assert!(Kind::ALL[at] as usize == at + 1, "every kind is listed, in code order");
        at += 1;
    }
};

impl RecordHeader {
    /// The ballot.
    pub fn ballot(&self) -> Ballot {
        Ballot {
            round: self.round.get(),
            node: self.node.get(),
            incarnation: self.incarnation.get(),
        }
    }

    /// Sets the ballot: what an importing leader rewrites, and nothing else.
    pub fn set_ballot(&mut self, ballot: Ballot) {
        self.round = ballot.round.into();
        self.node = ballot.node.into();
        self.incarnation = ballot.incarnation.into();
        assert!(self.ballot() == ballot, "what is set is read back");
    }

    /// The position.
    pub fn lsn(&self) -> Lsn {
        Lsn(self.lsn.get())
    }

    /// Whether the record is staged for a takeover.
    pub fn is_staged(&self) -> bool {
        self.flags & FLAG_STAGED != 0
    }
}
