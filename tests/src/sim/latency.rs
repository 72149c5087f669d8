//! How long operations take: a range for each kind of them.

use super::random::Random;

/// A latency in nanoseconds: `base`, plus up to `jitter`, uniformly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The least.
    pub base: u64,
    /// Added to it at most.
    pub jitter: u64,
}

impl Latency {
    /// A latency between `base` and `base + jitter` nanoseconds.
    pub const fn new(base: u64, jitter: u64) -> Latency {
        Latency { base, jitter }
    }

    pub(crate) fn draw(self, random: &mut Random) -> u64 {
        self.base + random.below(self.jitter.saturating_add(1))
    }
}

/// How long things take when no fault interferes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latencies {
    /// A read or a write without barrier.
    pub transfer: Latency,
    /// A write with barrier, or a sync.
    pub barrier: Latency,
    /// Open, close, rename and the other operations on names.
    pub names: Latency,
    /// From the call to the socket: sends, accepts and the like.
    pub call: Latency,
    /// One way between two hosts.
    pub link: Latency,
    /// One way within a host.
    pub local: Latency,
    /// From the first to the last completion of a zero-copy send.
    pub notify: Latency,
    /// What one turn of a shard costs.
    pub turn: Latency,
}

impl Latencies {
    /// Draws a world of its own: each kind up to some ten times faster or slower than usual.
    pub fn swarm(random: &mut Random) -> Latencies {
        let mut latencies = Latencies::default();
        for latency in [
            &mut latencies.transfer,
            &mut latencies.barrier,
            &mut latencies.names,
            &mut latencies.link,
            &mut latencies.local,
            &mut latencies.notify,
        ] {
            latency.base = latency.base * random.between(1, 40) / 10;
            latency.jitter = latency.jitter * random.between(1, 100) / 10;
        }
        latencies
    }
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            transfer: Latency::new(10_000, 60_000),
            barrier: Latency::new(35_000, 100_000),
            names: Latency::new(5_000, 80_000),
            call: Latency::new(500, 3_000),
            link: Latency::new(30_000, 120_000),
            local: Latency::new(3_000, 10_000),
            notify: Latency::new(0, 200_000),
            turn: Latency::new(300, 2_000),
        }
    }
}
