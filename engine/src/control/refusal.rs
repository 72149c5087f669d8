//! Why a request is refused: one rule each, with a name for programs and a sentence for people.

use std::fmt;

use super::limits::{CLUSTERS_MAX, ENDPOINTS_MAX, NAME_BYTES_MAX};
use super::mode::long_name;
use crate::paxos::REGION_BYTES_MAX;
use crate::status::Protection;

/// The rule that forbids a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Neither SYNC nor ASYNC was chosen for a new standby.
    TransferNotChosen,
    /// A second SYNC standby where there may be one.
    TwoSyncStandbys {
        /// The mode that forbids it.
        mode: Protection,
        /// Those that are, or would be, SYNC.
        standbys: Vec<u32>,
    },
    /// The mode asks for a SYNC standby, and none is.
    NoSyncStandby {
        /// The mode.
        mode: Protection,
    },
    /// The SYNC standby may not go away or become ASYNC.
    SyncStandbyNeeded {
        /// The mode that forbids it.
        mode: Protection,
        /// The standby.
        cluster: u32,
    },
    /// A SYNC standby takes its log from the primary's leaders, not from another standby.
    SyncCascade {
        /// The standby.
        cluster: u32,
        /// From which it was to take its log.
        upstream: u32,
    },
    /// A SYNC standby that is held back would hold back every ack.
    SyncSuspended {
        /// The standby.
        cluster: u32,
        /// The mode that forbids it.
        mode: Protection,
    },
    /// Leaving MAXIMUM PROTECTION without a proof needs force.
    ForceNeeded,
    /// MAXIMUM PROTECTION with a SYNC standby that does not keep up would stop every ack.
    StandbyBehind {
        /// The standby.
        cluster: u32,
    },
    /// The level is on its way down from this SYNC standby.
    LevelMoving {
        /// The standby.
        cluster: u32,
    },
    /// The role of the primary is on its way.
    RoleMoving,
    /// A switchover makes a standby of the primary, and how that is to be served was not said, or
    /// was said when its nodes were others.
    PrimaryNotSet,
    /// A switchover here needs a primary that is set to SYNC.
    PrimaryNotSync {
        /// The mode that forbids it.
        mode: Protection,
    },
    /// A switchover here needs a target that is set to SYNC.
    TargetNotSync {
        /// The mode that forbids it.
        mode: Protection,
        /// The target.
        cluster: u32,
    },
    /// A switchover needs a target that is not held back.
    TargetSuspended {
        /// The target.
        cluster: u32,
    },
    /// The id is taken.
    AlreadyThere {
        /// By this standby.
        cluster: u32,
    },
    /// A cluster is no standby of its own.
    OwnCluster {
        /// The cluster.
        cluster: u32,
    },
    /// Ids count from 1.
    NoId,
    /// There is no such standby.
    UnknownCluster {
        /// This one.
        cluster: u32,
        /// Those that are there.
        known: Vec<u32>,
    },
    /// Another standby is set to take its log from it.
    UpstreamOf {
        /// The one that is to go.
        cluster: u32,
        /// The other one.
        other: u32,
    },
    /// Standbys that would take their logs from each other.
    UpstreamLoop {
        /// The one that would close the loop.
        cluster: u32,
    },
    /// More than can be registered.
    TooManyClusters,
    /// A name or region that is empty, too long, or holds control characters.
    BadText {
        /// Which.
        what: &'static str,
    },
    /// Addresses that are none, too many, twice there, or not `HOST:PORT` with the host's IP
    /// address.
    BadEndpoint {
        /// The address; empty when it is about their number.
        endpoint: String,
    },
    /// A number out of its bounds.
    OutOfBounds {
        /// Which.
        what: &'static str,
        /// What it is.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Nothing to change was named.
    NothingGiven,
    /// *Resync* is a level.
    NotAMode,
    /// A failover is for a standby.
    IsPrimary,
    /// A failover may go on without what was acked after the level fell.
    MayLose {
        /// The mode, as the standby knows it.
        mode: Protection,
    },
    /// A failover would go on without what others may have acked, or with effects of it.
    WouldLose {
        /// The mode, as the standby knows it.
        mode: Protection,
        /// The level.
        level: Protection,
    },
}

impl Refusal {
    /// The name of the rule, lower-kebab.
    pub fn rule(&self) -> &'static str {
        match self {
            Refusal::TransferNotChosen => "transfer-not-chosen",
            Refusal::TwoSyncStandbys { .. } => "two-sync-standbys",
            Refusal::NoSyncStandby { .. } => "no-sync-standby",
            Refusal::SyncStandbyNeeded { .. } => "sync-standby-needed",
            Refusal::SyncCascade { .. } => "sync-cascade",
            Refusal::SyncSuspended { .. } => "sync-suspended",
            Refusal::ForceNeeded => "force-needed",
            Refusal::StandbyBehind { .. } => "standby-behind",
            Refusal::LevelMoving { .. } => "level-moving",
            Refusal::RoleMoving => "role-moving",
            Refusal::PrimaryNotSet => "primary-not-set",
            Refusal::PrimaryNotSync { .. } => "primary-not-sync",
            Refusal::TargetNotSync { .. } => "target-not-sync",
            Refusal::TargetSuspended { .. } => "target-suspended",
            Refusal::AlreadyThere { .. } => "already-there",
            Refusal::OwnCluster { .. } => "own-cluster",
            Refusal::NoId => "no-id",
            Refusal::UnknownCluster { .. } => "unknown-cluster",
            Refusal::UpstreamOf { .. } => "upstream-of",
            Refusal::UpstreamLoop { .. } => "upstream-loop",
            Refusal::TooManyClusters => "too-many-clusters",
            Refusal::BadText { .. } => "bad-text",
            Refusal::BadEndpoint { .. } => "bad-endpoint",
            Refusal::OutOfBounds { .. } => "out-of-bounds",
            Refusal::NothingGiven => "nothing-given",
            Refusal::NotAMode => "not-a-mode",
            Refusal::IsPrimary => "is-primary",
            Refusal::WouldLose { .. } => "would-lose",
            Refusal::MayLose { .. } => "may-lose",
        }
    }
}

fn list(ids: &[u32]) -> String {
    // A refusal has little room.
    let shown: Vec<String> = ids.iter().take(8).map(u32::to_string).collect();
    let more = if ids.len() > 8 { ", .." } else { "" };
    format!("{}{more}", shown.join(", "))
}

impl fmt::Display for Refusal {
    /// `RULE: sentence`; the rule is [`Refusal::rule`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.rule())?;
        match self {
            Refusal::TransferNotChosen => f.write_str(
                "a standby is served SYNC or ASYNC, and there is no default: give --transfer \
                 sync or --transfer async",
            ),
            Refusal::UnknownCluster { cluster, known } if known.is_empty() => write!(
                f,
                "cluster {cluster} is no standby of this cluster, which has none; see `palisade \
                 standby add`"
            ),
            Refusal::UnknownCluster { cluster, known } => write!(
                f,
                "cluster {cluster} is no standby of this cluster; those are {}",
                list(known)
            ),
            Refusal::AlreadyThere { cluster } => write!(
                f,
                "cluster {cluster} is a standby already; change it with `palisade standby set`"
            ),
            Refusal::OwnCluster { cluster } => write!(
                f,
                "cluster {cluster} is this cluster itself; its own choice is made with `palisade \
                 primary set`"
            ),
            Refusal::NoId => f.write_str("ids of clusters count from 1"),
            Refusal::RoleMoving => f.write_str(
                "the role is on its way: wait for its end, which `palisade mode get` shows",
            ),
            Refusal::PrimaryNotSet => f.write_str(
                "a switchover makes a standby of this cluster: say how it is to be served then \
                 with `palisade primary set --transfer sync|async`; again when its nodes change",
            ),
            Refusal::UpstreamOf { cluster, other } => write!(
                f,
                "cluster {other} is set to take its log from cluster {cluster}; first `palisade \
                 standby set --cluster {other} --upstream 0`"
            ),
            Refusal::UpstreamLoop { cluster } => {
                write!(f, "cluster {cluster} would take its log from itself")
            }
            Refusal::TooManyClusters => write!(f, "a primary has at most {CLUSTERS_MAX} standbys"),
            Refusal::BadText { what } => write!(
                f,
                "the {what} must be 1 to {} bytes without control characters",
                if *what == "region" { REGION_BYTES_MAX } else { NAME_BYTES_MAX }
            ),
            Refusal::BadEndpoint { endpoint } if endpoint.is_empty() => {
                write!(f, "a standby has 1 to {ENDPOINTS_MAX} endpoints, each given once")
            }
            Refusal::BadEndpoint { endpoint } => {
                let shown: String = endpoint.chars().take(48).collect();
                write!(
                    f,
                    "{shown:?} is no endpoint that nodes can dial: write HOST:PORT with the IP \
                     address of the host and a port from 1 to 65535; `palisade standby add` and \
                     `standby set` resolve names"
                )
            }
            Refusal::OutOfBounds { what, value, min, max } => {
                write!(f, "{what} is {value}, allowed {min} to {max}")
            }
            Refusal::NothingGiven => f.write_str("name at least one setting to change"),
            Refusal::NotAMode => f.write_str(
                "resync is a level, not a mode: ask for protection, availability or performance",
            ),
            sync => sync.fmt_sync(f),
        }
    }
}

impl Refusal {
    /// The rules about SYNC standbys.
    fn fmt_sync(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::TwoSyncStandbys { mode, standbys } => write!(
                f,
                "{} has exactly one SYNC standby, not clusters {}: set the others to ASYNC",
                long_name(*mode),
                list(standbys)
            ),
            Refusal::NoSyncStandby { mode } => write!(
                f,
                "{} needs exactly one SYNC standby, and there is none: first `palisade standby \
                 set --cluster ID --transfer sync`",
                long_name(*mode)
            ),
            Refusal::SyncStandbyNeeded { mode, cluster } => write!(
                f,
                "cluster {cluster} is the SYNC standby that {} needs: it is neither removed nor \
                 set to ASYNC before `palisade mode set performance`",
                long_name(*mode)
            ),
            Refusal::SyncCascade { cluster, upstream } => write!(
                f,
                "a SYNC standby takes its log from the leaders of the primary: cluster {cluster} \
                 is not set to SYNC and to the upstream {upstream} at once"
            ),
            Refusal::SyncSuspended { cluster, mode } => write!(
                f,
                "cluster {cluster} would be SYNC and suspended at {}: every ack would wait for it",
                long_name(*mode)
            ),
            Refusal::ForceNeeded => f.write_str(
                "MAXIMUM PROTECTION is left when the SYNC standby knows of it; without it give \
                 --force, which is recorded: a failover there could then lose acks without \
                 knowing",
            ),
            Refusal::StandbyBehind { cluster } => write!(
                f,
                "cluster {cluster} does not keep up with every stream, and at MAXIMUM PROTECTION \
                 no append would be acked: see `palisade status`, and ask again when it does"
            ),
            Refusal::LevelMoving { cluster } => write!(
                f,
                "streams are still marked with cluster {cluster}; ask again when `palisade mode \
                 get` shows a level that is steady"
            ),
            Refusal::PrimaryNotSync { mode } => write!(
                f,
                "a switchover at {} needs a primary that is set to SYNC: first `palisade primary \
                 set --transfer sync`",
                long_name(*mode)
            ),
            Refusal::TargetNotSync { mode, cluster } => write!(
                f,
                "a switchover at {} goes to the SYNC standby; cluster {cluster} is ASYNC",
                long_name(*mode)
            ),
            Refusal::TargetSuspended { cluster } => write!(
                f,
                "cluster {cluster} is suspended: first `palisade standby resume --cluster \
                 {cluster}`"
            ),
            failover => failover.fmt_failover(f),
        }
    }

    /// The rules about failovers.
    fn fmt_failover(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::IsPrimary => {
                f.write_str("this cluster is the primary already: ask a standby to take the role")
            }
            Refusal::MayLose { mode } => write!(
                f,
                "nothing is cut, but in {} the primary may have acked alone since it lost this \
                 standby: what it did is lost then; give --allow-loss",
                long_name(*mode)
            ),
            Refusal::WouldLose { mode, level } => write!(
                f,
                "a failover keeps what this standby has, and that is all that was acked only where \
                 acks wait for it: as far as it knows the primary is in {} at level {}, and \
                 streams may end at different times here; bring the primary back, or start anew \
                 from an archive",
                long_name(*mode),
                long_name(*level)
            ),
            other => f.write_str(other.rule()),
        }
    }
}

impl std::error::Error for Refusal {}
