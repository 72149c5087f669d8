//! A judge of histories: what producers were told against what readers saw.

use std::collections::{BTreeMap, HashMap};

/// Differences that are named one by one.
const EXAMPLES_MAX: usize = 12;

/// One attempt to append one record. Times are in microseconds of one clock.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub producer: u64,
    pub sequence: u64,
    pub payload: Vec<u8>,
    /// Not later than the request left.
    pub invoked: u64,
    /// Nothing: the outcome is unknown.
    pub answer: Option<Answer>,
}

/// What a producer was told.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Not earlier than the answer came.
    pub at: u64,
    /// Otherwise it failed.
    pub acked: bool,
    pub place: Place,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Place {
    pub lsn: u64,
    pub end_lsn: u64,
    pub scn: u64,
}

/// A record that a reader got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub place: Place,
    pub payload: Vec<u8>,
}

/// What one read returned, in order.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Who was asked.
    pub node: String,
    pub from: u64,
    /// It ended by itself at the end of the log, after every append was over.
    pub is_final: bool,
    pub records: Vec<Seen>,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    pub attempts: Vec<Attempt>,
    pub readings: Vec<Reading>,
}

/// Kinds of anomalies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// Acked, and absent from a final read.
    Lost,
    /// One record at two places.
    Doubled,
    /// Two values at one place, or an ack that names another place or SCN than readers see.
    Changed,
    /// Against the order of a producer, of a read, or of real time.
    Reordered,
    /// Failed for good, and seen.
    Aborted,
    /// A read left out what stands between its ends.
    Gap,
    /// Nobody wrote it.
    Phantom,
}

/// What is wrong with a history.
#[derive(Debug, Default)]
pub struct Verdict {
    pub counts: BTreeMap<Anomaly, u64>,
    pub examples: Vec<String>,
}

impl Verdict {
    fn add(&mut self, anomaly: Anomaly, text: impl FnOnce() -> String) {
        *self.counts.entry(anomaly).or_default() += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{anomaly:?}: {}", text()));
        }
    }
}

/// A record's name: producer and sequence.
type Name = (u64, u64);

/// All that is known of one record.
#[derive(Default)]
struct Fate {
    invoked: u64,
    /// Of the earliest ack.
    acked: Option<(u64, Place)>,
    may_exist: bool,
    place: Option<Place>,
}

struct Judge<'a> {
    history: &'a History,
    fates: BTreeMap<Name, Fate>,
    names: HashMap<&'a [u8], Name>,
    /// Every record that anybody saw.
    log: BTreeMap<u64, &'a Seen>,
    verdict: Verdict,
}

/// Judges a history.
pub fn judge(history: &History) -> Verdict {
    let mut judge = Judge {
        history,
        fates: BTreeMap::new(),
        names: HashMap::new(),
        log: BTreeMap::new(),
        verdict: Verdict::default(),
    };
    judge.take_attempts();
    for reading in &history.readings {
        judge.take_reading(reading);
    }
    judge.check_producers();
    judge.check_real_time();
    for reading in &history.readings {
        judge.check_complete(reading);
    }
    judge.verdict
}

impl<'a> Judge<'a> {
    fn take_attempts(&mut self) {
        for attempt in &self.history.attempts {
            let name = (attempt.producer, attempt.sequence);
            self.names.insert(&attempt.payload, name);
            let first = Fate { invoked: u64::MAX, ..Fate::default() };
            let fate = self.fates.entry(name).or_insert(first);
            fate.invoked = fate.invoked.min(attempt.invoked);
            let Some(answer) = attempt.answer else {
                fate.may_exist = true;
                continue;
            };
            if !answer.acked {
                continue;
            }
            fate.may_exist = true;
            match fate.place {
                Some(place) if place.lsn != answer.place.lsn => {
                    let two = (place.lsn, answer.place.lsn);
                    self.verdict.add(Anomaly::Doubled, || format!("{name:?} acked at {two:?}"));
                }
                _ => fate.place = Some(answer.place),
            }
            let earlier = fate.acked.filter(|(at, _)| *at <= answer.at);
            fate.acked = earlier.or(Some((answer.at, answer.place)));
        }
    }

    fn take_reading(&mut self, reading: &'a Reading) {
        let node = &reading.node;
        for two in reading.records.windows(2) {
            let (one, next) = (two[0].place, two[1].place);
            if next.lsn < one.end_lsn || next.scn < one.scn {
                self.verdict.add(Anomaly::Reordered, || format!("{node}: {one:?}, then {next:?}"));
            }
        }
        let mut last: HashMap<u64, u64> = HashMap::new();
        for seen in &reading.records {
            let place = seen.place;
            let known = *self.log.entry(place.lsn).or_insert(seen);
            if known != seen {
                let text = || format!("{node}: {place:?} is not what others saw there");
                self.verdict.add(Anomaly::Changed, text);
            }
            let Some(&name) = self.names.get(seen.payload.as_slice()) else {
                self.verdict.add(Anomaly::Phantom, || format!("{node}: {place:?}"));
                continue;
            };
            if last.insert(name.0, name.1).is_some_and(|before| before > name.1) {
                let text = || format!("{node}: {name:?} at {place:?} after a later one");
                self.verdict.add(Anomaly::Reordered, text);
            }
            self.see(node, name, place);
        }
    }

    fn see(&mut self, node: &str, name: Name, place: Place) {
        let fate = self.fates.get_mut(&name).expect("it has a name");
        if !fate.may_exist {
            self.verdict.add(Anomaly::Aborted, || format!("{node}: {name:?} at {place:?}"));
        }
        let known = *fate.place.get_or_insert(place);
        if known.lsn != place.lsn {
            let text = || format!("{node}: {name:?} at {} and {}", known.lsn, place.lsn);
            self.verdict.add(Anomaly::Doubled, text);
        } else if known != place {
            let text = || format!("{node}: {name:?} at {place:?}, known as {known:?}");
            self.verdict.add(Anomaly::Changed, text);
        }
    }

    /// What a producer appended later stands later.
    fn check_producers(&mut self) {
        let mut last: Option<(Name, Place)> = None;
        for (&name, fate) in &self.fates {
            let Some(place) = fate.place else { continue };
            if let Some((before, at)) = last
                && before.0 == name.0
                && at.lsn >= place.lsn
            {
                let text = || format!("{before:?} at {}, {name:?} at {}", at.lsn, place.lsn);
                self.verdict.add(Anomaly::Reordered, text);
            }
            last = Some((name, place));
        }
    }

    /// What was invoked after another record's ack stands after it.
    fn check_real_time(&mut self) {
        let mut acks: Vec<(u64, u64)> = Vec::new();
        let mut calls: Vec<(u64, u64, Name)> = Vec::new();
        for (&name, fate) in &self.fates {
            if let Some((at, place)) = fate.acked {
                acks.push((at, place.lsn));
                calls.push((fate.invoked, place.lsn, name));
            }
        }
        acks.sort_unstable();
        calls.sort_unstable();
        let (mut acks, mut highest) = (acks.into_iter().peekable(), None);
        for (invoked, lsn, name) in calls {
            while let Some((_, acked)) = acks.next_if(|(at, _)| *at < invoked) {
                highest = highest.max(Some(acked));
            }
            if highest.is_some_and(|highest| highest >= lsn) {
                let text = || format!("{name:?} at {lsn} began after {highest:?} was acked");
                self.verdict.add(Anomaly::Reordered, text);
            }
        }
    }

    /// A read has everything between its ends; a final one has every acked record.
    fn check_complete(&mut self, reading: &Reading) {
        let node = &reading.node;
        let own: HashMap<u64, &Seen> =
            reading.records.iter().map(|seen| (seen.place.lsn, seen)).collect();
        let end = match (reading.is_final, reading.records.last()) {
            (true, _) => u64::MAX,
            (false, Some(last)) => last.place.lsn,
            (false, None) => return,
        };
        for (lsn, seen) in self.log.range(reading.from..=end.max(reading.from)) {
            if !own.contains_key(lsn) {
                let place = seen.place;
                self.verdict.add(Anomaly::Gap, || format!("{node}: nothing at {place:?}"));
            }
        }
        if !reading.is_final {
            return;
        }
        for (name, fate) in &self.fates {
            let Some((_, place)) = fate.acked else { continue };
            let there = own.get(&place.lsn).and_then(|seen| self.names.get(&seen.payload[..]));
            if place.lsn >= reading.from && there != Some(name) {
                self.verdict.add(Anomaly::Lost, || format!("{node}: {name:?} acked at {place:?}"));
            }
        }
    }
}

/// Three records of two producers, acked one after the other, read in full from two nodes.
#[cfg(test)]
fn sound() -> History {
    let place = |n: u64| Place { lsn: n * 100, end_lsn: n * 100 + 60, scn: n };
    let payload = |producer: u64, sequence: u64| format!("{producer}-{sequence}").into_bytes();
    let attempt = |n: u64, producer: u64, sequence: u64| Attempt {
        producer,
        sequence,
        payload: payload(producer, sequence),
        invoked: n * 10,
        answer: Some(Answer { at: n * 10 + 5, acked: true, place: place(n) }),
    };
    let seen = |n: u64, producer: u64, sequence: u64| Seen {
        place: place(n),
        payload: payload(producer, sequence),
    };
    let reading = |node: &str| Reading {
        node: node.to_owned(),
        from: 0,
        is_final: true,
        records: vec![seen(1, 1, 1), seen(2, 1, 2), seen(3, 2, 1)],
    };
    History {
        attempts: vec![attempt(1, 1, 1), attempt(2, 1, 2), attempt(3, 2, 1)],
        readings: vec![reading("n1"), reading("n2")],
    }
}

#[cfg(test)]
fn anomalies(history: &History) -> Vec<Anomaly> {
    judge(history).counts.into_keys().collect()
}

#[test]
fn a_sound_history_passes() {
    assert_eq!(anomalies(&sound()), []);
    // Unknown, and seen or not; failed, then acked under the same sequence.
    let mut history = sound();
    history.attempts[1].answer = None;
    assert_eq!(anomalies(&history), []);
    let mut failed = history.attempts[2].clone();
    let answer = failed.answer.as_mut().expect("acked");
    (answer.at, answer.acked, answer.place) = (31, false, Place::default());
    history.attempts.push(failed);
    assert_eq!(anomalies(&history), []);
}

#[test]
fn a_lost_record_is_found() {
    let mut history = sound();
    history.readings[1].records.pop();
    assert_eq!(anomalies(&history), [Anomaly::Lost, Anomaly::Gap]);
    history.readings[0].records.pop();
    assert_eq!(anomalies(&history), [Anomaly::Lost]);
    history.readings.iter_mut().for_each(|reading| reading.is_final = false);
    assert_eq!(anomalies(&history), []);
}

#[test]
fn a_doubled_record_is_found() {
    let mut history = sound();
    for reading in &mut history.readings {
        let mut again = reading.records[2].clone();
        again.place = Place { lsn: 400, end_lsn: 460, scn: 4 };
        reading.records.push(again);
    }
    assert_eq!(anomalies(&history), [Anomaly::Doubled]);
    let mut history = sound();
    let mut again = history.attempts[2].clone();
    again.answer.as_mut().expect("acked").place = Place { lsn: 400, end_lsn: 460, scn: 4 };
    history.attempts.push(again);
    assert_eq!(anomalies(&history), [Anomaly::Doubled]);
}

#[test]
fn a_changed_record_is_found() {
    let mut history = sound();
    history.attempts.push(Attempt {
        producer: 3,
        sequence: 1,
        payload: b"other".to_vec(),
        invoked: 0,
        answer: None,
    });
    history.readings[1].is_final = false;
    history.readings[1].records[2].payload = b"other".to_vec();
    assert_eq!(anomalies(&history), [Anomaly::Changed]);
    let mut history = sound();
    history.readings[1].records[2].place.scn += 1;
    assert_eq!(anomalies(&history), [Anomaly::Changed]);
}

#[test]
fn a_wrong_order_is_found() {
    // Of one read.
    let mut history = sound();
    history.readings[0].records.swap(1, 2);
    assert_eq!(anomalies(&history), [Anomaly::Reordered]);
    // Of one producer: its second record stands before its first.
    let mut history = sound();
    history.attempts[0].sequence = 3;
    history.attempts[1].invoked = 0;
    assert_eq!(anomalies(&history), [Anomaly::Reordered]);
    // Of real time: the last began after all others were acked, and stands before one.
    let mut history = sound();
    (history.attempts[0].invoked, history.attempts[1].invoked) = (40, 40);
    history.attempts[1].answer.as_mut().expect("acked").at = 50;
    history.attempts[0].answer.as_mut().expect("acked").at = 50;
    assert_eq!(anomalies(&history), [Anomaly::Reordered]);
}

#[test]
fn an_aborted_record_is_found() {
    let mut history = sound();
    history.attempts[2].answer.as_mut().expect("acked").acked = false;
    assert_eq!(anomalies(&history), [Anomaly::Aborted]);
}

#[test]
fn a_gap_is_found() {
    let mut history = sound();
    history.readings[1].is_final = false;
    history.readings[1].records.remove(1);
    assert_eq!(anomalies(&history), [Anomaly::Gap]);
}

#[test]
fn a_phantom_is_found() {
    let mut history = sound();
    for reading in &mut history.readings {
        let place = Place { lsn: 400, end_lsn: 460, scn: 4 };
        reading.records.push(Seen { place, payload: b"nobody's".to_vec() });
    }
    assert_eq!(anomalies(&history), [Anomaly::Phantom]);
}
