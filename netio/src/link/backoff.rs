//! Pauses before dialling again.

use crate::limits::{BACKOFF_FIRST_NS, BACKOFF_LAST_NS};

/// Doubling, jittered pauses, replayable from a seed.
pub(super) struct Backoff {
    next_ns: u64,
    random: u64,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Backoff {
        Backoff { next_ns: BACKOFF_FIRST_NS, random: seed }
    }

    pub(super) fn reset(&mut self) {
        self.next_ns = BACKOFF_FIRST_NS;
    }

    pub(super) fn longest(&mut self) {
        self.next_ns = BACKOFF_LAST_NS;
    }

    /// The next pause, between half of the step and the step, in nanoseconds.
    pub(super) fn pause_ns(&mut self) -> u64 {
        let step = self.next_ns;
        self.next_ns = (step * 2).min(BACKOFF_LAST_NS);
        step / 2 + splitmix(&mut self.random) % (step / 2 + 1)
    }
}

/// The next number of a splitmix64 sequence.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_jitter() {
        let mut backoff = Backoff::new(1);
        let mut step = BACKOFF_FIRST_NS;
        for _ in 0..12 {
            let pause = backoff.pause_ns();
            assert!(pause >= step / 2 && pause <= step);
            step = (step * 2).min(BACKOFF_LAST_NS);
        }
        assert_ne!(Backoff::new(1).pause_ns(), Backoff::new(2).pause_ns());
    }
}
