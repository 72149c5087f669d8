//! Bytes that survive.
#![forbid(unsafe_code)]

mod block;
mod body;
mod config;
mod flight;
mod group;
mod history;
mod identity;
mod index;
pub mod limits;
mod log;
mod lsn;
mod parse;
mod prepare;
mod reader;
mod record;
mod recover;
mod replay;
mod retire;
mod scan;
mod segment;
mod table;
mod wal;
mod writer;

pub use block::{
    BLOCK_FORMAT, BLOCK_MAGIC, BadBlock, BlockFacts, BlockHead, Expect, parse as parse_block, seal,
};
pub use body::{BadPush, Body, BodyBuilder, BodyState, Full, RecordMeta, pad};
pub use config::{BadConfig, Config, SyncPath, WalError};
pub use group::{
    CHAIN_START, ENTRY_HEADER_BYTES, EntryHeader, GROUP_BYTES_MAX, GROUP_HEADER_BYTES, GroupHeader,
    GroupKind, Origin, RECORD_BYTES_MAX, chain, entry_bytes,
};
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
pub use reader::{FoundGroup, Stop, Walked, read_groups};
pub use record::{FLAG_STAGED, Kind, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader};
pub use replay::{CorruptRange, Replay, Report, Tail};
pub use segment::{
    BadSegment, Kept, Place, SEGMENT_COPIES, SEGMENT_COPY_BYTES, SEGMENT_FORMAT, SEGMENT_MAGIC,
    SEGMENT_SEQ_MAX, SegmentHeader, parse_segment_name, segment_name,
};
pub use wal::Wal;
pub use writer::{NewBlock, NoRoom, SegmentFacts, Space};
