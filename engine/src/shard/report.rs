//! What a node shows of itself.

use std::sync::{Mutex, MutexGuard};

use palisade_netio::Ring;

use crate::client::wire::StreamEntry;
use crate::config::Role;
use crate::event::Listeners;
use crate::paxos::RoleName;
use crate::shard::Shard;
use crate::shard::stream::StreamState;
use crate::status::{
    Alarm, BallotStatus, ClusterRole, ClusterStatus, DiskStatus, NodeStatus, ReplicaRole, Status,
    StreamStatus,
};

/// One shard's part.
#[derive(Clone, Debug, Default)]
struct Part {
    cluster: ClusterStatus,
    node: NodeStatus,
    streams: Vec<StreamStatus>,
    disk: DiskStatus,
    alarms: Vec<Alarm>,
}

/// The newest status of every shard of a node, written by the shards and read by anyone.
pub struct Board {
    pub(crate) listeners: Listeners,
    parts: Mutex<Vec<Option<Part>>>,
}

impl Board {
    /// An empty board.
    pub fn new(shards: u16) -> Board {
        Board { listeners: Listeners::default(), parts: Mutex::new(vec![None; shards.into()]) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Part>>> {
        self.parts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// All shards together.
    pub fn status(&self) -> Status {
        let mut status = Status::default();
        for part in self.lock().iter().flatten() {
            if part.node.id != 0 {
                status.node = part.node.clone();
            }
            if part.cluster.id != 0 && !part.streams.is_empty() {
                status.cluster = part.cluster.clone();
            }
            status.streams.extend(part.streams.iter().cloned());
            status.disk.used += part.disk.used;
            status.disk.limit += part.disk.limit;
            status.disk.sync_path = part.disk.sync_path.clone();
            status.alarms.extend(part.alarms.iter().cloned());
        }
        status.streams.sort_by_key(|stream| stream.id);
        status
    }

    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(&self.status()).expect("a status has no maps with odd keys")
    }

    /// The streams, for a listing.
    pub(crate) fn stream_entries(&self) -> Vec<StreamEntry> {
        let entry = |stream: &StreamStatus| StreamEntry {
            id: stream.id,
            leader: stream.ballot.node,
            base_lsn: stream.base_lsn,
            committed_lsn: stream.committed_lsn,
        };
        let status = self.status();
        status.streams.iter().take(crate::client::wire::STREAMS_MAX).map(entry).collect()
    }
}

impl<R: Ring> Shard<R> {
    /// Puts this shard's part on the board.
    pub(crate) fn publish_status(&mut self) {
        let role = self.streams.values().next().map_or(Role::Primary, |state| state.role);
        let space = self.ledger.wal.space();
        let part = Part {
            cluster: ClusterStatus {
                id: self.me.cluster,
                name: self.config.cluster_name.clone(),
                role: match role {
                    Role::Primary => ClusterRole::Primary,
                    Role::Standby => ClusterRole::Standby,
                },
                role_epoch: self.role_epoch,
                ..ClusterStatus::default()
            },
            node: NodeStatus {
                id: self.me.node,
                region: self.config.region.clone(),
                incarnation: self.me.incarnation,
                version: env!("CARGO_PKG_VERSION").to_string(),
            },
            streams: self.streams.iter().map(|(id, s)| self.stream_status(*id, s)).collect(),
            disk: DiskStatus {
                used: space.used,
                limit: space.limit,
                sync_path: self.config.sync_path.as_str().to_string(),
            },
            alarms: self
                .alarms
                .iter()
                .map(|(code, (since, hint))| Alarm {
                    code: (*code).to_string(),
                    since: *since,
                    hint: hint.clone(),
                })
                .collect(),
        };
        self.board.lock()[usize::from(self.me.shard)] = Some(part);
    }

    fn stream_status(&self, id: u64, state: &StreamState) -> StreamStatus {
        let status = state.replica.status();
        let import = self.import_state(id);
        let (name, reason, action) = match (&state.halted, &import) {
            (Some(halt), _) => (
                "halted".to_string(),
                halt.to_string(),
                "the other replicas go on; keep this data directory for diagnosis".into(),
            ),
            (None, Some(import)) => import.clone(),
            (None, None) => {
                let leader = status.leader.is_some();
                let name = if leader { "normal" } else { "no-leader" };
                let action = if leader { "" } else { "wait; a majority must be up" };
                (name.to_string(), status.reason.to_string(), action.to_string())
            }
        };
        StreamStatus {
            id,
            role: match status.role {
                RoleName::Leader => ReplicaRole::Leader,
                RoleName::Learner => ReplicaRole::Learner,
                RoleName::Follower | RoleName::Halted => ReplicaRole::Follower,
                _ => ReplicaRole::Candidate,
            },
            ballot: BallotStatus { round: status.leader.round, node: status.leader.node },
            members: status.config.members.iter().map(|member| member.node).collect(),
            learners: Vec::new(),
            base_lsn: self.floor_of(id).0,
            durable_lsn: status.durable.0,
            committed_lsn: status.committed.0,
            end_lsn: status.end.0,
            scn: state.replica.log().last_scn(),
            upstream: self.import_upstream(id),
            state: name,
            since: state.since_wall_ns,
            reason,
            action,
        }
    }
}
