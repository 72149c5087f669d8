//! The demo keeps its contract also when it cannot finish: a whole verdict, and exit code 1.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The fields of the verdict that scripts read.
const FIELDS: [&str; 16] = [
    "verdict",
    "acked",
    "lost",
    "diverged",
    "duplicated",
    "failover_ms",
    "standby_caught_up_ms",
    "appends_per_s",
    "p50_us",
    "p99_us",
    "figure_a",
    "figure_b",
    "border_bytes_ratio",
    "degrade_ms",
    "return_ms",
    "switchover_ms",
];

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.args(["demo", "--json"]).args(arguments).stdin(Stdio::null());
    command
}

/// The last line of what it printed, which is the whole verdict.
fn verdict(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_else(|| panic!("no verdict: {output:?}"));
    let verdict: Value = serde_json::from_str(last).expect("JSON");
    for field in FIELDS {
        assert!(verdict.get(field).is_some(), "{field} is missing in {verdict}");
    }
    verdict
}

#[track_caller]
fn assert_failed(output: &Output, word: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let verdict = verdict(output);
    assert_eq!((&verdict["verdict"], &verdict["lost"]), (&"failed".into(), &Value::Null));
    let why = verdict["error"].as_str().expect("a reason");
    assert!(why.contains(word), "{why}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(word), "{output:?}");
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn an_input_that_cannot_be_read_is_a_failed_verdict() {
    let absent = demo(&["--input", "/nonexistent"]).output().expect("it runs");
    assert_failed(&absent, "/nonexistent");
    let empty = tempfile::tempdir().expect("a directory");
    let nothing = demo(&["--input", plain(empty.path())]).output().expect("it runs");
    assert_failed(&nothing, "no bytes to replicate");
}

#[test]
fn a_directory_that_is_in_use_is_a_failed_verdict() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("holiday.jpg"), "sea").expect("a file");
    let refused = demo(&["--keep", plain(dir.path())]).output().expect("it runs");
    assert_failed(&refused, "not empty");
}

#[test]
fn what_is_kept_is_whole_and_verifies() {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let kept = dir.path().join("kept");
    let output = demo(&["--records", "300", "--keep", plain(&kept)]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let verdict = verdict(&output);
    assert_eq!(verdict["verdict"], "ok");
    assert_eq!((&verdict["acked"], &verdict["lost"]), (&300.into(), &0.into()));
    assert_eq!(verdict["error"], Value::Null);
    assert_chapters(&verdict);
    let names: Vec<&str> = verdict["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter_map(|n| n["name"].as_str())
        .collect();
    assert_eq!(names, ["sh1", "sh2", "hz1", "s1", "s2"]);
    let of_b = ["sh1", "sh2", "sh3", "s1", "s2"].map(|name| format!("figure-b/{name}"));
    for name in names.into_iter().chain(of_b.iter().map(String::as_str)) {
        let home = kept.join(name);
        for part in ["node.toml", "node.log", "data"] {
            assert!(home.join(part).exists(), "{name}/{part} is missing");
        }
        let mut inspect = Command::new(env!("CARGO_BIN_EXE_palisade"));
        let done = inspect.args(["inspect", "verify"]).arg(home.join("data")).output();
        assert!(done.expect("it runs").status.success(), "{name}");
    }
}

/// What the chapters came to, in `verdict`.
#[track_caller]
fn assert_chapters(verdict: &Value) {
    assert_eq!((&verdict["figure_a"], &verdict["figure_b"]), (&"ok".into(), &"ok".into()));
    let ratio = verdict["border_bytes_ratio"].as_f64().expect("a ratio");
    assert!((1.0..=1.1).contains(&ratio), "{verdict}");
    let ms = |name: &str| verdict[name].as_u64().unwrap_or_else(|| panic!("{name}: {verdict}"));
    let net_timeout_ms = verdict["timers"]["net_timeout_ms"].as_u64().expect("a timer");
    assert!(ms("degrade_ms") >= net_timeout_ms, "acks went on too early: {verdict}");
    for name in ["return_ms", "switchover_ms"] {
        assert!(ms(name) < 90_000, "{name}: {verdict}");
    }
}

#[test]
fn an_interrupted_demo_has_a_verdict_too() {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let kept = dir.path().join("kept");
    let mut command = demo(&["--records", "2000000", "--keep", plain(&kept)]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let until = Instant::now() + Duration::from_secs(60);
    while !kept.join("sh1/data").exists() {
        assert!(Instant::now() < until, "no node is formatted");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("a child");
    let output = child.wait_with_output().expect("it ends");
    assert_failed(&output, "interrupted");
}
