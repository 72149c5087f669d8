//! What a node shows of itself.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use palisade_netio::{Nanos, Ring};

use crate::client::wire::StreamEntry;
use crate::event::Listeners;
use crate::forward::{Feed, ForwardPort};
use crate::paxos::{Member, RoleName};
use crate::shard::Shard;
use crate::shard::mesh::shard_of;
use crate::shard::stream::StreamState;
use crate::status::{
    Alarm, BallotStatus, BorderStatus, ClusterStatus, DiskStatus, NodeStatus, ReplicaRole,
    StandbyStatus, Status, StreamStatus, Transfer,
};
use crate::stream::catalogue::{CATALOGUE_STREAM, SYSTEM_STREAM};

/// One shard's part.
#[derive(Clone, Debug, Default)]
struct Part {
    /// When, on the monotonic clock that the shards of a node share.
    at: Nanos,
    wall_ns: u64,
    cluster: ClusterStatus,
    node: NodeStatus,
    streams: Vec<StreamStatus>,
    standbys: Vec<StandbyStatus>,
    borders: Vec<BorderStatus>,
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
        let mut closed = u64::MAX;
        for part in self.lock().iter().flatten() {
            if part.node.id != 0 {
                status.node = part.node.clone();
            }
            if part.cluster.id != 0 && !part.streams.is_empty() {
                status.cluster = part.cluster.clone();
                closed = closed.min(part.cluster.sync_scn);
            }
            status.streams.extend(part.streams.iter().cloned());
            status.standbys.extend(part.standbys.iter().cloned());
            for border in &part.borders {
                let known = |one: &&mut BorderStatus| one.from == border.from;
                match status.borders.iter_mut().find(known) {
                    Some(known) => known.bytes += border.bytes,
                    None => status.borders.push(border.clone()),
                }
            }
            status.disk.used += part.disk.used;
            status.disk.limit += part.disk.limit;
            status.disk.sync_path = part.disk.sync_path.clone();
            status.alarms.extend(part.alarms.iter().cloned());
        }
        status.streams.sort_by_key(|stream| stream.id);
        // A shard with no stream that others read holds back nobody.
        status.cluster.sync_scn = if closed == u64::MAX { 0 } else { closed };
        status
    }

    /// All shards together, some of them silent: their streams as of their last report, with its
    /// age at `now`.
    pub(crate) fn status_without(&self, silent: &BTreeSet<u16>, now: Nanos) -> Status {
        let mut status = self.status();
        let parts = self.lock();
        for shard in silent {
            let part = parts.get(usize::from(*shard)).and_then(Option::as_ref);
            let age_us = part.map(|part| now.since(part.at) / 1000);
            for stream in part.into_iter().flat_map(|part| &part.streams) {
                let shown = status.streams.iter_mut().find(|shown| shown.id == stream.id);
                if let Some(shown) = shown {
                    shown.age_us = age_us;
                }
            }
            let last = age_us.map_or("it never did".to_string(), |age_us| {
                format!("its streams are shown as {} ms ago", age_us / 1000)
            });
            let hint = format!("shard {shard} does not report: {last}; if it stays so, restart");
            let since = part.map_or(0, |part| part.wall_ns);
            status.alarms.push(Alarm { code: "shard-silent".to_string(), since, hint });
        }
        status
    }

    /// The streams from `first` on, by id, as many as fit into one answer.
    pub(crate) fn stream_entries(&self, first: u64) -> Vec<StreamEntry> {
        let entry = |stream: &StreamStatus| StreamEntry {
            id: stream.id,
            leader: stream.ballot.node,
            base_lsn: stream.base_lsn,
            committed_lsn: stream.committed_lsn,
        };
        let status = self.status();
        let wanted = status.streams.iter().filter(|stream| stream.id >= first);
        wanted.take(crate::client::wire::STREAMS_MAX).map(entry).collect()
    }
}

impl<R: Ring> Shard<R> {
    /// Puts this shard's part on the board.
    pub(crate) fn publish_status(&mut self) {
        let space = self.ledger.wal.space();
        let (protection_mode, protection_level) = self.registry.shown_at(self.me.cluster);
        let part = Part {
            at: self.io.now,
            wall_ns: self.io.ring.wall_ns(),
            cluster: ClusterStatus {
                id: self.me.cluster,
                name: self.config.cluster_name.clone(),
                role: self.cluster_role(),
                role_epoch: self.role_epoch,
                protection_mode,
                protection_level,
                level_since: self.levels.since_wall_ns(),
                level_reason: match protection_mode == protection_level {
                    true => String::new(),
                    false => self.level_reason().to_string(),
                },
                sync_scn: self.closed_scn(),
            },
            node: NodeStatus {
                id: self.me.node,
                region: self.config.region.clone(),
                incarnation: self.me.incarnation,
                version: env!("CARGO_PKG_VERSION").to_string(),
                compression: self.forward.as_ref().and_then(ForwardPort::compression),
            },
            streams: self.streams.iter().map(|(id, s)| self.stream_status(*id, s)).collect(),
            standbys: self.standby_statuses(),
            borders: self.border_statuses(),
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

    /// The other clusters, as the shard of the catalogue knows them.
    fn standby_statuses(&self) -> Vec<StandbyStatus> {
        if shard_of(CATALOGUE_STREAM, self.me.shards) != self.me.shard {
            return Vec::new();
        }
        let feeds = self.forward.as_ref().map(ForwardPort::feeds).unwrap_or_default();
        let others = self.registry.standbys().filter(|known| known.id != self.me.cluster);
        let known = others.map(|cluster| {
            let feed = feeds.iter().find(|feed| feed.cluster == cluster.id);
            let state = match (cluster.hold, feed) {
                (Some(_), _) => "suspended",
                (None, Some(_)) => "connected",
                (None, None) => "not-connected",
            };
            let (region, transfer) = (cluster.region.clone(), cluster.transfer);
            standby_status(feed, cluster.id, region, transfer, state)
        });
        let strange = feeds.iter().filter(|feed| self.registry.standby(feed.cluster).is_none());
        let strange = strange.map(|feed| {
            let (region, transfer) = (String::new(), Transfer::default());
            standby_status(Some(feed), feed.cluster, region, transfer, "unregistered")
        });
        known.chain(strange).collect()
    }

    fn stream_status(&self, id: u64, state: &StreamState) -> StreamStatus {
        let status = state.replica.status();
        let config = &status.config;
        let votes = |member: &&Member| member.incarnation.is_some() || !config.is_bound();
        let (voters, others): (Vec<&Member>, Vec<&Member>) = config.members.iter().partition(votes);
        let (name, reason, action, since) = self.condition(id, state);
        StreamStatus {
            id,
            role: match status.role {
                RoleName::Leader => ReplicaRole::Leader,
                RoleName::Learner => ReplicaRole::Learner,
                RoleName::Follower | RoleName::Halted => ReplicaRole::Follower,
                _ => ReplicaRole::Candidate,
            },
            ballot: BallotStatus { round: status.leader.round, node: status.leader.node },
            members: voters.iter().map(|member| member.node).collect(),
            learners: others.iter().map(|member| member.node).collect(),
            base_lsn: self.floor_of(id).0,
            durable_lsn: status.durable.0,
            committed_lsn: status.committed.0,
            end_lsn: status.end.0,
            scn: state.replica.log().last_scn(),
            upstream: self.upstream(id),
            state: name,
            since,
            reason,
            action,
            pins: self.pin_statuses(id),
            age_us: None,
        }
    }

    /// State, reason and action of a stream, and since when.
    fn condition(&self, id: u64, state: &StreamState) -> (String, String, String, u64) {
        let words = |name: &str, reason: &str, action: &str| {
            let since = state.since_wall_ns;
            (name.to_string(), reason.to_string(), action.to_string(), since)
        };
        if let Some(halt) = &state.halted {
            let action = "the other replicas go on; keep this data directory for diagnosis";
            return words("halted", &halt.to_string(), action);
        }
        if state.replica.log().is_unknown() {
            let reason = "records or promises of this disk may be lost: it votes in no election";
            let action = match state.replica.config().members.len() {
                1 => {
                    "it stays so: nobody else has this log; see `palisade inspect verify`, keep \
                     the data directory, and format a new one or restore a copy"
                }
                _ => {
                    "have a majority up without this member: the leader that it elects ends this; \
                     without one it stays so"
                }
            };
            return words("unknown-tail", reason, action);
        }
        if let Some((from, upto, vain)) = state.replica.lost_range() {
            let lone = state.replica.config().members.len() == 1;
            let reason = format!("LSN {from} to {upto} is lost on this disk: it cannot lead");
            let action = match (lone, vain) {
                (true, _) => "nobody else has this log: restore a copy of the data directory",
                (_, false) => {
                    let action = "wait: it asks the other members for what is lost";
                    return words("repairing", &reason, action);
                }
                (_, true) => {
                    "no member that is up has it: bring up the others; until then this member \
                     waits, and with it the stream if it has no leader"
                }
            };
            return words("lost-range", &reason, action);
        }
        if let Some(at) = state.replica.damaged() {
            let reason =
                format!("LSN {at} cannot be read from this disk: it leads as long as it runs");
            let action = "nobody else has this log: see `palisade inspect verify`, restore a copy";
            return words("damaged", &reason, action);
        }
        let fenced = self.fence_state().filter(|_| id != SYSTEM_STREAM);
        if let Some((reason, action, since)) = fenced {
            let (name, reason, action, _) = words("fenced", &reason, &action);
            return (name, reason, action, since);
        }
        if let Some(import) = self.import_state(id) {
            let (name, reason, action, _) = words(import.state, &import.reason, import.action);
            let since = self.io.ring.wall_ns().saturating_sub(self.io.now.since(import.since));
            return (name, reason, action, since);
        }
        let status = state.replica.status();
        match status.leader.is_some() {
            true => words("normal", status.reason, ""),
            false => words("no-leader", status.reason, "wait; a majority must be up"),
        }
    }
}

fn standby_status(
    feed: Option<&Feed>,
    cluster: u32,
    region: String,
    transfer: Transfer,
    state: &str,
) -> StandbyStatus {
    let Feed { lag_bytes, lag_us, .. } = feed.copied().unwrap_or_default();
    StandbyStatus { cluster, region, transfer, state: state.to_string(), lag_bytes, lag_us }
}
