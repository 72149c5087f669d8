//! All nodes of all clusters: hosts, processes, and the shards that run there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use palisade::config::Role;
use palisade::control::Registry;
use palisade::forward::ForwarderConfig;
use palisade::paxos::{Closed, Member, Replica};
use palisade::shard::sync::{Mark, SyncStatus};
use palisade::shard::{
    Board, Format, Halt, Mesh, Shard, ShardConfig, ShardPort, Shared, quotas, shard_of,
};
use palisade_netio::{LinkTiming, Ring};
use palisade_wal::Lsn;

use super::check::Violation;
use super::forwarder::{Forwarder, Sides};
use super::report::Shipped;
use super::settings::Settings;
use crate::sim::{HostId, ProcessId, RingId, Universe, VirtualRing};

/// Where every node listens.
const PORT: u16 = 7000;
/// Turns that formatting a directory may take.
const FORMAT_STEPS_MAX: usize = 1_000_000;

/// A cluster: nodes with one membership.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its number.
    pub id: u32,
    /// What it was formatted as.
    pub role: Role,
    /// Shards of each node.
    pub shards: u16,
    /// Where a standby fetches from.
    pub upstream: Vec<SocketAddr>,
    /// Its nodes, as indexes into the fleet.
    pub nodes: Vec<usize>,
}

/// One node.
pub struct Node {
    /// Index of its cluster.
    pub cluster: usize,
    /// Its id in the cluster.
    pub id: u32,
    /// Where it runs.
    pub host: HostId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// The process, while it runs.
    pub process: Option<ProcessId>,
    /// How often it was started.
    pub boots: u64,
    shards: Vec<Driven>,
    ports: Vec<Arc<ShardPort>>,
    /// Of the forwarder to come, until all shards serve.
    sides: Sides,
    forwarder: Option<Forwarder>,
}

struct Driven {
    shard: Shard<VirtualRing>,
    ring: RingId,
}

/// See the [module](self).
pub struct Fleet {
    universe: Universe,
    settings: Settings,
    /// Clusters, the primary first.
    pub clusters: Vec<Cluster>,
    /// Nodes of all clusters.
    pub nodes: Vec<Node>,
    rings: BTreeMap<RingId, (usize, Part)>,
    /// By forwarders that are gone.
    shipped: Shipped,
    /// Clusters that were the primary.
    acted: BTreeSet<usize>,
    /// One that is dead for good.
    lost: Option<usize>,
    /// Marks are written by who drives the world, not by the level: in nodes that start from now
    /// on.
    pub by_hand: bool,
}

/// What of a node a ring belongs to.
#[derive(Clone, Copy)]
enum Part {
    Shard(usize),
    Forwarder,
}

/// What a turn came to.
pub enum Turned {
    /// The shard goes on.
    On,
    /// It has stopped, and its node with it.
    Halted(Halt),
}

impl Fleet {
    /// No nodes yet.
    pub fn new(universe: &Universe, settings: &Settings) -> Fleet {
        Fleet {
            universe: universe.clone(),
            settings: settings.clone(),
            clusters: Vec::new(),
            nodes: Vec::new(),
            rings: BTreeMap::new(),
            shipped: Shipped::default(),
            acted: BTreeSet::from([0]),
            lost: None,
            by_hand: true,
        }
    }

    /// Adds a cluster of formatted nodes that do not run yet. A standby fetches from the nodes of
    /// `upstream`, in this order.
    ///
    /// # Errors
    /// Formatting failed.
    pub fn add_cluster(
        &mut self,
        role: Role,
        size: u32,
        shards: u16,
        upstream: &[usize],
    ) -> Result<usize, Violation> {
        let cluster = self.clusters.len();
        let first = self.nodes.len();
        let upstream = upstream.iter().map(|&node| self.nodes[node].addr).collect();
        for id in 1..=size {
            let host = self.universe.add_host();
            let addr = SocketAddr::new(self.universe.address(host), PORT);
            self.nodes.push(Node {
                cluster,
                id,
                host,
                addr,
                process: None,
                boots: 0,
                shards: Vec::new(),
                ports: Vec::new(),
                sides: Sides::default(),
                forwarder: None,
            });
        }
        let nodes: Vec<usize> = (first..self.nodes.len()).collect();
        let id = cluster as u32 + 1;
        self.clusters.push(Cluster { id, role, shards, upstream, nodes: nodes.clone() });
        for node in nodes {
            self.format(node)?;
        }
        Ok(cluster)
    }

    fn format(&self, node: usize) -> Result<(), Violation> {
        let cluster = &self.clusters[self.nodes[node].cluster];
        let member = |&at: &usize| {
            let node = &self.nodes[at];
            let region = self.settings.region(node.cluster, node.id).to_string();
            let addr = node.addr.to_string();
            Member { node: node.id, incarnation: None, addr, region }
        };
        let members: Vec<Member> = cluster.nodes.iter().map(member).collect();
        let incarnation = self.universe.random() | 1;
        let host = self.nodes[node].host;
        for shard in 0..cluster.shards {
            self.universe.make_dir(host, shard_dir(shard));
            let mut config = self.shard_config(node, shard);
            config.listen = None;
            let members = members.clone();
            config.format = Some(Format { role: cluster.role, members, incarnation });
            let process = self.universe.spawn(host);
            let ring = VirtualRing::new(&self.universe, process);
            let pool = VirtualRing::pool(quotas(config.segment_bytes));
            let board = Arc::new(Board::new(cluster.shards));
            let shared = Shared { board, mesh: None, forward: None };
            let mut shard = Shard::new(config, ring, pool, Arc::default(), shared);
            for _ in 0..FORMAT_STEPS_MAX {
                let due = self.universe.step();
                if !due.is_empty() && !shard.turn(true) {
                    break;
                }
            }
            if shard.halted() != Some(&Halt::Done) {
                return Err(Violation::new("format", format!("{:?}", shard.halted())));
            }
        }
        Ok(())
    }

    fn shard_config(&self, node: usize, shard: u16) -> ShardConfig {
        let settings = &self.settings;
        let Node { cluster, id, addr, .. } = self.nodes[node];
        let region = settings.region(cluster, id).to_string();
        let cluster = &self.clusters[cluster];
        ShardConfig {
            cluster: cluster.id,
            cluster_name: format!("cluster {}", cluster.id),
            fingerprint: cluster.id.into(),
            node: id,
            upstream_region: region.clone(),
            upstream_override: None,
            region,
            shard,
            shards: cluster.shards,
            dir: shard_dir(shard),
            listen: (shard == 0).then_some(addr),
            upstream: cluster.upstream.clone(),
            segment_bytes: settings.segment_bytes,
            log_bytes_max: settings.log_bytes_max,
            retain_ns: settings.retain_ns,
            pin_bytes_max: settings.pin_bytes_max,
            sync_path: settings.sync_path,
            writes_in_flight: settings.writes_in_flight,
            zero_copy: settings.zero_copy,
            link_timing: LinkTiming::default(),
            disk_stall_ns: settings.disk_stall_ns,
            disk_stall_hard_ns: settings.disk_stall_hard_ns,
            spin_ns: 0,
            tuning: settings.tuning.clone(),
            format: None,
        }
    }

    /// Nodes that start from now on keep so much of a stream for standbys.
    pub fn keep_for_standbys(&mut self, bytes: u64) {
        self.settings.pin_bytes_max = bytes;
    }

    /// Starts a node that does not run, unless its cluster is dead for good.
    ///
    /// # Panics
    /// When it runs.
    pub fn start(&mut self, node: usize) {
        assert!(self.nodes[node].process.is_none(), "node {node} runs");
        if self.is_lost(self.nodes[node].cluster) {
            return;
        }
        let count = self.clusters[self.nodes[node].cluster].shards;
        let process = self.universe.spawn(self.nodes[node].host);
        let mesh = (count > 1).then(|| Arc::new(Mesh::new(count)));
        let board = Arc::new(Board::new(count));
        let (mut shards, mut ports, mut sides) = (Vec::new(), Vec::new(), Sides::default());
        for shard in 0..count {
            let config = self.shard_config(node, shard);
            let ring = VirtualRing::new(&self.universe, process);
            let id = ring.id();
            let pool = VirtualRing::pool(quotas(config.segment_bytes));
            let port = Arc::new(ShardPort::new());
            let (forward, side) = palisade::forward::port();
            sides.push(side);
            let forward = Some(forward);
            let shared = Shared { board: board.clone(), mesh: mesh.clone(), forward };
            let part = Part::Shard(shards.len());
            let mut shard = Shard::new(config, ring, pool, port.clone(), shared);
            if self.by_hand {
                shard.mark_by_hand();
            }
            shards.push(Driven { shard, ring: id });
            ports.push(port);
            self.rings.insert(id, (node, part));
        }
        let known = &mut self.nodes[node];
        known.process = Some(process);
        known.boots += 1;
        (known.shards, known.ports, known.sides) = (shards, ports, sides);
    }

    /// Starts the forwarder of a node whose shards all serve, as a node does.
    fn start_forwarder(&mut self, node: usize) {
        let known = &mut self.nodes[node];
        let waits = known.sides.is_empty() || !known.shards.iter().all(|d| d.shard.is_ready());
        let Some(process) = known.process.filter(|_| !waits) else { return };
        let region = self.settings.region(known.cluster, known.id);
        let config = ForwarderConfig {
            identity: known.shards[0].shard.identity(),
            route: |stream, shards| usize::from(shard_of(stream, shards as u16)),
            cpu: None,
            limits: self.settings.forwarding,
            compressed_from: self.settings.compresses.then(|| region.to_string()),
        };
        let sides = std::mem::take(&mut known.sides);
        let forwarder = Forwarder::new(&self.universe, process, sides, &config);
        self.rings.insert(forwarder.ring(), (node, Part::Forwarder));
        known.forwarder = Some(forwarder);
    }

    /// Kills the process of a node, if it runs.
    pub fn kill(&mut self, node: usize) {
        if let Some(process) = self.nodes[node].process {
            self.universe.kill(process);
            self.forget(node);
        }
    }

    /// Cuts the power of a node's host.
    pub fn power_cut(&mut self, node: usize) {
        self.universe.power_cut(self.nodes[node].host);
        self.forget(node);
    }

    /// Cuts the power of all nodes of a cluster; none of them starts again.
    pub fn lose(&mut self, cluster: usize) {
        self.lost = Some(cluster);
        for node in self.clusters[cluster].nodes.clone() {
            self.power_cut(node);
        }
    }

    /// Whether a cluster is dead for good.
    pub fn is_lost(&self, cluster: usize) -> bool {
        self.lost == Some(cluster)
    }

    fn forget(&mut self, node: usize) {
        let known = &mut self.nodes[node];
        known.process = None;
        known.ports.clear();
        for driven in std::mem::take(&mut known.shards) {
            self.rings.remove(&driven.ring);
        }
        known.sides = Sides::default();
        if let Some(forwarder) = known.forwarder.take() {
            self.rings.remove(&forwarder.ring());
            self.shipped.add(shipped_by(&forwarder));
        }
    }

    /// Runs the turn of the shard or forwarder behind a ring: its node and what came of it. None
    /// when that ring is gone.
    pub fn turn(&mut self, ring: RingId) -> Option<(usize, Turned)> {
        let &(node, part) = self.rings.get(&ring)?;
        let Part::Shard(shard) = part else {
            self.nodes[node].forwarder.as_mut().expect("its ring is known").turn();
            return Some((node, Turned::On));
        };
        let shard = &mut self.nodes[node].shards[shard].shard;
        if shard.turn(true) {
            let holder = shard.registry().mode().office.holder;
            let cluster = self.nodes[node].cluster;
            if holder == self.clusters[cluster].id {
                self.acted.insert(cluster);
            }
            self.start_forwarder(node);
            return Some((node, Turned::On));
        }
        let halt = shard.halted().cloned().expect("a shard that stopped says why");
        Some((node, Turned::Halted(halt)))
    }

    /// The shard behind a ring, if it is one's and its node runs.
    pub fn shard(&self, ring: RingId) -> Option<&Shard<VirtualRing>> {
        match self.rings.get(&ring)? {
            &(node, Part::Shard(shard)) => Some(&self.nodes[node].shards[shard].shard),
            (_, Part::Forwarder) => None,
        }
    }
}

impl Fleet {
    fn shard_of(&self, node: usize, stream: u64) -> usize {
        usize::from(shard_of(stream, self.clusters[self.nodes[node].cluster].shards))
    }

    /// Whether a node is of a cluster that takes appends, or did.
    pub fn is_primary(&self, node: usize) -> bool {
        self.acted.contains(&self.nodes[node].cluster)
    }

    /// Index of the primary, as the newest registry says.
    pub fn primary(&self) -> usize {
        let registries = (0..self.nodes.len()).filter_map(|node| self.registries(node).next());
        let newest = registries.map(Registry::mode).max_by_key(|mode| mode.epoch);
        let holder = newest.map_or(0, |mode| mode.office.holder);
        holder.saturating_sub(1) as usize
    }

    /// The newest generation of the primary role.
    pub fn role_epoch(&self) -> u64 {
        let registries = (0..self.nodes.len()).filter_map(|node| self.registries(node).next());
        registries.map(|registry| registry.mode().office.role_epoch).max().unwrap_or(1)
    }

    /// What all forwarders sent so far.
    pub fn shipped(&self) -> Shipped {
        let mut shipped = self.shipped;
        let forwarders = self.nodes.iter().filter_map(|node| node.forwarder.as_ref());
        forwarders.for_each(|forwarder| shipped.add(shipped_by(forwarder)));
        shipped
    }

    /// The way to a stream on a node, if the node runs.
    pub fn port(&self, node: usize, stream: u64) -> Option<Arc<ShardPort>> {
        let shard = self.shard_of(node, stream);
        self.nodes[node].ports.get(shard).cloned()
    }

    /// How far a node shows a stream, if it runs and knows it.
    pub fn shown(&self, node: usize, stream: u64) -> Option<Lsn> {
        let shard = self.shard_of(node, stream);
        self.replica(node, stream)?;
        Some(self.nodes[node].shards.get(shard)?.shard.shown(stream))
    }

    /// The replica of a stream on a node, if the node runs and knows the stream.
    pub fn replica(&self, node: usize, stream: u64) -> Option<&Replica> {
        let shard = self.shard_of(node, stream);
        let driven = self.nodes[node].shards.get(shard)?;
        driven.shard.replicas().find(|replica| replica.stream() == stream)
    }

    /// The registry of clusters as each shard of a node knows it, that of the catalogue first; none
    /// while the node does not run.
    pub fn registries(&self, node: usize) -> impl Iterator<Item = &Registry> {
        let shards = &self.nodes[node].shards;
        let first = self.shard_of(node, 1).min(shards.len());
        shards[first..].iter().chain(&shards[..first]).map(|driven| driven.shard.registry())
    }

    /// How a node fetches a stream, for display.
    pub fn transfer(&self, node: usize, stream: u64) -> Option<String> {
        self.nodes[node].shards.get(self.shard_of(node, stream))?.shard.transfer(stream)
    }

    /// Where readers of a node begin in a stream.
    pub fn floor(&self, node: usize, stream: u64) -> Lsn {
        let driven = self.nodes[node].shards.get(self.shard_of(node, stream));
        driven.map_or(Lsn::ZERO, |driven| driven.shard.floor_of(stream))
    }

    /// Lets a stream begin anew at its leader in a standby. False when it is not to.
    pub fn rebuild(&mut self, node: usize, stream: u64) -> bool {
        let at = self.shard_of(node, stream);
        let driven = self.nodes[node].shards.get_mut(at);
        driven.is_some_and(|driven| driven.shard.rebuild(stream).is_ok())
    }

    /// How a stream stands to its SYNC standby, as a node knows it.
    pub fn sync_status(&self, node: usize, stream: u64) -> Option<SyncStatus> {
        self.nodes[node].shards.get(self.shard_of(node, stream))?.shard.sync_status(stream)
    }

    /// Writes a mark into a stream at a node. False when it does not lead the stream.
    pub fn write_mark(&mut self, node: usize, stream: u64, mark: Mark) -> bool {
        let shard = self.shard_of(node, stream);
        let Some(driven) = self.nodes[node].shards.get_mut(shard) else { return false };
        let written = driven.shard.write_mark(stream, mark).is_ok();
        driven.shard.ring().waker().wake();
        written
    }

    /// What a node knows to be closed in a stream.
    pub fn closed(&self, node: usize, stream: u64) -> Option<Closed> {
        self.nodes[node].shards.get(self.shard_of(node, stream))?.shard.closed(stream)
    }

    /// Streams that any running node of a cluster has.
    pub fn streams(&self, cluster: usize) -> Vec<u64> {
        let nodes = self.clusters[cluster].nodes.iter();
        let shards = nodes.flat_map(|&node| &self.nodes[node].shards);
        let mut streams: Vec<u64> =
            shards.flat_map(|driven| driven.shard.replicas().map(Replica::stream)).collect();
        streams.sort_unstable();
        streams.dedup();
        streams
    }

    /// The node of a cluster that leads a stream and serves, the newest if several think so.
    pub fn leader(&self, cluster: usize, stream: u64) -> Option<usize> {
        let serving = |&node: &usize| {
            let ballot = self.replica(node, stream)?.serving()?;
            Some((ballot, node))
        };
        self.clusters[cluster].nodes.iter().filter_map(serving).max().map(|(_, node)| node)
    }

    /// From where the leader of a stream in a standby takes it: cluster and node. None when there
    /// is no leader, or nobody is connected.
    pub fn upstream(&self, cluster: usize, stream: u64) -> Option<(usize, usize)> {
        let leader = self.leader(cluster, stream)?;
        let driven = self.nodes[leader].shards.get(self.shard_of(leader, stream))?;
        let upstream = driven.shard.upstream(stream)?;
        let from = upstream.cluster as usize - 1;
        Some((from, self.clusters[from].nodes[upstream.node as usize - 1]))
    }

    /// The node that listens at an address.
    pub fn at(&self, addr: &str) -> Option<usize> {
        let addr: SocketAddr = addr.parse().ok()?;
        self.nodes.iter().position(|node| node.addr == addr)
    }
}

fn shipped_by(forwarder: &Forwarder) -> Shipped {
    let stats = forwarder.stats();
    let (recent, bytes) = (stats.chunks_recent, stats.bytes);
    let (plain, compressed) = (stats.bytes_plain, stats.bytes_compressed);
    Shipped { recent, sealed: stats.chunks - recent, bytes, plain, compressed }
}

fn shard_dir(shard: u16) -> PathBuf {
    PathBuf::from(format!("/data/shard-{shard}"))
}
