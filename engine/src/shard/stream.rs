//! One stream on a shard: its replica, and the appends that wait around it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use palisade_netio::{Nanos, SlotId};
use palisade_wal::{Ballot, GroupKind, Lsn};

use crate::append::{Appended, Promise};
use crate::config::Role;
use crate::paxos::{Claims, HaltReason, Replica};
use crate::stream::derived::Derived;
use crate::stream::mark::Gate;
use crate::stream::pin::Pins;
use crate::stream::producers::Verdict;

/// Who waits for the outcome of a record.
pub(crate) enum Reply {
    /// An embedder.
    Promise(Promise),
    /// Record `index` of a client's request.
    Session { conn: u32, request: u64, index: u32 },
    /// The creation of streams, by this ticket.
    Create(u64),
    /// A change of the registry, by this ticket.
    Control(u64),
    /// A step of the level.
    Level,
    /// A mark: who wanted it looks at the log.
    Nobody,
}

impl Reply {
    /// Whether it waits for the local majority alone, whatever the stream's last mark says.
    fn is_local(&self) -> bool {
        matches!(self, Reply::Control(_) | Reply::Level | Reply::Nobody)
    }
}

/// A record that was taken and is in no group yet.
pub(crate) struct Pending {
    pub(crate) payload: Bytes,
    pub(crate) producer: u64,
    pub(crate) sequence: u64,
    pub(crate) scn_floor: u64,
    pub(crate) kind: GroupKind,
    pub(crate) reply: Reply,
}

/// A record in a group that is not committed yet.
pub(crate) struct Waiting {
    pub(crate) appended: Appended,
    pub(crate) reply: Reply,
}

/// Where the bytes of a logged group still are in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TailRun {
    pub(crate) start: Lsn,
    pub(crate) end: Lsn,
    pub(crate) slot: SlotId,
    /// The record, header included, in the slot.
    pub(crate) at: u32,
    pub(crate) len: u32,
}

/// One stream.
pub(crate) struct StreamState {
    pub(crate) replica: Replica,
    pub(crate) role: Role,
    /// The epoch up to which the role is known, once it is.
    pub(crate) told: Option<u64>,
    pub(crate) derived: Derived,
    /// How far what is committed is acked, and shown at a primary.
    pub(crate) gate: Gate,
    /// What is kept of it for standbys.
    pub(crate) pins: Pins,
    /// At a standby: what is closed, and counts here.
    pub(crate) claims: Claims,
    /// At a standby: readers of this node see what is below.
    pub(super) shown: Lsn,
    /// What of both the forwarding shard and readers in this process were told.
    pub(super) published: (Lsn, Option<Lsn>),
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) pending_bytes: usize,
    /// Highest sequence of each producer in `pending`.
    queued: BTreeMap<u64, u64>,
    /// In LSN order.
    pub(crate) waiting: VecDeque<Waiting>,
    /// What a takeover voided, until its fate is known.
    pub(crate) voided: Vec<Waiting>,
    /// Logged and not committed, for the forwarding shard.
    pub(crate) runs: VecDeque<TailRun>,
    pub(crate) leading: bool,
    /// Readers of this node are served from here on.
    pub(crate) floor: Lsn,
    pub(crate) halted: Option<HaltReason>,
    pub(crate) timer: Option<Nanos>,
    /// The promise that the shard's floors know of.
    pub(crate) promised: Ballot,
    pub(crate) touched: bool,
    /// It has records, and the replica takes none now.
    pub(crate) blocked: bool,
    /// Last committed position that was logged as a hint with a group.
    pub(crate) hinted: Lsn,
    /// Since when the replica is in its present role.
    pub(crate) since_wall_ns: u64,
    /// Since when this node leads it, if it does.
    pub(crate) led_since: Nanos,
}

impl StreamState {
    pub(crate) fn new(replica: Replica, role: Role, derived: Derived, wall_ns: u64) -> StreamState {
        let (last_scn, end) = (replica.log().last_scn(), replica.log().end().lsn);
        let mut state = StreamState {
            hinted: replica.log().committed().lsn,
            replica,
            role,
            told: None,
            derived,
            gate: Gate::default(),
            pins: Pins::default(),
            claims: Claims::default(),
            shown: Lsn::ZERO,
            published: (Lsn::ZERO, None),
            pending: VecDeque::new(),
            pending_bytes: 0,
            queued: BTreeMap::new(),
            waiting: VecDeque::new(),
            voided: Vec::new(),
            runs: VecDeque::new(),
            leading: false,
            floor: Lsn::ZERO,
            halted: None,
            timer: None,
            promised: Ballot::NONE,
            touched: false,
            blocked: false,
            since_wall_ns: wall_ns,
            led_since: Nanos(0),
        };
        if last_scn > 0 {
            state.derived.scns.on_logged(last_scn, end);
        }
        state.release(Nanos(0), 0);
        state
    }

    /// Whether a checkpoint can tell what this stream is: nothing of it is missing or in doubt.
    pub(crate) fn can_be_told(&self) -> bool {
        let known = self.derived.is_whole() && !self.derived.is_staging();
        self.halted.is_none() && self.replica.log().can_be_told() && known
    }

    /// Below that nothing of it is sent as it stands to anybody.
    pub(crate) fn kept_from(&self) -> Lsn {
        self.replica.log().base().lsn.max(self.derived.rebased_end())
    }

    /// Judges a record by its producer. None when its original is queued and stands nowhere yet.
    pub(crate) fn judge(&self, producer: u64, sequence: u64) -> Option<Verdict> {
        if producer == 0 {
            return Some(Verdict::Fresh);
        }
        let queued = self.queued.get(&producer).copied();
        match self.derived.producers.check(producer, sequence, queued) {
            Verdict::Forgotten if queued.is_some_and(|last| sequence <= last) => None,
            verdict => Some(verdict),
        }
    }

    pub(crate) fn push(&mut self, record: Pending) {
        if record.producer != 0 {
            self.queued.insert(record.producer, record.sequence);
        }
        self.pending_bytes += record.payload.len();
        self.pending.push_back(record);
    }

    /// Puts a mark before everything that waits.
    pub(crate) fn push_first(&mut self, mark: Pending) {
        assert!(mark.producer == 0 && mark.kind == GroupKind::Mark, "records keep their order");
        self.pending_bytes += mark.payload.len();
        self.pending.push_front(mark);
    }

    /// Puts the first record of this kind before everything that waits. False when there is none.
    pub(crate) fn bring_forward(&mut self, kind: GroupKind) -> bool {
        assert!(kind != GroupKind::Data, "a producer's records keep their order");
        let Some(at) = self.pending.iter().position(|it| it.kind == kind) else { return false };
        let record = self.pending.remove(at).expect("it was found there");
        self.pending.push_front(record);
        true
    }

    /// The next record.
    pub(crate) fn pop(&mut self) -> Option<Pending> {
        let record = self.pending.pop_front()?;
        self.pending_bytes -= record.payload.len();
        if self.queued.get(&record.producer) == Some(&record.sequence) {
            self.queued.remove(&record.producer);
        }
        Some(record)
    }

    /// Takes what is released below `upto` out of the waiting list.
    pub(crate) fn settle(&mut self, upto: Lsn) -> Vec<Waiting> {
        let count = self.waiting.partition_point(|w| w.appended.end_lsn <= upto);
        self.waiting.drain(..count).collect()
    }

    /// Takes what waits for nothing but the local commit of everything below `upto`.
    pub(crate) fn settle_local(&mut self, upto: Lsn) -> Vec<Waiting> {
        let count = self.waiting.partition_point(|w| w.appended.end_lsn <= upto);
        if !self.waiting.range(..count).any(|waiting| waiting.reply.is_local()) {
            return Vec::new();
        }
        let taken: Vec<Waiting> = self.waiting.drain(..count).collect();
        let (local, others): (Vec<Waiting>, Vec<Waiting>) =
            taken.into_iter().partition(|waiting| waiting.reply.is_local());
        others.into_iter().rev().for_each(|waiting| self.waiting.push_front(waiting));
        local
    }

    /// Moves what stands above `from` to the voided list.
    pub(crate) fn void(&mut self, from: Lsn) {
        let keep = self.waiting.partition_point(|w| w.appended.end_lsn <= from);
        self.voided.extend(self.waiting.drain(keep..));
    }

    /// Puts a duplicate among those that wait for its original.
    pub(crate) fn wait_for(&mut self, waiting: Waiting) {
        let at = self.waiting.partition_point(|w| w.appended.end_lsn <= waiting.appended.end_lsn);
        self.waiting.insert(at, waiting);
    }
}
