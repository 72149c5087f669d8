//! Records to append.

use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::{
    APPEND_BODY_MAX, APPEND_RECORDS_MAX, ListHead, PAYLOAD_BYTES_MAX, WireError, bounded, counted,
    length, list_head, zeros,
};
use crate::paxos::codec::{fixed, put};

const ALIGN: usize = 8;

fixed! {
    /// The payload follows, padded with zeros.
    RecordHead: 32 { len: U32, reserved: [u8; 4], producer: U64, sequence: U64, scn_floor: U64 }
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
        size_of::<RecordHead>() + self.payload.len().next_multiple_of(ALIGN)
    }
}

/// Builds the body of [`KIND_APPEND`](super::KIND_APPEND).
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
        let head = RecordHead {
            len: (record.payload.len() as u32).into(),
            reserved: [0; 4],
            producer: record.producer.into(),
            sequence: record.sequence.into(),
            scn_floor: record.scn_floor.into(),
        };
        put(&mut self.body, &head);
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
        let (head, _) = ListHead::mut_from_prefix(&mut self.body).expect("it begins with one");
        head.count = (self.count as u32).into();
        self.body
    }
}

/// A checked body of [`KIND_APPEND`](super::KIND_APPEND); payloads are not copied.
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
        bounded("append", body.len(), APPEND_BODY_MAX)?;
        let (count, records) = counted("append", body, APPEND_RECORDS_MAX)?;
        let mut rest = records;
        for _ in 0..count {
            next_record(body, &mut rest)?;
        }
        if rest.is_empty() { Ok(Append { count, records }) } else { Err(length("append", body)) }
    }

    /// Records in it.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = AppendRecord<'a>> + use<'a> {
        let (all, mut rest) = (self.records, self.records);
        // Checked by `parse`, so it ends after `count`.
        std::iter::from_fn(move || next_record(all, &mut rest).ok())
    }
}

/// Takes a record off the front of what is left of `body`.
fn next_record<'a>(body: &[u8], rest: &mut &'a [u8]) -> Result<AppendRecord<'a>, WireError> {
    let short = || length("append", body);
    let (head, after) = RecordHead::ref_from_prefix(rest).map_err(|_| short())?;
    zeros("append", &head.reserved)?;
    let len = bounded("payload", head.len.get() as usize, PAYLOAD_BYTES_MAX)?;
    let (producer, sequence) = (head.producer.get(), head.sequence.get());
    // A sequence starts at 1 with a producer, and there is none without.
    if (producer == 0) != (sequence == 0) {
        return Err(WireError::Bound { what: "sequence", value: sequence, bound: producer });
    }
    let padded = after.split_at_checked(len.next_multiple_of(ALIGN)).ok_or_else(short)?;
    let (payload, pad) = padded.0.split_at(len);
    zeros("append", pad)?;
    *rest = padded.1;
    Ok(AppendRecord { producer, sequence, scn_floor: head.scn_floor.get(), payload })
}
