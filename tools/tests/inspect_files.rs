//! `inspect` on the data directory of a node that ran.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use palisade::{Config, Node};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const RECORDS: u64 = 3_000;
const RECORD_BYTES: usize = 4_000;

/// A directory with the data of a node that appended and stopped, and the stream.
fn data() -> (TempDir, u64) {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let mut config = Config::embedded(dir.path().join("n1"));
    config.log.segment_bytes = 8 << 20;
    config.log.log_bytes_max = 64 << 20;
    palisade::format(&config).expect("formatted");
    let node = Node::open(config).expect("a node");
    let stream = node.create_stream().expect("a stream");
    let handle = node.stream(stream);
    for _ in 0..RECORDS / 100 {
        let payload = || vec![0x5a; RECORD_BYTES];
        let open: Vec<_> = (0..100).map(|_| handle.append(payload())).collect();
        let acked = open.into_iter().filter_map(|future| future.wait().ok());
        assert_eq!(acked.count(), 100);
    }
    node.stop().expect("stopped");
    (dir, stream)
}

fn inspect(arguments: &[&str], path: &Path) -> (i32, Vec<Value>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.arg("inspect").args(arguments).arg("--json").arg(path);
    let output = command.output().expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    (output.status.code().expect("it is not killed"), lines)
}

fn verify(path: &Path) -> (i32, Value) {
    let (code, mut lines) = inspect(&["verify"], path);
    (code, lines.remove(0))
}

/// Path, offset and bytes of every block, in the order of the log.
fn blocks(path: &Path) -> Vec<(PathBuf, u64, u64)> {
    let (code, lines) = inspect(&["segment"], path);
    assert_eq!(code, 0);
    let (mut found, mut file) = (Vec::new(), PathBuf::new());
    for line in lines {
        if let Some(path) = line["segment"].as_str() {
            file = PathBuf::from(path);
        }
        if line["block"].is_u64() {
            let number = |key: &str| line[key].as_u64().expect("a number");
            found.push((file.clone(), number("offset"), number("bytes")));
        }
    }
    found
}

fn change(path: &Path, offset: u64, with: impl Fn(u8) -> u8, count: usize) {
    let file: File = OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, offset).expect("bytes");
    bytes.iter_mut().for_each(|byte| *byte = with(*byte));
    file.write_all_at(&bytes, offset).expect("written");
}

#[test]
fn a_sound_directory_verifies_and_every_record_is_counted() {
    let (dir, stream) = data();
    let (code, found) = verify(dir.path());
    assert_eq!(code, 0, "{found}");
    assert_eq!((&found["ok"], &found["corrupt"]), (&Value::Bool(true), &Value::from(0)));
    assert_eq!(found["logs"][0]["stopped"], "zero", "{found}");
    let shard = dir.path().join("n1/shard-0");
    assert_eq!(verify(&shard).0, 0);
    let blocks = blocks(&shard);
    assert_eq!(blocks.len() as u64, found["blocks"].as_u64().expect("a number"));
    assert!(blocks[0].0 != blocks[blocks.len() - 1].0, "more than one segment");
    assert_eq!(verify(&blocks[0].0).0, 0);
    let of_stream = stream.to_string();
    let (_, lines) = inspect(&["segment", "--stream", &of_stream], &shard);
    let records = lines.iter().filter_map(|line| line["records"].as_array()).flatten();
    let groups = records.filter(|record| record["kind"] == "Group");
    let counted: u64 = groups.map(|group| group["records"].as_u64().expect("a number")).sum();
    assert!(counted >= RECORDS, "{counted} of {RECORDS}");
    let (code, lines) = inspect(&["verify", "--stream", &of_stream], &shard);
    assert_eq!((code, lines[0]["records"].as_u64()), (0, Some(counted)));
}

#[test]
fn a_flipped_byte_in_a_durable_block_exits_65() {
    let (dir, _) = data();
    let blocks = blocks(dir.path());
    for (part, within) in [(2, 100), (3, 600), (4, 2_000)] {
        // Closing blocks are small: the rest of theirs is a pad, which nothing covers.
        let mut large = blocks[blocks.len() / part..].iter().filter(|(_, _, bytes)| *bytes > 8192);
        let (path, offset, _) = large.next().expect("a block with records");
        change(path, offset + within, |byte| byte ^ 1, 1);
        let (code, found) = verify(dir.path());
        assert_eq!((code, &found["ok"]), (65, &Value::Bool(false)), "{found}");
        let damage = found["damage"].as_array().expect("a list");
        assert!(damage.iter().any(|one| one["offset"] == *offset), "{found}");
        assert_eq!(found["logs"][0]["stopped"], "corrupt");
        change(path, offset + within, |byte| byte ^ 1, 1);
        assert_eq!(verify(dir.path()).0, 0);
    }
}

#[test]
fn a_block_that_vanished_exits_65() {
    let (dir, _) = data();
    let blocks = blocks(dir.path());
    let (path, offset, bytes) = &blocks[blocks.len() / 2];
    change(path, *offset, |_| 0, *bytes as usize);
    let (code, found) = verify(dir.path());
    assert_eq!(code, 65, "{found}");
    assert!(found["damage"][0]["why"].as_str().expect("text").contains("missing"), "{found}");
}

/// No block tells of it; the identity file does.
#[test]
fn a_last_segment_that_is_gone_exits_65_and_is_named() {
    let (dir, _) = data();
    // Files behind it are kept ready, or were named and hold nothing yet.
    let last = blocks(dir.path()).pop().expect("a block").0;
    std::fs::remove_file(&last).expect("a file");
    let (code, found) = verify(dir.path());
    let named = found["damage"].to_string();
    assert!(code == 65 && named.contains(last.to_str().expect("text")), "{found}");
    assert!(named.contains("is gone"), "{found}");
}

/// Segments that were reused are no damage; the first one that is still needed is.
#[test]
fn a_log_that_was_recycled_is_whole_from_its_start_on() {
    let (dir, stream) = data();
    let mut config = Config::embedded(dir.path().join("n1"));
    config.log.segment_bytes = 8 << 20;
    config.log.log_bytes_max = 64 << 20;
    let node = Node::open(config).expect("a node");
    let handle = node.stream(stream);
    let shard = blocks(dir.path())[0].0.parent().expect("a directory").to_owned();
    let first = shard.join("0000000000000001.seg");
    for _ in 0..200 {
        let acked = handle.append(vec![0x5a; 1 << 19]).wait().expect("an append");
        handle.truncate_to(acked.lsn).expect("truncated");
    }
    assert!(!first.exists(), "its file was reused");
    node.stop().expect("stopped");
    let (code, found) = verify(dir.path());
    assert!(code == 0 && found["corrupt"] == 0, "{found}");
    let whole = |path: &PathBuf| path.metadata().expect("a file").len() >= 8 << 20;
    let names = std::fs::read_dir(&shard).expect("a directory").map(|name| name.unwrap().path());
    let segments = names.filter(|path| path.extension().is_some_and(|end| end == "seg"));
    let mut segments: Vec<PathBuf> = segments.filter(whole).collect();
    segments.sort();
    // The oldest ones may be let go and wait for their reuse.
    let needed = segments.iter().find(|path| {
        std::fs::rename(path, path.with_extension("aside")).expect("renamed");
        let (code, found) = verify(dir.path());
        assert!(code == 0 || found["damage"].to_string().contains("missing"), "{found}");
        code == 65
    });
    let needed = needed.expect("a segment that is needed");
    assert!(needed != segments.last().expect("segments"), "{segments:?}");
}

#[test]
fn a_torn_tail_is_no_damage() {
    let (dir, _) = data();
    let all = blocks(dir.path());
    let (path, offset, bytes) = all[all.len() - 1].clone();
    change(&path, offset + bytes + 4096, |_| 0xab, 8192);
    let (code, found) = verify(dir.path());
    assert_eq!((code, &found["logs"][0]["stopped"]), (0, &Value::from("torn")), "{found}");
    let last = found["logs"][0]["intact"]["block"].as_u64().expect("a number");
    change(&path, offset + 300, |byte| byte ^ 1, 1);
    let (code, found) = verify(dir.path());
    assert_eq!((code, &found["logs"][0]["stopped"]), (0, &Value::from("torn")), "{found}");
    assert_eq!(found["logs"][0]["intact"]["block"], last - 1);
}

/// Bytes that are no segment.
fn noise(len: usize) -> Vec<u8> {
    let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    std::iter::successors(Some(1), next).take(len).map(|state: u64| (state >> 56) as u8).collect()
}

/// Both commands refuse the file by its name.
#[track_caller]
fn assert_no_segment(path: &Path) {
    let (code, found) = verify(path);
    assert_eq!((code, &found["ok"]), (65, &Value::Bool(false)), "{found}");
    assert_eq!(found["damage"][0]["path"], path.to_str().expect("a plain path"), "{found}");
    assert!(found["damage"][0]["why"].as_str().expect("text").contains("no segment"), "{found}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    let done = command.args(["inspect", "segment"]).arg(path).output().expect("it runs");
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(65), "{text}");
    assert!(text.contains(path.to_str().expect("a plain path")), "{text}");
}

#[test]
fn a_file_that_is_no_segment_exits_65_and_is_named() {
    let (dir, _) = data();
    let shard = dir.path().join("n1/shard-0");
    let alone = tempfile::tempdir().expect("a directory");
    let segment = "0000000000000009.seg";
    let real = shard.join("0000000000000009.seg");
    for (path, len) in [
        (alone.path().join("redo.bin"), 3_000_000),
        (alone.path().join(segment), 3_000_000),
        (alone.path().join("large"), 9 << 20),
        (shard.join("redo.bin"), 3_000_000),
        (real.clone(), 3_000_000),
        (real, 8 << 20),
    ] {
        std::fs::write(&path, noise(len)).expect("a file");
        assert_no_segment(&path);
        std::fs::remove_file(&path).expect("a file");
    }
    let zeros = alone.path().join("zeros");
    std::fs::write(&zeros, vec![0; 3_000_000]).expect("a file");
    assert_no_segment(&zeros);
    let short = alone.path().join("short");
    std::fs::write(&short, "PLSDSEG1").expect("a file");
    assert_no_segment(&short);
    assert_eq!(verify(dir.path()).0, 0);
}

#[test]
fn a_destroyed_header_exits_65_and_the_blocks_are_still_shown() {
    for with in [0, 0xa5] {
        let (dir, _) = data();
        let all = blocks(dir.path());
        let (path, _, _) = all[all.len() - 1].clone();
        change(&path, 0, |_| with, 4096);
        let (code, found) = verify(dir.path());
        assert_eq!(code, 65, "{with:#x}: {found}");
        assert_eq!(verify(&path).0, 65, "{with:#x}");
        assert_eq!(blocks(dir.path()).len(), all.len(), "{with:#x}");
        // Nobody beside it says whose it is.
        let alone = tempfile::tempdir().expect("a directory");
        let copy = alone.path().join(path.file_name().expect("a name"));
        std::fs::copy(&path, &copy).expect("a copy");
        assert_no_segment(&copy);
    }
}

#[test]
fn a_decoder_is_given_every_payload_that_is_wanted() {
    let (dir, stream) = data();
    let of_stream = stream.to_string();
    let decoder = ["--decoder", "wc -c; echo $PALISADE_LSN"];
    let range = ["segment", "--stream", &of_stream, "--from", "4000", "--to", "20000"];
    let (code, lines) = inspect(&[&range[..], &decoder].concat(), dir.path());
    assert_eq!(code, 0);
    let records = lines.iter().filter_map(|line| line["records"].as_array()).flatten();
    let entries: Vec<&Value> =
        records.filter_map(|record| record["entries"].as_array()).flatten().collect();
    // 4,024 bytes each, from the one that ends after 4,000 to the one that starts before 20,000.
    assert_eq!(entries.len(), 5, "{entries:?}");
    for entry in entries {
        let decoded = entry["decoded"].as_str().expect("text");
        assert_eq!(decoded, format!("{RECORD_BYTES}\n{}\n", entry["lsn"]));
    }
    let (code, _) = inspect(&[&range[..], &["--decoder", "false"]].concat(), dir.path());
    assert_eq!(code, 1, "a decoder that fails is no success");
}

#[test]
fn a_segment_that_is_followed_shows_what_is_written_later() {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let config = Config::embedded(dir.path().join("n1"));
    palisade::format(&config).expect("formatted");
    let node = Node::open(config).expect("a node");
    let stream = node.stream(node.create_stream().expect("a stream"));
    let before = stream.append("before").wait().expect("acked");
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.args(["inspect", "segment", "--json", "--follow"]).arg(dir.path());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let out = BufReader::new(child.stdout.take().expect("piped"));
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            let line: Value = serde_json::from_str(&line).expect("JSON");
            let _ = send.send(line);
        }
    });
    let mut blocks = Vec::new();
    let mut wait_for = |lsn: u64| {
        let until = Instant::now() + Duration::from_secs(60);
        let is_there = |line: &Value| {
            let records = line["records"].as_array().cloned().unwrap_or_default();
            let group = |one: &Value| one["kind"] == "Group" && one["stream"] == stream.id();
            records.iter().any(|one| group(one) && one["end"].as_u64() > Some(lsn))
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).expect("a block with the record");
            blocks.extend(line["block"].as_u64());
            if is_there(&line) {
                return;
            }
        }
    };
    wait_for(before.lsn.0);
    let after = stream.append("after").wait().expect("acked");
    wait_for(after.lsn.0);
    kill_process(Pid::from_child(&child), Signal::INT).expect("a child");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(blocks.is_sorted_by(|one, next| one < next), "each block once: {blocks:?}");
    node.stop().expect("stopped");
}
