//! The replica of one stream on one node: dispatches inputs, decides nothing itself.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn, StreamLog};

use super::effect::Effects;
use super::event::{AcceptHead, AcceptVerdict, GroupMark, NoSlot, PeerState, ProposePosition};
use super::member::{Config, Me, NodeKey};
use super::message::Message;
use super::status::{RoleName, Status};
use super::tuning::Tuning;

/// One replica. See the module for the order of calls.
#[derive(Debug)]
pub struct Replica {
    stream: u64,
    me: Me,
    config: Config,
    log: StreamLog,
    tuning: Tuning,
    jitter: u64,
    lease_until: Nanos,
}

impl Replica {
    /// A replica that was never on this node before. `seed` makes its random delays.
    pub fn new(stream: u64, me: Me, config: Config, tuning: Tuning, seed: u64) -> Replica {
        Replica::recovered(stream, me, config, StreamLog::default(), tuning, seed, Nanos(0))
    }

    /// A replica after a restart: `log` and `config` are what [`replay`](super::replay) made of
    /// the WAL, all of it durable. Nothing is promised to others before `now` + one lease.
    pub fn recovered(
        stream: u64,
        me: Me,
        config: Config,
        log: StreamLog,
        tuning: Tuning,
        seed: u64,
        now: Nanos,
    ) -> Replica {
        let lease_until = now.after(tuning.election_ns);
        Replica { stream, me, config, log, tuning, jitter: seed, lease_until }
    }

    /// Begins: a single member makes itself the leader, others wait for one.
    pub fn start(&mut self, now: Nanos, fx: &mut Effects) {
        let _ = (now, fx);
    }

    /// A message came in. `from` is who the handshake of the link says it is.
    pub fn on_message(&mut self, from: NodeKey, message: &Message, now: Nanos, fx: &mut Effects) {
        let _ = (from, message, now, fx);
    }

    /// The block with the record `id` is durable, and so is everything logged before it.
    pub fn on_durable(&mut self, id: u64, now: Nanos, fx: &mut Effects) {
        let _ = (id, now, fx);
    }

    /// Groups logged under `ballot` (not the staged ones) are durable up to `upto`.
    pub fn on_group_durable(&mut self, ballot: Ballot, upto: Lsn, now: Nanos, fx: &mut Effects) {
        let _ = (ballot, upto, now, fx);
    }

    /// Where this leader's next group stands. Nothing else may be given to the replica between
    /// this and the [`on_proposed`](Replica::on_proposed) of that group.
    ///
    /// # Errors
    /// Why there is no place now.
    pub fn leader_slot(&self) -> Result<ProposePosition, NoSlot> {
        Err(NoSlot::NotLeading(Ballot::NONE))
    }

    /// As [`leader_slot`](Replica::leader_slot), for a group made by another cluster: it must
    /// stand at `lsn` and follow `chain_before`; only its record header carries `ballot`.
    ///
    /// # Errors
    /// Why there is no place now.
    pub fn import_position(&self) -> Result<ProposePosition, NoSlot> {
        self.leader_slot()
    }

    /// This leader's group was logged at its slot, and goes to every peer in this turn.
    pub fn on_proposed(&mut self, mark: GroupMark, now: Nanos) {
        let _ = (mark, now);
    }

    /// A group came from the leader. What to do with it.
    pub fn on_accept(
        &mut self,
        from: NodeKey,
        head: &AcceptHead<'_>,
        now: Nanos,
        fx: &mut Effects,
    ) -> AcceptVerdict {
        let _ = (from, head, now, fx);
        AcceptVerdict::Duplicate
    }

    /// A group came that was fetched from `from`. What to do with it.
    pub fn on_fetched(
        &mut self,
        from: NodeKey,
        head: &AcceptHead<'_>,
        now: Nanos,
        fx: &mut Effects,
    ) -> AcceptVerdict {
        let _ = (from, head, now, fx);
        AcceptVerdict::Duplicate
    }

    /// The group of the last verdict was logged as that verdict said.
    pub fn on_stored(&mut self, mark: GroupMark, now: Nanos, fx: &mut Effects) {
        let _ = (mark, now, fx);
    }

    /// Whether groups read from this log now may be sent under an earlier `Serve` with these
    /// values: asked again after each read from the disk.
    pub fn may_serve(&self, ballot: Ballot, staged: bool) -> bool {
        let _ = (ballot, staged);
        false
    }

    /// The commit cursor that this leader's next frame carries.
    pub fn commit_cursor(&self) -> Option<(Ballot, Lsn)> {
        None
    }

    /// A frame with groups and the commit cursor went to `to` in this turn.
    pub fn on_commit_carried(&mut self, to: u32) {
        let _ = to;
    }

    /// The end of a turn: at most one Accepted, and a Commit for those that no frame carried the
    /// cursor to. Cheap when nothing happened.
    pub fn on_turn_end(&mut self, now: Nanos, fx: &mut Effects) {
        let _ = (now, fx);
    }

    /// A member is heard again, or not any more.
    pub fn on_peer(&mut self, node: u32, state: PeerState, now: Nanos, fx: &mut Effects) {
        let _ = (node, state, now, fx);
    }

    /// This node's disk stalls, or does so no more: it does not lead meanwhile.
    pub fn on_disk_stalled(&mut self, stalled: bool, now: Nanos, fx: &mut Effects) {
        let _ = (stalled, now, fx);
    }

    /// Hands leadership to `successor` once it has the whole log; no slots meanwhile.
    ///
    /// # Errors
    /// This node does not lead, or `successor` cannot.
    pub fn on_transfer(
        &mut self,
        successor: u32,
        now: Nanos,
        fx: &mut Effects,
    ) -> Result<(), NoSlot> {
        let _ = (successor, now, fx);
        Err(NoSlot::NotLeading(Ballot::NONE))
    }

    /// When [`on_time`](Replica::on_time) wants to be called; never for an idle stream.
    pub fn next_deadline(&self) -> Option<Nanos> {
        None
    }

    /// A deadline may have passed.
    pub fn on_time(&mut self, now: Nanos, fx: &mut Effects) {
        let _ = (now, fx);
    }

    /// The log as the WAL remembers it.
    pub fn log(&self) -> &StreamLog {
        &self.log
    }

    /// The newest members known.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The leader that is known, [`Ballot::NONE`] if none.
    pub fn leader(&self) -> Ballot {
        Ballot::NONE
    }

    /// The stream.
    pub fn stream(&self) -> u64 {
        self.stream
    }

    /// For display.
    pub fn status(&self) -> Status {
        let _ = (&self.me, &self.tuning, self.jitter, self.lease_until);
        Status {
            stream: self.stream,
            role: RoleName::Follower,
            leader: Ballot::NONE,
            promised: self.log.promised(),
            accepting: self.log.accepting(),
            config: self.config.clone(),
            up: 0,
            base: self.log.base().lsn,
            committed: self.log.committed().lsn,
            durable: self.log.committed().lsn,
            end: self.log.end().lsn,
            reason: "",
        }
    }
}
