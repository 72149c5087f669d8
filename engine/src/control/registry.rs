//! The registry: which clusters there are, and how each is served.

use std::collections::BTreeMap;

use super::change::{Change, What};
use super::limits::{CLUSTERS_MAX, TIME_MS_DEFAULT};
use super::mode::Mode;
use super::role::{Act, RoleStep};
use crate::seeded::is_seeded;
use crate::status::{Protection, Transfer};

/// How far a standby is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It imports nothing more, from when it hears of it.
    AtOnce,
    /// It imports what has this SCN or a lower one.
    Until(u64),
}

impl Hold {
    /// The highest SCN that is still imported.
    pub fn limit(self) -> u64 {
        match self {
            Hold::AtOnce => 0,
            Hold::Until(scn) => scn,
        }
    }
}

/// A cluster: a standby, or the primary as it will be when it is a standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its id.
    pub id: u32,
    /// For people.
    pub name: String,
    /// Where it stands.
    pub region: String,
    /// Where its nodes listen, `HOST:PORT`.
    pub endpoints: Vec<String>,
    /// How it is served.
    pub transfer: Transfer,
    /// How long an ack may wait for it at a SYNC level, in milliseconds.
    pub net_timeout_ms: u32,
    /// How long it must be well before the level rises, in milliseconds.
    pub health_check_ms: u32,
    /// The standby that it is to take its log from; 0 when it chooses by itself.
    pub upstream: u32,
    /// Whether it is held back.
    pub hold: Option<Hold>,
}

impl Cluster {
    /// A cluster with the usual times.
    pub fn new(id: u32, transfer: Transfer) -> Cluster {
        Cluster {
            id,
            name: String::new(),
            region: String::new(),
            endpoints: Vec::new(),
            transfer,
            net_timeout_ms: TIME_MS_DEFAULT,
            health_check_ms: TIME_MS_DEFAULT,
            upstream: 0,
            hold: None,
        }
    }
}

/// Which clusters there are, how each is served, and the protection mode. Derived from the
/// committed catalogue alone: the same on every replica of every cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// Changes that took effect.
    pub(super) version: u64,
    /// The cluster that made the last of them.
    pub(super) author: u32,
    pub(super) standbys: BTreeMap<u32, Cluster>,
    /// A standby was registered once: from then on nobody else is served.
    pub(super) in_use: bool,
    /// The primary as a standby to come.
    pub(super) primary: Option<Cluster>,
    pub(super) mode: Mode,
}

impl Registry {
    /// Applies a committed change. False when it was decided on another version, or makes no
    /// sense: then nothing changes.
    pub fn apply(&mut self, change: &Change) -> bool {
        if change.on != self.version && !is_seeded("step_of_another_version") {
            return false;
        }
        let fits = match &change.what {
            What::Put(cluster) => self.put(cluster.clone()),
            What::Remove(id) => self.standbys.remove(id).is_some(),
            What::Primary(cluster) => {
                self.primary = Some(cluster.clone());
                true
            }
            What::Mode(step) => {
                let next = self.mode.step(step);
                self.mode = next.unwrap_or(self.mode);
                next.is_some()
            }
            What::Role(step) => self.turn(change.by, step),
        };
        if fits {
            self.version += 1;
            self.author = change.by;
        }
        fits
    }

    /// A step of the role. When it goes to a standby, that and the primary change places.
    fn turn(&mut self, by: u32, step: &RoleStep) -> bool {
        let target = self.mode.office.target;
        let known = match step.act {
            // Both are needed when they change places.
            Act::Prepare { target } => {
                let primary = self.primary.as_ref().is_some_and(|primary| primary.id == by);
                primary && self.standbys.contains_key(&target)
            }
            Act::HandOver { .. } => self.standbys.contains_key(&target),
            Act::Seize => self.standbys.contains_key(&by),
            Act::GiveUp | Act::End | Act::Resume { .. } => true,
            Act::Serve | Act::Begin { .. } => true,
        };
        let Some(next) = self.mode.turn(by, step).filter(|_| known) else { return false };
        self.mode = next;
        let holder = match step.act {
            Act::HandOver { .. } => Some(target),
            Act::Seize => Some(by),
            _ => None,
        };
        if let Some(holder) = holder {
            let target = self.standbys.remove(&holder).expect("looked up");
            let others = self.standbys.values_mut().filter(|other| other.upstream == target.id);
            others.for_each(|other| other.upstream = 0);
            if let Some(before) = self.primary.replace(Cluster { upstream: 0, ..target }) {
                self.standbys.insert(before.id, before);
            }
        }
        assert!(self.standbys.len() <= CLUSTERS_MAX, "as many as before");
        true
    }

    fn put(&mut self, cluster: Cluster) -> bool {
        let full = self.standbys.len() >= CLUSTERS_MAX && !self.standbys.contains_key(&cluster.id);
        if !full {
            self.in_use = true;
            self.standbys.insert(cluster.id, cluster);
        }
        assert!(self.standbys.len() <= CLUSTERS_MAX);
        !full
    }

    /// Changes that took effect so far.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The cluster that made the last change: the primary, as far as the log tells. 0 when there
    /// was none.
    pub fn author(&self) -> u32 {
        self.author
    }

    /// The standbys, by id.
    pub fn standbys(&self) -> impl Iterator<Item = &Cluster> {
        self.standbys.values()
    }

    /// A standby.
    pub fn standby(&self, id: u32) -> Option<&Cluster> {
        self.standbys.get(&id)
    }

    /// The primary as it will be when it is a standby, if that was said.
    pub fn primary(&self) -> Option<&Cluster> {
        self.primary.as_ref()
    }

    /// The region of a cluster, if that is known.
    pub fn region(&self, id: u32) -> Option<&str> {
        let primary = self.primary.as_ref().filter(|primary| primary.id == id);
        let cluster = self.standbys.get(&id).or(primary)?;
        Some(cluster.region.as_str()).filter(|region| !region.is_empty())
    }

    /// Mode and level.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The standbys that are set to SYNC.
    pub fn sync_standbys(&self) -> impl Iterator<Item = &Cluster> {
        self.standbys().filter(|cluster| cluster.transfer == Transfer::Sync)
    }

    /// How a standby is served now: at MAXIMUM PERFORMANCE all are asynchronous.
    pub fn effective(&self, id: u32) -> Option<Transfer> {
        let cluster = self.standby(id)?;
        Some(match Mode::wants_sync(self.mode.mode) {
            true => cluster.transfer,
            false => Transfer::Async,
        })
    }

    /// Whether the logs of this cluster may be given to `cluster`. Nobody is refused while no
    /// standby was ever registered.
    pub fn serves(&self, cluster: u32) -> bool {
        let known = |known: &Cluster| known.id == cluster;
        !self.in_use
            || self.standbys.contains_key(&cluster)
            || self.primary.as_ref().is_some_and(known)
            || self.author == cluster
    }

    /// Mode and level as `cluster` shows them: an asynchronous standby takes no part in them.
    pub fn shown_at(&self, cluster: u32) -> (Protection, Protection) {
        match self.standby(cluster) {
            Some(standby) if standby.transfer == Transfer::Async => Default::default(),
            _ => (self.mode.mode, self.mode.level),
        }
    }
}

#[cfg(test)]
impl Registry {
    /// A standby listens there.
    pub(crate) fn standby_at(&mut self, id: u32, endpoint: &str) {
        let standby = self.standbys.get_mut(&id).expect("it is registered");
        standby.endpoints = vec![endpoint.to_owned()];
    }
}

#[cfg(test)]
mod tests {
    use super::super::mode::Step;
    use super::*;

    fn put(on: u64, id: u32, transfer: Transfer) -> Change {
        Change { by: 1, on, what: What::Put(Cluster::new(id, transfer)) }
    }

    #[test]
    fn a_change_acts_on_the_version_that_it_names_and_on_no_other() {
        let mut registry = Registry::default();
        assert!(registry.apply(&put(0, 2, Transfer::Sync)));
        let before = registry.clone();
        for on in [0, 2, u64::MAX] {
            assert!(!registry.apply(&put(on, 3, Transfer::Sync)), "on {on}");
        }
        assert!(!registry.apply(&Change { by: 1, on: 1, what: What::Remove(9) }));
        assert_eq!(registry, before);
        assert!(registry.apply(&Change { by: 1, on: 1, what: What::Remove(2) }));
        assert_eq!((registry.version(), registry.standbys().count()), (2, 0));
    }

    #[test]
    fn a_mode_step_needs_version_and_epoch() {
        let mut registry = Registry::default();
        let step = |on, epoch| {
            let step = Mode::default().asked(Protection::Availability, false);
            Change { by: 1, on, what: What::Mode(Step { epoch, ..step }) }
        };
        assert!(!registry.apply(&step(0, 1)));
        assert!(registry.apply(&step(0, 0)));
        assert!(!registry.apply(&step(1, 0)));
        assert!(registry.apply(&step(1, 1)));
        assert_eq!((registry.version(), registry.mode().epoch), (2, 2));
    }

    #[test]
    fn the_table_of_modes_and_transfers() {
        use Protection::{Availability, Performance, Protection as Protect};
        use Transfer::{Async, Sync};
        let table = [
            (Performance, Sync, Async),
            (Performance, Async, Async),
            (Availability, Sync, Sync),
            (Availability, Async, Async),
            (Protect, Sync, Sync),
            (Protect, Async, Async),
        ];
        for (mode, transfer, effective) in table {
            let mut registry = Registry::default();
            assert!(registry.apply(&put(0, 2, transfer)));
            let what = What::Mode(Mode::default().asked(mode, false));
            assert!(registry.apply(&Change { by: 1, on: 1, what }));
            assert_eq!(registry.effective(2), Some(effective), "{mode:?} {transfer:?}");
            let shown = if transfer == Sync { mode } else { Performance };
            assert_eq!(registry.shown_at(2), (shown, Performance));
            assert_eq!(registry.shown_at(1), (mode, Performance), "the primary shows the pair");
        }
    }

    #[test]
    fn an_empty_registry_serves_everybody_and_another_one_whom_it_names() {
        let mut registry = Registry::default();
        assert!(registry.serves(7));
        assert!(registry.apply(&put(0, 2, Transfer::Async)));
        assert!(registry.serves(2) && registry.serves(1) && !registry.serves(7));
        let what = What::Primary(Cluster::new(5, Transfer::Sync));
        assert!(registry.apply(&Change { by: 1, on: 1, what }));
        assert!(registry.serves(5), "the old primary as a standby to come");
        assert!(registry.apply(&Change { by: 1, on: 2, what: What::Remove(2) }));
        assert!(
            !registry.serves(2) && !registry.serves(7),
            "the last one is gone, and served no more"
        );
    }

    #[test]
    fn a_registry_is_bounded() {
        let mut registry = Registry::default();
        for at in 0..CLUSTERS_MAX as u32 {
            assert!(registry.apply(&put(at.into(), at + 2, Transfer::Async)));
        }
        let on = registry.version();
        assert!(!registry.apply(&put(on, 1000, Transfer::Async)));
        assert!(registry.apply(&put(on, 2, Transfer::Sync)), "a known one changes");
    }
}
