//! Pins: what registered standbys still need of one stream, and how much of the log that holds
//! back.
//!
//! A standby says once a second how far its majority has a stream (`transfer/facts.rs`). What comes
//! behind is kept for it, as long as it is not more than a cap; beyond the cap its pin is broken,
//! and what it lacks goes. A standby that was not heard of needs everything. No I/O, no clock.

use std::collections::BTreeMap;

use palisade_wal::Lsn;

use crate::control::limits::CLUSTERS_MAX;

/// What is known of a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it may lack everything.
    Unheard,
    /// It says that it has what is below.
    Rest,
    /// It says that it has nothing: it begins where the log begins.
    Anew,
    /// What comes next of it is gone: it begins anew, where the log begins, when it is told to.
    Lost,
}

impl Need {
    /// By their numbers in an image.
    pub(super) const ALL: [Need; 4] = [Need::Unheard, Need::Rest, Need::Anew, Need::Lost];
}

/// What is kept for one standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// What comes behind is.
    pub from: Lsn,
    /// Why.
    pub need: Need,
}

/// The pins of one stream, by cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    known: BTreeMap<u32, Pin>,
}

impl Pins {
    /// Pins as an image tells them. None when they are too many.
    pub(super) fn restore(known: BTreeMap<u32, Pin>) -> Option<Pins> {
        (known.len() <= CLUSTERS_MAX).then_some(Pins { known })
    }

    /// Each with its cluster.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Pin)> {
        self.known.iter().map(|(cluster, pin)| (*cluster, *pin))
    }

    /// The one of a cluster.
    pub fn get(&self, cluster: u32) -> Option<Pin> {
        self.known.get(&cluster).copied()
    }

    /// A registered standby says that its majority has everything below `has`, of a log that begins
    /// at `base`. The newest word counts: it is from who leads there now.
    pub fn on_said(&mut self, cluster: u32, has: Lsn, base: Lsn) {
        if self.known.len() >= CLUSTERS_MAX && !self.known.contains_key(&cluster) {
            return;
        }
        let pin = if has >= base {
            Pin { from: has, need: Need::Rest }
        } else {
            // It begins at the base that it is offered. What comes behind that stays meanwhile.
            let need = if has == Lsn::ZERO { Need::Anew } else { Need::Lost };
            Pin { from: base, need }
        };
        self.known.insert(cluster, pin);
        assert!(pin.from >= base, "what is gone is kept for nobody");
    }

    /// The log is kept for these standbys, and for no other. Everything for those that were not
    /// heard of.
    pub fn keep_for(&mut self, standbys: impl Iterator<Item = u32> + Clone, base: Lsn) {
        self.known.retain(|cluster, _| standbys.clone().any(|it| it == *cluster));
        for cluster in standbys.take(CLUSTERS_MAX) {
            let unheard = Pin { from: base, need: Need::Unheard };
            self.known.entry(cluster).or_insert(unheard);
        }
        assert!(self.known.len() <= CLUSTERS_MAX, "as many as a registry has");
    }

    /// How far a log that begins at `base` may be let go, of which readers need nothing below `to`.
    /// A pin holds at most `cap` bytes back.
    pub fn free_below(&self, base: Lsn, to: Lsn, cap: u64) -> Lsn {
        let holds = |pin: &&Pin| pin.from >= base && held(**pin, to) <= cap;
        let least = self.known.values().filter(holds).map(|pin| pin.from).min();
        let free = least.map_or(to, |least| least.min(to));
        assert!(free <= to, "readers still need it");
        free
    }

    /// The log begins at `base` now. Who still needed what is gone has a gap.
    pub fn on_base(&mut self, base: Lsn) {
        for pin in self.known.values_mut().filter(|pin| pin.from < base) {
            pin.need = match pin.need {
                Need::Anew => Need::Anew,
                Need::Unheard | Need::Rest | Need::Lost => Need::Lost,
            };
        }
    }

    /// These were told before a restart, of a log that begins at `base` now. Later words may have
    /// let it move, and of who was lost too: everything is kept until they say it again.
    pub fn restarted(mut self, base: Lsn) -> Pins {
        for pin in self.known.values_mut().filter(|pin| pin.from < base) {
            pin.from = base;
            if pin.need == Need::Rest {
                pin.need = Need::Unheard;
            }
        }
        self
    }

    /// Standbys of which something that they lack is gone.
    pub fn lost(&self) -> impl Iterator<Item = u32> {
        self.iter().filter(|(_, pin)| pin.need == Need::Lost).map(|(cluster, _)| cluster)
    }
}

/// Bytes that a pin holds back of what readers let go.
pub fn held(pin: Pin, to: Lsn) -> u64 {
    to.0.saturating_sub(pin.from.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: u64 = 100;

    fn of(standbys: &[(u32, u64)], base: u64) -> Pins {
        let mut pins = Pins::default();
        for (cluster, has) in standbys {
            pins.on_said(*cluster, Lsn(*has), Lsn(base));
        }
        pins
    }

    fn free(pins: &Pins, base: u64, to: u64) -> u64 {
        pins.free_below(Lsn(base), Lsn(to), CAP).0
    }

    #[test]
    fn who_lacks_most_holds_the_log_back_up_to_the_cap() {
        let pins = of(&[(2, 96), (3, 160)], 0);
        assert_eq!(free(&pins, 0, 80), 80, "nobody needs that");
        assert_eq!(free(&pins, 0, 196), 96);
        assert_eq!(free(&pins, 0, 200), 160, "one needs more than is kept for it");
        assert_eq!(free(&pins, 0, 264), 264);
        assert_eq!(pins.free_below(Lsn(0), Lsn(104), 0), Lsn(104), "no pins");
    }

    #[test]
    fn a_broken_pin_holds_nothing_until_its_standby_is_heard_of() {
        let mut pins = of(&[(2, 96), (3, 160)], 0);
        pins.on_base(Lsn(144));
        assert_eq!(pins.lost().collect::<Vec<_>>(), [2]);
        assert_eq!(free(&pins, 144, 176), 160, "the other one holds");
        // It was behind its own word: it has what comes next.
        pins.on_said(2, Lsn(152), Lsn(144));
        assert_eq!((pins.lost().count(), free(&pins, 144, 176)), (0, 152));
    }

    /// Else a log that is let go all the time would have run away from the base that it is given.
    #[test]
    fn who_begins_anew_is_kept_for_from_where_it_begins() {
        let mut pins = of(&[(2, 0), (3, 8)], 64);
        assert_eq!(pins.lost().collect::<Vec<_>>(), [3], "who has nothing lost nothing");
        assert_eq!(free(&pins, 64, 164), 64);
        // Again and again it says so, and what is kept does not move away.
        pins.on_said(2, Lsn(0), Lsn(64));
        pins.on_said(3, Lsn(8), Lsn(64));
        assert_eq!(free(&pins, 64, 164), 64);
        pins.on_base(Lsn(172));
        assert_eq!(free(&pins, 172, 180), 180);
        pins.on_said(3, Lsn(8), Lsn(172));
        assert_eq!((free(&pins, 172, 180), pins.lost().count()), (172, 1));
        pins.on_said(3, Lsn(176), Lsn(172));
        assert_eq!((free(&pins, 172, 180), pins.lost().count()), (176, 0));
    }

    #[test]
    fn who_was_never_heard_of_needs_everything_and_who_is_no_standby_nothing() {
        let mut pins = of(&[(2, 96), (9, 8)], 0);
        pins.keep_for([2, 3].into_iter(), Lsn(0));
        assert_eq!(pins.get(9), None);
        assert_eq!(pins.get(3), Some(Pin { from: Lsn(0), need: Need::Unheard }));
        assert_eq!(free(&pins, 0, 100), 0);
        assert_eq!(free(&pins, 0, 108), 96);
        pins.on_base(Lsn(96));
        assert_eq!(pins.lost().collect::<Vec<_>>(), [3]);
        pins.keep_for([2, 3].into_iter(), Lsn(96));
        assert_eq!(free(&pins, 96, 120), 96, "what it lacks is gone: it holds nothing more");
        pins.keep_for([].into_iter(), Lsn(96));
        assert_eq!(free(&pins, 96, 120), 120);
    }

    #[test]
    fn after_a_restart_old_words_let_nothing_go() {
        let mut pins = of(&[(2, 96), (3, 0), (4, 200)], 0);
        pins.on_said(5, Lsn(8), Lsn(16));
        pins.on_said(3, Lsn(0), Lsn(16));
        let pins = pins.restarted(Lsn(144));
        let pin = |from, need| Some(Pin { from: Lsn(from), need });
        assert_eq!(pins.get(2), pin(144, Need::Unheard), "the log moved by what it said later");
        assert_eq!(pins.get(3), pin(144, Need::Anew));
        assert_eq!(pins.get(4), pin(200, Need::Rest));
        assert_eq!(pins.get(5), pin(144, Need::Lost));
        assert_eq!(free(&pins, 144, 240), 144);
    }

    #[test]
    fn pins_are_bounded() {
        let mut pins = Pins::default();
        for cluster in 0..2 * CLUSTERS_MAX as u32 {
            pins.on_said(cluster + 2, Lsn(8), Lsn(0));
        }
        assert_eq!(pins.iter().count(), CLUSTERS_MAX);
        pins.on_said(2, Lsn(16), Lsn(0));
        assert_eq!(pins.get(2).map(|pin| pin.from), Some(Lsn(16)));
    }
}
