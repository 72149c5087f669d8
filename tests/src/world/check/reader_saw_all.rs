//! A reader of committed records got each one of its stretch: no gap, no rewind.

use super::{FullCopy, Violation};
use crate::world::history::Stretch;

pub(super) fn at_end(stretch: &Stretch, copy: &FullCopy) -> Result<(), Violation> {
    let Stretch { from, upto, records, .. } = *stretch;
    let start = copy.records.partition_point(|record| record.lsn < from);
    let end = copy.records.partition_point(|record| record.lsn < upto);
    if end - start == records {
        return Ok(());
    }
    let there = end - start;
    let text = format!("{}: {records} records read in {from}..{upto}, {there} there", copy.seat);
    Err(Violation::new("reader_saw_all", text))
}
