//! What status, listing, append and read show: the fields that scripts rely on.

use serde_json::Value;

use super::cluster::{Cluster, directory};
use super::reading::unbase64;
use super::run::palisade;

#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    let object = value.as_object().expect("an object");
    for key in keys {
        assert!(object.contains_key(*key), "{key} is missing in {value}");
    }
}

#[test]
fn status_and_listing_have_their_fields() {
    let cluster = Cluster::start("fields", 3);
    let stream = cluster.create_stream();
    cluster.wait_settled(stream, 0);
    let status = palisade(&["status", "--json", "--at", &cluster.nodes[1].at()]).json();
    let top = ["cluster", "node", "streams", "standbys", "borders", "disk", "alarms"];
    assert_keys(&status, &top);
    let cluster_keys = [
        "id",
        "name",
        "role",
        "role_epoch",
        "protection_mode",
        "protection_level",
        "level_since",
        "level_reason",
        "sync_scn",
    ];
    assert_keys(&status["cluster"], &cluster_keys);
    assert_eq!(status["cluster"]["role"], "primary");
    assert_eq!(status["cluster"]["protection_mode"], "performance");
    assert_keys(&status["node"], &["id", "region", "incarnation", "version"]);
    assert_eq!((&status["node"]["id"], &status["node"]["region"]), (&2.into(), &"sh".into()));
    assert_keys(&status["disk"], &["used", "limit", "sync_path"]);
    let paths = ["rwf-dsync", "linked-fdatasync", "fdatasync"];
    let path = status["disk"]["sync_path"].as_str().expect("a word");
    assert!(paths.contains(&path), "sync_path {path}, documented {paths:?}");
    let streams = status["streams"].as_array().expect("a list");
    let ours = streams.iter().find(|entry| entry["id"] == stream).expect("it was created");
    let keys = [
        "id",
        "role",
        "ballot",
        "members",
        "learners",
        "base_lsn",
        "durable_lsn",
        "committed_lsn",
        "end_lsn",
        "scn",
        "upstream",
        "state",
        "since",
        "reason",
        "action",
    ];
    assert_keys(ours, &keys);
    assert_keys(&ours["ballot"], &["round", "node"]);
    assert_eq!(ours["members"], serde_json::json!([1, 2, 3]));
    assert!(ours["since"].as_u64().is_some_and(|since| since > 1 << 60), "{ours}");
    let page = palisade(&["status", "--at", &cluster.at()]).ok();
    assert!(page.contains("role primary") && page.contains("committed"), "{page}");

    let list = palisade(&["stream", "list", "--json", "--at", &cluster.at()]).json();
    let entries = list["streams"].as_array().expect("a list");
    let ours = entries.iter().find(|entry| entry["id"] == stream).expect("it was created");
    assert_keys(ours, &["id", "leader", "base_lsn", "committed_lsn"]);
}

#[test]
fn what_was_appended_is_read_back_from_every_node() {
    let cluster = Cluster::start("bytes", 3);
    let stream = cluster.create_stream();
    let (at, number) = (cluster.at(), stream.to_string());
    let dir = directory("input");
    let file = dir.path().join("redo.bin");
    let bytes: Vec<u8> =
        (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&file, &bytes).expect("a file");
    let file = file.to_str().expect("a plain path");
    let append = ["append", "--json", "--at", &at, "--stream", &number, "--file", file];
    let lines = palisade(&append).ok();
    let acks: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(acks.len(), bytes.len().div_ceil(4096));
    for (ack, seq) in acks.iter().zip(1u64..) {
        assert_keys(ack, &["seq", "outcome", "lsn", "end_lsn", "scn", "level"]);
        assert_eq!((&ack["seq"], &ack["outcome"]), (&seq.into(), &"acked".into()));
    }
    let end = acks.last().expect("many")["end_lsn"].as_u64().expect("a number");
    cluster.wait_settled(stream, end);
    let middle = &acks[10];
    let from = middle["lsn"].to_string();
    for node in &cluster.nodes {
        let at = node.at();
        let lines = palisade(&["read", "--output", "jsonl", "--at", &at, "--stream", &number]).ok();
        let mut whole = Vec::new();
        for (line, ack) in lines.lines().zip(&acks) {
            let line: Value = serde_json::from_str(line).expect("JSON");
            for key in ["lsn", "end_lsn", "scn"] {
                assert_eq!(line[key], ack[key], "{key}");
            }
            whole.extend(unbase64(line["payload_b64"].as_str().expect("a text")));
        }
        assert!(whole == bytes, "node at {at} returns other bytes");
        let to = acks[11]["lsn"].to_string();
        let read = ["read", "--at", &at, "--stream", &number, "--from", &from, "--to", &to];
        let part = palisade(&read).ok();
        assert_eq!(part.lines().count(), 1, "--to is exclusive");
    }
}
