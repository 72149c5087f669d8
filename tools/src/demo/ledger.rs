//! What was acked so far, shared between the thread that appends and the one that kills.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use palisade::status::Protection;

use super::verify::Acked;
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;

/// Longest latency that the histogram tells apart, in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;

/// The shared state of a run.
#[derive(Debug)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    changed: Condvar,
}

/// An ack, as whoever waits for it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    /// When it came.
    pub(crate) at: Instant,
    /// What it said that it was worth.
    pub(crate) level: Protection,
}

/// See [`Ledger`].
#[derive(Debug)]
pub(crate) struct State {
    /// Every acked record.
    pub(crate) acked: Vec<Acked>,
    /// Records that were not acked, and why.
    pub(crate) refused: Vec<String>,
    /// Records below this number may be appended now.
    pub(crate) gate: u64,
    /// Nodes that acked, each with the first time since the last change.
    pub(crate) acker: Option<(u32, Instant)>,
    /// When the last ack came.
    pub(crate) last_ack: Option<Instant>,
    /// Set when the load ended.
    pub(crate) ended: bool,
    /// Microseconds per append.
    pub(crate) latency: Histogram<u64>,
    /// Every ack in order, where somebody looks at them.
    pub(crate) beats: Option<Vec<Beat>>,
}

impl Ledger {
    /// An empty ledger whose gate lets `gate` records pass.
    pub(crate) fn new(gate: u64) -> Ledger {
        let latency = Histogram::new_with_max(LATENCY_US_MAX, 3)
            .expect("the bounds of the histogram are constants");
        let state = State {
            acked: Vec::new(),
            refused: Vec::new(),
            gate,
            acker: None,
            last_ack: None,
            ended: false,
            latency,
            beats: None,
        };
        Ledger { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// One that has no gate and keeps when each ack came.
    pub(crate) fn with_beats() -> Ledger {
        let ledger = Ledger::new(u64::MAX);
        ledger.lock().beats = Some(Vec::new());
        ledger
    }

    /// The state, for as long as the guard lives.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the counts as they are.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Wakes whoever waits for a change.
    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Lets records below `gate` pass.
    pub(crate) fn open_gate(&self, gate: u64) {
        let mut state = self.lock();
        state.gate = state.gate.max(gate);
        self.notify();
    }

    /// Waits a moment for the gate to let `index` pass; whether it does.
    pub(crate) fn may_pass(&self, index: u64, wait: bool) -> bool {
        let mut state = self.lock();
        if state.gate <= index && wait {
            let moment = Duration::from_millis(20);
            let woken = self.changed.wait_timeout(state, moment);
            state = woken.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        state.gate > index
    }

    /// Waits until `ready` gives something.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        deadline: Instant,
        interrupt: &Interrupt,
        mut ready: impl FnMut(&State) -> Option<T>,
    ) -> Result<T, Failure> {
        let mut state = self.lock();
        loop {
            if let Some(found) = ready(&state) {
                return Ok(found);
            }
            interrupt.check()?;
            if state.ended {
                let why = state.refused.first().cloned().unwrap_or_default();
                let text = format!("the load ended while waiting for {what} {why}");
                return Err(Failure::new(Exit::Failed, text));
            }
            if Instant::now() >= deadline {
                let why = state.refused.first().cloned().unwrap_or_default();
                let text = format!("out of time while waiting for {what} {why}");
                return Err(Failure::new(Exit::Failed, text));
            }
            let woken = self.changed.wait_timeout(state, Duration::from_millis(20));
            state = woken.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }
}
