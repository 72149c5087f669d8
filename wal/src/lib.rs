//! Bytes that survive.
#![forbid(unsafe_code)]

mod block;
mod body;
mod group;
pub mod limits;
mod lsn;
mod parse;
mod record;

pub use block::{
    BLOCK_FORMAT, BLOCK_MAGIC, BadBlock, BlockFacts, BlockHead, Expect, parse as parse_head, seal,
};
pub use body::{BadPush, Body, BodyBuilder, BodyState, Full, RecordMeta, pad};
pub use group::{
    CHAIN_START, ENTRY_HEADER_BYTES, EntryHeader, GROUP_BYTES_MAX, GROUP_HEADER_BYTES, GroupHeader,
    GroupKind, Origin, RECORD_BYTES_MAX, chain, entry_bytes,
};
pub use lsn::{Ballot, Lsn};
pub use parse::{
    BadBody, BadRecord, Entries, Entry, check_headers_only, check_record, entries, parse_body,
    parse_group, restamp,
};
pub use record::{FLAG_STAGED, Kind, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader};
