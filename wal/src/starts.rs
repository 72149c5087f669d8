//! The chain at the starts of runs, as far as this life of the node has seen them. A log may begin
//! at one of them without a group before it that would tell the chain there.

use crate::log::Boundary;
use crate::lsn::Lsn;

/// In order. Not in a checkpoint: what a recovery does not see again is not known any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Starts(Vec<Boundary>);

/// Two logs are the same whatever else is known of their chains.
impl PartialEq for Starts {
    fn eq(&self, _: &Starts) -> bool {
        true
    }
}

impl Eq for Starts {}

impl Starts {
    /// A run starts at the end of the log.
    pub(crate) fn push(&mut self, start: Boundary) {
        self.void_above(start.lsn);
        assert!(self.0.last().is_none_or(|last| last.lsn < start.lsn), "runs go up");
        self.0.push(start);
        assert!(self.0.iter().rev().take(2).is_sorted_by(|one, next| one.lsn > next.lsn));
    }

    /// The chain there.
    pub(crate) fn chain_at(&self, lsn: Lsn) -> Option<u64> {
        let at = self.0.binary_search_by_key(&lsn, |start| start.lsn).ok()?;
        assert!(self.0[at].lsn == lsn, "the one that was looked for");
        let around = &self.0[at.saturating_sub(1)..self.0.len().min(at + 2)];
        assert!(around.is_sorted_by(|one, next| one.lsn < next.lsn), "runs are in order");
        Some(self.0[at].chain)
    }

    /// What stands above `from` is void.
    pub(crate) fn void_above(&mut self, from: Lsn) {
        // One that starts there is another one, if there is one.
        while self.0.last().is_some_and(|last| last.lsn >= from) {
            self.0.pop();
        }
        assert!(self.0.last().is_none_or(|last| last.lsn < from), "nothing is left above");
    }

    /// The log begins at `base`.
    pub(crate) fn drop_below(&mut self, base: Lsn) {
        let gone = self.0.partition_point(|start| start.lsn < base);
        self.0.drain(..gone);
        assert!(self.0.is_sorted_by(|one, next| one.lsn < next.lsn), "runs are in order");
        assert!(self.0.first().is_none_or(|first| first.lsn >= base), "nothing is left below");
    }
}
