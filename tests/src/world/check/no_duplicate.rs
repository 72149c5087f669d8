//! No record twice, and the sequences of a producer without gaps and in order.

use std::collections::{BTreeMap, BTreeSet};

use super::{FullCopy, Violation};
use crate::world::history::History;
use crate::world::payload;

const NAME: &str = "no_duplicate";

pub(super) fn at_end(_: &History, copy: &FullCopy) -> Result<(), Violation> {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    for record in &copy.records {
        let number = payload::record_of(&record.payload).unwrap_or(u64::MAX);
        if !seen.insert(number) {
            let text = format!("{}: record {number} again at {}", copy.seat, record.lsn);
            return Err(Violation::new(NAME, text));
        }
        if record.producer == 0 {
            continue;
        }
        let last = last.entry(record.producer).or_default();
        if record.sequence != *last + 1 {
            let text = format!(
                "{}: producer {} has {} at {} after {last}",
                copy.seat, record.producer, record.sequence, record.lsn
            );
            return Err(Violation::new(NAME, text));
        }
        *last = record.sequence;
    }
    Ok(())
}
