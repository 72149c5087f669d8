//! One who hands the role of the primary from cluster to cluster.

use palisade::control::{Controlled, Request};
use palisade::shard::Answer;
use palisade::status::Transfer;
use palisade_netio::Nanos;

use super::fleet::Fleet;
use super::marker::Marker;
use super::registrar::add;
use super::settings::{MS, SECOND, Settings};
use crate::sim::Random;

/// The stream with the registry.
const CATALOGUE: u64 = 1;

/// See the [module](self). Draws from a source of its own.
pub struct Switcher {
    random: Random,
    busy: bool,
    waiting: Option<Answer<Controlled>>,
}

impl Switcher {
    /// One who has asked for nothing. Where marks are written by hand, nobody hands over.
    pub fn new(seed: u64, settings: &Settings, marker: &Marker) -> Switcher {
        let mut random = Random::new(seed ^ 0x7377_6974_6368);
        let busy = !settings.standbys.is_empty() && !marker.is_busy() && random.below(3) > 0;
        Switcher { random, busy, waiting: None }
    }

    /// Whether it does anything in this world.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Does nothing in this world.
    pub fn rest(&mut self) {
        self.busy = false;
    }

    /// Asks for something, if nothing is under way: when to act again.
    pub fn wake(&mut self, now: Nanos, fleet: &Fleet) -> Nanos {
        let open = self.waiting.take().filter(|answer| answer.try_take().is_none());
        // Who asked a node that died hears nothing.
        self.waiting = open.filter(|_| self.random.below(8) > 0);
        if self.waiting.is_none() {
            self.waiting = self.ask(fleet);
        }
        now.after(self.random.between(50 * MS, 8 * SECOND))
    }

    fn ask(&mut self, fleet: &Fleet) -> Option<Answer<Controlled>> {
        let primary = fleet.primary();
        let others: Vec<usize> = (0..fleet.clusters.len()).filter(|at| *at != primary).collect();
        let target = fleet.clusters[others[self.random.index(others.len())]].id;
        let transfer = if self.random.coin() { Transfer::Sync } else { Transfer::Async };
        let leader = fleet.leader(primary, CATALOGUE)?;
        let registry = fleet.registries(leader).next()?;
        let request = match registry.standby(target) {
            None => add(fleet, target, transfer),
            Some(_) if registry.primary().is_none() || self.random.below(6) == 0 => {
                Request::SetPrimary { transfer }
            }
            Some(_) => Request::Switchover { cluster: target },
        };
        fleet.port(leader, CATALOGUE)?.control(request).ok()
    }

    /// Whether the role is where it stays.
    pub fn is_settled(&self, fleet: &Fleet) -> bool {
        let leader = fleet.leader(fleet.primary(), CATALOGUE);
        let registry = leader.and_then(|leader| fleet.registries(leader).next());
        !self.busy || registry.is_some_and(|registry| registry.mode().is_steady())
    }
}
