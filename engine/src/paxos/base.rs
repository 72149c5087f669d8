//! Where a log may begin: no member will ever ask for what is let go.
//!
//! A member that was away fetches from the end of its log, or from where it knows it committed,
//! whichever its leader's log continues. The lowest that it can ask for is the committed position
//! that its disk knows. Members say that position with what they accept; the leader says the
//! lowest of all; and nobody lets go of more. A member that is away holds all others back.

use palisade_wal::{Ballot, Lsn, Place};

use super::effect::Effects;
use super::message::Body;
use super::replica::{Replica, Role, hears};

impl Replica {
    /// Every member of the stream knows durably that everything below this is committed.
    pub fn held(&self) -> Lsn {
        let alone = self.config.members.len() == 1;
        let held = if alone { self.low } else { self.held };
        assert!(self.low <= self.log.committed().lsn, "the disk is ahead of memory");
        held.min(self.log.committed().lsn)
    }

    /// Begins the log as near to `to` as its runs and the other members allow. The new base, when
    /// it moved: the caller logs it in this turn.
    pub fn truncate(&mut self, to: Lsn) -> Option<Lsn> {
        let before = self.log.base().lsn;
        if self.log.is_unknown() || self.halted.is_some() {
            return None;
        }
        self.log.truncate(to.min(self.held()));
        let base = self.log.base().lsn;
        assert!(base >= before && base <= self.log.committed().lsn, "a base moves on");
        self.assert_invariants();
        (base > before).then_some(base)
    }

    /// Committed groups were copied into another block.
    pub fn relocate(&mut self, start: Lsn, end: Lsn, ballot: Ballot, place: Place) -> bool {
        assert!(end <= self.log.committed().lsn, "only what is committed is moved");
        let before = self.log.end();
        let moved = self.log.relocate(start, end, ballot, place);
        assert!(self.log.end() == before, "a copy is nothing new");
        moved
    }

    /// A hint that everything below `upto` is committed is durable here.
    pub(super) fn on_hint_durable(&mut self, upto: Lsn) {
        assert!(upto <= self.log.committed().lsn, "a hint of what is not committed");
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

    fn count_held(&mut self) {
        let (me, low) = (self.me.node, self.low);
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
