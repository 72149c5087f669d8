//! What a standby shows is replayable: nothing that it shows is above its replayable SCN, which
//! never goes back while the node runs; and what is closed counts there when its own log has the
//! position.

use std::collections::BTreeMap;

use palisade::paxos::Closed;
use palisade_wal::Lsn;

use super::{FullCopy, Seat, Violation};

const NAME: &str = "shown_is_replayable";

/// What a shard says of a stream after a turn.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// The shard holds itself for the primary's, and what it knows of that is not older than its
    /// log.
    pub acts: bool,
    /// The replayable SCN of the node.
    pub scn: u64,
    /// Readers see what is below.
    pub upto: Lsn,
    /// What counts as closed.
    pub counted: Closed,
}

/// What each node showed, and by which SCN.
#[derive(Default)]
pub(super) struct ShownIsReplayable {
    known: BTreeMap<Seat, Shown>,
    /// By stream and position: the lowest SCN by which it was shown at a standby.
    shown: BTreeMap<u64, BTreeMap<Lsn, (u64, Seat)>>,
    /// By cluster: the highest SCN by which something was shown at a standby.
    by_cluster: BTreeMap<usize, u64>,
    /// By node and stream: shown as the primary's.
    acted: BTreeMap<(usize, u64), Lsn>,
}

impl ShownIsReplayable {
    /// Looks at a stream after a turn; `committed` is what its cluster has committed of it, and
    /// `wrote`: its cluster wrote what ends there as a primary.
    pub(super) fn on_shown(
        &mut self,
        seat: Seat,
        shown: Shown,
        committed: Lsn,
        wrote: bool,
    ) -> Result<(), Violation> {
        let acted = self.acted.entry((seat.node, seat.stream)).or_default();
        let before = self.known.insert(seat, shown);
        // What its cluster wrote as a primary a node may show as one, also within a turn in which
        // it finds that this is over.
        if wrote {
            *acted = shown.upto.max(*acted);
        }
        if shown.acts || seat.stream == 0 {
            *acted = shown.upto.max(*acted);
            return Ok(());
        }
        let highest = self.by_cluster.entry(seat.cluster).or_default();
        *highest = shown.scn.max(*highest);
        if shown.counted.end > committed {
            let text = format!("{seat}: {:?} counts, committed {committed}", shown.counted);
            return Err(Violation::new(NAME, text));
        }
        if let Some(before) = before.filter(|it| it.scn > shown.scn || it.upto > shown.upto) {
            return Err(Violation::new(NAME, format!("{seat}: {before:?}, then {shown:?}")));
        }
        let is_news = before.is_none_or(|before| before.upto < shown.upto);
        if is_news && shown.upto > *acted {
            let of_stream = self.shown.entry(seat.stream).or_default();
            let lowest = of_stream.entry(shown.upto).or_insert((shown.scn, seat));
            if lowest.0 > shown.scn {
                *lowest = (shown.scn, seat);
            }
        }
        Ok(())
    }

    /// The highest SCN by which a cluster showed something as a standby.
    pub(super) fn shown_by(&self, cluster: usize) -> u64 {
        let of_cluster = self.by_cluster.iter().filter(|(of, _)| **of == cluster);
        of_cluster.map(|(_, scn)| *scn).max().unwrap_or(0)
    }

    /// Looks at a whole stream: what ends where it was shown has no SCN above.
    pub(super) fn at_end(&self, copy: &FullCopy) -> Result<(), Violation> {
        let Some(shown) = self.shown.get(&copy.seat.stream) else { return Ok(()) };
        for record in &copy.records {
            // Groups below have lower SCNs: it is enough to look at the first end that shows it.
            let Some((upto, (scn, by))) = shown.range(record.end_lsn..).next() else { continue };
            if record.scn > *scn {
                let text = format!(
                    "{by}: shows up to {upto} by SCN {scn}, and with it {} of SCN {}",
                    record.lsn, record.scn
                );
                return Err(Violation::new(NAME, text));
            }
        }
        Ok(())
    }
}
