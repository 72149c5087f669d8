//! What scripts rely on: options that every command takes, names of JSON fields, exit codes.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::cluster::{Cluster, directory};
use super::run::{palisade, program, run};

/// The names of an object's fields are these and no others.
#[track_caller]
fn assert_fields(json: &Value, names: &str) {
    let object = json.as_object().unwrap_or_else(|| panic!("no object: {json}"));
    let found: BTreeSet<&str> = object.keys().map(String::as_str).collect();
    assert_eq!(found, names.split(' ').collect(), "{json}");
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A node that runs, one that does not, and a file of three lines.
struct Scene {
    cluster: Cluster,
    at: String,
    file: String,
    /// Where the file is.
    dir: tempfile::TempDir,
}

fn scene(name: &str) -> Scene {
    let cluster = Cluster::start(name, 1);
    let nobody = super::cluster::port().addr;
    let dir = directory("input");
    let file = dir.path().join("records");
    std::fs::write(&file, "one\ntwo\nthree\n").expect("a file");
    let file = file.to_str().expect("a plain path").to_owned();
    Scene { at: format!("{nobody},{}", cluster.at()), cluster, file, dir }
}

#[test]
fn networked_commands_take_a_list_of_nodes_and_print_what_the_page_says() {
    let Scene { cluster, at, file, dir } = scene("contract");
    let planned =
        palisade(&["stream", "create", "--dry-run", "--count", "3", "--json", "--at", &at]);
    assert_eq!(planned.json(), serde_json::json!({"streams": [], "count": 3, "dry_run": true}));
    let list = palisade(&["stream", "list", "--json", "--at", &at]).json();
    assert_eq!(list["streams"].as_array().expect("a list").len(), 2, "nothing was created");
    let made = palisade(&["stream", "create", "--yes", "--json", "--at", &at]).json();
    assert_fields(&made, "streams");
    let stream = made["streams"][0].as_u64().expect("an id").to_string();

    let append = ["append", "--stream", &stream, "--lines", "--file", &file, "--json", "--yes"];
    let out = palisade(&[&append[..], &["--at", &at]].concat()).ok();
    for (line, seq) in lines(&out).iter().zip(1..) {
        assert_fields(line, "seq outcome lsn end_lsn scn level");
        assert_eq!((&line["seq"], &line["outcome"]), (&Value::from(seq), &Value::from("acked")));
        assert_eq!(line["level"], "performance");
    }
    let last = lines(&out).pop().expect("three lines")["lsn"].as_u64().expect("a position");

    let read = ["read", "--stream", &stream, "--at", &at];
    let out = palisade(&[&read[..], &["--json"]].concat()).ok();
    assert_eq!(lines(&out).len(), 3);
    lines(&out).iter().for_each(|line| assert_fields(line, "lsn end_lsn scn payload_b64"));
    let raw = palisade(&[&read[..], &["--output", "raw"]].concat()).ok();
    assert_eq!(raw, "onetwothree");
    let to = last.to_string();
    let part = palisade(&[&read[..], &["--output", "raw", "--to", &to]].concat()).ok();
    assert_eq!(part, "onetwo", "--to is exclusive");

    let list = palisade(&["stream", "list", "--json", "--at", &at]).json();
    assert_fields(&list, "streams");
    assert_fields(&list["streams"][2], "id leader base_lsn committed_lsn");
    let status = palisade(&["status", "--json", "--at", &at]).json();
    assert_fields(&status, "cluster node streams standbys borders disk alarms");
    let cluster_fields = "id name role role_epoch protection_mode protection_level level_since \
                          level_reason sync_scn";
    assert_fields(&status["cluster"], cluster_fields);
    assert_fields(&status["node"], "id region incarnation version");
    assert_fields(&status["disk"], "used limit sync_path");
    for stream in status["streams"].as_array().expect("a list") {
        assert_fields(
            stream,
            "id role ballot members learners base_lsn durable_lsn committed_lsn end_lsn scn \
             upstream state since reason action",
        );
        assert_fields(&stream["ballot"], "round node");
    }
    // People get text.
    for command in [&["status"][..], &["stream", "list"]] {
        assert!(palisade(&[command, &["--at", &at]].concat()).ok().contains(&stream));
    }
    drop((cluster, dir));
}

#[test]
fn a_record_that_is_not_acked_makes_the_exit_code_1() {
    let Scene { cluster, file, dir, .. } = scene("not-acked");
    let at = cluster.at();
    let append = ["append", "--at", &at, "--lines", "--file", &file, "--json", "--stream"];
    let unknown = palisade(&[&append[..], &["99"]].concat());
    unknown.refused(1, &["unknown-stream", "99"]);
    for line in lines(&unknown.out) {
        assert_fields(&line, "seq outcome lsn end_lsn scn level");
        assert_eq!(line["outcome"], "failed");
    }
    // They are palisade's own.
    for own in ["0", "1"] {
        palisade(&[&append[..], &[own]].concat()).refused(1, &["reserved-stream", own]);
    }
    let made = palisade(&["stream", "create", "--yes", "--json", "--at", &at]).json();
    let stream = made["streams"][0].to_string();
    let gap = [&append[..], &[&stream, "--producer", "5", "--first-sequence", "9"]].concat();
    palisade(&gap).refused(1, &["sequence-gap", "the next one is 1"]);
    let missing = ["append", "--at", &at, "--stream", "0", "--file", "/nowhere/records"];
    palisade(&missing).refused(74, &["/nowhere/records"]);
    drop(dir);
}

#[test]
fn format_prints_what_it_would_do_and_does_it() {
    let cluster = Cluster::plan("dry-run", 1, palisade::config::Role::Primary);
    let toml = cluster.nodes[0].toml();
    let toml = toml.to_str().expect("a plain path");
    let planned = palisade(&["format", "--config", toml, "--dry-run", "--json", "--yes"]).json();
    assert_fields(&planned, "ok data dry_run");
    assert!(!cluster.nodes[0].config.node.data.exists(), "nothing was made");
    assert_fields(&palisade(&["format", "--config", toml, "--json"]).json(), "ok data dry_run");
    let data = cluster.nodes[0].data();
    let verified = palisade(&["inspect", "verify", data, "--json"]).json();
    assert_eq!(verified["ok"], true);
    palisade(&["inspect", "verify", "/nowhere/at-all"]).refused(74, &["/nowhere/at-all"]);
    let checked = palisade(&["config", "check", "--config", toml, "--json"]).json();
    assert_fields(&checked, "ok errors fingerprint");
}

/// What a figure comes with, so that it can be compared with another.
fn assert_environment(json: &Value, zero_copy: Value) {
    let fields = "version commit rustc profile kernel cpu cores memory_bytes memlock_bytes \
                  file_system device zero_copy";
    assert_fields(json, fields);
    assert_eq!(json["zero_copy"], zero_copy);
    for number in ["cores", "memory_bytes"] {
        assert!(json[number].as_u64() > Some(0), "{number} of {json}");
    }
    // A tarball has no commit, and not every kernel names a CPU's model.
    for text in ["version", "rustc", "profile", "kernel", "file_system", "device"] {
        assert!(json[text].as_str().is_some_and(|text| !text.is_empty()), "{text} of {json}");
    }
}

#[test]
fn benchmarks_print_the_line_of_the_page() {
    let dir = directory("bench");
    let dir = dir.path().to_str().expect("a plain path");
    let fields = "what nodes streams record_bytes in_flight per_s mb_per_s p50_us p90_us p99_us \
                  p999_us max_us cpu_us_per_append environment";
    for (what, nodes) in [("wal", "1"), ("append", "1"), ("append", "3")] {
        let mut command = program();
        command.args(["bench", what, "--seconds", "1", "--dir", dir, "--json", "--nodes", nodes]);
        let done = run(command, Duration::from_secs(90));
        let paths = ["rwf-dsync", "linked-fdatasync", "fdatasync"];
        let named = paths.iter().any(|path| done.err.contains(&format!("written by {path}, ")));
        assert!(named || what != "wal", "{done:?}");
        let json = done.json();
        assert_fields(&json, fields);
        assert_eq!(json["what"], what);
        assert_eq!(json["nodes"].to_string(), nodes);
        assert!(json["per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{json}");
        let zero_copy = if nodes == "3" { "auto".into() } else { Value::Null };
        assert_environment(&json["environment"], zero_copy);
    }
}

#[test]
fn what_is_forwarded_comes_with_what_a_bare_loop_does() {
    let dir = directory("forward");
    let dir = dir.path().to_str().expect("a plain path");
    let mut command = program();
    command.args(["bench", "forward", "--seconds", "1", "--dir", dir, "--json"]);
    command.args(["--readers", "2", "--followers", "2", "--record-bytes", "65536"]);
    command.args(["--fill-mib", "32"]);
    let json = run(command, Duration::from_secs(90)).json();
    let fields = "what nodes streams record_bytes in_flight per_s mb_per_s p50_us p90_us p99_us \
                  p999_us max_us cpu_us_per_append environment cpu_s_per_gib sendfile_mb_per_s \
                  sendfile_cpu_s_per_gib memory_growth_mib";
    assert_fields(&json, fields);
    assert!(json["memory_growth_mib"].as_f64().is_some_and(|mib| mib < 64.0), "{json}");
    assert_eq!((&json["what"], &json["in_flight"]), (&"forward".into(), &4.into()));
    // Both kinds of readers got something, and so did the bare loop.
    for figure in ["per_s", "p50_us", "sendfile_mb_per_s"] {
        assert!(json[figure].as_f64().is_some_and(|rate| rate > 0.0), "{figure} of {json}");
    }
    assert_environment(&json["environment"], "auto".into());
}

#[test]
fn the_measured_ways_to_write_come_with_their_environment() {
    let dir = directory("fsync");
    let dir = dir.path().to_str().expect("a plain path");
    let json = palisade(&["bench", "fsync", "--seconds", "1", "--dir", dir, "--json"]).json();
    assert_fields(&json, "what block_bytes cases best needs_cpus environment");
    assert_environment(&json["environment"], Value::Null);
}

#[test]
fn a_reader_of_the_output_that_has_enough_is_no_failure() {
    let Scene { cluster, .. } = scene("pipe");
    for arguments in
        [&["status"][..], &["status", "--json"], &["stream", "list"], &["stream", "list", "--json"]]
    {
        let mut command: Command = program();
        command.args(arguments).args(["--at", &cluster.at()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        drop(child.stdout.take());
        let done = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!((done.status.code(), said.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
