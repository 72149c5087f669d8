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

use palisade_wal::Lsn;

use crate::status::Protection;

pub use crate::kinds::{
    KIND_APPEND, KIND_APPENDED, KIND_CONTROL, KIND_CONTROLLED, KIND_CREATE_STREAMS, KIND_CREATED,
    KIND_LIST_STREAMS, KIND_REFUSED, KIND_REGISTRY, KIND_REGISTRY_JSON, KIND_STATUS,
    KIND_STATUS_JSON, KIND_STREAMS, KIND_TRANSFER_LEADER, KIND_TRANSFERRED, KIND_TRUNCATE,
    KIND_TRUNCATED,
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

const HEAD_BYTES: usize = 8;
const RECORD_BYTES: usize = 32;
const ALIGN: usize = 8;
const APPENDED_BYTES: usize = 32;
const STREAM_BYTES: usize = 32;
const REFUSED_BYTES: usize = 16;

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

/// Reads fields one after the other; never beyond the end.
struct Fields<'a> {
    what: &'static str,
    all: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(what: &'static str, body: &'a [u8]) -> Fields<'a> {
        Fields { what, all: body.len(), rest: body }
    }

    fn short(&self) -> WireError {
        WireError::Length { what: self.what, len: self.all }
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    fn zeros(&mut self, count: usize) -> Result<(), WireError> {
        let all_zero = self.bytes(count)?.iter().all(|&byte| byte == 0);
        if all_zero { Ok(()) } else { Err(WireError::Reserved(self.what)) }
    }

    /// The count at the start of a list, and its reserved word.
    fn count(&mut self, max: usize) -> Result<usize, WireError> {
        let count = self.u32()?;
        self.zeros(4)?;
        if count as usize > max {
            let (value, bound) = (count.into(), max as u64);
            return Err(WireError::Bound { what: self.what, value, bound });
        }
        Ok(count as usize)
    }

    fn text(&mut self, count: usize, max: usize) -> Result<String, WireError> {
        if count > max {
            let (value, bound) = (count as u64, max as u64);
            return Err(WireError::Bound { what: self.what, value, bound });
        }
        let text = std::str::from_utf8(self.bytes(count)?).ok();
        let plain = text.filter(|text| !text.chars().any(char::is_control));
        plain.map(str::to_owned).ok_or(WireError::Text(self.what))
    }

    fn end(&self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.short()) }
    }
}

fn list_head(count: usize, bytes: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEAD_BYTES + bytes);
    body.extend_from_slice(&(count as u32).to_le_bytes());
    body.extend_from_slice(&[0; 4]);
    body
}

/// One record of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AppendRecord<'a> {
    /// Who appends; 0 when it does not say. Then a repetition is not recognised.
    pub producer: u64,
    /// The producer's number of the record in this stream, from 1; 0 without a producer.
    pub sequence: u64,
    /// The record's SCN is at least this.
    pub scn_floor: u64,
    /// The record.
    pub payload: &'a [u8],
}

impl AppendRecord<'_> {
    /// Bytes that the record takes in a body.
    pub fn wire_bytes(&self) -> usize {
        RECORD_BYTES + self.payload.len().next_multiple_of(ALIGN)
    }
}

/// Builds the body of [`KIND_APPEND`].
#[derive(Clone, Debug)]
pub struct AppendBuilder {
    body: Vec<u8>,
    count: usize,
}

impl Default for AppendBuilder {
    fn default() -> AppendBuilder {
        AppendBuilder { body: list_head(0, 0), count: 0 }
    }
}

impl AppendBuilder {
    /// Whether `record` still fits.
    pub fn fits(&self, record: &AppendRecord<'_>) -> bool {
        self.count < APPEND_RECORDS_MAX && self.body.len() + record.wire_bytes() <= APPEND_BODY_MAX
    }

    /// Adds a record.
    ///
    /// # Panics
    /// When it does not fit ([`AppendBuilder::fits`]).
    pub fn push(&mut self, record: &AppendRecord<'_>) {
        assert!(record.payload.len() <= PAYLOAD_BYTES_MAX, "payload of {}", record.payload.len());
        assert!(self.fits(record), "the message is full");
        self.body.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
        self.body.extend_from_slice(&[0; 4]);
        self.body.extend_from_slice(&record.producer.to_le_bytes());
        self.body.extend_from_slice(&record.sequence.to_le_bytes());
        self.body.extend_from_slice(&record.scn_floor.to_le_bytes());
        self.body.extend_from_slice(record.payload);
        self.body.resize(self.body.len().next_multiple_of(ALIGN), 0);
        self.count += 1;
    }

    /// Records so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The body.
    pub fn finish(mut self) -> Vec<u8> {
        self.body[..4].copy_from_slice(&(self.count as u32).to_le_bytes());
        self.body
    }
}

/// A checked body of [`KIND_APPEND`]; payloads are not copied.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    count: usize,
    records: &'a [u8],
}

impl<'a> Append<'a> {
    /// Reads and checks the whole body.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &'a [u8]) -> Result<Append<'a>, WireError> {
        let mut fields = Fields::new("append", body);
        if body.len() > APPEND_BODY_MAX {
            let (value, bound) = (body.len() as u64, APPEND_BODY_MAX as u64);
            return Err(WireError::Bound { what: "append", value, bound });
        }
        let count = fields.count(APPEND_RECORDS_MAX)?;
        let records = fields.rest;
        for _ in 0..count {
            next_record(&mut fields)?;
        }
        fields.end()?;
        Ok(Append { count, records })
    }

    /// Records in it.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = AppendRecord<'a>> + use<'a> {
        let mut fields = Fields::new("append", self.records);
        // Checked by `parse`, so it ends after `count`.
        std::iter::from_fn(move || next_record(&mut fields).ok())
    }
}

fn next_record<'a>(fields: &mut Fields<'a>) -> Result<AppendRecord<'a>, WireError> {
    let len = fields.u32()? as usize;
    fields.zeros(4)?;
    if len > PAYLOAD_BYTES_MAX {
        let (value, bound) = (len as u64, PAYLOAD_BYTES_MAX as u64);
        return Err(WireError::Bound { what: "payload", value, bound });
    }
    let (producer, sequence) = (fields.u64()?, fields.u64()?);
    // A sequence starts at 1 with a producer, and there is none without.
    if (producer == 0) != (sequence == 0) {
        return Err(WireError::Bound { what: "sequence", value: sequence, bound: producer });
    }
    let scn_floor = fields.u64()?;
    let payload = fields.bytes(len)?;
    fields.zeros(len.next_multiple_of(ALIGN) - len)?;
    Ok(AppendRecord { producer, sequence, scn_floor, payload })
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// It is in the log for good.
    Acked = 1,
    /// It is not in the log and never will be.
    Failed = 2,
    /// Nobody can say yet; it may still appear.
    Unknown = 3,
}

impl Outcome {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Acked => "acked",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<Outcome, WireError> {
        match code {
            1 => Ok(Outcome::Acked),
            2 => Ok(Outcome::Failed),
            3 => Ok(Outcome::Unknown),
            _ => Err(WireError::Code { what: "outcome", code: code.into() }),
        }
    }
}

/// The fate of one record. `lsn`, `end_lsn` and `scn` are 0 unless acked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendedRecord {
    /// What became of it.
    pub outcome: Outcome,
    /// What the ack was worth.
    pub level: Protection,
    /// Where its entry starts.
    pub lsn: u64,
    /// The end of its entry.
    pub end_lsn: u64,
    /// Its SCN.
    pub scn: u64,
}

impl AppendedRecord {
    /// A fate without a place.
    pub fn placeless(outcome: Outcome) -> AppendedRecord {
        AppendedRecord { outcome, level: Protection::Performance, lsn: 0, end_lsn: 0, scn: 0 }
    }
}

/// The body of [`KIND_APPENDED`].
///
/// # Panics
/// Above [`APPEND_RECORDS_MAX`] records.
pub fn encode_appended(records: &[AppendedRecord]) -> Vec<u8> {
    assert!(records.len() <= APPEND_RECORDS_MAX, "{} records", records.len());
    let mut body = list_head(records.len(), records.len() * APPENDED_BYTES);
    for record in records {
        body.extend_from_slice(&[record.outcome as u8, level_code(record.level), 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(&record.lsn.to_le_bytes());
        body.extend_from_slice(&record.end_lsn.to_le_bytes());
        body.extend_from_slice(&record.scn.to_le_bytes());
    }
    body
}

/// Reads the body of [`KIND_APPENDED`].
///
/// # Errors
/// What is wrong with it.
pub fn parse_appended(body: &[u8]) -> Result<Vec<AppendedRecord>, WireError> {
    let mut fields = Fields::new("appended", body);
    let count = fields.count(APPEND_RECORDS_MAX)?;
    let mut records = Vec::with_capacity(count.min(fields.rest.len() / APPENDED_BYTES));
    for _ in 0..count {
        let outcome = Outcome::from_code(fields.u8()?)?;
        let level = level_from_code(fields.u8()?)?;
        fields.zeros(6)?;
        let (lsn, end_lsn, scn) = (fields.u64()?, fields.u64()?, fields.u64()?);
        if end_lsn < lsn {
            return Err(WireError::Bound { what: "end_lsn", value: end_lsn, bound: lsn });
        }
        records.push(AppendedRecord { outcome, level, lsn, end_lsn, scn });
    }
    fields.end()?;
    Ok(records)
}

fn level_code(level: Protection) -> u8 {
    match level {
        Protection::Performance => 1,
        Protection::Availability => 2,
        Protection::Protection => 3,
        Protection::Resync => 4,
    }
}

pub(crate) fn level_from_code(code: u8) -> Result<Protection, WireError> {
    match code {
        1 => Ok(Protection::Performance),
        2 => Ok(Protection::Availability),
        3 => Ok(Protection::Protection),
        4 => Ok(Protection::Resync),
        _ => Err(WireError::Code { what: "level", code: code.into() }),
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedCode {
    /// Another node leads the stream; the hint names it if it is known.
    NotLeader,
    /// The cluster is a standby and takes no appends.
    Standby,
    /// A queue is full; try again soon.
    Busy,
    /// The disk is full; it may free up.
    NoSpace,
    /// There is no such stream here.
    UnknownStream,
    /// The producer left out sequences; `expected` is the next one.
    SequenceGap,
    /// The shard's disk failed; the node is stopping.
    Poisoned,
    /// A record or request above its limit.
    TooLarge,
    /// The node is stopping.
    Shutdown,
    /// The request makes no sense to this node.
    Malformed,
    /// The named SCN is too far ahead of the node's clock.
    ScnTooFar,
    /// This node does not do that, or not yet.
    Unsupported,
    /// Nobody knows whether it was done, or a part of it: look before asking again.
    Unknown,
    /// The node that should lead is no member of the stream.
    NotMember,
    /// The node that should lead is not heard, or its disk does not count.
    NotUp,
    /// The node that should lead is the leader.
    LeadsAlready,
    /// The node that should lead lacks too much of the log; it catches up.
    Behind,
    /// It did not happen in time; the answer's text says who leads.
    TimedOut,
    /// A rule forbids it; the text starts with the rule's name.
    Forbidden,
    /// Somebody else changed the same at the same time.
    Conflict,
}

impl RefusedCode {
    /// Every code, in the order of its numbers, from 1.
    pub const ALL: [RefusedCode; 20] = [
        RefusedCode::NotLeader,
        RefusedCode::Standby,
        RefusedCode::Busy,
        RefusedCode::NoSpace,
        RefusedCode::UnknownStream,
        RefusedCode::SequenceGap,
        RefusedCode::Poisoned,
        RefusedCode::TooLarge,
        RefusedCode::Shutdown,
        RefusedCode::Malformed,
        RefusedCode::ScnTooFar,
        RefusedCode::Unsupported,
        RefusedCode::Unknown,
        RefusedCode::NotMember,
        RefusedCode::NotUp,
        RefusedCode::LeadsAlready,
        RefusedCode::Behind,
        RefusedCode::TimedOut,
        RefusedCode::Forbidden,
        RefusedCode::Conflict,
    ];

    /// As in JSON and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            RefusedCode::NotLeader => "not-leader",
            RefusedCode::Standby => "standby",
            RefusedCode::Busy => "busy",
            RefusedCode::NoSpace => "no-space",
            RefusedCode::UnknownStream => "unknown-stream",
            RefusedCode::SequenceGap => "sequence-gap",
            RefusedCode::Poisoned => "poisoned",
            RefusedCode::TooLarge => "too-large",
            RefusedCode::Shutdown => "shutdown",
            RefusedCode::Malformed => "malformed",
            RefusedCode::ScnTooFar => "scn-too-far",
            RefusedCode::Unsupported => "unsupported",
            RefusedCode::Unknown => "unknown",
            RefusedCode::NotMember => "not-member",
            RefusedCode::NotUp => "not-up",
            RefusedCode::LeadsAlready => "leads-already",
            RefusedCode::Behind => "behind",
            RefusedCode::TimedOut => "timed-out",
            RefusedCode::Forbidden => "forbidden",
            RefusedCode::Conflict => "conflict",
        }
    }

    /// Whether the same request may succeed later or at another node.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            RefusedCode::NotLeader
                | RefusedCode::Busy
                | RefusedCode::NoSpace
                | RefusedCode::Poisoned
                | RefusedCode::Shutdown
                | RefusedCode::Behind
                | RefusedCode::Conflict
        )
    }
}

/// The body of [`KIND_REFUSED`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", code.as_str())]
pub struct Refused {
    /// Why.
    pub code: RefusedCode,
    /// With [`RefusedCode::SequenceGap`] the next sequence, otherwise 0.
    pub expected: u64,
    /// `host:port` of the leader, empty if not known.
    pub leader: String,
    /// For people.
    pub text: String,
}

impl Refused {
    /// A refusal without hint.
    pub fn new(code: RefusedCode, text: impl Into<String>) -> Refused {
        Refused { code, expected: 0, leader: String::new(), text: text.into() }
    }

    /// The body. A longer hint is left out, a longer text is cut, control characters become `?`.
    pub fn encode(&self) -> Vec<u8> {
        let code = RefusedCode::ALL.iter().position(|&code| code == self.code).unwrap_or(0) + 1;
        let text = self.text.replace(char::is_control, "?");
        let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|&at| text.is_char_boundary(at));
        let text = &text[..end.unwrap_or(0)];
        let sound =
            self.leader.len() <= LEADER_BYTES_MAX && !self.leader.contains(char::is_control);
        let leader = if sound { self.leader.as_str() } else { "" };
        let mut body = Vec::with_capacity(REFUSED_BYTES + leader.len() + text.len());
        body.extend_from_slice(&(code as u16).to_le_bytes());
        body.extend_from_slice(&(leader.len() as u16).to_le_bytes());
        body.extend_from_slice(&(text.len() as u16).to_le_bytes());
        body.extend_from_slice(&[0; 2]);
        body.extend_from_slice(&self.expected.to_le_bytes());
        body.extend_from_slice(leader.as_bytes());
        body.extend_from_slice(text.as_bytes());
        body
    }

    /// Reads the body.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Refused, WireError> {
        let mut fields = Fields::new("refusal", body);
        let number = fields.u16()?;
        let known = usize::from(number).checked_sub(1).and_then(|at| RefusedCode::ALL.get(at));
        let code = *known.ok_or(WireError::Code { what: "refusal", code: number })?;
        let (leader_len, text_len) = (fields.u16()?, fields.u16()?);
        fields.zeros(2)?;
        let expected = fields.u64()?;
        let leader = fields.text(leader_len.into(), LEADER_BYTES_MAX)?;
        let text = fields.text(text_len.into(), TEXT_BYTES_MAX)?;
        fields.end()?;
        Ok(Refused { code, expected, leader, text })
    }
}

/// The body of [`KIND_CREATE_STREAMS`].
pub fn encode_create_streams(count: u32) -> Vec<u8> {
    list_head(count as usize, 0)
}

/// Reads the body of [`KIND_CREATE_STREAMS`]: how many, from 1 to [`CREATE_STREAMS_MAX`].
///
/// # Errors
/// What is wrong with it.
pub fn parse_create_streams(body: &[u8]) -> Result<u32, WireError> {
    let mut fields = Fields::new("create streams", body);
    let count = fields.count(CREATE_STREAMS_MAX)?;
    fields.end()?;
    if count == 0 {
        return Err(WireError::Bound { what: "streams to create", value: 0, bound: 1 });
    }
    Ok(count as u32)
}

/// The body of [`KIND_CREATED`].
///
/// # Panics
/// Above [`CREATE_STREAMS_MAX`] ids.
pub fn encode_created(ids: &[u64]) -> Vec<u8> {
    assert!(ids.len() <= CREATE_STREAMS_MAX, "{} streams", ids.len());
    let mut body = list_head(ids.len(), ids.len() * 8);
    ids.iter().for_each(|id| body.extend_from_slice(&id.to_le_bytes()));
    body
}

/// Reads the body of [`KIND_CREATED`].
///
/// # Errors
/// What is wrong with it.
pub fn parse_created(body: &[u8]) -> Result<Vec<u64>, WireError> {
    let mut fields = Fields::new("created", body);
    let count = fields.count(CREATE_STREAMS_MAX)?;
    if fields.rest.len() != count * 8 {
        return Err(fields.short());
    }
    (0..count).map(|_| fields.u64()).collect()
}

/// The body of [`KIND_TRANSFER_LEADER`].
pub fn encode_transfer(to: u32) -> Vec<u8> {
    list_head(to as usize, 0)
}

/// Reads the body of [`KIND_TRANSFER_LEADER`]: the node that should lead, not 0.
///
/// # Errors
/// What is wrong with it.
pub fn parse_transfer(body: &[u8]) -> Result<u32, WireError> {
    let mut fields = Fields::new("transfer", body);
    let to = fields.u32()?;
    fields.zeros(4)?;
    fields.end()?;
    if to == 0 {
        return Err(WireError::Bound { what: "node", value: 0, bound: 1 });
    }
    Ok(to)
}

/// The body of [`KIND_TRANSFERRED`].
pub fn encode_transferred(to: u32, round: u64) -> Vec<u8> {
    let mut body = list_head(to as usize, 8);
    body.extend_from_slice(&round.to_le_bytes());
    body
}

/// Reads the body of [`KIND_TRANSFERRED`]: who leads, and the round of its ballot.
///
/// # Errors
/// What is wrong with it.
pub fn parse_transferred(body: &[u8]) -> Result<(u32, u64), WireError> {
    let mut fields = Fields::new("transferred", body);
    let to = fields.u32()?;
    fields.zeros(4)?;
    let round = fields.u64()?;
    fields.end()?;
    Ok((to, round))
}

/// The body of [`KIND_TRUNCATE`], and of [`KIND_TRUNCATED`].
pub fn encode_position(position: Lsn) -> Vec<u8> {
    position.0.to_le_bytes().to_vec()
}

/// Reads the body of [`KIND_TRUNCATE`] or of [`KIND_TRUNCATED`].
///
/// # Errors
/// What is wrong with it.
pub fn parse_position(body: &[u8]) -> Result<Lsn, WireError> {
    let mut fields = Fields::new("position", body);
    let value = fields.u64()?;
    fields.end()?;
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

/// The body of [`KIND_STREAMS`].
///
/// # Panics
/// Above [`STREAMS_MAX`] streams.
pub fn encode_streams(streams: &[StreamEntry]) -> Vec<u8> {
    assert!(streams.len() <= STREAMS_MAX, "{} streams", streams.len());
    let mut body = list_head(streams.len(), streams.len() * STREAM_BYTES);
    for stream in streams {
        body.extend_from_slice(&stream.id.to_le_bytes());
        body.extend_from_slice(&stream.leader.to_le_bytes());
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(&stream.base_lsn.to_le_bytes());
        body.extend_from_slice(&stream.committed_lsn.to_le_bytes());
    }
    body
}

/// Reads the body of [`KIND_STREAMS`].
///
/// # Errors
/// What is wrong with it.
pub fn parse_streams(body: &[u8]) -> Result<Vec<StreamEntry>, WireError> {
    let mut fields = Fields::new("streams", body);
    let count = fields.count(STREAMS_MAX)?;
    if fields.rest.len() != count * STREAM_BYTES {
        return Err(fields.short());
    }
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, leader) = (fields.u64()?, fields.u32()?);
        fields.zeros(4)?;
        let (base_lsn, committed_lsn) = (fields.u64()?, fields.u64()?);
        streams.push(StreamEntry { id, leader, base_lsn, committed_lsn });
    }
    Ok(streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(payloads: &[&[u8]]) -> Vec<u8> {
        let mut builder = AppendBuilder::default();
        for (at, payload) in payloads.iter().enumerate() {
            let sequence = at as u64 + 1;
            builder.push(&AppendRecord { producer: 7, sequence, scn_floor: 9, payload });
        }
        builder.finish()
    }

    #[test]
    fn an_append_reads_back() {
        let body = append(&[b"", b"a", b"12345678", &[3; 1000]]);
        let read = Append::parse(&body).unwrap();
        let lens: Vec<_> = read.records().map(|record| record.payload.len()).collect();
        assert_eq!((read.count(), lens), (4, vec![0, 1, 8, 1000]));
        assert_eq!(read.records().nth(1).unwrap().sequence, 2);
    }

    #[test]
    fn an_answer_reads_back() {
        let acked = AppendedRecord {
            outcome: Outcome::Acked,
            level: Protection::Availability,
            lsn: 96,
            end_lsn: 128,
            scn: 5,
        };
        let records = [acked, AppendedRecord::placeless(Outcome::Unknown)];
        assert_eq!(parse_appended(&encode_appended(&records)).unwrap(), records);
        assert_eq!(parse_created(&encode_created(&[2, 3])).unwrap(), [2, 3]);
        assert_eq!(parse_create_streams(&encode_create_streams(5)), Ok(5));
        assert_eq!(parse_transfer(&encode_transfer(3)), Ok(3));
        assert!(parse_transfer(&encode_transfer(0)).is_err(), "no node has the number 0");
        assert_eq!(parse_transferred(&encode_transferred(3, 9)), Ok((3, 9)));
        let streams = [StreamEntry { id: 2, leader: 1, base_lsn: 0, committed_lsn: 800 }];
        assert_eq!(parse_streams(&encode_streams(&streams)).unwrap(), streams);
    }

    #[test]
    fn every_refusal_reads_back() {
        for code in RefusedCode::ALL {
            let refused = Refused {
                code,
                expected: 12,
                leader: "127.0.0.1:7001".to_owned(),
                text: "é".to_owned(),
            };
            assert_eq!(Refused::parse(&refused.encode()), Ok(refused));
        }
        let long = Refused::new(RefusedCode::Busy, "é\n".repeat(400));
        assert!(Refused::parse(&long.encode()).unwrap().text.len() <= TEXT_BYTES_MAX);
    }

    #[test]
    fn every_cut_and_every_tail_is_refused() {
        let body = append(&[b"abc", b"defghijkl"]);
        let answer = encode_appended(&[AppendedRecord::placeless(Outcome::Failed)]);
        let refused = Refused::new(RefusedCode::Busy, "wait").encode();
        let created = encode_created(&[1, 2]);
        let (transfer, moved) = (encode_transfer(2), encode_transferred(2, 7));
        for cut in 0..body.len() {
            assert!(Append::parse(&body[..cut]).is_err(), "append cut at {cut}");
        }
        let all = [("answer", &answer), ("refused", &refused), ("created", &created)];
        for (what, body) in all.into_iter().chain([("transfer", &transfer), ("moved", &moved)]) {
            let read = |body: &[u8]| match what {
                "answer" => parse_appended(body).map(|_| ()),
                "refused" => Refused::parse(body).map(|_| ()),
                "transfer" => parse_transfer(body).map(|_| ()),
                "moved" => parse_transferred(body).map(|_| ()),
                _ => parse_created(body).map(|_| ()),
            };
            (0..body.len()).for_each(|cut| assert!(read(&body[..cut]).is_err(), "{what} {cut}"));
            assert!(read(&[body.as_slice(), &[0]].concat()).is_err(), "{what} with a tail");
        }
        assert!(Append::parse(&[body.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn lengths_are_not_trusted() {
        let mut body = append(&[b"abc"]);
        body[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Append::parse(&body), Err(WireError::Bound { what: "payload", .. })));
        body[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Append::parse(&body), Err(WireError::Bound { what: "append", .. })));
        let mut answer = encode_appended(&[]);
        answer[..4].copy_from_slice(&4096u32.to_le_bytes());
        assert!(parse_appended(&answer).is_err());
    }

    #[test]
    fn a_sequence_needs_a_producer() {
        let mut builder = AppendBuilder::default();
        builder.push(&AppendRecord { producer: 0, sequence: 1, scn_floor: 0, payload: b"x" });
        assert!(Append::parse(&builder.finish()).is_err());
    }
}
