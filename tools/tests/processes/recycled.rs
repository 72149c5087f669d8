//! Standbys behind a log that its primary has let go: one that is added later, and one that was
//! down for too long.

use std::path::Path;
use std::time::Duration;

use palisade::config::Role;

use super::cluster::{Cluster, Node};
use super::registry::{at, end_of, standby_of};
use super::run::{eventually, palisade};
use super::switchover::switchover;

const SEEN_MAX: Duration = Duration::from_secs(90);
/// Records that fill several segments.
const BULK: usize = 320;
const BULK_BYTES: usize = 64 << 10;

fn append_file(
    cluster: &Cluster,
    stream: u64,
    file: &Path,
    more: &[&str],
) -> Vec<serde_json::Value> {
    let (stream, at) = (stream.to_string(), cluster.at());
    let file = file.to_str().expect("a plain path");
    let words = ["append", "--at", &at, "--stream", &stream, "--json", "--file", file];
    let out = palisade(&[&words[..], more].concat()).ok();
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Appends more than a segment holds, and where it ends.
fn append_bulk(cluster: &Cluster, stream: u64) -> u64 {
    let file = cluster.dir.path().join("bulk");
    std::fs::write(&file, vec![b'x'; BULK * BULK_BYTES]).expect("a file");
    let bytes = BULK_BYTES.to_string();
    end_of(&append_file(cluster, stream, &file, &["--record-bytes", &bytes]))
}

fn append_lines(cluster: &Cluster, stream: u64, lines: &str, producer: &str) -> u64 {
    let file = cluster.dir.path().join("lines");
    std::fs::write(&file, lines).expect("a file");
    end_of(&append_file(cluster, stream, &file, &["--lines", "--producer", producer]))
}

/// Appends and lets go until the space of what was first comes back at every node. Where that ends.
fn recycle(cluster: &Cluster, stream: u64) -> u64 {
    let mut rounds = 0;
    eventually("the space comes back", SEEN_MAX, || {
        let end = append_bulk(cluster, stream);
        rounds += 1;
        cluster.wait_settled(stream, end);
        at(&cluster.at(), &format!("stream truncate --yes --stream {stream} --to {end}")).ok();
        let all = (rounds * BULK * BULK_BYTES) as u64;
        let is_less = |node: &Node| node.status().is_some_and(|seen| seen.disk.used < all);
        cluster.nodes.iter().all(is_less).then_some(end)
    })
}

fn read(node: &Node, stream: u64, from: u64, to: u64) -> super::run::Done {
    let words = format!("read --output jsonl --stream {stream} --from {from} --to {to}");
    at(&node.at(), &words)
}

/// Waits until a standby shows everything up to `end`, from where it is read.
fn wait_shown(of: &Cluster, stream: u64, from: u64, end: u64) {
    eventually("it is shown", SEEN_MAX, || {
        let records = read(&of.nodes[0], stream, from, end).out;
        let last: serde_json::Value = serde_json::from_str(records.lines().last()?).ok()?;
        (last["end_lsn"].as_u64()? >= end).then_some(())
    });
}

/// A primary that keeps so much of a stream for its standbys.
fn primary_that_keeps(name: &str, bytes: u64) -> Cluster {
    let mut cluster = Cluster::plan(name, 3, Role::Primary);
    cluster.nodes.iter_mut().for_each(|node| node.config.log.pin_bytes_max = bytes);
    cluster.format_and_start();
    cluster
}

/// The words of the alarm that a standby is not kept for, where `palisade status` shows it.
fn not_kept(cluster: &Cluster) -> Option<String> {
    cluster.nodes.iter().find_map(|node| {
        let status = palisade(&["status", "--json", "--at", &node.at()]).json();
        let alarms = status["alarms"].as_array()?.clone();
        let alarm = alarms.into_iter().find(|alarm| alarm["code"] == "standby-not-kept-for")?;
        Some(alarm["hint"].as_str()?.to_owned())
    })
}

fn register(primary: &Cluster, standby: &Cluster) {
    let words = format!(
        "standby add --cluster 2 --name s2 --region hz --endpoint {} --transfer async --yes",
        standby.at()
    );
    at(&primary.at(), &words).ok();
    at(&primary.at(), "primary set --transfer async --yes").ok();
}

#[test]
fn a_standby_that_is_added_to_a_recycled_log_begins_where_that_begins() {
    let primary = Cluster::start("recycled", 3);
    let stream = primary.create_stream();
    append_lines(&primary, stream, "a\nb\n", "7");
    let bulk = recycle(&primary, stream);
    append_lines(&primary, stream, "c\nd\n", "8");
    let end = append_lines(&primary, stream, "e\n", "9");

    let mut standby = standby_of(&primary, 2);
    register(&primary, &standby);
    wait_shown(&standby, stream, bulk, end);
    let node = &standby.nodes[0];
    let base = node.status().and_then(|it| Some(it.stream(stream)?.base_lsn)).expect("a base");
    assert!(base > 0 && base <= bulk, "it begins at {base}, readers of the primary at {bulk}");
    read(node, stream, 0, end).refused(1, &[&base.to_string()]);
    let records = read(node, stream, bulk, end).ok();
    assert_eq!(records, read(&primary.nodes[0], stream, bulk, end).ok());
    assert_eq!(records.lines().count(), 3, "{records}");

    // It knows the same after a restart.
    standby.nodes[0].kill();
    standby.nodes[0].spawn();
    standby.nodes[0].wait_ready();
    wait_shown(&standby, stream, bulk, end);
    read(&standby.nodes[0], stream, 0, end).refused(1, &[&base.to_string()]);
    assert_eq!(read(&standby.nodes[0], stream, bulk, end).ok(), records);

    switchover(&primary, 2);
    let there = append_lines(&standby, stream, "f\n", "10");
    wait_shown(&primary, stream, bulk, there);
    let records = read(&standby.nodes[0], stream, bulk, there).ok();
    assert_eq!(records, read(&primary.nodes[0], stream, bulk, there).ok());
    assert_eq!(records.lines().count(), 4, "{records}");
}

#[test]
fn a_standby_that_was_down_goes_on_with_what_was_kept_for_it() {
    let primary = primary_that_keeps("kept", 1 << 30);
    let stream = primary.create_stream();
    let mut standby = standby_of(&primary, 2);
    register(&primary, &standby);
    let first = append_lines(&primary, stream, "a\nb\n", "7");
    wait_shown(&standby, stream, 0, first);
    standby.nodes[0].kill();
    for _ in 0..3 {
        let end = append_bulk(&primary, stream);
        primary.wait_settled(stream, end);
        at(&primary.at(), &format!("stream truncate --yes --stream {stream} --to {end}")).ok();
    }
    let end = append_lines(&primary, stream, "c\nd\n", "8");
    primary.wait_settled(stream, end);
    let all = (3 * BULK * BULK_BYTES) as u64;
    let pinned = |node: &Node| {
        let status = node.status()?;
        let pins = status.stream(stream)?.pins.clone();
        assert!(status.disk.used >= all, "it is let go: {status:?}");
        pins.iter().any(|pin| pin.cluster == 2 && pin.bytes >= all && !pin.is_lost).then_some(())
    };
    let all_pin = || primary.nodes.iter().all(|node| pinned(node).is_some()).then_some(());
    eventually("every node keeps what it lacks", SEEN_MAX, all_pin);

    standby.nodes[0].spawn();
    standby.nodes[0].wait_ready();
    wait_shown(&standby, stream, end - 64, end);
    let status = standby.nodes[0].status().expect("it runs");
    let seen = status.stream(stream).expect("it has it");
    assert_eq!((&seen.state[..], seen.base_lsn), ("sync", 0), "{}", seen.reason);
    assert_eq!(not_kept(&primary), None);
    // Nobody lacks it any more.
    eventually("the space comes back", SEEN_MAX, || {
        let is_less = |node: &Node| node.status().is_some_and(|seen| seen.disk.used < all);
        primary.nodes.iter().all(is_less).then_some(())
    });
}

#[test]
fn a_standby_that_was_down_for_too_long_is_built_anew() {
    let primary = primary_that_keeps("too-long", 1 << 20);
    let stream = primary.create_stream();
    let mut standby = standby_of(&primary, 2);
    register(&primary, &standby);
    let first = append_lines(&primary, stream, "a\nb\n", "7");
    wait_shown(&standby, stream, 0, first);
    let words = format!("standby rebuild --stream {stream} --yes");
    at(&standby.at(), &words).refused(1, &["source-has-a-gap"]);
    at(&primary.at(), &words).refused(1, &["standby"]);
    standby.nodes[0].kill();
    let bulk = recycle(&primary, stream);
    let end = append_lines(&primary, stream, "c\nd\n", "8");
    primary.wait_settled(stream, end);
    let hint = eventually("its primary says so", SEEN_MAX, || not_kept(&primary));
    assert!(hint.contains("standby 2 ") && hint.contains(&format!("stream {stream} ")), "{hint}");

    standby.nodes[0].spawn();
    standby.nodes[0].wait_ready();
    let state = || {
        let status = standby.nodes[0].status()?;
        let seen = status.stream(stream)?;
        (seen.state == "source-has-a-gap").then(|| seen.action.clone())
    };
    let action = eventually("it has a gap", SEEN_MAX, state);
    assert!(action.contains("palisade standby rebuild"), "{action}");
    // What it has is served meanwhile.
    assert_eq!(read(&standby.nodes[0], stream, 0, first).ok().lines().count(), 2);
    eventually("it takes the word", SEEN_MAX, || {
        (at(&standby.at(), &words).code == Some(0)).then_some(())
    });
    wait_shown(&standby, stream, bulk, end);
    let records = read(&standby.nodes[0], stream, bulk, end).ok();
    assert_eq!(records, read(&primary.nodes[0], stream, bulk, end).ok());
    assert_eq!(records.lines().count(), 2, "{records}");
    let is_over = || not_kept(&primary).is_none().then_some(());
    eventually("it is kept for again", SEEN_MAX, is_over);
    let base = standby.nodes[0].status().and_then(|it| Some(it.stream(stream)?.base_lsn));
    read(&standby.nodes[0], stream, 0, end).refused(1, &[&base.expect("a base").to_string()]);
}
