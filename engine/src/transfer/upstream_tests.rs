//! The choice of upstreams: tables, both figures, faults, and random worlds of standbys that
//! choose by facts of different ages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use palisade_netio::Nanos;
use palisade_wal::Lsn;

use super::arbiter::Arbiter;
use super::candidates::{Asking, Candidates};
use super::facts::{Facts, Path, Place, Pulse, Question, Standing, StreamFacts};
use super::limits::{PATIENCE_NS, PULSE_NS, STALL_NS};
use super::rank::{Me, Rank, Unfit, fit, may_choose, rank};
use super::receiver::State;
use super::upstream::{Advice, Chooser, Ending};
use crate::config::Role;
use crate::control::Term;
use crate::forward::testlog::mix;

const STREAM: u64 = 2;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
const STEP: u64 = 40 * MS;
/// Every change is over after so long.
const REPLACED: u64 = 5 * SECOND;

fn addr(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A node of the primary, or the one node of a standby.
struct Node {
    cluster: u32,
    node: u32,
    region: &'static str,
    alive: bool,
    /// It keeps its connections and does nothing.
    frozen: bool,
    has_stream: bool,
    committed: u64,
    arbiter: Arbiter,
    /// None at the primary.
    chooser: Option<Chooser>,
    fixed: Option<SocketAddr>,
    links: BTreeSet<SocketAddr>,
    wanted: BTreeSet<SocketAddr>,
    upstream: Option<SocketAddr>,
    switches: u32,
    pulse: u64,
}

/// Clusters, the primary first; everything takes its time.
struct World {
    now: Nanos,
    nodes: BTreeMap<SocketAddr, Node>,
    leader: SocketAddr,
    /// The standby that the leader ships to.
    shipped: Option<SocketAddr>,
    endpoints: Vec<SocketAddr>,
    severed: BTreeSet<(SocketAddr, SocketAddr)>,
    answers: Vec<(Nanos, SocketAddr, SocketAddr, Facts)>,
    /// Longest time that an answer takes.
    lag: u64,
    seed: u64,
    busy: bool,
}

impl World {
    /// The primary's nodes at ports 1.., led by the first.
    fn new(primary: &[&'static str], seed: u64) -> World {
        let mut world = World {
            now: Nanos(SECOND),
            nodes: BTreeMap::new(),
            leader: addr(1),
            shipped: None,
            endpoints: Vec::new(),
            severed: BTreeSet::new(),
            answers: Vec::new(),
            lag: 40 * MS,
            seed,
            busy: true,
        };
        for (at, region) in (1..).zip(primary) {
            world.add(1, at, region);
        }
        world.endpoints = world.nodes.keys().copied().collect();
        world
    }

    fn add(&mut self, cluster: u32, node: u32, region: &'static str) -> SocketAddr {
        let port = if cluster == 1 { node as u16 } else { 100 * cluster as u16 };
        let node = Node {
            cluster,
            node,
            region,
            alive: true,
            frozen: false,
            has_stream: true,
            committed: 0,
            arbiter: Arbiter::default(),
            chooser: None,
            fixed: None,
            links: BTreeSet::new(),
            wanted: BTreeSet::new(),
            upstream: None,
            switches: 0,
            pulse: 0,
        };
        self.nodes.insert(addr(port), node);
        addr(port)
    }

    fn standby(&mut self, cluster: u32, region: &'static str) -> SocketAddr {
        let at = self.add(cluster, 1, region);
        self.boot(at);
        at
    }

    fn boot(&mut self, at: SocketAddr) {
        let (seed, now) = (mix(&mut self.seed), self.now);
        let endpoints = self.endpoints.clone();
        let node = self.nodes.get_mut(&at).unwrap();
        let (region, home) = (node.region.to_owned(), node.region.to_owned());
        let me = Me {
            cluster: node.cluster,
            node: node.node,
            region,
            home,
            fixed: node.fixed,
            named: 0,
        };
        let mut chooser = Chooser::new(me, &endpoints, seed, now);
        chooser.on_leading(STREAM, now);
        node.chooser = Some(chooser);
        node.arbiter = Arbiter::default();
        (node.links, node.wanted, node.upstream) = Default::default();
        node.alive = true;
    }

    fn kill(&mut self, at: SocketAddr) {
        let node = self.nodes.get_mut(&at).unwrap();
        node.alive = false;
        if node.chooser.is_some() {
            (node.chooser, node.upstream) = (None, None);
            (node.links, node.wanted) = Default::default();
        }
    }

    fn revive(&mut self, at: SocketAddr) {
        self.nodes.get_mut(&at).unwrap().alive = true;
        if self.nodes[&at].cluster != 1 {
            self.boot(at);
        }
    }

    fn sever(&mut self, a: SocketAddr, b: SocketAddr) {
        self.severed.extend([(a, b), (b, a)]);
    }

    fn reaches(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let known = self.nodes.get(&to).is_some_and(|node| node.alive);
        known && !self.severed.contains(&(from, to))
    }

    fn flows(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.reaches(from, to) && !self.nodes[&to].frozen
    }

    fn at(&self, at: SocketAddr) -> &Node {
        &self.nodes[&at]
    }

    /// Where the stream of a standby comes from.
    fn source(&self, at: SocketAddr) -> Option<SocketAddr> {
        if self.shipped == Some(at) { Some(self.leader) } else { self.at(at).upstream }
    }

    /// The leader ships to this standby from now on.
    fn ship(&mut self, to: Option<SocketAddr>) {
        if let Some(old) = std::mem::replace(&mut self.shipped, to) {
            let pulse = Pulse::default();
            self.with(old, |chooser, now, _| chooser.on_shipped(STREAM, None, pulse, now));
        }
    }

    fn run(&mut self, ns: u64) {
        let end = self.now.after(ns);
        while self.now < end {
            self.step();
        }
    }

    /// Runs until it holds; panics when that takes longer.
    fn until(&mut self, what: &str, ns: u64, holds: impl Fn(&World) -> bool) -> u64 {
        let from = self.now;
        while !holds(self) {
            assert!(self.now < from.after(ns), "{what}: {}", self.tree());
            self.step();
        }
        self.now.since(from)
    }

    fn tree(&self) -> String {
        let one = |(at, node): (&SocketAddr, &Node)| {
            let taken = node.chooser.as_ref().and_then(|chooser| chooser.taken(STREAM));
            format!("\n{}@{} {at}: {taken:?}, {}", node.cluster, node.region, node.switches)
        };
        self.nodes.iter().map(one).collect()
    }

    fn step(&mut self) {
        self.now = self.now.after(STEP);
        self.flow();
        if let Some(to) = self.shipped {
            let pulse = Pulse { epoch: 1, round: 1, count: self.at(to).pulse };
            let (by, leads) = (Some((1, self.at(self.leader).node)), self.at(self.leader).alive);
            let by = by.filter(|_| leads);
            self.with(to, |chooser, now, _| chooser.on_shipped(STREAM, by, pulse, now));
        }
        let due = |(at, ..): &(Nanos, SocketAddr, SocketAddr, Facts)| *at <= self.now;
        let (due, later) = std::mem::take(&mut self.answers).into_iter().partition(due);
        self.answers = later;
        for (_, to, from, facts) in due {
            if self.reaches(to, from) && self.at(to).alive && !self.at(to).frozen {
                self.with(to, |chooser, now, out| chooser.on_facts(from, &facts, now, out));
            }
        }
        for at in self.nodes.keys().copied().collect::<Vec<_>>() {
            if self.at(at).alive && !self.at(at).frozen && self.at(at).chooser.is_some() {
                self.links(at);
                let committed = Lsn(self.at(at).committed);
                self.with(at, |chooser, now, out| chooser.on_time(now, |_| committed, out));
            }
        }
    }

    /// One hop of log and pulse a step.
    fn flow(&mut self) {
        let old: BTreeMap<SocketAddr, (u64, u64)> =
            self.nodes.iter().map(|(at, node)| (*at, (node.committed, node.pulse))).collect();
        let leads = self.flows(addr(0), self.leader);
        for at in self.nodes.keys().copied().collect::<Vec<_>>() {
            let from = match self.at(at).cluster {
                1 => Some(self.leader).filter(|_| leads),
                _ => self.source(at),
            };
            let from = from.filter(|&from| self.flows(at, from) && self.flows(addr(0), at));
            let (leader, busy, now) = (self.leader, self.busy, self.now);
            let node = self.nodes.get_mut(&at).unwrap();
            if at == leader && leads {
                node.committed += if busy { 8 } else { 0 };
                node.pulse = now.0 / PULSE_NS;
            } else if let Some(from) = from {
                (node.committed, node.pulse) =
                    (node.committed.max(old[&from].0), node.pulse.max(old[&from].1));
            }
        }
    }

    fn links(&mut self, at: SocketAddr) {
        let up: BTreeSet<SocketAddr> =
            self.at(at).wanted.iter().copied().filter(|&to| self.reaches(at, to)).collect();
        let node = self.nodes.get_mut(&at).unwrap();
        let old = std::mem::replace(&mut node.links, up.clone());
        let (upstream, now) = (node.upstream, self.now);
        let chooser = node.chooser.as_mut().unwrap();
        for &to in old.symmetric_difference(&up) {
            chooser.on_link(to, up.contains(&to), now);
        }
        if let Some(upstream) = upstream {
            match self.reaches(at, upstream) {
                true => self.with(at, |chooser, _, _| chooser.on_served(STREAM, upstream)),
                false => self.with(at, |chooser, now, _| {
                    chooser.on_ended(STREAM, upstream, Ending::Lost, now);
                }),
            }
        }
    }

    fn with(&mut self, at: SocketAddr, input: impl FnOnce(&mut Chooser, Nanos, &mut Vec<Advice>)) {
        let (mut out, now) = (Vec::new(), self.now);
        input(self.nodes.get_mut(&at).unwrap().chooser.as_mut().unwrap(), now, &mut out);
        for advice in out {
            let node = self.nodes.get_mut(&at).unwrap();
            match advice {
                Advice::Connect(to) => drop(node.wanted.insert(to)),
                Advice::Disconnect(to) => drop(node.wanted.remove(&to)),
                Advice::Switch { to, .. } => {
                    node.switches += u32::from(node.upstream != to);
                    node.upstream = to;
                }
                Advice::Ask(asking) => self.ask(at, asking),
            }
        }
    }

    fn ask(&mut self, from: SocketAddr, asking: Asking) {
        let Asking { addr: to, number, known, streams } = asking;
        if !self.flows(from, to) {
            return;
        }
        let node = self.at(from);
        let (cluster, id, region) = (node.cluster, node.node, node.region.to_owned());
        let place = Place { cluster, node: id, region, addr: from };
        let facts = self.answer(to, &Question { number, from: place, known, streams });
        let due = self.now.after(mix(&mut self.seed) % (self.lag + 1));
        self.answers.push((due, from, to, facts));
    }

    fn answer(&mut self, at: SocketAddr, question: &Question) -> Facts {
        let (leader, now) = (self.leader, self.now);
        let shipped = self.shipped.map(|to| self.at(to).cluster);
        let same: Vec<Place> = self
            .nodes
            .iter()
            .filter(|(other, _)| **other != at)
            .map(|(other, it)| {
                let region = it.region.to_owned();
                Place { cluster: it.cluster, node: it.node, region, addr: *other }
            })
            .filter(|place| place.cluster == self.nodes[&at].cluster)
            .collect();
        let node = self.nodes.get_mut(&at).unwrap();
        node.arbiter.on_asked(question, node.region, now, |_| at == leader);
        let primary = node.cluster == 1;
        let leads = !primary || at == leader;
        let chooser = node.chooser.as_ref();
        let stream = StreamFacts {
            stream: STREAM,
            committed: Lsn(node.committed),
            standing: match (node.has_stream, leads) {
                (false, _) => Standing::Absent,
                (true, true) => Standing::Leader,
                (true, false) => Standing::Follower,
            },
            across: chooser.is_some_and(|chooser| chooser.across(STREAM)),
            pulse: match chooser {
                Some(chooser) => chooser.pulse(STREAM),
                None => Pulse { epoch: 1, round: 1, count: node.pulse },
            },
            crosser: node.arbiter.crosser(STREAM, &question.from.region, shipped),
            sync: 0,
            path: chooser.map(|chooser| chooser.path(STREAM)).unwrap_or_default(),
        };
        let asked = node.arbiter.places([node.cluster, question.from.cluster], now);
        Facts {
            number: question.number,
            cluster: node.cluster,
            node: node.node,
            shards: 1,
            role: if primary { Role::Primary } else { Role::Standby },
            region: node.region.to_owned(),
            own: Term { epoch: 1, cluster: 1 },
            known: question.known,
            streams: vec![stream],
            places: same.into_iter().chain(asked.cloned()).collect(),
        }
    }

    /// Whether taking leads from a standby to the primary without coming by it again.
    fn is_rooted(&self, mut at: SocketAddr) -> bool {
        for _ in 0..self.nodes.len() {
            match self.source(at) {
                Some(upstream) if self.at(upstream).cluster == 1 => return true,
                Some(upstream) => at = upstream,
                None => return false,
            }
        }
        false
    }

    fn standbys(&self) -> impl Iterator<Item = (SocketAddr, &Node)> {
        self.nodes.iter().filter(|(_, node)| node.chooser.is_some()).map(|(at, node)| (*at, node))
    }

    /// Standbys of a region that receive from another one.
    fn crossers(&self, region: &str) -> usize {
        let of_region = self.standbys().filter(|(_, node)| node.region == region);
        let crosses = |at| self.source(at).is_some_and(|up| self.at(up).region != region);
        of_region.filter(|(at, _)| crosses(*at)).count()
    }

    fn switches(&self) -> u32 {
        self.nodes.values().map(|node| node.switches).sum()
    }
}

#[test]
fn figure_a_a_standby_takes_from_the_primarys_follower_in_its_region() {
    for seed in 0..20 {
        let mut world = World::new(&["sh", "sh", "hz"], seed);
        let (s1, s2) = (world.standby(2, "sh"), world.standby(3, "hz"));
        world.until("both choose", SECOND, |w| {
            w.at(s1).upstream == Some(addr(2)) && w.at(s2).upstream == Some(addr(3))
        });
        world.run(20 * SECOND);
        assert_eq!(world.switches(), 2, "nobody moves on a good day");
        world.kill(addr(3));
        world.until("the replica dies", REPLACED, |w| {
            w.at(s2).upstream == Some(addr(1)) || w.at(s2).upstream == Some(s1)
        });
        world.run(10 * SECOND);
        assert_eq!(world.at(s2).upstream, Some(addr(1)), "the leader, once it names nobody else");
        world.revive(addr(3));
        world.until("it is back", 2 * REPLACED, |w| w.at(s2).upstream == Some(addr(3)));
        let switches = world.switches();
        world.run(60 * SECOND);
        assert_eq!(world.switches(), switches);
        assert_eq!(world.at(s1).switches, 1);
    }
}

#[test]
fn figure_b_one_standby_crosses_and_the_other_takes_from_it() {
    for seed in 0..50 {
        let mut world = World::new(&["sh", "sh", "sh"], seed);
        let (s1, s2) = (world.standby(2, "hz"), world.standby(3, "hz"));
        let settled = |w: &World| w.is_rooted(s1) && w.is_rooted(s2) && w.crossers("hz") == 1;
        world.until("one crosses", REPLACED, settled);
        world.run(30 * SECOND);
        assert!(settled(&world) && world.switches() <= 3, "{}", world.tree());
        let crosser = if world.at(s1).upstream == Some(addr(1)) { s1 } else { s2 };
        let other = if crosser == s1 { s2 } else { s1 };
        assert_eq!(world.at(crosser).upstream, Some(addr(1)), "from the leader");
        assert_eq!(world.at(other).upstream, Some(crosser));

        world.kill(crosser);
        world.until("the crosser dies", REPLACED, |w| w.at(other).upstream == Some(addr(1)));
        world.run(5 * SECOND);
        world.revive(crosser);
        let switches = world.at(other).switches;
        world.until("it is back", REPLACED, |w| w.at(crosser).upstream == Some(other));
        world.run(60 * SECOND);
        assert_eq!(world.at(other).switches, switches, "nothing changes for it");
        assert!(world.is_rooted(crosser) && world.crossers("hz") == 1);
    }
}

#[test]
fn who_is_shipped_to_crosses_and_the_others_take_from_it() {
    for seed in 0..50 {
        let mut world = World::new(&["sh", "sh", "sh"], seed);
        let all = [world.standby(2, "hz"), world.standby(3, "hz"), world.standby(4, "hz")];
        let settled = |w: &World| all.iter().all(|it| w.is_rooted(*it)) && w.crossers("hz") == 1;
        world.until("one crosses", REPLACED, settled);
        world.run(10 * SECOND);
        // Mostly another one than crosses by itself, and one of a higher id.
        let sync = all[2];
        world.ship(Some(sync));
        let follow = |w: &World| all[..2].iter().all(|it| w.at(*it).upstream == Some(sync));
        world.until("they take from it", 30 * SECOND, follow);
        let switches = world.switches();
        world.run(60 * SECOND);
        assert!(follow(&world) && world.crossers("hz") == 1, "{}", world.tree());
        assert_eq!(world.switches(), switches, "nobody moves");
        world.ship(None);
        world.until("one crosses again", 30 * SECOND, settled);
    }
}

#[test]
fn two_that_cross_at_once_become_one() {
    for seed in 0..50 {
        let mut world = World::new(&["sh"], seed);
        let (s1, s2) = (world.standby(2, "hz"), world.standby(3, "hz"));
        world.sever(s1, s2);
        world.until("both cross", 2 * REPLACED, |w| w.crossers("hz") == 2);
        world.run(3 * SECOND);
        world.severed.clear();
        world.until("one stays", 2 * REPLACED, |w| w.crossers("hz") == 1);
        world.run(20 * SECOND);
        assert!(world.is_rooted(s1) && world.is_rooted(s2) && world.crossers("hz") == 1);
        assert_eq!(world.at(s1).switches, 1, "the lower id stays");
    }
}

#[test]
fn with_the_primary_dead_nobody_moves() {
    for (seed, frozen) in (0..40).zip([false, true].into_iter().cycle()) {
        let mut world = World::new(&["sh", "sh", "hz"], seed);
        let all = [(2, "sh"), (3, "hz"), (4, "bj"), (5, "bj"), (6, "bj")];
        let all = all.map(|(cluster, region)| world.standby(cluster, region));
        world.until("all choose", 2 * REPLACED, |w| {
            all.iter().all(|&at| w.is_rooted(at)) && w.crossers("bj") == 1
        });
        world.run(20 * SECOND);
        let (switches, tree) = (world.switches(), world.tree());
        for at in [1, 2, 3].map(addr) {
            match frozen {
                true => world.nodes.get_mut(&at).unwrap().frozen = true,
                false => world.kill(at),
            }
        }
        world.run(60 * SECOND);
        let moved = world.switches() - switches;
        // Those that lost their own upstream may look for another; nobody takes from who takes
        // from it, and those whose upstream lives stay.
        assert!(moved <= 6, "{tree}{}", world.tree());
        world.run(60 * SECOND);
        assert_eq!(world.switches(), switches + moved, "{}", world.tree());
        for at in [1, 2, 3].map(addr) {
            world.nodes.get_mut(&at).unwrap().frozen = false;
            world.nodes.get_mut(&at).unwrap().alive = true;
        }
        world.until("all is back", 4 * REPLACED, |w| all.iter().all(|&at| w.is_rooted(at)));
    }
}

#[test]
fn with_the_leader_gone_pulses_stand_still_and_nobody_moves() {
    let mut world = World::new(&["sh", "hz", "bj"], 5);
    let all = [(2, "hz"), (3, "hz"), (4, "bj"), (5, "gz"), (6, "gz")];
    for (cluster, region) in all {
        world.standby(cluster, region);
    }
    world.run(30 * SECOND);
    let switches = world.switches();
    // It leads no more, and nobody else does: every node still answers.
    world.leader = addr(999);
    world.run(10 * STALL_NS);
    let moved = world.switches() - switches;
    assert_eq!(moved, 0, "{}", world.tree());
}

#[test]
fn an_upstream_that_is_cut_off_is_left_because_its_pulse_stands_still() {
    for seed in 0..20 {
        let mut world = World::new(&["sh", "hz", "hz"], seed);
        let s = world.standby(2, "hz");
        world.until("it chooses", REPLACED, |w| w.at(s).upstream == Some(addr(2)));
        world.busy = seed % 2 == 0;
        world.run(5 * SECOND);
        world.sever(addr(1), addr(2));
        world.until("it stalls", REPLACED, |w| w.at(s).upstream == Some(addr(3)));
        let taken = world.at(s).chooser.as_ref().unwrap().taken(STREAM).unwrap();
        assert_eq!((taken.after, taken.rank), (Some(Ending::Stalled), Rank::Follower));
    }
}

#[test]
fn a_frozen_upstream_is_replaced_in_time_and_a_cascade_of_three_heals() {
    for seed in 0..20 {
        let mut world = World::new(&["sh", "sh", "sh"], seed);
        let s1 = world.standby(2, "hz");
        world.endpoints = vec![s1];
        let s2 = world.standby(3, "bj");
        world.endpoints = vec![s2, s1];
        let s3 = world.standby(4, "bj");
        world.until("a chain", 2 * REPLACED, |w| {
            w.at(s2).upstream == Some(s1) && w.at(s3).upstream == Some(s2) && w.is_rooted(s3)
        });
        world.run(3 * SECOND);
        world.nodes.get_mut(&s2).unwrap().frozen = true;
        world.until("s2 is frozen", REPLACED, |w| w.at(s3).upstream == Some(s1));
        let after = world.at(s3).chooser.as_ref().unwrap().taken(STREAM).unwrap().after;
        assert_eq!(after, Some(Ending::Silent));
        world.nodes.get_mut(&s2).unwrap().frozen = false;
        world.until("it is back", 3 * REPLACED, |w| w.crossers("bj") == 1);
        assert!(world.is_rooted(s2) && world.is_rooted(s3));
    }
}

#[test]
fn what_no_longer_serves_or_moved_is_left() {
    let mut world = World::new(&["sh", "hz", "hz"], 1);
    let s = world.standby(2, "hz");
    world.until("it chooses", REPLACED, |w| w.at(s).upstream == Some(addr(2)));
    world.nodes.get_mut(&addr(2)).unwrap().has_stream = false;
    world.until("removed", REPLACED, |w| w.at(s).upstream == Some(addr(3)));
    world.nodes.get_mut(&addr(2)).unwrap().has_stream = true;
    world.run(10 * SECOND);
    assert_eq!(world.at(s).upstream, Some(addr(3)), "an equal is no reason to move");
    world.nodes.get_mut(&addr(3)).unwrap().region = "bj";
    world.until("moved", REPLACED, |w| w.at(s).upstream == Some(addr(2)));
}

#[test]
fn a_diverged_upstream_is_avoided_for_long_and_tried_again() {
    let mut world = World::new(&["hz", "hz", "hz"], 1);
    let s = world.standby(2, "hz");
    world.until("it chooses", REPLACED, |w| w.at(s).upstream == Some(addr(2)));
    let diverged = |world: &mut World, from: u16| {
        world.with(s, |c, now, _| c.on_ended(STREAM, addr(from), Ending::Diverged, now));
    };
    diverged(&mut world, 3);
    world.run(SECOND);
    assert_eq!(world.at(s).upstream, Some(addr(2)), "that is no upstream of ours");
    diverged(&mut world, 2);
    world.until("another", SECOND, |w| w.at(s).upstream == Some(addr(3)));
    diverged(&mut world, 3);
    world.until("the leader", SECOND, |w| w.at(s).upstream == Some(addr(1)));
    diverged(&mut world, 1);
    world.run(20 * SECOND);
    assert_eq!(world.at(s).upstream, Some(addr(1)), "nobody is left: it stays");
    let ending = world.at(s).chooser.as_ref().unwrap().ending(STREAM);
    assert_eq!(ending, Some(Ending::Diverged));
    world.until("tried again", 60 * SECOND, |w| w.at(s).upstream != Some(addr(1)));
}

#[test]
fn the_override_goes_first_and_the_choice_comes_back_with_it() {
    let mut world = World::new(&["hz", "hz", "sh"], 1);
    let s = world.add(2, 1, "hz");
    world.nodes.get_mut(&s).unwrap().fixed = Some(addr(3));
    world.boot(s);
    world.until("as told", SECOND, |w| w.at(s).upstream == Some(addr(3)));
    world.kill(addr(3));
    world.until("its own choice", REPLACED, |w| w.at(s).upstream == Some(addr(2)));
    world.run(10 * SECOND);
    world.revive(addr(3));
    world.until("as told again", 2 * REPLACED, |w| w.at(s).upstream == Some(addr(3)));
}

#[test]
fn random_worlds_come_to_one_tree_without_loops() {
    let regions = ["sh", "hz", "bj", "gz"];
    for seed in 0..40 {
        let mut random = seed + 1000;
        let mut pick = |most: usize| mix(&mut random) as usize % most;
        let primary: Vec<&str> = (0..1 + pick(3)).map(|_| regions[pick(2)]).collect();
        let mut world = World::new(&primary, seed);
        world.lag = [10 * MS, 200 * MS, SECOND][pick(3)];
        let count = 2 + pick(6);
        for cluster in 0..count {
            world.standby(cluster as u32 + 2, regions[pick(4)]);
        }
        let all: Vec<SocketAddr> = world.nodes.keys().copied().collect();
        for _ in 0..30 {
            let (a, b) = (all[pick(all.len())], all[pick(all.len())]);
            match pick(6) {
                0 if world.at(a).alive => world.kill(a),
                1 if !world.at(a).alive => world.revive(a),
                2 => world.nodes.get_mut(&a).unwrap().frozen ^= true,
                3 if a != b => world.sever(a, b),
                4 => world.severed.clear(),
                _ => {}
            }
            world.run((1 + pick(200)) as u64 * 10 * MS);
        }
        world.severed.clear();
        for &at in &all {
            world.nodes.get_mut(&at).unwrap().frozen = false;
            if !world.at(at).alive {
                world.revive(at);
            }
        }
        world.run(REPLACED);
        let rooted = |w: &World| w.standbys().all(|(at, _)| w.is_rooted(at));
        world.until(&format!("seed {seed}: all are rooted"), 2 * REPLACED, rooted);
        world.run(60 * SECOND);
        let switches = world.switches();
        world.run(60 * SECOND);
        assert!(rooted(&world), "seed {seed}: {}", world.tree());
        assert_eq!(world.switches(), switches, "seed {seed}: {}", world.tree());
        for region in regions {
            let near = primary.contains(&region);
            let there = world.standbys().any(|(_, node)| node.region == region);
            let most = usize::from(!near && there);
            assert_eq!(world.crossers(region), most, "seed {seed} {region}: {}", world.tree());
        }
    }
}

fn judged(
    role: Role,
    said: StreamFacts,
    region: &str,
    cluster: u32,
    me: &Me,
) -> (Result<(), Unfit>, Result<(), Unfit>, Option<Rank>) {
    let mut candidates = Candidates::default();
    candidates.configure(&[addr(9)], Nanos(0));
    candidates.on_link(addr(9), true, Nanos(0));
    let wanted = super::facts::Wanted { stream: STREAM, across: false };
    let streams = BTreeMap::from([(STREAM, (wanted, Nanos(0)))]);
    let asking = candidates.ask(Nanos(0), &streams, &BTreeSet::new(), |_| Lsn(64)).remove(0);
    let facts = Facts {
        number: asking.number,
        cluster,
        node: 1,
        shards: 1,
        role,
        region: region.into(),
        own: Term::NONE,
        known: Term::NONE,
        streams: vec![said],
        places: Vec::new(),
    };
    candidates.on_facts(addr(9), &facts, Nanos(0));
    let it = candidates.get(addr(9)).unwrap();
    let now = Nanos(0);
    (fit(me, it, STREAM, now), may_choose(me, it, STREAM, now), rank(me, addr(9), it, STREAM))
}

/// Who was told of a later primary and has not heard of it in its own log may have what that one
/// lacks: nothing more is taken from there.
#[test]
fn nothing_is_taken_from_who_knows_of_an_earlier_primary() {
    let (region, home) = ("hz".to_owned(), "hz".to_owned());
    let me = Me { cluster: 3, node: 1, region, home, fixed: None, named: 0 };
    let (mut now, mut out) = (Nanos(0), Vec::new());
    let mut chooser = Chooser::new(me, &[addr(9)], 7, now);
    chooser.on_leading(STREAM, now);
    chooser.on_link(addr(9), true, now);
    let (old, new) = (Term { epoch: 1, cluster: 1 }, Term { epoch: 2, cluster: 2 });
    let mut answer = |chooser: &mut Chooser, own: Term| {
        let mut known = None;
        while known.is_none() {
            chooser.on_time(now, |_| Lsn(64), &mut out);
            known = out.drain(..).find_map(|advice| match advice {
                Advice::Ask(asking) => Some((asking.number, asking.known)),
                _ => None,
            });
            now = now.after(100_000_000);
        }
        let (number, known) = known.unwrap();
        let facts = Facts { own, known, ..from_primary(number) };
        for _ in 0..2 {
            chooser.on_facts(addr(9), &facts, now, &mut out);
            now = now.after(PATIENCE_NS);
        }
        (known, chooser.taken(STREAM).map(|taken| taken.addr))
    };
    assert_eq!(answer(&mut chooser, old), (Term::NONE, Some(addr(9))));
    chooser.on_term(new, Nanos(0));
    assert_eq!(answer(&mut chooser, old), (new, None), "it was told");
    let (state, _, reason) = chooser.waiting(STREAM, Nanos(0)).unwrap();
    assert!(state == State::Wait && reason.contains("a primary that is none any more"), "{reason}");
    assert_eq!(chooser.primaries().count(), 0);
    assert_eq!(answer(&mut chooser, new).1, None, "it is avoided for a time");
    (0..20).for_each(|_| _ = answer(&mut chooser, new));
    assert_eq!(answer(&mut chooser, new), (new, Some(addr(9))), "its log says so too");
}

fn from_primary(number: u64) -> Facts {
    let pulse = Pulse { epoch: 1, round: 1, count: number };
    let (committed, standing, path) = (Lsn(64), Standing::Leader, Path::default());
    let said = StreamFacts {
        stream: STREAM,
        committed,
        standing,
        across: false,
        pulse,
        crosser: 0,
        sync: 0,
        path,
    };
    Facts {
        number,
        cluster: 1,
        node: 1,
        shards: 1,
        role: Role::Primary,
        region: "hz".into(),
        own: Term::NONE,
        known: Term::NONE,
        streams: vec![said],
        places: Vec::new(),
    }
}

#[test]
fn every_kind_of_candidate_has_its_place_in_the_order() {
    let (region, home) = ("hz".to_owned(), "hz".to_owned());
    let me = Me { cluster: 2, node: 1, region, home, fixed: None, named: 0 };
    let mut seen = BTreeSet::new();
    for role in [Role::Primary, Role::Standby] {
        for standing in [Standing::Absent, Standing::Follower, Standing::Leader] {
            for (near, across, bits) in (0..32).map(|n| (n & 1 > 0, n & 2 > 0, n >> 2)) {
                let (enough, looped, rooted) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
                let clusters: &[u32] = match (looped, rooted) {
                    (true, _) => &[4, 2, 1],
                    (false, true) => &[4, 1],
                    (false, false) => &[],
                };
                let said = StreamFacts {
                    stream: STREAM,
                    committed: Lsn(if enough { 64 } else { 56 }),
                    standing,
                    across,
                    pulse: Pulse::default(),
                    crosser: 0,
                    sync: 0,
                    path: Path::of(clusters).unwrap(),
                };
                let region = if near { "hz" } else { "sh" };
                let (fits, may, rank) = judged(role, said, region, 7, &me);
                let expected = match (role, standing) {
                    _ if looped => Err(Unfit::Loop),
                    (_, Standing::Absent) => Err(Unfit::Absent),
                    (Role::Standby, Standing::Follower) => Err(Unfit::Absent),
                    (Role::Standby, _) if !rooted => Err(Unfit::Rootless),
                    _ => Ok(()),
                };
                assert_eq!(fits, expected);
                let behind = if enough { Ok(()) } else { Err(Unfit::Behind) };
                assert_eq!(may, fits.and(behind));
                let leads = standing == Standing::Leader;
                let expected = match (role, near, leads, across) {
                    (Role::Primary, true, false, _) => Rank::Follower,
                    (Role::Primary, true, true, _) => Rank::Leader,
                    (Role::Standby, true, _, true) => Rank::Standby,
                    (Role::Standby, true, _, false) => Rank::Near,
                    (Role::Primary, false, true, _) => Rank::Across,
                    (Role::Primary, false, false, _) => Rank::Far,
                    (Role::Standby, false, _, _) => Rank::FarStandby,
                };
                let present = standing != Standing::Absent;
                assert_eq!(rank, present.then_some(expected));
                assert_eq!(judged(role, said, region, 2, &me).0, Err(Unfit::Own));
                let fixed = Me { fixed: Some(addr(9)), ..me.clone() };
                let ranked = judged(role, said, region, 7, &fixed).2;
                assert_eq!(ranked, present.then_some(Rank::Fixed));
                if may.is_ok() {
                    seen.insert(expected);
                }
            }
        }
    }
    let order: Vec<Rank> = seen.into_iter().collect();
    let all = [
        Rank::Follower,
        Rank::Leader,
        Rank::Standby,
        Rank::Near,
        Rank::Across,
        Rank::Far,
        Rank::FarStandby,
    ];
    assert_eq!(order, all, "follower first, then leader, then who crosses, then the leader afar");
    assert!(Rank::Fixed < Rank::Follower);
}
