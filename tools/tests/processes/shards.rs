//! Nodes with several shards: every stream can be used from any node, and any node shows all.

use std::time::Duration;

use palisade::config::Role;

use super::cluster::{Cluster, Node, directory};
use super::reading::read_once;
use super::run::{eventually, palisade};

const STREAMS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes with so many shards each, not formatted yet.
fn plan(name: &str, nodes: u32, role: Role, shards: u16) -> Cluster {
    let mut cluster = Cluster::plan(name, nodes, role);
    for node in &mut cluster.nodes {
        node.config.node.shards = shards;
    }
    cluster
}

fn create(cluster: &Cluster) -> Vec<u64> {
    let count = STREAMS.to_string();
    let made = palisade(&["stream", "create", "--count", &count, "--json", "--at", &cluster.at()]);
    let ids = made.json()["streams"].as_array().expect("a list").clone();
    let ids: Vec<u64> = ids.iter().map(|id| id.as_u64().expect("an id")).collect();
    ids.iter().for_each(|id| cluster.wait_votes(*id));
    ids
}

/// Appends a few records to a stream; where the last one ends.
fn append(at: &str, stream: u64, first: u64) -> u64 {
    let dir = directory("input");
    let file = dir.path().join("records");
    let lines: Vec<String> = (first..first + 50).map(|n| format!("{stream}-{n}\n")).collect();
    std::fs::write(&file, lines.concat()).expect("a file");
    let (stream, first) = (stream.to_string(), first.to_string());
    let file = file.to_str().expect("a plain path");
    let done = palisade(&[
        "append",
        "--at",
        at,
        "--stream",
        &stream,
        "--lines",
        "--file",
        file,
        "--json",
        "--producer",
        "7",
        "--first-sequence",
        &first,
    ]);
    let out = done.ok();
    assert_eq!(out.lines().count(), 50, "{out}");
    let last: serde_json::Value =
        serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["outcome"], "acked", "{last}");
    last["end_lsn"].as_u64().expect("a position")
}

/// A node returns the same records of a stream as all others, `count` of them.
fn assert_same(nodes: &[&Node], streams: &[u64], count: usize) {
    for stream in streams {
        let of = |node: &&Node| read_once(&node.at(), *stream, 0, true).records;
        let first = of(&nodes[0]);
        assert_eq!(first.len(), count, "stream {stream}");
        for (seen, n) in first.iter().zip(1..) {
            assert_eq!(seen.payload, format!("{stream}-{n}").into_bytes());
        }
        for node in &nodes[1..] {
            assert_eq!(of(node), first, "stream {stream} on {}\n{}", node.at(), node.log());
        }
    }
}

/// `status --json` and `stream list --json` of one node name every stream as it is now.
fn assert_shows_all(node: &Node, ends: &[(u64, u64)]) {
    let at = node.at();
    let status = palisade(&["status", "--json", "--at", &at]).json();
    let list = palisade(&["stream", "list", "--json", "--at", &at]).json();
    let ids = |json: &serde_json::Value| -> Vec<u64> {
        let all = json["streams"].as_array().expect("a list");
        all.iter().map(|stream| stream["id"].as_u64().expect("an id")).collect()
    };
    let expected: Vec<u64> = [0, 1].into_iter().chain(ends.iter().map(|(id, _)| *id)).collect();
    assert_eq!(ids(&status), expected, "{status}");
    assert_eq!(ids(&list), expected, "{list}");
    for (id, end) in ends {
        for shown in [&status, &list] {
            let all = shown["streams"].as_array().expect("a list");
            let stream = all.iter().find(|stream| stream["id"] == *id).expect("listed");
            assert_eq!(stream["committed_lsn"].as_u64(), Some(*end), "{shown}");
            assert!(stream.get("age_us").is_none(), "{shown}");
        }
    }
}

#[test]
fn one_node_with_two_shards_shows_every_shard_as_it_is() {
    let mut cluster = plan("two-shards", 1, Role::Primary, 2);
    cluster.format_and_start();
    let streams = create(&cluster);
    for round in 0..3 {
        // Right after the acks: no shard may be shown as of its last report.
        let first = round * 50 + 1;
        let ends: Vec<(u64, u64)> =
            streams.iter().map(|id| (*id, append(&cluster.at(), *id, first))).collect();
        assert_shows_all(&cluster.nodes[0], &ends);
    }
    cluster.nodes[0].kill();
    cluster.nodes[0].spawn();
    cluster.nodes[0].wait_ready();
    assert_same(&[&cluster.nodes[0]], &streams, 150);
    cluster.assert_healthy();
}

#[test]
fn three_nodes_with_two_shards_and_a_standby_with_one() {
    let mut cluster = plan("shards", 3, Role::Primary, 2);
    cluster.format_and_start();
    let mut standby = plan("shards-standby", 1, Role::Standby, 1);
    let node = &mut standby.nodes[0];
    node.config.cluster.id = 2;
    node.config.upstream.endpoints =
        cluster.nodes.iter().map(|node| node.config.node.listen.expect("it listens")).collect();
    standby.format_and_start();

    let streams = create(&cluster);
    let mut ends = Vec::new();
    for (at, stream) in streams.iter().enumerate() {
        // Each by another node: it redirects to the leader of that stream.
        ends.push((*stream, append(&cluster.nodes[at % 3].at(), *stream, 1)));
    }
    let settle = |cluster: &Cluster, ends: &[(u64, u64)]| {
        for (stream, end) in ends {
            cluster.wait_settled(*stream, *end);
        }
    };
    settle(&cluster, &ends);
    cluster.nodes.iter().for_each(|node| assert_shows_all(node, &ends));
    let all: Vec<&Node> = cluster.nodes.iter().collect();
    assert_same(&all, &streams, 50);

    for victim in 0..3 {
        cluster.nodes[victim].kill();
        let first = 51 + 50 * victim as u64;
        for (stream, end) in &mut ends {
            *end = append(&cluster.at(), *stream, first);
        }
        cluster.nodes[victim].spawn();
        cluster.nodes[victim].wait_ready();
    }
    settle(&cluster, &ends);
    eventually("the standby has everything", PATIENCE, || {
        let status = standby.nodes[0].status()?;
        // It shows what is closed in all streams, which is a moment after it arrived.
        let replayable = status.cluster.sync_scn;
        let has = |(id, end): &(u64, u64)| {
            let stream = status.stream(*id)?;
            Some(stream.committed_lsn >= *end && stream.scn <= replayable)
        };
        ends.iter().all(|end| has(end) == Some(true)).then_some(())
    });
    let all: Vec<&Node> = cluster.nodes.iter().chain(&standby.nodes).collect();
    assert_same(&all, &streams, 200);
    all.iter().for_each(|node| assert_shows_all(node, &ends));
    cluster.assert_healthy();
}
