//! Nodes of one cluster that run with different settings: told, not refused.

use std::time::Duration;

use palisade::config::Role;
use palisade::status::Alarm;

use super::cluster::{Cluster, Node};
use super::run::{eventually, palisade};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a node says of peers with other settings.
fn differs(node: &Node) -> Option<Option<Alarm>> {
    let alarms = node.status()?.alarms;
    Some(alarms.into_iter().find(|alarm| alarm.code == "config-differs"))
}

/// The fingerprint that `config check` prints of a node's file.
fn fingerprint(node: &Node) -> String {
    let path = node.toml();
    let check = ["config", "check", "--config", path.to_str().expect("a plain path")];
    let said = palisade(&check).ok();
    let json = palisade(&[&check[..], &["--json"]].concat()).json();
    let fingerprint = json["fingerprint"].as_str().expect("a text");
    assert!(said.trim_end().ends_with(&format!(": ok, fingerprint {fingerprint}")), "{said}");
    fingerprint.to_owned()
}

#[test]
fn a_node_with_other_settings_is_named_and_not_refused() {
    let mut cluster = Cluster::plan("differs", 2, Role::Primary);
    cluster.nodes[1].config.timing.election = Duration::from_secs(2);
    // Two are a majority of two: that there is a leader shows that the other is not refused.
    cluster.format_and_start();
    let stream = cluster.create_stream();
    cluster.wait_settled(stream, 0);
    let prints = [fingerprint(&cluster.nodes[0]), fingerprint(&cluster.nodes[1])];
    assert_ne!(prints[0], prints[1]);
    for (node, other) in [(0, 1), (1, 0)] {
        let name = format!("node {}", other + 1);
        let find = || differs(&cluster.nodes[node]).flatten();
        let alarm = eventually("the alarm", PATIENCE, find);
        for word in [&name, &prints[0], &prints[1], "timing.election", "config check"] {
            assert!(alarm.hint.contains(word), "{word}: {alarm:?}");
        }
        assert!(!alarm.hint.contains("bounds of the program"), "{alarm:?}");
    }

    let node = &mut cluster.nodes[1];
    node.kill();
    node.config.timing.election = Duration::from_secs(1);
    cluster.nodes[0].kill();
    cluster.nodes[0].config.timing.election = Duration::from_secs(1);
    assert_eq!(fingerprint(&cluster.nodes[0]), fingerprint(&cluster.nodes[1]));
    cluster.nodes.iter_mut().for_each(Node::spawn);
    cluster.nodes.iter_mut().for_each(Node::wait_ready);
    cluster.wait_settled(stream, 0);
    cluster.assert_healthy();
}

#[test]
fn the_alarm_ends_when_the_node_comes_back_with_the_right_file() {
    let mut cluster = Cluster::plan("agrees", 2, Role::Primary);
    cluster.nodes[1].config.timing.heartbeat = Duration::from_millis(20);
    cluster.format_and_start();
    let find = |cluster: &Cluster| differs(&cluster.nodes[0]).flatten();
    let alarm = eventually("the alarm", PATIENCE, || find(&cluster));
    assert!(alarm.hint.contains("node 2"), "{alarm:?}");
    // A node that is away says nothing new: what it said last stands.
    cluster.nodes[1].kill();
    assert_eq!(find(&cluster).map(|alarm| alarm.since), Some(alarm.since));
    cluster.nodes[1].config.timing.heartbeat = cluster.nodes[0].config.timing.heartbeat;
    cluster.nodes[1].spawn();
    cluster.nodes[1].wait_ready();
    let gone = || differs(&cluster.nodes[0])?.is_none().then_some(());
    eventually("no alarm", PATIENCE, gone);
    cluster.assert_healthy();
}
