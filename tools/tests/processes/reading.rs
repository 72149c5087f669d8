//! Readers: `palisade read --output jsonl`, once or again and again.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::history::{Place, Reading, Seen};
use super::run::{Guarded, eventually, program, run};

/// A read of a whole log may take so long.
const READ_MAX: Duration = Duration::from_secs(60);
/// Every so many-th read starts at the start.
const FROM_START_EVERY: u64 = 8;
const PAUSE: Duration = Duration::from_millis(60);

/// Reads once from `from`; the node may die meanwhile unless `is_final`.
pub fn read_once(at: &str, stream: u64, from: u64, is_final: bool) -> Reading {
    let mut command = program();
    let (stream, start) = (stream.to_string(), from.to_string());
    command.args(["read", "--output", "jsonl", "--at", at, "--stream", &stream, "--from", &start]);
    command.args(["--timeout", if is_final { "8000" } else { "500" }]);
    let done = run(command, READ_MAX);
    assert!(!is_final || done.code == Some(0), "{at}: {}", done.err);
    // A read that was cut off may end within a line.
    let whole = done.out.rfind('\n').map_or("", |end| &done.out[..end]);
    let records = whole.lines().map(parse).collect();
    Reading { node: at.to_owned(), from, is_final, records }
}

fn parse(line: &str) -> Seen {
    let json: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let field = |name: &str| json[name].as_u64().expect("a number");
    let place = Place { lsn: field("lsn"), end_lsn: field("end_lsn"), scn: field("scn") };
    Seen { place, payload: unbase64(json["payload_b64"].as_str().expect("a text")) }
}

/// Reads one node again and again, mostly from where it stopped.
pub struct Follower {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Reading>>,
}

impl Follower {
    pub fn start(at: String, stream: u64) -> Follower {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut readings, mut next) = (Vec::new(), 0);
            for number in 1u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let from = if number.is_multiple_of(FROM_START_EVERY) { 0 } else { next };
                let reading = read_once(&at, stream, from, false);
                next = reading.records.last().map_or(next, |last| last.place.end_lsn);
                readings.push(reading);
                std::thread::park_timeout(PAUSE);
            }
            readings
        });
        Follower { stop, thread }
    }

    pub fn finish(self) -> Vec<Reading> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every line makes sense")
    }
}

/// One `read --follow` from the start, over all nodes, as long as it lives.
pub struct Subscriber {
    child: Guarded,
    records: Arc<Mutex<Vec<Seen>>>,
    thread: JoinHandle<()>,
}

impl Subscriber {
    pub fn start(at: &str, stream: u64) -> Subscriber {
        let mut command = program();
        let stream = stream.to_string();
        command.args(["read", "--follow", "--at", at, "--stream", &stream, "--timeout", "120000"]);
        command.stdout(Stdio::piped());
        let mut child = Guarded(command.spawn().expect("the program starts"));
        let lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
        let records: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let into = records.clone();
        let thread = std::thread::spawn(move || {
            // Only the end of the process can cut a line short.
            for line in lines.map_while(Result::ok).filter(|line| line.ends_with('}')) {
                into.lock().expect("no panic").push(parse(&line));
            }
        });
        Subscriber { child, records, thread }
    }

    /// Waits until the record that ends at `end` was delivered, and ends.
    pub fn finish(self, end: u64) -> Reading {
        eventually("the subscriber sees every ack", Duration::from_secs(60), || {
            let records = self.records.lock().expect("no panic");
            records.last().filter(|last| last.place.end_lsn >= end).map(drop)
        });
        drop(self.child);
        self.thread.join().expect("every line makes sense");
        let records = std::mem::take(&mut *self.records.lock().expect("no panic"));
        Reading { node: "subscriber".to_owned(), from: 0, is_final: false, records }
    }
}

/// Standard base64 with padding.
pub fn unbase64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' => 0,
        odd => panic!("{odd:#x} in base64"),
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for four in text.as_bytes().chunks(4) {
        assert_eq!(four.len(), 4, "base64 comes in fours");
        let word = four.iter().fold(0u32, |word, byte| word << 6 | u32::from(digit(*byte)));
        let pad = four.iter().filter(|byte| **byte == b'=').count();
        out.extend_from_slice(&word.to_be_bytes()[1..4 - pad]);
    }
    out
}

#[test]
fn base64_reads_back() {
    for (coded, plain) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9vYg==", "foob")] {
        assert_eq!(unbase64(coded), plain.as_bytes());
    }
}
