//! What a base says: what the bytes that it stands for implied, as far as that is still known where
//! it is made. See "Bases" in PROTOCOL.md.
//!
//! Nothing of it is ever too much: a producer that appended behind the base as well may be left
//! out, and is known again from its next record on; a mark that may have been another one is left
//! out too, and nobody is promised anything by it.

use palisade_wal::{Boundary, Lsn};
use zerocopy::little_endian::U64;

use super::derived::Derived;
use super::mark::{MARK_BYTES, Mark, Marked, Marks};
use crate::limits::{PRODUCER_EXPIRY_NS, PRODUCERS_LAST_MAX, PRODUCERS_MAX};
use crate::paxos::codec::{Reader, fixed, put};

/// Producers that a base tells of, those that appended last.
const PRODUCERS_TOLD_MAX: usize = PRODUCERS_LAST_MAX;
/// Bytes of the longest one.
pub const BASE_BYTES_MAX: usize =
    size_of::<RawBase>() + PRODUCERS_TOLD_MAX * size_of::<RawProducer>();

const _: () = assert!(PRODUCERS_MAX <= PRODUCERS_TOLD_MAX);
const _: () = assert!(BASE_BYTES_MAX <= palisade_wal::RECORD_BYTES_MAX, "it is one record");

fixed! {
    /// So many producers follow. The mark is zeros when none is known.
    RawBase: 56 {
        expired: U64, floor: U64, mark: [u8; MARK_BYTES], start: U64, end: U64, producers: U64,
    }
    RawProducer: 24 { id: U64, last: U64, scn: U64 }
}

/// Where a log goes on behind a base: the bytes that it stands for end there, and no group of them
/// had a higher SCN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebased {
    /// The end, and the chain there.
    pub end: Boundary,
    /// The SCN.
    pub scn: u64,
}

/// A base in a log: what it says, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logged {
    pub(super) start: Lsn,
    pub(super) rebased: Rebased,
    pub(super) told: Base,
}

impl Logged {
    pub(super) fn end(&self) -> Lsn {
        assert!(self.start < self.rebased.end.lsn, "a base takes positions");
        self.rebased.end.lsn
    }
}

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// Whoever was last heard of before this is forgotten.
    pub(super) expired: u64,
    /// Producers: the last sequence of each, and its SCN.
    pub(super) producers: Vec<(u64, u64, u64)>,
    /// The mark that stands, and what is below was acked without any SYNC standby.
    pub(super) mark: Option<Marked>,
    pub(super) floor: Lsn,
}

impl Base {
    /// Of a log that goes on at `end`, the group before it having `scn`, by what is known further
    /// up. None when that is not enough.
    pub fn of(derived: &Derived, end: Lsn, scn: u64) -> Option<Base> {
        if !derived.is_whole() || derived.bases.iter().any(|base| base.end() > derived.committed) {
            return None;
        }
        assert!(end <= derived.committed, "what is not committed is told by its groups");
        let mut producers = derived.producers.lasts_below(end, scn);
        producers.sort_unstable_by_key(|(id, _, at)| (std::cmp::Reverse(*at), *id));
        producers.truncate(PRODUCERS_TOLD_MAX);
        let expired = derived.producers.expired.min(scn.saturating_sub(PRODUCER_EXPIRY_NS));
        let mark = derived.marks.standing().filter(|standing| standing.end <= end);
        let floor = mark.map_or(Lsn::ZERO, |_| derived.marks.floor);
        Some(Base { expired, producers, mark, floor })
    }

    /// The payload of its entry.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (start, end) =
            self.mark.map_or_else(Default::default, |known| (known.start, known.end));
        let mark = Mark::encode_or_none(self.mark.map(|known| known.mark));
        let (expired, floor) = (self.expired.into(), self.floor.0.into());
        let (start, end) = (start.0.into(), end.0.into());
        let producers = (self.producers.len() as u64).into();
        put(&mut out, &RawBase { expired, floor, mark, start, end, producers });
        for (id, last, scn) in &self.producers {
            let (id, last, scn) = ((*id).into(), (*last).into(), (*scn).into());
            put(&mut out, &RawProducer { id, last, scn });
        }
        assert!(out.len() <= BASE_BYTES_MAX, "what is told is bounded");
        out
    }

    /// Reads that, of a base that ends at `base_end`. None when it is none.
    pub fn decode(payload: &[u8], base_end: Lsn) -> Option<Base> {
        let mut rest = Reader::new(payload);
        let RawBase { expired, floor, mark, start, end, producers } = rest.head().ok()?;
        let count = usize::try_from(producers.get()).ok().filter(|it| *it <= PRODUCERS_TOLD_MAX)?;
        let expired = expired.get();
        let (floor, start, end) = (Lsn(floor.get()), Lsn(start.get()), Lsn(end.get()));
        let mark = Mark::decode_or_none(mark)?.map(|mark| Marked { mark, start, end });
        let told: &[RawProducer] = rest.list(count).ok()?;
        let producers: Vec<_> =
            told.iter().map(|it| (it.id.get(), it.last.get(), it.scn.get())).collect();
        let named = producers.iter().all(|(id, last, _)| *id != 0 && *last != 0);
        let stands = match mark {
            Some(mark) => floor <= mark.start && mark.start <= mark.end && mark.end <= base_end,
            None => (floor, start, end) == (Lsn::ZERO, Lsn::ZERO, Lsn::ZERO),
        };
        let sound = named && stands && rest.finish().is_ok();
        sound.then_some(Base { expired, producers, mark, floor })
    }
}

impl Marks {
    /// The log goes on behind a base that is committed.
    pub(super) fn rebase(&mut self, base: &Base, end: Lsn) {
        self.logged.retain(|known| known.start >= end);
        (self.standing, self.floor) = (base.mark, base.floor);
        assert!(self.standing.is_none_or(|mark| mark.end <= end), "it stood at the base");
    }

    /// The same of a base from `start` on that was lost, and what follows it was seen: a mark from
    /// there stands, one from before it does not.
    pub(super) fn rebase_late(&mut self, base: &Base, start: Lsn, end: Lsn) {
        self.logged.retain(|known| known.start >= end);
        if self.standing.is_none_or(|mark| mark.end <= start) {
            (self.standing, self.floor) = (base.mark, base.floor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::producers::{Mark as Place, Verdict};
    use super::*;

    const END: Lsn = Lsn(4000);
    const SYNC: Mark = Mark::Sync { cluster: 2, epoch: 4 };

    fn place(producer: u64, sequence: u64, at: u64) -> Place {
        let (lsn, end_lsn) = (Lsn(at), Lsn(at + 80));
        Place { producer, sequence, lsn, end_lsn, scn: at }
    }

    fn logged(told: Base) -> Logged {
        let end = Boundary { lsn: END, chain: 5 };
        Logged { start: Lsn(168), rebased: Rebased { end, scn: 3999 }, told }
    }

    fn marked(at: u64) -> Marked {
        Marked { mark: SYNC, start: Lsn(at), end: Lsn(at + 80) }
    }

    /// A log with records of three producers: 7 before `END` only, 8 on both sides, 9 behind it.
    fn lived(mark_at: u64) -> Derived {
        let mut derived = Derived::default();
        let places =
            [(7, 1, 80), (8, 1, 160), (7, 2, 240), (8, 2, 4080), (9, 1, 4160), (9, 2, 4240)];
        for (producer, sequence, at) in places {
            derived.producers.on_logged(place(producer, sequence, at));
        }
        derived.marks.on_logged(marked(mark_at));
        derived.on_committed(Lsn(5000));
        derived
    }

    #[test]
    fn a_base_tells_what_stood_below_it_and_nothing_more() {
        let base = Base::of(&lived(320), END, 3999).unwrap();
        assert_eq!(base.producers, [(7, 2, 240), (8, 1, 160)]);
        assert_eq!((base.mark, base.floor), (Some(marked(320)), Lsn(320)));
        assert_eq!(Base::of(&lived(4400), END, 3999).unwrap().mark, None, "it may be another one");
    }

    #[test]
    fn a_base_reads_back_and_no_cut_does() {
        for base in [Base::default(), Base::of(&lived(320), END, 3999).unwrap()] {
            let bytes = base.encode();
            assert_eq!(Base::decode(&bytes, END), Some(base.clone()));
            for len in 0..bytes.len() {
                assert_eq!(Base::decode(&bytes[..len], END), None, "{len}");
            }
            assert_eq!(Base::decode(&[&bytes[..], &[0]].concat(), END), None);
            assert_eq!(Base::decode(&bytes, Lsn(8)).is_some(), base.mark.is_none());
        }
    }

    /// What stood before a base is forgotten with it, what comes behind it is not.
    #[test]
    fn who_takes_a_base_knows_what_it_says_from_its_commit_on() {
        let told = Base::of(&lived(320), END, 3999).unwrap();
        let mut derived = Derived::default();
        derived.producers.on_logged(place(5, 1, 8));
        derived.marks.on_logged(Marked { mark: Mark::Async { epoch: 1 }, ..marked(88) });
        derived.on_committed(Lsn(168));
        derived.take_base(logged(told));
        derived.producers.on_logged(place(8, 2, 4080));
        assert_eq!(derived.producers.check(7, 3, None), Verdict::Gap { expected: 1 });
        assert_eq!(derived.on_committed(Lsn(3992)), []);
        assert_eq!(derived.take_based(), None, "it is not committed");
        derived.on_committed(Lsn(4160));
        assert_eq!(derived.take_based(), Some(END));
        assert_eq!(derived.take_based(), None);
        assert_eq!(derived.producers.check(7, 3, None), Verdict::Fresh);
        assert_eq!(derived.producers.check(7, 2, None), Verdict::Forgotten);
        assert_eq!(derived.producers.check(8, 3, None), Verdict::Fresh);
        assert_eq!(derived.producers.check(5, 2, None), Verdict::Gap { expected: 1 });
        assert_eq!(derived.marks.standing(), Some(marked(320)));
        assert_eq!(derived.rebased_end(), END);
    }

    /// A base that comes late, with what follows it known, puts an end to the marks before it; and
    /// what comes late below a base is let go.
    #[test]
    fn nothing_below_a_base_comes_back() {
        let older = Marked { mark: Mark::Async { epoch: 1 }, ..marked(88) };
        let mut derived = Derived::default();
        derived.marks.on_logged(older);
        derived.on_committed(Lsn(168));
        derived.on_lost(Lsn(168), END);
        derived.producers.on_logged(place(9, 1, 4160));
        derived.on_committed(Lsn(4240));
        assert_eq!((derived.marks.standing(), derived.known()), (Some(older), Lsn(168)));
        let mut late = derived.clone();
        late.adopt_base_late(logged(Base::of(&lived(320), END, 3999).unwrap()));
        assert_eq!((late.marks.standing(), late.known()), (Some(marked(320)), Lsn(4240)));
        assert_eq!((late.take_based(), late.rebased_end()), (Some(END), END));
        assert_eq!(late.producers.check(7, 3, None), Verdict::Fresh);
        // A mark that stands above it stays.
        let mut late = derived.clone();
        late.marks.standing = Some(marked(4100));
        late.adopt_base_late(logged(Base::of(&lived(320), END, 3999).unwrap()));
        assert_eq!(late.marks.standing(), Some(marked(4100)));
        // A range below a base that is committed is lost: nobody waits for it.
        derived.on_lost(Lsn(4240), Lsn(5000));
        let mut other = logged(Base::default());
        (other.start, other.rebased.end.lsn) = (Lsn(5000), Lsn(6000));
        derived.take_base(other);
        derived.on_committed(Lsn(6000));
        assert_eq!((derived.known(), derived.is_whole()), (Lsn(6000), true));
        assert_eq!((derived.marks.standing(), derived.rebased_end()), (None, Lsn(6000)));
    }

    #[test]
    fn a_base_that_is_void_changes_nothing() {
        let mut derived = Derived::default();
        derived.producers.on_logged(place(5, 1, 8));
        derived.on_committed(Lsn(88));
        derived.take_base(logged(Base::of(&lived(320), END, 3999).unwrap()));
        derived.on_takeover(palisade_wal::Ballot { round: 2, node: 1, incarnation: 1 }, Lsn(88));
        derived.on_committed(Lsn(88));
        assert_eq!(derived.take_based(), None);
        assert_eq!(derived.producers.check(5, 2, None), Verdict::Fresh);
    }
}
