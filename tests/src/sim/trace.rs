//! What happened, as a running hash and as the last few lines.

use std::collections::VecDeque;

use palisade_netio::Nanos;

/// Lines kept for a failure report.
const LINES_MAX: usize = 4096;

#[derive(Clone, Copy)]
struct Line {
    at: Nanos,
    what: &'static str,
    numbers: [u64; 3],
}

pub(crate) struct Trace {
    hash: u64,
    events: u64,
    lines: VecDeque<Line>,
}

impl Trace {
    pub(crate) fn new(seed: u64) -> Trace {
        Trace { hash: mix(0x5061_6C69_7361_6465, seed), events: 0, lines: VecDeque::new() }
    }

    pub(crate) fn note(&mut self, at: Nanos, what: &'static str, numbers: [u64; 3]) {
        self.events += 1;
        let mut hash = mix(mix(self.hash, at.0), hash_bytes(what.as_bytes()));
        for number in numbers {
            hash = mix(hash, number);
        }
        self.hash = hash;
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(Line { at, what, numbers });
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn recent(&self) -> Vec<String> {
        let show = |line: &Line| {
            let [a, b, c] = line.numbers;
            format!("{:>14} {} {a} {b} {c:#x}", line.at.0, line.what)
        };
        self.lines.iter().map(show).collect()
    }
}

fn mix(hash: u64, value: u64) -> u64 {
    let z = (hash.rotate_left(23) ^ value).wrapping_mul(0x9FB2_1C65_1E98_DF25);
    z ^ (z >> 29)
}

/// A fast hash of bytes, for traces and comparisons within one run.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    mix(bytes.len() as u64, u64::from(crc32c::crc32c(bytes)))
}
