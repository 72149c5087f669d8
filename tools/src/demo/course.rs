//! The course of a run: how long there is, whether somebody asked for its end, and where it is said
//! what happens.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;

/// Pause between two looks at a node.
const POLL: Duration = Duration::from_millis(5);

/// What every chapter has at hand.
#[derive(Clone)]
pub(super) struct Course {
    pub(super) interrupt: Interrupt,
    pub(super) deadline: Instant,
    pub(super) bar: ProgressBar,
}

impl Course {
    /// A course of so many records.
    pub(super) fn new(interrupt: &Interrupt, deadline: Instant, records: u64) -> Course {
        let bar = ProgressBar::new(records);
        let style = ProgressStyle::with_template("{msg:<48} [{bar:24}] {pos}/{len} {per_sec}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Course { interrupt: interrupt.clone(), deadline, bar }
    }

    /// Says what happens now.
    pub(super) fn say(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        if self.bar.is_hidden() {
            eprintln!("{text}");
        }
    }

    /// Looks until `look` gives something, for so long, and not beyond the deadline.
    pub(super) fn within<T>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, Failure> {
        let until = Instant::now().checked_add(limit);
        let deadline = until.map_or(self.deadline, |until| until.min(self.deadline));
        loop {
            self.interrupt.check()?;
            if let Some(found) = look() {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                let text = format!("out of time while waiting for {what}");
                return Err(Failure::new(Exit::Failed, text));
            }
            std::thread::park_timeout(POLL);
        }
    }

    /// The same, as long as there is time at all.
    pub(super) fn wait<T>(
        &self,
        what: &str,
        look: impl FnMut() -> Option<T>,
    ) -> Result<T, Failure> {
        self.within(Duration::MAX, what, look)
    }
}
