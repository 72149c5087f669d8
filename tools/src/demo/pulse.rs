//! The pulse: small records at a steady pace. When their acks come, and what those say that they
//! are worth, shows what a change of mode or role does to those who write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use palisade::client::Next;
use palisade::status::Protection;

use super::course::Course;
use super::ledger::{Beat, Ledger};
use super::load::{self, Target};
use super::verify::Acked;
use crate::exit::{Exit, Failure};

/// Between two records.
const EVERY: Duration = Duration::from_millis(2);
/// How long a pulse that waits for its next record sleeps before it looks whether it is to end.
const NAP: Duration = Duration::from_millis(20);

/// A thread that appends until it is told to end.
pub(super) struct Pulse {
    ledger: Arc<Ledger>,
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
    course: Course,
}

/// What the thread is told.
#[derive(Default)]
struct Orders {
    is_paused: AtomicBool,
    is_ended: AtomicBool,
}

impl Pulse {
    pub(super) fn start(target: Target, course: &Course) -> Result<Pulse, Failure> {
        let (ledger, orders) = (Arc::new(Ledger::with_beats()), Arc::new(Orders::default()));
        let (book, told) = (Arc::clone(&ledger), Arc::clone(&orders));
        let work = move || {
            let (mut due, mut number) = (Instant::now(), 0_u64);
            // Why it failed is in the ledger.
            let _ =
                load::run(&target, &book, &mut |wait| Ok(told.next(wait, &mut due, &mut number)));
        };
        let thread = std::thread::Builder::new().name("pulse".to_owned()).spawn(work);
        let thread = thread.map_err(|error| Failure::io("pulse thread", &error))?;
        Ok(Pulse { ledger, orders, thread: Some(thread), course: course.clone() })
    }

    /// Whether further records wait until this is taken back.
    pub(super) fn set_paused(&self, is_paused: bool) {
        self.orders.is_paused.store(is_paused, Ordering::Relaxed);
    }

    /// When the first ack came after `since` that says so of its worth.
    pub(super) fn first_after(
        &self,
        since: Instant,
        what: &str,
        is_meant: impl Fn(Protection) -> bool,
    ) -> Result<Instant, Failure> {
        self.look(what, |beats| {
            let later = &beats[beats.partition_point(|beat| beat.at <= since)..];
            later.iter().find(|beat| is_meant(beat.level)).map(|beat| beat.at)
        })
    }

    /// The longest time without an ack that ends after `from` and begins before `to`; waits for
    /// the ack that ends it. What lies before `from` does not count.
    pub(super) fn longest_gap(&self, from: Instant, to: Instant) -> Result<Duration, Failure> {
        self.look("acks after it", |beats| longest_gap(beats, from, to))
    }

    fn look<T>(&self, what: &str, find: impl Fn(&[Beat]) -> Option<T>) -> Result<T, Failure> {
        let Course { deadline, interrupt, .. } = &self.course;
        self.ledger.wait_for(what, *deadline, interrupt, |state| find(state.beats.as_deref()?))
    }

    /// Appends nothing more: what was acked, and why something was not.
    pub(super) fn end(mut self) -> Result<(Vec<Acked>, Vec<String>), Failure> {
        self.orders.is_ended.store(true, Ordering::Relaxed);
        let has_ended = || self.ledger.lock().ended.then_some(());
        self.course.wait("the last acks", has_ended)?;
        let ended = self.thread.take().map(JoinHandle::join).transpose();
        ended.map_err(|_| Failure::new(Exit::Invariant, "the pulse panicked"))?;
        let mut state = self.ledger.lock();
        Ok((std::mem::take(&mut state.acked), std::mem::take(&mut state.refused)))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        // Of a run that broke off: nobody waits for it.
        self.orders.is_ended.store(true, Ordering::Relaxed);
    }
}

impl Orders {
    /// The next record, when it is due.
    fn next(&self, wait: bool, due: &mut Instant, number: &mut u64) -> Next {
        loop {
            if self.is_ended.load(Ordering::Relaxed) {
                return Next::End;
            }
            let now = Instant::now();
            let is_paused = self.is_paused.load(Ordering::Relaxed);
            if !is_paused && now >= *due {
                // What could not be appended in time is not made up for.
                *due = now.max(*due) + EVERY;
                *number += 1;
                return Next::Record(format!("record {number} of the pulse").into_bytes());
            }
            if !wait {
                return Next::Pending;
            }
            let pause = if is_paused { NAP } else { due.saturating_duration_since(now).min(NAP) };
            std::thread::park_timeout(pause);
        }
    }
}

fn longest_gap(beats: &[Beat], from: Instant, to: Instant) -> Option<Duration> {
    let first = beats.partition_point(|beat| beat.at < from);
    let after = beats.partition_point(|beat| beat.at < to);
    let last = beats.get(after)?;
    let within = beats[first..after].iter().chain([last]).map(|beat| beat.at);
    let (mut longest, mut before) = (Duration::ZERO, from);
    for at in within {
        longest = longest.max(at - before);
        before = at;
    }
    Some(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_from_when_it_matters_to_the_ack_that_ends_it() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let beat = |at| Beat { at: start + ms(at), level: Protection::Performance };
        let beats = [0, 90, 100, 102, 142, 150, 400].map(beat);
        let gap = |from, to| longest_gap(&beats, start + ms(from), start + ms(to));
        assert_eq!(gap(100, 145), Some(ms(40)));
        assert_eq!(gap(80, 101), Some(ms(10)), "what is before does not count");
        assert_eq!(gap(100, 160), Some(ms(250)), "it ends later");
        assert_eq!(gap(100, 500), None, "nothing came yet");
    }
}
