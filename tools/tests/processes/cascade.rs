//! Who takes from whom: both figures of cascading by region, and the death of an upstream.

use std::time::{Duration, Instant};

use palisade::config::{Compression, Role};
use palisade::status::UpstreamStatus;

use super::cluster::{Cluster, Node};
use super::run::{eventually, palisade};

/// Until the first choice: processes start beside other tests.
const FIRST: Duration = Duration::from_secs(60);
/// Until another upstream brings the next records.
const REPLACED: Duration = Duration::from_secs(5);
/// Until a better upstream is taken again.
const RETURNED: Duration = Duration::from_secs(60);

/// A cluster with a node in each region.
fn plan(name: &str, id: u32, role: Role, regions: &[&str]) -> Cluster {
    let mut cluster = Cluster::plan(name, regions.len() as u32, role);
    for node in &mut cluster.nodes {
        node.config.cluster.id = id;
        node.config.cluster.name = name.to_owned();
        for (member, region) in node.config.members.iter_mut().zip(regions) {
            member.region = (*region).to_owned();
        }
        let at = node.config.node.id as usize - 1;
        node.config.node.region = regions[at].to_owned();
    }
    cluster
}

/// A running standby of one node that asks the nodes of a cluster.
fn standby(name: &str, id: u32, region: &str, of: &Cluster) -> Cluster {
    let mut cluster = plan(name, id, Role::Standby, &[region]);
    let endpoints = of.nodes.iter().filter_map(|node| node.config.node.listen).collect();
    cluster.nodes[0].config.upstream.endpoints = endpoints;
    cluster.format_and_start();
    cluster
}

fn append(primary: &Cluster, stream: u64) -> u64 {
    append_lines(primary, stream, "one\ntwo\n")
}

/// Appends lines; gives the end of the last.
fn append_lines(primary: &Cluster, stream: u64, lines: &str) -> u64 {
    let file = primary.dir.path().join("records");
    std::fs::write(&file, lines).expect("a file");
    let (stream, file) = (stream.to_string(), file.to_str().expect("a plain path").to_owned());
    let at = primary.at();
    let append = ["append", "--at", &at, "--stream", &stream, "--lines", "--json", "--file", &file];
    let out = palisade(&append).ok();
    let last: serde_json::Value =
        serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    last["end_lsn"].as_u64().expect("a position")
}

fn upstream(node: &Node, stream: u64) -> Option<UpstreamStatus> {
    node.status()?.stream(stream)?.upstream
}

/// Bytes that came to a node over the border from SH.
fn from_sh(node: &Node) -> u64 {
    let borders = node.status().map(|status| status.borders).unwrap_or_default();
    borders.iter().filter(|border| border.from == "sh").map(|border| border.bytes).sum()
}

/// Waits until a standby takes the stream from there, in a good state.
fn wait_upstream(node: &Node, stream: u64, from: (u32, u32), limit: Duration) {
    let (cluster, id) = from;
    let expected = Some(UpstreamStatus { cluster, node: id });
    let mut last = None;
    let begun = Instant::now();
    while begun.elapsed() < limit {
        last = node.status().and_then(|status| status.stream(stream).cloned());
        if last.as_ref().is_some_and(|s| s.upstream == expected && s.state == "sync") {
            return;
        }
    }
    panic!("not from {from:?} in time: {last:#?}\n{}", node.log());
}

/// Waits until a standby has everything below `end`.
fn wait_committed(node: &Node, stream: u64, end: u64, limit: Duration) {
    eventually("the standby has the records", limit, || {
        (node.status()?.stream(stream)?.committed_lsn >= end).then_some(())
    });
}

fn leader(primary: &Cluster, stream: u64) -> u32 {
    eventually("the stream has a leader", FIRST, || {
        let status = primary.nodes[0].status()?;
        Some(status.stream(stream)?.ballot.node).filter(|node| *node != 0)
    })
}

#[test]
fn a_standby_takes_from_the_primarys_replica_in_its_region_and_comes_back_to_it() {
    let mut primary = plan("figure-a", 1, Role::Primary, &["sh", "sh", "hz"]);
    primary.format_and_start();
    let stream = primary.create_stream();
    let s1 = standby("figure-a-s1", 2, "sh", &primary);
    let s2 = standby("figure-a-s2", 3, "hz", &primary);
    let (s1, s2) = (&s1.nodes[0], &s2.nodes[0]);
    let end = append(&primary, stream);
    [s1, s2].iter().for_each(|node| wait_committed(node, stream, end, FIRST));
    wait_upstream(s2, stream, (1, 3), FIRST);
    let from = upstream(s1, stream).expect("it has one");
    assert!(from.cluster == 1 && [1, 2].contains(&from.node), "in SH: {from:?}");

    primary.nodes[2].kill();
    let end = append(&primary, stream);
    wait_committed(s2, stream, end, REPLACED);
    let from = upstream(s2, stream).expect("it has another");
    assert!(from != UpstreamStatus { cluster: 1, node: 3 }, "{from:?}");
    wait_committed(s1, stream, end, REPLACED);

    primary.nodes[2].spawn();
    primary.nodes[2].wait_ready();
    wait_upstream(s2, stream, (1, 3), RETURNED);
    let end = append(&primary, stream);
    wait_committed(s2, stream, end, REPLACED);
    let reason = s2.status().and_then(|status| Some(status.stream(stream)?.reason.clone()));
    assert!(reason.is_some_and(|reason| reason.contains("in the region")));
}

#[test]
fn one_standby_crosses_the_border_and_the_other_takes_from_it() {
    let mut primary = plan("figure-b", 1, Role::Primary, &["sh", "sh", "sh"]);
    primary.format_and_start();
    let stream = primary.create_stream();
    let mut standbys =
        [standby("figure-b-s1", 2, "hz", &primary), standby("figure-b-s2", 3, "hz", &primary)];
    let lead = leader(&primary, stream);
    let end = append(&primary, stream);
    standbys.iter().for_each(|s| wait_committed(&s.nodes[0], stream, end, FIRST));
    let crosses = |s: &Cluster| upstream(&s.nodes[0], stream).map(|from| from.cluster == 1);
    let crosser = eventually("one crosses", FIRST, || {
        match (crosses(&standbys[0])?, crosses(&standbys[1])?) {
            (true, false) => Some(0),
            (false, true) => Some(1),
            _ => None,
        }
    });
    let other = 1 - crosser;
    wait_upstream(&standbys[crosser].nodes[0], stream, (1, lead), FIRST);
    wait_upstream(&standbys[other].nodes[0], stream, (crosser as u32 + 2, 1), FIRST);

    let crossed = || standbys.each_ref().map(|s| from_sh(&s.nodes[0]));
    let (before, begin) = (crossed(), end);
    let lines = format!("{}\n", "x".repeat(250)).repeat(2000);
    let end = append_lines(&primary, stream, &lines);
    standbys.iter().for_each(|s| wait_committed(&s.nodes[0], stream, end, REPLACED));
    let came = |at: usize| crossed()[at] - before[at];
    eventually("the bytes are counted", REPLACED, || (came(crosser) >= end - begin).then_some(()));
    assert!(came(other) < (end - begin) / 4, "{} of {} crossed twice", came(other), end - begin);

    standbys[crosser].nodes[0].kill();
    let end = append(&primary, stream);
    wait_committed(&standbys[other].nodes[0], stream, end, REPLACED);
    assert_eq!(crosses(&standbys[other]), Some(true), "it crosses itself");

    standbys[crosser].nodes[0].spawn();
    standbys[crosser].nodes[0].wait_ready();
    wait_upstream(&standbys[crosser].nodes[0], stream, (other as u32 + 2, 1), RETURNED);
    let end = append(&primary, stream);
    standbys.iter().for_each(|s| wait_committed(&s.nodes[0], stream, end, REPLACED));
    assert_eq!(crosses(&standbys[other]), Some(true), "nothing changes for it");

    // It keeps its connections and does nothing.
    standbys[other].nodes[0].pause();
    let end = append(&primary, stream);
    wait_committed(&standbys[crosser].nodes[0], stream, end, REPLACED);
    standbys[other].nodes[0].resume();
}

#[test]
fn what_crosses_a_border_is_compressed_and_the_log_is_the_same() {
    let mut primary = plan("lz4", 1, Role::Primary, &["sh"]);
    primary.nodes[0].config.network.forward_compression = Compression::Lz4;
    primary.format_and_start();
    let stream = primary.create_stream();
    let (far, near) =
        (standby("lz4-far", 2, "hz", &primary), standby("lz4-near", 3, "sh", &primary));
    let at = primary.at();
    for (id, region, standby) in [("2", "hz", &far), ("3", "sh", &near)] {
        let endpoint = standby.at();
        let add = ["standby", "add", "--cluster", id, "--name", "s", "--region", region];
        let how = ["--endpoint", &endpoint, "--transfer", "async", "--yes", "--at", &at];
        palisade(&[&add[..], &how].concat()).ok();
    }
    let end = append(&primary, stream);
    [&far, &near].iter().for_each(|s| wait_committed(&s.nodes[0], stream, end, FIRST));
    let (before, begin) = (from_sh(&far.nodes[0]), end);
    let line = |at: u32| format!("order {at} of customer {} is paid and delivered\n", at % 97);
    let lines: String = (0..20_000).map(line).collect();
    let end = append_lines(&primary, stream, &lines);
    [&far, &near].iter().for_each(|s| wait_committed(&s.nodes[0], stream, end, FIRST));
    let sent = |node: &Node| node.status()?.node.compression;
    let sent = eventually("it is counted", REPLACED, || {
        sent(&primary.nodes[0]).filter(|sent| sent.plain_bytes >= (end - begin) / 2)
    });
    assert!(sent.sent_bytes < sent.plain_bytes / 2 && sent.compressions > 0, "{sent:?}");
    let crossed = from_sh(&far.nodes[0]) - before;
    assert!(crossed < (end - begin) / 2, "{crossed} of {} bytes crossed", end - begin);
    let stream = stream.to_string();
    let read = |cluster: &Cluster| {
        let at = cluster.at();
        palisade(&["read", "--at", &at, "--stream", &stream, "--output", "raw"]).ok()
    };
    let log = read(&primary);
    assert!(log.ends_with(&lines.replace('\n', "")));
    // A standby shows what it knows to be replayable.
    for standby in [&far, &near] {
        eventually("it shows all of it", FIRST, || (read(standby) == log).then_some(()));
    }
}
