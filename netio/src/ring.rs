//! The seam between a shard and the world.
//!
//! `Shard<R: Ring>` is generic over this trait alone: production runs [`Uring`](crate::Uring), the
//! simulator a virtual ring with virtual disk, network and clock.

use std::sync::Arc;

use crate::op::{Completion, Op, Token};
use crate::pool::Pool;

/// A point on a clock that only goes forward, in nanoseconds from an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// This point plus `ns` nanoseconds.
    #[must_use]
    pub fn after(self, ns: u64) -> Nanos {
        Nanos(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to this point, 0 if it is not earlier.
    pub fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// How long [`Ring::enter`] may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Submit and take what has completed; do not wait.
    No,
    /// Wait for a completion or the doorbell, until the given time at most.
    Until(Option<Nanos>),
}

/// Wakes a shard that sleeps in [`Ring::enter`]. Cheap when it does not sleep.
pub trait Wake: Send + Sync {
    /// Makes the shard's current or next wait return.
    fn wake(&self);
}

/// One shard's way to files, sockets and time.
///
/// A ring is made and used by one thread. Operations complete in any order; nothing is ordered
/// that was not submitted after the completion of what must come first.
pub trait Ring {
    /// Takes one operation. It is handed to the kernel by the next [`enter`](Ring::enter). Slots
    /// that it names are pinned in `pool` until its last completion.
    ///
    /// # Panics
    /// When `token` already names an operation in flight.
    fn submit(&mut self, pool: &mut Pool, token: Token, op: Op);

    /// Submits what was taken, waits as told, and appends completions to `done`.
    fn enter(&mut self, pool: &mut Pool, wait: Wait, done: &mut Vec<Completion>);

    /// Says that the shard is about to wait: from now on a [`Wake`] reaches it. The caller looks
    /// at its queues once more after this and before it waits.
    fn arm(&mut self);

    /// How other threads wake this shard.
    fn waker(&self) -> Arc<dyn Wake>;

    /// The monotonic clock.
    fn now(&self) -> Nanos;

    /// Wall-clock nanoseconds since the Unix epoch. May jump either way.
    fn wall_ns(&self) -> u64;

    /// A random number, for incarnations and jitter; replayable in the simulator.
    fn random(&mut self) -> u64;

    /// Operations submitted and not finally completed, the doorbell not counted.
    fn in_flight(&self) -> usize;
}
