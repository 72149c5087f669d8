//! A write and the sync linked to it: two entries for the kernel, one operation for its owner.
//!
//! The sync starts when the write has ended whole, because the two stand in one chain. A chain
//! lies within one handing-over: cut in two by it, the sync would start at once.

/// `EAGAIN`: the same operation, submitted again, may succeed.
const AGAIN: i32 = -11;
const INTERRUPTED: i32 = -4;
const CANCELED: i32 = -125;
const IO: i32 = -5;
/// Marks the sync's half in the number that the kernel returns.
pub(super) const SYNC_HALF: u64 = 1 << 31;

/// What the halves came to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Bytes of the whole write.
    pub(super) bytes: u32,
    written: Option<i32>,
    synced: Option<i32>,
    /// The halves were not handed over together.
    split: bool,
}

impl Chain {
    pub(super) fn new(bytes: u32) -> Chain {
        Chain { bytes, ..Chain::default() }
    }

    pub(super) fn split(&mut self) {
        self.split = true;
    }

    /// One half has ended. The result of the operation, once both have.
    pub(super) fn end(&mut self, is_sync: bool, result: i32) -> Option<i32> {
        match is_sync {
            true => self.synced = Some(result),
            false => self.written = Some(result),
        }
        let (written, synced) = (self.written?, self.synced?);
        // A sync that ran and failed is told before anything that leads to another one, which
        // would succeed and say nothing about what this one lost. So is one that claims that it
        // may be tried again.
        match synced {
            AGAIN | INTERRUPTED => return Some(IO),
            error if error < 0 && error != CANCELED => return Some(error),
            _ => {}
        }
        // A write that failed or was short cancels its sync: what it says counts.
        let whole = u32::try_from(written).is_ok_and(|written| written >= self.bytes);
        Some(match synced {
            _ if !whole => written,
            _ if self.split => AGAIN,
            0.. => written,
            canceled => canceled,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(written: i32, synced: i32) -> i32 {
        let (mut one, mut other) = (Chain::new(8192), Chain::new(8192));
        assert_eq!((one.end(false, written), other.end(true, synced)), (None, None));
        let (one, other) = (one.end(true, synced), other.end(false, written));
        assert_eq!(one, other, "in any order");
        one.expect("both have ended")
    }

    #[test]
    fn a_promise_needs_the_whole_write_and_its_sync() {
        assert_eq!(result(8192, 0), 8192);
        assert_eq!(result(8192, IO), IO);
        assert_eq!(result(4096, CANCELED), 4096);
        assert_eq!(result(IO, CANCELED), IO);
        // Not even when a sync ran all the same.
        assert_eq!(result(4096, 0), 4096);
        assert_eq!(result(8192, CANCELED), CANCELED);
    }

    #[test]
    fn halves_that_were_not_handed_over_together_promise_nothing() {
        let mut chain = Chain::new(4096);
        chain.split();
        assert_eq!((chain.end(true, 0), chain.end(false, 4096)), (None, Some(AGAIN)));
    }

    #[test]
    fn a_failed_sync_is_told_whatever_the_write_came_to() {
        let mut chain = Chain::new(4096);
        chain.split();
        assert_eq!((chain.end(true, IO), chain.end(false, 4096)), (None, Some(IO)));
        assert_eq!(result(4096, IO), IO, "beside a short write");
        assert_eq!(result(AGAIN, IO), IO, "beside one that may be tried again");
        // Who is told that the operation may be tried again would sync again, and be told yes.
        for transient in [-4, AGAIN] {
            assert_eq!(result(8192, transient), IO);
        }
    }
}
