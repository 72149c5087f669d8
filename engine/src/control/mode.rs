//! The protection mode that was asked for, the level that holds, and the epoch of both.

use crate::status::Protection;

/// Mode and level. Each step of either is an epoch, taken by compare-and-swap: who decides on an
/// older epoch has no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// What was asked for; never *resync*.
    pub mode: Protection,
    /// What holds.
    pub level: Protection,
    /// Steps so far.
    pub epoch: u64,
    /// Epoch of the last step that was forced past its proof; 0 when there was none. After it a
    /// failover elsewhere can prove less.
    pub forced: u64,
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

    /// The level just after `asked` became the mode. It never rises here: it does when the SYNC
    /// standby holds everything.
    pub fn level_after(self, asked: Protection) -> Protection {
        assert!(asked != Protection::Resync, "resync is a level");
        let sync = matches!(self.level, Protection::Protection | Protection::Availability);
        match asked {
            _ if Mode::is_pair(asked, self.level) => self.level,
            // Acks wait for the standby already.
            Protection::Protection | Protection::Availability if sync => asked,
            _ => Protection::Performance,
        }
    }

    /// The next step. None when the pair is none, or the step was decided on another epoch.
    pub fn step(
        self,
        epoch: u64,
        mode: Protection,
        level: Protection,
        forced: bool,
    ) -> Option<Mode> {
        if epoch != self.epoch || !Mode::is_pair(mode, level) {
            return None;
        }
        let next = self.epoch + 1;
        let forced = if forced { next } else { self.forced };
        Some(Mode { mode, level, epoch: next, forced })
    }

    /// Why the level is not what the mode asks for; empty when it is.
    pub fn reason(self) -> &'static str {
        match (self.mode, self.level) {
            (mode, level) if mode == level => "",
            (_, Protection::Resync) => "the SYNC standby catches up",
            _ => "the SYNC path is not up",
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

    #[test]
    fn mode_and_level_stand_together_as_in_the_table() {
        let table = [
            (Performance, [true, false, false, false]),
            (Availability, [true, true, false, true]),
            (Protect, [true, false, true, false]),
            (Resync, [false; 4]),
        ];
        for (mode, pairs) in table {
            for (level, pair) in [Performance, Availability, Protect, Resync].into_iter().zip(pairs)
            {
                assert_eq!(Mode::is_pair(mode, level), pair, "{mode:?} {level:?}");
            }
        }
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

    #[test]
    fn a_step_of_another_epoch_or_of_no_pair_is_none() {
        let mode = Mode { epoch: 4, forced: 2, ..Mode::default() };
        assert_eq!(mode.step(3, Protect, Performance, false), None);
        assert_eq!(mode.step(5, Protect, Performance, false), None);
        assert_eq!(mode.step(4, Performance, Protect, false), None);
        let next = mode.step(4, Protect, Performance, false).unwrap();
        assert_eq!((next.mode, next.level, next.epoch, next.forced), (Protect, Performance, 5, 2));
        assert_eq!(mode.step(4, Performance, Performance, true).unwrap().forced, 5);
        assert_eq!((next.reason(), mode.reason()), ("the SYNC path is not up", ""));
    }
}
