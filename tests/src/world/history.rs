//! What clients asked and what they were told: the material of the checkers.

use std::collections::BTreeMap;

use palisade::{Appended, ErrorKind, Outcome};
use palisade_netio::Nanos;
use palisade_wal::Lsn;

/// A record that a client wants in a stream.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The stream.
    pub stream: u64,
    /// Who appends it; 0 for nobody.
    pub producer: u64,
    /// The producer's number for it.
    pub sequence: u64,
    /// Bytes of the payload.
    pub len: u64,
    /// Its SCN is at least this.
    pub scn_floor: u64,
    /// End of the stream as acknowledged to anybody when it was first asked for.
    pub lsn_floor: Lsn,
    /// Where it was acknowledged.
    pub acked: Option<Appended>,
    /// Some attempt may have put it into the log.
    pub possible: bool,
}

/// One call of append.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Index of its record.
    pub record: usize,
    /// The node that was asked.
    pub node: usize,
    /// When.
    pub invoked: Nanos,
    /// What it was told, once it was.
    pub told: Option<Told>,
}

/// What an attempt was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is in the log.
    Acked,
    /// This attempt put nothing into the log, and never will.
    Refused(ErrorKind),
    /// It may be in the log.
    Unknown,
}

/// A stretch that a reader read without a fault.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// The stream.
    pub stream: u64,
    /// First position.
    pub from: Lsn,
    /// First position after it.
    pub upto: Lsn,
    /// Records that the reader got.
    pub records: usize,
}

/// See the [module](self).
#[derive(Default)]
pub struct History {
    /// Records, by their number.
    pub records: Vec<Wanted>,
    /// Attempts, by their number.
    pub attempts: Vec<Attempt>,
    /// What readers have read.
    pub stretches: Vec<Stretch>,
    /// End of each stream as acknowledged.
    pub acked_end: BTreeMap<u64, Lsn>,
    /// Highest acknowledged sequence of each producer.
    pub acked_sequence: BTreeMap<u64, u64>,
    /// Acknowledged records.
    pub acks: u64,
    /// Attempts without an outcome.
    pub open: usize,
}

impl History {
    /// A client wants a new record.
    pub fn want(
        &mut self,
        stream: u64,
        producer: u64,
        sequence: u64,
        len: u64,
        scn_floor: u64,
    ) -> usize {
        let lsn_floor = self.acked_end.get(&stream).copied().unwrap_or(Lsn::ZERO);
        let (acked, possible) = (None, false);
        self.records.push(Wanted {
            stream,
            producer,
            sequence,
            len,
            scn_floor,
            lsn_floor,
            acked,
            possible,
        });
        self.records.len() - 1
    }

    /// A client calls append.
    pub fn invoke(&mut self, record: usize, node: usize, now: Nanos) -> usize {
        self.attempts.push(Attempt { record, node, invoked: now, told: None });
        self.open += 1;
        self.attempts.len() - 1
    }

    /// A stream goes on at `fork` without what stood above: which records that were acknowledged
    /// there are lost, and as what.
    pub fn lose(&mut self, stream: u64, fork: Lsn) -> Vec<(usize, Appended)> {
        let mut lost = Vec::new();
        let of_stream = |(_, record): &(usize, &mut Wanted)| record.stream == stream;
        for (number, record) in self.records.iter_mut().enumerate().filter(of_stream) {
            record.lsn_floor = record.lsn_floor.min(fork);
            if let Some(acked) = record.acked.filter(|acked| acked.lsn >= fork) {
                record.acked = None;
                lost.push((number, acked));
            }
        }
        if let Some(end) = self.acked_end.get_mut(&stream) {
            *end = fork.min(*end);
        }
        for (number, _) in &lost {
            let Wanted { producer, sequence, .. } = self.records[*number];
            let last = self.acked_sequence.entry(producer).or_default();
            *last = (*last).min(sequence.saturating_sub(1));
        }
        lost
    }

    /// An attempt has its outcome.
    pub fn tell(&mut self, attempt: usize, outcome: &Outcome) -> Told {
        let told = told_of(outcome);
        let attempt = &mut self.attempts[attempt];
        assert!(attempt.told.is_none(), "one outcome per attempt");
        attempt.told = Some(told);
        self.open -= 1;
        let record = &mut self.records[attempt.record];
        record.possible |= !matches!(told, Told::Refused(_));
        if let Ok(appended) = outcome
            && record.acked.is_none()
        {
            record.acked = Some(*appended);
            self.acks += 1;
            let end = self.acked_end.entry(record.stream).or_default();
            *end = appended.end_lsn.max(*end);
            if record.producer != 0 {
                let last = self.acked_sequence.entry(record.producer).or_default();
                *last = record.sequence.max(*last);
            }
        }
        told
    }
}

fn told_of(outcome: &Outcome) -> Told {
    match outcome {
        Ok(_) => Told::Acked,
        Err(error) => match error.kind() {
            kind @ (ErrorKind::NotLeader
            | ErrorKind::Standby
            | ErrorKind::Busy
            | ErrorKind::NoSpace
            | ErrorKind::UnknownStream
            | ErrorKind::SequenceGap
            | ErrorKind::TooLarge
            | ErrorKind::ScnTooFarAhead
            | ErrorKind::Failed) => Told::Refused(kind),
            _ => Told::Unknown,
        },
    }
}
