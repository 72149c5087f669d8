//! What a reader and the forwarder say to each other, over the frames of netio.
//!
//! | frame | direction | head | tag | second tag | body |
//! |---|---|---|---|---|---|
//! | FETCH | reader -> | 64 | stream | from | to, credit, flags: 24 bytes |
//! | CREDIT | reader -> | 64 | stream | bytes | |
//! | STOP | reader -> | 64 | stream | 0 | |
//! | ASK | reader -> | 64 | number | 0 | see [`facts`](crate::transfer::facts) |
//! | FACTS | -> reader | 64 | number | 0 | see there |
//! | CHUNK | -> reader | 512 | stream | start | records; the prefix says the rest |
//! | END | -> reader | 64 | stream | committed end | base, reason: 16 bytes |
//! | STATUS | -> reader | 64 | stream | committed end | base: 8 bytes |
//! | BEAT | -> reader | 64 | number | role epoch | |
//!
//! Every STOP is answered by an END with the reason "stopped", so that a reader knows which chunks
//! belong to which FETCH; a FETCH for a stream that is being sent is for readers that do not care.
//!
//! The body of a chunk is `[RecordHeader][group][pad]` again and again: groups of one stream,
//! each starting where the one before ended, byte for byte as in a block. The first group of the
//! first chunk is the one that holds `from`. All numbers are little-endian.
//!
//! Flags of a FETCH: 1 to follow, 2 for a base where `from` is let go, for a log that ends there
//! with the chain that is the last field; without it that is 0. Flags of a CHUNK, in its prefix: 2
//! when its body is one base, which stands for positions that nobody keeps.
//!
//! To a reader that says [`FEATURE_LZ4`] in its greeting the body may be sent as one LZ4 block of
//! fewer bytes; the prefix has the length of the records then, which is 0 otherwise. Credit counts
//! records.

use palisade_netio::limits::FRAME_PREFIX_BYTES;
use palisade_netio::{FrameHead, FrameLimits};
use palisade_wal::Lsn;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::limits::{CHUNK_BYTES_MAX, CONTROL_BODY_MAX, CREDIT_BYTES_MAX};
use crate::seeded::is_seeded;
use crate::transfer::facts::{FactsError, Question};

pub use crate::kinds::{
    KIND_ASK, KIND_BEAT, KIND_CHUNK, KIND_CREDIT, KIND_END, KIND_FETCH, KIND_STOP,
    KIND_STREAM_STATUS,
};

/// What the forwarder accepts from a reader.
pub const FROM_READER: FrameLimits =
    FrameLimits { body_bytes_max: CONTROL_BODY_MAX, plain: true, bulk: false };
/// What a reader accepts from the forwarder.
pub const FROM_FORWARDER: FrameLimits =
    FrameLimits { body_bytes_max: CHUNK_BYTES_MAX, plain: true, bulk: true };

const FLAG_FOLLOW: u64 = 1;
/// Of a FETCH and of a CHUNK.
const FLAG_BASE: u64 = 2;
/// In a greeting: its sender reads chunks that are compressed with LZ4.
pub const FEATURE_LZ4: u8 = 1;

/// Why a frame says nothing valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not a kind of this direction.
    #[error("frame of kind {0} is not expected here")]
    Kind(u16),
    /// A head or body of another length than the kind has.
    #[error("frame of kind {kind} with {len} bytes")]
    Length {
        /// Kind of the frame.
        kind: u16,
        /// Bytes found.
        len: usize,
    },
    /// A question that is none.
    #[error("a question: {0}")]
    Question(#[from] FactsError),
    /// A number outside of its range.
    #[error("{field} {value} is out of range")]
    Range {
        /// Which number.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

/// "Send me this stream." A second one for the same stream replaces the first;
/// to know which chunk answers which, stop the first and wait for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The stream.
    pub stream: u64,
    /// The first byte wanted; the group that holds it comes first.
    pub from: Lsn,
    /// The first byte no longer wanted; [`Lsn::MAX`] for no end.
    pub to: Lsn,
    /// Go on with what is committed later, instead of ending at what is committed now.
    pub follow: bool,
    /// Where the first byte is not kept any more: send a base that stands for what is gone, for a
    /// log that ends at `from` with this chain. Only standbys get one.
    pub base: Option<u64>,
    /// Bytes of chunk bodies that may be sent. Below [`CHUNK_BYTES_MAX`] a large group waits
    /// for more.
    pub credit_bytes: u64,
}

impl Fetch {
    fn flags(&self) -> u64 {
        u64::from(self.follow) * FLAG_FOLLOW + u64::from(self.base.is_some()) * FLAG_BASE
    }
}

/// What a reader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromReader {
    /// Start.
    Fetch(Fetch),
    /// So many more bytes may be sent.
    Credit {
        /// The stream.
        stream: u64,
        /// Bytes of chunk bodies.
        bytes: u64,
    },
    /// No more, please.
    Stop {
        /// The stream.
        stream: u64,
    },
    /// How do you stand to these streams?
    Ask(Box<Question>),
}

/// What is said of a chunk beside its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHead {
    /// The stream.
    pub stream: u64,
    /// Start of its first group.
    pub start: Lsn,
    /// End of its last group.
    pub end: Lsn,
    /// Committed end at the sender.
    pub committed: Lsn,
    /// CRC-32C over the record headers of the body, one after the other.
    pub headers_crc: u32,
    /// Role epoch that the sender knows.
    pub role_epoch: u64,
    /// Bytes of the records.
    pub body_len: u32,
    /// The body is one base: it takes more positions than it has bytes, or fewer.
    pub base: bool,
    /// Bytes that are sent of them, if they are compressed.
    pub compressed: Option<u32>,
}

/// Why the forwarder ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// Everything asked for was sent.
    ReachedTo,
    /// The bytes asked for are gone here; the log starts at `base`.
    Recycled {
        /// First byte still there.
        base: Lsn,
    },
    /// No such stream here.
    UnknownStream,
    /// A limit is reached; another node may have room.
    Busy,
    /// The node stops.
    ShuttingDown,
    /// The bytes cannot be read here; another node may have them.
    Damaged,
    /// The answer to a STOP: whatever was sent for the fetch came before it.
    Stopped,
}

impl EndReason {
    pub(crate) fn code(self) -> u32 {
        match self {
            EndReason::ReachedTo => 1,
            EndReason::Recycled { .. } => 2,
            EndReason::UnknownStream => 3,
            EndReason::Busy => 4,
            EndReason::ShuttingDown => 5,
            EndReason::Damaged => 6,
            EndReason::Stopped => 7,
        }
    }

    pub(crate) fn from_code(code: u32, base: Lsn) -> Option<EndReason> {
        Some(match code {
            1 => EndReason::ReachedTo,
            2 => EndReason::Recycled { base },
            3 => EndReason::UnknownStream,
            4 => EndReason::Busy,
            5 => EndReason::ShuttingDown,
            6 => EndReason::Damaged,
            7 => EndReason::Stopped,
            _ => return None,
        })
    }
}

impl std::fmt::Display for EndReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EndReason::ReachedTo => f.write_str("reached-to"),
            EndReason::Recycled { base } => write!(f, "recycled below {base}"),
            EndReason::UnknownStream => f.write_str("unknown-stream"),
            EndReason::Busy => f.write_str("busy"),
            EndReason::ShuttingDown => f.write_str("shutting-down"),
            EndReason::Damaged => f.write_str("damaged"),
            EndReason::Stopped => f.write_str("stopped"),
        }
    }
}

/// The last frame about a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The stream.
    pub stream: u64,
    /// Why.
    pub reason: EndReason,
    /// Committed end at the sender.
    pub committed: Lsn,
    /// First byte that the sender still has.
    pub base: Lsn,
}

/// Where the sender stands while it has nothing to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The stream.
    pub stream: u64,
    /// Committed end at the sender.
    pub committed: Lsn,
    /// First byte that the sender still has.
    pub base: Lsn,
}

/// A sign of life, once in a while on every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Grows with each beat.
    pub number: u64,
    /// Role epoch that the sender knows.
    pub role_epoch: u64,
}

/// What the forwarder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromForwarder {
    /// Records follow in the body.
    Chunk(ChunkHead),
    /// A stream is over.
    End(End),
    /// Nothing to send yet.
    Status(Status),
    /// A sign of life.
    Beat(Beat),
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FetchBody {
    to: U64,
    credit: U64,
    flags: U64,
    chain: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct EndBody {
    base: U64,
    reason: U32,
    reserved: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ChunkPrefix {
    end: U64,
    committed: U64,
    role_epoch: U64,
    headers_crc: U32,
    flags: U32,
    /// 0 when the body is not compressed.
    plain_len: U32,
}

const _: () = assert!(size_of::<FetchBody>() <= CONTROL_BODY_MAX as usize);
const _: () = assert!(size_of::<ChunkPrefix>() <= FRAME_PREFIX_BYTES);

impl FromReader {
    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            FromReader::Ask(question) => question.encode(),
            FromReader::Fetch(fetch) => {
                let body = FetchBody {
                    to: fetch.to.0.into(),
                    credit: fetch.credit_bytes.into(),
                    flags: fetch.flags().into(),
                    chain: fetch.base.unwrap_or_default().into(),
                };
                FrameHead::encode(KIND_FETCH, fetch.stream, fetch.from.0, body.as_bytes())
            }
            FromReader::Credit { stream, bytes } => {
                FrameHead::encode(KIND_CREDIT, *stream, *bytes, &[])
            }
            FromReader::Stop { stream } => FrameHead::encode(KIND_STOP, *stream, 0, &[]),
        }
    }

    /// Reads a frame whose head and body were checked by netio.
    ///
    /// # Errors
    /// When the frame is not for a forwarder or a number is out of range.
    pub fn parse(head: &FrameHead, body: &[u8]) -> Result<FromReader, WireError> {
        match head.kind {
            KIND_FETCH => {
                let wire: &FetchBody = exact(head.kind, body)?;
                if wire.flags.get() & !(FLAG_FOLLOW | FLAG_BASE) != 0 {
                    return Err(range("fetch flags", wire.flags.get()));
                }
                let chain = wire.chain.get();
                let base = (wire.flags.get() & FLAG_BASE != 0).then_some(chain);
                if base.is_none() && chain != 0 {
                    return Err(range("fetch chain", chain));
                }
                // A reader may ask for any position inside of a group, so `from` and `to` need
                // no alignment.
                let (from, to) = (position("from", head.tag2)?, position("to", wire.to.get())?);
                Ok(FromReader::Fetch(Fetch {
                    stream: head.tag,
                    from,
                    to,
                    follow: wire.flags.get() & FLAG_FOLLOW != 0,
                    base,
                    credit_bytes: credit(wire.credit.get())?,
                }))
            }
            KIND_CREDIT => {
                let _: &[u8; 0] = exact(head.kind, body)?;
                Ok(FromReader::Credit { stream: head.tag, bytes: credit(head.tag2)? })
            }
            KIND_STOP => {
                let _: &[u8; 0] = exact(head.kind, body)?;
                Ok(FromReader::Stop { stream: head.tag })
            }
            KIND_ASK => Ok(FromReader::Ask(Box::new(Question::parse(head, body)?))),
            kind => Err(WireError::Kind(kind)),
        }
    }
}

impl ChunkHead {
    /// Bytes of the body as it is sent.
    pub fn wire_len(&self) -> u32 {
        self.compressed.unwrap_or(self.body_len)
    }

    /// The 512-byte head; the body of [`wire_len`](ChunkHead::wire_len) bytes follows.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(KIND_CHUNK)
    }

    /// The same, of a frame of another kind.
    pub fn encode_as(&self, kind: u16) -> Vec<u8> {
        let prefix = ChunkPrefix {
            end: self.end.0.into(),
            committed: self.committed.0.into(),
            role_epoch: self.role_epoch.into(),
            headers_crc: self.headers_crc.into(),
            flags: if self.base { FLAG_BASE as u32 } else { 0 }.into(),
            plain_len: self.compressed.map_or(0, |_| self.body_len).into(),
        };
        let (stream, start, len) = (self.stream, self.start.0, self.wire_len() as usize);
        FrameHead::encode_bulk(kind, stream, start, prefix.as_bytes(), len)
    }

    fn parse(head: &FrameHead, prefix: &[u8]) -> Result<ChunkHead, WireError> {
        let Ok((wire, _)) = ChunkPrefix::ref_from_prefix(prefix) else {
            return Err(WireError::Length { kind: head.kind, len: prefix.len() });
        };
        let start = aligned("chunk start", head.tag2)?;
        let end = aligned("chunk end", wire.end.get())?;
        let committed = aligned("committed end", wire.committed.get())?;
        if end <= start || end > committed {
            return Err(range("chunk end", end.0));
        }
        let base = u64::from(wire.flags.get()) == FLAG_BASE;
        if !base && wire.flags.get() != 0 {
            return Err(range("chunk flags", wire.flags.get().into()));
        }
        let (body_len, compressed) = match wire.plain_len.get() {
            0 => (head.body_len, None),
            // Two bases for two logs would be told apart by the CRC of their headers alone.
            plain if head.body_len < plain && !base => (plain, Some(head.body_len)),
            plain => return Err(range("plain length", plain.into())),
        };
        // Every group takes as many bytes in the stream as in the body, and a header besides; but
        // for a base.
        let short = !base && end.since(start) >= u64::from(body_len);
        if short || body_len > CHUNK_BYTES_MAX && !is_seeded("length_trusted") {
            return Err(range("chunk body", body_len.into()));
        }
        Ok(ChunkHead {
            stream: head.tag,
            start,
            end,
            committed,
            headers_crc: wire.headers_crc.get(),
            role_epoch: wire.role_epoch.get(),
            body_len,
            base,
            compressed,
        })
    }
}

impl FromForwarder {
    /// The frame; of a chunk only the head, which the body follows.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            FromForwarder::Chunk(chunk) => chunk.encode(),
            FromForwarder::End(end) => {
                let body = EndBody {
                    base: end.base.0.into(),
                    reason: end.reason.code().into(),
                    reserved: 0.into(),
                };
                FrameHead::encode(KIND_END, end.stream, end.committed.0, body.as_bytes())
            }
            FromForwarder::Status(status) => {
                let (committed, base) = (status.committed.0, U64::new(status.base.0));
                FrameHead::encode(KIND_STREAM_STATUS, status.stream, committed, base.as_bytes())
            }
            FromForwarder::Beat(beat) => {
                FrameHead::encode(KIND_BEAT, beat.number, beat.role_epoch, &[])
            }
        }
    }

    /// Reads a frame whose head was checked by netio. `rest` is the prefix of a bulk frame, or
    /// the whole body of a small one.
    ///
    /// # Errors
    /// When the frame is not for a reader or a number is out of range.
    pub fn parse(head: &FrameHead, rest: &[u8]) -> Result<FromForwarder, WireError> {
        let bulk = usize::from(head.head_len) > palisade_netio::limits::FRAME_HEAD_BYTES;
        if bulk != (head.kind == KIND_CHUNK) {
            return Err(WireError::Kind(head.kind));
        }
        match head.kind {
            KIND_CHUNK => ChunkHead::parse(head, rest).map(FromForwarder::Chunk),
            KIND_END => {
                let wire: &EndBody = exact(head.kind, rest)?;
                let base = aligned("base", wire.base.get())?;
                let code = wire.reason.get();
                let reason = EndReason::from_code(code, base)
                    .ok_or_else(|| range("end reason", code.into()))?;
                let committed = aligned("committed end", head.tag2)?;
                Ok(FromForwarder::End(End { stream: head.tag, reason, committed, base }))
            }
            KIND_STREAM_STATUS => {
                let base: &U64 = exact(head.kind, rest)?;
                Ok(FromForwarder::Status(Status {
                    stream: head.tag,
                    committed: aligned("committed end", head.tag2)?,
                    base: aligned("base", base.get())?,
                }))
            }
            KIND_BEAT => {
                let _: &[u8; 0] = exact(head.kind, rest)?;
                Ok(FromForwarder::Beat(Beat { number: head.tag, role_epoch: head.tag2 }))
            }
            kind => Err(WireError::Kind(kind)),
        }
    }
}

fn exact<T>(kind: u16, bytes: &[u8]) -> Result<&T, WireError>
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
{
    T::ref_from_bytes(bytes).map_err(|_| WireError::Length { kind, len: bytes.len() })
}

fn range(field: &'static str, value: u64) -> WireError {
    WireError::Range { field, value }
}

fn position(field: &'static str, value: u64) -> Result<Lsn, WireError> {
    if value > Lsn::MAX.0 { Err(range(field, value)) } else { Ok(Lsn(value)) }
}

fn aligned(field: &'static str, value: u64) -> Result<Lsn, WireError> {
    if !value.is_multiple_of(Lsn::ALIGN) {
        Err(range(field, value))
    } else {
        position(field, value)
    }
}

fn credit(value: u64) -> Result<u64, WireError> {
    if value > CREDIT_BYTES_MAX { Err(range("credit", value)) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_netio::limits::FRAME_HEAD_BYTES;

    fn chunk() -> ChunkHead {
        ChunkHead {
            stream: 7,
            start: Lsn(64),
            end: Lsn(264),
            committed: Lsn(1024),
            headers_crc: 5,
            role_epoch: 3,
            body_len: 256,
            base: false,
            compressed: None,
        }
    }

    fn reread(frame: &[u8], limits: &FrameLimits) -> (FrameHead, usize) {
        let head = FrameHead::parse(frame, limits).unwrap();
        (head, FRAME_HEAD_BYTES)
    }

    #[test]
    fn every_frame_reads_back() {
        let fetch = Fetch {
            stream: 9,
            from: Lsn(13),
            to: Lsn::MAX,
            follow: true,
            base: None,
            credit_bytes: CREDIT_BYTES_MAX,
        };
        for said in [
            FromReader::Fetch(fetch),
            FromReader::Fetch(Fetch { follow: false, ..fetch }),
            FromReader::Fetch(Fetch { base: Some(0), ..fetch }),
            FromReader::Fetch(Fetch { base: Some(u64::MAX), ..fetch }),
            FromReader::Credit { stream: 2, bytes: 77 },
            FromReader::Stop { stream: 3 },
        ] {
            let frame = said.encode();
            let (head, at) = reread(&frame, &FROM_READER);
            assert_eq!(FromReader::parse(&head, &frame[at..]), Ok(said));
        }
        let end = |reason, base| {
            let (stream, committed) = (1, Lsn(80));
            FromForwarder::End(End { stream, reason, committed, base })
        };
        for said in [
            FromForwarder::Chunk(chunk()),
            FromForwarder::Chunk(ChunkHead { base: true, end: Lsn(1000), ..chunk() }),
            FromForwarder::Chunk(ChunkHead { compressed: Some(100), ..chunk() }),
            end(EndReason::ReachedTo, Lsn(0)),
            end(EndReason::Recycled { base: Lsn(40) }, Lsn(40)),
            end(EndReason::UnknownStream, Lsn(0)),
            end(EndReason::Busy, Lsn(0)),
            end(EndReason::ShuttingDown, Lsn(8)),
            end(EndReason::Damaged, Lsn(8)),
            end(EndReason::Stopped, Lsn(8)),
            FromForwarder::Status(Status { stream: 4, committed: Lsn(8), base: Lsn(0) }),
            FromForwarder::Beat(Beat { number: 5, role_epoch: 1 }),
        ] {
            let frame = said.encode();
            let (head, at) = reread(&frame, &FROM_FORWARDER);
            assert_eq!(FromForwarder::parse(&head, &frame[at..]), Ok(said));
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let wrong: [fn(&mut ChunkHead); 10] = [
            |c| c.end = c.start,
            |c| c.end = Lsn(1032),
            |c| c.start = Lsn(63),
            |c| c.committed = Lsn(!7),
            |c| c.body_len = 200,
            |c| c.body_len = 0,
            // Not smaller, shorter than its groups, larger than any chunk.
            |c| c.compressed = Some(256),
            |c| (c.compressed, c.body_len) = (Some(100), 200),
            |c| (c.compressed, c.body_len) = (Some(100), CHUNK_BYTES_MAX + 1),
            |c| (c.compressed, c.body_len) = (Some(100), u32::MAX),
        ];
        for change in wrong {
            let mut chunk = chunk();
            change(&mut chunk);
            let frame = chunk.encode();
            let (head, at) = reread(&frame, &FROM_FORWARDER);
            let read = FromForwarder::parse(&head, &frame[at..]);
            assert!(matches!(read, Err(WireError::Range { .. })), "{read:?}");
        }
        let frame = FromReader::Credit { stream: 1, bytes: u64::MAX }.encode();
        let (head, at) = reread(&frame, &FROM_READER);
        assert!(FromReader::parse(&head, &frame[at..]).is_err());
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let mut seed = 1u64;
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..20_000 {
            let head = FrameHead {
                kind: KIND_FETCH + (next() % 8) as u16,
                head_len: if next().is_multiple_of(2) { 64 } else { 512 },
                flags: 0,
                body_len: next() as u32,
                body_crc: 0,
                tag: next(),
                tag2: next() >> (next() % 64),
            };
            let body: Vec<u8> = (0..next() % 40).map(|_| next() as u8).collect();
            let _ = FromReader::parse(&head, &body);
            let _ = FromForwarder::parse(&head, &body);
        }
    }
}
