//! The registry of clusters and the protection mode, over the command line.

use std::time::Duration;

use palisade::config::Role;
use serde_json::{Value, json};

use super::cluster::{Cluster, Node, directory};
use super::run::{Done, eventually, palisade, program, run, within};

/// How long a change may take to be seen by every node of every cluster.
const SEEN_MAX: Duration = Duration::from_secs(60);

/// A standby of `upstream` with one node.
pub(super) fn standby_of(upstream: &Cluster, id: u32) -> Cluster {
    standby_by(upstream, id, None)
}

/// The same, which rather fetches from `preferred`.
fn standby_by(upstream: &Cluster, id: u32, preferred: Option<&Cluster>) -> Cluster {
    let mut cluster = Cluster::plan(&format!("registry-standby-{id}"), 1, Role::Standby);
    let fixed = preferred.and_then(|other| other.nodes[0].config.node.listen);
    cluster.nodes[0].config.upstream.fixed = fixed;
    cluster.nodes[0].config.cluster.id = id;
    let endpoints = upstream.nodes.iter().map(|node| node.config.node.listen.expect("it listens"));
    cluster.nodes[0].config.upstream.endpoints = endpoints.collect();
    cluster.format_and_start();
    cluster
}

/// `palisade WORDS.. --at AT`.
pub(super) fn at(nodes: &str, words: &str) -> Done {
    let words: Vec<&str> = words.split(' ').chain(["--at", nodes]).collect();
    palisade(&words)
}

fn add(nodes: &str, id: u32, transfer: &str) -> Done {
    let words = format!(
        "standby add --cluster {id} --name s{id} --region hz --endpoint 127.0.0.1:{} --transfer \
         {transfer} --json --yes",
        40_000 + id
    );
    at(nodes, &words)
}

fn list(nodes: &str) -> Value {
    at(nodes, "standby list --json").json()
}

fn ids(list: &Value) -> Vec<u64> {
    let standbys = list["standbys"].as_array().expect("a list");
    standbys.iter().map(|standby| standby["cluster"].as_u64().expect("an id")).collect()
}

#[track_caller]
fn assert_fields(json: &Value, names: &str) {
    let mut found: Vec<&str> =
        json.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut names: Vec<&str> = names.split(' ').collect();
    found.sort_unstable();
    names.sort_unstable();
    assert_eq!(found, names, "{json}");
}

#[test]
fn standbys_are_added_changed_listed_and_removed() {
    let cluster = Cluster::start("registry", 3);
    let nodes = cluster.at();
    let planned = at(
        &nodes,
        "standby add --cluster 2 --name s2 --region hz --endpoint 127.0.0.1:1 --transfer sync \
         --dry-run --json",
    );
    assert_eq!(planned.json(), json!({"version": 0, "changed": true, "dry_run": true}));
    assert_eq!(ids(&list(&nodes)), [0u64; 0], "nothing was added");

    let done = add(&nodes, 2, "async").json();
    assert_eq!(done, json!({"version": 1, "changed": true, "dry_run": false}));
    add(&nodes, 3, "sync").ok();
    let seen = list(&nodes);
    assert_fields(&seen, "version cluster role current leader primary mode standbys");
    assert_fields(
        &seen["mode"],
        "mode level epoch reason since sync_standby forced_epoch phase role_epoch primary target \
         proof",
    );
    assert_fields(
        &seen["standbys"][0],
        "cluster name region endpoints transfer net_timeout_ms health_check_ms upstream suspended \
         until_scn",
    );
    assert_eq!((ids(&seen), &seen["version"]), (vec![2, 3], &json!(2)));
    assert_eq!(seen["standbys"][0]["net_timeout_ms"], 5000);
    assert_eq!(seen["standbys"][1]["transfer"], "sync");

    at(&nodes, "standby set --cluster 2 --net-timeout 700 --region sh").ok();
    let same = at(&nodes, "standby set --cluster 2 --net-timeout 700 --json").json();
    assert_eq!(same, json!({"version": 3, "changed": false, "dry_run": false}));
    at(&nodes, "standby suspend --cluster 2 --until-scn 9").ok();
    at(&nodes, "primary set --transfer sync").ok();
    let seen = list(&nodes);
    let standby = &seen["standbys"][0];
    assert_eq!((&standby["net_timeout_ms"], &standby["region"]), (&json!(700), &json!("sh")));
    assert_eq!((&standby["suspended"], &standby["until_scn"]), (&json!(true), &json!(9)));
    assert_eq!(seen["primary"]["transfer"], "sync");
    let endpoints = seen["primary"]["endpoints"].as_array().expect("a list");
    assert_eq!(endpoints.len(), 3, "where the primary is stands beside its choice");
    let page = at(&nodes, "standby list").ok();
    for word in ["s2", "suspended at SCN 9", "127.0.0.1:40003", "700 ms", "as a standby: sync"] {
        assert!(page.contains(word), "{word:?} is not in\n{page}");
    }
    let status = at(&nodes, "status --json").json();
    assert_fields(&status["standbys"][0], "cluster region transfer state lag_bytes lag_us");
    assert_eq!(status["standbys"][0]["state"], "suspended");
    assert_eq!(status["standbys"][1]["state"], "not-connected");

    at(&nodes, "standby resume --cluster 2").ok();
    at(&nodes, "standby remove --cluster 2 --yes").ok();
    assert_eq!(ids(&list(&nodes)), [3]);
}

#[test]
fn every_rule_says_its_name_and_the_exit_code_is_1() {
    let cluster = Cluster::start("rules", 1);
    let nodes = cluster.at();
    let refused = |words: &str, code: i32, rule: &str, more: &str| {
        at(&nodes, words).refused(code, &[rule, more]);
    };
    let new = "--name s --region r --endpoint 127.0.0.1:1";
    refused(
        &format!("standby add --cluster 2 {new}"),
        2,
        "transfer-not-chosen",
        "--transfer sync or --transfer async",
    );
    refused(&format!("standby add --cluster 0 {new} --transfer sync"), 2, "--cluster", "");
    refused(&format!("standby add --cluster 1 {new} --transfer sync"), 1, "own-cluster", "1");
    refused("standby set --cluster 9 --transfer sync", 1, "unknown-cluster", "standby add");
    refused("mode set protection", 1, "no-sync-standby", "MAXIMUM PROTECTION");
    add(&nodes, 2, "sync").ok();
    add(&nodes, 3, "async").ok();
    add(&nodes, 2, "async").refused(1, &["already-there", "standby set"]);
    refused("standby set --cluster 2", 2, "nothing-given", "");
    refused("standby set --cluster 2 --net-timeout 499", 2, "500..=1200000", "");
    refused("standby set --cluster 2 --endpoint nowhere", 1, "bad-endpoint", "HOST:PORT");
    refused("standby set --cluster 2 --endpoint no-such.invalid:1", 2, "no-such.invalid:1", "IP");
    refused("standby set --cluster 2 --upstream 3", 1, "sync-cascade", "leaders of the primary");
    add(&nodes, 4, "sync").ok();
    refused("mode set availability", 1, "two-sync-standbys", "2, 4");
    at(&nodes, "standby set --cluster 4 --transfer async").ok();

    for (mode, words) in
        [("availability", "MAXIMUM AVAILABILITY"), ("protection", "MAXIMUM PROTECTION")]
    {
        // From the other one it would wait for a standby that is known not to be there.
        at(&nodes, "mode set performance").ok();
        at(&nodes, &format!("mode set {mode}")).ok();
        add(&nodes, 5, "sync").refused(1, &["two-sync-standbys", words]);
        refused("standby set --cluster 3 --transfer sync", 1, "two-sync-standbys", "2, 3");
        refused("standby set --cluster 2 --transfer async", 1, "sync-standby-needed", words);
        refused("standby remove --cluster 2 --yes", 1, "sync-standby-needed", words);
        refused("standby suspend --cluster 2", 1, "sync-suspended", words);
        refused("standby remove --cluster 2 --dry-run", 1, "sync-standby-needed", words);
    }
    refused("mode set resync", 2, "protection, availability, performance", "");
    at(&nodes, "mode set performance").ok();
    // First every shard hears that streams are not marked with it any more.
    eventually("the standby is removed", SEEN_MAX, || {
        (at(&nodes, "standby remove --cluster 2").code == Some(0)).then_some(())
    });
}

#[test]
fn a_mode_without_its_path_says_so_and_acks_are_worth_what_holds() {
    let cluster = Cluster::start("mode", 1);
    let nodes = cluster.at();
    let stream = cluster.create_stream().to_string();
    add(&nodes, 2, "sync").ok();
    let set = at(&nodes, "mode set protection --json").json();
    assert_fields(
        &set,
        "mode level epoch reason since sync_standby forced_epoch version changed dry_run phase \
         role_epoch primary target proof",
    );
    let mode = at(&nodes, "mode get --json").json();
    assert_fields(
        &mode,
        "mode level epoch reason since sync_standby forced_epoch phase role_epoch primary target \
         proof",
    );
    assert_eq!((&mode["mode"], &mode["level"]), (&json!("protection"), &json!("performance")));
    assert_eq!(mode["reason"], "the SYNC path is not up");
    assert_eq!((&mode["epoch"], &mode["sync_standby"]), (&json!(1), &json!(2)));
    let page = at(&nodes, "mode get").ok();
    assert!(page.contains("level performance") && page.contains("not up"), "{page}");
    let status = at(&nodes, "status --json").json();
    assert_eq!(status["cluster"]["protection_mode"], "protection");
    assert_eq!(status["cluster"]["protection_level"], "performance");

    let dir = directory("input");
    let file = dir.path().join("records");
    std::fs::write(&file, "one\n").expect("a file");
    let file = file.to_str().expect("a plain path");
    let words = format!("append --stream {stream} --lines --json --file {file}");
    let line: Value = serde_json::from_str(&at(&nodes, &words).ok()).expect("a line of JSON");
    assert_eq!((&line["outcome"], &line["level"]), (&json!("acked"), &json!("performance")));
}

/// Waits until a node has applied as many changes as the primary's leader.
fn wait_seen(node: &Node, version: &Value) -> Value {
    eventually("the registry is seen", SEEN_MAX, || {
        let done = at(&node.at(), "standby list --json");
        (done.code == Some(0)).then(|| done.json()).filter(|seen| seen["version"] == *version)
    })
}

#[test]
fn the_registry_outlives_its_leader_and_a_restart_and_is_at_every_standby() {
    let mut cluster = Cluster::start("registry-kill", 3);
    let nodes = cluster.at();
    let standby = standby_of(&cluster, 2);
    let mut wanted = vec![2];
    add(&nodes, 2, "sync").ok();
    at(&nodes, "primary set --transfer async").ok();
    for (round, victim) in [(10, 0), (20, 1), (30, 2)] {
        cluster.nodes[victim].kill();
        add(&nodes, round, "async").ok();
        wanted.push(u64::from(round));
        cluster.nodes[victim].spawn();
        cluster.nodes[victim].wait_ready();
    }
    // Its level does not rise while this looks on.
    at(&nodes, "standby set --cluster 2 --health-check 600000").ok();
    at(&nodes, "mode set availability").ok();
    cluster.nodes.iter_mut().for_each(Node::kill);
    cluster.nodes.iter_mut().for_each(Node::spawn);
    cluster.nodes.iter_mut().for_each(Node::wait_ready);
    // Before one leads, a node says what it knows, which is less.
    let all = eventually("a leader", SEEN_MAX, || {
        Some(list(&nodes)).filter(|seen| seen["current"] == true)
    });
    assert_eq!(ids(&all), wanted);
    for node in cluster.nodes.iter().chain(&standby.nodes) {
        let mut seen = wait_seen(node, &all["version"]);
        // Each learned of it at another time.
        seen["mode"]["since"] = all["mode"]["since"].clone();
        for part in ["standbys", "primary", "mode"] {
            assert_eq!(seen[part], all[part], "{part} at {}", node.at());
        }
    }
    // A standby knows, and changes nothing.
    let there = standby.at();
    let seen = at(&there, "standby list --json").json();
    assert_eq!((&seen["role"], &seen["cluster"]), (&json!("standby"), &json!(2)));
    for words in ["standby remove --cluster 10", "mode set performance"] {
        let first = cluster.nodes[0].at();
        at(&there, words).refused(1, &["standby", "cluster 1", &first]);
    }
    let status = at(&there, "status --json").json();
    assert_eq!(status["cluster"]["protection_mode"], "availability", "it is the SYNC one");
}

/// What the standby shows of a stream: state and reason.
fn condition(standby: &Cluster, stream: u64) -> Option<(String, String, u64)> {
    let status = standby.nodes[0].status()?;
    let stream = status.stream(stream)?;
    Some((stream.state.clone(), stream.reason.clone(), stream.committed_lsn))
}

pub(super) fn append(nodes: &str, stream: u64, lines: &str) -> Vec<Value> {
    let dir = directory("input");
    let file = dir.path().join("records");
    std::fs::write(&file, lines).expect("a file");
    let mut command = program();
    command.args(["append", "--lines", "--json", "--in-flight", "1", "--at", nodes]);
    command.args(["--stream", &stream.to_string(), "--file"]).arg(&file);
    let out = run(command, Duration::from_secs(90)).ok();
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub(super) fn end_of(acks: &[Value]) -> u64 {
    acks.last().expect("some")["end_lsn"].as_u64().expect("a position")
}

fn wait_committed(standby: &Cluster, stream: u64, end: u64) {
    eventually("the standby has it", SEEN_MAX, || {
        condition(standby, stream).filter(|(_, _, committed)| *committed == end)
    });
}

fn wait_state(standby: &Cluster, stream: u64, state: &str) -> (String, String, u64) {
    let mut last = None;
    let found = within(SEEN_MAX, || {
        last = standby.nodes[0].status();
        condition(standby, stream).filter(|seen| seen.0 == state)
    });
    found.unwrap_or_else(|| panic!("{state}: not within {SEEN_MAX:?}: {last:#?}"))
}

#[test]
fn who_is_registered_is_served_and_nobody_else() {
    let cluster = Cluster::start("served", 1);
    let nodes = cluster.at();
    let stream = cluster.create_stream();
    let (known, other) = (standby_of(&cluster, 2), standby_of(&cluster, 3));
    // Nobody is refused while nobody was ever registered.
    let end = end_of(&append(&nodes, stream, "one\n"));
    wait_committed(&known, stream, end);
    wait_committed(&other, stream, end);

    add(&nodes, 2, "async").ok();
    let (_, reason, _) = wait_state(&other, stream, "source-refuses");
    assert!(reason.contains("palisade standby add --cluster 3"), "{reason}");
    let later = end_of(&append(&nodes, stream, "two\n"));
    wait_committed(&known, stream, later);
    assert_eq!(condition(&other, stream).map(|seen| seen.2), Some(end), "it is not served");
    eventually("the feed is seen", SEEN_MAX, || {
        let status = at(&nodes, "status --json").json();
        let feed = status["standbys"][0].clone();
        (feed["state"] == "connected" && feed["lag_bytes"] == 0).then_some(())
    });
    // Readers of no cluster are served as before.
    at(&nodes, &format!("read --stream {stream} --output raw")).ok();

    add(&nodes, 3, "async").ok();
    wait_committed(&other, stream, later);
    let silent = at(&nodes, "status").ok();
    assert!(silent.contains("does not answer at 127.0.0.1:40003"), "{silent}");
    for (id, standby) in [(2, &known), (3, &other)] {
        let words = format!("standby set --cluster {id} --endpoint {} --yes", standby.at());
        at(&nodes, &words).ok();
    }
    let page = eventually("the tree of clusters", SEEN_MAX, || {
        let page = at(&nodes, "status").ok();
        let line = |mark: &str| {
            let mut lines = page.lines().filter(|line| line.starts_with(mark));
            lines.next().is_some_and(|line| line.contains("0 B") && line.contains("from cluster 1"))
        };
        (line("|- ") && line("`- ")).then_some(page)
    });
    assert!(page.contains("clusters") && page.contains("primary"), "{page}");
    at(&nodes, "standby remove --cluster 2").ok();
    wait_state(&known, stream, "source-refuses");
    at(&nodes, "standby remove --cluster 3").ok();
    wait_state(&other, stream, "source-refuses");
    let last = end_of(&append(&nodes, stream, "three\n"));
    assert_eq!(condition(&known, stream).map(|seen| seen.2), Some(later));
    add(&nodes, 2, "async").ok();
    wait_committed(&known, stream, last);
}

/// It gets nothing more, and would not hear that the other one is no longer registered either.
#[test]
fn a_standby_that_is_refused_feeds_no_other() {
    let cluster = Cluster::start("refused", 1);
    let nodes = cluster.at();
    let stream = cluster.create_stream();
    let first = standby_of(&cluster, 2);
    let second = standby_by(&cluster, 3, Some(&first));
    add(&nodes, 2, "async").ok();
    add(&nodes, 3, "async").ok();
    let end = end_of(&append(&nodes, stream, "one\n"));
    wait_committed(&first, stream, end);
    wait_committed(&second, stream, end);
    eventually("it takes from the other standby", SEEN_MAX, || {
        let status = second.nodes[0].status()?;
        (status.stream(stream)?.upstream.as_ref()?.cluster == 2).then_some(())
    });

    at(&nodes, "standby remove --cluster 2").ok();
    wait_state(&first, stream, "source-refuses");
    let later = end_of(&append(&nodes, stream, "two\n"));
    wait_committed(&second, stream, later);
    at(&nodes, "standby remove --cluster 3").ok();
    wait_state(&second, stream, "source-refuses");
}

/// The links to a source wait between attempts, and each tells of a refusal once: one that comes
/// again before all of them noticed that they would have been served must still be seen.
#[test]
fn who_is_refused_again_says_so_again() {
    let cluster = Cluster::start("again", 1);
    let nodes = cluster.at();
    let stream = cluster.create_stream();
    let (known, other) = (standby_of(&cluster, 2), standby_of(&cluster, 3));
    wait_committed(&other, stream, end_of(&append(&nodes, stream, "one\n")));
    add(&nodes, 2, "async").ok();
    wait_state(&other, stream, "source-refuses");
    for _ in 0..3 {
        add(&nodes, 3, "async").ok();
        let end = end_of(&append(&nodes, stream, "one more\n"));
        wait_committed(&other, stream, end);
        wait_committed(&known, stream, end);
        // It would take the stream from the other standby, which never hears of its removal.
        at(&nodes, "standby remove --cluster 2").ok();
        at(&nodes, "standby remove --cluster 3").ok();
        wait_state(&other, stream, "source-refuses");
        add(&nodes, 2, "async").ok();
    }
}

/// A standby shows what is closed in all streams, which is a moment after it arrived.
pub(super) fn wait_shown(of: &Cluster, stream: u64, end: u64) {
    eventually("it is shown", SEEN_MAX, || {
        let (id, to, at) = (stream.to_string(), end.to_string(), of.at());
        let words = ["read", "--stream", &id, "--to", &to, "--output", "jsonl", "--at", &at];
        // It may not know the stream yet.
        let records = palisade(&words).out;
        let last: Value = serde_json::from_str(records.lines().last()?).ok()?;
        (last["end_lsn"].as_u64()? >= end).then_some(())
    });
}

#[test]
fn a_suspended_standby_stops_where_it_is_told_and_goes_on() {
    let cluster = Cluster::start("suspend", 1);
    let nodes = cluster.at();
    let stream = cluster.create_stream();
    let mut standby = standby_of(&cluster, 2);
    add(&nodes, 2, "async").ok();
    let first = append(&nodes, stream, "one\ntwo\n");
    wait_committed(&standby, stream, end_of(&first));

    at(&nodes, "standby suspend --cluster 2").ok();
    let (_, reason, _) = wait_state(&standby, stream, "suspended");
    assert!(reason.contains("operator"), "{reason}");
    let second = append(&nodes, stream, "three\nfour\nfive\n");
    let until = second[1]["scn"].as_u64().expect("an SCN");
    let kept = second[1]["end_lsn"].as_u64().expect("a position");
    assert_eq!(condition(&standby, stream).map(|seen| seen.2), Some(end_of(&first)));

    // Up to a point in time, and not beyond it after a restart either.
    at(&nodes, &format!("standby suspend --cluster 2 --until-scn {until}")).ok();
    wait_committed(&standby, stream, kept);
    wait_state(&standby, stream, "suspended");
    wait_shown(&standby, stream, kept);
    standby.nodes[0].kill();
    standby.nodes[0].spawn();
    standby.nodes[0].wait_ready();
    let (_, reason, committed) = wait_state(&standby, stream, "suspended");
    assert!(reason.contains(&until.to_string()), "{reason}");
    assert_eq!(committed, kept);
    wait_shown(&standby, stream, kept);

    at(&nodes, "standby resume --cluster 2").ok();
    wait_committed(&standby, stream, end_of(&second));
}

#[test]
fn a_named_upstream_is_asked_first_and_there_is_a_way_back() {
    let cluster = Cluster::start("upstream", 1);
    let nodes = cluster.at();
    let stream = cluster.create_stream();
    let (mut near, far) = (standby_of(&cluster, 2), standby_of(&cluster, 3));
    for (standby, id) in [(&near, 2), (&far, 3)] {
        let endpoint = standby.nodes[0].at();
        let words = format!(
            "standby add --cluster {id} --name s{id} --region hz --endpoint {endpoint} --transfer \
             async"
        );
        at(&nodes, &words).ok();
    }
    let upstream_is = |wanted: u32| {
        eventually("the upstream", SEEN_MAX, || {
            let status = far.nodes[0].status()?;
            let upstream = status.stream(stream)?.upstream?;
            (upstream.cluster == wanted).then_some(())
        });
    };
    upstream_is(1);
    at(&nodes, "standby set --cluster 3 --upstream 2").ok();
    upstream_is(2);
    let end = end_of(&append(&nodes, stream, "one\n"));
    wait_committed(&far, stream, end);
    near.nodes[0].kill();
    upstream_is(1);
    let end = end_of(&append(&nodes, stream, "two\n"));
    wait_committed(&far, stream, end);
    at(&nodes, "standby set --cluster 3 --upstream 0").ok();
    upstream_is(1);
}
