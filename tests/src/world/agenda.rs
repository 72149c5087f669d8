//! What the world itself does, and when.

use std::collections::BTreeMap;

use palisade_netio::Nanos;

/// Things to do, in order of time.
pub struct Agenda<T> {
    entries: BTreeMap<(Nanos, u64), T>,
    next: u64,
}

impl<T> Default for Agenda<T> {
    fn default() -> Agenda<T> {
        Agenda { entries: BTreeMap::new(), next: 0 }
    }
}

impl<T> Agenda<T> {
    /// Puts something on it.
    pub fn add(&mut self, at: Nanos, what: T) {
        self.entries.insert((at, self.next), what);
        self.next += 1;
    }

    /// When the first thing is due.
    pub fn next(&self) -> Option<Nanos> {
        self.entries.keys().next().map(|&(at, _)| at)
    }

    /// The first thing, if it is due.
    pub fn take(&mut self, now: Nanos) -> Option<T> {
        let first = self.entries.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Drops everything that does not pass.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.entries.retain(|_, what| keep(what));
    }
}
