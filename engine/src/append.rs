//! One append as its caller sees it: a future that needs no runtime, a blocking wait, a callback.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use palisade_wal::Lsn;

use crate::error::{Error, ErrorKind};
use crate::status::Protection;

/// An acknowledged append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where the record stands.
    pub lsn: Lsn,
    /// First position after it.
    pub end_lsn: Lsn,
    /// Its timestamp: nanoseconds, never decreasing in a stream.
    pub scn: u64,
    /// What the acknowledgement was worth.
    pub level: Protection,
}

/// The end of an append: acknowledged, failed (it will never be in the log), or unknown (it may
/// be there; the error's kind is [`ErrorKind::Unknown`]).
pub type Outcome = Result<Appended, Error>;

type Callback = Box<dyn FnOnce(&Outcome) + Send>;

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
    callback: Option<Callback>,
    /// A thread sleeps until the outcome comes. To wake nobody still costs a system call, and
    /// that for every append.
    blocked: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    done: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a callback poisons the lock but leaves the state whole.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The shard's end of an append. Dropped without an answer, the outcome is *unknown*.
pub(crate) struct Promise(Option<Arc<Shared>>);

impl Promise {
    /// Tells the caller.
    pub(crate) fn settle(mut self, outcome: Outcome) {
        if let Some(shared) = self.0.take() {
            settle(&shared, outcome);
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            settle(&shared, Err(Error::new(ErrorKind::Unknown, "the shard stopped")));
        }
    }
}

fn settle(shared: &Shared, outcome: Outcome) {
    let mut state = shared.lock();
    let callback = state.callback.take();
    let waker = state.waker.take();
    if let Some(callback) = callback {
        drop(state);
        callback(&outcome);
        state = shared.lock();
    }
    state.outcome = Some(outcome);
    let blocked = state.blocked;
    drop(state);
    if blocked {
        shared.done.notify_one();
    }
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The caller's end of an append. Dropping it does not cancel the append.
#[must_use = "an append is only known to be durable when its future says so"]
pub struct AppendFuture(Arc<Shared>);

/// Both ends of one append.
pub(crate) fn promise() -> (Promise, AppendFuture) {
    let shared = Arc::new(Shared::default());
    (Promise(Some(shared.clone())), AppendFuture(shared))
}

impl AppendFuture {
    /// Blocks until the outcome is known.
    ///
    /// # Errors
    /// The append failed or its outcome is unknown.
    pub fn wait(self) -> Outcome {
        let mut state = self.0.lock();
        loop {
            if let Some(outcome) = state.outcome.take() {
                return outcome;
            }
            state.blocked = true;
            state = self.0.done.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Blocks until the outcome is known or `limit` has passed; then the outcome is *unknown*.
    ///
    /// # Errors
    /// The append failed, its outcome is unknown, or the deadline passed.
    pub fn wait_for(self, limit: Duration) -> Outcome {
        let deadline = Instant::now() + limit;
        let mut state = self.0.lock();
        loop {
            if let Some(outcome) = state.outcome.take() {
                return outcome;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::new(ErrorKind::Unknown, "no outcome before the deadline"));
            }
            state.blocked = true;
            let waited = self.0.done.wait_timeout(state, left);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }

    /// The outcome, if it is known already. It is given out once.
    pub fn try_take(&mut self) -> Option<Outcome> {
        self.0.lock().outcome.take()
    }

    /// Calls `callback` with the outcome, on the shard's thread (or here, if it is known
    /// already). It must be short and must not block.
    pub fn on_done(self, callback: impl FnOnce(&Outcome) + Send + 'static) {
        let mut state = self.0.lock();
        match state.outcome.take() {
            Some(outcome) => {
                drop(state);
                callback(&outcome);
            }
            None => state.callback = Some(Box::new(callback)),
        }
    }
}

impl Future for AppendFuture {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.0.lock();
        match state.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_that_the_shard_forgets_is_unknown() {
        let (promise, future) = promise();
        drop(promise);
        assert_eq!(future.wait().unwrap_err().kind(), ErrorKind::Unknown);
    }

    #[test]
    fn a_callback_sees_the_outcome_once() {
        let (promise, future) = promise();
        let (sent, seen) = std::sync::mpsc::channel();
        future.on_done(move |outcome| sent.send(outcome.is_ok()).unwrap());
        let lsn = Lsn(8);
        promise.settle(Ok(Appended {
            lsn,
            end_lsn: Lsn(16),
            scn: 1,
            level: Protection::Performance,
        }));
        assert_eq!(seen.recv(), Ok(true));
        assert!(seen.recv().is_err());
    }

    #[test]
    fn a_deadline_gives_unknown() {
        let (_promise, future) = promise();
        let outcome = future.wait_for(Duration::from_millis(1));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unknown);
    }
}
