//! Transcripts: one file for each rule that must never be broken. A file has commands, and below
//! `----` what the replicas did.
//!
//! A file that is to change is written anew with `PALISADE_REWRITE=1 cargo test -p palisade --lib
//! scripts`; whoever does it reads what became different.
//!
//! ```text
//! cluster 3        three members, linked; nobody leads
//! campaign 1       node 1 asks for votes
//! append 1         node 1 appends a group
//! deliver ...      what is under way arrives; drop loses it; hold shows it
//!                  from N, to N, a kind: only that; first: the first of them
//! sync 1           what node 1 wrote becomes durable; with a number: so many records
//! turn 1           the end of a turn of node 1; with "all": of every node
//! wait 30          so many milliseconds pass
//! settle           everything arrives and becomes durable, until nothing moves
//! isolate 1 2      nothing comes from or goes to these
//! crash 1, restart 1, lose 1 0    lose: the disk does not give back record 0
//! state            all nodes
//! ```

use std::path::{Path, PathBuf};

use palisade_netio::Nanos;
use palisade_wal::Lsn;

use super::brief;
use super::cluster::{Cluster, Packet};

/// Turns until nothing moves.
const ROUNDS_MAX: usize = 40;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/paxos/tests/scripts")
}

struct Script {
    cluster: Cluster,
}

fn numbers(words: &[&str]) -> Vec<u32> {
    words
        .iter()
        .map(|word| word.parse().unwrap_or_else(|_| panic!("{word} is no number")))
        .collect()
}

/// Whether a packet is one of those that a command names.
fn is_meant(packet: &Packet, words: &[&str]) -> bool {
    let shown = brief::packet(packet);
    let kind = shown.split(": ").nth(1).unwrap_or_default().split(' ').next().unwrap_or_default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let fits = match *word {
            "from" => words.next().is_some_and(|node| *node == packet.from.node.to_string()),
            "to" => words.next().is_some_and(|node| *node == packet.to.to_string()),
            name => name == kind,
        };
        if !fits {
            return false;
        }
    }
    true
}

impl Script {
    fn new() -> Script {
        let mut script = Script { cluster: Cluster::new(1, 1) };
        script.command("cluster 3");
        script
    }

    fn at(&self, word: &str) -> usize {
        let node: usize = word.parse().unwrap_or_else(|_| panic!("{word} is no node"));
        assert!((1..=self.cluster.nodes.len()).contains(&node), "there is no node {node}");
        node - 1
    }

    /// Takes what a command names out of the network.
    fn take(&mut self, words: &[&str]) -> Vec<Packet> {
        let all = std::mem::take(&mut self.cluster.network);
        let (words, mut left) = match words.split_first() {
            Some((&"first", words)) => (words, 1),
            _ => (words, usize::MAX),
        };
        let (meant, others) = all.into_iter().partition(|packet| {
            let meant = left > 0 && is_meant(packet, words);
            left -= usize::from(meant);
            meant
        });
        self.cluster.network = others;
        meant
    }

    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            for at in 0..self.cluster.nodes.len() {
                self.cluster.sync(at, usize::MAX);
                self.cluster.end_turn(at);
            }
            let packets = std::mem::take(&mut self.cluster.network);
            if packets.is_empty() {
                return;
            }
            packets.into_iter().for_each(|packet| self.cluster.deliver(packet));
        }
    }

    /// Does what a line says; gives what happened.
    fn command(&mut self, line: &str) -> Vec<String> {
        self.cluster.trace.clear();
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, rest) = words.split_first().expect("a command");
        let mut said = Vec::new();
        match *name {
            "cluster" => {
                self.cluster = Cluster::new(numbers(rest)[0], 1);
                self.cluster.tracing = true;
                self.cluster.link();
            }
            "campaign" => {
                let at = self.at(rest[0]);
                self.cluster.run(at, |replica, now, fx| replica.campaign(now, fx));
            }
            "append" => {
                let at = self.at(rest[0]);
                said.push(match self.cluster.propose(at) {
                    Some(group) => format!("{}..{}", group.lsn(), group.end()),
                    None => "refused".to_owned(),
                });
            }
            "deliver" => {
                let packets = self.take(rest);
                packets.into_iter().for_each(|packet| self.cluster.deliver(packet));
            }
            "drop" => said.extend(self.take(rest).iter().map(brief::packet)),
            "hold" => said.extend(self.cluster.network.iter().map(brief::packet)),
            "sync" => {
                let count = rest.get(1).map_or(usize::MAX, |word| numbers(&[word])[0] as usize);
                self.cluster.sync(self.at(rest[0]), count);
            }
            "turn" if rest == ["all"] => {
                (0..self.cluster.nodes.len()).for_each(|at| self.cluster.end_turn(at));
            }
            "turn" => self.cluster.end_turn(self.at(rest[0])),
            "wait" => {
                let ms = u64::from(numbers(rest)[0]);
                self.cluster.now = Nanos(self.cluster.now.0 + ms * 1_000_000);
                (0..self.cluster.nodes.len()).for_each(|at| self.cluster.tick(at));
            }
            "settle" => self.settle(),
            "isolate" => self.cluster.isolate(&numbers(rest)),
            "state" => said = self.state(),
            _ => self.fate(name, rest),
        }
        [std::mem::take(&mut self.cluster.trace), said].concat()
    }

    /// Commands about the life of a node.
    fn fate(&mut self, name: &str, rest: &[&str]) {
        let at = self.at(rest[0]);
        match name {
            "crash" => {
                self.cluster.nodes[at].crash();
                self.cluster.network.retain(|packet| packet.from.node as usize != at + 1);
                self.cluster.link();
            }
            "restart" => {
                let now = self.cluster.now;
                self.cluster.nodes[at].restart(1, now);
                self.cluster.run(at, |replica, now, fx| replica.start(now, fx));
                self.cluster.link();
            }
            "lose" => {
                let records = numbers(&rest[1..]).into_iter().map(|record| record as usize);
                self.cluster.lose(at, records.collect::<Vec<_>>());
            }
            other => panic!("there is no command {other}"),
        }
    }

    fn state(&self) -> Vec<String> {
        let show = |(at, node): (usize, &super::node::Node)| {
            let Some(replica) = &node.replica else { return format!("{}: down", at + 1) };
            let (log, status) = (replica.log(), replica.status());
            let (promised, accepting) = (log.promised(), log.accepting());
            let (end, committed): (Lsn, Lsn) = (log.end().lsn, log.committed().lsn);
            let serves = if replica.serving().is_some() { ", serves" } else { "" };
            format!(
                "{}: promised {promised}, accepting {accepting}, end {end}, committed {committed}, \
                 leader {}{serves}",
                at + 1,
                status.leader
            )
        };
        self.cluster.nodes.iter().enumerate().map(show).collect()
    }
}

/// The file as it is when its commands are run.
fn play(text: &str) -> String {
    let (mut script, mut out) = (Script::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            out.push_str(&format!("{line}\n"));
            continue;
        }
        // What was said before is made anew.
        let mut rest = lines.clone();
        let next = rest.next();
        if next == Some("----") {
            rest.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
        }
        if next.is_some_and(|line| line.is_empty() || line == "----") {
            lines = rest;
        }
        out.push_str(&format!("{line}\n----\n"));
        script.command(line).iter().for_each(|said| out.push_str(&format!("{said}\n")));
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn compare(name: &str) {
    let path = folder().join(format!("{name}.txt"));
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let played = play(&kept);
    if std::env::var_os("PALISADE_REWRITE").is_some_and(|value| value == "1") {
        std::fs::write(&path, &played).expect("the script is written");
    } else if kept != played {
        let differs = kept.lines().zip(played.lines()).position(|(kept, now)| kept != now);
        let at = differs.unwrap_or(kept.lines().count().min(played.lines().count()));
        let from = |text: &str| text.lines().skip(at).take(5).collect::<Vec<_>>().join("\n");
        panic!("{name}.txt:{}: was\n{}\nis now\n{}", at + 1, from(&kept), from(&played));
    }
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                compare(stringify!($name));
            }
        )*

        #[test]
        fn every_script_is_run() {
            let mut named = vec![$(concat!(stringify!($name), ".txt")),*];
            named.sort_unstable();
            let entries = std::fs::read_dir(folder()).expect("the folder of the scripts");
            let name = |entry: std::io::Result<std::fs::DirEntry>| {
                entry.expect("a file").file_name().into_string().expect("a name")
            };
            let mut found: Vec<String> = entries.map(name).collect();
            found.sort_unstable();
            assert_eq!(found, named);
        }
    };
}

scripts! {
    best_tail
    commit_by_takeover
    commit_cursor
    election_safety
    fetched_bytes
    lease
    lost_range
    one_value
    promise_durable
    takeover_once
    void_settled
}
