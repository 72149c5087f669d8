//! Sync marks: from which position on a stream's acks wait for the SYNC standby, and how far that
//! lets a reader look.
//!
//! A mark is a group of its own in the stream that it is about, so that every replica of every
//! cluster knows it from the log alone, and a new leader gates from its first group on:
//!
//! ```text
//! code u8: 1 SYNC, 2 ASYNC, 3 END, 4 FENCE | zero [u8; 3] | cluster u32, 0 with ASYNC | epoch u64
//! ```
//!
//! What stands below a SYNC mark was acked alone; what stands above it is acked when the named
//! cluster has committed it too, until an ASYNC mark is committed. An END is the last that a
//! primary writes into a stream before the named cluster goes on with it, a FENCE the first that a
//! standby writes that takes the role (`control/role.rs`). No I/O, no clock.

use std::collections::VecDeque;

use palisade_netio::Nanos;
use palisade_wal::Lsn;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use crate::paxos::codec::fixed;
use crate::seeded::is_seeded;

const SYNC: u8 = 1;
const ASYNC: u8 = 2;
const END: u8 = 3;
const FENCE: u8 = 4;
/// Bytes of a mark.
pub const MARK_BYTES: usize = size_of::<RawMark>();

fixed! {
    RawMark: 16 { code: u8, reserved: [u8; 3], cluster: U32, epoch: U64 }
}

/// What a stream's acks wait for, from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The local majority, and then that of this cluster.
    Sync {
        /// The SYNC standby.
        cluster: u32,
        /// Epoch of the step of mode or level that wanted it.
        epoch: u64,
    },
    /// The local majority.
    Async {
        /// Epoch of the step of mode or level that wanted it.
        epoch: u64,
    },
    /// The primary's part of the stream ends here: what was not acked before waits for this
    /// cluster, and nothing comes after but the mark that the next role epoch begins with.
    End {
        /// The cluster that the role is handed to.
        cluster: u32,
        /// Epoch of the step of the role that wanted it.
        epoch: u64,
    },
    /// A standby takes the role: nothing of another cluster comes after it.
    Fence {
        /// The cluster that writes it, when all that was acked of the stream stands before: its
        /// acks waited for that cluster up to here. Else 0.
        held_by: u32,
        /// Epoch of the step of the role that wanted it.
        epoch: u64,
    },
}

impl Mark {
    /// The cluster that acks wait for; none with an ASYNC mark.
    pub fn cluster(self) -> Option<u32> {
        match self {
            Mark::Sync { cluster, .. } | Mark::End { cluster, .. } => Some(cluster),
            Mark::Async { .. } | Mark::Fence { .. } => None,
        }
    }

    /// Epoch of the step that wanted it.
    pub fn epoch(self) -> u64 {
        match self {
            Mark::Sync { epoch, .. } | Mark::Async { epoch } => epoch,
            Mark::End { epoch, .. } | Mark::Fence { epoch, .. } => epoch,
        }
    }

    /// Whether a primary's part of the stream ends with it.
    pub fn is_end(self) -> bool {
        matches!(self, Mark::End { .. })
    }

    /// Whether a standby's part of the stream begins with it.
    pub fn is_fence(self) -> bool {
        matches!(self, Mark::Fence { .. })
    }

    /// Whether what was logged under it still waits when `next` is committed. Who goes on after an
    /// END has all that came before it.
    fn gates(self, next: Mark) -> bool {
        let taken_over = self.is_end() && next.cluster() != self.cluster();
        self.cluster().is_some() && !taken_over
    }

    /// The payload of its entry.
    pub fn encode(self) -> [u8; MARK_BYTES] {
        let code = match self {
            Mark::Sync { .. } => SYNC,
            Mark::Async { .. } => ASYNC,
            Mark::End { .. } => END,
            Mark::Fence { .. } => FENCE,
        };
        let cluster = match self {
            Mark::Fence { held_by, .. } => held_by,
            mark => mark.cluster().unwrap_or(0),
        };
        let (cluster, epoch) = (cluster.into(), self.epoch().into());
        zerocopy::transmute!(RawMark { code, reserved: [0; 3], cluster, epoch })
    }

    /// The same, or zeros for none.
    pub fn encode_or_none(mark: Option<Mark>) -> [u8; MARK_BYTES] {
        mark.map_or([0; MARK_BYTES], Mark::encode)
    }

    /// Reads that. None when it is neither.
    pub fn decode_or_none(bytes: &[u8]) -> Option<Option<Mark>> {
        match bytes == [0; MARK_BYTES] {
            true => Some(None),
            false => Mark::decode(bytes).map(Some),
        }
    }

    /// Reads the payload of an entry. None when it is no mark.
    pub fn decode(payload: &[u8]) -> Option<Mark> {
        let RawMark { code, reserved, cluster, epoch } = RawMark::ref_from_bytes(payload).ok()?;
        let (cluster, epoch) = (cluster.get(), epoch.get());
        match (*code, cluster, reserved) {
            (SYNC, 1.., [0, 0, 0]) => Some(Mark::Sync { cluster, epoch }),
            (ASYNC, 0, [0, 0, 0]) => Some(Mark::Async { epoch }),
            (END, 1.., [0, 0, 0]) => Some(Mark::End { cluster, epoch }),
            (FENCE, held_by, [0, 0, 0]) => Some(Mark::Fence { held_by, epoch }),
            _ => None,
        }
    }
}

/// A mark, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The mark.
    pub mark: Mark,
    /// Start of its group.
    pub start: Lsn,
    /// End of its group.
    pub end: Lsn,
}

/// The marks of one stream, as far as they still say something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Above the committed position, in order.
    pub(super) logged: VecDeque<Marked>,
    /// The last one that is committed.
    pub(super) standing: Option<Marked>,
    /// With a standing SYNC mark: what is below was acked without any SYNC standby.
    pub(super) floor: Lsn,
}

impl Marks {
    /// Of a stream that was created with this mark: it stands before the first group.
    pub fn born(mark: Option<Mark>) -> Marks {
        let before = |mark| Marked { mark, start: Lsn::ZERO, end: Lsn::ZERO };
        let mark = mark.filter(|_| !is_seeded("created_without_its_mark"));
        Marks { standing: mark.map(before), ..Marks::default() }
    }

    /// Whether a log that ends at `log_end` may have left these marks.
    pub(super) fn fit(&self, log_end: Lsn) -> bool {
        let ordered = |one: &Marked, next: &Marked| one.end <= next.start;
        let logged = self.logged.iter().is_sorted_by(|one, next| ordered(one, next))
            && self.logged.iter().all(|known| known.start < known.end && known.end <= log_end);
        let standing = match (self.standing, self.logged.front()) {
            (None, _) => self.floor == Lsn::ZERO,
            (Some(standing), first) => {
                self.floor <= standing.start
                    && standing.start <= standing.end
                    && standing.end <= log_end
                    && first.is_none_or(|first| ordered(&standing, first))
            }
        };
        logged && standing
    }

    /// A mark was logged above the committed position, or is found there late.
    pub fn on_logged(&mut self, marked: Marked) {
        let at = self.logged.partition_point(|known| known.end <= marked.start);
        // What is known may come again with what was lost beside it.
        let stood = self.standing.is_some_and(|standing| marked.end <= standing.end);
        if !stood && self.logged.get(at) != Some(&marked) {
            self.logged.insert(at, marked);
        }
        assert!(self.logged.iter().is_sorted_by_key(|known| known.end), "in the order of the log");
    }

    /// What ends above `from` is void.
    pub fn on_voided(&mut self, from: Lsn) {
        while self.logged.back().is_some_and(|known| known.end > from) {
            self.logged.pop_back();
        }
    }

    /// Everything below `upto` is committed, and nothing of it is lost: a mark that comes after one
    /// that stands would be too late for what was released meanwhile.
    pub fn on_committed(&mut self, upto: Lsn) {
        while let Some(next) = self.logged.front().filter(|known| known.end <= upto).copied() {
            self.logged.pop_front();
            let in_order = self.standing.is_none_or(|standing| standing.end <= next.start);
            assert!(in_order, "{next:?} is committed after {:?}", self.standing);
            let gated = self.standing.is_some_and(|standing| standing.mark.gates(next.mark));
            if !gated {
                self.floor = next.start;
            }
            self.standing = Some(next);
        }
    }

    /// Those that are in the log and not committed, in its order.
    pub fn logged(&self) -> impl Iterator<Item = Marked> {
        self.logged.iter().copied()
    }

    /// The last mark of the log, committed or not.
    pub fn last(&self) -> Option<Marked> {
        self.logged.back().copied().or(self.standing)
    }

    /// The last mark that is committed.
    pub fn standing(&self) -> Option<Marked> {
        self.standing
    }

    /// The cluster whose word counts: the one that acks wait for, or will when the first mark is
    /// committed.
    pub fn named(&self) -> Option<u32> {
        let cluster = |marked: Option<Marked>| marked.and_then(|marked| marked.mark.cluster());
        cluster(self.standing).or(cluster(self.last()))
    }

    /// The clusters that acks wait for, or will: whoever leads the stream ships it to them.
    pub fn awaited(&self) -> impl Iterator<Item = u32> {
        let known = self.standing.iter().chain(&self.logged);
        known.filter_map(|marked| marked.mark.cluster())
    }

    /// Whether the ack of a record at `lsn` waits, or waited, for a SYNC standby.
    pub fn is_gated(&self, lsn: Lsn) -> bool {
        let cluster = self.standing.and_then(|standing| standing.mark.cluster());
        cluster.is_some() && lsn >= self.floor
    }

    /// Whether the last mark names nobody, committed or not.
    fn is_let_go(&self) -> bool {
        self.last().is_some_and(|last| last.mark.cluster().is_none())
    }

    /// How far the log may be acked and read when it is committed up to `committed`, and
    /// `held(cluster)` of it by the SYNC standby.
    pub fn released(&self, committed: Lsn, held: impl Fn(u32) -> Lsn) -> Lsn {
        match self.standing.and_then(|standing| standing.mark.cluster()) {
            None => committed,
            Some(_) if self.is_let_go() && is_seeded("acked_before_async_mark") => committed,
            Some(cluster) => held(cluster).max(self.floor).min(committed),
        }
    }
}

/// Clusters whose words about one stream are kept.
pub(super) const WORDS_MAX: usize = 4;

/// How far one stream is held by its SYNC standby, and released to who waits and who reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// What each cluster has committed, by the word of its majority: a fact for good. The newest
    /// word last, at most [`WORDS_MAX`].
    held: Vec<(u32, Lsn)>,
    released: Lsn,
    /// Since when something waits for the SYNC standby, and nothing came from it.
    waits: Option<Nanos>,
}

impl Gate {
    /// A cluster has committed everything below `held`, by its own word. False when nothing is
    /// new, or nobody waits for that cluster.
    pub fn on_held(&mut self, marks: &Marks, by: u32, held: Lsn, now: Nanos) -> bool {
        marks.named() == Some(by) && self.on_told(by, held, now)
    }

    /// The leader says so, whose marks may not have come yet.
    pub fn on_told(&mut self, by: u32, held: Lsn, now: Nanos) -> bool {
        let known = self.held(by);
        if held <= known {
            return false;
        }
        self.held.retain(|(cluster, _)| *cluster != by);
        if self.held.len() == WORDS_MAX {
            self.held.remove(0);
        }
        self.held.push((by, held));
        self.waits = self.waits.map(|_| now);
        true
    }

    /// How far the log may be let go that is committed up to `committed`: what a cluster lacks
    /// that acks wait for is shipped from here.
    pub fn free_below(&self, marks: &Marks, committed: Lsn) -> Lsn {
        if is_seeded("standby_kept_for_nothing") {
            return committed;
        }
        let held = marks.awaited().map(|cluster| self.held(cluster));
        held.min().map_or(committed, |held| held.min(committed))
    }

    /// What each cluster said that it holds, the newest word last.
    pub fn words(&self) -> &[(u32, Lsn)] {
        &self.held
    }

    /// What that cluster holds, as far as it said.
    pub fn held(&self, cluster: u32) -> Lsn {
        let known = self.held.iter().find(|(by, _)| *by == cluster);
        known.map_or(Lsn::ZERO, |(_, held)| *held)
    }

    /// Moves on with the committed position, the marks and what is held. Gives how far the log is
    /// released.
    pub fn release(&mut self, marks: &Marks, committed: Lsn, now: Nanos) -> Lsn {
        let released = marks.released(committed, |cluster| self.held(cluster));
        // What somebody was shown under another mark stays shown.
        assert!(released <= committed, "released above the committed position");
        self.released = self.released.max(released);
        let waits = self.released < committed;
        self.waits = waits.then(|| self.waits.unwrap_or(now));
        self.released
    }

    /// Moves on where nothing is gated: in a standby.
    pub fn pass(&mut self, committed: Lsn) -> Lsn {
        self.released = self.released.max(committed);
        self.waits = None;
        self.released
    }

    /// Who asks starts to wait now.
    pub fn restart(&mut self, now: Nanos) {
        self.waits = self.waits.map(|_| now);
    }

    /// How far the log is released.
    pub fn released(&self) -> Lsn {
        self.released
    }

    /// Since when something waits for the SYNC standby, and nothing came from it.
    pub fn waits(&self) -> Option<Nanos> {
        self.waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Mark = Mark::Sync { cluster: 2, epoch: 1 };
    const THREE: Mark = Mark::Sync { cluster: 3, epoch: 2 };
    const ALONE: Mark = Mark::Async { epoch: 3 };

    fn at(mark: Mark, start: u64) -> Marked {
        Marked { mark, start: Lsn(start), end: Lsn(start + 8) }
    }

    fn released(marks: &Marks, committed: u64, two: u64, three: u64) -> u64 {
        let held = |cluster| Lsn(if cluster == 2 { two } else { three });
        marks.released(Lsn(committed), held).0
    }

    #[test]
    fn marks_read_back_and_nothing_else_does() {
        let end = Mark::End { cluster: 2, epoch: 9 };
        let fences = [0, 2].map(|held_by| Mark::Fence { held_by, epoch: 1 << 32 });
        let last = Mark::Sync { cluster: u32::MAX, epoch: u64::MAX };
        for mark in [TWO, THREE, ALONE, end, last].into_iter().chain(fences) {
            assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        }
        let wrong: [fn(&mut Vec<u8>); 6] = [
            |b| b[0] = 5,
            |b| b[0] = 2,
            |b| b[2] = 1,
            |b| b[4..8].fill(0),
            |b| b.push(0),
            |b| b.truncate(15),
        ];
        for change in wrong {
            let mut bytes = TWO.encode().to_vec();
            change(&mut bytes);
            assert_eq!(Mark::decode(&bytes), None, "{bytes:?}");
        }
    }

    /// A standby shows what its primary released, over what it lost itself; as a primary it goes on
    /// from there.
    #[test]
    fn what_was_shown_as_a_standby_stays_shown() {
        let mut gate = Gate::default();
        assert_eq!(gate.pass(Lsn(96)), Lsn(96));
        let known = Lsn(40);
        assert_eq!(gate.release(&Marks::default(), known, Nanos(1)), Lsn(96));
        assert_eq!(gate.release(&Marks::default(), Lsn(120), Nanos(2)), Lsn(120));
    }

    #[test]
    fn acks_wait_from_a_sync_mark_until_an_async_mark_is_committed() {
        let mut marks = Marks::default();
        assert_eq!(released(&marks, 100, 0, 0), 100);
        marks.on_logged(at(TWO, 104));
        // It is not committed: what is below never waits.
        assert_eq!((marks.last(), marks.standing()), (Some(at(TWO, 104)), None));
        assert_eq!(released(&marks, 104, 0, 0), 104);
        marks.on_committed(Lsn(120));
        assert_eq!(marks.standing(), Some(at(TWO, 104)));
        let table = [(120, 0, 104), (120, 96, 104), (120, 112, 112), (120, 200, 120)];
        for (committed, held, expected) in table {
            assert_eq!(released(&marks, committed, held, 0), expected, "held {held}");
            assert_eq!(released(&marks, committed, 0, held), 104, "another cluster's word");
        }
        marks.on_logged(at(ALONE, 160));
        marks.on_committed(Lsn(160));
        assert_eq!(released(&marks, 160, 112, 0), 112, "logged only");
        marks.on_committed(Lsn(168));
        assert_eq!(released(&marks, 168, 112, 0), 168);
    }

    #[test]
    fn another_sync_standby_has_to_hold_what_was_not_released_before() {
        let mut marks = Marks::default();
        marks.on_logged(at(TWO, 40));
        marks.on_logged(at(THREE, 80));
        marks.on_committed(Lsn(96));
        // What stands between the two marks is not below the floor of the second.
        assert_eq!(released(&marks, 96, 64, 0), 40);
        assert_eq!(released(&marks, 96, 0, 88), 88);
        marks.on_logged(at(ALONE, 96));
        marks.on_logged(at(TWO, 104));
        marks.on_committed(Lsn(112));
        assert_eq!(released(&marks, 112, 0, 0), 104);
    }

    #[test]
    fn a_stream_that_is_born_with_a_mark_is_gated_from_its_first_group() {
        let mut marks = Marks::born(Some(TWO));
        assert_eq!(marks.last().map(|it| it.mark), Some(TWO));
        assert!(marks.is_gated(Lsn::ZERO) && marks.named() == Some(2));
        marks.on_committed(Lsn(64));
        assert_eq!((released(&marks, 64, 0, 64), released(&marks, 64, 24, 0)), (0, 24));
        marks.on_voided(Lsn::ZERO);
        marks.on_logged(at(ALONE, 0));
        marks.on_committed(Lsn(64));
        assert_eq!(released(&marks, 64, 0, 0), 64);
        assert_eq!(Marks::born(None), Marks::default());
    }

    #[test]
    fn what_a_takeover_voids_gates_nothing() {
        let mut marks = Marks::default();
        marks.on_logged(at(TWO, 40));
        marks.on_logged(at(ALONE, 80));
        marks.on_voided(Lsn(80));
        assert_eq!(marks.last(), Some(at(TWO, 40)));
        marks.on_committed(Lsn(200));
        assert_eq!(released(&marks, 200, 48, 0), 48);
    }

    #[test]
    fn nothing_is_let_go_that_a_sync_standby_lacks() {
        let (mut marks, mut gate) = (Marks::default(), Gate::default());
        assert_eq!(gate.free_below(&marks, Lsn(200)), Lsn(200));
        marks.on_logged(at(TWO, 200));
        assert_eq!(gate.free_below(&marks, Lsn(200)), Lsn(0), "it will be shipped to");
        assert!(gate.on_held(&marks, 2, Lsn(160), Nanos(1)));
        assert_eq!(gate.free_below(&marks, Lsn(200)), Lsn(160), "what it lacks from before too");
        assert!(gate.on_held(&marks, 2, Lsn(208), Nanos(1)));
        assert_eq!(gate.free_below(&marks, Lsn(200)), Lsn(200), "what is committed, and no more");
        marks.on_logged(at(THREE, 208));
        assert_eq!(gate.free_below(&marks, Lsn(208)), Lsn(0), "the one of two that has less");
        marks.on_logged(at(ALONE, 216));
        marks.on_committed(Lsn(216));
        assert_eq!(gate.free_below(&marks, Lsn(216)), Lsn(0), "an ASYNC mark that may be void");
        marks.on_committed(Lsn(224));
        assert_eq!(gate.free_below(&marks, Lsn(224)), Lsn(224));
    }

    #[test]
    fn a_gate_never_goes_back_and_knows_since_when_it_waits() {
        let (mut marks, mut gate) = (Marks::default(), Gate::default());
        assert_eq!(gate.release(&marks, Lsn(40), Nanos(1)), Lsn(40));
        assert!(!gate.on_held(&marks, 2, Lsn(40), Nanos(1)), "nobody waits for it");
        marks.on_logged(at(TWO, 40));
        marks.on_committed(Lsn(64));
        assert_eq!(gate.release(&marks, Lsn(64), Nanos(5)), Lsn(40));
        assert_eq!(gate.waits(), Some(Nanos(5)));
        assert!(gate.on_held(&marks, 2, Lsn(56), Nanos(7)));
        assert!(!gate.on_held(&marks, 2, Lsn(48), Nanos(8)), "an older reply");
        assert!(!gate.on_held(&marks, 3, Lsn(64), Nanos(8)), "not who is named");
        assert_eq!(gate.held(3), Lsn(0));
        assert_eq!(gate.release(&marks, Lsn(64), Nanos(8)), Lsn(56));
        assert_eq!(gate.waits(), Some(Nanos(7)));
        marks.on_logged(at(THREE, 64));
        marks.on_committed(Lsn(72));
        assert_eq!(gate.release(&marks, Lsn(72), Nanos(9)), Lsn(56), "shown is shown");
        assert_eq!((gate.held(2), gate.held(3)), (Lsn(56), Lsn(0)));
        assert!(gate.on_held(&marks, 3, Lsn(72), Nanos(10)));
        assert_eq!(gate.release(&marks, Lsn(72), Nanos(10)), Lsn(72));
        assert_eq!(gate.waits(), None);
    }
}
