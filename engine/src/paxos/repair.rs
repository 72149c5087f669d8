//! Repair: ranges of the log that the disk lost are asked of other members, one range and one
//! member at a time. No leader is needed for that: the chain proves what fills a hole.

use palisade_netio::Nanos;
use palisade_wal::{Anchor, GroupHeader, Hole, Kind, Lsn, Place, StreamLog};

use super::effect::{Effect, Effects, StepDownReason};
use super::event::{AcceptHead, AcceptVerdict, RefuseReason};
use super::fetch::is_sound;
use super::member::NodeKey;
use super::message::{Body, FetchRequest, Want};
use super::replica::{Replica, Role, Then};

/// After a round of all members without success the next one comes later, up to this many times
/// doubled.
const BACK_OFF_MAX: u32 = 6;

/// The one range that is being repaired.
#[derive(Debug)]
pub(super) struct Repair {
    /// Where the hole begins.
    at: Lsn,
    /// Who was asked last.
    to: u32,
    /// Groups of this range are on their way, as far as known.
    asked: Option<(Lsn, Lsn)>,
    /// The run logged for it is good as far as it goes; else it is begun again.
    run: bool,
    /// Members that gave nothing, one after the other.
    fruitless: usize,
    /// Rounds of all members in which none gave anything.
    rounds: u32,
    retry_at: Nanos,
}

impl Replica {
    /// A part of the log cannot be read from this disk any more. `anchor` tells the chain at its
    /// end. Where the log ends, what follows what and what was promised is in memory, so that this
    /// member goes on to accept, to vote and to lead while it is repaired.
    pub fn on_lost(
        &mut self,
        start: Lsn,
        end: Lsn,
        anchor: Anchor,
        now: Nanos,
        fx: &mut Effects,
    ) -> bool {
        assert!(self.storing.is_none(), "the group of the last verdict was not logged");
        let opened = self.halted.is_none() && self.log.open_hole(start, end, anchor);
        if !opened {
            return false;
        }
        match self.role {
            // What it chose to fetch, and from where on, was for a whole log.
            Role::Candidate(_) => {
                self.step_down(StepDownReason::Damaged, fx);
                self.schedule_election(now.max(self.lease_until), self.tuning.election_ns);
            }
            Role::PreCandidate(_) => {
                self.role = Role::Follower;
                self.schedule_election(now.max(self.lease_until), self.tuning.election_ns);
            }
            Role::Follower | Role::Leader(_) => {}
        }
        assert!(!self.log.is_whole());
        self.mend_soon(now, fx);
        self.assert_invariants();
        true
    }

    /// What of `durable` counts: a hole above the committed position ends it, until what fills
    /// that is durable.
    pub(super) fn counted(&self, durable: Lsn) -> Lsn {
        let held = self.log.held().lsn;
        let mended = self.mending.map_or(held, |(_, from)| from.max(self.log.committed().lsn));
        assert!(held <= self.log.end().lsn, "holds more than there is");
        assert!(held >= self.log.committed().lsn, "a hole below the committed is counted");
        durable.min(held).min(mended)
    }

    /// When a member is to be asked; never while none is heard.
    pub(super) fn repair_deadline(&self) -> Option<Nanos> {
        let repair = self.repair.as_ref().filter(|_| !self.up.is_empty());
        repair.map(|repair| repair.retry_at)
    }

    /// The log or who is heard has changed: a hole is asked for now, unless it just was.
    pub(super) fn mend_soon(&mut self, now: Nanos, fx: &mut Effects) {
        if let Some(repair) = &mut self.repair
            && (repair.asked.is_none() || repair.rounds > 0)
        {
            (repair.asked, repair.rounds) = (None, 0);
            repair.retry_at = repair.retry_at.min(now);
        }
        self.mend(now, fx);
    }

    /// Asks the next member for the next hole, when it is time.
    pub(super) fn mend(&mut self, now: Nanos, fx: &mut Effects) {
        let first = self.open_holes().next().map(|hole| hole.start);
        let Some(first) = first.filter(|_| self.halted.is_none()) else {
            self.repair = None;
            return;
        };
        let known = |at: Lsn, log: &StreamLog| log.holes().iter().any(|hole| hole.start == at);
        let retry_ns = self.tuning.retry_ns;
        let fresh = || Repair {
            at: first,
            to: 0,
            asked: None,
            run: true,
            fruitless: 0,
            rounds: 0,
            retry_at: now,
        };
        let repair = self.repair.get_or_insert_with(|| Box::new(fresh()));
        if !known(repair.at, &self.log) {
            (repair.at, repair.asked, repair.run) = (first, None, true);
        }
        if repair.retry_at > now || self.up.is_empty() {
            return;
        }
        if repair.asked.take().is_some() {
            repair.fruitless += 1;
        }
        let heard = self.up.len();
        if repair.fruitless >= heard {
            self.next_round(now, fx);
        }
        let hole = self.hole_in_repair();
        let (from, end) = (hole.0, hole.1);
        let repair = self.repair.as_mut().expect("made above");
        assert!(repair.fruitless < heard, "a round goes on after all were asked");
        let mut nodes: Vec<u32> = self.up.iter().map(|key| key.node).collect();
        nodes.sort_unstable();
        let goes_on = repair.fruitless == 0 && nodes.contains(&repair.to);
        if !goes_on {
            let next = nodes.iter().find(|node| **node > repair.to);
            repair.to = *next.unwrap_or(&nodes[0]);
        }
        let upto = end.min(Lsn(from.0.saturating_add(self.tuning.fetch_bytes_max)));
        repair.asked = Some((from, upto));
        repair.retry_at = now.after(retry_ns << repair.rounds.min(BACK_OFF_MAX));
        let (to, ballot) = (repair.to, self.log.accepting());
        assert!(from < upto && to != self.me.node, "asks for nothing");
        self.send(to, Body::Fetch(FetchRequest { ballot, from, upto, want: Want::Lost }), fx);
    }

    /// Nobody gave what the hole lacks: it is said, and the next hole has its turn.
    fn next_round(&mut self, now: Nanos, fx: &mut Effects) {
        let holes: Vec<(Lsn, Lsn)> = self.open_holes().map(|hole| (hole.start, hole.end)).collect();
        let Some(repair) = &mut self.repair else { return };
        let known = holes.iter().position(|(start, _)| *start == repair.at);
        let at = known.expect("a hole is repaired");
        let (from, upto) = holes[at];
        repair.at = holes[(at + 1) % holes.len()].0;
        (repair.fruitless, repair.run) = (0, true);
        repair.rounds = repair.rounds.saturating_add(1);
        assert!(repair.retry_at <= now, "asks too often");
        assert!(!self.up.is_empty(), "a round in which nobody could be asked");
        fx.push(Effect::Unmended { from, upto });
    }

    /// The holes that others can prove groups for.
    fn open_holes(&self) -> impl Iterator<Item = &Hole> {
        let proven = |hole: &&Hole| hole.anchor != Anchor::Unread;
        self.log.holes().iter().filter(proven)
    }

    /// The group after a lost range was read: from now on others can fill it.
    pub fn on_anchor(&mut self, header: &GroupHeader, now: Nanos, fx: &mut Effects) {
        assert!(self.storing.is_none(), "the group of the last verdict was not logged");
        if self.halted.is_none() && self.log.tell_anchor(header) {
            self.mend_soon(now, fx);
        }
        self.assert_invariants();
    }

    /// The next byte that the hole in repair lacks, and where the hole ends.
    fn hole_in_repair(&self) -> (Lsn, Lsn) {
        let repair = self.repair.as_ref().expect("a hole is repaired");
        let hole = self.log.holes().iter().find(|hole| hole.start == repair.at);
        let hole = hole.expect("a hole is repaired");
        let run = self.log.moved_end(hole.start).filter(|_| repair.run);
        let from = run.map_or(hole.start, |end| end.lsn);
        // A run that fills the hole and is another's is begun again.
        let from = if from < hole.end { from } else { hole.start };
        assert!(hole.start <= from && from < hole.end);
        assert!(hole.end <= self.log.end().lsn, "a hole is a part of the log");
        (from, hole.end)
    }

    /// A group came that may have stood in a hole.
    pub(super) fn accept_moved(
        &mut self,
        from: NodeKey,
        head: &AcceptHead<'_>,
        now: Nanos,
    ) -> AcceptVerdict {
        assert!(self.storing.is_none(), "the last verdict is open");
        let room = self.has_record_room();
        let retry_at = now.after(self.tuning.retry_ns);
        let Some(repair) = &mut self.repair else {
            return AcceptVerdict::Refuse(RefuseReason::Unasked);
        };
        let hole = self.log.holes().iter().find(|hole| hole.start == repair.at);
        let asked = repair.asked.is_some() && repair.to == from.node;
        let Some(hole) = hole.filter(|_| asked && room) else {
            return AcceptVerdict::Refuse(RefuseReason::Unasked);
        };
        if !is_sound(head.header, self.stream) {
            return AcceptVerdict::Refuse(RefuseReason::ChainMismatch);
        }
        let (start, end) = (head.header.lsn(), head.header.end());
        let run = self.log.moved_end(hole.start).filter(|b| repair.run && b.lsn < hole.end);
        let at = run.map_or(hole.start, |end| end.lsn);
        if end <= at {
            return AcceptVerdict::Duplicate;
        }
        if start > at {
            return AcceptVerdict::Refuse(RefuseReason::Gap);
        }
        let chain = run.map_or(hole.chain, |end| Some(end.chain));
        let follows = start == at && chain.is_none_or(|chain| head.header.follows(chain));
        let proven = hole.is_proven_by(head.header.chain.get());
        if !follows || end > hole.end || (end == hole.end && !proven) {
            // That member has other bytes than those that stood here, or some before it had.
            (repair.run, repair.asked) = (false, None);
            (repair.fruitless, repair.retry_at) = (repair.fruitless + 1, retry_at);
            return AcceptVerdict::Refuse(RefuseReason::ChainMismatch);
        }
        assert!(self.log.takes_moved(head.header), "it goes on with the run, or begins one");
        assert!(at < end && end <= hole.end, "what fills a hole stays within it");
        repair.run = true;
        self.storing = Some((head.ballot, start, Want::Lost));
        AcceptVerdict::StoreMoved
    }

    pub(super) fn moved(
        &mut self,
        header: &GroupHeader,
        place: Place,
        now: Nanos,
        fx: &mut Effects,
    ) {
        let Some((ballot, start, want)) = self.storing.take() else {
            panic!("a group without a verdict")
        };
        assert!(want == Want::Lost && start == header.lsn(), "another group than the verdict's");
        let repair = self.repair.as_mut().expect("asked for by it");
        let from = repair.at;
        let before = (self.log.end(), self.log.accepting(), self.log.committed());
        let filled = self.log.move_in(header, ballot, place);
        let after = (self.log.end(), self.log.accepting(), self.log.committed());
        assert!(before == after, "what fills a hole changes nothing else");
        repair.fruitless = 0;
        repair.rounds = 0;
        repair.retry_at = now.after(self.tuning.retry_ns);
        if filled {
            self.filled(from, header.end(), now, fx);
        } else if repair.asked.is_some_and(|(_, upto)| header.end() >= upto) {
            (repair.asked, repair.retry_at) = (None, now);
            self.mend(now, fx);
        }
    }

    /// A hole is filled: what waited for that goes on.
    fn filled(&mut self, from: Lsn, upto: Lsn, now: Nanos, fx: &mut Effects) {
        assert!(self.log.hole_at(from).is_none(), "it is still there");
        assert!(from < upto && upto <= self.log.end().lsn, "a hole is a part of the log");
        fx.push(Effect::Mended { from, upto });
        let (committed, accepting) = (self.log.committed().lsn, self.log.accepting());
        if upto > committed {
            // Durable with this record, and not counted before.
            let lowest = self.mending.map_or(from, |(_, known)| known.min(from));
            self.mending = Some((self.next_record, lowest));
            let kind = Kind::CommitHint;
            self.log_record(kind, committed, accepting, Vec::new(), Then::Mended, fx);
        }
        self.repair = None;
        if !matches!(self.role, Role::Leader(_)) {
            let cursor = self.leader_commit;
            self.learn_commit(accepting, cursor, fx);
        }
        self.advance_takeover(now, fx);
        self.mend_soon(now, fx);
        self.campaign_if_idle(now);
    }

    /// A member with a whole log may lead again.
    pub(super) fn campaign_if_idle(&mut self, now: Nanos) {
        let idle = matches!(self.role, Role::Follower) && !self.leader.is_some();
        if self.halted.is_none() && idle && self.election_at.is_none() && !self.disk_stalled {
            self.schedule_election(now.max(self.lease_until), 0);
        }
    }

    pub(super) fn on_mended_durable(&mut self, id: u64, now: Nanos, fx: &mut Effects) {
        self.mending = self.mending.filter(|(record, _)| *record > id);
        assert!(id < self.next_record, "record {id} was never asked for");
        if self.mending.is_some() || self.durable.0 != self.log.accepting() {
            return;
        }
        assert!(self.durable.1 <= self.log.end().lsn, "durable beyond the end");
        self.accepted_due = true;
        self.on_own_progress(now, fx);
    }

    /// The first lost range, and whether every member that is heard was asked for one in vain.
    pub fn lost_range(&self) -> Option<(Lsn, Lsn, bool)> {
        let hole = self.log.holes().first()?;
        assert!(hole.start < hole.end, "a hole is a range");
        let vain = self.repair.as_ref().is_some_and(|repair| repair.rounds > 0);
        Some((hole.start, hole.end, vain))
    }
}
