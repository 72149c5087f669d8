//! Failovers over processes: the primary is lost, and its SYNC standby goes on with all it has.

use std::time::Duration;

use palisade::config::Role;
use serde_json::Value;

use super::cluster::Cluster;
use super::fence::{kill, start, try_append, wait_fenced};
use super::registry::{append, at, end_of, wait_shown};
use super::run::{Done, eventually, palisade};

/// Until something arrives that is on its way: processes run beside other tests.
const ARRIVED: Duration = Duration::from_secs(60);

/// A standby of three nodes.
fn standby_of(upstream: &Cluster, id: u32, count: u32) -> Cluster {
    let mut cluster = Cluster::plan(&format!("failover-standby-{id}"), count, Role::Standby);
    let endpoints = upstream.nodes.iter().map(|node| node.config.node.listen.expect("it listens"));
    let endpoints: Vec<_> = endpoints.collect();
    for node in &mut cluster.nodes {
        node.config.upstream.endpoints.clone_from(&endpoints);
        node.config.cluster.id = id;
    }
    cluster.format_and_start();
    cluster
}

/// A primary of three nodes with two streams, and its SYNC standby of as many, at a level.
fn pair(name: &str, mode: &str) -> (Cluster, Cluster, Vec<u64>) {
    let primary = Cluster::start(name, 3);
    let streams = vec![primary.create_stream(), primary.create_stream()];
    let standby = standby_of(&primary, 2, 3);
    add(&primary, &standby, 2, "sync");
    at(&primary.at(), "primary set --transfer sync --yes").ok();
    at(&primary.at(), &format!("mode set {mode} --yes")).ok();
    eventually("the level rises", ARRIVED, || {
        let known = at(&primary.at(), "mode get --json").json();
        (known["level"] == mode && known["phase"] == "steady").then_some(())
    });
    // The standby is to know it too, or it could not tell that nothing is missing.
    eventually("the standby knows the level", ARRIVED, || {
        let known = at(&standby.at(), "mode get --json").json();
        (known["level"] == mode && known["phase"] == "steady").then_some(())
    });
    (primary, standby, streams)
}

fn add(primary: &Cluster, standby: &Cluster, id: u32, transfer: &str) {
    let words = format!(
        "standby add --cluster {id} --name s{id} --region hz --endpoint {} --transfer {transfer} \
         --net-timeout 20000 --health-check 500 --yes",
        standby.at().replace(',', " --endpoint ")
    );
    at(&primary.at(), &words).ok();
}

fn failover(standby: &Cluster, more: &str) -> Value {
    eventually("a failover", ARRIVED, || {
        let words = format!("failover {more}--json --timeout 60000");
        let done: Done = at(&standby.at(), &words);
        match done.code {
            Some(0) => Some(serde_json::from_str(&done.out).expect("JSON")),
            _ => {
                assert!(done.err.contains("try again"), "{done:?}");
                None
            }
        }
    })
}

fn records(of: &Cluster, stream: u64, to: u64) -> String {
    let (stream, to, at) = (stream.to_string(), to.to_string(), of.at());
    palisade(&["read", "--stream", &stream, "--to", &to, "--output", "raw", "--at", &at]).ok()
}

#[test]
fn a_protected_primary_that_is_lost_loses_nothing() {
    let (mut one, two, streams) = pair("failover-protection", "protection");
    let third = standby_of(&two, 3, 1);
    add(&one, &third, 3, "async");
    let mut acked = Vec::new();
    for stream in &streams {
        let acks = append(&one.at(), *stream, "a\nb\nc\n");
        assert_eq!(acks[0]["level"], "protection");
        acked.push(end_of(&acks));
    }
    at(&one.at(), "failover").refused(1, &["is-primary"]);
    at(&third.at(), "failover").refused(1, &["would-lose"]);
    at(&two.at(), "failover --verify").ok();
    kill(&mut one);

    let done = failover(&two, "");
    let fields = [&done["primary"], &done["role_epoch"], &done["lossless"]];
    assert_eq!(fields, [&2.into(), &4.into(), &Value::from("proven-unless-forced")], "{done}");
    for (stream, end) in streams.iter().zip(&acked) {
        assert_eq!(records(&two, *stream, *end), "a\nb\nc\n".replace('\n', ""), "stream {stream}");
    }
    let acks = append(&two.at(), streams[0], "d\n");
    assert!(acks[0]["lsn"].as_u64() >= Some(acked[0]), "{acks:?}");
    assert_eq!(acks[0]["level"], "performance");
    let mode = at(&two.at(), "mode get --json").json();
    assert_eq!((&mode["mode"], &mode["primary"]), (&"performance".into(), &2.into()), "{mode}");
    at(&two.at(), "failover").refused(1, &["is-primary"]);
    // The other standby has a part of this log, and goes on with it.
    wait_shown(&third, streams[0], end_of(&acks));
    assert_eq!(
        records(&third, streams[0], end_of(&acks)),
        records(&two, streams[0], end_of(&acks))
    );
    // A stream is created, and everything is the same after a restart of everybody.
    let made = two.create_stream();
    let mut two = two;
    kill(&mut two);
    start(&mut two);
    append(&two.at(), made, "x\n");
    append(&two.at(), streams[1], "e\n");
}

/// What the primary did alone after its standby was lost from sight, that one cannot know.
#[test]
fn what_may_be_lost_is_said_before_and_after() {
    let (mut one, two, streams) = pair("failover-availability", "availability");
    let acks = append(&one.at(), streams[0], "a\n");
    assert_eq!(acks[0]["level"], "availability");
    kill(&mut one);
    at(&two.at(), "failover").refused(1, &["may-lose", "--allow-loss"]);
    let page = at(&two.at(), "failover --verify --allow-loss").ok();
    assert!(page.contains("acked alone"), "{page}");
    let done = failover(&two, "--allow-loss ");
    assert_eq!(done["lossless"], "unknown", "{done}");
    assert_eq!(records(&two, streams[0], end_of(&acks)), "a");
    append(&two.at(), streams[0], "b\n");
    // The old primary comes back, meets the new one, and takes nothing more.
    start(&mut one);
    wait_fenced(&one);
    let (code, err) = try_append(&one, streams[0]);
    assert!(code != Some(0) && err.contains("fenced"), "{code:?} {err}");
    let acks = append(&two.at(), streams[0], "c\n");
    // Formatted anew it is a standby, as it was registered.
    kill(&mut one);
    for node in &mut one.nodes {
        std::fs::remove_dir_all(&node.config.node.data).expect("it is there");
        node.config.cluster.role = Role::Standby;
        node.config.upstream.endpoints =
            two.nodes.iter().map(|node| node.config.node.listen.expect("it listens")).collect();
    }
    one.format_and_start();
    wait_shown(&one, streams[0], end_of(&acks));
    assert_eq!(records(&one, streams[0], end_of(&acks)), "abc");
}

#[test]
fn a_standby_that_no_ack_waits_for_takes_no_role() {
    let primary = Cluster::start("failover-async", 1);
    let stream = primary.create_stream();
    let standby = standby_of(&primary, 2, 1);
    add(&primary, &standby, 2, "async");
    let acks = append(&primary.at(), stream, "a\n");
    wait_shown(&standby, stream, end_of(&acks));
    at(&standby.at(), "failover --allow-loss").refused(1, &["would-lose", "MAXIMUM PERFORMANCE"]);
    // It is a standby as before.
    let acks = append(&primary.at(), stream, "b\n");
    wait_shown(&standby, stream, end_of(&acks));
}

/// The journal is the catalogue of the standby: whoever leads it goes on.
#[test]
fn a_failover_goes_on_after_everybody_was_killed_in_it() {
    for pause in [0, 5, 20, 60] {
        let (mut one, mut two, streams) = pair("failover-killed", "protection");
        let acks = append(&one.at(), streams[0], "a\nb\n");
        kill(&mut one);
        let nodes = two.at();
        let asking = std::thread::spawn(move || at(&nodes, "failover --timeout 1000"));
        // Wherever that is: the points differ from run to run.
        std::thread::sleep(Duration::from_millis(pause));
        kill(&mut two);
        start(&mut two);
        asking.join().expect("it only waits");
        // Asked again it goes on, is over, or begins.
        eventually("the standby is the primary", ARRIVED, || {
            let asked: Done = at(&two.at(), "failover --json --timeout 5000");
            let over = asked.err.contains("is-primary");
            (asked.code == Some(0) || over).then_some(())
        });
        eventually("it serves", ARRIVED, || {
            let mode = at(&two.at(), "mode get --json").json();
            (mode["phase"] == "steady" && mode["primary"] == 2).then_some(())
        });
        assert_eq!(records(&two, streams[0], end_of(&acks)), "ab", "after {pause} ms");
        append(&two.at(), streams[1], "c\n");
    }
}
