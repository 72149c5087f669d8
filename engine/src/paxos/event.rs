//! Inputs of a replica that are more than a number, and its answers to them.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Boundary, GroupHeader, Lsn, Place};

use super::message::Want;

/// Where a group was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMark {
    /// Its first byte.
    pub start: Lsn,
    /// Its end, and the chain there.
    pub end: Boundary,
    /// Its SCN.
    pub scn: u64,
    /// The block that will hold it.
    pub place: Place,
    /// It stands for bytes that nobody keeps.
    pub base: bool,
}

impl GroupMark {
    /// The mark of the group with this header, logged at `place`.
    pub fn of(header: &GroupHeader, place: Place) -> GroupMark {
        let end = Boundary { lsn: header.end(), chain: header.chain.get() };
        let (start, scn, base) = (header.lsn(), header.scn.get(), header.is_base());
        GroupMark { start, end, scn, place, base }
    }
}

/// Where and how a leader makes its next group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProposePosition {
    /// For the record header, and (but for an import) the group's origin.
    pub ballot: Ballot,
    /// Its first byte.
    pub lsn: Lsn,
    /// The chain before it.
    pub chain_before: u64,
    /// Its SCN must be above this.
    pub scn_floor: u64,
}

/// Why there is no place for a group now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSlot {
    /// This node does not lead; the ballot of the leader that it knows.
    NotLeading(Ballot),
    /// The window above the committed position is full.
    Busy,
    /// Leadership is on its way to another node.
    Transferring,
    /// The stream halted.
    Halted,
}

/// Why leadership does not go to another node now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTransfer {
    /// This node does not lead, or does not serve yet, or the stream halted.
    NotLeading,
    /// It is on its way to a node already.
    Transferring,
    /// That node is the leader.
    Leads,
    /// That node is no member.
    NotMember,
    /// That member is not heard, or its disk does not count.
    NotUp,
    /// That member lacks too much of the log.
    Behind {
        /// So many bytes.
        bytes: u64,
    },
}

/// A group of the leader, or one that was fetched.
#[derive(Clone, Copy, Debug)]
pub struct AcceptHead<'a> {
    /// Ballot of the frame: that of the leader, or the one that the fetch named.
    pub ballot: Ballot,
    /// The group's header. Its checksums are verified.
    pub header: &'a GroupHeader,
    /// The leader's commit cursor under `ballot`; [`Lsn::ZERO`] where there is none.
    pub commit: Lsn,
    /// What it was fetched for; [`Want::Next`] if it was not.
    pub want: Want,
}

/// What to do with a group that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptVerdict {
    /// Log it under the ballot of its head, then call `on_stored`, in the same turn.
    Store,
    /// Log it with [`FLAG_STAGED`](palisade_wal::FLAG_STAGED) under the ballot of its head, then
    /// call `on_stored`, in the same turn.
    StoreStaged,
    /// Log it as a Moved record under the ballot of its head, then call `on_stored`, in the same
    /// turn.
    StoreMoved,
    /// It is there already.
    Duplicate,
    /// Drop it.
    Refuse(RefuseReason),
}

/// Why a group is dropped. What has to follow is in the effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseReason {
    /// A higher ballot is promised.
    OldBallot,
    /// The Takeover of its ballot is not logged here.
    NoTakeover,
    /// The group before it is missing.
    Gap,
    /// It does not follow what is here.
    ChainMismatch,
    /// Nobody asked for it, or not from there.
    Unasked,
    /// The stream halted.
    Halted,
}

/// What the liveness of nodes tells a replica about one of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Both directions work.
    Up,
    /// Silent, deaf or disconnected. Nothing that it leads is promised away before `lease_until`.
    Down {
        /// End of its lease; a node that started again has none.
        lease_until: Nanos,
    },
}

impl PeerState {
    /// Whether it is up.
    pub fn is_up(self) -> bool {
        matches!(self, PeerState::Up)
    }
}
