//! Whose turn it is: readers at the tail go before those that catch up, and nobody gets more than
//! the caps allow.

use std::collections::{BTreeMap, VecDeque};

use palisade_netio::Nanos;

use super::limits::{CAP_BURST_NS, TAIL_TURNS_MAX};
use super::sender::ReaderId;

/// Who waits for a turn.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Readers that keep up.
    tail: VecDeque<ReaderId>,
    /// Readers that catch up: a turn of every so many is theirs.
    behind: VecDeque<ReaderId>,
    /// Turns of the tail since the last one of a reader that catches up.
    streak: u32,
    /// Readers whose cap is used up, and when it is not any more.
    held: Vec<(Nanos, ReaderId)>,
    all: Cap,
    /// Bytes per second of one cluster; 0: as many as it takes.
    cluster_rate: u64,
    clusters: BTreeMap<u32, Cap>,
}

impl Turns {
    /// Bytes per second of all readers together, and of the readers of one cluster; 0: no cap.
    pub(crate) fn new(all_rate: u64, cluster_rate: u64) -> Turns {
        Turns {
            tail: VecDeque::new(),
            behind: VecDeque::new(),
            streak: 0,
            held: Vec::new(),
            all: Cap::new(all_rate),
            cluster_rate,
            clusters: BTreeMap::new(),
        }
    }

    /// A reader has something to do.
    pub(crate) fn push(&mut self, reader: ReaderId, at_tail: bool) {
        let queue = if at_tail { &mut self.tail } else { &mut self.behind };
        queue.push_back(reader);
    }

    /// The reader whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<ReaderId> {
        if self.streak >= TAIL_TURNS_MAX || self.tail.is_empty() {
            self.streak = 0;
            if let Some(reader) = self.behind.pop_front() {
                return Some(reader);
            }
        }
        self.streak += 1;
        self.tail.pop_front()
    }

    /// Whether nobody waits for a turn, but for those that are held.
    pub(crate) fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.behind.is_empty()
    }

    /// Keeps a reader of `cluster` (0: of none) waiting if a cap is used up. Whether it does.
    pub(crate) fn hold(&mut self, reader: ReaderId, cluster: u32, now: Nanos) -> bool {
        let own = self.clusters.get_mut(&cluster).map_or(now, |cap| cap.free_at(now));
        let until = own.max(self.all.free_at(now));
        if until > now {
            self.held.push((until, reader));
        }
        until > now
    }

    /// Gives out the readers whose wait is over; each is to be [pushed](Turns::push) again.
    pub(crate) fn release(&mut self, now: Nanos) -> Vec<ReaderId> {
        let over = |(until, _): &mut (Nanos, ReaderId)| *until <= now;
        self.held.extract_if(.., over).map(|(_, reader)| reader).collect()
    }

    /// When [`release`](Turns::release) has somebody to give out.
    pub(crate) fn next_release(&self) -> Option<Nanos> {
        self.held.iter().map(|(until, _)| *until).min()
    }

    /// So many bytes are on their way to a reader of `cluster` (0: of none).
    pub(crate) fn on_sent(&mut self, cluster: u32, bytes: u64, now: Nanos) {
        self.all.spend(bytes, now);
        if cluster != 0 && self.cluster_rate > 0 {
            let rate = self.cluster_rate;
            self.clusters.entry(cluster).or_insert_with(|| Cap::new(rate)).spend(bytes, now);
        }
    }

    /// Nobody reads for a cluster any more: what it was over its cap is forgotten.
    pub(crate) fn forget(&mut self, cluster: u32) {
        self.clusters.remove(&cluster);
    }
}

/// A cap on bytes per second: who is not over it sends a whole chunk, and pays for it by waiting.
#[derive(Debug)]
struct Cap {
    /// Bytes per second; 0: no cap.
    rate: u64,
    /// Nanoseconds of the rate that are spent ahead of `at`.
    debt_ns: u64,
    at: Nanos,
}

impl Cap {
    fn new(rate: u64) -> Cap {
        Cap { rate, debt_ns: 0, at: Nanos(0) }
    }

    /// What was spent is paid back by time.
    fn settle(&mut self, now: Nanos) {
        self.debt_ns = self.debt_ns.saturating_sub(now.since(self.at));
        self.at = self.at.max(now);
    }

    /// From when on something may be sent.
    fn free_at(&mut self, now: Nanos) -> Nanos {
        self.settle(now);
        now.after(self.debt_ns.saturating_sub(CAP_BURST_NS))
    }

    fn spend(&mut self, bytes: u64, now: Nanos) {
        if self.rate == 0 {
            return;
        }
        self.settle(now);
        let ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        self.debt_ns = self.debt_ns.saturating_add(u64::try_from(ns).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn the_tail_goes_first_and_starves_nobody() {
        let mut turns = Turns::new(0, 0);
        let (tail, behind) = (ReaderId(1), ReaderId(2));
        (0..100).for_each(|_| turns.push(tail, true));
        (0..100).for_each(|_| turns.push(behind, false));
        let order: Vec<ReaderId> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order.len(), 200);
        assert_eq!(order[0], tail);
        let both = &order[..100 + 100 / TAIL_TURNS_MAX as usize];
        let waits = both.split(|id| *id == behind).map(<[ReaderId]>::len);
        assert_eq!(waits.max(), Some(TAIL_TURNS_MAX as usize));
    }

    /// Sends chunks for `seconds` as fast as the caps allow; bytes of each reader.
    fn send(turns: &mut Turns, readers: &[(ReaderId, u32)], chunk: u64, seconds: u64) -> Vec<u64> {
        let (mut now, mut sent) = (Nanos(S), vec![0; readers.len()]);
        let end = now.after(seconds * S);
        readers.iter().for_each(|(reader, _)| turns.push(*reader, false));
        while now < end {
            turns.release(now).into_iter().for_each(|reader| turns.push(reader, false));
            let Some(id) = turns.pop() else {
                now = turns.next_release().expect("somebody is held");
                continue;
            };
            let at = readers.iter().position(|(reader, _)| *reader == id).expect("known");
            if !turns.hold(id, readers[at].1, now) {
                turns.on_sent(readers[at].1, chunk, now);
                sent[at] += chunk;
                turns.push(id, false);
            }
        }
        sent
    }

    #[test]
    fn caps_hold_over_time_for_each_cluster_and_in_all() {
        let readers = [(ReaderId(1), 2), (ReaderId(2), 2), (ReaderId(3), 3), (ReaderId(4), 0)];
        let chunk = 256 << 10;
        let sent = send(&mut Turns::new(0, 1 << 20), &readers[..3], chunk, 20);
        let near = |bytes: u64, rate: u64| {
            let (least, most) = (rate * 19, rate * 21 + 3 * chunk);
            assert!((least..=most).contains(&bytes), "{bytes} bytes at {rate}/s in 20 s");
        };
        near(sent[0] + sent[1], 1 << 20);
        near(sent[2], 1 << 20);
        let shares = sent[0].abs_diff(sent[1]);
        assert!(shares <= 2 * chunk, "two connections of a cluster share its cap: {sent:?}");

        let sent = send(&mut Turns::new(2 << 20, 0), &readers, chunk, 20);
        near(sent.iter().sum(), 2 << 20);
        let (least, most) = (sent.iter().min(), sent.iter().max());
        assert!(most.zip(least).is_some_and(|(m, l)| m - l <= 2 * chunk), "in turn: {sent:?}");

        let sent = send(&mut Turns::new(8 << 20, 1 << 20), &readers, chunk, 20);
        near(sent[0] + sent[1], 1 << 20);
        near(sent.iter().sum(), 8 << 20);
    }

    #[test]
    fn a_cap_saves_nothing_up_and_forgets_no_debt() {
        let mut turns = Turns::new(1 << 20, 0);
        turns.on_sent(0, 1 << 20, Nanos(S));
        assert!(turns.hold(ReaderId(1), 0, Nanos(S)));
        assert_eq!(turns.next_release(), Some(Nanos(2 * S - CAP_BURST_NS)));
        assert_eq!(turns.release(Nanos(2 * S - CAP_BURST_NS - 1)), []);
        assert_eq!(turns.release(Nanos(2 * S)), [ReaderId(1)]);
        // An hour of rest is no hour of sending.
        let late = Nanos(3600 * S);
        turns.on_sent(0, 1 << 20, late);
        assert!(turns.hold(ReaderId(1), 0, late));
        assert_eq!(turns.next_release(), Some(late.after(S - CAP_BURST_NS)));
    }
}
