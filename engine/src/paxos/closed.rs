//! Closed SCNs: what a leader knows will never be given again in its stream.
//!
//! A closed SCN t at a position x says: no group above x has an SCN at or below t, now or under
//! any later leader. It holds when
//! - every group of this leader with such an SCN is committed, below x;
//! - this leader gives none any more: its node is bound to a floor at or above t;
//! - no later leader does: a majority of disks holds a durable floor at or above t, each of them
//!   as a member that had promised nobody above this ballot when it said so. Whatever they promise
//!   later names that floor, and every later candidate hears one of them.

use palisade_wal::{Ballot, Lsn};

use super::member::NodeKey;
use super::replica::{Replica, Role};

/// No group of the stream above `end` has an SCN at or below `scn`, now or ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// The SCN.
    pub scn: u64,
    /// The position: what is below is committed.
    pub end: Lsn,
}

impl Replica {
    /// No SCN at or below `floor` is given by this node any more, in any stream of its shard.
    pub fn set_floor(&mut self, floor: u64) {
        let before = self.floor;
        self.floor = before.max(floor);
        assert!(self.floor >= before && self.floor >= floor, "a floor goes up");
    }

    /// No SCN above it was given or closed here; and as long as this replica leads, none above it
    /// by those that led before.
    pub fn scn_floor(&self) -> u64 {
        let led = match &self.role {
            Role::Leader(led) => led.scn_floor,
            _ => 0,
        };
        let scn = self.log.last_scn().max(led).max(self.floor);
        assert!(scn >= self.floor, "below what this node is bound to");
        assert!(scn >= self.log.last_scn(), "below what was given");
        scn
    }

    /// The newest closed SCN. `own` is the durable floor here, `floor_of` that of another disk
    /// that had promised nobody above the ballot when it said so. None when this replica does
    /// not serve.
    pub fn closed(&self, own: u64, floor_of: impl Fn(NodeKey, Ballot) -> u64) -> Option<Closed> {
        let led = match &self.role {
            Role::Leader(led) if led.serving => led,
            _ => return None,
        };
        assert!(own <= self.floor, "a durable floor that binds nobody");
        assert!(led.ballot == self.log.promised(), "closes what it promised away");
        let me = self.me.key();
        let bound = self.config.members.iter().filter_map(|member| {
            member.incarnation.map(|incarnation| NodeKey { node: member.node, incarnation })
        });
        let floor = |key| if key == me { own } else { floor_of(key, led.ballot) };
        let mut floors: Vec<u64> = bound.map(floor).collect();
        floors.sort_unstable();
        let at = floors.len().checked_sub(self.config.majority())?;
        let open = led.scns.front().map_or(u64::MAX, |scn| scn - 1);
        let scn = floors[at].min(self.floor).min(open);
        assert!(floors[at..].len() == self.config.majority(), "less than a majority vouches");
        Some(Closed { scn, end: self.log.committed().lsn })
    }
}
