//! `status --watch` while its node goes away and comes back.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use palisade::config::Role;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::cluster::Cluster;
use super::run::{Guarded, eventually, program};

/// A poll of a node that is gone takes three seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `status --watch` and the lines that it printed.
struct Watcher {
    child: Guarded,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Watcher {
    fn start(at: &str, more: &[&str]) -> Watcher {
        let mut command = program();
        command.args(["status", "--watch", "--at", at]).args(more).stdout(Stdio::piped());
        let mut child = Guarded(command.spawn().expect("the program starts"));
        let out = BufReader::new(child.0.stdout.take().expect("piped"));
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let into = lines.clone();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                into.lock().expect("no panic").push(line);
            }
        });
        Watcher { child, lines }
    }

    /// Waits for a line after the first `skip` ones; gives it and how many there are with it.
    fn wait_for(&self, what: &str, skip: usize, wanted: impl Fn(&str) -> bool) -> (String, usize) {
        eventually(what, PATIENCE, || {
            let lines = self.lines.lock().expect("no panic");
            let at = lines.iter().skip(skip).position(|line| wanted(line))?;
            Some((lines[skip + at].clone(), skip + at + 1))
        })
    }

    /// Ctrl-C; its exit code.
    fn interrupt(mut self) -> Option<i32> {
        let id = i32::try_from(self.child.0.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a process"), Signal::INT).expect("a child");
        self.child.0.wait().expect("a child").code()
    }
}

#[test]
fn a_watch_goes_on_while_the_node_is_gone_and_says_since_when() {
    let mut cluster = Cluster::plan("watch", 1, Role::Primary);
    cluster.format_and_start();
    let at = cluster.at();
    let json = Watcher::start(&at, &["--json"]);
    let page = Watcher::start(&at, &[]);
    let is_status = |line: &str| line.contains("\"cluster\":{");
    let (_, first) = json.wait_for("a status", 0, is_status);
    let (_, shown) = page.wait_for("a page", 0, |line| line.contains("role primary"));
    cluster.nodes[0].kill();
    let gone = |line: &str| line.starts_with("{\"unreachable\":");
    let (line, silent) = json.wait_for("a line about its absence", first, gone);
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["unreachable"]["at"], at.as_str());
    assert!(line["unreachable"]["since"].as_u64() > Some(1 << 60), "{line}");
    assert!(line["unreachable"]["why"].as_str().expect("text").contains("--at"), "{line}");
    let absent = |line: &str| line.contains("unreachable since ") && line.contains(" UTC: ");
    let (_, seen) = page.wait_for("a page about its absence", shown, absent);
    // What was known stays on the page.
    page.wait_for("the page before", seen, |line| line.contains("role primary"));
    cluster.nodes[0].spawn();
    cluster.nodes[0].wait_ready();
    json.wait_for("a status again", silent, is_status);
    assert_eq!((json.interrupt(), page.interrupt()), (Some(0), Some(0)));
}

#[test]
fn a_watch_of_another_cluster_than_asked_for_ends() {
    let cluster = Cluster::start("watch-wrong", 1);
    let arguments = ["status", "--watch", "--at", &cluster.at(), "--cluster", "5"];
    super::run::palisade(&arguments).refused(78, &["cluster 5"]);
}
