//! Which cluster is the primary, and how that role is handed over: a *switchover*.
//!
//! Every step is an entry of the catalogue, as those of mode and level are, and counts in the same
//! epochs: at most one thing is on its way at a time.
//!
//! ```text
//! phase       who writes      what is on its way
//! preparing   the primary     the target joins every stream; appends go on
//! ending      nobody          every stream of the primary gets its END, and the target commits it
//! starting    the new one     every stream gets its START; then the catalogue says so; all serve
//! ```
//!
//! END and START are marks (`stream/mark.rs`): an END names the target, as a SYNC mark names the
//! SYNC standby, so that the primary's leaders ship it and hear what the target's majority has. A
//! START is the first mark after an END. Nothing stands between them in any stream, so what the new
//! primary writes goes on where the old one ended.
//!
//! - Until [`Act::HandOver`] is committed by the primary, the primary may turn back
//!   ([`Act::GiveUp`], [`Act::Resume`]): it is one entry after another of one log, of which one
//!   wins. It is committed only when the target has committed the END of every stream.
//! - After it the primary writes nothing, whatever happens: it is the last entry of its catalogue,
//!   and every other stream ends with its END.
//!
//! Without the primary a standby takes the role, a *failover*, by entries of its own catalogue:
//!
//! ```text
//! phase       who writes      what is on its way
//! seizing     nobody here     every stream gets a FENCE: nothing of another cluster comes after it
//! starting    the new one     every stream gets its START; then the catalogue says so; all serve
//! ```
//!
//! It cuts nothing, and so it is for a standby alone that acks wait for: of every stream it has all
//! that was acked, as long as the last mark before the FENCE is the SYNC mark of the level that
//! holds. A FENCE says whether it is. The epochs of a failover are above all of the role epochs
//! before, also those that this cluster never heard of.

use super::mode::{Mode, Phase, Proof};
use crate::seeded::is_seeded;
use crate::status::Protection;
use crate::stream::mark::Mark;

/// Epochs of one failover: a primary takes no more steps before the next.
const EPOCHS: u64 = 1 << 32;
/// Role epochs of a failover: the primary may have taken its role back once, two later, where
/// nobody saw it; who was told to go on without it outranks that too.
pub const SEIZED_EPOCHS: u64 = 3;

/// Who is the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Office {
    /// Generation of the role, from 1.
    pub role_epoch: u64,
    /// The primary; 0 while that is the cluster that was formatted so.
    pub holder: u32,
    /// The cluster that handed the role over; 0 when the holder took it back, or had it first.
    pub before: u32,
    /// The standby that it is to be handed to; 0 when there is none.
    pub target: u32,
    /// Epoch of the marks that the role began with: a stream serves when it has one of that epoch
    /// or a later one.
    pub since: u64,
    /// No record of an earlier role epoch has a higher SCN.
    pub scn: u64,
    /// What the failover that it began with proves; none when it was handed over, or had first.
    pub proof: Option<Proof>,
    /// Epoch of the SYNC mark that every stream stood under when that failover began.
    pub sealed: u64,
}

impl Default for Office {
    fn default() -> Office {
        let (since, scn, proof, sealed) = (0, 0, None, 0);
        Office { role_epoch: 1, holder: 0, before: 0, target: 0, since, scn, proof, sealed }
    }
}

impl Office {
    /// Whether it can stand beside the rest of a mode.
    fn fits(&self, mode: &Mode) -> bool {
        let under_way = matches!(mode.phase, Phase::Preparing | Phase::Ending);
        let other = self.target != self.holder && self.before != self.holder;
        under_way == (self.target != 0)
            && self.role_epoch > 0
            && self.since <= mode.epoch
            && (other || self.holder == 0)
            && (self.holder != 0 || self.before == 0 && self.target == 0 && self.since == 0)
            && (mode.phase != Phase::Seizing || self.proof.is_some())
            && (self.proof.is_some() == (self.sealed != 0) && self.sealed <= mode.epoch)
            && (self.proof.is_none() || self.holder != 0)
    }
}

/// What happens to the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// It is to be handed to this standby, which begins to take every stream.
    Prepare {
        /// The standby.
        target: u32,
    },
    /// The target does not keep up: nothing happened.
    GiveUp,
    /// The primary's streams end.
    End,
    /// The target has the end of every stream, and is the primary from here on.
    HandOver {
        /// No record of the old primary has a higher SCN.
        scn: u64,
    },
    /// The target did not take all in time: the primary stays, two role epochs later.
    Resume {
        /// No record so far has a higher SCN.
        scn: u64,
    },
    /// Every stream has begun anew: the primary serves.
    Serve,
    /// A standby takes the role, without the primary.
    Seize,
    /// Every stream has its FENCE, and nothing that was acked is missing: all begin anew.
    Begin {
        /// No record so far has a higher SCN.
        scn: u64,
    },
}

/// One step of the role, as it stands in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoleStep {
    /// The epoch of mode and level that it was decided on.
    pub epoch: u64,
    /// What happens.
    pub act: Act,
}

impl Phase {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Steady => "steady",
            Phase::Rising => "rising",
            Phase::Falling => "falling",
            Phase::Leaving => "leaving",
            Phase::Preparing => "preparing",
            Phase::Ending => "ending",
            Phase::Starting => "starting",
            Phase::Seizing => "seizing",
        }
    }

    /// Whether the role is on its way.
    pub fn is_role(self) -> bool {
        matches!(self, Phase::Preparing | Phase::Ending | Phase::Starting | Phase::Seizing)
    }
}

impl Mode {
    /// Whether role and mode can stand together.
    pub(super) fn holds_office(&self) -> bool {
        let (ends, seizes) = (self.phase == Phase::Ending, self.phase == Phase::Seizing);
        self.office.fits(self) && ends == self.mark.is_end() && seizes == self.mark.is_fence()
    }

    /// The next step of the role, made by cluster `by`. None when it was decided on another epoch,
    /// does not follow, or is not for that cluster to make.
    pub fn turn(self, by: u32, step: &RoleStep) -> Option<Mode> {
        let office = self.office;
        if step.act == Act::Seize {
            return self.seized(by).filter(|_| step.epoch == self.epoch);
        }
        let holds = office.holder == by || office.holder == 0 && self.phase == Phase::Steady;
        if step.epoch != self.epoch || !holds || by == 0 {
            return None;
        }
        let epoch = self.epoch + 1;
        let (phase, mark, office) = match (self.phase, step.act) {
            (Phase::Steady, Act::Prepare { target }) if target != 0 && target != by => {
                let before = if office.before == by { 0 } else { office.before };
                (Phase::Preparing, self.mark, Office { holder: by, before, target, ..office })
            }
            (Phase::Preparing, Act::GiveUp) => {
                (Phase::Steady, self.mark, Office { target: 0, ..office })
            }
            (Phase::Preparing, Act::End) => {
                (Phase::Ending, Mark::End { cluster: office.target, epoch }, office)
            }
            (Phase::Ending, Act::HandOver { scn }) => {
                let (holder, before) = (office.target, by);
                let role_epoch = office.role_epoch + 1;
                let scn = scn.max(office.scn);
                let begun = Office { role_epoch, holder, before, since: epoch, scn, ..office };
                let begun = Office { target: 0, proof: None, sealed: 0, ..begun };
                (Phase::Starting, self.start_mark(before, epoch), begun)
            }
            (Phase::Ending, Act::Resume { scn }) => {
                let role_epoch = office.role_epoch + 2;
                let scn = scn.max(office.scn);
                let again =
                    Office { role_epoch, target: 0, since: epoch, scn, before: 0, ..office };
                let again = Office { proof: None, sealed: 0, ..again };
                (Phase::Starting, self.start_mark(office.target, epoch), again)
            }
            (Phase::Seizing, Act::Begin { scn }) => {
                let scn = scn.max(office.scn);
                let begun = Office { since: epoch, scn, ..office };
                (Phase::Starting, Mark::Async { epoch }, begun)
            }
            (Phase::Starting, Act::Serve) => (Phase::Steady, self.mark, office),
            _ => return None,
        };
        Some(Mode { phase, mark, epoch, office, ..self })
    }

    /// What a failover to cluster `by` would prove; none where something that was acked may be
    /// missing there, as far as the catalogue tells.
    pub fn seizable(&self, by: u32) -> Option<Proof> {
        let stands = matches!(self.phase, Phase::Steady | Phase::Leaving | Phase::Preparing);
        let named =
            matches!(self.mark, Mark::Sync { cluster, epoch } if cluster == by && epoch > 0);
        let protected = self.is_steady() && self.level == Protection::Protection;
        let proof = if protected { Proof::ProvenUnlessForced } else { Proof::NothingCut };
        (stands && named && Mode::is_sync(self.level)).then_some(proof)
    }

    /// The role is taken by cluster `by`.
    fn seized(&self, by: u32) -> Option<Mode> {
        let proof = self.seizable(by)?;
        let epoch = (self.epoch / EPOCHS + 1).checked_mul(EPOCHS)?;
        let role_epoch = self.office.role_epoch + SEIZED_EPOCHS;
        let sealed = self.mark.epoch();
        let office = Office { role_epoch, holder: by, proof: Some(proof), sealed, ..self.office };
        let office = Office { before: 0, target: 0, ..office };
        let (mode, level) = (Protection::Performance, Protection::Performance);
        let mark = Mark::Fence { held_by: by, epoch };
        Some(Mode { mode, level, phase: Phase::Seizing, mark, epoch, office, ..*self })
    }

    /// The FENCE of a stream whose last mark is `last`.
    pub(super) fn fence(&self, last: Option<Mark>) -> Mark {
        let Office { holder, sealed, .. } = self.office;
        let rises = |epoch| epoch == sealed || is_seeded("marks_of_two_rises");
        let held = match last {
            Some(Mark::Sync { cluster, epoch }) => cluster == holder && rises(epoch),
            _ => is_seeded("lossless_after_resync"),
        };
        Mark::Fence { held_by: if held { holder } else { 0 }, epoch: self.mark.epoch() }
    }

    /// Whether a stream whose last mark is `last` is where the role that begins goes on from: what
    /// this cluster lacks of it may come otherwise.
    pub(super) fn begins_behind(&self, last: Option<Mark>) -> bool {
        match self.office {
            Office { proof: Some(_), .. } => last.is_some_and(Mark::is_fence),
            Office { before, .. } => before == 0 || last.is_some_and(Mark::is_end),
        }
    }

    /// The mark that every stream begins with whose SYNC standby, where it has one, is `other`.
    fn start_mark(&self, other: u32, epoch: u64) -> Mark {
        match Mode::is_sync(self.level) {
            true => Mark::Sync { cluster: other, epoch },
            false => Mark::Async { epoch },
        }
    }

    /// Whether a stream whose last mark is `last` may take records as far as the role is concerned.
    /// A leader asks it of its own log: what it was told may be old.
    pub fn serves(&self, last: Option<Mark>) -> bool {
        let began = last.map_or(0, Mark::epoch) >= self.office.since;
        let closes = |last: Mark| last.is_end() || last.is_fence();
        let ended = last.is_some_and(closes) && !is_seeded("written_after_the_end");
        let begins = matches!(self.phase, Phase::Starting | Phase::Seizing);
        let there = !begins || is_seeded("serves_before_every_start");
        began && there && !ended
    }

    /// What a registered cluster is in `role`, by the committed catalogue: the primary, or not;
    /// none while that is for its format to say.
    pub fn is_primary(&self, cluster: u32) -> Option<bool> {
        (self.office.holder != 0).then_some(self.office.holder == cluster)
    }

    /// Whether `cluster` handed the role over, to one that has not taken it up yet: it is who
    /// others, that one first of all, still take their logs from.
    pub fn is_handing_over(&self, cluster: u32) -> bool {
        self.phase == Phase::Starting && self.office.before == cluster && cluster != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Protection;

    fn step(mode: Mode, by: u32, act: Act) -> Option<Mode> {
        let next = mode.turn(by, &RoleStep { epoch: mode.epoch, act });
        assert!(next.is_none_or(|next| next.stands() && next.epoch == mode.epoch + 1), "{next:?}");
        next
    }

    fn all(mode: Mode, acts: &[(u32, Act)]) -> Mode {
        acts.iter().fold(mode, |mode, (by, act)| {
            step(mode, *by, *act).unwrap_or_else(|| panic!("{act:?} after {mode:?}"))
        })
    }

    const AWAY: [(u32, Act); 4] = [
        (1, Act::Prepare { target: 2 }),
        (1, Act::End),
        (1, Act::HandOver { scn: 70 }),
        (2, Act::Serve),
    ];

    #[test]
    fn the_role_goes_there_and_back() {
        let there = all(Mode::default(), &AWAY);
        let office =
            Office { role_epoch: 2, holder: 2, before: 1, since: 3, scn: 70, ..Office::default() };
        assert_eq!((there.office, there.mark), (office, Mark::Async { epoch: 3 }));
        let back = [
            (2, Act::Prepare { target: 1 }),
            (2, Act::End),
            (2, Act::HandOver { scn: 60 }),
            (1, Act::Serve),
        ];
        let back = all(there, &back);
        assert_eq!((back.office.role_epoch, back.office.holder, back.office.scn), (3, 1, 70));
    }

    #[test]
    fn every_act_is_for_one_cluster_in_one_phase() {
        let acts = [
            Act::Prepare { target: 2 },
            Act::GiveUp,
            Act::End,
            Act::HandOver { scn: 1 },
            Act::Resume { scn: 1 },
            Act::Serve,
            Act::Seize,
            Act::Begin { scn: 1 },
        ];
        for done in 0..=AWAY.len() {
            let mode = all(Mode::default(), &AWAY[..done]);
            for (by, act) in [1, 2, 3].into_iter().flat_map(|by| acts.map(|act| (by, act))) {
                let may = match (done, act) {
                    // The first primary is named by nobody yet.
                    (0, Act::Prepare { target }) => by != target,
                    (1, Act::GiveUp | Act::End) => by == 1,
                    (2, Act::HandOver { .. } | Act::Resume { .. }) => by == 1,
                    (3, Act::Serve) => by == 2,
                    (4, Act::Prepare { target }) => by == 2 && target != 2,
                    _ => false,
                };
                assert_eq!(step(mode, by, act).is_some(), may, "{act:?} by {by} after {done}");
                let old = RoleStep { epoch: mode.epoch + 1, act };
                assert_eq!(mode.turn(by, &old), None, "decided on another epoch");
            }
        }
    }

    /// With two records of one epoch the END of a switchover that was given up could be taken for
    /// that of the next one.
    #[test]
    fn a_primary_that_resumes_is_two_epochs_on() {
        let mode = all(Mode::default(), &AWAY[..2]);
        assert_eq!(mode.mark, Mark::End { cluster: 2, epoch: 2 });
        let again = all(mode, &[(1, Act::Resume { scn: 9 }), (1, Act::Serve)]);
        assert_eq!((again.office.role_epoch, again.office.holder, again.office.since), (3, 1, 3));
        assert!(!again.serves(Some(mode.mark)) && again.serves(Some(again.mark)));
    }

    fn sync(level: Protection) -> Mode {
        let mark = Mark::Sync { cluster: 2, epoch: 3 };
        Mode { mode: level, level, mark, epoch: 5, ..Mode::default() }
    }

    #[test]
    fn a_standby_that_acks_wait_for_takes_the_role() {
        let proofs = [
            (Protection::Protection, Proof::ProvenUnlessForced),
            (Protection::Availability, Proof::NothingCut),
        ];
        for (level, proof) in proofs {
            let before = sync(level);
            assert_eq!(
                (before.seizable(2), before.seizable(3), before.seizable(0)),
                (Some(proof), None, None)
            );
            let seized = all(before, &[]).turn(2, &RoleStep { epoch: 5, act: Act::Seize });
            let seized = seized.expect("it is named");
            assert!(seized.stands() && seized.epoch == EPOCHS, "{seized:?}");
            let Office { role_epoch, holder, before: old, proof: kept, sealed, .. } = seized.office;
            assert_eq!((role_epoch, holder, old, kept, sealed), (4, 2, 0, Some(proof), 3));
            assert_eq!(seized.is_primary(2), Some(true));
            for last in [None, Some(before.mark), Some(seized.mark)] {
                assert!(!seized.serves(last), "{last:?}");
            }
            let after = all(seized, &[(2, Act::Begin { scn: 7 })]);
            assert_eq!((after.office.since, after.office.scn), (EPOCHS + 1, 7));
            let after = all(after, &[(2, Act::Serve)]);
            assert!(after.serves(Some(after.mark)) && !after.serves(Some(seized.mark)));
            assert_eq!((after.mode, after.phase), (Protection::Performance, Phase::Steady));
            // What it proved goes with the role to nobody.
            let away = all(after, &[(2, Act::Prepare { target: 1 }), (2, Act::End)]);
            let handed = all(away, &[(2, Act::HandOver { scn: 9 })]);
            assert_eq!((handed.office.proof, handed.office.sealed), (None, 0));
        }
    }

    #[test]
    fn nobody_else_takes_the_role_and_at_no_other_time() {
        let before = sync(Protection::Availability);
        let step = RoleStep { epoch: before.epoch, act: Act::Seize };
        assert_eq!(before.turn(2, &RoleStep { epoch: 4, ..step }), None, "of another epoch");
        for by in [0, 1, 3] {
            assert_eq!(before.turn(by, &step), None, "by {by}");
        }
        let resync = Protection::Resync;
        let low = Mode { level: resync, mark: Mark::Async { epoch: 5 }, ..before };
        let falling = Mode { level: resync, phase: Phase::Falling, ..before };
        let rising = Mode { level: resync, phase: Phase::Rising, ..before };
        for odd in [low, falling, rising] {
            assert!(odd.stands());
            assert_eq!(odd.turn(2, &step), None, "{odd:?}");
        }
    }

    /// A stream whose mark is another one went on without this cluster.
    #[test]
    fn a_fence_says_whether_all_that_was_acked_stands_before_it() {
        let before = sync(Protection::Availability);
        let seized = before.turn(2, &RoleStep { epoch: 5, act: Act::Seize }).expect("it may");
        let fence = |held_by| Mark::Fence { held_by, epoch: EPOCHS };
        assert_eq!(seized.fence(Some(before.mark)), fence(2));
        let others = [
            None,
            Some(Mark::Async { epoch: 4 }),
            Some(Mark::Sync { cluster: 3, epoch: 3 }),
            Some(Mark::Sync { cluster: 2, epoch: 2 }),
            Some(Mark::Sync { cluster: 2, epoch: 6 }),
            Some(Mark::End { cluster: 2, epoch: 3 }),
        ];
        for last in others {
            assert_eq!(seized.fence(last), fence(0), "{last:?}");
        }
        let starting = all(seized, &[(2, Act::Begin { scn: 0 })]);
        assert!(starting.begins_behind(Some(fence(2))));
        assert!(!starting.begins_behind(Some(before.mark)) && !starting.begins_behind(None));
    }

    #[test]
    fn at_a_sync_level_the_old_primary_is_the_sync_standby() {
        let (mode, level) = (Protection::Availability, Protection::Availability);
        let mark = Mark::Sync { cluster: 2, epoch: 0 };
        let high = Mode { mode, level, mark, ..Mode::default() };
        let there = all(high, &AWAY);
        assert_eq!(there.mark, Mark::Sync { cluster: 1, epoch: 3 });
        let resumed = all(high, &[AWAY[0], AWAY[1], (1, Act::Resume { scn: 0 })]);
        assert_eq!(resumed.mark, Mark::Sync { cluster: 2, epoch: 3 });
    }

    #[test]
    fn a_stream_serves_between_its_start_and_its_end() {
        let before = Mode::default();
        assert!(before.serves(None) && before.serves(Some(Mark::Async { epoch: 0 })));
        let ended = Some(Mark::End { cluster: 2, epoch: 2 });
        let ending = all(before, &AWAY[..2]);
        assert!(!ending.serves(ended) && ending.serves(None), "until it has its END");
        let starting = all(before, &AWAY[..3]);
        assert!(starting.is_handing_over(1) && !starting.is_handing_over(2));
        let started = Some(starting.mark);
        assert!(!starting.serves(started) && !starting.serves(ended) && !starting.serves(None));
        let there = all(before, &AWAY);
        assert!(there.serves(started) && !there.serves(ended) && !there.serves(None));
        assert_eq!((there.is_primary(1), there.is_primary(2)), (Some(false), Some(true)));
        assert_eq!(before.is_primary(1), None);
    }
}
