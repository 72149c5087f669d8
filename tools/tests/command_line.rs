//! The program from outside: usage errors, help, exit codes.

use std::process::{Command, Output};

fn palisade(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.args(arguments).env_remove("PALISADE_AT").output().expect("the program runs")
}

fn code(arguments: &[&str]) -> i32 {
    palisade(arguments).status.code().expect("it is not killed")
}

#[test]
fn usage_errors_exit_2() {
    let cases: [&[&str]; 30] = [
        &[],
        &["fly"],
        &["demo", "--records", "3"],
        &["demo", "--unknown"],
        &["format"],
        &["node"],
        &["append"],
        &["append", "--stream", "x"],
        &["append", "--stream", "2", "--record-bytes", "0"],
        &["append", "--stream", "2", "--record-bytes", "8", "--lines"],
        &["append", "--stream", "2", "--producer", "0"],
        &["append", "--stream", "2", "--first-sequence", "5"],
        &["read"],
        &["read", "--stream", "2", "--output", "xml"],
        &["stream"],
        &["stream", "create", "--count", "0"],
        &["inspect", "segment"],
        &["bench", "append", "--nodes", "2"],
        &["bench", "wal", "--nodes", "3"],
        &["bench", "fsync", "--seconds", "0"],
        &["config", "check"],
        &["switchover"],
        &["switchover", "--to", "hangzhou"],
        &["failover", "--timeout", "soon"],
        &["standby", "add", "--cluster", "2", "--transfer", "sync"],
        &["standby", "remove"],
        &["standby", "suspend", "--cluster", "2", "--until-scn", "0"],
        &["primary", "set"],
        &["mode", "set"],
        &["mode", "set", "resync"],
    ];
    for arguments in cases {
        assert_eq!(code(arguments), 2, "{arguments:?}");
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let commands: [&[&str]; 25] = [
        &["failover"],
        &["demo"],
        &["switchover"],
        &["format"],
        &["node"],
        &["status"],
        &["append"],
        &["read"],
        &["stream", "create"],
        &["stream", "list"],
        &["standby", "add"],
        &["standby", "set"],
        &["standby", "remove"],
        &["standby", "list"],
        &["standby", "suspend"],
        &["standby", "resume"],
        &["primary", "set"],
        &["mode", "get"],
        &["mode", "set"],
        &["inspect", "segment"],
        &["inspect", "verify"],
        &["bench", "fsync"],
        &["bench", "wal"],
        &["bench", "append"],
        &["config", "check"],
    ];
    for command in commands {
        let output = palisade(&[command, &["--help"]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command:?}");
        assert!(text.contains("Example"), "{command:?} has no example:\n{text}");
        assert!(text.contains("--json"), "{command:?} has no --json");
    }
}

#[test]
fn nobody_there_is_69() {
    for arguments in [
        &["status", "--at", "127.0.0.1:1"][..],
        &[
            "append",
            "--at",
            "127.0.0.1:1",
            "--stream",
            "2",
            "--timeout",
            "200",
            "--file",
            "/dev/zero",
        ],
        &["read", "--at", "127.0.0.1:1", "--stream", "2", "--timeout", "200"],
    ] {
        let output = palisade(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(69), "{arguments:?}: {text}");
        assert!(text.contains("--at"), "{text}");
    }
}

#[test]
fn an_append_that_reached_nobody_is_69_and_says_that_each_record_failed() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("lines");
    std::fs::write(&file, "one\ntwo\n").expect("a file");
    let file = file.to_str().expect("a plain path");
    let append = ["append", "--at", "127.0.0.1:1", "--stream", "2", "--timeout", "200", "--json"];
    let output = palisade(&[&append[..], &["--lines", "--file", file]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    // How much of its input it had read by then is a matter of threads.
    let failed = text.matches("\"outcome\":\"failed\"").count();
    assert!((1..=2).contains(&failed) && text.lines().count() == failed, "{text}");
    let help = String::from_utf8_lossy(&palisade(&["append", "--help"]).stdout).into_owned();
    assert!(help.contains("69 if no node could be reached"), "{help}");
}

#[test]
fn a_bad_configuration_is_78_and_named_in_full() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("node.toml");
    std::fs::write(&path, "[cluster]\nid = 0\nspeed = 1\n").expect("a file");
    let path = path.to_str().expect("a plain path");
    for arguments in [
        &["config", "check", "--config", path][..],
        &["format", "--config", path],
        &["node", "--config", path],
        &["config", "check", "--config", "/nowhere/node.toml"],
    ] {
        assert_eq!(code(arguments), 78, "{arguments:?}");
    }
    let output = palisade(&["config", "check", "--config", path, "--json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["ok"], false);
    let keys: Vec<_> =
        json["errors"].as_array().expect("a list").iter().map(|error| &error["key"]).collect();
    for key in ["cluster.id", "cluster.speed", "node.id", "member"] {
        assert!(keys.iter().any(|named| *named == key), "{key} is not in {keys:?}");
    }
}

#[test]
fn explain_names_every_key() {
    let output = palisade(&["config", "check", "--explain"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for key in palisade::config::KEYS {
        let name = key.path.split_once('.').expect("a section").1;
        assert!(text.contains(name), "{name} is not explained");
    }
}
