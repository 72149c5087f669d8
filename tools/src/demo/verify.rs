//! The judgement: what was acked against what each node returns. Pure, and tested on made-up
//! histories.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};

/// Differences that a report names one by one.
const EXAMPLES_MAX: usize = 8;

/// A record that was acked to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// Its sequence.
    pub sequence: u64,
    /// Where its entry starts.
    pub lsn: u64,
    /// Where its entry ends.
    pub end_lsn: u64,
    /// [`digest`] of its bytes.
    pub digest: u64,
}

/// A record that a node returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where its entry starts.
    pub lsn: u64,
    /// Where its entry ends.
    pub end_lsn: u64,
    /// Who appended it.
    pub producer: u64,
    /// The producer's number for it.
    pub sequence: u64,
    /// [`digest`] of its bytes.
    pub digest: u64,
}

/// Everything that one node returned, in the order in which it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLog {
    /// Its name.
    pub name: String,
    /// Its records.
    pub records: Vec<Seen>,
}

/// What is wrong, in counts.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Findings {
    /// Acked records that at least one node does not have.
    pub lost: u64,
    /// Positions at which bytes differ from what was acked or between nodes.
    pub diverged: u64,
    /// Sequences that a node has more than once.
    pub duplicated: u64,
    /// Records of a node that stand before one with a lower sequence or position.
    pub reordered: u64,
    /// The first few, in words.
    pub examples: Vec<String>,
}

/// A digest that tells records apart within one run; it is no defence against forgery.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The records of a node by position.
struct ByPlace<'a>(Cow<'a, [Seen]>);

impl ByPlace<'_> {
    /// As they are when they ascend, which takes no memory; else sorted, the last of a position.
    fn new(records: &[Seen]) -> ByPlace<'_> {
        if records.is_sorted_by(|one, next| one.lsn < next.lsn) {
            return ByPlace(Cow::Borrowed(records));
        }
        let sorted: BTreeMap<u64, Seen> = records.iter().map(|seen| (seen.lsn, *seen)).collect();
        ByPlace(Cow::Owned(sorted.into_values().collect()))
    }

    fn get(&self, lsn: u64) -> Option<&Seen> {
        let at = self.0.binary_search_by_key(&lsn, |seen| seen.lsn);
        at.ok().map(|at| &self.0[at])
    }
}

impl Findings {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.lost + self.diverged + self.duplicated + self.reordered == 0
    }

    /// Adds what is wrong with another stream.
    pub fn merge(&mut self, other: Findings) {
        self.lost += other.lost;
        self.diverged += other.diverged;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        for text in other.examples {
            self.example(|| text);
        }
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text());
        }
    }
}

/// Judges the logs of all nodes. A node may have records that were never acked, but all nodes
/// must then agree on them.
pub fn verify(acked: &[Acked], nodes: &[NodeLog]) -> Findings {
    let mut findings = Findings::default();
    let maps: Vec<ByPlace> = nodes.iter().map(|node| ByPlace::new(&node.records)).collect();
    let mut wrong = HashSet::new();
    check_acked(acked, nodes, &maps, &mut wrong, &mut findings);
    check_twins(acked, &mut wrong, &mut findings);
    for node in nodes {
        check_one(node, &mut findings);
    }
    check_agreement(nodes, &maps, &mut wrong, &mut findings);
    findings.diverged = wrong.len() as u64;
    findings
}

fn check_acked(
    acked: &[Acked],
    nodes: &[NodeLog],
    maps: &[ByPlace<'_>],
    wrong: &mut HashSet<u64>,
    findings: &mut Findings,
) {
    for ack in acked {
        let mut lost = false;
        for (node, map) in nodes.iter().zip(maps) {
            match map.get(ack.lsn) {
                None => {
                    findings.example(|| {
                        format!("{} lacks acked {} at LSN {}", node.name, ack.sequence, ack.lsn)
                    });
                    lost = true;
                }
                Some(seen) => {
                    let same = seen.sequence == ack.sequence
                        && seen.end_lsn == ack.end_lsn
                        && seen.digest == ack.digest;
                    if !same && wrong.insert(ack.lsn) {
                        findings.example(|| {
                            format!(
                                "{} has record {} at LSN {}, acked was {}",
                                node.name, seen.sequence, ack.lsn, ack.sequence
                            )
                        });
                    }
                }
            }
        }
        findings.lost += u64::from(lost || nodes.is_empty());
    }
}

/// One sequence must not be acked at two places, nor two at one.
fn check_twins(acked: &[Acked], wrong: &mut HashSet<u64>, findings: &mut Findings) {
    let mut places = HashMap::new();
    let mut sequences = HashMap::new();
    for ack in acked {
        let place = *places.entry(ack.sequence).or_insert(ack.lsn);
        let sequence = *sequences.entry(ack.lsn).or_insert(ack.sequence);
        if (place != ack.lsn || sequence != ack.sequence) && wrong.insert(ack.lsn) {
            findings.example(|| format!("{} was acked at {place} and {}", ack.sequence, ack.lsn));
        }
    }
}

fn check_one(node: &NodeLog, findings: &mut Findings) {
    let mut known = HashSet::new();
    let mut highest: HashMap<u64, u64> = HashMap::new();
    let mut end = 0;
    for seen in &node.records {
        if seen.lsn < end || seen.end_lsn <= seen.lsn {
            findings.reordered += 1;
            findings.example(|| format!("{}: LSN {} after {end}", node.name, seen.lsn));
        }
        end = end.max(seen.end_lsn);
        if seen.producer == 0 {
            continue;
        }
        if !known.insert((seen.producer, seen.sequence)) {
            findings.duplicated += 1;
            findings.example(|| format!("{}: sequence {} twice", node.name, seen.sequence));
            continue;
        }
        let last = highest.entry(seen.producer).or_insert(0);
        if seen.sequence < *last {
            findings.reordered += 1;
            findings.example(|| format!("{}: {} after {last}", node.name, seen.sequence));
        }
        *last = (*last).max(seen.sequence);
    }
}

fn check_agreement(
    nodes: &[NodeLog],
    maps: &[ByPlace<'_>],
    wrong: &mut HashSet<u64>,
    findings: &mut Findings,
) {
    // Who agrees with the first node agrees with everyone who does.
    let Some((first, first_map)) = nodes.first().zip(maps.first()) else { return };
    for (node, map) in nodes.iter().zip(maps).skip(1) {
        for (own, other) in [(first_map, map), (map, first_map)] {
            for seen in own.0.iter() {
                if other.get(seen.lsn) != Some(seen) && wrong.insert(seen.lsn) {
                    findings.example(|| {
                        format!("{} and {} differ at LSN {}", first.name, node.name, seen.lsn)
                    });
                }
            }
        }
    }
}
