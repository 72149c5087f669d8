//! `palisade leader transfer`: who leads afterwards, and why it is refused.

use std::time::Duration;

use super::cluster::{Cluster, Node};
use super::run::{eventually, palisade, program, run};

fn transfer(at: &str, stream: u64, to: u32) -> super::run::Done {
    let (stream, to) = (stream.to_string(), to.to_string());
    palisade(&["leader", "transfer", "--at", at, "--stream", &stream, "--to", &to, "--yes"])
}

/// Who leads a stream, as one node says.
fn leader_of(node: &Node, stream: u64) -> Option<u32> {
    let leader = node.status()?.stream(stream)?.ballot.node;
    Some(leader).filter(|leader| *leader != 0)
}

fn append(at: &str, stream: u64, file: &std::path::Path) -> super::run::Done {
    let mut command = program();
    command.args(["append", "--lines", "--at", at, "--stream", &stream.to_string(), "--file"]);
    command.arg(file);
    run(command, Duration::from_secs(90))
}

#[test]
fn the_node_that_an_operator_names_leads_when_the_command_ends() {
    let mut cluster = Cluster::plan("transfer", 3, palisade::config::Role::Primary);
    // Only the operator moves it, however long a disk stands still.
    for timing in cluster.nodes.iter_mut().map(|node| &mut node.config.timing) {
        timing.election = Duration::from_secs(3);
    }
    cluster.format_and_start();
    let stream = cluster.create_stream();
    let file = cluster.dir.path().join("records");
    std::fs::write(&file, "one\ntwo\nthree\n").expect("a file");
    append(&cluster.at(), stream, &file).ok();
    let find = || leader_of(&cluster.nodes[0], stream);
    let mut leader = eventually("a leader", Duration::from_secs(60), find);
    // Round the cluster; every second time a follower is asked, which names the leader.
    for step in 0..6 {
        let to = leader % 3 + 1;
        let asked = if step % 2 == 0 { leader } else { to };
        let node = |id: u32| &cluster.nodes[id as usize - 1];
        let said = transfer(&node(asked).at(), stream, to).ok();
        assert!(said.contains(&format!("node {to} leads stream {stream}")), "{said}");
        let status = node(to).status().expect("it runs");
        let replica = status.stream(stream).expect("it exists");
        assert_eq!(replica.role, palisade::status::ReplicaRole::Leader, "{replica:?}");
        append(&node(to).at(), stream, &file).ok();
        leader = to;
    }
    let last = cluster.nodes[leader as usize - 1].at();
    let read = ["read", "--at", &last, "--stream", &stream.to_string(), "--output", "raw"];
    assert_eq!(palisade(&read).ok(), "onetwothree".repeat(7), "nothing lost, nothing twice");
    let to = (leader % 3 + 1).to_string();
    let (at, id) = (cluster.at(), stream.to_string());
    let json = ["leader", "transfer", "--at", &at, "--stream", &id, "--to", &to, "--json"];
    let line = palisade(&json).json();
    assert_eq!((line["stream"].as_u64(), line["leader"].to_string()), (Some(stream), to.clone()));
    assert_eq!(line["ballot"]["node"].to_string(), to);
    cluster.assert_healthy();
}

#[test]
fn who_cannot_lead_is_refused_with_the_reason() {
    let mut cluster = Cluster::start("no-transfer", 3);
    let at = cluster.at();
    let stream = cluster.create_stream();
    let find = || leader_of(&cluster.nodes[0], stream);
    let leader = eventually("a leader", Duration::from_secs(60), find);
    transfer(&at, stream, leader).refused(1, &["leads-already"]);
    transfer(&at, stream, 9).refused(1, &["not-member", "node 9"]);
    transfer(&at, 99, leader).refused(1, &["unknown-stream", "99"]);
    transfer(&at, stream, 0).refused(2, &["--to"]);
    let gone = leader % 3 + 1;
    cluster.nodes[gone as usize - 1].kill();
    let alive = &cluster.nodes[leader as usize - 1];
    // One that was on its way before the leader misses the node may let the third one lead.
    let (before, refused) = eventually("it is missed", Duration::from_secs(60), || {
        let before = leader_of(alive, stream)?;
        let done = transfer(&cluster.at(), stream, gone);
        done.err.contains("not-up").then_some((before, done))
    });
    refused.refused(1, &["not-up", &format!("node {gone}")]);
    assert_eq!(leader_of(alive, stream), Some(before));
}

#[test]
fn the_first_member_leads_again_after_a_restart() {
    let mut cluster = Cluster::plan("hand-over", 3, palisade::config::Role::Primary);
    for node in &mut cluster.nodes {
        node.config.timing.hand_over = Duration::from_secs(1);
    }
    cluster.format_and_start();
    let stream = cluster.create_stream();
    let file = cluster.dir.path().join("records");
    std::fs::write(&file, "one\n").expect("a file");
    let limit = Duration::from_secs(60);
    let leads = |node: &Node, id| (leader_of(node, stream)? == id).then_some(());
    eventually("node 1 leads", limit, || leads(&cluster.nodes[1], 1));
    cluster.nodes[0].kill();
    let other = || leader_of(&cluster.nodes[1], stream).filter(|id| *id != 1);
    eventually("another one leads", limit, other);
    append(&cluster.at(), stream, &file).ok();
    cluster.nodes[0].spawn();
    cluster.nodes[0].wait_ready();
    eventually("node 1 leads again", limit, || leads(&cluster.nodes[0], 1));
    append(&cluster.nodes[0].at(), stream, &file).ok();
    let last = cluster.nodes[0].at();
    let read = ["read", "--at", &last, "--stream", &stream.to_string(), "--output", "raw"];
    assert_eq!(palisade(&read).ok(), "oneone");
    cluster.assert_healthy();
}
