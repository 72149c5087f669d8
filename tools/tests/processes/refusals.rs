//! What a node refuses, with which exit code, and whether the message names cause and fix.

use std::time::{Duration, Instant};

use palisade::config::Role;

use super::cluster::{Cluster, directory};
use super::run::palisade;

#[test]
fn a_directory_has_one_process() {
    let cluster = Cluster::start("in-use", 1);
    let node = &cluster.nodes[0];
    let other = super::cluster::port();
    let second = palisade(&["node", "--config", node.toml().to_str().expect("a plain path")]);
    second.refused(73, &[node.data(), "in use"]);
    drop(other);
    assert!(node.status().is_some(), "the first goes on");
}

#[test]
fn a_foreign_directory_is_refused() {
    let mut cluster = Cluster::plan("foreign", 2, Role::Primary);
    cluster.nodes.iter().for_each(|node| drop(node.format().ok()));
    let [one, two] = &mut cluster.nodes[..] else { panic!("two nodes") };
    one.config.cluster.id = 9;
    one.run_refused().refused(78, &[one.data(), "cluster 1", "says 9", "use the data directory"]);
    one.config.cluster.id = 1;
    std::mem::swap(&mut one.config.node.data, &mut two.config.node.data);
    one.run_refused().refused(78, &[one.data(), "node 2", "says 1"]);
    two.run_refused().refused(78, &[two.data(), "node 1", "says 2"]);
    // With the right directories both run.
    std::mem::swap(&mut one.config.node.data, &mut two.config.node.data);
    cluster.nodes.iter_mut().for_each(|node| node.spawn());
    cluster.nodes.iter_mut().for_each(|node| node.wait_ready());
}

#[test]
fn an_unformatted_directory_is_refused() {
    let cluster = Cluster::plan("unformatted", 1, Role::Primary);
    let node = &cluster.nodes[0];
    node.run_refused().refused(78, &[node.data(), "palisade format"]);
    std::fs::create_dir_all(&node.config.node.data).expect("a directory");
    node.run_refused().refused(78, &[node.data(), "palisade format"]);
    node.run_refused().refused(78, &[node.data(), "palisade format"]);
    // The refusals left nothing behind that `format` minds.
    node.format().ok();
}

#[test]
fn a_cpu_outside_the_affinity_mask_is_refused_before_the_disk_is_touched() {
    let mut cluster = Cluster::plan("foreign-cpu", 1, Role::Primary);
    let node = &mut cluster.nodes[0];
    node.config.node.cpus = vec![1023];
    node.run_refused().refused(78, &["node.cpus", "1023", "may use CPUs"]);
    assert!(!node.config.node.data.exists());
}

#[test]
fn format_keeps_off_what_is_there() {
    let cluster = Cluster::plan("not-empty", 1, Role::Primary);
    let node = &cluster.nodes[0];
    std::fs::create_dir(&node.config.node.data).expect("a directory");
    let file = node.config.node.data.join("holiday.jpg");
    std::fs::write(&file, "sea").expect("a file");
    node.format().refused(1, &[node.data(), "not empty"]);
    assert_eq!(std::fs::read(&file).expect("still there"), b"sea");
    std::fs::remove_file(&file).expect("a file");
    node.format().ok();
    node.format().refused(1, &[node.data(), "not empty"]);
}

/// Where tmpfs is, on this machine.
fn memory_directory() -> tempfile::TempDir {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("the mounts");
    let mut words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let is_tmpfs = words.any(|words| words[1] == "/dev/shm" && words[2] == "tmpfs");
    assert!(is_tmpfs, "mount tmpfs at /dev/shm: this test needs a file system in memory");
    tempfile::Builder::new().prefix("palisade").tempdir_in("/dev/shm").expect("a directory")
}

#[test]
fn a_file_system_in_memory_is_refused() {
    let memory = memory_directory();
    let mut cluster = Cluster::plan("tmpfs", 1, Role::Primary);
    let node = &mut cluster.nodes[0];
    let real = std::mem::replace(&mut node.config.node.data, memory.path().join("data"));
    let words = ["direct-I/O alignment", "ext4", memory.path().to_str().expect("a plain path")];
    node.format().refused(78, &words);
    // A directory that was copied there.
    node.config.node.data = real.clone();
    node.format().ok();
    let copied = std::process::Command::new("cp").arg("-r").arg(&real).arg(memory.path()).status();
    assert!(copied.is_ok_and(|status| status.success()));
    node.config.node.data = memory.path().join("data");
    node.run_refused().refused(78, &words);
    let dir = memory.path().to_str().expect("a plain path");
    for what in ["wal", "append"] {
        let bench = ["bench", what, "--seconds", "1", "--dir", dir];
        palisade(&bench).refused(78, &["direct-I/O alignment", dir]);
    }
}

#[test]
fn a_standby_takes_no_appends() {
    let mut cluster = Cluster::plan("standby", 1, Role::Standby);
    cluster.nodes[0].config.upstream.endpoints = vec![super::cluster::port().addr];
    cluster.format_and_start();
    let dir = directory("input");
    let file = dir.path().join("records");
    std::fs::write(&file, "one\n").expect("a file");
    let file = file.to_str().expect("a plain path");
    let at = cluster.at();
    let append = ["append", "--at", &at, "--stream", "1", "--lines", "--file", file, "--json"];
    let refused = palisade(&append);
    refused.refused(1, &["standby", "append at its primary"]);
    let line: serde_json::Value = serde_json::from_str(&refused.out).expect("a line of JSON");
    assert_eq!(line["outcome"], "failed");
    assert_eq!(line["seq"], 1);
}

#[test]
fn what_cannot_be_asked_or_reached_has_its_code() {
    let nobody = super::cluster::port().addr.to_string();
    palisade(&["status", "--at", &nobody]).refused(69, &["--at"]);
    palisade(&["stream", "list", "--at", "nobody"]).refused(2, &["nobody"]);
    palisade(&["read", "--stream", "two"]).refused(2, &["two"]);
    let cluster = Cluster::start("unknown-stream", 1);
    let at = cluster.at();
    palisade(&["read", "--at", &at, "--stream", "99", "--timeout", "500"]).refused(1, &["99"]);
}

#[test]
fn another_cluster_than_asked_for_is_refused_at_once() {
    let cluster = Cluster::start("wrong-cluster", 1);
    let (at, nobody) = (cluster.at(), super::cluster::port().addr.to_string());
    let both = format!("{at},{nobody}");
    let commands: [&[&str]; 5] = [
        &["status"],
        &["append", "--stream", "0", "--lines", "--file", "/proc/version"],
        &["read", "--stream", "0"],
        &["stream", "create"],
        &["stream", "list", "--json"],
    ];
    for command in commands {
        let began = Instant::now();
        let all = [command, &["--at", &both, "--cluster", "5"]].concat();
        palisade(&all).refused(78, &["cluster 5", "expected 1", "--cluster", &at]);
        assert!(began.elapsed() < Duration::from_secs(2), "{command:?} is tried again");
    }
    // The right one, and any.
    palisade(&["status", "--at", &at, "--cluster", "1"]).ok();
    palisade(&["status", "--at", &at, "--cluster", "0"]).ok();
}
