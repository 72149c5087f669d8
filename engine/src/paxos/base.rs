//! Where a log may begin: no member will ever ask for what is let go.
//!
//! A member that was away fetches from the end of its log, or from where it knows it committed,
//! whichever its leader's log continues. The lowest that it can ask for is the committed position
//! that its disk knows. Members say that position with what they accept; the leader says the
//! lowest of all; and nobody lets go of more. A member that is away holds all others back, and so
//! does one that knows of a lost range. What a disk loses later it may ask for in vain.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, GroupHeader, Lsn, Place};

use super::effect::{Effect, Effects};
use super::message::Body;
use super::replica::{Replica, Role, hears};

impl Replica {
    /// Every member of the stream knows durably that everything below this is committed.
    pub fn held(&self) -> Lsn {
        let alone = self.config.members.len() == 1;
        // Nobody else gives what is lost here: it may be let go.
        let held = if alone { self.low } else { self.held };
        assert!(self.low <= self.log.committed().lsn, "the disk is ahead of memory");
        held.min(self.log.committed().lsn)
    }

    /// Whether [`truncate`](Replica::truncate) would move the base.
    pub fn can_truncate(&self, to: Lsn) -> bool {
        let to = self.log.base_within(to.min(self.held()));
        let run = self.log.extents().next().is_some_and(|run| run.end <= to);
        let first = self.log.holes().first();
        assert!(to <= self.log.committed().lsn, "only what is committed is let go");
        let ready = !self.log.is_unknown() && self.halted.is_none() && self.storing.is_none();
        ready && (run || first.is_some_and(|hole| hole.end <= to))
    }

    /// Begins the log as near to `to` as its runs and the other members allow. The new base, when
    /// it moved: the caller logs it in this turn.
    pub fn truncate(&mut self, to: Lsn, now: Nanos, fx: &mut Effects) -> Option<Lsn> {
        let before = self.log.base().lsn;
        if !self.can_truncate(to) {
            return None;
        }
        let holes: Vec<(Lsn, Lsn)> = self.log.holes().iter().map(|h| (h.start, h.end)).collect();
        self.log.truncate(self.log.base_within(to.min(self.held())));
        self.log.learn_base();
        let base = self.log.base().lsn;
        assert!(base >= before && base <= self.log.committed().lsn, "a base moves on");
        let gone = holes.into_iter().filter(|(_, upto)| *upto <= base).collect::<Vec<_>>();
        assert!(gone.is_empty() || base > before, "a hole went, and the base did not move");
        for (from, upto) in &gone {
            // Nobody needs it any more.
            fx.push(Effect::Mended { from: *from, upto: *upto });
        }
        if !gone.is_empty() {
            self.repair = None;
            self.mend_soon(now, fx);
            self.campaign_if_idle(now);
        }
        self.assert_invariants();
        (base > before).then_some(base)
    }

    /// A group was copied into another block.
    pub fn relocate(&mut self, header: &GroupHeader, ballot: Ballot, place: Place) -> bool {
        assert!(header.end() <= self.log.committed().lsn, "only what is committed is moved");
        let before = self.log.end();
        let moved = self.log.relocate(header, ballot, place);
        assert!(self.log.end() == before, "a copy is nothing new");
        assert!(!moved || self.log.base().lsn <= header.lsn(), "a copy of what was let go");
        moved
    }

    /// A hint that everything below `upto` is committed is durable here.
    pub(super) fn on_hint_durable(&mut self, upto: Lsn) {
        assert!(upto <= self.log.committed().lsn, "a hint of what is not committed");
        assert!(upto <= self.hinted, "a hint is durable that was not logged");
        self.low = self.low.max(upto);
        self.accepted_due = true;
        self.count_held();
    }

    /// A member said what its disk knows.
    pub(super) fn note_low(&mut self, node: u32, incarnation: u64, low: Lsn) {
        let committed = self.log.committed().lsn;
        let Role::Leader(led) = &mut self.role else { return };
        assert!(node != self.me.node, "what is its own it knows");
        led.note_low(node, incarnation, low.min(committed));
        self.count_held();
    }

    /// Nothing below is ever asked for, as far as is known.
    pub(super) fn asks_from(&self) -> Lsn {
        let lost = self.log.holes().first().map(|hole| hole.start);
        assert!(lost.is_none_or(|lost| lost >= self.log.base().lsn), "a hole below the base");
        lost.map_or(self.low, |lost| lost.min(self.low))
    }

    fn count_held(&mut self) {
        let (me, low) = (self.me.node, self.asks_from());
        let Role::Leader(led) = &self.role else { return };
        let held = led.lowest(me, low);
        assert!(held <= low, "the lowest is not above its own");
        self.held = self.held.max(held);
    }

    /// A leader said what all members hold.
    pub(super) fn learn_held(&mut self, held: Lsn) {
        assert!(!matches!(self.role, Role::Leader(_)), "a leader counts for itself");
        self.held = self.held.max(held);
    }

    /// Says what all hold to those that heard less. As seldom as hints are logged.
    pub(super) fn tell_held(&mut self, fx: &mut Effects) {
        let (held, end, me) = (self.held, self.log.end().lsn, self.me.node);
        let upto = self.log.committed().lsn;
        let Role::Leader(led) = &mut self.role else { return };
        if !led.serving || held <= led.held_told {
            return;
        }
        assert!(led.held_told < held && held <= upto, "holds what is not committed");
        led.held_told = held;
        let ballot = led.ballot;
        let known = |m: &&super::progress::Progress| m.node != me && m.holds().is_some();
        let nodes: Vec<u32> = led.members.iter().filter(known).map(|m| m.node).collect();
        for node in nodes.into_iter().filter(|node| hears(&self.up, *node)) {
            self.send(node, Body::Commit { ballot, upto, end, held }, fx);
        }
    }
}
