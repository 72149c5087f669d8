//! Recent committed records, kept for readers that keep up.

use std::collections::{BTreeMap, HashMap, VecDeque};

use palisade_wal::Lsn;

use super::limits::{TAIL_BYTES_MAX, TAIL_RUNS_MAX};
use super::queue::Recent;

/// The newest runs of all streams, the oldest dropped first.
#[derive(Debug)]
pub struct Tail {
    /// Runs by start. Runs of one stream may have gaps between them, and never overlap.
    streams: HashMap<u64, BTreeMap<Lsn, Kept>>,
    /// In order of arrival; entries of runs that went early are skipped.
    order: VecDeque<(u64, Lsn, u64)>,
    bytes: usize,
    bytes_max: usize,
    count: u64,
}

#[derive(Debug)]
struct Kept {
    recent: Recent,
    number: u64,
}

impl Default for Tail {
    fn default() -> Tail {
        Tail::new(TAIL_BYTES_MAX)
    }
}

impl Tail {
    /// A tail of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Tail {
        let (streams, order) = (HashMap::new(), VecDeque::new());
        Tail { streams, order, bytes: 0, bytes_max, count: 0 }
    }

    /// Keeps a run, and drops what is older until it fits. A run that overlaps a kept one is
    /// already known and not kept.
    pub fn push(&mut self, recent: Recent) {
        if recent.records.len() > self.bytes_max || recent.end <= recent.start {
            return;
        }
        let stream = recent.stream;
        if let Some(runs) = self.streams.get(&stream) {
            let before = runs.range(..recent.end).next_back();
            if before.is_some_and(|(_, kept)| kept.recent.end > recent.start) {
                return;
            }
        }
        self.bytes += recent.records.len();
        self.count += 1;
        self.order.push_back((stream, recent.start, self.count));
        let kept = Kept { recent, number: self.count };
        self.streams.entry(stream).or_default().insert(kept.recent.start, kept);
        while self.bytes > self.bytes_max || self.order.len() > TAIL_RUNS_MAX {
            let Some((stream, start, number)) = self.order.pop_front() else { break };
            let runs = self.streams.get(&stream);
            if runs.and_then(|runs| runs.get(&start)).is_some_and(|kept| kept.number == number) {
                self.remove(stream, start);
            }
        }
    }

    /// The run that holds the byte at `lsn`.
    pub fn find(&self, stream: u64, lsn: Lsn) -> Option<&Recent> {
        let (_, kept) = self.streams.get(&stream)?.range(..=lsn).next_back()?;
        (kept.recent.end > lsn).then_some(&kept.recent)
    }

    /// Drops one run.
    pub fn remove(&mut self, stream: u64, start: Lsn) {
        let Some(runs) = self.streams.get_mut(&stream) else { return };
        if let Some(kept) = runs.remove(&start) {
            self.bytes -= kept.recent.records.len();
        }
        if runs.is_empty() {
            self.streams.remove(&stream);
        }
    }

    /// Drops all runs of a stream.
    pub fn forget(&mut self, stream: u64) {
        for kept in self.streams.remove(&stream).into_iter().flat_map(BTreeMap::into_values) {
            self.bytes -= kept.recent.records.len();
        }
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testlog::{TestLog, pool};

    #[test]
    fn the_oldest_run_goes_first_and_bytes_are_found_by_position() {
        let mut pool = pool();
        let mut log = TestLog::new(1);
        for _ in 0..10 {
            log.push(&[1000]);
        }
        let bounds = log.bounds();
        let each = log.records(bounds[0], bounds[1]).len();
        let mut tail = Tail::new(each * 3);
        for pair in bounds.windows(2) {
            let records = log.view(&mut pool, pair[0], pair[1]);
            tail.push(Recent { stream: 1, start: pair[0], end: pair[1], records });
            assert!(tail.bytes() <= each * 3);
        }
        assert!(tail.find(1, bounds[6]).is_none());
        let found = tail.find(1, Lsn(bounds[8].0 - 1)).unwrap();
        assert_eq!(found.start, bounds[7]);
        assert!(tail.find(1, bounds[10]).is_none() && tail.find(2, bounds[8]).is_none());
        let records = log.view(&mut pool, bounds[7], bounds[9]);
        tail.push(Recent { stream: 1, start: bounds[7], end: bounds[9], records });
        assert_eq!(tail.bytes(), each * 3);
        tail.remove(1, bounds[7]);
        assert!(tail.find(1, bounds[7]).is_none());
        tail.forget(1);
        assert_eq!(tail.bytes(), 0);
        pool.collect();
        assert_eq!(pool.used(palisade_netio::Purpose::Tail), 0);
    }
}
