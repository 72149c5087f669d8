//! Ballots of a replica only go up, over restarts too where they were durable or a candidate has
//! counted on them; and at most one start of one node ever leads under a ballot.

use std::collections::BTreeMap;

use palisade::paxos::Replica;
use palisade_wal::Ballot;

use super::{Seat, Violation};

const NAME: &str = "ballot_monotonic";

/// What moved on a replica in a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raised {
    /// It promised a higher ballot.
    pub promised: bool,
    /// It took over, or accepted a takeover.
    pub accepting: bool,
    /// It began to lead and serve.
    pub leads: bool,
    /// It began to fetch bytes that it lacks.
    pub fetches: bool,
    /// Its committed position moved.
    pub committed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    boot: u64,
    promised: Ballot,
    accepting: Ballot,
    durable: Ballot,
    serving: Option<Ballot>,
    fetching: bool,
}

/// Ballots of every replica, by cluster, node and stream.
#[derive(Default)]
pub(super) struct BallotMonotonic {
    known: BTreeMap<(usize, u64), Known>,
    leaders: BTreeMap<(usize, u64, Ballot), Seat>,
    /// Highest promise of a node and stream that a candidate has counted.
    counted: BTreeMap<(usize, u64), Ballot>,
}

impl BallotMonotonic {
    /// A candidate has a promise of `node`.
    pub(super) fn on_counted(&mut self, node: usize, stream: u64, ballot: Ballot) {
        let counted = self.counted.entry((node, stream)).or_default();
        *counted = ballot.max(*counted);
    }

    pub(super) fn on_turn(&mut self, seat: Seat, replica: &Replica) -> Result<Raised, Violation> {
        let log = replica.log();
        let now = Known {
            boot: seat.boot,
            promised: log.promised(),
            accepting: log.accepting(),
            durable: replica.durable_promise(),
            serving: replica.serving(),
            fetching: replica.is_fetching(),
        };
        let known = self.known.entry((seat.node, seat.stream)).or_default();
        if *known == now {
            return Ok(Raised::default());
        }
        let before = std::mem::replace(known, now);
        if before.durable > now.promised {
            let text = format!("{seat}: promised {}, then {}", before.durable, now.promised);
            return Err(Violation::new(NAME, text));
        }
        let counted = self.counted.get(&(seat.node, seat.stream));
        if let Some(&counted) = counted.filter(|&&counted| counted > now.promised) {
            let text = format!("{seat}: {counted} was counted, promised is {}", now.promised);
            return Err(Violation::new("promise_kept", text));
        }
        let same_boot = before.boot == now.boot;
        if now.accepting > now.promised
            || same_boot && (before.promised > now.promised || before.accepting > now.accepting)
        {
            let text = format!(
                "{seat}: promised {} and accepting {}, then {} and {}",
                before.promised, before.accepting, now.promised, now.accepting
            );
            return Err(Violation::new(NAME, text));
        }
        if let Some(ballot) = now.serving {
            let key = (seat.cluster, seat.stream, ballot);
            let first = *self.leaders.entry(key).or_insert(seat);
            if first != seat {
                let text = format!("{seat} leads under {ballot}, as did {first}");
                return Err(Violation::new("one_leader_per_ballot", text));
            }
        }
        Ok(Raised {
            promised: same_boot && now.promised > before.promised,
            accepting: same_boot && now.accepting > before.accepting,
            leads: now.serving.is_some() && now.serving != before.serving,
            fetches: now.fetching && !before.fetching,
            committed: false,
        })
    }
}
