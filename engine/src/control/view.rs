//! What is shown of the registry, field by field. Enumerations are lower-kebab, ids and times
//! whole numbers.

use serde::{Deserialize, Serialize};

use super::mode::{Mode, Proof};
use super::registry::{Cluster, Hold, Registry};
use crate::status::{ClusterRole, Protection, Transfer};

/// The registry, as one node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryView {
    /// Changes that took effect.
    pub version: u64,
    /// The cluster of the node that was asked.
    pub cluster: u32,
    /// Its role.
    pub role: ClusterRole,
    /// It comes from the leader of the catalogue: nothing newer is committed in this cluster.
    pub current: bool,
    /// Where that leader is, if it is known and another node.
    pub leader: Option<String>,
    /// The primary as it will be when it is a standby.
    pub primary: Option<ClusterView>,
    /// Mode and level.
    pub mode: ModeView,
    /// The standbys, by id.
    pub standbys: Vec<ClusterView>,
}

/// Mode and level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeView {
    /// What was asked for.
    pub mode: Protection,
    /// What holds.
    pub level: Protection,
    /// Steps of both so far.
    pub epoch: u64,
    /// Why the level is not what the mode asks for; empty when it is.
    pub reason: String,
    /// Nanoseconds since 1970 when the node that was asked learned of the last step; 0 when there
    /// was none.
    #[serde(default)]
    pub since: u64,
    /// Where mode, level or role are on their way: `steady`, `rising`, `falling`, `leaving`,
    /// `preparing`, `ending`, `starting`, `seizing`.
    #[serde(default)]
    pub phase: String,
    /// Generation of the primary role.
    #[serde(default)]
    pub role_epoch: u64,
    /// The primary; 0 while that is the cluster that was formatted so.
    #[serde(default)]
    pub primary: u32,
    /// The standby that the role is on its way to; 0 when there is none.
    #[serde(default)]
    pub target: u32,
    /// What the failover that the role epoch began with proves: `proven-unless-forced`, `unknown`;
    /// empty when the role was handed over.
    #[serde(default)]
    pub proof: String,
    /// The SYNC standby, at a mode that has one.
    pub sync_standby: Option<u32>,
    /// Epoch of the last step that was forced; 0 when there was none.
    pub forced_epoch: u64,
}

/// One cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// Its id.
    pub cluster: u32,
    /// For people.
    pub name: String,
    /// Where it stands.
    pub region: String,
    /// Where its nodes listen.
    pub endpoints: Vec<String>,
    /// How it is served.
    pub transfer: Transfer,
    /// How long an ack may wait for it.
    pub net_timeout_ms: u32,
    /// How long it must be well before the level rises.
    pub health_check_ms: u32,
    /// The standby that it is to take its log from; 0 when it chooses by itself.
    pub upstream: u32,
    /// Whether it is held back.
    pub suspended: bool,
    /// The last SCN that it still imports, when it is held back there.
    pub until_scn: Option<u64>,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controlled {
    /// Version of the registry after it.
    pub version: u64,
    /// Whether anything was, or with a dry run would be, different.
    pub changed: bool,
}

impl RegistryView {
    /// What `cluster` shows.
    pub fn new(registry: &Registry, cluster: u32, role: ClusterRole) -> RegistryView {
        let mode = registry.mode();
        let sync = registry.sync_standbys().next().filter(|_| Mode::wants_sync(mode.mode));
        RegistryView {
            version: registry.version(),
            cluster,
            role,
            current: false,
            leader: None,
            primary: registry.primary().map(ClusterView::new),
            mode: ModeView {
                mode: mode.mode,
                level: mode.level,
                epoch: mode.epoch,
                reason: mode.reason().to_owned(),
                since: 0,
                phase: mode.phase.as_str().to_owned(),
                role_epoch: mode.office.role_epoch,
                primary: mode.office.holder,
                target: mode.office.target,
                proof: mode.office.proof.map_or("", Proof::as_str).to_owned(),
                sync_standby: sync.map(|cluster| cluster.id),
                forced_epoch: mode.forced,
            },
            standbys: registry.standbys().map(ClusterView::new).collect(),
        }
    }
}

impl ClusterView {
    fn new(cluster: &Cluster) -> ClusterView {
        let until_scn = match cluster.hold {
            Some(Hold::Until(scn)) => Some(scn),
            _ => None,
        };
        ClusterView {
            cluster: cluster.id,
            name: cluster.name.clone(),
            region: cluster.region.clone(),
            endpoints: cluster.endpoints.clone(),
            transfer: cluster.transfer,
            net_timeout_ms: cluster.net_timeout_ms,
            health_check_ms: cluster.health_check_ms,
            upstream: cluster.upstream,
            suspended: cluster.hold.is_some(),
            until_scn,
        }
    }
}
