//! A write and the sync linked to it: two entries for the kernel, one operation for its owner.
//!
//! The sync starts when the write has ended whole, because the two stand in one chain. A chain
//! lies within one handing-over: cut in two by it, the sync would start at once. A whole write
//! says nothing (`IOSQE_CQE_SKIP_SUCCESS`): its sync speaks for both, and the shard is woken once.

/// `EAGAIN`: the same operation, submitted again, may succeed.
const AGAIN: i32 = -11;
const INTERRUPTED: i32 = -4;
const IO: i32 = -5;
/// Marks the sync's half in the number that the kernel returns.
pub(super) const SYNC_HALF: u64 = 1 << 31;

/// What a completion of one half means for the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing yet.
    No,
    /// It has ended with this.
    With(i32),
    /// It has failed, and nobody will say when the kernel is done with its runs.
    Lost,
}

/// A chain in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Bytes of the whole write.
    bytes: u32,
    /// The halves were not handed over together.
    split: bool,
}

impl Chain {
    pub(super) fn new(bytes: u32) -> Chain {
        Chain { bytes, split: false }
    }

    pub(super) fn split(&mut self) {
        self.split = true;
    }

    /// The kernel told how one half ended.
    pub(super) fn end(&self, is_sync: bool, result: i32) -> Ended {
        let bytes = i32::try_from(self.bytes).expect("a write is smaller than 2 GiB");
        match (is_sync, self.split) {
            // Its write may be under way still, and says nothing if it ends well.
            (true, true) => Ended::Lost,
            // Who is told that the operation may be tried again would sync again, and be told
            // yes: nothing would tell what this sync lost.
            (true, false) if matches!(result, AGAIN | INTERRUPTED) => Ended::With(IO),
            (true, false) if result < 0 => Ended::With(result),
            (true, false) => Ended::With(bytes),
            // A whole write that speaks all the same: its sync is still to come.
            (false, _) if result >= bytes => Ended::No,
            // Its sync runs by itself, and ends the operation.
            (false, true) => Ended::No,
            // A write that failed or was short canceled its sync, which says nothing then.
            (false, false) => Ended::With(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANCELED: i32 = -125;

    #[test]
    fn the_sync_of_a_whole_write_speaks_for_both() {
        let chain = Chain::new(8192);
        assert_eq!(chain.end(true, 0), Ended::With(8192));
        assert_eq!(chain.end(true, IO), Ended::With(IO));
        assert_eq!(chain.end(true, CANCELED), Ended::With(CANCELED));
    }

    #[test]
    fn a_write_that_is_not_whole_ends_its_chain() {
        let chain = Chain::new(8192);
        assert_eq!(chain.end(false, 4096), Ended::With(4096));
        assert_eq!(chain.end(false, IO), Ended::With(IO));
        assert_eq!(chain.end(false, AGAIN), Ended::With(AGAIN), "nothing was synced");
        assert_eq!(chain.end(false, 8192), Ended::No, "a promise needs the sync");
    }

    #[test]
    fn a_failed_sync_is_never_told_as_one_to_try_again() {
        for transient in [INTERRUPTED, AGAIN] {
            assert_eq!(Chain::new(8192).end(true, transient), Ended::With(IO));
        }
    }

    #[test]
    fn halves_that_were_not_handed_over_together_promise_nothing() {
        let mut chain = Chain::new(4096);
        chain.split();
        for written in [4096, 512, IO, AGAIN] {
            assert_eq!(chain.end(false, written), Ended::No);
        }
        for synced in [0, IO, AGAIN, CANCELED] {
            assert_eq!(chain.end(true, synced), Ended::Lost);
        }
    }
}
