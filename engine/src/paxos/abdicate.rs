//! The end of a leadership, and its handing over.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn};

use super::effect::{Effect, Effects, StepDownReason};
use super::elect::BallotOf;
use super::event::{NoSlot, NoTransfer};
use super::member::NodeKey;
use super::message::Body;
use super::progress::Transfer;
use super::replica::{Replica, Role};

impl Replica {
    /// Ends an own leadership or candidacy.
    pub(super) fn step_down(&mut self, reason: StepDownReason, fx: &mut Effects) {
        let role = std::mem::replace(&mut self.role, Role::Follower);
        let ballot = match role {
            Role::Leader(led) => led.ballot,
            Role::Candidate(candidacy) => candidacy.ballot,
            Role::PreCandidate(_) | Role::Follower => return,
        };
        self.appointed = false;
        assert!(ballot.is_of(self.me.key()), "led under another's ballot");
        assert!(self.halted.is_none(), "what halted leads nothing");
        self.pending = self.pending.take().filter(|p| p.ballot != ballot);
        self.fetch = self.fetch.take().filter(|f| f.ballot != ballot);
        if self.leader == ballot {
            self.unfollow(fx);
        }
        assert!(!self.leader.is_some(), "who leads or asks for votes follows nobody");
        assert!(self.pending.is_none() && self.fetch.is_none(), "what it waited for was its own");
        fx.push(Effect::SteppedDown { ballot, reason });
    }

    /// Ends an own leadership and gives its lease back.
    pub(super) fn abdicate(
        &mut self,
        reason: StepDownReason,
        successor: Option<u32>,
        now: Nanos,
        fx: &mut Effects,
    ) {
        let Role::Leader(led) = &self.role else { return };
        let (ballot, transfer) = (led.ballot, led.transfer);
        let appointed = successor.is_some() && transfer.is_some_and(|t| t.appointed);
        assert!(self.leader == ballot, "gives back a lease that it does not hold");
        assert!(successor.is_none() || reason == StepDownReason::Transfer);
        assert!(successor.is_none() || transfer.is_some_and(|t| Some(t.successor) == successor));
        self.send_all(&Body::StepDown { ballot, successor, appointed }, fx);
        self.step_down(reason, fx);
        assert!(!self.leader.is_some() && matches!(self.role, Role::Follower));
        self.reason = "stepped down";
        self.lease_until = now;
        self.schedule_election(now, self.tuning.election_ns);
    }

    pub(super) fn on_step_down(
        &mut self,
        from: NodeKey,
        ballot: Ballot,
        (successor, appointed): (Option<u32>, bool),
        now: Nanos,
        fx: &mut Effects,
    ) {
        // Who has promised it follows nobody until the Takeover comes.
        let is_free = !self.leader.is_some() && matches!(self.role, Role::Follower);
        let promised = is_free && self.log.promised() == ballot;
        if !ballot.is_of(from) || !(self.leader == ballot || promised) {
            return;
        }
        assert!(ballot.node != self.me.node && matches!(self.role, Role::Follower));
        assert!(self.halted.is_none(), "what halted follows nobody");
        self.unfollow(fx);
        self.lease_until = now;
        self.reason = "the leader stepped down";
        match successor {
            Some(node) if node == self.me.node => {
                self.appointed = appointed;
                self.campaign(now, fx);
            }
            Some(_) => self.schedule_election(now, self.tuning.election_ns),
            None => self.schedule_election(now, 0),
        }
    }

    /// This node's disk stalls, or does so no more: it does not lead meanwhile. Who is alone leads
    /// on, since nobody could take over: appends wait for the disk.
    pub fn on_disk_stalled(&mut self, stalled: bool, now: Nanos, fx: &mut Effects) {
        let stalled = stalled && self.config.members.len() > 1;
        self.disk_stalled = stalled;
        if self.halted.is_some() {
            return;
        }
        if !stalled {
            if self.leader == Ballot::NONE && matches!(self.role, Role::Follower) {
                self.schedule_election(now.max(self.lease_until), 0);
            }
            self.assert_invariants();
            return;
        }
        self.abdicate(StepDownReason::DiskStalled, None, now, fx);
        self.step_down(StepDownReason::DiskStalled, fx);
        self.election_at = None;
        self.reason = "the disk stalls";
        assert!(self.serving().is_none(), "leads with a stalled disk");
        assert!(matches!(self.role, Role::Follower), "asks for votes with a stalled disk");
        self.assert_invariants();
    }

    /// What stands at `at` cannot be read from this disk, and there is nobody to ask for it. A
    /// member that is alone goes on: nobody has more.
    pub fn on_damaged(&mut self, at: Lsn) {
        self.damaged = Some(self.damaged.map_or(at, |known| known.min(at)));
        assert!(self.damaged <= Some(at), "the first one is named");
    }

    /// Whether somebody else may have what this disk does not give back.
    pub fn can_repair(&self) -> bool {
        self.halted.is_none() && self.config.members.len() > 1
    }

    /// `[from, upto)` was read from this disk.
    pub fn on_readable(&mut self, from: Lsn, upto: Lsn) {
        self.damaged = self.damaged.filter(|at| !(from..upto).contains(at));
    }

    /// Hands leadership to `successor` once it has the whole log; no slots meanwhile. Given up
    /// after the election timeout. `appointed` says that an operator chose it.
    ///
    /// # Errors
    /// Why that does not begin; nothing has changed.
    pub fn on_transfer(
        &mut self,
        successor: u32,
        appointed: bool,
        now: Nanos,
        fx: &mut Effects,
    ) -> Result<(), NoTransfer> {
        self.check_transfer(successor)?;
        let give_up_at = now.after(self.tuning.election_ns);
        let Role::Leader(led) = &mut self.role else { panic!("checked: this node leads") };
        assert!(led.serving && led.transfer.is_none(), "there was a slot just now");
        assert!(give_up_at > now, "a transfer that is over before it begins");
        led.transfer = Some(Transfer { successor, appointed, give_up_at });
        self.finish_transfer(now, fx);
        self.assert_invariants();
        Ok(())
    }

    /// Whether leadership could go to `successor` now.
    ///
    /// # Errors
    /// Why not.
    pub fn check_transfer(&self, successor: u32) -> Result<(), NoTransfer> {
        match self.propose_position() {
            Ok(_) | Err(NoSlot::Busy) => {}
            Err(NoSlot::Transferring) => return Err(NoTransfer::Transferring),
            Err(NoSlot::NotLeading(_) | NoSlot::Halted) => return Err(NoTransfer::NotLeading),
        }
        assert!(matches!(self.role, Role::Leader(_)), "a slot of who does not lead");
        if successor == self.me.node {
            return Err(NoTransfer::Leads);
        }
        if self.config.member(successor).is_none() {
            return Err(NoTransfer::NotMember);
        }
        // A disk that does not count is elected by nobody.
        let disk = self.up.iter().find(|key| key.node == successor);
        if !disk.is_some_and(|key| self.config.counts(*key)) {
            return Err(NoTransfer::NotUp);
        }
        let lag = self.lag_of(successor);
        assert!(lag.is_some(), "a member of a leader");
        match lag {
            Some(lag) if lag <= self.tuning.fetch_bytes_max => Ok(()),
            lag => Err(NoTransfer::Behind { bytes: lag.unwrap_or(u64::MAX) }),
        }
    }
}
