//! From the configuration of a node to what each of its shards is told: the one place where a key
//! becomes something that acts.

use std::time::Duration;

use palisade_netio::{LinkTiming, SyncPath, UringConfig, ZeroCopyMode};

use crate::config::{Config, Role, ZeroCopy};
use crate::directory::shard_dir;
use crate::paxos::{Member, Tuning};
use crate::shard::{Format, ShardConfig};

/// Submission entries of a shard's ring.
const RING_ENTRIES: u32 = 1024;
/// Durable writes in flight of a shard.
const WRITES_IN_FLIGHT: usize = 2;

/// What a shard is told, and what its thread and its ring are.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shard: ShardConfig,
    pub(crate) ring: UringConfig,
    /// The CPU that its thread stays on.
    pub(crate) cpu: Option<u16>,
}

/// The plan of one shard of a node whose disk is best written by `sync_path`.
pub(crate) fn plan(config: &Config, shard: u16, sync_path: SyncPath) -> Plan {
    // The forwarding shard's ring registers buffers too.
    let rings = usize::from(config.node.shards) + usize::from(config.node.forwarding);
    let ring = UringConfig {
        entries: RING_ENTRIES,
        sync_path,
        user_timeout_ms: u32::try_from(config.timing.peer_timeout.as_millis()).unwrap_or(u32::MAX),
        ..UringConfig::shared_by(rings)
    };
    let cpu = config.node.cpus.get(usize::from(shard)).copied();
    Plan { shard: shard_config(config, shard, sync_path), ring, cpu }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn shard_config(config: &Config, shard: u16, sync_path: SyncPath) -> ShardConfig {
    let shards = u64::from(config.node.shards);
    let timing = &config.timing;
    let tuning = Tuning {
        heartbeat_ns: ns(timing.heartbeat),
        election_ns: ns(timing.election),
        hand_over_ns: ns(timing.hand_over),
        retry_ns: Tuning::default().retry_ns.max(ns(timing.heartbeat)),
        ..Tuning::default()
    };
    ShardConfig {
        cluster: config.cluster.id,
        cluster_name: config.cluster.name.clone(),
        fingerprint: config.fingerprint(),
        node: config.node.id,
        region: config.node.region.clone(),
        shard,
        shards: config.node.shards,
        dir: shard_dir(&config.node.data, shard),
        listen: config.node.listen.filter(|_| shard == 0),
        upstream: config.upstream.endpoints.clone(),
        upstream_region: config
            .upstream
            .preferred_region
            .clone()
            .unwrap_or_else(|| config.node.region.clone()),
        upstream_override: config.upstream.fixed,
        segment_bytes: config.log.segment_bytes,
        log_bytes_max: (config.log.log_bytes_max / shards).max(2 * config.log.segment_bytes),
        retain_ns: ns(config.log.retain),
        pin_bytes_max: config.log.pin_bytes_max,
        sync_path,
        writes_in_flight: WRITES_IN_FLIGHT,
        zero_copy: match config.network.zero_copy {
            ZeroCopy::Auto => ZeroCopyMode::Auto,
            ZeroCopy::Always => ZeroCopyMode::Always,
            ZeroCopy::Never => ZeroCopyMode::Never,
        },
        link_timing: LinkTiming {
            reconnect_min_ns: ns(timing.reconnect_min),
            reconnect_max_ns: ns(timing.reconnect_max),
            handshake_ns: ns(timing.handshake),
            pin_ns_max: ns(timing.peer_timeout),
        },
        disk_stall_ns: ns(timing.disk_stall_soft),
        disk_stall_hard_ns: ns(timing.disk_stall_hard),
        spin_ns: ns(timing.spin),
        tuning,
        format: None,
    }
}

/// What `format` writes on a disk with this random number.
pub(crate) fn first_records(config: &Config, incarnation: u64) -> Format {
    let member = |member: &crate::config::Member| Member {
        node: member.id,
        incarnation: None,
        addr: member.addr.to_string(),
        region: member.region.clone(),
    };
    Format {
        role: match config.cluster.role {
            Role::Primary => Role::Primary,
            Role::Standby => Role::Standby,
        },
        members: config.members.iter().map(member).collect(),
        incarnation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn every_timer_of_the_file_reaches_what_waits() {
        let mut config = Config::embedded("/nowhere");
        let ms = |ms| Duration::from_millis(ms);
        config.timing.heartbeat = ms(11);
        config.timing.election = ms(112);
        config.timing.hand_over = ms(119);
        config.timing.disk_stall_soft = ms(113);
        config.timing.disk_stall_hard = ms(1114);
        config.timing.spin = ms(21);
        config.timing.reconnect_min = ms(15);
        config.timing.reconnect_max = ms(116);
        config.timing.handshake = ms(117);
        config.timing.peer_timeout = ms(118);
        let Plan { shard, ring, .. } = plan(&config, 0, SyncPath::Dsync);
        assert_eq!((shard.tuning.heartbeat_ns, shard.tuning.election_ns), (11 * MS, 112 * MS));
        assert_eq!(shard.tuning.hand_over_ns, 119 * MS);
        assert_eq!((shard.disk_stall_ns, shard.disk_stall_hard_ns), (113 * MS, 1114 * MS));
        assert_eq!(shard.spin_ns, 21 * MS);
        let timing = LinkTiming {
            reconnect_min_ns: 15 * MS,
            reconnect_max_ns: 116 * MS,
            handshake_ns: 117 * MS,
            pin_ns_max: 118 * MS,
        };
        assert_eq!((shard.link_timing, ring.user_timeout_ms), (timing, 118));
    }

    #[test]
    fn what_the_file_leaves_out_is_what_the_code_takes_by_itself() {
        let Plan { shard, ring, .. } = plan(&Config::embedded("/nowhere"), 0, SyncPath::Dsync);
        assert_eq!(shard.tuning, Tuning::default());
        assert_eq!(shard.link_timing, LinkTiming::default());
        assert_eq!(ring.user_timeout_ms, UringConfig::default().user_timeout_ms);
    }

    #[test]
    fn the_sync_path_reaches_log_and_ring_and_each_shard_its_cpu() {
        let mut config = Config::embedded("/nowhere");
        config.node.shards = 2;
        config.node.cpus = vec![5, 3];
        for path in SyncPath::ALL {
            let plan = plan(&config, 1, path);
            assert_eq!((plan.shard.sync_path, plan.ring.sync_path), (path, path));
            assert_eq!(plan.cpu, Some(3));
        }
        config.node.cpus.clear();
        assert_eq!(plan(&config, 1, SyncPath::Dsync).cpu, None);
    }
}
