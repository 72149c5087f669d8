//! Switchovers over processes: the role goes to a standby and back, and nothing is lost.

use std::time::Duration;

use serde_json::Value;

use super::cluster::{Cluster, directory};
use super::registry::{append, at, end_of, standby_of, wait_shown};
use super::run::{Done, eventually, palisade, program, run};

/// Until something arrives that is on its way: processes run beside other tests.
const ARRIVED: Duration = Duration::from_secs(60);

/// A primary of three nodes, with streams, and a standby that is registered as ASYNC.
fn pair(name: &str, transfer: &str) -> (Cluster, Cluster, Vec<u64>) {
    let primary = Cluster::start(name, 3);
    let streams = vec![primary.create_stream(), primary.create_stream()];
    let standby = standby_of(&primary, 2);
    let words = format!(
        "standby add --cluster 2 --name s2 --region hz --endpoint {} --transfer {transfer} \
         --net-timeout 20000 --health-check 500 --yes",
        standby.at()
    );
    at(&primary.at(), &words).ok();
    at(&primary.at(), &format!("primary set --transfer {transfer} --yes")).ok();
    (primary, standby, streams)
}

/// At a limit that ten other tests beside it do not reach; one that gave up is asked again.
pub(super) fn switchover(from: &Cluster, to: u32) -> Value {
    eventually("a switchover that is not given up", ARRIVED, || {
        let done: Done = at(&from.at(), &format!("switchover --to {to} --json --timeout 60000"));
        match done.code {
            Some(0) => Some(serde_json::from_str(&done.out).expect("JSON")),
            _ => {
                assert!(done.err.contains("stays the primary"), "{done:?}");
                None
            }
        }
    })
}

fn read(of: &Cluster, stream: u64, to: u64) -> String {
    let (stream, to, at) = (stream.to_string(), to.to_string(), of.at());
    let words = ["read", "--stream", &stream, "--to", &to, "--output", "jsonl", "--at", &at];
    palisade(&words).ok()
}

#[test]
fn the_role_goes_to_a_standby_and_back() {
    let (one, two, streams) = pair("switchover", "async");
    let stream = streams[0];
    append(&one.at(), stream, "a\nb\nc\n");
    at(&one.at(), "switchover --to 3 --json").refused(1, &["unknown-cluster"]);
    at(&two.at(), "switchover --to 2 --json").refused(1, &["standby"]);
    at(&one.at(), "switchover --to 2 --verify").ok();

    let there = switchover(&one, 2);
    assert_eq!((&there["primary"], &there["role_epoch"]), (&2.into(), &2.into()), "{there}");
    let acks = append(&two.at(), stream, "d\ne\n");
    // Who asks the old primary is told where to go.
    let asked = one.nodes[0].at();
    let followed = append(&asked, stream, "followed\n");
    assert!(end_of(&followed) > end_of(&acks), "{followed:?}");
    let words = format!("append --stream {stream} --cluster 1 --lines --file /etc/hostname");
    at(&one.at(), &words).refused(78, &["standby", "at its primary, cluster 2"]);
    let made = two.create_stream();
    let more = append(&two.at(), made, "x\n");
    wait_shown(&one, stream, end_of(&acks));
    wait_shown(&one, made, end_of(&more));
    for (stream, end) in [(stream, end_of(&acks)), (made, end_of(&more))] {
        assert_eq!(read(&one, stream, end), read(&two, stream, end), "stream {stream}");
    }
    let records = read(&two, stream, end_of(&acks));
    assert_eq!(records.lines().count(), 5, "{records}");

    let back = switchover(&two, 1);
    assert_eq!((&back["primary"], &back["role_epoch"]), (&1.into(), &3.into()), "{back}");
    let acks = append(&one.at(), stream, "f\n");
    wait_shown(&two, stream, end_of(&acks));
    let (here, there) = (read(&one, stream, end_of(&acks)), read(&two, stream, end_of(&acks)));
    assert_eq!(here, there);
    assert_eq!(here.lines().count(), 7);
    // It is the same after a restart of everybody.
    let mut one = one;
    one.nodes.iter_mut().for_each(|node| node.kill());
    one.nodes.iter_mut().for_each(|node| node.spawn());
    one.nodes.iter_mut().for_each(|node| node.wait_ready());
    let acks = append(&one.at(), stream, "g\n");
    wait_shown(&two, stream, end_of(&acks));
}

#[test]
fn at_a_sync_level_the_old_primary_becomes_the_sync_standby() {
    let (one, two, streams) = pair("switchover-sync", "sync");
    at(&one.at(), "mode set availability --yes").ok();
    let risen = |cluster: &Cluster| {
        eventually("the level rises", ARRIVED, || {
            let mode = at(&cluster.at(), "mode get --json").json();
            (mode["level"] == "availability" && mode["phase"] == "steady").then_some(())
        });
    };
    risen(&one);
    append(&one.at(), streams[0], "a\n");
    switchover(&one, 2);
    let acks = append(&two.at(), streams[0], "b\n");
    assert_eq!(acks[0]["level"], "availability", "{acks:?}");
    let held = one.nodes.iter().filter_map(|node| {
        let status = node.status()?;
        Some(status.stream(streams[0])?.committed_lsn)
    });
    assert!(held.max() >= Some(end_of(&acks)), "acked, and the old primary does not have it");
    switchover(&two, 1);
    risen(&one);
    let acks = append(&one.at(), streams[1], "c\n");
    assert_eq!(acks[0]["level"], "availability", "{acks:?}");
}

/// A producer goes where the role goes: it hears of nothing but a pause.
#[test]
fn a_producer_follows_the_role() {
    let (one, two, streams) = pair("switchover-followed", "async");
    let stream = streams[0];
    let dir = directory("input");
    let (file, count) = (dir.path().join("records"), 30_000);
    std::fs::write(&file, "record\n".repeat(count)).expect("a file");
    let mut command = program();
    let both = format!("{},{}", one.at(), two.at());
    command.args(["append", "--lines", "--json", "--in-flight", "4", "--at", &both]);
    command.args(["--producer", "7", "--stream", &stream.to_string(), "--file"]).arg(&file);
    let appending = std::thread::spawn(move || run(command, ARRIVED));
    for (from, to) in [(&one, 2), (&two, 1), (&one, 2)] {
        eventually("records arrive", ARRIVED, || {
            let seen = from.nodes[0].status()?.stream(stream)?.committed_lsn;
            (seen > 0).then_some(())
        });
        switchover(from, to);
    }
    let done = appending.join().expect("it only waits");
    assert_eq!(done.code, Some(0), "{}", done.err);
    let acks: Vec<Value> =
        done.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(acks.len() == count && acks.iter().all(|ack| ack["outcome"] == "acked"));
    wait_shown(&one, stream, end_of(&acks));
    let records = read(&one, stream, end_of(&acks));
    assert_eq!((records.lines().count(), &records), (count, &read(&two, stream, end_of(&acks))));
}
