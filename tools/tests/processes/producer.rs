//! A producer: runs of `palisade append --json`, one after the other, on one line of sequences.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::history::{Answer, Attempt, Place};
use super::run::{Guarded, POLL, program};

/// Lines that may be unanswered before more are written.
const AHEAD: u64 = 64;
/// Lines between two pauses.
const BURST: u64 = 8;
const PAUSE: Duration = Duration::from_millis(6);
/// How long a run that got all its input may take to end.
const END_MAX: Duration = Duration::from_secs(60);

/// What a producer is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub at: String,
    pub stream: u64,
    pub producer: u64,
    /// Records of one run.
    pub run_records: u64,
    /// Kill the program in the middle of every so many-th run; 0 for never.
    pub kill_every: u64,
}

/// The clock of a history.
#[derive(Clone, Copy, Debug)]
pub struct Clock(pub Instant);

impl Clock {
    pub fn now(self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// A producer at work on a thread of its own.
pub struct Producer {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Attempt>>,
}

impl Producer {
    pub fn start(plan: Plan, clock: Clock) -> Producer {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), acked.clone());
        let thread = std::thread::spawn(move || produce(&plan, clock, &stopped, &count));
        Producer { stop, acked, thread }
    }

    /// Records acked so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Ends the last run gracefully; gives every attempt.
    pub fn finish(self) -> Vec<Attempt> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the producer found nothing odd")
    }
}

/// The bytes of a record: unique, of many sizes.
fn payload(producer: u64, sequence: u64) -> String {
    let size = (sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
    format!("{producer}-{sequence}-{}", "x".repeat(size))
}

fn produce(plan: &Plan, clock: Clock, stop: &AtomicBool, acked: &AtomicU64) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut next = 1;
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let kill = plan.kill_every > 0 && number % plan.kill_every == 0;
        let part = one_run(plan, clock, stop, acked, next, kill);
        // What is not acked is tried again under the same sequence: a gap is not taken.
        let is_acked = |attempt: &&Attempt| attempt.answer.is_some_and(|answer| answer.acked);
        next += part.iter().take_while(is_acked).count() as u64;
        attempts.extend(part);
    }
    attempts
}

fn one_run(
    plan: &Plan,
    clock: Clock,
    stop: &AtomicBool,
    acked: &AtomicU64,
    first: u64,
    kill: bool,
) -> Vec<Attempt> {
    let mut command = program();
    command.args(["append", "--json", "--lines", "--timeout", "5000", "--in-flight", "48"]);
    command.args(["--at", &plan.at, "--stream", &plan.stream.to_string()]);
    command.args(["--producer", &plan.producer.to_string()]);
    command.args(["--first-sequence", &first.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Guarded(command.spawn().expect("the program starts"));
    let stdout = child.0.stdout.take().expect("piped");
    let attempts: Arc<Mutex<Vec<Attempt>>> = Arc::default();
    let answered = Arc::new(AtomicU64::new(0));
    let (into, count) = (attempts.clone(), answered.clone());
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let (sequence, told) = answer(&line, clock);
            let mut attempts = into.lock().expect("no panic");
            attempts[(sequence - first) as usize].answer = told;
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut stdin = child.0.stdin.take().expect("piped");
    let records = if kill { plan.run_records / 2 } else { plan.run_records };
    for at in 0..records {
        while at >= answered.load(Ordering::Relaxed) + AHEAD
            && child.0.try_wait().is_ok_and(|s| s.is_none())
        {
            std::thread::park_timeout(POLL);
        }
        if at % BURST == 0 {
            std::thread::park_timeout(PAUSE);
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        let sequence = first + at;
        let line = payload(plan.producer, sequence);
        attempts.lock().expect("no panic").push(Attempt {
            producer: plan.producer,
            sequence,
            payload: line.clone().into_bytes(),
            invoked: clock.now(),
            answer: None,
        });
        if writeln!(stdin, "{line}").is_err() {
            // It ended: an earlier record was not acked in time.
            break;
        }
    }
    if kill {
        drop(child);
        drop(stdin);
    } else {
        drop(stdin);
        wait_end(&mut child);
    }
    reader.join().expect("every line makes sense");
    let attempts = std::mem::take(&mut *attempts.lock().expect("no panic"));
    let is_acked = |attempt: &&Attempt| attempt.answer.is_some_and(|answer| answer.acked);
    acked.fetch_add(attempts.iter().filter(is_acked).count() as u64, Ordering::Relaxed);
    attempts
}

fn wait_end(child: &mut Guarded) {
    let deadline = Instant::now() + END_MAX;
    while child.0.try_wait().expect("a child").is_none() {
        assert!(Instant::now() < deadline, "append does not end after its deadline");
        std::thread::park_timeout(POLL);
    }
}

/// A line of `append --json`; no answer when the outcome is unknown.
pub fn answer(line: &str, clock: Clock) -> (u64, Option<Answer>) {
    let at = clock.now();
    let json: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let field = |name: &str| json[name].as_u64().expect("a number");
    let place = Place { lsn: field("lsn"), end_lsn: field("end_lsn"), scn: field("scn") };
    let acked = match json["outcome"].as_str().expect("an outcome") {
        "acked" => true,
        "failed" => false,
        "unknown" => return (field("seq"), None),
        odd => panic!("outcome {odd}"),
    };
    (field("seq"), Some(Answer { at, acked, place }))
}
