//! What a client and a node say to each other, on connections of `Class::Client`.
//!
//! Each message is the body of one plain frame; the frame's tag is the request's id, its second
//! tag the stream. A request has exactly one answer, or none when the connection ends. Answers
//! may come in any order. All numbers are little-endian.
//!
//! | kind | body |
//! |---|---|
//! | `APPEND` | count u32, 0 u32; records |
//! | `APPENDED` | count u32, 0 u32; fates |
//! | `REFUSED` | code u16, leader len u16, text len u16, 0 u16, expected u64, leader, text |
//! | `CREATE_STREAMS` | count u32, 0 u32 |
//! | `CREATED` | count u32, 0 u32; ids u64 |
//! | `LIST_STREAMS` | nothing |
//! | `STREAMS` | count u32, 0 u32; streams |
//! | `STATUS` | nothing |
//! | `STATUS_JSON` | the JSON of [`Status`](crate::status::Status) |
//! | `TRANSFER_LEADER` | node u32, 0 u32 |
//! | `TRANSFERRED` | node u32, 0 u32, round u64 of the ballot under which it leads |
//! | `CONTROL` | a [`Request`](crate::control::Request) |
//! | `CONTROLLED` | the JSON of [`Controlled`](crate::control::Controlled) |
//! | `REGISTRY` | nothing |
//! | `REGISTRY_JSON` | the JSON of [`RegistryView`](crate::control::RegistryView) |
//!
//! A record: len u32, 0 u32, producer u64, sequence u64, SCN floor u64, payload padded with zeros
//! to 8. A fate: outcome u8, level u8, 0 \[6\], LSN u64, end LSN u64, SCN u64. A stream: id u64,
//! leader node u32, 0 u32, base LSN u64, committed LSN u64.
//!
//! `REFUSED` answers a whole request: nothing of it was, or will be, appended.

mod append;
mod fate;
mod refused;
mod stream;
#[cfg(test)]
mod tests;

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use crate::paxos::codec::{Fixed, fixed, put};

pub use append::{Append, AppendBuilder, AppendRecord};
#[cfg(test)]
pub(crate) use fate::level_from_code;
pub use fate::{AppendedRecord, Outcome, encode_appended, parse_appended};
pub use refused::{Refused, RefusedCode};
pub use stream::{
    StreamEntry, encode_create_streams, encode_created, encode_position, encode_streams,
    encode_transfer, encode_transferred, parse_create_streams, parse_created, parse_position,
    parse_streams, parse_transfer, parse_transferred,
};

pub use crate::kinds::{
    KIND_APPEND, KIND_APPENDED, KIND_CONTROL, KIND_CONTROLLED, KIND_CREATE_STREAMS, KIND_CREATED,
    KIND_LIST_STREAMS, KIND_REBUILD, KIND_REBUILDING, KIND_REFUSED, KIND_REGISTRY,
    KIND_REGISTRY_JSON, KIND_STATUS, KIND_STATUS_JSON, KIND_STREAMS, KIND_TRANSFER_LEADER,
    KIND_TRANSFERRED, KIND_TRUNCATE, KIND_TRUNCATED,
};

/// Most records of one [`KIND_APPEND`].
pub const APPEND_RECORDS_MAX: usize = 4096;
/// Longest payload of a record.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Longest body of [`KIND_APPEND`]: one largest record, or many small ones.
pub const APPEND_BODY_MAX: usize = PAYLOAD_BYTES_MAX + (64 << 10);
/// Most streams of one [`KIND_CREATE_STREAMS`].
pub const CREATE_STREAMS_MAX: usize = 16 << 10;
/// Most streams of one [`KIND_STREAMS`]; a node with more answers with the lowest ids from the
/// stream on that the question names.
pub const STREAMS_MAX: usize = 32 << 10;
/// Longest leader hint in bytes.
pub const LEADER_BYTES_MAX: usize = 64;
/// Longest text of a refusal in bytes.
pub const TEXT_BYTES_MAX: usize = 400;

fixed! {
    /// So many entries follow.
    ListHead: 8 { count: U32, reserved: [u8; 4] }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The body ends before what it announces, or goes on after it.
    #[error("{what} of {len} bytes does not hold what it announces")]
    Length {
        /// The message.
        what: &'static str,
        /// Bytes of its body.
        len: usize,
    },
    /// A number beyond its bound.
    #[error("{what} is {value}, bound {bound}")]
    Bound {
        /// The number.
        what: &'static str,
        /// What it is.
        value: u64,
        /// Its bound.
        bound: u64,
    },
    /// A code that is not known.
    #[error("{what} has the unknown code {code}")]
    Code {
        /// The field.
        what: &'static str,
        /// The code.
        code: u16,
    },
    /// Bytes that must be zero are not.
    #[error("reserved bytes of {0} are set")]
    Reserved(&'static str),
    /// Text that is no UTF-8 without control characters.
    #[error("{0} is no plain text")]
    Text(&'static str),
}

fn length(what: &'static str, body: &[u8]) -> WireError {
    WireError::Length { what, len: body.len() }
}

/// A body of a fixed size.
fn exact<'a, T: Fixed>(what: &'static str, body: &'a [u8]) -> Result<&'a T, WireError> {
    T::ref_from_bytes(body).map_err(|_| length(what, body))
}

/// How many entries a list has, of at most `max`, and their bytes.
fn counted<'a>(
    what: &'static str,
    body: &'a [u8],
    max: usize,
) -> Result<(usize, &'a [u8]), WireError> {
    let (head, rest) = ListHead::ref_from_prefix(body).map_err(|_| length(what, body))?;
    zeros(what, &head.reserved)?;
    let count = bounded(what, head.count.get() as usize, max)?;
    Ok((count, rest))
}

/// A list of at most `max` entries of a fixed size.
fn list<'a, T: Fixed>(
    what: &'static str,
    body: &'a [u8],
    max: usize,
) -> Result<&'a [T], WireError> {
    let (count, rest) = counted(what, body, max)?;
    <[T]>::ref_from_bytes_with_elems(rest, count).map_err(|_| length(what, body))
}

fn bounded(what: &'static str, value: usize, max: usize) -> Result<usize, WireError> {
    let (number, bound) = (value as u64, max as u64);
    if value <= max { Ok(value) } else { Err(WireError::Bound { what, value: number, bound }) }
}

fn zeros(what: &'static str, bytes: &[u8]) -> Result<(), WireError> {
    let all_zero = bytes.iter().all(|&byte| byte == 0);
    if all_zero { Ok(()) } else { Err(WireError::Reserved(what)) }
}

/// The start of a list, with room for so many entries of `bytes` each.
fn list_head(count: usize, bytes: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(size_of::<ListHead>() + count * bytes);
    put(&mut body, &ListHead { count: (count as u32).into(), reserved: [0; 4] });
    body
}
