//! A standby that comes late, or back: when it is started, all others have let go what comes next
//! of a stream. Its nodes are the last ones of the world.

use std::collections::BTreeMap;

use palisade_wal::Lsn;

use super::{ACKS_BEFORE_FAULT, Entry, START_NS, World};
use crate::world::check::Violation;
use crate::world::settings::{PINS_ALL, PINS_FEW, SECOND};
use crate::world::truncation::Truncation;

/// Streams of the embedder begin here.
const FIRST: u64 = 2;
/// Between two words of the operator.
pub(super) const REBUILD_NS: u64 = SECOND / 5;
/// Until a standby that was late has what the others have.
const BEGINS_NS: u64 = 120 * SECOND;
/// Until all other nodes have let something go of some stream.
const LET_GO_NS: u64 = 60 * SECOND;

impl World {
    /// Whether a seed has a standby that may come late, and loses no bytes of disks: what a
    /// replica lost that all others let go nobody gives back.
    pub fn has_latecomer(&self) -> bool {
        self.fleet.clusters.len() > 1 && !self.faults.may_lose_bytes()
    }

    /// Lives through the whole seed, the last standby coming late; or, where it `returns`, being
    /// away while what comes next is let go. False when that could not be let go.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn live_late(&mut self, returns: bool) -> Result<bool, Violation> {
        let late = self.fleet.clusters.len() - 1;
        let late = self.fleet.clusters[late].nodes.clone();
        if !returns && self.settings.pin_bytes_max == PINS_ALL {
            // Nothing would be let go without it.
            self.settings.pin_bytes_max = PINS_FEW;
            self.fleet.keep_for_standbys(PINS_FEW);
        }
        let pins = self.settings.pin_bytes_max;
        if pins > 0 {
            self.workload.registrar.register_all();
        }
        self.begin(if returns { &[] } else { &late })?;
        self.truncation = Truncation::busy(self.seed ^ 0x7472_756E_6361_7465, &late);
        self.agenda.retain(|entry| !matches!(entry, Entry::Truncation));
        let deadline = self.universe.now().after(START_NS);
        while pins > 0 && !self.workload.registrar.is_settled(&self.fleet) {
            self.step_until(deadline, "all standbys are registered")?;
        }
        let mut ends = BTreeMap::new();
        if returns {
            let streams = self.fleet.streams(0);
            ends.extend(streams.into_iter().map(|stream| (stream, self.end_of(&late, stream))));
            late.iter().for_each(|node| self.fleet.kill(*node));
        }
        self.agenda.add(self.universe.now(), Entry::Truncation);
        if pins == PINS_ALL {
            return self.return_kept(&late, &ends);
        }
        // One that came late may fall behind again when it is killed.
        self.agenda.add(self.universe.now(), Entry::Rebuild);
        let deadline = self.universe.now().after(LET_GO_NS);
        let mut found = None;
        while found.is_none() && self.universe.now() < deadline {
            self.step(deadline)?;
            found = self.let_go_without(&late, &ends);
            found = found.filter(|_| self.workload.history.acks >= LATE_ACKS);
        }
        let Some((stream, base)) = found else { return Ok(false) };
        let deadline = self.universe.now().after(START_NS);
        while returns && pins > 0 && !self.not_kept {
            self.step_until(deadline, "a leader says that it keeps no more for a standby")?;
        }
        self.universe.note("late", [stream, base.0, late.len() as u64]);
        late.iter().for_each(|node| self.fleet.start(*node));
        if !returns {
            self.truncation.wait_for_all();
        }
        self.suffer()?;
        self.recover()?;
        // The log itself may begin a run before that, as long as its base is one with it.
        let begins = |world: &World, node: usize| world.fleet.floor(node, stream) >= base;
        let deadline = self.universe.now().after(BEGINS_NS);
        while !self.is_fetching() || !late.iter().all(|node| begins(self, *node)) {
            self.step_until(deadline, "a late standby begins where the log begins")?;
        }
        self.check_copies()?;
        self.check_upstreams()?;
        self.check_sleep()?;
        Ok(true)
    }

    /// The last standby was away, and everything that it lacks is kept for it: it goes on without
    /// an operator, whatever happens from now on.
    fn return_kept(
        &mut self,
        late: &[usize],
        ends: &BTreeMap<u64, Lsn>,
    ) -> Result<bool, Violation> {
        let (truncated, deadline) =
            (self.truncation.truncations, self.universe.now().after(LET_GO_NS));
        let lacks = |world: &World| {
            let count = world.truncation.truncations - truncated;
            world.workload.history.acks < LATE_ACKS || count < KEPT_TRUNCATIONS
        };
        while lacks(self) && self.universe.now() < deadline {
            self.step(deadline)?;
            self.check_kept(late, ends)?;
        }
        if lacks(self) {
            return Ok(false);
        }
        self.universe.note("kept", [late.len() as u64, 0, 0]);
        late.iter().for_each(|node| self.fleet.start(*node));
        self.suffer()?;
        self.recover()?;
        let deadline = self.universe.now().after(BEGINS_NS);
        while !self.is_fetching() {
            self.step_until(deadline, "a standby goes on with what was kept for it")?;
        }
        self.check_copies()?;
        self.check_upstreams()?;
        self.check_sleep()?;
        Ok(true)
    }

    /// Nobody let go of what the last standby lacks.
    fn check_kept(&self, late: &[usize], ends: &BTreeMap<u64, Lsn>) -> Result<(), Violation> {
        let others = || (0..self.fleet.nodes.len()).filter(|at| !late.contains(at));
        for stream in self.fleet.streams(0).into_iter().filter(|stream| *stream >= FIRST) {
            let had = ends.get(&stream).copied().unwrap_or_default();
            for node in others() {
                let replica = self.fleet.replica(node, stream);
                let base = replica.map_or(Lsn::ZERO, |it| it.log().base().lsn);
                if base > had {
                    let text = format!("node #{node}, stream {stream}: it begins at {base}, {had}");
                    return Err(Violation::new("kept_for_standbys", text));
                }
            }
        }
        Ok(())
    }

    /// An operator lets the streams of the last standby begin anew that have a gap.
    pub(super) fn rebuild_last(&mut self) {
        let last = self.fleet.clusters.len() - 1;
        for stream in self.fleet.streams(last).into_iter().filter(|stream| *stream >= FIRST) {
            let Some(leader) = self.fleet.leader(last, stream) else { continue };
            let state = self.fleet.transfer(leader, stream);
            if state.is_some_and(|state| state.starts_with("source-has-a-gap")) {
                self.fleet.rebuild(leader, stream);
            }
        }
    }

    /// Whether the last cluster gets every stream: none waits for its first answer, and none lacks
    /// what nobody has. It may have become the primary, which had to have everything for that.
    fn is_fetching(&self) -> bool {
        let last = self.fleet.clusters.len() - 1;
        if self.fleet.primary() == last {
            return true;
        }
        let state = |stream: u64| {
            let leader = self.fleet.leader(last, stream)?;
            self.fleet.transfer(leader, stream)
        };
        let streams = self.fleet.streams(last).into_iter().filter(|stream| *stream >= FIRST);
        streams.map(state).all(|state| state.is_some_and(|state| state.starts_with("sync")))
    }

    /// How far any of these nodes has a stream.
    fn end_of(&self, nodes: &[usize], stream: u64) -> Lsn {
        let ends = nodes.iter().filter_map(|node| self.fleet.replica(*node, stream));
        ends.map(|replica| replica.log().end().lsn).max().unwrap_or_default()
    }

    /// A stream of which none of the other nodes has what comes behind these ends, and the lowest
    /// of their bases.
    fn let_go_without(&self, late: &[usize], ends: &BTreeMap<u64, Lsn>) -> Option<(u64, Lsn)> {
        let streams = self.fleet.streams(0).into_iter().filter(|stream| *stream >= FIRST);
        let others = || (0..self.fleet.nodes.len()).filter(|at| !late.contains(at));
        let base = |node: usize, stream: u64| {
            self.fleet.replica(node, stream).map_or(Lsn::ZERO, |it| it.log().base().lsn)
        };
        let least = |stream| Some((stream, others().map(|node| base(node, stream)).min()?));
        let had = |stream: u64| ends.get(&stream).copied().unwrap_or_default();
        streams.filter_map(least).find(|(stream, base)| *base > had(*stream))
    }
}

/// Truncations before one comes back for which everything is kept.
const KEPT_TRUNCATIONS: u64 = 20;
/// Acknowledgements before it comes.
const LATE_ACKS: u64 = 2 * ACKS_BEFORE_FAULT;

const _: () = assert!(LET_GO_NS <= START_NS, "within the time of a start");
