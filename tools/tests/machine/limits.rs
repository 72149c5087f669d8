//! What the machine forbids: io_uring, locked memory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use palisade::config::Role;

use super::cluster::{Cluster, Node};
use super::history::{History, judge};
use super::producer::{Clock, Plan, Producer};
use super::reading::read_once;
use super::run::eventually;

/// A user and group without rights.
const NOBODY: u32 = 65_534;
const MEMLOCK_BYTES: u64 = 8 << 20;

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// The kernel answers `errno` to io_uring_setup, as under a policy or without io_uring.
fn refused_by(errno: &str, expected: &[&str]) {
    let mut cluster = Cluster::plan("no-uring", 1, Role::Primary);
    let node = &mut cluster.nodes[0];
    let launcher = format!("strace -f -o /dev/null -e inject=io_uring_setup:error={errno}");
    node.launcher = words(&launcher);
    node.format().refused(78, expected);
    node.launcher.clear();
    // The refused `format` left nothing behind that the next one minds.
    node.format().ok();
    node.launcher = words(&launcher);
    node.run_refused().refused(78, expected);
}

#[test]
fn a_policy_against_io_uring_is_named() {
    refused_by("EPERM", &["io_uring", "seccomp", "allow"]);
}

#[test]
fn a_kernel_without_io_uring_is_named() {
    refused_by("ENOSYS", &["no io_uring", "CONFIG_IO_URING"]);
}

/// Everybody may write there.
fn open_to_all(path: &Path) {
    let all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(path, all).expect("a directory of this test");
}

/// Runs a node as an ordinary user with little locked memory.
fn make_ordinary(node: &mut Node) {
    let mut launcher = Vec::new();
    if rustix::process::getuid().is_root() {
        open_to_all(&node.home);
        launcher = words(&format!(
            "setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --no-new-privs"
        ));
    }
    launcher.extend(words(&format!("prlimit --memlock={MEMLOCK_BYTES}:{MEMLOCK_BYTES}")));
    node.launcher = launcher;
}

#[test]
fn an_ordinary_user_with_little_locked_memory_runs_a_cluster() {
    let mut cluster = Cluster::plan("ordinary", 3, Role::Primary);
    open_to_all(cluster.dir.path());
    cluster.nodes.iter_mut().for_each(make_ordinary);
    cluster.format_and_start();
    for node in &cluster.nodes {
        let facts = std::fs::read_to_string(format!("/proc/{}/status", node.process()));
        let facts = facts.expect("it runs");
        assert!(facts.contains("CapEff:\t0000000000000000"), "{facts}");
    }
    let stream = cluster.create_stream();
    let plan = Plan { at: cluster.at(), stream, producer: 1, run_records: 200, kill_every: 0 };
    let producer = Producer::start(plan, Clock(Instant::now()));
    eventually("records are acked", Duration::from_secs(60), || {
        (producer.acked() >= 200).then_some(())
    });
    let mut history = History { attempts: producer.finish(), readings: Vec::new() };
    cluster.wait_settled(stream, 1);
    for node in &cluster.nodes {
        history.readings.push(read_once(&node.at(), stream, 0, true));
        let log = node.log();
        let said = log.lines().filter(|line| line.contains("registered")).count();
        assert_eq!(said, 1, "{log}");
        assert!(log.contains("memlock"), "{log}");
    }
    let verdict = judge(&history);
    assert!(verdict.counts.is_empty(), "{verdict:#?}");
}
