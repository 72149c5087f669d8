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
    /// Turns taken by the tail since the last one taken by a reader that catches up.
    streak: u32,
    /// Whether the reader that was given out last keeps up.
    from_tail: bool,
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
            from_tail: false,
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

    /// A reader that catches up goes on before others of its kind.
    pub(crate) fn push_again(&mut self, reader: ReaderId) {
        self.behind.push_front(reader);
    }

    /// The reader whose turn it is, if no cap [holds](Turns::hold) it.
    pub(crate) fn pop(&mut self) -> Option<ReaderId> {
        let first = self.tail.is_empty() || self.streak >= TAIL_TURNS_MAX;
        self.from_tail = !first || self.behind.is_empty();
        if self.from_tail { self.tail.pop_front() } else { self.behind.pop_front() }
    }

    /// Whether nobody waits for a turn, but for those that are held.
    pub(crate) fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.behind.is_empty()
    }

    /// Keeps the reader that was given out last, of `cluster` (0: of none), waiting if a cap is
    /// used up. Until when; none: it takes its turn.
    pub(crate) fn hold(&mut self, reader: ReaderId, cluster: u32, now: Nanos) -> Option<Nanos> {
        let own = self.clusters.get_mut(&cluster).map_or(now, |cap| cap.free_at(now));
        let until = own.max(self.all.free_at(now));
        if until > now {
            self.held.push((until, reader));
            return Some(until);
        }
        // A turn that a cap puts off is none.
        self.streak = if self.from_tail { self.streak.saturating_add(1) } else { 0 };
        None
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
        if cluster == 0 || self.cluster_rate == 0 {
            return;
        }
        if !self.clusters.contains_key(&cluster) {
            // A cluster that hangs up does not come back without its debt.
            self.clusters.retain(|_, cap| cap.owes(now));
            self.clusters.insert(cluster, Cap::new(self.cluster_rate));
        }
        self.clusters.get_mut(&cluster).into_iter().for_each(|cap| cap.spend(bytes, now));
    }

    /// So many of these bytes will not be sent after all.
    pub(crate) fn on_unsent(&mut self, cluster: u32, bytes: u64) {
        self.all.give_back(bytes);
        self.clusters.get_mut(&cluster).into_iter().for_each(|cap| cap.give_back(bytes));
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

    fn owes(&mut self, now: Nanos) -> bool {
        self.settle(now);
        self.debt_ns > 0
    }

    fn spend(&mut self, bytes: u64, now: Nanos) {
        self.settle(now);
        self.debt_ns = self.debt_ns.saturating_add(self.time_of(bytes));
    }

    fn give_back(&mut self, bytes: u64) {
        self.debt_ns = self.debt_ns.saturating_sub(self.time_of(bytes));
    }

    fn time_of(&self, bytes: u64) -> u64 {
        if self.rate == 0 {
            return 0;
        }
        let ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        u64::try_from(ns).unwrap_or(u64::MAX)
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
        let taken = |turns: &mut Turns| {
            let reader = turns.pop()?;
            assert_eq!(turns.hold(reader, 0, Nanos(0)), None, "there is no cap");
            Some(reader)
        };
        let order: Vec<ReaderId> = std::iter::from_fn(|| taken(&mut turns)).collect();
        assert_eq!(order.len(), 200);
        assert_eq!(order[0], tail);
        let both = &order[..100 + 100 / TAIL_TURNS_MAX as usize];
        let waits = both.split(|id| *id == behind).map(<[ReaderId]>::len);
        assert_eq!(waits.max(), Some(TAIL_TURNS_MAX as usize));
    }

    /// The readers of which this is one keep up.
    const TAIL: u64 = 100;

    /// Sends chunks for `seconds` as fast as the caps allow; bytes of each reader.
    fn send(turns: &mut Turns, readers: &[(ReaderId, u32)], chunk: u64, seconds: u64) -> Vec<u64> {
        let (mut now, mut sent) = (Nanos(S), vec![0; readers.len()]);
        let end = now.after(seconds * S);
        let push = |turns: &mut Turns, reader: ReaderId| turns.push(reader, reader.0 >= TAIL);
        readers.iter().for_each(|(reader, _)| push(turns, *reader));
        while now < end {
            turns.release(now).into_iter().for_each(|reader| push(turns, reader));
            let Some(id) = turns.pop() else {
                now = turns.next_release().expect("somebody is held");
                continue;
            };
            let at = readers.iter().position(|(reader, _)| *reader == id).expect("known");
            if turns.hold(id, readers[at].1, now).is_none() {
                turns.on_sent(readers[at].1, chunk, now);
                sent[at] += chunk;
                push(turns, id);
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
    fn under_a_cap_who_catches_up_has_its_turns_too() {
        let readers = [(ReaderId(TAIL), 2), (ReaderId(TAIL + 1), 3), (ReaderId(1), 4)];
        for rate in [1 << 20, 10 << 20, 100 << 20] {
            let sent = send(&mut Turns::new(rate, 0), &readers, 256 << 10, 20);
            let (all, behind) = (sent.iter().sum::<u64>(), sent[2]);
            let share = u64::from(TAIL_TURNS_MAX + 2);
            assert!(behind * share >= all, "{sent:?} at {rate}/s");
            assert!(behind * 4 <= all, "the tail goes first: {sent:?} at {rate}/s");
        }
    }

    #[test]
    fn who_hangs_up_owes_what_it_had() {
        let mut turns = Turns::new(0, 1 << 20);
        turns.on_sent(2, 4 << 20, Nanos(S));
        turns.on_sent(3, 1, Nanos(2 * S));
        assert!(turns.hold(ReaderId(1), 2, Nanos(2 * S)).is_some());
        turns.on_unsent(2, 4 << 20);
        assert_eq!(turns.hold(ReaderId(1), 2, Nanos(2 * S)), None);
        turns.on_sent(4, 1, Nanos(100 * S));
        assert_eq!(turns.clusters.len(), 1, "what is paid is forgotten");
    }

    #[test]
    fn a_cap_saves_nothing_up_and_forgets_no_debt() {
        let mut turns = Turns::new(1 << 20, 0);
        turns.on_sent(0, 1 << 20, Nanos(S));
        assert!(turns.hold(ReaderId(1), 0, Nanos(S)).is_some());
        assert_eq!(turns.next_release(), Some(Nanos(2 * S - CAP_BURST_NS)));
        assert_eq!(turns.release(Nanos(2 * S - CAP_BURST_NS - 1)), []);
        assert_eq!(turns.release(Nanos(2 * S)), [ReaderId(1)]);
        // An hour of rest is no hour of sending.
        let late = Nanos(3600 * S);
        turns.on_sent(0, 1 << 20, late);
        assert!(turns.hold(ReaderId(1), 0, late).is_some());
        assert_eq!(turns.next_release(), Some(late.after(S - CAP_BURST_NS)));
    }
}
