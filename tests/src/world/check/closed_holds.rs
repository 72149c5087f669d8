//! What was said to be closed is: no record stands above the position with that SCN or a lower
//! one, on any replica of any cluster, whoever led since; and what is known to be closed never
//! goes back while a node runs.

use std::collections::BTreeMap;

use palisade::paxos::Closed;
use palisade_wal::Lsn;

use super::{Fork, FullCopy, Seat, Violation};

const NAME: &str = "closed_holds";

/// The highest SCN that was closed at a position, by a cluster, and who said so.
type ByPlace = BTreeMap<(Lsn, usize), (u64, Seat)>;

/// What was closed, by stream, position and cluster; and what each replica knew last.
#[derive(Default)]
pub(super) struct ClosedHolds {
    closed: BTreeMap<u64, ByPlace>,
    known: BTreeMap<Seat, Closed>,
}

impl ClosedHolds {
    pub(super) fn on_closed(&mut self, seat: Seat, closed: Closed) -> Result<(), Violation> {
        let known = self.known.entry(seat).or_default();
        if *known == closed {
            return Ok(());
        }
        if known.scn > closed.scn {
            let text = format!("{seat}: {known:?}, then {closed:?}");
            return Err(Violation::new(NAME, text));
        }
        *known = closed;
        let of_stream = self.closed.entry(seat.stream).or_default();
        let highest = of_stream.entry((closed.end, seat.cluster)).or_insert((closed.scn, seat));
        if highest.0 < closed.scn {
            *highest = (closed.scn, seat);
        }
        Ok(())
    }

    /// Of what the lost primary closed that counts which the new one showed, as a standby: a
    /// majority of it holds that. What only one of its nodes has heard of is forgotten with it.
    pub(super) fn on_fork(&mut self, fork: Fork, shown: u64) {
        if let Some(closed) = self.closed.get_mut(&fork.stream) {
            closed.retain(|_, (scn, _)| *scn <= shown);
        }
    }

    pub(super) fn at_end(&self, copy: &FullCopy) -> Result<(), Violation> {
        let Some(closed) = self.closed.get(&copy.seat.stream) else { return Ok(()) };
        let mut closed = closed.iter().peekable();
        let mut highest = (0, copy.seat);
        for record in &copy.records {
            while let Some((_, here)) = closed.next_if(|((end, _), _)| *end <= record.lsn) {
                if here.0 > highest.0 {
                    highest = *here;
                }
            }
            if record.scn <= highest.0 {
                let text = format!(
                    "{}: SCN {} at {}, but {} closed {} below",
                    copy.seat, record.scn, record.lsn, highest.1, highest.0
                );
                return Err(Violation::new(NAME, text));
            }
        }
        Ok(())
    }
}
