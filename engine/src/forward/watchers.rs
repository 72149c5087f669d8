//! The readers of one stream, and which of them are at its committed end.
//!
//! There are as many of these as streams, so that they are small.

use super::sender::ReaderId;

/// Places that are made one by one.
const FEW: usize = 4;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// In order; whether each waits for more to be committed.
    list: Vec<(ReaderId, bool)>,
}

impl Watchers {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn ids(&self) -> Vec<ReaderId> {
        self.list.iter().map(|(id, _)| *id).collect()
    }

    pub(crate) fn insert(&mut self, id: ReaderId) {
        if let Err(at) = self.position(id) {
            if self.list.len() < FEW {
                self.list.reserve_exact(1);
            }
            self.list.insert(at, (id, false));
        }
    }

    pub(crate) fn remove(&mut self, id: ReaderId) {
        if let Ok(at) = self.position(id) {
            self.list.remove(at);
        }
    }

    /// A reader is at the committed end.
    pub(crate) fn wait(&mut self, id: ReaderId) {
        if let Ok(at) = self.position(id) {
            self.list[at].1 = true;
        }
    }

    /// Those that were there; they are so no longer.
    pub(crate) fn take_waiting(&mut self) -> Vec<ReaderId> {
        let waits = |(id, waits): &mut (ReaderId, bool)| std::mem::take(waits).then_some(*id);
        self.list.iter_mut().filter_map(waits).collect()
    }

    fn position(&self, id: ReaderId) -> Result<usize, usize> {
        self.list.binary_search_by_key(&id, |(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_there_once_and_waits_until_it_is_taken() {
        let mut watchers = Watchers::default();
        [3, 1, 2, 3].into_iter().for_each(|id| watchers.insert(ReaderId(id)));
        assert_eq!(watchers.ids(), [1, 2, 3].map(ReaderId));
        [2, 3, 9].into_iter().for_each(|id| watchers.wait(ReaderId(id)));
        watchers.remove(ReaderId(3));
        assert_eq!(watchers.take_waiting(), [ReaderId(2)]);
        assert!(watchers.take_waiting().is_empty() && !watchers.is_empty());
    }
}
