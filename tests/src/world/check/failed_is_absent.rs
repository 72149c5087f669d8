//! A record whose every attempt was refused or failed is in no log; and none stands in a stream
//! for which it was not meant.

use super::{FullCopy, Violation};
use crate::world::history::History;
use crate::world::payload;

pub(super) fn at_end(history: &History, copy: &FullCopy) -> Result<(), Violation> {
    for record in &copy.records {
        let number = payload::record_of(&record.payload).unwrap_or(u64::MAX);
        let wanted = history.records.get(number as usize);
        let Some(wanted) = wanted.filter(|wanted| wanted.stream == copy.seat.stream) else {
            let text = format!("{}: nobody wanted record {number} here", copy.seat);
            return Err(Violation::new("phantom", text));
        };
        if !wanted.possible {
            let told = history.attempts.iter().filter(|a| a.record as u64 == number);
            let told: Vec<_> = told.map(|a| (a.node, a.told)).collect();
            let text = format!(
                "{}: record {number} stands at {} although it was told {told:?}",
                copy.seat, record.lsn
            );
            return Err(Violation::new("failed_is_absent", text));
        }
    }
    Ok(())
}
