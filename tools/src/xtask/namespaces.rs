//! Clusters over regions: network namespaces with borders of limited bandwidth between them.

use std::process::Command;

use super::lane::{Outcome, cargo, root};
use super::machine::{has, is_root};

/// Programs that it takes, and the packages of those that a machine may lack.
const NEEDS: [(&str, &str); 5] = [
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
];

/// What the kernel must have, tried out.
const PROBE: &str = "set -e; ip netns add probe; ip link add name probe-0 type veth peer name \
                     probe-1 netns probe; tc qdisc add dev probe-0 root tbf rate 1mbit burst 64kb \
                     latency 1ms; ip netns exec probe nft add table inet probe";

const TEST: [&str; 5] = ["test", "--package", "palisade-tools", "--test", "machine"];

/// In network and mount namespaces of its own: whatever is made there, regions among it, is gone
/// with its last process, however the tests end, and another run beside it sees nothing of it.
pub(crate) fn run() -> Outcome {
    if !is_root() {
        return Outcome::Skipped("needs root to make network namespaces".to_owned());
    }
    if let Some((program, package)) = NEEDS.into_iter().find(|(program, _)| !has(program)) {
        return Outcome::Skipped(format!("needs {program} ({package})"));
    }
    match apart(&["sh", "-c", PROBE]).output() {
        Ok(probe) if !probe.status.success() => {
            let said = String::from_utf8_lossy(&probe.stderr);
            return Outcome::Skipped(format!("needs veth, tbf and nf_tables: {}", said.trim()));
        }
        Ok(_) => {}
        Err(error) => return Outcome::Failed(vec![format!("unshare: {error}")]),
    }
    // From there no registry is reached.
    match cargo(&[&TEST[..], &["--no-run"]].concat(), &[]) {
        Outcome::Passed => {}
        other => return other,
    }
    let one_by_one = ["--offline", "--", "namespaces::", "--test-threads=1", "--nocapture"];
    let words = [&["cargo"][..], &TEST, &one_by_one].concat();
    match apart(&words).status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(vec![format!("{}: {status}", words.join(" "))]),
        Err(error) => Outcome::Failed(vec![format!("unshare: {error}")]),
    }
}

/// A command in namespaces of its own, where no network namespace has a name yet.
fn apart(words: &[&str]) -> Command {
    let script = "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh"]);
    command.args(words).current_dir(root());
    command
}
