//! What README tells a newcomer to type does what its remarks say.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::cluster::{directory, port};
use super::run::run;

/// The blocks of shell below a heading of README.
fn blocks(heading: &str) -> [&'static str; 2] {
    let page = include_str!("../../../README.md");
    let (_, rest) = page.split_once(heading).expect("the heading");
    let mut blocks = rest.split("```sh\n").skip(1).map(|block| block.split("```").next());
    let mut next = || blocks.next().flatten().expect("a block of shell");
    [next(), next()]
}

/// Puts `new` where `old` must be.
fn put(script: &str, old: &str, new: &str) -> String {
    assert!(script.contains(old), "{old:?} is not in {script}");
    script.replace(old, new)
}

#[test]
fn three_nodes_by_hand_do_what_readme_says() {
    let dir = directory("by-hand");
    let ports = [port(), port(), port()];
    let program = env!("CARGO_BIN_EXE_palisade");
    let programs = std::path::Path::new(program).parent().expect("a directory").display();
    // Where it builds, where it keeps its data, and where it listens is ours; and who started it
    // takes it along.
    let [script, transfer] = blocks("## Three nodes by hand");
    let script = put(script, "cargo build --release && PATH=$PWD/target/release", "PATH=$PROGRAMS");
    let script = put(&script, "/var/tmp/palisade", dir.path().to_str().expect("a plain path"));
    let script = put(&script, "palisade node", "palisade node --die-with-parent");
    let mut script = put(&script, "700$n", "$(eval echo \\$PORT$n)");
    for (port, n) in ports.iter().zip(1..) {
        script = put(&script, &format!("127.0.0.1:700{n}"), &port.addr.to_string());
    }
    let [one, two, three] = ports.each_ref().map(|port| port.addr.port());
    let named = format!("PORT1={one} PORT2={two} PORT3={three}");
    // Node 3 may have been here for a moment only: it is not heard yet.
    let transfer =
        format!("until {} 2>/dev/null; do palisade status >/dev/null; done", transfer.trim());
    let script = format!("set -eu; {named}\n{script}\n{transfer}\n");

    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("PROGRAMS", programs.to_string()).stdin(Stdio::null());
    let out = run(command, Duration::from_secs(60)).ok();
    let told: Vec<&str> = out.lines().filter(|line| !line.ends_with("formatted")).collect();
    let told: Vec<&str> = told.into_iter().filter(|line| *line != "ready").collect();
    assert_eq!(told[0], "2", "{out}");
    assert!(out.contains("acked 1000 failed 0 unknown 0"), "{out}");
    let read = told.iter().find(|line| line.starts_with('{')).expect("a record");
    let read: serde_json::Value = serde_json::from_str(read).expect("JSON");
    assert_eq!(read["payload_b64"], "MTAwMA==", "the last of `seq 1 1000`: {out}");
    assert!(told.last().is_some_and(|line| line.contains("stream 2")), "{out}");
}
