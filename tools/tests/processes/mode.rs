//! The protection modes: a primary of three nodes and its SYNC standby.

use std::time::{Duration, Instant};

use palisade::config::Role;
use serde_json::Value;

use super::cluster::{Cluster, directory};
use super::registry::{append, at, end_of, standby_of};
use super::run::{eventually, program, run, within};

/// Until the level is what the mode asks for: processes start beside other tests.
const RISEN: Duration = Duration::from_secs(30);
/// Until the level fell: the net timeout, a lease, and what a busy machine adds.
const FALLEN: Duration = Duration::from_secs(15);

/// A net timeout in milliseconds that no slow disk reaches.
const PATIENT: u64 = 20_000;

/// A primary with a stream, and its SYNC standby, registered.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    stream: u64,
}

impl Pair {
    fn start(name: &str) -> Pair {
        let primary = Cluster::start(name, 3);
        let stream = primary.create_stream();
        let standby = standby_of(&primary, 2);
        let words = format!(
            "standby add --cluster 2 --name s2 --region hz --endpoint {} --transfer sync \
             --net-timeout {PATIENT} --health-check 500 --yes",
            standby.at()
        );
        at(&primary.at(), &words).ok();
        assert_eq!(standby.nodes[0].config.cluster.role, Role::Standby);
        Pair { primary, standby, stream }
    }

    fn set_net_timeout(&self, ms: u64) {
        at(&self.primary.at(), &format!("standby set --cluster 2 --net-timeout {ms} --yes")).ok();
    }

    fn mode(&self) -> Value {
        at(&self.primary.at(), "mode get --json").json()
    }

    #[track_caller]
    fn wait_level(&self, level: &str, limit: Duration) -> Value {
        let mut last = Value::Null;
        let found = within(limit, || {
            last = self.mode();
            (last["level"] == level && last["reason"] == "").then_some(())
        });
        let standby = self.standby.nodes[0].log();
        assert!(found.is_some(), "{level}: {last}\n{standby}");
        // Each node hears of it by itself, and its acks say what it knows.
        for node in &self.primary.nodes {
            eventually("a node knows the level", limit, || {
                let known = node.status()?.cluster.protection_level;
                (serde_json::to_value(known).ok()? == level).then_some(())
            });
        }
        last
    }

    /// Appends a record: its ack.
    fn append(&self, line: &str) -> Value {
        append(&self.primary.at(), self.stream, line).pop().expect("an ack")
    }

    /// The record is committed at the standby: nobody waits for that here.
    fn assert_held(&self, ack: &Value) {
        let end = end_of(std::slice::from_ref(ack));
        let status = self.standby.nodes[0].status().expect("it runs");
        let held = status.stream(self.stream).expect("it has the stream").committed_lsn;
        assert!(held >= end, "acked up to {end}, and the standby has {held}");
    }

    /// Whether a record is acked within so long.
    fn is_acked(&self, limit: Duration) -> bool {
        let dir = directory("input");
        let file = dir.path().join("records");
        std::fs::write(&file, "nobody hears\n").expect("a file");
        let mut command = program();
        command.args(["append", "--lines", "--json", "--at", &self.primary.at()]);
        command.args(["--stream", &self.stream.to_string(), "--file"]).arg(&file);
        run(command, limit).code == Some(0)
    }
}

#[test]
fn availability_waits_for_its_standby_goes_on_without_it_and_returns() {
    let pair = Pair::start("availability");
    assert_eq!(pair.append("before\n")["level"], "performance");
    at(&pair.primary.at(), "mode set availability").ok();
    let mode = pair.wait_level("availability", RISEN);
    assert!(mode["since"].as_u64().is_some_and(|since| since > 0), "{mode}");
    for _ in 0..10 {
        let ack = pair.append("with it\n");
        assert_eq!(ack["level"], "availability", "{ack}");
        pair.assert_held(&ack);
    }

    pair.set_net_timeout(1000);
    pair.standby.nodes[0].pause();
    let began = Instant::now();
    let ack = pair.append("without it\n");
    assert!(began.elapsed() < FALLEN, "it was acked after {:?}", began.elapsed());
    assert_eq!(ack["level"], "resync", "{ack}");
    let mode = pair.mode();
    assert_eq!((&mode["mode"], &mode["level"]), (&"availability".into(), &"resync".into()));
    assert_ne!(mode["reason"], "", "{mode}");
    assert_eq!(pair.append("and again\n")["level"], "resync");

    pair.standby.nodes[0].resume();
    pair.set_net_timeout(PATIENT);
    pair.wait_level("availability", RISEN);
    let ack = pair.append("with it again\n");
    assert_eq!(ack["level"], "availability", "{ack}");
    pair.assert_held(&ack);
}

#[test]
fn protection_acks_nothing_without_its_standby_and_does_everything_else() {
    let pair = Pair::start("protection");
    let nodes = pair.primary.at();
    at(&nodes, "mode set protection").ok();
    pair.wait_level("protection", RISEN);
    let ack = pair.append("with it\n");
    assert_eq!(ack["level"], "protection", "{ack}");
    pair.assert_held(&ack);

    pair.standby.nodes[0].pause();
    assert!(!pair.is_acked(Duration::from_secs(4)), "acked alone");
    let mode = pair.mode();
    assert_eq!((&mode["level"], &mode["reason"]), (&"protection".into(), &"".into()));
    at(&nodes, &format!("read --stream {} --output raw", pair.stream)).ok();
    at(&nodes, "standby set --cluster 2 --region sh").ok();
    at(&nodes, "mode set availability").refused(1, &["--force"]);

    pair.standby.nodes[0].resume();
    eventually("acks go on", RISEN, || pair.is_acked(Duration::from_secs(5)).then_some(()));
    // It is left when the standby knows.
    eventually("the mode is set", RISEN, || {
        (at(&nodes, "mode set performance").code == Some(0)).then_some(())
    });
    let mode = pair.wait_level("performance", FALLEN);
    assert_eq!((&mode["mode"], &mode["forced_epoch"]), (&"performance".into(), &0.into()));
    assert_eq!(pair.append("alone\n")["level"], "performance");
}
