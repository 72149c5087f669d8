//! Who should lead: the order of the members, and where each of them stands.

use palisade_wal::{Ballot, Lsn};

use super::member::MEMBERS_MAX;
use super::replica::{Replica, Role};

impl Replica {
    /// Every other member in the order in which they should lead, and whether it comes before
    /// this one. Members of the first one's region come first, then the order of the members.
    pub fn successors(&self) -> impl Iterator<Item = (u32, bool)> + use<> {
        let members = &self.config.members;
        assert!(members.len() <= MEMBERS_MAX, "more members than are encoded");
        let home = members.first().map(|first| first.region.clone());
        let place = |(at, m): (usize, &super::member::Member)| {
            (Some(&m.region) != home.as_ref(), at, m.node)
        };
        let mut order: Vec<(bool, usize, u32)> = members.iter().enumerate().map(place).collect();
        order.sort_unstable();
        assert!(order.first().is_none_or(|(away, ..)| !away), "the first region comes first");
        let me = self.me.node;
        let own = order.iter().position(|(.., node)| *node == me).unwrap_or(0);
        let others = order.into_iter().enumerate().map(move |(at, (.., node))| (node, at < own));
        others.filter(move |(node, _)| *node != me)
    }

    /// Whether an operator chose this leader: then nobody is preferred to it.
    pub fn is_appointed(&self) -> bool {
        self.appointed && matches!(self.role, Role::Leader(_))
    }

    /// Whether leadership is on its way to another node.
    pub fn is_transferring(&self) -> bool {
        match &self.role {
            Role::Leader(led) => {
                assert!(led.serving || led.transfer.is_none(), "hands over before it serves");
                led.transfer.is_some()
            }
            _ => false,
        }
    }

    /// Bytes of this leader's log that a member does not have yet; all of them before it has the
    /// Takeover. None for who does not lead, and for who is no member.
    pub fn lag_of(&self, node: u32) -> Option<u64> {
        let Role::Leader(led) = &self.role else { return None };
        let end = self.log.end().lsn;
        assert!(led.ballot == self.log.accepting(), "compares with the end of another log");
        let held = led.member(node)?.holds();
        assert!(held.is_none_or(|held| held <= end), "holds more than there is");
        Some(held.map_or(u64::MAX, |held| end.since(held)))
    }

    /// The ballot of the leader, this node or another, if it is known to serve.
    pub fn served_by(&self) -> Option<Ballot> {
        if let Role::Leader(_) = &self.role {
            return self.serving();
        }
        // A commit under its ballot says it; where there is nothing to commit, nothing is said.
        let said = self.leader_commit > Lsn::ZERO || self.log.end().lsn == Lsn::ZERO;
        let taken_over = self.leader.is_some() && self.leader == self.log.accepting();
        assert!(!taken_over || self.leader.node != self.me.node, "follows itself");
        (taken_over && said).then_some(self.leader)
    }
}
