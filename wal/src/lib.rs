//! Bytes that survive.
#![forbid(unsafe_code)]

mod group;
mod log;
mod lsn;
mod place;
mod record;

pub use group::{
    CHAIN_START, ENTRY_HEADER_BYTES, EntryHeader, GROUP_BYTES_MAX, GROUP_HEADER_BYTES, GroupHeader,
    GroupKind, Origin, RECORD_BYTES_MAX, chain, entry_bytes,
};
pub use log::{Boundary, Extent, StreamLog, TakeoverRefusal};
pub use lsn::{Ballot, Lsn};
pub use place::Place;
pub use record::{FLAG_STAGED, Kind, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader};
