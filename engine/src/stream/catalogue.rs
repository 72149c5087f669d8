//! The catalogue (stream 1): which streams exist. One entry per change. The changes of the
//! registry of clusters stand in the same stream, in groups of their own kind.

use std::collections::BTreeMap;

use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use super::mark::{MARK_BYTES, Mark};
use crate::paxos::codec::fixed;

/// The stream of this cluster's own state; never leaves it.
pub const SYSTEM_STREAM: u64 = 0;
/// The stream that says which streams exist; transferred like any other.
pub const CATALOGUE_STREAM: u64 = 1;
/// The first stream of the embedder.
pub const FIRST_STREAM: u64 = 2;

/// An id is never as high as this: the next free one is a number.
const STREAM_END: u64 = u64::MAX;

const CREATE: u8 = 1;
const CHANGE_BYTES: usize = size_of::<RawChange>();

fixed! {
    RawChange: 32 { code: u8, reserved: [u8; 7], stream: U64, mark: [u8; MARK_BYTES] }
}

/// One change of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The stream exists from here on.
    Create {
        /// Its id, never used before.
        stream: u64,
        /// The last mark of the catalogue: what its acks wait for from the first group on, until
        /// it has a mark of its own.
        mark: Option<Mark>,
    },
}

impl Change {
    /// The payload of the entry: code u8, zero u8 x 7, stream u64, mark, or zeros for none.
    pub fn encode(self) -> [u8; CHANGE_BYTES] {
        let Change::Create { stream, mark } = self;
        let (stream, mark) = (stream.into(), Mark::encode_or_none(mark));
        zerocopy::transmute!(RawChange { code: CREATE, reserved: [0; 7], stream, mark })
    }

    /// Reads an entry; none if it is not a change that this version knows.
    pub fn decode(bytes: &[u8]) -> Option<Change> {
        let RawChange { code, reserved, stream, mark } = RawChange::ref_from_bytes(bytes).ok()?;
        let (stream, mark) = (stream.get(), Mark::decode_or_none(mark)?);
        (*code == CREATE && *reserved == [0; 7] && (FIRST_STREAM..STREAM_END).contains(&stream))
            .then_some(Change::Create { stream, mark })
    }
}

/// The streams that exist by the committed catalogue, and the next free id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    streams: BTreeMap<u64, Option<Mark>>,
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
        let Change::Create { stream, .. } = change;
        self.given = self.given.max(stream + 1);
    }

    /// An entry was committed. True if it changed anything.
    pub fn on_committed(&mut self, change: Change) -> bool {
        self.on_logged(change);
        let Change::Create { stream, mark } = change;
        let is_new = !self.streams.contains_key(&stream);
        self.streams.entry(stream).or_insert(mark);
        is_new
    }

    /// As a checkpoint tells it.
    pub(super) fn restore(given: u64, streams: BTreeMap<u64, Option<Mark>>) -> Catalogue {
        let last = streams.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        Catalogue { streams, given: given.max(last) }
    }

    /// Above every id ever given out.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// The streams, in order.
    pub fn streams(&self) -> impl Iterator<Item = u64> {
        self.streams.keys().copied()
    }

    /// The mark that a stream was created with.
    pub fn mark(&self, stream: u64) -> Option<Mark> {
        self.streams.get(&stream).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(stream: u64) -> Change {
        Change::Create { stream, mark: None }
    }

    #[test]
    fn a_change_reads_back_and_garbage_does_not() {
        let marks = [Mark::Sync { cluster: 2, epoch: 5 }, Mark::Async { epoch: 6 }];
        for mark in marks.map(Some).into_iter().chain([None]) {
            let change = Change::Create { stream: 77, mark };
            assert_eq!(Change::decode(&change.encode()), Some(change));
        }
        assert_eq!(Change::decode(&[0; CHANGE_BYTES]), None);
        assert_eq!(Change::decode(&[1; CHANGE_BYTES - 1]), None);
        assert_eq!(Change::decode(&create(1).encode()), None);
        let mut odd = create(7).encode();
        odd[31] = 1;
        assert_eq!(Change::decode(&odd), None, "no mark, and no zeros");
    }

    #[test]
    fn an_id_after_which_there_is_none_is_no_change() {
        assert_eq!(Change::decode(&create(u64::MAX).encode()), None);
        let mut catalogue = Catalogue::default();
        catalogue.on_logged(create(u64::MAX - 1));
        assert_eq!(catalogue.given, u64::MAX);
    }

    #[test]
    fn an_id_is_never_given_twice() {
        let mut catalogue = Catalogue::default();
        assert_eq!(catalogue.reserve(2), 2..4);
        catalogue.on_logged(create(9));
        assert_eq!(catalogue.reserve(1), 10..11);
        assert!(catalogue.on_committed(create(9)));
        assert!(!catalogue.on_committed(create(9)));
        assert_eq!(catalogue.streams().collect::<Vec<_>>(), [9]);
    }
}
