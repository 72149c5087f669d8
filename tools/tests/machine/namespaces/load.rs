//! Records through `palisade append`, many in flight, and the judgement over all who have them.

use std::time::Duration;

use super::super::cluster::{Cluster, directory};
use super::super::history::{Attempt, History, Reading, judge};
use super::super::producer::{Clock, answer};
use super::super::reading::read_once;
use super::super::run::{program, run, within};

/// A load may take so long.
const LOAD_MAX: Duration = Duration::from_secs(90);
/// Until what is committed at a standby is readable there.
const READABLE: Duration = Duration::from_secs(30);

/// Records of one size, by one run of the program.
pub struct Load {
    pub producer: u64,
    /// Sequence of the first.
    pub first: u64,
    pub records: u64,
    pub record_bytes: usize,
    pub in_flight: u64,
}

impl Load {
    /// Appends all; every record is acked.
    pub fn append(&self, at: &str, stream: u64, clock: Clock) -> Vec<Attempt> {
        let dir = directory("load");
        let file = dir.path().join("records");
        let lines: Vec<String> =
            (self.first..self.first + self.records).map(|n| self.line(n)).collect();
        std::fs::write(&file, lines.concat()).expect("a file");
        let mut command = program();
        command.args(["append", "--json", "--lines", "--at", at, "--timeout", "60000"]);
        command.args(["--stream", &stream.to_string(), "--producer", &self.producer.to_string()]);
        command.args(["--first-sequence", &self.first.to_string()]);
        command.args(["--in-flight", &self.in_flight.to_string(), "--file"]).arg(&file);
        let invoked = clock.now();
        let out = run(command, LOAD_MAX).ok();
        let answers: Vec<_> = out.lines().map(|line| answer(line, clock)).collect();
        assert_eq!(answers.len(), lines.len(), "a line for each record");
        let attempt = |((sequence, answer), line): (_, String)| Attempt {
            producer: self.producer,
            sequence,
            payload: line.trim_end().as_bytes().to_vec(),
            invoked,
            answer,
        };
        answers.into_iter().zip(lines).map(attempt).collect()
    }

    /// A record of its own: lines of one size, with their number in front.
    fn line(&self, sequence: u64) -> String {
        let name = format!("{}-{sequence}-", self.producer);
        format!("{name}{}\n", "x".repeat(self.record_bytes - name.len()))
    }
}

/// Where the last of these records ends.
pub fn end_of(attempts: &[Attempt]) -> u64 {
    let ends = attempts.iter().filter_map(|attempt| attempt.answer).map(|a| a.place.end_lsn);
    ends.max().expect("a record was acked")
}

/// Reads every node to the end, and judges.
pub fn assert_sound(
    attempts: Vec<Attempt>,
    mut readings: Vec<Reading>,
    clusters: &[&Cluster],
    stream: u64,
) {
    let end = end_of(&attempts);
    for node in clusters.iter().flat_map(|cluster| &cluster.nodes) {
        let mut last = None;
        let whole = within(READABLE, || {
            let reading = last.insert(read_once(&node.at(), stream, 0, true));
            reading.records.last().filter(|seen| seen.place.end_lsn >= end).map(drop)
        });
        assert!(whole.is_some(), "{} gives not all up to {end}\n{}", node.at(), node.log());
        readings.extend(last);
    }
    let verdict = judge(&History { attempts, readings });
    assert!(verdict.counts.is_empty(), "{verdict:#?}");
}
