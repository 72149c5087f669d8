//! What an administrator has switched off.

use palisade::config::Role;

use super::cluster::Cluster;

/// Where the kernel says who may use io_uring.
const SETTING: &str = "/proc/sys/kernel/io_uring_disabled";

/// The setting is shown to the node alone: the machine's own stays as it is.
#[test]
fn io_uring_that_is_switched_off_is_named_with_its_setting() {
    let mut cluster = Cluster::plan("switched-off", 1, Role::Primary);
    let shown = cluster.dir.path().join("setting");
    std::fs::write(&shown, "2\n").expect("a file of this test");
    let script = format!(
        "mount --bind {} {SETTING} && \
         exec strace -f -o /dev/null -e inject=io_uring_setup:error=EPERM \"$@\"",
        shown.display()
    );
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "node"];
    let node = &mut cluster.nodes[0];
    node.launcher = words.map(str::to_owned).to_vec();
    node.format().refused(78, &["kernel.io_uring_disabled", "2", "sysctl"]);
}
