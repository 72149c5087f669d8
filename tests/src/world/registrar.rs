//! One who changes the registry of clusters and the mode now and then, and sets all standbys to
//! work again at the end.

use palisade::control::{Cluster, Controlled, Mode, Registry, Request, Settings};
use palisade::shard::Answer;
use palisade::status::Transfer;
use palisade::{Error, ErrorKind, Protection};

use super::check::Violation;
use super::fleet::Fleet;
use crate::sim::Random;

/// The stream with the registry.
const CATALOGUE: u64 = 1;
/// The first id of clusters that are nowhere but in the registry.
const NOWHERE: u32 = 90;

/// See the [module](self).
pub struct Registrar {
    /// Its own: what others draw does not depend on it.
    random: Random,
    /// Whether it does anything in this world.
    pub active: bool,
    /// Standby clusters of the world.
    standbys: u32,
    /// From now on it only sets right what keeps appends or standbys waiting.
    repairs: bool,
    /// It registers every standby, also where nobody else needs that.
    registers: bool,
    node: usize,
    waiting: Option<Answer<Controlled>>,
    /// Version of the registry after the last change that was acknowledged.
    told: u64,
    /// Changes that were acknowledged.
    pub changes: u64,
    /// Requests that a rule forbade, or that somebody else outran.
    pub forbidden: u64,
}

impl Registrar {
    /// It has asked for nothing. `needed`: somebody registers a standby, and so all must be.
    pub fn new(standbys: usize, seed: u64, needed: bool) -> Registrar {
        let mut random = Random::new(seed ^ 0x6F70_6572_6174);
        let active = random.coin() || needed;
        Registrar {
            random,
            active,
            standbys: standbys as u32,
            repairs: false,
            registers: false,
            node: 0,
            waiting: None,
            told: 0,
            changes: 0,
            forbidden: 0,
        }
    }

    /// One who does nothing in this world.
    pub fn idle(standbys: usize, seed: u64) -> Registrar {
        Registrar { active: false, ..Registrar::new(standbys, seed, false) }
    }

    /// Nanoseconds until it acts again.
    pub fn pause(&mut self, draining: bool) -> u64 {
        let (low, high) = if draining { (5, 50) } else { (20, 2000) };
        self.random.between(low, high) * super::settings::MS
    }

    /// The faults are over. In MAXIMUM PROTECTION without its SYNC standby nothing is acked until
    /// an operator asks for less: that is done now.
    pub fn on_calm(&mut self) {
        self.repairs = true;
    }

    /// All standbys are registered from the start, and stay so.
    pub fn register_all(&mut self) {
        (self.active, self.repairs, self.registers) = (true, true, true);
    }

    /// What it is doing, for a report.
    pub fn describe(&self) -> String {
        let waits = if self.waiting.is_some() { "waits for" } else { "asks next" };
        format!("registrar: {} changes, {waits} node #{}", self.changes, self.node)
    }

    /// Whether every standby of the world is served, and nothing is under way.
    pub fn is_settled(&self, fleet: &Fleet) -> bool {
        // Without a leader nobody knows what is still to be done.
        let leader = fleet.leader(fleet.primary(), CATALOGUE);
        let led = leader.and_then(|node| fleet.registries(node).next());
        // A step of the level is the last change.
        let led = led.is_some_and(|registry| registry.mode().is_steady());
        !self.active || (led && self.waiting.is_none() && self.repair(fleet).is_none())
    }

    /// Takes an answer, or asks for something: at random, or what sets the standbys to work.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn act(&mut self, fleet: &Fleet, draining: bool) -> Result<(), Violation> {
        let draining = draining || self.repairs;
        if let Some(answer) = &self.waiting {
            let Some(answer) = answer.try_take() else { return Ok(()) };
            self.waiting = None;
            self.hear(fleet, answer)?;
        }
        let request = match draining {
            true => self.repair(fleet),
            false => Some(self.draw(fleet)),
        };
        let Some(request) = request else { return Ok(()) };
        if self.random.below(8) == 0 && !draining {
            self.node = self.random.index(fleet.nodes.len());
        }
        let port = fleet.port(self.node, CATALOGUE);
        self.waiting = port.and_then(|port| port.control(request).ok());
        if self.waiting.is_none() {
            self.node = self.any_node(fleet);
        }
        Ok(())
    }

    fn hear(&mut self, fleet: &Fleet, answer: Result<Controlled, Error>) -> Result<(), Violation> {
        match answer {
            Ok(_) if !fleet.is_primary(self.node) => {
                let text = format!("node #{} changed the registry", self.node);
                Err(Violation::new("standby_refuses", text))
            }
            Ok(Controlled { version, changed: true }) if version <= self.told => {
                let text = format!("version {version} was told after {}", self.told);
                Err(Violation::new("registry_order", text))
            }
            Ok(Controlled { version, changed }) => {
                self.changes += u64::from(changed);
                self.told = if changed { version } else { self.told };
                Ok(())
            }
            Err(error) => {
                let hint = error.leader_hint().and_then(|hint| fleet.at(hint));
                match error.kind() {
                    ErrorKind::Forbidden | ErrorKind::Conflict => self.forbidden += 1,
                    _ => self.node = hint.unwrap_or_else(|| self.any_node(fleet)),
                }
                Ok(())
            }
        }
    }

    fn any_node(&mut self, fleet: &Fleet) -> usize {
        let nodes = &fleet.clusters[fleet.primary()].nodes;
        nodes[self.random.index(nodes.len())]
    }

    fn any_cluster(&mut self) -> u32 {
        match self.random.below(u64::from(self.standbys) + 2) as u32 {
            at if at < self.standbys => at + 2,
            _ => NOWHERE + self.random.below(3) as u32,
        }
    }

    fn any_transfer(&mut self) -> Transfer {
        if self.random.coin() { Transfer::Sync } else { Transfer::Async }
    }

    fn draw(&mut self, fleet: &Fleet) -> Request {
        let cluster = self.any_cluster();
        let transfer = self.any_transfer();
        match self.random.below(16) {
            0..=3 => add(fleet, cluster, transfer),
            4 | 5 => Request::Remove { cluster },
            6 => {
                let settings = Settings { transfer: Some(transfer), ..Settings::default() };
                Request::Set { cluster, settings }
            }
            7 => {
                let upstream = if self.random.coin() { 0 } else { self.any_cluster() };
                let settings = Settings { upstream: Some(upstream), ..Settings::default() };
                Request::Set { cluster, settings }
            }
            8 => Request::Suspend { cluster, until_scn: None },
            9 => {
                // Virtual clocks begin somewhere: most of these are long over, or far away.
                let until_scn = Some(1 + (self.random.bits() >> self.random.below(40)));
                Request::Suspend { cluster, until_scn }
            }
            10..=12 => Request::Resume { cluster },
            13 => Request::SetPrimary { transfer },
            _ => {
                let modes =
                    [Protection::Performance, Protection::Availability, Protection::Protection];
                let mode = modes[self.random.index(modes.len())];
                Request::SetMode { mode, force: self.random.coin() }
            }
        }
    }

    /// What must still be done so that every standby is served; none when it is.
    fn repair(&self, fleet: &Fleet) -> Option<Request> {
        let leader = fleet.leader(fleet.primary(), CATALOGUE)?;
        let registry = fleet.registries(leader).next()?;
        if Mode::wants_sync(registry.mode().mode) && !fleet.by_hand {
            // Nobody is to wait for a standby that may be nowhere.
            let mode = Protection::Performance;
            return Some(Request::SetMode { mode, force: true });
        }
        let primary = fleet.primary() as u32 + 1;
        let mut others = (1..2 + self.standbys).filter(|id| *id != primary);
        others.find_map(|id| match registry.standby(id) {
            None if self.registers => Some(add(fleet, id, Transfer::Async)),
            _ => fix(fleet, registry, id),
        })
    }

    /// Looks at every node at the end.
    ///
    /// # Errors
    /// They do not agree, or forgot what was acknowledged.
    pub fn at_end(&self, fleet: &Fleet) -> Result<(), Violation> {
        let all = (0..fleet.nodes.len()).flat_map(|at| fleet.registries(at).map(move |r| (at, r)));
        let all: Vec<(usize, &Registry)> = all.collect();
        let (_, first) = all[0];
        for (node, registry) in &all {
            if *registry != first {
                let text = format!("node #{node}: {registry:?}, elsewhere {first:?}");
                return Err(Violation::new("registry_agrees", text));
            }
        }
        if first.version() < self.told {
            let text = format!("version {}, told {}", first.version(), self.told);
            return Err(Violation::new("registry_survives", text));
        }
        Ok(())
    }
}

pub(super) fn add(fleet: &Fleet, cluster: u32, transfer: Transfer) -> Request {
    let known = fleet.clusters.iter().find(|known| known.id == cluster);
    let nodes = known.map(|known| known.nodes.clone()).unwrap_or_default();
    let mut endpoints: Vec<String> =
        nodes.into_iter().map(|node| fleet.nodes[node].addr.to_string()).collect();
    if endpoints.is_empty() {
        endpoints.push("10.255.255.1:7000".to_string());
    }
    let settings = Settings {
        name: Some(format!("cluster {cluster}")),
        region: Some("there".to_string()),
        endpoints: Some(endpoints),
        transfer: Some(transfer),
        ..Settings::default()
    };
    Request::Add { cluster, settings }
}

fn fix(fleet: &Fleet, registry: &Registry, cluster: u32) -> Option<Request> {
    match registry.standby(cluster) {
        None if registry.serves(cluster) => None,
        None => Some(add(fleet, cluster, Transfer::Async)),
        Some(Cluster { hold: Some(_), .. }) => Some(Request::Resume { cluster }),
        Some(Cluster { upstream, .. }) if *upstream != 0 => {
            let settings = Settings { upstream: Some(0), ..Settings::default() };
            Some(Request::Set { cluster, settings })
        }
        Some(_) => None,
    }
}
