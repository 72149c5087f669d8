//! One who writes sync marks into streams of the primary, with no other reason than chance: what
//! the levels of protection do later, in any order.

use palisade::shard::sync::Mark;
use palisade_netio::Nanos;

use super::fleet::Fleet;
use super::settings::{MS, SECOND, Settings, Upstream};
use crate::sim::Random;

/// Index of the cluster that takes appends.
const PRIMARY: usize = 0;

/// See the [module](self). Draws from a source of its own.
pub struct Marker {
    random: Random,
    /// Indexes of the clusters that may be SYNC standbys: those that know the primary's nodes.
    standbys: Vec<usize>,
    busy: bool,
    epoch: u64,
    /// Mean pause, in nanoseconds.
    pause_ns: u64,
    /// Streams are only freed of standbys that cannot follow.
    pub calm: bool,
    /// Marks that were written.
    pub written: u64,
}

impl Marker {
    /// One who has written nothing.
    pub fn new(seed: u64, settings: &Settings) -> Marker {
        let mut random = Random::new(seed ^ 0x006D_6172_6B73);
        let direct = |at: &usize| settings.standbys[at - 1].upstream != Upstream::Standby;
        let standbys: Vec<usize> = (1..=settings.standbys.len()).filter(direct).collect();
        let busy = !standbys.is_empty() && random.below(4) > 0;
        let pause_ns = [200 * MS, 2 * SECOND, 20 * SECOND][random.index(3)];
        Marker { random, standbys, busy, epoch: 0, pause_ns, calm: false, written: 0 }
    }

    /// Whether it does anything in this world.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Does nothing in this world.
    pub fn rest(&mut self) {
        self.busy = false;
    }

    /// Writes a mark into some stream: when to write the next.
    pub fn wake(&mut self, now: Nanos, fleet: &mut Fleet) -> Nanos {
        if self.calm {
            self.free(fleet);
            return now.after(self.random.between(MS, 200 * MS));
        }
        let streams: Vec<u64> = fleet.streams(PRIMARY).into_iter().filter(|it| *it > 0).collect();
        if !streams.is_empty() {
            let stream = streams[self.random.index(streams.len())];
            let named = self.standbys[self.random.index(self.standbys.len())];
            let cluster = (self.random.below(3) > 0).then(|| fleet.clusters[named].id);
            self.write(stream, cluster, fleet);
        }
        now.after(self.random.between(MS, 2 * self.pause_ns))
    }

    /// In a calm world nobody waits for a standby that is held back or not registered.
    fn free(&mut self, fleet: &mut Fleet) {
        for stream in fleet.streams(PRIMARY) {
            let leader = fleet.leader(PRIMARY, stream);
            let mark = leader.and_then(|node| fleet.sync_status(node, stream)).and_then(|s| s.mark);
            let Some(cluster) = mark.and_then(|it| it.mark.cluster()) else { continue };
            let node = leader.expect("it has a mark");
            let registry = fleet.registries(node).next();
            let own = registry.and_then(|registry| registry.standby(cluster));
            let served = registry.is_some_and(|registry| registry.serves(cluster));
            if !served || own.is_some_and(|own| own.hold.is_some()) {
                self.write(stream, None, fleet);
            }
        }
    }

    fn write(&mut self, stream: u64, cluster: Option<u32>, fleet: &mut Fleet) {
        self.epoch += 1;
        let epoch = self.epoch;
        let mark = match cluster {
            Some(cluster) => Mark::Sync { cluster, epoch },
            None => Mark::Async { epoch },
        };
        let Some(node) = fleet.leader(PRIMARY, stream) else { return };
        self.written += u64::from(fleet.write_mark(node, stream, mark));
    }
}
