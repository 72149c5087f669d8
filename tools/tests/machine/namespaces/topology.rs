//! Clusters in regions: started, registered, asked who takes from whom.

use std::net::SocketAddr;
use std::time::Duration;

use palisade::config::Role;
use palisade::status::{ReplicaRole, StreamStatus, UpstreamStatus};

use super::super::cluster::{Cluster, Node};
use super::super::run::{eventually, palisade, within};
use super::region::Regions;

/// Until everybody has found everybody.
pub const FOUND: Duration = Duration::from_secs(60);

/// A SYNC standby with a net timeout that no slow machine reaches.
pub const SYNC: &str = "--transfer sync --net-timeout 20000 --health-check 500";

/// A cluster with a node in each of `places`, not formatted yet.
fn plan(regions: &Regions, id: u32, role: Role, places: &[&str]) -> Cluster {
    let name = format!("cluster-{id}");
    let mut cluster = Cluster::plan(&name, places.len() as u32, role);
    let addr = |at: usize| {
        let port = 7000 + 10 * id as u16 + at as u16;
        SocketAddr::from((regions.addr(places[at]), port))
    };
    for (at, node) in cluster.nodes.iter_mut().enumerate() {
        let config = &mut node.config;
        (config.cluster.id, config.cluster.name) = (id, name.clone());
        config.node.region = places[at].to_owned();
        config.node.listen = Some(addr(at));
        config.node.advertise = Some(addr(at));
        config.node.insecure_network = true;
        for (at, member) in config.members.iter_mut().enumerate() {
            (member.addr, member.region) = (addr(at), places[at].to_owned());
        }
        node.launcher = regions.launcher(places[at]);
    }
    cluster
}

/// A running primary.
pub fn primary(regions: &Regions, places: &[&str]) -> Cluster {
    let mut cluster = plan(regions, 1, Role::Primary, places);
    cluster.format_and_start();
    cluster
}

/// A running standby of three nodes in one region, registered at the primary with `about`.
pub fn standby(regions: &Regions, id: u32, region: &str, of: &Cluster, about: &str) -> Cluster {
    let mut cluster = plan(regions, id, Role::Standby, &[region; 3]);
    let endpoints: Vec<_> = of.nodes.iter().filter_map(|node| node.config.node.listen).collect();
    for node in &mut cluster.nodes {
        node.config.upstream.endpoints = endpoints.clone();
    }
    cluster.format_and_start();
    let there = cluster.at();
    let words = format!("--cluster {id} --name s{id} --region {region} --endpoint {there} {about}");
    ask(of, &format!("standby add {words} --yes"));
    cluster
}

/// `palisade WORDS.. --at` the nodes of a cluster, which must do it.
pub fn ask(cluster: &Cluster, words: &str) -> String {
    let at = cluster.at();
    let words: Vec<&str> = words.split(' ').chain(["--at", &at]).collect();
    palisade(&words).ok()
}

/// Sets the mode, and waits until that is the level, at every node of the primary.
pub fn set_mode(primary: &Cluster, mode: &str) {
    ask(primary, &format!("mode set {mode}"));
    wait_level(primary, mode, FOUND);
}

/// Waits until every node of the primary says that this level holds.
pub fn wait_level(primary: &Cluster, level: &str, limit: Duration) {
    let mut last = None;
    let found = within(limit, || {
        let holds = |node: &Node| {
            last = node.status().map(|status| status.cluster);
            let known = serde_json::to_value(last.as_ref()?.protection_level).ok()?;
            (known == level).then_some(())
        };
        primary.nodes.iter().try_for_each(holds)
    });
    assert!(found.is_some(), "{level}: {last:#?}");
}

/// The node that leads a stream, and what it says of it.
pub fn leader(cluster: &Cluster, stream: u64) -> Option<(&Node, StreamStatus)> {
    cluster.nodes.iter().find_map(|node| {
        let seen = node.status()?.stream(stream)?.clone();
        (seen.role == ReplicaRole::Leader).then_some((node, seen))
    })
}

/// Waits until the leader of a standby takes the stream from one of `from`, in a good state.
pub fn wait_upstream(standby: &Cluster, stream: u64, from: &[(u32, u32)], limit: Duration) {
    let mut last = None;
    let found = within(limit, || {
        last = leader(standby, stream).map(|(_, seen)| seen);
        let seen = last.as_ref()?;
        let UpstreamStatus { cluster, node } = seen.upstream?;
        (from.contains(&(cluster, node)) && seen.state == "sync").then_some(())
    });
    assert!(found.is_some(), "not from {from:?} in {limit:?}: {last:#?}");
}

/// Waits until every node of a cluster has everything below `end`.
pub fn wait_committed(cluster: &Cluster, stream: u64, end: u64, limit: Duration) {
    eventually("every node has the records", limit, || {
        let has = |node: &Node| (node.status()?.stream(stream)?.committed_lsn >= end).then_some(());
        cluster.nodes.iter().try_for_each(has)
    });
}
