//! `palisade stream truncate`: each node lets go by itself.

use super::cluster::{Cluster, Node};
use super::run::{Done, palisade};

/// The end of so many records of one line each, and where the first half of them ends.
fn append(cluster: &Cluster, stream: u64, count: usize) -> (u64, u64) {
    let file = cluster.dir.path().join("records");
    let lines: Vec<String> = (0..count).map(|n| format!("record {n}\n")).collect();
    std::fs::write(&file, lines.concat()).expect("a file");
    let (stream, at) = (stream.to_string(), cluster.at());
    let file = file.to_str().expect("a plain path");
    let append = ["append", "--at", &at, "--stream", &stream, "--lines", "--json", "--file", file];
    let out = palisade(&append).ok();
    let end = |line: &str| -> u64 {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["end_lsn"].as_u64().expect("a position")
    };
    let ends: Vec<u64> = out.lines().map(end).collect();
    (ends[count / 2 - 1], ends[count - 1])
}

fn truncate(at: &str, stream: u64, to: u64, more: &[&str]) -> Done {
    let (stream, to) = (stream.to_string(), to.to_string());
    let base = ["stream", "truncate", "--yes", "--json", "--at", at, "--stream", &stream];
    palisade(&[&base[..], &["--to", &to], more].concat())
}

fn read(node: &Node, stream: u64, from: u64) -> Done {
    let (stream, from) = (stream.to_string(), from.to_string());
    palisade(&["read", "--at", &node.at(), "--stream", &stream, "--from", &from])
}

#[test]
fn each_node_lets_go_by_itself_and_says_from_where_it_can_be_read() {
    let mut cluster = Cluster::start("truncation", 3);
    let stream = cluster.create_stream();
    let (middle, end) = append(&cluster, stream, 100);
    cluster.wait_settled(stream, end);
    let two = format!("{},{}", cluster.nodes[0].at(), cluster.nodes[1].at());

    let planned = truncate(&two, stream, middle, &["--dry-run"]).ok();
    assert_eq!(planned.lines().count(), 2, "{planned}");
    assert!(planned.contains(&format!("\"base_lsn\":{middle}")), "{planned}");
    cluster.nodes.iter().for_each(|node| drop(read(node, stream, 0).ok()));

    let done = truncate(&two, stream, middle, &[]).ok();
    assert_eq!(done.lines().count(), 2, "{done}");
    for (at, node) in cluster.nodes.iter().enumerate() {
        match at {
            0 | 1 => read(node, stream, 0).refused(1, &[&middle.to_string()]),
            _ => assert_eq!(read(node, stream, 0).ok().lines().count(), 100),
        }
        assert_eq!(read(node, stream, middle).ok().lines().count(), 50);
    }
    // What was let go stays so, and a later word for less changes nothing.
    let (_, end) = append(&cluster, stream, 2);
    cluster.wait_settled(stream, end);
    cluster.nodes[0].kill();
    cluster.nodes[0].spawn();
    cluster.nodes[0].wait_ready();
    let one = cluster.nodes[0].at();
    let less = truncate(&one, stream, 0, &[]).json();
    assert_eq!(less["base_lsn"], middle);
    read(&cluster.nodes[0], stream, 0).refused(1, &[&middle.to_string()]);
}

#[test]
fn what_cannot_be_let_go_is_refused() {
    let cluster = Cluster::start("no-truncation", 1);
    let stream = cluster.create_stream();
    let (middle, end) = append(&cluster, stream, 4);
    for more in [&[][..], &["--dry-run"]] {
        truncate(&cluster.at(), stream, end + 8, more).refused(1, &[&end.to_string()]);
        truncate(&cluster.at(), stream, middle + 1, more).refused(1, &["multiples of 8"]);
        truncate(&cluster.at(), 99, 0, more).refused(1, &["no stream 99"]);
    }
    truncate(&cluster.at(), 1, 0, &[]).refused(1, &["the cluster's own"]);
    assert_eq!(read(&cluster.nodes[0], stream, 0).ok().lines().count(), 4);
}
