//! The catalogue (stream 1): which streams exist. One entry per change. The changes of the
//! registry of clusters stand in the same stream, in groups of their own kind.

use std::collections::BTreeSet;

/// The stream of this cluster's own state; never leaves it.
pub const SYSTEM_STREAM: u64 = 0;
/// The stream that says which streams exist; transferred like any other.
pub const CATALOGUE_STREAM: u64 = 1;
/// The first stream of the embedder.
pub const FIRST_STREAM: u64 = 2;

const CREATE: u8 = 1;
const CHANGE_BYTES: usize = 16;

/// One change of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The stream exists from here on.
    Create {
        /// Its id, never used before.
        stream: u64,
    },
}

impl Change {
    /// The payload of the entry.
    pub fn encode(self) -> [u8; CHANGE_BYTES] {
        let Change::Create { stream } = self;
        let mut bytes = [0; CHANGE_BYTES];
        bytes[0] = CREATE;
        bytes[8..].copy_from_slice(&stream.to_le_bytes());
        bytes
    }

    /// Reads an entry; none if it is not a change that this version knows.
    pub fn decode(bytes: &[u8]) -> Option<Change> {
        let bytes: &[u8; CHANGE_BYTES] = bytes.try_into().ok()?;
        let stream = u64::from_le_bytes(bytes[8..].try_into().expect("8 bytes"));
        (bytes[0] == CREATE && bytes[1..8] == [0; 7] && stream >= FIRST_STREAM)
            .then_some(Change::Create { stream })
    }
}

/// The streams that exist by the committed catalogue, and the next free id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    streams: BTreeSet<u64>,
    /// Above every id ever given out, committed or not.
    given: u64,
}

impl Catalogue {
    /// The next `count` ids. An id given out is not given again, even if its creation fails.
    pub fn reserve(&mut self, count: usize) -> std::ops::Range<u64> {
        let first = self.given.max(FIRST_STREAM);
        self.given = first + count as u64;
        first..self.given
    }

    /// An entry was logged, committed or not: its id is taken.
    pub fn on_logged(&mut self, change: Change) {
        let Change::Create { stream } = change;
        self.given = self.given.max(stream + 1);
    }

    /// An entry was committed. True if it changed anything.
    pub fn on_committed(&mut self, change: Change) -> bool {
        self.on_logged(change);
        let Change::Create { stream } = change;
        self.streams.insert(stream)
    }

    /// As a checkpoint tells it.
    pub(super) fn restore(given: u64, streams: BTreeSet<u64>) -> Catalogue {
        let last = streams.last().map_or(0, |last| last.saturating_add(1));
        Catalogue { streams, given: given.max(last) }
    }

    /// Above every id ever given out.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// The streams, in order.
    pub fn streams(&self) -> impl Iterator<Item = u64> {
        self.streams.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_back_and_garbage_does_not() {
        let change = Change::Create { stream: 77 };
        assert_eq!(Change::decode(&change.encode()), Some(change));
        assert_eq!(Change::decode(&[0; 16]), None);
        assert_eq!(Change::decode(&[1; 15]), None);
        assert_eq!(Change::decode(&Change::Create { stream: 1 }.encode()), None);
    }

    #[test]
    fn an_id_is_never_given_twice() {
        let mut catalogue = Catalogue::default();
        assert_eq!(catalogue.reserve(2), 2..4);
        catalogue.on_logged(Change::Create { stream: 9 });
        assert_eq!(catalogue.reserve(1), 10..11);
        assert!(catalogue.on_committed(Change::Create { stream: 9 }));
        assert!(!catalogue.on_committed(Change::Create { stream: 9 }));
        assert_eq!(catalogue.streams().collect::<Vec<_>>(), [9]);
    }
}
