//! Every acknowledged record is on every replica, at its place, with its bytes.

use super::{FullCopy, Violation};
use crate::world::history::History;
use crate::world::payload;

pub(super) fn at_end(history: &History, copy: &FullCopy) -> Result<(), Violation> {
    for (number, record) in history.records.iter().enumerate() {
        let Some(acked) = record.acked.filter(|_| record.stream == copy.seat.stream) else {
            continue;
        };
        let found = copy.records.binary_search_by_key(&acked.lsn, |r| r.lsn).ok();
        let there = found.map(|at| &copy.records[at]);
        let is_it = there.is_some_and(|there| {
            there.end_lsn == acked.end_lsn
                && there.scn == acked.scn
                && (there.producer, there.sequence) == (record.producer, record.sequence)
                && payload::payload(number as u64, record.len) == there.payload
        });
        if !is_it {
            let text = format!(
                "{}: record {number}, acknowledged as {acked:?}, is not there (committed {}, at \
                 its place: {:?})",
                copy.seat,
                copy.committed,
                there.and_then(|there| payload::record_of(&there.payload))
            );
            return Err(Violation::new("acked_survives", text));
        }
    }
    Ok(())
}
