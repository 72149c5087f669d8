//! Bytes that survive: the write-ahead log of one shard.
//!
//! wal remembers; it does not know what a quorum is. It is pure: it asks for file operations as
//! data ([`Op`](palisade_netio::Op)) and is told how they ended, so that the same code runs on a
//! ring and in a simulator. `FORMAT.md` has every byte.
//!
//! - [`BodyBuilder`] makes a body of records in a slot; [`parse_body`] reads one back.
//! - [`Wal`] recovers the log ([`Replay`]), then gives blocks their [`Place`] and writes them.
//! - [`parse_segment_index`] says where a sealed segment has a stream's groups.
//! - [`IdentityFile`] keeps what must outlive damage to the log: two copies, both written.
//!
//! A body with one group, made and read back:
//!
//! ```
//! use palisade_wal::{
//!     Ballot, BodyBuilder, CHAIN_START, GroupKind, Lsn, Origin, entries, parse_body,
//! };
//!
//! let ballot = Ballot { round: 1, node: 1, incarnation: 9 };
//! let origin = Origin { role_epoch: 1, cluster: 1, ballot };
//! let mut slot = vec![0; 4096];
//! let mut builder = BodyBuilder::new(&mut slot[512..]);
//! builder.begin_group(2, Lsn::ZERO, ballot, GroupKind::Data, origin, 0)?;
//! builder.push_entry(b"debit 5", 0, 0)?;
//! builder.push_entry(b"credit 5", 0, 0)?;
//! let meta = builder.end_group(1_000, CHAIN_START);
//! let body = builder.finish();
//!
//! let bytes = &slot[512..512 + body.len as usize];
//! assert_eq!(parse_body(bytes, body.headers_crc)?, [meta]);
//! let payloads: Vec<&[u8]> = entries(&bytes[meta.range()]).map(|entry| entry.payload).collect();
//! assert_eq!(payloads, [&b"debit 5"[..], b"credit 5"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod adopt;
mod base;
mod bases;
mod block;
mod body;
mod checkpoint;
mod config;
mod flight;
#[cfg(test)]
mod format;
mod found;
mod group;
mod history;
mod hole;
mod identity;
mod index;
pub mod limits;
mod log;
mod lsn;
mod parse;
mod prepare;
mod record;
mod recover;
mod recycle;
mod replay;
mod retire;
mod room;
mod scan;
mod segment;
mod starts;
mod table;
mod wal;
mod writer;

pub use block::{
    BLOCK_FORMAT, BLOCK_MAGIC, BadBlock, BlockFacts, BlockHead, Expect, parse as parse_block, seal,
};
pub use body::{BadPush, Body, BodyBuilder, BodyState, Full, RecordMeta, pad};
pub use checkpoint::{
    BadCheckpoint, CHECKPOINT_BOUNDARIES_MAX, CHECKPOINT_EXTENTS_MAX, CHECKPOINT_PART_BYTES,
    CHECKPOINT_PARTS_MAX, CheckpointRecord, LogImage,
};
pub use config::{BadConfig, Config, SyncPath, WalError};
pub use group::{
    CHAIN_START, ENTRY_HEADER_BYTES, EntryHeader, GROUP_BYTES_MAX, GROUP_HEADER_BYTES, GroupHeader,
    GroupKind, Origin, RECORD_BYTES_MAX, chain, entry_bytes, proof,
};
pub use hole::{Anchor, Hole};
pub use identity::{
    IDENTITY_BYTES, IDENTITY_COPIES, IDENTITY_FORMAT, IDENTITY_MAGIC, IDENTITY_NAME, Identity,
    IdentityEvent, IdentityFile, IdentityRecord, decode_identity, encode_identity,
};
pub use index::{
    BadIndex, IndexHeader, IndexPoint, IndexStream, SegmentIndex, StreamExtent, parse_index_block,
    parse_segment_index,
};
pub use log::{Boundary, Extent, StreamLog, TakeoverRefusal};
pub use lsn::{Ballot, Lsn};
pub use parse::{
    BadBody, BadRecord, Entries, Entry, check_headers_only, check_record, entries, parse_body,
    parse_group, restamp,
};
pub use record::{FLAG_STAGED, Kind, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader};
pub use recycle::{LogStart, Recycler};
pub use replay::{CorruptRange, Replay, Report, Tail};
pub use room::{NewBlock, NoRoom, Space};
pub use segment::{
    BadSegment, Kept, Place, SEGMENT_COPIES, SEGMENT_COPY_BYTES, SEGMENT_FORMAT, SEGMENT_MAGIC,
    SEGMENT_SEQ_MAX, SegmentHeader, Started, parse_segment_name, segment_name,
};
pub use wal::Wal;
pub use writer::SegmentFacts;
