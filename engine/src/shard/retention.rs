//! Retention: what readers let go stays in the log for a time, as long as there is space for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use palisade_netio::Nanos;
use palisade_wal::Lsn;

/// Steps that are remembered of one stream: one that is truncated more often waits for the later
/// of two steps.
const STEPS_MAX: usize = 8;

const _: () = assert!(STEPS_MAX >= 2, "the newest step grows, the others wait");

/// Readers needed nothing below `to` from `since` on, or from before.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// When the first of the truncations came that are one here.
    first: Nanos,
    since: Nanos,
    to: Lsn,
}

/// Floors of readers that the bases of their streams do not follow yet. A restart begins the time
/// anew.
#[derive(Debug)]
pub(crate) struct Retention {
    keep_ns: u64,
    /// By stream, oldest first.
    steps: BTreeMap<u64, VecDeque<Step>>,
    /// When the first step of each stream is over.
    order: BTreeSet<(Nanos, u64)>,
}

impl Retention {
    pub(crate) fn new(keep_ns: u64) -> Retention {
        let retention = Retention { keep_ns, steps: BTreeMap::new(), order: BTreeSet::new() };
        retention.assert_invariants();
        retention
    }

    fn assert_invariants(&self) {
        assert!(self.steps.len() == self.order.len(), "every stream has its turn");
        let first = self.order.first().and_then(|(_, stream)| self.steps[stream].front());
        assert!(first.is_some() || self.order.is_empty(), "a stream that waits has a step");
    }

    /// Readers of `stream` need nothing below `to` from now on.
    pub(crate) fn note(&mut self, stream: u64, to: Lsn, now: Nanos) {
        let steps = self.steps.entry(stream).or_default();
        let count = steps.len();
        assert!(steps.back().is_none_or(|last| last.to <= to && last.since <= now));
        let apart = self.keep_ns / (STEPS_MAX as u64 - 1);
        match steps.back_mut() {
            Some(last) if now < last.first.after(apart) || count == STEPS_MAX => {
                let due = last.since.after(self.keep_ns);
                (last.since, last.to) = (now, to);
                if count == 1 {
                    let waited = self.order.remove(&(due, stream));
                    assert!(waited, "a stream with a step has its turn");
                    self.order.insert((now.after(self.keep_ns), stream));
                }
            }
            known => {
                if known.is_none() {
                    self.order.insert((now.after(self.keep_ns), stream));
                }
                steps.push_back(Step { first: now, since: now, to });
            }
        }
        assert!(self.steps[&stream].len() <= STEPS_MAX, "what is remembered is bounded");
        self.assert_invariants();
    }

    /// A stream whose base may go to this floor now; `full`: every one, whatever its age.
    pub(crate) fn poll(&mut self, now: Nanos, full: bool) -> Option<(u64, Lsn)> {
        let &(due, stream) = self.order.first()?;
        if due > now && !full {
            return None;
        }
        self.order.remove(&(due, stream));
        let steps = self.steps.get_mut(&stream).expect("a stream that waits has a step");
        let step = steps.pop_front().expect("a stream that waits has a step");
        match steps.front() {
            Some(next) => {
                assert!(next.to >= step.to, "floors only rise");
                self.order.insert((next.since.after(self.keep_ns), stream));
            }
            None => drop(self.steps.remove(&stream)),
        }
        self.assert_invariants();
        Some((stream, step.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_go_is_kept_for_its_time() {
        let mut retention = Retention::new(1000);
        retention.note(5, Lsn(8), Nanos(10));
        retention.note(6, Lsn(16), Nanos(300));
        retention.note(5, Lsn(24), Nanos(500));
        assert_eq!(retention.poll(Nanos(1009), false), None);
        assert_eq!(retention.poll(Nanos(1010), false), Some((5, Lsn(8))));
        assert_eq!(retention.poll(Nanos(1010), false), None);
        assert_eq!(retention.poll(Nanos(1400), false), Some((6, Lsn(16))));
        assert_eq!(retention.poll(Nanos(1400), false), None);
        assert_eq!(retention.poll(Nanos(1400), true), Some((5, Lsn(24))), "space goes before it");
        assert_eq!(retention.poll(Nanos(9000), true), None);
    }

    #[test]
    fn nothing_is_let_go_early_and_everything_in_the_end() {
        let mut retention = Retention::new(1000);
        let (mut floor, mut told) = (0, Vec::new());
        for now in 0..20_000 {
            if now % 3 == 0 && now < 10_000 {
                floor += 8;
                retention.note(5, Lsn(floor), Nanos(now));
                told.push((now, floor));
            }
            while let Some((stream, to)) = retention.poll(Nanos(now), false) {
                let when = told.iter().find(|(_, floor)| *floor >= to.0).expect("it was told").0;
                assert!(stream == 5 && when + 1000 <= now, "{to} of {when} goes at {now}");
                assert!(when + 1300 >= now, "{to} of {when} goes at {now}");
                told.retain(|(_, floor)| *floor > to.0);
            }
        }
        assert!(told.is_empty(), "{told:?}");
    }
}
