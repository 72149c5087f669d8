//! A record stands above everything that was acknowledged before it was asked for, its second
//! acknowledgement names the place of the first, and time stamps never decrease.

use palisade::ErrorKind;
use palisade::Outcome;

use super::{FullCopy, Violation};
use crate::world::history::History;

const NAME: &str = "ack_order";

#[derive(Default)]
pub(super) struct AckOrder;

impl AckOrder {
    pub(super) fn on_outcome(
        &mut self,
        history: &History,
        attempt: usize,
        outcome: &Outcome,
        by_leader: bool,
    ) -> Result<(), Violation> {
        let number = history.attempts[attempt].record;
        let record = &history.records[number];
        let appended = match outcome {
            Ok(appended) => appended,
            Err(error) => {
                let last = history.acked_sequence.get(&record.producer).copied().unwrap_or(0);
                let expected = error.expected_sequence();
                let forgotten = expected.is_some_and(|expected| expected <= last);
                if error.kind() == ErrorKind::SequenceGap && forgotten && by_leader {
                    let text = format!(
                        "producer {} had {last} acknowledged, {expected:?} is expected by node \
                         #{} in stream {}",
                        record.producer, history.attempts[attempt].node, record.stream
                    );
                    return Err(Violation::new("producer_forgotten", text));
                }
                return Ok(());
            }
        };
        let what = format!("record {number} of stream {}", record.stream);
        if appended.lsn < record.lsn_floor || appended.end_lsn <= appended.lsn {
            let text = format!(
                "{what} is acknowledged at {}, but {} was acknowledged before it was asked for",
                appended.lsn, record.lsn_floor
            );
            return Err(Violation::new(NAME, text));
        }
        if appended.scn < record.scn_floor {
            let text = format!("{what} got SCN {}, below {}", appended.scn, record.scn_floor);
            return Err(Violation::new(NAME, text));
        }
        let first = record.acked.unwrap_or(*appended);
        if (first.lsn, first.end_lsn, first.scn) != (appended.lsn, appended.end_lsn, appended.scn) {
            let text = format!("{what} is acknowledged as {first:?} and {appended:?}");
            return Err(Violation::new(NAME, text));
        }
        Ok(())
    }
}

pub(super) fn at_end(copy: &FullCopy) -> Result<(), Violation> {
    match copy.records.windows(2).find(|pair| pair[1].scn < pair[0].scn) {
        None => Ok(()),
        Some(pair) => {
            let text = format!(
                "{}: SCN {} at {}, then {}",
                copy.seat, pair[0].scn, pair[0].lsn, pair[1].scn
            );
            Err(Violation::new(NAME, text))
        }
    }
}
