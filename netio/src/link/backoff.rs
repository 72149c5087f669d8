//! Pauses before dialling again.

/// Doubling, jittered pauses, replayable from a seed.
pub(super) struct Backoff {
    first_ns: u64,
    last_ns: u64,
    next_ns: u64,
    random: u64,
}

impl Backoff {
    pub(super) fn new(seed: u64, first_ns: u64, last_ns: u64) -> Backoff {
        let last_ns = last_ns.max(first_ns);
        Backoff { first_ns, last_ns, next_ns: first_ns, random: seed }
    }

    /// Sets the bounds of the pauses from the next one on.
    pub(super) fn set_bounds(&mut self, first_ns: u64, last_ns: u64) {
        *self = Backoff::new(self.random, first_ns, last_ns);
    }

    pub(super) fn reset(&mut self) {
        self.next_ns = self.first_ns;
    }

    pub(super) fn longest(&mut self) {
        self.next_ns = self.last_ns;
    }

    /// The next pause, between half of the step and the step, in nanoseconds.
    pub(super) fn pause_ns(&mut self) -> u64 {
        let step = self.next_ns;
        self.next_ns = step.saturating_mul(2).min(self.last_ns);
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
    fn pauses_double_up_to_the_bound_and_jitter() {
        let (first, last) = (20_000_000, 1_000_000_000);
        let mut backoff = Backoff::new(1, first, last);
        let mut step = first;
        for _ in 0..12 {
            let pause = backoff.pause_ns();
            assert!(pause >= step / 2 && pause <= step);
            step = (step * 2).min(last);
        }
        let first_of = |seed| Backoff::new(seed, first, last).pause_ns();
        assert_ne!(first_of(1), first_of(2));
    }
}
