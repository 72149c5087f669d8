//! One shard's way into the universe: the production trait over virtual disks and sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use palisade_netio::{Completion, Nanos, Op, Pool, Quotas, Ring, Token, Wait, Wake};

use super::event::Step;
use super::operation::{Operation, handle_in, run_filled};
use super::state::{Departure, ProcessId, RingId};
use super::universe::Universe;

/// One shard's way into a [`Universe`].
///
/// [`enter`](Ring::enter) never blocks. After a [`Wait::Until`] that found nothing the ring
/// sleeps: it is due when a completion arrives, the time comes or its bell rings. After any other
/// `enter` it is due as soon as the turn is over.
pub struct VirtualRing {
    universe: Universe,
    id: RingId,
    bell: Arc<Bell>,
}

/// A bell that reaches only a shard that has armed it: a wake before that is lost, so a shard
/// that does not look at its queues after [`Ring::arm`] is found out.
#[derive(Default)]
pub(crate) struct Bell {
    armed: AtomicBool,
    rung: AtomicBool,
}

impl Bell {
    pub(crate) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }
}

impl Wake for Bell {
    fn wake(&self) {
        if self.armed.load(Ordering::Acquire) {
            self.rung.store(true, Ordering::Release);
        }
    }
}

impl VirtualRing {
    /// A ring for one more shard of `process`.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn new(universe: &Universe, process: ProcessId) -> VirtualRing {
        let mut state = universe.state();
        let id = state.add_ring(process);
        let bell = state.ring(id).bell.clone();
        drop(state);
        VirtualRing { universe: universe.clone(), id, bell }
    }

    /// A pool for a shard on a virtual ring: freed slots are poisoned.
    ///
    /// # Panics
    /// When the memory cannot be mapped.
    pub fn pool(quotas: Quotas) -> Pool {
        let mut pool = Pool::new(quotas).expect("memory for the pool");
        pool.poison_freed();
        pool
    }

    /// By which [`Universe::due`] names this ring.
    pub fn id(&self) -> RingId {
        self.id
    }

    /// Whether the shard wants a turn now.
    pub fn is_due(&self) -> bool {
        self.universe.is_due(self.id)
    }

    /// When the shard wants its next turn; none while only an outside event can give it a cause.
    pub fn wake_time(&self) -> Option<Nanos> {
        self.universe.wake_time(self.id)
    }

    /// Takes a random completion; those of one operation stay in order.
    fn take_ready(&self) -> Option<(u64, Step)> {
        let mut state = self.universe.state();
        let state = &mut *state;
        let ready = &mut state.rings[self.id.0 as usize].ready;
        if ready.is_empty() {
            return None;
        }
        let drawn = ready[state.random.index(ready.len())].0;
        let first = ready.iter().position(|&(id, _)| id == drawn).expect("it was drawn");
        Some(ready.remove(first))
    }

    fn deliver(&self, pool: &mut Pool, id: u64, step: Step) -> Completion {
        let mut state = self.universe.state();
        let operation = &state.operations[&id];
        let (token, filled) = (operation.token, run_filled(&operation.op));
        let (result, more, payload, copied, fill) = match step {
            Step::Work => {
                let outcome = state.finish_file(id);
                (outcome.result, false, outcome.payload, false, outcome.fill)
            }
            Step::Done { result, more, payload, copied, fill } => {
                (result, more, payload, copied, fill)
            }
        };
        if let (Some(handle), Some(operation)) =
            (handle_in(&payload), state.operations.get_mut(&id))
        {
            operation.untold.retain(|&other| other != handle);
        }
        let mut content = 0;
        if let (Some(bytes), Some(run)) = (&fill, filled) {
            pool.fill(run, bytes);
            content = super::trace::hash_bytes(bytes);
        }
        let shown = result.map_or_else(|errno| -i64::from(errno.0), i64::from);
        state.note("complete", [token.0, shown as u64, content]);
        if !more {
            let operation = state.forget(id, Departure::Close);
            operation.check_unchanged(pool);
            operation.unpin(pool);
        }
        Completion { token, result, more, payload, copied }
    }

    fn end_enter(&self, wait: Wait, delivered: usize) {
        let mut state = self.universe.state();
        let latency = state.latencies.turn;
        let cost = state.draw(latency);
        let now = state.now;
        let rung = self.bell.rung.swap(false, Ordering::AcqRel);
        let ring = state.ring_mut(self.id);
        match wait {
            Wait::Until(until) if delivered == 0 && !rung => {
                ring.asleep = true;
                ring.wake = until.map(|at| at.max(now.after(cost)));
            }
            _ => {
                ring.asleep = false;
                ring.wake = Some(now.after(cost));
                self.bell.armed.store(false, Ordering::Release);
            }
        }
    }
}

impl Ring for VirtualRing {
    fn submit(&mut self, pool: &mut Pool, token: Token, op: Op) {
        let mut state = self.universe.state();
        let known = state.ring(self.id).tokens.contains_key(&token);
        assert!(!known, "{token:?} already names an operation in flight");
        if !state.ring(self.id).alive {
            return;
        }
        let operation = Operation::begin(pool, self.id, token, op);
        let id = state.number();
        state.operations.insert(id, operation);
        let ring = state.ring_mut(self.id);
        ring.tokens.insert(token, id);
        ring.queued.push(id);
    }

    fn enter(&mut self, pool: &mut Pool, wait: Wait, done: &mut Vec<Completion>) {
        let mut state = self.universe.state();
        if !state.ring(self.id).alive {
            return;
        }
        let queued = std::mem::take(&mut state.ring_mut(self.id).queued);
        queued.into_iter().for_each(|id| state.start(id));
        drop(state);
        let before = done.len();
        while let Some((id, step)) = self.take_ready() {
            let completion = self.deliver(pool, id, step);
            done.push(completion);
        }
        self.end_enter(wait, done.len() - before);
    }

    fn arm(&mut self) {
        self.bell.armed.store(true, Ordering::Release);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }

    fn now(&self) -> Nanos {
        self.universe.now()
    }

    fn wall_ns(&self) -> u64 {
        let state = self.universe.state();
        let host = state.process(state.ring(self.id).process).host;
        state.host(host).clock.read(state.now)
    }

    fn random(&mut self) -> u64 {
        self.universe.random()
    }

    fn in_flight(&self) -> usize {
        self.universe.state().ring(self.id).tokens.len()
    }
}

impl Drop for VirtualRing {
    fn drop(&mut self) {
        // While a panic unwinds the state may be borrowed; nobody looks at it afterwards.
        if let Some(mut state) = self.universe.try_state()
            && state.ring(self.id).alive
        {
            state.close_ring(self.id, Departure::Close);
        }
    }
}
