//! One who keeps logs short: what every cluster and reader has, and what was copied away,
//! is truncated now and then. Draws from a source of its own, so that a seed's faults and clients
//! are the same with it and without.

use std::collections::BTreeMap;

use palisade::Record;
use palisade::shard::{Answer, ReadPart};
use palisade_netio::Nanos;
use palisade_wal::Lsn;

use super::fleet::Fleet;
use super::settings::MS;
use crate::sim::Random;

/// Streams below this are the cluster's own.
const FIRST: u64 = 2;
/// Nodes are not all told; in so many of a hundred cases one is left out.
const FORGETS_PERCENT: u64 = 10;

/// What was read before it was truncated.
#[derive(Default)]
struct Archive {
    records: Vec<Record>,
    /// Everything committed below is in it.
    upto: Lsn,
    /// Where nodes were told to begin.
    floor: Lsn,
}

/// See the [module](self).
pub struct Truncation {
    random: Random,
    on: bool,
    /// Nodes that nobody waits for.
    away: Vec<usize>,
    pause_ns: u64,
    archives: BTreeMap<u64, Archive>,
    reading: Option<(u64, Answer<ReadPart>)>,
    told: Vec<Answer<()>>,
    /// Truncations that were asked for.
    pub truncations: u64,
}

impl Truncation {
    /// The one of a seed. Not where bytes of a disk may be lost: a replica below the bases of
    /// all others is not rebuilt yet.
    pub fn new(seed: u64, bytes_may_be_lost: bool) -> Truncation {
        let mut random = Random::new(seed);
        let on = random.coin() && !bytes_may_be_lost;
        let pause_ns = random.between(20 * MS, 600 * MS);
        let (archives, away) = (BTreeMap::new(), Vec::new());
        Truncation {
            random,
            on,
            away,
            pause_ns,
            archives,
            reading: None,
            told: Vec::new(),
            truncations: 0,
        }
    }

    /// One who surely does, often, and waits for none of these nodes until they are back.
    pub fn busy(seed: u64, away: &[usize]) -> Truncation {
        let (on, pause_ns) = (true, 20 * MS);
        Truncation { on, pause_ns, away: away.to_vec(), ..Truncation::new(seed, false) }
    }

    /// All nodes are to have what is let go from now on.
    pub fn wait_for_all(&mut self) {
        self.away.clear();
    }

    /// Whether anybody truncates in this world.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// When to wake next.
    pub fn next(&mut self, now: Nanos) -> Nanos {
        now.after(self.random.between(MS, 2 * self.pause_ns))
    }

    /// Goes on with what it does. `read` says where the readers of a stream are, at least.
    pub fn wake(&mut self, fleet: &Fleet, read: impl Fn(u64) -> Option<Lsn>) {
        self.told.retain(|answer| answer.try_take().is_none());
        match self.reading.take() {
            None => self.begin(fleet),
            Some((stream, answer)) => match answer.try_take() {
                None => self.reading = Some((stream, answer)),
                Some(Err(_)) => {}
                Some(Ok(part)) => {
                    let archive = self.archives.entry(stream).or_default();
                    archive.records.extend(part.records);
                    archive.upto = part.next;
                    self.truncate(stream, fleet, read(stream));
                }
            },
        }
    }

    fn begin(&mut self, fleet: &Fleet) {
        let streams: Vec<u64> = fleet.streams(0).into_iter().filter(|id| *id >= FIRST).collect();
        if streams.is_empty() {
            return;
        }
        let stream = streams[self.random.index(streams.len())];
        let node = self.random.index(fleet.nodes.len());
        let from = self.archives.get(&stream).map_or(Lsn::ZERO, |archive| archive.upto);
        let asked = fleet.port(node, stream).and_then(|port| port.read(stream, from).ok());
        self.reading = asked.map(|answer| (stream, answer));
    }

    /// Tells the nodes to begin at some record that all nodes show and all readers have read.
    fn truncate(&mut self, stream: u64, fleet: &Fleet, read: Option<Lsn>) {
        let shown = |node| fleet.shown(node, stream);
        let came = (0..fleet.nodes.len()).filter(|node| !self.away.contains(node));
        let all: Option<Vec<Lsn>> = came.map(shown).collect();
        let Some(most) = all.and_then(|all| all.into_iter().chain(read).min()) else { return };
        let archive = self.archives.entry(stream).or_default();
        let count = archive.records.partition_point(|r| r.lsn <= most && r.lsn < archive.upto);
        let first = archive.records.partition_point(|record| record.lsn <= archive.floor);
        if first >= count {
            return;
        }
        // Mostly all of it, so that much is let go.
        let at =
            if self.random.coin() { count - 1 } else { first + self.random.index(count - first) };
        archive.floor = archive.records[at].lsn;
        self.truncations += 1;
        for node in 0..fleet.nodes.len() {
            if self.random.below(100) < FORGETS_PERCENT {
                continue;
            }
            let port = fleet.port(node, stream);
            self.told.extend(port.and_then(|port| port.truncate_to(stream, archive.floor).ok()));
        }
    }

    /// The records of a stream that nodes were told to let go, and where a read may begin.
    pub fn archived(&self, stream: u64) -> (Vec<Record>, Lsn) {
        let Some(archive) = self.archives.get(&stream) else { return (Vec::new(), Lsn::ZERO) };
        let count = archive.records.partition_point(|record| record.lsn < archive.floor);
        (archive.records[..count].to_vec(), archive.floor)
    }
}
