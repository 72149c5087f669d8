//! How good an upstream is for a stream, by what it said of itself. Pure comparison, no memory.

use std::net::SocketAddr;

use palisade_netio::Nanos;

use super::candidates::Candidate;
use super::facts::Standing;
use crate::config::Role;
use crate::seeded::is_seeded;

/// Who chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// The standby cluster.
    pub cluster: u32,
    /// The node.
    pub node: u32,
    /// Where it stands.
    pub region: String,
    /// Upstreams of this region go first; usually its own.
    pub home: String,
    /// This one goes before all others while it can be used.
    pub fixed: Option<SocketAddr>,
    /// So do the nodes of this cluster; 0 for none.
    pub named: u32,
}

/// How good an upstream is; lower is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// One that the configuration or the registry names.
    Fixed,
    /// A follower of the primary in the region.
    Follower,
    /// The primary's leader, in the region.
    Leader,
    /// A standby's leader in the region that receives the stream across a border.
    Standby,
    /// Another standby's leader in the region.
    Near,
    /// The primary's leader, across a border.
    Across,
    /// A follower of the primary, across a border.
    Far,
    /// A standby's leader, across a border.
    FarStandby,
}

impl Rank {
    /// Why it was chosen, in words.
    pub fn reason(self) -> &'static str {
        match self {
            Rank::Fixed => "named by upstream.override or the registry",
            Rank::Follower => "a follower of the primary in the region",
            Rank::Leader => "the primary leader, in the region",
            Rank::Standby => "a standby in the region that receives it across the border",
            Rank::Near => "a standby in the region",
            Rank::Across => "the primary leader, across the border",
            Rank::Far => "a follower of the primary, across the border",
            Rank::FarStandby => "a standby, across the border",
        }
    }

    /// Whether there is nothing to wait for when it is there.
    pub fn is_near(self) -> bool {
        self <= Rank::Near
    }
}

/// Why a candidate is no upstream for a stream now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unfit {
    /// It cannot be asked, or does not answer.
    Silent,
    /// It was never asked about the stream.
    Unasked,
    /// It does not have the stream, or follows in a standby.
    Absent,
    /// It is a standby that receives nothing itself.
    Rootless,
    /// It takes the stream from us.
    Loop,
    /// It knows of an earlier primary than we do.
    Outranked,
    /// It is of our own cluster.
    Own,
    /// It had less than we had when it was asked.
    Behind,
}

impl Unfit {
    /// In words, after its name.
    pub fn reason(self) -> &'static str {
        match self {
            Unfit::Silent => "does not answer",
            Unfit::Unasked => "has not answered yet",
            Unfit::Absent => "does not serve the stream",
            Unfit::Rootless => "receives nothing itself",
            Unfit::Loop => "takes it from here",
            Unfit::Outranked => "has the log of a primary that is none any more",
            Unfit::Own => "is of this cluster",
            Unfit::Behind => "has less than we have",
        }
    }
}

/// Whether a candidate may be the upstream, being behind aside.
pub fn fit(me: &Me, candidate: &Candidate, stream: u64, now: Nanos) -> Result<(), Unfit> {
    if !candidate.answers(now) {
        return Err(Unfit::Silent);
    }
    let (Some((cluster, _)), Some(known)) = (candidate.id, candidate.known(stream)) else {
        return Err(Unfit::Unasked);
    };
    if cluster == me.cluster {
        return Err(Unfit::Own);
    }
    if known.path.contains(me.cluster) && !is_seeded("cascade_loop") {
        return Err(Unfit::Loop);
    }
    if known.outranked && known.standing != Standing::Absent {
        return Err(Unfit::Outranked);
    }
    match (candidate.role, known.standing) {
        (_, Standing::Absent) | (Role::Standby, Standing::Follower) => Err(Unfit::Absent),
        (Role::Standby, Standing::Leader) if known.path.is_empty() => Err(Unfit::Rootless),
        (Role::Standby, Standing::Leader) | (Role::Primary, _) => Ok(()),
    }
}

/// Whether a candidate may be chosen now.
pub fn may_choose(me: &Me, candidate: &Candidate, stream: u64, now: Nanos) -> Result<(), Unfit> {
    fit(me, candidate, stream, now)?;
    match candidate.known(stream) {
        Some(known) if known.enough => Ok(()),
        Some(_) => Err(Unfit::Behind),
        None => Err(Unfit::Unasked),
    }
}

/// How good a candidate is, if it has the stream.
pub fn rank(me: &Me, addr: SocketAddr, candidate: &Candidate, stream: u64) -> Option<Rank> {
    let known = candidate.known(stream).filter(|known| known.standing != Standing::Absent)?;
    let named = candidate.id.is_some_and(|(cluster, _)| me.named != 0 && cluster == me.named);
    if me.fixed == Some(addr) || named {
        return Some(Rank::Fixed);
    }
    let leads = known.standing == Standing::Leader;
    Some(match (candidate.role, candidate.region == me.home) {
        (Role::Primary, true) if leads => Rank::Leader,
        (Role::Primary, true) => Rank::Follower,
        (Role::Standby, true) if known.across => Rank::Standby,
        (Role::Standby, true) => Rank::Near,
        (Role::Primary, false) if leads => Rank::Across,
        (Role::Primary, false) => Rank::Far,
        (Role::Standby, false) => Rank::FarStandby,
    })
}
