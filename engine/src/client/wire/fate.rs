//! Fates of records.

use zerocopy::little_endian::U64;

use super::{APPEND_RECORDS_MAX, WireError, list, list_head, zeros};
use crate::control::{protection_code, read_protection};
use crate::paxos::codec::{fixed, put};
use crate::status::Protection;

fixed! {
    RawFate: 32 { outcome: u8, level: u8, reserved: [u8; 6], lsn: U64, end_lsn: U64, scn: U64 }
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

/// The body of [`KIND_APPENDED`](super::KIND_APPENDED).
///
/// # Panics
/// Above [`APPEND_RECORDS_MAX`] records.
pub fn encode_appended(records: &[AppendedRecord]) -> Vec<u8> {
    assert!(records.len() <= APPEND_RECORDS_MAX, "{} records", records.len());
    let mut body = list_head(records.len(), size_of::<RawFate>());
    for record in records {
        let fate = RawFate {
            outcome: record.outcome as u8,
            level: protection_code(record.level),
            reserved: [0; 6],
            lsn: record.lsn.into(),
            end_lsn: record.end_lsn.into(),
            scn: record.scn.into(),
        };
        put(&mut body, &fate);
    }
    body
}

/// Reads the body of [`KIND_APPENDED`](super::KIND_APPENDED).
///
/// # Errors
/// What is wrong with it.
pub fn parse_appended(body: &[u8]) -> Result<Vec<AppendedRecord>, WireError> {
    list("appended", body, APPEND_RECORDS_MAX)?.iter().map(read_fate).collect()
}

fn read_fate(fate: &RawFate) -> Result<AppendedRecord, WireError> {
    let (outcome, level) = (Outcome::from_code(fate.outcome)?, level_from_code(fate.level)?);
    zeros("appended", &fate.reserved)?;
    let (lsn, end_lsn, scn) = (fate.lsn.get(), fate.end_lsn.get(), fate.scn.get());
    if end_lsn < lsn {
        return Err(WireError::Bound { what: "end_lsn", value: end_lsn, bound: lsn });
    }
    Ok(AppendedRecord { outcome, level, lsn, end_lsn, scn })
}

pub(crate) fn level_from_code(code: u8) -> Result<Protection, WireError> {
    read_protection(code).map_err(|_| WireError::Code { what: "level", code: code.into() })
}
