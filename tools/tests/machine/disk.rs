//! What a disk does: it fails for good, or is full.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use palisade::config::Role;
use palisade::status::ReplicaRole;

use super::cluster::{Cluster, directory};
use super::history::{History, judge};
use super::producer::{Clock, Plan, Producer};
use super::reading::read_once;
use super::run::eventually;

const MIB: u64 = 1 << 20;

/// A file system of its own, on a loop device over a file in memory.
struct Disk {
    /// Where the memory is mounted, and the file system within.
    dir: tempfile::TempDir,
}

impl Disk {
    /// A disk of `disk_mib`, over memory that has some more.
    fn new(disk_mib: u64) -> Disk {
        let dir = directory("disk");
        let disk = Disk { dir };
        let memory = disk.memory();
        std::fs::create_dir(&memory).expect("a new directory");
        std::fs::create_dir(disk.path()).expect("a new directory");
        let size = format!("size={}m", disk_mib + 8);
        did("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(&memory)]);
        let image = File::create(disk.image()).and_then(|file| file.set_len(disk_mib * MIB));
        image.expect("a file in memory");
        did("mkfs.ext4", &["-q", "-F", text(&disk.image())]);
        did("mount", &["-o", "loop", text(&disk.image()), text(&disk.path())]);
        disk
    }

    /// Where files go.
    fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn memory(&self) -> PathBuf {
        self.dir.path().join("memory")
    }

    fn image(&self) -> PathBuf {
        self.memory().join("image")
    }

    /// No write succeeds from now on: what lies below it is gone, and no memory is left for more.
    fn fail(&self) {
        let image = self.image();
        let len = std::fs::metadata(&image).expect("the image").len().to_string();
        did("fallocate", &["--punch-hole", "-o", "0", "-l", &len, text(&image)]);
        fill(&self.memory().join("filler"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for path in [self.path(), self.memory()] {
            let done = Command::new("umount").arg("--lazy").arg(&path).status();
            assert!(done.is_ok_and(|status| status.success()), "umount {}", path.display());
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Runs a program that must succeed.
fn did(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {}: {words}", arguments.join(" "));
}

/// Takes all the space that is left where `path` is.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a new file");
    let block = vec![1; MIB as usize];
    for bytes in [MIB as usize, 4096] {
        while file.write_all(&block[..bytes]).is_ok() {}
    }
}

#[test]
fn a_node_whose_disk_fails_ends_with_74_and_the_others_go_on() {
    let disk = Disk::new(192);
    let mut cluster = Cluster::plan("failing-disk", 3, Role::Primary);
    cluster.nodes[0].config.node.data = disk.path().join("data");
    cluster.nodes[0].config.log.log_bytes_max = 96 * MIB;
    cluster.format_and_start();
    let stream = cluster.create_stream();
    let plan = Plan { at: cluster.at(), stream, producer: 1, run_records: 500, kill_every: 0 };
    let producer = Producer::start(plan, Clock(Instant::now()));
    let acked = |count: u64, what: &str| {
        eventually(what, Duration::from_secs(60), || (producer.acked() >= count).then_some(()));
    };
    acked(300, "records are acked");

    disk.fail();
    let ended = eventually("the node ends", Duration::from_secs(60), || cluster.nodes[0].ended());
    let log = cluster.nodes[0].log();
    assert_eq!(ended, 74, "{log}");
    let data = cluster.nodes[0].data();
    assert!(log.contains("writing a block failed") && log.contains(data), "{log}");

    acked(producer.acked() + 1000, "the others ack more");
    let mut history = History { attempts: producer.finish(), readings: Vec::new() };
    for node in &cluster.nodes[1..] {
        history.readings.push(read_once(&node.at(), stream, 0, true));
    }
    let verdict = judge(&history);
    assert!(verdict.counts.is_empty(), "{verdict:#?}");
    cluster.nodes[0].kill();
}

#[test]
fn a_leader_with_a_full_disk_gives_way_and_recovers_when_there_is_space() {
    let disk = Disk::new(160);
    let filler = disk.path().join("filler");
    let mut cluster = Cluster::plan("full-disk", 3, Role::Primary);
    cluster.nodes[0].config.node.data = disk.path().join("data");
    for node in &mut cluster.nodes {
        node.config.timing.hand_over = Duration::from_secs(1);
    }
    cluster.format_and_start();
    fill(&filler);
    let stream = cluster.create_stream();
    let plan = Plan { at: cluster.at(), stream, producer: 1, run_records: 300, kill_every: 0 };
    let producer = Producer::start(plan, Clock(Instant::now()));
    let alarm = |cluster: &Cluster, name: &str| {
        let alarms = cluster.nodes[0].status().map(|status| status.alarms).unwrap_or_default();
        alarms.iter().any(|alarm| alarm.code == name)
    };
    eventually("the alarm is up", Duration::from_secs(60), || {
        alarm(&cluster, "log-full").then_some(())
    });
    let before = producer.acked();
    eventually("another leader acks", Duration::from_secs(60), || {
        (producer.acked() > before + 500).then_some(())
    });
    std::fs::remove_file(&filler).expect("the filler");
    let attempts = producer.finish();
    cluster.wait_settled(stream, 1);
    let mut history = History { attempts, readings: Vec::new() };
    for node in &cluster.nodes {
        history.readings.push(read_once(&node.at(), stream, 0, true));
    }
    let verdict = judge(&history);
    assert!(verdict.counts.is_empty(), "{verdict:#?}");
    // It leads again, as the first of the members should.
    eventually("the first member leads", Duration::from_secs(60), || {
        (cluster.nodes[0].status()?.stream(stream)?.role == ReplicaRole::Leader).then_some(())
    });
}
