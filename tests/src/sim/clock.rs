//! Wall clocks: one per host, wrong in its own way.

use palisade_netio::Nanos;

/// Nanoseconds since the Unix epoch at the start of virtual time.
const EPOCH_NS: u64 = 1_800_000_000_000_000_000;
/// Start of virtual time; not 0, so that "0" is never mistaken for a time.
pub(crate) const START: Nanos = Nanos(1_000_000_000);

/// A host's wall clock: virtual time plus an offset, running fast or slow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WallClock {
    /// Since when the present rate holds.
    since: Nanos,
    /// What was gained until then.
    gained_ns: i64,
    rate_ppm: i32,
}

impl WallClock {
    pub(crate) fn read(&self, now: Nanos) -> u64 {
        let truth = EPOCH_NS.saturating_add(now.0);
        truth.saturating_add_signed(self.gained_ns.saturating_add(self.gain(now)))
    }

    pub(crate) fn set_offset(&mut self, now: Nanos, offset_ns: i64) {
        self.since = now;
        self.gained_ns = offset_ns;
    }

    pub(crate) fn jump(&mut self, now: Nanos, by_ns: i64) {
        let gained = self.gained_ns.saturating_add(self.gain(now));
        self.set_offset(now, gained.saturating_add(by_ns));
    }

    pub(crate) fn set_rate(&mut self, now: Nanos, rate_ppm: i32) {
        self.jump(now, 0);
        self.rate_ppm = rate_ppm;
    }

    fn gain(&self, now: Nanos) -> i64 {
        (i128::from(now.since(self.since)) * i128::from(self.rate_ppm) / 1_000_000) as i64
    }
}
