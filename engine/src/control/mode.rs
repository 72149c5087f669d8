//! The protection mode that was asked for, the level that holds, what streams are to be marked
//! with, who is the primary, and the epoch of all of it.
//!
//! ```text
//! phase     mark    level                      mode
//! steady    ASYNC   performance; resync        any; availability
//! rising    SYNC    performance; resync        availability, protection; availability
//! steady    SYNC    availability, protection   the same
//! leaving   SYNC    protection                 availability, performance
//! falling   SYNC    performance; resync        any; availability
//! ```
//!
//! A SYNC mark ends by falling, whatever came before: a rise that is given up falls too. From every
//! steady state the role may be handed over (`role.rs`): *preparing* and *starting* are then as
//! steady ones, *ending* has an END for a mark, and *seizing*, where a standby takes it, a FENCE.

use super::role::Office;
use crate::status::Protection;
use crate::stream::mark::Mark;

/// Where a level is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nowhere.
    #[default]
    Steady,
    /// Every stream gets its SYNC mark; the level rises when the SYNC standby has committed all.
    Rising,
    /// Nothing more is written under the SYNC mark. When every shard that may lead has said so,
    /// or its lease is over, streams may be marked ASYNC.
    Falling,
    /// MAXIMUM PROTECTION is to be left; it is when the SYNC standby has committed that.
    Leaving,
    /// The role is to be handed over: the target joins every stream.
    Preparing,
    /// The role is being handed over: every stream ends, and the target commits that.
    Ending,
    /// The role was handed over, taken back, or taken: every stream begins anew.
    Starting,
    /// A standby takes the role without the primary: every stream is fenced.
    Seizing,
}

/// Mode and level. Each step of either is an epoch, taken by compare-and-swap: who decides on an
/// older epoch has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// What was asked for; never *resync*.
    pub mode: Protection,
    /// What holds.
    pub level: Protection,
    /// Where the level is on its way.
    pub phase: Phase,
    /// The mark that streams are to have, and new ones begin with.
    pub mark: Mark,
    /// Steps so far.
    pub epoch: u64,
    /// Epoch of the last step that was forced past its proof; 0 when there was none. After it a
    /// failover elsewhere can prove less.
    pub forced: u64,
    /// Who is the primary.
    pub office: Office,
}

impl Default for Mode {
    fn default() -> Mode {
        Mode {
            mode: Protection::Performance,
            level: Protection::Performance,
            phase: Phase::Steady,
            mark: Mark::Async { epoch: 0 },
            epoch: 0,
            forced: 0,
            office: Office::default(),
        }
    }
}

/// One step of mode and level, as it stands in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// The epoch that it was decided on.
    pub epoch: u64,
    /// The mode from then on.
    pub mode: Protection,
    /// The level from then on.
    pub level: Protection,
    /// Where the level is on its way.
    pub phase: Phase,
    /// The cluster of the SYNC mark from then on; 0 with an ASYNC mark.
    pub sync: u32,
    /// It was forced past its proof.
    pub forced: bool,
}

impl Mode {
    /// Whether a mode and a level can stand together.
    pub fn is_pair(mode: Protection, level: Protection) -> bool {
        match mode {
            Protection::Performance => level == Protection::Performance,
            Protection::Availability => level != Protection::Protection,
            Protection::Protection => {
                matches!(level, Protection::Protection | Protection::Performance)
            }
            Protection::Resync => false,
        }
    }

    /// Whether the mode asks for exactly one SYNC standby.
    pub fn wants_sync(mode: Protection) -> bool {
        matches!(mode, Protection::Protection | Protection::Availability)
    }

    /// Whether acks at this level wait for the SYNC standby.
    pub fn is_sync(level: Protection) -> bool {
        Mode::wants_sync(level)
    }

    /// Whether the table at the head of this file has a row for it.
    fn is_state(mode: Protection, level: Protection, phase: Phase, sync: bool) -> bool {
        let low = Mode::is_pair(mode, level) && !Mode::is_sync(level);
        match phase {
            Phase::Ending => sync && (low || mode == level && Mode::is_sync(level)),
            Phase::Steady | Phase::Preparing | Phase::Starting if sync => {
                mode == level && Mode::is_sync(level)
            }
            Phase::Steady | Phase::Preparing | Phase::Starting => low,
            Phase::Seizing => !sync && low,
            Phase::Rising => sync && low && Mode::wants_sync(mode),
            Phase::Falling => sync && low,
            Phase::Leaving => {
                let left = matches!(mode, Protection::Availability | Protection::Performance);
                sync && left && level == Protection::Protection
            }
        }
    }

    /// Whether it stands in the table at the head of this file.
    pub fn stands(self) -> bool {
        let sync = self.mark.cluster().is_some();
        self.holds_office() && Mode::is_state(self.mode, self.level, self.phase, sync)
    }

    /// The level just after `asked` became the mode. It never rises here: it does when the SYNC
    /// standby holds everything.
    pub fn level_after(self, asked: Protection) -> Protection {
        assert!(asked != Protection::Resync, "resync is a level");
        match asked {
            _ if Mode::is_pair(asked, self.level) => self.level,
            // Acks wait for the standby already.
            Protection::Protection | Protection::Availability if Mode::is_sync(self.level) => asked,
            _ => Protection::Performance,
        }
    }

    /// The step that makes `asked` the mode. Force skips the proof that leaving MAXIMUM
    /// PROTECTION needs, and is recorded where it did.
    pub fn asked(self, asked: Protection, force: bool) -> Step {
        let leaves = self.level == Protection::Protection && asked != Protection::Protection;
        if leaves && !force {
            let phase = Phase::Leaving;
            return Step { mode: asked, level: self.level, phase, ..self.same() };
        }
        let level = self.level_after(asked);
        let phase = match self.phase {
            _ if Mode::is_sync(level) => Phase::Steady,
            // What was, or was to become, a SYNC level ends.
            Phase::Rising if Mode::wants_sync(asked) => Phase::Rising,
            _ if self.mark.cluster().is_some() => Phase::Falling,
            phase => phase,
        };
        Step { mode: asked, level, phase, forced: leaves, ..self.same() }
    }

    /// A step that changes nothing but the epoch.
    pub(super) fn same(self) -> Step {
        Step {
            epoch: self.epoch,
            mode: self.mode,
            level: self.level,
            phase: self.phase,
            sync: self.mark.cluster().unwrap_or(0),
            forced: false,
        }
    }

    /// The next step. None when it is in no row of the table, was decided on another epoch, or
    /// has a mark begin other than by rising, or end other than by a fall that was not turned back.
    pub fn step(self, step: &Step) -> Option<Mode> {
        let Step { mode, level, phase, sync, .. } = *step;
        let role = self.phase.is_role() || phase.is_role();
        if step.epoch != self.epoch || role || !Mode::is_state(mode, level, phase, sync != 0) {
            return None;
        }
        let epoch = self.epoch + 1;
        let was = self.mark.cluster().unwrap_or(0);
        let mark = match (was, sync) {
            (was, sync) if was == sync => self.mark,
            (0, cluster) if phase == Phase::Rising => Mark::Sync { cluster, epoch },
            (_, 0) if self.phase == Phase::Falling => Mark::Async { epoch },
            _ => return None,
        };
        let turns_back = self.phase == Phase::Falling && sync != 0 && phase != Phase::Falling;
        let jumps =
            Mode::is_sync(level) && !Mode::is_sync(self.level) && self.phase != Phase::Rising;
        if turns_back || jumps {
            return None;
        }
        let forced = if step.forced { epoch } else { self.forced };
        Some(Mode { mode, level, phase, mark, epoch, forced, office: self.office })
    }

    /// The mark that a stream begins with, whose creation was decided when marks were of epoch
    /// `decided`. None when that is over: then the creation has no effect, and is tried again.
    pub fn birth(self, decided: u64) -> Option<Mark> {
        (decided == self.mark.epoch()).then_some(self.mark)
    }

    /// Whether nothing is on its way.
    pub fn is_steady(self) -> bool {
        self.phase == Phase::Steady
    }

    /// Why the level is not what the mode asks for; empty when it is.
    pub fn reason(self) -> &'static str {
        match (self.phase, self.mode, self.level) {
            (Phase::Rising, ..) => "the SYNC standby takes the marks of all streams",
            (Phase::Falling, ..) => "shards are told that the level fell",
            (Phase::Leaving, ..) => "the SYNC standby is told that MAXIMUM PROTECTION is left",
            (Phase::Preparing, ..) => "the target of a switchover takes every stream",
            (Phase::Ending, ..) => "the target of a switchover takes the end of every stream",
            (Phase::Starting, ..) => "the new primary begins every stream",
            (Phase::Seizing, ..) => "this cluster takes the role: every stream is fenced",
            (_, mode, level) if mode == level => "",
            (_, _, Protection::Resync) => "the SYNC standby catches up",
            _ => "the SYNC path is not up",
        }
    }
}

/// What a standby that is failed over knows of what its old primary may have acked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// Every stream keeps all that it has here, and unless the mode was forced elsewhere nothing
    /// acked is missing.
    ProvenUnlessForced,
    /// Every stream keeps all that it has here; more may have been acked.
    NothingCut,
}

impl Proof {
    /// As it is shown. What a standby cannot know it does not claim.
    pub fn as_str(self) -> &'static str {
        match self {
            Proof::ProvenUnlessForced => "proven-unless-forced",
            Proof::NothingCut => "unknown",
        }
    }
}

/// As people write it.
pub(super) fn long_name(mode: Protection) -> &'static str {
    match mode {
        Protection::Performance => "MAXIMUM PERFORMANCE",
        Protection::Availability => "MAXIMUM AVAILABILITY",
        Protection::Protection => "MAXIMUM PROTECTION",
        Protection::Resync => "RESYNC",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protection::{Availability, Performance, Protection as Protect, Resync};

    const ALL: [Protection; 4] = [Performance, Availability, Protect, Resync];
    const PHASES: [Phase; 4] = [Phase::Steady, Phase::Rising, Phase::Falling, Phase::Leaving];

    fn mode(mode: Protection, level: Protection, phase: Phase, sync: bool) -> Mode {
        let (cluster, epoch) = (2, 3);
        let mark = if sync { Mark::Sync { cluster, epoch } } else { Mark::Async { epoch } };
        Mode { mode, level, phase, mark, epoch: 7, forced: 1, office: Office::default() }
    }

    /// Every state of the table.
    fn states() -> Vec<Mode> {
        let mut states = Vec::new();
        for (asked, level) in ALL.into_iter().flat_map(|a| ALL.map(|level| (a, level))) {
            for (phase, sync) in PHASES.into_iter().flat_map(|p| [(p, false), (p, true)]) {
                if Mode::is_state(asked, level, phase, sync) {
                    states.push(mode(asked, level, phase, sync));
                }
            }
        }
        states
    }

    #[test]
    fn mode_and_level_stand_together_as_in_the_table() {
        let table = [
            (Performance, [true, false, false, false]),
            (Availability, [true, true, false, true]),
            (Protect, [true, false, true, false]),
            (Resync, [false; 4]),
        ];
        for (mode, pairs) in table {
            for (level, pair) in ALL.into_iter().zip(pairs) {
                assert_eq!(Mode::is_pair(mode, level), pair, "{mode:?} {level:?}");
            }
        }
        // Steady with ASYNC 4, rising 3, steady with SYNC 2, leaving 2, falling 4.
        assert_eq!(states().len(), 15);
    }

    #[test]
    fn asking_for_a_mode_never_raises_the_level() {
        let table = [
            ((Performance, Performance), Protect, Performance),
            ((Performance, Performance), Availability, Performance),
            ((Protect, Performance), Availability, Performance),
            ((Protect, Protect), Availability, Availability),
            ((Protect, Protect), Performance, Performance),
            ((Availability, Availability), Protect, Protect),
            ((Availability, Availability), Performance, Performance),
            ((Availability, Resync), Protect, Performance),
            ((Availability, Resync), Performance, Performance),
            ((Availability, Performance), Protect, Performance),
        ];
        for ((mode, level), asked, after) in table {
            let now = Mode { mode, level, ..Mode::default() };
            assert_eq!(now.level_after(asked), after, "{mode:?}/{level:?} -> {asked:?}");
            assert!(Mode::is_pair(asked, now.level_after(asked)));
        }
    }

    /// What becomes of every state when a mode is asked for: (mode, level, phase).
    #[test]
    fn every_mode_can_be_asked_for_in_every_state() {
        use Phase::{Falling, Leaving, Rising, Steady};
        let table = [
            ((Performance, Performance, Steady, false), Availability, (Performance, Steady)),
            ((Performance, Performance, Steady, false), Protect, (Performance, Steady)),
            ((Availability, Performance, Steady, false), Performance, (Performance, Steady)),
            ((Availability, Performance, Steady, false), Protect, (Performance, Steady)),
            ((Availability, Resync, Steady, false), Performance, (Performance, Steady)),
            ((Availability, Resync, Steady, false), Protect, (Performance, Steady)),
            ((Protect, Performance, Steady, false), Performance, (Performance, Steady)),
            ((Protect, Performance, Steady, false), Availability, (Performance, Steady)),
            ((Availability, Performance, Rising, true), Performance, (Performance, Falling)),
            ((Availability, Performance, Rising, true), Protect, (Performance, Rising)),
            ((Availability, Resync, Rising, true), Performance, (Performance, Falling)),
            ((Availability, Resync, Rising, true), Protect, (Performance, Rising)),
            ((Protect, Performance, Rising, true), Performance, (Performance, Falling)),
            ((Protect, Performance, Rising, true), Availability, (Performance, Rising)),
            ((Availability, Availability, Steady, true), Performance, (Performance, Falling)),
            ((Availability, Availability, Steady, true), Protect, (Protect, Steady)),
            ((Protect, Protect, Steady, true), Performance, (Protect, Leaving)),
            ((Protect, Protect, Steady, true), Availability, (Protect, Leaving)),
            ((Performance, Protect, Leaving, true), Availability, (Protect, Leaving)),
            ((Performance, Protect, Leaving, true), Protect, (Protect, Steady)),
            ((Availability, Protect, Leaving, true), Performance, (Protect, Leaving)),
            ((Availability, Protect, Leaving, true), Protect, (Protect, Steady)),
            ((Performance, Performance, Falling, true), Availability, (Performance, Falling)),
            ((Performance, Performance, Falling, true), Protect, (Performance, Falling)),
            ((Availability, Performance, Falling, true), Performance, (Performance, Falling)),
            ((Availability, Performance, Falling, true), Protect, (Performance, Falling)),
            ((Availability, Resync, Falling, true), Performance, (Performance, Falling)),
            ((Availability, Resync, Falling, true), Protect, (Performance, Falling)),
            ((Protect, Performance, Falling, true), Performance, (Performance, Falling)),
            ((Protect, Performance, Falling, true), Availability, (Performance, Falling)),
        ];
        for state in states() {
            for asked in
                [Performance, Availability, Protect].into_iter().filter(|a| *a != state.mode)
            {
                let from = (state.mode, state.level, state.phase, state.mark.cluster().is_some());
                let row = table.iter().find(|(row, to, _)| *row == from && *to == asked);
                let (_, _, (level, phase)) = row.unwrap_or_else(|| panic!("{from:?} {asked:?}"));
                let step = state.asked(asked, false);
                assert_eq!(
                    (step.mode, step.level, step.phase),
                    (asked, *level, *phase),
                    "{from:?}"
                );
                assert!(!step.forced);
                let next = state.step(&step).expect("a step");
                assert_eq!((next.epoch, next.mark, next.forced), (8, state.mark, 1));
                let forced = state.step(&state.asked(asked, true)).expect("a step");
                let needed = state.level == Protect && asked != Protect;
                assert_eq!(forced.forced, if needed { 8 } else { 1 });
                assert_ne!(forced.phase, Leaving);
            }
        }
    }

    #[test]
    fn a_step_of_another_epoch_or_of_no_row_is_none() {
        let start = mode(Performance, Performance, Phase::Steady, false);
        let step = start.asked(Protect, false);
        for epoch in [6, 8] {
            assert_eq!(start.step(&Step { epoch, ..step }), None);
        }
        assert_eq!(start.step(&Step { level: Protect, ..step }), None);
        assert_eq!(start.step(&Step { mode: Resync, ..step }), None);
        assert_eq!(start.step(&Step { phase: Phase::Rising, ..step }), None);
        assert_eq!(start.step(&Step { level: Protect, sync: 2, ..step }), None, "no rise before");
        let rising = Step { phase: Phase::Rising, sync: 2, ..step };
        let rising = start.step(&rising).expect("it begins to rise");
        assert_eq!(rising.mark, Mark::Sync { cluster: 2, epoch: 8 });
        let risen = Step { level: Protect, phase: Phase::Steady, ..rising.same() };
        assert_eq!(rising.step(&risen).expect("it rises").mark, rising.mark);
        for odd in [Step { sync: 3, ..risen }, Step { sync: 0, ..start.same() }] {
            let odd = Step { epoch: rising.epoch, ..odd };
            assert_eq!(rising.step(&odd), None, "{odd:?}");
        }
        let falling = rising.step(&rising.asked(Performance, false)).expect("it falls");
        let back = Step { mode: Protect, phase: Phase::Rising, ..falling.same() };
        assert_eq!(falling.step(&back), None, "what was confirmed is not taken back");
        let fallen = Step { phase: Phase::Steady, sync: 0, ..falling.same() };
        assert_eq!(falling.step(&fallen).expect("it fell").mark, Mark::Async { epoch: 10 });
        assert_eq!((start.reason(), rising.reason().is_empty()), ("", false));
        // A stream begins with the mark that is current where its creation stands.
        assert_eq!((rising.birth(8), falling.birth(8)), (Some(rising.mark), Some(rising.mark)));
        assert_eq!((rising.birth(3), start.birth(3)), (None, Some(start.mark)));
    }
}
