//! Streams: created, listed, led by somebody, and positions in one.

use palisade_wal::Lsn;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::{
    CREATE_STREAMS_MAX, STREAMS_MAX, WireError, counted, exact, length, list, list_head, zeros,
};
use crate::paxos::codec::{fixed, put};

fixed! {
    TransferBody: 8 { node: U32, reserved: [u8; 4] }
    TransferredBody: 16 { node: U32, reserved: [u8; 4], round: U64 }
    RawStream: 32 { id: U64, leader: U32, reserved: [u8; 4], base_lsn: U64, committed_lsn: U64 }
}

/// The body of [`KIND_CREATE_STREAMS`](super::KIND_CREATE_STREAMS).
pub fn encode_create_streams(count: u32) -> Vec<u8> {
    list_head(count as usize, 0)
}

/// Reads the body of [`KIND_CREATE_STREAMS`](super::KIND_CREATE_STREAMS): how many, from 1 to
/// [`CREATE_STREAMS_MAX`].
///
/// # Errors
/// What is wrong with it.
pub fn parse_create_streams(body: &[u8]) -> Result<u32, WireError> {
    let (count, rest) = counted("create streams", body, CREATE_STREAMS_MAX)?;
    if !rest.is_empty() {
        return Err(length("create streams", body));
    }
    if count == 0 {
        return Err(WireError::Bound { what: "streams to create", value: 0, bound: 1 });
    }
    Ok(count as u32)
}

/// The body of [`KIND_CREATED`](super::KIND_CREATED).
///
/// # Panics
/// Above [`CREATE_STREAMS_MAX`] ids.
pub fn encode_created(ids: &[u64]) -> Vec<u8> {
    assert!(ids.len() <= CREATE_STREAMS_MAX, "{} streams", ids.len());
    let mut body = list_head(ids.len(), size_of::<U64>());
    ids.iter().for_each(|id| put(&mut body, &U64::new(*id)));
    body
}

/// Reads the body of [`KIND_CREATED`](super::KIND_CREATED).
///
/// # Errors
/// What is wrong with it.
pub fn parse_created(body: &[u8]) -> Result<Vec<u64>, WireError> {
    let ids: &[U64] = list("created", body, CREATE_STREAMS_MAX)?;
    Ok(ids.iter().map(|id| id.get()).collect())
}

/// The body of [`KIND_TRANSFER_LEADER`](super::KIND_TRANSFER_LEADER).
pub fn encode_transfer(to: u32) -> Vec<u8> {
    TransferBody { node: to.into(), reserved: [0; 4] }.as_bytes().to_vec()
}

/// Reads the body of [`KIND_TRANSFER_LEADER`](super::KIND_TRANSFER_LEADER): the node that
/// should lead, not 0.
///
/// # Errors
/// What is wrong with it.
pub fn parse_transfer(body: &[u8]) -> Result<u32, WireError> {
    let TransferBody { node, reserved } = exact("transfer", body)?;
    zeros("transfer", reserved)?;
    match node.get() {
        0 => Err(WireError::Bound { what: "node", value: 0, bound: 1 }),
        node => Ok(node),
    }
}

/// The body of [`KIND_TRANSFERRED`](super::KIND_TRANSFERRED).
pub fn encode_transferred(to: u32, round: u64) -> Vec<u8> {
    let (node, round) = (to.into(), round.into());
    TransferredBody { node, reserved: [0; 4], round }.as_bytes().to_vec()
}

/// Reads the body of [`KIND_TRANSFERRED`](super::KIND_TRANSFERRED): who leads, and the round of
/// its ballot.
///
/// # Errors
/// What is wrong with it.
pub fn parse_transferred(body: &[u8]) -> Result<(u32, u64), WireError> {
    let TransferredBody { node, reserved, round } = exact("transferred", body)?;
    zeros("transferred", reserved)?;
    Ok((node.get(), round.get()))
}

/// The body of [`KIND_TRUNCATE`](super::KIND_TRUNCATE), and of
/// [`KIND_TRUNCATED`](super::KIND_TRUNCATED).
pub fn encode_position(position: Lsn) -> Vec<u8> {
    U64::new(position.0).as_bytes().to_vec()
}

/// Reads the body of [`KIND_TRUNCATE`](super::KIND_TRUNCATE) or of
/// [`KIND_TRUNCATED`](super::KIND_TRUNCATED).
///
/// # Errors
/// What is wrong with it.
pub fn parse_position(body: &[u8]) -> Result<Lsn, WireError> {
    let value = exact::<U64>("position", body)?.get();
    if value > Lsn::MAX.0 {
        return Err(WireError::Bound { what: "position", value, bound: Lsn::MAX.0 });
    }
    Ok(Lsn(value))
}

/// A stream in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// The stream.
    pub id: u64,
    /// Node that leads it, 0 if not known.
    pub leader: u32,
    /// Where its log starts at this node.
    pub base_lsn: u64,
    /// Its committed end as far as this node knows.
    pub committed_lsn: u64,
}

/// The body of [`KIND_STREAMS`](super::KIND_STREAMS).
///
/// # Panics
/// Above [`STREAMS_MAX`] streams.
pub fn encode_streams(streams: &[StreamEntry]) -> Vec<u8> {
    assert!(streams.len() <= STREAMS_MAX, "{} streams", streams.len());
    let mut body = list_head(streams.len(), size_of::<RawStream>());
    for stream in streams {
        let stream = RawStream {
            id: stream.id.into(),
            leader: stream.leader.into(),
            reserved: [0; 4],
            base_lsn: stream.base_lsn.into(),
            committed_lsn: stream.committed_lsn.into(),
        };
        put(&mut body, &stream);
    }
    body
}

/// Reads the body of [`KIND_STREAMS`](super::KIND_STREAMS).
///
/// # Errors
/// What is wrong with it.
pub fn parse_streams(body: &[u8]) -> Result<Vec<StreamEntry>, WireError> {
    let entry = |stream: &RawStream| {
        zeros("streams", &stream.reserved)?;
        Ok(StreamEntry {
            id: stream.id.get(),
            leader: stream.leader.get(),
            base_lsn: stream.base_lsn.get(),
            committed_lsn: stream.committed_lsn.get(),
        })
    };
    list("streams", body, STREAMS_MAX)?.iter().map(entry).collect()
}
